//! Asking a pair for JWT-SVIDs, on its CA port, with the proofs that go with a request for a certificate.

use std::sync::Arc;

use tonic::Request;

use super::{
    ca_client::{CaClient, Heard, Question},
    jwt_service::minted_of,
    trace_context::{MINT, calling},
};
use crate::{
    domain::jwt::Audiences,
    proto::countersign::trust::v1::{MintRequest, MintResponse, jwt_service_client::JwtServiceClient},
    service::ports::{BoxFuture, JwtMinter, MintedJwtSvid, NotMinted, SignError},
};

/// The replicas that a client reaches.
pub struct PairMinter(Arc<CaClient>);

impl PairMinter {
    /// By `replicas`, to whom the caller proves itself as for a certificate.
    pub const fn new(replicas: Arc<CaClient>) -> Self {
        Self(replicas)
    }
}

impl JwtMinter for PairMinter {
    fn mint<'a>(&'a self, audiences: &'a Audiences) -> BoxFuture<'a, Result<MintedJwtSvid, NotMinted>> {
        Box::pin(async move {
            let heard = Heard::default();
            let call = |question: Question| {
                let audiences = audiences.as_slice().to_vec();
                let mut request = Request::new(MintRequest { audiences, ..MintRequest::default() });
                self.0.add_extras(request.metadata_mut());
                let address = question.address.clone();
                let (channel, request) = question.bring(request);
                let heard = &heard;
                async move {
                    let mint = async |request| JwtServiceClient::new(channel).mint(request).await;
                    let answer = calling(MINT, &address, request, mint).await;
                    heard.note(answer.as_ref().err());
                    answer.map(tonic::Response::into_inner)
                }
            };
            let accept = |answer: MintResponse| minted_of(answer).map_err(SignError::Answer);
            let answer = self.0.ask_anywhere(call, accept).await;
            answer.map_err(|error| {
                if heard.is_that_none_is_offered() {
                    NotMinted::NotOffered(error.to_string())
                } else if heard.is_that_it_is_denied() {
                    NotMinted::Denied(error.to_string())
                } else {
                    error.into()
                }
            })
        })
    }
}
