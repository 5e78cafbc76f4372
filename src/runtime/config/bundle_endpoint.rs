//! The settings of the bundle endpoint.

use std::time::Duration;

use super::{ListenAddress, parse, sources::Sources};
use crate::{
    runtime::{args::BundleEndpointArgs, duration},
    storage::endpoint_files::EndpointFiles,
};

/// Where others fetch the trust bundle.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BundleEndpointConfig {
    /// Gives way to a free port unless it was chosen.
    pub listen: ListenAddress,
    /// Of profile `https_web`; without them it is `https_spiffe`.
    pub files: Option<EndpointFiles>,
    /// How often others are asked to read it.
    pub refresh_hint: Duration,
}

impl BundleEndpointConfig {
    /// Reads them; what is wrong is noted in `from`. The outer `None` is an error.
    pub(super) fn read(from: &mut Sources, is_embedded: bool) -> Option<Option<Self>> {
        let chosen = from.is_chosen("bundle_endpoint");
        let address = from.one("bundle_endpoint", parse::socket_address);
        let certificate = from.one("bundle_endpoint_cert", parse::path);
        let key = from.one("bundle_endpoint_key", parse::path);
        let refresh_hint = from.one("bundle_refresh_hint", duration::parse_whole_seconds);
        let has_endpoint = chosen || is_embedded;
        let files = match (certificate, key) {
            (Some(certificate), Some(key)) => Some(EndpointFiles { certificate, key }),
            (Some(_), None) => {
                from.refuse("bundle_endpoint_cert", "needs bundleEndpointKey, the file with its private key");
                return None;
            }
            (None, Some(_)) => {
                from.refuse("bundle_endpoint_key", "needs bundleEndpointCert, the file with its certificate");
                return None;
            }
            (None, None) => None,
        };
        if files.is_some() && !has_endpoint {
            from.refuse("bundle_endpoint_cert", "is of the bundle endpoint: set bundleEndpoint, or leave this out");
        }
        let listen = ListenAddress { address: address?, chosen };
        Some(Some(Self { listen, files, refresh_hint: refresh_hint? }).filter(|_| has_endpoint))
    }

    pub(super) fn to_args(&self) -> BundleEndpointArgs {
        let of_files = |file: fn(&EndpointFiles) -> String| self.files.as_ref().map(file);
        BundleEndpointArgs {
            bundle_endpoint: Some(self.listen.address.to_string()),
            bundle_endpoint_cert: of_files(|files| files.certificate.display().to_string()),
            bundle_endpoint_key: of_files(|files| files.key.display().to_string()),
            bundle_refresh_hint: Some(duration::format(self.refresh_hint)),
        }
    }
}
