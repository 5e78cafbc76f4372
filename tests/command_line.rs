//! The binary's manners: exit codes, and what goes to stdout and what to stderr.

#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, in their own functions too")]

use std::{
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    process::{Command, Output},
};

fn countersign(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_countersign"))
        .args(arguments)
        .env_clear()
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

fn private_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::set_permissions(folder.path(), std::fs::Permissions::from_mode(0o700)).unwrap();
    folder
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

#[test]
fn bad_configuration_ends_with_64_and_names_every_setting() {
    for command in ["serve", "config"] {
        let output = countersign(&[command, "--listen", "x"], &[("COUNTERSIGN_SVID_TTL", "soon")]);
        assert_eq!((output.status.code(), text(&output.stdout)), (Some(64), ""), "{output:?}");
        let stderr = text(&output.stderr);
        assert!(stderr.contains("--listen: \"x\"") && stderr.contains("COUNTERSIGN_SVID_TTL: \"soon\""), "{stderr}");
    }
    // as outside of a pod, wherever this runs
    let output = countersign(&["agent"], &[("KUBERNETES_SERVICE_HOST", ""), ("SECRET_TTL", "soon")]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    for problem in ["--ca-address: required", "SECRET_TTL: \"soon\""] {
        assert!(text(&output.stderr).contains(problem), "{output:?}");
    }
}

#[test]
fn config_prints_what_config_reads() {
    let first = countersign(&["config", "--svid-ttl", "90m"], &[("COUNTERSIGN_TRUST_DOMAIN", "a.example")]);
    assert_eq!((first.status.code(), text(&first.stderr)), (Some(0), ""), "{first:?}");
    assert!(text(&first.stdout).contains("svidTtl: 1h30m\n"), "{first:?}");
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(&first.stdout).unwrap();
    let second = countersign(&["config"], &[("COUNTERSIGN_CONFIG", file.path().to_str().unwrap())]);
    assert_eq!(text(&second.stdout), text(&first.stdout), "{second:?}");
}

#[test]
fn help_is_no_error_and_bad_usage_is() {
    for (arguments, code) in
        [(&["--help"][..], 0), (&["--version"], 0), (&[], 64), (&["sign"], 64), (&["serve", "x"], 64)]
    {
        let output = countersign(arguments, &[]);
        assert_eq!(output.status.code(), Some(code), "{output:?}");
        assert_eq!(output.stdout.is_empty(), code != 0, "{output:?}");
    }
}

#[test]
fn commands_on_a_pair_make_none_of_a_folder() {
    let folder = private_folder();
    let path = folder.path().to_str().unwrap();
    for command in [&["recover"][..], &["token", "default/a"], &["issuance", "list"], &["issuance", "denied"]] {
        let output = countersign(&[command, &["--data-dir", path]].concat(), &[]);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        assert!(text(&output.stderr).contains("is no data directory of a pair"), "{output:?}");
        assert_eq!(std::fs::read_dir(path).unwrap().count(), 0, "{command:?} has made something");
    }
}

#[test]
fn errors_name_their_file() {
    let folder = private_folder();
    let (path, key) = (folder.path().to_str().unwrap(), folder.path().join("token-issuer.key"));
    let mut options = std::fs::OpenOptions::new();
    let mut file = options.write(true).create_new(true).mode(0o600).open(&key).unwrap();
    file.write_all(b"junk").unwrap();
    let output = countersign(&["token", "default/a", "--data-dir", path], &[]);
    assert!(text(&output.stderr).contains(&format!("key file {} holds no key", key.display())), "{output:?}");
    let output = countersign(&["inspect", "unix:///nope"], &[]);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(text(&output.stderr).contains("No such file"), "{output:?}");
}

#[test]
fn a_data_directory_whose_sockets_would_have_too_long_paths_is_bad_configuration() {
    let long = "x".repeat(90);
    for more in [&[][..], &["--workload-socket", "short.sock"]] {
        let output = countersign(&[&["serve", "--data-dir", &long], more].concat(), &[]);
        assert_eq!(output.status.code(), Some(64), "{output:?}");
        assert!(text(&output.stderr).contains("at most 107 are possible"), "{output:?}");
    }
}
