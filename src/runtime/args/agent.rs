//! The flags of `agent`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::OutputArgs;

/// The flags of `agent`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentArgs {
    /// Address of a certificate authority. Repeatable: when one does not answer the next is asked. Required
    #[arg(long = "ca-address", value_name = "HOST:PORT")]
    pub ca_addresses: Option<Vec<String>>,
    /// Name that the authority's certificate must hold. If not given the host of its address, and localhost for loopback
    /// addresses
    #[arg(long, value_name = "NAME")]
    pub ca_server_name: Option<String>,
    /// File with the token that proves the service account; read again for each request. Required
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    /// File with the roots that the authority's own certificate is verified to, PEM. Required
    #[arg(long, value_name = "FILE")]
    pub root_file: Option<String>,
    /// Path of the socket, at most 107 bytes
    #[arg(long, value_name = "PATH")]
    pub socket: Option<String>,
    /// File mode of the socket, four octal digits
    #[arg(long, value_name = "MODE")]
    pub socket_mode: Option<String>,
    /// User ID that may connect to the socket. Repeatable; everybody may if neither this nor allow-gid is given
    #[arg(long = "allow-uid", value_name = "UID")]
    pub allow_uids: Option<Vec<String>>,
    /// Group ID that may connect to the socket. Repeatable
    #[arg(long = "allow-gid", value_name = "GID")]
    pub allow_gids: Option<Vec<String>>,
    /// Trust domain of the identity
    #[arg(long, value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// Validity to ask for: whole seconds, as in 90s, 24h, 1h30m
    #[arg(long, value_name = "DURATION")]
    pub svid_ttl: Option<String>,
    /// Files beside the socket.
    #[command(flatten)]
    #[serde(flatten)]
    pub output: OutputArgs,
    /// Address of /livez, /readyz and /metrics; none if not given
    #[arg(long, value_name = "IP:PORT")]
    pub admin_listen: Option<String>,
    /// Form of the log lines on stderr: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// YAML file with the same settings. Flags and environment go first
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

impl AgentArgs {
    /// What holds where no source says anything.
    pub fn defaults() -> Self {
        Self {
            socket: Some("/var/run/secrets/workload-spiffe-uds/socket".into()),
            socket_mode: Some("0666".into()),
            trust_domain: Some("cluster.local".into()),
            svid_ttl: Some("24h".into()),
            output: OutputArgs::defaults(),
            log_format: Some("text".into()),
            ..Self::default()
        }
    }
}
