//! The generated messages and services, in modules named as their packages; the Workload API's, which has none, stand at
//! the top. Only `grpc` names them: elsewhere a request or an identity is a domain type.

#![allow(missing_docs, unreachable_pub, unused_qualifications, reason = "generated code")]
#![allow(clippy::all, clippy::allow_attributes_without_reason, reason = "generated code")]
#![allow(clippy::clone_on_ref_ptr, clippy::missing_errors_doc, clippy::too_many_lines, reason = "generated code")]

/// `google.protobuf.Any` with a value that is shared, not copied: one secret goes to thousands of streams.
#[derive(Clone, PartialEq, Eq, Hash, ::prost::Message)]
pub struct Any {
    #[prost(string, tag = "1")]
    pub type_url: ::prost::alloc::string::String,
    #[prost(bytes = "bytes", tag = "2")]
    pub value: ::prost::bytes::Bytes,
}

include!(concat!(env!("OUT_DIR"), "/protos.rs"));

/// For reflection on the CA port.
pub const ISTIO_CA_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/istio_ca.bin"));
/// For reflection on the workload socket.
pub const WORKLOAD_DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/workload.bin"));
