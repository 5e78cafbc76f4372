//! The model: replicas with a driver and a signer each, the lease or lock, the state objects, and true time.

use std::{cmp::Reverse, collections::BTreeMap, fmt::Write as _, time::Duration};

use countersign::domain::{
    clock::BootInstant,
    leadership::{
        Action, Event, HolderId, LeaseRecord, LeaseTiming, Machine, Observed, Occupancy, Reason, Role, Tenure, Term,
        Version,
    },
};
use proptest::sample::Index;

use crate::invariants;

/// True time, in microseconds.
pub(crate) type Micros = u64;
const MILLI: Micros = 1_000;

/// What the adversary does in one case. Times are in milliseconds.
#[derive(Clone, Debug)]
pub(crate) struct Scenario {
    /// Of delays, losses and the instants of signatures.
    pub(crate) seed: u64,
    /// Thousandths of true time, one per replica.
    pub(crate) rates: Vec<u64>,
    /// When the adversary stops.
    pub(crate) length: u64,
    /// Percentage of requests, and of answers, that are lost.
    pub(crate) loss: u64,
    /// Percentage of messages that take up to seconds.
    pub(crate) slow: u64,
    pub(crate) faults: Vec<(u64, Fault)>,
}

#[derive(Clone, Debug)]
pub(crate) enum Fault {
    Crash {
        replica: usize,
        down: u64,
    },
    /// Without `whole` only the driver stands still, and the signer goes on.
    Pause {
        replica: usize,
        length: u64,
        whole: bool,
    },
    Shutdown {
        replica: usize,
        down: u64,
    },
    Ticks {
        replica: usize,
        times: usize,
    },
    Nudge {
        replica: usize,
    },
    ServerAway {
        length: u64,
    },
    /// Somebody else claims the next term and vanishes.
    StateRaised,
    /// The replica's next claim finds that it can't use the state.
    StateUnusable {
        replica: usize,
    },
    Edit(Edit),
}

/// By hand, with no regard for versions.
#[derive(Clone, Debug)]
pub(crate) enum Edit {
    Delete,
    Vacate,
    Stranger,
    Holder(usize),
    Term(i64),
    /// Any record that ever stood there, also a release.
    Restore(Index),
}

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

pub(crate) struct Replica {
    life: u64,
    alive: bool,
    machine: Machine,
    id: HolderId,
    rate: u64,
    offset: u64,
    paused_until: Micros,
    signer_paused: bool,
    down: Micros,
    wake: Option<Micros>,
    lease_request: Option<(u64, BootInstant)>,
    claim_request: Option<(u64, Term)>,
    /// Asked to shut down.
    leaving: bool,
    /// Stores are being closed.
    closing: bool,
    born: BootInstant,
    requests: u64,
    free_requests: u64,
    /// Its next claim fails for good, after it was made.
    misfit: bool,
    /// The term granted and its deadline: what the signer goes by.
    grant: Option<(Term, Option<BootInstant>)>,
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

#[derive(Debug)]
enum Told {
    Event(usize, Event),
    Actions(usize, Vec<Action>),
    Fault(Fault),
    Started(usize, HolderId),
    Signed(Signature),
    Quiet,
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

    /// A whole new process: it knows nothing and has a new identity.
    fn start(&mut self, index: usize) {
        let boot = self.boot(index);
        let replica = &mut self.replicas[index];
        replica.life += 1;
        let id = holder(index, replica.life);
        let machine = Machine::new(self.tenure, id.clone(), boot);
        *replica = Replica {
            life: replica.life,
            alive: true,
            born: boot,
            ..Replica::new(machine, id, replica.rate, replica.offset)
        };
        let process = Process { replica: index, life: replica.life };
        let told = Told::Started(index, replica.id.clone());
        self.tell(told);
        self.at(self.now, Item::Wake(process));
    }

    fn end(&mut self, index: usize) {
        self.close_interval(index);
        let replica = &mut self.replicas[index];
        let process = Process { replica: index, life: replica.life };
        replica.alive = false;
        replica.grant = None;
        let back = self.now + replica.down;
        if self.lock == Some(process) {
            self.lock = None;
        }
        self.at(back, Item::Restart(process));
    }

    // The driver.

