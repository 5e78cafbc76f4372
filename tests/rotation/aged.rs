//! A key of JWT-SVIDs that has come near its end, or to it, while nobody was active: whom the active of then had lost is not known.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{
    runtime::seams::RingRandom,
    service::{
        ports::StateStore,
        signing_state::{Claim, Origin, SigningState, root_of},
    },
    storage::{active_lock::ActiveLock, data_dir::DataDir, state_store::EmbeddedStateStore},
};
use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    ago::Ago,
    countersign::{Serve, countersign},
    http::{self, loopback},
    observe::leave_for_alerts,
    wait::wait_until,
};

const DAY: Duration = Duration::from_secs(86_400);
/// A step that is due is taken within 10 s, and there are three.
const STEPS: Duration = Duration::from_secs(80);

/// A replica that goes on with a state of long ago.
struct Aged {
    serve: Serve,
    folder: TempDir,
    /// The key that signed then.
    key: String,
}

impl Aged {
    fn start(age: Duration) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().join("data");
        let key = key_of_long_ago(&data, age);
        Self { serve: Serve::start("serve", folder.path(), &data, &[]), folder, key }
    }

    fn metrics(&self) -> String {
        http::get(loopback(self.serve.admin_port), "/metrics").unwrap()
    }

    fn shown(&self) -> Result<Vec<Value>, String> {
        let data = self.folder.path().join("data");
        let output = countersign().args(["authority", "jwt", "show", "-o", "json", "--data-dir"]).arg(data).output();
        let output = output.unwrap();
        let said: Result<Value, _> = serde_json::from_slice(&output.stdout);
        said.map(|said| said["authorities"].as_array().unwrap().clone()).map_err(|error| format!("{error}: {output:?}"))
    }
}

fn key_of_long_ago(data: &Path, age: Duration) -> String {
    let data_dir = DataDir::open(data).unwrap();
    let lock = ActiveLock::try_take(&data_dir).unwrap().expect("nobody else is active");
    let store = Arc::new(EmbeddedStateStore::open(data_dir, lock, root_of).unwrap());
    let (term, opened) = (store.highest_term().unwrap().next(), Arc::clone(&store));
    let open = Box::new(move || Ok(Arc::clone(&opened) as Arc<dyn StateStore>));
    let (trust_domain, random) = ("cluster.local".parse().unwrap(), Arc::new(RingRandom::new()));
    let state = SigningState::new(open, Origin::SelfSigned, trust_domain, Arc::new(Ago(age)), random);
    let Claim::Claimed(claimed) = state.claim(term).unwrap() else { panic!("term {term} was refused") };
    let key = claimed.jwt_signer.borrow().as_ref().unwrap().key_id().to_owned();
    state.close();
    key
}

fn in_phase(shown: &[Value], phase: &str) -> Option<Value> {
    shown.iter().find(|one| one["phase"] == phase).cloned()
}

/// Also leaves what it shows for the test of the alert.
#[test]
fn near_the_end_of_a_key_of_jwt_svids_the_next_one_waits_for_those_who_may_have_been_lost_and_that_is_seen() {
    let fresh = Aged::start(Duration::ZERO);
    let aged = Aged::start(28 * DAY);
    let waits = wait_until(STEPS, "the next key, which waits", || {
        let shown = aged.shown()?;
        let prepared = in_phase(&shown, "prepared").map(|prepared| prepared.to_string()).unwrap_or_default();
        if prepared.contains("became active") { Ok(prepared) } else { Err(format!("{shown:?}")) }
    });
    println!("{waits}");
    let page = wait_until(STEPS, "the ends of both", || match aged.metrics() {
        page if page.contains("\"prepared_jwt_key\"") && page.contains("\"jwt_key\"") => Ok(page),
        page => Err(page),
    });
    leave_for_alerts("jwt_key_at_its_end", &fresh.metrics(), &page);
    assert_eq!(in_phase(&aged.shown().unwrap(), "active").unwrap()["id"], *aged.key);
}

#[test]
fn at_the_end_of_a_key_of_jwt_svids_the_next_one_signs_whoever_may_have_been_lost() {
    let begun = Instant::now();
    let aged = Aged::start(31 * DAY);
    wait_until(STEPS, "another key that signs, and the ended one gone", || {
        let shown = aged.shown()?;
        let signs = in_phase(&shown, "active").is_some_and(|active| active["id"] != *aged.key);
        if signs && shown.iter().all(|one| one["id"] != *aged.key) { Ok(()) } else { Err(format!("{shown:?}")) }
    });
    println!("{:?}", begun.elapsed());
}
