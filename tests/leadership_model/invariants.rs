//! What must hold, by name.

use countersign::domain::{
    clock::BootInstant,
    leadership::{Action, LeaseTiming, Occupancy, Term},
};

use crate::world::World;

type Checked = Result<(), String>;

/// In true time: whoever may sign by its own clock and grant is the only one.
pub(crate) fn at_most_one_may_sign_at_any_instant(world: &World) -> Checked {
    let mut signers = world.signers();
    match (signers.next(), signers.next()) {
        (Some(one), Some(other)) => {
            Err(broken("at_most_one_may_sign_at_any_instant", format!("{one:?} and {other:?}")))
        }
        _ => Ok(()),
    }
}

/// Over all grants of all replicas in the order of true time, also after the lease was deleted.
pub(crate) fn terms_never_repeat_or_fall(world: &World) -> Checked {
    for pair in world.intervals.windows(2) {
        if pair[1].term <= pair[0].term {
            return Err(broken("terms_never_repeat_or_fall", format!("{:?} then {:?}", pair[0], pair[1])));
        }
    }
    Ok(())
}

/// A deadline is counted from the sending of the renewal that was just acknowledged, lies inside its lease, and is still
/// to come.
pub(crate) fn step_down_precedes_expiry(
    timing: LeaseTiming,
    until: Option<BootInstant>,
    sent: Option<BootInstant>,
    now: BootInstant,
) -> Checked {
    match (until, sent) {
        (Some(until), Some(sent))
            if now < until && until <= sent.plus(timing.step_down()) && until < sent.plus(timing.lease()) =>
        {
            Ok(())
        }
        _ => Err(broken("step_down_precedes_expiry", format!("until {until:?}, sent {sent:?}, now {now:?}"))),
    }
}

/// The term of the one who is active.
pub(crate) fn someone_is_active_within_bound_once_quiet(world: &World) -> Result<Term, String> {
    let active = world.signers().next().map(|(_, term)| term);
    active
        .ok_or_else(|| broken("someone_is_active_within_bound_once_quiet", format!("nobody is at {} us", world.now())))
}

/// Exactly, not only at the instants that were looked at.
pub(crate) fn signatures_lie_inside_their_terms_interval_and_intervals_do_not_overlap(world: &World) -> Checked {
    const NAME: &str = "signatures_lie_inside_their_terms_interval_and_intervals_do_not_overlap";
    for pair in world.intervals.windows(2) {
        if pair[0].to.is_none_or(|to| to > pair[1].from) {
            return Err(broken(NAME, format!("{:?} and {:?}", pair[0], pair[1])));
        }
    }
    for signature in &world.signatures {
        let inside = world.intervals.iter().any(|interval| {
            interval.replica == signature.replica
                && interval.term == signature.term
                && interval.from <= signature.at
                && interval.to.is_none_or(|to| signature.at < to)
        });
        if !inside {
            return Err(broken(NAME, format!("{signature:?} in none of {:?}", world.intervals)));
        }
    }
    Ok(())
}

/// After each event the machine's own word is the driver's, and no deadline has passed unnoticed.
pub(crate) fn the_machine_says_what_it_granted(
    term: Option<Term>,
    grant: Option<(Term, Option<BootInstant>)>,
    now: BootInstant,
) -> Checked {
    let fits = term == grant.map(|(term, _)| term);
    let past = grant.is_some_and(|(_, until)| until.is_some_and(|until| now >= until));
    if fits && !past {
        Ok(())
    } else {
        Err(broken("the_machine_says_what_it_granted", format!("{term:?}, {grant:?}, {now:?}")))
    }
}

/// Nothing is released before the stores are closed, and one that was asked to leave never asks for anything again.
pub(crate) fn leaving_is_orderly(leaving: bool, closing: bool, action: &Action) -> Checked {
    let (releases, acquires) = match action {
        Action::ReleaseLock => (true, false),
        Action::WriteLease { record, .. } => match record.occupancy {
            Occupancy::Held(_) => (false, true),
            Occupancy::Released(_) | Occupancy::Vacant => (true, false),
        },
        Action::TryLock | Action::ClaimState { .. } | Action::Grant { .. } | Action::Extend { .. } => (false, true),
        Action::ReadLease | Action::Revoke { .. } | Action::CloseStores => (false, false),
    };
    if (releases && closing) || (acquires && (leaving || closing)) {
        return Err(broken("leaving_is_orderly", format!("{action:?}, closing: {closing}")));
    }
    Ok(())
}

/// At once, when it is told.
pub(crate) fn a_writer_that_finds_a_higher_term_steps_down(still_active: bool) -> Checked {
    if still_active {
        return Err(broken("a_writer_that_finds_a_higher_term_steps_down", "it did not".to_owned()));
    }
    Ok(())
}

/// What was due has been done when the machine is left alone.
pub(crate) fn no_busy_loop(wake: Option<BootInstant>, now: BootInstant) -> Checked {
    match wake {
        Some(wake) if wake <= now => {
            Err(broken("no_busy_loop", format!("to be woken at {wake:?}, which is not after {now:?}")))
        }
        _ => Ok(()),
    }
}

/// Requests to the lease since the process began.
pub(crate) fn requests_are_bounded(requests: u64, budget: u64) -> Checked {
    if requests <= budget { Ok(()) } else { Err(broken("requests_are_bounded", format!("{requests} of {budget}"))) }
}

fn broken(name: &str, how: String) -> String {
    format!("invariant {name}: {how}")
}
