//! Many Services that get their label at once: when the last of them is not asked in plaintext any more, and what is said until then.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::OnceLock,
    thread,
    time::{Duration, Instant, SystemTime},
};

use serde_json::Value;

use super::{
    HTTP_PORT, Place, TEAM,
    backend::{App, Backend, Class, Mode},
    load::Load,
    objects,
};
use crate::{
    cluster::block_on,
    network::in_own_network,
    policy_objects::objects::get,
    support::{countersign::countersign, http, process::Process, wait::wait_until},
};

const CHANGE: Duration = Duration::from_secs(60);
/// A label on two Services that a gateway changes one after the other.
const SOON: Duration = Duration::from_secs(2);
/// So long Envoy waits for endpoints that do not come.
const WAIT: Duration = Duration::from_secs(15);
const HOST: &str = "many.test";
/// For so long it is looked whether what is called in force stays so.
const AFTERWARDS: Duration = Duration::from_secs(1);
/// A Service, and its namespace.
const BESIDE: &str = "beside";
/// What is said of a policy that was away until just now, and for how long.
const REMADE: &str = "was away or changed less than a minute ago";
const MINUTE: Duration = Duration::from_secs(60);
/// As which all of them run.
const ACCOUNT: &str = "everybody";

/// Services behind rules with a path each.
struct Many {
    place: Place,
    /// One for the first Services of all rules, one for the second ones.
    backends: Vec<Backend>,
    /// That many have Services of their own. The others lead to those of the first one.
    rules: usize,
    paths: Vec<String>,
    load: Load,
    watch: Process,
    /// When the Service beside the others was called in force while these were labelled.
    beside: OnceLock<Instant>,
}

/// What was seen of a Service, in seconds from its label.
#[derive(Clone, Copy, Debug, Default)]
struct Course {
    last_plain: Option<f64>,
    first_mutual: Option<f64>,
    enforced: Option<f64>,
}

/// Seconds since 1970, as in logs of Envoy.
fn now() -> f64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64()
}

fn name(rule: usize, place: usize) -> String {
    format!("s-{rule}-{place}")
}

fn backend_name(place: usize) -> String {
    format!("{ACCOUNT}-{place}")
}

impl Many {
    /// That many Services behind each of `rules`. Requests are made when this returns, all of them in plaintext.
    fn start(place: Place, rules: usize, each: usize, pause: Duration) -> Self {
        Self::start_with(place, (rules, 0), each, pause)
    }

    /// With `more` rules that lead to the Services of the first one as well.
    fn start_with(mut place: Place, (rules, more): (usize, usize), each: usize, pause: Duration) -> Self {
        let kind = (Mode::Permissive, Class::Http, App::Itself);
        let backends: Vec<Backend> =
            (0..each).map(|number| place.backend(&backend_name(number), ACCOUNT, kind)).collect();
        place.apply(&objects::namespace(TEAM, None));
        let services =
            (0..rules).flat_map(|rule| backends.iter().enumerate().map(move |(at, end)| (name(rule, at), end)));
        let behind = |(name, end): (String, &Backend)| {
            objects::service(TEAM, &name, Class::Http, &[end.ip()]) + &objects::pod(TEAM, &name, &name, ACCOUNT, true)
        };
        place.apply(&services.map(behind).collect::<String>());
        let rule = |number: usize| {
            let first = if number < rules { number } else { 0 };
            (format!("/{number}"), (0..each).map(|at| name(first, at)).collect())
        };
        let all: Vec<(String, Vec<String>)> = (0..rules + more).map(rule).collect();
        let routes = all.chunks(10).enumerate();
        let routes = routes.map(|(number, rules)| objects::path_route(TEAM, &format!("r-{number}"), HOST, rules));
        place.apply(&routes.collect::<String>());
        let paths: Vec<String> = all.into_iter().map(|(path, _)| path).collect();
        for path in &paths {
            wait_until(CHANGE, path, || http::get_of(place.pod.at(HTTP_PORT), HOST, path));
        }
        let mut watch = countersign();
        watch.args(["policy", "watch", "-o", "json", "--data-dir"]).arg(place.replica.data());
        let watch = Process::start("watch", place.cluster.folder(), &mut watch);
        wait_until(CHANGE, "the first word of the watch", || watch.output().lines().next().map(drop).ok_or("none"));
        let load = Load::start_with(place.pod.at(HTTP_PORT), HOST, paths.clone(), pause);
        load.next(paths.len());
        Self { place, backends, rules, paths, load, watch, beside: OnceLock::new() }
    }

