//! Two Services in equal parts under a steady load, while labels and PeerAuthentications come and go, and the replica writes policies.

use std::time::{Duration, Instant};

use super::{
    EFFECT, GATEWAY, HTTP_PORT, Place, ROLLED_OUT, TEAM,
    backend::{App, Backend, Class, Mode},
    load::Load,
    objects,
};
use crate::{
    network::{Network, in_own_network},
    support::wait::wait_until,
};

const CHANGE: Duration = Duration::from_secs(40);
const NAMES: [&str; 2] = ["backend-v1", "backend-v2"];
const POD: (&str, &str, &str) = ("", "v1", "Pod");

type Answer = Result<String, String>;

fn is_mutual(answer: &Answer) -> bool {
    answer.as_ref().is_ok_and(|text| text.ends_with("mutual"))
}

struct Split {
    place: Place,
    backends: [Backend; 2],
    load: Load,
}

impl Split {
    fn start(network: Network, class: Class) -> Self {
        let mut place = Place::with_objects(network);
        let backends = NAMES.map(|name| place.backend(name, name, (Mode::Strict, class, App::Itself)));
        place.apply(&objects::namespace(TEAM, Some("enabled")));
        for (name, backend) in NAMES.into_iter().zip(&backends) {
            place.apply(&objects::service(TEAM, name, class, &[backend.ip()]));
            place.apply(&objects::pod(TEAM, name, name, name, true));
        }
        place.apply(&objects::http_route(TEAM, "split", "split.test", &NAMES));
        place.wait_for("an answer", "split.test", CHANGE, Result::is_ok);
        let load = Load::start(place.pod.at(HTTP_PORT), "split.test");
        Self { place, backends, load }
    }

    /// As when PeerAuthentication is written: effective at the sidecars when this returns.
    fn set(&self, mode: Mode) {
        for backend in &self.backends {
            backend.set(mode);
            wait_until(CHANGE, "a listener that has changed", || backend.mode_is(mode));
        }
    }

    fn label(&self, value: Option<&str>) -> Instant {
        let begin = Instant::now();
        self.place.apply(&objects::namespace(TEAM, value));
        begin
    }

