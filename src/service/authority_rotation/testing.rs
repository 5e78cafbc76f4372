//! A pair without another replica.

use super::{OrderError, RotationOfActive, RotationOrder, RotationReport};
use crate::service::ports::{BoxFuture, ByActive};

/// Nobody else is active.
pub(in crate::service) struct Alone;

impl RotationOfActive for Alone {
    fn rotate<'a>(
        &'a self,
        _: &'a RotationOrder,
        _: u32,
    ) -> BoxFuture<'a, Result<ByActive<RotationReport>, OrderError>> {
        Box::pin(std::future::ready(Err(OrderError::NotActive)))
    }
}
