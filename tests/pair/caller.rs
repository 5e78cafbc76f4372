//! A client of the signing API.

use std::{error::Error, fs, io, path::Path, time::Duration};

use countersign::{
    domain::x509::PrivateKey,
    proto::istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};
use tonic::{
    ConnectError, Request, Status,
    transport::{Certificate as Root, Channel, ClientTlsConfig, Endpoint},
};

use crate::support::{
    certificate::Certificate,
    countersign::{root_file, write_token},
};

const CONNECT: Duration = Duration::from_secs(1);

/// Who asks: a token, a request to have signed, and the root that every answer must end with.
pub(crate) struct Caller {
    pub(crate) token: String,
    pub(crate) csr: String,
    root: String,
}

impl Caller {
    /// With a token from the data directory for `NAMESPACE/ACCOUNT`.
    pub(crate) fn new(data: &Path, account: &str) -> Self {
        let (namespace, name) = account.split_once('/').unwrap();
        let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}").parse().unwrap();
        let token_file = tempfile::NamedTempFile::new().unwrap();
        write_token(data, account, token_file.path());
        Self {
            token: fs::read_to_string(token_file.path()).unwrap().trim().to_owned(),
            csr: PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap(),
            root: fs::read_to_string(root_file(data)).unwrap(),
        }
    }

    /// A connection that is made when it is needed first, kept, and made anew when it was lost.
    pub(crate) fn connection(&self, port: u16) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Root::from_pem(&self.root)).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
        endpoint.tls_config(tls).unwrap().connect_timeout(CONNECT).tcp_nodelay(true).connect_lazy()
    }

    /// One certificate: its serial, as the issuance log writes it.
    pub(crate) async fn sign(&self, connection: &Channel) -> Result<String, Status> {
        self.sign_with(connection, &self.token, &self.csr).await
    }

    /// The same with another token and request.
    pub(crate) async fn sign_with(&self, connection: &Channel, token: &str, csr: &str) -> Result<String, Status> {
        let message = IstioCertificateRequest { csr: csr.to_owned(), validity_duration: 3600, metadata: None };
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        let response = IstioCertificateServiceClient::new(connection.clone()).create_certificate(request).await?;
        let chain = response.into_inner().cert_chain;
        assert_eq!(chain.last(), Some(&self.root), "the chain does not end with the root");
        Ok(Certificate::from_pem(&chain[0])[0].serial.clone())
    }
}

/// Whether a call failed before any server had it: there was nobody to connect to, or whoever listened left before it took the
/// connection, or the connection had been closed before the request was written. Every gRPC client may send such a call to another address.
pub(crate) fn was_never_sent(status: &Status) -> bool {
    let mut cause: Option<&(dyn Error + 'static)> = status.source();
    let mut connecting = false;
    while let Some(error) = cause {
        connecting |= error.is::<ConnectError>();
        let refused = error.downcast_ref::<io::Error>().is_some_and(|error| {
            let kind = error.kind();
            kind == io::ErrorKind::ConnectionRefused || connecting && kind == io::ErrorKind::ConnectionReset
        });
        if refused || error.to_string().starts_with("operation was canceled") {
            return true;
        }
        cause = error.source();
    }
    false
}
