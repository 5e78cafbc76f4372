//! What an Istio sidecar makes of a Service's port: which of four kinds of inbound chains stands before the pods.

use std::fmt;

use super::PodFacts;

/// A TCP port of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortFacts {
    /// Its name; empty if it has none.
    pub name: Box<str>,
    /// Of the Service, not of the pods.
    pub number: u16,
    /// `appProtocol`.
    pub app_protocol: Option<Box<str>>,
    /// Where it leads.
    pub target: TargetPort,
}

/// A port of the pods behind a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetPort {
    /// The same at each.
    Number(u16),
    /// Each says itself which one.
    Name(Box<str>),
}

impl TargetPort {
    /// At a pod; `None` if it has none of that name.
    pub fn at(&self, pod: &PodFacts) -> Option<u16> {
        match self {
            Self::Number(number) => Some(*number),
            Self::Name(wanted) => {
                let named = pod.named_ports.as_deref().unwrap_or_default();
                named.iter().find(|(name, _)| name == wanted).map(|(_, number)| *number)
            }
        }
    }
}

/// What a sidecar takes a port for. Ports of one class behave alike.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PortClass {
    /// HTTP/1.1 to the pod, always.
    Http1,
    /// HTTP/2 to the pod, always; gRPC is of this class.
    Http2,
    /// Found out for each connection: nobody said what is spoken.
    Sniffed,
    /// Bytes; also where the pod speaks TLS itself.
    Tcp,
}

/// Of these Istio knows that they are no HTTP.
const KNOWN_AS_TCP: [u16; 4] = [25, 53, 3306, 27017];

impl PortFacts {
    /// By appProtocol, or else by name up to its first dash, as istiod does it.
    pub fn class(&self) -> PortClass {
        match self.app_protocol.as_deref() {
            Some("kubernetes.io/h2c") => PortClass::Http2,
            Some("kubernetes.io/ws") => PortClass::Http1,
            Some("kubernetes.io/wss") => PortClass::Tcp,
            _ => self.class_by_word(),
        }
    }

    fn class_by_word(&self) -> PortClass {
        let word = self.protocol_word();
        match word.as_str() {
            "http" => PortClass::Http1,
            "http2" | "grpc" | "grpc-web" => PortClass::Http2,
            "tcp" | "https" | "tls" | "redis" | "mongo" | "mysql" => PortClass::Tcp,
            _ if KNOWN_AS_TCP.contains(&self.number) => PortClass::Tcp,
            _ => PortClass::Sniffed,
        }
    }

    /// Whether the pod is said to speak TLS itself, inside or instead of the mesh's.
    pub fn is_tls_of_the_pod(&self) -> bool {
        self.app_protocol.as_deref() == Some("kubernetes.io/wss")
            || ["https", "tls"].contains(&self.protocol_word().as_str())
    }

    fn protocol_word(&self) -> String {
        let said = self.app_protocol.as_deref().unwrap_or(&self.name).to_ascii_lowercase();
        if said.starts_with("grpc-web") {
            return "grpc-web".to_owned();
        }
        said.split('-').next().unwrap_or_default().to_owned()
    }
}

impl PortClass {
    /// As it is written in lists and messages.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Http1 => "http/1",
            Self::Http2 => "http/2",
            Self::Sniffed => "sniffed",
            Self::Tcp => "tcp",
        }
    }

    /// What a gateway that can set its list for each backend offers, in this order: taken by the sidecar whether
    /// PeerAuthentication is STRICT or PERMISSIVE.
    pub const fn alpn(self) -> [&'static str; 3] {
        match self {
            Self::Http2 => ["istio-h2", "istio", "h2"],
            Self::Http1 | Self::Sniffed | Self::Tcp => ["istio-http/1.1", "istio", "http/1.1"],
        }
    }
}

impl fmt::Display for PortClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn class(name: &str, number: u16, app_protocol: Option<&str>) -> PortClass {
        let (app_protocol, target) = (app_protocol.map(Into::into), TargetPort::Number(number));
        PortFacts { name: name.into(), number, app_protocol, target }.class()
    }

    #[test]
    fn names_and_app_protocols_fall_into_istios_four_classes() {
        use PortClass::{Http1, Http2, Sniffed, Tcp};
        for (name, app_protocol, expected) in [
            ("http", None, Http1),
            ("http-web", None, Http1),
            ("HTTP-web", None, Http1),
            ("http2", None, Http2),
            ("http2-web", None, Http2),
            ("grpc", None, Http2),
            ("grpc-web", None, Http2),
            ("grpc-webapp", None, Http2),
            ("grpc-x", None, Http2),
            ("", None, Sniffed),
            ("web", None, Sniffed),
            ("httpfoo", None, Sniffed),
            ("grpcfoo", None, Sniffed),
            ("http3", None, Sniffed),
            ("tcp-x", None, Tcp),
            ("https-x", None, Tcp),
            ("tls", None, Tcp),
            ("redis", None, Tcp),
            ("mongo", None, Tcp),
            ("mysql", None, Tcp),
            ("", Some("http"), Http1),
            ("tcp", Some("HTTP"), Http1),
            ("tcp", Some("kubernetes.io/ws"), Http1),
            ("tcp-x", Some("kubernetes.io/h2c"), Http2),
            ("http", Some("grpc-web"), Http2),
            ("http-x", Some("example.com/odd"), Sniffed),
            ("http-x", Some(""), Sniffed),
            ("http-x", Some("tls"), Tcp),
            ("http-x", Some("kubernetes.io/wss"), Tcp),
        ] {
            assert_eq!(class(name, 8080, app_protocol), expected, "{name:?} {app_protocol:?}");
        }
    }

    #[test]
    fn well_known_ports_are_tcp_unless_something_known_is_said() {
        for number in [25, 53, 3306, 27017] {
            assert_eq!(class("", number, None), PortClass::Tcp);
            assert_eq!(class("web", number, None), PortClass::Tcp);
            assert_eq!(class("http", number, None), PortClass::Http1);
        }
    }

    #[test]
    fn no_list_offers_what_a_sidecar_would_answer_with_another_protocol() {
        for class in [PortClass::Http1, PortClass::Sniffed, PortClass::Tcp] {
            assert!(!class.alpn().contains(&"h2"), "{class}");
        }
        assert!(!PortClass::Http2.alpn().contains(&"http/1.1"));
        assert!(PortClass::Http1.alpn()[0].starts_with("istio-"), "the first Istio name decides on a sniffed port");
    }
}
