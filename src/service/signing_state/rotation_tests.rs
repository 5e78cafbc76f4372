//! Rotations over the real state, which is killed between any two of its writes.

use proptest::prelude::*;

use super::{
    testing::{HandClock, Memory, state, trust_domain},
    *,
};
use crate::{
    domain::{
        authority::{
            authority_id,
            rotation::{Evidence, Phase, Slot, StepRefused},
        },
        jwt::{JwtAuthorities, JwtAuthority, JwtSvid},
    },
    service::{
        ports::{AuthorityKind, WantedStep},
        published_trust::PublishedTrust,
    },
};

const TTL: Duration = Duration::from_secs(100);
const ID: &str = "spiffe://cluster.local/ns/a/sa/b";

/// Somebody who holds an SVID, and goes by the bundle that came with it.
#[derive(Debug)]
struct Client {
    signed_by: String,
    end: Timestamp,
    believes: Vec<String>,
    token: Option<String>,
}

struct World {
    store: Arc<Memory>,
    clock: Arc<HandClock>,
    term: u64,
    claimed: ClaimedState,
    clients: Vec<Client>,
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Refused(#[from] StepRefused),
}

impl World {
    fn new() -> Self {
        let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
        let claimed = claim(&store, &clock, 1).unwrap();
        Self { store, clock, term: 1, claimed, clients: Vec::new() }
    }

    fn state(&self) -> Arc<TermState> {
        self.claimed.state.clone().unwrap()
    }

    /// The process is gone, and another one takes over, which may be killed too.
    fn fail_over(&mut self) {
        self.term += 1;
        match claim(&self.store, &self.clock, self.term) {
            Ok(claimed) => self.claimed = claimed,
            Err(error) => {
                assert!(matches!(error, StateError::Io(_)), "{error}");
                self.store.dies_after(usize::MAX);
                self.fail_over();
            }
        }
    }

    fn published(&self) -> Arc<PublishedTrust> {
        self.claimed.trust.borrow().clone().unwrap()
    }

    /// As an answer to a request is made.
    fn answer(&self) -> Result<Client, StateError> {
        let (state, now) = (self.state(), self.clock.now());
        let sequence = self.published().own.sequence.unwrap();
        let authority = Arc::clone(&self.claimed.authority.borrow());
        let end = Timestamp::from_seconds(now.plus(TTL).seconds());
        if !state.has_on_record(authority.id(), sequence, end) {
            state.reserve(authority.id(), sequence, end, TTL)?;
        }
        let believes = authority.bundle().roots().iter().map(authority_id).collect();
        let signer = self.claimed.jwt_signer.borrow().clone().unwrap();
        let token = signer.mint(&ID.parse().unwrap(), &["x".into()], now, TTL).ok().map(|token| token.to_string());
        Ok(Client { signed_by: authority.id().to_owned(), end, believes, token })
    }

    fn slots(&self, kind: AuthorityKind) -> Vec<Slot> {
        self.state().kind_state(kind).unwrap().authorities.slots().to_vec()
    }

    fn named(&self, kind: AuthorityKind, phase: Phase, tainted: bool) -> Option<String> {
        let slots = self.slots(kind);
        slots.iter().rev().find(|slot| slot.phase == phase && slot.tainted == tainted).map(|slot| slot.id.clone())
    }

    /// Through the gates, with nothing known of anybody but what is on record.
    fn step(&self, kind: AuthorityKind, wanted: &WantedStep) -> Result<(), Failed> {
        let now = self.clock.now();
        self.state().step(kind, wanted, |found, step| {
            Ok::<_, Failed>(Some(found.authorities.after(step, &found.handed_out, &Evidence::default(), now)?))
        })
    }

