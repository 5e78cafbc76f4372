//! One call at one address, with what is brought to it.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use tokio::time::timeout;
use tonic::{
    Request, Status, client::Grpc, codegen::http::uri::PathAndQuery, metadata::AsciiMetadataValue, transport::Channel,
};
use tonic_prost::ProstCodec;

use super::ATTEMPT_LIMIT;
use crate::{
    grpc::{raw_message::CREATE_CERTIFICATE, trace_context::calling},
    proto::istio::v1::auth::{IstioCertificateRequest, IstioCertificateResponse},
};

/// A call that is to be made.
pub(in crate::grpc) struct Question {
    /// Where.
    pub(in crate::grpc) address: String,
    pub(super) channel: Channel,
    pub(super) bearer: Option<AsciiMetadataValue>,
    pub(super) taken: Taken,
}

/// Whether somebody has taken the request and will say what comes of it.
#[derive(Clone, Default)]
pub(super) struct Taken(Arc<AtomicBool>);

impl Taken {
    pub(super) fn is_taken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn set(&self, is_taken: bool) {
        self.0.store(is_taken, Ordering::Relaxed);
    }
}

impl Question {
    /// The channel, and the request with its token, if there is one to bring.
    pub(in crate::grpc) fn bring<T>(self, mut request: Request<T>) -> (Channel, Request<T>) {
        if let Some(bearer) = self.bearer {
            request.metadata_mut().insert("authorization", bearer);
        }
        (self.channel, request)
    }

    /// Asks for a certificate. A pair that passes requests on sends the head of its answer as soon as it has one.
    pub(super) async fn create_certificate(
        self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Vec<String>, Status> {
        let (taken, address) = (self.taken.clone(), self.address.clone());
        let (channel, request) = self.bring(request);
        // the endpoint's own limit ends with the head of the answer
        calling(CREATE_CERTIFICATE, &address, request, async |request| {
            let answer = timeout(ATTEMPT_LIMIT, create_certificate(channel, request, &taken)).await;
            answer.map_err(|_elapsed| Status::deadline_exceeded("no whole answer"))?
        })
        .await
    }
}

/// As a generated client does it, but the head is noticed.
async fn create_certificate(
    channel: Channel,
    request: Request<IstioCertificateRequest>,
    taken: &Taken,
) -> Result<Vec<String>, Status> {
    let mut client = Grpc::new(channel);
    client.ready().await.map_err(|error| Status::from_error(error.into()))?;
    let codec = ProstCodec::<IstioCertificateRequest, IstioCertificateResponse>::default();
    let answer = client.server_streaming(request, PathAndQuery::from_static(CREATE_CERTIFICATE), codec).await?;
    taken.set(true);
    let mut answer = answer.into_inner();
    let message = answer.message().await?.ok_or_else(|| Status::internal("an answer without a message"))?;
    answer.trailers().await?;
    Ok(message.cert_chain)
}
