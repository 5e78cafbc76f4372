//! What an API server says of a service account's token (TokenReview, authentication.k8s.io/v1), and what follows from it.

use super::Pod;
use crate::domain::identity::{ServiceAccount, ServiceAccountError};

/// What tokens of the own cluster are held to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewRules {
    /// The name of this cluster, which a caller may state (`clusterid`).
    pub cluster: String,
    /// The audiences that a token may be for; never empty.
    pub audiences: Vec<String>,
}

/// The status of a TokenReview, as far as it decides something.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReviewStatus {
    /// `status.error`.
    pub error: String,
    /// `status.authenticated`.
    pub authenticated: bool,
    /// `status.user.username`.
    pub username: String,
    /// `status.user.groups`.
    pub groups: Vec<String>,
    /// `status.audiences`.
    pub audiences: Vec<String>,
    /// The first value of the extra `authentication.kubernetes.io/pod-name`.
    pub pod_name: Option<String>,
    /// The first value of the extra `authentication.kubernetes.io/pod-uid`.
    pub pod_uid: Option<String>,
}

/// Whom a token speaks for, by an API server's word.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReviewedAccount {
    /// Its subject.
    pub account: ServiceAccount,
    /// The pod that it is bound to, if it is bound to one.
    pub pod: Option<Pod>,
}

/// Why a review proves nobody. Logged, never sent to the caller.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReviewError {
    /// `status.error` is set.
    #[error("the API server does not accept the token: {0}")]
    Said(String),
    /// `status.authenticated` is false.
    #[error("the API server does not authenticate the token")]
    NotAuthenticated,
    /// The user is in no group of service accounts.
    #[error("the token is not a service account's: its user is not in group {GROUP}")]
    Group,
    /// The user's name has not exactly the four parts of a service account's.
    #[error("the API server names the token's user {0:?}, which is no service account")]
    Username(String),
    /// The user's name has the four parts, but they name nothing that could exist.
    #[error("the API server's name of the token's user: {0}")]
    Account(#[from] ServiceAccountError),
    /// `status.audiences` names none of ours: an authenticator that knows of no audiences took the token.
    #[error("the API server did not check the token for one of our audiences")]
    Audience,
    /// Nobody could say. Another try may find out.
    #[error("the token could not be reviewed: {0}")]
    Unavailable(String),
}

/// The group that each service account is in.
const GROUP: &str = "system:serviceaccounts";
/// An API server's own words in our log are cut here.
const LONGEST_SAID: usize = 256;

impl ReviewStatus {
    /// Whom the token speaks for, if for a service account and for one of `audiences`.
    ///
    /// # Errors
    ///
    /// The first rule that the status breaks.
    pub fn verdict(&self, audiences: &[String]) -> Result<ReviewedAccount, ReviewError> {
        if !self.error.is_empty() {
            return Err(ReviewError::Said(self.error.chars().take(LONGEST_SAID).collect()));
        }
        if !self.authenticated {
            return Err(ReviewError::NotAuthenticated);
        }
        if !self.groups.iter().any(|group| group == GROUP) {
            return Err(ReviewError::Group);
        }
        if !self.audiences.iter().any(|audience| audiences.contains(audience)) {
            return Err(ReviewError::Audience);
        }
        let parts: Vec<&str> = self.username.splitn(5, ':').collect();
        let ["system", "serviceaccount", namespace, name] = parts[..] else {
            return Err(ReviewError::Username(self.username.chars().take(LONGEST_SAID).collect()));
        };
        let account = ServiceAccount::new(namespace, name)?;
        let pod = match (&self.pod_name, &self.pod_uid) {
            (Some(name), Some(uid)) if !name.is_empty() && !uid.is_empty() => {
                Some(Pod { name: name.clone(), uid: uid.clone() })
            }
            _ => None,
        };
        Ok(ReviewedAccount { account, pod })
    }
}

impl ReviewError {
    /// Whether another try may find otherwise.
    pub const fn is_undecided(&self) -> bool {
        matches!(self, Self::Unavailable(_))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted() -> ReviewStatus {
        ReviewStatus {
            error: String::new(),
            authenticated: true,
            username: "system:serviceaccount:default:gateway".into(),
            groups: vec!["system:authenticated".into(), GROUP.into(), "system:serviceaccounts:default".into()],
            audiences: vec!["istio-ca".into()],
            pod_name: Some("gateway-0".into()),
            pod_uid: Some("5a1c".into()),
        }
    }

    fn verdict(change: impl FnOnce(&mut ReviewStatus)) -> Result<ReviewedAccount, ReviewError> {
        let mut status = accepted();
        change(&mut status);
        status.verdict(&["other".into(), "istio-ca".into()])
    }

    #[test]
    fn a_service_account_is_who_the_api_server_names() {
        let pod = Some(Pod { name: "gateway-0".into(), uid: "5a1c".into() });
        let account: ServiceAccount = "default/gateway".parse().unwrap();
        assert_eq!(verdict(|_| {}), Ok(ReviewedAccount { account: account.clone(), pod }));
        let unbound = ReviewedAccount { account, pod: None };
        assert_eq!(verdict(|status| status.pod_name = None), Ok(unbound.clone()));
        assert_eq!(verdict(|status| status.pod_uid = Some(String::new())), Ok(unbound));
    }

    #[test]
    fn each_rule_is_held() {
        let said = verdict(|status| status.error = "x".repeat(1000)).unwrap_err();
        assert_eq!(said, ReviewError::Said("x".repeat(LONGEST_SAID)));
        assert_eq!(verdict(|status| status.authenticated = false), Err(ReviewError::NotAuthenticated));
        for groups in
            [vec![], vec!["system:serviceaccounts:default".to_owned()], vec!["system:authenticated".to_owned()]]
        {
            assert_eq!(verdict(|status| status.groups = groups), Err(ReviewError::Group));
        }
        for audiences in [vec![], vec!["https://kubernetes.default.svc".to_owned()], vec!["istio".to_owned()]] {
            assert_eq!(verdict(|status| status.audiences = audiences), Err(ReviewError::Audience));
        }
    }

    #[test]
    fn all_four_parts_of_the_username_are_compared() {
        for name in [
            "",
            "admin",
            "system:serviceaccount:default",
            "system:serviceaccount:default:gateway:x",
            "system:serviceaccount:default:gateway:",
            "system:node:default:gateway",
            "user:serviceaccount:default:gateway",
            " system:serviceaccount:default:gateway",
            ":serviceaccount:default:gateway",
        ] {
            let answer = verdict(|status| name.clone_into(&mut status.username));
            assert_eq!(answer, Err(ReviewError::Username(name.to_owned())));
        }
        for name in ["system:serviceaccount::gateway", "system:serviceaccount:default:", "system:serviceaccount:a.b:c"]
        {
            let answer = verdict(|status| name.clone_into(&mut status.username));
            assert!(matches!(answer, Err(ReviewError::Account(_))), "{name}: {answer:?}");
        }
    }

    #[test]
    fn nothing_proves_nobody() {
        assert_eq!(ReviewStatus::default().verdict(&["istio-ca".into()]), Err(ReviewError::NotAuthenticated));
    }
}
