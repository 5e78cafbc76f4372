//! Damage as an operator meets it: the process ended, the files not as it left them.

use std::{
    fs::{self, OpenOptions},
    path::Path,
    process::{Command, Output},
    time::Duration,
};

use rustix::process::Signal;

use crate::{
    pair::{Place, role},
    support::{
        countersign::{Serve, countersign, root_file},
        http::free_port,
        wait::wait_until,
    },
    turn,
};

const END: Duration = Duration::from_secs(10);
/// Stands in the middle of the authority's record.
const INSIDE_THE_RECORD: &[u8] = b"BEGIN CERTIFICATE";

#[test]
fn a_flipped_byte_in_the_state() {
    refused_until_recovered(|data| {
        let (path, mut bytes, at) = authority_record(data);
        bytes[at] ^= 1;
        fs::write(path, bytes).unwrap();
    });
}

#[test]
fn a_truncated_file_in_the_state() {
    refused_until_recovered(|data| {
        let (path, _, at) = authority_record(data);
        OpenOptions::new().write(true).open(path).unwrap().set_len(at.try_into().unwrap()).unwrap();
    });
}

#[test]
fn an_emptied_file_in_the_state() {
    refused_until_recovered(|data| fs::write(data.join("state/db"), []).unwrap());
}

#[test]
fn a_deleted_state() {
    refused_until_recovered(|data| fs::remove_dir_all(data.join("state")).unwrap());
}

#[test]
fn a_deleted_manifest() {
    refused_until_recovered(|data| fs::remove_file(data.join("manifest")).unwrap());
}

#[test]
fn everything_deleted_but_the_issuance_log() {
    refused_until_recovered(|data| {
        fs::remove_dir_all(data.join("state")).unwrap();
        fs::remove_file(data.join("manifest")).unwrap();
        fs::remove_file(root_file(data)).unwrap();
    });
}

#[test]
fn a_deleted_trust_bundle_comes_back_the_same() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let (root, _) = run_once("before", &place);
    fs::remove_file(root_file(&place.data())).unwrap();
    assert_eq!(run_once("after", &place).0, root);
}

#[test]
fn a_damaged_issuance_log_costs_no_root() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let data = place.data();
    let (root, _) = run_once("sound", &place);
    fs::write(data.join("issuance/replica-0/head"), "junk").unwrap();
    let mut serve = Serve::spawn("damaged", place.logs(), &data, free_port(), &[]);
    let status = serve.process.wait_for_end(END);
    let said = serve.process.errors();
    assert!(!status.success() && said.contains("--set-logs-aside`: the root stays"), "{status}: {said}");
    let report = recover(&data, &[]);
    assert!(text(&report).contains("state: sound") && text(&report).contains("--set-logs-aside"), "{}", text(&report));
    let set_aside = recover(&data, &["--set-logs-aside"]);
    assert!(set_aside.status.success() && text(&set_aside).contains("moved"), "{}", text(&set_aside));
    assert_eq!(run_once("after", &place).0, root);
    let again = recover(&data, &["--set-logs-aside"]);
    assert!(again.status.success() && text(&again).contains("nothing was moved"), "{}", text(&again));
}

/// A start on a disk without any room, which a standby's take-over is as well, leaves a state that can be used.
#[test]
fn a_state_that_is_opened_on_a_full_disk_is_whole_once_there_is_room() {
    let _turn = turn::beside_others();
    let place = Place::new();
    let disk = place.logs().join("disk");
    fs::create_dir(&disk).unwrap();
    let script = r#"
        set -e
        mount -t tmpfs -o size=4m,mode=700 none "$DISK"
        serve() { timeout -s "$1" 2 "$BINARY" serve --data-dir "$DISK/data" --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0 || :; }
        serve KILL
        test -s "$DISK/data/root-cert.pem"
        cp "$DISK/data/root-cert.pem" "$DISK/before"
        dd if=/dev/zero of="$DISK/filler" bs=4k 2>/dev/null || :
        for turn in 1 2 3; do "$BINARY" recover --data-dir "$DISK/data" || :; serve KILL; done
        rm "$DISK/filler"
        "$BINARY" recover --data-dir "$DISK/data"
        serve TERM
        cmp "$DISK/data/root-cert.pem" "$DISK/before"
    "#;
    let as_root = rustix::process::geteuid().is_root();
    let namespaces: &[&str] = if as_root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let made = Command::new("unshare")
        .args(namespaces)
        .args(["sh", "-c", script])
        .env("DISK", &disk)
        .env("BINARY", countersign().get_program())
        .output()
        .expect("unshare, of util-linux, makes a file system of the test's own");
    assert!(made.status.success(), "{}", text(&made));
    assert!(text(&made).contains("No space left"), "it never was full: {}", text(&made));
}

