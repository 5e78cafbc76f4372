//! The settings of `serve` with source `istiod`.

use std::{num::NonZeroU32, path::PathBuf};

use super::{
    CaAddress, KubernetesConfig, PairPortConfig, PolicyConfig, TokenReviewConfig, authority::printable, kubernetes,
    parse, reference, sources::Sources,
};
use crate::{
    domain::{identity::TrustDomain, leadership::LeaseTiming},
    runtime::{
        args::{IstiodArgs, KubernetesArgs},
        duration,
    },
    service::{ca_roots::RootsObject, gateway_secrets::GatewaySecret},
};

/// Where certificates come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Source {
    /// A root of our own.
    SelfSigned,
    /// An authority in files.
    PluggedIn,
    /// The mesh's istiod.
    Istiod,
}

/// What `serve` runs with where istiod signs.
#[derive(Clone, Debug, PartialEq)]
pub struct IstiodConfig {
    /// In order; at least one. Where nobody has given any, that of the default revision.
    pub addresses: Vec<CaAddress>,
    /// What its certificate must have, if not the host.
    pub server_name: Option<String>,
    /// What it is verified by.
    pub root_file: PathBuf,
    /// The proof of this replica.
    pub token_file: PathBuf,
    /// What istiod calls the cluster that the pair's own tokens are of; if not given, they are taken for ones of its own cluster.
    pub cluster_id: Option<String>,
    /// Requests a second.
    pub qps: NonZeroU32,
    /// What counts in Kubernetes only.
    pub cluster: Option<IstiodClusterConfig>,
}

/// How such a replica is active in Kubernetes.
#[derive(Clone, Debug, PartialEq)]
pub struct IstiodClusterConfig {
    /// Where the API server is, unless the pod's service account says so.
    pub kubeconfig: Option<PathBuf>,
    /// Of the Lease, unless the pod's or the kubeconfig's own.
    pub namespace: Option<String>,
    /// Of this replica's pod.
    pub replica_uid: String,
    /// How the term is held.
    pub lease: LeaseTiming,
    /// What holds the mesh's roots.
    pub roots: RootsObject,
    /// Of istiod.
    pub istio_namespace: String,
    /// Whether istiods are looked for there, and the address that there is otherwise is asked only while none is found.
    pub finds_istiods: bool,
    /// Secrets that hold SVIDs of gateways, each once.
    pub gateway_secrets: Vec<GatewaySecret>,
    /// How it is worked out which Services need mutual TLS, if it is.
    pub policy: Option<FollowedPolicy>,
    /// JWT-SVIDs, if the pair signs any.
    pub jwt_svids: Option<JwtSvidsConfig>,
}

/// JWT-SVIDs where istiod signs certificates: what else a replica has for them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JwtSvidsConfig {
    /// Of the tokens of those who ask for one.
    pub reviews: TokenReviewConfig,
    /// The replicas pass such requests on to the active here.
    pub pair: PairPortConfig,
}

/// Policies where istiod signs: what else a replica has for them alone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowedPolicy {
    /// How they are followed.
    pub policy: PolicyConfig,
    /// Of the tokens of those who follow.
    pub reviews: TokenReviewConfig,
    /// The replicas tell each other here what is in force.
    pub pair: PairPortConfig,
}

/// Settings of an authority of our own. Where istiod signs they would have no effect.
const OF_OTHERS: [&str; 11] = [
    "ca_dir",
    "svid_ttl",
    "max_svid_ttl",
    "dns_names",
    "workload_socket",
    "workload",
    "mesh_ca",
    "istiod_revisions",
    "cluster_trust_bundle",
    "adopt",
    "mesh_trust_domain",
];

/// The replicas attest callers, and speak to each other, for these alone.
const NEEDS_CALLERS: &str = "counts with policy or jwtSvids only: set one of them, or leave this out";

const ROOT_BUNDLE: &str = "istiod_root_cluster_trust_bundle";

