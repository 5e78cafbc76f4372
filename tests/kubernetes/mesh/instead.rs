//! The same gateway with pilot-agent in the place of our agent, and what each of the two is worth: a table.

use std::{
    fs,
    path::PathBuf,
    process::Command,
    time::{Duration, Instant},
};

use super::{
    GATEWAYS, Mesh, WARM_UP, agent::Agent, gateway::Gateway, roots::RootSwap, socket, traffic::Traffic,
    wait_until_through,
};
use crate::{
    cluster::{Account, block_on},
    istio::{
        objects::{MESH_ROOTS, roots_of},
        pilot_agent::{self, BOOTSTRAP},
    },
    network::in_own_network,
    support::{
        countersign::is_released,
        http::{self, free_port, loopback},
        process::Process,
        sidecar::{Proxy, ROOTS, Wanted, write_proxy},
        wait::wait_until,
    },
};

const TTL: Duration = Duration::from_secs(6);
const TTLS_WITHOUT_ISTIOD: u32 = 5;
const ROTATIONS: usize = 6;
const STARTS: usize = 3;
const START: Duration = Duration::from_secs(30);
/// Envoy itself asks again after up to 30 s.
const RECOVERY: Duration = Duration::from_secs(75);
/// So that the sidecar knows a new root soon.
const SIDECAR_TTL: Duration = TTL;
/// So that the sidecar has nothing to do with what becomes of the gateways without istiod.
const SIDECAR_LONG_TTL: Duration = Duration::from_secs(3600);

#[test]
fn a_table_of_what_pilot_agent_would_do_in_its_place() {
    in_own_network("mesh::instead::a_table_of_what_pilot_agent_would_do_in_its_place", |network| {
        let swap = RootSwap::new();
        let mut mesh = Mesh::start(network, &swap.old, &swap.first, SIDECAR_TTL);
        let account = block_on(mesh.place.cluster.account(GATEWAYS, "pilot-agent"));
        let ours = started("ours", |name| Ours::start(&mesh, name));
        let theirs = started("theirs", |name| Theirs::start(&mesh, &account, name));
        let mut sides = [Side::new(&mesh, "countersign", ours), Side::new(&mesh, "pilot-agent", theirs)];

        rotate(&mesh, &mut sides);
        swap_roots(&mesh, &swap, &mut sides);
        mesh.backend.restart_sidecar(SIDECAR_LONG_TTL);
        sides.iter().for_each(|side| wait_until_through(&side.gateway, WARM_UP));
        leave_them_alone(&mut mesh, &mut sides);
        sides.iter_mut().for_each(Side::look_at_it);
        print_table(&sides);

        let [ours, theirs] = &sides;
        for side in &sides {
            assert!(side.rows.iter().all(|(_, value)| !value.is_empty()), "{:?}", side.rows);
        }
        assert_eq!(ours.failed_rotating, 0, "requests failed while nothing but time passed");
        assert_eq!(ours.failed_swapping, 0, "requests failed while the root was replaced");
        assert!(ours.recovery <= Duration::from_secs(5), "{:?} after istiod was ready", ours.recovery);
        println!("pilot-agent came back {:?} after istiod was ready", theirs.recovery);
    });
}

/// What keeps the gateway's identity.
trait Keeper {
    fn socket(&self) -> PathBuf;
    fn id(&self) -> u32;
    fn name(&self) -> &'static str;
    fn metrics(&self) -> String;
    /// What a new client is told now, by the Workload API where there is one.
    fn says(&self) -> String;
    fn deliver_roots(&self, mesh: &Mesh);
}

struct Ours(Agent);

impl Ours {
    fn start(mesh: &Mesh, name: &str) -> Box<dyn Keeper> {
        Box::new(Self(mesh.agent(name, TTL)))
    }
}

impl Keeper for Ours {
    fn socket(&self) -> PathBuf {
        self.0.socket.clone()
    }

    fn id(&self) -> u32 {
        self.0.id()
    }

    fn name(&self) -> &'static str {
        "gateway"
    }

    fn metrics(&self) -> String {
        self.0.metrics()
    }

    fn says(&self) -> String {
        let said = socket::leaf_by_workload_api(&self.0.socket);
        said.map_or_else(|status| format!("{:?}", status.code()), |leaf| ended(leaf.not_after))
    }

    /// It watches the ConfigMap.
    fn deliver_roots(&self, _mesh: &Mesh) {}
}

