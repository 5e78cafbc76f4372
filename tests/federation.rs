//! Two trust domains that federate with each other, each a pair on one machine, by the real binary: over `https_spiffe` by the
//! command line, over `https_web` by the configuration. And one that has another's bundle in a file.

#![cfg(feature = "server")]
#![expect(
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "test code: it reads files and stops at a surprise"
)]

mod support;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Output,
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::Value;
use spiffe::{JwtBundle, TrustDomain, WorkloadApiClient, X509Bundle};
use tokio::runtime::Builder;

use crate::support::{
    authority::Authority,
    countersign::{Serve, countersign, root_file},
    http::{free_port, loopback},
    mount::Mount,
    openssl,
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
        vec![der(&fs::read_to_string(root_file(&self.data)).unwrap())]
    }

    /// The roots of `other` on the socket, in the same form; none if there is no bundle of it.
    fn roots_on_the_socket(&self, other: &str) -> Result<Vec<String>, String> {
        let name = TrustDomain::new(other).unwrap();
        let socket = format!("unix://{}", self.data.join("workload.sock").display());
        let runtime = Builder::new_current_thread().enable_all().build().unwrap();
        let bundles = runtime.block_on(async {
            let client = WorkloadApiClient::connect_to(socket).await.map_err(|error| error.to_string())?;
            client.fetch_x509_bundles().await.map_err(|error| error.to_string())
        })?;
        let roots = bundles.get(&name).map(|bundle| bundle.authorities().to_vec()).unwrap_or_default();
        Ok(roots.iter().map(|root| STANDARD.encode(root.as_bytes())).collect())
    }
}