impl IstiodConfig {
    /// Reads them all; what is wrong is noted in `from`.
    pub(super) fn read(from: &mut Sources, in_kubernetes: bool) -> Option<Self> {
        for field in OF_OTHERS.into_iter().filter(|field| from.is_chosen(field)).collect::<Vec<_>>() {
            from.refuse(
                field,
                match field {
                    "mesh_trust_domain" => "does not count with source istiod: trustDomain is the mesh's",
                    _ => "does not count with source istiod: leave it out",
                },
            );
        }
        let mints = mints(from, in_kubernetes)?;
        if in_kubernetes {
            from.require("replica_uid");
        } else if from.is_chosen(ROOT_BUNDLE) {
            from.refuse(ROOT_BUNDLE, "counts with state kubernetes only: set that, or leave this out");
        }
        let server_name = from.one("istiod_server_name", parse::server_name);
        let istio_namespace = from.one("istio_namespace", parse::object_name);
        let finds_istiods = !from.is_chosen("istiod_addresses");
        let addresses = if finds_istiods {
            let address = |namespace| parse::ca_address(&format!("istiod.{namespace}.svc:15012"), server_name.as_ref());
            istio_namespace.iter().filter_map(|namespace| address(namespace).ok()).collect()
        } else {
            from.require("istiod_addresses");
            from.many("istiod_addresses", |text| parse::ca_address(text, server_name.as_ref()))
        };
        let root_file = from.one("istiod_root_file", parse::path);
        let token_file = from.one("istiod_token_file", parse::path);
        let cluster_id = from.is_chosen("cluster_id").then(|| from.one("cluster_id", printable)).flatten();
        let qps = from.one("istiod_qps", |text| {
            text.parse().map_err(|_malformed| format!("{text:?} is no number of requests: write 1 or more"))
        });
        let cluster = if in_kubernetes {
            Some(IstiodClusterConfig::read(from, istio_namespace, finds_istiods, mints)?)
        } else {
            None
        };
        Some(Self {
            addresses,
            server_name: server_name.map(|name| name.to_str().into_owned()),
            root_file: root_file?,
            token_file: token_file?,
            cluster_id,
            qps: qps?,
            cluster,
        })
    }

    /// Whether JWT-SVIDs are signed here.
    pub(super) fn mints(&self) -> bool {
        self.cluster.as_ref().is_some_and(|cluster| cluster.jwt_svids.is_some())
    }

    /// The same as texts.
    pub(super) fn to_args(&self) -> IstiodArgs {
        let address = |address: &CaAddress| parse::host_and_port(&address.host, address.port);
        let are_given = !self.cluster.as_ref().is_some_and(|cluster| cluster.finds_istiods);
        IstiodArgs {
            istiod_addresses: are_given.then(|| self.addresses.iter().map(address).collect()),
            istiod_server_name: self.server_name.clone(),
            istiod_root_file: Some(self.root_file.display().to_string()),
            istiod_root_cluster_trust_bundle: self.cluster.as_ref().and_then(|cluster| match &cluster.roots {
                RootsObject::ConfigMap { .. } => None,
                RootsObject::ClusterTrustBundle { name } => Some(name.clone()),
            }),
            istiod_token_file: Some(self.token_file.display().to_string()),
            istiod_qps: Some(self.qps.to_string()),
            jwt_svids: Some(self.mints().to_string()),
        }
    }
}

