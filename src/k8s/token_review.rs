//! TokenReview: the API server tells whom a token speaks for.

use std::collections::BTreeMap;

use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec, TokenReviewStatus};
use kube::{Api, Client, Error, api::PostParams};
use tracing::warn;
use zeroize::Zeroize as _;

use crate::{
    domain::attestation::ReviewStatus,
    service::{
        line_limit::{Line, LineLimit},
        ports::{BoxFuture, ReviewUnavailable, TokenReviewer},
    },
};

const POD_NAME: &str = "authentication.kubernetes.io/pod-name";
const POD_UID: &str = "authentication.kubernetes.io/pod-uid";

/// The API server as a judge of tokens. Needs the right to create `tokenreviews.authentication.k8s.io`.
pub struct ClusterTokenReviewer {
    api: Api<TokenReview>,
    /// By the code of the answer; 0 without one.
    lines: LineLimit<u16>,
}

impl ClusterTokenReviewer {
    /// Asks by `client`.
    pub fn new(client: Client) -> Self {
        Self { api: Api::all(client), lines: LineLimit::default() }
    }
}

impl TokenReviewer for ClusterTokenReviewer {
    fn review<'a>(
        &'a self,
        token: &'a str,
        audiences: &'a [String],
    ) -> BoxFuture<'a, Result<ReviewStatus, ReviewUnavailable>> {
        Box::pin(async move {
            let spec = TokenReviewSpec { token: Some(token.to_owned()), audiences: Some(audiences.to_vec()) };
            let mut review = TokenReview { spec, ..TokenReview::default() };
            let answer = self.api.create(&PostParams::default(), &review).await;
            review.spec.token.zeroize();
            match answer {
                Ok(mut review) => {
                    review.spec.token.zeroize();
                    Ok(status_of(review.status.unwrap_or_default()))
                }
                Err(error) => {
                    let code = if let Error::Api(status) = &error { status.code } else { 0 };
                    if let Some(Line { left_out }) = self.lines.line(code, ()) {
                        warn!(event = "token_review_failed", %error, left_out);
                    }
                    Err(ReviewUnavailable(reason_of(&error)))
                }
            }
        })
    }
}

fn status_of(status: TokenReviewStatus) -> ReviewStatus {
    let user = status.user.unwrap_or_default();
    let mut extra = user.extra.unwrap_or_default();
    ReviewStatus {
        error: status.error.unwrap_or_default(),
        authenticated: status.authenticated.unwrap_or_default(),
        username: user.username.unwrap_or_default(),
        groups: user.groups.unwrap_or_default(),
        audiences: status.audiences.unwrap_or_default(),
        pod_name: first_of(&mut extra, POD_NAME),
        pod_uid: first_of(&mut extra, POD_UID),
    }
}

fn first_of(extra: &mut BTreeMap<String, Vec<String>>, key: &str) -> Option<String> {
    extra.remove(key)?.into_iter().next()
}

/// For callers: what is wrong is none of their fault, and its details are for the log.
fn reason_of(error: &Error) -> String {
    let Error::Api(status) = error else { return "the API server can't be reached".to_owned() };
    match status.code {
        401 => "the API server does not accept the certificate authority's own credentials".to_owned(),
        403 => "the certificate authority lacks the right to create tokenreviews.authentication.k8s.io".to_owned(),
        code => format!("the API server answered {code} {}", status.reason),
    }
}

#[cfg(test)]
mod tests {
    use kube::core::Status;

    use super::*;

    #[test]
    fn a_status_is_read_as_it_stands() {
        let status = serde_json::from_str(
            r#"{"audiences": ["istio-ca"], "authenticated": true, "user": {
                "extra": {
                    "authentication.kubernetes.io/credential-id": ["JTI=ad33"],
                    "authentication.kubernetes.io/pod-name": ["gateway-0"],
                    "authentication.kubernetes.io/pod-uid": ["5df6", "x"]
                },
                "groups": ["system:serviceaccounts"], "uid": "4c54",
                "username": "system:serviceaccount:default:gateway"}}"#,
        );
        let expected = ReviewStatus {
            error: String::new(),
            authenticated: true,
            username: "system:serviceaccount:default:gateway".into(),
            groups: vec!["system:serviceaccounts".into()],
            audiences: vec!["istio-ca".into()],
            pod_name: Some("gateway-0".into()),
            pod_uid: Some("5df6".into()),
        };
        assert_eq!(status_of(status.unwrap()), expected);
    }

    #[test]
    fn an_empty_status_says_nothing_good() {
        assert_eq!(status_of(TokenReviewStatus::default()), ReviewStatus::default());
        let refused = serde_json::from_str(r#"{"error": "invalid bearer token", "user": {}}"#).unwrap();
        assert_eq!(
            status_of(refused),
            ReviewStatus { error: "invalid bearer token".into(), ..ReviewStatus::default() }
        );
    }

    #[test]
    fn our_own_faults_are_told_from_a_servers() {
        let said = |code| {
            let status = Status::failure("secret details", "Reason").with_code(code);
            reason_of(&Error::Api(Box::new(status)))
        };
        assert!(said(401).contains("own credentials"));
        assert!(said(403).contains("tokenreviews.authentication.k8s.io"));
        assert_eq!(said(429), "the API server answered 429 Reason");
        assert_eq!(said(500), "the API server answered 500 Reason");
        let unreachable = Error::Service("tcp connect error".into());
        assert_eq!(reason_of(&unreachable), "the API server can't be reached");
    }
}
