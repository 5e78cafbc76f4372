//! A pair's state, those who hold what it signed, and those who go by what it publishes.

mod believers;

use std::{cell::RefCell, collections::HashSet};

use proptest::sample::Index;

use self::believers::{Client, Follower, Token};
use super::{
    testing::{HandClock, Memory, state},
    *,
};
use crate::{
    domain::{
        authority::{
            TtlBounds, authority_id, issue,
            rotation::{AuthorityId, Evidence, Obstacle, Phase, Reached, Slot, Step, StepRefused},
            testing::TestRandom,
        },
        bundle::{Partner, SpiffeBundle},
        jwt::{JwtAuthorities, JwtAuthority, JwtSvid},
        x509::{CertificateChain, VerifiedCsr},
    },
    service::{
        ports::{AuthorityKind, WantedStep},
        published_trust::PublishedTrust,
    },
};

pub(super) const TTL: Duration = Duration::from_secs(100);
const ID: &str = "spiffe://cluster.local/ns/a/sa/b";

pub(super) struct World {
    pub(super) store: Arc<Memory>,
    pub(super) clock: Arc<HandClock>,
    pub(super) claimed: ClaimedState,
    term: u64,
    clients: Vec<Client>,
    followers: Vec<Follower>,
    partner_sequence: u64,
    /// Of whatever anybody asks for.
    csr: VerifiedCsr,
    /// Of each SVID and the roots that it was verified by, the fingerprints: signatures stay what they are.
    verified: RefCell<HashSet<Vec<[u8; 32]>>>,
    /// Authorities of which it was said that what they signed would be refused.
    refused: Vec<AuthorityId>,
}

#[derive(Clone, Debug)]
pub(super) enum Happening {
    Passes(u64),
    Answers,
    /// One of the followers.
    Hears(Index),
    Step(AuthorityKind, Phase, bool),
    Forced(AuthorityKind, Phase, bool),
    Prepare(AuthorityKind),
    /// To one that is old.
    GoesBack(AuthorityKind),
    /// One that is prepared is not wanted any more.
    Withdraws(AuthorityKind),
    FailsOver,
    /// The process is killed at one of its next writes.
    DiesAfter(usize),
    /// One of its next writes fails, and it lives.
    FailsAfter(usize),
    /// A trust domain that is federated has another root, or only another sequence.
    Partner(bool),
}

