//! Files of a plugged-in authority that change while certificates are signed: what must follow from it, wherever the state is.

use std::{
    path::{Path, PathBuf},
    slice, thread,
    time::{Duration, Instant},
};

use countersign::domain::x509::Certificate;

use super::{
    authority::{Authority, CaDir, Files, Kind},
    caller::Caller,
    countersign::Serve,
    load::{Load, Stop},
    observe::{metric, readiness, refused, said, wait_for},
    openssl,
    wait::wait_until,
    workload_api,
};

const SOON: Duration = Duration::from_secs(10);
/// From the swap to the first answer with the new chain.
const SWAP: Duration = Duration::from_secs(2);
const LOADED: &str = "countersign_authority_reloads_total{outcome=\"loaded\"}";

/// From one root to another by way of both, each step under load.
pub(crate) struct GoodSwaps {
    old: Authority,
    new: Authority,
    signers: [Authority; 3],
}

impl GoodSwaps {
    pub(crate) fn new() -> Self {
        let (old, new) = (Authority::root("old"), Authority::root("new"));
        let signers = [old.below("1", Kind::P256), old.below("2", Kind::P384), new.below("3", Kind::P256)];
        Self { old, new, signers }
    }

    /// What replicas start with.
    pub(crate) fn directory(&self) -> CaDir {
        CaDir::mounted(&self.signers[0].cacerts(&self.old.certificate))
    }

    /// What is published in the end.
    pub(crate) fn last_roots(&self) -> &str {
        &self.new.certificate
    }

    /// Swaps the files of all `cas`, one directory clearly before the other, in turn. `caller` makes a caller that trusts some
    /// roots; workloads have what is published from `sockets`.
    pub(crate) fn run(
        &self,
        cas: &[CaDir],
        replicas: &[Serve; 2],
        sockets: &[PathBuf],
        caller: impl Fn(&str) -> Caller,
    ) {
        let load = Load::default();
        thread::scope(|scope| {
            let stop = Stop(&load);
            for (serve, is_kept) in [(0, true), (0, false), (1, true), (1, false)] {
                let (caller, port, load) = (caller(&self.old.certificate), replicas[serve].port, &load);
                scope.spawn(move || load.run(caller, port, is_kept));
            }
            let mut caller = caller(&self.old.certificate);
            load.wait_for_more(50);
            let both = self.old.certificate.clone() + &self.new.certificate;
            // same root; overlapping roots; signed below the new root; the old root gone
            let mut in_turn: Vec<&CaDir> = cas.iter().collect();
            let mut signed_before = &self.signers[0].certificate;
            for (signer, roots) in [
                (&self.signers[1], &self.old.certificate),
                (&self.signers[1], &both),
                (&self.signers[2], &both),
                (&self.signers[2], &self.new.certificate),
            ] {
                let (files, before) = (signer.cacerts(roots), replicas.each_ref().map(renewals));
                let (last, earlier) = in_turn.split_last().unwrap();
                for ca in earlier {
                    swap_ahead(ca, &files, replicas);
                    load.wait_for_more(50);
                    load.check_no_failure();
                }
                let expected = [signer.chain.as_slice(), slice::from_ref(roots)].concat();
                swap(last, &files, &caller, replicas, &expected);
                // other roots alone are published without a renewal
                let is_renewed = *std::mem::replace(&mut signed_before, &signer.certificate) != signer.certificate;
                for (serve, before) in replicas.iter().zip(before) {
                    check_own(serve, is_renewed.then_some(before), signer, roots);
                }
                sockets.iter().for_each(|socket| wait_until_published(socket, roots));
                in_turn.reverse();
                caller.trust(roots);
                load.wait_for_more(50);
                load.check_no_failure();
            }
            drop(stop);
        });
        load.check_no_failure();
        println!("{} calls", load.calls());
        for serve in replicas {
            // a standby hears of other roots from the active, and may look at its own files later
            wait_until(SOON, "each set loaded once", || match (metric(serve, LOADED), refused(serve)) {
                (4, 0) => Ok(()),
                other => Err(format!("loaded, refused: {other:?}")),
            });
        }
    }
}

/// Puts `files` where one replica looks, and waits until it has them.
fn swap_ahead(ca: &CaDir, files: &Files, replicas: &[Serve; 2]) {
    let loaded = || replicas.iter().map(|serve| metric(serve, LOADED)).sum::<u64>();
    let before = loaded();
    ca.swap(files);
    wait_until(SOON, "the files of one replica loaded", || match loaded() {
        now if now > before => Ok(()),
        now => Err(now),
    });
}

