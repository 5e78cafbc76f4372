//! Of a Service whose Gateways go by what stands in its BackendTLSPolicy: there is no agent that would tell what proxies hold. Two
//! things have to be seen instead: that every Gateway says that it has taken the policy of now, and that the pods speak mutual TLS.

use std::{sync::Arc, time::Duration};

use super::PROXIES_FOLLOW_WITHIN;
use crate::domain::policy::{IdentitySet, PortableShortfall, ProbeFinding, ProbeSight, Uptake};

/// What is wanted and seen.
#[derive(Debug)]
pub(super) struct Portable {
    /// Whom the policy is to accept.
    required: IdentitySet,
    uptake: Uptake,
    /// What a probe has seen, under `required`.
    sight: Option<ProbeSight>,
    /// Since when every Gateway has said that it has taken the policy.
    taken_since: Option<Duration>,
}

impl Portable {
    pub(super) fn new(required: IdentitySet, uptake: Uptake, now: Duration) -> Self {
        let mut new = Self { required, uptake, sight: None, taken_since: None };
        new.taken_since = new.is_taken().then_some(now);
        new
    }

    /// It stands otherwise now.
    pub(super) fn change(&mut self, required: IdentitySet, uptake: Uptake, now: Duration) {
        if self.required != required {
            *self = Self::new(required, uptake, now);
            return;
        }
        self.uptake = uptake;
        self.taken_since = if self.is_taken() { self.taken_since.or(Some(now)) } else { None };
    }

    /// A probe has seen this, when these were to be accepted. Returns whether that is still so.
    pub(super) fn see(&mut self, required: IdentitySet, sight: ProbeSight) -> bool {
        let counts = self.required == required && self.sight.as_ref() != Some(&sight);
        if counts {
            self.sight = Some(sight);
        }
        counts
    }

    /// From how many Gateways requests come.
    pub(super) const fn routed(&self) -> usize {
        self.uptake.routed
    }

    fn is_taken(&self) -> bool {
        self.uptake.routed > 0 && self.uptake.lacking.is_empty() && self.uptake.written == Some(self.required)
    }

    /// What is lacking for it to be in force; `None` if it is.
    pub(super) fn lacks(&self, now: Duration) -> Option<PortableShortfall> {
        let Uptake { routed, lacking, written, refuses_plaintext, .. } = &self.uptake;
        if *routed == 0 {
            return Some(PortableShortfall::Unrouted);
        }
        if self.required == IdentitySet::of([]) {
            return Some(PortableShortfall::Nobody);
        }
        if *written != Some(self.required) {
            return Some(PortableShortfall::Unwritten);
        }
        if let [gateway, ..] = &**lacking {
            let (lacking, gateway) = (lacking.len(), gateway.clone());
            return Some(PortableShortfall::Untaken { lacking, of: *routed, gateway });
        }
        let Some(sight) = &self.sight else { return Some(PortableShortfall::Unprobed) };
        if let Some(lacking) = of_sight(sight) {
            return Some(lacking);
        }
        // where plaintext is refused, none was taken meanwhile
        let is_young = self.taken_since.is_none_or(|since| now.saturating_sub(since) < PROXIES_FOLLOW_WITHIN);
        (is_young && !refuses_plaintext).then_some(PortableShortfall::Fresh)
    }
}

