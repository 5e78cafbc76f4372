//! The CA of a running mesh, as istiod keeps it in a Secret: `istio-ca-secret`, which it made itself, or `cacerts`, which was
//! plugged in.

use std::time::Duration;

use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::domain::authority::{AuthorityFiles, Layout};

/// Why there are no files.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("Secret {namespace}/{name}: {problem}")]
pub struct SecretUnreadable {
    /// Where.
    pub namespace: String,
    /// Which.
    pub name: String,
    /// What is wrong.
    pub problem: String,
}

const LIMIT: Duration = Duration::from_secs(10);

/// Reads the files that a Secret holds.
///
/// # Errors
///
/// When there is no such Secret, or the API server does not give it.
pub async fn read(client: Client, namespace: &str, name: &str) -> Result<AuthorityFiles, SecretUnreadable> {
    let unreadable = |problem: String| SecretUnreadable { namespace: namespace.into(), name: name.into(), problem };
    let answer = timeout(LIMIT, Api::<Secret>::namespaced(client, namespace).get_opt(name)).await;
    let answer = answer.map_err(|_elapsed| unreadable("the API server did not answer".into()))?;
    let secret = answer.map_err(|error| unreadable(error.to_string()))?;
    Ok(files_of(secret.ok_or_else(|| unreadable("it does not exist".into()))?))
}

fn files_of(secret: Secret) -> AuthorityFiles {
    let data = secret.data.unwrap_or_default();
    let layout = Layout::of(data.contains_key(Layout::MARK));
    let mut contents = std::collections::BTreeMap::new();
    for (key, content) in data {
        // wiped also if nobody wants it
        let content = Zeroizing::new(content.0);
        if let Some(name) = layout.files().iter().find(|name| **name == key) {
            contents.insert(*name, content);
        }
    }
    if layout == Layout::Cacerts {
        // a root that signs by itself has no chain, and some tools leave the empty file out
        contents.entry("cert-chain.pem").or_default();
    }
    AuthorityFiles::new(layout, contents)
}
