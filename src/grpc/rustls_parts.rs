//! What of this program rustls takes: SVIDs, roots, time, and who checks the signatures of a handshake. Who is accepted, each
//! verifier says itself.

use std::{fmt, sync::Arc};

use rustls::{
    RootCertStore,
    pki_types::{CertificateDer, PrivatePkcs8KeyDer, UnixTime},
    time_provider::TimeProvider,
};

use crate::domain::{
    clock::{Clock, Timestamp},
    x509::{Certificate, X509Svid},
};

/// The time by which rustls judges certificates: that of the same clock which everything else goes by.
pub(super) struct TimeOf(Arc<dyn Clock>);

impl TimeOf {
    /// As rustls takes it.
    pub(super) fn provider(clock: &Arc<dyn Clock>) -> Arc<dyn TimeProvider> {
        Arc::new(Self(Arc::clone(clock)))
    }
}

impl TimeProvider for TimeOf {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(self.0.now().since(Timestamp::from_micros(0))))
    }
}

impl fmt::Debug for TimeOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TimeOf({})", self.0.now())
    }
}

/// An SVID as rustls takes it.
pub(super) fn presented(svid: &X509Svid) -> (Vec<CertificateDer<'static>>, PrivatePkcs8KeyDer<'static>) {
    let chain = svid.chain().iter().map(|certificate| CertificateDer::from(certificate.der().to_vec())).collect();
    (chain, PrivatePkcs8KeyDer::from(svid.key().pkcs8().to_vec()))
}

/// Roots as rustls takes them; one that it can't use counts as not there.
pub(super) fn store_of(roots: &[Certificate]) -> RootCertStore {
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().map(|root| CertificateDer::from(root.der())));
    store
}

/// The methods that every verifier of client or server certificates has, by the `CryptoProvider` in a field of it.
macro_rules! signatures_by {
    ($provider:tt) => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.$provider.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            certificate: &rustls::pki_types::CertificateDer<'_>,
            signed: &rustls::DigitallySignedStruct,
        ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
            let algorithms = &self.$provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
            self.$provider.signature_verification_algorithms.supported_schemes()
        }
    };
}
pub(super) use signatures_by;
