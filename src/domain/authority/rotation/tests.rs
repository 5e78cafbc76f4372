use std::time::Duration;

use proptest::prelude::*;

use super::*;

const START: Timestamp = Timestamp::from_seconds(1_800_000_000);
const LIFE: Duration = Duration::from_secs(1_000_000);
const TTL: Duration = Duration::from_secs(3600);

fn at(seconds: u64) -> Timestamp {
    START.plus(Duration::from_secs(seconds))
}

fn prepare(id: &str) -> Step {
    Step::Prepare { id: id.into(), not_after: START.plus(LIFE) }
}

fn reached(who: &str, sequence: u64) -> Reached {
    Reached { who: who.into(), sequence }
}

fn phases(authorities: &Authorities) -> Vec<(&str, Phase, bool)> {
    authorities.slots().iter().map(|slot| (slot.id.as_str(), slot.phase, slot.tainted)).collect()
}

#[test]
fn a_rotation_goes_from_prepare_to_revoke_and_each_step_waits_for_its_own() {
    let mut handed_out = HandedOut::default();
    let one = Authorities::new("a".into(), START.plus(LIFE), 7);
    handed_out.record("a", 7, at(3600));

    let none = Evidence::default();
    let prepared = one.after(&prepare("b"), &handed_out, &none, at(0)).unwrap();
    assert_eq!(phases(&prepared), [("a", Phase::Active, false), ("b", Phase::Prepared, false)]);
    assert_eq!(prepared.sequence(), 8);

    let activate = Step::Activate("b".into());
    let mut evidence = Evidence {
        followers: vec![reached("agent ns/gateway", 7), reached("agent ns/other", 8)],
        places: vec![reached("ConfigMap x/istio-ca-root-cert", 0)],
        endpoint: Some(Offered { since: at(0), hint: Duration::from_secs(300) }),
    };
    let refused = prepared.after(&activate, &handed_out, &evidence, at(10)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        format!(
            "agent ns/gateway has bundle 7, not 8; ConfigMap x/istio-ca-root-cert has not said that it has bundle 8; others \
             that federate may not have read the bundle before {}; SVIDs that it would break end at {} only",
            at(900),
            at(3600)
        )
    );
    evidence.followers[0].sequence = 9;
    evidence.places[0].sequence = 8;
    let hinted = |seconds| Offered { since: at(0), hint: Duration::from_secs(seconds) };
    for (hint, waits_for) in [(1, 45), (15, 45), (16, 48)] {
        let evidence = Evidence { endpoint: Some(hinted(hint)), ..evidence.clone() };
        let obstacles = prepared.obstacles(&activate, &handed_out, &evidence, at(10));
        assert!(obstacles.contains(&Obstacle::NotFetched { until: at(waits_for) }), "{hint} s: {obstacles:?}");
    }
    let obstacles = |now| prepared.obstacles(&activate, &handed_out, &evidence, now);
    assert_eq!(obstacles(at(899)).len(), 2);
    assert_eq!(obstacles(at(900)), [Obstacle::StillHeld { until: at(3600) }]);
    assert_eq!(obstacles(at(3600)).len(), 1, "the last second counts");
    let active = prepared.after(&activate, &handed_out, &evidence, at(3601)).unwrap();
    assert_eq!(phases(&active), [("a", Phase::Old, false), ("b", Phase::Active, false)]);
    assert_eq!(active.sequence(), 8, "what is published has not changed");

    let revoke = Step::Revoke("a".into());
    handed_out.record("a", 8, at(7000));
    let refused = active.after(&revoke, &handed_out, &evidence, at(3700));
    assert_eq!(refused, Err(StepRefused::NotTainted("a".into())));
    let tainted = active.after(&Step::Taint("a".into()), &handed_out, &evidence, at(3700)).unwrap();
    assert_eq!(phases(&tainted), [("a", Phase::Old, true), ("b", Phase::Active, false)]);
    let refused = tainted.after(&revoke, &handed_out, &evidence, at(7000));
    assert_eq!(refused, Err(StepRefused::Obstacles(vec![Obstacle::StillHeld { until: at(7000) }])));
    let done = tainted.after(&revoke, &handed_out, &evidence, at(7001)).unwrap();
    assert_eq!(phases(&done), [("b", Phase::Active, false)]);
    assert_eq!(done.sequence(), 9);
}

