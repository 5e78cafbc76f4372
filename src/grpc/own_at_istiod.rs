//! A replica's own certificate, which istiod signs for the replica's own token.

use std::{path::PathBuf, sync::Arc};

use prost::Message as _;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    proto::istio::v1::auth::IstioCertificateRequest,
    service::{
        istiod_pass_on::{PassOn, PassOnError, PassOnRequest},
        ports::{BoxFuture, CertificateAuthority, PassedRequest, SignError, SignedChain, SigningRequest},
    },
};

/// istiod as a certificate authority for this replica. The token is read anew for each call: whoever delivers it replaces it.
pub struct OwnAtIstiod {
    pass_on: Arc<PassOn>,
    token_file: PathBuf,
    held: Semaphore,
}

impl OwnAtIstiod {
    /// By way of `pass_on`, for the account whose token is in `token_file`.
    pub fn new(pass_on: Arc<PassOn>, token_file: PathBuf) -> Self {
        Self { pass_on, token_file, held: Semaphore::new(1) }
    }

    async fn ask(&self, csr_pem: &str, ttl_seconds: i64) -> Result<SignedChain, SignError> {
        let path = self.token_file.display();
        let token = tokio::fs::read_to_string(&self.token_file).await.map(Zeroizing::new);
        let token = token.map_err(|error| SignError::Unavailable(format!("token file {path}: {error}")))?;
        let token = Zeroizing::new(token.trim().to_owned());
        let message =
            IstioCertificateRequest { csr: csr_pem.to_owned(), validity_duration: ttl_seconds, metadata: None };
        let request = PassOnRequest {
            passed: PassedRequest {
                authorization: Zeroizing::new(format!("Bearer {}", token.as_str()).into_bytes()),
                clusters: Vec::new(),
                message: message.encode_to_vec(),
            },
            token: Some(token),
            has_certificate: false,
            asked: SigningRequest { csr: message.csr, ttl_seconds, impersonated: String::new() },
        };
        match self.pass_on.answer(request, &self.held).await {
            Ok(elements) => SignedChain::from_elements(elements),
            Err(error @ PassOnError::NoAccount) => {
                Err(SignError::Unauthenticated(format!("token file {path}: {error}")))
            }
            Err(error @ PassOnError::ByIstiod { .. }) => Err(SignError::Unauthenticated(error.to_string())),
            Err(error) => Err(SignError::Unavailable(error.to_string())),
        }
    }
}

impl CertificateAuthority for OwnAtIstiod {
    fn sign<'a>(&'a self, csr_pem: &'a str, ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>> {
        Box::pin(self.ask(csr_pem, ttl_seconds))
    }
}
