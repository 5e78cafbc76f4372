//! Files of a plugged-in authority that change under load, on both replicas of a pair in Kubernetes.

use std::{fs, thread, time::Duration};

use super::{objects::check_nothing_was_refused, replicas::Replicas};
use crate::{
    cluster::{Cluster, block_on},
    pair::{install, roots, token_file},
    support::{
        authority::CaDir,
        caller::Caller,
        load::{Load, Stop},
        swaps::{BrokenSwaps, GoodSwaps},
        wait::wait_until,
    },
};

const SOON: Duration = Duration::from_secs(10);

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
    swaps.run(&cas, &place.replicas.serves, |roots| place.caller(roots));
    wait_until(SOON, "the new root alone in the ConfigMap", || match roots(&place.cluster) {
        roots if roots.trim() == swaps.last_roots().trim() => Ok(()),
        roots => Err(roots),
    });
    check_nothing_was_refused(&place.cluster);
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
