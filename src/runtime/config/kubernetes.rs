//! The settings of `serve` that count in Kubernetes only.

use std::{collections::BTreeSet, net::SocketAddr, path::PathBuf, time::Duration};

use super::{parse, reference, sources::Sources};
use crate::{
    domain::{
        identity::{SpiffeId, TrustDomain},
        leadership::{LeaseTiming, LeaseTimingError},
    },
    runtime::{args::KubernetesArgs, duration},
    service::{bundle_distribution::Revision, gateway_secrets::GatewaySecret},
};

/// What `serve` runs with in Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub struct KubernetesConfig {
    /// Where the API server is, unless the pod's service account says so.
    pub kubeconfig: Option<PathBuf>,
    /// Of Lease and Secrets, unless the pod's or the kubeconfig's own.
    pub namespace: Option<String>,
    /// Of this replica's pod.
    pub replica_uid: String,
    /// For the other replicas.
    pub pair_listen: SocketAddr,
    /// Where they reach that.
    pub pair_address: SocketAddr,
    /// Name and port of the headless Service.
    pub pair_service: Option<(String, u16)>,
    /// How the term is held.
    pub lease: LeaseTiming,
    /// Of this cluster, in requests.
    pub cluster_id: String,
    /// One of these a token must have; at least one.
    pub token_audiences: Vec<String>,
    /// How long an answer about a token is believed.
    pub token_cache: Duration,
    /// Of the mesh.
    pub mesh_trust_domain: TrustDomain,
    /// Whether this is the mesh's only CA.
    pub mesh_ca: bool,
    /// Of the mesh's roots.
    pub root_config_map: String,
    /// Of istiod.
    pub istio_namespace: String,
    /// Whose names istiod's certificate holds.
    pub istiod_revisions: Vec<Revision>,
    /// Whether the roots are kept in a ClusterTrustBundle as well.
    pub cluster_trust_bundle: bool,
    /// Whether somebody else's roots are overwritten.
    pub adopt: bool,
    /// Secrets that hold SVIDs of gateways, each once.
    pub gateway_secrets: Vec<GatewaySecret>,
    /// Whether it is worked out which Services need mutual TLS.
    pub policy: bool,
    /// What makes a Service a member.
    pub policy_membership: PolicyMembership,
    /// Whether the active keeps objects of the Gateway API for that.
    pub policy_objects: bool,
    /// Who may follow that.
    pub gateway_identities: Vec<SpiffeId>,
}

/// What makes a Service a member of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyMembership {
    /// The labels of its namespace.
    Labels,
    /// Where those say nothing, what all its pods show.
    Auto,
}

impl PolicyMembership {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Auto => "auto",
        }
    }
}

impl KubernetesConfig {
    /// Reads them all; what is wrong is noted in `from`.
    pub(super) fn read(from: &mut Sources) -> Option<Self> {
        ["replica_uid", "pair_address", "token_audiences", "cluster_id"]
            .into_iter()
            .for_each(|field| from.require(field));
        let kubeconfig = from.one("kubeconfig", parse::path);
        let namespace = from.one("namespace", parse::object_name);
        let replica_uid = from.one("replica_uid", parse::object_name);
        let pair_listen = from.one("pair_listen", parse::socket_address);
        let pair_address = from.one("pair_address", reachable);
        let pair_service =
            from.one("pair_service", |text| parse::ca_address(text, None).map(|parts| (parts.host, parts.port)));
        let lease = lease(from);
        let cluster_id = from.one("cluster_id", not_empty);
        let token_audiences = from.many("token_audiences", not_empty);
        let token_cache = from.one("token_cache", believed_for);
        let mesh_trust_domain = from.one("mesh_trust_domain", parse::displayed);
        let mesh_ca = from.one("mesh_ca", parse::boolean);
        let root_config_map = from.one("root_config_map", parse::object_name);
        let istio_namespace = from.one("istio_namespace", parse::object_name);
        let istiod_revisions = from.many("istiod_revisions", parse::displayed);
        let cluster_trust_bundle = from.one("cluster_trust_bundle", parse::boolean);
        let adopt = from.one("adopt", parse::boolean);
        let gateway_secrets = gateway_secrets(from);
        let policy = from.one("policy", parse::boolean);
        let policy_membership = from.one("policy_membership", membership);
        if policy == Some(false) && policy_membership == Some(PolicyMembership::Auto) {
            from.refuse("policy_membership", "counts with policy only: set that, or leave this out");
        }
        let policy_objects = from.one("policy_objects", parse::boolean);
        if policy == Some(false) && policy_objects == Some(true) {
            from.refuse("policy_objects", "counts with policy only: set that, or leave this out");
        }
        let gateway_identities: Vec<SpiffeId> = from.many("gateway_identities", parse::displayed);
        if policy == Some(false) && !gateway_identities.is_empty() {
            from.refuse("gateway_identities", "counts with policy only: set that, or leave this out");
        }
        Some(Self {
            kubeconfig,
            namespace,
            replica_uid: replica_uid?,
            pair_listen: pair_listen?,
            pair_address: pair_address?,
            pair_service,
            lease: lease?,
            cluster_id: cluster_id?,
            token_audiences,
            token_cache: token_cache?,
            mesh_trust_domain: mesh_trust_domain?,
            mesh_ca: mesh_ca?,
            root_config_map: root_config_map?,
            istio_namespace: istio_namespace?,
            istiod_revisions,
            cluster_trust_bundle: cluster_trust_bundle?,
            adopt: adopt?,
            gateway_secrets,
            policy: policy?,
            policy_membership: policy_membership?,
            policy_objects: policy_objects?,
            gateway_identities,
        })
    }

