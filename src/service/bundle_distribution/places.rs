//! The ports: where the roots stand in a cluster, and the Secrets in which certificates are kept.

use std::{fmt, pin::Pin, sync::Arc};

use futures_util::Stream;
use zeroize::Zeroizing;

use crate::{
    domain::bundle::{FoundRoots, OwnRoots, PlacedObject, Seen, Write},
    service::{metrics::PlaceKind, ports::BoxFuture},
};

/// What is seen, from a complete list on; it does not end. After an error it goes on by itself, not at once.
pub type SeenStream<T> = Pin<Box<dyn Stream<Item = Result<T, PlacesError>> + Send>>;

/// Objects of one kind, each of which holds the roots for a place.
pub trait RootPlaces: Send + Sync {
    /// What kind of places these are.
    fn kind(&self) -> PlaceKind;

    /// What the objects are called, for log lines and status.
    fn title(&self) -> &str;

    /// Lists and then follows places and objects.
    fn follow(&self) -> SeenStream<Seen>;

    /// Writes the roots in a place, and leaves everything else there as it is. Returns what the object is then.
    fn write<'a>(&'a self, write: &'a Write, roots: &'a OwnRoots) -> BoxFuture<'a, Result<PlacedObject, WriteError>>;
}

/// A Secret of type `kubernetes.io/tls`.
pub trait TlsSecret: Send + Sync {
    /// Lists and then follows the Secret and its namespace.
    fn follow(&self) -> SeenStream<SecretSeen>;

    /// Reads the Secret; `None` if there is none. Whoever calls bounds the time.
    ///
    /// # Errors
    ///
    /// When it can't be read, in words.
    fn read(&self) -> BoxFuture<'_, Result<Option<StoredSecret>, String>>;

    /// Writes the Secret, if it still is at `version` (`None`: there is none), and leaves other keys in it as they are.
    fn write<'a>(
        &'a self,
        version: Option<&'a str>,
        files: &'a ServingFiles,
    ) -> BoxFuture<'a, Result<StoredSecret, WriteError>>;
}

/// All of a cluster.
pub struct Places {
    /// The ConfigMap in each namespace.
    pub config_maps: Arc<dyn RootPlaces>,
    /// The cluster's one, if it is kept.
    pub cluster_trust_bundle: Option<Arc<dyn RootPlaces>>,
    /// istiod's, if this is the mesh's CA.
    pub istiod_secret: Option<Arc<dyn TlsSecret>>,
}

/// What was seen of a Secret.
#[derive(Debug)]
pub enum SecretSeen {
    /// Whether its namespace is there, and not going.
    Namespace(bool),
    /// The Secret, if there is one.
    Secret(Option<StoredSecret>),
}

/// The type of a Secret that holds a certificate and its key. It is set when the Secret is made, and never changes.
pub const TLS_TYPE: &str = "kubernetes.io/tls";

/// A Secret as it is stored; nothing of it is believed.
pub struct StoredSecret {
    /// What the store names this state of it.
    pub version: String,
    /// `tls.crt`.
    pub certificate: Vec<u8>,
    /// `tls.key`.
    pub key: Zeroizing<Vec<u8>>,
    /// `ca.crt`.
    pub roots: FoundRoots,
    /// The pair that wrote it, by the mark that it bears.
    pub publisher: Option<String>,
    /// Its type.
    pub kind: String,
}

/// What is written.
pub struct ServingFiles {
    /// Leaf and intermediates, PEM.
    pub certificate: String,
    /// PEM.
    pub key: Zeroizing<String>,
    /// PEM.
    pub roots: String,
    /// The pair that writes it, by its namespace.
    pub publisher: String,
}

/// Why something was not written. The text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object or its namespace is not as it was any more; what it is will be seen.
    #[error("{0}")]
    Outdated(String),
    /// Refused, or nobody knows.
    #[error("{0}")]
    Failed(String),
}

/// Why something can't be followed just now.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct PlacesError {
    /// What can't.
    pub followed: Followed,
    /// For people: names what, and the fix where there is one.
    pub problem: String,
}

/// What is followed, each by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Followed {
    /// The namespaces.
    Places,
    /// The objects in them.
    Objects,
}

impl Followed {
    /// What told this.
    pub(super) const fn by(seen: &Seen) -> Self {
        match seen {
            Seen::Places(_) | Seen::Wanted(_) | Seen::NotWanted(_) => Self::Places,
            Seen::Objects(_) | Seen::Object(..) | Seen::ObjectGone(_) => Self::Objects,
        }
    }
}

impl fmt::Debug for StoredSecret {
    /// Without key and certificate.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoredSecret").field("version", &self.version).field("publisher", &self.publisher).finish()
    }
}
