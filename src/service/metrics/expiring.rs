//! Which certificates a process depends on.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

/// The certificates whose expiry is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ExpiringCertificate {
    /// The identity that the socket serves.
    Svid,
    /// The first root of the trust bundle to expire.
    Root,
    /// What the active signs with.
    Authority,
    /// The CA's own serving certificate.
    Serving,
    /// The one that istiod serves with, as it was written last.
    Istiod,
}

impl EncodeLabelValue for ExpiringCertificate {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(match self {
            Self::Svid => "svid",
            Self::Root => "root",
            Self::Authority => "authority",
            Self::Serving => "serving",
            Self::Istiod => "istiod",
        })
    }
}
