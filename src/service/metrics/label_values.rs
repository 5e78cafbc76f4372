//! What the labels of metrics may say. They are enums, so that no caller's text ever becomes a time series; what an operator
//! names, as an output or another trust domain, is the exception.

use std::fmt::{self, Write};

use prometheus_client::encoding::{EncodeLabelValue, LabelValueEncoder};

use crate::domain::policy::ObjectKind;

/// An enum, each with its text as a label value.
macro_rules! label_values {
    ($($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)+ })+) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$variant_doc])* $variant,)+ }

        impl $name {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Their texts.
            pub const TEXTS: &'static [&'static str] = &[$($text),+];
        }

        impl EncodeLabelValue for $name {
            fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
                encoder.write_str(match self { $(Self::$variant => $text),+ })
            }
        }
    )+};
}

label_values! {
    /// How a request for an SVID ended here: with one, withheld, or refused with a gRPC code.
    RequestOutcome {
        /// It was sent.
        Issued = "issued",
        /// It was signed, but the term had ended before it could be sent.
        Withheld = "withheld",
        /// The proof was refused.
        Unauthenticated = "unauthenticated",
        /// The request was refused.
        InvalidArgument = "invalid_argument",
        /// It asked for a longer life than any may have.
        TtlOverMax = "ttl_over_max",
        /// Nobody could sign in time.
        Unavailable = "unavailable",
        /// Signing failed.
        Internal = "internal",
        /// It was passed on, and the active refused it.
        RefusedByActive = "refused_by_active",
        /// It was passed on, and istiod refused it.
        RefusedByIstiod = "refused_by_istiod",
    }

    /// How passing a request on to the active replica ended.
    ForwardOutcome {
        /// It answered, whatever the answer.
        Answered = "answered",
        /// It could not be reached, or did not answer in time.
        Failed = "failed",
    }

    /// How a token that only the API server can judge was judged.
    ReviewOutcome {
        /// The API server accepted it.
        Accepted = "accepted",
        /// The API server refused it.
        Refused = "refused",
        /// There was no answer, or no place to wait for one.
        Unavailable = "unavailable",
        /// An answer that was kept.
        Kept = "kept",
    }

    /// What came of a change of the plugged-in authority's files.
    ReloadOutcome {
        /// What is there now signs.
        Loaded = "loaded",
        /// The last good ones stay in use.
        Refused = "refused",
    }

    /// What came of fetching another trust domain's bundle.
    FetchOutcome {
        /// It is another one than before.
        Updated = "updated",
        /// It is the same.
        Unchanged = "unchanged",
        /// The endpoint could not be asked, or is not who it should be.
        Unreachable = "unreachable",
        /// It answered no bundle of that trust domain.
        Invalid = "invalid",
        /// It answered an old one.
        Outdated = "outdated",
        /// It could not be kept.
        NotKept = "not_kept",
    }

    /// What came of writing the roots into one place of the cluster.
    RootWriteOutcome {
        /// They stand there.
        Written = "written",
        /// What stood there had just been changed; it is looked at again.
        Outdated = "outdated",
        /// It was refused, or there was no answer.
        Failed = "failed",
    }

    /// How it stands with the places of the cluster that are to hold the roots.
    RootPlaceState {
        /// All of them.
        Wanted = "wanted",
        /// They hold the roots.
        Right = "right",
        /// They hold other people's roots.
        Conflict = "conflict",
        /// Another writer insists on other roots.
        Fight = "fight",
        /// They could not be written.
        Failing = "failing",
    }

    /// What came of writing an SVID where a gateway reads it.
    OutputOutcome {
        /// It stands there, and was read back.
        Written = "written",
        /// What stood there before still does.
        Failed = "failed",
    }

    /// What came of telling a gateway that its files have changed.
    NoticeOutcome {
        /// It was told.
        Given = "given",
        /// It was not, or said that it failed.
        Failed = "failed",
    }

    /// What came of writing or removing an object.
    ObjectWriteOutcome {
        /// It is as it is wanted.
        Applied = "applied",
        /// It is gone, or going.
        Removed = "removed",
        /// It had just been changed; it is looked at again.
        Outdated = "outdated",
        /// It was not taken as it is.
        Refused = "refused",
        /// Nothing of its kind is taken now.
        Unavailable = "unavailable",
    }

    /// What became of an Event.
    EventOutcome {
        /// It stands in the cluster.
        Written = "written",
        /// It was not taken, or there was no answer.
        Failed = "failed",
        /// There were too many at once.
        Dropped = "dropped",
    }

    /// How it stands with the objects.
    PolicyObjectState {
        /// Those that are to be there.
        Wanted = "wanted",
        /// They are there, as they are to be.
        Right = "right",
        /// To be written or removed.
        Pending = "pending",
    }

    /// The certificates whose expiry is shown.
    ExpiringCertificate {
        /// The identity that the socket serves.
        Svid = "svid",
        /// The first root of the trust bundle to expire.
        Root = "root",
        /// The last one to expire.
        LastRoot = "last_root",
        /// What the active signs with.
        Authority = "authority",
        /// The root that is published to sign after that.
        PreparedAuthority = "prepared_authority",
        /// The first to expire of those between what signs and the root.
        Intermediate = "intermediate",
        /// What the active signs JWT-SVIDs with.
        JwtKey = "jwt_key",
        /// What is published to sign those after that.
        PreparedJwtKey = "prepared_jwt_key",
        /// The CA's own serving certificate.
        Serving = "serving",
        /// What this replica shows the others of its pair.
        Pair = "pair",
        /// What signs those.
        PairAuthority = "pair_authority",
        /// The one of the bundle endpoint, if it is from files.
        BundleEndpoint = "bundle_endpoint",
        /// The one that istiod serves with, as it stands in its Secret.
        Istiod = "istiod",
    }

    /// What came of a request that istiod is to sign.
    IstiodOutcome {
        /// It signed, and the answer was passed on.
        Answered = "answered",
        /// It refused.
        Refused = "refused",
        /// An address of it could not be reached, or did not answer in time.
        Unreachable = "unreachable",
        /// Its answer was not what it should be.
        BadAnswer = "bad_answer",
        /// It was not asked: an equal request was under way.
        Coalesced = "coalesced",
        /// It was not asked: it had been asked too often.
        Limited = "limited",
    }

    /// How the renewal of the own SVID ended.
    RenewalOutcome {
        /// A new SVID is published.
        Renewed = "renewed",
        /// The last one stays.
        Failed = "failed",
    }

    /// Why istiod's metrics say that a request failed.
    SignError {
        /// The request.
        Csr = "CSR_ERROR",
        /// The life that is asked for.
        Ttl = "TTL_ERROR",
        /// Signing.
        Generation = "CERT_GEN_ERROR",
        /// Nobody can sign.
        NotReady = "CA_NOT_READY",
        /// Something else.
        Unknown = "UNKNOWN",
    }

    /// Of which SVIDs an authority is.
    SvidKind {
        /// X.509-SVIDs.
        X509 = "x509",
        /// JWT-SVIDs.
        Jwt = "jwt",
    }

    /// How far those are who follow the trust bundle.
    FollowerState {
        /// They have said that the newest is in effect.
        Current = "current",
        /// They have not.
        Behind = "behind",
    }

    /// Kinds of places that hold the roots.
    PlaceKind {
        /// One in each namespace.
        ConfigMap = "config_map",
        /// One for the cluster.
        ClusterTrustBundle = "cluster_trust_bundle",
    }
}

impl EncodeLabelValue for ObjectKind {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> fmt::Result {
        encoder.write_str(self.as_str())
    }
}
