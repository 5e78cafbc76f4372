//! JWT-SVIDs of a pair that passes requests for certificates on: signed by keys of its own, one of them after the other's end.

use std::{cell::Cell, fs, path::Path, process::Output, time::Duration};

use countersign::proto::{JwtBundlesRequest, Jwtsvid, JwtsvidRequest, ValidateJwtsvidRequest, ValidateJwtsvidResponse};
use serde_json::Value;
use tempfile::TempDir;
use tonic::{Code, Status};

use super::{
    client::{Asked, ask, to_pair},
    stage::{Agent, Stage},
};
use crate::{
    cluster::block_on,
    istio::objects::check_nothing_was_refused,
    istiod_agent::gateway::{ID, served},
    support::{
        authority::Authority,
        countersign::countersign,
        http::{free_port, loopback},
        observe::readiness,
        openssl,
        wait::wait_until,
        workload_api::{connect, secured},
    },
};

pub(super) const RIGHTS: [&str; 2] = ["rbac-istiod-policy.yaml", "rbac-istiod-jwt-svids.yaml"];
const START: Duration = Duration::from_secs(20);
pub(super) const AUDIENCE: &str = "https://partner.example";

/// The bundle endpoints of two replicas, by profile https_web.
struct Endpoints {
    ports: [u16; 2],
    folder: TempDir,
    begun: Cell<usize>,
}

impl Endpoints {
    fn new() -> Self {
        let (folder, web) = (tempfile::tempdir().unwrap(), Authority::root("web"));
        let (chain, key) = web.server("localhost");
        for (name, content) in [("web.pem", &chain), ("web.key", &key), ("root.pem", &web.certificate)] {
            fs::write(folder.path().join(name), content).unwrap();
        }
        Self { ports: [free_port(), free_port()], folder, begun: Cell::new(0) }
    }

    /// Of the next replica.
    fn flags(&self) -> Vec<String> {
        let endpoint = loopback(self.ports[self.begun.replace(self.begun.get() + 1)]).to_string();
        let [certificate, key] = ["web.pem", "web.key"].map(|name| self.folder.path().join(name).display().to_string());
        let pair = loopback(free_port()).to_string();
        let flags = [
            ["--jwt-svids", "true"],
            ["--pair-listen", &pair],
            ["--pair-address", &pair],
            ["--bundle-endpoint", &endpoint],
            ["--bundle-endpoint-cert", &certificate],
            ["--bundle-endpoint-key", &key],
        ];
        flags.concat().into_iter().map(str::to_owned).collect()
    }

    /// What one answers, and how many keys of X.509-SVIDs and of JWT-SVIDs are in it.
    fn document(&self, replica: usize) -> (String, [usize; 2]) {
        let root = self.folder.path().join("root.pem");
        let text = openssl::get(self.ports[replica], "localhost", &root).unwrap();
        let document: Value = serde_json::from_str(&text).unwrap();
        let keys = document["keys"].as_array().unwrap();
        let of = |kind: &str| keys.iter().filter(|key| key["use"] == kind).count();
        let counts = [of("x509-svid"), of("jwt-svid")];
        (text, counts)
    }
}

/// Which of the replicas signs.
pub(super) fn active(stage: &Stage) -> usize {
    wait_until(START, "one of the two active", || {
        let pages = stage.replicas.each_ref().map(readiness);
        pages.iter().position(|page| page.contains("JWT-SVIDs: ready (active in term ")).ok_or_else(|| pages.concat())
    })
}

impl Agent {
    pub(super) fn fetch(&self, audience: &str) -> Result<Jwtsvid, Status> {
        fetch(&self.socket, audience)
    }

    pub(super) fn validate(&self, token: &Jwtsvid) -> Result<ValidateJwtsvidResponse, Status> {
        let request = ValidateJwtsvidRequest { audience: AUDIENCE.to_owned(), svid: token.svid.clone() };
        block_on(async { Ok(connect(&self.socket).await?.validate_jwtsvid(secured(request)).await?.into_inner()) })
    }

    /// The keys of the mesh's trust domain, as a document.
    pub(super) fn keys(&self) -> Vec<u8> {
        let bundles = block_on(async {
            let mut stream =
                connect(&self.socket).await?.fetch_jwt_bundles(secured(JwtBundlesRequest {})).await?.into_inner();
            stream.message().await
        });
        bundles.unwrap().unwrap().bundles["spiffe://cluster.local"].to_vec()
    }
}

