//! What a user writes, checked: it goes into objects and into a command line.

use std::{fmt, str::FromStr};

use crate::domain::identity::ServiceAccount;

/// Why a text can't be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Not `NAMESPACE/NAME`, or not of characters that Kubernetes has in names.
    #[error("{0:?} is not NAMESPACE/NAME, such as default/web")]
    Object(String),
    /// Neither a name nor `NAMESPACE/NAME`.
    #[error("{0:?} is neither the name of an EnvoyProxy in the Gateway's namespace nor NAMESPACE/NAME")]
    EnvoyProxy(String),
    /// Not a single name.
    #[error("{0:?} is not a name of Kubernetes: lower case letters, digits and dashes")]
    Name(String),
    /// Not an image.
    #[error("{0:?} is not an image, such as registry.example/countersign:1.0")]
    Image(String),
    /// Not `HOST:PORT`.
    #[error("{0:?} is not HOST:PORT, such as istiod.istio-system.svc:15012")]
    HostPort(String),
    /// Not a version.
    #[error("{0:?} is not a version of Envoy Gateway, such as 1.9")]
    Version(String),
    /// One that has no SDS Secrets.
    #[error("Envoy Gateway {0} can't take certificates from a socket: 1.8 is the first version that can")]
    TooOld(String),
}

/// An object in its namespace, written `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ObjectName {
    /// Where it is.
    pub namespace: String,
    /// Its name there.
    pub name: String,
}

impl FromStr for ObjectName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // the rules for service accounts are those for most objects
        let object: ServiceAccount = text.parse().map_err(|_malformed| NameError::Object(text.to_owned()))?;
        Ok(Self { namespace: object.namespace().to_owned(), name: object.name().to_owned() })
    }
}

impl fmt::Display for ObjectName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// An EnvoyProxy, written `NAME` or `NAMESPACE/NAME`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EnvoyProxyName {
    /// If it is not the Gateway's.
    pub namespace: Option<String>,
    /// Its name there.
    pub name: String,
}

impl FromStr for EnvoyProxyName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let complaint = || NameError::EnvoyProxy(text.to_owned());
        let is_alone = !text.contains('/');
        let whole = if is_alone { format!("any/{text}") } else { text.to_owned() };
        let ObjectName { namespace, name } = whole.parse().map_err(|_malformed| complaint())?;
        Ok(Self { namespace: (!is_alone).then_some(namespace), name })
    }
}

/// The name of a namespace, or of an object in a known one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Name(String);

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // namespaces have the stricter rules
        match ServiceAccount::new(text, "any") {
            Ok(_) => Ok(Self(text.to_owned())),
            Err(_) => Err(NameError::Name(text.to_owned())),
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A container image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image(String);

impl FromStr for Image {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let is_one = !text.is_empty() && text.chars().all(|c| c.is_ascii_alphanumeric() || "./:@-_".contains(c));
        if is_one { Ok(Self(text.to_owned())) } else { Err(NameError::Image(text.to_owned())) }
    }
}

impl fmt::Display for Image {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A server: `HOST:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort(String);

impl FromStr for HostPort {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts = text.rsplit_once(':');
        let is_one = parts.is_some_and(|(host, port)| {
            let is_host = host.chars().all(|c| c.is_ascii_alphanumeric() || ".-_".contains(c));
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']'));
            let is_ipv6 = bare.is_some_and(|bare| bare.parse::<std::net::Ipv6Addr>().is_ok());
            port.parse::<u16>().is_ok_and(|port| port != 0) && !host.is_empty() && (is_host || is_ipv6)
        });
        if is_one { Ok(Self(text.to_owned())) } else { Err(NameError::HostPort(text.to_owned())) }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Of Envoy Gateway, as far as it decides how a socket is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EnvoyGatewayVersion {
    /// 1.8: a bare path.
    BarePath,
    /// 1.9 and later: a URL.
    Url,
}

impl EnvoyGatewayVersion {
    /// The socket as an SDS Secret names it.
    pub(super) fn socket_url(self, path: &str) -> String {
        match self {
            Self::BarePath => path.to_owned(),
            Self::Url => format!("unix://{path}"),
        }
    }
}

impl FromStr for EnvoyGatewayVersion {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut numbers = text.strip_prefix('v').unwrap_or(text).split('.').map(|part| part.parse::<u32>().ok());
        match (numbers.next().flatten(), numbers.next().flatten()) {
            (Some(1), Some(8)) => Ok(Self::BarePath),
            (Some(major), Some(minor)) if (major, minor) > (1, 8) => Ok(Self::Url),
            (Some(_), Some(_)) => Err(NameError::TooOld(text.to_owned())),
            _ => Err(NameError::Version(text.to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_kubernetes() {
        let parsed: ObjectName = "default/web.x".parse().unwrap();
        assert_eq!((parsed.namespace.as_str(), parsed.to_string().as_str()), ("default", "default/web.x"));
        for bad in ["web", "a/b/c", "A/b", "a/", "/b", "a/b'c"] {
            assert_eq!(bad.parse::<ObjectName>(), Err(NameError::Object(bad.to_owned())));
        }
        let in_same: EnvoyProxyName = "ep".parse().unwrap();
        let elsewhere: EnvoyProxyName = "eg/ep".parse().unwrap();
        assert_eq!((in_same.namespace, elsewhere.namespace.as_deref()), (None, Some("eg")));
        assert!("x/y/z".parse::<EnvoyProxyName>().is_err());
        assert_eq!("istio-ca-root-cert".parse::<Name>().unwrap().to_string(), "istio-ca-root-cert");
        assert!("a/b".parse::<Name>().is_err() && "a'b".parse::<Name>().is_err());
        assert_eq!("r.example:5000/x@sha256:ab".parse::<Image>().unwrap().to_string(), "r.example:5000/x@sha256:ab");
        assert!("a'b".parse::<Image>().is_err() && "".parse::<Image>().is_err());
    }

    #[test]
    fn addresses_have_a_host_and_a_port() {
        for good in ["istiod.istio-system.svc:15012", "10.0.0.1:1", "[::1]:15012"] {
            assert_eq!(good.parse::<HostPort>().unwrap().to_string(), good);
        }
        for bad in ["istiod", ":1", "a:0", "a:99999", "::1:15012", "[x]:1", "a b:1", "a':1", "a,b:1"] {
            assert!(bad.parse::<HostPort>().is_err(), "{bad}");
        }
    }

    #[test]
    fn the_version_decides_how_a_socket_is_written() {
        for (version, expected) in
            [("1.8", "/s"), ("v1.8.2", "/s"), ("1.9", "unix:///s"), ("v1.9.1", "unix:///s"), ("2.0", "unix:///s")]
        {
            assert_eq!(version.parse::<EnvoyGatewayVersion>().unwrap().socket_url("/s"), expected, "{version}");
        }
        assert!(matches!("1.7.9".parse::<EnvoyGatewayVersion>(), Err(NameError::TooOld(_))));
        for bad in ["", "1", "latest", "1.x"] {
            assert!(matches!(bad.parse::<EnvoyGatewayVersion>(), Err(NameError::Version(_))), "{bad}");
        }
    }
}
