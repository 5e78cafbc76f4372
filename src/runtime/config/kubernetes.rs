//! The settings of `serve` that count in Kubernetes only.

mod pair_port;
mod policy;
mod token_reviews;

use std::{collections::BTreeSet, path::PathBuf};

pub(super) use self::pair_port::any_as;
pub use self::{
    pair_port::PairPortConfig,
    policy::{PolicyConfig, PolicyMembership},
    token_reviews::TokenReviewConfig,
};
use super::{parse, reference, sources::Sources};
use crate::{
    domain::{
        identity::TrustDomain,
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
    pub pair: PairPortConfig,
    /// How the term is held.
    pub lease: LeaseTiming,
    /// Of callers' tokens.
    pub reviews: TokenReviewConfig,
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
    /// How it is worked out which Services need mutual TLS, if it is.
    pub policy: Option<PolicyConfig>,
}

impl KubernetesConfig {
    /// Reads them all; what is wrong is noted in `from`.
    pub(super) fn read(from: &mut Sources) -> Option<Self> {
        from.require("replica_uid");
        let kubeconfig = from.one("kubeconfig", parse::path);
        let namespace = from.one("namespace", parse::object_name);
        let replica_uid = from.one("replica_uid", parse::object_name);
        let pair = PairPortConfig::read(from);
        let lease = lease(from);
        let reviews = TokenReviewConfig::read(from);
        let mesh_trust_domain = from.one("mesh_trust_domain", parse::displayed);
        let mesh_ca = from.one("mesh_ca", parse::boolean);
        let root_config_map = from.one("root_config_map", parse::object_name);
        let istio_namespace = from.one("istio_namespace", parse::object_name);
        let istiod_revisions = from.many("istiod_revisions", parse::displayed);
        let cluster_trust_bundle = from.one("cluster_trust_bundle", parse::boolean);
        let adopt = from.one("adopt", parse::boolean);
        let gateway_secrets = gateway_secrets(from);
        let policy = PolicyConfig::read(from);
        Some(Self {
            kubeconfig,
            namespace,
            replica_uid: replica_uid?,
            pair: pair?,
            lease: lease?,
            reviews: reviews?,
            mesh_trust_domain: mesh_trust_domain?,
            mesh_ca: mesh_ca?,
            root_config_map: root_config_map?,
            istio_namespace: istio_namespace?,
            istiod_revisions,
            cluster_trust_bundle: cluster_trust_bundle?,
            adopt: adopt?,
            gateway_secrets,
            policy: policy?,
        })
    }

    /// The same as texts.
    pub(super) fn to_args(&self) -> KubernetesArgs {
        let mut args = KubernetesArgs {
            kubeconfig: self.kubeconfig.as_ref().map(|file| file.display().to_string()),
            namespace: self.namespace.clone(),
            replica_uid: Some(self.replica_uid.clone()),
            lease_renew: Some(duration::format(self.lease.renew())),
            lease_step_down: Some(duration::format(self.lease.step_down())),
            lease_duration: Some(duration::format(self.lease.lease())),
            mesh_trust_domain: Some(self.mesh_trust_domain.to_string()),
            mesh_ca: Some(self.mesh_ca.to_string()),
            root_config_map: Some(self.root_config_map.clone()),
            istio_namespace: Some(self.istio_namespace.clone()),
            istiod_revisions: Some(self.istiod_revisions.iter().map(Revision::to_string).collect::<Vec<_>>())
                .filter(|revisions| !revisions.is_empty()),
            cluster_trust_bundle: Some(self.cluster_trust_bundle.to_string()),
            adopt: Some(self.adopt.to_string()),
            gateway_secrets: gateway_secret_texts(&self.gateway_secrets),
            policy: Some(self.policy.is_some().to_string()),
            ..KubernetesArgs::default()
        };
        self.pair.tell(&mut args);
        self.reviews.tell(&mut args);
        if let Some(policy) = &self.policy {
            policy.tell(&mut args);
        }
        args
    }
}

/// Notes each setting that would have no effect without Kubernetes.
pub(super) fn refuse_all(from: &mut Sources, passes_on: bool) {
    let counts = |field: &str| passes_on && field == "cluster_id";
    let chosen = reference::kubernetes_fields().into_iter().filter(|field| from.is_chosen(field) && !counts(field));
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

/// A root of our own in the mesh's trust domain beside the mesh's own CA: neither's certificates would be trusted by all.
pub(super) fn refuse_second_root(
    from: &mut Sources,
    kubernetes: Option<&KubernetesConfig>,
    is_plugged_in: bool,
    trust_domain: &TrustDomain,
) {
    if let Some(kubernetes) = kubernetes
        && kubernetes.policy.as_ref().is_some_and(|policy| policy.objects)
        && kubernetes.mesh_trust_domain != *trust_domain
    {
        from.refuse(
            "policy_objects",
            "needs the mesh's own trust domain, for gateways verify the mesh by the roots of this authority: set \
             meshTrustDomain if it is that, with caDir or meshCa, or leave this out",
        );
    }
    let Some(kubernetes) = kubernetes.filter(|kubernetes| !is_plugged_in && !kubernetes.mesh_ca) else { return };
    if kubernetes.mesh_trust_domain == *trust_domain {
        from.refuse(
            "trust_domain",
            "is the mesh's own, which has a CA: choose another one and federate, set caDir to an intermediate of the mesh's \
             root, or set meshCa if this is the mesh's only CA",
        );
    }
}
