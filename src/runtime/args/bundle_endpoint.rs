//! The flags of `serve` about the bundle endpoint.

use clap::Args;
use serde::Serialize;

/// The flags of `serve` about the bundle endpoint.
#[derive(Args, Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct BundleEndpointArgs {
    /// Address of the bundle endpoint, where other trust domains fetch this one's trust bundle. An embedded replica has one in
    /// any case, and takes a free port if the default one is taken; others have one if it is given
    #[arg(long, value_name = "IP:PORT")]
    pub bundle_endpoint: Option<String>,
    /// PEM file with the certificate chain of the bundle endpoint by profile https_web, read again when it changes. If not
    /// given, the endpoint has the CA's own serving certificate: profile https_spiffe
    #[arg(long, value_name = "FILE")]
    pub bundle_endpoint_cert: Option<String>,
    /// PEM file with the private key of that certificate
    #[arg(long, value_name = "FILE")]
    pub bundle_endpoint_key: Option<String>,
    /// How often others are asked to read the trust bundle there. Before another root signs, three such times pass
    #[arg(long, value_name = "DURATION")]
    pub bundle_refresh_hint: Option<String>,
}

impl BundleEndpointArgs {
    /// What holds where no source says anything.
    pub(super) fn defaults() -> Self {
        Self {
            bundle_endpoint: Some("127.0.0.1:8443".into()),
            bundle_endpoint_cert: None,
            bundle_endpoint_key: None,
            bundle_refresh_hint: Some("5m".into()),
        }
    }
}
