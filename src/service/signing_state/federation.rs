//! What the trust object keeps of other trust domains: relationships that an operator made, and the last good bundle of each,
//! also of those that stand in the configuration. Certificates are kept as such, and not as documents, which are twice as long.

use std::collections::BTreeMap;

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{json::encoded, unknown_fields::UnknownFields};
use crate::{
    domain::{
        bundle::{BundleEndpoint, Commanded, EndpointProfile, Partner, SpiffeBundle},
        clock::Timestamp,
        identity::TrustDomain,
        jwt::JwtAuthority,
        x509::Certificate,
    },
    service::ports::{MAX_OBJECT_BYTES, StateError},
};

/// By trust domain.
pub type Partners = BTreeMap<TrustDomain, Partner>;

/// Of one partner: in the midst of a rotation, six roots of RSA 4096 or a dozen and a half of ECDSA, with their keys.
const MAX_PARTNER_BYTES: usize = 12 << 10;
/// Of the object: the rest is for the roots and keys of a rotation, and for denials.
pub(super) const MAX_FILLED_BYTES: usize = MAX_OBJECT_BYTES - (4 << 10);

/// Why nothing was changed about other trust domains.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PartnersError {
    /// One alone takes too much.
    #[error(
        "what is kept of {trust_domain} would take {size} bytes of the state, at most {MAX_PARTNER_BYTES} are possible"
    )]
    TooLarge {
        /// Whose bundle.
        trust_domain: TrustDomain,
        /// What it would take.
        size: usize,
    },
    /// All of them do.
    #[error(
        "the trust object would have {size} bytes, and {MAX_FILLED_BYTES} are possible besides what a rotation of the own roots \
         takes: end a federation, or allow again what need not be denied any more"
    )]
    Full {
        /// What it would have.
        size: usize,
    },
    /// The store refused or failed.
    #[error(transparent)]
    State(#[from] StateError),
}

/// Whether there could ever be room for what is handed over, of this digest, in a configuration: beside others there may be none.
///
/// # Errors
///
/// When there couldn't.
pub fn check_room_for(bundle: &SpiffeBundle, digest: &str) -> Result<(), PartnersError> {
    let partner = Partner {
        bundle: Some(bundle.clone()),
        fetched_at: Some(Timestamp::from_seconds(i64::from(u32::MAX))),
        bootstrap: Some(digest.to_owned()),
        earlier_bootstraps: vec![digest.to_owned(); Partner::EARLIER_BOOTSTRAPS],
        ..Partner::NOTHING
    };
    PartnerContent::new(&partner).check_size(&bundle.trust_domain)
}

#[derive(Default, Serialize, Deserialize)]
#[serde(transparent)]
pub(super) struct FederationContent(BTreeMap<String, PartnerContent>);

#[derive(Serialize, Deserialize)]
struct PartnerContent {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    commanded: Option<CommandedContent>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bundle: Option<BundleContent>,
    /// Seconds since the epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fetched_at: Option<i64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    bootstrap: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    earlier_bootstraps: Vec<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    replaced: Option<String>,
    #[serde(flatten)]
    unknown: UnknownFields,
}

#[derive(Serialize, Deserialize)]
struct CommandedContent {
    url: String,
    profile: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    endpoint_id: Option<String>,
    /// Seconds since the epoch.
    since: i64,
    /// UID.
    by: u32,
}

#[derive(Serialize, Deserialize)]
struct BundleContent {
    /// DER in base64.
    #[serde(default)]
    x509: Vec<String>,
    #[serde(default)]
    jwt: Vec<Map<String, Value>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// Seconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    refresh_hint: Option<u64>,
}

impl FederationContent {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The bundles that are published, in the order of their trust domains.
    pub(super) fn bundles(&self) -> Result<Vec<SpiffeBundle>, StateError> {
        Ok(self.partners()?.into_values().filter_map(|partner| partner.bundle).collect())
    }

    pub(super) fn partners(&self) -> Result<Partners, StateError> {
        let named =
            |name: &str, error: String| StateError::Unusable(format!("the stored federation with {name}: {error}"));
        let read = self.0.iter().map(|(name, content)| {
            let trust_domain: TrustDomain = name.parse().map_err(|error| named(name, format!("{error}")))?;
            let partner = content.read(&trust_domain).map_err(|error| named(name, error))?;
            Ok((trust_domain, partner))
        });
        read.collect()
    }

