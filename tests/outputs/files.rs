//! What stands in the files, who may read them, who is told, and what is not touched.

use std::{
    fs::{self, Permissions},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use crate::{
    agent::{Place, SOON, names, next_set},
    support::wait::wait_until,
};

const NAMES: [&str; 8] = [
    "ca.crt",
    "cert-chain.pem",
    "key.pem",
    "root-cert.pem",
    "sds-default.yaml",
    "sds-rootca.yaml",
    "tls.crt",
    "tls.key",
];

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().permissions().mode() & 0o7777
}

#[test]
fn all_names_are_links_into_one_set_with_the_chosen_mode_and_one_older_set_stays() {
    let place = Place::new();
    let agent = place.start("agent", "4s", &["--output-mode", "0640"]);
    let output = place.output();
    let mut last = next_set(&output, None);
    for _ in 0..3 {
        last = next_set(&output, Some(&last));
    }
    let ready = agent.says(&format!("output files: ready (serial {}", last.leaf.serial));
    assert!(ready.contains("verified at 20"), "{ready}");
    let current = fs::read_link(output.join("..data")).unwrap();
    for name in NAMES {
        assert_eq!(fs::read_link(output.join(name)).unwrap(), Path::new("..data").join(name));
        assert_eq!(mode(&output.join(&current).join(name)), 0o640, "{name}");
    }
    assert_eq!((mode(&output), mode(&output.join(&current))), (0o750, 0o750));
    let others: Vec<_> = names(&output).into_iter().filter(|name| !NAMES.contains(&name.as_str())).collect();
    assert_eq!(others.len(), 4, "..data, ..lock and two sets: {others:?}");
}

#[test]
fn a_command_is_told_of_each_set_once_it_stands() {
    let place = Place::new();
    let (told, script) = (place.path().join("told"), place.path().join("script"));
    let text = format!("set -e\ncat {0}/tls.crt >> {1}\n", place.output().display(), told.display());
    fs::write(&script, text).unwrap();
    let agent = place.start("agent", "4s", &["--output-command", &format!("sh {}", script.display())]);
    wait_until(SOON, "four sets that were told", || {
        let told = fs::read_to_string(&told).unwrap_or_default();
        let serials: Vec<_> =
            crate::support::certificate::Certificate::from_pem(&told).into_iter().map(|leaf| leaf.serial).collect();
        let published = agent.published();
        let all = serials.len() >= 4 && published.starts_with(&serials);
        if all { Ok(()) } else { Err(format!("told {serials:?}, published {published:?}")) }
    });
    fs::write(&script, "exit 7").unwrap();
    agent.says("nobody was told: sh: exit status: 7");
    assert!(agent.process.errors().contains("output_notice_failed"));
}

#[test]
fn what_is_not_ours_is_left_alone_and_the_socket_goes_on() {
    let place = Place::new();
    fs::create_dir(place.output()).unwrap();
    fs::set_permissions(place.output(), Permissions::from_mode(0o711)).unwrap();
    fs::write(place.output().join("tls.key"), "mine").unwrap();
    let agent = place.start("agent", "4s", &[]);
    let said = agent.says("tls.key is not ours: remove it");
    assert!(said.contains("output files: not ready"), "{said}");
    agent.says("identity: ready");
    wait_until(SOON, "rotation on the socket", || {
        let count = agent.published().len();
        if count >= 3 { Ok(()) } else { Err(count) }
    });
    assert_eq!(fs::read_to_string(place.output().join("tls.key")).unwrap(), "mine");
    assert_eq!(names(&place.output()), ["..lock", "tls.key"], "no half of a set");
    fs::remove_file(place.output().join("tls.key")).unwrap();
    next_set(&place.output(), None);
    agent.says("output files: ready");
    assert_eq!(mode(&place.output()), 0o711, "a directory that was there keeps its mode");
}

#[test]
fn a_second_agent_does_not_write_into_the_same_directory() {
    let place = Place::new();
    let _first = place.start("agent", "1h", &[]);
    let set = next_set(&place.output(), None);
    let second = place.start("second", "1h", &[]);
    second.says("another process writes there");
    assert_eq!(next_set(&place.output(), None), set);
}
