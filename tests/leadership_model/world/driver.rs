//! What a replica's driver does with its machine's actions, and when its signer signs.

use super::*;

impl World {
    /// A whole new process: it knows nothing and has a new identity.
    pub(super) fn start(&mut self, index: usize) {
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

    pub(super) fn end(&mut self, index: usize) {
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

    pub(super) fn deliver(&mut self, process: Process, event: Event) -> Result<(), String> {
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

    pub(super) fn answered(&mut self, process: Process, number: u64, event: Event) -> Result<(), String> {
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

    pub(super) fn act(&mut self, process: Process, action: Action) -> Result<(), String> {
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

    pub(super) fn request(&mut self, from: Process, action: Action) -> Result<(), String> {
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

    pub(super) fn sign(&mut self, index: usize) -> Result<(), String> {
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
}
