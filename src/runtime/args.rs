//! The command line. `serve` and `agent` keep their values as texts, because flags are only one of three sources of them:
//! `config` parses the texts of all sources by the same rules. What stands here as a doc comment is the help text and,
//! by a test, `docs/configuration.md`.

mod agent;
mod authority;
mod bundle_endpoint;
mod federation;
mod istiod;
mod kubernetes;
mod outputs;
mod policy;
mod render;
mod serve;

use std::{path::PathBuf, time::Duration};

use clap::{Args, CommandFactory, Parser, Subcommand, ValueEnum};
use serde::Serialize;

pub use self::{
    agent::AgentArgs,
    authority::{
        AuthorityCommand, ExportArgs, ImportArgs, ImportSource, PassphraseArgs, RecoverArgs, RotationCommand,
        RotationOfArgs, RotationShowArgs, RotationStepArgs, SecretName, StateKind, StatePlace,
    },
    bundle_endpoint::BundleEndpointArgs,
    federation::{FederationArgs, FederationCommand, FederationCreateArgs, FederationDeleteArgs, FederationShowArgs},
    istiod::IstiodArgs,
    kubernetes::KubernetesArgs,
    outputs::OutputArgs,
    policy::{Asking, PolicyCommand, PolicyDiffArgs, PolicyExplainArgs, PolicyListArgs, PolicyWatchArgs},
    render::{DocumentFormat, RenderCommand, RenderGatewayArgs},
    serve::ServeArgs,
};
use super::{duration, names};
use crate::{
    cli::{inspect, issuance::ListForm},
    domain::{
        attestation::{DeniedSubject, Reason},
        identity::{ServiceAccount, SpiffeId},
        jwt::PROOF_AUDIENCE,
        x509::SerialNumber,
    },
};

/// A certificate authority and identity sidecar for gateways that stand outside an Istio service mesh.
#[derive(Debug, Parser)]
#[command(name = "countersign", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the certificate authority; a second one on the same data directory is its standby
    Serve(ServeArgs),
    /// Run the sidecar that keeps a gateway's identity and serves it on a socket
    Agent(AgentArgs),
    /// Show certificates, a JWT-SVID or a SPIFFE bundle: of a file, of stdin, of a workload socket, of a TLS endpoint
    Inspect(InspectArgs),
    /// Look into the record of what was issued, and deny what must not be
    #[command(subcommand)]
    Issuance(IssuanceCommand),
    /// See which Services need mutual TLS, and why something won't work
    #[command(subcommand)]
    Policy(PolicyCommand),
    /// Print what a user applies, and apply nothing
    #[command(subcommand)]
    Render(RenderCommand),
    /// Save the signing authority, and put it back or take one over
    #[command(subcommand)]
    Authority(AuthorityCommand),
    /// Have the bundles of other trust domains fetched, and see how it stands with them
    #[command(subcommand)]
    Federation(FederationCommand),
    /// Mint a token that proves a service account to `serve`
    Token(TokenArgs),
    /// Bring damaged state back to use, or start over with a new root
    Recover(RecoverArgs),
    /// See the main job in a temporary folder: a pair, an agent, a rotation, a failover
    Quickstart(QuickstartArgs),
    /// Print the effective configuration of `serve` as a configuration file
    Config(ServeArgs),
}

/// The data directory of a pair, for the commands that work on one.
#[derive(Args, Clone, Debug)]
pub struct DataDir {
    /// Data directory of the pair
    #[arg(long, value_name = "DIR", env = "COUNTERSIGN_DATA_DIR", default_value = ServeArgs::DATA_DIR)]
    pub data_dir: PathBuf,
}

/// The arguments of `inspect`.
#[derive(Args, Clone, Debug)]
#[command(
    after_help = "Exit codes: 0 all is well; 1 the source can't be read; 2 something has expired, does not verify \
                        to the bundle, or breaks a rule of SPIFFE; 64 bad usage."
)]
pub struct InspectArgs {
    /// A file, `-` for stdin, unix:///PATH of a workload socket, or HOST:PORT of a TLS endpoint
    ///
    /// A file holds certificates (PEM or DER), one token in compact form, or a SPIFFE bundle document (JSON). A token's signature
    /// is never printed.
    #[arg(value_name = "SOURCE")]
    pub source: inspect::Source,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = inspect::Format::Table)]
    pub output: inspect::Format,
    /// What to verify to: a PEM file with roots, a SPIFFE bundle document, or unix:///PATH of a workload socket
    ///
    /// A workload socket as SOURCE brings its own. Tokens are verified to a bundle document or a socket.
    #[arg(long, value_name = "BUNDLE")]
    pub bundle: Option<inspect::BundleSource>,
    /// Name to ask a TLS endpoint for; the host of SOURCE if not given
    #[arg(long, value_name = "NAME")]
    pub server_name: Option<String>,
}

/// What can be done about issuing.
#[derive(Debug, Subcommand)]
pub enum IssuanceCommand {
    /// List what was issued, over the logs of all replicas
    List(IssuanceListArgs),
    /// Deny an identity any certificate, or a certificate its use as proof, on both replicas until it is allowed again
    ///
    /// In effect when the command returns, and after every failover and restart. What was issued before stays valid until
    /// it expires: there is no revocation list. Needs an active replica.
    Deny(IssuanceDenyArgs),
    /// Take a denial back
    Allow(IssuanceAllowArgs),
    /// List what is denied, by whom and why
    Denied(IssuanceListArgs),
}

/// What is denied or allowed: one of the two.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct SubjectArgs {
    /// Identity that gets no certificate, on whatever proof: spiffe://TRUST_DOMAIN/ns/NAMESPACE/sa/ACCOUNT
    #[arg(long, value_name = "SPIFFE_ID")]
    id: Option<SpiffeId>,
    /// Serial of a certificate that is no proof any more; its owner's token still is. As `issuance list` or openssl shows it
    #[arg(long, value_name = "HEX")]
    serial: Option<SerialNumber>,
}

