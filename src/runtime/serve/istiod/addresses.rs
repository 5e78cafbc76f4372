//! Where istiod is asked: at the addresses that are given, or in Kubernetes at those of its Services.

use tokio::sync::watch;

use crate::{
    runtime::{
        config::{CaAddress, IstiodConfig},
        serve::ServeFailed,
        shutdown::Shutdown,
        supervisor::Supervisor,
    },
    service::ports::{IstiodAddress, IstiodAddresses},
};

/// Begins to follow them, if they are not given.
#[cfg_attr(
    not(feature = "kubernetes"),
    expect(
        unused_variables,
        clippy::needless_pass_by_ref_mut,
        clippy::unused_async,
        reason = "only Kubernetes has Services"
    )
)]
pub(super) async fn start(
    istiod: &IstiodConfig,
    shutdown: &Shutdown,
    supervisor: &mut Supervisor,
) -> Result<watch::Receiver<IstiodAddresses>, ServeFailed> {
    let given: IstiodAddresses = istiod.addresses.iter().map(address).collect();
    #[cfg(feature = "kubernetes")]
    if let Some(cluster) = istiod.cluster.as_ref().filter(|cluster| cluster.finds_istiods)
        && let [otherwise] = &*given
    {
        use crate::{
            k8s::{client::client, istiod_services::follow_istiod_services},
            runtime::serve::until,
            service::istiod_services::IstiodServices,
        };
        let client = client(cluster.kubeconfig.as_deref()).await.map_err(ServeFailed::of)?;
        let (services, addresses) = IstiodServices::new(&cluster.istio_namespace, otherwise.clone());
        let following = async move { match follow_istiod_services(&client, services).await {} };
        supervisor.spawn("istiod's Services", until(shutdown, following));
        return Ok(addresses);
    }
    Ok(watch::channel(given).1)
}

fn address(of: &CaAddress) -> IstiodAddress {
    let endpoint = of.endpoint();
    IstiodAddress { name: endpoint.address.clone(), address: endpoint.address, server_name: endpoint.server_name }
}

/// What is asked, for people.
pub(super) fn in_words(istiod: &IstiodConfig) -> String {
    let addresses: Vec<_> = istiod.addresses.iter().map(|address| address.endpoint().address).collect();
    let given = addresses.join(", ");
    match &istiod.cluster {
        Some(cluster) if cluster.finds_istiods => {
            format!("the Services with label app=istiod in namespace {}, or else {given}", cluster.istio_namespace)
        }
        _ => given,
    }
}
