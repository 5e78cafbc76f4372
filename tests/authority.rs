//! Saving the signing authority of an embedded pair and putting it back, by the real binary.

#![cfg(feature = "server")]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: it reads files and stops at a surprise"
)]

mod support;

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Output,
    thread,
    time::Duration,
};

use rustix::process::Signal;

use crate::support::countersign::{Serve, countersign, root_file};

const DENIED: &str = "spiffe://cluster.local/ns/default/sa/lost";

const END: Duration = Duration::from_secs(10);
/// Longer than an export takes to find the state held.
const HELD: Duration = Duration::from_millis(500);

struct Folder(tempfile::TempDir);

impl Folder {
    fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::write(folder.path("passphrase"), "correct horse\n").unwrap();
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn serve(&self, data: &str) -> Serve {
        Serve::start(data, self.0.path(), &self.path(data), &[])
    }

    /// Runs until it is ready, and ends: the root that it made or found.
    fn root(&self, data: &str) -> String {
        let serve = self.serve(data);
        let root = fs::read_to_string(root_file(&self.path(data))).unwrap();
        leave(serve);
        root
    }

    fn run(&self, command: &[&str], data: &str, flags: &[&str]) -> Output {
        let mut run = countersign();
        run.args(command).arg("--data-dir").arg(self.path(data)).args(flags).current_dir(self.0.path());
        run.output().unwrap()
    }

    fn done(&self, command: &[&str], data: &str, flags: &[&str]) -> String {
        let output = self.run(command, data, flags);
        assert!(output.status.success(), "{command:?}: {}", text(&output));
        text(&output)
    }

    fn refused(&self, command: &[&str], data: &str, flags: &[&str]) -> String {
        let output = self.run(command, data, flags);
        assert_eq!(output.status.code(), Some(1), "{command:?}: {}", text(&output));
        text(&output)
    }

    fn export(&self, data: &str, file: &str) {
        let said = self.done(&["authority", "export"], data, &["--out", file, "--passphrase-file", "passphrase"]);
        assert!(said.contains(&format!("wrote {file}: root ")), "{said}");
        let mode = fs::metadata(self.path(file)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{file}");
    }
}

fn leave(mut serve: Serve) {
    serve.process.signal(Signal::TERM);
    serve.process.wait_for_success(END);
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn import(file: &str) -> [&str; 5] {
    ["authority", "import", file, "--passphrase-file", "passphrase"]
}

/// Who has just become active holds the state, and can't be asked yet.
#[test]
fn an_export_at_the_start_of_a_term_waits_for_its_answer() {
    let folder = Folder::new();
    folder.root("one");
    let lock = fs::File::open(folder.path("one").join("lock")).unwrap();
    lock.lock().unwrap();
    thread::scope(|scope| {
        scope.spawn(|| {
            thread::sleep(HELD);
            drop(lock);
        });
        folder.export("one", "backup");
    });
}

#[test]
fn what_a_running_pair_saved_goes_on_elsewhere_with_its_root_and_what_it_denied() {
    let folder = Folder::new();
    let serve = folder.serve("one");
    folder.done(&["issuance", "deny", "--id", DENIED, "--reason", "lost"], "one", &[]);
    folder.export("one", "running");
    let refused = folder.refused(&import("running"), "one", &[]);
    assert!(refused.contains("a replica is active"), "{refused}");
    let root = fs::read_to_string(root_file(&folder.path("one"))).unwrap();
    leave(serve);
    folder.export("one", "stopped");

    for (file, data) in [("running", "two"), ("stopped", "three")] {
        folder.done(&import(file), data, &[]);
        let serve = folder.serve(data);
        assert_eq!(fs::read_to_string(root_file(&folder.path(data))).unwrap(), root, "{file}");
        assert!(folder.done(&["issuance", "denied"], data, &[]).contains(DENIED), "{file}");
        leave(serve);
    }
}

#[test]
fn a_damaged_state_is_put_back_and_one_in_order_only_replaced_when_asked() {
    let folder = Folder::new();
    let (root, other) = (folder.root("one"), folder.root("two"));
    folder.export("one", "of-one");
    folder.export("two", "of-two");

    let refused = folder.refused(&import("of-one"), "one", &[]);
    assert!(refused.contains("can be used as it is"), "{refused}");
    let refused = folder.refused(&import("of-two"), "one", &[]);
    assert!(refused.contains("--replace"), "{refused}");
    assert_eq!(folder.root("one"), root);
    folder.done(&import("of-two"), "one", &["--replace"]);
    assert_eq!(folder.root("one"), other);
    folder.done(&import("of-one"), "one", &["--replace"]);
    assert_eq!(folder.root("one"), root);

    fs::remove_dir_all(folder.path("one").join("state")).unwrap();
    let refused = folder.refused(&import("of-one"), "one", &[]);
    assert!(refused.contains("countersign recover"), "{refused}");
    folder.done(&["recover", "--new-root"], "one", &[]);
    folder.done(&import("of-one"), "one", &[]);
    assert_eq!(folder.root("one"), root);
}

#[test]
fn a_passphrase_may_come_by_stdin_and_a_wrong_or_missing_one_is_refused() {
    use std::{io::Write as _, process::Stdio};
    let folder = Folder::new();
    folder.root("one");
    let with_input = |command: &[&str], input: &str| {
        let mut run = countersign();
        run.args(command).arg("--data-dir").arg(folder.path("one")).current_dir(folder.0.path());
        let run = run.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        let mut run = run.unwrap();
        run.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        run.wait_with_output().unwrap()
    };
    let refused = with_input(&["authority", "export", "--out", "backup"], "");
    assert!(text(&refused).contains("--passphrase-file"), "{}", text(&refused));
    let refused = with_input(&["authority", "export", "--out", "backup"], "short\n");
    assert!(text(&refused).contains("too short"), "{}", text(&refused));
    assert!(!Path::new(&folder.path("backup")).exists());
    let done = with_input(&["authority", "export", "--out", "backup"], "correct horse\n");
    assert!(done.status.success(), "{}", text(&done));
    let refused = with_input(&["authority", "import", "backup", "--replace"], "incorrect horse\n");
    assert!(text(&refused).contains("the passphrase is wrong"), "{}", text(&refused));
    let done = with_input(&["authority", "import", "backup", "--replace"], "correct horse\n");
    assert!(done.status.success(), "{}", text(&done));
}
