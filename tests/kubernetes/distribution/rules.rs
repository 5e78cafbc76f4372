//! Whether each shipped rule is needed: what it allows was done, and nothing was refused.

use std::fs;

use serde::Deserialize;

use super::{nothing_was_denied, own_requests};
use crate::{
    cluster::{AuditedRequest, Cluster},
    pair::shipped,
};

const FILES: [&str; 4] =
    ["rbac.yaml", "rbac-mesh-ca.yaml", "rbac-cluster-trust-bundle.yaml", "rbac-mesh-trust-bundle.yaml"];

/// As much as matters here of a Role, a ClusterRole, or something else.
#[derive(Deserialize)]
struct Document {
    metadata: Metadata,
    #[serde(default)]
    rules: Vec<Rule>,
}

#[derive(Deserialize)]
struct Metadata {
    namespace: Option<String>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Rule {
    resources: Vec<String>,
    #[serde(default)]
    resource_names: Vec<String>,
    verbs: Vec<String>,
}

/// One thing that a rule allows. A rule for any name has none.
#[derive(Debug)]
struct Right {
    verb: String,
    resource: String,
    namespace: Option<String>,
    name: Option<String>,
}

/// Fails when a replica did not use a right that it has, in all that it did in this cluster, or was refused something.
pub(super) fn check_use(cluster: &Cluster) {
    let (rights, requests) = (shipped_rights(), own_requests(cluster));
    let done: Vec<&AuditedRequest> = requests.iter().filter(|request| (200..300).contains(&request.code)).collect();
    let unused: Vec<&Right> = rights.iter().filter(|right| !done.iter().any(|request| right.allows(request))).collect();
    assert!(unused.is_empty(), "never used: {unused:#?}");
    println!("{} rights, each of them used, in {} requests", rights.len(), requests.len());
    nothing_was_denied(cluster);
}

fn shipped_rights() -> Vec<Right> {
    let mut rights = Vec::new();
    for file in FILES {
        let text = fs::read_to_string(shipped(file)).unwrap();
        for document in serde_yaml_ng::Deserializer::from_str(&text) {
            let Document { metadata, rules } = Document::deserialize(document).unwrap();
            for Rule { resources, resource_names, verbs } in rules {
                let names: Vec<_> = resource_names.into_iter().map(Some).collect();
                let names = if names.is_empty() { vec![None] } else { names };
                for (resource, verb) in resources.iter().flat_map(|one| verbs.iter().map(move |verb| (one, verb))) {
                    rights.extend(names.iter().map(|name| Right {
                        verb: verb.clone(),
                        resource: resource.clone(),
                        namespace: metadata.namespace.clone(),
                        name: name.clone(),
                    }));
                }
            }
        }
    }
    rights
}

impl Right {
    fn allows(&self, request: &AuditedRequest) -> bool {
        if self.verb == "attest" {
            // no request, but what making the signer's ClusterTrustBundle asks for besides
            let signer = self.name.as_ref().unwrap().replace('/', ":");
            return request.verb == "create"
                && request.resource == "clustertrustbundles"
                && request.name.starts_with(&signer);
        }
        let named = self.name.as_ref().is_none_or(|name| *name == request.name);
        let placed = self.namespace.as_ref().is_none_or(|namespace| *namespace == request.namespace);
        self.verb == request.verb && self.resource == request.resource && named && placed
    }
}
