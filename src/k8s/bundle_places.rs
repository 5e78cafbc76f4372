//! All places of a cluster that the trust bundle is written to.

use std::sync::Arc;

use kube::Client;

use super::{
    cluster_trust_bundle::ClusterTrustBundle,
    root_cert_config_maps::RootCertConfigMaps,
    tls_secret::{ClusterTlsSecret, OF_ISTIOD},
};
use crate::service::bundle_distribution::{DistributionConfig, Places};

/// Those that `config` asks for.
pub fn bundle_places(client: &Client, config: &DistributionConfig) -> Places {
    let trust_bundle =
        config.cluster_trust_bundle.then(|| Arc::new(ClusterTrustBundle::new(client.clone(), config)) as _);
    let istiod_secret = config
        .mesh_ca
        .as_ref()
        .map(|mesh| Arc::new(ClusterTlsSecret::new(client.clone(), mesh.istiod.namespace(), OF_ISTIOD)) as _);
    Places {
        config_maps: Arc::new(RootCertConfigMaps::new(client.clone(), config)),
        cluster_trust_bundle: trust_bundle,
        istiod_secret,
    }
}
