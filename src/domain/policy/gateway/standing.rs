//! What a Gateway can do: whether its controller verifies SPIFFE IDs, by what, and whether everything for it is in place.

use super::{
    ClassFacts, Controller, EnvoyGatewaySettings, EnvoyProxyFacts, GatewayFacts, Known, SdsSecretFacts, SdsUrl,
};
use crate::domain::policy::{Condition, GatewayCondition, Lack, ObjectName, Release, SdsObstacle, Upstream};

/// The first Envoy Gateway that reads BackendTLSPolicies of `v1`.
const VERIFIES: Release = Release::new(1, 6, 0);
/// The first one that follows Secrets that stand for SDS.
const FOLLOWS_SDS: Release = Release::new(1, 8, 0);
/// The first one to which a socket is a URL.
const WANTS_URL: Release = Release::new(1, 9, 0);
/// What a sidecar tells the mesh's mutual TLS by.
const ISTIO_ALPN: [&str; 5] = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"];

/// What a Gateway can do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    /// By what it verifies SPIFFE IDs; `None` if it can't.
    pub(super) ability: Option<Ability>,
    /// Whether requests to Services of the mesh can work.
    pub(super) is_ready: bool,
    /// Whether an ALPN name of Istio is among those that it offers.
    pub(super) offers_istio: bool,
    /// Whether nothing else is.
    pub(super) offers_istio_alone: bool,
    /// What is worth knowing.
    pub(super) conditions: Vec<Condition>,
    /// To whom its proxies send logs, traces and metrics.
    pub(super) telemetry: Vec<Upstream>,
}

/// By what a Gateway verifies SPIFFE IDs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ability {
    /// By what the agent tells it over SDS.
    Sds(SdsUrl),
    /// By what stands in the policy.
    Portable,
}

/// What a Gateway's standing depends on, besides itself and its class.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surroundings<'a> {
    pub(super) proxies: &'a Known<ObjectName, EnvoyProxyFacts>,
    pub(super) secrets: &'a Known<ObjectName, SdsSecretFacts>,
    pub(super) settings: EnvoyGatewaySettings,
    /// Of Envoy Gateway.
    pub(super) version: Option<Release>,
    /// How it was told of the agent's socket, as far as Secrets are there.
    pub(super) told: Option<SdsUrl>,
}

