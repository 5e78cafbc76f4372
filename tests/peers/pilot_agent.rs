//! pilot-agent's own CA client against CreateCertificate; Go's verifier and OpenSSL judge what it gets.

use std::{fs, path::Path, time::Duration};

use serde_json::Value;
use tempfile::TempDir;

use crate::support::{
    certificate::Certificate,
    countersign::{Serve, root_file, write_token},
    openssl,
    peer::{lines, peer},
    process::Process,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(60);
const GATEWAY: &str = "spiffe://cluster.local/ns/default/sa/gateway";

fn client(logs: &Path, name: &str, data: &Path, address: &str, flags: &[&str]) -> Process {
    let token = logs.join(format!("{name}.token"));
    write_token(data, "default/gateway", &token);
    let mut command = peer("citadel-client");
    command.args(["--address", address, "--spiffe-id", GATEWAY, "--deadline", "45s"]).args(flags);
    command.arg("--root-file").arg(root_file(data)).arg("--token-file").arg(&token);
    Process::start(name, logs, &mut command)
}

#[test]
fn its_certificates_pass_go_and_openssl_with_every_key_it_can_make() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let serve = Serve::start("serve", dir.path(), &data, &[]);
    for key in ["rsa-2048", "ecdsa-p256", "ecdsa-p384"] {
        let out = dir.path().join(key);
        fs::create_dir(&out).unwrap();
        let flags = ["--key", key, "--out", out.to_str().unwrap()];
        // The client runs Go's verifier for both extended key usages before it prints a serial.
        let mut client = client(dir.path(), key, &data, &serve.address(), &flags);
        client.wait_for_success(LIMIT);
        let [leaf, above, roots] = ["leaf", "intermediates", "root"]
            .map(|name| fs::read_to_string(out.join(name).with_extension("pem")).unwrap());
        openssl::verify(&leaf, &above, &roots);

        let leaf = &Certificate::from_pem(&leaf)[0];
        assert_eq!(leaf.uris, [GATEWAY], "{key}");
        assert_eq!(lines(&client)[0]["serial"], Value::from(leaf.serial.as_str()), "{key}");
    }
}

#[test]
fn none_of_its_calls_fails_while_the_active_is_killed() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let mut active = Serve::start("active", dir.path(), &data, &[]);
    let standby = Serve::start("standby", dir.path(), &data, &[]);
    let flags = ["--calls", "60", "--interval", "50ms"];
    let mut client = client(dir.path(), "client", &data, &standby.address(), &flags);
    wait_until(LIMIT, "ten certificates by way of the standby", || {
        let seen = lines(&client);
        if seen.len() >= 10 { Ok(()) } else { Err(format!("{seen:?}")) }
    });
    active.process.kill();
    client.wait_for_success(LIMIT);
    let totals = lines(&client).pop().unwrap();
    assert_eq!((&totals["calls"], &totals["failures"]), (&Value::from(60), &Value::from(0)), "{totals}");
}
