//! Whether a namespace is in the mesh: by its labels, with the precedence that Istio gives them.
//!
//! Where Istio would do nothing with a label's odd value, mutual TLS is required all the same, and said so: a gateway that speaks
//! plaintext because of a typing error is worse than one that gets no answer.

use std::collections::BTreeSet;

use super::{Condition, MtlsMode, PeerRuling};

/// The labels of a namespace that decide. `None` where there is no such label, which differs from an empty one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshLabels {
    /// `istio-injection`.
    pub injection: Option<Box<str>>,
    /// `istio.io/rev`.
    pub revision: Option<Box<str>>,
    /// `istio.io/dataplane-mode`.
    pub dataplane: Option<Box<str>>,
}

/// What is seen of Istio itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MeshSight {
    /// Of each unfinished pod of istiod.
    pub revisions: BTreeSet<Box<str>>,
    /// Tags of revisions, as far as Services show them.
    pub tags: BTreeSet<Box<str>>,
    /// What is wrong with its control plane: worth knowing in each namespace of the mesh.
    pub control_plane: Vec<Condition>,
    /// What sidecars ask of connections where no namespace says otherwise. `None` while PeerAuthentications are not known.
    pub peers: Option<PeerRuling>,
}

/// What the labels say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Membership {
    /// Of all Services there, but for those that are taken out.
    pub mode: MtlsMode,
    /// Whose injector it is that puts sidecars in: a revision or a tag.
    pub revision: Option<Box<str>>,
    /// What is worth knowing.
    pub conditions: Vec<Condition>,
}

/// Istio puts no sidecar in here, whatever the labels say.
const NEVER_INJECTED: [&str; 4] = ["kube-node-lease", "kube-public", "kube-system", "local-path-storage"];
/// The revision, or the tag, that `istio-injection` stands for.
const DEFAULT_REVISION: &str = "default";

/// Reads the labels of namespace `name`.
pub fn membership(name: &str, labels: &MeshLabels, sight: &MeshSight) -> Membership {
    let revision = labels.revision.as_deref();
    let mut conditions = Vec::new();
    let injector = match (labels.injection.as_deref(), revision) {
        (Some("enabled"), other) => {
            conditions.extend(ignored(other));
            Some(DEFAULT_REVISION)
        }
        (Some("disabled"), other) => {
            conditions.push(Condition::InjectionDisabled { revision: other.map(Into::into) });
            None
        }
        (Some(odd), other) => {
            conditions.push(Condition::InjectionValueUnknown { value: odd.into() });
            conditions.extend(ignored(other));
            Some(DEFAULT_REVISION)
        }
        (None, Some("")) => {
            conditions.push(Condition::RevisionEmpty);
            None
        }
        (None, revision) => revision,
    };
    match labels.dataplane.as_deref() {
        Some("ambient") => conditions.push(Condition::AmbientUnsupported { has_sidecars: injector.is_some() }),
        None | Some("none") => {}
        Some(odd) => conditions.push(Condition::DataplaneModeUnknown { value: odd.into() }),
    }
    if let Some(injector) = injector {
        conditions.extend(doubts(name, injector, sight));
        conditions.extend(sight.control_plane.iter().cloned());
    }
    let mode = if injector.is_some() { MtlsMode::Required } else { MtlsMode::NotManaged };
    Membership { mode, revision: injector.map(Into::into), conditions }
}

impl MeshLabels {
    /// Whether nothing is said of the mesh at all.
    pub(super) fn say_nothing(&self) -> bool {
        let said = self.revision.as_deref().is_some_and(|revision| !revision.is_empty());
        self.injection.is_none() && !said && self.dataplane.as_deref() != Some("ambient")
    }
}

fn ignored(revision: Option<&str>) -> Option<Condition> {
    revision.map(|revision| Condition::RevisionIgnored { revision: revision.into() })
}

/// What may keep pods of a member from getting a sidecar.
fn doubts(name: &str, injector: &str, sight: &MeshSight) -> Vec<Condition> {
    let mut conditions = Vec::new();
    if NEVER_INJECTED.contains(&name) {
        conditions.push(Condition::NamespaceNeverInjected);
    }
    if sight.revisions.is_empty() {
        conditions.push(Condition::IstioNotDetected);
    } else if !sight.revisions.contains(injector) && !sight.tags.contains(injector) {
        conditions.push(Condition::RevisionNotDetected { revision: injector.into() });
    }
    conditions
}