/// As after a backup was put back from before it signed.
#[test]
fn one_that_is_prepared_and_has_signed_all_the_same_is_not_taken_out_from_above_that() {
    let one = Authorities::new("a".into(), START.plus(LIFE), 7);
    let (mut handed_out, none) = (HandedOut::default(), Evidence::default());
    let prepared = one.after(&prepare("b"), &handed_out, &none, at(0)).unwrap();
    let revoke = Step::Revoke("b".into());
    assert_eq!(prepared.obstacles(&revoke, &handed_out, &none, at(1)), []);
    handed_out.record("b", 6, at(3600));
    assert_eq!(prepared.obstacles(&revoke, &handed_out, &none, at(1)), [Obstacle::StillHeld { until: at(3600) }]);
}

#[test]
fn there_is_a_way_back_until_revoke() {
    let (handed_out, evidence) = (HandedOut::default(), Evidence::default());
    let go = |from: &Authorities, step: Step| from.after(&step, &handed_out, &evidence, at(1)).unwrap();
    let one = Authorities::new("a".into(), START.plus(LIFE), 1);
    let prepared = go(&one, prepare("b"));
    assert_eq!(phases(&go(&prepared, Step::Revoke("b".into()))), phases(&one));
    let active = go(&prepared, Step::Activate("b".into()));
    let tainted = go(&active, Step::Taint("a".into()));
    let back = go(&tainted, Step::Activate("a".into()));
    assert_eq!(phases(&back), [("a", Phase::Active, false), ("b", Phase::Old, false)]);
    assert_eq!(phases(&go(&back, Step::Activate("b".into()))), phases(&active));
}

#[test]
fn steps_that_make_no_sense_are_refused_also_by_force() {
    let now = at(1);
    let one = Authorities::new("a".into(), START.plus(LIFE), 1);
    let prepared = one.after_by_force(&prepare("b"), now).unwrap();
    let active = prepared.after_by_force(&Step::Activate("b".into()), now).unwrap();
    let id = String::from;
    let not_old = |name: &str, phase, what| StepRefused::NotOld { id: name.to_owned(), phase, what };
    let ended = Step::Prepare { id: id("c"), not_after: now };
    for (from, step, refused) in [
        (&one, prepare("a"), StepRefused::Exists(id("a"))),
        (&one, ended, StepRefused::Ended { id: id("c"), not_after: now }),
        (&prepared, prepare("c"), StepRefused::PreparedAlready(id("b"))),
        (&one, Step::Activate(id("a")), StepRefused::ActiveAlready(id("a"))),
        (&one, Step::Activate(id("x")), StepRefused::Unknown(id("x"))),
        (&one, Step::Taint(id("x")), StepRefused::Unknown(id("x"))),
        (&one, Step::Revoke(id("x")), StepRefused::Unknown(id("x"))),
        (&one, Step::Taint(id("a")), not_old("a", Phase::Active, "tainted")),
        (&prepared, Step::Taint(id("b")), not_old("b", Phase::Prepared, "tainted")),
        (&one, Step::Revoke(id("a")), not_old("a", Phase::Active, "revoked")),
        (&active, Step::Revoke(id("a")), StepRefused::NotTainted(id("a"))),
    ] {
        assert_eq!(from.after_by_force(&step, now), Err(refused), "{step:?}");
    }
    let too_late = START.plus(LIFE);
    let refused = active.after_by_force(&Step::Activate(id("a")), too_late);
    assert_eq!(refused, Err(StepRefused::Ended { id: id("a"), not_after: too_late }));
}

#[test]
fn what_is_restored_is_right() {
    let slot = |id: &str, phase| Slot { id: id.into(), phase, not_after: at(9), tainted: false, published_in: 1 };
    let (a, b, p) = (slot("a", Phase::Active), slot("b", Phase::Old), slot("p", Phase::Prepared));
    let tainted = |slot: &Slot| Slot { tainted: true, ..slot.clone() };
    for (slots, is_right) in [
        (vec![a.clone()], true),
        (vec![b.clone(), a.clone(), p.clone()], true),
        (vec![tainted(&b), a.clone()], true),
        (vec![], false),
        (vec![b.clone(), p.clone()], false),
        (vec![a.clone(), slot("c", Phase::Active)], false),
        (vec![a.clone(), p.clone(), slot("q", Phase::Prepared)], false),
        (vec![a.clone(), slot("a", Phase::Old)], false),
        (vec![tainted(&a)], false),
        (vec![Slot { published_in: 2, ..a }], false),
    ] {
        assert_eq!(Authorities::restored(slots.clone(), 1).is_some(), is_right, "{slots:?}");
    }
}

