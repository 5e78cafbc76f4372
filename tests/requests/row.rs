//! One row of the table.

use std::collections::BTreeMap;

use countersign::proto::istio::v1::auth::IstioCertificateRequest;
use prost_types::{Struct, Value, value::Kind};
use tonic::Code;

use super::{certificates::ClientCertificate, facts::Facts};

pub(crate) const NOT_AUTHENTICATED: &str = "request authenticate failure";
pub(crate) const NOT_IMPERSONATED: &str = "request impersonation authentication failure";

/// A request, what comes with it, and its answer. Starts as a good one without proof.
#[derive(Clone)]
pub(crate) struct Row {
    pub(crate) name: String,
    pub(crate) authorization: Vec<String>,
    pub(crate) certificate: Option<ClientCertificate>,
    pub(crate) request: IstioCertificateRequest,
    pub(crate) expected: Expected,
}

/// What a row must be answered with.
#[derive(Clone, Debug)]
pub(crate) enum Expected {
    /// Exactly this.
    Refused(Code, String),
    /// A leaf of this ID, with the ID as common name too or not.
    Issued { id: String, common_name: bool },
}

impl Row {
    /// A good request that lacks a proof.
    pub(crate) fn new(name: &str, facts: &Facts) -> Self {
        let request = IstioCertificateRequest { csr: facts.csr.clone(), validity_duration: 3600, metadata: None };
        let expected = Expected::Refused(Code::Unauthenticated, NOT_AUTHENTICATED.to_owned());
        Self { name: name.to_owned(), authorization: Vec::new(), certificate: None, request, expected }
    }

    /// With the proof of `default/gateway`.
    pub(crate) fn proven(name: &str, facts: &Facts) -> Self {
        Self::new(name, facts).bearer(&facts.token)
    }

    pub(crate) fn authorization(mut self, value: &str) -> Self {
        self.authorization.push(value.to_owned());
        self
    }

    pub(crate) fn bearer(self, token: &str) -> Self {
        self.authorization(&format!("Bearer {token}"))
    }

    pub(crate) fn certificate(mut self, certificate: &ClientCertificate) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    pub(crate) fn csr(mut self, csr: impl Into<String>) -> Self {
        self.request.csr = csr.into();
        self
    }

    pub(crate) fn ttl(mut self, seconds: i64) -> Self {
        self.request.validity_duration = seconds;
        self
    }

    pub(crate) fn metadata(mut self, name: &str, value: Kind) -> Self {
        let metadata = self.request.metadata.get_or_insert_with(|| Struct { fields: BTreeMap::new() });
        metadata.fields.insert(name.to_owned(), Value { kind: Some(value) });
        self
    }

    pub(crate) fn impersonating(self, id: &str) -> Self {
        self.metadata("ImpersonatedIdentity", Kind::StringValue(id.to_owned()))
            .refused(Code::Unauthenticated, NOT_IMPERSONATED)
    }

    pub(crate) fn refused(mut self, code: Code, text: &str) -> Self {
        self.expected = Expected::Refused(code, text.to_owned());
        self
    }

    /// InvalidArgument, with istiod's text around this one.
    pub(crate) fn invalid(self, reason: &str) -> Self {
        self.refused(Code::InvalidArgument, &format!("CSR signing error ({reason})"))
    }

    pub(crate) fn issued(mut self, account: &str) -> Self {
        let (namespace, name) = account.split_once('/').unwrap();
        let id = format!("spiffe://cluster.local/ns/{namespace}/sa/{name}");
        self.expected = Expected::Issued { id, common_name: false };
        self
    }

    pub(crate) fn issued_with_common_name(self, account: &str) -> Self {
        let mut row = self.issued(account);
        if let Expected::Issued { common_name, .. } = &mut row.expected {
            *common_name = true;
        }
        row
    }
}
