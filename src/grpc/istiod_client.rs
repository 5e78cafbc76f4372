//! istiod as the authority that requests are passed on to, at one address.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use rustls::{ClientConfig, pki_types::ServerName};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codegen::http::uri::PathAndQuery,
    metadata::AsciiMetadataValue,
    transport::{Channel, Endpoint},
};

use super::{
    ca_client::{
        CaRoots,
        connection::{connector, endpoint},
        tls::{CaVerifier, client_config},
    },
    raw_message::{CREATE_CERTIFICATE, GivesRaw},
    rustls_parts::store_of,
    trace_context::calling,
};
use crate::{
    domain::{clock::Clock, x509::TrustBundle},
    service::{
        causes::with_causes,
        ports::{AskError, BoxFuture, Istiod, IstiodAddress, PassedRequest},
    },
};

/// One connection, kept while it is good.
pub struct IstiodClient {
    at: IstiodAddress,
    roots: Arc<CaRoots>,
    clock: Arc<dyn Clock>,
    kept: Mutex<Option<Arc<Kept>>>,
}

/// How to get to an address.
struct Way {
    endpoint: Endpoint,
    server_name: ServerName<'static>,
    tls: Arc<ClientConfig>,
}

struct Kept {
    channel: Channel,
    roots: TrustBundle,
}

/// Takes a connection away unless the call on it has ended well: what is silent once would be silent again. One that was made
/// since stays.
struct Suspected<'a> {
    client: &'a IstiodClient,
    kept: Arc<Kept>,
    is_good: bool,
}

/// istiod ends connections that it is asked for a sign of life on more often than each 15 s.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(20);
const KEEPALIVE_ANSWER: Duration = Duration::from_secs(5);

impl IstiodClient {
    /// Asks at this address. Connects when it is needed. When the roots that a caller knows don't verify istiod, `roots`, where
    /// they come from, is looked at again. Certificates are verified at the time of `clock`.
    pub fn new(at: IstiodAddress, roots: Arc<CaRoots>, clock: Arc<dyn Clock>) -> Self {
        Self { at, roots, clock, kept: Mutex::new(None) }
    }

    async fn call(&self, roots: &TrustBundle, request: &PassedRequest) -> Result<Vec<String>, AskError> {
        let kept = self.kept_for(roots).map_err(AskError::Unreachable)?;
        let mut client = Grpc::new(kept.channel.clone());
        let mut suspected = Suspected { client: self, kept, is_good: false };
        client.ready().await.map_err(|error| AskError::Unreachable(with_causes(&error)))?;
        let call = async |request| client.unary(request, PathAndQuery::from_static(CREATE_CERTIFICATE), GivesRaw).await;
        let answer = calling(CREATE_CERTIFICATE, &self.at.address, passed(request)?, call).await;
        let answer = answer.map(|response| response.into_inner().cert_chain).map_err(|status| error_of(&status));
        suspected.is_good = !matches!(answer, Err(AskError::Unreachable(_)));
        answer
    }

    async fn connect(&self, roots: &TrustBundle) -> Result<(), String> {
        let Way { endpoint, server_name, tls } = self.way(roots)?;
        let connecting = endpoint.connect_with_connector(connector(server_name, tls));
        let channel = connecting.await.map_err(|error| with_causes(&error))?;
        *self.kept() = Some(Arc::new(Kept { channel, roots: roots.clone() }));
        Ok(())
    }

    /// The connection that is kept, made anew when the roots have changed.
    fn kept_for(&self, roots: &TrustBundle) -> Result<Arc<Kept>, String> {
        let mut place = self.kept();
        if let Some(kept) = place.as_ref().filter(|kept| kept.roots == *roots) {
            return Ok(Arc::clone(kept));
        }
        let Way { endpoint, server_name, tls } = self.way(roots)?;
        let channel = endpoint.connect_with_connector_lazy(connector(server_name, tls));
        Ok(Arc::clone(place.insert(Arc::new(Kept { channel, roots: roots.clone() }))))
    }

    fn kept(&self) -> MutexGuard<'_, Option<Arc<Kept>>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn way(&self, roots: &TrustBundle) -> Result<Way, String> {
        let IstiodAddress { address, server_name, .. } = &self.at;
        let server_name = ServerName::try_from(server_name.clone());
        let server_name = server_name.map_err(|error| format!("the name of istiod's certificate: {error}"))?;
        let places = Arc::clone(&self.roots);
        let verifier =
            CaVerifier::new(vec![store_of(roots.roots())], Vec::new(), Box::new(move || places.look_again()));
        let tls = Arc::new(client_config(verifier, None, &self.clock)?);
        let endpoint =
            endpoint(address)?.http2_keep_alive_interval(KEEPALIVE_EVERY).keep_alive_timeout(KEEPALIVE_ANSWER);
        Ok(Way { endpoint, server_name, tls })
    }
}

/// What came off the wire has no cause; what has one happened on the way.
fn error_of(status: &Status) -> AskError {
    if let Some(cause) = std::error::Error::source(status) {
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

impl Istiod for IstiodClient {
    fn ask<'a>(
        &'a self,
        roots: &'a TrustBundle,
        request: &'a PassedRequest,
    ) -> BoxFuture<'a, Result<Vec<String>, AskError>> {
        Box::pin(self.call(roots, request))
    }

    fn reach<'a>(&'a self, roots: &'a TrustBundle) -> BoxFuture<'a, Result<(), String>> {
        Box::pin(self.connect(roots))
    }
}

