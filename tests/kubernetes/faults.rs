//! Each fault that a pair must bear, one after the other, under a steady load by both kinds of client. The table that it prints
//! is what `docs/failover.md` may promise.

use std::{
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;

use crate::{
    network::in_own_network,
    pair::{
        Pair, TAKE_OVER,
        agents::{self, Agent},
        citadel::{Citadel, CitadelCall, VirtualAddress, longest_without},
        load::{Load, longest, longest_gap},
        replica::{Replica, stop_all},
    },
    support::{issuance::Issued, wait::wait_until},
};

const AGENTS: usize = 6;
const CITADELS: usize = 4;
const LOOPS: usize = 8;
/// Calls of the load around each fault.
const BEFORE_AND_AFTER: usize = 80;
/// How long most faults last: longer than a lease.
const LONG: Duration = Duration::from_secs(8);
const SHORT: Duration = Duration::from_secs(5);
const LEAVING: Duration = Duration::from_secs(15);
/// From the end of a fault until one is active again, if both had to stop.
const AGAIN: Duration = Duration::from_secs(2);
/// pilot-agent renews at half of an identity's life, give or take a hundredth.
const RENEWED_AT: f64 = 0.51;
/// By how much a call may take longer because the active leaves in good order.
const LEFT_IN_ORDER: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug)]
enum Fault {
    SigtermOfTheActive,
    SigkillOfTheActive,
    SigstopOfTheActive,
    NodeOfTheActiveLost,
    NodeOfTheStandbyLost,
    ApiServerCutFromTheActive,
    ApiServerCutFromBoth,
    BothRestarted,
}

impl Fault {
    const ALL: [Self; 8] = [
        Self::SigtermOfTheActive,
        Self::SigkillOfTheActive,
        Self::SigstopOfTheActive,
        Self::NodeOfTheActiveLost,
        Self::NodeOfTheStandbyLost,
        Self::ApiServerCutFromTheActive,
        Self::ApiServerCutFromBoth,
        Self::BothRestarted,
    ];

    /// The life of an identity of pilot-agent that must outlive this fault, even if it was due for renewal when that began. One that
    /// takes two leases costs such an identity.
    fn shortest_life(self) -> Duration {
        match self {
            // its client sets no limit and stays with the lost node, until its kernel sends the packet again: after up to twice
            // the loss, whatever the replicas do
            Self::NodeOfTheActiveLost | Self::NodeOfTheStandbyLost => Duration::from_secs(40),
            _ => Duration::from_secs(20),
        }
    }

    /// Lets it happen and ends it: how long until another replica was active, where one has to take over.
    fn happen(self, pair: &mut Pair, active: usize) -> Option<Duration> {
        let begin = Instant::now();
        let (length, taken_over) = match self {
            Self::SigtermOfTheActive | Self::SigkillOfTheActive => (Duration::ZERO, true),
            Self::SigstopOfTheActive | Self::NodeOfTheActiveLost | Self::ApiServerCutFromTheActive => (LONG, true),
            Self::NodeOfTheStandbyLost => (LONG, false),
            Self::ApiServerCutFromBoth => (SHORT, false),
            Self::BothRestarted => (Duration::ZERO, false),
        };
        self.begin(pair, active);
        let took = taken_over.then(|| {
            pair.replicas[1 - active].wait_until_active(TAKE_OVER * 3);
            begin.elapsed()
        });
        thread::sleep(length.saturating_sub(begin.elapsed()));
        self.end(pair, active);
        took
    }

    fn begin(self, pair: &mut Pair, active: usize) {
        match self {
            Self::SigtermOfTheActive => pair.replicas[active].process.signal(Signal::TERM),
            Self::SigkillOfTheActive => pair.replicas[active].process.kill(),
            Self::SigstopOfTheActive => pair.replicas[active].process.pause(),
            Self::NodeOfTheActiveLost => pair.replicas[active].host().lose(),
            Self::NodeOfTheStandbyLost => pair.replicas[1 - active].host().lose(),
            Self::ApiServerCutFromTheActive => pair.replicas[active].host().lose_way_to(&pair.api),
            Self::ApiServerCutFromBoth => pair.api.lose(),
            Self::BothRestarted => {
                for replica in &mut pair.replicas {
                    replica.stop();
                    replica.restart();
                    replica.wait_until_ready();
                }
            }
        }
    }