impl IstiodClusterConfig {
    fn read(from: &mut Sources, istio_namespace: Option<String>, finds_istiods: bool, mints: bool) -> Option<Self> {
        let kubeconfig = from.one("kubeconfig", parse::path);
        let namespace = from.one("namespace", parse::object_name);
        let replica_uid = from.one("replica_uid", parse::object_name);
        let lease = kubernetes::lease(from);
        let roots = roots(from, namespace.as_ref());
        let gateway_secrets = kubernetes::gateway_secrets(from);
        let (policy, jwt_svids) = callers(from, mints)?;
        if !finds_istiods && policy.is_none() && from.is_chosen("istio_namespace") {
            from.refuse("istio_namespace", "counts with policy, or without istiodAddresses, only: leave it out");
        }
        Some(Self {
            kubeconfig,
            namespace,
            replica_uid: replica_uid?,
            lease: lease?,
            roots: roots?,
            istio_namespace: istio_namespace?,
            finds_istiods,
            gateway_secrets,
            policy,
            jwt_svids,
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
            root_config_map: match &self.roots {
                RootsObject::ConfigMap { name, .. } => Some(name.clone()),
                RootsObject::ClusterTrustBundle { .. } => None,
            },
            istio_namespace: Some(self.istio_namespace.clone()).filter(|_| self.finds_istiods || self.policy.is_some()),
            gateway_secrets: kubernetes::gateway_secret_texts(&self.gateway_secrets),
            policy: Some(self.policy.is_some().to_string()),
            ..KubernetesArgs::default()
        };
        if let Some(followed) = &self.policy {
            followed.policy.tell(&mut args);
            followed.reviews.tell(&mut args);
            followed.pair.tell(&mut args);
        }
        if let Some(JwtSvidsConfig { reviews, pair }) = &self.jwt_svids {
            reviews.tell(&mut args);
            pair.tell(&mut args);
        }
        args
    }

    /// Where the replicas reach each other, if they do.
    pub(super) fn pair(&self) -> Option<&PairPortConfig> {
        let of_policy = self.policy.as_ref().map(|followed| &followed.pair);
        of_policy.or(self.jwt_svids.as_ref().map(|config| &config.pair))
    }

    /// As a pair that has a state, if this one signs JWT-SVIDs: one that publishes no roots, for these are istiod's to publish.
    pub fn pair_with_keys(&self, trust_domain: &TrustDomain) -> Option<KubernetesConfig> {
        let JwtSvidsConfig { reviews, pair } = self.jwt_svids.clone()?;
        let (RootsObject::ConfigMap { name, .. } | RootsObject::ClusterTrustBundle { name }) = self.roots.clone();
        Some(KubernetesConfig {
            kubeconfig: self.kubeconfig.clone(),
            namespace: self.namespace.clone(),
            replica_uid: self.replica_uid.clone(),
            pair,
            lease: self.lease,
            reviews,
            mesh_trust_domain: trust_domain.clone(),
            mesh_ca: false,
            root_config_map: name,
            istio_namespace: self.istio_namespace.clone(),
            istiod_revisions: Vec::new(),
            cluster_trust_bundle: false,
            adopt: false,
            gateway_secrets: Vec::new(),
            policy: self.policy.as_ref().map(|followed| followed.policy.clone()),
        })
    }
}

/// Whether JWT-SVIDs are signed here. Their settings have no effect otherwise.
fn mints(from: &mut Sources, in_kubernetes: bool) -> Option<bool> {
    let mints = from.one("jwt_svids", parse::boolean)?;
    if mints && !in_kubernetes {
        from.refuse("jwt_svids", "needs state kubernetes, where the keys are kept: set that, or leave this out");
    }
    if !mints && from.is_chosen("jwt_svid_ttl") {
        from.refuse("jwt_svid_ttl", "counts with jwtSvids only: set that, or leave this out");
    }
    Some(mints)
}

/// For what callers are attested, with what that needs.
fn callers(from: &mut Sources, mints: bool) -> Option<(Option<FollowedPolicy>, Option<JwtSvidsConfig>)> {
    let policy = PolicyConfig::read(from)?;
    if policy.is_none() && !mints {
        let others = PairPortConfig::FIELDS.into_iter().chain(TokenReviewConfig::FIELDS);
        // the cluster is named to istiod as well
        let others = others.filter(|field| *field != "cluster_id" && from.is_chosen(field));
        for field in others.collect::<Vec<_>>() {
            from.refuse(field, NEEDS_CALLERS);
        }
        return Some((None, None));
    }
    let (reviews, pair) = (TokenReviewConfig::read(from), PairPortConfig::read(from));
    let (reviews, pair) = (reviews?, pair?);
    let jwt_svids = mints.then(|| JwtSvidsConfig { reviews: reviews.clone(), pair: pair.clone() });
    Some((policy.map(|policy| FollowedPolicy { policy, reviews, pair }), jwt_svids))
}

/// One object is followed: the ConfigMap, unless a ClusterTrustBundle is named.
fn roots(from: &mut Sources, namespace: Option<&String>) -> Option<RootsObject> {
    if !from.is_chosen(ROOT_BUNDLE) {
        let name = from.one("root_config_map", parse::object_name)?;
        return Some(RootsObject::ConfigMap { namespace: namespace.cloned(), name });
    }
    if from.is_chosen("root_config_map") {
        from.refuse("root_config_map", "but a ClusterTrustBundle is named: one object is followed, leave one out");
    }
    let name = from.one(ROOT_BUNDLE, parse::trust_bundle_name)?;
    Some(RootsObject::ClusterTrustBundle { name })
}

/// Notes each setting that would have no effect without istiod.
pub(super) fn refuse_all(from: &mut Sources) {
    let chosen = reference::istiod_fields().into_iter().filter(|field| from.is_chosen(field));
    for field in chosen.collect::<Vec<_>>() {
        from.refuse(&field, "counts with source istiod only: set that, or leave this out");
    }
}

/// Which source is meant; a directory of a plugged-in authority says so by itself.
pub(super) fn source(from: &mut Sources) -> Option<Source> {
    let has_files = from.is_chosen("ca_dir");
    if !from.is_chosen("source") {
        return Some(if has_files { Source::PluggedIn } else { Source::SelfSigned });
    }
    let source = from.one("source", |text| match text {
        "self-signed" => Ok(Source::SelfSigned),
        "plugged-in" => Ok(Source::PluggedIn),
        "istiod" => Ok(Source::Istiod),
        _ => Err(format!("{text:?} is no source of certificates: write self-signed, plugged-in or istiod")),
    })?;
    match source {
        Source::SelfSigned if has_files => {
            from.refuse("source", "but caDir names a plugged-in authority: leave one out")
        }
        Source::PluggedIn if !has_files => from.refuse("source", "needs caDir, the directory of the authority's files"),
        Source::SelfSigned | Source::PluggedIn | Source::Istiod => {}
    }
    Some(source)
}
