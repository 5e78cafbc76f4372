//! A mutual TLS handshake of an SVID with itself, in memory: what a peer would refuse is found before any peer sees it.
//!
//! It is a TLS library that judges here, not the code that made or checked the SVID.

use std::{io, sync::Arc};

use rustls::{
    ClientConfig, ClientConnection, ConnectionCommon, RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, ServerName},
    server::WebPkiClientVerifier,
};

use super::{
    ca_client::tls::CaVerifier,
    rustls_parts::{TimeOf, presented, store_of},
};
use crate::{
    domain::{
        clock::Clock,
        identity::SpiffeId,
        x509::{Certificate, TrustBundle, X509Svid},
    },
    service::ports::SelfCheck,
};

/// The check, at the time of a clock.
pub struct SelfHandshake {
    clock: Arc<dyn Clock>,
}

impl SelfHandshake {
    /// Verifies at the time of `clock`.
    pub const fn new(clock: Arc<dyn Clock>) -> Self {
        Self { clock }
    }
}

impl SelfCheck for SelfHandshake {
    fn check(&self, svid: &X509Svid, bundle: &TrustBundle) -> Result<(), String> {
        let (mut client, mut server) = both_sides(svid, bundle, &self.clock).map_err(|error| error.to_string())?;
        while client.is_handshaking() || server.is_handshaking() {
            let to_server = pass(&mut client, &mut server).map_err(|error| format!("as a client: {error}"))?;
            let to_client = pass(&mut server, &mut client).map_err(|error| format!("as a server: {error}"))?;
            if to_server + to_client == 0 {
                return Err("it comes to a standstill".to_owned());
            }
        }
        for presented in [client.peer_certificates(), server.peer_certificates()] {
            let found = presented.and_then(<[_]>::first).and_then(id_of);
            if found.as_ref() != Some(svid.id()) {
                return Err(format!("the other side sees {found:?}, not {}", svid.id()));
            }
        }
        Ok(())
    }
}

fn id_of(leaf: &CertificateDer<'_>) -> Option<SpiffeId> {
    Certificate::from_der(leaf).ok()?.spiffe_id()
}

fn both_sides(
    svid: &X509Svid,
    bundle: &TrustBundle,
    clock: &Arc<dyn Clock>,
) -> Result<(ClientConnection, ServerConnection), Box<dyn std::error::Error>> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let versions = &[&rustls::version::TLS13];
    let roots: RootCertStore = store_of(bundle.roots());

    let verifier = CaVerifier::new(vec![roots.clone()], vec![svid.id().clone()], Box::new(|| {}));
    let (chain, key) = presented(svid);
    let client = ClientConfig::builder_with_details(Arc::clone(&provider), TimeOf::provider(clock))
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_auth_cert(chain, key.into())?;

    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let (chain, key) = presented(svid);
    let server = ServerConfig::builder_with_details(provider, TimeOf::provider(clock))
        .with_protocol_versions(versions)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key.into())?;

    // the SPIFFE ID counts; no certificate has this name
    let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
    Ok((ClientConnection::new(Arc::new(client), name)?, ServerConnection::new(Arc::new(server))?))
}

/// Gives the other side all that one side has to say. Returns how many bytes that were.
fn pass<A, B>(from: &mut ConnectionCommon<A>, to: &mut ConnectionCommon<B>) -> io::Result<usize> {
    let mut wire = Vec::new();
    while from.wants_write() {
        from.write_tls(&mut wire)?;
    }
    let mut unread = wire.as_slice();
    while !unread.is_empty() {
        to.read_tls(&mut unread)?;
        to.process_new_packets().map_err(io::Error::other)?;
    }
    Ok(wire.len())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::domain::{
        authority::{
            SigningAuthority, TtlBounds, issue,
            testing::{NOW, TestRandom, authority},
        },
        clock::{BootInstant, Timestamp},
        x509::{CertificateChain, PrivateKey, VerifiedCsr},
    };

    const ID: &str = "spiffe://cluster.local/ns/default/sa/gateway";
    const HOUR: Duration = Duration::from_secs(3600);

    struct Fixed(Timestamp);

    impl Clock for Fixed {
        fn now(&self) -> Timestamp {
            self.0
        }

        fn boot(&self) -> BootInstant {
            BootInstant::from_nanos(0)
        }
    }

    fn check(svid: &X509Svid, by: &SigningAuthority, at: Timestamp) -> Result<(), String> {
        SelfHandshake::new(Arc::new(Fixed(at))).check(svid, by.bundle())
    }

    fn svid(by: &SigningAuthority) -> X509Svid {
        let id = ID.parse().unwrap();
        let key = PrivateKey::generate_p256().unwrap();
        let csr = VerifiedCsr::from_pem(key.certificate_request(&id).unwrap().as_bytes()).unwrap();
        let bounds = TtlBounds::new(HOUR, HOUR).unwrap();
        let issued = issue(by, &csr, &id, 0, &bounds, NOW, &TestRandom).unwrap();
        X509Svid::new(CertificateChain::new(vec![issued.leaf]).unwrap(), key).unwrap()
    }

    #[test]
    fn a_good_svid_speaks_with_itself() {
        let authority = authority();
        assert_eq!(check(&svid(&authority), &authority, NOW), Ok(()));
    }

    #[test]
    fn one_that_a_peer_would_refuse_does_not() {
        let good = authority();
        let mine = svid(&good);
        for (what, result) in [
            ("another root", check(&mine, &authority(), NOW)),
            ("expired", check(&mine, &good, NOW.plus(HOUR * 2))),
            ("not valid yet", check(&mine, &good, NOW.minus(HOUR))),
        ] {
            let refusal = result.expect_err(what);
            assert!(refusal.starts_with("as a "), "{what}: {refusal}");
        }
    }
}
