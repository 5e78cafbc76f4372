//! What a replica asks of its own pair: the SVID of its own socket's workload, and its serving certificate. Both go the way
//! of every other request, and stand in the issuance log.

use std::sync::Arc;

use tokio::sync::Semaphore;

use super::{
    create_certificate::{CreateCertificate, CreateError},
    ports::{BoxFuture, CertificateAuthority, SignError, SignedChain, SigningRequest},
};
use crate::domain::attestation::{Evidence, OwnIdentity};

/// The pair as a certificate authority for one of its own replicas.
pub struct OwnAuthority {
    create: Arc<CreateCertificate>,
    own: OwnIdentity,
    held: Semaphore,
}

impl OwnAuthority {
    /// For `own`, through `create`.
    pub fn new(create: Arc<CreateCertificate>, own: OwnIdentity) -> Self {
        Self { create, own, held: Semaphore::new(1) }
    }
}

impl CertificateAuthority for OwnAuthority {
    fn sign<'a>(&'a self, csr_pem: &'a str, ttl_seconds: i64) -> BoxFuture<'a, Result<SignedChain, SignError>> {
        Box::pin(async move {
            let request = SigningRequest { csr: csr_pem.to_owned(), ttl_seconds, impersonated: String::new() };
            let evidence = Evidence { own: Some(self.own.clone()), ..Evidence::NONE };
            match self.create.answer(&request, &evidence, &self.held).await {
                Ok(elements) => SignedChain::from_elements(elements),
                Err(
                    error @ (CreateError::Unavailable { .. }
                    | CreateError::Busy
                    | CreateError::Overloaded
                    | CreateError::NotActive),
                ) => Err(SignError::Unavailable(error.to_string())),
                Err(error) => Err(SignError::Refused(error.to_string())),
            }
        })
    }
}
