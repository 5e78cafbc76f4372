//! A secret as it is sent: encoded once, with a version that its content alone decides.

use std::fmt::Write;

use bytes::Bytes;
use prost::Message;
use ring::digest::{SHA256, digest};
use zeroize::Zeroizing;

use crate::{
    domain::policy::IdentitySet,
    proto::{
        Any,
        envoy::{
            config::core::v3::{DataSource, data_source::Specifier},
            extensions::transport_sockets::tls::v3::Secret,
        },
    },
    service::policy_follower::ServiceKey,
};

/// The type of every resource here.
pub(super) const SECRET_TYPE_URL: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";

/// One secret, ready to be sent.
pub(super) struct ServedSecret {
    /// Changes with the content only, so that it means the same on every stream and after a restart.
    pub(super) version: String,
    /// The encoded secret.
    pub(super) resource: Any,
    /// If it is a Service's context: whose, and whom it accepts.
    pub(super) context: Option<(ServiceKey, IdentitySet)>,
}

pub(super) const fn inline(bytes: Bytes) -> DataSource {
    DataSource { specifier: Some(Specifier::InlineBytes(bytes)) }
}

/// The encoding holds a private key, so it is wiped when the last stream lets go of it.
pub(super) fn encode(secret: &Secret) -> Any {
    Any { type_url: SECRET_TYPE_URL.to_owned(), value: Bytes::from_owner(Zeroizing::new(secret.encode_to_vec())) }
}

/// 128 bits of SHA-256 in hex. Only over certificates: a version is no place for anything made from a key.
pub(super) fn version(der: &[u8]) -> String {
    digest(&SHA256, der).as_ref().iter().take(16).fold(String::new(), |mut hex, byte| {
        // Writing to a string can't fail.
        _ = write!(hex, "{byte:02x}");
        hex
    })
}