    fn end(self, pair: &mut Pair, active: usize) {
        match self {
            Self::SigtermOfTheActive => {
                pair.replicas[active].process.wait_for_success(LEAVING);
                pair.replicas[active].restart();
            }
            Self::SigkillOfTheActive => pair.replicas[active].restart(),
            Self::SigstopOfTheActive => pair.replicas[active].process.resume(),
            Self::NodeOfTheActiveLost => pair.replicas[active].host().find(),
            Self::NodeOfTheStandbyLost => pair.replicas[1 - active].host().find(),
            Self::ApiServerCutFromTheActive => pair.replicas[active].host().find_way_to(&pair.api),
            Self::ApiServerCutFromBoth => pair.api.find(),
            Self::BothRestarted => {}
        }
    }
}

/// The clients of both kinds.
struct Clients {
    load: Load,
    agents: Vec<Agent>,
    citadels: Vec<Citadel>,
    one_address: VirtualAddress,
}

/// What they saw of one fault.
struct Row {
    fault: Fault,
    take_over: Option<Duration>,
    /// From its end until one was active.
    again: Duration,
    calls: usize,
    failures: usize,
    longest_gap: Duration,
    longest_call: Duration,
    /// The longest call shortly before.
    longest_before: Duration,
    rotations: usize,
    /// After it was due.
    latest_rotation: Duration,
    citadel_calls: usize,
    citadel_failures: Vec<String>,
    citadel_stall: Duration,
}

#[test]
fn no_fault_of_one_replica_costs_a_client_its_identity() {
    in_own_network("faults::no_fault_of_one_replica_costs_a_client_its_identity", |network| {
        let mut pair = Pair::start(network);
        let clients = Clients::start(&pair);
        let rows: Vec<Row> = Fault::ALL.into_iter().map(|fault| clients.watch(fault, &mut pair)).collect();
        show(&rows);
        let mut complaints = clients.complaints();
        complaints.extend(rows.iter().flat_map(Row::complaints));
        assert!(complaints.is_empty(), "{complaints:#?}");
        let serials = clients.serials();
        drop(clients);
        stop_all(&mut pair.replicas);
        check_records(&pair, &serials);
        check_rights(&pair);
    });
}

impl Clients {
    fn start(pair: &Pair) -> Self {
        let (addresses, roots, logs) = (pair.addresses(), pair.root_file(), pair.cluster.folder());
        let load = Load::start(&addresses, &pair.caller("load"), &roots, LOOPS);
        let agents = (0..AGENTS).map(|number| {
            let (name, mut addresses) = (format!("agent-{number}"), addresses.to_vec());
            addresses.rotate_left(number % 2);
            // apart, so that some are about to renew at any moment
            let ttl = agents::TTL + Duration::from_secs(2) * u32::try_from(number).unwrap();
            Agent::start(&name, logs, &addresses, &pair.caller(&name), &roots, ttl)
        });
        let agents = agents.collect();
        let one_address = VirtualAddress::of(addresses.each_ref().map(|address| address.parse().unwrap()));
        let citadels = (0..CITADELS).map(|number| {
            let name = format!("citadel-{number}");
            Citadel::start(&name, logs, one_address.address, &pair.caller(&name), &roots)
        });
        let citadels = citadels.collect();
        Self { load, agents, citadels, one_address }
    }

