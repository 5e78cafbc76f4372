//! Of which Services a gateway identity is told.

use std::{collections::BTreeSet, sync::Arc};

use super::{GatewayPlan, ObjectName};
use crate::domain::identity::ServiceAccount;

/// Of which Services a gateway identity is told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Reach {
    /// Of all.
    #[default]
    All,
    /// Of those that its Gateways can reach.
    Only(Arc<BTreeSet<ObjectName>>),
}

impl Reach {
    /// Of whoever runs as `account`; `None` if no pods of Gateways do.
    pub fn of(account: &ServiceAccount, plan: &GatewayPlan) -> Option<Self> {
        let gateways: Vec<&ObjectName> = plan.gateways_of(account).map(|state| &state.gateway).collect();
        if gateways.is_empty() {
            return None;
        }
        let services = plan.namespaces.values().flat_map(|namespace| namespace.services.values());
        let reached = services.filter(|service| gateways.iter().any(|gateway| service.is_reached_by(gateway)));
        Some(Self::Only(Arc::new(reached.map(|service| service.service.clone()).collect())))
    }

    /// Whether it is told of this one.
    pub fn covers(&self, service: &ObjectName) -> bool {
        match self {
            Self::All => true,
            Self::Only(services) => services.contains(service),
        }
    }
}
