//! A client of a SPIFFE Workload API socket.

use std::path::Path;

use countersign::proto::{X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient};
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