    fn watch(&self, fault: Fault, pair: &mut Pair) -> Row {
        self.one_address.scatter(&self.citadels);
        let (active, term) = pair.active();
        let before = Instant::now();
        self.load.wait_for_more(BEFORE_AND_AFTER * 2);
        let longest_before = longest(&self.load.calls(), before);
        let from = Instant::now();
        let (rotations, citadel_calls, failures) = (self.rotations(), self.citadel_calls(), self.failures().len());
        println!("{fault:?}: replica {active} is active in term {term}");
        let take_over = fault.happen(pair, active);
        let end = Instant::now();
        wait_until(AGAIN * 5, "one replica active", || {
            let roles = pair.replicas.each_ref().map(Replica::role);
            let count = roles.iter().filter(|role| matches!(role, Ok(Some(_)))).count();
            if count == 1 { Ok(()) } else { Err(format!("{roles:?}")) }
        });
        let again = end.elapsed();
        pair.replicas.iter().for_each(Replica::wait_until_ready);
        self.load.wait_for_more(BEFORE_AND_AFTER);
        wait_until(agents::TTL, "a rotation of each agent", || {
            let now: Vec<usize> = self.rotations().iter().map(Vec::len).collect();
            let all = now.iter().zip(&rotations).all(|(now, before)| *now > before.len());
            if all { Ok(()) } else { Err(format!("{now:?}: {:#?}", self.failures())) }
        });
        self.citadels.iter().for_each(|citadel| citadel.wait_for_more(2));
        let (_, after) = pair.active();
        if matches!(fault, Fault::NodeOfTheStandbyLost) {
            assert_eq!(after, term, "the loss of the standby ended the term");
        }

        let calls = self.load.calls();
        let of_each: Vec<Vec<CitadelCall>> = self.citadel_calls();
        let of_each = of_each.into_iter().zip(&citadel_calls).map(|(all, before)| all[before.len()..].to_vec());
        let of_each: Vec<Vec<CitadelCall>> = of_each.collect();
        let citadel_stall = of_each.iter().map(|calls| longest_without(calls)).max().unwrap_or_default();
        let around = of_each.concat();
        Row {
            fault,
            take_over,
            again,
            longest_before,
            calls: calls.iter().filter(|call| call.ended > from).count(),
            failures: self.failures().len() - failures,
            longest_gap: longest_gap(&calls, from),
            longest_call: longest(&calls, from),
            rotations: self.rotations().iter().zip(&rotations).map(|(now, before)| now.len() - before.len()).sum(),
            latest_rotation: self
                .rotations()
                .iter()
                .zip(&rotations)
                .map(|(now, before)| latest(now, before.len()))
                .max()
                .unwrap_or_default(),
            citadel_calls: around.len(),
            citadel_failures: around.iter().filter_map(|call| call.error.clone()).collect(),
            citadel_stall,
        }
    }

    /// Of every certificate that one of them got.
    fn serials(&self) -> Vec<String> {
        let load = self.load.calls().into_iter().map(|call| call.serial);
        let agents = self.rotations().into_iter().flatten().map(|rotation| rotation.serial);
        let citadels = self.citadel_calls().into_iter().flatten().filter_map(|call| call.serial);
        load.chain(agents).chain(citadels).collect()
    }

    fn rotations(&self) -> Vec<Vec<agents::Rotation>> {
        self.agents.iter().map(Agent::rotations).collect()
    }

    fn citadel_calls(&self) -> Vec<Vec<CitadelCall>> {
        self.citadels.iter().map(Citadel::calls).collect()
    }

    /// Calls and renewals by our client that failed, whether tried again or not.
    fn failures(&self) -> Vec<String> {
        self.load.failures().into_iter().chain(self.agents.iter().flat_map(Agent::complaints)).collect()
    }

    /// Those failures, and SVIDs that had expired before their successor came.
    fn complaints(&self) -> Vec<String> {
        let mut complaints = self.failures();
        for (agent, rotations) in self.rotations().iter().enumerate() {
            let late = rotations.windows(2).filter(|pair| pair[1].at > pair[0].not_after);
            complaints.extend(late.map(|pair| format!("agent {agent}: late: {pair:?}")));
        }
        complaints
    }
}