/// Of one certificate, in base64.
fn der(pem: &str) -> String {
    pem.lines().filter(|line| !line.starts_with("-----")).collect()
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

/// Of the web: a certificate for `localhost`, its key and its root, in files that can be written anew.
struct Web {
    certificate: PathBuf,
    key: PathBuf,
    root: PathBuf,
}

impl Web {
    fn new(folder: &Path) -> Self {
        let [certificate, key, root] = ["web.pem", "web.key", "web-root.pem"].map(|name| folder.join(name));
        let web = Self { certificate, key, root };
        web.renew("web");
        web
    }

    /// By another CA each time, which alone is believed then.
    fn renew(&self, name: &str) {
        let web = Authority::root(name);
        let (chain, key_pem) = web.server("localhost");
        fs::write(&self.certificate, chain).unwrap();
        fs::write(&self.key, key_pem).unwrap();
        fs::write(&self.root, &web.certificate).unwrap();
    }

    fn flags(&self) -> [&str; 4] {
        let [certificate, key] = [&self.certificate, &self.key].map(|file| file.to_str().unwrap());
        ["--bundle-endpoint-cert", certificate, "--bundle-endpoint-key", key]
    }
}

/// Parsed by the `spiffe` crate, which has no reader of whole documents, key by key.
#[test]
fn what_an_endpoint_says_is_what_the_spiffe_crate_has_from_the_socket() {
    let folder = tempfile::tempdir().unwrap();
    let (domain, web, port) = (Domain::new(folder.path(), "one.example"), Web::new(folder.path()), free_port());
    let _serve = domain.serve("a", port, &web.flags());
    let document = wait_until(LIMIT, "the document", || openssl::get(port, "localhost", &web.root));
    let document: Value = serde_json::from_str(&document).unwrap();
    let name = TrustDomain::new(domain.name).unwrap();
    let (mut x509, mut jwt) = (X509Bundle::new(name.clone()), JwtBundle::new(name.clone()));
    for key in document["keys"].as_array().unwrap() {
        match key["use"].as_str() {
            Some("x509-svid") => {
                let [root] = &key["x5c"].as_array().unwrap()[..] else { panic!("one certificate: {key}") };
                x509.add_authority(&STANDARD.decode(root.as_str().unwrap()).unwrap()).unwrap();
            }
            Some("jwt-svid") => jwt.add_jwk_authority_json(key.to_string().as_bytes()).unwrap(),
            other => panic!("{other:?} is neither"),
        }
    }
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    let (of_x509, of_jwt, token) = runtime.block_on(async {
        let socket = format!("unix://{}", domain.data.join("workload.sock").display());
        let client = WorkloadApiClient::connect_to(socket).await.unwrap();
        let token = client.fetch_jwt_svid(["a"], None).await.unwrap();
        (client.fetch_x509_bundles().await.unwrap(), client.fetch_jwt_bundles().await.unwrap(), token)
    });
    assert!(!x509.authorities().is_empty());
    assert_eq!(x509.authorities(), of_x509.get(&name).unwrap().authorities());
    let keys =
        |bundle: &JwtBundle| bundle.jwt_authorities().map(|key| key.key_id().to_owned()).collect::<BTreeSet<_>>();
    assert_eq!(keys(&jwt), keys(&of_jwt.get(&name).unwrap()));
    assert!(
        jwt.find_jwt_authority(token.key_id()).is_some(),
        "{} signs, and is not among {:?}",
        token.key_id(),
        keys(&jwt)
    );
}

#[test]
fn an_endpoint_of_the_web_is_believed_by_the_systems_roots_and_takes_a_new_certificate_from_its_files() {
    let folder = tempfile::tempdir().unwrap();
    let (one, two) = (Domain::new(folder.path(), "one.example"), Domain::new(folder.path(), "two.example"));
    let (web, config, port) = (Web::new(folder.path()), folder.path().join("one.yaml"), free_port());
    let _other = two.serve("a", port, &web.flags());
    let entry = format!("federation:\n  - trustDomain: two.example\n    url: https://localhost:{port}/\n");
    fs::write(&config, entry).unwrap();

    let mut command = countersign();
    command.arg("serve").arg("--data-dir").arg(&one.data).args(["--trust-domain", one.name, "--config"]).arg(&config);
    command.args(["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--bundle-endpoint", "127.0.0.1:0"]);
    command.env("SSL_CERT_FILE", &web.root);
    let _serve = Process::start("one.example", folder.path(), &mut command);
    wait_until(LIMIT, "one.example answers", || {
        let output = one.run(&["list"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
    let fetched = one.wait_until_fetched();
    assert_eq!((&fetched["profile"], &fetched["configured"]), (&"https_web".into(), &true.into()), "{fetched}");
    assert_eq!(one.roots_of("two.example"), two.own_roots());
    one.refused(&["delete", "two.example"], "stands in the configuration");

    web.renew("another web");
    wait_until(LIMIT, "the new certificate is shown", || {
        let output = one.run(&["refresh", "two.example"]);
        if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&output.stderr).into_owned()) }
    });
}

const MESH: &str = "cluster.local";
const IN_THE_MOUNT: &str = "root-cert.pem";

/// As a kubelet mounts a ConfigMap, for each replica by itself.
#[test]
fn a_bundle_in_a_file_is_followed_to_the_socket_whatever_becomes_of_the_file_and_of_the_active() {
    let folder = tempfile::tempdir().unwrap();
    let one = Domain::new(folder.path(), "one.example");
    let roots = ["first", "second", "third"].map(|name| Authority::root(name).certificate);
    let [first, second, third] = roots.each_ref().map(|root| der(root));
    let mounts = ["a", "b"].map(|replica| Mount::at(folder.path().join(format!("mount-{replica}"))));
    let configs = mounts.each_ref().map(|mount| {
        let (file, config) = (mount.path().join(IN_THE_MOUNT), mount.path().with_extension("yaml"));
        let entry = format!("federation: [{{trustDomain: {MESH}, bundleFile: {}}}]\n", file.display());
        fs::write(&config, entry).unwrap();
        config.display().to_string()
    });
    let deliver = |to: &[&Mount], content: &str| {
        to.iter().for_each(|mount| mount.swap([(IN_THE_MOUNT, content.as_bytes())]));
    };
    let published = |what: &str, expected: &[&String]| {
        wait_until(LIMIT, what, || match one.roots_on_the_socket(MESH)? {
            found if found.iter().eq(expected.iter().copied()) => Ok(()),
            found => Err(format!("{found:?} and {:?}", one.listed())),
        });
    };
    let stays = |trouble: &str, expected: &[&String]| {
        one.refused(&["refresh", MESH], trouble);
        let listed = one.listed();
        assert!(listed[0]["trouble"].as_str().is_some_and(|said| said.contains(trouble)), "{listed:?}");
        assert!(one.roots_on_the_socket(MESH).unwrap().iter().eq(expected.iter().copied()), "{trouble}: {listed:?}");
    };

    let mut active = one.serve("a", free_port(), &["--config", &configs[0]]);
    let _standby = one.serve("b", free_port(), &["--config", &configs[1]]);
    let [a, b] = &mounts;
    stays("No such file", &[]);
    one.refused(&["delete", MESH], "stands in the configuration");
    deliver(&[a, b], &roots[0]);
    published("what is delivered later", &[&first]);
    let both = roots[0].clone() + &roots[1];
    deliver(&[a, b], &both);
    published("a root more", &[&first, &second]);
    for damaged in ["", &both[..both.len() - 99]] {
        deliver(&[a], damaged);
        stays("", &[&first, &second]);
    }
    a.swap([]);
    stays("No such file", &[&first, &second]);
    deliver(&[a], &roots[1]);
    published("a root less", &[&second]);

    // what the other replica has is older
    active.process.kill();
    wait_until(LIMIT, "the standby is active, and behind", || {
        let output = one.run(&["refresh", MESH]);
        let said = String::from_utf8_lossy(&output.stderr);
        if said.contains("was replaced by the active of before") { Ok(()) } else { Err(said.into_owned()) }
    });
    published("what the other one had", &[&second]);
    deliver(&[b], &roots[1]);
    let read = one.wait_until_fetched();
    assert_eq!((&read["url"], &read["configured"], &read["x509Authorities"]), (&Value::Null, &true.into(), &1.into()));
    assert_eq!(read["bundleFile"], b.path().join(IN_THE_MOUNT).to_str().unwrap());
    published("the same", &[&second]);
    deliver(&[b], &roots[2]);
    published("another root", &[&third]);
}
