//! The identities on a workload socket, as any client of the SPIFFE Workload API sees them.

use std::{path::Path, pin::Pin};

use futures_util::{Stream, StreamExt as _};
use spiffe::{WorkloadApiClient, X509Context};

use crate::domain::x509::Certificate;

/// One stream of them, open for the whole quickstart: it must not break.
pub(super) struct IdentityStream(Pin<Box<dyn Stream<Item = Result<X509Context, String>> + Send>>);

impl IdentityStream {
    /// Asks for them.
    pub(super) async fn open(socket: &Path) -> Result<Self, String> {
        let client = WorkloadApiClient::connect_to(uri(socket)).await.map_err(|error| error.to_string())?;
        let contexts = client.stream_x509_contexts().await.map_err(|error| error.to_string())?;
        Ok(Self(Box::pin(contexts.map(|context| context.map_err(|error| error.to_string())))))
    }

    /// The certificate of the next identity.
    pub(super) async fn next(&mut self) -> Result<Certificate, String> {
        let context = self.0.next().await.ok_or("the agent ended the stream")??;
        let leaf =
            context.default_svid().and_then(|svid| svid.cert_chain().first()).ok_or("no identity in the answer")?;
        Certificate::from_der(leaf.as_bytes()).map_err(|error| error.to_string())
    }
}

/// As clients are told of a socket.
pub(super) fn uri(socket: &Path) -> String {
    format!("unix://{}", socket.display())
}
