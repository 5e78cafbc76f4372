//! Everything before istiod; istiod gone for long, and back: nobody is restarted.

use std::time::{Duration, Instant};

use tonic::Code;

use super::{
    Mesh, Place, Roots, WARM_UP,
    agent::Agent,
    control_plane::ControlPlane,
    pod::service_at,
    socket::{Look, Watch},
    traffic::Traffic,
    wait_until_through,
};
use crate::{
    network::in_own_network,
    support::{
        authority::{Authority, Kind},
        certificate::Certificate,
        peer::{lines, peer},
        process::Process,
        wait::wait_until,
    },
};

const TTL: Duration = Duration::from_secs(6);
const TTLS_WITHOUT_ISTIOD: u32 = 5;
/// From istiod's readiness on.
const RECOVERY: Duration = Duration::from_secs(5);
/// go-spiffe waits up to 30 s before it asks again.
const GO_SPIFFE: Duration = Duration::from_secs(35);
/// More than the failures after which an agent's pauses are as long as ever.
const PAUSES: u32 = 6;
const LONG: Duration = Duration::from_secs(30);
const SIDECAR_TTL: Duration = Duration::from_secs(3600);
/// Of a look, and of clocks that show whole seconds.
const BLUR: i64 = 1;

#[test]
fn the_gateway_may_be_there_before_istiod_and_outlives_it() {
    in_own_network("mesh::order::the_gateway_may_be_there_before_istiod_and_outlives_it", |network| {
        let root = Authority::root("mesh");
        let mut place = Place::new(network);
        let mut istiod =
            ControlPlane::plan(&place.cluster, &root.below("istiod", Kind::P256).cacerts(&root.certificate));

        // no roots, no kinds of objects, no namespace, no process
        let host = place.network.host("backend");
        let mut agent = place.agent("gateway", TTL, &istiod, Roots::Watched);
        let watch = Watch::start(&agent.socket);
        let mut with_file = place.agent("gateway-with-file", TTL, &istiod, Roots::Mounted);
        let watch_with_file = Watch::start(&with_file.socket);
        let mut gateway = place.gateway("envoy", &agent.socket, service_at(&host));
        wait_for_looks(&watch, 3);
        check_that_all_may_ask_again(&watch.looks(), "before istiod");
        assert!(agent.readiness().contains("IstioNotDetected"), "{}", agent.readiness());

        istiod.install(&place.cluster);
        istiod.start(&place.cluster);
        istiod.wait_until_ready();
        let ready = Instant::now();
        println!("SVID {:?} after istiod was ready, at first", first_svid(&watch, ready));
        the_file_comes_late(&place, &with_file, &watch_with_file);

        let mut mesh = Mesh::above(place, istiod, host, SIDECAR_TTL);
        wait_until_through(&gateway, WARM_UP);
        let traffic = Traffic::start(gateway.address);
        traffic.wait_for_more(100);
        traffic.check();

        let folder = mesh.place.cluster.folder().to_owned();
        let mut command = peer("spiffe-client");
        command.args(["--mode", "sources", "--serials", "1000", "--deadline", "10m"]);
        command.arg("--socket").arg(format!("unix://{}", agent.socket.display()));
        let mut client = Process::start("go-spiffe", &folder, &mut command);
        wait_until(RECOVERY, "two SVIDs at go-spiffe", || serials(&client, 2));

        let (gone, last) = leave(&mut mesh, &watch);
        let mut later = mesh.place.agent("gateway-later", TTL, &mesh.control_plane, Roots::Mounted);
        let its_watch = Watch::start(&later.socket);
        wait_until(TTL * (TTLS_WITHOUT_ISTIOD + 1), "the end of istiod's absence", || match gone.elapsed() {
            so_far if so_far >= TTL * TTLS_WITHOUT_ISTIOD => Ok(()),
            so_far => Err(format!("{so_far:?}")),
        });
        let known = lines(&client).len();
        let back = come_back(&mut mesh);

        for (name, watch) in [("held", &watch), ("new", &its_watch)] {
            println!("SVID of the {name} agent {:?} after istiod was ready again", first_svid(watch, back));
            check_that_all_may_ask_again(&watch.looks(), name);
        }
        check_the_absence(&watch.looks(), gone, back, &last);
        wait_until(RECOVERY * 3, "requests after istiod is back", || match traffic.since(back + RECOVERY) {
            requests if requests.len() > 50 => Ok(()),
            requests => Err(format!("{} requests", requests.len())),
        });
        assert_eq!(traffic.failed_since(back + RECOVERY).0, 0, "requests failed {RECOVERY:?} after istiod was ready");
        println!("(failed, all) requests while istiod was away: {:?}", traffic.failed_since(gone));
        wait_until(GO_SPIFFE, "another SVID at go-spiffe", || serials(&client, known + 1));

        gateway.check_it_runs();
        agent.check_it_runs();
        with_file.check_it_runs();
        later.check_it_runs();
        assert_eq!(client.ended(), None, "go-spiffe has given up");
    });
}

