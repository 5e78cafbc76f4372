//! Istiods of several revisions: given by their addresses, and found by their Services.

use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use k8s_openapi::api::core::v1::Service;
use kube::{Api, api::DeleteParams};
use tokio::{runtime::Runtime, time::sleep};
use tonic::Code;

use super::client::{Asked, ask, to_pair};
use crate::{
    cluster::{Account, Cluster, Place, TokenFor, block_on},
    istio::{
        istiod::{self, Ca, Istiod, SERVER_NAME},
        objects::{MESH_ROOTS, roots_of},
    },
    mesh::{control_plane::ControlPlane, pair::start},
    network::{Network, in_own_network},
    pair::{NAMESPACE, install_with, shipped},
    support::{
        authority::{Authority, Kind},
        certificate::Certificate,
        countersign::Serve,
        http::{free_port, loopback},
        observe::{readiness, said, wait_for},
        wait::wait_until,
    },
};

/// From the moment that an istiod is ready, or gone.
const SOON: Duration = Duration::from_secs(5);
/// Another istiod has the lock under which ConfigMaps are written when the one of before is gone, and a file is delivered.
const ROOTS: Duration = Duration::from_secs(60);
const LOAD: Duration = Duration::from_secs(30);
/// Between requests of one caller.
const PAUSE: Duration = Duration::from_millis(20);

#[test]
fn a_revision_that_is_killed_and_comes_back_under_load_fails_no_request_where_two_are_given() {
    let cluster = Cluster::start();
    let account = block_on(istiod::prepare(&cluster));
    let root = Authority::root("mesh");
    let files = root.below("istiod", Kind::P256).cacerts(&root.certificate);
    let ports = [free_port(), free_port()];
    let start_istiod = |port: u16| Istiod::start_on(port, &cluster, &account, Ca::Own(&files), &Default::default());
    let (first, second) = (start_istiod(ports[0]), start_istiod(ports[1]));
    let addresses = ports.map(|port| loopback(port).to_string());
    let given = ["--istiod-address", &addresses[0], "--istiod-address", &addresses[1]];
    let mut replicas = start_pair(&cluster, &[&given[..], &["--istiod-server-name", SERVER_NAME]].concat());
    replicas.iter().for_each(Serve::wait_until_ready);

    let load = Load::start(&cluster, &replicas, &root.certificate);
    load.wait_for_more(100);
    assert_eq!(second.requests(), 0, "the first one is well");
    drop(first);
    load.wait_for_more(200);
    assert!(second.requests() >= 200, "{}", second.requests());
    let first = start_istiod(ports[0]);
    wait_until(SOON, "requests at the first one again", || match first.requests() {
        0 => Err("none"),
        _ => Ok(()),
    });
    load.wait_for_more(100);
    println!("{} requests, none failed", load.check());
    replicas.iter_mut().for_each(check_it_runs);
}

