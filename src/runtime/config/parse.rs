//! One value each, from its text. Every complaint shows the text and says what would do.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    str::FromStr,
};

use rustls::pki_types::{DnsName, ServerName};

use super::{CaAddress, LogFormat};
use crate::domain::identity::ServiceAccount;

/// The longest path that fits `sun_path` with its closing zero.
const MAX_SOCKET_PATH: usize = 107;

/// Any type whose own error says enough.
pub(super) fn displayed<T: FromStr<Err: Display>>(text: &str) -> Result<T, String> {
    text.parse().map_err(|error: T::Err| error.to_string())
}

pub(super) fn path(text: &str) -> Result<PathBuf, String> {
    if text.is_empty() { Err("a path can't be empty".to_owned()) } else { Ok(text.into()) }
}

pub(super) fn socket_path(text: &str) -> Result<PathBuf, String> {
    if text.len() > MAX_SOCKET_PATH {
        return Err(format!("{text:?} has {} bytes, a socket's path at most {MAX_SOCKET_PATH}", text.len()));
    }
    path(text)
}

/// There are sockets in it.
pub(super) fn data_dir(text: &str) -> Result<PathBuf, String> {
    let dir = path(text)?;
    let longest = dir.join("pair").join("replica-63.sock").as_os_str().len();
    if longest > MAX_SOCKET_PATH {
        return Err(format!(
            "the paths of the sockets in {text:?} would have {longest} bytes, at most {MAX_SOCKET_PATH} are possible: choose a \
             shorter one, or start in a folder from which it is shorter"
        ));
    }
    Ok(dir)
}

pub(super) fn socket_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_malformed| format!("{text:?} is not IP:PORT: write it as 127.0.0.1:15012 or [::]:15012"))
}

pub(super) fn dns_name(text: &str) -> Result<String, String> {
    match DnsName::try_from(text) {
        Ok(_) => Ok(text.to_ascii_lowercase()),
        Err(_malformed) => Err(format!("{text:?} is not a DNS name, such as istiod.istio-system.svc")),
    }
}

pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_malformed| format!("{text:?} is neither a DNS name nor an IP address"))
}

/// `HOST:PORT`. The certificate there must hold `server_name`; without one the host, and `localhost` for loopback
/// addresses, which is what `serve` has in its certificate by default.
pub(super) fn ca_address(text: &str, server_name: Option<&ServerName<'static>>) -> Result<CaAddress, String> {
    let complaint = || format!("{text:?} is not HOST:PORT: write it as localhost:15012 or [::1]:15012");
    let (host, port) = text.rsplit_once(':').ok_or_else(complaint)?;
    let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(complaint)?;
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(inner) => inner,
        None if host.contains(':') => return Err(complaint()),
        None => host,
    };
    let is_loopback = host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
    let own_name = ServerName::try_from(if is_loopback { "localhost" } else { host }.to_owned())
        .map_err(|_malformed| complaint())?;
    Ok(CaAddress { host: host.to_owned(), port, server_name: server_name.cloned().unwrap_or(own_name) })
}

/// As [`ca_address`] reads it: an IPv6 address in brackets.
pub(super) fn host_and_port(host: &str, port: u16) -> String {
    if host.contains(':') { format!("[{host}]:{port}") } else { format!("{host}:{port}") }
}

/// Four digits with a zero in front, so that a number that a YAML reader has converted already is never taken for one.
pub(super) fn file_mode(text: &str) -> Result<u32, String> {
    let mode = (text.len() == 4 && text.starts_with('0')).then(|| u32::from_str_radix(text, 8).ok()).flatten();
    mode.ok_or_else(|| format!("{text:?} is not a file mode: write it as \"0660\", in quotes in the file"))
}

pub(super) fn numeric_id(text: &str) -> Result<u32, String> {
    // The highest one means "no ID" to the kernel.
    let id = text.parse().ok().filter(|id| *id != u32::MAX);
    id.ok_or_else(|| format!("{text:?} is not a numeric user or group ID, such as 1337"))
}

pub(super) fn in_kubernetes(text: &str) -> Result<bool, String> {
    match text {
        "embedded" => Ok(false),
        "kubernetes" if cfg!(feature = "kubernetes") => Ok(true),
        "kubernetes" => Err("\"kubernetes\" is not in this build: build it with --features kubernetes".to_owned()),
        _ => Err(format!("{text:?} is no kind of state: write embedded or kubernetes")),
    }
}

pub(super) fn boolean(text: &str) -> Result<bool, String> {
    text.parse().map_err(|_neither| format!("{text:?} is neither true nor false"))
}

pub(super) fn log_format(text: &str) -> Result<LogFormat, String> {
    match text {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        _ => Err(format!("{text:?} is not a log format: write text or json")),
    }
}

/// DNS labels between dots and colons: the name of a signer, with `:` for `/`, and then that of its bundle.
pub(super) fn trust_bundle_name(text: &str) -> Result<String, String> {
    if text.split(['.', ':']).all(|label| object_name(label).is_ok()) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is not the name of a ClusterTrustBundle: write it as in istio.io:istiod-ca:root-cert"))
    }
}

/// A DNS label, which namespaces, UIDs and revisions are, and the names of the objects here.
pub(super) fn object_name(text: &str) -> Result<String, String> {
    match ServiceAccount::new(text, "any") {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => {
            Err(format!("{text:?} is not a name of Kubernetes: lower case letters, digits and dashes, at most 63"))
        }
    }
}
