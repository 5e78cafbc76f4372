//! The kinds of objects that gateways need in the cluster.

/// Kinds of objects that are written, in the order in which they are: who names another comes after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ObjectKind {
    /// The roots of the mesh, for policies that bear identities themselves.
    ConfigMap,
    /// Where those come from over SDS, for other policies. Nobody looks at Secrets: RBAC can't limit that to a type.
    SdsSecret,
    /// The policy.
    BackendTlsPolicy,
}

impl ObjectKind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::ConfigMap, Self::SdsSecret, Self::BackendTlsPolicy];

    /// As people call it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::ConfigMap => "ConfigMap",
            Self::SdsSecret => "Secret",
            Self::BackendTlsPolicy => "BackendTLSPolicy",
        }
    }
}
