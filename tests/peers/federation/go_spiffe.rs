//! go-spiffe reads bundles: from the endpoint, in both profiles, and from the socket.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use super::domain::Domain;
use crate::support::{
    authority::Authority,
    peer::{lines, peer},
    process::Process,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);

#[test]
fn an_endpoint_of_spiffe_is_fetched_and_watched_through_a_new_root() {
    let dir = TempDir::new().unwrap();
    let domain = Domain::start(dir.path(), "one.example", &[]);
    let id = domain.endpoint_id();
    // it may be that of the endpoint alone
    let mut other =
        watch(dir.path(), "other", &domain, &domain.roots(), &["--endpoint-id", "spiffe://one.example/other"]);
    assert!(!other.wait_for_end(LIMIT).success(), "{}", other.output());
    assert!(other.errors().contains("unexpected ID"), "{}", other.errors());
    check_watch(dir.path(), &domain, &domain.roots(), &["--endpoint-id", &id]);
}

#[test]
fn an_endpoint_of_the_web_is_fetched_and_watched_through_a_new_root() {
    let dir = TempDir::new().unwrap();
    let web = Authority::root("web");
    let (chain, key) = web.server("localhost");
    let [certificate_file, key_file, roots] = ["web.pem", "web.key", "web-root.pem"].map(|name| dir.path().join(name));
    for (file, text) in [(&certificate_file, &chain), (&key_file, &key), (&roots, &web.certificate)] {
        fs::write(file, text).unwrap();
    }
    let [certificate, key] = [&certificate_file, &key_file].map(|file| file.to_str().unwrap());
    let files = ["--bundle-endpoint-cert", certificate, "--bundle-endpoint-key", key];
    let domain = Domain::start(dir.path(), "one.example", &files);
    check_watch(dir.path(), &domain, &roots, &[]);
}

#[test]
fn a_bundle_source_follows_a_federated_trust_domain_on_the_socket() {
    let dir = TempDir::new().unwrap();
    let [one, two] = ["one.example", "two.example"].map(|name| Domain::start(dir.path(), name, &[]));
    let mut command = peer("spiffe-client");
    command.args(["--mode", "federated", "--trust-domain", two.name, "--updates", "2", "--deadline", "45s"]);
    command.args(["--socket", &format!("unix://{}", one.socket().display())]);
    let mut client = Process::start("spiffe-client", dir.path(), &mut command);
    one.federate(&two);
    wait_for_lines(&client, 1);
    two.done(&["authority", "x509", "prepare"]);
    one.done(&["federation", "refresh", two.name]);
    client.wait_for_success(LIMIT);
    let roots: Vec<_> = lines(&client).iter().map(|line| line["roots"].as_u64().unwrap()).collect();
    assert_eq!(roots, [1, 2]);
}

/// What is fetched, and watched until it has another root.
fn check_watch(dir: &Path, domain: &Domain, roots: &Path, flags: &[&str]) {
    let flags = [flags, &["--updates", "2"]].concat();
    let mut client = watch(dir, "spiffe-client", domain, roots, &flags);
    wait_for_lines(&client, 2);
    domain.done(&["authority", "x509", "prepare"]);
    client.wait_for_success(LIMIT);
    let seen = lines(&client);
    let column = |name: &str| seen.iter().map(|line| line[name].clone()).collect::<Vec<_>>();
    assert_eq!(column("by"), ["FetchBundle", "WatchBundle", "WatchBundle"], "{seen:?}");
    assert_eq!(column("roots"), [1, 1, 2].map(Value::from), "{seen:?}");
    assert_eq!(column("hint"), ["1s", "1s", "1s"], "{seen:?}");
    assert!(seen.iter().all(|line| line["jwt_keys"].as_u64().unwrap() >= 1), "{seen:?}");
    let sequences: Vec<_> = seen.iter().map(|line| line["sequence"].as_u64().unwrap()).collect();
    assert!(sequences[0] > 0 && sequences[2] > sequences[0], "{seen:?}");
}

fn watch(dir: &Path, name: &str, domain: &Domain, roots: &Path, flags: &[&str]) -> Process {
    let mut command = peer("spiffe-client");
    command.args(["--mode", "endpoint", "--trust-domain", domain.name, "--url", &domain.url(), "--deadline", "45s"]);
    command.arg("--roots").arg(roots).args(flags);
    Process::start(name, dir, &mut command)
}

fn wait_for_lines(client: &Process, count: usize) {
    wait_until(LIMIT, &format!("{count} lines of go-spiffe"), || {
        let seen = lines(client);
        if seen.len() >= count { Ok(()) } else { Err(format!("{seen:?}; {}", client.errors())) }
    });
}