/// A pilot-agent whose Envoy is nothing: that of the gateway asks its socket.
struct Theirs {
    process: Process,
    folder: PathBuf,
    status_port: u16,
}

impl Theirs {
    fn start(mesh: &Mesh, account: &Account, name: &str) -> Box<dyn Keeper> {
        let cluster = &mesh.place.cluster;
        block_on(cluster.pod(account, name));
        let folder = cluster.folder().join(name);
        let status_port = free_port();
        let proxy = Proxy {
            executable: write_proxy(&folder, &["sh", "-c", "'exec sleep infinity'"]),
            bootstrap: BOOTSTRAP.to_owned(),
            address: mesh.place.network.address(),
            admin_port: free_port(),
            status_port,
        };
        let istiod = mesh.control_plane.name_and_port();
        let roots = roots_of(cluster, GATEWAYS, MESH_ROOTS);
        let wanted = Wanted { ca: &istiod, istiod: &istiod, roots: &roots, ttl: TTL };
        let mut command: Command = pilot_agent::command(name, &folder, cluster, account, &wanted, &proxy);
        let process = Process::start(name, cluster.folder(), &mut command);
        Box::new(Self { process, folder, status_port })
    }
}

impl Keeper for Theirs {
    fn socket(&self) -> PathBuf {
        self.folder.join("var/run/secrets/workload-spiffe-uds/socket")
    }

    fn id(&self) -> u32 {
        self.process.id()
    }

    fn name(&self) -> &'static str {
        "pilot-agent"
    }

    fn metrics(&self) -> String {
        http::get(loopback(self.status_port), "/stats/prometheus").unwrap_or_else(|error| error)
    }

    fn says(&self) -> String {
        let said = socket::leaf_by_sds(&self.socket()).map_or_else(|error| error, |leaf| ended(leaf.not_after));
        said.chars().take(60).collect()
    }

    fn deliver_roots(&self, mesh: &Mesh) {
        fs::write(self.folder.join(ROOTS), roots_of(&mesh.place.cluster, GATEWAYS, MESH_ROOTS)).unwrap();
    }
}

fn ended(not_after: i64) -> String {
    match not_after - time::OffsetDateTime::now_utc().unix_timestamp() {
        left @ 0.. => format!("a certificate for {left} s"),
        left => format!("a certificate that ended {} s ago", -left),
    }
}

/// The last one of several, and from its start to its first certificate: the middle of all.
fn started(name: &str, start: impl Fn(&str) -> Box<dyn Keeper>) -> (Box<dyn Keeper>, Duration) {
    let mut times = Vec::new();
    let mut last = None;
    for turn in 0..STARTS {
        drop(last.take());
        let begin = Instant::now();
        let keeper = start(&format!("{name}-{turn}"));
        wait_until(START, &format!("the first certificate of {name}"), || socket::leaf_by_sds(&keeper.socket()));
        times.push(begin.elapsed());
        last = Some(keeper);
    }
    times.sort();
    (last.unwrap(), times[STARTS / 2])
}

/// A gateway, its load, and what was found of it.
struct Side {
    gateway: Gateway,
    traffic: Traffic,
    keeper: Box<dyn Keeper>,
    title: &'static str,
    rows: Vec<(&'static str, String)>,
    failed_rotating: usize,
    failed_swapping: usize,
    recovery: Duration,
}

impl Side {
    fn new(mesh: &Mesh, title: &'static str, (keeper, first): (Box<dyn Keeper>, Duration)) -> Self {
        let gateway = mesh.place.gateway(&format!("envoy-{title}"), &keeper.socket(), mesh.backend.service());
        wait_until_through(&gateway, WARM_UP);
        let traffic = Traffic::start(gateway.address);
        let rows = vec![("start to first SVID", format!("{} ms", first.as_millis()))];
        let recovery = Duration::ZERO;
        Self { gateway, traffic, keeper, title, rows, failed_rotating: 0, failed_swapping: 0, recovery }
    }

    fn id(&self) -> String {
        format!("spiffe://cluster.local/ns/{GATEWAYS}/sa/{}", self.keeper.name())
    }