#[test]
fn revisions_that_nobody_configured_are_found_as_they_come_and_left_as_they_go() {
    let name = "istiod_source::revisions::revisions_that_nobody_configured_are_found_as_they_come_and_left_as_they_go";
    in_own_network(name, |network| {
        // on loopback the API server does not start: it looks for a way to others
        let mut cluster = Cluster::start_at(&Place { address: network.address().into(), enter: Vec::new() }, &[]);
        let mut replicas = start_pair(&cluster, &[]);
        for replica in &replicas {
            wait_for("a replica without istiod", "istiod: not ready (IstioNotDetected: ", || readiness(replica));
            wait_for("which right is missing", "rbac-istiod-services.yaml", || replica.process.errors());
        }

        let roots = Roots::new();
        let mut a = Revision::plan("a", 51, &network, &cluster, &roots.first.cacerts(&roots.old.certificate));
        a.istiod.install(&cluster);
        block_on(cluster.apply_file(&shipped("rbac-istiod-services.yaml")));
        a.appear(&cluster);
        let ready = Instant::now();
        replicas.iter().for_each(|replica| wait_for("a replica ready", "istiod: ready (", || readiness(replica)));
        println!("both replicas have found the first revision {:?} after it was ready", ready.elapsed());
        replicas.iter().for_each(Serve::wait_until_ready);
        assert!(ready.elapsed() <= SOON, "{:?}", ready.elapsed());
        assert!(readiness(&replicas[0]).contains(&a.name()), "{}", readiness(&replicas[0]));

        let load = Load::start(&cluster, &replicas, &roots.both());
        load.wait_for_more(100);
        let mut b = Revision::plan("b", 52, &network, &cluster, &roots.second.cacerts(&roots.both()));
        b.istiod.install_beside(&a.istiod);
        a.istiod.plug_in(&roots.first.cacerts(&roots.both()));
        b.appear(&cluster);
        let found = format!("{}, {}", a.name(), b.name());
        replicas.iter().for_each(|replica| wait_for("both revisions", &found, || replica.process.errors()));
        wait_for_roots(&cluster, &roots.both());
        load.wait_for_more(100);
        assert!(load.by(&roots.second).is_none(), "the first one is well");

        let gone = Instant::now();
        a.disappear(&cluster);
        let since = wait_until(SOON, "certificates of the second revision", || load.by(&roots.second).ok_or("none"));
        println!("certificates of the second revision {:?} after the first one began to leave", since - gone);
        load.wait_for_more(100);
        assert!(load.last_is_by(&roots.second) && !readiness(&replicas[0]).contains(&a.name()));

        b.istiod.plug_in(&roots.second.cacerts(&roots.new.certificate));
        wait_for_roots(&cluster, &roots.new.certificate);
        load.wait_for_more(100);
        println!("{} requests, none failed", load.check());
        drop(load);
        for replica in &replicas {
            let by_new_root = Load::start(&cluster, std::slice::from_ref(replica), &roots.new.certificate);
            by_new_root.wait_for_more(1);
            by_new_root.check();
        }

        the_api_server_is_away(&mut cluster, &replicas, &b);
        b.disappear(&cluster);
        for replica in &replicas {
            wait_for("that nobody is left", "not ready (istiod.istio-system.svc:15012", || readiness(replica));
            assert_eq!(said(replica, "istiods_gone"), 1);
        }
        replicas.iter_mut().for_each(check_it_runs);
    });
}

/// Who is known stays known.
fn the_api_server_is_away(cluster: &mut Cluster, replicas: &[Serve], left: &Revision) {
    cluster.kill();
    for replica in replicas {
        wait_until(SOON, "that nothing is heard of Services", || match said(replica, "istiods_not_watched") {
            0 | 1 => Err(replica.process.errors()),
            _ => Ok(()),
        });
        assert!(readiness(replica).contains(&format!("it answers at {}", left.name())), "{}", readiness(replica));
    }
    cluster.restart();
    cluster.wait_until_ready();
}

/// Both replicas, with these flags beside those that all have.
fn start_pair(cluster: &Cluster, flags: &[&str]) -> [Serve; 2] {
    let account = block_on(install_with(cluster, "rbac-istiod.yaml"));
    let never = cluster.folder().join("never-mounted.pem");
    let common = ["--source", "istiod", "--istiod-root-file", never.to_str().unwrap()];
    let flags: Vec<String> = common.iter().chain(flags).map(|flag| (*flag).to_owned()).collect();
    [0, 1].map(|number| start(cluster, &account, number, &flags))
}

fn check_it_runs(replica: &mut Serve) {
    assert_eq!(replica.process.ended(), None, "it was never to end");
}

fn wait_for_roots(cluster: &Cluster, roots: &str) {
    let serials = |roots: &str| {
        let mut serials: Vec<String> = Certificate::from_pem(roots).into_iter().map(|root| root.serial).collect();
        serials.sort();
        serials
    };
    wait_until(ROOTS, "these roots in the ConfigMap", || match serials(&roots_of(cluster, NAMESPACE, MESH_ROOTS)) {
        found if found == serials(roots) => Ok(()),
        found => Err(format!("{found:?}")),
    });
}

/// The mesh's root of before and the one after it, each with an authority of istiod below it.
struct Roots {
    old: Authority,
    first: Authority,
    new: Authority,
    second: Authority,
}

impl Roots {
    fn new() -> Self {
        let (old, new) = (Authority::root("old"), Authority::root("new"));
        let (first, second) = (old.below("istiod of old", Kind::P256), new.below("istiod of new", Kind::P256));
        Self { old, first, new, second }
    }

    fn both(&self) -> String {
        self.old.certificate.clone() + &self.new.certificate
    }
}

/// A revision of Istio: its istiod, and the Service that leads there. Nothing runs here that makes addresses of Services lead
/// anywhere, so istiod itself is at its Service's.
struct Revision {
    revision: &'static str,
    address: Ipv4Addr,
    istiod: ControlPlane,
}

