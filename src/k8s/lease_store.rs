//! The election's lease: the Lease object of a pair. Safety lies in the machine; this keeps to the letter of what it asks for.
//! A write is done only if the object is still the one that was read, or nobody can know whether it was done.

mod conflicts;
mod failures;
mod record;
mod watching;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client, Error, api::PostParams};
use tokio::{sync::watch, time::timeout};
use tracing::warn;

pub(in crate::k8s) use self::record::micro_time;
use self::{
    conflicts::Conflicts,
    failures::{Failure, Failures},
    record::Particulars,
};
use crate::{
    domain::{
        clock::Clock,
        leadership::{Action, Event, LeaseRecord, LeaseTiming, Observed, Term, Version},
    },
    service::{
        leadership::Election,
        ports::{BoxFuture, LeaseHolder},
        state_manifest::StateManifest,
    },
};

/// The Lease of a pair, as one replica reads and writes it. Requests come one at a time, from the driver of the election.
pub struct LeaseStore {
    api: Api<Lease>,
    name: String,
    timing: LeaseTiming,
    pair_address: Option<SocketAddr>,
    manifest: Arc<StateManifest>,
    clock: Arc<dyn Clock>,
    /// The object as it was last read or written: what others put there is written back.
    last: Mutex<Option<Lease>>,
    holder: watch::Sender<Option<LeaseHolder>>,
    conflicts: Conflicts,
    failures: Failures,
}

impl LeaseStore {
    /// The Lease `name` in `namespace`, by a client of the runtime that drives the election. `pair_address` is where this
    /// replica answers others, if it does.
    pub fn new(
        client: Client,
        namespace: &str,
        name: &str,
        timing: LeaseTiming,
        pair_address: Option<SocketAddr>,
        manifest: Arc<StateManifest>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            api: Api::namespaced(client, namespace),
            name: name.to_owned(),
            timing,
            pair_address,
            manifest,
            clock,
            last: Mutex::new(None),
            holder: watch::Sender::new(None),
            conflicts: Conflicts::default(),
            failures: Failures::default(),
        }
    }

    /// Who was last seen to hold the lease. It stays while the API server doesn't answer.
    pub fn observed(&self) -> watch::Receiver<Option<LeaseHolder>> {
        self.holder.subscribe()
    }

    async fn read(&self) -> Result<Event, Failure> {
        match self.api.get(&self.name).await {
            Ok(lease) => Ok(Event::LeaseRead(Some(self.saw(lease)?))),
            Err(error) if self.says_absent(&error) => {
                *self.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
                self.publish(None);
                Ok(Event::LeaseRead(None))
            }
            Err(error) => Err(error.into()),
        }
    }

    async fn write(&self, expected: Option<Version>, record: LeaseRecord) -> Result<Event, Failure> {
        let mut lease = match &expected {
            None => self.new_lease(),
            Some(version) => self.known(version)?,
        };
        let particulars =
            Particulars { now: self.clock.now(), duration: self.timing.lease(), pair_address: self.pair_address };
        record::write(&mut lease, &record, &particulars);
        // what could not be read stays, as a sign that there was something
        if self.manifest.known().unreadable.is_none() {
            let annotations = self.manifest.annotations().map(|(name, value)| (name.to_owned(), value));
            lease.metadata.annotations.get_or_insert_default().extend(annotations);
        }
        let parameters = PostParams::default();
        let written = match expected {
            None => self.api.create(&parameters, &lease).await,
            Some(_) => self.api.replace(&self.name, &parameters, &lease).await,
        };
        match written {
            Ok(lease) => {
                let Observed { version, .. } = self.saw(lease)?;
                if expected.as_ref() == Some(&version) {
                    // others see no sign of life in that
                    return Err(Failure::NothingChanged);
                }
                Ok(Event::LeaseWritten(version))
            }
            // a conflict is also what the server says of a name that is taken, or of an object that is another by now
            Err(Error::Api(status)) if status.code == 409 => Ok(Event::LeaseConflict),
            Err(error) if expected.is_some() && self.says_absent(&error) => Ok(Event::LeaseConflict),
            Err(error) => Err(error.into()),
        }
    }

    fn new_lease(&self) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some(self.name.clone());
        lease
    }

    /// The object of that version. It must bear its UID: a PUT without one would make a Lease that was deleted anew.
    fn known(&self, version: &Version) -> Result<Lease, Failure> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let known = last.filter(|lease| {
            lease.metadata.uid.is_some() && lease.metadata.resource_version.as_deref() == Some(version.as_str())
        });
        known.ok_or(Failure::NotAsRead)
    }

    fn saw(&self, lease: Lease) -> Result<Observed, Failure> {
        let observed = record::observed(&lease).ok_or(Failure::NoVersion)?;
        self.learn(&lease, observed.record.term);
        self.publish(record::holder(&lease));
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(lease);
        Ok(observed)
    }

    fn learn(&self, lease: &Lease, term: Term) {
        let Some(annotations) = &lease.metadata.annotations else { return };
        let known_before = self.manifest.known().unreadable;
        if let Err(error) = self.manifest.learn(annotations, term)
            && known_before.as_ref() != Some(&error)
        {
            warn!(event = "lease_manifest_unreadable", lease = self.name, %error);
        }
    }

    fn publish(&self, holder: Option<LeaseHolder>) {
        self.holder.send_if_modified(|published| {
            let modified = *published != holder;
            *published = holder;
            modified
        });
    }

    /// Whether the server says that there is no such Lease: not that it doesn't know Leases, or the namespace.
    fn says_absent(&self, error: &Error) -> bool {
        let Error::Api(status) = error else { return false };
        let name = status.details.as_ref().map(|details| (details.name.as_str(), details.kind.as_str()));
        status.code == 404 && name == Some((&self.name, "leases"))
    }

    /// The event that follows from a request: a write of what is `expected` there, or a read.
    async fn answer(
        &self,
        expected: Option<Option<Version>>,
        request: impl Future<Output = Result<Event, Failure>>,
    ) -> Event {
        let limit = self.timing.renew();
        let answer = timeout(limit, request).await.unwrap_or(Err(Failure::NoAnswer(limit)));
        let senseless = answer.as_ref().is_ok_and(|event| self.conflicts.are_senseless(expected, event));
        let failure = senseless.then_some(&Failure::Senseless);
        self.failures.note(&self.name, answer.as_ref().err().or(failure));
        answer.unwrap_or(Event::LeaseUnknown)
    }
}

impl Election for LeaseStore {
    fn request(&self, action: Action) -> BoxFuture<'_, Event> {
        Box::pin(async move {
            match action {
                Action::ReadLease => self.answer(None, self.read()).await,
                Action::WriteLease { expected, record } => {
                    self.answer(Some(expected.clone()), self.write(expected, record)).await
                }
                // a machine of lease tenure never asks for a lock, and the rest are no requests
                Action::TryLock
                | Action::ReleaseLock
                | Action::ClaimState { .. }
                | Action::Grant { .. }
                | Action::Extend { .. }
                | Action::Revoke { .. }
                | Action::CloseStores => Event::LockHeld,
            }
        })
    }

    /// There is no lock; the lease is released by a write.
    fn release(&self) {}

    fn trouble(&self) -> Option<Arc<str>> {
        self.failures.current()
    }
}
