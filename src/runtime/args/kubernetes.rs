//! The flags of `serve` that count with `--state kubernetes` only.

use clap::Args;
use serde::Serialize;

use crate::domain::jwt::PROOF_AUDIENCE;

/// Who this replica is in the cluster, whom it asks there, and what it writes.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct KubernetesArgs {
    /// kubeconfig file of the API server. If not given, the service account of this pod
    #[arg(long, value_name = "FILE")]
    pub kubeconfig: Option<String>,
    /// Namespace of the Lease and the Secrets. If not given, this pod's own or the kubeconfig's
    #[arg(long, value_name = "NAME")]
    pub namespace: Option<String>,
    /// UID of this replica's pod, its name among the replicas. Required in Kubernetes
    #[arg(long, value_name = "UID")]
    pub replica_uid: Option<String>,
    /// Address for the other replicas. If not given, every interface, by IPv6 if pair-address is
    #[arg(long, value_name = "IP:PORT")]
    pub pair_listen: Option<String>,
    /// Where the other replicas reach that address: this pod's IP, with the port of pair-listen unless another is given. Required
    /// in Kubernetes; with source istiod if there is policy or jwt-svids
    #[arg(long, value_name = "IP[:PORT]")]
    pub pair_address: Option<String>,
    /// Headless Service of the replicas, by which they find each other while the API server is away
    #[arg(long, value_name = "HOST:PORT")]
    pub pair_service: Option<String>,
    /// How often the active renews its lease
    #[arg(long, value_name = "DURATION")]
    pub lease_renew: Option<String>,
    /// How long after its last renewal the active stops signing; longer than lease-renew
    #[arg(long, value_name = "DURATION")]
    pub lease_step_down: Option<String>,
    /// How long a lease must stand unchanged before another replica takes it; longer than lease-step-down
    #[arg(long, value_name = "DURATION")]
    pub lease_duration: Option<String>,
    /// This cluster's name in the `clusterid` of requests. With source istiod, if it is given, the pair names it to istiod in requests
    /// of its own; needed where this is not istiod's own cluster
    #[arg(long, value_name = "NAME")]
    pub cluster_id: Option<String>,
    /// Audience that a pod's token must have. Repeatable
    #[arg(long = "token-audience", value_name = "NAME")]
    pub token_audiences: Option<Vec<String>>,
    /// How long the API server's answer about a token is believed, at most 1m; 0s asks it for each request
    #[arg(long, value_name = "DURATION")]
    pub token_cache: Option<String>,
    /// Trust domain of the mesh. An own root is refused in it unless it is the mesh's only CA. With source istiod it is trust-domain
    #[arg(long, value_name = "NAME")]
    pub mesh_trust_domain: Option<String>,
    /// Whether this is the mesh's only CA: true or false. Only then istio-ca-root-cert and istiod-tls are written
    #[arg(long, value_name = "BOOL")]
    pub mesh_ca: Option<String>,
    /// Name of the ConfigMap that holds the mesh's roots in each namespace: written with mesh-ca, read with source istiod
    #[arg(long, value_name = "NAME")]
    pub root_config_map: Option<String>,
    /// Namespace of istiod, the root of the mesh: its serving certificate is kept there with mesh-ca, with source istiod its Services
    /// are found there, and policy asks it its version
    #[arg(long, value_name = "NAME")]
    pub istio_namespace: Option<String>,
    /// Revision of istiod whose DNS name its serving certificate holds besides the default ones. Repeatable
    #[arg(long = "istiod-revision", value_name = "NAME")]
    pub istiod_revisions: Option<Vec<String>>,
    /// Whether the roots are kept in a ClusterTrustBundle as well: true or false
    #[arg(long, value_name = "BOOL")]
    pub cluster_trust_bundle: Option<String>,
    /// Whether roots of somebody else in a ConfigMap of ours are overwritten: true or false
    #[arg(long, value_name = "BOOL")]
    pub adopt: Option<String>,
    /// Secret that holds the client certificate of a gateway, which the active keeps there; both in one namespace. Repeatable
    #[arg(long = "gateway-secret", value_name = "NAMESPACE/SECRET=ACCOUNT")]
    pub gateway_secrets: Option<Vec<String>>,
    /// Whether it is worked out which Services need mutual TLS, and told to gateways: true or false
    #[arg(long, value_name = "BOOL")]
    pub policy: Option<String>,
    /// Who is in the mesh, with policy: labels for those of labelled namespaces; auto also for a Service of another one whose pods
    /// all carry security.istio.io/tlsMode: istio
    #[arg(long, value_name = "HOW")]
    pub policy_membership: Option<String>,
    /// Whether the active keeps BackendTLSPolicies, and what they need, for gateways of the Gateway API, with policy: true or false
    #[arg(long, value_name = "BOOL")]
    pub policy_objects: Option<String>,
    /// Namespace in which Envoy Gateway itself runs, with policy-objects: its version and settings are those of there alone
    #[arg(long, value_name = "NAME")]
    pub envoy_gateway_namespace: Option<String>,
    /// SPIFFE ID of a gateway that may follow policies, with policy; with policy-objects those of Services that Gateways reach whose pods run as
    /// it. Repeatable
    #[arg(long = "gateway-identity", value_name = "SPIFFE_ID")]
    pub gateway_identities: Option<Vec<String>>,
    /// SPIFFE ID of a gateway without a Gateway of the cluster, such as a plain Envoy, that may follow the policies of all Services, with
    /// policy. Repeatable
    #[arg(long = "standalone-gateway-identity", value_name = "SPIFFE_ID")]
    pub standalone_gateway_identities: Option<Vec<String>>,
}

impl KubernetesArgs {
    /// What holds where no source says anything.
    pub fn defaults() -> Self {
        Self {
            pair_listen: Some("0.0.0.0:15013".into()),
            lease_renew: Some("1s".into()),
            lease_step_down: Some("3s500ms".into()),
            lease_duration: Some("5s".into()),
            cluster_id: Some("Kubernetes".into()),
            token_audiences: Some(vec![PROOF_AUDIENCE.into()]),
            token_cache: Some("10s".into()),
            mesh_trust_domain: Some("cluster.local".into()),
            mesh_ca: Some("false".into()),
            root_config_map: Some("istio-ca-root-cert".into()),
            istio_namespace: Some("istio-system".into()),
            cluster_trust_bundle: Some("false".into()),
            adopt: Some("false".into()),
            policy: Some("false".into()),
            policy_membership: Some("labels".into()),
            policy_objects: Some("false".into()),
            envoy_gateway_namespace: Some("envoy-gateway-system".into()),
            ..Self::default()
        }
    }
}
