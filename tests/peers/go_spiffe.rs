//! go-spiffe, the reference client of the Workload API, on the socket of `serve`.

use std::{collections::BTreeSet, path::Path, time::Duration};

use rustix::process::Signal;
use tempfile::TempDir;

use crate::support::{
    countersign::Serve,
    peer::{lines, peer},
    process::Process,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);

fn serve(dir: &TempDir) -> Serve {
    Serve::start("serve", dir.path(), &dir.path().join("data"), &["--svid-ttl", "4s"])
}

fn client(dir: &Path, mode: &str, flags: &[&str]) -> Process {
    let mut command = peer("spiffe-client");
    command.args(["--socket", &format!("unix://{}", dir.join("data/workload.sock").display())]);
    command.args(["--mode", mode, "--deadline", "45s"]).args(flags);
    Process::start("spiffe-client", dir, &mut command)
}

#[test]
fn x509_source_and_bundle_source_follow_three_rotations() {
    let dir = TempDir::new().unwrap();
    let _serve = serve(&dir);
    let mut client = client(dir.path(), "sources", &["--serials", "4"]);
    client.wait_for_success(LIMIT);
    let seen = lines(&client);
    let serials: BTreeSet<_> = seen.iter().map(|line| line["serial"].as_str().unwrap()).collect();
    assert_eq!(serials.len(), 4, "{seen:?}");
    for line in &seen {
        assert_eq!(line["spiffe_id"], "spiffe://cluster.local/ns/default/sa/gateway", "{line}");
        assert_eq!(line["roots"], 1, "{line}");
    }
}

#[test]
fn a_jwt_source_has_a_token_for_two_audiences_and_validates_it_offline_and_by_the_socket() {
    let dir = TempDir::new().unwrap();
    let _serve = serve(&dir);
    let mut client = client(dir.path(), "jwt", &["--audiences", "spiffe://cluster.local/a,b"]);
    client.wait_for_success(LIMIT);
    let line = &lines(&client)[0];
    let id = "spiffe://cluster.local/ns/default/sa/gateway";
    assert_eq!((&line["spiffe_id"], &line["by_agent"]), (&id.into(), &id.into()), "{line}");
    assert_eq!(line["audience"], serde_json::json!(["spiffe://cluster.local/a", "b"]), "{line}");
    assert!(line["jwt_keys"].as_u64().unwrap() >= 1, "{line}");
    assert!((290.0..=300.0).contains(&line["seconds"].as_f64().unwrap()), "{line}");
    assert!(line["other_says"].as_str().unwrap().contains("expected audience in"), "{line}");
}

#[test]
fn a_call_without_the_security_header_is_an_invalid_argument() {
    let dir = TempDir::new().unwrap();
    let _serve = serve(&dir);
    let mut client = client(dir.path(), "no-header", &[]);
    client.wait_for_success(LIMIT);
    assert_eq!(lines(&client)[0]["code"], "InvalidArgument", "{}", client.output());
}

#[test]
fn no_stream_ends_with_ok_when_serve_leaves() {
    let dir = TempDir::new().unwrap();
    let serve = serve(&dir);
    let mut client = client(dir.path(), "stream-ends", &[]);
    wait_until(LIMIT, "a first update on each of the three streams", || {
        let seen = lines(&client);
        let open: BTreeSet<_> = seen.iter().map(|line| line["stream"].as_str().unwrap()).collect();
        if open.len() == 3 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    serve.process.signal(Signal::TERM);
    client.wait_for_success(LIMIT);
    for line in lines(&client).iter().filter(|line| line["event"] == "end") {
        assert_eq!(line["code"], "Unavailable", "{line}");
    }
}
