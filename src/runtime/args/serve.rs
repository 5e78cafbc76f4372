//! The flags of `serve`.

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{BundleEndpointArgs, IstiodArgs, KubernetesArgs};

/// The flags of `serve`.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct ServeArgs {
    /// Where the pair's state is, and what decides who is active: `embedded`, in a data directory that the replicas share, or
    /// `kubernetes`
    #[arg(long, value_name = "KIND")]
    pub state: Option<String>,
    /// Where certificates come from: `self-signed`, a root of our own; `plugged-in`, the authority in ca-dir; or `istiod`, to
    /// which each request is passed on. If not given, plugged-in with ca-dir and self-signed without
    #[arg(long, value_name = "KIND")]
    pub source: Option<String>,
    /// Where all state is kept; made if it is missing. Embedded replicas of a pair share it; in Kubernetes it holds a
    /// replica's own issuance log
    #[arg(long, value_name = "DIR")]
    pub data_dir: Option<String>,
    /// Directory of a plugged-in signing authority, in either of istiod's layouts, read again when it changes. If not
    /// given a root is made and kept in the data directory
    #[arg(long, value_name = "DIR")]
    pub ca_dir: Option<String>,
    /// Address of the CA API. While a replica of the same data directory holds the default port, a free one is taken. In
    /// Kubernetes the default is port 15012 of every interface
    #[arg(long, value_name = "IP:PORT")]
    pub listen: Option<String>,
    /// Address of /livez, /readyz and /metrics. The default port gives way as that of the CA API does. In Kubernetes the
    /// default is port 15020 of every interface
    #[arg(long, value_name = "IP:PORT")]
    pub admin_listen: Option<String>,
    /// Trust domain of the identities that are issued
    #[arg(long, value_name = "NAME")]
    pub trust_domain: Option<String>,
    /// Validity of an SVID whose request names none: whole seconds, as in 90s, 24h, 1h30m
    #[arg(long, value_name = "DURATION")]
    pub svid_ttl: Option<String>,
    /// Longest validity that a request may ask for
    #[arg(long, value_name = "DURATION")]
    pub max_svid_ttl: Option<String>,
    /// Validity of a JWT-SVID whose request names none, and the longest that one may ask for; at most 1h
    #[arg(long, value_name = "DURATION")]
    pub jwt_svid_ttl: Option<String>,
    /// DNS name in the CA's own serving certificate. Repeatable. In Kubernetes countersign.NAMESPACE.svc is always one
    #[arg(long = "dns-name", value_name = "NAME")]
    pub dns_names: Option<Vec<String>>,
    /// Path of the workload socket, at most 107 bytes. If not given, workload.sock in the data directory; in Kubernetes none
    #[arg(long, value_name = "PATH")]
    pub workload_socket: Option<String>,
    /// Service account whose identity the workload socket serves
    #[arg(long, value_name = "NAMESPACE/ACCOUNT")]
    pub workload: Option<String>,
    /// How long to go on accepting and forwarding after SIGTERM. In Kubernetes the default is 5s
    #[arg(long, value_name = "DURATION")]
    pub drain: Option<String>,
    /// Form of the log lines on stderr: text or json
    #[arg(long, value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// Where others fetch the trust bundle.
    #[command(flatten)]
    #[serde(flatten)]
    pub bundle_endpoint: BundleEndpointArgs,
    /// What counts where istiod signs.
    #[command(flatten)]
    #[serde(flatten)]
    pub istiod: IstiodArgs,
    /// What counts in Kubernetes only.
    #[command(flatten)]
    #[serde(flatten)]
    pub kubernetes: KubernetesArgs,
    /// YAML file with the same settings, and those that have no flag. Flags and environment go first
    #[arg(long, value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
}

impl ServeArgs {
    /// Where state is kept unless it is said otherwise.
    pub const DATA_DIR: &str = "./countersign-data";

    /// What holds where no source says anything.
    pub fn defaults() -> Self {
        Self {
            state: Some("embedded".into()),
            source: None,
            data_dir: Some(Self::DATA_DIR.into()),
            ca_dir: None,
            listen: Some("127.0.0.1:15012".into()),
            admin_listen: Some("127.0.0.1:15020".into()),
            trust_domain: Some("cluster.local".into()),
            svid_ttl: Some("24h".into()),
            max_svid_ttl: Some("2160h".into()),
            jwt_svid_ttl: Some("5m".into()),
            dns_names: Some(vec!["localhost".into(), "istiod.istio-system.svc".into()]),
            workload_socket: None,
            workload: Some("default/gateway".into()),
            drain: Some("0s".into()),
            log_format: Some("text".into()),
            bundle_endpoint: BundleEndpointArgs::defaults(),
            istiod: IstiodArgs::defaults(),
            kubernetes: KubernetesArgs::defaults(),
            config: None,
        }
    }
}
