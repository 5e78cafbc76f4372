//! Kinds of objects that go and come back, an API server that takes no policies for a while, and what is left in the end.

use std::time::{Duration, Instant};

use k8s_openapi::{
    api::{
        coordination::v1::Lease,
        core::v1::{ConfigMap, Secret},
    },
    apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Resource,
    api::{DeleteParams, ListParams},
};
use serde::de::DeserializeOwned;

use super::{
    LATER, POLICY, SOON, Stage, install_kinds, is_complete, is_empty,
    objects::{self, TEAM},
};
use crate::{
    disturbed::proxy::Disturbance::{self, WritesAnswered, WritesHang},
    network::in_own_network,
    pair::replica::stop_all,
    support::{http, observe::leave_for_alerts, wait::wait_until},
};

const POLICIES: &str = "/backendtlspolicies";
/// For each of them there is a Service.
const SERVICES: usize = 30;
/// The longest pause between two tries, and what comes on top.
const AFTERWARDS: Duration = Duration::from_secs(12);
/// In which pauses grow to 0.5, 1 and 2 s.
const DISTURBED: Duration = Duration::from_millis(3_500);
/// Within it: those under way at once when it begins, and one after each pause.
const IN_VAIN: usize = 16 + 4;
/// A kind that comes back is looked for whenever a watch has ended.
const NOTICED: Duration = Duration::from_secs(60);

#[test]
fn kinds_that_go_and_come_back_are_followed() {
    in_own_network("policy_objects::outages::kinds_that_go_and_come_back_are_followed", |network| {
        let mut stage = Stage::complete(network);
        let client = stage.client();
        stage.on(objects::label(&client, Some("enabled")));
        wait_until(LATER, "objects", || is_complete(&stage));

        // with it the API server deletes every policy
        stage.on(async {
            let kinds: Api<CustomResourceDefinition> = Api::all(client.clone());
            let name = "backendtlspolicies.gateway.networking.k8s.io";
            kinds.delete(name, &DeleteParams::default()).await.map(drop).unwrap();
        });
        let begin = Instant::now();
        wait_until(NOTICED, "no Secret that no policy can name", || {
            match stage.on(objects::secret(&client, TEAM, POLICY)) {
                None => Ok(()),
                Some(secret) => Err(format!("{:?}", secret.metadata.name)),
            }
        });
        println!("without the kind: nothing is left after {:?}", begin.elapsed());
        stage.wait_until_said(0, "0 of 0 policy objects");
        let before = stage.writes().len();
        stage.let_half_a_minute_pass();
        assert!(stage.writes().len() == before, "{:#?}", &stage.writes()[before..]);

        let begin = Instant::now();
        stage.on(install_kinds(&stage.cluster));
        wait_until(NOTICED, "objects once the kind is there again", || is_complete(&stage));
        println!("with the kind again: all objects after {:?}", begin.elapsed());
        stage.replicas[0].stop();
    });
}

#[test]
fn policies_that_are_not_taken_are_tried_again_ever_more_slowly() {
    in_own_network(
        "policy_objects::outages::policies_that_are_not_taken_are_tried_again_ever_more_slowly",
        |network| {
            let mut stage = Stage::disturbed(network);
            let client = stage.client();
            stage.on(async {
                for number in 0..SERVICES {
                    stage.cluster.apply(&objects::service(&format!("s{number}"))).await;
                }
            });
            let cases = [
                WritesAnswered(POLICIES, 429),
                WritesAnswered(POLICIES, 500),
                WritesAnswered(POLICIES, 503),
                WritesHang(POLICIES),
            ];
            for disturbance in cases {
                for value in [Some("enabled"), None] {
                    in_vain(&stage, disturbance, value);
                }
            }
            let written = stage.writes().into_iter().filter(|write| write.resource == "backendtlspolicies");
            let refused: Vec<_> = written.filter(|write| write.code >= 300).collect();
            assert!(refused.is_empty(), "{refused:#?}");
            stage.on(objects::label(&client, Some("enabled")));
            wait_until(SOON, "objects at once when nothing is wrong any more", || is_complete(&stage));
            stage.replicas[0].stop();
        },
    );
}

/// A label is set or removed while no policy can be written.
fn in_vain(stage: &Stage, disturbance: Disturbance, value: Option<&str>) {
    let (client, proxy) = (stage.client(), stage.proxy.as_ref().unwrap());
    let metrics = || http::get(stage.replicas[0].admin(), "/metrics").unwrap();
    let (begin, before) = (Instant::now(), metrics());
    proxy.disturb(disturbance);
    stage.on(objects::label(&client, value));
    // it is the same replica in the same term all the time: the Lease is not concerned
    let term = stage.replicas[0].role().unwrap().expect("it is active");
    wait_until(AFTERWARDS, "time to pass", || match begin.elapsed() {
        passed if passed > DISTURBED => Ok(()),
        passed => Err(format!("{passed:?}")),
    });
    if value.is_some() {
        leave_for_alerts("objects_not_taken", &before, &metrics());
    }
    let tried = proxy.writes_since(begin, POLICIES);
    assert!((1..=IN_VAIN).contains(&tried), "{disturbance:?}, {value:?}: {tried} writes in {:?}", begin.elapsed());
    let end = Instant::now();
    proxy.disturb(Disturbance::None);
    wait_until(AFTERWARDS, &format!("the end of {disturbance:?}, {value:?}"), || {
        let found = stage.on(objects::policies(&client, TEAM).list(&ListParams::default())).unwrap().items.len();
        let wanted = if value.is_some() { SERVICES + 1 } else { 0 };
        if found != wanted {
            return Err(format!("{found} of {wanted} policies"));
        }
        if value.is_some() { is_complete(stage) } else { is_empty(stage) }
    });
    println!("{disturbance:?}, label {value:?}: {tried} writes in vain, all right {:?} after its end", end.elapsed());
    assert_eq!(stage.replicas[0].role(), Ok(Some(term)));
}

