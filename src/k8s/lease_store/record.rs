//! A Lease object, and what the election reads in it and writes there. Pure. Hands may edit every field of it: what doesn't
//! fit together is read in the stricter way, which is that nobody is known to have left.

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff,
};

use crate::{
    domain::{
        clock::Timestamp,
        leadership::{HolderId, LeaseRecord, Observed, Occupancy, Term, Version},
    },
    service::ports::LeaseHolder,
};

/// The term, in decimal.
const TERM: &str = "countersign.io/term";
/// The mark of a release: `TERM/HOLDER`.
const RELEASED: &str = "countersign.io/released";
/// Where the holder answers other replicas.
const PAIR_ADDRESS: &str = "countersign.io/pair-address";

/// More than this is a hand's slip. It is read like no term, or the numbers would run out; the state objects have the true one.
const LARGEST_TERM: u64 = 1 << 62;

/// What a write puts into the object besides the record. None of it decides anything.
#[derive(Clone, Debug)]
pub(super) struct Particulars {
    /// When.
    pub(super) now: Timestamp,
    /// How long others wait.
    pub(super) duration: Duration,
    /// Where the holder answers other replicas, if it does.
    pub(super) pair_address: Option<SocketAddr>,
}

/// What the object says; `None` if it has no version, which no API server leaves out.
pub(super) fn observed(lease: &Lease) -> Option<Observed> {
    let version = Version::new(lease.metadata.resource_version.as_deref().filter(|version| !version.is_empty())?);
    let term = annotation(lease, TERM).and_then(term_of).unwrap_or(Term::NONE);
    let occupancy = match holder_of(lease) {
        Some(holder) => Occupancy::Held(holder),
        None => match annotation(lease, RELEASED).and_then(released_by) {
            Some((released, holder)) if released == term => Occupancy::Released(holder),
            Some(_) | None => Occupancy::Vacant,
        },
    };
    Some(Observed { version, record: LeaseRecord { term, occupancy } })
}

/// Whom the object names as its holder, and where that one is to be asked.
pub(super) fn holder(lease: &Lease) -> Option<LeaseHolder> {
    let replica = holder_of(lease)?.as_str().to_owned();
    let term = annotation(lease, TERM).and_then(term_of).unwrap_or(Term::NONE);
    let pair_address = annotation(lease, PAIR_ADDRESS).and_then(|address| address.parse().ok());
    Some(LeaseHolder { replica, term, pair_address })
}

/// Makes the object say `record`. What it says otherwise, to anybody, stays.
pub(super) fn write(lease: &mut Lease, record: &LeaseRecord, particulars: &Particulars) {
    let held_before = holder_of(lease);
    let annotations = lease.metadata.annotations.get_or_insert_default();
    let term_before = annotations.insert(TERM.to_owned(), record.term.to_string());
    mark(annotations, record, particulars.pair_address);
    let spec = lease.spec.get_or_insert_default();
    let now = micro_time(particulars.now);
    if let Occupancy::Held(holder) = &record.occupancy
        && (held_before.as_ref() != Some(holder) || term_before != Some(record.term.to_string()))
    {
        spec.acquire_time.clone_from(&now);
        if held_before.as_ref() != Some(holder) {
            spec.lease_transitions =
                Some(spec.lease_transitions.map_or(0, |transitions| transitions.saturating_add(1)));
        }
    }
    spec.holder_identity = match &record.occupancy {
        Occupancy::Held(holder) => Some(holder.as_str().to_owned()),
        Occupancy::Released(_) | Occupancy::Vacant => None,
    };
    spec.renew_time = now;
    spec.lease_duration_seconds = Some(whole_seconds(particulars.duration));
}

fn mark(annotations: &mut BTreeMap<String, String>, record: &LeaseRecord, pair_address: Option<SocketAddr>) {
    annotations.remove(RELEASED);
    annotations.remove(PAIR_ADDRESS);
    match &record.occupancy {
        Occupancy::Held(_) => {
            pair_address.and_then(|address| annotations.insert(PAIR_ADDRESS.to_owned(), address.to_string()))
        }
        Occupancy::Released(holder) => annotations.insert(RELEASED.to_owned(), format!("{}/{holder}", record.term)),
        Occupancy::Vacant => None,
    };
}

fn annotation<'a>(lease: &'a Lease, name: &str) -> Option<&'a str> {
    lease.metadata.annotations.as_ref()?.get(name).map(String::as_str)
}

fn holder_of(lease: &Lease) -> Option<HolderId> {
    let LeaseSpec { holder_identity, .. } = lease.spec.as_ref()?;
    HolderId::parse(holder_identity.as_deref()?).ok()
}

/// Only as it is written here: no sign, no spaces, no leading zeros, not zero.
fn term_of(text: &str) -> Option<Term> {
    let number = text.parse::<u64>().ok().filter(|number| (1..=LARGEST_TERM).contains(number))?;
    (number.to_string() == text).then(|| Term::new(number))
}

fn released_by(mark: &str) -> Option<(Term, HolderId)> {
    let (term, holder) = mark.split_once('/')?;
    Some((term_of(term)?, HolderId::parse(holder).ok()?))
}

/// Information for people; none where the clock is far outside of what can be written.
pub(in crate::k8s) fn micro_time(time: Timestamp) -> Option<MicroTime> {
    jiff::Timestamp::from_microsecond(time.micros()).ok().map(MicroTime)
}

fn whole_seconds(duration: Duration) -> i32 {
    let rounded_up = duration.as_nanos().div_ceil(1_000_000_000).max(1);
    i32::try_from(rounded_up).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
