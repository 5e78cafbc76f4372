//! istiod, as whoever passes requests on to it sees it.

use std::sync::Arc;

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

/// Where the CA of a mesh is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstiodAddress {
    /// As messages name it.
    pub name: String,
    /// `HOST:PORT`.
    pub address: String,
    /// What its certificate must hold.
    pub server_name: String,
}

/// All addresses at which it is asked, in order. What is sent takes the place of what was known before.
pub type IstiodAddresses = Arc<[IstiodAddress]>;

/// The way to an address. Nothing is connected by it yet.
pub type WayToIstiod = Arc<dyn Fn(&IstiodAddress) -> Arc<dyn Istiod> + Send + Sync>;

/// The CA of a mesh, at one address.
pub trait Istiod: Send + Sync {
    /// Asks once, over TLS that is verified to `roots`: the PEM elements of the answer. Whoever calls bounds the time; a call that
    /// is dropped has the next one begin with a new connection.
    ///
    /// # Errors
    ///
    /// When it refuses, is no CA, or can't be reached.
    fn ask<'a>(
        &'a self,
        roots: &'a TrustBundle,
        request: &'a PassedRequest,
    ) -> BoxFuture<'a, Result<Vec<String>, AskError>>;

    /// Makes a connection, and asks nothing.
    ///
    /// # Errors
    ///
    /// Why there is none.
    fn reach<'a>(&'a self, roots: &'a TrustBundle) -> BoxFuture<'a, Result<(), String>>;
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
