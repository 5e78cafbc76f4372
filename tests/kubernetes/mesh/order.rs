//! Everything before istiod; istiod gone for long, and back: nobody is restarted. With agents at istiod, and with agents at a
//! pair before it.

mod observed;

use std::time::{Duration, Instant};

use self::observed::{Observed, RECOVERY, wait_for_serials};
use super::{
    Mesh, Place, Roots, WARM_UP, control_plane::ControlPlane, gateway::Gateway, pair::Pair, traffic::Traffic,
    wait_until_through,
};
use crate::{
    network::in_own_network,
    support::{
        authority::{Authority, Kind},
        mount::Mount,
        peer::lines,
        process::Process,
        wait::{wait_for_time, wait_until},
    },
};

/// The gateways are there so long before Istio's kinds of objects, its ConfigMap and istiod.
const BEFORE_ISTIO: Duration = Duration::from_secs(60);
/// So late may a kubelet deliver a ConfigMap.
const KUBELET: Duration = Duration::from_secs(90);
const TTL: Duration = Duration::from_secs(6);
const TTLS_WITHOUT_ISTIOD: u32 = 5;
const SIDECAR_TTL: Duration = Duration::from_secs(3600);
/// go-spiffe waits up to 30 s before it asks again.
const GO_SPIFFE: Duration = Duration::from_secs(35);

/// The name of a way to istiod, and the flags of an agent that goes it.
type Way = (&'static str, Vec<String>);

#[test]
fn the_gateway_may_be_there_before_istiod_and_outlives_it() {
    in_own_network("mesh::order::the_gateway_may_be_there_before_istiod_and_outlives_it", |network| {
        let root = Authority::root("mesh");
        let mut place = Place::new(network);
        let mut istiod =
            ControlPlane::plan(&place.cluster, &root.below("istiod", Kind::P256).cacerts(&root.certificate));

        // no roots, no kinds of objects, no namespace, no process
        let host = place.network.host("backend");
        let pair = Pair::spawn(&place, &istiod);
        let ways = [("istiod", istiod.agent_flags()), ("pair", pair.agent_flags())];
        let kubelet = Mount::at(place.cluster.folder().join("late-roots"));
        let mut agents = agents_by(&ways, &place, "gateway", Roots::Watched);
        let by_file = pair.spawn_by_file(&place, &istiod, &kubelet);
        let late_ways = [("istiod", istiod.agent_flags()), ("replica-by-file", by_file.agent_flags())];
        let mut late = agents_by(&late_ways, &place, "late-gateway", Roots::Mounted(&kubelet));
        let started = Instant::now();
        let mut gateways = agents.each_ref().map(|agent| agent.gateway(&place, &host));
        wait_for_time(started, BEFORE_ISTIO, "the time before Istio");
        agents.iter().chain(&late).for_each(Observed::check_it_waits);

        istiod.install(&place.cluster);
        istiod.start(&place.cluster);
        istiod.wait_until_ready();
        let ready = Instant::now();
        agents.iter().for_each(|agent| agent.check_recovery(ready, "istiod was ready, at first"));

        let mut mesh = Mesh::above(place, istiod, host, SIDECAR_TTL);
        // a file that is there and empty is none either
        kubelet.swap([("root-cert.pem", &b""[..])]);
        without_istiod(&mut mesh, &ways, &agents, &gateways);

        wait_for_time(ready, KUBELET, "the delivery of the mounted roots");
        late.iter().for_each(Observed::check_it_waits);
        mesh.place.deliver_roots(&kubelet);
        let delivered = Instant::now();
        late.iter().for_each(|agent| agent.check_recovery(delivered, "its roots were delivered"));

        agents.iter_mut().chain(&mut late).for_each(Observed::check_it_runs);
        gateways.iter_mut().for_each(Gateway::check_it_runs);
        [pair, by_file].iter_mut().for_each(Pair::check_it_runs);
    });
}

fn agents_by(ways: &[Way; 2], place: &Place, name: &str, roots: Roots<'_>) -> [Observed; 2] {
    ways.each_ref().map(|(way, flags)| Observed::start(place, format!("{name}-at-{way}"), TTL, flags, roots))
}

/// istiod goes for five TTLs, and comes back. Meanwhile there are further replicas of the gateway, whose roots are mounted in time.
fn without_istiod(mesh: &mut Mesh, ways: &[Way; 2], agents: &[Observed; 2], gateways: &[Gateway; 2]) {
    gateways.iter().for_each(|gateway| wait_until_through(gateway, WARM_UP));
    let traffic = gateways.each_ref().map(|gateway| Traffic::start(gateway.address));
    for traffic in &traffic {
        traffic.wait_for_more(100);
        traffic.check();
    }
    let mut clients = agents.each_ref().map(|agent| agent.go_spiffe(&mesh.place));
    clients.iter().for_each(|client| wait_for_serials(client, 2, RECOVERY));

    mesh.control_plane.kill();
    let gone = Instant::now();
    let last = agents.each_ref().map(Observed::held);
    let mounted = Mount::at(mesh.place.cluster.folder().join("roots"));
    mesh.place.deliver_roots(&mounted);
    let mut later = agents_by(ways, &mesh.place, "later-gateway", Roots::Mounted(&mounted));
    wait_for_time(gone, TTL * TTLS_WITHOUT_ISTIOD, "the end of istiod's absence");
    later.iter().for_each(Observed::check_it_has_none);
    let known = clients.each_ref().map(|client| lines(client).len());

    mesh.control_plane.start(&mesh.place.cluster);
    mesh.control_plane.wait_until_ready();
    let back = Instant::now();
    agents.iter().chain(&later).for_each(|agent| agent.check_recovery(back, "istiod was ready again"));
    agents.iter().zip(&last).for_each(|(agent, last)| agent.check_the_absence(gone, back, last));
    for traffic in &traffic {
        wait_until(RECOVERY * 3, "requests after istiod is back", || match traffic.since(back + RECOVERY).len() {
            51.. => Ok(()),
            seen => Err(format!("{seen} requests")),
        });
        assert_eq!(traffic.failed_since(back + RECOVERY).0, 0, "requests failed {RECOVERY:?} after istiod was ready");
        println!("(failed, all) requests while istiod was away: {:?}", traffic.failed_since(gone));
    }
    clients.iter().zip(known).for_each(|(client, known)| wait_for_serials(client, known + 1, GO_SPIFFE));
    later.iter_mut().for_each(Observed::check_it_runs);
    assert!(clients.iter_mut().all(|client: &mut Process| client.ended().is_none()), "go-spiffe has given up");
}