/// Puts `files` there and waits for the new chain.
fn swap(ca: &CaDir, files: &Files, caller: &Caller, replicas: &[Serve; 2], expected: &[String]) {
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
}

/// Waits until a replica's own certificates are new ones, and what it serves with is by `signer`.
fn check_own(serve: &Serve, before: Option<u64>, signer: &Authority, roots: &str) {
    if let Some(before) = before {
        wait_until(SOON, "new own certificates", || match renewals(serve) {
            now if now > before => Ok(()),
            now => Err(format!("{now}, before {before}")),
        });
    }
    wait_until(SOON, "a serving certificate by the new chain", || {
        let served = openssl::served(serve.port, "localhost", roots)?;
        if served.contains(&signer.certificate) { Ok(()) } else { Err(served) }
    });
}

/// Waits until a socket has exactly `roots`, in their order.
fn wait_until_published(socket: &Path, roots: &str) {
    let roots = Certificate::all_from_pem(roots.as_bytes()).unwrap();
    let expected = roots.iter().flat_map(|root| root.der()).copied().collect::<Vec<u8>>();
    wait_until(SOON, "the roots on the socket", || match workload_api::x509_bundles(socket) {
        Ok(bundles) if bundles.values().eq([&expected]) => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// SVIDs that a replica has had.
fn renewals(serve: &Serve) -> u64 {
    metric(serve, "countersign_svid_renewals_total{outcome=\"renewed\"}")
}

/// Sets of files that can't be taken.
pub(crate) struct BrokenSwaps {
    root: Authority,
    signer: Authority,
    other: Authority,
}

impl BrokenSwaps {
    pub(crate) fn new() -> Self {
        let root = Authority::root("root");
        let (signer, other) = (root.below("signer", Kind::P256), root.below("other", Kind::P256));
        Self { root, signer, other }
    }

    fn good(&self) -> Files {
        self.signer.cacerts(&self.root.certificate)
    }

    /// What replicas start with.
    pub(crate) fn directory(&self) -> CaDir {
        CaDir::plain(&self.good())
    }

    /// A caller's roots.
    pub(crate) fn roots(&self) -> &str {
        &self.root.certificate
    }

    /// Breaks and mends the files of all `cas`, again and again.
    pub(crate) fn run(&self, cas: &[CaDir], replicas: &[Serve], caller: &Caller) {
        let write = |files: &Files| cas.iter().for_each(|ca| ca.write(files));
        let good = self.good();
        let foreign = Authority::root("foreign");
        let truncated = &self.signer.certificate[..self.signer.certificate.len() / 2];
        let broken = [
            (good.clone().with("ca-key.pem", &self.other.key), "ca-key.pem is not the key of ca-cert.pem"),
            (good.clone().with("ca-cert.pem", truncated), "ca-cert.pem: not a PEM certificate"),
            (good.clone().without("root-cert.pem"), "incomplete signing CA bundle: root-cert.pem missing"),
            (foreign.cacerts(&foreign.certificate), "the roots are replaced, not added to or reduced"),
        ];
        let expected = [self.signer.chain.as_slice(), slice::from_ref(&self.root.certificate)].concat();
        for (count, (files, reason)) in (1..).zip(broken) {
            write(&files);
            for serve in replicas {
                wait_for("the log line", reason, || serve.process.errors());
                wait_for("the readiness detail", reason, || readiness(serve));
                assert_eq!(refused(serve), count);
                serve.wait_until_ready();
                assert_eq!(caller.ask_anew(serve.port).unwrap()[1..], expected);
            }
            write(&good);
            for serve in replicas {
                wait_until(SOON, "readiness without a word of it", || {
                    let page = readiness(serve);
                    if page.contains(reason) { Err(page) } else { Ok(()) }
                });
            }
        }
        for serve in replicas {
            assert_eq!((metric(serve, LOADED), said(serve, "ca_reload_refused")), (0, 4));
            let errors = serve.process.errors();
            let said = |authority: &Authority| errors.contains(authority.key.lines().nth(1).unwrap());
            assert!(!said(&self.signer) && !said(&self.other), "a key is in the log");
        }
    }
}
