//! istiod as the authority that requests are passed on to.

use std::{
    error::Error,
    io,
    iter::successors,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
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

use super::{
    ca_client::{CaEndpoint, CaRoots, tls::is_unknown_issuer},
    raw_message::GivesRaw,
};
use crate::{
    domain::x509::TrustBundle,
    service::{
        causes::with_causes,
        ports::{AskError, BoxFuture, Istiod, PassedRequest},
    },
};

/// One connection for each address, kept while it is good.
pub struct IstiodClient {
    addresses: Vec<String>,
    server_names: Vec<String>,
    roots: Arc<CaRoots>,
    kept: Mutex<Vec<Option<Arc<Kept>>>>,
}

struct Kept {
    channel: Channel,
    roots: TrustBundle,
}

/// Takes a connection away unless the call on it has ended well: what is silent once would be silent again. One that was made
/// since stays.
struct Suspected<'a> {
    client: &'a IstiodClient,
    index: usize,
    kept: Arc<Kept>,
    is_good: bool,
}

pub(super) const CREATE_CERTIFICATE: &str = "/istio.v1.auth.IstioCertificateService/CreateCertificate";

/// A connection is there within this time, its handshake done, or not at all.
const CONNECT_LIMIT: Duration = Duration::from_secs(1);
/// istiod ends connections that it is asked for a sign of life on more often than each 15 s.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);
const NO_ADDRESS: &str = "no such address of istiod";

impl IstiodClient {
    /// Asks at these endpoints. Connects when it is needed. When the roots that a caller knows don't verify istiod, `roots`, where
    /// they come from, is looked at again.
    pub fn new(endpoints: Vec<CaEndpoint>, roots: Arc<CaRoots>) -> Self {
        let kept = Mutex::new(vec![None; endpoints.len()]);
        let (addresses, server_names) =
            endpoints.into_iter().map(|endpoint| (endpoint.address, endpoint.server_name)).unzip();
        Self { addresses, server_names, roots, kept }
    }

    async fn ask_at(
        &self,
        index: usize,
        roots: &TrustBundle,
        request: &PassedRequest,
    ) -> Result<Vec<String>, AskError> {
        let kept = self.kept_for(index, roots).map_err(AskError::Unreachable)?;
        let mut client = Grpc::new(kept.channel.clone());
        let mut suspected = Suspected { client: self, index, kept, is_good: false };
        client.ready().await.map_err(|error| AskError::Unreachable(self.told(&error)))?;
        let answer = client.unary(passed(request)?, PathAndQuery::from_static(CREATE_CERTIFICATE), GivesRaw).await;
        let answer = answer.map(|response| response.into_inner().cert_chain).map_err(|status| self.error_of(&status));
        suspected.is_good = !matches!(answer, Err(AskError::Unreachable(_)));
        answer
    }

    async fn connect(&self, index: usize, roots: &TrustBundle) -> Result<(), String> {
        let endpoint = self.endpoint(index, roots)?;
        let channel = endpoint.connect_with_connector(connector()).await.map_err(|error| self.told(&error))?;
        if let Some(place) = self.all_kept().get_mut(index) {
            *place = Some(Arc::new(Kept { channel, roots: roots.clone() }));
        }
        Ok(())
    }

    /// The connection that is kept, made anew when the roots have changed.
    fn kept_for(&self, index: usize, roots: &TrustBundle) -> Result<Arc<Kept>, String> {
        let mut all = self.all_kept();
        let place = all.get_mut(index).ok_or(NO_ADDRESS)?;
        if let Some(kept) = place.as_ref().filter(|kept| kept.roots == *roots) {
            return Ok(Arc::clone(kept));
        }
        let channel = self.endpoint(index, roots)?.connect_with_connector_lazy(connector());
        Ok(Arc::clone(place.insert(Arc::new(Kept { channel, roots: roots.clone() }))))
    }