    /// What it costs and shows, after all that.
    fn look_at_it(&mut self) {
        let status = fs::read_to_string(format!("/proc/{}/status", self.keeper.id())).unwrap();
        let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap().trim();
        let resident: f64 = resident.trim_end_matches(" kB").parse().unwrap();
        self.rows.push(("resident memory", format!("{:.1} MiB", resident / 1024.0)));
        let metrics = self.keeper.metrics();
        let expiry = metrics.lines().find(|line| {
            !line.starts_with('#') && (line.contains("certificate=\"svid\"") || line.contains("cert_expiry_seconds"))
        });
        self.rows.push(("expiry metric", expiry.map_or_else(|| format!("none: {metrics:.60}"), str::to_owned)));
        let clients = if socket::leaf_by_workload_api(&self.keeper.socket()).is_ok() { "yes" } else { "no" };
        self.rows.push(("Workload API on the socket", clients.to_owned()));
        self.gateway.check_it_runs();
    }
}

/// Counts requests that failed while certificates were replaced.
fn rotate(mesh: &Mesh, sides: &mut [Side; 2]) {
    let (begin, log) = (Instant::now(), mesh.backend.log());
    let serials = |side: &Side| log.distinct(&side.id(), "serial").len();
    let before = sides.each_ref().map(serials);
    wait_until(TTL * u32::try_from(ROTATIONS).unwrap(), "rotations of both at the sidecar", || {
        let now = sides.each_ref().map(serials);
        if before.iter().zip(&now).all(|(before, now)| now - before >= ROTATIONS) {
            Ok(())
        } else {
            Err(format!("{now:?}"))
        }
    });
    for side in sides {
        let (failed, all) = side.traffic.failed_since(begin);
        side.failed_rotating = failed;
        side.rows.push(("failed requests while certificates rotate", format!("{failed} of {all}")));
    }
}

fn leave_them_alone(mesh: &mut Mesh, sides: &mut [Side; 2]) {
    mesh.control_plane.kill();
    let gone = Instant::now();
    wait_until(TTL * (TTLS_WITHOUT_ISTIOD + 1), "the end of istiod's absence", || match gone.elapsed() {
        so_far if so_far >= TTL * TTLS_WITHOUT_ISTIOD => Ok(()),
        so_far => Err(format!("{so_far:?}")),
    });
    for side in sides.iter_mut() {
        side.rows.push(("what a new client is told without istiod", side.keeper.says()));
    }
    mesh.control_plane.start(&mesh.place.cluster);
    mesh.control_plane.wait_until_ready();
    let back = Instant::now();
    for side in sides {
        let first = wait_until(RECOVERY, &format!("requests by way of {}", side.title), || {
            let requests = side.traffic.since(back);
            let last_failed = requests.iter().rposition(|request| request.outcome.is_err());
            let after = last_failed.map_or(0, |index| index + 1);
            // several, so that it is not one of another worker's that had begun before
            if requests.len() > after + 10 { Ok(requests[after].at) } else { Err(format!("{:?}", requests.last())) }
        });
        side.recovery = first.saturating_duration_since(back);
        side.rows.push((
            "from istiod's return to the first request through",
            format!("{:.1} s", side.recovery.as_secs_f64()),
        ));
        let (failed, all) = side.traffic.failed_since(gone);
        side.rows.push(("failed requests without istiod", format!("{failed} of {all}")));
    }
}

fn swap_roots(mesh: &Mesh, swap: &RootSwap, sides: &mut [Side; 2]) {
    let begin = Instant::now();
    let gateways = sides.each_ref().map(|side| &side.gateway);
    let deliver = || sides.iter().for_each(|side| side.keeper.deliver_roots(mesh));
    swap.run(mesh, &gateways, deliver, |_step| sides.iter().for_each(|side| side.traffic.wait_for_more(50)));
    for side in sides {
        let (failed, all) = side.traffic.failed_since(begin);
        side.failed_swapping = failed;
        side.rows.push(("failed requests while the root is replaced", format!("{failed} of {all}")));
    }
}

fn print_table(sides: &[Side; 2]) {
    let [ours, theirs] = sides;
    let build = if is_released() { "release" } else { "debug build: its memory and times mean nothing" };
    println!("| measured, TTL {} s | {} ({build}) | {} |\n|---|---|---|", TTL.as_secs(), ours.title, theirs.title);
    for ((row, our), (_, their)) in ours.rows.iter().zip(&theirs.rows) {
        println!("| {row} | {our} | {their} |");
    }
}