    fn deliver(&mut self, process: Process, event: Event) -> Result<(), String> {
        let index = process.replica;
        let now = self.boot(index);
        self.replicas[index].leaving |= event == Event::ShutdownAsked;
        // The lock's polling would drown everything else.
        if !matches!(event, Event::Tick | Event::LockHeld) {
            self.tell(Told::Event(index, event.clone()));
        }
        let acknowledged = self.replicas[index].lease_request.filter(|_| matches!(event, Event::LeaseWritten(_)));
        if matches!(
            event,
            Event::LeaseRead(_)
                | Event::LeaseWritten(_)
                | Event::LeaseConflict
                | Event::LeaseUnknown
                | Event::LockAcquired
                | Event::LockHeld
        ) {
            self.replicas[index].lease_request = None;
        }
        let actions = self.replicas[index].machine.handle(event, now);
        if !matches!(actions.as_slice(), [] | [Action::TryLock]) {
            self.tell(Told::Actions(index, actions.clone()));
        }
        for action in actions {
            if let (Tenure::Lease(timing), Action::Grant { until, .. }) = (self.tenure, &action) {
                invariants::step_down_precedes_expiry(timing, *until, acknowledged.map(|(_, sent)| sent), now)?;
            }
            if let (Tenure::Lease(timing), Action::Extend { until }) = (self.tenure, &action) {
                invariants::step_down_precedes_expiry(timing, Some(*until), acknowledged.map(|(_, sent)| sent), now)?;
            }
            self.act(process, action)?;
        }
        let replica = &self.replicas[index];
        invariants::the_machine_says_what_it_granted(replica.machine.term(), replica.grant, now)?;
        invariants::no_busy_loop(replica.machine.next_wake(), now)?;
        if let Tenure::Lease(timing) = self.tenure {
            let budget = replica.free_requests + 8 + 3 * whole(now.since(replica.born), timing);
            invariants::requests_are_bounded(replica.requests, budget)?;
        }
        if replica.machine.role() == Role::Stopped {
            if replica.grant.is_some() || self.lock == Some(process) {
                return Err(format!("replica {index} stopped with its term or lock"));
            }
            self.end(index);
            return Ok(());
        }
        if let Some(wake) = replica.machine.next_wake() {
            let wake = (wake.nanos() - replica.offset).div_ceil(replica.rate).max(self.now);
            if replica.wake != Some(wake) {
                self.replicas[index].wake = Some(wake);
                let late = if self.quiet { 0 } else { self.below(20) * MILLI };
                self.at(wake + late, Item::Wake(process));
            }
        }
        Ok(())
    }

    fn answered(&mut self, process: Process, number: u64, event: Event) -> Result<(), String> {
        let replica = &mut self.replicas[process.replica];
        let claim = replica.claim_request.filter(|(expected, _)| *expected == number);
        if let Some((_, term)) = claim {
            replica.claim_request = None;
            let event = if event == Event::LeaseUnknown { Event::StateUnknown { term } } else { event };
            return self.deliver(process, event);
        }
        if replica.lease_request.is_some_and(|(expected, _)| expected == number) {
            let event = match self.tenure {
                Tenure::Lock if event == Event::LeaseUnknown => return Ok(()),
                _ => event,
            };
            return self.deliver(process, event);
        }
        Ok(())
    }

    fn act(&mut self, process: Process, action: Action) -> Result<(), String> {
        let index = process.replica;
        invariants::leaving_is_orderly(self.replicas[index].leaving, self.replicas[index].closing, &action)?;
        match action {
            Action::Grant { term, until } => {
                if self.replicas[index].grant.is_some() {
                    return Err(format!("replica {index} was granted {term} while it had a term"));
                }
                self.replicas[index].grant = Some((term, until));
                self.intervals.push(Interval { replica: index, term, from: self.now, to: self.truth(index, until) });
            }
            Action::Extend { until } => {
                let Some((term, _)) = self.replicas[index].grant else {
                    return Err(format!("replica {index} extended nothing"));
                };
                self.replicas[index].grant = Some((term, Some(until)));
                let to = self.truth(index, Some(until));
                self.open_interval(index).to = to;
            }
            Action::Revoke { reason, .. } => {
                if reason == Reason::Expired && self.replicas[index].may_sign(self.boot(index)) {
                    return Err(format!("replica {index} called a term expired before its deadline"));
                }
                self.close_interval(index);
                self.replicas[index].grant = None;
            }
            Action::CloseStores => {
                self.replicas[index].closing = true;
                let after = self.now + self.below(100) * MILLI;
                self.at(after, Item::Closed(process));
            }
            Action::ReleaseLock => {
                if self.lock != Some(process) {
                    return Err(format!("replica {index} released a lock that it didn't hold"));
                }
                self.lock = None;
            }
            Action::TryLock | Action::ReadLease | Action::WriteLease { .. } | Action::ClaimState { .. } => {
                self.request(process, action)?;
            }
        }
        Ok(())
    }