    fn check(&self) {
        let now = self.clock.now();
        let (trust, authority) = (self.published(), self.claimed.authority.borrow().clone());
        let published: Vec<_> = trust.own.x509_authorities.iter().map(authority_id).collect();
        assert!(published.contains(&authority.id().to_owned()));
        assert_eq!(authority.bundle().roots(), trust.own.x509_authorities);
        let holders: Vec<_> = self.clients.iter().filter(|client| client.end >= now).collect();
        for shows in &holders {
            assert!(published.contains(&shows.signed_by), "what is published refuses {shows:?}");
            for looks in &holders {
                assert!(looks.believes.contains(&shows.signed_by), "{looks:?} refuses {shows:?} at {now}");
            }
            let keys = Keys(trust.own.jwt_authorities.clone());
            if let Some(token) = shows.token.as_deref().filter(|_| shows.end > now) {
                JwtSvid::validate(token, "x", &keys, now).unwrap();
            }
        }
    }
}

struct Keys(Vec<JwtAuthority>);

impl JwtAuthorities for Keys {
    fn of(&self, _: &TrustDomain) -> Option<&[JwtAuthority]> {
        Some(&self.0)
    }
}

fn claim(store: &Arc<Memory>, clock: &Arc<HandClock>, term: u64) -> Result<ClaimedState, StateError> {
    let settings = StateSettings { default_ttl: TTL, max_ttl: TTL, jwt_ttl: TTL, ..StateSettings::default() };
    let state = state(store, Origin::SelfSigned, clock).with_settings(settings);
    match state.claim(Term::new(term))? {
        Claim::Claimed(claimed) => Ok(claimed),
        Claim::Refused { highest } => panic!("term {term} was refused, {highest} has claimed"),
    }
}

#[derive(Clone, Debug)]
enum Happening {
    Passes(u64),
    Answers,
    Step(AuthorityKind, Phase, bool),
    Prepare(AuthorityKind),
    FailsOver,
    /// The process is killed at one of its next writes.
    DiesAfter(usize),
}

fn happening() -> impl Strategy<Value = Happening> {
    let kind = prop_oneof![3 => Just(AuthorityKind::X509), 1 => Just(AuthorityKind::Jwt)];
    let phase = prop_oneof![
        3 => Just((Phase::Prepared, false)),
        2 => Just((Phase::Old, false)),
        3 => Just((Phase::Old, true)),
    ];
    prop_oneof![
        4 => (1..80_u64).prop_map(Happening::Passes),
        5 => Just(Happening::Answers),
        4 => (kind.clone(), phase).prop_map(|(kind, (phase, tainted))| Happening::Step(kind, phase, tainted)),
        2 => kind.prop_map(Happening::Prepare),
        1 => Just(Happening::FailsOver),
        2 => (0..4_usize).prop_map(Happening::DiesAfter),
    ]
}

impl World {
    fn happens(&mut self, happening: &Happening) {
        let done = match happening {
            Happening::Passes(seconds) => {
                self.clock.forward(Duration::from_secs(*seconds));
                self.state().settle().map_err(Failed::from)
            }
            Happening::Answers => self.answer().map(|client| self.clients.push(client)).map_err(Failed::from),
            Happening::Prepare(kind) => self.step(*kind, &WantedStep::Prepare),
            Happening::Step(kind, phase, tainted) => match self.named(*kind, *phase, *tainted) {
                None => Ok(()),
                Some(id) if *phase == Phase::Prepared => self.step(*kind, &WantedStep::Activate(id)),
                Some(id) if *tainted => self.step(*kind, &WantedStep::Revoke(id)),
                Some(id) => self.step(*kind, &WantedStep::Taint(id)),
            },
            Happening::FailsOver => {
                self.fail_over();
                Ok(())
            }
            Happening::DiesAfter(writes) => {
                self.store.dies_after(*writes);
                Ok(())
            }
        };
        match done {
            Ok(()) | Err(Failed::Refused(_) | Failed::State(StateError::Unusable(_))) => {}
            Err(Failed::State(StateError::Io(_))) => {
                self.store.dies_after(usize::MAX);
                self.fail_over();
            }
            Err(error) => panic!("{happening:?}: {error}"),
        }
        self.check();
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn what_has_not_ended_verifies_whatever_the_order_of_steps_and_deaths(
        happenings in prop::collection::vec(happening(), 0..60),
    ) {
        let mut world = World::new();
        for happening in &happenings {
            world.happens(happening);
        }
    }
}

impl World {
    /// The process is killed after so many writes of this at the latest, and another one takes over.
    fn dies_in(&mut self, writes: usize, happening: &Happening) {
        self.store.dies_after(writes);
        self.happens(happening);
        self.store.dies_after(usize::MAX);
        self.happens(&Happening::FailsOver);
        self.happens(&Happening::Answers);
    }

    fn waits(&self, kind: AuthorityKind, step: &WantedStep) {
        let early = self.step(kind, step);
        assert!(matches!(early, Err(Failed::Refused(StepRefused::Obstacles(_)))), "{early:?}");
    }

