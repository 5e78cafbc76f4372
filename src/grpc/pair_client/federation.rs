//! What operators of this replica want of other trust domains, done by the active.

use super::{PairClient, orders::nonsense};
use crate::{
    grpc::federation_messages::{domains_of, wire_order},
    proto::countersign::v1::{ForwardedFederationOrder, pair_service_client::PairServiceClient},
    service::{
        federation::{FederatedDomain, FederationOfActive, FederationOrder, ORDER_LIMIT},
        ports::{BoxFuture, ByActive, OrderError},
    },
};

impl PairClient {
    async fn pass_on(
        &self,
        order: &FederationOrder,
        actor_uid: u32,
    ) -> Result<ByActive<Vec<FederatedDomain>>, OrderError> {
        let (active, line) = self.line_to_active()?;
        let mut client = PairServiceClient::new(line.channel.clone());
        let (order, replica) = (Some(wire_order(order)), self.replica.clone());
        let answer = client.federate(ForwardedFederationOrder { order, actor_uid, replica });
        let answer = self.ordered_within(ORDER_LIMIT, &active, &line, answer).await?;
        let answer = domains_of(answer).map_err(|status| nonsense(&active, &status))?;
        Ok(ByActive { answer, replica: active.replica })
    }
}

impl FederationOfActive for PairClient {
    fn federate<'a>(
        &'a self,
        order: &'a FederationOrder,
        actor_uid: u32,
    ) -> BoxFuture<'a, Result<ByActive<Vec<FederatedDomain>>, OrderError>> {
        Box::pin(self.pass_on(order, actor_uid))
    }
}
