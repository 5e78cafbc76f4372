//! What is between Services of the mesh and the Gateways that lead to them.

use std::fmt;

use super::{Lack, Numbers, SdsObstacle, Severity};
use crate::domain::{
    identity::ServiceAccount,
    policy::{ObjectName, Release},
};

/// Something that holds for a Gateway, or for a Service that Gateways lead to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum GatewayCondition {
    /// Of a Gateway or a Service: the API server takes no BackendTLSPolicy of `v1`.
    GatewayApiTooOld,
    /// Of a Gateway: its controller can't verify a SPIFFE ID.
    ControllerUnsupported {
        /// The controller.
        controller: Box<str>,
        /// Of Envoy Gateway: its version, which is too old.
        version: Option<Release>,
    },
    /// Of a Service: a Gateway leads to it whose controller can't verify a SPIFFE ID.
    RoutedByUnsupported {
        /// Those Gateways.
        gateways: Box<[ObjectName]>,
    },
    /// Of a Service: more accounts than a policy has room for.
    TooManyIdentities {
        /// Those that had none.
        left_out: Box<[ServiceAccount]>,
        /// How many there are.
        of: usize,
    },
    /// Of a Service: somebody else's policy is for it.
    Conflicted {
        /// Whose.
        policy: ObjectName,
        /// If it is for one port alone: the name of that.
        port: Option<Box<str>>,
    },
    /// Of a Service: Gateways that lead to it are not ready.
    GatewayNotConfigured {
        /// Those Gateways.
        gateways: Box<[ObjectName]>,
        /// What becomes of their requests.
        requests: UnreadyRequests,
    },
    /// Of a Gateway: its EnvoyProxy lacks something.
    EnvoyProxyNotConfigured {
        /// Which Gateway.
        gateway: ObjectName,
        /// What it lacks; never empty.
        lacks: Box<[Lack]>,
    },
    /// Of a Gateway that needs no EnvoyProxy: it has no client certificate.
    ClientCertificateMissing,
    /// Of a Gateway of Envoy Gateway: Secrets that stand for SDS are not followed.
    SdsNotEnabled(SdsObstacle),
    /// Of a Gateway of Envoy Gateway: a field of its own comes before its EnvoyProxy.
    GatewayFieldOverrides,
    /// Of a Gateway: it shows its client certificate to others, too.
    ClientCertificateShared {
        /// To whom.
        upstreams: Box<[Upstream]>,
    },
    /// Of a Gateway: Istio has put a sidecar into its pods.
    GatewayPodInjected {
        /// One of those.
        pod: ObjectName,
        /// How many there are.
        pods: usize,
    },
    /// Of a Service: HTTP/2 is spoken there, and a gateway does not know.
    Http2NotExplicit {
        /// Their numbers.
        ports: Box<[u16]>,
    },
    /// Of a Gateway: it offers names that only a sidecar knows.
    AlpnNoOverlapRisk {
        /// To whom, besides Services of the mesh.
        upstreams: Box<[Upstream]>,
    },
    /// Of a Service: sidecars take plaintext as well, and tell a gateway's mutual TLS by its ALPN.
    PermissiveNeedsIstioAlpn {
        /// Where.
        ports: Box<[u16]>,
        /// Those Gateways that don't offer it.
        gateways: Box<[ObjectName]>,
    },
}

/// What becomes of requests from Gateways that are not ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnreadyRequests {
    /// There is no policy, as none is ready: they are plaintext.
    Plain,
    /// None is ready any more, and the policy stays: they are refused.
    Held,
    /// Others are ready, for which there is a policy: theirs are refused.
    Beside,
}

/// Whom a Gateway sends requests to.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Upstream {
    /// A Service.
    Service(ObjectName),
    /// A Backend of Envoy Gateway.
    EnvoyBackend(ObjectName),
}

