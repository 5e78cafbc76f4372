//! The settings of `agent` that say how it finds a certificate authority, and by what it verifies it.

use std::path::PathBuf;

use super::{CaAddress, parse, sources::Sources};
use crate::{
    domain::identity::SpiffeId,
    grpc::ca_client::{CaExtras, CaHeader},
};

/// Certificate authorities, and what is sent to them.
#[derive(Clone, Debug, PartialEq)]
pub struct AuthorityConfig {
    /// In the order in which they are asked; at least one.
    pub addresses: Vec<CaAddress>,
    /// Whose certificates are good whatever their names.
    pub identities: Vec<SpiffeId>,
    /// What goes with each request.
    pub extras: CaExtras,
    /// A file with roots that their certificates may lead to, as those of the ConfigMap may.
    pub root_file: PathBuf,
    /// The ConfigMap with roots, which is tried first.
    pub root_config_map: Option<RootConfigMapConfig>,
    /// Of the trust bundle on the socket.
    pub bundle_source: BundleSource,
}

/// A ConfigMap with roots.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootConfigMapConfig {
    /// Its name.
    pub name: String,
    /// Its namespace, unless the pod's or the kubeconfig's own.
    pub namespace: Option<String>,
    /// Where the API server is, unless the pod's service account says so.
    pub kubeconfig: Option<PathBuf>,
    /// Whether it was asked for: it can't be done without then.
    pub chosen: bool,
}

/// Whose set of roots is published, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// The authority's answer.
    Ca,
    /// The ConfigMap, and the authority's answer until that has been read.
    ConfigMap,
}

/// Where istiod has no TLS.
const PLAINTEXT: u16 = 15010;

impl AuthorityConfig {
    /// Reads them all; what is wrong is noted in `from`.
    pub(super) fn read(from: &mut Sources) -> Option<Self> {
        from.require("ca_addresses");
        let server_name = from.one("ca_server_name", parse::server_name);
        let addresses = from.many("ca_addresses", |text| {
            parse::ca_address(text, server_name.as_ref()).and_then(|address| with_tls(address, text))
        });
        let extras = CaExtras {
            cluster_id: from.one("cluster_id", printable),
            headers: from.many("ca_headers", header),
            cert_signer: from.one("cert_signer", printable),
        };
        let identities = from.many("ca_identities", parse::displayed);
        let root_file = from.one("root_file", root_file);
        let bundle_source = from.one("bundle_source", bundle_source);
        let root_config_map = root_config_map(from, bundle_source == Some(BundleSource::ConfigMap));
        Some(Self {
            addresses,
            identities,
            extras,
            root_file: root_file?,
            root_config_map,
            bundle_source: bundle_source?,
        })
    }
}

/// In a pod there is one by default, but not for those who said where the roots are.
fn root_config_map(from: &mut Sources, is_needed: bool) -> Option<RootConfigMapConfig> {
    let chosen = from.is_chosen("root_config_map");
    let name = from.one("root_config_map", config_map_name);
    let namespace = from.one("namespace", parse::object_name);
    let kubeconfig = from.one("kubeconfig", parse::path);
    match name {
        Some(name) if chosen || !from.is_chosen("root_file") => {
            Some(RootConfigMapConfig { name, namespace, kubeconfig, chosen: chosen || is_needed })
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

fn config_map_name(text: &str) -> Result<String, String> {
    if cfg!(feature = "kubernetes") {
        parse::object_name(text)
    } else {
        Err("is not in this build: build it with --features kubernetes, or set rootFile alone".to_owned())
    }
}

fn with_tls(address: CaAddress, text: &str) -> Result<CaAddress, String> {
    if address.port == PLAINTEXT {
        return Err(format!("{text:?} is istiod without TLS, where anybody could read the token: write 15012"));
    }
    Ok(address)
}

fn root_file(text: &str) -> Result<PathBuf, String> {
    match text {
        "SYSTEM" => Err("the roots of the operating system are not used here: give a file with those of the CA".into()),
        _ => parse::path(text),
    }
}

fn header(text: &str) -> Result<CaHeader, String> {
    // the value is not shown: it may be a secret
    let (name, value) = text.split_once('=').ok_or("a header is written NAME=VALUE")?;
    CaHeader::new(name, value)
}

fn printable(text: &str) -> Result<String, String> {
    let is_printable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if is_printable { Ok(text.to_owned()) } else { Err(format!("{text:?} has characters that can't be sent")) }
}

fn bundle_source(text: &str) -> Result<BundleSource, String> {
    match text {
        "ca" => Ok(BundleSource::Ca),
        "config-map" => Ok(BundleSource::ConfigMap),
        _ => Err(format!("{text:?} is no source of the trust bundle: write ca or config-map")),
    }
}
