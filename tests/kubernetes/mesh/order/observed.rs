//! An agent, and what whoever asks at its socket is told at any time.

use std::time::{Duration, Instant};

use tonic::Code;

use super::super::{
    Place, Roots, WARM_UP,
    agent::Agent,
    gateway::Gateway,
    pod::service_at,
    socket::{Look, Watch},
};
use crate::{
    network::Host,
    support::{
        certificate::Certificate,
        peer::{lines, peer},
        process::Process,
        wait::wait_until,
    },
};

/// From istiod's readiness, or the delivery of its roots, to an SVID on the socket.
pub(super) const RECOVERY: Duration = Duration::from_secs(5);
/// Of a look, and of clocks that show whole seconds.
const BLUR: i64 = 1;

/// An agent whose socket is looked at all the time.
pub(super) struct Observed {
    name: String,
    agent: Agent,
    watch: Watch,
}

impl Observed {
    /// Starts one in a pod of its own.
    pub(super) fn start(place: &Place, name: String, ttl: Duration, flags: &[String], roots: Roots<'_>) -> Self {
        let agent = place.agent_at(&name, ttl, flags.to_owned(), roots);
        let watch = Watch::start(&agent.socket);
        Self { name, agent, watch }
    }

    /// Starts an Envoy on its socket that calls the service on `backend`.
    pub(super) fn gateway(&self, place: &Place, backend: &Host) -> Gateway {
        place.gateway(&format!("envoy-of-{}", self.name), &self.agent.socket, service_at(backend))
    }

    /// Starts a client that holds its SVID as long as it can, and asks on.
    pub(super) fn go_spiffe(&self, place: &Place) -> Process {
        let mut command = peer("spiffe-client");
        command.args(["--mode", "sources", "--serials", "1000", "--deadline", "10m"]);
        command.arg("--socket").arg(format!("unix://{}", self.agent.socket.display()));
        Process::start(&format!("go-spiffe-of-{}", self.name), place.cluster.folder(), &mut command)
    }

    /// That it has never had an SVID, and that nobody who asked was told anything for good.
    pub(super) fn check_it_has_none(&self) {
        let looks = self.check_that_all_may_ask_again();
        assert!(looks.len() > 3 && looks.iter().all(|look| look.seen.is_err()), "{}: an SVID: {looks:?}", self.name);
    }

    /// The same, and that it says why.
    pub(super) fn check_it_waits(&self) {
        let readiness = self.agent.readiness();
        assert!(readiness.contains("IstioNotDetected"), "{}: {readiness}", self.name);
        self.check_it_has_none();
    }

    /// Waits for an SVID, which is there in time after `since`. It may have been there before.
    pub(super) fn check_recovery(&self, since: Instant, event: &str) {
        let after = wait_until(RECOVERY, &format!("an SVID on the socket of {}", self.name), || {
            let looks = self.watch.looks();
            let last_bad = looks.iter().rposition(|look| look.seen.is_err()).map_or(0, |index| index + 1);
            let first = looks.get(last_bad).map(|look| look.at.saturating_duration_since(since));
            first.ok_or_else(|| format!("{:?}; {}", looks.last(), self.agent.readiness()))
        });
        println!("{}: an SVID {after:?} after {event}", self.name);
        assert!(after <= RECOVERY, "{}: an SVID only {after:?} after {event}", self.name);
        self.check_that_all_may_ask_again();
    }

    /// What is held when istiod has just gone.
    pub(super) fn held(&self) -> Certificate {
        // an answer was on its way
        let before = self.watch.looks().len();
        wait_until(WARM_UP, "further looks at the socket", || match self.watch.looks().len() {
            seen if seen >= before + 4 => Ok(()),
            seen => Err(format!("{}", seen - before)),
        });
        self.watch.looks().pop().unwrap().seen.expect("an SVID just after istiod has gone")
    }

    /// The `last` good SVID is there until it ends, and never after; then callers are told that it is for now.
    pub(super) fn check_the_absence(&self, gone: Instant, back: Instant, last: &Certificate) {
        let (mut held, mut refused) = (0, 0);
        for look in self.watch.looks().iter().filter(|look| look.at > gone && look.at < back) {
            match &look.seen {
                Ok(leaf) if leaf == last => {
                    held += 1;
                    assert!(look.clock <= last.not_after + BLUR, "an SVID that has ended: {look:?}");
                }
                // what was there before the last, or comes as soon as istiod answers, which is before it is ready
                Ok(leaf) => assert!(look.clock <= leaf.not_after + BLUR, "an SVID that has ended: {look:?}"),
                Err((code, _)) => {
                    refused += 1;
                    assert!(look.clock >= last.not_after - BLUR, "not served to its end: {look:?}, {last:?}");
                    assert_eq!(*code, Code::Unavailable, "{look:?}");
                }
            }
        }
        assert!(held > 0 && refused > 0, "{}: {held} looks saw the last SVID, {refused} its absence", self.name);
        println!(
            "{}: {:?} without istiod: the last SVID {held} times, Unavailable {refused} times",
            self.name,
            back - gone
        );
    }

    /// That it is the process that was started.
    pub(super) fn check_it_runs(&mut self) {
        self.agent.check_it_runs();
    }

    fn check_that_all_may_ask_again(&self) -> Vec<Look> {
        let looks = self.watch.looks();
        let may_ask_again =
            |look: &&Look| matches!(look.seen, Ok(_) | Err((Code::Unavailable | Code::DeadlineExceeded, _)));
        let bad: Vec<&Look> = looks.iter().filter(|look| !may_ask_again(look)).collect();
        assert!(bad.is_empty(), "{}: {bad:#?}", self.name);
        looks
    }
}

/// Waits until go-spiffe has had so many SVIDs.
pub(super) fn wait_for_serials(client: &Process, count: usize, within: Duration) {
    wait_until(within, "another SVID at go-spiffe", || match lines(client).len() {
        seen if seen >= count => Ok(()),
        seen => Err(format!("{seen} of {count}; {}", client.errors())),
    });
}
