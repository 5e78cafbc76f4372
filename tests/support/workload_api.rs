//! A client of a SPIFFE Workload API socket.

use std::{collections::HashMap, path::Path};

use bytes::Bytes;
use countersign::proto::{
    X509BundlesRequest, X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tokio::runtime::Builder;
use tonic::{
    Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

/// A request with the header that the socket asks for.
pub(crate) fn secured<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    request
}

/// On a new connection.
pub(crate) async fn connect(socket: &Path) -> Result<SpiffeWorkloadApiClient<Channel>, Status> {
    let endpoint = Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    let channel = endpoint.connect().await.map_err(|error| Status::unavailable(format!("no connection: {error}")))?;
    Ok(SpiffeWorkloadApiClient::new(channel))
}

/// The identity now, and each later one, on a new connection.
pub(crate) async fn x509_svids(socket: &Path) -> Result<Streaming<X509svidResponse>, Status> {
    Ok(connect(socket).await?.fetch_x509svid(secured(X509svidRequest {})).await?.into_inner())
}

/// The bundles now, DER by trust domain, for callers without a runtime.
pub(crate) fn x509_bundles(socket: &Path) -> Result<HashMap<String, Bytes>, Status> {
    let runtime = Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let request = secured(X509BundlesRequest {});
        let answer = connect(socket).await?.fetch_x509_bundles(request).await?.into_inner().message().await?;
        answer.map(|answer| answer.bundles).ok_or_else(|| Status::unavailable("the stream ended"))
    })
}
