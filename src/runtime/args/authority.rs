//! The arguments of `authority` and `recover`: what works on the state of a pair as a whole.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::{DataDir, ListFormat};
use crate::domain::{
    attestation::Reason,
    identity::{ServiceAccount, TrustDomain},
};

/// What can be done about the signing authority.
#[derive(Debug, Subcommand)]
pub enum AuthorityCommand {
    /// Save the signing authority, the trust bundle and what is denied to a file, encrypted with a passphrase
    ///
    /// Of a running pair the active gives what it has in memory, also if what is stored is damaged: run it beside the active,
    /// in Kubernetes by `kubectl exec` in its pod.
    Export(ExportArgs),
    /// Put a saved signing authority in the place of what is stored, or take over that of a mesh
    ///
    /// What is stored and in order, or of another root, is replaced with --replace only. In Kubernetes the active steps down
    /// and goes on with what was imported within seconds; an embedded pair must be stopped.
    Import(ImportArgs),
    /// Rotate the root that X.509-SVIDs are signed by, step by step: prepare, activate, taint, revoke
    #[command(subcommand)]
    X509(RotationCommand),
    /// Rotate the key that JWT-SVIDs are signed by, in the same steps
    #[command(subcommand)]
    Jwt(RotationCommand),
}

/// What can be done about the authorities of one kind. Each step waits until nobody is known to break by it.
#[derive(Debug, Subcommand)]
pub enum RotationCommand {
    /// Show all authorities, and what the next step of each waits for
    Show(RotationShowArgs),
    /// Make another authority and publish it in the trust bundle; it signs nothing yet
    Prepare(RotationStepArgs),
    /// Sign by a prepared authority, or go back to an old one
    Activate(RotationOfArgs),
    /// Have everything that an old authority has signed renewed
    Taint(RotationOfArgs),
    /// Take a tainted authority, or a prepared one that is not wanted any more, out of the trust bundle: there is no way back
    Revoke(RotationOfArgs),
}

/// The arguments of `authority x509 show` and `authority jwt show`.
#[derive(Args, Clone, Debug)]
pub struct RotationShowArgs {
    /// How to print them
    #[arg(short, long, value_enum, default_value_t = ListFormat::Table)]
    pub output: ListFormat,
    /// Whose.
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// The arguments of a step.
#[derive(Args, Clone, Debug)]
pub struct RotationStepArgs {
    /// Say what would come of it, and do nothing
    #[arg(long, conflicts_with = "force")]
    pub dry_run: bool,
    /// Do not wait: who would break is printed, and breaks
    #[arg(long)]
    pub force: bool,
    /// Why: one line for the audit log
    #[arg(long, value_name = "TEXT")]
    pub reason: Option<Reason>,
    /// Whose.
    #[command(flatten)]
    pub data_dir: DataDir,
}

/// The arguments of a step with an authority.
#[derive(Args, Clone, Debug)]
pub struct RotationOfArgs {
    /// The authority, as `show` names it
    #[arg(value_name = "ID", allow_hyphen_values = true)]
    pub id: String,
    /// How.
    #[command(flatten)]
    pub step: RotationStepArgs,
}

/// Which state.
#[derive(Args, Clone, Debug)]
pub struct StatePlace {
    /// Where the pair's state is
    #[arg(long, value_enum, env = "COUNTERSIGN_STATE", default_value_t = StateKind::Embedded)]
    pub state: StateKind,
    /// Where it is if embedded, and where the active's admin.sock is.
    #[command(flatten)]
    pub data_dir: DataDir,
    /// kubeconfig file of the API server. If not given, the service account of this pod
    #[arg(long, value_name = "FILE", env = "COUNTERSIGN_KUBECONFIG")]
    pub kubeconfig: Option<PathBuf>,
    /// Namespace of the Lease and the Secrets. If not given, this pod's own or the kubeconfig's
    #[arg(long, value_name = "NAME", env = "COUNTERSIGN_NAMESPACE")]
    pub namespace: Option<String>,
}

/// Where a pair can keep its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum StateKind {
    /// In a data directory
    Embedded,
    /// In two Secrets
    #[cfg(feature = "kubernetes")]
    Kubernetes,
}

/// The passphrase of a backup.
#[derive(Args, Clone, Debug)]
pub struct PassphraseArgs {
    /// File whose first line is the passphrase. If not given, it is asked for, or read from stdin
    #[arg(long, value_name = "FILE")]
    pub passphrase_file: Option<PathBuf>,
}

/// The arguments of `authority export`.
#[derive(Args, Clone, Debug)]
pub struct ExportArgs {
    /// Of which pair.
    #[command(flatten)]
    pub place: StatePlace,
    /// File to write; must not exist yet. Only its owner may read it
    #[arg(long, value_name = "FILE")]
    pub out: PathBuf,
    /// Encrypts it.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
}

/// The arguments of `authority import`.
#[derive(Args, Clone, Debug)]
pub struct ImportArgs {
    /// Where from.
    #[command(flatten)]
    pub source: ImportSource,
    /// Opens the file.
    #[command(flatten)]
    pub passphrase: PassphraseArgs,
    /// Trust domain of the mesh whose CA is taken over
    #[arg(long, value_name = "NAME", default_value = "cluster.local", requires = "istio_secret")]
    pub trust_domain: TrustDomain,
    /// Into which pair.
    #[command(flatten)]
    pub place: StatePlace,
    /// Also if what is stored is in order, or of another root: then everything that trusts the old one must be told
    #[arg(long)]
    pub replace: bool,
}

/// What is imported: one of the two.
#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = false)]
pub struct ImportSource {
    /// Backup by `authority export`
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Secret with the CA of a running mesh: istiod's own istio-ca-secret, or cacerts. Turn istiod's CA off after that
    #[arg(long, value_name = "NAMESPACE/NAME")]
    pub istio_secret: Option<SecretName>,
}

/// The arguments of `recover`.
#[derive(Args, Clone, Debug)]
pub struct RecoverArgs {
    /// What to recover.
    #[command(flatten)]
    pub place: StatePlace,
    /// Give up the old root and make a new one: everything that trusts the old one must be told
    #[arg(long)]
    pub new_root: bool,
    /// Put the damaged issuance logs of the data directory aside and keep everything else: the root stays
    #[arg(long, conflicts_with = "new_root")]
    pub set_logs_aside: bool,
}

/// A Secret of some namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretName {
    /// Where.
    pub namespace: String,
    /// Which.
    pub name: String,
}

impl std::str::FromStr for SecretName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').filter(|(namespace, _)| ServiceAccount::new(namespace, "any").is_ok());
        let parts = parts.filter(|(_, name)| !name.is_empty() && !name.contains('/'));
        let (namespace, name) = parts.ok_or_else(|| format!("{text:?} is not NAMESPACE/NAME"))?;
        Ok(Self { namespace: namespace.to_owned(), name: name.to_owned() })
    }
}
