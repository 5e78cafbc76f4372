//! gRPC server reflection, v1 and v1alpha.

use tonic::service::RoutesBuilder;
use tonic_reflection::server::{Builder, Error};

/// A request names a file or a symbol.
const MAX_MESSAGE: usize = 16 << 10;

/// Adds both versions for the services of `descriptors` and the health service.
///
/// # Errors
///
/// When the descriptors can't be decoded.
pub(super) fn add_reflection(routes: &mut RoutesBuilder, descriptors: &[u8]) -> Result<(), Error> {
    let builder = || {
        Builder::configure()
            .register_encoded_file_descriptor_set(descriptors)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    routes
        .add_service(builder().build_v1()?.max_decoding_message_size(MAX_MESSAGE))
        .add_service(builder().build_v1alpha()?.max_decoding_message_size(MAX_MESSAGE));
    Ok(())
}
