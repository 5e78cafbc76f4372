//! Two Services in equal parts under a steady load, while labels and PeerAuthentications come and go.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind, Patch, PatchParams},
};
use serde_json::json;

use super::{
    GATEWAY, HTTP_PORT, Place, TEAM,
    backend::{App, Backend, Class, Mode},
    load::Load,
    objects,
};
use crate::{cluster::block_on, network::in_own_network, support::wait::wait_until};

const CHANGE: Duration = Duration::from_secs(30);
/// From a label to the first request with mutual TLS.
const EFFECT: Duration = Duration::from_secs(1);
const NAMES: [&str; 2] = ["backend-v1", "backend-v2"];
const POLICY: (&str, &str, &str) = ("gateway.networking.k8s.io", "v1", "BackendTLSPolicy");

type Answers = BTreeMap<Result<String, String>, usize>;

struct Split {
    place: Place,
    backends: [Backend; 2],
    load: Load,
}

impl Split {
    fn start(network: crate::network::Network, class: Class) -> Self {
        let mut place = Place::start(network);
        let backends = NAMES.map(|name| place.backend(name, name, (Mode::Strict, class, App::Itself)));
        place.apply(&objects::namespace(TEAM, Some("enabled")));
        for (name, backend) in NAMES.into_iter().zip(&backends) {
            place.apply(&objects::service(TEAM, name, class, &[backend.ip()]));
            place.apply(&objects::pod(TEAM, name, name, name, true));
            place.apply(&objects::policy(TEAM, name));
        }
        place.wait_for_services(2);
        place.apply(&objects::http_route(TEAM, "split", "split.test", &NAMES));
        place.wait_for("an answer", "split.test", CHANGE, Result::is_ok);
        let load = Load::start(place.pod.at(HTTP_PORT), "split.test");
        Self { place, backends, load }
    }

    fn set(&self, mode: Mode) {
        self.backends.iter().for_each(|backend| backend.set(mode));
        self.settle(|backend| backend.mode_is(mode));
    }

    fn settle(&self, is_so: impl Fn(&Backend) -> Result<(), String>) {
        for backend in &self.backends {
            wait_until(CHANGE, "a listener that has changed", || is_so(backend));
        }
    }

    /// Sets the label, and writes what a replica writes.
    fn label(&self) -> Instant {
        let begin = Instant::now();
        self.place.apply(&objects::namespace(TEAM, Some("enabled")));
        self.place.wait_for_services(2);
        NAMES.iter().for_each(|name| self.place.apply(&objects::policy(TEAM, name)));
        begin
    }

    fn unlabel(&self) -> Instant {
        let begin = Instant::now();
        NAMES.iter().for_each(|name| self.place.delete(POLICY, &format!("countersign-{name}")));
        self.wait_for("plain");
        self.place.apply(&objects::namespace(TEAM, None));
        self.place.wait_for_services(0);
        begin
    }

    /// Waits until all answers come over such a chain, or are refused.
    fn wait_for(&self, chain: &str) {
        wait_until(CHANGE, &format!("answers {chain}"), || {
            let begin = Instant::now();
            let answers = self.load.next(10);
            let is_so = |answer: &Result<String, String>| match answer {
                Ok(text) => text.ends_with(chain),
                Err(why) => chain == "refused" && why.contains("status 503"),
            };
            if answers.keys().all(is_so) && self.load.since(begin).keys().all(is_so) {
                Ok(())
            } else {
                Err(format!("{answers:?}"))
            }
        });
    }

    /// All answers of a while come from both, over such a chain.
    fn check(&self, what: &str, chain: &str) {
        let answers = self.load.next(60);
        println!("{what}: {answers:?}");
        assert_eq!(answers.into_keys().collect::<Vec<_>>(), NAMES.map(|name| Ok(format!("{name} {chain}"))), "{what}");
    }

    fn check_refused(&self, what: &str) {
        let answers: Answers = self.load.next(60);
        println!("{what}: {answers:?}");
        assert!(answers.keys().all(|answer| answer.as_ref().is_err_and(|why| why.contains("status 503"))), "{what}");
    }
}