    /// Labels the namespace, and waits until all of its Services are `Enforced` and asked by mutual TLS alone.
    fn label(&self, within: Duration) -> BTreeMap<String, Course> {
        let mut said = Said::from_now(&self.watch);
        let (begin, started) = (now(), Instant::now());
        self.place.apply(&objects::namespace(TEAM, Some("enabled")));
        let count = self.rules * self.backends.len();
        wait_until(within, "everything in force", || {
            said.read(&self.watch, begin);
            let lacking = count - said.enforced.len();
            if lacking == 0 { Ok(()) } else { Err(format!("{lacking} of {count} not in force")) }
        });
        said.beside.into_iter().for_each(|at| self.beside.set(at).unwrap());
        let asked: usize = self.load.next(self.paths.len() * 4).into_values().sum();
        println!("{asked} more requests; everything in force after {:?}", started.elapsed());
        self.courses(begin, &said.first)
    }

    /// Takes the label away, and waits until all are asked in plaintext. When the last was that was not.
    fn unlabel(&self, within: Duration) -> Duration {
        let begin = Instant::now();
        self.place.apply(&objects::namespace(TEAM, None));
        let is_plain = |answer: &Result<String, String>| answer.as_ref().is_ok_and(|text| text.ends_with("plain"));
        wait_until(within, "plaintext alone", || {
            let answers = self.load.next(self.paths.len() * 4);
            if answers.keys().all(is_plain) { Ok(()) } else { Err(format!("{answers:?}")) }
        });
        let asked = self.load.check_since(begin, "until the label had gone");
        let (_, last) = self.load.ends_since(begin, |answer| !is_plain(answer)).unwrap();
        println!("label removed: last request with mutual TLS after {last:?}, of {asked} requests");
        last
    }

    /// Takes the label away and sets it again after a while, until all requests go by mutual TLS again for a while. None that began while
    /// its Service was called in force may have gone in plaintext.
    fn toggle(&self, pause: Duration) {
        let (mut said, begin) = (Said::default(), Instant::now());
        said.read(&self.watch, 0.0);
        self.place.apply(&objects::namespace(TEAM, None));
        thread::sleep(pause);
        self.place.apply(&objects::namespace(TEAM, Some("enabled")));
        said.let_go.clear();
        // by two looks in a row at what is said
        let (mut in_force, mut looked) = (Vec::new(), Instant::now());
        let plain = wait_until(CHANGE, "mutual TLS again, for a while", || {
            let before: BTreeSet<String> = said.enforced.keys().cloned().collect();
            let last = std::mem::replace(&mut looked, Instant::now());
            said.read(&self.watch, 0.0);
            let still = before.iter().filter(|service| said.enforced.contains_key(*service));
            // what was said before may be read late
            let anew = still.filter(|service| said.let_go.contains(*service));
            in_force.extend(anew.map(|service| (service.clone(), last..looked)));
            let plain = self.load.answers_since(begin, |answer| answer.ends_with("plain"));
            let recent = self.load.since(Instant::now() - AFTERWARDS);
            let is_over = recent.values().sum::<usize>() > 10
                && recent.keys().all(|answer| answer.as_ref().is_ok_and(|text| text.ends_with("mutual")));
            if is_over { Ok(plain) } else { Err(format!("{recent:?}")) }
        });
        let last = plain.last().map(|(at, _)| *at - begin);
        println!(
            "label away for {pause:?}: {} requests in plaintext, the last {last:?} after it was taken away",
            plain.len()
        );
        for (at, answer) in plain {
            let place = (0..self.backends.len()).find(|place| answer.starts_with(&backend_name(*place))).unwrap();
            let is_it =
                |(service, during): &&(String, Range<Instant>)| *service == name(0, place) && during.contains(&at);
            let false_word = in_force.iter().find(is_it);
            assert!(false_word.is_none(), "{answer}, {:?} after the label was taken away: {false_word:?}", at - begin);
        }
    }

