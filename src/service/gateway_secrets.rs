//! The active keeps an SVID in a Secret for each gateway that takes its client certificate from one. Opt-in for each gateway,
//! and nothing that does not bear our mark is ever written over.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    fmt,
    future::pending,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use futures_util::{StreamExt, stream::FuturesUnordered};
use tokio::sync::watch;
use zeroize::Zeroizing;

use super::{
    bundle_distribution::{CertificateStatus, Holder, KeptCertificate, TlsSecret, Trusted},
    metrics::Metrics,
    ports::{BoxFuture, CertificateAuthority, SelfCheck},
    readiness::Latch,
};
use crate::domain::{
    clock::Clock,
    identity::{ServiceAccount, ServiceAccountError, SpiffeIdError, TrustDomain},
};

/// Which Secret is for which gateway, written `NAMESPACE/SECRET=ACCOUNT`. Both are in one namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewaySecret {
    /// The Secret's name.
    pub name: String,
    /// Whose SVID it holds, in the Secret's namespace.
    pub account: ServiceAccount,
}

/// Why a text names no Secret of a gateway.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GatewaySecretError {
    /// Its parts are not there.
    #[error("a gateway's Secret is written NAMESPACE/SECRET=ACCOUNT, not {0:?}")]
    Form(String),
    /// A part is no name of Kubernetes.
    #[error(transparent)]
    Account(#[from] ServiceAccountError),
    /// The Secret's is not.
    #[error("a Secret's name is 1 to 253 of a-z, 0-9, '-' and '.', not {0:?}")]
    Name(String),
}

/// Tokens that are made for a service account, where somebody else signs for it.
pub trait AccountTokens: Send + Sync {
    /// A new one. Whoever calls bounds the time.
    ///
    /// # Errors
    ///
    /// When none is given, in words that name the account.
    fn token<'a>(&'a self, account: &'a ServiceAccount) -> BoxFuture<'a, Result<Zeroizing<String>, String>>;
}

/// One gateway's Secret with the ways to it.
pub struct Parts {
    /// Which.
    pub of: GatewaySecret,
    /// The Secret.
    pub secret: Arc<dyn TlsSecret>,
    /// Signs for that gateway's account.
    pub authority: Arc<dyn CertificateAuthority>,
}

/// What all of them have in common.
pub struct Surroundings {
    /// Of the identities.
    pub trust_domain: TrustDomain,
    /// How long an SVID is to live; zero for what its authority gives by itself.
    pub ttl: Duration,
    /// The pair's namespace; our mark.
    pub publisher: String,
    /// What an SVID has to stand before it is written.
    pub check: Arc<dyn SelfCheck>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

/// The use case.
pub struct GatewaySecrets {
    kept: Vec<KeptCertificate>,
    metrics: Arc<Metrics>,
}

impl GatewaySecret {
    /// Of the Secret and the account.
    pub fn namespace(&self) -> &str {
        self.account.namespace()
    }
}

impl FromStr for GatewaySecret {
    type Err = GatewaySecretError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let form = || GatewaySecretError::Form(text.to_owned());
        let (namespace, rest) = text.split_once('/').ok_or_else(form)?;
        let (name, account) = rest.split_once('=').ok_or_else(form)?;
        let account = ServiceAccount::new(namespace, account)?;
        // Secrets and service accounts are named by the same rule
        match ServiceAccount::new(namespace, name) {
            Ok(_) => Ok(Self { name: name.to_owned(), account }),
            Err(_) => Err(GatewaySecretError::Name(name.to_owned())),
        }
    }
}

impl fmt::Display for GatewaySecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}={}", self.namespace(), self.name, self.account.name())
    }
}

impl GatewaySecrets {
    /// The use case over its ports. Nothing happens before it is run.
    ///
    /// # Errors
    ///
    /// When an account has no ID in the trust domain.
    pub fn new(parts: Vec<Parts>, all: &Surroundings) -> Result<Self, SpiffeIdError> {
        let kept = parts.into_iter().map(|Parts { of, secret, authority }| {
            Ok(KeptCertificate {
                name: format!("{}/{}", of.namespace(), of.name),
                holder: Holder::Gateway,
                secret,
                authority,
                check: Arc::clone(&all.check),
                id: of.account.spiffe_id(&all.trust_domain)?,
                server_names: Vec::new(),
                ttl: all.ttl,
                publisher: all.publisher.clone(),
                clock: Arc::clone(&all.clock),
                metrics: Arc::clone(&all.metrics),
            })
        });
        Ok(Self { kept: kept.collect::<Result<_, SpiffeIdError>>()?, metrics: Arc::clone(&all.metrics) })
    }

    /// Keeps them while this replica is active, which it is while there is a term; `trusted` are the roots of that. Never
    /// returns. `latch` tells how they stand and is always ready: a Secret is no reason to answer no requests.
    pub(crate) async fn run<S: Clone + Send + Sync, T: Trusted + Clone>(
        self,
        mut terms: watch::Receiver<Option<S>>,
        trusted: impl Fn(&S) -> T,
        latch: Latch,
    ) -> Infallible {
        loop {
            let term = terms.borrow_and_update().clone();
            latch.ready("the active replica keeps them");
            let changed = tokio::select! {
                changed = terms.changed() => changed,
                never = self.keep(term.as_ref().map(&trusted), &latch) => match never {},
            };
            self.kept.iter().for_each(|kept| self.metrics.forget_output(&kept.name));
            if changed.is_err() {
                // an election that has ended says so itself
                pending::<()>().await;
            }
        }
    }

    async fn keep<T: Trusted + Clone>(&self, trusted: Option<T>, latch: &Latch) -> Infallible {
        let Some(trusted) = trusted else { return pending().await };
        let stands = Mutex::new(BTreeMap::new());
        let keep_one = |kept: &'_ KeptCertificate| {
            self.metrics.output_begins(&kept.name);
            let name = kept.name.clone();
            let tell = |name: &str, status: CertificateStatus| {
                let mut stands = stands.lock().unwrap_or_else(PoisonError::into_inner);
                stands.insert(name.to_owned(), status);
                let texts = stands.iter().map(|(name, status)| format!("{name}: {status}"));
                latch.ready(texts.collect::<Vec<_>>().join("; "));
            };
            (name, tell)
        };
        let mut running: FuturesUnordered<_> = self
            .kept
            .iter()
            .map(|kept| {
                let (name, tell) = keep_one(kept);
                let trusted = trusted.clone();
                async move { kept.run(trusted, |status| tell(&name, status)).await }
            })
            .collect();
        match running.next().await {
            Some(never) => match never {},
            None => pending().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_from_its_text() {
        let secret: GatewaySecret = "gateways/mesh-cert=edge.gateway".parse().unwrap();
        assert_eq!((secret.namespace(), secret.name.as_str()), ("gateways", "mesh-cert"));
        assert_eq!(secret.account.to_string(), "gateways/edge.gateway");
        assert_eq!(secret.to_string(), "gateways/mesh-cert=edge.gateway");
        for (text, expected) in [
            ("gateways=edge", "is written NAMESPACE/SECRET=ACCOUNT"),
            ("gateways/mesh", "is written NAMESPACE/SECRET=ACCOUNT"),
            ("Gateways/mesh=edge", "a namespace is"),
            ("gateways/Mesh=edge", "a Secret's name is"),
            ("gateways/mesh=", "a service account is"),
            ("gateways/=edge", "a Secret's name is"),
        ] {
            let error = text.parse::<GatewaySecret>().unwrap_err().to_string();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