impl Revision {
    fn plan(
        revision: &'static str,
        last: u8,
        network: &Network,
        cluster: &Cluster,
        files: &crate::support::authority::Files,
    ) -> Self {
        let address = Ipv4Addr::new(10, 96, 0, last);
        network.add_address(address);
        let istiod = ControlPlane::plan_at((address, 15012).into(), revision, cluster, files);
        Self { revision, address, istiod }
    }

    /// As it is named where it is asked.
    fn name(&self) -> String {
        format!("istiod-{}.istio-system.svc ({}:15012)", self.revision, self.address)
    }

    /// As its chart makes it; until it is ready.
    fn appear(&mut self, cluster: &Cluster) {
        let Self { revision, address, .. } = self;
        block_on(cluster.apply(&format!(
            "
apiVersion: v1
kind: Service
metadata:
  name: istiod-{revision}
  namespace: istio-system
  labels: {{app: istiod, istio: pilot, istio.io/rev: {revision}}}
spec:
  clusterIP: {address}
  selector: {{app: istiod, istio.io/rev: {revision}}}
  ports: [{{name: grpc-xds, port: 15010}}, {{name: https-dns, port: 15012}}, {{name: https-webhook, port: 443}}]
"
        )));
        self.istiod.start(cluster);
        self.istiod.wait_until_ready();
    }

    /// For good.
    fn disappear(&mut self, cluster: &Cluster) {
        let name = format!("istiod-{}", self.revision);
        block_on(async {
            let services = Api::<Service>::namespaced(cluster.admin(), istiod::NAMESPACE);
            services.delete(&name, &DeleteParams::default()).await.map(drop)
        })
        .unwrap();
        self.istiod.leave();
    }
}

/// Callers that ask each replica again and again.
struct Load {
    seen: Arc<Mutex<Vec<Seen>>>,
    _runtime: Runtime,
}

struct Seen {
    at: Instant,
    /// Who has signed, or what was wrong.
    answer: Result<String, (Code, String)>,
}

impl Load {
    /// Verifies them by `roots`. Each has a caller that keeps its connection, and one that makes a new one each time.
    fn start(cluster: &Cluster, replicas: &[Serve], roots: &str) -> Self {
        let account = Account { namespace: "default".to_owned(), name: cluster.unique("caller") };
        let token = block_on(async {
            let account = cluster.account(&account.namespace, &account.name).await;
            cluster.token(&account, &TokenFor { audiences: &["istio-ca"], ..TokenFor::default() }).await
        });
        let (seen, runtime) = (Arc::<Mutex<Vec<Seen>>>::default(), Runtime::new().unwrap());
        for (replica, is_kept) in replicas.iter().flat_map(|replica| [(replica, true), (replica, false)]) {
            let (seen, token, roots, port) = (Arc::clone(&seen), token.clone(), roots.to_owned(), replica.port);
            runtime.spawn(async move {
                let mut channel = to_pair(port, &roots);
                loop {
                    let answer = ask(&channel, &Asked::by(&token)).await.map(|elements| elements[1].clone());
                    seen.lock().unwrap().push(Seen { at: Instant::now(), answer });
                    if !is_kept {
                        channel = to_pair(port, &roots);
                    }
                    sleep(PAUSE).await;
                }
            });
        }
        Self { seen, _runtime: runtime }
    }

    /// Waits for `count` further answers, of whatever kind.
    fn wait_for_more(&self, count: usize) {
        let all = || self.seen.lock().unwrap().len();
        let wanted = all() + count;
        wait_until(LOAD, "further answers", || match all() {
            seen if seen >= wanted => Ok(()),
            seen => Err(format!("{seen} of {wanted}")),
        });
    }

    /// When there was a certificate by this authority first.
    fn by(&self, authority: &Authority) -> Option<Instant> {
        let seen = self.seen.lock().unwrap();
        seen.iter().find(|seen| seen.is_by(authority)).map(|seen| seen.at)
    }

    fn last_is_by(&self, authority: &Authority) -> bool {
        self.seen.lock().unwrap().last().is_some_and(|seen| seen.is_by(authority))
    }

    /// How many requests there were; none has failed.
    fn check(&self) -> usize {
        let seen = self.seen.lock().unwrap();
        let failed: Vec<_> = seen.iter().filter_map(|seen| seen.answer.as_ref().err()).collect();
        assert!(failed.is_empty(), "{} of {} failed: {:?}", failed.len(), seen.len(), failed.first());
        seen.len()
    }
}

impl Seen {
    fn is_by(&self, authority: &Authority) -> bool {
        self.answer.as_ref().is_ok_and(|signer| signer.trim() == authority.certificate.trim())
    }
}
