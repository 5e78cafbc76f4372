//! The flags of `agent`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::OutputArgs;

/// The flags of `agent`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AgentArgs {
    /// Address of a certificate authority. Repeatable: when one does not answer the next is asked. Required outside of a pod;
    /// in one it is istiod.istio-system.svc:15012 if not given
    #[arg(long = "ca-address", value_name = "HOST:PORT")]
    pub ca_addresses: Option<Vec<String>>,
    /// Name that the authority's certificate must hold. If not given the host of its address, and localhost for loopback
    /// addresses
    #[arg(long, value_name = "NAME")]
    pub ca_server_name: Option<String>,
    /// Identity by which an authority is taken for the right one whatever names its certificate holds, as of a pair in front
    /// of istiod. Repeatable
    #[arg(long = "ca-identity", value_name = "SPIFFE_ID")]
    pub ca_identities: Option<Vec<String>>,
    /// Header to send with each request, such as a gateway in front of the authority wants. Repeatable
    #[arg(long = "ca-header", value_name = "NAME=VALUE")]
    pub ca_headers: Option<Vec<String>>,
    /// Name of the cluster that the token is of, sent as `clusterid`; none is sent if not given
    #[arg(long, value_name = "NAME")]
    pub cluster_id: Option<String>,
    /// Signer that istiod is to use when it only registers with another authority, sent as `CertSigner`
    #[arg(long, value_name = "NAME")]
    pub cert_signer: Option<String>,
    /// File with the token that proves the service account; read again for each request
    #[arg(long, value_name = "FILE")]
    pub token_file: Option<String>,
    /// Hint of that identity, by which clients of the socket find it among others; none if not given
    #[arg(long, value_name = "HINT")]
    pub hint: Option<String>,
    /// Further identity: its hint, and the file with the token that proves it, to the same authority. Repeatable. The socket serves
    /// it after the first one, which stays the default
    #[arg(long = "identity", value_name = "HINT=FILE")]
    pub identities: Option<Vec<String>>,
    /// File with the roots that the authority's own certificate is verified to, PEM; read again for each request
    #[arg(long, value_name = "FILE")]
    pub root_file: Option<String>,
    /// ConfigMap with the same roots under root-cert.pem, which is watched and goes before the file. In a pod it is
    /// istio-ca-root-cert if neither this nor root-file is given
    #[arg(long, value_name = "NAME")]
    pub root_config_map: Option<String>,
    /// ClusterTrustBundle with the same roots, which is watched instead of a ConfigMap. With bundle-source
    /// cluster-trust-bundle it is istio.io:istiod-ca:root-cert if not given
    #[arg(long, value_name = "NAME")]
    pub root_cluster_trust_bundle: Option<String>,
    /// Namespace of that ConfigMap. If not given, this pod's own or the kubeconfig's
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// kubeconfig file of the API server that has that ConfigMap or ClusterTrustBundle. If not given, the service account of
    /// this pod
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// What the trust bundle on the socket is: the roots of the authority's answers (ca), those of the ConfigMap
    /// (config-map), or those of the ClusterTrustBundle (cluster-trust-bundle)
    #[arg(long, value_name = "SOURCE")]
    pub bundle_source: Option<String>,
    /// Address of a replica of the pair that says which Services require mutual TLS, and whom to accept behind them: the socket
    /// serves it as validation/NAMESPACE/SERVICE. Repeatable. This agent's identity must be a gateway-identity there
    #[arg(long = "policy-address", value_name = "HOST:PORT")]
    pub policy_addresses: Option<Vec<String>>,
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
            token_file: Some("/var/run/secrets/tokens/istio-token".into()),
            root_file: Some("/var/run/secrets/istio/root-cert.pem".into()),
            bundle_source: Some("ca".into()),
            socket: Some("/var/run/secrets/workload-spiffe-uds/socket".into()),
            socket_mode: Some("0666".into()),
            trust_domain: Some("cluster.local".into()),
            svid_ttl: Some("24h".into()),
            output: OutputArgs::defaults(),
            log_format: Some("text".into()),
            ..Self::default()
        }
    }

    /// The same in a pod, where istiod and the API server have names that everybody knows.
    pub fn defaults_in_pod() -> Self {
        Self {
            ca_addresses: Some(vec!["istiod.istio-system.svc:15012".into()]),
            // without Kubernetes in the build there is the file alone
            root_config_map: cfg!(feature = "kubernetes").then(|| "istio-ca-root-cert".into()),
            ..Self::defaults()
        }
    }
}
