//! Log lines of what a plan says of Services and Gateways: one when something begins to hold, one when it does no more. Metrics count for
//! how many it holds.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use tracing::{info, warn};

use crate::{
    domain::policy::{Condition, GatewayPlan, Severity},
    service::metrics::Metrics,
};

/// What was said already.
#[derive(Default)]
pub(super) struct Conditions {
    told: BTreeSet<(String, &'static str)>,
    plan: Option<Arc<GatewayPlan>>,
}

/// A label on a large namespace may bring hundreds.
const LINES_AT_ONCE: usize = 50;

impl Conditions {
    /// Says what is new in it. Notices are left to who asks for them.
    pub(super) fn tell(&mut self, plan: &Arc<GatewayPlan>, metrics: &Metrics) {
        if self.plan.as_ref().is_some_and(|before| Arc::ptr_eq(before, plan)) {
            return;
        }
        let mut holding = BTreeSet::new();
        let mut lines = 0;
        let gateways = plan.gateways.values().map(|gateway| ("Gateway", &gateway.gateway, &gateway.conditions));
        let services = plan.namespaces.values().flat_map(|namespace| namespace.services.values());
        let services = services.map(|service| ("Service", &service.service, &service.conditions));
        for (kind, object, conditions) in gateways.chain(services) {
            for condition in conditions.iter().filter(|condition| condition.severity() > Severity::Notice) {
                let key = (format!("{kind} {object}"), condition.reason());
                if !self.told.contains(&key) {
                    lines += 1;
                    if lines <= LINES_AT_ONCE {
                        log(&key.0, condition);
                    }
                }
                holding.insert(key);
            }
        }
        if lines > LINES_AT_ONCE {
            warn!(event = "gateway_conditions", more = lines - LINES_AT_ONCE);
        }
        for (object, reason) in self.told.difference(&holding).take(LINES_AT_ONCE) {
            info!(event = "gateway_condition_over", object, reason);
        }
        let mut counts = BTreeMap::new();
        for (_, reason) in &holding {
            *counts.entry(*reason).or_default() += 1;
        }
        metrics.set_gateway_conditions(&counts);
        self.told = holding;
        self.plan = Some(Arc::clone(plan));
    }
}

fn log(object: &str, condition: &Condition) {
    let (reason, severity) = (condition.reason(), condition.severity().as_str());
    if condition.severity() == Severity::Error {
        warn!(event = "gateway_condition", object, reason, severity, "{condition}");
    } else {
        info!(event = "gateway_condition", object, reason, severity, "{condition}");
    }
}
