//! Which Service's word a sidecar takes for a port of its pod to which several lead. As with istiod, the one that was made first
//! decides; within a Service the port that comes first.

use std::{cmp::Ordering, collections::BTreeSet};

use super::{Backing, Labels, ObjectName, PodFacts, PortClass, PortFacts, ServiceFacts};

/// Who decides beside a Service.
pub(super) struct PortDeciders<'a> {
    service: &'a ServiceFacts,
    /// Those that may have some of its pods and come before it, in their order.
    elders: Vec<&'a ServiceFacts>,
}

/// What sidecars take a port for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decision {
    /// As the Service itself says it where its pods differ.
    pub(super) class: PortClass,
    /// Services that say otherwise than this one, and decide; `None` is another port of its own.
    pub(super) others: BTreeSet<Option<ObjectName>>,
}

impl<'a> PortDeciders<'a> {
    /// Of a Service, among all of its namespace.
    pub(super) fn of(service: &'a ServiceFacts, all: impl Iterator<Item = &'a ServiceFacts>) -> Self {
        let is_elder = |other: &&ServiceFacts| order(other, service).is_lt() && may_share_pods(other, service);
        let mut elders: Vec<&ServiceFacts> = all.filter(is_elder).collect();
        elders.sort_by(|one, other| order(one, other));
        Self { service, elders }
    }

    /// Of one of its ports, with the pods behind it.
    pub(super) fn decide(&self, port: &PortFacts, behind: &[&PodFacts]) -> Decision {
        let own = port.class();
        let (mut classes, mut others) = (BTreeSet::new(), BTreeSet::new());
        for (service, class) in behind.iter().filter_map(|pod| self.at(pod, port)) {
            classes.insert(class);
            if class != own {
                others.insert((service.object != self.service.object).then(|| service.object.clone()));
            }
        }
        let class = classes.pop_first().filter(|_| classes.is_empty()).unwrap_or(own);
        Decision { class, others }
    }

    fn at(&self, pod: &PodFacts, port: &PortFacts) -> Option<(&'a ServiceFacts, PortClass)> {
        let at = port.target.at(pod)?;
        let elders =
            self.elders.iter().copied().filter(|elder| selector(elder).is_some_and(|of| of.selects(&pod.labels)));
        elders.chain([self.service]).find_map(|service| {
            let first = service.ports.iter().find(|port| port.target.at(pod) == Some(at))?;
            Some((service, first.class()))
        })
    }
}

/// Whether a pod could be of both. One without a selector decides nothing beside others.
pub(super) fn may_share_pods(one: &ServiceFacts, other: &ServiceFacts) -> bool {
    selector(one).zip(selector(other)).is_some_and(|(one, other)| one.agrees_with(other))
}

fn selector(service: &ServiceFacts) -> Option<&Labels> {
    match &service.backing {
        Backing::Selector(selector) => Some(selector),
        Backing::Slices | Backing::ExternalName => None,
    }
}

