//! Two trust domains that federate with each other, each a pair on one machine, by the real binary: over `https_spiffe` by the
//! command line, over `https_web` by the configuration.

#![cfg(feature = "server")]
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: it reads files and stops at a surprise"
)]

mod support;

use std::{
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use serde_json::Value;

use crate::support::{
    authority::Authority,
    countersign::{Serve, countersign, root_file},
    http::{free_port, loopback},
    process::Process,
    wait::wait_until,
};

const LIMIT: Duration = Duration::from_secs(30);

/// A pair of one trust domain.
struct Domain {
    name: &'static str,
    data: PathBuf,
    logs: PathBuf,
}

impl Domain {
    fn new(folder: &Path, name: &'static str) -> Self {
        Self { name, data: folder.join(name), logs: folder.to_owned() }
    }

    /// Starts a replica with a bundle endpoint there.
    fn serve(&self, replica: &str, endpoint: u16, flags: &[&str]) -> Serve {
        let endpoint = loopback(endpoint).to_string();
        let flags = [&["--trust-domain", self.name, "--bundle-endpoint", &endpoint], flags].concat();
        Serve::start(&format!("{}-{replica}", self.name), &self.logs, &self.data, &flags)
    }

    fn run(&self, args: &[&str]) -> Output {
        countersign().arg("federation").args(args).arg("--data-dir").arg(&self.data).output().unwrap()
    }

    fn done(&self, args: &[&str]) -> String {
        let output = self.run(args);
        assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }

    fn refused(&self, args: &[&str], why: &str) {
        let output = self.run(args);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(why), "{args:?}: {said}");
    }

    /// Federates with `other`, whose endpoint is there.
    fn federate(&self, other: &Self, endpoint: u16) {
        let (url, id) =
            (format!("https://127.0.0.1:{endpoint}/"), format!("spiffe://{}/countersign/serving", other.name));
        let root = root_file(&other.data);
        let created =
            self.done(&["create", other.name, "--url", &url, "--endpoint-id", &id, "--bundle", root.to_str().unwrap()]);
        assert!(created.contains(other.name), "{created}");
    }

    fn listed(&self) -> Vec<Value> {
        serde_json::from_str(&self.done(&["list", "--output", "json"])).unwrap()
    }

    /// Waits until the one that is federated with is known from its endpoint.
    fn wait_until_fetched(&self) -> Value {
        wait_until(LIMIT, &format!("{} has fetched", self.name), || {
            let listed = self.listed();
            let fetched = listed.first().filter(|one| one["fetchedAt"].is_string() && one["trouble"].is_null());
            fetched.cloned().ok_or_else(|| format!("{listed:?}"))
        })
    }

    /// The roots in the last good bundle of `other`, DER in base64.
    fn roots_of(&self, other: &str) -> Vec<String> {
        let bundle: Value = serde_json::from_str(&self.done(&["show", other])).unwrap();
        let keys = bundle["keys"].as_array().unwrap().iter().filter(|key| key["use"] == "x509-svid");
        keys.map(|key| key["x5c"][0].as_str().unwrap().to_owned()).collect()
    }

    /// The own ones, in the same form.
    fn own_roots(&self) -> Vec<String> {
        let pem = fs::read_to_string(root_file(&self.data)).unwrap();
        let lines: String = pem.lines().filter(|line| !line.starts_with("-----")).collect();
        vec![lines]
    }
}

#[test]
fn two_trust_domains_federate_both_ways_and_the_bundle_outlasts_the_active_and_the_endpoint() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Domain::new(folder.path(), "one.example"), Domain::new(folder.path(), "two.example"));
    let ports: [u16; 3] = std::array::from_fn(|_| free_port());
    let mut active = one.serve("a", ports[0], &[]);
    let other = two.serve("a", ports[1], &[]);
    let _standby = one.serve("b", ports[2], &[]);

    let url = format!("https://127.0.0.1:{}/", ports[1]);
    one.refused(&["create", "one.example", "--url", &url], "is the own trust domain");
    let id = "spiffe://two.example/countersign/serving";
    one.refused(&["create", "two.example", "--url", &url, "--endpoint-id", id], "give one with --bundle");
    one.refused(&["delete", "two.example"], "there is no federation with two.example");
    one.federate(&two, ports[1]);
    two.federate(&one, ports[0]);
    for (domain, with) in [(&one, &two), (&two, &one)] {
        let fetched = domain.wait_until_fetched();
        assert_eq!(fetched["trustDomain"], with.name, "{fetched}");
        assert_eq!(fetched["profile"], "https_spiffe", "{fetched}");
        assert!(fetched["sequence"].as_u64().is_some_and(|sequence| sequence > 0), "{fetched}");
        assert_eq!(domain.roots_of(with.name), with.own_roots());
    }

    // the standby goes on with what the active has fetched, also while the endpoint is away
    drop(other);
    active.process.kill();
    wait_until(LIMIT, "the standby is active", || {
        let output = one.run(&["list"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    assert_eq!(one.roots_of("two.example"), two.own_roots());
    one.refused(&["refresh", "two.example"], "was not fetched");
    assert_eq!(one.roots_of("two.example"), two.own_roots());
    let listed = one.listed();
    assert!(listed[0]["trouble"].is_string(), "{listed:?}");

    // it is there again, with the same root
    let _other = two.serve("b", ports[1], &[]);
    let refreshed = one.done(&["refresh", "two.example"]);
    assert!(refreshed.starts_with("two.example: bundle"), "{refreshed}");
    one.done(&["delete", "two.example", "--reason", "the test is over"]);
    assert!(one.listed().is_empty());
}

#[test]
fn an_endpoint_of_the_web_is_believed_by_the_systems_roots_and_takes_a_new_certificate_from_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Domain::new(folder.path(), "one.example"), Domain::new(folder.path(), "two.example"));
    let [certificate, key, roots, config] =
        ["web.pem", "web.key", "web-root.pem", "one.yaml"].map(|name| folder.path().join(name));
    // by another CA each time, which alone is believed then
    let renew = |name: &str| {
        let web = Authority::root(name);
        let (chain, key_pem) = web.server("localhost");
        fs::write(&certificate, chain).unwrap();
        fs::write(&key, key_pem).unwrap();
        fs::write(&roots, &web.certificate).unwrap();
    };
    renew("web");
    let port = free_port();
    let files =
        ["--bundle-endpoint-cert", certificate.to_str().unwrap(), "--bundle-endpoint-key", key.to_str().unwrap()];
    let _other = two.serve("a", port, &files);
    let entry = format!("federation:\n  - trustDomain: two.example\n    url: https://localhost:{port}/\n");
    fs::write(&config, entry).unwrap();

    let mut command = countersign();
    command.arg("serve").arg("--data-dir").arg(&one.data).args(["--trust-domain", one.name, "--config"]).arg(&config);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--bundle-endpoint", "127.0.0.1:0"]);
    command.env("SSL_CERT_FILE", &roots);
    let _serve = Process::start("one.example", folder.path(), &mut command);
    wait_until(LIMIT, "one.example answers", || {
        let output = one.run(&["list"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    let fetched = one.wait_until_fetched();
    assert_eq!((&fetched["profile"], &fetched["configured"]), (&"https_web".into(), &true.into()), "{fetched}");
    assert_eq!(one.roots_of("two.example"), two.own_roots());
    one.refused(&["delete", "two.example"], "stands in the configuration");

    renew("another web");
    wait_until(LIMIT, "the new certificate is shown", || {
        let output = one.run(&["refresh", "two.example"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
}