impl GatewayCondition {
    /// Stable, for programs.
    pub(super) const fn reason(&self) -> &'static str {
        match self {
            Self::GatewayApiTooOld => "GatewayApiTooOld",
            Self::ControllerUnsupported { .. } | Self::RoutedByUnsupported { .. } => "UnsupportedByGatewayClass",
            Self::TooManyIdentities { .. } => "TooManyIdentities",
            Self::Conflicted { .. } => "Conflicted",
            Self::GatewayNotConfigured { .. } => "GatewayNotConfigured",
            Self::EnvoyProxyNotConfigured { .. } => "EnvoyProxyNotConfigured",
            Self::ClientCertificateMissing => "ClientCertificateMissing",
            Self::SdsNotEnabled(_) => "SdsNotEnabled",
            Self::GatewayFieldOverrides => "GatewayFieldOverrides",
            Self::ClientCertificateShared { .. } => "ClientCertificateShared",
            Self::GatewayPodInjected { .. } => "GatewayPodInjected",
            Self::Http2NotExplicit { .. } => "Http2NotExplicit",
            Self::AlpnNoOverlapRisk { .. } => "AlpnNoOverlapRisk",
            Self::PermissiveNeedsIstioAlpn { .. } => "PermissiveNeedsIstioAlpn",
        }
    }

    /// How much it matters.
    pub(super) const fn severity(&self) -> Severity {
        match self {
            Self::GatewayFieldOverrides
            | Self::ClientCertificateShared { .. }
            | Self::Conflicted { .. }
            | Self::Http2NotExplicit { .. }
            | Self::AlpnNoOverlapRisk { .. } => Severity::Warning,
            Self::GatewayApiTooOld
            | Self::ControllerUnsupported { .. }
            | Self::RoutedByUnsupported { .. }
            | Self::TooManyIdentities { .. }
            | Self::GatewayNotConfigured { .. }
            | Self::EnvoyProxyNotConfigured { .. }
            | Self::ClientCertificateMissing
            | Self::SdsNotEnabled(_)
            | Self::GatewayPodInjected { .. }
            | Self::PermissiveNeedsIstioAlpn { .. } => Severity::Error,
        }
    }
}

/// The text for people.
impl fmt::Display for GatewayCondition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GatewayApiTooOld
            | Self::RoutedByUnsupported { .. }
            | Self::TooManyIdentities { .. }
            | Self::Conflicted { .. }
            | Self::GatewayNotConfigured { .. }
            | Self::Http2NotExplicit { .. }
            | Self::PermissiveNeedsIstioAlpn { .. } => self.of_service(f),
            Self::ControllerUnsupported { controller, version: None } => write!(
                f,
                "{controller} is not known to verify a SPIFFE ID: no policy is written for Services that this Gateway leads to; use a \
                 class of Envoy Gateway, kgateway or agentgateway"
            ),
            Self::ControllerUnsupported { version: Some(version), .. } => write!(
                f,
                "Envoy Gateway {version} can't verify a SPIFFE ID by a BackendTLSPolicy of v1: no policy is written for Services that \
                 this Gateway leads to; upgrade it to 1.8 or later"
            ),
            Self::EnvoyProxyNotConfigured { gateway, lacks } => {
                f.write_str("its requests to Services of the mesh are refused: ")?;
                list(f, lacks)?;
                write!(f, "; countersign render gateway {gateway} prints what to apply")
            }
            Self::ClientCertificateMissing => f.write_str(
                "its requests to Services of the mesh are refused: spec.tls.backend.clientCertificateRef names no Secret with an SVID",
            ),
            Self::SdsNotEnabled(obstacle) => write!(f, "its requests to Services of the mesh are refused: {obstacle}"),
            Self::GatewayFieldOverrides => f.write_str(
                "spec.tls.backend is set, so Envoy Gateway uses neither client certificate nor ALPN of the EnvoyProxy, and it does not \
                 notice a new certificate in that Secret: see that the EnvoyProxy has both, then remove the field",
            ),
            Self::ClientCertificateShared { upstreams } => {
                f.write_str(
                    "its SVID is shown to everybody who asks for a client certificate, outside the mesh as well; let another Gateway \
                     lead there if they should not see it: ",
                )?;
                all(f, upstreams)
            }
            Self::GatewayPodInjected { pod, pods } => write!(
                f,
                "{pods} of its pods have a sidecar of Istio, which takes hold of mutual TLS that is none of its own, {pod} among them: \
                 label its pods sidecar.istio.io/inject: \"false\""
            ),
            Self::AlpnNoOverlapRisk { upstreams } => {
                f.write_str(
                    "it offers ALPN names of Istio alone, which a TLS server may refuse that wants one of its own; if it does, let \
                     another Gateway lead there: ",
                )?;
                all(f, upstreams)
            }
        }
    }
}

