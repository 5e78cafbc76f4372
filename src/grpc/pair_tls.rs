//! Mutual TLS between replicas: TLS 1.3 alone, and whoever has no certificate of the pair authority that says it is a replica
//! of this trust domain gets no connection. Where istiod signs there is no pair authority; then it is who has an SVID of the
//! replicas' own service account.

use std::sync::Arc;

use rustls::{
    ClientConfig, DistinguishedName, ServerConfig,
    client::{
        Resumption,
        danger::{ServerCertVerified, ServerCertVerifier},
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        NoServerSessionStorage,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use tokio::sync::watch;
use tracing::warn;

use super::rustls_parts::{TimeOf, presented, signatures_by};
use crate::{
    domain::{
        clock::{Clock, Timestamp},
        identity::{ReplicaId, SpiffeId},
        x509::{CertificateChain, ChainError, TrustBundle, X509Svid},
    },
    service::{replica_identity::ReplicaIdentityReceiver, svid_publisher::IdentityReceiver},
};

/// The newest configurations of a replica; `None` as long as it has no certificate.
#[derive(Clone, Debug)]
pub struct PairTls {
    /// For the pair port.
    pub server: watch::Receiver<Option<Arc<ServerConfig>>>,
    /// For connections to the pair ports of others.
    pub client: watch::Receiver<Option<Arc<ClientConfig>>>,
}

/// Turns each identity into configurations for the connections that come after it. The future does the work and never ends.
pub fn pair_tls(
    mut identities: ReplicaIdentityReceiver,
    clock: Arc<dyn Clock>,
) -> (PairTls, impl Future<Output = ()> + Send + 'static) {
    let (server, client) = (watch::Sender::new(None), watch::Sender::new(None));
    let configurations = PairTls { server: server.subscribe(), client: client.subscribe() };
    let follow = async move {
        loop {
            let identity = identities.borrow_and_update().clone();
            if let Some(identity) = identity {
                let shown = Shown { svid: &identity.svid, bundle: &identity.bundle, peers: Peers::OfPairAuthority };
                publish(shown.configurations(&clock), &server, &client);
            }
            if identities.changed().await.is_err() {
                // its keeper has ended, and says so itself; what was configured last stays
                std::future::pending::<()>().await;
            }
        }
    };
    (configurations, follow)
}

/// The same by an SVID of the mesh and its `roots`: a replica is who has the same ID.
pub fn mesh_pair_tls(
    mut identities: IdentityReceiver,
    mut roots: watch::Receiver<Option<Arc<TrustBundle>>>,
    clock: Arc<dyn Clock>,
) -> (PairTls, impl Future<Output = ()> + Send + 'static) {
    let (server, client) = (watch::Sender::new(None), watch::Sender::new(None));
    let configurations = PairTls { server: server.subscribe(), client: client.subscribe() };
    let follow = async move {
        loop {
            let svid = identities.borrow_and_update().as_ref().and_then(|identity| identity.svid.clone());
            let bundle = roots.borrow_and_update().clone();
            if let (Some(svid), Some(bundle)) = (svid, bundle) {
                let shown = Shown { svid: &svid, bundle: &bundle, peers: Peers::Of(svid.id().clone()) };
                publish(shown.configurations(&clock), &server, &client);
            }
            let changed = tokio::select! {
                changed = identities.changed() => changed,
                changed = roots.changed() => changed,
            };
            if changed.is_err() {
                std::future::pending::<()>().await;
            }
        }
    };
    (configurations, follow)
}

/// Both sides of a replica.
type Configurations = (Arc<ServerConfig>, Arc<ClientConfig>);

fn publish(
    made: Result<Configurations, rustls::Error>,
    server: &watch::Sender<Option<Arc<ServerConfig>>>,
    client: &watch::Sender<Option<Arc<ClientConfig>>>,
) {
    match made {
        Ok((new_server, new_client)) => {
            server.send_replace(Some(new_server));
            client.send_replace(Some(new_client));
        }
        Err(error) => warn!(event = "replica_certificate_unusable", %error),
    }
}

/// The name in the handshake. No certificate has it: who the peer is, its ID says.
pub(super) fn server_name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// Who is a replica.
#[derive(Clone)]
enum Peers {
    /// Who has a replica's ID in the trust domain of the bundle, which is the pair authority's.
    OfPairAuthority,
    /// Who has this ID.
    Of(SpiffeId),
}

/// What a replica shows, and whom it believes.
struct Shown<'a> {
    svid: &'a X509Svid,
    bundle: &'a TrustBundle,
    peers: Peers,
}

impl Shown<'_> {
    /// Both sides. Sessions are not resumed: a resumption would not look at certificates again.
    fn configurations(&self, clock: &Arc<dyn Clock>) -> Result<Configurations, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let versions = &[&rustls::version::TLS13];
        let verifier = Arc::new(ReplicaVerifier {
            provider: Arc::clone(&provider),
            bundle: self.bundle.clone(),
            peers: self.peers.clone(),
            clock: Arc::clone(clock),
        });

        let (chain, key) = presented(self.svid);
        let mut server = ServerConfig::builder_with_details(Arc::clone(&provider), TimeOf::provider(clock))
            .with_protocol_versions(versions)?
            .with_client_cert_verifier(Arc::clone(&verifier) as _)
            .with_single_cert(chain, key.into())?;
        server.alpn_protocols = vec![b"h2".to_vec()];
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;

        let (chain, key) = presented(self.svid);
        let mut client = ClientConfig::builder_with_details(provider, TimeOf::provider(clock))
            .with_protocol_versions(versions)?
            .dangerous()
            .with_custom_certificate_verifier(verifier)
            .with_client_auth_cert(chain, key.into())?;
        client.alpn_protocols = vec![b"h2".to_vec()];
        client.resumption = Resumption::disabled();
        Ok((Arc::new(server), Arc::new(client)))
    }
}