    /// A Service in a namespace of its own is in force, and then loses its label until its policy is gone. Returns when it gets it back.
    fn toggle_beside(&self) -> Instant {
        let behind = objects::service(BESIDE, BESIDE, Class::Http, &[self.backends[0].ip()]);
        self.place.apply(&objects::namespace(BESIDE, Some("enabled")));
        self.place.apply(&(behind + &objects::pod(BESIDE, BESIDE, BESIDE, ACCOUNT, true)));
        self.place.apply(&objects::path_route(
            BESIDE,
            BESIDE,
            HOST,
            &[(format!("/{BESIDE}"), vec![BESIDE.to_owned()])],
        ));
        wait_until(CHANGE, "in force beside", || self.beside("\"Enforced\""));
        self.place.apply(&objects::namespace(BESIDE, None));
        let policy =
            || block_on(async { get(&self.place.cluster.admin(), BESIDE, &format!("countersign-{BESIDE}")).await });
        wait_until(CHANGE, "its policy gone", || if policy().is_none() { Ok(()) } else { Err("it is there") });
        let begin = Instant::now();
        self.place.apply(&objects::namespace(BESIDE, Some("enabled")));
        wait_until(CHANGE, "not at once in force again", || self.beside(REMADE));
        begin
    }

    fn wait_until_in_force_beside(&self, toggled: Instant) {
        wait_until(CHANGE, "in force beside again", || self.beside("\"Enforced\""));
        let after = self.beside.get().copied().unwrap_or_else(Instant::now) - toggled;
        println!("made anew, a policy is in force again {after:?} after its label was back");
        assert!(after >= MINUTE, "{after:?}");
    }

    /// Whether that is explained of the Service beside the others.
    fn beside(&self, text: &str) -> Result<(), String> {
        let said = self.place.policy(&["explain", BESIDE, "-o", "json"]);
        if said.contains(text) { Ok(()) } else { Err(said) }
    }

    fn courses(&self, begin: f64, enforced: &BTreeMap<String, f64>) -> BTreeMap<String, Course> {
        let mut courses: BTreeMap<String, Course> = BTreeMap::new();
        for (service, at) in enforced {
            courses.entry(service.clone()).or_default().enforced = Some(*at);
        }
        for (at, backend) in self.backends.iter().enumerate() {
            for request in backend.log().requests() {
                let start = request["start"].as_str().unwrap().parse::<f64>().unwrap() - begin;
                let rule: usize = request["path"].as_str().unwrap().trim_start_matches('/').parse().unwrap();
                let course = courses.entry(name(if rule < self.rules { rule } else { 0 }, at)).or_default();
                match request["chain"].as_str().unwrap() {
                    "plain" => course.last_plain = Some(course.last_plain.map_or(start, |last| last.max(start))),
                    _ => course.first_mutual = Some(course.first_mutual.map_or(start, |first| first.min(start))),
                }
            }
        }
        courses
    }
}

/// What `policy watch` has said until now.
#[derive(Default)]
struct Said {
    /// So many bytes are read.
    read: usize,
    /// Since when each Service is in force, if it is.
    enforced: BTreeMap<String, f64>,
    /// When each was called so first, though it may have been taken back.
    first: BTreeMap<String, f64>,
    /// Of which it was said that they are not.
    let_go: BTreeSet<String>,
    /// When the one beside them was called in force.
    beside: Option<Instant>,
}

impl Said {
    /// Without what was said of earlier rounds.
    fn from_now(watch: &Process) -> Self {
        Self { read: whole_lines(&watch.output()), ..Self::default() }
    }

    /// Takes up what is new. Times are those since `begin`.
    fn read(&mut self, watch: &Process, begin: f64) {
        let output = watch.output();
        let end = whole_lines(&output);
        output[self.read..end].lines().for_each(|line| self.note(line, now() - begin));
        self.read = end;
    }