impl Drop for Suspected<'_> {
    fn drop(&mut self) {
        let mut place = self.client.kept();
        if !self.is_good && place.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &self.kept)) {
            *place = None;
        }
    }
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rustls::HandshakeKind;
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::TcpListener,
        time::{sleep, timeout},
    };
    use tokio_rustls::TlsAcceptor;
    use tonic::Status;
    use tower::ServiceExt as _;
    use zeroize::Zeroizing;

    use super::*;
    use crate::{
        grpc::{
            server_tls::server_config,
            testing::{SystemNow, World},
        },
        service::ca_roots::followed_roots,
    };

    const SECOND: Duration = Duration::from_secs(1);

    fn client_of(address: &str, roots: CaRoots) -> IstiodClient {
        let at = IstiodAddress { name: "istiod".into(), address: address.to_owned(), server_name: "localhost".into() };
        IstiodClient::new(at, Arc::new(roots), Arc::new(SystemNow))
    }

    fn request() -> PassedRequest {
        let authorization = Zeroizing::new(b"Bearer a.b.c".to_vec());
        PassedRequest { authorization, clusters: Vec::new(), message: Vec::new() }
    }

    fn kept_by(client: &IstiodClient) -> Option<Arc<Kept>> {
        client.kept().clone()
    }

    #[tokio::test]
    async fn roots_are_looked_at_again_when_they_do_not_verify_istiod_and_for_no_other_reason() {
        let (world, other) = (World::new(), World::new());
        let istiod = world.good_ca().await;
        let (good, stale) = (world.authority.bundle(), other.authority.bundle());
        let (follower, followed) = followed_roots("ConfigMap a/b");
        let client = client_of(&istiod, CaRoots::new(Some(followed.clone()), None));
        assert!(client.ask(good, &request()).await.is_ok());
        let gone = client_of("127.0.0.1:1", CaRoots::new(Some(followed), None));
        assert!(gone.reach(good).await.is_err());
        assert!(timeout(SECOND / 20, follower.wanted().notified()).await.is_err(), "nobody had to look again");

        let refused = client.ask(stale, &request()).await;
        assert!(matches!(&refused, Err(AskError::Unreachable(said)) if said.contains("UnknownIssuer")), "{refused:?}");
        timeout(SECOND, follower.wanted().notified()).await.expect("a call wants newer roots");
        assert!(client.reach(stale).await.unwrap_err().contains("UnknownIssuer"));
        timeout(SECOND, follower.wanted().notified()).await.expect("a connection wants newer roots");
        assert!(client.ask(good, &request()).await.is_ok(), "and with them there is another connection");
    }

    #[tokio::test]
    async fn the_clusters_that_a_caller_has_named_are_passed_on_as_they_came() {
        let world = World::new();
        let chain = world.issued().1;
        for clusters in [&[][..], &["east"], &["east", "West ;"]] {
            let answer = chain.clone();
            let istiod = world.looking_ca(move |request| {
                let named: Vec<_> = request.metadata().get_all("clusterid").iter().collect();
                if named == clusters { Ok(answer.clone()) } else { Err(Status::internal(format!("{named:?}"))) }
            });
            let client = client_of(&istiod.await, CaRoots::new(None, None));
            let clusters = clusters.iter().map(|cluster| cluster.as_bytes().to_vec()).collect();
            let asked = client.ask(world.authority.bundle(), &PassedRequest { clusters, ..request() }).await;
            assert!(asked.is_ok(), "{asked:?}");
        }
    }

    #[tokio::test]
    async fn a_call_that_is_given_up_takes_its_own_connection_away_and_none_that_was_made_since() {
        let world = World::new();
        let istiod = world.slow_ca(Err(Status::unavailable("later")), 3600 * SECOND).await;
        let client = client_of(&istiod, CaRoots::new(None, None));
        let (roots, request) = (world.authority.bundle(), request());
        assert!(timeout(SECOND / 10, client.ask(roots, &request)).await.is_err());
        assert!(kept_by(&client).is_none(), "what was silent is not asked again");

        tokio::select! {
            answer = client.ask(roots, &request) => panic!("{answer:?}"),
            () = sleep(SECOND / 10) => client.reach(roots).await.unwrap(),
        }
        assert!(kept_by(&client).is_some(), "the newer one had no part in it");
    }

    #[tokio::test]
    async fn each_connection_verifies_istiod_anew() {
        let world = World::new();
        let clock: Arc<dyn Clock> = Arc::new(SystemNow);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let acceptor = TlsAcceptor::from(server_config(&world.issued().0, &clock).unwrap());
        let handshakes = tokio::spawn(async move {
            let (mut handshakes, mut open) = (Vec::new(), Vec::new());
            for _ in 0..2 {
                let mut stream = acceptor.accept(listener.accept().await.unwrap().0).await.unwrap();
                stream.write_all(b"a ticket was before this").await.unwrap();
                stream.flush().await.unwrap();
                handshakes.push(stream.get_ref().1.handshake_kind());
                open.push(stream);
            }
            handshakes
        });
        // as its channel does when a connection has ended
        let client = client_of(&address, CaRoots::new(None, None));
        let Way { server_name, tls, .. } = client.way(world.authority.bundle()).unwrap();
        for _ in 0..2 {
            let connecting = connector(server_name.clone(), Arc::clone(&tls));
            let stream = connecting.oneshot(format!("http://{address}").parse().unwrap()).await.unwrap();
            stream.into_inner().read_exact(&mut [0; 8]).await.unwrap();
        }
        assert_eq!(handshakes.await.unwrap(), [Some(HandshakeKind::Full); 2]);
    }
}
