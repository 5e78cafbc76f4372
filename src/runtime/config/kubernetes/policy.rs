//! How it is worked out which Services need mutual TLS.

use crate::{
    domain::identity::SpiffeId,
    runtime::{
        args::KubernetesArgs,
        config::{parse, sources::Sources},
    },
};

/// How policies are followed, and who hears of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PolicyConfig {
    /// What makes a Service a member.
    pub membership: PolicyMembership,
    /// Where Envoy Gateway runs.
    pub envoy_gateway_namespace: String,
    /// Whether the active keeps objects of the Gateway API for that.
    pub objects: bool,
    /// Who may follow, as far as their Gateways reach.
    pub gateway_identities: Vec<SpiffeId>,
    /// Who may follow everything.
    pub standalone_gateway_identities: Vec<SpiffeId>,
}

/// What makes a Service a member of the mesh.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PolicyMembership {
    /// The labels of its namespace.
    Labels,
    /// Where those say nothing, what all its pods show.
    Auto,
}

impl PolicyMembership {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Labels => "labels",
            Self::Auto => "auto",
        }
    }
}

impl PolicyConfig {
    /// Reads it, if it is asked for; what is wrong is noted in `from`.
    pub(in crate::runtime::config) fn read(from: &mut Sources) -> Option<Option<Self>> {
        let is_wanted = from.one("policy", parse::boolean);
        let membership = from.one("policy_membership", membership);
        let objects = from.one("policy_objects", parse::boolean);
        let envoy_gateway_namespace = from.one("envoy_gateway_namespace", parse::object_name);
        let gateway_identities: Vec<SpiffeId> = from.many("gateway_identities", parse::displayed);
        let standalone_gateway_identities: Vec<SpiffeId> = from.many("standalone_gateway_identities", parse::displayed);
        if is_wanted == Some(false) {
            let without_effect = [
                ("policy_membership", membership == Some(PolicyMembership::Auto)),
                ("policy_objects", objects == Some(true)),
                ("gateway_identities", !gateway_identities.is_empty()),
                ("standalone_gateway_identities", !standalone_gateway_identities.is_empty()),
            ];
            for (field, _) in without_effect.into_iter().filter(|(_, has_none)| *has_none) {
                from.refuse(field, NEEDS_POLICY);
            }
        }
        if objects == Some(false) && from.is_chosen("envoy_gateway_namespace") {
            from.refuse("envoy_gateway_namespace", "counts with policyObjects only: set that, or leave this out");
        }
        let (membership, objects) = (membership?, objects?);
        let config = Self {
            membership,
            envoy_gateway_namespace: envoy_gateway_namespace?,
            objects,
            gateway_identities,
            standalone_gateway_identities,
        };
        is_wanted.map(|is_wanted| is_wanted.then_some(config))
    }

    /// The same as texts.
    pub(in crate::runtime::config) fn tell(&self, args: &mut KubernetesArgs) {
        args.policy_membership = Some(self.membership.as_str().to_owned());
        args.policy_objects = Some(self.objects.to_string());
        args.envoy_gateway_namespace = Some(self.envoy_gateway_namespace.clone()).filter(|_| self.objects);
        let texts = |identities: &[SpiffeId]| {
            (!identities.is_empty()).then(|| identities.iter().map(SpiffeId::to_string).collect())
        };
        args.gateway_identities = texts(&self.gateway_identities);
        args.standalone_gateway_identities = texts(&self.standalone_gateway_identities);
    }
}

/// Why a setting is refused that would have no effect.
const NEEDS_POLICY: &str = "counts with policy only: set that, or leave this out";

fn membership(text: &str) -> Result<PolicyMembership, String> {
    match text {
        "labels" => Ok(PolicyMembership::Labels),
        "auto" => Ok(PolicyMembership::Auto),
        _ => Err(format!("{text:?} is neither labels nor auto")),
    }
}
