//! The port: what is written for gateways, and how it is seen again.

use std::{fmt, sync::Arc, time::Duration};

use crate::{
    domain::{
        clock::Timestamp,
        policy::{ObjectKind, ObjectName, PolicySight, SdsUrl},
    },
    service::ports::BoxFuture,
};

/// Objects of a cluster that are ours.
pub trait GatewayObjects: Send + Sync {
    /// What the object will be seen with once it is as it is wanted.
    fn print(&self, wanted: &Wanted) -> Print;

    /// Makes the object as it is wanted; what others have added to it stays. `version` is what it was seen at, and it must be
    /// that still; `None` if there was none, or nobody looked: then nothing of somebody else's is changed.
    fn apply<'a>(
        &'a self,
        wanted: &'a Wanted,
        version: Option<&'a str>,
    ) -> BoxFuture<'a, Result<SeenObject, WriteError>>;

    /// Deletes the object; one that is gone already is no error. If `seen` is given, it must be that very object.
    fn remove<'a>(
        &'a self,
        key: &'a ObjectKey,
        seen: Option<&'a SeenObject>,
    ) -> BoxFuture<'a, Result<Removed, WriteError>>;
}

/// Which object.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectKey {
    /// Its kind.
    pub kind: ObjectKind,
    /// Its name.
    pub object: ObjectName,
}

impl fmt::Display for ObjectKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.kind.as_str(), self.object)
    }
}

/// An object that is to be there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Which.
    pub key: ObjectKey,
    /// The Service that it belongs to, and goes with.
    pub owner: Option<Owner>,
    /// What is in it.
    pub content: Content,
    /// Whether it is kept if it is there, and not made if it is not.
    pub only_if_there: bool,
}

/// A Service, in the namespace of what it owns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Its name.
    pub name: Arc<str>,
    /// Its UID.
    pub uid: Arc<str>,
}

/// What is in an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// The roots of the mesh.
    Roots {
        /// PEM.
        pem: Arc<str>,
    },
    /// Whom to ask over SDS, and for what.
    Sds {
        /// The socket.
        url: SdsUrl,
        /// The name of the validation context.
        resource: String,
    },
    /// How a Service's identity is verified.
    Verification {
        /// The Service, in the same namespace.
        service: Arc<str>,
        /// Its DNS name.
        hostname: String,
        /// IDs of which a certificate must have one; none if they come over SDS.
        ids: Vec<String>,
        /// Who holds the roots, in the same namespace.
        ca: ObjectKey,
        /// Whether a Route leads to the Service: gateways take changes of such policies one after the other.
        is_routed: bool,
    },
}

impl SeenObject {
    /// Of a policy: what tells it from another one, and from itself with another content.
    pub(super) fn sight(&self) -> PolicySight {
        PolicySight { uid: Arc::clone(&self.uid), generation: self.generation, changed_at: self.changed_at }
    }
}

impl Wanted {
    /// Who must be there before it.
    pub(super) const fn needs(&self) -> Option<&ObjectKey> {
        match &self.content {
            Content::Verification { ca, .. } => Some(ca),
            Content::Roots { .. } | Content::Sds { .. } => None,
        }
    }
}

/// Tells one content from another, with everything else that we write.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Print(pub [u8; 32]);

impl fmt::Debug for Print {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// An object as it was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenObject {
    /// What the API server names this state of it.
    pub version: Box<str>,
    /// Of two objects of one name, one after the other, each has its own.
    pub uid: Arc<str>,
    /// Grows when somebody changes what it says.
    pub generation: i64,
    /// When it was made, or changed last, by the API server's clock.
    pub changed_at: Timestamp,
    /// What is in it.
    pub print: Print,
    /// Whether we wrote it.
    pub ours: bool,
    /// What keeps it from going, if it is to be gone already.
    pub going: Option<Box<str>>,
    /// Of a policy: who holds its roots.
    pub needs: Option<ObjectKey>,
    /// Of a policy: whether a gateway says that it can't use who holds its roots.
    pub is_unusable: bool,
    /// Of a policy: its Service, once a gateway has said anything of it, as they do where Routes lead.
    pub routed: Option<Arc<str>>,
}

/// What was seen of objects. Secrets are never seen.
#[derive(Clone, Debug)]
pub enum Seen {
    /// Of this kind there are these.
    Listed {
        /// The kind.
        kind: ObjectKind,
        /// What the API server names the state in which they are all there is; empty if there is no telling.
        version: Box<str>,
        /// All of them.
        objects: Vec<(ObjectName, SeenObject)>,
    },
    /// One is there, or was changed.
    Put(ObjectKey, SeenObject),
    /// One is gone; with the version that it had at its end.
    Gone(ObjectKey, Box<str>),
}

/// How a removal ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Removed {
    /// It is gone.
    Gone,
    /// Somebody's finalizer keeps it for now.
    Going,
}

/// Why something was not written. The text is for people.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WriteError {
    /// The object or its namespace is not as it was any more; what it is will be seen.
    #[error("{0}")]
    Outdated(String),
    /// This object is not taken as it is.
    #[error("{0}")]
    Refused(String),
    /// Nothing of this kind is taken now, there or anywhere: rights are missing, a webhook fails, or the API server is busy or away.
    #[error("{why}")]
    Unavailable {
        /// Why.
        why: String,
        /// Who asks to be left alone, and for how long.
        pause: Option<Pause>,
    },
}

/// For how long not to ask again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pause {
    /// The API server is busy: for anything of this kind.
    Everywhere(Duration),
    /// Somebody whom it asks about objects of this namespace is.
    Namespace(Duration),
}
