//! A Gateway of a class without SDS beside one with it: identities stand in the policies, as the replica writes them.

use std::time::{Duration, Instant};

use kube::{
    Api,
    api::{ApiResource, DynamicObject, GroupVersionKind},
};
use serde_json::{Value, json};

use super::{
    GATEWAY, HTTP_PORT, Place, ROLLED_OUT, TEAM,
    backend::{App, Backend, Class, Mode},
    kubelet::{self, GatewayPod},
    load::Load,
    objects,
};
use crate::{
    cluster::block_on,
    network::in_own_network,
    pair::TRUST_DOMAIN,
    support::{http, wait::wait_until},
};

/// A change inside of a cluster takes Envoy 15 s.
const CHANGE: Duration = Duration::from_secs(40);
/// From a change to the policy that follows.
const WRITTEN: Duration = Duration::from_secs(2);
const STRICT: (Mode, Class, App) = (Mode::Strict, Class::Http, App::Itself);
const POD: (&str, &str, &str) = ("", "v1", "Pod");
const FILES: &str = "files";

/// A place with a second gateway.
struct Classes {
    place: Place,
    portable: GatewayPod,
}

impl Classes {
    fn start(mut place: Place) -> Self {
        let (chain, key) = place.mesh.svid(&format!("spiffe://{TRUST_DOMAIN}/ns/{GATEWAY}/sa/{FILES}"));
        let certificate = json!({
            "apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": { "name": FILES, "namespace": GATEWAY }, "stringData": { "tls.crt": chain, "tls.key": key },
        });
        place.apply(&certificate.to_string());
        place.apply(objects::PORTABLE_GATEWAY);
        let deployment = kubelet::deployment(&place.cluster, FILES, |_| Ok(()));
        let host = place.network.host(FILES);
        let portable = GatewayPod::start("files-0", host, &place.cluster, &place.controller, &deployment);
        place.apply(&objects::namespace(TEAM, Some("enabled")));
        Self { place, portable }
    }

    /// Makes a Service with one pod of `account`, and a Route to it.
    fn service(&self, name: &str, account: &str, end: &Backend, gateways: &[&str]) {
        self.place.apply(&objects::service(TEAM, name, Class::Http, &[end.ip()]));
        self.place.apply(&objects::pod(TEAM, name, name, account, true));
        self.route(name, name, gateways);
    }

    fn route(&self, name: &str, service: &str, gateways: &[&str]) {
        self.place.apply(&objects::http_route_from(gateways, TEAM, name, &format!("{service}.test"), service));
    }

    /// What our policy of a Service says.
    fn validation(&self, service: &str) -> Result<Value, String> {
        let kind = GroupVersionKind::gvk("gateway.networking.k8s.io", "v1", "BackendTLSPolicy");
        let resource = ApiResource::from_gvk(&kind);
        let all = || Api::<DynamicObject>::namespaced_with(self.place.cluster.admin(), TEAM, &resource);
        let name = format!("countersign-{service}");
        let found = block_on(async { all().get_opt(&name).await }).map_err(|error| error.to_string())?;
        Ok(found.ok_or_else(|| format!("no {name}"))?.data["spec"]["validation"].clone())
    }

    /// Waits until the policy of a Service accepts these accounts by what stands in it.
    fn wait_until_portable(&self, service: &str, accounts: &[&str]) {
        let uri =
            |account: &&str| json!({ "type": "URI", "uri": format!("spiffe://{TRUST_DOMAIN}/ns/{TEAM}/sa/{account}") });
        let expected: Vec<Value> = accounts.iter().map(uri).collect();
        wait_until(WRITTEN, &format!("a policy of {service} for {accounts:?}"), || {
            let found = self.validation(service)?;
            let ca = &found["caCertificateRefs"][0];
            let is_so = found["subjectAltNames"] == json!(expected)
                && ca["kind"] == "ConfigMap"
                && ca["name"] == "countersign-mesh-ca";
            if is_so { Ok(()) } else { Err(found.to_string()) }
        });
    }

    fn wait_until_by_sds(&self, service: &str) {
        wait_until(WRITTEN, &format!("a policy of {service} with an SDS Secret"), || {
            let found = self.validation(service)?;
            let is_so = found["caCertificateRefs"][0]["kind"] == "Secret" && found.get("subjectAltNames").is_none();
            if is_so { Ok(()) } else { Err(found.to_string()) }
        });
    }

    /// Waits for an answer at one of the gateways.
    fn wait_for(&self, pod: &GatewayPod, service: &str, is_so: impl Fn(&Result<String, String>) -> bool) {
        let begin = Instant::now();
        wait_until(CHANGE, &format!("what is said of {service}"), || {
            match http::get_of(pod.at(HTTP_PORT), &format!("{service}.test"), "/") {
                answer if is_so(&answer) => Ok(()),
                other => Err(format!("{other:?}\n{}", pod.log())),
            }
        });
        println!("what is said of {service} after {:?}", begin.elapsed());
    }
}

