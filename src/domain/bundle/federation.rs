//! Whose bundle is fetched from where, and which of what comes is taken (SPIFFE Federation).

use std::{fmt, path::PathBuf, str::FromStr, time::Duration};

use super::SpiffeBundle;
use crate::domain::{
    identity::{SpiffeId, TrustDomain},
    x509::TrustBundle,
};

/// A trust domain whose identities are to be verified here too. It says nothing about whether they are verified there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relationship {
    /// Never derived from the source, nor from what it holds.
    pub trust_domain: TrustDomain,
    /// Where its bundle is.
    pub source: BundleSource,
}

/// Where another trust domain's bundle is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BundleSource {
    /// Whoever has it answers there.
    Endpoint(BundleEndpoint),
    /// On each replica, in a file that is kept up to date there, as a kubelet does with what it mounts.
    File(PathBuf),
}

/// Who answers with a bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpoint {
    /// Where.
    pub url: EndpointUrl,
    /// How it proves itself.
    pub profile: EndpointProfile,
}

/// How a bundle endpoint proves itself (5.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointProfile {
    /// By a certificate of the Web PKI for the host of the URL.
    HttpsWeb,
    /// By an X509-SVID with exactly this ID, whatever the host.
    HttpsSpiffe(SpiffeId),
}

/// The place of a bundle: `https`, and no user name or fragment (5.2.1, 5.2.2).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointUrl {
    host: String,
    port: u16,
    /// With the query; begins with a slash.
    target: String,
}

/// Why a text is not the place of a bundle.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EndpointUrlError {
    /// Another scheme.
    #[error("the URL of a bundle endpoint begins with https://")]
    Scheme,
    /// A user name would be sent to whoever answers.
    #[error("the URL of a bundle endpoint has no user name")]
    User,
    /// No host, or a port that is none.
    #[error("the URL of a bundle endpoint has the form https://HOST[:PORT][/PATH]")]
    Authority,
    /// Blanks, a fragment, or what is not ASCII.
    #[error("the URL of a bundle endpoint has no blanks, fragment or letters beyond ASCII")]
    Characters,
}

/// Somebody answers with what was replaced already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("its sequence is {found}, and {known} was read before: an old bundle is not taken in place of a newer one")]
pub struct FallingSequence {
    /// Of the bundle that is kept.
    pub known: u64,
    /// Of the one that came.
    pub found: u64,
}

/// Without a hint (SPIFFE Trust Domain and Bundle 4.1.2).
const DEFAULT_INTERVAL: Duration = Duration::from_secs(300);
/// However often it is asked for.
const SHORTEST_INTERVAL: Duration = Duration::from_secs(5);
const LONGEST_INTERVAL: Duration = Duration::from_secs(86_400);
/// After the first failure; twice as long after each further one, up to the interval.
const FIRST_RETRY: Duration = Duration::from_secs(5);

/// Whether a bundle that came is taken in place of the one that is kept: the sequence orders them, and where one of them has none,
/// the one that was read last counts (4.1.1).
///
/// # Errors
///
/// When it is older.
pub const fn check_order(known: Option<&SpiffeBundle>, found: &SpiffeBundle) -> Result<(), FallingSequence> {
    let known = match known {
        Some(bundle) => bundle.sequence,
        None => None,
    };
    match (known, found.sequence) {
        (Some(known), Some(found)) if found < known => Err(FallingSequence { known, found }),
        _ => Ok(()),
    }
}

