//! What the lock, the lease and the state objects answer.

use countersign::domain::leadership::{Action, Event, LeaseRecord, Observed, Tenure, Version};

use super::{Item, MILLI, Request, World, version};

impl World {
    pub(super) fn arrive(&mut self, mut request: Request) {
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

    pub(super) fn write(&mut self, record: Option<LeaseRecord>) -> Version {
        self.versions += 1;
        self.history.extend(record.clone());
        self.lease = record.map(|record| (self.versions, record));
        version(self.versions)
    }
}
