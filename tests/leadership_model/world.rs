//! The model: replicas with a driver and a signer each, the lease or lock, the state objects, and true time.

mod adversary;
mod driver;
mod replica;
mod scenario;
mod servers;
mod told;

use std::{cmp::Reverse, collections::BTreeMap, time::Duration};

use countersign::domain::{
    clock::BootInstant,
    leadership::{Action, Event, HolderId, LeaseRecord, LeaseTiming, Machine, Reason, Role, Tenure, Term, Version},
};

pub(crate) use self::scenario::{Edit, Fault, Scenario};
use self::{
    replica::{Replica, replica_is_awake},
    told::Told,
};
use crate::invariants;

/// True time, in microseconds.
pub(crate) type Micros = u64;
const MILLI: Micros = 1_000;

#[derive(Clone, Debug)]
enum Item {
    Wake(Process),
    Arrive(Request),
    Answer(Process, u64, Event),
    Closed(Process),
    Sign(usize),
    Restart(Process),
    Fault(Fault),
}

/// One life of a replica.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Process {
    replica: usize,
    life: u64,
}

#[derive(Clone, Debug)]
struct Request {
    from: Process,
    number: u64,
    action: Action,
    /// For a claim: which state object is next.
    object: usize,
}

/// An interval of true time in which a replica might sign.
#[derive(Clone, Debug)]
pub(crate) struct Interval {
    pub(crate) replica: usize,
    pub(crate) term: Term,
    pub(crate) from: Micros,
    /// The first instant outside; `None` while it is open without a deadline.
    pub(crate) to: Option<Micros>,
}

#[derive(Clone, Debug)]
pub(crate) struct Signature {
    pub(crate) replica: usize,
    pub(crate) term: Term,
    pub(crate) at: Micros,
}

pub(crate) struct World {
    scenario: Scenario,
    tenure: Tenure,
    now: Micros,
    queue: BTreeMap<Reverse<(Micros, u64)>, Item>,
    sequence: u64,
    random: u64,
    quiet: bool,
    away_until: Micros,
    replicas: Vec<Replica>,
    lease: Option<(u64, LeaseRecord)>,
    versions: u64,
    history: Vec<LeaseRecord>,
    lock: Option<Process>,
    state: [Term; 2],
    pub(crate) intervals: Vec<Interval>,
    pub(crate) signatures: Vec<Signature>,
    told: Vec<(Micros, Told)>,
}

impl World {
    pub(crate) fn new(tenure: Tenure, scenario: Scenario) -> Self {
        let mut world = Self {
            tenure,
            now: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            random: scenario.seed,
            quiet: false,
            away_until: 0,
            replicas: Vec::new(),
            lease: None,
            versions: 0,
            history: Vec::new(),
            lock: None,
            state: [Term::NONE; 2],
            intervals: Vec::new(),
            signatures: Vec::new(),
            told: Vec::new(),
            scenario,
        };
        for (replica, rate) in world.scenario.rates.clone().into_iter().enumerate() {
            let offset = world.below(1_000_000_000_000);
            let id = holder(replica, 0);
            let machine = Machine::new(tenure, id.clone(), BootInstant::from_nanos(offset));
            world.replicas.push(Replica::new(machine, id, rate, offset));
            world.start(replica);
            world.at(MILLI, Item::Sign(replica));
        }
        for (at, fault) in world.scenario.faults.clone() {
            world.at(at * MILLI, Item::Fault(fault));
        }
        world
    }

    /// Runs the case to its end.
    pub(crate) fn run(&mut self) -> Result<(), String> {
        self.run_until(self.scenario.length * MILLI)?;
        self.calm();
        let quiet = self.now;
        self.run_until(quiet + self.bound())?;
        let first = invariants::someone_is_active_within_bound_once_quiet(self)?;
        self.run_until(self.now + 3_000 * MILLI)?;
        let second = invariants::someone_is_active_within_bound_once_quiet(self)?;
        if first != second {
            return Err(format!("the term went from {first} to {second} though all was quiet"));
        }
        invariants::terms_never_repeat_or_fall(self)?;
        invariants::signatures_lie_inside_their_terms_interval_and_intervals_do_not_overlap(self)
    }

    /// How long after the adversary has stopped somebody must be active: for a lease, the last faulty request's time, a
    /// lease to be waited out, another if the record doesn't tell, and some requests; all by the slowest clock.
    fn bound(&self) -> Micros {
        let bound = match self.tenure {
            Tenure::Lease(timing) => timing.lease() * 2 + timing.renew() * 4,
            Tenure::Lock => Duration::from_secs(3),
        };
        u64::try_from(bound.as_micros()).unwrap() * 1_000 / 900
    }