/// A bundle in a file: a SPIFFE bundle, or PEM certificates of CAs. It has an X.509 authority, for it is there to believe somebody
/// by, and a file that is just being written may have none.
///
/// # Errors
///
/// When it is neither, in words.
pub fn handed_over(trust_domain: TrustDomain, content: &[u8]) -> Result<SpiffeBundle, String> {
    let is_json = content.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{');
    let bundle = if is_json {
        SpiffeBundle::from_json(trust_domain, content).map_err(|error| error.to_string())?
    } else {
        let roots = TrustBundle::from_pem(trust_domain, content).map_err(|error| error.to_string())?;
        SpiffeBundle {
            trust_domain: roots.trust_domain().clone(),
            x509_authorities: roots.roots().to_vec(),
            jwt_authorities: Vec::new(),
            sequence: None,
            refresh_hint: None,
        }
    };
    if bundle.x509_authorities.is_empty() {
        return Err("the bundle has no X.509 authority".to_owned());
    }
    Ok(bundle)
}

/// How long after a success the bundle is fetched again.
pub fn interval_after(bundle: Option<&SpiffeBundle>) -> Duration {
    let hint = bundle.and_then(|bundle| bundle.refresh_hint).unwrap_or(DEFAULT_INTERVAL);
    hint.clamp(SHORTEST_INTERVAL, LONGEST_INTERVAL)
}

/// How long after so many failures in a row, at least one, the next attempt is made.
pub fn pause_after(failures: u32, bundle: Option<&SpiffeBundle>) -> Duration {
    let doubled = 1u32.checked_shl(failures.saturating_sub(1)).unwrap_or(u32::MAX);
    FIRST_RETRY.saturating_mul(doubled).min(interval_after(bundle))
}

impl EndpointUrl {
    /// A name or an IP address, the latter without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    /// As it stands in a request, where it is followed by the port only if that is another than 443.
    pub fn authority(&self) -> String {
        let host = if self.host.contains(':') { format!("[{}]", self.host) } else { self.host.clone() };
        if self.port == HTTPS { host } else { format!("{host}:{}", self.port) }
    }

    /// 443 unless it was given.
    pub const fn port(&self) -> u16 {
        self.port
    }

    /// Path and query.
    pub fn target(&self) -> &str {
        &self.target
    }

    /// Where a redirect leads: to another such URL, or to another path of the same host.
    ///
    /// # Errors
    ///
    /// When it leads to what could be no bundle endpoint.
    pub fn redirected(&self, location: &str) -> Result<Self, EndpointUrlError> {
        if !location.starts_with('/') || location.starts_with("//") {
            return location.parse();
        }
        check_characters(location)?;
        Ok(Self { target: location.to_owned(), ..self.clone() })
    }
}

const HTTPS: u16 = 443;

fn check_characters(text: &str) -> Result<(), EndpointUrlError> {
    let is_good = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#');
    if is_good { Ok(()) } else { Err(EndpointUrlError::Characters) }
}

impl FromStr for EndpointUrl {
    type Err = EndpointUrlError;

    fn from_str(text: &str) -> Result<Self, EndpointUrlError> {
        check_characters(text)?;
        let rest = text.strip_prefix("https://").ok_or(EndpointUrlError::Scheme)?;
        let end = rest.find(['/', '?']).unwrap_or(rest.len());
        let (authority, target) = rest.split_at(end);
        if authority.contains('@') {
            return Err(EndpointUrlError::User);
        }
        let (host, port) = match authority.strip_prefix('[').and_then(|inner| inner.split_once(']')) {
            Some((address, port)) => (address, port.strip_prefix(':').or_else(|| port.is_empty().then_some(""))),
            None => match authority.split_once(':') {
                Some((host, port)) => (host, Some(port)),
                None => (authority, Some("")),
            },
        };
        let port = match port.ok_or(EndpointUrlError::Authority)? {
            "" => HTTPS,
            port => port.parse().ok().filter(|port| *port != 0).ok_or(EndpointUrlError::Authority)?,
        };
        let is_host = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_' | b':');
        if host.is_empty() || !host.bytes().all(is_host) || authority.ends_with(':') {
            return Err(EndpointUrlError::Authority);
        }
        let target = if target.starts_with('/') { target.to_owned() } else { format!("/{target}") };
        Ok(Self { host: host.to_ascii_lowercase(), port, target })
    }
}

impl fmt::Display for EndpointUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "https://{}{}", self.authority(), self.target)
    }
}

impl fmt::Display for BundleSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Endpoint(BundleEndpoint { url, .. }) => url.fmt(f),
            Self::File(path) => path.display().fmt(f),
        }
    }
}