fn is_mutual(answer: &Result<String, String>) -> bool {
    answer.as_ref().is_ok_and(|text| text.ends_with("mutual"))
}

/// By what is behind a gateway that was configured by then: without a cluster it would say nothing.
fn is_refused(answer: &Result<String, String>) -> bool {
    answer.as_ref().is_err_and(|why| why.contains("status 503: upstream connect error"))
}

#[test]
fn a_class_without_sds_has_identities_in_policies() {
    in_own_network("envoy_gateway::classes::a_class_without_sds_has_identities_in_policies", |network| {
        let begin = Instant::now();
        let mut classes = Classes::start(Place::with_objects(network));
        println!("ready after {:?}", begin.elapsed());
        let ends = ["old", "new"].map(|account| classes.place.backend(account, account, STRICT));
        classes.service("rolled", "old", &ends[0], &[FILES]);
        classes.service("wrong", "somebody", &ends[0], &[FILES]);
        classes.service("wrong-sds", "somebody", &ends[0], &[GATEWAY]);
        classes.wait_until_portable("rolled", &["old"]);
        classes.wait_until_portable("wrong", &["somebody"]);
        classes.wait_until_by_sds("wrong-sds");
        classes.wait_for(&classes.portable, "rolled", is_mutual);
        let peer = format!("spiffe://{TRUST_DOMAIN}/ns/{GATEWAY}/sa/{FILES}");
        wait_until(CHANGE, "the gateway's identity in the log", || match ends[0].log().requests() {
            log if log.iter().any(|request| request["peer"] == *peer) => Ok(()),
            log => Err(format!("{log:?}")),
        });
        for (pod, service) in [(&classes.portable, "wrong"), (&classes.place.pod, "wrong-sds")] {
            classes.wait_for(pod, service, is_refused);
            wait_until(CHANGE, "why it is refused", || {
                // the first ones may have met a gateway that was not configured whole
                let answer = http::get_of(pod.at(HTTP_PORT), &format!("{service}.test"), "/");
                assert!(answer.is_err(), "{answer:?}");
                let log = pod.log();
                let line = log.lines().rev().find(|line| line.contains(&format!("{service}.test")));
                let is_so = |line: &str| line.contains("verify_cert_failed:_SAN_matcher");
                if line.is_some_and(is_so) { Ok(()) } else { Err(format!("{line:?}")) }
            });
        }
        println!("until the roll-out {:?}", begin.elapsed());
        a_roll_out(&classes, &ends);
        println!("until the flavour {:?}", begin.elapsed());
        a_flavour_that_changes(&classes, &ends[1]);
    });
}

/// As it happens: pods are there before they are ready, and then come the endpoints.
fn a_roll_out(classes: &Classes, ends: &[Backend; 2]) {
    let place = &classes.place;
    let pod =
        |account: &str, number: usize| objects::pod(TEAM, &format!("{account}-{number}"), "rolled", account, true);
    let behind = |ends: &[&Backend]| {
        let addresses: Vec<_> = ends.iter().map(|end| end.ip()).collect();
        place.apply(&objects::service(TEAM, "rolled", Class::Http, &addresses));
    };
    place.apply(&(0..ROLLED_OUT).map(|number| pod("old", number)).collect::<String>());
    place.delete(POD, "rolled");
    let (load, writes, begin) =
        (Load::start(classes.portable.at(HTTP_PORT), "rolled.test"), place.policy_writes(), Instant::now());
    load.next(20);
    for number in 0..ROLLED_OUT {
        place.apply(&pod("new", number));
        if number == 0 {
            classes.wait_until_portable("rolled", &["new", "old"]);
            behind(&[&ends[0], &ends[1]]);
        }
        if number + 1 == ROLLED_OUT {
            behind(&[&ends[1]]);
        }
        place.delete(POD, &format!("old-{number}"));
    }
    classes.wait_until_portable("rolled", &["new"]);
    wait_until(CHANGE, "answers of the new ones alone", || match load.next(20) {
        answers if answers.keys().eq([&Ok("new mutual".to_owned())]) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    println!("{} requests in {:?}", load.check_since(begin, "the roll-out"), begin.elapsed());
    let writes = place.policy_writes() - writes;
    assert!(writes <= 2, "{writes} writes of policies");
}

/// A Service that a second gateway comes to lead to, which has no SDS.
fn a_flavour_that_changes(classes: &Classes, end: &Backend) {
    let place = &classes.place;
    classes.service("shared", "new", end, &[GATEWAY]);
    classes.wait_until_by_sds("shared");
    classes.wait_for(&place.pod, "shared", is_mutual);
    let (load, begin) = (Load::start(place.pod.at(HTTP_PORT), "shared.test"), Instant::now());
    classes.route("shared-2", "shared", &[FILES]);
    classes.wait_until_portable("shared", &["new"]);
    classes.wait_for(&classes.portable, "shared", is_mutual);
    // long enough for the gateway that had SDS to have changed as well
    (0..5).for_each(|_| drop(load.next(30)));
    println!("{} requests in {:?}", load.check_since(begin, "another flavour"), begin.elapsed());
}