/// After `damage`, `serve` ends and says how to go on, and makes no new root; `recover` says what is wrong; after
/// `recover --new-root` there is a new root, in a higher term, and the old state lies in quarantine.
fn refused_until_recovered(damage: impl FnOnce(&Path)) {
    let _turn = turn::beside_others();
    let place = Place::new();
    let data = place.data();
    let (root, term) = run_once("sound", &place);
    let sound = recover(&data, &[]);
    assert!(sound.status.success(), "{}", text(&sound));
    damage(&data);
    let bundle = fs::read(root_file(&data)).ok();

    let mut serve = Serve::spawn("damaged", place.logs(), &data, free_port(), &[]);
    let status = serve.process.wait_for_end(END);
    let said = serve.process.errors();
    assert!(!status.success(), "{status}: {said}");
    let advice = format!("run `countersign recover --data-dir {}`", data.display());
    assert!(said.lines().any(|line| line.starts_with("error: ") && line.contains(&advice)), "{said}");
    assert!(!said.contains("panicked"), "an operator is shown a panic: {said}");
    assert_eq!(fs::read(root_file(&data)).ok(), bundle, "the trust bundle has changed");

    let report = recover(&data, &[]);
    assert!(!report.status.success() && text(&report).contains("damaged"), "{}: {}", report.status, text(&report));
    let renewed = recover(&data, &["--new-root"]);
    assert!(renewed.status.success(), "{}: {}", renewed.status, text(&renewed));
    let (new_root, new_term) = run_once("renewed", &place);
    assert_ne!(new_root, root);
    assert!(new_term > term, "term {term}, then {new_term}");
    let quarantined = |entry: &fs::DirEntry| entry.file_name().to_string_lossy().starts_with("quarantine-");
    assert_eq!(fs::read_dir(&data).unwrap().filter(|entry| quarantined(entry.as_ref().unwrap())).count(), 1);
}

/// Starts `serve`, and ends it once it is active: the trust bundle and the term.
fn run_once(name: &str, place: &Place) -> (Vec<u8>, u64) {
    let mut serve = Serve::spawn(name, place.logs(), &place.data(), free_port(), &[]);
    serve.wait_until_ready();
    let term = role(&serve).unwrap().expect("it is alone, so it is active");
    let root = wait_until(END, "the trust bundle", || fs::read(root_file(&place.data())));
    serve.process.signal(Signal::TERM);
    serve.process.wait_for_success(END);
    (root, term)
}

fn recover(data: &Path, flags: &[&str]) -> Output {
    countersign().args(["recover", "--data-dir"]).arg(data).args(flags).output().unwrap()
}

fn text(output: &Output) -> String {
    [&output.stdout, &output.stderr].map(|bytes| String::from_utf8_lossy(bytes)).concat()
}

/// The file with the signing authority, its content, and a place in the middle of that record.
fn authority_record(data: &Path) -> (std::path::PathBuf, Vec<u8>, usize) {
    let path = data.join("state/db");
    let bytes = fs::read(&path).unwrap();
    let at = bytes.windows(INSIDE_THE_RECORD.len()).position(|window| window == INSIDE_THE_RECORD);
    (path, bytes, at.expect("the record is where it was"))
}
