//! The arguments of `policy`.

use clap::{Args, Subcommand};

use super::{DataDir, ListFormat};

/// What can be seen of policies.
#[derive(Debug, Subcommand)]
pub enum PolicyCommand {
    /// List the namespaces of the mesh and their Services
    List(PolicyListArgs),
    /// Say what holds for a namespace or a Service, and why something won't work
    Explain(PolicyExplainArgs),
    /// List the Gateways of the Gateway API, and what stands between them and the mesh
    Gateways(PolicyListArgs),
    /// Print everything, then changes as they happen
    Watch(PolicyWatchArgs),
    /// Say what a label would change, before it is set
    Diff(PolicyDiffArgs),
}

/// The arguments of `policy list` and `policy gateways`.
#[derive(Args, Clone, Debug)]
pub struct PolicyListArgs {
    /// Only this namespace
    #[arg(value_name = "NAMESPACE")]
    pub namespace: Option<String>,
    /// Whom to ask, and how to print.
    #[command(flatten)]
    pub asking: Asking,
}

/// The arguments of `policy explain`.
#[derive(Args, Clone, Debug)]
pub struct PolicyExplainArgs {
    /// A namespace, or a Service in it
    #[arg(value_name = "NAMESPACE[/SERVICE]")]
    pub subject: String,
    /// Whom to ask, and how to print.
    #[command(flatten)]
    pub asking: Asking,
}

/// The arguments of `policy watch`.
#[derive(Args, Clone, Debug)]
pub struct PolicyWatchArgs {
    /// Whom to ask, and how to print.
    #[command(flatten)]
    pub asking: Asking,
}

/// The arguments of `policy diff`.
#[derive(Args, Clone, Debug)]
#[command(group(clap::ArgGroup::new("subject").required(true).args(["label", "unlabel"])))]
pub struct PolicyDiffArgs {
    /// Namespace that would get istio-injection: enabled, or with --revision istio.io/rev
    #[arg(long, value_name = "NAMESPACE")]
    pub label: Option<String>,
    /// Namespace that would lose both labels
    #[arg(long, value_name = "NAMESPACE", conflicts_with = "revision")]
    pub unlabel: Option<String>,
    /// Revision or tag for istio.io/rev
    #[arg(long, value_name = "NAME")]
    pub revision: Option<String>,
    /// Whom to ask, and how to print.
    #[command(flatten)]
    pub asking: Asking,
}

/// Whom to ask, and how to print.
#[derive(Args, Clone, Debug)]
pub struct Asking {
    /// Of which replica.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    pub output: ListFormat,
}
