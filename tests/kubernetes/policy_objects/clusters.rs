//! The real istiod beside a replica, with the Gateway API turned on as it is by default: what it has sidecars do is the same with
//! our policies as without them.
//!
//! Built here, istiod doesn't say its version, so there is no pod of it: replicas would write nothing. `tests/run.py` names the
//! commit that it is built from.

use std::{collections::BTreeMap, time::Duration};

use kube::api::DeleteParams;
use serde_json::Value;

use super::{
    LATER, Stage, is_complete,
    objects::{self, SERVICE, TEAM},
};
use crate::{
    cluster::{TokenFor, block_on},
    istio::{
        istiod::{self, Ca, Istiod},
        objects::{MESH_ROOTS, roots_of},
        pilot_agent::PilotAgent,
    },
    network::in_own_network,
    support::{
        authority::{Authority, Kind},
        http::free_port,
        sidecar::Wanted,
        wait::wait_until,
    },
};

const CLIENTS: &str = "clients";
/// A Service that a user has a policy for, as users do.
const MARKER: &str = "marker";
/// A Service with an address of its own.
const NUMBERED: &str = "numbered";
const CHANGE: Duration = Duration::from_secs(30);

/// Clusters by name.
type Clusters = BTreeMap<String, Value>;

struct Sidecar {
    istiod: Istiod,
    _agent: PilotAgent,
}

impl Sidecar {
    fn start(stage: &Stage) -> Self {
        let cluster = &stage.cluster;
        let account = block_on(istiod::prepare(cluster));
        let root = Authority::root("mesh");
        let files = root.below("istiod", Kind::P256).cacerts(&root.certificate);
        let on = [("PILOT_ENABLE_GATEWAY_API", "true")];
        let istiod = Istiod::start_with(free_port(), cluster, &account, Ca::Own(&files), &Default::default(), &on);
        let client = block_on(async {
            cluster.namespace_named(CLIENTS, &[("istio-injection", "enabled")]).await;
            cluster.account(CLIENTS, "client").await
        });
        let (address, roots) = (istiod.address(), roots_of(cluster, CLIENTS, MESH_ROOTS));
        let wanted = Wanted { ca: &address, istiod: &address, roots: &roots, ttl: TokenFor::default().lifetime };
        let agent = PilotAgent::start("client", cluster, &client, &wanted);
        Self { istiod, _agent: agent }
    }

    /// Those that lead to Services of the team.
    fn clusters(&self) -> Result<Clusters, String> {
        let dump = self.istiod.config_dump(&format!("client.{CLIENTS}"))?;
        let parts = dump["configs"].as_array().ok_or("no parts")?;
        let is_clusters =
            |part: &&Value| part["@type"].as_str().is_some_and(|kind| kind.ends_with("ClustersConfigDump"));
        let part = parts.iter().find(is_clusters).ok_or("no clusters")?;
        let all = part["dynamic_active_clusters"].as_array().or(part["dynamicActiveClusters"].as_array());
        let clusters = all.into_iter().flatten().map(|one| {
            let name = one["cluster"]["name"].as_str().unwrap_or_default().to_owned();
            (name, one["cluster"].clone())
        });
        Ok(clusters.filter(|(name, _)| name.contains(&format!(".{TEAM}."))).collect())
    }

    /// Waits until those of the user's Service are other ones than these; then everything that was written before has been
    /// taken up as well.
    fn wait_until_other(&self, than: &Clusters) -> Clusters {
        wait_until(CHANGE, "other clusters of the user's Service", || {
            let now = self.clusters()?;
            if of(&now, MARKER) == of(than, MARKER) { Err(format!("{:?}", now.keys())) } else { Ok(now) }
        })
    }
}

fn of<'a>(clusters: &'a Clusters, service: &str) -> Vec<(&'a String, &'a Value)> {
    clusters.iter().filter(|(name, _)| name.contains(&format!("|{service}.{TEAM}."))).collect()
}

fn check_the_same(what: &str, before: &Clusters, after: &Clusters) {
    for service in [SERVICE, NUMBERED] {
        let before = of(before, service);
        assert!(!before.is_empty(), "no cluster of {service}");
        assert_eq!(of(after, service), before, "{what}, {service}");
    }
    println!("{what}: {} clusters, the same but for those of the user's own policy", after.len());
}

#[test]
fn the_real_istiod_has_sidecars_do_the_same_with_our_policies_as_without() {
    in_own_network(
        "policy_objects::clusters::the_real_istiod_has_sidecars_do_the_same_with_our_policies_as_without",
        |network| {
            let mut stage = Stage::complete(network);
            let client = stage.client();
            stage.on(async {
                for name in [NUMBERED, MARKER] {
                    let numbered = objects::service(name).replace("\"clusterIP\":\"None\",", "");
                    stage.cluster.apply(&numbered).await;
                    stage.cluster.apply(&objects::pod(name, name, name)).await;
                }
            });
            let sidecar = Sidecar::start(&stage);
            let before = wait_until(CHANGE, "clusters of all three Services", || {
                let now = sidecar.clusters()?;
                let is_there = |service: &&str| !of(&now, service).is_empty();
                if [SERVICE, NUMBERED, MARKER].iter().all(is_there) {
                    Ok(now)
                } else {
                    Err(format!("{:?}", now.keys()))
                }
            });

            stage.on(async {
                stage.cluster.apply(&objects::foreign_policy("users", MARKER)).await;
            });
            let with_users = sidecar.wait_until_other(&before);
            stage.on(objects::label(&client, Some("enabled")));
            wait_until(LATER, "objects", || is_complete(&stage));
            wait_until(LATER, "the other Service's policy", || {
                stage.on(objects::get(&client, TEAM, "countersign-numbered")).ok_or("none")
            });
            delete(&stage, "users");
            let with_ours = sidecar.wait_until_other(&with_users);
            check_the_same("policies by SDS", &before, &with_ours);

            stage.on(stage.cluster.apply(objects::OTHER_GATEWAY));
            wait_until(LATER, "identities in the policy", || {
                let policy = stage.on(objects::get(&client, TEAM, "countersign-numbered")).ok_or("none")?;
                let names = policy.data["spec"]["validation"]["subjectAltNames"].clone();
                if names.is_array() { Ok(()) } else { Err(format!("{names}")) }
            });
            stage.on(stage.cluster.apply(&objects::foreign_policy("users", MARKER)));
            let with_portable = sidecar.wait_until_other(&with_ours);
            check_the_same("portable policies", &before, &with_portable);
            stage.replicas[0].stop();
        },
    );
}

fn delete(stage: &Stage, policy: &str) {
    let client = stage.client();
    stage
        .on(async { objects::policies(&client, TEAM).delete(policy, &DeleteParams::default()).await.map(drop) })
        .unwrap();
}
