//! Files that change while certificates are signed.

use std::{
    sync::{
        Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use crate::{
    authority::{Authority, CaDir, Files, Kind},
    caller::Caller,
    place::{Place, metric, readiness, refused, said, wait_for},
    support::{countersign::Serve, wait::wait_until},
};

const SOON: Duration = Duration::from_secs(10);
/// From the swap to the first answer with the new chain.
const SWAP: Duration = Duration::from_secs(2);

/// Loops of calls; each trusts for its next connection the roots of its last answer, as clients do.
#[derive(Default)]
struct Load {
    stop: AtomicBool,
    calls: AtomicUsize,
    failures: Mutex<Vec<String>>,
}

impl Load {
    fn run(&self, mut caller: Caller, port: u16, is_kept: bool) {
        let mut connection = caller.connection(port);
        while !self.stop.load(Ordering::Relaxed) {
            match caller.ask(&connection) {
                Ok(answer) => {
                    self.calls.fetch_add(1, Ordering::Relaxed);
                    caller.trust(answer.last().unwrap());
                }
                Err(status) => self.failures.lock().unwrap().push(format!("port {port}: {status:?}")),
            }
            if !is_kept {
                connection = caller.connection(port);
            }
            thread::sleep(Duration::from_millis(5));
        }
    }

    fn check_no_failure(&self) {
        let failures = self.failures.lock().unwrap();
        assert!(failures.is_empty(), "{failures:#?}");
    }

    fn wait_for_more(&self, count: usize) {
        let wanted = self.calls.load(Ordering::Relaxed) + count;
        wait_until(SOON, "further calls", || {
            let calls = self.calls.load(Ordering::Relaxed);
            if calls >= wanted { Ok(()) } else { Err(format!("{calls} of {wanted}")) }
        });
    }
}

/// Ends a load also when an assertion fails: its threads are waited for.
struct Stop<'a>(&'a Load);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.stop.store(true, Ordering::Relaxed);
    }
}

/// Puts `files` there and waits for what follows from that: the new chain in time, then the replicas' own certificates.
fn swap(ca: &CaDir, files: &Files, caller: &Caller, replicas: &[Serve; 2], expected: &[String]) {
    let before = replicas.each_ref().map(renewals);
    let begun = Instant::now();
    ca.swap(files);
    for serve in replicas {
        wait_until(SOON, "the new chain", || {
            let answer = caller.ask_anew(serve.port).unwrap();
            if answer[1..] == *expected { Ok(()) } else { Err(format!("{answer:#?}")) }
        });
        assert!(begun.elapsed() <= SWAP, "the new chain took {:?}", begun.elapsed());
    }
    println!("new chain after {:?}", begun.elapsed());
    for (serve, (serving, svids)) in replicas.iter().zip(before) {
        wait_until(SOON, "new own certificates", || match renewals(serve) {
            now if now.0 > serving && now.1 > svids => Ok(()),
            now => Err(format!("{now:?}, before {serving} and {svids}")),
        });
    }
}

/// Serving certificates and SVIDs that a replica has had.
fn renewals(serve: &Serve) -> (usize, u64) {
    (said(serve, "serving_certificate"), metric(serve, "countersign_svid_renewals_total{outcome=\"renewed\"}"))
}

#[test]
fn swaps_under_load_fail_no_call() {
    let place = Place::new();
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let signers = [old.below("1", Kind::P256), old.below("2", Kind::P384), new.below("3", Kind::P256)];
    let both = old.certificate.clone() + &new.certificate;
    let ca = CaDir::mounted(&signers[0].cacerts(&old.certificate));
    let replicas = [place.start("serve-0", &ca), place.start("serve-1", &ca)];
    let load = Load::default();
    thread::scope(|scope| {
        let stop = Stop(&load);
        for (serve, is_kept) in [(0, true), (0, false), (1, true), (1, false)] {
            let (caller, port, load) = (place.caller(&old.certificate), replicas[serve].port, &load);
            scope.spawn(move || load.run(caller, port, is_kept));
        }
        let mut caller = place.caller(&old.certificate);
        load.wait_for_more(50);
        // same root; overlapping roots; signed below the new root; the old root gone
        for (signer, roots) in [
            (&signers[1], &old.certificate),
            (&signers[1], &both),
            (&signers[2], &both),
            (&signers[2], &new.certificate),
        ] {
            let expected = [signer.chain.as_slice(), std::slice::from_ref(roots)].concat();
            swap(&ca, &signer.cacerts(roots), &caller, &replicas, &expected);
            caller.trust(roots);
            load.wait_for_more(50);
            load.check_no_failure();
        }
        drop(stop);
    });
    load.check_no_failure();
    println!("{} calls", load.calls.load(Ordering::Relaxed));
    for serve in &replicas {
        assert_eq!(metric(serve, "countersign_authority_reloads_total{outcome=\"loaded\"}"), 4);
        assert_eq!(refused(serve), 0);
    }
}

#[test]
fn a_broken_swap_is_told_and_changes_nothing() {
    let place = Place::new();
    let root = Authority::root("root");
    let (signer, other) = (root.below("signer", Kind::P256), root.below("other", Kind::P256));
    let good = signer.cacerts(&root.certificate);
    let ca = CaDir::plain(&good);
    let serve = place.start("serve", &ca);
    let caller = place.caller(&root.certificate);
    let foreign = Authority::root("foreign");
    let truncated = &signer.certificate[..signer.certificate.len() / 2];
    let broken = [
        (good.clone().with("ca-key.pem", &other.key), "ca-key.pem is not the key of ca-cert.pem"),
        (good.clone().with("ca-cert.pem", truncated), "ca-cert.pem: not a PEM certificate"),
        (good.clone().without("root-cert.pem"), "incomplete signing CA bundle: root-cert.pem missing"),
        (foreign.cacerts(&foreign.certificate), "the roots are replaced, not added to or reduced"),
    ];
    for (count, (files, reason)) in (1..).zip(broken) {
        ca.write(&files);
        wait_for("the log line", reason, || serve.process.errors());
        wait_for("the readiness detail", reason, || readiness(&serve));
        assert_eq!(refused(&serve), count);
        serve.wait_until_ready();
        let answer = caller.ask_anew(serve.port).unwrap();
        assert_eq!(answer[1..], [signer.chain.as_slice(), std::slice::from_ref(&root.certificate)].concat());
        ca.write(&good);
        wait_until(SOON, "readiness without a word of it", || {
            let page = readiness(&serve);
            if page.contains(reason) { Err(page) } else { Ok(()) }
        });
    }
    assert_eq!(metric(&serve, "countersign_authority_reloads_total{outcome=\"loaded\"}"), 0);
    assert_eq!(said(&serve, "ca_reload_refused"), 4);
    let errors = serve.process.errors();
    assert!([&signer, &other].iter().all(|authority| !errors.contains(authority.key.lines().nth(1).unwrap())));
}
