//! A mesh with a thousand namespaces, and a pair that is its only CA: what it writes, how fast, at what pace, and by which rights.

use std::{
    collections::BTreeMap,
    fs, thread,
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::{ConfigMap, Namespace};
use kube::{
    Api,
    api::{DynamicObject, ListParams, ObjectMeta, PostParams},
};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::task::JoinSet;

use super::{KEY, MESH, own_requests, rules};
use crate::{
    cluster::{Account, AuditedRequest, Cluster, block_on},
    istio::replicas::Replicas,
    pair::{install, roots as published, shipped, token_file},
    support::{
        authority::{Authority, CaDir, Kind},
        caller::Caller,
        observe::{readiness, wait_for},
        wait::wait_until,
    },
};

const NAMESPACES: usize = 1000;
const LIMIT: Duration = Duration::from_secs(30);
const NEW_NAMESPACE: Duration = Duration::from_secs(1);
const SOON: Duration = Duration::from_secs(10);
/// To list all of it is work for the server.
const LOOK_EVERY: Duration = Duration::from_millis(500);
const REQUESTS_A_SECOND: usize = 50;
const OWN_TRUST_BUNDLE: &str = "countersign.io:cluster.local:root-cert";
const MESH_TRUST_BUNDLE: &str = "istio.io:istiod-ca:root-cert";

/// Two replicas below the same plugged-in authority, one after the other without and with the rights of a mesh.
struct Place {
    cluster: Cluster,
    account: Account,
    cas: [CaDir; 2],
}

impl Place {
    fn start(&self, prefix: &str, more: &[&str]) -> Replicas {
        let sockets = [0, 1].map(|number| self.cluster.folder().join(format!("{prefix}-{number}.sock")));
        let flags = [0, 1].map(|number: usize| {
            let mut flags = vec!["--workload-socket", sockets[number].to_str().unwrap()];
            flags.extend(self.cas[number].flags());
            flags.extend(["--cluster-trust-bundle", "true"]);
            [flags, more.to_vec()].concat()
        });
        Replicas::spawn(prefix, &self.cluster, &self.account, flags.each_ref().map(Vec::as_slice))
    }

    fn trust_bundle(&self, name: &str) -> Result<(), String> {
        let bundles = || super::trust_bundle::bundles(&self.cluster);
        let found: kube::Result<Option<DynamicObject>> = block_on(async { bundles().get_opt(name).await });
        found.map_err(|error| error.to_string())?.map(drop).ok_or_else(|| format!("no {name}"))
    }

    fn make_namespaces(&self) {
        block_on(async {
            let mut making = JoinSet::new();
            for worker in 0..8 {
                let namespaces = Api::<Namespace>::all(self.cluster.admin());
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
        });
    }

    /// How many of the thousand have these roots.
    fn right(&self, roots: &str) -> usize {
        let named = ListParams::default().fields(&format!("metadata.name={MESH}"));
        let objects = block_on(async { Api::<ConfigMap>::all(self.cluster.admin()).list(&named).await }).unwrap();
        let of_team = objects.iter().filter(|object| object.metadata.namespace.as_ref().unwrap().starts_with("team-"));
        of_team
            .filter(|object| object.data.as_ref().and_then(|data| data.get(KEY)).is_some_and(|found| found == roots))
            .count()
    }

    /// Waits until so many have these roots, from `begin` on.
    fn wait_for_roots(&self, count: usize, roots: &str, begin: Instant) -> Duration {
        wait_until(LIMIT.saturating_sub(begin.elapsed()), &format!("the roots in {count} namespaces"), || {
            thread::sleep(LOOK_EVERY);
            let right = self.right(roots);
            if right >= count { Ok(begin.elapsed()) } else { Err(format!("right in {right}")) }
        })
    }

    /// Requests for ConfigMaps that write.
    fn writes(&self) -> usize {
        let requests = own_requests(&self.cluster);
        let of_roots = requests.iter().filter(|request| request.resource == "configmaps" && request.name == MESH);
        of_roots.filter(|request| ["create", "patch"].contains(&&*request.verb)).count()
    }

    /// The requests of the replicas in the two seconds in which there were most: what was asked for in one may be received in the next.
    fn busiest_seconds(&self) -> Vec<AuditedRequest> {
        let mut requests = own_requests(&self.cluster);
        requests.sort_by_key(at);
        let in_seconds = |index: usize| {
            let end = at(&requests[index]) + time::Duration::seconds(2);
            requests[index..].iter().take_while(|request| at(request) < end).count()
        };
        let busiest = (0..requests.len()).max_by_key(|index| in_seconds(*index)).unwrap_or_default();
        requests[busiest..].iter().take(in_seconds(busiest)).cloned().collect()
    }
}

fn at(request: &AuditedRequest) -> OffsetDateTime {
    OffsetDateTime::parse(&request.received, &Rfc3339).unwrap()
}

/// What they ask for, and how many of each.
fn kinds(requests: &[AuditedRequest]) -> BTreeMap<String, usize> {
    let mut kinds = BTreeMap::new();
    for AuditedRequest { verb, resource, name, .. } in requests {
        *kinds.entry(format!("{verb} {resource} {name}")).or_default() += 1;
    }
    kinds
}

#[test]
fn a_thousand_namespaces_have_the_roots_within_half_a_minute_at_fifty_requests_a_second() {
    let cluster = Cluster::start();
    let account = block_on(install(&cluster));
    block_on(cluster.namespace_named("istio-system", &[]));
    for rights in ["rbac-mesh-ca.yaml", "rbac-cluster-trust-bundle.yaml", "rbac-mesh-trust-bundle.yaml"] {
        block_on(cluster.apply_file(&shipped(rights)));
    }
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let signer = old.below("signer", Kind::P256);
    let (roots, both) = (old.certificate.clone(), old.certificate.clone() + &new.certificate);
    let cas = [(); 2].map(|()| CaDir::mounted(&signer.cacerts(&roots)));
    let place = Place { cluster, account, cas };

    // beside a mesh first: what is the pair's own, while the mesh is small
    let mut beside = place.start("beside", &[]);
    beside.active();
    wait_until(SOON, "the own trust bundle", || place.trust_bundle(OWN_TRUST_BUNDLE));
    let token = fs::read_to_string(block_on(token_file(&place.cluster, "caller"))).unwrap();
    let caller = Caller::with_token(&token, &roots);
    wait_until(SOON, "a certificate", || caller.ask_anew(beside.serves[0].port).map_err(|status| status.to_string()));
    for roots in [&both, &roots] {
        place.cas.iter().for_each(|ca| ca.swap(&signer.cacerts(roots)));
        wait_until(SOON, "the swapped roots in the own ConfigMap", || match published(&place.cluster) {
            found if found == *roots => Ok(()),
            found => Err(found),
        });
    }
    beside.stop();
    place.make_namespaces();

    // as the CA of the mesh: all get the roots, and a new one doesn't wait for its turn
    let begin = Instant::now();
    let mesh = place.start("mesh", &["--mesh-ca", "true"]);
    place.wait_for_roots(100, &roots, begin);
    let made = Instant::now();
    block_on(place.cluster.namespace_named("new", &[]));
    wait_until(NEW_NAMESPACE, "the roots in the new namespace", || {
        let config_maps = || Api::<ConfigMap>::namespaced(place.cluster.admin(), "new");
        block_on(async { config_maps().get(MESH).await }).map(drop)
    });
    let new_namespace = made.elapsed();
    let start = place.wait_for_roots(NAMESPACES, &roots, begin);
    let active = mesh.active();
    let all_right = "1005 of 1005";
    wait_for("all of them right", all_right, || readiness(&mesh.serves[active]));
    wait_until(SOON, "the mesh's trust bundle", || place.trust_bundle(MESH_TRUST_BUNDLE));
    let created = place.writes();

    // another root beside the old one
    let begin = Instant::now();
    place.cas.iter().for_each(|ca| ca.swap(&signer.cacerts(&both)));
    let change = place.wait_for_roots(NAMESPACES, &both, begin);
    wait_for("all of them right", all_right, || readiness(&mesh.serves[active]));
    let changed = place.writes() - created;

    // the next active finds all as it should be
    mesh.serves[active].process.signal(rustix::process::Signal::TERM);
    wait_for("all of them right for the heir", all_right, || readiness(&mesh.serves[1 - active]));
    let (busiest, again) = (place.busiest_seconds(), place.writes() - created - changed);
    println!("{NAMESPACES} namespaces: {start:?} from the start of both replicas, {change:?} for a change of roots;");
    println!("a new namespace: {new_namespace:?}; at most {} requests of both in two seconds", busiest.len());
    println!("{created} writes, then {changed}, then {again} by the next active");
    println!("in those: {:?}", kinds(&busiest));
    assert!(busiest.len() <= 2 * REQUESTS_A_SECOND, "{:#?}", kinds(&busiest));
    assert_eq!((created, changed, again), (1005, 1005, 0));
    rules::check_use(&place.cluster);
}
