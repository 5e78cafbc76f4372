//! Probes: a connection of our own to a pod shows whether it speaks mutual TLS, and as whom. What is asked, and what an answer means.
//! Nothing here connects.

use std::{collections::BTreeMap, fmt, net::SocketAddr, sync::Arc};

use super::Severity;
use crate::domain::identity::SpiffeId;

/// The names that a probe offers by ALPN, in this order: taken by a sidecar whether PeerAuthentication is STRICT or PERMISSIVE, on
/// ports of every class, and what Envoy-based gateways are to offer.
pub const PROBE_ALPN: [&str; 2] = ["istio-http/1.1", "istio"];

/// A ready pod behind a port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// The Service's.
    pub port: u16,
    /// Its name, in the Service's namespace.
    pub pod: Arc<str>,
    /// Where it takes connections for that port.
    pub at: SocketAddr,
}

/// What a probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProbeFinding {
    /// A handshake of TLS 1.2 was finished in which the pod asked for a certificate, and its own names one of the identities. By then
    /// it has verified ours.
    Mutual,
    /// No connection.
    Unreachable(Box<str>),
    /// A connection, and nothing after that.
    Silent,
    /// The connection was closed in the handshake.
    Closed(Box<str>),
    /// It answers, but not with TLS.
    NoTls,
    /// A handshake was finished, and nobody asked who we are.
    NoClientCertificate,
    /// It refuses the handshake with a TLS alert.
    Refused(Box<str>),
    /// Its certificate does not lead to the mesh's roots, or is not valid now.
    Untrusted(Box<str>),
    /// Its certificate is the mesh's, and names none of the identities.
    Stranger(Option<SpiffeId>),
}

/// What was seen of one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSight {
    /// At which pod.
    pub pod: Arc<str>,
    /// What.
    pub finding: ProbeFinding,
}

/// What was seen of a Service, by port; `None` where no ready pod is to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ProbeSight(pub BTreeMap<u16, Option<PortSight>>);

impl ProbeSight {
    /// Whether a pod was seen to speak mutual TLS as it should, at each port.
    pub fn is_mutual(&self) -> bool {
        !self.0.is_empty()
            && self.0.values().all(|sight| sight.as_ref().is_some_and(|sight| sight.finding == ProbeFinding::Mutual))
    }

    /// Whether a pod was seen not to.
    pub fn has_failed(&self) -> bool {
        self.0.values().flatten().any(|sight| sight.finding != ProbeFinding::Mutual)
    }

    /// Which pod of `port` to ask now. One that was found wanting is asked until it is right or gone; else each in its turn.
    pub fn next_target<'a>(&self, port: u16, targets: &'a [ProbeTarget]) -> Option<&'a ProbeTarget> {
        let of_port = || targets.iter().filter(move |target| target.port == port);
        let first = || of_port().min_by_key(|target| &target.pod);
        let Some(last) = self.0.get(&port).and_then(Option::as_ref) else { return first() };
        if last.finding != ProbeFinding::Mutual
            && let Some(same) = of_port().find(|target| target.pod == last.pod)
        {
            return Some(same);
        }
        of_port().filter(|target| target.pod > last.pod).min_by_key(|target| &target.pod).or_else(first)
    }
}

impl ProbeFinding {
    /// What it means for requests of gateways, as far as one connection shows it.
    pub(super) const fn severity(&self) -> Severity {
        match self {
            Self::Mutual => Severity::Notice,
            // it may be us alone who are kept from it
            Self::Unreachable(_) | Self::Silent | Self::Refused(_) => Severity::Warning,
            Self::Closed(_) | Self::NoTls | Self::NoClientCertificate | Self::Untrusted(_) | Self::Stranger(_) => {
                Severity::Error
            }
        }
    }
}

/// After "a connection to port N of pod P ".
impl fmt::Display for ProbeFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mutual => f.write_str("is mutual TLS"),
            Self::Unreachable(why) => write!(
                f,
                "can't be made ({why}): a NetworkPolicy may keep the replicas of Countersign from it, or nothing listens there"
            ),
            Self::Silent => f.write_str("is not answered: a NetworkPolicy may stand against it, or the pod is stuck"),
            Self::Closed(why) => write!(
                f,
                "is closed in the TLS handshake ({why}): the pod has no sidecar, or PeerAuthentication keeps mutual TLS off the port"
            ),
            Self::NoTls => f.write_str(
                "is answered with something else than TLS: the pod has no sidecar, or PeerAuthentication is DISABLE there",
            ),
            Self::NoClientCertificate => {
                f.write_str("is TLS, but nobody asks for a client certificate: the pod answers itself, not its sidecar")
            }
            Self::Refused(alert) => write!(
                f,
                "is refused with TLS alert {alert}: does the mesh trust the roots of this pair, and its trust domain?"
            ),
            Self::Untrusted(why) => write!(f, "leads to a certificate that is not to be trusted: {why}"),
            Self::Stranger(Some(id)) => write!(f, "leads to {id}, which is none of the Service's identities"),
            Self::Stranger(None) => f.write_str("leads to a certificate without a SPIFFE ID"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(port: u16, pod: &str) -> ProbeTarget {
        ProbeTarget { port, pod: pod.into(), at: ([127, 0, 0, 1], port).into() }
    }

    fn sight(port: u16, pod: &str, finding: ProbeFinding) -> ProbeSight {
        ProbeSight([(port, Some(PortSight { pod: pod.into(), finding }))].into())
    }

    #[test]
    fn pods_take_turns_and_one_that_was_found_wanting_is_asked_again() {
        let targets = [target(80, "b"), target(80, "a"), target(81, "c"), target(80, "d")];
        for (seen, port, expected) in [
            (ProbeSight::default(), 80, Some("a")),
            (ProbeSight::default(), 81, Some("c")),
            (ProbeSight::default(), 82, None),
            (sight(80, "a", ProbeFinding::Mutual), 80, Some("b")),
            (sight(80, "c", ProbeFinding::Mutual), 80, Some("d")),
            (sight(80, "d", ProbeFinding::Mutual), 80, Some("a")),
            (sight(80, "b", ProbeFinding::NoTls), 80, Some("b")),
            (sight(80, "bb", ProbeFinding::NoTls), 80, Some("d")),
            (ProbeSight([(80, None)].into()), 80, Some("a")),
        ] {
            let next = seen.next_target(port, &targets).map(|target| &*target.pod);
            assert_eq!(next, expected, "{seen:?} {port}");
        }
    }

    #[test]
    fn a_service_is_mutual_only_at_every_port() {
        assert!(!ProbeSight::default().is_mutual(), "nothing was seen");
        let mut seen = sight(80, "a", ProbeFinding::Mutual);
        assert!(seen.is_mutual());
        seen.0.insert(81, None);
        assert!(!seen.is_mutual());
        seen.0.insert(81, Some(PortSight { pod: "a".into(), finding: ProbeFinding::Silent }));
        assert!(!seen.is_mutual());
    }
}
