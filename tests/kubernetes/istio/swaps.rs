//! Files of a plugged-in authority that change under load, on both replicas of a pair in Kubernetes.

use std::{fs, thread, time::Duration};

use super::{objects::check_nothing_was_refused, replicas::Replicas};
use crate::{
    cluster::{Cluster, block_on},
    pair::{install, roots, token_file},
    support::{
        authority::{Authority, CaDir, Kind},
        caller::Caller,
        load::{Load, Stop},
        openssl,
        swaps::{BrokenSwaps, GoodSwaps},
        wait::wait_until,
    },
};

const SOON: Duration = Duration::from_secs(20);

/// Two replicas, each with a mount of its own, and a token for callers.
struct Place {
    cluster: Cluster,
    replicas: Replicas,
    token: String,
}

impl Place {
    fn start(cas: &[CaDir; 2]) -> Self {
        let cluster = Cluster::start();
        let account = block_on(install(&cluster));
        let sockets = [0, 1].map(|number| cluster.folder().join(format!("{number}.sock")));
        let flags = [0, 1].map(|number: usize| {
            let [flag, directory] = cas[number].flags();
            [flag, directory, "--workload-socket", sockets[number].to_str().unwrap()]
        });
        let replicas = Replicas::start(&cluster, &account, flags.each_ref().map(<[&str; 4]>::as_slice));
        let token = fs::read_to_string(block_on(token_file(&cluster, "caller"))).unwrap();
        Self { cluster, replicas, token }
    }

    fn caller(&self, roots: &str) -> Caller {
        Caller::with_token(&self.token, roots)
    }
}

#[test]
fn swaps_under_load_fail_no_call() {
    let swaps = GoodSwaps::new();
    let cas = [swaps.directory(), swaps.directory()];
    let place = Place::start(&cas);
    let sockets = [0, 1].map(|number| place.cluster.folder().join(format!("{number}.sock")));
    swaps.run(&cas, &place.replicas.serves, &sockets, |roots| place.caller(roots));
    wait_until(SOON, "the new root alone in the ConfigMap", || match roots(&place.cluster) {
        roots if roots.trim() == swaps.last_roots().trim() => Ok(()),
        roots => Err(roots),
    });
    check_nothing_was_refused(&place.cluster);
}

#[test]
fn a_standby_whose_files_are_late_takes_over_with_what_it_has() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let (first, second) = (old.below("1", Kind::P256), old.below("2", Kind::P256));
    let both = old.certificate.clone() + &new.certificate;
    let cas = [(); 2].map(|()| CaDir::mounted(&first.cacerts(&old.certificate)));
    let mut place = Place::start(&cas);
    let caller = place.caller(&old.certificate);
    let answered_by = |port: u16, signer: &Authority, roots: &str| {
        let expected = [signer.chain.as_slice(), &[roots.to_owned()]].concat();
        wait_until(SOON, "the expected chain", || {
            match caller.ask_anew(port).map_err(|status| format!("{status:?}"))? {
                answer if answer[1..] == expected => Ok(()),
                answer => Err(format!("{answer:#?}")),
            }
        });
    };
    let active = place.replicas.active();
    let standby = 1 - active;
    let port = place.replicas.serves[standby].port;
    answered_by(port, &first, &old.certificate);
    cas[active].swap(&second.cacerts(&both));
    answered_by(port, &second, &both);

    place.replicas.kill_the_active();
    answered_by(port, &first, &old.certificate);
    cas[standby].swap(&second.cacerts(&both));
    answered_by(port, &second, &both);
}

#[test]
fn a_standby_whose_files_come_first_serves_with_the_new_chain_once_the_active_signs_by_it() {
    let (old, new) = (Authority::root("old"), Authority::root("new"));
    let (first, second) = (old.below("1", Kind::P256), new.below("2", Kind::P256));
    let both = old.certificate.clone() + &new.certificate;
    let cas = [(); 2].map(|()| CaDir::mounted(&first.cacerts(&both)));
    let place = Place::start(&cas);
    let active = place.replicas.active();
    let standby = &place.replicas.serves[1 - active];
    let served = |by: &Authority| {
        let served = openssl::served(standby.port, "localhost", &both)?;
        if served.contains(&by.certificate) { Ok(served) } else { Err(served) }
    };
    let before = wait_until(SOON, "its first certificate", || served(&first));
    cas[1 - active].swap(&second.cacerts(&both));
    wait_until(SOON, "a renewal in vain", || match served(&first)? {
        now if now != before => Ok(()),
        now => Err(now),
    });
    cas[active].swap(&second.cacerts(&both));
    wait_until(SOON, "a certificate by the new chain", || served(&second));
}

#[test]
fn a_broken_swap_is_told_and_changes_nothing() {
    let swaps = BrokenSwaps::new();
    let cas = [swaps.directory(), swaps.directory()];
    let place = Place::start(&cas);
    let load = Load::default();
    thread::scope(|scope| {
        let stop = Stop(&load);
        for serve in &place.replicas.serves {
            let (caller, load) = (place.caller(swaps.roots()), &load);
            scope.spawn(move || load.run(caller, serve.port, false));
        }
        load.wait_for_more(20);
        swaps.run(&cas, &place.replicas.serves, &place.caller(swaps.roots()));
        load.wait_for_more(20);
        drop(stop);
    });
    load.check_no_failure();
}
