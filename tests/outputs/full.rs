//! A file system without room.

use std::{
    fs::{self, File},
    io::Write as _,
    path::PathBuf,
    process::Command,
};

use crate::{
    agent::{Agent, Place, SOON, next_set},
    support::{process::Process, wait::wait_until},
};

/// An agent whose output directory is a file system of its own, of a size that holds some sets.
fn in_small_file_system(place: &Place) -> (Agent, PathBuf) {
    fs::create_dir(place.output()).unwrap();
    let (agent, admin) = place.agent("agent", "4s", &[]);
    let as_root = rustix::process::geteuid().is_root();
    let namespaces: &[&str] = if as_root { &["--mount"] } else { &["--user", "--map-root-user", "--mount"] };
    let mut command = Command::new("unshare");
    command.args(namespaces).args(["sh", "-c", r#"mount -t tmpfs -o size=256k,mode=700 none "$0" && exec "$@""#]);
    command.arg(place.output()).arg(agent.get_program()).args(agent.get_args());
    let process = Process::start("agent", place.path(), &mut command);
    let inside = PathBuf::from(format!("/proc/{}/root", process.id())).join(place.output().strip_prefix("/").unwrap());
    (Agent { process, admin }, inside)
}

#[test]
fn without_room_the_last_set_stays_the_socket_goes_on_and_room_is_enough() {
    let place = Place::new();
    let (agent, output) = in_small_file_system(&place);
    next_set(&output, None);
    let filler = output.join("filler");
    let mut file = File::create(&filler).unwrap();
    while file.write_all(&[0; 4096]).is_ok() {}
    // a set that was being written may have got some of the room
    agent.says("No space left");
    let kept = next_set(&output, None);
    let published = agent.published().len();
    wait_until(SOON, "two more rotations on the socket", || {
        let now = agent.published().len();
        if now >= published + 2 { Ok(()) } else { Err(now) }
    });
    let said = agent.readiness();
    assert!(said.contains("identity: ready") && said.contains("output files: ready (serial "), "{said}");
    assert_eq!(next_set(&output, None), kept, "the last whole set stays");
    drop(file);
    fs::remove_file(&filler).unwrap();
    let next = next_set(&output, Some(&kept));
    assert!(agent.published().iter().any(|serial| serial.trim_start_matches('0') == next.leaf.serial));
    wait_until(SOON, "readiness without complaint", || {
        let said = agent.readiness();
        if said.contains("No space left") { Err(said) } else { Ok(()) }
    });
}