    /// Whatever was done of it before the process was killed.
    fn prepares(&mut self, kind: AuthorityKind, writes: usize) -> String {
        self.dies_in(writes, &Happening::Prepare(kind));
        if self.named(kind, Phase::Prepared, false).is_none() {
            assert_eq!(writes, 0, "it was killed before anything was written");
            self.happens(&Happening::Prepare(kind));
        }
        self.named(kind, Phase::Prepared, false).unwrap()
    }
}

/// Prepare, activate, taint, revoke, of both kinds, each killed after each number of its writes; with a way back before the
/// last step.
#[test]
fn a_rotation_that_is_killed_at_every_write_comes_to_its_end() {
    let kinds = [AuthorityKind::X509, AuthorityKind::Jwt];
    for (kind, writes) in kinds.into_iter().flat_map(|kind| (0..3).map(move |writes| (kind, writes))) {
        let mut world = World::new();
        let first = world.named(kind, Phase::Active, false).unwrap();
        world.happens(&Happening::Answers);
        let next = world.prepares(kind, writes);
        let (activate, back) = (WantedStep::Activate(next.clone()), WantedStep::Activate(first.clone()));
        if kind == AuthorityKind::X509 {
            world.waits(kind, &activate);
        }
        world.clock.forward(TTL * 2);
        world.dies_in(writes, &Happening::Step(kind, Phase::Prepared, false));
        if world.named(kind, Phase::Active, false).as_ref() == Some(&first) {
            world.step(kind, &activate).unwrap();
        }
        world.step(kind, &back).unwrap();
        world.happens(&Happening::Answers);
        world.step(kind, &activate).unwrap();
        world.happens(&Happening::Answers);

        world.dies_in(writes, &Happening::Step(kind, Phase::Old, false));
        world.happens(&Happening::Step(kind, Phase::Old, false));
        assert_eq!(world.published().tainted, std::slice::from_ref(&first));
        world.waits(kind, &WantedStep::Revoke(first));
        world.clock.forward(TTL * 2);
        world.dies_in(writes, &Happening::Step(kind, Phase::Old, true));
        world.happens(&Happening::Step(kind, Phase::Old, true));
        let ids: Vec<_> = world.slots(kind).into_iter().map(|slot| slot.id).collect();
        assert_eq!(ids, [next], "{kind:?} after {writes} writes");
        assert!(world.published().tainted.is_empty());
    }
}

#[test]
fn a_version_without_rotations_finds_the_authority_that_signs_where_it_looks() {
    let mut world = World::new();
    world.happens(&Happening::Prepare(AuthorityKind::X509));
    world.clock.forward(TTL * 2);
    world.happens(&Happening::Step(AuthorityKind::X509, Phase::Prepared, false));
    let signs = world.claimed.authority.borrow().certificate().clone();
    assert_eq!(world.store.json(StateObject::Authority)["certificate"], signs.to_pem());
    let root: String = signs.fingerprint().iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(root_of(world.store.text(StateObject::Authority).as_bytes()), Some(root));
    let trust = world.store.json(StateObject::Trust);
    let bundle = TrustBundle::from_pem(trust_domain(), trust["bundle"].as_str().unwrap().as_bytes()).unwrap();
    assert_eq!(bundle.roots().len(), 2);
}

#[test]
fn a_root_that_ended_while_nobody_was_there_gives_way_to_the_one_that_was_prepared() {
    let mut world = World::new();
    world.clock.forward(ROOT_LIFETIME - Duration::from_secs(3600));
    world.happens(&Happening::FailsOver);
    world.happens(&Happening::Prepare(AuthorityKind::X509));
    let next = world.named(AuthorityKind::X509, Phase::Prepared, false).unwrap();
    world.clock.forward(Duration::from_secs(7200));
    world.fail_over();
    assert_eq!(world.claimed.authority.borrow().id(), next);
}

#[test]
fn a_step_whose_answer_was_lost_is_in_effect_as_soon_as_the_state_is_read_again() {
    for kind in [AuthorityKind::X509, AuthorityKind::Jwt] {
        let mut world = World::new();
        world.happens(&Happening::Prepare(kind));
        let next = world.named(kind, Phase::Prepared, false).unwrap();
        world.clock.forward(TTL * 2);
        world.store.loses_answers(true);
        assert!(matches!(world.step(kind, &WantedStep::Activate(next.clone())), Err(Failed::State(StateError::Io(_)))));
        world.store.loses_answers(false);
        world.state().settle().unwrap();
        let signs = match kind {
            AuthorityKind::X509 => world.claimed.authority.borrow().id().to_owned(),
            AuthorityKind::Jwt => world.claimed.jwt_signer.borrow().clone().unwrap().key_id().to_owned(),
        };
        assert_eq!(signs, next, "{kind:?}");
        world.check();
    }
}

#[test]
fn of_an_intermediate_that_is_tainted_the_root_is_too() {
    let mut world = World::new();
    // the authority that signs is said to be one that was imported, below a root of its own
    let above = crate::domain::authority::testing::authority();
    let root = above.certificate().to_pem();
    world.happens(&Happening::Prepare(AuthorityKind::X509));
    let mut stored = world.store.json(StateObject::Authority);
    assert!(stored["rotation"]["active"].is_object(), "{stored}");
    stored["rotation"]["active"]["roots"] = serde_json::json!([root]);
    world.store.set_text(StateObject::Authority, &stored.to_string());
    let first = world.named(AuthorityKind::X509, Phase::Active, false).unwrap();
    let next = world.named(AuthorityKind::X509, Phase::Prepared, false).unwrap();
    let by_force = |world: &World, wanted: WantedStep| {
        let now = world.clock.now();
        let done = world.state().step(AuthorityKind::X509, &wanted, |found, step| {
            Ok::<_, Failed>(Some(found.authorities.after_by_force(step, now)?))
        });
        done.unwrap();
    };
    by_force(&world, WantedStep::Activate(next.clone()));
    by_force(&world, WantedStep::Taint(first.clone()));
    let trust = world.published();
    assert_eq!(trust.tainted, [first, authority_id(above.certificate())]);
    assert_eq!(
        trust.own_roots().unwrap().roots().len(),
        2,
        "until it is revoked, what it signed proves who somebody is"
    );
}