fn check_states(test: &str, class: Class) {
    in_own_network(test, |network| {
        let split = Split::start(network, class);
        let begin = Instant::now();
        split.check("labelled, STRICT", "mutual");
        split.set(Mode::Permissive);
        split.check("labelled, PeerAuthentication deleted", "mutual");
        split.load.check_since(begin, "labelled, until PeerAuthentication was deleted");

        let begin = Instant::now();
        split.unlabel();
        split.check("label removed, PERMISSIVE", "plain");
        split.label();
        split.wait_for("mutual");
        split.check("label back, PERMISSIVE", "mutual");
        split.load.check_since(begin, "label removed and back, PERMISSIVE");

        split.unlabel();
        split.set(Mode::Strict);
        split.wait_for("refused");
        split.check_refused("label removed, STRICT");
        let is_mutual = |answer: &Result<String, String>| answer.as_ref().is_ok_and(|text| text.ends_with("mutual"));
        let begin = split.label();
        split.wait_for("mutual");
        let first = split.load.first_since(begin, is_mutual).unwrap();
        let last = split.load.last_since(begin, |answer| !is_mutual(answer));
        println!("from the label to the first request with mutual TLS {first:?}, to the last one without {last:?}");
        assert!(first < EFFECT, "{first:?}");
        split.check("label back, STRICT", "mutual");

        split.set(Mode::NoSidecar);
        split.wait_for("refused");
        split.check_refused("labelled, pods without a sidecar");
        if class == Class::Http {
            without_our_alpn(&split);
        }
    });
}

#[test]
fn a_port_named_http_keeps_to_the_table() {
    check_states("envoy_gateway::states::a_port_named_http_keeps_to_the_table", Class::Http);
}

#[test]
fn an_unnamed_port_keeps_to_the_table() {
    check_states("envoy_gateway::states::an_unnamed_port_keeps_to_the_table", Class::Sniffed);
}

/// What Envoy offers by itself, sidecars in PERMISSIVE mode don't take for mutual TLS.
fn without_our_alpn(split: &Split) {
    split.set(Mode::Permissive);
    split.wait_for("mutual");
    let set = |alpn: serde_json::Value| {
        let kind = GroupVersionKind::gvk("gateway.envoyproxy.io", "v1alpha1", "EnvoyProxy");
        let resource = ApiResource::from_gvk(&kind);
        let all = || Api::<DynamicObject>::namespaced_with(split.place.cluster.admin(), GATEWAY, &resource);
        let patch = Patch::Merge(json!({ "spec": { "backendTLS": { "alpnProtocols": alpn } } }));
        block_on(async { all().patch("countersign", &PatchParams::default(), &patch).await.map(drop) }).unwrap();
    };
    set(serde_json::Value::Null);
    split.wait_for("refused");
    split.check_refused("labelled, PERMISSIVE, without our ALPN");
    set(json!(["istio-http/1.1", "istio"]));
    split.wait_for("mutual");
}

/// A Route to a Service of the mesh that comes while requests for its host are made already.
#[test]
fn a_late_route_sends_no_plaintext() {
    in_own_network("envoy_gateway::states::a_late_route_sends_no_plaintext", |network| {
        let mut place = Place::start(network);
        // takes plaintext as well, and would say so
        let backend = place.backend("late", "late", (Mode::Permissive, Class::Http, App::Itself));
        place.apply(&objects::namespace(TEAM, Some("enabled")));
        place.apply(&objects::service(TEAM, "late", Class::Http, &[backend.ip()]));
        place.apply(&objects::pod(TEAM, "late", "late", "late", true));
        place.apply(&objects::policy(TEAM, "late"));
        place.wait_for_services(1);
        let load = Load::start(place.pod.at(HTTP_PORT), "late.test");
        load.next(20);
        place.apply(&objects::http_route(TEAM, "late", "late.test", &["late"]));
        place.wait_for("an answer", "late.test", CHANGE, Result::is_ok);
        let begin = Instant::now();
        load.next(40);
        let asked = load.check_since(begin, "after the Route");
        let log = wait_until(CHANGE, "every request in the log", || match backend.log().requests() {
            log if log.len() > asked => Ok(log),
            log => Err(format!("{} of {asked}", log.len())),
        });
        assert!(log.iter().all(|request| request["chain"] == "mutual"), "{log:?}");
    });
}
