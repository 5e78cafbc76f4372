//! A client that proves itself by a token, by a certificate, or by both.

use std::{fs, path::Path};

use countersign::{
    domain::x509::PrivateKey,
    proto::istio::v1::auth::{
        IstioCertificateRequest, istio_certificate_service_client::IstioCertificateServiceClient,
    },
};
use tonic::{
    Code, Request, Status,
    transport::{Certificate as Root, ClientTlsConfig, Endpoint, Identity},
};

use crate::{
    caller::Caller,
    support::{certificate::Certificate, countersign::root_file},
};

/// A service account's key and token.
pub(crate) struct Client {
    caller: Caller,
    key: PrivateKey,
    csr: String,
    root: String,
}

/// A certificate that was issued, for the client's key.
pub(crate) struct Svid {
    pub(crate) serial: String,
    chain: String,
}

impl Client {
    /// With a token from the data directory for `NAMESPACE/ACCOUNT`.
    pub(crate) fn new(data: &Path, account: &str) -> Self {
        let key = PrivateKey::generate_p256().unwrap();
        let csr = key.certificate_request(&id(account).parse().unwrap()).unwrap();
        Self { caller: Caller::new(data, account), key, csr, root: fs::read_to_string(root_file(data)).unwrap() }
    }

    /// By the token alone.
    pub(crate) fn by_token(&self, port: u16) -> Result<Svid, Status> {
        self.ask(port, true, None)
    }

    /// By a certificate alone.
    pub(crate) fn by_certificate(&self, port: u16, svid: &Svid) -> Result<Svid, Status> {
        self.ask(port, false, Some(svid))
    }

    /// By both.
    pub(crate) fn by_both(&self, port: u16, svid: &Svid) -> Result<Svid, Status> {
        self.ask(port, true, Some(svid))
    }

    fn ask(&self, port: u16, token: bool, svid: Option<&Svid>) -> Result<Svid, Status> {
        let mut tls = ClientTlsConfig::new().ca_certificate(Root::from_pem(&self.root)).domain_name("localhost");
        if let Some(svid) = svid {
            tls = tls.identity(Identity::from_pem(&svid.chain, self.key.to_pem().as_bytes()));
        }
        let endpoint = Endpoint::from_shared(format!("https://127.0.0.1:{port}")).unwrap().tls_config(tls).unwrap();
        let message = IstioCertificateRequest { csr: self.csr.clone(), validity_duration: 3600, metadata: None };
        let mut request = Request::new(message);
        if token {
            let bearer = format!("Bearer {}", self.caller.token);
            request.metadata_mut().insert("authorization", bearer.parse().unwrap());
        }
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let chain = runtime.block_on(async {
            let channel = endpoint.connect().await.expect("a connection");
            let answer = IstioCertificateServiceClient::new(channel).create_certificate(request).await?;
            Ok::<_, Status>(answer.into_inner().cert_chain)
        })?;
        let serial = Certificate::from_pem(&chain[0])[0].serial.clone();
        Ok(Svid { serial, chain: chain[..chain.len() - 1].concat() })
    }
}

/// The ID of an account.
pub(crate) fn id(account: &str) -> String {
    let (namespace, name) = account.split_once('/').unwrap();
    format!("spiffe://cluster.local/ns/{namespace}/sa/{name}")
}

/// Checks that an answer is the refusal of one whom nobody knows, and tells nothing.
#[track_caller]
pub(crate) fn assert_refused(answer: Result<Svid, Status>) {
    let Err(status) = answer else { panic!("a certificate was issued") };
    assert_eq!((status.code(), status.message()), (Code::Unauthenticated, "request authenticate failure"));
}
