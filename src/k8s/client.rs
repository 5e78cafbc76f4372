//! The client of the API server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use hyper_util::{
    client::legacy::{Client as Pooled, connect::HttpConnector},
    rt::{TokioExecutor, TokioTimer},
};
pub use kube::Client;
use kube::{
    Config,
    client::{Body, ConfigExt as _},
    config::{KubeConfigOptions, Kubeconfig},
};
use tokio::time::timeout;
use tower::{BoxError, ServiceBuilder, ServiceExt as _, service_fn};

/// Why there is no client. The texts name the setting.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The file can't be used.
    #[error("kubeconfig {}: {problem}", file.display())]
    Kubeconfig {
        /// Which.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// This process is not in a pod, and no file was given.
    #[error("kubeconfig is not set, and this is not a pod with a service account: {0}")]
    NotInCluster(String),
    /// What was read makes no client.
    #[error("the API server's client can't be made: {0}")]
    Unusable(String),
}

/// As audit logs show it.
const USER_AGENT: &str = concat!("countersign/", env!("CARGO_PKG_VERSION"));
/// An API server that does not even take the connection and greet is not waited for longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// A connection on which nothing comes is probed after this, then each [`PROBE_EVERY`], and given up after [`SILENCE`]: a watch
/// whose packets vanish would wait for ever otherwise, and an idle connection would cost the next request its time.
const PROBE_AFTER: Duration = Duration::from_secs(2);
const PROBE_EVERY: Duration = Duration::from_secs(1);
const SILENCE: Duration = Duration::from_secs(4);
/// An answer that does not begin by then will not. What follows its head, as of a watch, has no limit here.
const HEAD_LIMIT: Duration = Duration::from_secs(15);
/// Idle connections are kept for so long, and so many of them.
const IDLE: Duration = Duration::from_secs(30);
const MOST_IDLE: usize = 64;

/// A client by `kubeconfig`, or by the service account of this pod. Nothing is connected yet. It belongs to the runtime that
/// it is made on.
///
/// It tries each request once; of time it limits only how long an answer takes to begin: whoever asks has a limit of his own. A request that is
/// given up takes its connection with it.
///
/// # Errors
///
/// When the configuration can't be read or used.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, ClientError> {
    let mut config = match kubeconfig {
        Some(file) => {
            let unusable = |error: kube::config::KubeconfigError| ClientError::Kubeconfig {
                file: file.to_owned(),
                problem: error.to_string(),
            };
            let kubeconfig = Kubeconfig::read_from(file).map_err(unusable)?;
            Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
        None => Config::incluster().map_err(|error| ClientError::NotInCluster(error.to_string()))?,
    };
    if let Some(proxy) = &config.proxy_url {
        return Err(ClientError::Unusable(format!("the proxy-url {proxy} of the kubeconfig is not supported")));
    }
    let unusable = |error: &dyn std::error::Error| ClientError::Unusable(error.to_string());
    let name = "user-agent".parse().map_err(|error| unusable(&error))?;
    config.headers.push((name, USER_AGENT.parse().map_err(|error| unusable(&error))?));
    by_config(config).map_err(|error| unusable(&error))
}

/// Not kube's own way of making one, which sets nothing of the connections, repeats requests up to 15 times, and logs each
/// failure as an error.
///
/// HTTP/1.1, as there: of a request that is given up there, nothing but its connection is left, and that is closed. Over
/// HTTP/2 it would stay, and the next requests with it.
fn by_config(config: Config) -> Result<Client, kube::Error> {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp.set_keepalive(Some(PROBE_AFTER));
    tcp.set_keepalive_interval(Some(PROBE_EVERY));
    tcp.set_tcp_user_timeout(Some(SILENCE));
    let tls = config.rustls_https_connector_with_connector(tcp)?;
    let connector = service_fn(move |to| {
        let connecting = tls.clone().oneshot(to);
        // one that hangs in its TLS handshake has not connected either
        Box::pin(async move { timeout(CONNECT_LIMIT, connecting).await.map_err(BoxError::from).flatten() })
    });
    let http = Pooled::builder(TokioExecutor::new())
        .pool_timer(TokioTimer::new())
        .pool_idle_timeout(IDLE)
        .pool_max_idle_per_host(MOST_IDLE)
        .build::<_, Body>(connector);
    let answered = service_fn(move |request| {
        let answer = http.request(request);
        async move { timeout(HEAD_LIMIT, answer).await.map_err(BoxError::from)?.map_err(BoxError::from) }
    });
    let service = ServiceBuilder::new()
        .layer(config.base_uri_layer())
        .option_layer(config.auth_layer()?)
        .layer(config.extra_headers_layer()?)
        .service(answered);
    Ok(Client::new(service, config.default_namespace))
}
