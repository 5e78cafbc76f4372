//! istiod, as whoever passes requests on to it sees it.

use zeroize::Zeroizing;

use super::BoxFuture;
use crate::domain::x509::TrustBundle;

/// A request as it came, of which nothing is changed. Holds a token, so it has no `Debug`.
#[derive(Clone)]
pub struct PassedRequest {
    /// The value of `authorization`.
    pub authorization: Zeroizing<Vec<u8>>,
    /// All values of `clusterid`.
    pub clusters: Vec<Vec<u8>>,
    /// The message, encoded.
    pub message: Vec<u8>,
}

/// The CA of a mesh, at one or several addresses.
pub trait Istiod: Send + Sync {
    /// Where it is asked, in order.
    fn addresses(&self) -> &[String];

    /// Asks once, at the address with this index, over TLS that is verified to `roots`: the PEM elements of the answer. Whoever
    /// calls bounds the time; a call that is dropped has the next one begin with a new connection.
    ///
    /// # Errors
    ///
    /// When it refuses, is no CA, or can't be reached.
    fn ask<'a>(
        &'a self,
        address: usize,
        roots: &'a TrustBundle,
        request: &'a PassedRequest,
    ) -> BoxFuture<'a, Result<Vec<String>, AskError>>;

    /// Makes a connection to that address, and asks nothing.
    ///
    /// # Errors
    ///
    /// Why there is none.
    fn reach<'a>(&'a self, address: usize, roots: &'a TrustBundle) -> BoxFuture<'a, Result<(), String>>;
}

/// Why there is no certificate.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AskError {
    /// Its own answer.
    #[error("{message}")]
    Refused {
        /// gRPC code.
        code: i32,
        /// Its text.
        message: String,
    },
    /// It is there, but answers not as a CA, not now, or not in time.
    #[error("{0}")]
    NoCa(String),
    /// There was no connection, or no answer on it.
    #[error("{0}")]
    Unreachable(String),
}
