//! `federation`: the active is asked, and nothing is done without it.

use std::{path::Path, time::Duration};

use super::OperateError;
use crate::{
    cli::federation::{created, ended, refreshed, render},
    domain::{
        bundle::{BundleEndpoint, EndpointProfile, handed_over},
        identity::TrustDomain,
    },
    grpc::federation_service,
    runtime::args::{
        DataDir, FederationArgs, FederationCommand, FederationCreateArgs, FederationDeleteArgs, FederationShowArgs,
    },
    service::federation::{FederatedDomain, FederationOrder, NewPartner},
    storage::read_file,
};

/// A fetch takes up to 10 s, and the active may be another replica than the one that is asked.
const ANSWER_LIMIT: Duration = Duration::from_secs(16);

/// Does what was asked. Says so.
///
/// # Errors
///
/// When nobody is active, the active refuses, or its answer is lost.
pub fn run(command: &FederationCommand) -> Result<String, OperateError> {
    match command {
        FederationCommand::Create(args) => create(args),
        FederationCommand::List(FederationArgs { data_dir, output }) => {
            Ok(render(&ask(data_dir, &FederationOrder::List)?, (*output).into())?)
        }
        FederationCommand::Show(args) => show(args),
        FederationCommand::Refresh(FederationShowArgs { trust_domain, data_dir }) => {
            Ok(refreshed(&one(ask(data_dir, &FederationOrder::Refresh(trust_domain.clone()))?, trust_domain)?))
        }
        FederationCommand::Delete(FederationDeleteArgs { trust_domain, reason, data_dir }) => {
            ask(data_dir, &FederationOrder::Delete { trust_domain: trust_domain.clone(), reason: reason.clone() })?;
            Ok(ended(trust_domain))
        }
    }
}

fn create(args: &FederationCreateArgs) -> Result<String, OperateError> {
    let bundle = args.bundle.as_deref().map(|file| bundle_in(file, &args.trust_domain)).transpose()?;
    let endpoint = BundleEndpoint {
        url: args.url.clone(),
        profile: args.endpoint_id.clone().map_or(EndpointProfile::HttpsWeb, EndpointProfile::HttpsSpiffe),
    };
    let new = NewPartner { trust_domain: args.trust_domain.clone(), endpoint, bundle, reason: args.reason.clone() };
    let domains = ask(&args.data_dir, &FederationOrder::Create(Box::new(new)))?;
    Ok(created(&one(domains, &args.trust_domain)?))
}

fn bundle_in(file: &Path, trust_domain: &TrustDomain) -> Result<crate::domain::bundle::SpiffeBundle, OperateError> {
    let named = |error: String| OperateError::Refused(format!("{}: {error}", file.display()));
    let content = read_file(file).map_err(|error| named(error.to_string()))?;
    handed_over(trust_domain.clone(), &content).map_err(named)
}

fn show(FederationShowArgs { trust_domain, data_dir }: &FederationShowArgs) -> Result<String, OperateError> {
    let domain = one(ask(data_dir, &FederationOrder::List)?, trust_domain)?;
    let none = || OperateError::Refused(format!("no bundle of {trust_domain} is known yet"));
    Ok(domain.bundle.ok_or_else(none)?.to_json())
}

fn one(domains: Vec<FederatedDomain>, trust_domain: &TrustDomain) -> Result<FederatedDomain, OperateError> {
    let found = domains.into_iter().find(|domain| domain.relationship.trust_domain == *trust_domain);
    found.ok_or_else(|| OperateError::Refused(format!("there is no federation with {trust_domain}")))
}

fn ask(data_dir: &DataDir, order: &FederationOrder) -> Result<Vec<FederatedDomain>, OperateError> {
    super::ask(&data_dir.data_dir, ANSWER_LIMIT, async |socket| federation_service::order(&socket, order).await)
}