    fn request(&mut self, from: Process, action: Action) -> Result<(), String> {
        self.sequence += 1;
        let number = self.sequence;
        let boot = self.boot(from.replica);
        let replica = &mut self.replicas[from.replica];
        let taken = if let Action::ClaimState { term } = action {
            replica.claim_request.replace((number, term)).is_some()
        } else {
            replica.requests += 1;
            replica.lease_request.replace((number, boot)).is_some()
        };
        if taken {
            return Err(format!("replica {} has two requests of one kind under way: {action:?}", from.replica));
        }
        let patience = 1_000_000 * 1_000 / replica.rate;
        let local = action == Action::TryLock;
        if local || !self.lost() {
            let arrival = self.now + if local { self.below(MILLI) } else { self.delay() };
            self.at(arrival, Item::Arrive(Request { from, number, action, object: 0 }));
        }
        self.at(self.now + patience, Item::Answer(from, number, Event::LeaseUnknown));
        Ok(())
    }

    // The servers.

    fn arrive(&mut self, mut request: Request) {
        let local = self.tenure == Tenure::Lock;
        if (local && !self.lives(request.from)) || (!local && self.now < self.away_until) {
            return;
        }
        let event = match &request.action {
            Action::TryLock => {
                if self.lock.is_none() {
                    self.lock = Some(request.from);
                    Event::LockAcquired
                } else {
                    Event::LockHeld
                }
            }
            Action::ReadLease => Event::LeaseRead(
                self.lease.clone().map(|(number, record)| Observed { version: version(number), record }),
            ),
            Action::WriteLease { expected, record } => {
                if self.lease.as_ref().map(|(number, _)| version(*number)) == *expected {
                    Event::LeaseWritten(self.write(Some(record.clone())))
                } else {
                    Event::LeaseConflict
                }
            }
            Action::ClaimState { term } => {
                let term = *term;
                if self.state[request.object] >= term {
                    Event::StateRefused { term, highest: self.state[0].max(self.state[1]) }
                } else {
                    self.state[request.object] = term;
                    if request.object == 0 {
                        request.object = 1;
                        let later = self.now + self.delay();
                        self.at(later, Item::Arrive(request));
                        return;
                    }
                    let replica = &mut self.replicas[request.from.replica];
                    if std::mem::take(&mut replica.misfit) && !self.quiet {
                        Event::StateUnusable { term }
                    } else {
                        Event::StateClaimed { term }
                    }
                }
            }
            other => unreachable!("{other:?} is no request"),
        };
        if request.action == Action::TryLock || !self.lost() {
            let back = self.now + if request.action == Action::TryLock { self.below(MILLI) } else { self.delay() };
            self.at(back, Item::Answer(request.from, request.number, event));
        }
    }

    fn write(&mut self, record: Option<LeaseRecord>) -> Version {
        self.versions += 1;
        self.history.extend(record.clone());
        self.lease = record.map(|record| (self.versions, record));
        version(self.versions)
    }

    // The signer.

    fn sign(&mut self, index: usize) -> Result<(), String> {
        let boot = self.boot(index);
        let replica = &self.replicas[index];
        let stands_still = replica.paused_until > self.now && replica.signer_paused;
        let next = self.now + 1 + self.below(600 * MILLI);
        self.at(next, Item::Sign(index));
        let replica = &self.replicas[index];
        if !stands_still && let Some((term, _)) = replica.grant.filter(|_| replica.may_sign(boot)) {
            // Now and then it writes to the state instead, and may meet a higher term there.
            let highest = self.state[0].max(self.state[1]);
            if (self.quiet || self.below(4) == 0) && highest > term {
                self.poke(index, Event::HigherTermSeen(highest))?;
                let told = replica_is_awake(&self.replicas[index], self.now);
                return invariants::a_writer_that_finds_a_higher_term_steps_down(
                    told && self.replicas[index].grant.is_some(),
                );
            }
            let signature = Signature { replica: index, term, at: self.now };
            self.tell(Told::Signed(signature.clone()));
            self.signatures.push(signature);
        }
        Ok(())
    }

