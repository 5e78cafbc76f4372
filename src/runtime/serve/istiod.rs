//! A replica that signs nothing, unless it is told to sign JWT-SVIDs: istiod does. It passes requests on, has a serving certificate
//! by istiod itself, and keeps no state. In Kubernetes it also stands for election, since the active writes for gateways.

mod addresses;
#[cfg(feature = "kubernetes")]
mod gateway_secrets;
mod health;
#[cfg(feature = "kubernetes")]
mod jwt_svids;
#[cfg(feature = "kubernetes")]
mod lease;
#[cfg(feature = "kubernetes")]
mod policy;
mod published_roots;
mod roots;
#[cfg(feature = "kubernetes")]
mod while_held;

use std::{sync::Arc, time::Duration};

use rustls::ServerConfig;
use tokio::{
    runtime::Handle,
    sync::{Notify, watch},
    time::sleep,
};

use self::{health::Health, roots::Roots};
use super::{
    LEAVE_LIMIT, Seams, ServeFailed,
    bundle_endpoint::{self, BundleEndpoint},
    cut_after_grace, gone,
    greeting::greet,
    identities::{configure_tls, signing_tls},
    listeners::listen,
    on,
    signing::refresh_hint,
    until,
};
#[cfg(feature = "kubernetes")]
use crate::service::mesh_trust::MeshTrust;
use crate::{
    domain::clock::Clock,
    grpc::{
        ca_server::serve_pass_on,
        istiod_client::IstiodClient,
        own_at_istiod::{OwnAtIstiod, OwnToken},
        self_handshake::SelfHandshake,
    },
    http::admin,
    runtime::{
        config::{IstiodConfig, ServeConfig},
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::{
        istiod_pass_on::{KnownRoots, Parts, PassOn},
        metrics::{ExpiringCertificate, Metrics},
        readiness::Readiness,
        svid_publisher::{Expectation, IdentityReceiver, SvidPublisher},
    },
};

/// While istiod's replicas sign by different authorities, the own certificate is not renewed at each of their answers.
const RENEWAL_PAUSE: Duration = Duration::from_secs(5);
/// While what comes is still one that callers might not take.
const LONGEST_RENEWAL_PAUSE: Duration = Duration::from_secs(60);

/// Runs it until it is told to leave, or a critical task ends.
pub(super) async fn serve(
    config: &ServeConfig,
    istiod: &IstiodConfig,
    shutdown: Shutdown,
    control: &Handle,
) -> Result<(), ServeFailed> {
    #[cfg(feature = "kubernetes")]
    if let Some(cluster) = istiod.cluster.as_ref()
        && let Some(pair) = cluster.pair_with_keys(&config.trust_domain)
    {
        return jwt_svids::serve(config, (istiod, cluster, &pair), shutdown, control).await;
    }
    let seams = Seams { metrics: Arc::new(Metrics::before_istiod()), ..Seams::new(control) };
    let (ca, ca_address) = listen("listen", config.listen.address).await.map_err(ServeFailed::of)?;
    let (admin, admin_address) = listen("adminListen", config.admin_listen.address).await.map_err(ServeFailed::of)?;
    let endpoint = BundleEndpoint::bind(config.bundle_endpoint.as_ref(), &seams.clock).await?;
    let endpoint_line = endpoint.as_ref().map(|endpoint| endpoint.line() + "\n").unwrap_or_default();
    let (readiness, mut supervisor) = (Readiness::default(), Supervisor::default());
    let leaving = start_leaving(config, istiod, &seams, &readiness, &shutdown, &mut supervisor).await?;
    let left = leaving.left;
    let roots = roots::start(config, istiod, &shutdown, &mut supervisor).await?;
    let pass_on = start_passing_on(config, istiod, &roots, (&seams, &readiness), (&shutdown, &mut supervisor)).await?;
    let own = start_serving_certificate(config, istiod, &pass_on, &roots, &seams, &shutdown, &mut supervisor);
    let tls = own.tls;
    let trust = published_roots::published(roots.known.clone(), refresh_hint(config), (&shutdown, &mut supervisor));
    seams.metrics.follow_trust(trust.clone(), None);
    let (serving, clock, metrics) = (own.identity.clone(), Arc::clone(&seams.clock), Arc::clone(&seams.metrics));
    let of = bundle_endpoint::Of { trust, serving, clock, metrics, left: left.clone() };
    bundle_endpoint::start(endpoint, of, (&shutdown, &mut supervisor));
    #[cfg(feature = "kubernetes")]
    let policy = if let (Some(member), Some(cluster), Some(object)) = (leaving.member, &istiod.cluster, roots.object) {
        let trust = MeshTrust { trust_domain: config.trust_domain.clone(), object, known: roots.known.clone() };
        let (pass_on, cluster_id) = (Arc::clone(&pass_on), istiod.cluster_id.clone());
        let signer = gateway_secrets::Signer { pass_on, trust, cluster_id };
        let term = (member.namespace.as_str(), member.held.clone());
        gateway_secrets::start(term, cluster, signer, &readiness, (config, &seams), (&shutdown, &mut supervisor))
            .await?;
        let (seams, readiness, left) = (&seams, &readiness, left.clone());
        let of = policy::Of { config, seams, readiness, left, roots: roots.known, serving: own.identity };
        policy::start(&member, cluster, of, (&shutdown, &mut supervisor)).await?
    } else {
        None
    };
    #[cfg(not(feature = "kubernetes"))]
    let policy = None;

    let (reporter, health_service) = tonic_health::server::health_reporter();
    let health = Health { readiness: readiness.clone(), serving: tls.clone(), reporter };
    supervisor.spawn("health", on(control, until(&shutdown, health.run())));
    let admin =
        admin::serve(admin, (Arc::clone(&seams.metrics), Arc::clone(&seams.clock)), readiness, gone(left.clone()));
    supervisor.spawn("admin port", on(control, cut_after_grace(admin, left.clone())));
    supervisor.spawn("signing API", serve_pass_on(ca, tls, (pass_on, None), health_service, policy, gone(left)));
    greet(&format!(
        "passes requests on to istiod at {}\n  signing API      {ca_address}\n  health, metrics  http://{admin_address}/readyz \
         /livez /metrics\n{endpoint_line}",
        addresses::in_words(istiod)
    ))?;
    supervisor.run(&shutdown, config.drain + LEAVE_LIMIT).await.map_err(ServeFailed::of)
}

/// Begins to look for istiod.
async fn start_passing_on(
    config: &ServeConfig,
    istiod: &IstiodConfig,
    roots: &Roots,
    (seams, readiness): (&Seams, &Readiness),
    (shutdown, supervisor): (&Shutdown, &mut Supervisor),
) -> Result<Arc<PassOn>, ServeFailed> {
    let (places, clock) = (Arc::clone(&roots.places), Arc::clone(&seams.clock));
    let pass_on = Arc::new(PassOn::new(Parts {
        istiods: addresses::start(istiod, shutdown, supervisor).await?,
        way: Arc::new(move |at| Arc::new(IstiodClient::new(at.clone(), Arc::clone(&places), Arc::clone(&clock))) as _),
        roots: roots.known.clone(),
        trust_domain: config.trust_domain.clone(),
        per_second: istiod.qps,
        clock: Arc::clone(&seams.clock),
        metrics: Arc::clone(&seams.metrics),
    }));
    let (detecting, latch) = (Arc::clone(&pass_on), readiness.latch("istiod", "IstioNotDetected: not looked for yet"));
    supervisor.spawn("istiod detection", until(shutdown, async move { match detecting.detect(latch).await {} }));
    Ok(pass_on)
}

/// How this replica leaves, and which one of several it is until then.
struct Leaving {
    /// Turns true when the term, if there is one, is released, and `drain` is over.
    left: watch::Receiver<bool>,
    #[cfg(feature = "kubernetes")]
    member: Option<lease::Member>,
}

#[cfg_attr(
    not(feature = "kubernetes"),
    expect(unused_variables, clippy::unused_async, reason = "only a pair in Kubernetes elects anybody")
)]
async fn start_leaving(
    config: &ServeConfig,
    istiod: &IstiodConfig,
    seams: &Seams,
    readiness: &Readiness,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> Result<Leaving, ServeFailed> {
    let (leave, left) = watch::channel(false);
    let (asked, drain) = (shutdown.clone(), config.drain);
    #[cfg(feature = "kubernetes")]
    if let Some(cluster) = &istiod.cluster {
        let (member, election) = lease::join(cluster, seams, readiness, shutdown, supervisor).await?;
        supervisor.spawn(
            "election",
            on(&seams.control, async move {
                election.run(async move { asked.requested().await }).await.map_err(ServeFailed::of)?;
                sleep(drain).await;
                leave.send_replace(true);
                Ok::<_, ServeFailed>(())
            }),
        );
        return Ok(Leaving { left, member: Some(member) });
    }
    supervisor.spawn("leaving", async move {
        asked.requested().await;
        sleep(drain).await;
        leave.send_replace(true);
        Ok::<_, ServeFailed>(())
    });
    Ok(Leaving {
        left,
        #[cfg(feature = "kubernetes")]
        member: None,
    })
}

/// The certificate of this replica.
struct OwnCertificate {
    /// What belongs to it.
    tls: watch::Receiver<Option<Arc<ServerConfig>>>,
    /// With istiod's roots.
    identity: IdentityReceiver,
}

/// Keeps a certificate by istiod.
fn start_serving_certificate(
    config: &ServeConfig,
    istiod: &IstiodConfig,
    pass_on: &Arc<PassOn>,
    roots: &Roots,
    seams: &Seams,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> OwnCertificate {
    let authority =
        OwnAtIstiod::new(Arc::clone(pass_on), OwnToken::File(istiod.token_file.clone()), istiod.cluster_id.clone());
    let (publisher, serving) = SvidPublisher::new(
        Arc::new(authority),
        Expectation::AnyIn(config.trust_domain.clone()),
        0,
        Arc::clone(&seams.clock),
        Arc::clone(&seams.random),
    );
    let publisher = publisher.checked_by(Arc::new(SelfHandshake::new(Arc::clone(&seams.clock))));
    seams.metrics.follow(ExpiringCertificate::Serving, publisher.stats());
    let changes = Changes {
        roots: roots.known.clone(),
        signer: pass_on.signer(),
        serving: serving.clone(),
        clock: Arc::clone(&seams.clock),
    };
    supervisor.spawn("renewal after changes", until(shutdown, changes.renew_after(publisher.renew_now())));
    supervisor.spawn("serving certificate", until(shutdown, publisher.run()));
    let (tls, tls_configs) = watch::channel(None);
    supervisor.spawn(
        "serving TLS",
        until(shutdown, configure_tls(serving.clone(), tls, Arc::clone(&seams.clock), signing_tls)),
    );
    OwnCertificate { tls: tls_configs, identity: serving }
}

/// What makes the own certificate one that callers might not take much longer.
struct Changes {
    roots: watch::Receiver<KnownRoots>,
    signer: watch::Receiver<Option<Vec<u8>>>,
    serving: IdentityReceiver,
    clock: Arc<dyn Clock>,
}

impl Changes {
    /// Renews it when istiod has begun to sign by another authority, or the roots don't cover it any more, until neither is so:
    /// whoever answers may be the last one to follow the change. Never returns.
    async fn renew_after(mut self, renew: Arc<Notify>) {
        loop {
            let (roots, signer) = (&mut self.roots, &mut self.signer);
            let changed = async {
                tokio::select! { changed = roots.changed() => changed, changed = signer.changed() => changed }
            };
            if changed.await.is_err() {
                std::future::pending::<()>().await;
            }
            let mut pause = RENEWAL_PAUSE;
            while self.is_outdated() {
                renew.notify_one();
                sleep(pause).await;
                pause = (pause * 2).min(LONGEST_RENEWAL_PAUSE);
            }
        }
    }

    fn is_outdated(&self) -> bool {
        let held = self.serving.borrow().as_ref().and_then(|identity| identity.svid.clone());
        let Some(held) = held else { return false };
        let signer = self.signer.borrow().clone();
        let is_by_another = signer.is_some_and(|signer| held.leaf().authority_key_id() != Some(&signer));
        let roots = self.roots.borrow().bundle.clone();
        is_by_another || roots.is_some_and(|roots| held.chain().verify(&roots, self.clock.now()).is_err())
    }
}
