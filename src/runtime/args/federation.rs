//! The arguments of `federation`.

use std::path::PathBuf;

use clap::{Args, Subcommand};

use super::{DataDir, ListFormat};
use crate::domain::{
    attestation::Reason,
    bundle::EndpointUrl,
    identity::{SpiffeId, TrustDomain},
};

/// What can be done about other trust domains.
#[derive(Debug, Subcommand)]
pub enum FederationCommand {
    /// Fetch the bundle of another trust domain from now on, and publish it beside the own one
    ///
    /// Says nothing about whether that trust domain does the same. One that is there already is replaced; its bundle stays
    /// unless one is given. Needs an active replica.
    Create(FederationCreateArgs),
    /// List the trust domains whose bundles are fetched, and how it stands with them
    List(FederationArgs),
    /// Print the last good bundle of a trust domain, as a SPIFFE bundle
    Show(FederationShowArgs),
    /// Fetch a bundle now
    Refresh(FederationShowArgs),
    /// End it: the bundle is not published any more, and nobody of that trust domain is believed
    Delete(FederationDeleteArgs),
}

/// The arguments of `federation create`.
#[derive(Args, Clone, Debug)]
pub struct FederationCreateArgs {
    /// With whom
    #[arg(value_name = "TRUST_DOMAIN")]
    pub trust_domain: TrustDomain,
    /// Its bundle endpoint: https://HOST:PORT/PATH, port and path if there are any
    #[arg(long, value_name = "URL")]
    pub url: EndpointUrl,
    /// SPIFFE ID that the endpoint proves: profile https_spiffe. If not given, https_web: it is believed by the roots of the
    /// operating system
    #[arg(long, value_name = "SPIFFE_ID")]
    pub endpoint_id: Option<SpiffeId>,
    /// File with a bundle of the trust domain, as a SPIFFE bundle or PEM, in the place of the one that is kept. An endpoint of
    /// https_spiffe that is of the same trust domain is believed by it at first
    #[arg(long, value_name = "FILE")]
    pub bundle: Option<PathBuf>,
    /// Why: one line for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<Reason>,
    /// Whose federation.
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// The arguments of `federation list`.
#[derive(Args, Clone, Debug)]
pub struct FederationArgs {
    /// Of which pair.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    pub output: ListFormat,
}

/// The arguments of `federation show` and `refresh`.
#[derive(Args, Clone, Debug)]
pub struct FederationShowArgs {
    /// Whose bundle
    #[arg(value_name = "TRUST_DOMAIN")]
    pub trust_domain: TrustDomain,
    /// Of which pair.
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// The arguments of `federation delete`.
#[derive(Args, Clone, Debug)]
pub struct FederationDeleteArgs {
    /// With whom
    #[arg(value_name = "TRUST_DOMAIN")]
    pub trust_domain: TrustDomain,
    /// Why: one line for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<Reason>,
    /// Whose federation.
    #[command(flatten)]
    pub data_dir: DataDir,
}
