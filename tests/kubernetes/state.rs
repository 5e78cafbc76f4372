//! The state of a pair in Secrets: made once, fenced by term, and never begun anew when something of it is lost.

mod damage;
mod faults;
mod recovery;
mod writers;

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::Arc,
    time::{Duration, Instant},
};

use countersign::{
    domain::{clock::Clock, leadership::Term, random::SecureRandom},
    k8s::state_store::SecretStateStore,
    runtime::seams::{RingRandom, SystemClock},
    service::{
        ports::StateStore,
        signing_state::{Claim, Origin, SigningState, root_of},
        state_manifest::StateManifest,
    },
};
use k8s_openapi::{ByteString, api::core::v1::Secret};
use kube::{
    Api, Client,
    api::{DeleteParams, PostParams},
};
use tokio::runtime::Handle;

use crate::cluster::{Account, Cluster};

const AUTHORITY: &str = "countersign-authority";
const TRUST: &str = "countersign-trust";
/// Of a claim or a write: as long as a renewal of the lease may take.
const LIMIT: Duration = Duration::from_secs(1);

/// A namespace with the rights that are shipped, on a server.
struct Place<'a> {
    cluster: &'a Cluster,
    namespace: String,
    client: Client,
}

impl<'a> Place<'a> {
    async fn make(cluster: &'a Cluster) -> Self {
        let namespace = cluster.namespace("state").await;
        let rights = fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("charts/countersign/rbac.yaml"));
        let rights = rights.unwrap().replace("namespace: countersign\n", &format!("namespace: {namespace}\n"));
        let is_local = |document: &&str| !document.contains("kind: Cluster");
        cluster.apply(&rights.split("\n---\n").filter(is_local).collect::<Vec<_>>().join("\n---\n")).await;
        let account = Account { namespace: namespace.clone(), name: "countersign".into() };
        let kubeconfig = cluster.kubeconfig(&account).await;
        let client = countersign::k8s::client::client(Some(&kubeconfig)).await.unwrap();
        Self { cluster, namespace, client }
    }

    /// A replica that knows of the state what `lease` says.
    fn replica(&self, lease: &BTreeMap<String, String>) -> Replica {
        let manifest = Arc::new(StateManifest::default());
        // the annotations of a lease whose term is none of this replica's
        let _unreadable_is_remembered = manifest.learn(lease, Term::new(u64::MAX)).is_err();
        let client = self.client.clone();
        let store =
            SecretStateStore::new(client, Handle::current(), &self.namespace, LIMIT, Arc::clone(&manifest), root_of);
        let opened: Arc<dyn StateStore> = Arc::new(store.clone());
        let (clock, random): (Arc<dyn Clock>, Arc<dyn SecureRandom>) =
            (Arc::new(SystemClock), Arc::new(RingRandom::new()));
        let open = Box::new(move || Ok(Arc::clone(&opened)));
        let state = SigningState::new(open, Origin::SelfSigned, "cluster.local".parse().unwrap(), clock, random);
        Replica { store, manifest, state: Arc::new(state) }
    }

    fn secrets(&self) -> Api<Secret> {
        Api::namespaced(self.cluster.admin(), &self.namespace)
    }

    /// Both Secrets, as far as they are there.
    async fn found(&self) -> BTreeMap<String, Secret> {
        let all = self.secrets().list(&kube::api::ListParams::default()).await.unwrap();
        all.items.into_iter().map(|secret| (secret.metadata.name.clone().unwrap(), secret)).collect()
    }

    async fn edit(&self, name: &str, edit: impl FnOnce(&mut Secret)) {
        let mut secret = self.secrets().get(name).await.unwrap();
        edit(&mut secret);
        self.secrets().replace(name, &PostParams::default(), &secret).await.unwrap();
    }

    async fn delete(&self, name: &str) {
        self.secrets().delete(name, &DeleteParams::default()).await.unwrap();
    }

    /// Puts Secrets back by hand, whatever is there, as from a backup.
    async fn restore(&self, secrets: impl IntoIterator<Item = &Secret>) {
        for secret in secrets {
            let name = secret.metadata.name.clone().unwrap();
            let mut secret = secret.clone();
            secret.metadata.resource_version = None;
            secret.metadata.uid = None;
            secret.metadata.namespace = Some(self.namespace.clone());
            if self.secrets().get_opt(&name).await.unwrap().is_some() {
                self.delete(&name).await;
            }
            self.secrets().create(&PostParams::default(), &secret).await.unwrap();
        }
    }
}

struct Replica {
    store: SecretStateStore,
    manifest: Arc<StateManifest>,
    state: Arc<SigningState>,
}

impl Replica {
    /// Claims a term: the fingerprint of the root that it would sign with, or the refusal.
    fn claim(&self, term: u64) -> Result<String, String> {
        let claimed = tokio::task::block_in_place(|| self.state.claim(Term::new(term)));
        match claimed.map_err(|error| error.to_string())? {
            Claim::Claimed(claimed) => {
                let fingerprint = claimed.authority.as_ref().unwrap().borrow().certificate().fingerprint();
                Ok(fingerprint.iter().map(|byte| format!("{byte:02x}")).collect())
            }
            Claim::Refused { highest } => Err(format!("refused: {highest}")),
        }
    }

    /// What its lease would say.
    fn lease(&self) -> BTreeMap<String, String> {
        self.manifest.annotations().into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
    }
}

fn content_of(secret: &Secret) -> Option<&Vec<u8>> {
    secret.data.as_ref()?.get("state").map(|content| &content.0)
}

fn set_annotation(secret: &mut Secret, name: &str, value: &str) {
    secret.metadata.annotations.get_or_insert_default().insert(format!("countersign.io/{name}"), value.into());
}

fn set_content(secret: &mut Secret, content: &[u8]) {
    secret.data.get_or_insert_default().insert("state".into(), ByteString(content.to_vec()));
}

/// Waits for a condition of the moment, without blocking the runtime.
async fn eventually<T>(limit: Duration, what: &str, mut look: impl AsyncFnMut() -> Result<T, String>) -> T {
    let begin = Instant::now();
    loop {
        match look().await {
            Ok(value) => return value,
            Err(last) => assert!(begin.elapsed() < limit, "{what}: not within {limit:?}, last: {last}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
