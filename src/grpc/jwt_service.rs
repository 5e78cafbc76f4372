//! `countersign.trust.v1.JwtService`: messages to the use case and back, for callers and between replicas.

use std::{net::IpAddr, sync::Arc, time::Duration};

use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};
use zeroize::Zeroize as _;

use super::{
    authentication::{PeerConnection, evidence_of},
    status::status_of_mint,
    trace_context::{MINT, answering, callers_context},
};
use crate::{
    domain::{identity::SpiffeIdError, jwt::Audiences},
    proto::countersign::trust::v1::{MintRequest, MintResponse, jwt_service_server::JwtService},
    service::{
        create_certificate::{CreateError, ErrorKind},
        line_limit::{Line, LineLimit},
        mint_jwt_svid::MintJwtSvid,
        ports::{JwtSvidRequest, MintedJwtSvid},
    },
};

/// The service.
pub(super) struct JwtMint {
    mint: Arc<MintJwtSvid>,
    /// Of refusals, by the caller's address.
    lines: LineLimit<ErrorKind, Option<IpAddr>>,
}

impl JwtMint {
    /// Over the use case.
    pub(super) fn new(mint: Arc<MintJwtSvid>) -> Self {
        Self { mint, lines: LineLimit::default() }
    }

    async fn answer(&self, request: Request<MintRequest>) -> Result<Response<MintResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let evidence = evidence_of(&metadata, &extensions);
        let peer = extensions.get::<PeerConnection>();
        let nobody_waits = Semaphore::const_new(0);
        let held = peer.map_or(&nobody_waits, |peer| &peer.held);
        match self.mint.answer(&jwt_svid_request(message)?, &evidence, held).await {
            Ok(minted) => Ok(Response::new(mint_response(&minted))),
            Err(error) => {
                let status = status_of_mint(&error);
                say(self.lines.line(error.kind(), evidence.source), peer, status.code(), &error);
                Err(status)
            }
        }
    }
}

#[tonic::async_trait]
impl JwtService for JwtMint {
    async fn mint(&self, request: Request<MintRequest>) -> Result<Response<MintResponse>, Status> {
        let caller = callers_context(request.metadata());
        answering(MINT, caller, self.answer(request)).await
    }
}

/// Where istiod signs: what it signs is certificates.
pub(super) struct NoJwtMint;

#[tonic::async_trait]
impl JwtService for NoJwtMint {
    async fn mint(&self, _request: Request<MintRequest>) -> Result<Response<MintResponse>, Status> {
        Err(Status::unimplemented(
            "this pair passes requests on to istiod, which mints no JWT-SVIDs: set jwtSvids of `countersign serve` to true, or ask a \
             pair with an authority of its own",
        ))
    }
}

fn say(line: Option<Line>, peer: Option<&PeerConnection>, code: Code, error: &CreateError) {
    let peer = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
    let Some(Line { left_out }) = line else {
        debug!(event = "jwt_svid_refused", peer, ?code, reason = %error);
        return;
    };
    if code == Code::Unavailable {
        warn!(event = "jwt_svid_unavailable", peer, reason = %error, left_out);
    } else {
        info!(event = "jwt_svid_refused", peer, ?code, reason = %error, left_out);
    }
}

/// What the message asks for, if it can be.
pub(super) fn jwt_svid_request(message: MintRequest) -> Result<JwtSvidRequest, Status> {
    let audiences = Audiences::new(message.audiences).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let id = (!message.spiffe_id.is_empty()).then(|| message.spiffe_id.parse()).transpose();
    let id = id.map_err(|error: SpiffeIdError| Status::invalid_argument(format!("spiffe_id: {error}")))?;
    let lifetime = u64::try_from(message.ttl_seconds)
        .map_err(|_negative| Status::invalid_argument("ttl_seconds: it is negative"))?;
    Ok(JwtSvidRequest { audiences, id, lifetime: (lifetime != 0).then(|| Duration::from_secs(lifetime)) })
}

pub(super) fn mint_request(request: &JwtSvidRequest) -> MintRequest {
    MintRequest {
        audiences: request.audiences.as_slice().to_vec(),
        spiffe_id: request.id.as_ref().map(ToString::to_string).unwrap_or_default(),
        ttl_seconds: request.lifetime.map_or(0, |lifetime| i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX)),
    }
}

pub(super) fn mint_response(minted: &MintedJwtSvid) -> MintResponse {
    MintResponse { token: minted.token.to_string(), spiffe_id: minted.id.to_string() }
}

/// What an answer holds; `Err` says what is wrong with it.
pub(super) fn minted_of(mut response: MintResponse) -> Result<MintedJwtSvid, String> {
    let id = response.spiffe_id.parse();
    let id = id.map_err(|error: SpiffeIdError| format!("spiffe_id: {error}"))?;
    Ok(MintedJwtSvid { token: std::mem::take(&mut response.token).into(), id })
}

/// On both sides: the token is a secret, and a message is dropped once it is written or read.
impl Drop for MintResponse {
    fn drop(&mut self) {
        self.token.zeroize();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(audiences: &[&str], spiffe_id: &str, ttl_seconds: i64) -> MintRequest {
        let audiences = audiences.iter().map(|&audience| audience.to_owned()).collect();
        MintRequest { audiences, spiffe_id: spiffe_id.to_owned(), ttl_seconds }
    }

    #[test]
    fn what_is_sent_is_what_is_read() {
        for sent in [message(&["a", "b"], "", 0), message(&["a"], "spiffe://td/ns/a/sa/b", 60)] {
            assert_eq!(mint_request(&jwt_svid_request(sent.clone()).unwrap()), sent);
        }
        let minted = MintedJwtSvid { token: "a.b.c".to_owned().into(), id: "spiffe://td/x".parse().unwrap() };
        assert_eq!(minted_of(mint_response(&minted)), Ok(minted));
    }

    #[test]
    fn what_can_not_be_asked_for_is_an_invalid_argument() {
        for (sent, text) in [
            (message(&[], "", 0), "audience must be specified"),
            (message(&["a", ""], "", 0), "an audience is empty: name whom the token is for"),
            (message(&["a"], "", -1), "ttl_seconds: it is negative"),
        ] {
            let status = jwt_svid_request(sent).unwrap_err();
            assert_eq!((status.code(), status.message()), (Code::InvalidArgument, text));
        }
        let status = jwt_svid_request(message(&["a"], "https://td/x", 0)).unwrap_err();
        assert!(status.message().starts_with("spiffe_id: "), "{status}");
    }
}