#[derive(Debug, thiserror::Error)]
pub(super) enum Failed {
    #[error(transparent)]
    State(#[from] StateError),
    #[error(transparent)]
    Refused(#[from] StepRefused),
}

impl World {
    pub(super) fn new() -> Self {
        let (store, clock) = (Arc::new(Memory::default()), Arc::new(HandClock::default()));
        let claimed = claim(&store, &clock, 1).unwrap();
        let request = PrivateKey::generate_p256().unwrap().certificate_request(&ID.parse().unwrap()).unwrap();
        let mut world = Self {
            store,
            clock,
            claimed,
            term: 1,
            clients: Vec::new(),
            followers: Vec::new(),
            partner_sequence: 0,
            csr: VerifiedCsr::from_pem(request.as_bytes()).unwrap(),
            verified: RefCell::default(),
            refused: Vec::new(),
        };
        world.followers = ["agent a", "agent b"].map(|name| Follower::of(name, &world.published())).into();
        world
    }

    pub(super) fn state(&self) -> Arc<TermState> {
        self.claimed.state.clone().unwrap()
    }

    /// The process is gone, and another one takes over, which may be killed too.
    pub(super) fn fail_over(&mut self) {
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

    pub(super) fn published(&self) -> Arc<PublishedTrust> {
        self.claimed.trust.borrow().clone().unwrap()
    }

    /// As an answer to a request is made.
    fn answer(&self) -> Result<Client, StateError> {
        let (state, now) = (self.state(), self.clock.now());
        let sequence = self.published().own.sequence.unwrap();
        let authority = Arc::clone(&self.claimed.authority.as_ref().unwrap().borrow());
        let end = Timestamp::from_seconds(now.plus(TTL).seconds());
        if !state.has_on_record(authority.id(), sequence, end) {
            state.reserve(authority.id(), sequence, end, TTL)?;
        }
        let (id, bounds) = (ID.parse().unwrap(), TtlBounds::new(TTL, TTL).unwrap());
        let leaf = issue(&authority, &self.csr, &id, 0, &bounds, now, &TestRandom).unwrap().leaf;
        assert_eq!(leaf.not_after(), end);
        let (svid, bundle) = (CertificateChain::new(vec![leaf]).unwrap(), authority.bundle().clone());
        let believes = bundle.roots().iter().map(authority_id).collect();
        let signer = self.claimed.jwt_signer.borrow().clone().unwrap();
        let token = signer.mint(&id, &["x".into()], now, TTL).ok();
        let token = token.map(|token| Token { signed_by: signer.key_id().to_owned(), text: token.to_string() });
        Ok(Client { signed_by: authority.id().to_owned(), svid, end, bundle, believes, token, refuses: Vec::new() })
    }

    pub(super) fn all_hear(&mut self) {
        let trust = self.published();
        self.followers.iter_mut().for_each(|follower| *follower = Follower::of(follower.name, &trust));
    }

    pub(super) fn slots(&self, kind: AuthorityKind) -> Vec<Slot> {
        self.state().kind_state(kind).unwrap().authorities.slots().to_vec()
    }

    pub(super) fn named(&self, kind: AuthorityKind, phase: Phase, tainted: bool) -> Option<AuthorityId> {
        let slots = self.slots(kind);
        slots.iter().rev().find(|slot| slot.phase == phase && slot.tainted == tainted).map(|slot| slot.id.clone())
    }

    /// What followers have said.
    fn evidence(&self) -> Evidence {
        let said = |follower: &Follower| Reached { who: follower.name.to_owned(), sequence: follower.sequence };
        Evidence { followers: self.followers.iter().map(said).collect(), ..Evidence::default() }
    }

    /// Through the gates.
    pub(super) fn step(&self, kind: AuthorityKind, wanted: &WantedStep) -> Result<(), Failed> {
        let (now, evidence) = (self.clock.now(), self.evidence());
        self.state().step(kind, wanted, |found, step| {
            Ok::<_, Failed>(Some(found.authorities.after(step, &found.handed_out, &evidence, now)?))
        })
    }

    /// Past the gates. Whoever it breaks has been named.
    pub(super) fn force(&mut self, kind: AuthorityKind, wanted: &WantedStep) -> Result<(), Failed> {
        let (now, evidence, mut said) = (self.clock.now(), self.evidence(), None);
        let done = self.state().step(kind, wanted, |found, step| {
            let after = found.authorities.after_by_force(step, now)?;
            said = Some((step.clone(), found.authorities.obstacles(step, &found.handed_out, &evidence, now)));
            Ok::<_, Failed>(Some(after))
        });
        if let Some((step, obstacles)) = said {
            self.breaks(kind, &step, &obstacles);
        }
        done
    }

    fn breaks(&mut self, kind: AuthorityKind, step: &Step, obstacles: &[Obstacle]) {
        let now = self.clock.now();
        let is_held = |end: Timestamp| {
            obstacles.iter().any(|obstacle| matches!(obstacle, Obstacle::StillHeld { until } if *until >= end))
        };
        let is_behind = |name: &str| {
            obstacles.iter().any(|obstacle| matches!(obstacle, Obstacle::NotReached { who, .. } if who == name))
        };
        match step {
            Step::Activate(id) => {
                let clients = self.clients.iter_mut().filter(|client| client.end >= now && kind == AuthorityKind::X509);
                for client in clients.filter(|client| !client.believes.contains(id)) {
                    assert!(is_held(client.end), "{client:?} would refuse {id}, and only {obstacles:?} was said");
                    client.refuses.push(id.clone());
                }
                for follower in self.followers.iter_mut().filter(|follower| !follower.believes(kind, id)) {
                    assert!(
                        is_behind(follower.name),
                        "{follower:?} would refuse {id}, and only {obstacles:?} was said"
                    );
                    follower.refuses.push(id.clone());
                }
            }
            Step::Revoke(id) => {
                let holders = self.clients.iter().filter(|client| client.end >= now && client.has_of(kind, id));
                for client in holders {
                    assert!(is_held(client.end), "{client:?} would be refused, and only {obstacles:?} was said");
                }
                self.refused.push(id.clone());
            }
            Step::Prepare { .. } | Step::Taint(_) => {}
        }
    }

    pub(super) fn check(&self) {
        let now = self.clock.now();
        let (trust, authority) = (self.published(), self.claimed.authority.as_ref().unwrap().borrow().clone());
        let published = Follower::of("what is published", &trust);
        assert!(published.roots.contains(&authority.id().to_owned()));
        assert_eq!(authority.bundle().roots(), trust.own.x509_authorities);
        let holders: Vec<_> = self.clients.iter().filter(|client| client.end >= now).collect();
        for shows in &holders {
            let is_refused = self.refused.contains(&shows.signed_by);
            for looks in holders.iter().filter(|looks| !is_refused && !looks.refuses.contains(&shows.signed_by)) {
                assert!(looks.believes.contains(&shows.signed_by), "{looks:?} refuses {shows:?} at {now}");
                self.verify(shows, &looks.bundle);
            }
            for looks in self.followers.iter().chain([&published]) {
                let is_named = is_refused || looks.refuses.contains(&shows.signed_by);
                assert!(is_named || looks.roots.contains(&shows.signed_by), "{looks:?} refuses {shows:?} at {now}");
                if !is_named {
                    self.verify(shows, &looks.bundle);
                }
            }
        }
        let held = holders.iter().filter(|holder| holder.end > now).filter_map(|holder| holder.token.as_ref());
        for token in held.filter(|token| !self.refused.contains(&token.signed_by)) {
            for looks in self.followers.iter().chain([&published]) {
                let verified = JwtSvid::validate(&token.text, "x", looks, now);
                let is_named = looks.refuses.contains(&token.signed_by);
                assert!(is_named || verified.is_ok(), "{looks:?} refuses {token:?} at {now}: {verified:?}");
            }
        }
    }

    /// As whoever is shown it does.
    fn verify(&self, shows: &Client, bundle: &TrustBundle) {
        let both = std::iter::once(shows.svid.leaf()).chain(bundle.roots()).map(Certificate::fingerprint);
        if self.verified.borrow_mut().insert(both.collect()) {
            let (now, roots) = (self.clock.now(), bundle.to_pem());
            shows.svid.verify(bundle, now).unwrap_or_else(|error| panic!("{shows:?} at {now} by {roots}: {error}"));
        }
    }

    pub(super) fn happens(&mut self, happening: &Happening) {
        let done = match happening {
            Happening::Passes(seconds) => {
                self.clock.forward(Duration::from_secs(*seconds));
                self.state().settle().map_err(Failed::from)
            }
            Happening::Answers => self.answer().map(|client| self.clients.push(client)).map_err(Failed::from),
            Happening::Hears(which) => {
                let (trust, which) = (self.published(), which.index(self.followers.len()));
                self.followers[which] = Follower::of(self.followers[which].name, &trust);
                Ok(())
            }
            Happening::Prepare(kind) => self.step(*kind, &WantedStep::Prepare),
            Happening::Step(kind, phase, tainted) => match self.wanted(*kind, *phase, *tainted) {
                None => Ok(()),
                Some(wanted) => self.step(*kind, &wanted),
            },
            Happening::Forced(kind, phase, tainted) => match self.wanted(*kind, *phase, *tainted) {
                None => Ok(()),
                Some(wanted) => self.force(*kind, &wanted),
            },
            Happening::GoesBack(kind) => match self.named(*kind, Phase::Old, false) {
                None => Ok(()),
                Some(id) => self.step(*kind, &WantedStep::Activate(id)),
            },
            Happening::Withdraws(kind) => match self.named(*kind, Phase::Prepared, false) {
                None => Ok(()),
                Some(id) => self.step(*kind, &WantedStep::Revoke(id)),
            },
            Happening::FailsOver => {
                self.fail_over();
                Ok(())
            }
            Happening::DiesAfter(writes) => {
                self.store.dies_after(*writes);
                Ok(())
            }
            Happening::FailsAfter(writes) => {
                self.store.fails_after(*writes);
                Ok(())
            }
            Happening::Partner(has_news) => self.partner_changes(*has_news),
        };
        match done {
            Ok(()) | Err(Failed::Refused(_) | Failed::State(StateError::Unusable(_))) => {}
            Err(Failed::State(StateError::Io(_))) if self.store.has_died() => {
                self.store.dies_after(usize::MAX);
                self.fail_over();
            }
            Err(Failed::State(StateError::Io(_))) => {}
            Err(error) => panic!("{happening:?}: {error}"),
        }
        self.check();
    }

    /// A trust domain that is federated has another root, or only another sequence.
    pub(super) fn partner_changes(&mut self, has_news: bool) -> Result<(), Failed> {
        let trust_domain: TrustDomain = "partner.test".parse().unwrap();
        self.partner_sequence += 1;
        let known = self.published().federated.first().map(|bundle| bundle.x509_authorities.clone());
        let x509_authorities = known.filter(|_| !has_news).unwrap_or_else(|| {
            let made = SigningAuthority::self_signed(&trust_domain, TTL, self.clock.now(), &TestRandom).unwrap();
            vec![made.0.certificate().clone()]
        });
        let (sequence, jwt_authorities) = (Some(self.partner_sequence), Vec::new());
        self.keeps(SpiffeBundle { trust_domain, x509_authorities, jwt_authorities, sequence, refresh_hint: None })
    }

    /// As what was fetched is kept.
    pub(super) fn keeps(&self, bundle: SpiffeBundle) -> Result<(), Failed> {
        let changed = self.state().change_partners(|partners| {
            let nothing = Partner::NOTHING;
            let partner = partners.entry(bundle.trust_domain.clone()).or_insert(nothing);
            partner.bundle = Some(bundle);
            Ok::<_, PartnersError>(())
        });
        changed.map_err(|error| match error {
            PartnersError::State(error) => Failed::State(error),
            error @ (PartnersError::TooLarge { .. } | PartnersError::Full { .. }) => panic!("{error}"),
        })
    }

    /// What comes next for one that stands there.
    fn wanted(&self, kind: AuthorityKind, phase: Phase, tainted: bool) -> Option<WantedStep> {
        let id = self.named(kind, phase, tainted)?;
        Some(match (phase, tainted) {
            (Phase::Prepared, _) => WantedStep::Activate(id),
            (_, true) => WantedStep::Revoke(id),
            (_, false) => WantedStep::Taint(id),
        })
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