impl GatewayCondition {
    fn of_service(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::GatewayApiTooOld => f.write_str(
                "the API server takes no BackendTLSPolicy of gateway.networking.k8s.io/v1, so none is written and gateways send \
                 plaintext: install the Gateway API 1.4 or later",
            ),
            Self::RoutedByUnsupported { gateways } => {
                f.write_str("no policy is written, and gateways send plaintext, because a Route leads to it from a Gateway that can't \
                             verify a SPIFFE ID: ")?;
                list(f, gateways)?;
                f.write_str("; move that Route to another Gateway")
            }
            Self::TooManyIdentities { left_out, of } => {
                write!(f, "its pods run as {of} service accounts and a BackendTLSPolicy has room for five: pods of ")?;
                list(f, left_out)?;
                f.write_str(" are not accepted; use Envoy Gateway 1.8 or later with SDS, or fewer accounts")
            }
            Self::Conflicted { policy, port: None } => write!(
                f,
                "BackendTLSPolicy {policy} is for it and not ours, so none of ours is written: what it says holds, and nobody sees to \
                 the identities; remove it to have them verified"
            ),
            Self::Conflicted { policy, port: Some(port) } => write!(
                f,
                "BackendTLSPolicy {policy} is for its port {port} and comes before ours there: nobody sees to the identities; remove \
                 it to have them verified"
            ),
            Self::GatewayNotConfigured { gateways, requests } => {
                f.write_str(match requests {
                    UnreadyRequests::Plain => PLAIN,
                    UnreadyRequests::Held => HELD,
                    UnreadyRequests::Beside => BESIDE,
                })?;
                list(f, gateways)
            }
            Self::Http2NotExplicit { ports } => write!(
                f,
                "port {} speaks HTTP/2 and an HTTPRoute leads there, by which a gateway speaks HTTP/1.1: gRPC would return 200 \
                 without grpc-status; use a GRPCRoute, or set appProtocol: kubernetes.io/h2c",
                Numbers(ports)
            ),
            Self::PermissiveNeedsIstioAlpn { ports, gateways } => {
                write!(
                    f,
                    "sidecars take plaintext as well on port {}, and refuse mutual TLS without an ALPN name of Istio: set \
                     spec.backendTLS.alpnProtocols: [istio-http/1.1, istio] in the EnvoyProxy, or make the mode STRICT; it is missing at ",
                    Numbers(ports)
                )?;
                list(f, gateways)
            }
            Self::ControllerUnsupported { .. }
            | Self::EnvoyProxyNotConfigured { .. }
            | Self::ClientCertificateMissing
            | Self::SdsNotEnabled(_)
            | Self::GatewayFieldOverrides
            | Self::ClientCertificateShared { .. }
            | Self::GatewayPodInjected { .. }
            | Self::AlpnNoOverlapRisk { .. } => Ok(()),
        }
    }
}

impl fmt::Display for Upstream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Service(object) => write!(f, "Service {object}"),
            Self::EnvoyBackend(object) => write!(f, "Backend {object}"),
        }
    }
}

const HELD: &str = "its policy stays, but of the Gateways that lead to it none is ready any more, so requests are refused: see what is said of \
                    Gateway ";
const PLAIN: &str = "no policy is written, and gateways send plaintext, because none that leads to it is ready: see what is said of \
                     Gateway ";

const BESIDE: &str = "there is a policy, as other Gateways that lead to it are ready, so requests are refused that come by way of those that \
                      are not: see what is said of Gateway ";

/// The first ten, and how many more there are.
fn list<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    const SHOWN: usize = 10;
    let (shown, more) = items.split_at_checked(SHOWN).unwrap_or((items, &[]));
    all(f, shown)?;
    if more.is_empty() { Ok(()) } else { write!(f, " and {} more", more.len()) }
}

/// Each, where nothing else names them. They stand at the end of a text, which has to be cut for some readers.
fn all<T: fmt::Display>(f: &mut fmt::Formatter<'_>, items: &[T]) -> fmt::Result {
    items.iter().enumerate().try_for_each(|(at, item)| write!(f, "{}{item}", if at > 0 { ", " } else { "" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_upstream_that_sees_the_certificate_is_named() {
        let upstreams: Box<[Upstream]> =
            (0..40).map(|number| Upstream::Service(ObjectName::new("outside", &format!("s{number:02}")))).collect();
        let names: Vec<String> = upstreams.iter().map(ToString::to_string).collect();
        let end = format!(": {}", names.join(", "));
        for condition in [
            GatewayCondition::ClientCertificateShared { upstreams: upstreams.clone() },
            GatewayCondition::AlpnNoOverlapRisk { upstreams },
        ] {
            assert!(condition.to_string().ends_with(&end), "{condition}");
        }
    }

    #[test]
    fn of_many_gateways_the_first_are_named() {
        let gateways: Box<[_]> = (0..12).map(|number| ObjectName::new("gw", &format!("g{number:02}"))).collect();
        for (requests, becomes) in [
            (UnreadyRequests::Plain, "send plaintext"),
            (UnreadyRequests::Held, "none is ready any more, so requests are refused"),
            (UnreadyRequests::Beside, "requests are refused that come by way of those"),
        ] {
            let text = GatewayCondition::GatewayNotConfigured { gateways: gateways.clone(), requests }.to_string();
            assert!(text.ends_with("gw/g08, gw/g09 and 2 more") && text.contains(becomes), "{text}");
        }
    }
}
