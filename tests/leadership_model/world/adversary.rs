//! What the adversary does to replicas, and to the lease by hand.

use countersign::domain::leadership::{Event, LeaseRecord, Occupancy, Term};

use super::{
    MILLI, Process, Told, World, holder,
    replica::replica_is_awake,
    scenario::{Edit, Fault},
};

impl World {
    pub(super) fn fault(&mut self, fault: Fault) -> Result<(), String> {
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

    pub(super) fn poke(&mut self, index: usize, event: Event) -> Result<(), String> {
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
}