    fn all_kept(&self) -> MutexGuard<'_, Vec<Option<Arc<Kept>>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn endpoint(&self, index: usize, roots: &TrustBundle) -> Result<Endpoint, String> {
        let (Some(address), Some(server_name)) = (self.addresses.get(index), self.server_names.get(index)) else {
            return Err(NO_ADDRESS.to_owned());
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

    /// What came off the wire has no cause; what has one happened on the way.
    fn error_of(&self, status: &Status) -> AskError {
        if let Some(cause) = status.source() {
            return AskError::Unreachable(self.told(cause));
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

    fn told(&self, error: &(dyn Error + 'static)) -> String {
        if is_of_unknown_issuer(error) {
            self.roots.look_again();
        }
        with_causes(error)
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
        let mut all = self.client.all_kept();
        if let Some(place) = all.get_mut(self.index)
            && !self.is_good
            && place.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &self.kept))
        {
            *place = None;
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

/// Whether a certificate led to none of the roots.
fn is_of_unknown_issuer(error: &(dyn Error + 'static)) -> bool {
    successors(Some(error), |&error| error.source()).any(|cause| {
        // an I/O error passes over the one in it when it is asked for its source
        let inner = cause.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        inner.and_then(|inner| inner.downcast_ref()).is_some_and(is_unknown_issuer)
    })
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};
    use tonic::Status;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{grpc::testing::World, service::ca_roots::followed_roots};

    const SECOND: Duration = Duration::from_secs(1);

    fn client_of(address: &str, roots: CaRoots) -> IstiodClient {
        let endpoint = CaEndpoint { address: address.to_owned(), server_name: "localhost".into() };
        IstiodClient::new(vec![endpoint], Arc::new(roots))
    }

    fn request() -> PassedRequest {
        let authorization = Zeroizing::new(b"Bearer a.b.c".to_vec());
        PassedRequest { authorization, clusters: Vec::new(), message: Vec::new() }
    }

    fn kept_by(client: &IstiodClient) -> Option<Arc<Kept>> {
        client.all_kept()[0].clone()
    }

    #[tokio::test]
    async fn roots_are_looked_at_again_when_they_do_not_verify_istiod_and_for_no_other_reason() {
        let (world, other) = (World::new(), World::new());
        let istiod = world.good_ca().await;
        let (good, stale) = (world.authority.bundle(), other.authority.bundle());
        let (follower, followed) = followed_roots("ConfigMap a/b");
        let client = client_of(&istiod, CaRoots::new(Some(followed.clone()), None));
        assert!(client.ask(0, good, &request()).await.is_ok());
        let gone = client_of("127.0.0.1:1", CaRoots::new(Some(followed), None));
        assert!(gone.reach(0, good).await.is_err());
        assert!(timeout(SECOND / 20, follower.wanted().notified()).await.is_err(), "nobody had to look again");

        let refused = client.ask(0, stale, &request()).await;
        assert!(matches!(&refused, Err(AskError::Unreachable(said)) if said.contains("BadSignature")), "{refused:?}");
        timeout(SECOND, follower.wanted().notified()).await.expect("a call wants newer roots");
        assert!(client.reach(0, stale).await.unwrap_err().contains("BadSignature"));
        timeout(SECOND, follower.wanted().notified()).await.expect("a connection wants newer roots");
        assert!(client.ask(0, good, &request()).await.is_ok(), "and with them there is another connection");
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_takes_its_own_connection_away_and_none_that_was_made_since() {
        let world = World::new();
        let istiod = world.slow_ca(Err(Status::unavailable("later")), 3600 * SECOND).await;
        let client = client_of(&istiod, CaRoots::new(None, None));
        let (roots, request) = (world.authority.bundle(), request());
        assert!(timeout(SECOND / 10, client.ask(0, roots, &request)).await.is_err());
        assert!(kept_by(&client).is_none(), "what was silent is not asked again");

        tokio::select! {
            answer = client.ask(0, roots, &request) => panic!("{answer:?}"),
            () = sleep(SECOND / 10) => client.reach(0, roots).await.unwrap(),
        }
        assert!(kept_by(&client).is_some(), "the newer one had no part in it");
    }
}
