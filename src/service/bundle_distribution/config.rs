//! What is distributed where.

use std::{fmt, str::FromStr};

use crate::{
    domain::identity::{ServiceAccount, SpiffeId, SpiffeIdError, TrustDomain},
    service::create_certificate::IstiodServing,
};

/// The settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DistributionConfig {
    /// The namespace of the pair.
    pub namespace: String,
    /// Whose roots these are.
    pub trust_domain: TrustDomain,
    /// Set if this is the mesh's only CA: then the mesh's own objects are written.
    pub mesh_ca: Option<MeshCa>,
    /// Whether a ClusterTrustBundle is kept, where the API server serves them.
    pub cluster_trust_bundle: bool,
    /// Whether roots of others are written over.
    pub adopt: bool,
}

/// The objects of a mesh.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MeshCa {
    /// The ConfigMap of the roots in every namespace, `istio-ca-root-cert` for istiod's.
    pub root_config_map: String,
    /// istiod: its namespace is where its Secret `istiod-tls` lies.
    pub istiod: ServiceAccount,
    /// istiod's revisions beside the default one.
    pub revisions: Vec<Revision>,
    /// As [`MeshCa::new`] has found it to be possible.
    id: SpiffeId,
}

/// A revision of istiod: part of its Service's name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Revision(String);

/// Why a text is no revision.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a revision is a DNS label of at most {MAX_REVISION} letters a to z, digits and hyphens, not {0:?}")]
pub struct RevisionError(String);

/// `istiod-REVISION` must be a DNS label.
const MAX_REVISION: usize = 63 - "istiod-".len();
/// Its Services, as istiod's own certificate names them.
const SERVICES: [&str; 3] = ["istiod", "istiod-remote", "istio-pilot"];

impl MeshCa {
    /// The objects of a mesh whose trust domain is `trust_domain`.
    ///
    /// # Errors
    ///
    /// When istiod's ID would be too long.
    pub fn new(
        root_config_map: String,
        istiod: ServiceAccount,
        revisions: Vec<Revision>,
        trust_domain: &TrustDomain,
    ) -> Result<Self, SpiffeIdError> {
        let id = istiod.spiffe_id(trust_domain)?;
        Ok(Self { root_config_map, istiod, revisions, id })
    }

    /// What istiod's certificate is for: the names of its Services, sorted.
    pub fn istiod_serving(&self) -> IstiodServing {
        let revisions = self.revisions.iter().filter(|revision| revision.0 != "default");
        let services =
            SERVICES.iter().map(|name| (*name).to_owned()).chain(revisions.map(|name| format!("istiod-{name}")));
        let mut server_names: Vec<_> =
            services.map(|service| format!("{service}.{}.svc", self.istiod.namespace())).collect();
        server_names.sort_unstable();
        server_names.dedup();
        IstiodServing { id: self.id.clone(), server_names }
    }
}

impl FromStr for Revision {
    type Err = RevisionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        let is_label = (1..=MAX_REVISION).contains(&text.len())
            && text.chars().all(allowed)
            && !text.starts_with('-')
            && !text.ends_with('-');
        if is_label { Ok(Self(text.to_owned())) } else { Err(RevisionError(text.to_owned())) }
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn istiods_names_are_those_of_its_services_and_revisions() {
        let revisions = ["default", "canary", "1-29"].map(|text| text.parse().unwrap()).to_vec();
        let trust_domain = "cluster.local".parse().unwrap();
        let mesh =
            MeshCa::new("istio-ca-root-cert".into(), "mesh/istiod".parse().unwrap(), revisions, &trust_domain).unwrap();
        let serving = mesh.istiod_serving();
        assert_eq!(serving.id.as_str(), "spiffe://cluster.local/ns/mesh/sa/istiod");
        let names = ["istio-pilot", "istiod-1-29", "istiod-canary", "istiod-remote", "istiod"];
        assert_eq!(serving.server_names, names.map(|name| format!("{name}.mesh.svc")));
    }

    #[test]
    fn a_revision_is_a_label() {
        for text in ["", "-a", "a-", "A", "a.b", "a b", &"a".repeat(57)] {
            assert_eq!(text.parse::<Revision>(), Err(RevisionError(text.to_owned())));
        }
        assert_eq!("1-29".parse::<Revision>().unwrap().to_string(), "1-29");
    }
}
