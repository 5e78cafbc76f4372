//! The flags of `serve` that count with `--source istiod` only.

use clap::Args;
use serde::Serialize;

/// How istiod is asked to sign.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct IstiodArgs {
    /// Address of istiod's CA. Repeatable, for several revisions: asked in this order, the next one when one can't be reached. If
    /// none is given, in Kubernetes those of all Services in istio-namespace with label app=istiod and port 15012, as they come and
    /// go; and without any istiod.NAMESPACE.svc:15012
    #[arg(long = "istiod-address", value_name = "HOST:PORT")]
    pub istiod_addresses: Option<Vec<String>>,
    /// Name that istiod's certificate must have. If not given, the host of a given address, and istiod.NAMESPACE.svc of one that
    /// was found
    #[arg(long, value_name = "NAME")]
    pub istiod_server_name: Option<String>,
    /// File of the roots that istiod is verified by, read again when it changes. In Kubernetes the root ConfigMap of the own
    /// namespace goes first
    #[arg(long, value_name = "FILE")]
    pub istiod_root_file: Option<String>,
    /// ClusterTrustBundle with the same roots, which in Kubernetes is watched instead of that ConfigMap, such as
    /// istio.io:istiod-ca:root-cert
    #[arg(long, value_name = "NAME")]
    pub istiod_root_cluster_trust_bundle: Option<String>,
    /// File of the own service account token, for which istiod signs the serving certificate of this replica
    #[arg(long, value_name = "FILE")]
    pub istiod_token_file: Option<String>,
    /// How many requests a second each replica sends istiod at the most in the long run; twice as many may come at once. Two
    /// replicas together come up to what an istiod with its own defaults makes
    #[arg(long, value_name = "NUMBER")]
    pub istiod_qps: Option<String>,
    /// Whether the pair signs JWT-SVIDs, which istiod does not: true or false. It then attests who asks for one, and keeps keys of its
    /// own in its state, which stand in its trust bundle beside the mesh's roots. In Kubernetes only
    #[arg(long, value_name = "BOOL")]
    pub jwt_svids: Option<String>,
}

impl IstiodArgs {
    /// What holds where no source says anything.
    pub fn defaults() -> Self {
        Self {
            istiod_addresses: None,
            istiod_server_name: None,
            istiod_root_file: Some("/var/run/secrets/istio/root-cert.pem".into()),
            istiod_root_cluster_trust_bundle: None,
            istiod_token_file: Some("/var/run/secrets/tokens/istio-token".into()),
            istiod_qps: Some("40".into()),
            jwt_svids: Some("false".into()),
        }
    }
}
