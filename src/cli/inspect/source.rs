//! Where certificates, tokens and bundles are, and fetching them from there.

use std::{
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncReadExt},
    time::timeout,
};
use zeroize::Zeroizing;

use super::{
    content::{Content, is_token},
    endpoint,
    error::SourceError,
    found::Found,
    socket,
    trust::Trust,
};

/// How long a socket or an endpoint may take for everything.
const LIMIT: Duration = Duration::from_secs(5);
/// Far above any chain or bundle.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Where something to look at is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// PEM, DER, a token or a bundle document.
    File(PathBuf),
    /// The same.
    Stdin,
    /// A Workload API socket, `unix:///PATH`.
    Socket(String),
    /// A TLS endpoint.
    Endpoint {
        /// Name or address, without brackets.
        host: String,
        /// Its port.
        port: u16,
    },
}

/// Where the authorities are that it is verified to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// PEM, DER or a bundle document.
    File(PathBuf),
    /// A Workload API socket, `unix:///PATH`.
    Socket(String),
}

impl FromStr for Source {
    type Err = std::convert::Infallible;

    /// `-`, `unix:…`, `HOST:PORT`; everything else is a file. A file whose name looks like an endpoint is written `./a:1`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let endpoint = || {
            let (host, port) = text.rsplit_once(':').filter(|_| !text.contains('/'))?;
            let bare = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
            let is_host = !bare.is_empty() && (bare == host) != bare.contains(':');
            is_host.then_some(Self::Endpoint { host: bare.to_owned(), port: port.parse().ok()? })
        };
        Ok(match text {
            "-" => Self::Stdin,
            _ if text.starts_with("unix:") => Self::Socket(text.to_owned()),
            _ => endpoint().unwrap_or_else(|| Self::File(text.into())),
        })
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "{}", path.display()),
            Self::Stdin => f.write_str("stdin"),
            Self::Socket(uri) => f.write_str(uri),
            Self::Endpoint { host, port } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Endpoint { host, port } => write!(f, "{host}:{port}"),
        }
    }
}

impl FromStr for BundleSource {
    type Err = std::convert::Infallible;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ok(if text.starts_with("unix:") { Self::Socket(text.to_owned()) } else { Self::File(text.into()) })
    }
}

impl Source {
    pub(super) async fn load(&self, server_name: Option<&str>) -> Result<Found, SourceError> {
        let place = self.to_string();
        match self {
            Self::File(path) => Ok(Content::read(&place, &read_file(path).await?)?.into()),
            Self::Stdin => Ok(Content::read(&place, &read(&place, tokio::io::stdin()).await?)?.into()),
            Self::Socket(uri) => timed(&place, socket::fetch(uri)).await,
            Self::Endpoint { host, port } => timed(&place, endpoint::fetch(host, *port, server_name)).await,
        }
    }
}

impl BundleSource {
    /// For a token, or else for certificates: a socket is asked for what is needed alone.
    pub(super) async fn load(&self, for_token: bool) -> Result<Trust, SourceError> {
        match self {
            Self::File(path) => {
                let place = path.display().to_string();
                let (content, _notes) = Content::read(&place, &read_file(path).await?)?;
                Trust::of_content(&place, content)
            }
            Self::Socket(uri) => timed(uri, socket::fetch_trust(uri, for_token)).await,
        }
    }
}

async fn read_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    // a file's name would be told; and what stands on a command line is seen by others
    if path.to_str().is_some_and(is_token) && !path.exists() {
        let problem = "a token there can be seen by others: give it on stdin, or the name of a file with it";
        return Err(SourceError::new("command line", problem));
    }
    let place = path.display().to_string();
    let file = tokio::fs::File::open(path).await.map_err(|error| SourceError::new(&place, error))?;
    read(&place, file).await
}

/// Wiped when dropped: there may be a key or a token in it.
async fn read(place: &str, from: impl AsyncRead + Unpin) -> Result<Zeroizing<Vec<u8>>, SourceError> {
    let mut bytes = Zeroizing::new(Vec::new());
    from.take(MAX_BYTES + 1).read_to_end(&mut bytes).await.map_err(|error| SourceError::new(place, error))?;
    if u64::try_from(bytes.len()).is_ok_and(|length| length > MAX_BYTES) {
        return Err(SourceError::new(place, "over 16 MiB: that is no chain of certificates, token or bundle"));
    }
    Ok(bytes)
}

async fn timed<T>(place: &str, fetch: impl Future<Output = Result<T, String>>) -> Result<T, SourceError> {
    match timeout(LIMIT, fetch).await {
        Ok(found) => found.map_err(|problem| SourceError::new(place, problem)),
        Err(_elapsed) => Err(SourceError::new(place, format!("no answer within {LIMIT:?}"))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_told_apart_by_their_form() {
        let endpoint = |host: &str, port| Source::Endpoint { host: host.into(), port };
        for (text, expected) in [
            ("-", Source::Stdin),
            ("unix:///run/x.sock", Source::Socket("unix:///run/x.sock".into())),
            ("localhost:15012", endpoint("localhost", 15012)),
            ("127.0.0.1:1", endpoint("127.0.0.1", 1)),
            ("[::1]:443", endpoint("::1", 443)),
            ("chain.pem", Source::File("chain.pem".into())),
            ("./a:1", Source::File("./a:1".into())),
            ("a:b", Source::File("a:b".into())),
            ("a:70000", Source::File("a:70000".into())),
            ("::1:443", Source::File("::1:443".into())),
            (":443", Source::File(":443".into())),
            ("", Source::File("".into())),
        ] {
            assert_eq!(text.parse::<Source>().unwrap(), expected, "{text}");
        }
    }
}