impl EndpointProfile {
    /// The name that the standard gives it.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::HttpsWeb => "https_web",
            Self::HttpsSpiffe(_) => "https_spiffe",
        }
    }

    /// Of the endpoint, where it has one.
    pub const fn endpoint_id(&self) -> Option<&SpiffeId> {
        match self {
            Self::HttpsWeb => None,
            Self::HttpsSpiffe(id) => Some(id),
        }
    }

    /// By its name and the ID of the endpoint, which belongs to `https_spiffe`.
    ///
    /// # Errors
    ///
    /// When they don't fit, in words.
    pub fn of(name: &str, endpoint_id: Option<SpiffeId>) -> Result<Self, &'static str> {
        match (name, endpoint_id) {
            ("https_web", None) => Ok(Self::HttpsWeb),
            ("https_web", Some(_)) => Err("profile https_web has no endpoint SPIFFE ID: leave it out"),
            ("https_spiffe", Some(id)) => Ok(Self::HttpsSpiffe(id)),
            ("https_spiffe", None) => Err("profile https_spiffe needs the endpoint's SPIFFE ID"),
            _ => Err("the profile is https_web or https_spiffe"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_read_as_the_profiles_demand() {
        use EndpointUrlError::{Authority, Characters, Scheme, User};
        for (text, expected) in [
            ("https://a.example", Ok("https://a.example/")),
            ("https://A.example:443/b?c=d", Ok("https://a.example/b?c=d")),
            ("https://a.example:8443?c", Ok("https://a.example:8443/?c")),
            ("https://[::1]:8443/", Ok("https://[::1]:8443/")),
            ("https://[::1]", Ok("https://[::1]/")),
            ("https://127.0.0.1:1/x", Ok("https://127.0.0.1:1/x")),
            ("http://a.example", Err(Scheme)),
            ("a.example", Err(Scheme)),
            ("https://", Err(Authority)),
            ("https:///path", Err(Authority)),
            ("https://a:b@a.example", Err(User)),
            ("https://a.example:0", Err(Authority)),
            ("https://a.example:x", Err(Authority)),
            ("https://a.example:", Err(Authority)),
            ("https://[::1]8443", Err(Authority)),
            ("https://a.example/#f", Err(Characters)),
            ("https://a.example/ b", Err(Characters)),
            ("https://ä.example", Err(Characters)),
        ] {
            let read = text.parse::<EndpointUrl>().map(|url| url.to_string());
            assert_eq!(read.as_deref().map_err(|error| *error), expected, "{text}");
        }
    }

    #[test]
    fn a_redirect_leads_to_a_url_or_a_path_of_the_same_host() {
        let url: EndpointUrl = "https://a.example:1/b?c".parse().unwrap();
        let led = |location: &str| url.redirected(location).map(|url| url.to_string());
        assert_eq!(led("/d").as_deref(), Ok("https://a.example:1/d"));
        assert_eq!(led("https://e.example/f").as_deref(), Ok("https://e.example/f"));
        assert_eq!(led("http://a.example:1/d"), Err(EndpointUrlError::Scheme));
        assert_eq!(led("//e.example/f"), Err(EndpointUrlError::Scheme));
        assert_eq!(led("/d#e"), Err(EndpointUrlError::Characters));
    }

    fn bundle(sequence: Option<u64>, hint: Option<u64>) -> SpiffeBundle {
        SpiffeBundle {
            trust_domain: "td".parse().unwrap(),
            x509_authorities: Vec::new(),
            jwt_authorities: Vec::new(),
            sequence,
            refresh_hint: hint.map(Duration::from_secs),
        }
    }

    #[test]
    fn the_sequence_orders_bundles_and_where_there_is_none_the_last_one_counts() {
        for (known, found, taken) in [
            (Some(2), Some(1), false),
            (Some(2), Some(2), true),
            (Some(2), Some(3), true),
            (Some(2), None, true),
            (None, Some(1), true),
            (None, None, true),
        ] {
            let checked = check_order(Some(&bundle(known, None)), &bundle(found, None));
            assert_eq!(checked.is_ok(), taken, "{known:?} {found:?}");
        }
        assert_eq!(check_order(None, &bundle(Some(0), None)), Ok(()));
    }

    #[test]
    fn it_is_fetched_at_the_hint_within_bounds_and_after_failures_sooner() {
        for (hint, seconds) in [(None, 300), (Some(0), 5), (Some(6), 6), (Some(u64::MAX), 86_400)] {
            assert_eq!(interval_after(Some(&bundle(None, hint))), Duration::from_secs(seconds), "{hint:?}");
        }
        for (failures, seconds) in [(1, 5), (2, 10), (3, 20), (6, 160), (7, 300), (40, 300), (u32::MAX, 300)] {
            assert_eq!(pause_after(failures, None), Duration::from_secs(seconds), "{failures}");
        }
    }

    #[test]
    fn an_endpoint_id_belongs_to_https_spiffe() {
        let id: SpiffeId = "spiffe://td/endpoint".parse().unwrap();
        assert_eq!(EndpointProfile::of("https_web", None), Ok(EndpointProfile::HttpsWeb));
        assert_eq!(EndpointProfile::of("https_spiffe", Some(id.clone())), Ok(EndpointProfile::HttpsSpiffe(id.clone())));
        for (name, id) in [("https_web", Some(id)), ("https_spiffe", None), ("web", None)] {
            assert!(EndpointProfile::of(name, id.clone()).is_err(), "{name} {id:?}");
        }
    }
}