impl SubjectArgs {
    /// The one that was given, which the parser has made sure of.
    pub fn subject(&self) -> Option<DeniedSubject> {
        let id = self.id.clone().map(DeniedSubject::Identity);
        id.or_else(|| self.serial.clone().map(DeniedSubject::Serial))
    }
}

/// The arguments of `issuance deny`.
#[derive(Args, Clone, Debug)]
pub struct IssuanceDenyArgs {
    /// What.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Why: one line for the audit log and for `issuance denied`
    #[arg(long, value_name = "TEXT")]
    pub reason: Reason,
    /// Whose issuing.
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// The arguments of `issuance allow`.
#[derive(Args, Clone, Debug)]
pub struct IssuanceAllowArgs {
    /// What.
    #[command(flatten)]
    pub subject: SubjectArgs,
    /// Why: one line for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<Reason>,
    /// Whose issuing.
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// The arguments of `issuance list` and `issuance denied`.
#[derive(Args, Clone, Debug)]
pub struct IssuanceListArgs {
    /// Of which pair.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    pub output: ListFormat,
}

/// What lists print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ListFormat {
    /// One line each
    Table,
    /// The documented fields
    Json,
    /// The documented fields
    Yaml,
}

impl From<ListFormat> for ListForm {
    fn from(format: ListFormat) -> Self {
        match format {
            ListFormat::Table => Self::Table,
            ListFormat::Json => Self::Json,
            ListFormat::Yaml => Self::Yaml,
        }
    }
}

/// The arguments of `token`.
#[derive(Args, Clone, Debug)]
pub struct TokenArgs {
    /// Who the token speaks for
    #[arg(value_name = "NAMESPACE/ACCOUNT")]
    pub account: ServiceAccount,
    /// Whose token issuer.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// Whom the token is for
    #[arg(long, value_name = "NAME", default_value = PROOF_AUDIENCE)]
    pub audience: String,
    /// How long it is valid
    #[arg(long, value_name = "DURATION", default_value = "10m", value_parser = duration::parse_whole_seconds)]
    pub lifetime: Duration,
}

/// The arguments of `quickstart`.
#[derive(Args, Clone, Debug)]
pub struct QuickstartArgs {
    /// Work in this folder and leave it behind, instead of in a temporary one
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
}

/// The whole command line, with the defaults of `serve` and `agent` in its help.
pub fn command() -> clap::Command {
    Cli::command()
        .mut_subcommand("serve", |command| with_defaults(command, &ServeArgs::defaults()))
        .mut_subcommand("config", |command| with_defaults(command, &ServeArgs::defaults()))
        .mut_subcommand("agent", |command| with_defaults(command, &AgentArgs::defaults()))
}

fn with_defaults(command: clap::Command, defaults: &impl Serialize) -> clap::Command {
    let texts = names::texts_of(defaults);
    command
        .mut_args(|arg| match texts.get(arg.get_id().as_str()) {
            Some(values) => {
                let help = format!("{} [default: {}]", arg.get_help().cloned().unwrap_or_default(), values.join(" "));
                arg.help(help)
            }
            None => arg,
        })
        .after_help("Each setting --some-name can also be given as COUNTERSIGN_SOME_NAME, or as someName in the file.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_a_valid_command_line() {
        command().debug_assert();
    }

    #[test]
    fn help_shows_defaults() {
        let help = command().find_subcommand_mut("serve").unwrap().render_help().to_string();
        // lines are broken where the terminal ends
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(help.contains("[default: 127.0.0.1:15012]"), "{help}");
        assert!(help.contains("[default: localhost istiod.istio-system.svc]"), "{help}");
    }

    #[test]
    fn repeated_flags_add_up_and_values_are_texts() {
        let cli = Cli::parse_from(["countersign", "serve", "--dns-name", "a", "--dns-name", "b", "--listen", "x"]);
        let Command::Serve(args) = cli.command else { panic!("{cli:?}") };
        assert_eq!(args.dns_names, Some(vec!["a".into(), "b".into()]));
        assert_eq!(args.listen.as_deref(), Some("x"));
        assert_eq!(args.data_dir, None);
    }

    #[test]
    fn other_commands_check_their_values_at_once() {
        assert!(Cli::try_parse_from(["countersign", "token", "default"]).is_err());
        assert!(Cli::try_parse_from(["countersign", "token", "a/b", "--lifetime", "0s"]).is_err());
        assert!(Cli::try_parse_from(["countersign", "token", "a/b", "--lifetime", "10m"]).is_ok());
    }

    #[test]
    fn a_denial_has_one_subject_and_a_reason() {
        let parse = |args: &[&str]| Cli::try_parse_from(["countersign", "issuance"].iter().chain(args));
        let id = "spiffe://td/ns/a/sa/b";
        for bad in [
            &["deny", "--reason", "x"][..],
            &["deny", "--id", id],
            &["deny", "--id", id, "--reason", " "],
            &["deny", "--id", id, "--serial", "01", "--reason", "x"],
            &["deny", "--id", "td/ns/a/sa/b", "--reason", "x"],
            &["deny", "--serial", "x", "--reason", "x"],
            &["allow"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        let Command::Issuance(IssuanceCommand::Deny(args)) =
            parse(&["deny", "--serial", "0A:B1", "--reason", "x"]).unwrap().command
        else {
            panic!("another command")
        };
        assert_eq!(args.subject.subject(), Some(DeniedSubject::Serial("0ab1".parse().unwrap())));
        assert!(parse(&["allow", "--id", id]).is_ok());
    }
}