/// The ConfigMap has been there for long when the kubelet delivers it to an agent that has nothing else. Until then the file is
/// missing or empty for so long that the agent's pauses do not grow any more: waiting longer shows nothing else.
fn the_file_comes_late(place: &Place, agent: &Agent, watch: &Watch) {
    let tried_in_vain = |what: &str| {
        let before = failed_renewals(agent);
        wait_until(LONG, &format!("attempts with a file that is {what}"), || match failed_renewals(agent) - before {
            PAUSES.. => Ok(()),
            tried => Err(format!("{tried}")),
        });
        assert!(agent.readiness().contains("IstioNotDetected"), "{}", agent.readiness());
    };
    tried_in_vain("missing");
    place.roots.swap([("root-cert.pem", &b""[..])]);
    tried_in_vain("empty");
    check_that_all_may_ask_again(&watch.looks(), "without a file of roots");
    assert!(watch.looks().iter().all(|look| look.seen.is_err()), "an SVID without roots");
    place.deliver_roots();
    println!("SVID {:?} after the file of roots was delivered", first_svid(watch, Instant::now()));
}

fn failed_renewals(agent: &Agent) -> u32 {
    let page = agent.metrics();
    let count = page.lines().find_map(|line| line.strip_prefix("countersign_svid_renewals_total{outcome=\"failed\"} "));
    count.map_or(0, |count| count.parse().unwrap())
}

/// istiod goes: when, and what is held then.
fn leave(mesh: &mut Mesh, watch: &Watch) -> (Instant, Certificate) {
    mesh.control_plane.kill();
    let gone = Instant::now();
    // an answer that was on its way
    wait_for_looks(watch, 4);
    let last = watch.looks().pop().unwrap().seen.expect("an SVID just after istiod has gone");
    (gone, last)
}

/// istiod comes: when it is ready.
fn come_back(mesh: &mut Mesh) -> Instant {
    mesh.control_plane.start(&mesh.place.cluster);
    mesh.control_plane.wait_until_ready();
    Instant::now()
}

/// How long after `since` there was an SVID; none, if it was there before. However late that is looked for, it was in time.
fn first_svid(watch: &Watch, since: Instant) -> Duration {
    let after = wait_until(RECOVERY, "an SVID on the socket", || {
        let looks = watch.looks();
        let last_bad = looks.iter().rposition(|look| look.seen.is_err()).map_or(0, |index| index + 1);
        looks
            .get(last_bad)
            .map(|look| look.at.saturating_duration_since(since))
            .ok_or_else(|| format!("{:?}", looks.last()))
    });
    assert!(after <= RECOVERY, "an SVID only {after:?} after istiod was ready, or its roots were delivered");
    after
}

/// The last good SVID is there until it ends, and never after; then callers are told that it is for now.
fn check_the_absence(looks: &[Look], gone: Instant, back: Instant, last: &Certificate) {
    let (mut held, mut refused) = (0, 0);
    for look in looks.iter().filter(|look| look.at > gone && look.at < back) {
        match &look.seen {
            Ok(leaf) if leaf == last => {
                held += 1;
                assert!(look.clock <= last.not_after + BLUR, "an SVID that has ended: {look:?}");
            }
            // what was there before the last, or comes as soon as istiod answers, which is before it is ready
            Ok(leaf) => assert!(look.clock <= leaf.not_after + BLUR, "an SVID that has ended: {look:?}"),
            Err((code, _)) => {
                refused += 1;
                assert!(look.clock >= last.not_after - BLUR, "the SVID was not served to its end: {look:?}, {last:?}");
                assert_eq!(*code, Code::Unavailable, "{look:?}");
            }
        }
    }
    assert!(held > 0 && refused > 0, "{held} looks saw the last SVID, {refused} its absence");
    println!("istiod away for {:?}: {held} looks saw the last SVID, then {refused} Unavailable", back - gone);
}

/// That nobody was told anything for good.
fn check_that_all_may_ask_again(looks: &[Look], when: &str) {
    let bad: Vec<&Look> = looks
        .iter()
        .filter(|look| !matches!(look.seen, Ok(_) | Err((Code::Unavailable | Code::DeadlineExceeded, _))))
        .collect();
    assert!(bad.is_empty(), "{when}: {bad:#?}");
}

fn wait_for_looks(watch: &Watch, count: usize) {
    let before = watch.looks().len();
    wait_until(WARM_UP * 3, "further looks at the socket", || match watch.looks().len() {
        seen if seen >= before + count => Ok(()),
        seen => Err(format!("{}", seen - before)),
    });
}

fn serials(client: &Process, count: usize) -> Result<(), String> {
    match lines(client).len() {
        seen if seen >= count => Ok(()),
        seen => Err(format!("{seen} of {count}; {}", client.errors())),
    }
}
