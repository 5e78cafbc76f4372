//! Two replicas, the active one of which dies in the middle of a change, while requests go on.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{ConfigMap, Secret};
use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams},
};

use super::{
    HTTP_PORT, Place, TEAM,
    backend::{App, Class, Mode},
    load::Load,
    objects,
};
use crate::{cluster::block_on, network::in_own_network, pair::TAKE_OVER, support::wait::wait_until};

const SERVICES: usize = 150;
/// Those that requests go to, from among the first and the last that are written.
const ROUTED: [usize; 4] = [2, 60, 110, 147];
/// Written by the active when it is killed, at least.
const BEGUN: usize = 15;
const CHANGE: Duration = Duration::from_secs(60);
/// Requests that are under way at once are not in order.
const AT_ONCE: Duration = Duration::from_millis(250);

fn name(number: usize) -> String {
    format!("s{number:03}")
}

fn host(number: usize) -> String {
    format!("{}.test", name(number))
}

type Answer = Result<String, String>;

fn is_plain(answer: &Answer) -> bool {
    answer.as_ref().is_ok_and(|text| text.ends_with("plain"))
}

fn is_mutual(answer: &Answer) -> bool {
    answer.as_ref().is_ok_and(|text| text.ends_with("mutual"))
}

/// What of ours is in the namespace.
#[derive(Debug, PartialEq, Eq)]
struct Objects {
    policies: BTreeSet<String>,
    secrets: BTreeSet<String>,
    roots: BTreeSet<String>,
}

impl Objects {
    fn of(place: &Place) -> Self {
        let ours = ListParams::default().labels("app.kubernetes.io/managed-by=countersign");
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "BackendTLSPolicy");
        let resource = ApiResource::from_gvk_with_plural(&kind, "backendtlspolicies");
        let client = || place.cluster.admin();
        block_on(async {
            let policies = Api::<DynamicObject>::namespaced_with(client(), TEAM, &resource).list(&ours).await.unwrap();
            let secrets = Api::<Secret>::namespaced(client(), TEAM).list(&ours).await.unwrap();
            let roots = Api::<ConfigMap>::namespaced(client(), TEAM).list(&ours).await.unwrap();
            Self {
                policies: policies.items.into_iter().filter_map(|object| object.metadata.name).collect(),
                secrets: secrets.items.into_iter().filter_map(|object| object.metadata.name).collect(),
                roots: roots.items.into_iter().filter_map(|object| object.metadata.name).collect(),
            }
        })
    }

    fn counts(&self) -> [usize; 3] {
        [self.policies.len(), self.secrets.len(), self.roots.len()]
    }

    /// Waits until there are so many policies and Secrets, and no ConfigMap of roots.
    fn wait(place: &Place, count: usize, within: Duration) {
        wait_until(within, &format!("{count} policies and Secrets"), || match Self::of(place).counts() {
            [policies, secrets, 0] if (policies, secrets) == (count, count) => Ok(()),
            counts => Err(format!("policies, Secrets, ConfigMaps: {counts:?}")),
        });
    }
}

/// The active one is the other one from now on.
fn find_the_active(place: &mut Place) {
    let active = wait_until(CHANGE, "an active replica", || {
        [&place.replica, &place.others[0]].iter().position(|one| matches!(one.role(), Ok(Some(_)))).ok_or("none")
    });
    if active == 0 {
        std::mem::swap(&mut place.replica, &mut place.others[0]);
    }
}

#[test]
fn the_other_replica_goes_on_and_no_request_fails_when_the_active_is_killed_in_the_middle() {
    in_own_network(
        "envoy_gateway::replicas::the_other_replica_goes_on_and_no_request_fails_when_the_active_is_killed_in_the_middle",
        |network| {
            let mut place = Place::start_of(&["a", "b"], network, &["--policy-objects", "true"]);
            // takes plaintext as well, and would say so
            let backend = place.backend("all", "all", (Mode::Permissive, Class::Http, App::Itself));
            place.apply(&objects::namespace(TEAM, None));
            for number in 0..SERVICES {
                place.apply(&objects::service(TEAM, &name(number), Class::Http, &[backend.ip()]));
            }
            for number in ROUTED {
                place.apply(&objects::pod(TEAM, &name(number), &name(number), "all", true));
                place.apply(&objects::http_route(TEAM, &name(number), &host(number), &[&name(number)]));
            }
            let loads = ROUTED.map(|number| {
                place.wait_for("a first answer", &host(number), CHANGE, is_plain);
                Load::start(place.pod.at(HTTP_PORT), &host(number))
            });
            labelled(&mut place, &loads);
            place.others[0].restart();
            place.others[0].wait_until_ready();
            unlabelled(&mut place, &loads);
            place.replica.stop();
        },
    );
}

fn labelled(place: &mut Place, loads: &[Load; 4]) {
    find_the_active(place);
    let begin = Instant::now();
    place.apply(&objects::namespace(TEAM, Some("enabled")));
    wait_until(CHANGE, "some policies", || match Objects::of(place).counts() {
        [policies, _, _] if policies >= BEGUN => Ok(()),
        counts => Err(format!("{counts:?}")),
    });
    place.others[0].process.kill();
    let before = Objects::of(place).counts();
    println!("killed {:?} after the label; policies, Secrets, ConfigMaps: {before:?}", begin.elapsed());
    assert!(before[0] < SERVICES, "it was too fast to be killed in the middle");
    Objects::wait(place, SERVICES, TAKE_OVER + CHANGE);
    println!("all objects after {:?}", begin.elapsed());
    for (number, load) in ROUTED.into_iter().zip(loads) {
        wait_for_all(load, &format!("mutual TLS to {}", name(number)), is_mutual);
        let requests = load.check_since(begin, &format!("labelled, {}", name(number)));
        let (first, _) = load.ends_since(begin, is_mutual).unwrap();
        let last = load.ends_since(begin, is_plain).map_or(Duration::ZERO, |(_, last)| last);
        println!("{}: mutual TLS from {first:?} on, {requests} requests, none failed", name(number));
        assert!(last < first + AT_ONCE, "plaintext {last:?} after the label, mutual TLS from {first:?} on");
    }
}

fn unlabelled(place: &mut Place, loads: &[Load; 4]) {
    let begin = Instant::now();
    place.apply(&objects::namespace(TEAM, None));
    wait_until(CHANGE, "fewer policies", || match Objects::of(place).counts() {
        [policies, _, _] if policies < SERVICES => Ok(()),
        counts => Err(format!("{counts:?}")),
    });
    find_the_active(place);
    place.others[0].process.kill();
    let before = Objects::of(place).counts();
    println!("killed {:?} after the label was removed; policies, Secrets, ConfigMaps: {before:?}", begin.elapsed());
    assert!(before[0] > 0, "it was too fast to be killed in the middle");
    // the one that goes on was there before, and has seen which Secrets there must be
    Objects::wait(place, 0, TAKE_OVER + CHANGE);
    println!("no objects after {:?}", begin.elapsed());
    for (number, load) in ROUTED.into_iter().zip(loads) {
        wait_for_all(load, &format!("plaintext to {}", name(number)), is_plain);
        let requests = load.check_since(begin, &format!("label removed, {}", name(number)));
        println!("{}: {requests} requests, none failed", name(number));
    }
}

fn wait_for_all(load: &Load, what: &str, is_so: impl Fn(&Answer) -> bool) {
    wait_until(CHANGE, what, || match load.next(10) {
        answers if answers.keys().all(&is_so) => Ok(()),
        answers => Err(format!("{answers:?}")),
    });
}
