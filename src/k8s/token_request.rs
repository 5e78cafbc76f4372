//! Tokens of service accounts, which the API server makes for whoever may ask for them.

use std::fmt::Display;

use k8s_openapi::api::{
    authentication::v1::{TokenRequest, TokenRequestSpec},
    core::v1::ServiceAccount as Account,
};
use kube::{Api, Client, api::PostParams};
use zeroize::Zeroizing;

use super::following::text_of;
use crate::{
    domain::{identity::ServiceAccount, jwt::PROOF_AUDIENCE},
    service::{gateway_secrets::AccountTokens, ports::BoxFuture},
};

/// By TokenRequest.
pub struct RequestedTokens {
    client: Client,
}

/// The shortest that the API server makes.
const LIFETIME_SECONDS: i64 = 600;

impl RequestedTokens {
    /// Those of one cluster.
    pub const fn new(client: Client) -> Self {
        Self { client }
    }
}

impl AccountTokens for RequestedTokens {
    fn token<'a>(&'a self, account: &'a ServiceAccount) -> BoxFuture<'a, Result<Zeroizing<String>, String>> {
        Box::pin(async move {
            let named = |problem: &dyn Display| format!("token of service account {account}: {problem}");
            let request = TokenRequest {
                spec: TokenRequestSpec {
                    audiences: vec![PROOF_AUDIENCE.to_owned()],
                    expiration_seconds: Some(LIFETIME_SECONDS),
                    bound_object_ref: None,
                },
                ..TokenRequest::default()
            };
            let accounts = Api::<Account>::namespaced(self.client.clone(), account.namespace());
            let made = accounts.create_token_request(account.name(), &PostParams::default(), &request).await;
            let made = made.map_err(|error| named(&text_of(&error)))?;
            let status = made.status.ok_or_else(|| named(&"the API server's answer holds none"))?;
            Ok(Zeroizing::new(status.token))
        })
    }
}