    fn run_until(&mut self, end: Micros) -> Result<(), String> {
        while let Some(entry) = self.queue.last_entry() {
            let Reverse((at, _)) = *entry.key();
            if at > end {
                break;
            }
            let item = entry.remove();
            // No two things happen at the same instant.
            self.now = at.max(self.now + 1);
            self.step(item)?;
            invariants::at_most_one_may_sign_at_any_instant(self)?;
        }
        self.now = end;
        Ok(())
    }

    /// The adversary stops.
    fn calm(&mut self) {
        self.tell(Told::Quiet);
        self.quiet = true;
        self.away_until = self.now;
        for replica in 0..self.replicas.len() {
            self.replicas[replica].paused_until = self.now;
            self.replicas[replica].down = 0;
            if !self.replicas[replica].alive {
                self.start(replica);
            }
        }
    }

    fn step(&mut self, item: Item) -> Result<(), String> {
        let subject = match &item {
            Item::Wake(process) | Item::Answer(process, ..) | Item::Closed(process) => Some(*process),
            Item::Restart(_) | Item::Arrive(_) | Item::Sign(_) | Item::Fault(_) => None,
        };
        if let Some(process) = subject {
            let replica = &self.replicas[process.replica];
            if !self.lives(process) {
                return Ok(());
            }
            if replica.paused_until > self.now {
                let later = replica.paused_until.min(self.scenario.length * MILLI) + self.below(5) * MILLI;
                self.at(later, item);
                return Ok(());
            }
        }
        match item {
            Item::Wake(process) => self.deliver(process, Event::Tick),
            Item::Answer(process, number, event) => self.answered(process, number, event),
            Item::Closed(process) => {
                if self.replicas[process.replica].claim_request.is_some() {
                    self.at(self.now + 10 * MILLI, item);
                    return Ok(());
                }
                self.replicas[process.replica].closing = false;
                self.deliver(process, Event::StoresClosed)
            }
            Item::Arrive(request) => {
                self.arrive(request);
                Ok(())
            }
            Item::Sign(replica) => self.sign(replica),
            Item::Restart(process) => {
                if process.life == self.replicas[process.replica].life && !self.replicas[process.replica].alive {
                    self.start(process.replica);
                }
                Ok(())
            }
            Item::Fault(fault) => self.fault(fault),
        }
    }

    // The driver.

    // Time, chance and the books.

    fn at(&mut self, when: Micros, item: Item) {
        self.sequence += 1;
        self.queue.insert(Reverse((when, self.sequence)), item);
    }

    fn lives(&self, process: Process) -> bool {
        let replica = &self.replicas[process.replica];
        replica.alive && replica.life == process.life
    }

    fn boot(&self, index: usize) -> BootInstant {
        let replica = &self.replicas[index];
        BootInstant::from_nanos(replica.offset + self.now * replica.rate)
    }

    /// The first microsecond of true time at which the replica's clock is there.
    fn truth(&self, index: usize, instant: Option<BootInstant>) -> Option<Micros> {
        let replica = &self.replicas[index];
        instant.map(|instant| (instant.nanos() - replica.offset).div_ceil(replica.rate))
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.random = self.random.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (mixed ^ (mixed >> 31)) % limit
    }

    fn lost(&mut self) -> bool {
        !self.quiet && self.below(100) < self.scenario.loss
    }

    fn delay(&mut self) -> Micros {
        let slow = !self.quiet && self.below(100) < self.scenario.slow;
        self.below(if slow { 4_000 } else { 20 } * MILLI)
    }

    fn open_interval(&mut self, index: usize) -> &mut Interval {
        self.intervals.iter_mut().rfind(|interval| interval.replica == index).unwrap()
    }

    fn close_interval(&mut self, index: usize) {
        let now = self.now;
        if self.replicas[index].grant.is_some() {
            let interval = self.open_interval(index);
            interval.to = Some(interval.to.map_or(now, |to| to.min(now)));
        }
    }

    fn tell(&mut self, told: Told) {
        self.told.push((self.now, told));
    }

    /// Replicas that may sign now, with their terms.
    pub(crate) fn signers(&self) -> impl Iterator<Item = (usize, Term)> {
        self.replicas.iter().enumerate().filter_map(|(index, replica)| {
            let (term, _) = replica.grant?;
            replica.may_sign(self.boot(index)).then_some((index, term))
        })
    }

    pub(crate) fn now(&self) -> Micros {
        self.now
    }
}

fn holder(replica: usize, life: u64) -> HolderId {
    HolderId::parse(&format!("replica-{replica}-{life}")).unwrap()
}

fn version(number: u64) -> Version {
    Version::new(&number.to_string())
}

fn whole(time: Duration, timing: LeaseTiming) -> u64 {
    u64::try_from(time.as_nanos() / timing.renew().as_nanos()).unwrap()
}