/// A token by the agent at `socket`.
pub(super) fn fetch(socket: &Path, audience: &str) -> Result<Jwtsvid, Status> {
    let request = JwtsvidRequest { audience: vec![audience.to_owned()], spiffe_id: String::new() };
    let mut answer = block_on(async {
        Ok::<_, Status>(connect(socket).await?.fetch_jwtsvid(secured(request)).await?.into_inner())
    })?;
    assert_eq!(answer.svids.len(), 1, "one identity");
    Ok(answer.svids.remove(0))
}

/// Runs a command beside a replica.
pub(super) fn operate(stage: &Stage, replica: usize, arguments: &[&str]) -> Output {
    let folder = stage.cluster.folder().join(format!("countersign-{replica}"));
    countersign().args(arguments).arg("--data-dir").arg(folder).output().unwrap()
}

#[test]
fn a_pair_before_istiod_signs_jwt_svids_that_outlive_the_active_and_are_verified_without_it() {
    let endpoints = Endpoints::new();
    let mut stage = Stage::before_istiod(&RIGHTS, || endpoints.flags());
    stage.start_istiod();
    stage.wait_until_ready();
    let active = active(&stage);
    // the standby is asked first: it passes on
    let addresses = [1 - active, active].map(|replica| loopback(stage.replicas[replica].port).to_string());
    let workload = stage.agent(&addresses, &[]);

    let first = wait_until(START, "a token", || workload.fetch(AUDIENCE));
    assert_eq!(first.spiffe_id, ID);
    let valid = wait_until(START, "the pair's key", || workload.validate(&first));
    assert_eq!(valid.spiffe_id, ID);
    let served = served(&workload.socket).unwrap();
    let roots = countersign::domain::x509::Certificate::all_from_pem(stage.roots.as_bytes()).unwrap();
    assert_eq!(served.bundle, roots, "certificates are verified by the mesh's roots as ever");
    let refused = workload.fetch("istio-ca").unwrap_err();
    assert!(refused.code() == Code::InvalidArgument && refused.message().contains("no JWT-SVID"), "{refused}");

    let shown = |kind: &str, replica| operate(&stage, replica, &["authority", kind, "show"]);
    for replica in [0, 1] {
        let keys = shown("jwt", replica);
        assert!(keys.status.success() && String::from_utf8_lossy(&keys.stdout).contains("active"), "{keys:?}");
        let roots = shown("x509", replica);
        let said = String::from_utf8_lossy(&roots.stderr).into_owned();
        assert!(!roots.status.success() && said.contains("istiod signs the certificates of this mesh"), "{roots:?}");
    }
    let prepared = operate(&stage, 1 - active, &["authority", "jwt", "prepare", "--reason", "test"]);
    assert!(prepared.status.success(), "{prepared:?}");
    let keys = |document: &[u8]| serde_json::from_slice::<Value>(document).unwrap()["keys"].as_array().unwrap().len();
    wait_until(START, "the next key at the agent", || match keys(&workload.keys()) {
        2 => Ok(()),
        other => Err(other),
    });

    stage.replicas[active].process.kill();
    let (_, token) = stage.caller("other");
    block_on(async { ask(&to_pair(stage.replicas[1 - active].port, &stage.roots), &Asked::by(&token)).await })
        .expect("certificates need nobody active");
    let second = workload.fetch("https://other.example").expect("a request is held until the other one is active");
    assert_ne!(second.svid, first.svid);
    assert_eq!(workload.validate(&first).unwrap().spiffe_id, ID, "by a key that outlives who signed");

    // whoever has the document needs nobody
    let folder = stage.cluster.folder();
    let [bundle, svid] = ["keys.json", "second.jwt"].map(|name| folder.join(name));
    let (document, keys) = endpoints.document(1 - active);
    assert_eq!(keys, [1, 2], "{document}");
    fs::write(&bundle, document).unwrap();
    fs::write(&svid, &second.svid).unwrap();
    stage.replicas[1 - active].process.kill();
    let mut inspect = countersign();
    let verified = inspect.arg("inspect").arg(&svid).arg("--bundle").arg(&bundle).output().unwrap();
    assert!(
        verified.status.success() && String::from_utf8_lossy(&verified.stdout).contains("verifies to the bundle"),
        "{verified:?}"
    );
    check_nothing_was_refused(&stage.cluster);
    let logs = [&stage.replicas[0].process, &stage.replicas[1].process, &workload.process].map(|one| one.errors());
    assert!(logs.concat().contains("jwt_svid_minted"));
    for log in logs {
        assert!(!log.contains(&first.svid) && !log.contains(&second.svid), "a token stands in a log:\n{log}");
    }
}