    /// The same as texts.
    pub(super) fn to_args(&self) -> KubernetesArgs {
        KubernetesArgs {
            kubeconfig: self.kubeconfig.as_ref().map(|file| file.display().to_string()),
            namespace: self.namespace.clone(),
            replica_uid: Some(self.replica_uid.clone()),
            pair_listen: Some(self.pair_listen.to_string()),
            pair_address: Some(self.pair_address.to_string()),
            pair_service: self.pair_service.as_ref().map(|(name, port)| format!("{name}:{port}")),
            lease_renew: Some(duration::format(self.lease.renew())),
            lease_step_down: Some(duration::format(self.lease.step_down())),
            lease_duration: Some(duration::format(self.lease.lease())),
            cluster_id: Some(self.cluster_id.clone()),
            token_audiences: Some(self.token_audiences.clone()),
            token_cache: Some(duration::format(self.token_cache)),
            mesh_trust_domain: Some(self.mesh_trust_domain.to_string()),
            mesh_ca: Some(self.mesh_ca.to_string()),
            root_config_map: Some(self.root_config_map.clone()),
            istio_namespace: Some(self.istio_namespace.clone()),
            istiod_revisions: Some(self.istiod_revisions.iter().map(Revision::to_string).collect::<Vec<_>>())
                .filter(|revisions| !revisions.is_empty()),
            cluster_trust_bundle: Some(self.cluster_trust_bundle.to_string()),
            adopt: Some(self.adopt.to_string()),
            gateway_secrets: gateway_secret_texts(&self.gateway_secrets),
            policy: Some(self.policy.to_string()),
            policy_membership: Some(self.policy_membership.as_str().to_owned()),
            policy_objects: Some(self.policy_objects.to_string()),
            gateway_identities: Some(self.gateway_identities.iter().map(SpiffeId::to_string).collect::<Vec<_>>())
                .filter(|identities| !identities.is_empty()),
        }
    }
}

/// Notes each setting that would have no effect without Kubernetes.
pub(super) fn refuse_all(from: &mut Sources) {
    let chosen = reference::kubernetes_fields().into_iter().filter(|field| from.is_chosen(field));
    for field in chosen.collect::<Vec<_>>() {
        from.refuse(&field, "counts with state kubernetes only: set that, or leave this out");
    }
}

pub(super) fn lease(from: &mut Sources) -> Option<LeaseTiming> {
    let renew = from.one("lease_renew", duration::parse);
    let step_down = from.one("lease_step_down", duration::parse);
    let lease = from.one("lease_duration", duration::parse);
    let timing = LeaseTiming::new(renew?, step_down?, lease?);
    timing
        .map_err(|error| {
            let field = match error {
                LeaseTimingError::Renew => "lease_renew",
                LeaseTimingError::StepDown { .. } => "lease_step_down",
                LeaseTimingError::Lease { .. } => "lease_duration",
            };
            from.refuse(field, error);
        })
        .ok()
}

/// How long a token may be believed that the API server does not accept any more.
const LONGEST_TOKEN_CACHE: Duration = Duration::from_secs(60);

fn believed_for(text: &str) -> Result<Duration, String> {
    let time = duration::parse(text)?;
    if time > LONGEST_TOKEN_CACHE {
        return Err(format!(
            "{text:?} is too long: a token is believed for so long after its pod is deleted; at most {}",
            duration::format(LONGEST_TOKEN_CACHE)
        ));
    }
    Ok(time)
}

/// `None` for none.
pub(super) fn gateway_secret_texts(secrets: &[GatewaySecret]) -> Option<Vec<String>> {
    Some(secrets.iter().map(GatewaySecret::to_string).collect()).filter(|texts: &Vec<_>| !texts.is_empty())
}

pub(super) fn gateway_secrets(from: &mut Sources) -> Vec<GatewaySecret> {
    let secrets: Vec<GatewaySecret> = from.many("gateway_secrets", parse::displayed);
    let place = |secret: &GatewaySecret| (secret.namespace().to_owned(), secret.name.clone());
    let mut places = BTreeSet::new();
    for secret in &secrets {
        if !places.insert(place(secret)) {
            from.refuse(
                "gateway_secrets",
                format!("{}/{} is for two accounts: name it once", secret.namespace(), secret.name),
            );
        }
    }
    secrets
}

fn membership(text: &str) -> Result<PolicyMembership, String> {
    match text {
        "labels" => Ok(PolicyMembership::Labels),
        "auto" => Ok(PolicyMembership::Auto),
        _ => Err(format!("{text:?} is neither labels nor auto")),
    }
}

fn not_empty(text: &str) -> Result<String, String> {
    if text.is_empty() { Err("must not be empty".to_owned()) } else { Ok(text.to_owned()) }
}

fn reachable(text: &str) -> Result<SocketAddr, String> {
    let address = parse::socket_address(text)?;
    if address.ip().is_unspecified() || address.port() == 0 {
        return Err(format!(
            "{text:?} is no address that others could reach: give this pod's IP and the port of pairListen"
        ));
    }
    Ok(address)
}