proptest! {
    #[test]
    fn marks_that_are_merged_say_the_same_of_every_bundle_with_a_new_authority(
        handed_out in prop::collection::vec((1..40_u64, 1..100_u64), 0..60),
        published in prop::collection::btree_set(1..40_u64, 0..5),
    ) {
        let mut marks = HandedOut::default();
        let (mut merged, mut seldom) = (marks.clone(), marks.clone());
        for (sequence, end) in handed_out {
            marks.record("a", sequence, at(end));
            merged.record("a", sequence, at(end));
            merged.merge_between(&published);
            if !seldom.covers("a", sequence, at(end)) {
                seldom.record("a", sequence, at(end));
                seldom.merge_between(&published);
            }
        }
        prop_assert!(merged.marks().1.count() <= published.len() + 1);
        for sequence in published {
            let end = marks.last_end_before_sequence(sequence);
            prop_assert_eq!(merged.last_end_before_sequence(sequence), end);
            prop_assert_eq!(seldom.last_end_before_sequence(sequence), end);
        }
    }
}

#[test]
fn marks_only_rise_and_are_forgotten_when_they_have_passed() {
    let mut marks = HandedOut::default();
    marks.record("a", 1, at(10));
    marks.record("a", 2, at(5));
    assert!(marks.covers("a", 1, at(10)) && marks.covers("a", 2, at(5)) && !marks.covers("a", 2, at(6)));
    assert!(!marks.covers("b", 1, at(1)) && !marks.covers("a", 0, at(1)));
    assert!(
        marks.covers("a", 3, at(5)) && !marks.covers("a", 3, at(6)),
        "who has a later bundle is waited for as well"
    );
    assert_eq!((marks.last_end_of("a"), marks.last_end_of("b")), (Some(at(10)), None));
    assert_eq!([1, 2, 3].map(|sequence| marks.last_end_before_sequence(sequence)), [None, Some(at(10)), Some(at(10))]);
    marks.forget_before(at(6));
    let (authorities, sequences) = marks.marks();
    assert_eq!(authorities.collect::<Vec<_>>(), [("a", at(10))]);
    assert_eq!(sequences.collect::<Vec<_>>(), [(1, at(10))]);
}

/// Somebody with a certificate who learns of a bundle in answers alone, as pilot-agent does, or live, as our agent does.
#[derive(Clone, Debug)]
struct Client {
    signed_by: AuthorityId,
    end: Timestamp,
    believes: Vec<AuthorityId>,
    sequence: u64,
    is_live: bool,
}

struct World {
    authorities: Authorities,
    handed_out: HandedOut,
    clients: Vec<Client>,
    now: Timestamp,
    names: usize,
    revoked: usize,
}

#[derive(Clone, Debug)]
enum Happening {
    Passes(u64),
    Renews(usize),
    Hears(usize),
    Prepare,
    ActivatePrepared,
    ActivateOld,
    TaintOld,
    RevokeOld,
    RevokePrepared,
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        4 => (1..2 * TTL.as_secs()).prop_map(Happening::Passes),
        6 => any::<usize>().prop_map(Happening::Renews),
        4 => any::<usize>().prop_map(Happening::Hears),
        2 => Just(Happening::Prepare),
        3 => Just(Happening::ActivatePrepared),
        1 => Just(Happening::ActivateOld),
        2 => Just(Happening::TaintOld),
        3 => Just(Happening::RevokeOld),
        1 => Just(Happening::RevokePrepared),
    ]
}

impl World {
    fn new(clients: &[bool]) -> Self {
        let mut world = Self {
            authorities: Authorities::new("0".into(), START.plus(LIFE), 1),
            handed_out: HandedOut::default(),
            clients: Vec::new(),
            now: START,
            names: 1,
            revoked: 0,
        };
        world.clients = clients.iter().map(|&is_live| world.answer(is_live)).collect();
        world
    }

    fn bundle(&self) -> Vec<AuthorityId> {
        self.authorities.slots().iter().map(|slot| slot.id.clone()).collect()
    }

