//! The bundle endpoint of a replica, wired: its port, its certificate, and what it tells.

use std::{convert::Infallible, io, net::Ipv4Addr, net::SocketAddr, sync::Arc, time::Duration};

use rustls::{
    ServerConfig,
    pki_types::{CertificateDer, pem::PemObject as _},
};
use tokio::{
    net::TcpListener,
    sync::watch,
    task::spawn_blocking,
    time::{MissedTickBehavior, interval, sleep},
};
use tracing::{info, warn};

use super::{
    ServeFailed, cut_after_grace, gone,
    identities::configure_tls,
    listeners::{ListenError, listen},
    until,
};
use crate::{
    domain::{clock::Clock, x509::Certificate as X509},
    grpc::bundle_tls::{EndpointFilesError, endpoint_with_files, endpoint_with_svid},
    http::bundle_endpoint,
    runtime::{config::BundleEndpointConfig, shutdown::Shutdown, supervisor::Supervisor},
    service::{
        metrics::{ExpiringCertificate, Metrics},
        published_trust::TrustReceiver,
        svid_publisher::IdentityReceiver,
    },
    storage::endpoint_files::{EndpointContents, EndpointFiles, EndpointReader},
};

/// How often certificate files are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two reads that must agree: whoever replaces the files one after the other is done by then.
const SETTLE: Duration = Duration::from_millis(100);

/// The port, and by what it is served.
pub(super) struct BundleEndpoint {
    listener: TcpListener,
    address: SocketAddr,
    certificate: Certificate,
}

enum Certificate {
    /// Profile `https_spiffe`: the serving SVID.
    Serving,
    /// Profile `https_web`.
    Files { files: Arc<EndpointReader>, used: Box<EndpointContents>, config: Arc<ServerConfig> },
}

/// What it takes from the rest of a replica.
pub(super) struct Of {
    pub(super) trust: TrustReceiver,
    pub(super) serving: IdentityReceiver,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) left: watch::Receiver<bool>,
}

impl BundleEndpoint {
    /// Takes the port, and loads the certificate if it is in files.
    pub(super) async fn bind(
        config: Option<&BundleEndpointConfig>,
        clock: &Arc<dyn Clock>,
    ) -> Result<Option<Self>, ServeFailed> {
        let Some(config) = config else { return Ok(None) };
        let (listener, address) = take_port(config).await.map_err(ServeFailed::of)?;
        let certificate = match &config.files {
            Some(files) => {
                let reader = Arc::new(EndpointReader::new(files.clone()));
                let used = read(&reader).await.map_err(ServeFailed::of)?;
                let config = made_of(&used, clock).map_err(|error| in_files(files, &error))?;
                Certificate::Files { files: reader, used: Box::new(used), config }
            }
            None => Certificate::Serving,
        };
        Ok(Some(Self { listener, address, certificate }))
    }

    /// For what is printed at start.
    pub(super) fn line(&self) -> String {
        let profile = match self.certificate {
            Certificate::Serving => "https_spiffe",
            Certificate::Files { .. } => "https_web",
        };
        format!("  bundle endpoint  https://{}/ by profile {profile}", self.address)
    }

    fn start(self, of: Of, shutdown: &Shutdown, supervisor: &mut Supervisor) {
        let (tls, configured) = watch::channel(None);
        let Of { trust, serving, clock, metrics, left } = of;
        match self.certificate {
            Certificate::Serving => {
                let configuring = configure_tls(serving, tls, clock, endpoint_with_svid);
                supervisor.spawn("bundle endpoint's TLS", until(shutdown, configuring));
            }
            Certificate::Files { files, used, config } => {
                tls.send_replace(Some(config));
                let followed = async move { match follow(files, *used, tls, (clock, metrics)).await {} };
                supervisor.spawn("bundle endpoint's files", until(shutdown, followed));
            }
        }
        let served = bundle_endpoint::serve(self.listener, configured, trust, gone(left.clone()));
        supervisor.spawn("bundle endpoint", cut_after_grace(served, left));
    }
}

/// Serves until the replica has left.
pub(super) fn start(endpoint: Option<BundleEndpoint>, of: Of, (shutdown, supervisor): (&Shutdown, &mut Supervisor)) {
    if let Some(endpoint) = endpoint {
        endpoint.start(of, shutdown, supervisor);
    }
}

async fn take_port(config: &BundleEndpointConfig) -> Result<(TcpListener, SocketAddr), ListenError> {
    match listen("bundleEndpoint", config.listen.address).await {
        Err(ListenError::Io { error, .. }) if !config.listen.chosen && error.kind() == io::ErrorKind::AddrInUse => {
            listen("bundleEndpoint", (Ipv4Addr::LOCALHOST, 0).into()).await
        }
        taken => taken,
    }
}

/// Takes files that have changed, once they are whole and of one another; until then the last good ones stay.
async fn follow(
    files: Arc<EndpointReader>,
    mut used: EndpointContents,
    tls: watch::Sender<Option<Arc<ServerConfig>>>,
    (clock, metrics): (Arc<dyn Clock>, Arc<Metrics>),
) -> Infallible {
    show_expiry(&metrics, &used);
    let mut look = interval(LOOK_EVERY);
    look.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut said: Option<String> = None;
    loop {
        look.tick().await;
        let refused = match changed(&files, &used).await {
            Ok(None) => None,
            Ok(Some(newer)) => match made_of(&newer, &clock) {
                Ok(config) => {
                    info!(event = "bundle_endpoint_certificate", file = %files.files().certificate.display());
                    used = newer;
                    show_expiry(&metrics, &used);
                    tls.send_replace(Some(config));
                    None
                }
                Err(error) => Some(error.to_string()),
            },
            Err(error) => Some(error.to_string()),
        };
        if let Some(reason) = refused.as_ref().filter(|reason| said.as_ref() != Some(reason)) {
            warn!(event = "bundle_endpoint_certificate_refused", %reason, "the changed files are not used; the last good ones stay");
        }
        said = refused;
    }
}

fn show_expiry(metrics: &Metrics, used: &EndpointContents) {
    // it has been loaded, so it can be read
    let leaf = CertificateDer::from_pem_slice(&used.certificate).ok().and_then(|leaf| X509::from_der(&leaf).ok());
    metrics.show_certificate(ExpiringCertificate::BundleEndpoint, leaf.as_ref());
}

/// What is there now if it is something else, and two reads agree on it.
async fn changed(files: &Arc<EndpointReader>, used: &EndpointContents) -> io::Result<Option<EndpointContents>> {
    let newer = read(files).await?;
    if newer == *used {
        return Ok(None);
    }
    sleep(SETTLE).await;
    Ok((read(files).await? == newer).then_some(newer))
}

async fn read(files: &Arc<EndpointReader>) -> io::Result<EndpointContents> {
    let files = Arc::clone(files);
    spawn_blocking(move || files.read()).await.map_err(io::Error::other)?
}

fn made_of(contents: &EndpointContents, clock: &Arc<dyn Clock>) -> Result<Arc<ServerConfig>, EndpointFilesError> {
    endpoint_with_files(&contents.certificate, &contents.key, clock)
}

fn in_files(files: &EndpointFiles, error: &EndpointFilesError) -> ServeFailed {
    let EndpointFiles { certificate, key } = files;
    ServeFailed(format!(
        "bundleEndpointCert {} with bundleEndpointKey {}: {error}",
        certificate.display(),
        key.display()
    ))
}
