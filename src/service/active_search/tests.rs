use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::service::ports::PairEndpoint;

const MILLIS: fn(u64) -> Duration = Duration::from_millis;

fn candidate(number: u8) -> Candidate {
    let endpoint = PairEndpoint::Tcp(([10, 0, 0, number], 15_013).into());
    Candidate { replica: None, term: None, endpoint }
}

fn search(candidates: &[Candidate], now: Instant) -> ActiveSearch {
    let mut search = ActiveSearch::new("own".into());
    search.set_candidates(Ok(candidates.to_vec()), now);
    search
}

fn says(replica: &str, term: Option<u64>) -> Result<Reply, String> {
    Ok(Reply { replica: replica.into(), active_term: term.map(Term::new) })
}

fn active(search: &ActiveSearch) -> Option<(&str, u64)> {
    search.active().map(|active| (active.replica.as_str(), active.term.number()))
}

#[test]
fn a_hanging_candidate_keeps_nobody_from_finding_another() {
    let begin = Instant::now();
    let mut search = search(&[candidate(1), candidate(2)], begin);
    let first = search.due(begin);
    assert_eq!(first.len(), 2);
    search.answered(&first[1], says("b", None), begin);
    assert_eq!(search.due(begin), []);
    assert_eq!(search.next_due(), Some(begin + MILLIS(20)));
    let again = search.due(begin + MILLIS(20));
    assert_eq!(again.len(), 1, "the other one has not answered yet");
    search.answered(&again[0], says("b", Some(7)), begin + MILLIS(21));
    assert_eq!(active(&search), Some(("b", 7)));
    search.answered(&first[0], Err("a does not answer".into()), begin + MILLIS(1000));
    assert_eq!(active(&search), Some(("b", 7)));
    assert_eq!(search.next_due(), Some(begin + MILLIS(1021)), "only the active is asked, each second");
}

#[test]
fn of_two_who_say_so_the_higher_term_is_right() {
    let now = Instant::now();
    for order in [[0, 1], [1, 0]] {
        let mut search = search(&[candidate(1), candidate(2)], now);
        let asked = search.due(now);
        let answers = [says("a", Some(5)), says("b", Some(6))];
        order.into_iter().for_each(|at| search.answered(&asked[at], answers[at].clone(), now));
        assert_eq!(active(&search), Some(("b", 6)));
    }
}

#[test]
fn an_active_that_answers_otherwise_or_not_at_all_is_none() {
    for answer in [says("a", None), Err("gone".into())] {
        let mut now = Instant::now();
        let mut search = search(&[candidate(1), candidate(2)], now);
        let asked = search.due(now);
        search.answered(&asked[0], says("a", Some(5)), now);
        search.answered(&asked[1], says("b", None), now);
        now += MILLIS(1000);
        let asked = search.due(now);
        assert_eq!(asked.len(), 1);
        search.answered(&asked[0], answer, now);
        assert_eq!(active(&search), None);
        assert_eq!(search.due(now).len(), 1, "the other one is asked at once");
    }
}

#[test]
fn doubt_asks_everybody_and_ends_with_an_answer() {
    let mut now = Instant::now();
    let mut search = search(&[candidate(1), candidate(2)], now);
    let asked = search.due(now);
    search.answered(&asked[0], says("a", Some(5)), now);
    search.answered(&asked[1], says("b", None), now);
    search.doubt(now);
    assert_eq!(search.due(now), [], "it answered just now");
    now += MILLIS(20);
    let asked = search.due(now);
    assert_eq!(asked.len(), 2);
    assert_eq!(active(&search), Some(("a", 5)), "until it is known better");
    search.answered(&asked[0], says("a", Some(5)), now);
    search.answered(&asked[1], says("b", None), now);
    assert_eq!(search.next_due(), Some(now + MILLIS(1000)));
}

#[test]
fn a_hint_at_a_higher_term_is_followed_up_while_another_is_known() {
    let now = Instant::now();
    let mut search = search(&[candidate(1), candidate(2)], now);
    let asked = search.due(now);
    search.answered(&asked[0], says("a", Some(5)), now);
    search.answered(&asked[1], says("b", None), now);
    let hinted = |term| Candidate { replica: Some("b".into()), term: Some(Term::new(term)), ..candidate(2) };
    search.set_candidates(Ok(vec![candidate(1), hinted(5)]), now);
    assert_eq!(search.due(now + MILLIS(500)), []);
    search.set_candidates(Ok(vec![candidate(1), hinted(6)]), now);
    let asked = search.due(now + MILLIS(500));
    assert_eq!(asked.len(), 1);
    search.answered(&asked[0], says("b", Some(6)), now + MILLIS(501));
    assert_eq!(active(&search), Some(("b", 6)));
}

#[test]
fn another_process_at_the_same_endpoint_is_asked_at_once() {
    let now = Instant::now();
    let named = |name: &str| Candidate { replica: Some(name.into()), ..candidate(1) };
    let mut search = search(&[named("a-1")], now);
    let asked = search.due(now);
    search.answered(&asked[0], says("a-1", Some(5)), now);
    search.set_candidates(Ok(vec![named("a-2")]), now);
    assert_eq!(active(&search), None);
    assert_eq!(search.due(now).len(), 1);
}

