//! What a caller brought, before anything of it is believed.

use std::{fmt, net::IpAddr};

use zeroize::Zeroizing;

use crate::domain::{identity::ServiceAccount, x509::CertificateChain};

/// What stands in a request as proof.
#[derive(Clone)]
pub struct Evidence {
    /// A bearer token.
    pub token: Option<Zeroizing<String>>,
    /// The cluster that the caller says its token is of; empty if it says none.
    pub cluster: String,
    /// A client certificate whose key the peer has proven to hold in the TLS handshake. Nothing else of it is checked yet.
    pub presented: Option<CertificateChain>,
    /// As `presented`, but the handshake was with another replica of this pair, which vouches for it.
    pub asserted: Option<CertificateChain>,
    /// The replica itself asks, in its own process or over the pair's authenticated channel.
    pub own: Option<OwnIdentity>,
    /// Where the caller is, if that is known. Proves nothing; it bounds what one place may have under review.
    pub source: Option<IpAddr>,
}

/// What a replica asks for itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OwnIdentity {
    /// The identity of the workload that its own socket serves.
    Workload(ServiceAccount),
    /// The certificate that it serves the signing API with.
    Serving,
    /// The certificate that istiod serves with, where this authority is the mesh's only one.
    Istiod(ServiceAccount),
    /// The SVID that it writes into the Secret of a gateway.
    Gateway(ServiceAccount),
}

impl Evidence {
    /// No proof at all.
    pub const NONE: Self =
        Self { token: None, cluster: String::new(), presented: None, asserted: None, own: None, source: None };

    /// The client certificate that counts: what was presented here, else what another replica asserts.
    pub fn certificate(&self) -> Option<&CertificateChain> {
        self.presented.as_ref().or(self.asserted.as_ref())
    }
}

impl fmt::Debug for Evidence {
    /// Says what kinds there are, never a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Evidence")
            .field("token", &self.token.is_some())
            .field("cluster", &self.cluster)
            .field("presented", &self.presented.is_some())
            .field("asserted", &self.asserted.is_some())
            .field("own", &self.own)
            .field("source", &self.source)
            .finish()
    }
}