    // The adversary.

    fn fault(&mut self, fault: Fault) -> Result<(), String> {
        self.tell(Told::Fault(fault.clone()));
        let count = self.replicas.len();
        match fault {
            Fault::Crash { replica, down } => {
                let index = replica % count;
                if self.replicas[index].alive {
                    self.replicas[index].down = down * MILLI;
                    self.end(index);
                }
            }
            Fault::Pause { replica, length, whole } => {
                self.replicas[replica % count].paused_until = self.now + length * MILLI;
                self.replicas[replica % count].signer_paused = whole;
            }
            Fault::Shutdown { replica, down } => {
                self.replicas[replica % count].down = down * MILLI;
                return self.poke(replica % count, Event::ShutdownAsked);
            }
            Fault::Ticks { replica, times } => {
                for _ in 0..times {
                    self.poke(replica % count, Event::Tick)?;
                }
            }
            Fault::Nudge { replica } => {
                self.replicas[replica % count].free_requests += 1;
                return self.poke(replica % count, Event::LeaseChanged);
            }
            Fault::ServerAway { length } => self.away_until = self.now + length * MILLI,
            Fault::StateUnusable { replica } => self.replicas[replica % count].misfit = true,
            Fault::StateRaised => self.state = [self.state[0].max(self.state[1]).next(); 2],
            Fault::Edit(edit) => self.edit(&edit),
        }
        Ok(())
    }

    fn poke(&mut self, index: usize, event: Event) -> Result<(), String> {
        let replica = &self.replicas[index];
        if replica.alive && replica_is_awake(replica, self.now) {
            return self.deliver(Process { replica: index, life: replica.life }, event);
        }
        Ok(())
    }

    fn edit(&mut self, edit: &Edit) {
        let Some((_, mut record)) = self.lease.clone() else { return };
        let edited = match edit {
            Edit::Delete => None,
            Edit::Vacate => Some(LeaseRecord { occupancy: Occupancy::Vacant, ..record }),
            Edit::Stranger => Some(LeaseRecord { occupancy: Occupancy::Held(holder(99, 0)), ..record }),
            Edit::Holder(replica) => {
                let id = self.replicas[replica % self.replicas.len()].id.clone();
                Some(LeaseRecord { occupancy: Occupancy::Held(id), ..record })
            }
            Edit::Term(by) => {
                record.term = Term::new(record.term.number().saturating_add_signed(*by));
                if let Occupancy::Released(_) = record.occupancy {
                    record.occupancy = Occupancy::Vacant;
                }
                Some(record)
            }
            Edit::Restore(index) => Some(index.get(&self.history).clone()),
        };
        self.write(edited);
    }

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

    /// What happened, a line each.
    pub(crate) fn story(&self) -> String {
        let mut story = String::new();
        for (at, told) in &self.told {
            write!(story, "{:>10.3} ms  ", *at as f64 / 1_000.0).unwrap();
            match told {
                Told::Event(replica, event) => writeln!(story, "{replica} <- {event:?}"),
                Told::Actions(replica, actions) => writeln!(story, "{replica} -> {actions:?}"),
                Told::Fault(fault) => writeln!(story, "!    {fault:?}"),
                Told::Started(replica, id) => writeln!(story, "{replica} started as {id}"),
                Told::Signed(Signature { replica, term, .. }) => writeln!(story, "{replica} signed in term {term}"),
                Told::Quiet => writeln!(story, "the adversary stops"),
            }
            .unwrap();
        }
        story
    }
}

impl Replica {
    fn new(machine: Machine, id: HolderId, rate: u64, offset: u64) -> Self {
        Self {
            life: 0,
            alive: false,
            machine,
            id,
            rate,
            offset,
            paused_until: 0,
            signer_paused: false,
            down: 0,
            wake: None,
            lease_request: None,
            claim_request: None,
            leaving: false,
            closing: false,
            born: BootInstant::from_nanos(offset),
            requests: 0,
            free_requests: 0,
            misfit: false,
            grant: None,
        }
    }

    fn may_sign(&self, now: BootInstant) -> bool {
        self.alive && self.grant.is_some_and(|(_, until)| until.is_none_or(|until| now < until))
    }
}

fn replica_is_awake(replica: &Replica, now: Micros) -> bool {
    replica.paused_until <= now
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