impl Surroundings<'_> {
    /// What `gateway` can do; `None` if it is Istio's own, which needs nothing.
    pub(super) fn standing(&self, gateway: &GatewayFacts, class: &ClassFacts) -> Option<Standing> {
        match &class.controller {
            Controller::Istio => None,
            Controller::Other(controller) => Some(Standing::unable(controller, None)),
            Controller::Kgateway | Controller::Agentgateway => Some(Standing::portable(gateway)),
            Controller::EnvoyGateway => Some(match self.version.filter(|version| *version < VERIFIES) {
                Some(version) => Standing::unable("Envoy Gateway", Some(version)),
                None => {
                    let telemetry = self.telemetry(gateway, class);
                    Standing { telemetry, ..self.of_envoy_gateway(gateway, class) }
                }
            }),
        }
    }

    fn of_envoy_gateway(&self, gateway: &GatewayFacts, class: &ClassFacts) -> Standing {
        let named = own_proxy(gateway).or_else(|| class.parameters.clone());
        let proxy = named.as_ref().and_then(|name| self.proxies.get(name));
        let of_class = class.parameters.as_ref().and_then(|name| self.proxies.get(name));
        let base = of_class.filter(|_| gateway.parameters.is_some());
        let sds = self.sds();
        let proxy = match proxy.map(|proxy| proxy.over(base)).transpose() {
            Ok(proxy) => proxy,
            Err(lack) => return Standing::lacking(sds, gateway, vec![lack]),
        };
        let has_agent = proxy.as_ref().is_some_and(|proxy| proxy.has_agent());
        if gateway.client_certificate {
            let ability = sds.ok().filter(|_| has_agent).map_or(Ability::Portable, Ability::Sds);
            return Standing::ready(ability, &[], Some(GatewayCondition::GatewayFieldOverrides));
        }
        let Some(proxy) = proxy else {
            let lack = named.map_or(Lack::Proxy, Lack::NamedProxy);
            return Standing::lacking(sds, gateway, vec![lack]);
        };
        let certificate = proxy.client_certificate.as_ref();
        let secret = certificate.map(|name| ObjectName { name: name.as_ref().into(), ..proxy.object.clone() });
        let stands_for_sds = secret.as_ref().and_then(|name| self.secrets.get(name));
        let lack = match (secret, stands_for_sds) {
            (None, _) => Some(Lack::ClientCertificate),
            // keys and certificates, as far as is seen; Secrets of that type are not read
            (Some(_), None) if sds.is_err() || !has_agent => {
                return Standing::ready(Ability::Portable, &proxy.alpn, None);
            }
            (Some(name), None) => Some(Lack::SdsSecret(name)),
            (Some(name), Some(secret)) if *secret.resource != *"default" => {
                Some(Lack::SdsResource(name, secret.resource.clone()))
            }
            (Some(name), Some(secret)) => {
                let prefix = sds.ok().map(SdsUrl::prefix);
                let prefix = prefix.filter(|prefix| !secret.url.starts_with(prefix));
                prefix.map(|prefix| Lack::SdsUrl(name, prefix))
            }
        };
        let lacks: Vec<Lack> = (!has_agent).then_some(Lack::Agent).into_iter().chain(lack).collect();
        match (sds, self.is_known_to_follow_sds()) {
            (Ok(url), _) if lacks.is_empty() => Standing::ready(Ability::Sds(url), &proxy.alpn, None),
            (Err(_), true) if lacks.is_empty() => Standing::ready(Ability::Portable, &proxy.alpn, None),
            _ => Standing::lacking(sds, gateway, lacks),
        }
    }

    /// By the EnvoyProxies that hold for a Gateway.
    fn telemetry(&self, gateway: &GatewayFacts, class: &ClassFacts) -> Vec<Upstream> {
        let own = own_proxy(gateway).and_then(|name| self.proxies.get(&name));
        let of_class = class.parameters.as_ref().and_then(|name| self.proxies.get(name));
        let of_class = of_class.filter(|_| gateway.parameters.is_none() || own.is_some_and(EnvoyProxyFacts::is_merged));
        own.into_iter().chain(of_class).flat_map(|proxy| &proxy.telemetry).cloned().collect()
    }

    /// How Envoy Gateway is told of the agent's socket.
    pub(super) fn sds(&self) -> Result<SdsUrl, SdsObstacle> {
        match (self.version, self.settings.sds_enabled) {
            (Some(version), _) if version < FOLLOWS_SDS => Err(SdsObstacle::TooOld(version)),
            (_, Some(false)) => Err(SdsObstacle::TurnedOff),
            (_, None) => Err(SdsObstacle::SettingsUnknown),
            // which is so while it is being restarted: nothing is to be written again because of that
            (None, Some(true)) => self.told.ok_or(SdsObstacle::VersionUnknown),
            (Some(version), Some(true)) if version < WANTS_URL => Ok(SdsUrl::Path),
            (Some(_), Some(true)) => Ok(SdsUrl::Unix),
        }
    }

    /// Of a version that is not known, too: who has set it has one that knows it.
    fn is_known_to_follow_sds(&self) -> bool {
        self.settings.sds_enabled == Some(true) && self.version.is_none_or(|version| version >= FOLLOWS_SDS)
    }
}

/// The EnvoyProxy that a Gateway names itself.
fn own_proxy(gateway: &GatewayFacts) -> Option<ObjectName> {
    let name = gateway.parameters.as_ref()?;
    Some(ObjectName { name: name.as_ref().into(), ..gateway.object.clone() })
}

impl Standing {
    fn unable(controller: &str, version: Option<Release>) -> Self {
        let condition = GatewayCondition::ControllerUnsupported { controller: controller.into(), version };
        Self {
            ability: None,
            is_ready: false,
            conditions: vec![condition.into()],
            ..Self::ready(Ability::Portable, &[], None)
        }
    }

    fn portable(gateway: &GatewayFacts) -> Self {
        let missing = (!gateway.client_certificate).then_some(GatewayCondition::ClientCertificateMissing);
        Self { is_ready: gateway.client_certificate, ..Self::ready(Ability::Portable, &[], missing) }
    }

    fn ready(ability: Ability, alpn: &[Box<str>], condition: Option<GatewayCondition>) -> Self {
        let is_istios = |name: &str| ISTIO_ALPN.contains(&name);
        Self {
            ability: Some(ability),
            is_ready: true,
            offers_istio: alpn.iter().any(|name| is_istios(name)),
            offers_istio_alone: !alpn.is_empty() && alpn.iter().all(|name| is_istios(name)),
            conditions: condition.into_iter().map(Condition::from).collect(),
            telemetry: Vec::new(),
        }
    }

    fn lacking(sds: Result<SdsUrl, SdsObstacle>, gateway: &GatewayFacts, lacks: Vec<Lack>) -> Self {
        let lacks = (!lacks.is_empty()).then(|| GatewayCondition::EnvoyProxyNotConfigured {
            gateway: gateway.object.clone(),
            lacks: lacks.into(),
        });
        let conditions = lacks.into_iter().chain(sds.err().map(GatewayCondition::SdsNotEnabled)).map(Condition::from);
        let ability = sds.map_or(Ability::Portable, Ability::Sds);
        Self { is_ready: false, conditions: conditions.collect(), ..Self::ready(ability, &[], None) }
    }
}