/// Those of one second are in the order of their host names, in which a dot follows the name.
fn order(one: &ServiceFacts, other: &ServiceFacts) -> Ordering {
    let [of_one, of_other] = [one, other].map(|service| service.object.name.bytes().chain(*b"."));
    one.created.cmp(&other.created).then_with(|| of_one.cmp(of_other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::policy::table_tests::{pod_facts, service_facts};

    /// A Service as `NAME CREATED WORDS`, with the words of the table of Services.
    fn service(text: &str) -> ServiceFacts {
        let mut words = text.splitn(3, ' ');
        let (name, created, rest) = (words.next().unwrap(), words.next().unwrap(), words.next().unwrap());
        let (facts, _) = service_facts("ns", rest);
        ServiceFacts { object: ObjectName::new("ns", name), created: created.parse().unwrap(), ..facts }
    }

    /// The Service, those beside it, pods; class of its last port, and who says otherwise: `self` is the Service itself.
    const ROWS: &[(&str, &str, &str, &str, &str)] = &[
        ("s 2 app=a port:80/http/", "", "p app=a", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 app=a port:80/http/", "p app=a", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 app=a port:80/http-x/", "p app=a", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 app=a port:80/grpc/", "p app=a", "http/2", "ns/e"),
        ("s 2 app=a port:80/http/", "y 3 app=a port:80/grpc/", "p app=a", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 app=a port:81/grpc//80", "p app=a", "http/2", "ns/e"),
        ("s 2 app=a port:80/http/", "e 1 app=a port:80/grpc//81", "p app=a", "http/1", ""),
        ("s 2 app=a port:80//", "e 1 app=a port:80/http/", "p app=a", "http/1", "ns/e"),
        ("s 2 app=a port:80/http/", "e 1 app=a port:80//", "p app=a", "sniffed", "ns/e"),
        // of several that are older the first decides
        ("s 3 app=a port:80/http/", "e 2 app=a port:80/http/; f 1 app=a port:80/tcp/", "p app=a", "tcp", "ns/f"),
        ("s 3 app=a port:80/http/", "e 2 app=a port:80/tcp/; f 1 app=a port:80/http/", "p app=a", "http/1", ""),
        // of one second: by name
        ("s 1 app=a port:80/http/", "r 1 app=a port:80/grpc/", "p app=a", "http/2", "ns/r"),
        ("s 1 app=a port:80/http/", "t 1 app=a port:80/grpc/", "p app=a", "http/1", ""),
        ("s 1 app=a port:80/http/", "s-a 1 app=a port:80/grpc/", "p app=a", "http/2", "ns/s-a"),
        ("s 1 app=a port:80/http/", "sa 1 app=a port:80/grpc/", "p app=a", "http/1", ""),
        // other pods, no pods, some of the pods
        ("s 2 app=a port:80/http/", "e 1 app=b port:80/grpc/", "p app=a", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 app=a v=1 port:80/grpc/", "p app=a v=2", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 app=a port:80/grpc/", "", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 app=a v=1 port:80/grpc/", "p app=a v=1", "http/2", "ns/e"),
        ("s 2 app=a port:80/http/", "e 1 app=a v=1 port:80/grpc/", "p app=a v=1; q app=a v=2", "http/1", "ns/e"),
        (
            "s 2 app=a port:80/http/",
            "e 1 v=1 port:80/grpc/; f 1 v=2 port:80/grpc/",
            "p app=a v=1; q app=a v=2",
            "http/2",
            "ns/e ns/f",
        ),
        // by the name of a port
        ("s 2 app=a port:80/http//web", "e 1 app=a port:80/grpc//8080", "p app=a port:web/8080", "http/2", "ns/e"),
        ("s 2 app=a port:80/http//web", "e 1 app=a port:80/grpc//8080", "p app=a port:web/8081", "http/1", ""),
        ("s 2 app=a port:80/http//web", "e 1 app=a port:80/grpc//web", "p app=a", "http/1", ""),
        // ports of its own
        ("s 2 app=a port:80/grpc//8080 port:81/http//8080", "", "p app=a", "http/2", "self"),
        ("s 2 app=a port:80/grpc//8080 port:81/http//8081", "", "p app=a", "http/1", ""),
        ("s 2 app=a port:80/grpc//80 port:81/http//80", "e 1 app=a port:9/tcp//80", "p app=a", "tcp", "ns/e"),
        // without a selector
        ("s 2 slice:p port:80/http/", "e 1 app=a port:80/grpc/", "p app=a", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 slice:p port:80/grpc/", "p app=a", "http/1", ""),
        ("s 2 app=a port:80/http/", "e 1 external port:80/grpc/", "p app=a", "http/1", ""),
    ];

    #[test]
    fn who_was_made_first_decides() {
        let each = |text: &'static str| text.split("; ").filter(|text| !text.is_empty());
        for row @ (own, beside, pods, class, by) in ROWS {
            let own = service(own);
            let all: Vec<ServiceFacts> = each(beside).map(service).chain([own.clone()]).collect();
            let pods: Vec<PodFacts> = each(pods).map(|pod| pod_facts("ns", pod)).collect();
            let pods: Vec<&PodFacts> = pods.iter().collect();
            let found = PortDeciders::of(&own, all.iter()).decide(own.ports.last().unwrap(), &pods);
            let others = found.others.iter().map(|other| other.as_ref().map_or("self".to_owned(), ToString::to_string));
            let found = (found.class.as_str(), others.collect::<Vec<_>>().join(" "));
            assert_eq!(found, (*class, (*by).to_owned()), "{row:?}");
        }
    }
}
