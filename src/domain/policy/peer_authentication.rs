//! What Istio's sidecars ask of a connection, by PeerAuthentication as istiod reads it. It decides nothing here: a member is
//! spoken to by mutual TLS, always. It says what won't work, and where.

use std::fmt;

use super::{Labels, ObjectName, PodFacts, PortFacts};

/// What a sidecar takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PeerMode {
    /// Plaintext alone.
    Disable,
    /// Both; mutual TLS only by one of Istio's ALPN names.
    Permissive,
    /// Mutual TLS alone.
    Strict,
}

/// A PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAuthenticationFacts {
    /// Which.
    pub object: ObjectName,
    /// Seconds since 1970: the oldest one of a level counts.
    pub created: i64,
    /// Which pods; empty for its whole namespace, or the whole mesh.
    pub selector: Labels,
    /// `None` for what holds anyhow.
    pub mode: Option<PeerMode>,
    /// By the pod's port, not the Service's. Counts with a selector only.
    pub ports: Box<[(u16, Option<PeerMode>)]>,
}

/// The modes of the pods behind a port. None at all: not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PeerModes {
    /// Some are [`PeerMode::Strict`].
    pub strict: bool,
    /// Some are [`PeerMode::Permissive`].
    pub permissive: bool,
    /// Some are [`PeerMode::Disable`].
    pub disable: bool,
}

/// A mode, and the PeerAuthentication that says so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerRuling {
    /// What holds.
    pub mode: PeerMode,
    /// `None` where nobody says anything.
    pub by: Option<ObjectName>,
}

/// What the PeerAuthentications of a namespace say.
#[derive(Clone, Debug)]
pub(super) struct NamespacePeers<'a> {
    wide: PeerRuling,
    /// With selectors, the first that selects a pod counts.
    of_pods: Vec<&'a PeerAuthenticationFacts>,
}

/// What holds for one pod.
pub(super) struct PodPeers<'a> {
    ruling: PeerRuling,
    own: Option<&'a PeerAuthenticationFacts>,
}

impl Default for PeerRuling {
    /// As Istio does it when nobody says anything.
    fn default() -> Self {
        Self { mode: PeerMode::Permissive, by: None }
    }
}

/// Of the oldest one that has no selector, if it says anything.
pub(super) fn widest<'a>(policies: impl Iterator<Item = &'a PeerAuthenticationFacts>) -> Option<PeerRuling> {
    let oldest = policies.filter(|policy| policy.selector.is_empty()).min_by_key(|policy| age(policy))?;
    Some(PeerRuling { mode: oldest.mode?, by: Some(oldest.object.clone()) })
}

/// Two of one second are in the order of their names, as with istiod.
fn age(policy: &PeerAuthenticationFacts) -> (i64, &str) {
    (policy.created, &policy.object.name)
}

impl<'a> NamespacePeers<'a> {
    /// Of a namespace's own policies. In that of the mesh's root, selectors count for nothing.
    pub(super) fn new<P>(policies: P, mesh: &PeerRuling, is_root: bool) -> Self
    where
        P: Iterator<Item = &'a PeerAuthenticationFacts> + Clone,
    {
        let wide = widest(policies.clone()).unwrap_or_else(|| mesh.clone());
        let with_selector = policies.filter(|policy| !is_root && !policy.selector.is_empty());
        let mut of_pods: Vec<_> = with_selector.collect();
        of_pods.sort_by_key(|policy| age(policy));
        Self { wide, of_pods }
    }

    /// Whether no pod here can be of mode `STRICT`.
    pub(super) fn is_never_strict(&self) -> bool {
        let is_strict = |mode: Option<PeerMode>| mode == Some(PeerMode::Strict);
        self.wide.mode != PeerMode::Strict && !self.of_pods.iter().any(|policy| is_strict(policy.mode))
    }

    /// What holds where there is no pod.
    pub(super) const fn of_nobody(&self) -> &PeerRuling {
        &self.wide
    }

    /// What holds for a pod with these labels.
    pub(super) fn of(&self, labels: &Labels) -> PodPeers<'a> {
        let own = self.of_pods.iter().find(|policy| policy.selector.selects(labels)).copied();
        let ruling = own.and_then(|own| Some(PeerRuling { mode: own.mode?, by: Some(own.object.clone()) }));
        PodPeers { ruling: ruling.unwrap_or_else(|| self.wide.clone()), own }
    }
}

impl PodPeers<'_> {
    /// Of all ports that have no rule of their own.
    pub(super) const fn wide(&self) -> &PeerRuling {
        &self.ruling
    }

    /// Of the port of a Service at that pod.
    pub(super) fn at(&self, pod: &PodFacts, port: &PortFacts) -> PeerRuling {
        let at = port.target.at(pod);
        let of_port = self.own.and_then(|own| {
            let (_, mode) = own.ports.iter().find(|(number, _)| Some(*number) == at)?;
            Some(PeerRuling { mode: (*mode)?, by: Some(own.object.clone()) })
        });
        of_port.unwrap_or_else(|| self.ruling.clone())
    }
}

impl PeerModes {
    /// With one more.
    pub(super) fn add(&mut self, mode: PeerMode) {
        match mode {
            PeerMode::Disable => self.disable = true,
            PeerMode::Permissive => self.permissive = true,
            PeerMode::Strict => self.strict = true,
        }
    }
}

/// As it is written in lists and messages, with `/` between those of different pods.
impl fmt::Display for PeerModes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [(self.disable, "disable"), (self.permissive, "permissive"), (self.strict, "strict")];
        let words: Vec<&str> = all.iter().filter_map(|(is, word)| is.then_some(*word)).collect();
        f.pad(if words.is_empty() { "unknown".to_owned() } else { words.join("/") }.as_str())
    }
}
