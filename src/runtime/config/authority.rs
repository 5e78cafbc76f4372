//! The settings of `agent` that say how it finds a certificate authority, and by what it verifies it.

use std::path::PathBuf;

use super::{
    CaAddress,
    followed_roots::{self, FollowedRootsConfig},
    parse,
    sources::Sources,
};
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
    /// A file with roots that their certificates may lead to, as those of the followed object may.
    pub root_file: PathBuf,
    /// The object with roots, which is tried first.
    pub followed_roots: Option<FollowedRootsConfig>,
    /// Of the trust bundle on the socket.
    pub bundle_source: BundleSource,
    /// Replicas that say what the policies are, verified as the authorities are; none are followed if there is none.
    pub policy_addresses: Vec<CaAddress>,
}

/// Whose set of roots is published, exactly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// The authority's answer.
    Ca,
    /// The followed object, and the authority's answer until that has been read.
    Followed,
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
        let policy_addresses = from.many("policy_addresses", |text| {
            with_kubernetes(text).and_then(|text| parse::ca_address(text, server_name.as_ref()))
        });
        let extras = CaExtras {
            cluster_id: from.one("cluster_id", printable),
            headers: from.many("ca_headers", header),
            cert_signer: from.one("cert_signer", printable),
        };
        let identities = from.many("ca_identities", parse::displayed);
        let root_file = from.one("root_file", root_file);
        let (followed_roots, bundle_source) = followed_roots::read(from)?;
        Some(Self {
            addresses,
            identities,
            extras,
            root_file: root_file?,
            followed_roots,
            bundle_source,
            policy_addresses,
        })
    }
}

fn with_kubernetes(text: &str) -> Result<&str, String> {
    if cfg!(feature = "kubernetes") {
        Ok(text)
    } else {
        Err("is not in this build: build it with --features kubernetes".to_owned())
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

/// What may stand in a header.
pub(super) fn printable(text: &str) -> Result<String, String> {
    let is_printable = !text.is_empty() && text.chars().all(|c| c.is_ascii_graphic() || c == ' ');
    if is_printable { Ok(text.to_owned()) } else { Err(format!("{text:?} has characters that can't be sent")) }
}