#[test]
fn why_nobody_is_active_is_told_in_the_words_of_each() {
    let now = Instant::now();
    let mut search = search(&[candidate(1), Candidate { replica: Some("own".into()), ..candidate(2) }], now);
    let asked = search.due(now);
    assert_eq!(asked.len(), 1, "nobody asks itself");
    search.answered(&asked[0], Err("a can't be reached".into()), now);
    assert_eq!(search.absence(), "a can't be reached; this replica was active last");
    search.set_candidates(Err("the lease names nobody".into()), now);
    assert_eq!(search.absence(), "the lease names nobody");
}

/// What a replica of the model does when it is asked.
#[derive(Clone, Copy, Debug)]
enum Behaviour {
    Hangs,
    Fails,
    Standby,
    Active(u64),
}

fn behaviour() -> impl Strategy<Value = Behaviour> {
    prop_oneof![
        Just(Behaviour::Hangs),
        Just(Behaviour::Fails),
        Just(Behaviour::Standby),
        (1_u64..9).prop_map(Behaviour::Active),
    ]
}

/// A search among replicas, and the questions that they have not answered yet.
struct Model {
    search: ActiveSearch,
    now: Instant,
    under_way: BTreeMap<Instant, Vec<Question>>,
}

fn number_of(candidate: &Candidate) -> usize {
    let PairEndpoint::Tcp(std::net::SocketAddr::V4(address)) = &candidate.endpoint else { panic!("{candidate:?}") };
    usize::from(address.ip().octets()[3])
}

impl Model {
    fn new(replicas: &[Behaviour]) -> Self {
        let candidates: Vec<_> = (0..replicas.len()).map(|number| candidate(u8::try_from(number).unwrap())).collect();
        let now = Instant::now();
        Self { search: search(&candidates, now), now, under_way: BTreeMap::new() }
    }

    /// Lets time pass, and those who are asked answer: after 2 ms, or after a second that they can't be reached. Returns how
    /// many were asked.
    fn let_pass(&mut self, length: Duration, replicas: &[Behaviour]) -> usize {
        let (end, mut asked) = (self.now + length, 0);
        while self.now < end {
            while let Some(entry) = self.under_way.first_entry().filter(|entry| *entry.key() <= self.now) {
                for question in entry.remove() {
                    let number = number_of(&question.candidate);
                    let name = format!("replica-{number}");
                    let answer = match replicas[number] {
                        Behaviour::Hangs | Behaviour::Fails => Err("no".into()),
                        Behaviour::Standby => says(&name, None),
                        Behaviour::Active(term) => says(&name, Some(term)),
                    };
                    self.search.answered(&question, answer, self.now);
                }
            }
            for question in self.search.due(self.now) {
                asked += 1;
                let hangs = matches!(replicas[number_of(&question.candidate)], Behaviour::Hangs);
                self.under_way.entry(self.now + MILLIS(if hangs { 1000 } else { 2 })).or_default().push(question);
            }
            self.now += MILLIS(1);
        }
        asked
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    /// Whatever the others do, one that becomes active while nobody is, is found within 100 ms; and nobody is asked busily.
    #[test]
    fn a_new_active_is_found_within_a_tenth_of_a_second(
        mut replicas in proptest::collection::vec(behaviour(), 2..6),
        quiet in 0_u64..2500,
        which in any::<prop::sample::Index>(),
    ) {
        let which = which.index(replicas.len());
        for replica in &mut replicas {
            if matches!(replica, Behaviour::Active(_)) {
                *replica = Behaviour::Standby;
            }
        }
        replicas[which] = Behaviour::Standby;
        let mut model = Model::new(&replicas);
        let asked = model.let_pass(MILLIS(quiet), &replicas);
        prop_assert!(model.search.active().is_none());
        prop_assert!(asked <= replicas.len() * (usize::try_from(quiet).unwrap() / 22 + 1), "{asked} questions");
        replicas[which] = Behaviour::Active(9);
        model.let_pass(MILLIS(100), &replicas);
        prop_assert_eq!(model.search.active().map(|active| active.term), Some(Term::new(9)));
    }

    /// In whatever order they answer, the highest term of those who say that they are active wins.
    #[test]
    fn the_highest_term_that_says_it_is_active_wins(
        replicas in proptest::collection::vec(behaviour(), 1..6),
        order in any::<prop::sample::Index>(),
    ) {
        let now = Instant::now();
        let candidates: Vec<_> = (0..replicas.len()).map(|number| candidate(u8::try_from(number).unwrap())).collect();
        let mut search = search(&candidates, now);
        let mut asked = search.due(now);
        let by = order.index(asked.len());
        asked.rotate_left(by);
        for question in &asked {
            let number = candidates.iter().position(|candidate| *candidate == question.candidate).unwrap();
            match replicas[number] {
                Behaviour::Hangs => {}
                Behaviour::Fails => search.answered(question, Err("no".into()), now),
                Behaviour::Standby => search.answered(question, says("x", None), now),
                Behaviour::Active(term) => search.answered(question, says("x", Some(term)), now),
            }
        }
        let highest = replicas.iter().filter_map(|replica| match replica {
            Behaviour::Active(term) => Some(*term),
            Behaviour::Hangs | Behaviour::Fails | Behaviour::Standby => None,
        });
        prop_assert_eq!(search.active().map(|active| active.term.number()), highest.max());
    }
}
