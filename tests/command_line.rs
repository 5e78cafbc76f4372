//! The binary's manners: exit codes, and what goes to stdout and what to stderr.

#![cfg(feature = "server")]
#![expect(clippy::unwrap_used, reason = "tests fail by panicking, in their own functions too")]

use std::{
    io::Write,
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
    let output = countersign(&["agent"], &[]);
    assert_eq!(output.status.code(), Some(64), "{output:?}");
    for flag in ["--ca-address", "--token-file", "--root-file"] {
        assert!(text(&output.stderr).contains(&format!("{flag}: required")), "{output:?}");
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