    /// Takes up what a line says of Services.
    fn note(&mut self, line: &str, at: f64) {
        let update: Value = serde_json::from_str(line).unwrap();
        for service in update["services"].as_array().into_iter().flatten() {
            let name = service["name"].as_str().unwrap().to_owned();
            let mut conditions = service["conditions"].as_array().into_iter().flatten();
            let is_in_force = conditions.any(|condition| condition["reason"] == "Enforced");
            if service["namespace"] == BESIDE && is_in_force {
                self.beside.get_or_insert_with(Instant::now);
            }
            if service["namespace"] != TEAM {
                continue;
            }
            if is_in_force {
                self.first.entry(name.clone()).or_insert(at);
                self.enforced.entry(name).or_insert(at);
            } else {
                self.enforced.remove(&name);
                self.let_go.insert(name);
            }
        }
    }
}

fn whole_lines(output: &str) -> usize {
    output.rfind('\n').map_or(0, |end| end + 1)
}

/// Nothing is called in force before its last request in plaintext. Returns when the last of all was.
fn check(what: &str, courses: &BTreeMap<String, Course>) -> f64 {
    let too_early: Vec<_> = courses
        .iter()
        .filter(|(_, course)| course.enforced.is_none_or(|at| course.last_plain.is_some_and(|last| last > at)))
        .collect();
    let of = |pick: fn(&Course) -> Option<f64>| {
        let mut all: Vec<f64> = courses.values().filter_map(pick).collect();
        all.sort_by(f64::total_cmp);
        (all[0], all[all.len() / 2], all[all.len() - 1])
    };
    println!("{what}: seconds from the label, of {} Services the first, the median and the last:", courses.len());
    println!("  first request with mutual TLS {:.2?}", of(|course| course.first_mutual));
    println!("  last request in plaintext     {:.2?}", of(|course| course.last_plain));
    println!("  in force                      {:.2?}", of(|course| course.enforced));
    assert!(too_early.is_empty(), "{what}: called in force too early: {too_early:#?}");
    of(|course| course.last_plain).2
}

#[test]
fn two_services_of_one_rule_both_get_mutual_tls_soon() {
    in_own_network("envoy_gateway::scale::two_services_of_one_rule_both_get_mutual_tls_soon", |network| {
        let many = Many::start(Place::with_objects(network), 1, 2, Duration::from_millis(5));
        let last = check("two Services of one rule", &many.label(CHANGE));
        assert!(last < SOON.as_secs_f64(), "{last} s");
        for pause in [50, 100, 200, 300] {
            many.toggle(Duration::from_millis(pause));
        }
        many.place.wait_until_explained(REMADE, SOON);
        let last = many.unlabel(CHANGE);
        assert!(last < SOON, "{last:?}");
    });
}

/// A proxy has a cluster for each rule, and says for all of them what it says of the first.
#[test]
fn services_of_two_rules_are_in_force_only_after_their_last_request_in_plaintext() {
    in_own_network(
        "envoy_gateway::scale::services_of_two_rules_are_in_force_only_after_their_last_request_in_plaintext",
        |network| {
            let many = Many::start_with(Place::with_objects(network), (1, 2), 2, Duration::from_millis(2));
            let begin = Instant::now();
            let courses = many.label(CHANGE * 2);
            check("two Services of three rules", &courses);
            many.load.check_since(begin, "until all had mutual TLS");
            // whether a proxy waits for endpoints now is chance, that it may is not
            let soon = courses.values().find(|course| course.enforced.is_some_and(|at| at < WAIT.as_secs_f64()));
            assert!(soon.is_none(), "called in force while clusters may wait for endpoints: {soon:?}");
        },
    );
}

#[test]
fn two_hundred_services_are_in_force_only_after_their_last_request_in_plaintext() {
    in_own_network(
        "envoy_gateway::scale::two_hundred_services_are_in_force_only_after_their_last_request_in_plaintext",
        |network| {
            let many = Many::start(Place::with_objects(network), 100, 2, Duration::from_millis(2));
            let toggled = many.toggle_beside();
            let begin = Instant::now();
            check("two hundred Services", &many.label(CHANGE * 3));
            many.load.check_since(begin, "until all had mutual TLS");
            many.wait_until_in_force_beside(toggled);
            many.unlabel(CHANGE * 3);
        },
    );
}
