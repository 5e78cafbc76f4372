//! What agents that go on running make of a state that was put back, or given up: their replicas begin again with less than they know.

use std::{
    fs,
    time::{Duration, UNIX_EPOCH},
};

use rustix::process::Signal;
use serde_json::Value;

use crate::{
    jwt::{ID, Workload},
    pair::Place,
    support::{
        countersign::{Agent, Serve, countersign},
        http::free_port,
        wait::wait_until,
    },
};

const SOON: Duration = Duration::from_secs(20);
const AUDIENCES: [&str; 3] = ["a", "b", "c"];

struct Recovered {
    place: Place,
    port: u16,
    replica: Serve,
    _agent: Agent,
    workload: Workload,
}

impl Recovered {
    /// A replica and its agent, whose bundle has come to a higher sequence since `saved` was written.
    fn start() -> Self {
        let (place, port) = (Place::new(), free_port());
        let replica = replica("before", &place, port);
        let agent = Agent::start("agent", place.logs(), &place.data(), "default/gateway", &[replica.address()], "1h");
        let workload = Workload::at(&agent.socket);
        fs::write(place.logs().join("passphrase"), "correct horse\n").unwrap();
        let it = Self { place, port, replica, _agent: agent, workload };
        it.run(&["authority", "export", "--out", "saved", "--passphrase-file", "passphrase"]);
        wait_until(SOON, "the key that signs at the agent", || it.has(1));
        it.run(&["authority", "x509", "prepare"]);
        it.run(&["authority", "jwt", "prepare"]);
        wait_until(SOON, "the prepared key at the agent", || it.has(2));
        it
    }

    fn run(&self, command: &[&str]) -> String {
        let mut run = countersign();
        run.args(command).arg("--data-dir").arg(self.place.data()).current_dir(self.place.logs());
        let output = run.output().unwrap();
        assert!(output.status.success(), "{command:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// Sequences begin with the clock, and here they have run ahead of it.
    fn wait_for_the_clock(&self) {
        let shown: Value = serde_json::from_str(&self.run(&["authority", "jwt", "show", "-o", "json"])).unwrap();
        let sequence = shown["sequence"].as_u64().unwrap();
        wait_until(SOON, "a second above all sequences", || match UNIX_EPOCH.elapsed().unwrap().as_secs() {
            now if now > sequence => Ok(()),
            now => Err(format!("{now}, and {sequence}")),
        });
    }

    /// The state is lost and becomes another one by `commands`, and a replica goes on with it where the one before was.
    fn replace_state(&mut self, commands: &[&[&str]]) {
        self.wait_for_the_clock();
        self.replica.process.signal(Signal::KILL);
        self.replica.process.wait_for_end(SOON);
        fs::remove_dir_all(self.place.data().join("state")).unwrap();
        for command in commands {
            self.run(command);
        }
        self.replica = replica("after", &self.place, self.port);
    }

    /// Which keys the agent verifies JWT-SVIDs by.
    fn keys(&self) -> Result<Vec<String>, String> {
        self.workload.keys().map_err(|error| error.to_string())
    }

    fn has(&self, count: usize) -> Result<(), String> {
        match self.keys()? {
            keys if keys.len() == count => Ok(()),
            keys => Err(format!("{keys:?}")),
        }
    }

    /// The agent goes by what the replica tells now, and by nothing from before; so does a rotation, which waits for it.
    fn is_followed(&self, audience: &str) {
        let valid = wait_until(SOON, "a token that the agent takes", || {
            let token = self.workload.fetch(&[audience])?;
            self.workload.validate(audience, &token)
        });
        assert_eq!(valid.spiffe_id, ID);
        wait_until(SOON, "the one key of the new state at the agent", || self.has(1));
        let prepared = self.run(&["authority", "jwt", "prepare"]);
        wait_until(SOON, "the key that was prepared after it", || {
            let keys = self.keys()?;
            if keys.len() == 2 && keys.iter().any(|key| prepared.contains(key)) {
                Ok(())
            } else {
                Err(format!("{keys:?}"))
            }
        });
    }
}

fn replica(name: &str, place: &Place, port: u16) -> Serve {
    let replica = Serve::spawn(name, place.logs(), &place.data(), port, &[]);
    replica.wait_until_ready();
    replica
}

#[test]
fn agents_take_what_a_backup_says_though_they_have_heard_of_newer_bundles() {
    let mut it = Recovered::start();
    it.replace_state(&[
        &["recover", "--new-root"],
        &["authority", "import", "saved", "--passphrase-file", "passphrase"],
    ]);
    it.is_followed(AUDIENCES[0]);
}

#[test]
fn agents_give_up_the_keys_of_a_state_that_was_given_up() {
    let mut it = Recovered::start();
    let stolen = it.workload.first(&[AUDIENCES[1]]);
    it.replace_state(&[&["recover", "--new-root"]]);
    it.is_followed(AUDIENCES[2]);
    let refused = it.workload.validate(AUDIENCES[1], &stolen).expect_err("its key was given up");
    assert!(refused.message().contains("no JWT authority"), "{refused}");
}
