//! What keeps a Gateway of Envoy Gateway from speaking mutual TLS.

use std::fmt;

use crate::domain::policy::{ObjectName, Release};

/// What an EnvoyProxy lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It isn't there at all: neither the Gateway nor its class names one.
    Proxy,
    /// It isn't there, though it is named.
    NamedProxy(ObjectName),
    /// Its EnvoyProxy is to be merged with that of its class, and can't be.
    Merge {
        /// That of the Gateway.
        own: ObjectName,
        /// That of its class.
        base: ObjectName,
    },
    /// The agent beside Envoy.
    Agent,
    /// A client certificate.
    ClientCertificate,
    /// The Secret that it names is not there, or not of the type for SDS.
    SdsSecret(ObjectName),
    /// The Secret that it names asks for another SDS resource.
    SdsResource(ObjectName, Box<str>),
    /// The Secret that it names tells of the socket in a way that this version of Envoy Gateway does not read; and how it does.
    SdsUrl(ObjectName, &'static str),
}

/// Why Envoy Gateway does not follow Secrets that stand for SDS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SdsObstacle {
    /// It is turned off, as it is unless somebody turns it on.
    TurnedOff,
    /// Its configuration can't be read.
    SettingsUnknown,
    /// Its version is not known.
    VersionUnknown,
    /// Its version is too old.
    TooOld(Release),
}

impl fmt::Display for Lack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Proxy => f.write_str("neither it nor its class names an EnvoyProxy"),
            Self::NamedProxy(proxy) => write!(f, "there is no EnvoyProxy {proxy}"),
            Self::Merge { own, base } => write!(
                f,
                "Envoy Gateway can't merge EnvoyProxy {own} with {base} of its class, as both patch the same part of Envoy's pods: leave \
                 the patch to one of them, or set mergeType: JSONMerge"
            ),
            Self::Agent => f.write_str("its EnvoyProxy puts no agent beside Envoy"),
            Self::ClientCertificate => f.write_str("its EnvoyProxy has no spec.backendTLS.clientCertificateRef"),
            Self::SdsSecret(secret) => {
                write!(
                    f,
                    "Secret {secret}, its client certificate, is not there or not of type gateway.envoyproxy.io/sds"
                )
            }
            Self::SdsResource(secret, resource) => {
                write!(f, "Secret {secret}, its client certificate, has secretName {resource:?} and not default")
            }
            Self::SdsUrl(secret, expected) => write!(
                f,
                "Secret {secret}, its client certificate, has a url that this version of Envoy Gateway does not read: it must begin \
                 with {expected}, as `countersign render gateway` prints it"
            ),
        }
    }
}

impl fmt::Display for SdsObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TurnedOff => f.write_str("set extensionApis.enableSDSSecretRef: true in the configuration of Envoy Gateway"),
            Self::SettingsUnknown => f.write_str(
                "whether extensionApis.enableSDSSecretRef is set can't be read from the configuration of Envoy Gateway, so it counts as \
                 not set: let these replicas read it",
            ),
            Self::VersionUnknown => f.write_str(
                "the version of Envoy Gateway is not known, so it counts as one that follows no SDS: give its image a tag that says it, or --envoy-gateway-namespace where it runs",
            ),
            Self::TooOld(version) => write!(f, "Envoy Gateway {version} follows no SDS: upgrade it to 1.8 or later"),
        }
    }
}