/// How long after it was due the latest rotation was, from the rotation `first` on.
fn latest(rotations: &[agents::Rotation], first: usize) -> Duration {
    let pairs = rotations.windows(2).skip(first.saturating_sub(1));
    let late = pairs.map(|pair| pair[1].at - pair[0].at - (pair[0].not_after - pair[0].at) * RENEWED_AT);
    late.map(|late| Duration::try_from(late).unwrap_or_default()).max().unwrap_or_default()
}

impl Row {
    /// What must not be.
    fn complaints(&self) -> Vec<String> {
        let Self { fault, take_over, again, longest_call, longest_before, latest_rotation, .. } = self;
        let mut complaints = Vec::new();
        let mut check = |fine: bool, what: String| {
            if !fine {
                complaints.push(format!("{fault:?}: {what}"));
            }
        };
        let took = take_over.unwrap_or_default();
        check(took <= TAKE_OVER, format!("taken over after {took:?}"));
        check(*again <= AGAIN, format!("active again only {again:?} after its end"));
        // nobody may sign for up to a take-over, or while no term can be confirmed; a renewal that is due then waits; half of a life is
        // longer
        let nobody_signs = if matches!(fault, Fault::ApiServerCutFromBoth) { SHORT + AGAIN } else { TAKE_OVER };
        check(*latest_rotation <= nobody_signs, format!("a rotation {latest_rotation:?} late"));
        let life = fault.shortest_life();
        let lost = self.citadel_stall > life.mul_f64(1.0 - RENEWED_AT);
        check(!lost, format!("{:?} without a certificate loses an identity of {life:?}", self.citadel_stall));
        if matches!(fault, Fault::SigtermOfTheActive) {
            let longer = longest_call.saturating_sub(*longest_before);
            check(longer <= LEFT_IN_ORDER, format!("a call took {longer:?} longer than any before"));
        }
        complaints
    }
}

fn check_records(pair: &Pair, got: &[String]) {
    let issued = Issued::list_all(&pair.replicas.each_ref().map(Replica::data));
    let terms = issued.check_terms();
    assert!(terms.len() > 6, "few terms: {terms:?}");
    let got = issued.check_sent(got);
    println!("{got} certificates at clients, {} on record, terms {:?}", issued.len(), terms.keys());
}

/// The shipped rights were enough.
fn check_rights(pair: &Pair) {
    let requests = pair.cluster.requests();
    let own: Vec<_> =
        requests.iter().filter(|request| request.user == "system:serviceaccount:countersign:countersign").collect();
    assert!(own.len() > 100, "only {} requests by the replicas", own.len());
    let denied: Vec<_> = own.iter().filter(|request| request.denied).collect();
    assert!(denied.is_empty(), "{denied:#?}");
    println!("{} API requests by the replicas, none denied", own.len());
}

fn show(rows: &[Row]) {
    println!(
        "{:<26}  {:>9} | {:>6} {:>6} {:>9} {:>9} {:>9} {:>9} | {:>6} {:>6} {:>9}",
        "", "", "agent", "", "longest", "longest", "", "latest", "cita-", "", "longest"
    );
    println!(
        "{:<26}  {:>9} | {:>6} {:>6} {:>9} {:>9} {:>9} {:>9} | {:>6} {:>6} {:>9}",
        "fault", "take-over", "calls", "failed", "gap", "call", "rotations", "after due", "del", "failed", "stall"
    );
    for row in rows {
        let took = row.take_over.map_or_else(|| "-".to_owned(), |took| format!("{} ms", took.as_millis()));
        println!(
            "{:<26}  {took:>9} | {:>6} {:>6} {:>6} ms {:>6} ms {:>9} {:>6} ms | {:>6} {:>6} {:>6} ms",
            format!("{:?}", row.fault),
            row.calls,
            row.failures,
            row.longest_gap.as_millis(),
            row.longest_call.as_millis(),
            row.rotations,
            row.latest_rotation.as_millis(),
            row.citadel_calls,
            row.citadel_failures.len(),
            row.citadel_stall.as_millis(),
        );
    }
    for row in rows.iter().filter(|row| !row.citadel_failures.is_empty()) {
        println!("{:?}: citadel clients said {:?}", row.fault, row.citadel_failures);
    }
}
