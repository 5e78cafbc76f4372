//! What live sidecars refuse, and pods that have none yet, by the labels of their namespace; and what is said of it.

use std::time::Instant;

use super::{CHANGE, HOSTS, Live, NAMES, set_strict};
use crate::{
    envoy_gateway::{EFFECT, TEAM, objects},
    support::{http, wait::wait_until},
};

/// By the labels of the namespace, while sidecars take mutual TLS alone: whether they are asked by it, and what is said.
const LABELS: [(&str, bool, &str); 5] = [
    ("", false, "StrictButNotManaged"),
    ("istio.io/rev: canary", true, "by revision canary"),
    ("istio-injection: enabled, istio.io/rev: canary", true, "RevisionIgnored"),
    ("istio.io/dataplane-mode: ambient", false, "AmbientUnsupported"),
    ("istio-injection: enabled", true, "mutual TLS is required"),
];

/// In the gateway's log: a sidecar has read TLS where it took it for HTTP, and ended the connection.
const RESET: &str = "TLS_error:|33554536:system_library:OPENSSL_internal:Connection_reset_by_peer";
/// The same of somebody who answered it in plaintext.
const NOT_TLS: &str = "SSL_routines:OPENSSL_internal:WRONG_VERSION_NUMBER";

/// With sidecars that are STRICT, and a namespace that is labelled.
pub(super) fn check(live: &mut Live) {
    let begin = Instant::now();
    for (labels, is_mutual, said) in LABELS {
        live.place.apply(&objects::namespace_with(TEAM, labels));
        let what = format!("labels {{{labels}}}, STRICT");
        if is_mutual {
            wait_until_answered(live, &what);
            live.wait_until_mutual();
            live.check_mutual(&what);
        } else {
            // a sidecar has no word for plaintext: it ends the connection
            wait_until_refused(live, &HOSTS, &what, "{connection_termination}");
        }
        let explained = live.place.policy(&["explain", TEAM]);
        assert!(explained.contains(said), "{what}: {explained}");
    }
    without_our_alpn(live);
    before_a_restart(live);
    println!("what is refused: {:?}", begin.elapsed());
}

/// What Envoy offers by itself is not what a sidecar takes for mutual TLS where it takes plaintext as well.
fn without_our_alpn(live: &Live) {
    set_strict(&live.place, false);
    for port in live.ports() {
        wait_until(CHANGE, "a sidecar that takes plaintext", || http::get(port, "/"));
    }
    live.place.set_alpn(None);
    live.place.wait_until_explained("PermissiveNeedsIstioAlpn", EFFECT);
    wait_until_refused(live, &HOSTS[..1], "PERMISSIVE, without our ALPN", RESET);
    live.place.set_alpn(Some(["istio-http/1.1", "istio"]));
    wait_until_answered(live, "PERMISSIVE, with our ALPN again");
    live.wait_until_mutual();
}

/// A label whose pods were made before it.
fn before_a_restart(live: &mut Live) {
    live.place.apply(&objects::namespace(TEAM, None));
    wait_until_answered(live, "label removed");
    for pod in &mut live.pods[..NAMES.len()] {
        pod.lose_sidecar(&live.place.cluster);
    }
    wait_until_answered(live, "pods without sidecars");
    let foretold = live.place.policy(&["diff", "--label", TEAM]);
    assert!(foretold.contains("SidecarMissing") && foretold.contains("\n+ BackendTLSPolicy "), "{foretold}");
    live.place.apply(&objects::namespace(TEAM, Some("enabled")));
    live.place.wait_until_explained("SidecarMissing", EFFECT);
    live.place.wait_until_explained("kubectl rollout restart", EFFECT);
    wait_until_refused(live, &HOSTS, "labelled, pods not restarted", NOT_TLS);
}

fn wait_until_answered(live: &Live, what: &str) {
    for (host, load) in HOSTS.into_iter().zip(&live.loads) {
        wait_until(CHANGE, &format!("answers of {host}, {what}"), || match load.next(10) {
            answers if answers.keys().all(Result::is_ok) => Ok(()),
            other => Err(format!("{other:?}")),
        });
    }
}

/// All of a while by each of the hosts, and for this reason by the gateway's own log.
fn wait_until_refused(live: &Live, hosts: &[&str], what: &str, reason: &str) {
    for (host, load) in hosts.iter().zip(&live.loads) {
        let is_refused = |answer: &Result<String, String>| answer.as_ref().is_err_and(|why| why.contains("status 503"));
        wait_until(CHANGE, &format!("{host} refused, {what}"), || match load.next(40) {
            answers if answers.keys().all(is_refused) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        let why = wait_until(CHANGE, &format!("the reason for {host}, {what}"), || {
            let log = live.place.pod.log();
            let last: Vec<&str> = log.lines().rev().filter(|line| line.contains(host)).take(10).collect();
            let is_so = |line: &&str| line.contains("\"response_code\":503") && line.contains(reason);
            if last.len() == 10 && last.iter().all(is_so) { Ok(last[0].to_owned()) } else { Err(format!("{last:#?}")) }
        });
        println!("{what}: {why}");
    }
}
