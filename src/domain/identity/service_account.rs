//! A Kubernetes service account and the SPIFFE ID that Istio gives its pods.

use std::{fmt, str::FromStr, sync::Arc};

use super::{SpiffeId, TrustDomain};

/// A service account in its namespace, written `NAMESPACE/ACCOUNT`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServiceAccount {
    namespace: Arc<str>,
    name: Arc<str>,
}

/// Why a text does not name a service account.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ServiceAccountError {
    /// Not exactly one slash.
    #[error("a service account is written NAMESPACE/ACCOUNT, not {0:?}")]
    Form(String),
    /// The namespace is not an RFC 1123 label.
    #[error("a namespace is 1 to 63 of a-z, 0-9 and '-', with no '-' at either end, not {0:?}")]
    Namespace(String),
    /// The account is not an RFC 1123 subdomain.
    #[error(
        "a service account is 1 to 253 of a-z, 0-9, '-' and '.', with a letter or digit at both ends of each part, not {0:?}"
    )]
    Name(String),
}

impl ServiceAccount {
    /// From both parts, each checked by Kubernetes' own rules for names.
    ///
    /// # Errors
    ///
    /// When a part is not a name that Kubernetes would accept.
    pub fn new(namespace: &str, name: &str) -> Result<Self, ServiceAccountError> {
        if !is_label(namespace) {
            return Err(ServiceAccountError::Namespace(namespace.to_owned()));
        }
        if name.len() > 253 || !name.split('.').all(is_label_of_any_length) {
            return Err(ServiceAccountError::Name(name.to_owned()));
        }
        Ok(Self { namespace: namespace.into(), name: name.into() })
    }

    /// The namespace.
    pub fn namespace(&self) -> &str {
        &self.namespace
    }

    /// The account's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// `spiffe://TD/ns/NAMESPACE/sa/ACCOUNT`, as Istio writes it.
    ///
    /// # Errors
    ///
    /// Never for the names that [`ServiceAccount::new`] accepts together with any trust domain: at most 600 bytes, all of
    /// them allowed. The parser is asked all the same, so that there is one rule.
    pub fn spiffe_id(&self, trust_domain: &TrustDomain) -> Result<SpiffeId, super::SpiffeIdError> {
        format!("spiffe://{trust_domain}/ns/{}/sa/{}", self.namespace, self.name).parse()
    }

    /// The account that an ID of Istio's form names, if it has that form.
    pub fn of(id: &SpiffeId) -> Option<Self> {
        let mut parts = id.path().split('/');
        match (parts.next(), parts.next(), parts.next(), parts.next(), parts.next(), parts.next()) {
            (Some(""), Some("ns"), Some(namespace), Some("sa"), Some(name), None) => Self::new(namespace, name).ok(),
            _ => None,
        }
    }
}

fn is_label(text: &str) -> bool {
    text.len() <= 63 && is_label_of_any_length(text)
}

fn is_label_of_any_length(text: &str) -> bool {
    let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
    !text.is_empty() && !text.starts_with('-') && !text.ends_with('-') && text.chars().all(inner)
}

impl FromStr for ServiceAccount {
    type Err = ServiceAccountError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.split_once('/') {
            Some((namespace, name)) if !name.contains('/') => Self::new(namespace, name),
            _ => Err(ServiceAccountError::Form(text.to_owned())),
        }
    }
}

impl fmt::Display for ServiceAccount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_to_istios_id_and_back() {
        let account: ServiceAccount = "default/gateway".parse().unwrap();
        let id = account.spiffe_id(&"cluster.local".parse().unwrap()).unwrap();
        assert_eq!(id.as_str(), "spiffe://cluster.local/ns/default/sa/gateway");
        assert_eq!(ServiceAccount::of(&id), Some(account));
        assert_eq!(ServiceAccount::of(&"spiffe://a/ns/b/sa/c/d".parse().unwrap()), None);
        assert_eq!(ServiceAccount::of(&"spiffe://a/b".parse().unwrap()), None);
    }

    #[test]
    fn refuses_what_kubernetes_refuses() {
        for text in ["", "a", "a/", "/a", "a/b/c", "A/b", "a/B", "-a/b", "a/b-", "a/b..c", "a.b/c", "a b/c"] {
            assert!(text.parse::<ServiceAccount>().is_err(), "{text:?}");
        }
        assert!(format!("{}/a", "n".repeat(64)).parse::<ServiceAccount>().is_err());
        assert!("kube-system/system.node-1".parse::<ServiceAccount>().is_ok());
    }
}