/// Why the other side of a connection is no replica of this pair.
#[derive(Debug, thiserror::Error)]
enum NoReplica {
    #[error("the certificate of the peer: {0}")]
    Chain(#[from] ChainError),
    #[error("the certificate of the peer names {0}, which is no replica of this trust domain")]
    Name(String),
}

/// Lets in those whose certificate leads to a root of the bundle now and names a replica.
struct ReplicaVerifier {
    provider: Arc<CryptoProvider>,
    bundle: TrustBundle,
    peers: Peers,
    clock: Arc<dyn Clock>,
}

impl ReplicaVerifier {
    fn verify(&self, leaf: &CertificateDer<'_>, above: &[CertificateDer<'_>]) -> Result<(), rustls::Error> {
        let ders: Vec<&[u8]> = std::iter::once(leaf).chain(above).map(AsRef::as_ref).collect();
        // in words: the library would show another kind of error as the debug output of its parts
        self.check(&ders, self.clock.now()).map_err(|refusal| rustls::Error::General(refusal.to_string()))
    }

    fn check(&self, ders: &[&[u8]], now: Timestamp) -> Result<(), NoReplica> {
        let chain = CertificateChain::from_ders(ders)?;
        chain.verify(&self.bundle, now)?;
        let id = chain.leaf().spiffe_id();
        let is_replica = id.as_ref().is_some_and(|id| match &self.peers {
            Peers::OfPairAuthority => ReplicaId::of(id).is_some() && id.trust_domain() == self.bundle.trust_domain(),
            Peers::Of(own) => id == own,
        });
        if is_replica { Ok(()) } else { Err(NoReplica::Name(chain.leaf().uri_names().join(", "))) }
    }
}

impl std::fmt::Debug for ReplicaVerifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ReplicaVerifier").field("trust_domain", self.bundle.trust_domain()).finish_non_exhaustive()
    }
}

impl ClientCertVerifier for ReplicaVerifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates).map(|()| ClientCertVerified::assertion())
    }

    signatures_by!(provider);
}

impl ServerCertVerifier for ReplicaVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.verify(end_entity, intermediates).map(|()| ServerCertVerified::assertion())
    }

    signatures_by!(provider);
}

#[cfg(test)]
mod tests;
