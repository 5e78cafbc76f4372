//! `countersign quickstart`, the real one: it does what it says, and leaves nothing behind, however it ends.

#![cfg(feature = "server")]
#![expect(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    reason = "test code: it reads files and stops at a surprise"
)]

mod support;

use std::{fs, path::Path, process::Command, time::Duration};

use rustix::process::Signal;

use support::{countersign::countersign, process::Process, wait::wait_until};

const LIMIT: Duration = Duration::from_secs(20);

/// In an environment of its own, so that its temporary folder is known.
fn quickstart(temporary: &Path) -> Command {
    let mut command = countersign();
    command.arg("quickstart").env("TMPDIR", temporary);
    command
}

/// The child processes that were named so far.
fn named_processes(output: &str) -> Vec<u32> {
    let mut found: Vec<u32> =
        output.split("(process ").skip(1).map(|rest| rest.split_once(')').unwrap().0.parse().unwrap()).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// Whether a process of that ID runs our program: a zombie has no command line any more.
fn runs(pid: u32) -> bool {
    fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| line.windows(11).any(|part| part == b"countersign"))
}

fn assert_all_ended(output: &str) {
    let left: Vec<u32> = named_processes(output).into_iter().filter(|pid| runs(*pid)).collect();
    assert_eq!(left, [0; 0], "still running after:\n{output}");
}

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn does_the_main_job_and_leaves_nothing() {
    let (logs, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut process = Process::start("quickstart", logs.path(), &mut quickstart(temporary.path()));
    process.wait_for_success(LIMIT);

    let output = process.output();
    let steps = [
        "is active in term 1, signs on 127.0.0.1:",
        "is its standby, takes requests on 127.0.0.1:",
        "a token for default/gateway",
        "the agent (process ",
        "first identity: serial ",
        "countersign inspect unix://",
        "spiffe://cluster.local/ns/default/sa/gateway\n",
        "verifies to the bundle of",
        "rotation: serial ",
        "kill -9 of replica-0-",
        "identity after the failover: serial ",
        "in term 2\nall of it held, in ",
        "next: ",
    ];
    let mut rest = output.as_str();
    for step in steps {
        rest = rest.split_once(step).unwrap_or_else(|| panic!("{step:?} is missing or out of order in:\n{output}")).1;
    }
    let serials: Vec<&str> = output.split(": serial ").skip(1).map(|rest| rest.split_once(',').unwrap().0).collect();
    assert!(matches!(serials[..], [a, b, c] if a != b && b != c && a != c), "{serials:?}");
    assert_eq!(named_processes(&output).len(), 3, "{output}");
    assert_all_ended(&output);
    assert_eq!(entries(temporary.path()), 0);
}

#[test]
fn ends_its_children_when_interrupted() {
    let (logs, temporary) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut process = Process::start("quickstart", logs.path(), &mut quickstart(temporary.path()));
    let output = wait_until(LIMIT, "three children", || {
        let output = process.output();
        if named_processes(&output).len() == 3 { Ok(output) } else { Err(output) }
    });
    process.signal(Signal::INT);
    let status = process.wait_for_end(LIMIT);
    assert_eq!((status.code(), process.errors().as_str()), (Some(1), "error: interrupted\n"));
    assert_all_ended(&output);
    assert_eq!(entries(temporary.path()), 0);
}

#[test]
fn keeps_what_it_is_told_to_keep() {
    let (logs, kept) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let folder = kept.path().join("kept");
    let mut command = countersign();
    Process::start("quickstart", logs.path(), command.arg("quickstart").arg("--keep").arg(&folder))
        .wait_for_success(LIMIT);
    let listed = countersign().args(["issuance", "list", "--data-dir"]).arg(folder.join("data")).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert!(listed.contains("spiffe://cluster.local/ns/default/sa/gateway"), "{listed}");

    let again = countersign().arg("quickstart").arg("--keep").arg(&folder).output().unwrap();
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("something is in it"), "{again:?}");
    assert!(folder.join("data/root-cert.pem").exists());
}

#[test]
fn a_failure_names_the_step_and_what_the_child_said() {
    let base = tempfile::tempdir().unwrap();
    // no socket fits below it
    let temporary = base.path().join("long".repeat(30));
    fs::create_dir(&temporary).unwrap();
    let failed = quickstart(&temporary).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    let stderr = String::from_utf8_lossy(&failed.stderr).into_owned();
    for part in ["error: starting the first replica: serve-1 ended with exit status", "107", "all files are left in"] {
        assert!(stderr.contains(part), "{part:?} is missing in:\n{stderr}");
    }
    assert_all_ended(&String::from_utf8_lossy(&failed.stdout));
    assert_eq!(entries(&temporary), 1);
}
