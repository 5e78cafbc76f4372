//! A client of the signing API that shows the whole answer.

use std::{fs, path::Path, time::Duration};

use countersign::{
    domain::x509::PrivateKey,
    proto::istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};
use tokio::runtime::{Builder, Runtime};
use tonic::{
    Request, Status,
    transport::{Certificate as Root, Channel, ClientTlsConfig, Endpoint},
};

use super::countersign::write_token;

const CONNECT: Duration = Duration::from_secs(2);

/// Who asks, and what it trusts.
pub(crate) struct Caller {
    token: String,
    csr: String,
    roots: String,
    runtime: Runtime,
}

impl Caller {
    /// With a token of the data directory; the servers' certificates are verified to `roots`.
    pub(crate) fn new(data: &Path, roots: &str) -> Self {
        let token = tempfile::NamedTempFile::new().unwrap();
        write_token(data, "default/caller", token.path());
        Self::with_token(&fs::read_to_string(token.path()).unwrap(), roots)
    }

    /// With a token of `default/caller` in trust domain `cluster.local`.
    pub(crate) fn with_token(token: &str, roots: &str) -> Self {
        let id = "spiffe://cluster.local/ns/default/sa/caller".parse().unwrap();
        Self {
            token: token.trim().to_owned(),
            csr: PrivateKey::generate_p256().unwrap().certificate_request(&id).unwrap(),
            roots: roots.to_owned(),
            runtime: Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap(),
        }
    }

    /// What servers are verified to from the next connection on.
    pub(crate) fn trust(&mut self, roots: &str) {
        roots.clone_into(&mut self.roots);
    }

    /// A connection that is made when it is needed first, and kept.
    pub(crate) fn connection(&self, port: u16) -> Channel {
        let tls = ClientTlsConfig::new().ca_certificate(Root::from_pem(&self.roots)).domain_name("localhost");
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap();
        let _inside = self.runtime.enter();
        endpoint.tls_config(tls).unwrap().connect_timeout(CONNECT).tcp_nodelay(true).connect_lazy()
    }

    /// The elements of an answer on a kept connection.
    pub(crate) fn ask(&self, connection: &Channel) -> Result<Vec<String>, Status> {
        let message = IstioCertificateRequest { csr: self.csr.clone(), validity_duration: 3600, metadata: None };
        let mut request = Request::new(message);
        request.metadata_mut().insert("authorization", format!("Bearer {}", self.token).parse().unwrap());
        let mut client = IstioCertificateServiceClient::new(connection.clone());
        let answer = self.runtime.block_on(client.create_certificate(request))?;
        Ok(answer.into_inner().cert_chain)
    }

    /// The same on a connection of its own.
    pub(crate) fn ask_anew(&self, port: u16) -> Result<Vec<String>, Status> {
        self.ask(&self.connection(port))
    }
}
