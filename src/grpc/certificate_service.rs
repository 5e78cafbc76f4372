//! `istio.v1.auth.IstioCertificateService`: messages to the use case and back.

use std::{net::IpAddr, sync::Arc};

use tokio::sync::Semaphore;
use tonic::{Code, Request, Response, Status};
use tracing::{debug, info, warn};

use super::{
    authentication::{PeerConnection, evidence_of},
    raw_message::CREATE_CERTIFICATE,
    status::status_of,
    trace_context::{answering, callers_context},
};
use crate::{
    proto::istio::v1::auth::{
        IstioCertificateRequest, IstioCertificateResponse, istio_certificate_service_server::IstioCertificateService,
    },
    service::{
        create_certificate::{CreateCertificate, CreateError, ErrorKind},
        line_limit::{Line, LineLimit},
        ports::SigningRequest,
    },
};

/// The signing API.
pub(super) struct CertificateService {
    create: Arc<CreateCertificate>,
    /// Of refusals, by the caller's address.
    lines: LineLimit<ErrorKind, Option<IpAddr>>,
}

impl CertificateService {
    /// Over the use case.
    pub(super) fn new(create: Arc<CreateCertificate>) -> Self {
        Self { create, lines: LineLimit::default() }
    }

    async fn answer(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let (metadata, extensions, message) = request.into_parts();
        let evidence = evidence_of(&metadata, &extensions);
        let peer = extensions.get::<PeerConnection>();
        let nobody_waits = Semaphore::const_new(0);
        let held = peer.map_or(&nobody_waits, |peer| &peer.held);
        match self.create.answer(&signing_request(message), &evidence, held).await {
            Ok(cert_chain) => Ok(Response::new(IstioCertificateResponse { cert_chain })),
            Err(error) => {
                let status = status_of(&error);
                say(self.lines.line(error.kind(), evidence.source), peer, status.code(), &error);
                Err(status)
            }
        }
    }
}

#[tonic::async_trait]
impl IstioCertificateService for CertificateService {
    async fn create_certificate(
        &self,
        request: Request<IstioCertificateRequest>,
    ) -> Result<Response<IstioCertificateResponse>, Status> {
        let caller = callers_context(request.metadata());
        answering(CREATE_CERTIFICATE, caller, self.answer(request)).await
    }
}

fn say(line: Option<Line>, peer: Option<&PeerConnection>, code: Code, error: &CreateError) {
    let peer = peer.map(|peer| peer.address.to_string()).unwrap_or_default();
    let Some(Line { left_out }) = line else {
        debug!(event = "create_certificate_refused", peer, ?code, reason = %error);
        return;
    };
    if code == Code::Unavailable {
        warn!(event = "create_certificate_unavailable", peer, reason = %error, left_out);
    } else {
        info!(event = "create_certificate_refused", peer, ?code, reason = %error, left_out);
    }
}

/// The parts of the message that signing looks at. `CertSigner` names a signer of istiod's registration authority, which
/// the built-in CA ignores, as this one does.
pub(super) fn signing_request(message: IstioCertificateRequest) -> SigningRequest {
    let impersonated = message
        .metadata
        .and_then(|mut metadata| metadata.fields.remove("ImpersonatedIdentity"))
        .and_then(|value| match value.kind {
            Some(prost_types::value::Kind::StringValue(text)) => Some(text),
            _ => None,
        })
        .unwrap_or_default();
    SigningRequest::new(message.csr, message.validity_duration, impersonated)
}
