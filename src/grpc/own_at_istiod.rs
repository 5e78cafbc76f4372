//! Certificates that istiod signs for a replica: its own by its own token, and those of gateways by tokens of theirs.

use std::{fmt, path::PathBuf, sync::Arc};

use prost::Message as _;
use tokio::sync::Semaphore;
use zeroize::Zeroizing;

use crate::{
    domain::identity::ServiceAccount,
    proto::istio::v1::auth::IstioCertificateRequest,
    service::{
        gateway_secrets::AccountTokens,
        istiod_pass_on::{PassOn, PassOnError, PassOnRequest},
        ports::{BoxFuture, CertificateAuthority, PassedRequest, SignError, SignedChain, SigningRequest},
    },
};

/// istiod as a certificate authority for this replica.
pub struct OwnAtIstiod {
    pass_on: Arc<PassOn>,
    token: OwnToken,
    /// Whose API server made the token, as istiod calls it.
    cluster: Option<String>,
    held: Semaphore,
}

/// By which token. Each call has a new one.
pub enum OwnToken {
    /// The replica's own: whoever delivers it replaces it.
    File(PathBuf),
    /// One that is made for this account.
    Made(Arc<dyn AccountTokens>, ServiceAccount),
}

impl OwnAtIstiod {
    /// By way of `pass_on`, for the account that `token` is of, in `cluster` or else istiod's own one.
    pub fn new(pass_on: Arc<PassOn>, token: OwnToken, cluster: Option<String>) -> Self {
        Self { pass_on, token, cluster, held: Semaphore::new(1) }
    }

    async fn ask(&self, csr_pem: &str, ttl_seconds: i64) -> Result<SignedChain, SignError> {
        let token = self.token.read().await.map_err(SignError::Unavailable)?;
        let token = Zeroizing::new(token.trim().to_owned());
        let request = request(token, self.cluster.as_deref(), csr_pem, ttl_seconds);
        match self.pass_on.answer(request, &self.held).await {
            Ok(elements) => SignedChain::from_elements(elements),
            Err(error @ PassOnError::NoAccount) => Err(SignError::Unauthenticated(format!("{}: {error}", self.token))),
            Err(error @ PassOnError::ByIstiod { .. }) => Err(SignError::Unauthenticated(error.to_string())),
            Err(error) => Err(SignError::Unavailable(error.to_string())),
        }
    }
}

/// As an agent would ask, with the same token.
fn request(token: Zeroizing<String>, cluster: Option<&str>, csr_pem: &str, ttl_seconds: i64) -> PassOnRequest {
    let message = IstioCertificateRequest { csr: csr_pem.to_owned(), validity_duration: ttl_seconds, metadata: None };
    PassOnRequest {
        passed: PassedRequest {
            authorization: Zeroizing::new(format!("Bearer {}", token.as_str()).into_bytes()),
            clusters: cluster.map(|cluster| cluster.as_bytes().to_vec()).into_iter().collect(),
            message: message.encode_to_vec(),
        },
        token: Some(token),
        has_certificate: false,
        source: None,
        asked: SigningRequest { csr: message.csr, ttl_seconds, impersonated: String::new() },
    }
}

impl OwnToken {
    async fn read(&self) -> Result<Zeroizing<String>, String> {
        match self {
            Self::File(path) => {
                let token = tokio::fs::read_to_string(path).await.map(Zeroizing::new);
                token.map_err(|error| format!("{self}: {error}"))
            }
            Self::Made(tokens, account) => tokens.token(account).await,
        }
    }
}

impl fmt::Display for OwnToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "token file {}", path.display()),
            Self::Made(_, account) => write!(f, "token of service account {account}"),
        }
    }
}

impl CertificateAuthority for OwnAtIstiod {
    fn sign<'a>(&'a self, csr_pem: &'a str, ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>> {
        Box::pin(self.ask(csr_pem, ttl_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cluster_is_named_if_istiod_does_not_take_it_for_its_own() {
        let of = |cluster| request(Zeroizing::new("a.b.c".into()), cluster, "CSR", 60).passed;
        assert_eq!(of(Some("remote")).clusters, [b"remote"]);
        assert!(of(None).clusters.is_empty());
        assert_eq!(*of(None).authorization, b"Bearer a.b.c");
    }
}
