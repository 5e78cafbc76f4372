//! The settings of `agent` that say which object with roots it follows.

use std::path::PathBuf;

use super::{BundleSource, parse, sources::Sources};
use crate::service::ca_roots::RootsObject;

/// An object with roots, and how it is come by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FollowedRootsConfig {
    /// Which.
    pub object: RootsObject,
    /// Where the API server is, unless the pod's service account says so.
    pub kubeconfig: Option<PathBuf>,
    /// Whether it was asked for: it can't be done without then.
    pub chosen: bool,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Named {
    Ca,
    ConfigMap,
    ClusterTrustBundle,
}

/// istiod's own.
const MESH_BUNDLE: &str = "istio.io:istiod-ca:root-cert";

/// Reads them all; what is wrong is noted in `from`.
pub(super) fn read(from: &mut Sources) -> Option<(Option<FollowedRootsConfig>, BundleSource)> {
    let named = from.one("bundle_source", named)?;
    let source = if named == Named::Ca { BundleSource::Ca } else { BundleSource::Followed };
    let followed = if named == Named::ClusterTrustBundle || from.is_chosen("root_cluster_trust_bundle") {
        cluster_trust_bundle(from, named)
    } else {
        config_map(from, named == Named::ConfigMap)
    };
    Some((followed, source))
}

fn cluster_trust_bundle(from: &mut Sources, named: Named) -> Option<FollowedRootsConfig> {
    if from.is_chosen("root_config_map") || named == Named::ConfigMap {
        let field = if from.is_chosen("root_config_map") { "root_config_map" } else { "bundle_source" };
        from.refuse(field, "but a ClusterTrustBundle is asked for: one object is followed, leave the other out");
    }
    if from.is_chosen("namespace") {
        from.refuse("namespace", "does not count with a ClusterTrustBundle, which has none: leave it out");
    }
    let kubeconfig = from.one("kubeconfig", parse::path);
    let name = if from.is_chosen("root_cluster_trust_bundle") {
        from.one("root_cluster_trust_bundle", |text| in_this_build().and_then(|()| parse::trust_bundle_name(text)))?
    } else {
        from.one("bundle_source", |_| in_this_build())?;
        MESH_BUNDLE.to_owned()
    };
    Some(FollowedRootsConfig { object: RootsObject::ClusterTrustBundle { name }, kubeconfig, chosen: true })
}

/// In a pod there is one by default, but not for those who said where the roots are.
fn config_map(from: &mut Sources, is_needed: bool) -> Option<FollowedRootsConfig> {
    let chosen = from.is_chosen("root_config_map");
    let name = from.one("root_config_map", |text| in_this_build().and_then(|()| parse::object_name(text)));
    let namespace = from.one("namespace", parse::object_name);
    let kubeconfig = from.one("kubeconfig", parse::path);
    match name {
        Some(name) if chosen || !from.is_chosen("root_file") => {
            let object = RootsObject::ConfigMap { namespace, name };
            Some(FollowedRootsConfig { object, kubeconfig, chosen: chosen || is_needed })
        }
        _ => {
            for field in ["namespace", "kubeconfig"] {
                if from.is_chosen(field) {
                    from.refuse(field, "counts with rootConfigMap only: set that, or leave this out");
                }
            }
            if is_needed && !chosen {
                from.refuse("bundle_source", "there is no ConfigMap: set rootConfigMap");
            }
            None
        }
    }
}

fn in_this_build() -> Result<(), String> {
    if cfg!(feature = "kubernetes") {
        Ok(())
    } else {
        Err("is not in this build: build it with --features kubernetes, or set rootFile alone".to_owned())
    }
}

fn named(text: &str) -> Result<Named, String> {
    match text {
        "ca" => Ok(Named::Ca),
        "config-map" => Ok(Named::ConfigMap),
        "cluster-trust-bundle" => Ok(Named::ClusterTrustBundle),
        _ => Err(format!("{text:?} is no source of the trust bundle: write ca, config-map or cluster-trust-bundle")),
    }
}
