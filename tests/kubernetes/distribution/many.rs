//! A mesh with a thousand namespaces.

use std::time::Instant;

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{ListParams, ObjectMeta, PostParams},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::task::JoinSet;

use super::{
    Duration, KEY, MESH, cluster, has, nothing_was_denied, own_requests,
    replica::{Authority, Replica, mesh_config},
    until,
};
use crate::cluster::Cluster;

const NAMESPACES: usize = 1000;
const LIMIT: Duration = Duration::from_secs(30);
const REQUESTS_A_SECOND: usize = 50;

async fn make_namespaces(cluster: &Cluster) {
    let mut making = JoinSet::new();
    for worker in 0..8 {
        let namespaces = Api::<Namespace>::all(cluster.admin());
        making.spawn(async move {
            for number in (worker..NAMESPACES).step_by(8) {
                let name = Some(format!("team-{number:04}"));
                let metadata = ObjectMeta { name, ..ObjectMeta::default() };
                let namespace = Namespace { metadata, ..Namespace::default() };
                namespaces.create(&PostParams::default(), &namespace).await.unwrap();
            }
        });
    }
    making.join_all().await;
}

/// Waits until the roots of all are these, from `begin` on.
async fn all_have(cluster: &Cluster, roots: &str, begin: Instant) -> Duration {
    let objects = Api::<ConfigMap>::all(cluster.admin());
    let named = ListParams::default().fields(&format!("metadata.name={MESH}"));
    until(LIMIT.saturating_sub(begin.elapsed()), "the roots in every namespace", async || {
        let objects = objects.list(&named).await.map_err(|error| error.to_string())?;
        let right = objects.iter().filter(|object| {
            let in_team = object.metadata.namespace.as_ref().unwrap().starts_with("team-");
            in_team && object.data.as_ref().and_then(|data| data.get(KEY)).is_some_and(|found| found == roots)
        });
        let right = right.count();
        // to list all of it is work for the server
        tokio::time::sleep(Duration::from_millis(200)).await;
        if right == NAMESPACES { Ok(()) } else { Err(format!("right in {right}")) }
    })
    .await;
    begin.elapsed()
}

/// The most requests of the replicas that fell into one second.
fn busiest_second(cluster: &Cluster) -> usize {
    let requests = own_requests(cluster);
    let at = |text: &str| OffsetDateTime::parse(text, &Rfc3339).unwrap();
    let mut times: Vec<OffsetDateTime> = requests.iter().map(|request| at(&request.received)).collect();
    times.sort_unstable();
    let second = time::Duration::SECOND;
    let in_a_second = |(index, from): (usize, &OffsetDateTime)| {
        times[index..].iter().take_while(|time| **time < *from + second).count()
    };
    times.iter().enumerate().map(in_a_second).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_namespaces_have_the_roots_within_half_a_minute_at_fifty_requests_a_second() {
    let cluster = cluster(&["rbac.yaml"]).await;
    cluster.namespace_named("istio-system", &[]).await;
    cluster.apply_file(&crate::pair::shipped("rbac-mesh-ca.yaml")).await;
    make_namespaces(&cluster).await;
    let authority = Authority::new();
    let replicas = [Replica::start(&cluster, mesh_config()).await, Replica::start(&cluster, mesh_config()).await];

    let begin = Instant::now();
    replicas[0].activate(1, &authority);
    // whatever goes on for all, a new one does not wait for its turn
    until(LIMIT, "a beginning", async || match writes_so_far(&cluster) {
        100.. => Ok(()),
        writes => Err(writes),
    })
    .await;
    cluster.namespace_named("new", &[]).await;
    has(&cluster, "new", MESH, &authority.roots(), Duration::from_secs(1)).await;
    let start = all_have(&cluster, &authority.roots(), begin).await;
    replicas[0].says("1005 of 1005", Duration::from_secs(5)).await;
    let created = writes_so_far(&cluster);

    // a change of roots, and another active in the middle of it
    let begin = Instant::now();
    let roots = authority.publish_also(&Authority::new().certificate);
    until(LIMIT, "half of the change", async || match writes_so_far(&cluster) - created {
        400.. => Ok(()),
        writes => Err(writes),
    })
    .await;
    replicas[0].stand_by();
    replicas[1].activate(2, &authority);
    let change = all_have(&cluster, &roots, begin).await;
    replicas[1].says("1005 of 1005", Duration::from_secs(5)).await;

    let (busiest, writes) = (busiest_second(&cluster), writes_so_far(&cluster));
    println!("{NAMESPACES} namespaces: {start:?} from the start, {change:?} for a change of roots with a take-over;");
    println!("at most {busiest} requests in a second, {writes} writes in all");
    assert!(busiest <= REQUESTS_A_SECOND, "{busiest} requests in a second");
    // what was under way when the active changed may have been written twice
    assert!((2010..=2030).contains(&writes), "{writes} writes");
    nothing_was_denied(&cluster);
}

fn writes_so_far(cluster: &Cluster) -> usize {
    let requests = own_requests(cluster);
    let of_roots = requests.iter().filter(|request| request.resource == "configmaps");
    of_roots.filter(|request| ["create", "patch"].contains(&&*request.verb)).count()
}
