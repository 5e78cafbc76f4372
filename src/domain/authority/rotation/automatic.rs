//! Which step is due without anybody asking for it, by SPIRE's thresholds.

use std::{collections::BTreeMap, time::Duration};

use super::{Authorities, AuthorityId, HandedOut, Phase, Slot};
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
/// one is prepared; a sixth, at most 7 days, and it is to sign. Until then whatever was handed out before the next one was prepared
/// must have expired, so what lives longer has that done earlier. `roots_end` says of intermediates when the last of the roots above
/// them ends: others may sign below those, so that the clock takes none out before.
pub fn due_step(
    authorities: &Authorities,
    roots_end: &BTreeMap<AuthorityId, Timestamp>,
    lifetime: Duration,
    handed_out: &HandedOut,
    now: Timestamp,
) -> Option<DueStep> {
    let slots = authorities.slots();
    let end = |slot: &Slot| roots_end.get(&slot.id).map_or(slot.not_after, |end| slot.not_after.max(*end));
    if let Some(ended) = slots.iter().find(|slot| slot.phase != Phase::Active && end(slot) <= now) {
        return Some(DueStep::Retire(ended.id.clone()));
    }
    let active = slots.iter().find(|slot| slot.phase == Phase::Active)?;
    let left = active.not_after.since(now);
    let last_part = (lifetime / 6).min(7 * DAY);
    match slots.iter().find(|slot| slot.phase == Phase::Prepared) {
        None => {
            let last_end = handed_out.last_end_of(&active.id);
            let is_outlived = last_end.is_some_and(|end| end > active.not_after.minus(last_part));
            (left < lifetime / 2 && (left < 30 * DAY || is_outlived)).then_some(DueStep::Prepare)
        }
        Some(prepared) => (left < last_part).then(|| DueStep::Activate(prepared.id.clone())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::authority::rotation::Step;

    const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);
    const NONE: BTreeMap<AuthorityId, Timestamp> = BTreeMap::new();

    /// With nothing handed out.
    fn due(
        authorities: &Authorities,
        roots_end: &BTreeMap<AuthorityId, Timestamp>,
        lifetime: Duration,
        now: Timestamp,
    ) -> Option<DueStep> {
        due_step(authorities, roots_end, lifetime, &HandedOut::default(), now)
    }

    #[test]
    fn what_lives_into_the_time_of_the_next_one_has_that_prepared_early_enough_to_outlast_it() {
        let (lifetime, end) = (3650 * DAY, NOW.plus(3650 * DAY));
        let one = Authorities::new("a".into(), end, 1);
        let with_leaf = |ends: Timestamp, now| {
            let mut handed_out = HandedOut::default();
            handed_out.record("a", 1, ends);
            due_step(&one, &NONE, lifetime, &handed_out, now)
        };
        let early = end.minus(97 * DAY);
        assert_eq!(with_leaf(end.minus(7 * DAY), early), None);
        assert_eq!(with_leaf(end.minus(6 * DAY), early), Some(DueStep::Prepare));
        assert_eq!(with_leaf(end, end.minus(lifetime / 2)), None, "not in the first half of a life");
    }

    #[test]
    fn the_next_is_prepared_at_half_and_signs_for_the_last_sixth_but_not_years_ahead() {
        for (lifetime, prepared_before_end, signs_before_end) in
            [(DAY, DAY / 2, DAY / 6), (30 * DAY, 15 * DAY, 5 * DAY), (3650 * DAY, 30 * DAY, 7 * DAY)]
        {
            let end = NOW.plus(lifetime);
            let second = Duration::from_secs(1);
            let one = Authorities::new("a".into(), end, 1);
            assert_eq!(due(&one, &NONE, lifetime, end.minus(prepared_before_end)), None);
            assert_eq!(due(&one, &NONE, lifetime, end.minus(prepared_before_end).plus(second)), Some(DueStep::Prepare));
            let prepare = Step::Prepare { id: "b".into(), not_after: end.plus(lifetime) };
            let two = one.after_by_force(&prepare, NOW).unwrap();
            assert_eq!(due(&two, &NONE, lifetime, end.minus(signs_before_end)), None);
            let activate = Some(DueStep::Activate("b".into()));
            assert_eq!(due(&two, &NONE, lifetime, end.minus(signs_before_end).plus(second)), activate);
            let turned = two.after_by_force(&Step::Activate("b".into()), NOW).unwrap();
            assert_eq!(due(&turned, &NONE, lifetime, end.minus(second)), None);
            assert_eq!(due(&turned, &NONE, lifetime, end), Some(DueStep::Retire("a".into())));
        }
    }

    #[test]
    fn one_that_was_prepared_and_never_signed_is_taken_out_at_its_end_too() {
        let one = Authorities::new("a".into(), NOW.plus(10 * DAY), 1);
        let soon = one.after_by_force(&Step::Prepare { id: "b".into(), not_after: NOW.plus(DAY) }, NOW).unwrap();
        assert_eq!(due(&soon, &NONE, 100 * DAY, NOW.plus(DAY)), Some(DueStep::Retire("b".into())));
    }

    #[test]
    fn an_intermediate_that_has_ended_stays_for_as_long_as_a_root_above_it() {
        let one = Authorities::new("a".into(), NOW.plus(10 * DAY), 1);
        let two = one.after_by_force(&Step::Prepare { id: "b".into(), not_after: NOW.plus(100 * DAY) }, NOW).unwrap();
        let turned = two.after_by_force(&Step::Activate("b".into()), NOW).unwrap();
        let roots_end = BTreeMap::from([("a".to_owned(), NOW.plus(50 * DAY))]);
        let second = Duration::from_secs(1);
        assert_eq!(due(&turned, &roots_end, 100 * DAY, NOW.plus(50 * DAY).minus(second)), None);
        let retire = Some(DueStep::Retire("a".into()));
        assert_eq!(due(&turned, &roots_end, 100 * DAY, NOW.plus(50 * DAY)), retire);
        assert_eq!(due(&turned, &NONE, 100 * DAY, NOW.plus(10 * DAY)), retire);
    }
}