/// The worst of what was seen.
fn of_sight(sight: &ProbeSight) -> Option<PortableShortfall> {
    let found = sight.0.iter().filter_map(|(port, sight)| Some((*port, sight.as_ref()?)));
    let wanting = found.filter(|(_, sight)| sight.finding != ProbeFinding::Mutual);
    let worst = wanting.max_by_key(|(port, sight)| (sight.finding.severity(), std::cmp::Reverse(*port)));
    if let Some((port, sight)) = worst {
        return Some(PortableShortfall::Found { port, pod: Arc::clone(&sight.pod), finding: sight.finding.clone() });
    }
    let unasked = sight.0.iter().find(|(_, sight)| sight.is_none());
    match unasked {
        Some((port, _)) => Some(PortableShortfall::NoReadyPod { port: *port }),
        None => sight.0.is_empty().then_some(PortableShortfall::Unprobed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::{ObjectName, PortSight};

    fn set(name: &str) -> IdentitySet {
        IdentitySet::of([&format!("spiffe://td/{name}").parse().unwrap()])
    }

    fn taken() -> Uptake {
        Uptake { routed: 2, lacking: [].into(), written: Some(set("a")), ports: [80].into(), refuses_plaintext: false }
    }

    fn sight(finding: ProbeFinding) -> ProbeSight {
        ProbeSight([(80, Some(PortSight { pod: "p".into(), finding }))].into())
    }

    const fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn everything_must_have_been_seen() {
        let gateway = || ObjectName::new("gw", "one");
        let mutual = || Some(sight(ProbeFinding::Mutual));
        let rows: [(Uptake, Option<ProbeSight>, u64, Option<&str>); 11] = [
            (Uptake { routed: 0, ..taken() }, mutual(), 100, Some("no Route leads")),
            (Uptake { written: None, ..taken() }, mutual(), 100, Some("the BackendTLSPolicy")),
            (Uptake { written: Some(set("b")), ..taken() }, mutual(), 100, Some("the BackendTLSPolicy")),
            (Uptake { lacking: [gateway()].into(), ..taken() }, mutual(), 100, Some("1 of 2 Gateways")),
            (taken(), None, 100, Some("its pods have not been asked")),
            (taken(), Some(ProbeSight::default()), 100, Some("its pods have not been asked")),
            (taken(), Some(ProbeSight([(80, None)].into())), 100, Some("port 80 has no ready pod")),
            (taken(), Some(sight(ProbeFinding::NoTls)), 100, Some("a connection to port 80 of pod p is answered")),
            (taken(), mutual(), 59, Some("Gateways have taken")),
            (taken(), mutual(), 60, None),
            (Uptake { refuses_plaintext: true, ..taken() }, mutual(), 0, None),
        ];
        for (uptake, sight, now, expected) in rows {
            let what = format!("{uptake:?} {sight:?} {now}");
            let mut portable = Portable::new(set("a"), uptake, at(0));
            if let Some(sight) = sight {
                assert!(portable.see(set("a"), sight));
            }
            let said = portable.lacks(at(now)).map(|lacks| lacks.to_string());
            assert_eq!(said.is_none(), expected.is_none(), "{what}: {said:?}");
            assert!(said.unwrap_or_default().starts_with(expected.unwrap_or_default()), "{what}");
        }
    }

    #[test]
    fn what_was_seen_under_other_identities_counts_for_nothing() {
        let mut portable = Portable::new(set("a"), taken(), at(0));
        assert!(!portable.see(set("b"), sight(ProbeFinding::Mutual)));
        assert!(portable.see(set("a"), sight(ProbeFinding::Mutual)));
        assert_eq!(portable.lacks(at(60)), None);
        portable.change(set("b"), Uptake { written: Some(set("b")), ..taken() }, at(70));
        assert_eq!(portable.lacks(at(1000)), Some(PortableShortfall::Unprobed));
        assert!(portable.see(set("b"), sight(ProbeFinding::Mutual)));
        assert_eq!(portable.lacks(at(129)), Some(PortableShortfall::Fresh));
        assert_eq!(portable.lacks(at(130)), None);
    }

    #[test]
    fn a_gateway_that_comes_begins_the_minute_anew() {
        let mut portable = Portable::new(set("a"), taken(), at(0));
        assert!(portable.see(set("a"), sight(ProbeFinding::Mutual)));
        portable.change(set("a"), taken(), at(50));
        assert_eq!(portable.lacks(at(61)), None);
        let lacking = [ObjectName::new("gw", "new")].into();
        portable.change(set("a"), Uptake { routed: 3, lacking, ..taken() }, at(62));
        portable.change(set("a"), Uptake { routed: 3, ..taken() }, at(64));
        assert_eq!(portable.lacks(at(66)), Some(PortableShortfall::Fresh));
        assert_eq!(portable.lacks(at(124)), None);
    }

    #[test]
    fn the_worst_is_said_first() {
        let of = |finding: ProbeFinding| Some(PortSight { pod: "p".into(), finding });
        let seen = ProbeSight([(80, of(ProbeFinding::Silent)), (81, of(ProbeFinding::NoTls)), (82, None)].into());
        let said = of_sight(&seen).unwrap().to_string();
        assert!(said.starts_with("a connection to port 81"), "{said}");
    }
}
