//! The active replica puts the trust bundle where the cluster's workloads look for it, and keeps istiod's serving certificate.
//!
//! Driven by the signing session: it begins with a term that is granted, and is dropped when that ends. What is written here is
//! not fenced by the term: it is level-triggered, so the next active puts right what the last one left behind.

mod config;
mod kept_certificate;
mod places;
mod spread;
mod status;
mod trusted;

use std::{convert::Infallible, sync::Arc, time::Duration};

use tokio::sync::watch;
use tracing::info;

use self::spread::{RootsText, Spread};
#[cfg(feature = "kubernetes")]
pub(crate) use self::trusted::Trust;
pub use self::{
    config::{DistributionConfig, MeshCa, Revision, RevisionError},
    places::{
        Followed, Places, PlacesError, RootPlaces, SecretSeen, SeenStream, ServingFiles, StoredSecret, TLS_TYPE,
        TlsSecret, WriteError,
    },
    status::{CertificateStatus, DistributionStatus, Held, SpreadStatus},
};
pub(crate) use self::{
    kept_certificate::{Holder, KeptCertificate},
    status::named,
    trusted::Trusted,
};
use super::{
    create_certificate::{CreateCertificate, IstiodServing},
    metrics::{ExpiringCertificate, Metrics},
    own_identity::OwnAuthority,
    ports::SelfCheck,
    readiness::Latch,
    signing_session::SigningSession,
};
use crate::domain::{attestation::OwnIdentity, authority::TtlBounds, clock::Clock};

/// A TTL of minutes is for watching rotation. kubelet takes up to 90 s to deliver a Secret.
const ISTIOD_TTL_AT_LEAST: Duration = Duration::from_secs(3600);

/// The use case.
pub struct BundleDistribution {
    config_maps: Spread,
    cluster_trust_bundle: Option<Spread>,
    istiod: Option<KeptCertificate>,
    status: watch::Sender<DistributionStatus>,
    metrics: Arc<Metrics>,
}

/// What [`BundleDistribution`] works with.
pub struct Parts {
    /// What is to be where.
    pub config: DistributionConfig,
    /// The cluster.
    pub places: Places,
    /// The way to istiod's certificate. Its policy must name istiod as [`MeshCa::istiod_serving`] does.
    pub create: Arc<CreateCertificate>,
    /// How long certificates may live.
    pub ttl: TtlBounds,
    /// What a certificate has to stand before it is written.
    pub check: Arc<dyn SelfCheck>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Where it is counted.
    pub metrics: Arc<Metrics>,
}

impl BundleDistribution {
    /// The use case over its ports. Nothing happens before [`Self::run`].
    pub fn new(parts: Parts) -> Self {
        let Parts { config, places, create, ttl, check, clock, metrics } = parts;
        let status = watch::Sender::new(DistributionStatus::default());
        let spread = |places, text| {
            let (clock, metrics) = (Arc::clone(&clock), Arc::clone(&metrics));
            Spread { places, text, publisher: config.namespace.clone(), adopt: config.adopt, clock, metrics }
        };
        let istiod = config.mesh_ca.as_ref().zip(places.istiod_secret).map(|(mesh, secret)| {
            let IstiodServing { id, server_names } = mesh.istiod_serving();
            KeptCertificate {
                id,
                server_names,
                name: format!("{}/istiod-tls", mesh.istiod.namespace()),
                holder: Holder::Istiod { adopt: config.adopt },
                secret,
                authority: Arc::new(OwnAuthority::new(create, OwnIdentity::Istiod(mesh.istiod.clone()))),
                check,
                ttl: ttl.default_ttl().max(ISTIOD_TTL_AT_LEAST).min(ttl.max_ttl()),
                publisher: config.namespace.clone(),
                clock: Arc::clone(&clock),
                metrics: Arc::clone(&metrics),
            }
        });
        Self {
            config_maps: spread(places.config_maps, RootsText::AsWritten),
            cluster_trust_bundle: places.cluster_trust_bundle.map(|places| spread(places, RootsText::CertificatesOnly)),
            istiod,
            status,
            metrics,
        }
    }

    /// How it stands; empty while this replica is not active.
    pub fn status(&self) -> watch::Receiver<DistributionStatus> {
        self.status.subscribe()
    }

    /// Distributes while this replica is active. Never returns. `latch` tells how it stands and is always ready: what can't be
    /// distributed is no reason to answer no requests.
    pub async fn run(self, mut sessions: watch::Receiver<Option<Arc<SigningSession>>>, latch: Latch) -> Infallible {
        let status = self.status.subscribe();
        tokio::join!(tell(status, latch), async {
            loop {
                let session = sessions.borrow_and_update().clone();
                let changed = tokio::select! {
                    changed = sessions.changed() => changed,
                    never = self.distribute(session) => match never {},
                };
                self.status.send_replace(DistributionStatus::default());
                self.metrics.forget_places();
                self.metrics.forget_expiry(ExpiringCertificate::Istiod);
                if changed.is_err() {
                    // an election that has ended says so itself
                    std::future::pending::<()>().await;
                }
            }
        })
        .0
    }

    async fn distribute(&self, session: Option<Arc<SigningSession>>) -> Infallible {
        let Some(session) = session else { return std::future::pending().await };
        info!(event = "distribution_begins", term = %session.term());
        let unseen = self.cluster_trust_bundle.as_ref().map(|bundle| SpreadStatus::unseen(bundle.places.title()));
        self.status.send_modify(|status| status.cluster_trust_bundle = unseen);
        let config_maps = self.config_maps.run(&session, |spread| {
            self.status.send_modify(|status| status.config_maps = Some(spread));
        });
        let cluster_trust_bundle = async {
            match &self.cluster_trust_bundle {
                Some(bundle) => {
                    let publish = |spread| self.status.send_modify(|status| status.cluster_trust_bundle = Some(spread));
                    bundle.run(&session, publish).await
                }
                None => std::future::pending().await,
            }
        };
        let istiod = async {
            match &self.istiod {
                Some(istiod) => {
                    let publish = |istiod| self.status.send_modify(|status| status.istiod = Some(istiod));
                    istiod.run(session.authority_changes(), publish).await
                }
                None => std::future::pending().await,
            }
        };
        tokio::join!(config_maps, cluster_trust_bundle, istiod).0
    }
}

async fn tell(mut status: watch::Receiver<DistributionStatus>, latch: Latch) -> Infallible {
    loop {
        latch.ready(status.borrow_and_update().to_string());
        if status.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}
