//! Which step is due without anybody asking for it, by SPIRE's thresholds.

use std::{collections::BTreeMap, time::Duration};

use super::{Authorities, AuthorityId, Phase, Slot};
use crate::domain::clock::Timestamp;

/// A step that the clock asks for. It passes the same gates as an operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DueStep {
    /// Publish the next authority.
    Prepare,
    /// Sign by the prepared one.
    Activate(AuthorityId),
    /// Take out one that has come to its end, and all that it leads to.
    Retire(AuthorityId),
}

const DAY: Duration = Duration::from_secs(24 * 3600);

/// What is due at `now`. `lifetime` is the whole life of the one that signs: half of it before its end, at most 30 days, the next
/// one is prepared; a sixth, at most 7 days, and it is to sign. `roots_end` says of intermediates when the last of the roots above
/// them ends: others may sign below those, so that the clock takes none out before.
pub fn due_step(
    authorities: &Authorities,
    roots_end: &BTreeMap<AuthorityId, Timestamp>,
    lifetime: Duration,
    now: Timestamp,
) -> Option<DueStep> {
    let slots = authorities.slots();
    let end = |slot: &Slot| roots_end.get(&slot.id).map_or(slot.not_after, |end| slot.not_after.max(*end));
    if let Some(ended) = slots.iter().find(|slot| slot.phase != Phase::Active && end(slot) <= now) {
        return Some(DueStep::Retire(ended.id.clone()));
    }
    let active = slots.iter().find(|slot| slot.phase == Phase::Active)?;
    let left = active.not_after.since(now);
    match slots.iter().find(|slot| slot.phase == Phase::Prepared) {
        None => (left < (lifetime / 2).min(30 * DAY)).then_some(DueStep::Prepare),
        Some(prepared) => (left < (lifetime / 6).min(7 * DAY)).then(|| DueStep::Activate(prepared.id.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::rotation::Step;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const NONE: BTreeMap<AuthorityId, Timestamp> = BTreeMap::new();

    #[test]
    fn the_next_is_prepared_at_half_and_signs_for_the_last_sixth_but_not_years_ahead() {
        for (lifetime, prepared_before_end, signs_before_end) in
            [(DAY, DAY / 2, DAY / 6), (30 * DAY, 15 * DAY, 5 * DAY), (3650 * DAY, 30 * DAY, 7 * DAY)]
        {
            let end = NOW.plus(lifetime);
            let second = Duration::from_secs(1);
            let one = Authorities::new("a".into(), end, 1);
            assert_eq!(due_step(&one, &NONE, lifetime, end.minus(prepared_before_end)), None);
            assert_eq!(
                due_step(&one, &NONE, lifetime, end.minus(prepared_before_end).plus(second)),
                Some(DueStep::Prepare)
            );
            let prepare = Step::Prepare { id: "b".into(), not_after: end.plus(lifetime) };
            let two = one.after_by_force(&prepare, NOW).unwrap();
            assert_eq!(due_step(&two, &NONE, lifetime, end.minus(signs_before_end)), None);
            let activate = Some(DueStep::Activate("b".into()));
            assert_eq!(due_step(&two, &NONE, lifetime, end.minus(signs_before_end).plus(second)), activate);
            let turned = two.after_by_force(&Step::Activate("b".into()), NOW).unwrap();
            assert_eq!(due_step(&turned, &NONE, lifetime, end.minus(second)), None);
            assert_eq!(due_step(&turned, &NONE, lifetime, end), Some(DueStep::Retire("a".into())));
        }
    }

    #[test]
    fn one_that_was_prepared_and_never_signed_is_taken_out_at_its_end_too() {
        let one = Authorities::new("a".into(), NOW.plus(10 * DAY), 1);
        let soon = one.after_by_force(&Step::Prepare { id: "b".into(), not_after: NOW.plus(DAY) }, NOW).unwrap();
        assert_eq!(due_step(&soon, &NONE, 100 * DAY, NOW.plus(DAY)), Some(DueStep::Retire("b".into())));
    }

    #[test]
    fn an_intermediate_that_has_ended_stays_for_as_long_as_a_root_above_it() {
        let one = Authorities::new("a".into(), NOW.plus(10 * DAY), 1);
        let two = one.after_by_force(&Step::Prepare { id: "b".into(), not_after: NOW.plus(100 * DAY) }, NOW).unwrap();
        let turned = two.after_by_force(&Step::Activate("b".into()), NOW).unwrap();
        let roots_end = BTreeMap::from([("a".to_owned(), NOW.plus(50 * DAY))]);
        let second = Duration::from_secs(1);
        assert_eq!(due_step(&turned, &roots_end, 100 * DAY, NOW.plus(50 * DAY).minus(second)), None);
        let retire = Some(DueStep::Retire("a".into()));
        assert_eq!(due_step(&turned, &roots_end, 100 * DAY, NOW.plus(50 * DAY)), retire);
        assert_eq!(due_step(&turned, &NONE, 100 * DAY, NOW.plus(10 * DAY)), retire);
    }
}
