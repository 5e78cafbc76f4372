//! What is asked of a gateway.

use std::fmt;

/// How a gateway speaks to a Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum MtlsMode {
    /// Mutual TLS, always, whatever PeerAuthentication says.
    Required,
    /// As routes and policies of the user say.
    NotManaged,
}

impl MtlsMode {
    /// As it is written in lists and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Required => "mutual-tls",
            Self::NotManaged => "not-managed",
        }
    }
}

impl fmt::Display for MtlsMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
