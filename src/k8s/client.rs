//! The client of the API server.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use kube::{
    Client, Config,
    config::{KubeConfigOptions, Kubeconfig},
};

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

/// An API server that does not even take the connection is not waited for longer.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);

/// A client by `kubeconfig`, or by the service account of this pod. Nothing is connected yet. It belongs to the runtime that
/// it is made on.
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
    config.connect_timeout = Some(CONNECT_LIMIT);
    // requests have limits of their own, and a watch may be silent for long
    config.read_timeout = None;
    config.write_timeout = None;
    Client::try_from(config).map_err(|error| ClientError::Unusable(error.to_string()))
}