    /// Puts `partners` in the place of `before`. What has not changed stays as a later version may have written it.
    pub(super) fn set(&mut self, partners: &Partners, before: &Partners) -> Result<(), PartnersError> {
        self.0.retain(|name, _| partners.keys().any(|kept| kept.as_str() == name));
        for (trust_domain, partner) in partners {
            if before.get(trust_domain) == Some(partner) {
                continue;
            }
            let unknown = self.0.remove(trust_domain.as_str()).map(|content| content.unknown).unwrap_or_default();
            let content = PartnerContent { unknown, ..PartnerContent::new(partner) };
            content.check_size(trust_domain)?;
            self.0.insert(trust_domain.to_string(), content);
        }
        Ok(())
    }
}

impl PartnerContent {
    fn new(partner: &Partner) -> Self {
        Self {
            commanded: partner.commanded.as_ref().map(|commanded| CommandedContent {
                url: commanded.endpoint.url.to_string(),
                profile: commanded.endpoint.profile.name().to_owned(),
                endpoint_id: commanded.endpoint.profile.endpoint_id().map(ToString::to_string),
                since: commanded.since.seconds(),
                by: commanded.by,
            }),
            bundle: partner.bundle.as_ref().map(BundleContent::new),
            fetched_at: partner.fetched_at.map(Timestamp::seconds),
            bootstrap: partner.bootstrap.clone(),
            earlier_bootstraps: partner.earlier_bootstraps.clone(),
            replaced: partner.replaced.clone(),
            unknown: UnknownFields::default(),
        }
    }

    fn check_size(&self, trust_domain: &TrustDomain) -> Result<(), PartnersError> {
        let size = encoded(self)?.len();
        if size > MAX_PARTNER_BYTES {
            return Err(PartnersError::TooLarge { trust_domain: trust_domain.clone(), size });
        }
        Ok(())
    }

    fn read(&self, trust_domain: &TrustDomain) -> Result<Partner, String> {
        Ok(Partner {
            commanded: self.commanded.as_ref().map(CommandedContent::read).transpose()?,
            bundle: self.bundle.as_ref().map(|bundle| bundle.read(trust_domain)).transpose()?,
            fetched_at: self.fetched_at.map(Timestamp::from_seconds),
            bootstrap: self.bootstrap.clone(),
            earlier_bootstraps: self.earlier_bootstraps.clone(),
            replaced: self.replaced.clone(),
        })
    }
}

impl CommandedContent {
    fn read(&self) -> Result<Commanded, String> {
        let id = self.endpoint_id.as_ref().map(|id| id.parse().map_err(|error| format!("endpoint_id: {error}")));
        let url = self.url.parse().map_err(|error| format!("url: {error}"))?;
        let profile = EndpointProfile::of(&self.profile, id.transpose()?)?;
        Ok(Commanded {
            endpoint: BundleEndpoint { url, profile },
            since: Timestamp::from_seconds(self.since),
            by: self.by,
        })
    }
}

impl BundleContent {
    fn new(bundle: &SpiffeBundle) -> Self {
        Self {
            x509: bundle.x509_authorities.iter().map(|authority| STANDARD.encode(authority.der())).collect(),
            jwt: bundle.jwt_authorities.iter().map(|authority| authority.jwk().clone()).collect(),
            sequence: bundle.sequence,
            refresh_hint: bundle.refresh_hint.map(|hint| hint.as_secs()),
        }
    }

    fn read(&self, trust_domain: &TrustDomain) -> Result<SpiffeBundle, String> {
        let certificate = |text: &String| {
            let der = STANDARD.decode(text).map_err(|error| format!("x509: {error}"))?;
            Certificate::from_der(&der).map_err(|error| format!("x509: {error}"))
        };
        let jwt = self.jwt.iter().map(JwtAuthority::from_jwk);
        Ok(SpiffeBundle {
            trust_domain: trust_domain.clone(),
            x509_authorities: self.x509.iter().map(certificate).collect::<Result<_, _>>()?,
            jwt_authorities: jwt.collect::<Result<_, _>>().map_err(|error| format!("jwt: {error}"))?,
            sequence: self.sequence,
            refresh_hint: self.refresh_hint.map(std::time::Duration::from_secs),
        })
    }
}