#[test]
fn after_labels_and_replicas_nothing_is_left_but_what_is_documented() {
    in_own_network(
        "policy_objects::outages::after_labels_and_replicas_nothing_is_left_but_what_is_documented",
        |network| {
            let mut stage = Stage::complete(network);
            let client = stage.client();
            stage.on(stage.cluster.apply(objects::OTHER_GATEWAY));
            stage.on(objects::label(&client, Some("enabled")));
            wait_until(LATER, "a policy with identities, and roots", || {
                stage.on(async {
                    objects::get(&client, TEAM, POLICY).await.ok_or("no policy")?;
                    objects::roots(&client, TEAM).await.ok_or("no roots").map(drop)
                })
            });
            stage.on(async {
                let gateway = objects::kind(objects::GATEWAY_API, "v1", "Gateway", "gateways");
                let gateways = Api::<kube::api::DynamicObject>::namespaced_with(client.clone(), "gw", &gateway);
                gateways.delete("other", &DeleteParams::default()).await.map(drop).unwrap();
            });
            wait_until(LATER, "the flavour with a Secret", || is_complete(&stage));
            stage.on(objects::label(&client, None));
            wait_until(SOON, "nothing without the label", || is_empty(&stage));
            let bundles = Api::<ConfigMap>::namespaced(client.clone(), "countersign");
            wait_until(LATER, "a distributed trust bundle", || {
                stage.on(bundles.get_opt("countersign-root-cert")).unwrap().map(drop).ok_or("no ConfigMap")
            });
            stop_all(&mut stage.replicas);

            let left = stage.on(all(&client, "", is_written));
            assert_eq!(
                left,
                [
                    "ConfigMap countersign/countersign-root-cert",
                    "Lease countersign/countersign",
                    "Secret countersign/countersign-authority",
                    "Secret countersign/countersign-trust",
                ]
            );
        },
    );
}

#[test]
fn what_replicas_leave_that_were_removed_before_the_labels_is_found_as_is_documented() {
    in_own_network(
        "policy_objects::outages::what_replicas_leave_that_were_removed_before_the_labels_is_found_as_is_documented",
        |network| {
            let mut stage = Stage::complete(network);
            let client = stage.client();
            stage.on(objects::label(&client, Some("enabled")));
            wait_until(LATER, "objects", || is_complete(&stage));
            stop_all(&mut stage.replicas);

            let of_services = |name: &String| !name.contains(" countersign/");
            let left = stage.on(all(&client, "", is_written)).into_iter().filter(of_services).collect::<Vec<_>>();
            let found = stage.on(all(&client, "app.kubernetes.io/managed-by=countersign", |_| true));
            let found: Vec<_> = found.into_iter().filter(of_services).collect();
            assert_eq!(found, left);
            let policy = format!("BackendTLSPolicy {TEAM}/{POLICY}");
            let secret = format!("Secret {TEAM}/{POLICY}");
            assert!(left.contains(&policy) && left.contains(&secret), "{left:?}");
        },
    );
}

/// Whether the replicas have written into it.
fn is_written(metadata: &ObjectMeta) -> bool {
    let mut fields = metadata.managed_fields.iter().flatten();
    fields.any(|entry| entry.manager.as_deref().is_some_and(|manager| manager.contains("countersign")))
}

/// Objects of every kind that replicas write, wherever they are.
async fn all(client: &kube::Client, label: &str, is_such: fn(&ObjectMeta) -> bool) -> Vec<String> {
    let of = ListParams::default().labels(label);
    let policies = objects::kind(objects::GATEWAY_API, "v1", "BackendTLSPolicy", "backendtlspolicies");
    let policies = Api::<kube::api::DynamicObject>::all_with(client.clone(), &policies);
    let policies = policies.list(&of).await.unwrap().items.into_iter();
    let mut all: Vec<String> = policies
        .filter(|policy| is_such(&policy.metadata))
        .map(|policy| name_of("BackendTLSPolicy", &policy.metadata))
        .collect();
    all.extend(all_of::<ConfigMap>(client, &of, is_such).await);
    all.extend(all_of::<Secret>(client, &of, is_such).await);
    all.extend(all_of::<Lease>(client, &of, is_such).await);
    all.sort();
    all
}

async fn all_of<K>(client: &kube::Client, of: &ListParams, is_such: fn(&ObjectMeta) -> bool) -> Vec<String>
where
    K: Resource<DynamicType = ()> + Clone + std::fmt::Debug + DeserializeOwned,
{
    let all = Api::<K>::all(client.clone()).list(of).await.unwrap().items;
    all.iter()
        .map(K::meta)
        .filter(|metadata| is_such(metadata))
        .map(|metadata| name_of(&K::kind(&()), metadata))
        .collect()
}

fn name_of(kind: &str, metadata: &ObjectMeta) -> String {
    let of = |text: &Option<String>| text.clone().unwrap_or_default();
    format!("{kind} {}/{}", of(&metadata.namespace), of(&metadata.name))
}
