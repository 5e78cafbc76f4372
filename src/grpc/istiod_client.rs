//! istiod as the authority that requests are passed on to.

use std::{
    error::Error,
    iter::successors,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use hyper_util::client::legacy::connect::HttpConnector;
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::AsciiMetadataValue,
    transport::{Certificate, Channel, ClientTlsConfig, Endpoint},
};

use super::raw_message::GivesRaw;
use crate::{
    domain::x509::TrustBundle,
    service::ports::{AskError, BoxFuture, Istiod, PassedRequest},
};

/// Where istiod answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct IstiodEndpoint {
    /// `HOST:PORT`.
    pub address: String,
    /// The name that its certificate must have.
    pub server_name: String,
}

/// One connection for each address, kept while it is good.
pub struct IstiodClient {
    addresses: Vec<String>,
    server_names: Vec<String>,
    kept: Mutex<Vec<Option<Kept>>>,
}

#[derive(Clone)]
struct Kept {
    channel: Channel,
    roots: TrustBundle,
}

/// Takes a connection away unless the call on it has ended well: what is silent once would be silent again.
struct Suspected<'a> {
    client: &'a IstiodClient,
    index: usize,
    is_good: bool,
}

pub(super) const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// A connection is there within this time, its handshake done, or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// istiod ends connections that it is asked for a sign of life on more often than each 15 s.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

impl IstiodClient {
    /// Asks at these endpoints. Connects when it is needed.
    pub fn new(endpoints: Vec<IstiodEndpoint>) -> Self {
        let kept = Mutex::new(vec![None; endpoints.len()]);
        let (addresses, server_names) =
            endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint.server_name)).unzip();
        Self { addresses, server_names, kept }
    }

    async fn ask_at(
        &self,
        index: usize,
        roots: &TrustBundle,
        request: &PassedRequest,
    ) -> Result<Vec<String>, AskError> {
        let mut suspected = Suspected { client: self, index, is_good: false };
        let channel = self.channel(index, roots).map_err(AskError::Unreachable)?;
        let mut client = Grpc::new(channel);
        client.ready().await.map_err(|error| AskError::Unreachable(with_causes(&error)))?;
        let answer = client.unary(passed(request)?, PathAndQuery::from_static(CREATE_CERTIFICATE), GivesRaw).await;
        let answer = answer.map(|response| response.into_inner().cert_chain).map_err(|status| error_of(&status));
        suspected.is_good = !matches!(answer, Err(AskError::Unreachable(_)));
        answer
    }

    async fn connect(&self, index: usize, roots: &TrustBundle) -> Result<(), String> {
        let endpoint = self.endpoint(index, roots)?;
        let channel = endpoint.connect_with_connector(connector()).await.map_err(|error| with_causes(&error))?;
        self.keep(index, Some(Kept { channel, roots: roots.clone() }));
        Ok(())
    }

    fn channel(&self, index: usize, roots: &TrustBundle) -> Result<Channel, String> {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get(index).cloned().flatten();
        if let Some(kept) = kept.filter(|kept| kept.roots == *roots) {
            return Ok(kept.channel);
        }
        let channel = self.endpoint(index, roots)?.connect_with_connector_lazy(connector());
        self.keep(index, Some(Kept { channel: channel.clone(), roots: roots.clone() }));
        Ok(channel)
    }

    fn keep(&self, index: usize, channel: Option<Kept>) {
        if let Some(kept) = self.kept.lock().unwrap_or_else(PoisonError::into_inner).get_mut(index) {
            *kept = channel;
        }
    }

    fn endpoint(&self, index: usize, roots: &TrustBundle) -> Result<Endpoint, String> {
        let (Some(address), Some(server_name)) = (self.addresses.get(index), self.server_names.get(index)) else {
            return Err("no such address of istiod".to_owned());
        };
        let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(roots.to_pem())).domain_name(server_name);
        let endpoint =
            Endpoint::from_shared(format!("https://{address}")).and_then(|endpoint| endpoint.tls_config(tls));
        Ok(endpoint
            .map_err(|error| with_causes(&error))?
            .connect_timeout(CONNECT_LIMIT)
            .http2_keep_alive_interval(KEEPALIVE_EVERY)
            .keep_alive_timeout(KEEPALIVE_ANSWER))
    }
}

impl Istiod for IstiodClient {
    fn addresses(&self) -> &[String] {
        &self.addresses
    }

    fn ask<'a>(
        &'a self,
        address: usize,
        roots: &'a TrustBundle,
        request: &'a PassedRequest,
    ) -> BoxFuture<'a, Result<Vec<String>, AskError>> {
        Box::pin(self.ask_at(address, roots, request))
    }

    fn reach<'a>(&'a self, address: usize, roots: &'a TrustBundle) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.connect(address, roots))
    }
}

impl Drop for Suspected<'_> {
    fn drop(&mut self) {
        if !self.is_good {
            self.client.keep(self.index, None);
        }
    }
}

/// Given its connector, tonic limits the TLS handshake as well as the TCP connection.
fn connector() -> HttpConnector {
    let mut tcp = HttpConnector::new();
    tcp.enforce_http(false);
    tcp.set_nodelay(true);
    tcp
}

fn passed(request: &PassedRequest) -> Result<Request<Bytes>, AskError> {
    let value = |bytes: &[u8]| {
        let value = AsciiMetadataValue::try_from(bytes);
        value.map_err(|_malformed| AskError::NoCa("a header that no request can have had".into()))
    };
    let mut passed = Request::new(Bytes::from(request.message.clone()));
    let mut authorization = value(&request.authorization)?;
    authorization.set_sensitive(true);
    passed.metadata_mut().insert("authorization", authorization);
    for cluster in &request.clusters {
        passed.metadata_mut().append("clusterid", value(cluster)?);
    }
    Ok(passed)
}

/// What came off the wire has no cause; what has one happened on the way.
fn error_of(status: &Status) -> AskError {
    if let Some(cause) = status.source() {
        return AskError::Unreachable(with_causes(cause));
    }
    let (code, message) = (status.code(), status.message());
    if code == Code::Unavailable {
        AskError::NoCa(format!("not available: {message}"))
    } else if code == Code::Unimplemented {
        AskError::NoCa("no CA answers there: istiod's is switched off, or this is another port".into())
    } else {
        AskError::Refused { code: code.into(), message: message.to_owned() }
    }
}

fn with_causes(error: &dyn Error) -> String {
    let mut said = String::new();
    for cause in successors(Some(error), |&cause| cause.source()).map(ToString::to_string) {
        // the same thing is often said by each layer
        if said.is_empty() {
            said = cause;
        } else if !said.contains(&cause) {
            said = format!("{said}: {cause}");
        }
    }
    said
}
