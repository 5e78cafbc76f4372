//! TLS towards a CA. It must lead to roots that we were given, and be who it should be: by a DNS name, as istiod is, or by a
//! SPIFFE ID, as a pair that has its own certificate from istiod.

use std::{fmt, sync::Arc};

use rustls::{
    ClientConfig, RootCertStore,
    client::{
        Resumption,
        danger::{ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::CryptoProvider,
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::ParsedCertificate,
};

use super::roots::{CaRoots, RootSets};
use crate::{
    domain::{
        clock::Clock,
        identity::SpiffeId,
        x509::{Certificate, CertificateError, X509Svid},
    },
    grpc::rustls_parts::{TimeOf, presented, signatures_by, store_of},
};

/// Called when no set of roots verifies a certificate.
type OnUnverified = Box<dyn Fn() + Send + Sync>;

/// Accepts a server whose chain leads to a root of one of the sets, and whose leaf is one of `identities` or has the name
/// that was asked for.
pub(in crate::grpc) struct CaVerifier {
    provider: Arc<CryptoProvider>,
    sets: Vec<RootCertStore>,
    identities: Vec<SpiffeId>,
    on_unverified: OnUnverified,
}

/// For connections to a CA, at the time of `clock`, with `svid` as proof if there is one. Sessions are not resumed: a resumption
/// would not look at certificates again.
pub(in crate::grpc) fn client_config(
    verifier: CaVerifier,
    svid: Option<&X509Svid>,
    clock: &Arc<dyn Clock>,
) -> Result<ClientConfig, String> {
    let builder = ClientConfig::builder_with_details(Arc::clone(&verifier.provider), TimeOf::provider(clock))
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])
        .map_err(|error| error.to_string())?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match svid {
        Some(svid) => {
            let (chain, key) = presented(svid);
            builder.with_client_auth_cert(chain, key.into()).map_err(|error| error.to_string())?
        }
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.resumption = Resumption::disabled();
    Ok(config)
}

impl CaVerifier {
    /// By `sets`, which are of `roots`: these are looked at again when none of them verifies a certificate.
    pub(super) fn by(
        sets: &RootSets,
        roots: &Arc<CaRoots>,
        identities: Vec<SpiffeId>,
    ) -> Result<Self, CertificateError> {
        let sets = sets.iter().map(|set| Certificate::all_from_pem(set).map(|set| store_of(&set)));
        let roots = Arc::clone(roots);
        Ok(Self::new(sets.collect::<Result<_, _>>()?, identities, Box::new(move || roots.look_again())))
    }

    pub(in crate::grpc) fn new(
        sets: Vec<RootCertStore>,
        identities: Vec<SpiffeId>,
        on_unverified: OnUnverified,
    ) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        Self { provider, sets, identities, on_unverified }
    }

    /// The newest set goes first, and what it says counts if no other has more to say than that it doesn't know the issuer.
    fn verify_chain(
        &self,
        leaf: &ParsedCertificate<'_>,
        above: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), rustls::Error> {
        let algorithms = self.provider.signature_verification_algorithms.all;
        let mut refusal = None;
        for set in &self.sets {
            match verify_server_cert_signed_by_trust_anchor(leaf, set, above, now, algorithms) {
                Ok(()) => return Ok(()),
                Err(error) if is_unknown_issuer(&error) => {}
                Err(error) => drop(refusal.get_or_insert(error)),
            }
        }
        (self.on_unverified)();
        Err(refusal.unwrap_or(rustls::CertificateError::UnknownIssuer.into()))
    }

    fn verify_identity(&self, der: &CertificateDer<'_>) -> bool {
        let id = Certificate::from_der(der).ok().and_then(|leaf| leaf.spiffe_id());
        id.is_some_and(|id| self.identities.contains(&id))
    }
}

/// A mesh gives each root it makes the same name: a signature by another root of that name looks like a bad one.
fn is_unknown_issuer(error: &rustls::Error) -> bool {
    use rustls::CertificateError::{BadSignature, UnknownIssuer};
    matches!(error, rustls::Error::InvalidCertificate(UnknownIssuer | BadSignature))
}

impl fmt::Debug for CaVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaVerifier").field("identities", &self.identities).finish_non_exhaustive()
    }
}

impl ServerCertVerifier for CaVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let leaf = ParsedCertificate::try_from(end_entity)?;
        self.verify_chain(&leaf, intermediates, now)?;
        if !self.verify_identity(end_entity) {
            verify_server_name(&leaf, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    signatures_by!(provider);
}