    /// A certificate by the active, with the bundle of now.
    fn answer(&mut self, is_live: bool) -> Client {
        let signed_by = self.named(|slot| slot.phase == Phase::Active).unwrap();
        let (end, sequence) = (self.now.plus(TTL), self.authorities.sequence());
        self.handed_out.record(&signed_by, sequence, end);
        Client { signed_by, end, believes: self.bundle(), sequence, is_live }
    }

    fn named(&self, is_it: impl Fn(&Slot) -> bool) -> Option<AuthorityId> {
        self.authorities.slots().iter().find(|slot| is_it(slot)).map(|slot| slot.id.clone())
    }

    fn take(&mut self, step: Option<Step>) {
        let Some(step) = step else { return };
        let live = self.clients.iter().filter(|client| client.is_live && client.end >= self.now);
        let followers = live.map(|client| reached("agent", client.sequence)).collect();
        let evidence = Evidence { followers, ..Evidence::default() };
        if let Ok(next) = self.authorities.after(&step, &self.handed_out, &evidence, self.now) {
            self.revoked += usize::from(matches!(step, Step::Revoke(_)));
            self.authorities = next;
        }
    }

    fn happens(&mut self, happening: &Happening) {
        let count = self.clients.len();
        match happening {
            Happening::Passes(seconds) => {
                self.now = self.now.plus(Duration::from_secs(*seconds));
                self.handed_out.forget_before(self.now);
            }
            Happening::Renews(which) => {
                let is_live = self.clients[which % count].is_live;
                self.clients[which % count] = self.answer(is_live);
            }
            Happening::Hears(which) if self.clients[which % count].is_live => {
                let (believes, sequence) = (self.bundle(), self.authorities.sequence());
                let client = &mut self.clients[which % count];
                (client.believes, client.sequence) = (believes, sequence);
            }
            Happening::Hears(_) => {}
            Happening::Prepare => {
                let id = self.names.to_string();
                self.names += 1;
                self.take(Some(prepare(&id)));
            }
            Happening::ActivatePrepared => {
                self.take(self.named(|slot| slot.phase == Phase::Prepared).map(Step::Activate));
            }
            Happening::ActivateOld => self.take(self.named(|slot| slot.phase == Phase::Old).map(Step::Activate)),
            Happening::TaintOld => {
                self.take(self.named(|slot| slot.phase == Phase::Old && !slot.tainted).map(Step::Taint));
            }
            Happening::RevokeOld => self.take(self.named(|slot| slot.tainted).map(Step::Revoke)),
            Happening::RevokePrepared => self.take(self.named(|slot| slot.phase == Phase::Prepared).map(Step::Revoke)),
        }
    }

    /// Of those whose certificate has not ended, everybody believes everybody.
    fn check(&self) {
        let holders: Vec<_> = self.clients.iter().filter(|client| client.end >= self.now).collect();
        for shows in &holders {
            for looks in &holders {
                assert!(looks.believes.contains(&shows.signed_by), "{looks:?} refuses {shows:?} at {}", self.now);
            }
        }
        let slots = self.authorities.slots().to_vec();
        assert_eq!(Authorities::restored(slots, self.authorities.sequence()), Some(self.authorities.clone()));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2048))]
    #[test]
    fn nobody_is_refused_whatever_the_order_of_steps_renewals_and_news(
        clients in prop::collection::vec(any::<bool>(), 1..5),
        happenings in prop::collection::vec(happening(), 0..120),
    ) {
        let mut world = World::new(&clients);
        for happening in &happenings {
            world.happens(happening);
            world.check();
        }
    }
}

#[test]
fn what_happens_in_that_world_does_come_to_its_end() {
    let mut world = World::new(&[false, true]);
    for _ in 0..3 {
        for happening in [
            Happening::Prepare,
            Happening::Hears(1),
            Happening::Passes(TTL.as_secs() + 1),
            Happening::ActivatePrepared,
            Happening::Renews(0),
            Happening::Renews(1),
            Happening::TaintOld,
            Happening::Passes(TTL.as_secs() + 1),
            Happening::RevokeOld,
        ] {
            world.happens(&happening);
            world.check();
        }
    }
    assert_eq!((world.revoked, world.authorities.slots().len()), (3, 1));
}