    /// Waits until all answers come over such a chain, or are refused.
    fn wait_for(&self, chain: &str) {
        wait_until(CHANGE, &format!("answers {chain}"), || {
            let answers = self.load.next(10);
            let is_so = |answer: &Answer| match answer {
                Ok(text) => text.ends_with(chain),
                Err(why) => chain == "refused" && why.contains("status 503"),
            };
            if answers.keys().all(is_so) {
                Ok(())
            } else {
                Err(format!("{answers:?}\n{}", self.place.policy(&["list"])))
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
        let answers = self.load.next(60);
        println!("{what}: {answers:?}");
        assert!(answers.keys().all(|answer| answer.as_ref().is_err_and(|why| why.contains("status 503"))), "{what}");
    }
}

fn check_states(test: &str, class: Class) {
    in_own_network(test, |network| {
        let split = Split::start(network, class);
        let begin = Instant::now();
        split.check("labelled, STRICT", "mutual");
        let gateways = split.place.policy(&["gateways", GATEWAY]);
        assert!(gateways.contains("  ready  "), "{gateways}");
        split.set(Mode::Permissive);
        split.check("labelled, PeerAuthentication deleted", "mutual");
        split.load.check_since(begin, "labelled, until PeerAuthentication was deleted");

        let begin = split.label(None);
        split.wait_for("plain");
        split.check("label removed, PERMISSIVE", "plain");
        split.load.check_since(begin, "label removed, PERMISSIVE");
        let begin = split.label(Some("enabled"));
        split.wait_for("mutual");
        split.check("label back, PERMISSIVE", "mutual");
        split.load.check_since(begin, "label back, PERMISSIVE");
        let (first, _) = split.load.ends_since(begin, is_mutual).unwrap();
        let last = split.load.ends_since(begin, |answer| !is_mutual(answer)).map(|(_, last)| last);
        println!("from the label to the first request with mutual TLS {first:?}, to the last one without {last:?}");
        assert!(first < EFFECT, "{first:?}");

        split.label(None);
        split.wait_for("plain");
        split.set(Mode::Strict);
        split.wait_for("refused");
        split.check_refused("label removed, STRICT");
        assert!(split.place.policy(&["explain", TEAM]).contains("nothing is required"));
        split.label(Some("enabled"));
        split.wait_for("mutual");
        split.check("label back, STRICT", "mutual");
        if class == Class::Http {
            without_our_alpn(&split);
        }
        before_a_restart(&split);
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
    split.place.set_alpn(None);
    split.place.wait_until_explained("PermissiveNeedsIstioAlpn", EFFECT);
    split.wait_for("refused");
    split.check_refused("labelled, PERMISSIVE, without our ALPN");
    split.place.set_alpn(Some(["istio-http/1.1", "istio"]));
    split.wait_for("mutual");
}

/// A label whose pods were made before it.
fn before_a_restart(split: &Split) {
    split.label(None);
    for name in NAMES {
        split.place.delete(POD, name);
        split.place.apply(&objects::pod(TEAM, name, name, name, false));
    }
    split.set(Mode::NoSidecar);
    split.wait_for("no sidecar");
    let foretold = split.place.policy(&["diff", "--label", TEAM]);
    assert!(foretold.contains("SidecarMissing") && foretold.contains("\n+ BackendTLSPolicy "), "{foretold}");
    split.label(Some("enabled"));
    split.place.wait_until_explained("SidecarMissing", EFFECT);
    split.place.wait_until_explained("kubectl rollout restart", EFFECT);
    split.wait_for("refused");
    split.check_refused("labelled, pods not restarted");
}

/// A Route to a Service of the mesh that comes while requests for its host are made already.
#[test]
fn a_late_route_sends_no_plaintext() {
    in_own_network("envoy_gateway::states::a_late_route_sends_no_plaintext", |network| {
        let mut place = Place::with_objects(network);
        // takes plaintext as well, and would say so
        let backend = place.backend("late", "late", (Mode::Permissive, Class::Http, App::Itself));
        place.apply(&objects::namespace(TEAM, Some("enabled")));
        place.apply(&objects::service(TEAM, "late", Class::Http, &[backend.ip()]));
        place.apply(&objects::pod(TEAM, "late", "late", "late", true));
        let load = Load::start(place.pod.at(HTTP_PORT), "late.test");
        load.next(20);
        wait_until(CHANGE, "a policy before the Route", || match place.policy_writes() {
            0 => Err(place.policy(&["explain", TEAM])),
            _ => Ok(()),
        });
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

/// All pods of a Service come to run as another service account.
#[test]
fn a_roll_out_to_another_account_fails_no_request_and_rewrites_no_policy() {
    in_own_network(
        "envoy_gateway::states::a_roll_out_to_another_account_fails_no_request_and_rewrites_no_policy",
        |network| {
            let mut place = Place::with_objects(network);
            let kind = (Mode::Strict, Class::Http, App::Itself);
            let ends = ["old", "new"].map(|account| place.backend(account, account, kind));
            let behind = |ends: &[&Backend]| {
                let addresses: Vec<_> = ends.iter().map(|end| end.ip()).collect();
                place.apply(&objects::service(TEAM, "rolled", Class::Http, &addresses));
            };
            let pod = |account: &str, number: usize| {
                objects::pod(TEAM, &format!("{account}-{number}"), "rolled", account, true)
            };
            place.apply(&objects::namespace(TEAM, Some("enabled")));
            behind(&[&ends[0]]);
            place.apply(&(0..ROLLED_OUT).map(|number| pod("old", number)).collect::<String>());
            place.apply(&objects::http_route(TEAM, "rolled", "rolled.test", &["rolled"]));
            place.wait_for("an answer", "rolled.test", CHANGE, is_mutual);
            let (load, writes, begin) =
                (Load::start(place.pod.at(HTTP_PORT), "rolled.test"), place.policy_writes(), Instant::now());
            for number in 0..ROLLED_OUT {
                place.apply(&pod("new", number));
                if number == 0 {
                    behind(&[&ends[0], &ends[1]]);
                }
                if number + 1 == ROLLED_OUT {
                    behind(&[&ends[1]]);
                }
                place.delete(POD, &format!("old-{number}"));
            }
            let answers = load.next(60);
            println!("{} requests in {:?}: {answers:?}", load.check_since(begin, "the roll-out"), begin.elapsed());
            assert_eq!(answers.into_keys().collect::<Vec<_>>(), [Ok("new mutual".to_owned())]);
            assert_eq!(place.policy_writes(), writes);
        },
    );
}
