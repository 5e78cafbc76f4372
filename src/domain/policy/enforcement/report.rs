//! What agents of gateways say.

use std::collections::BTreeMap;

use crate::domain::{
    identity::SpiffeId,
    policy::{IdentitySet, ObjectName},
};

/// An agent of a gateway that says what its proxy holds.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Reporter {
    /// As whom it has proven itself.
    pub gateway: SpiffeId,
    /// The process, of its own choice: a gateway may have many pods.
    pub instance: Box<str>,
}

/// What an agent says of one Service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContextReport {
    /// How many subscriptions there are for its identities.
    pub streams: u32,
    /// What was accepted last, and by how many of them.
    pub accepted: BTreeMap<IdentitySet, u32>,
    /// What the newest was refused with.
    pub refusal: Option<Box<str>>,
}

/// All that an agent says: of Services that its proxy asks for.
pub type Report = BTreeMap<ObjectName, ContextReport>;

/// What differs between two of an agent's reports.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ReportChange {
    /// Whether everything before is to be forgotten.
    pub reset: bool,
    /// New and changed.
    pub services: Vec<(ObjectName, ContextReport)>,
    /// Nobody asks for them any more.
    pub gone: Vec<ObjectName>,
}

impl ReportChange {
    /// What leads who was told `before`, or nothing, to `now`; `None` if that is nothing.
    pub fn between(before: Option<&Report>, now: &Report) -> Option<Self> {
        let Some(before) = before else {
            let services = now.iter().map(|(service, report)| (service.clone(), report.clone())).collect();
            return Some(Self { reset: true, services, gone: Vec::new() });
        };
        let changed = now.iter().filter(|(service, report)| before.get(service) != Some(report));
        let services: Vec<_> = changed.map(|(service, report)| (service.clone(), report.clone())).collect();
        let gone: Vec<_> = before.keys().filter(|service| !now.contains_key(service)).cloned().collect();
        (!services.is_empty() || !gone.is_empty()).then_some(Self { reset: false, services, gone })
    }
}
