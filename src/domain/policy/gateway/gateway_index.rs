//! The index of everything that lies between gateways and Services: what is seen goes in, plans come out. Level-triggered, as
//! [`PolicyIndex`](crate::domain::policy::PolicyIndex) is, with whose snapshots it is joined. What nothing has touched is not worked
//! out again.

use std::{
    collections::{BTreeMap, BTreeSet},
    mem,
    sync::Arc,
};

use super::{
    AttachedPolicies, BackendTlsApi, ClassFacts, DataPlanePod, EnvoyBackendFacts, EnvoyGatewaySettings,
    EnvoyProxyFacts, GatewayChange, GatewayFacts, GatewayPlan, Grants, Known, LabelledNamespace, ListenerSetFacts,
    NamespacePlan, Outlook, RouteKind, Routes, SdsSecretFacts, SdsUrl, ServicePlan, Standing, Surroundings,
    TlsPolicies, Topology,
    gateway_state::{self, Upstreams},
};
use crate::domain::policy::{
    Change, ClusterChange, ControlPlanes, MtlsMode, NamespaceFacts, NamespacePolicy, ObjectName, PodFacts,
    PolicySnapshot, ServicePolicy, Upstream,
};

/// Everything that plans are worked out from, and the newest of them.
#[derive(Debug, Default)]
pub struct GatewayIndex {
    classes: Known<Arc<str>, ClassFacts>,
    gateways: Known<ObjectName, GatewayFacts>,
    sets: Known<ObjectName, ListenerSetFacts>,
    routes: Routes,
    grants: Grants,
    tls_policies: TlsPolicies,
    proxies: Known<ObjectName, EnvoyProxyFacts>,
    secrets: Known<ObjectName, SdsSecretFacts>,
    backends: Known<ObjectName, EnvoyBackendFacts>,
    attached: AttachedPolicies,
    namespaces: Known<Arc<str>, LabelledNamespace>,
    pods: Known<ObjectName, DataPlanePod>,
    settings: Option<EnvoyGatewaySettings>,
    api: Option<BackendTlsApi>,
    standings: BTreeMap<ObjectName, Standing>,
    /// By which the agent's socket is known to an Envoy Gateway that does not say its version.
    told: Option<SdsUrl>,
    /// How Envoy Gateway is told of it, if that is known.
    sds: Option<SdsUrl>,
    touched: Touched,
    /// What `current` was worked out from.
    seen: Option<Arc<PolicySnapshot>>,
    current: Option<Arc<GatewayPlan>>,
}

/// What may have changed.
#[derive(Debug, Default)]
struct Touched {
    /// Something that every Service may depend on.
    all: bool,
    /// Something that is said of Gateways.
    gateways: bool,
    /// Those whose labels are others, where some listener goes by labels.
    namespaces: BTreeSet<Arc<str>>,
    services: BTreeSet<ObjectName>,
}

/// Which Services of a namespace are worked out again.
enum Anew {
    All,
    These(BTreeSet<Arc<str>>),
}

impl GatewayIndex {
    /// Takes up what was seen of gateways. Cheap: plans are worked out by [`plan`](Self::plan).
    pub fn apply(&mut self, change: GatewayChange) {
        let touched = &mut self.touched;
        match change {
            GatewayChange::Classes(change) => {
                self.classes.take(change, |class| Arc::clone(&class.name), |_, _| touched.all = true);
            }
            GatewayChange::Gateways(change) => {
                self.gateways.take(change, |gateway| gateway.object.clone(), |_, _| touched.all = true);
            }
            GatewayChange::ListenerSets(change) => {
                self.sets.take(change, |set| set.object.clone(), |_, _| touched.all = true);
            }
            GatewayChange::HttpRoutes(change) => {
                self.routes.take(RouteKind::Http, change, |upstream| touched.upstream(upstream));
            }
            GatewayChange::GrpcRoutes(change) => {
                self.routes.take(RouteKind::Grpc, change, |upstream| touched.upstream(upstream));
            }
            GatewayChange::Grants(change) => self.grants.take(change, || touched.all = true),
            GatewayChange::TlsPolicies(change) => {
                self.tls_policies.take(change, |upstream| touched.upstream(upstream));
            }
            GatewayChange::EnvoyProxies(change) => {
                self.proxies.take(change, |proxy| proxy.object.clone(), |_, _| touched.all = true);
            }
            GatewayChange::SdsSecrets(change) => self.take_secrets(change),
            GatewayChange::EnvoyBackends(change) => {
                self.backends.take(change, |backend| backend.object.clone(), |_, _| touched.gateways = true);
            }
            GatewayChange::SecurityPolicies(change) => self.attached.take_security(change, || touched.gateways = true),
            GatewayChange::ExtensionPolicies(change) => {
                self.attached.take_extension(change, || touched.gateways = true)
            }
            GatewayChange::Settings(settings) => {
                touched.all |= self.settings.replace(settings) != Some(settings);
            }
            GatewayChange::BackendTlsApi(api) => touched.all |= self.api.replace(api) != Some(api),
        }
    }

    /// Takes up what counts here of what [`PolicyIndex`](crate::domain::policy::PolicyIndex) is told: labels of namespaces, and pods
    /// of Gateways.
    pub fn see(&mut self, change: &ClusterChange) {
        let touched = &mut self.touched;
        if let ClusterChange::Pods(change) = change {
            let change = match change {
                Change::Reset(all) => Change::Reset(all.iter().filter_map(DataPlanePod::of).collect()),
                Change::Put(pod) => put_pod(pod),
                Change::Gone(name) => Change::Gone(name.clone()),
            };
            self.pods.take(change, |pod| pod.pod.clone(), |_, _| touched.gateways = true);
        } else if let ClusterChange::Namespaces(change) = change {
            let change = match change {
                Change::Reset(all) => Change::Reset(all.iter().map(labelled).collect()),
                Change::Put(namespace) => Change::Put(labelled(namespace)),
                Change::Gone(name) => Change::Gone(Arc::clone(name)),
            };
            let by_labels = || {
                self.gateways.all().any(GatewayFacts::admits_by_labels)
                    || self.sets.all().any(ListenerSetFacts::admits_by_labels)
            };
            self.namespaces.take(
                change,
                |namespace| Arc::clone(&namespace.name),
                |old, new| {
                    if let Some(namespace) = new.or(old).filter(|_| by_labels()) {
                        // a Gateway may take its ListenerSets or not, and these take Routes from elsewhere
                        touched.all |= self.sets.in_namespace(&namespace.name).next().is_some()
                            || self.grants.are_for(&namespace.name);
                        touched.namespaces.insert(Arc::clone(&namespace.name));
                    }
                },
            );
        }
    }

    /// Those that we write for Services are of this type as well, and no Gateway's certificate.
    fn take_secrets(&mut self, change: Change<SdsSecretFacts>) {
        let (touched, proxies) = (&mut self.touched, &self.proxies);
        let is_named = |secret: &SdsSecretFacts| {
            proxies.all().any(|proxy| {
                proxy.object.namespace == secret.object.namespace
                    && proxy.client_certificate.as_deref() == Some(&secret.object.name)
            })
        };
        self.secrets.take(
            change,
            |secret| secret.object.clone(),
            |old, new| {
                touched.all = touched.all || old.or(new).is_some_and(is_named);
                touched.gateways = true;
            },
        );
    }

    fn is_listed(&self) -> bool {
        self.classes.is_listed()
            && self.gateways.is_listed()
            && self.sets.is_listed()
            && self.routes.is_listed()
            && self.grants.is_listed()
            && self.tls_policies.is_listed()
            && self.proxies.is_listed()
            && self.secrets.is_listed()
            && self.backends.is_listed()
            && self.namespaces.is_listed()
            && self.pods.is_listed()
    }

    /// The plan for these policies, as of now: the very one that was given before, if nothing has changed. `None` until everything
    /// was told once.
    pub fn plan(&mut self, policies: &Arc<PolicySnapshot>) -> Option<Arc<GatewayPlan>> {
        let (api, settings) = (self.api?, self.settings?);
        if !self.is_listed() {
            return None;
        }
        let seen = self.seen.replace(Arc::clone(policies));
        let mut touched = mem::take(&mut self.touched);
        let control_planes = &policies.control_planes;
        match &seen {
            Some(seen) if Arc::ptr_eq(seen, policies) && touched.is_nothing() => return self.current.clone(),
            Some(seen) => touched.all |= is_other(&seen.control_planes, control_planes),
            None => touched.all = true,
        }
        let is_unknown = control_planes.envoy_gateway.is_none();
        let told = is_unknown.then(|| self.secrets.all().find_map(SdsSecretFacts::socket_url)).flatten();
        touched.all |= mem::replace(&mut self.told, told) != told;
        if touched.all {
            let (standings, sds) = self.standings(settings, control_planes);
            (self.standings, self.sds) = (standings, sds);
        }
        touched.services.extend(touched.namespaces.iter().flat_map(|name| self.services_by_labels_of(name, policies)));
        let before = self.current.take().unwrap_or_else(|| Arc::new(GatewayPlan::before_the_first()));
        let outlook = self.outlook(api, control_planes);
        let namespaces = changed_namespaces(outlook, policies, seen.as_deref(), &before, touched);
        let upstreams = Upstreams { backends: &self.backends, attached: &self.attached, policies };
        let gateways = gateway_state::states(outlook, upstreams, &self.pods, &before.gateways);
        let newest = before.changed_by(namespaces, gateways, control_planes.istio.must_remove());
        self.current = Some(Arc::clone(&newest));
        Some(newest)
    }

    /// Services that depend on what listeners make of a namespace's labels: its own, and those that its Routes lead to.
    fn services_by_labels_of(&self, name: &Arc<str>, policies: &PolicySnapshot) -> Vec<ObjectName> {
        let own = policies.namespaces.get(name).into_iter().flat_map(|namespace| namespace.services.values());
        let own = own.map(|policy| policy.service.clone());
        own.chain(self.routes.services_of(name)).collect()
    }

    /// What the plan would be for a namespace under another policy; `None` if there would be nothing, or not everything is known yet.
    pub fn preview(&self, policy: &NamespacePolicy, control_planes: &ControlPlanes) -> Option<Arc<NamespacePlan>> {
        let outlook = self.outlook(self.api.filter(|_| self.is_listed())?, control_planes);
        namespace_plan(outlook, &policy.name, Some(policy), None, Anew::All)
    }

    fn standings(
        &self,
        settings: EnvoyGatewaySettings,
        by: &ControlPlanes,
    ) -> (BTreeMap<ObjectName, Standing>, Option<SdsUrl>) {
        let (proxies, secrets) = (&self.proxies, &self.secrets);
        let surroundings = Surroundings { proxies, secrets, settings, version: by.envoy_gateway, told: self.told };
        let standings = self.gateways.all().filter_map(|gateway| {
            let class = self.classes.get(&gateway.class)?;
            Some((gateway.object.clone(), surroundings.standing(gateway, class)?))
        });
        (standings.collect(), surroundings.sds().ok())
    }

    const fn outlook<'a>(&'a self, api: BackendTlsApi, control_planes: &'a ControlPlanes) -> Outlook<'a> {
        Outlook {
            topology: Topology {
                gateways: &self.gateways,
                sets: &self.sets,
                namespaces: &self.namespaces,
                standings: &self.standings,
            },
            routes: &self.routes,
            grants: &self.grants,
            tls_policies: &self.tls_policies,
            api,
            istio: &control_planes.istio,
            sds: self.sds,
        }
    }
}

fn put_pod(pod: &PodFacts) -> Change<DataPlanePod> {
    DataPlanePod::of(pod).map_or_else(|| Change::Gone(pod.object.clone()), Change::Put)
}

fn labelled(namespace: &NamespaceFacts) -> LabelledNamespace {
    LabelledNamespace { name: Arc::clone(&namespace.name), labels: namespace.all_labels.clone() }
}

/// Whether anything differs that counts here.
fn is_other(old: &ControlPlanes, new: &ControlPlanes) -> bool {
    let counts = |of: &ControlPlanes| (of.istio.may_write(), of.istio.must_remove(), of.envoy_gateway);
    counts(old) != counts(new)
}

/// Each namespace for which the plan differs.
fn changed_namespaces(
    outlook: Outlook<'_>,
    policies: &PolicySnapshot,
    seen: Option<&PolicySnapshot>,
    before: &GatewayPlan,
    touched: Touched,
) -> Vec<(Arc<str>, Option<Arc<NamespacePlan>>)> {
    let anew: BTreeMap<Arc<str>, Anew> = match seen {
        Some(seen) if !touched.all => {
            let changes = policies.changes_since(seen);
            let changed = changes.services.into_iter().map(|policy| policy.service.clone());
            by_namespace(touched.services.into_iter().chain(changed).chain(changes.services_gone))
        }
        _ => policies
            .namespaces
            .keys()
            .chain(before.namespaces.keys())
            .map(|name| (Arc::clone(name), Anew::All))
            .collect(),
    };
    let plans = anew.into_iter().filter_map(|(name, anew)| {
        let old = before.namespaces.get(&name);
        let new = namespace_plan(outlook, &name, policies.namespaces.get(&name).map(Arc::as_ref), old, anew);
        (new.as_deref() != old.map(Arc::as_ref)).then_some((name, new))
    });
    plans.collect()
}

fn by_namespace(services: impl Iterator<Item = ObjectName>) -> BTreeMap<Arc<str>, Anew> {
    let mut by_namespace: BTreeMap<Arc<str>, BTreeSet<Arc<str>>> = BTreeMap::new();
    services.for_each(|ObjectName { namespace, name }| {
        by_namespace.entry(namespace).or_default().insert(name);
    });
    by_namespace.into_iter().map(|(namespace, services)| (namespace, Anew::These(services))).collect()
}

fn namespace_plan(
    outlook: Outlook<'_>,
    name: &Arc<str>,
    policy: Option<&NamespacePolicy>,
    old: Option<&Arc<NamespacePlan>>,
    anew: Anew,
) -> Option<Arc<NamespacePlan>> {
    let policy_of = |service: &Arc<str>| -> Option<&Arc<ServicePolicy>> {
        policy?.services.get(service).filter(|policy| policy.mode == MtlsMode::Required)
    };
    let old_of = |service: &Arc<str>| old.and_then(|old| old.services.get(service));
    let (mut services, anew) = match anew {
        Anew::These(services) => (old.map(|old| old.services.clone()).unwrap_or_default(), services),
        Anew::All => (BTreeMap::new(), policy.iter().flat_map(|policy| policy.services.keys()).cloned().collect()),
    };
    // by the namespaces that Routes may be in
    let mut admitting: BTreeMap<BTreeSet<&Arc<str>>, Arc<[ObjectName]>> = BTreeMap::new();
    for service in anew {
        let Some(policy) = policy_of(&service) else {
            services.remove(&service);
            continue;
        };
        let mut sources = outlook.grants.sources(&policy.service);
        sources.insert(name);
        let admitting = admitting.entry(sources).or_insert_with_key(|sources| outlook.topology.admitting(sources));
        let plan: ServicePlan = outlook.service(policy, admitting);
        let same = old_of(&service).filter(|old| ***old == plan).map(Arc::clone);
        services.insert(service, same.unwrap_or_else(|| Arc::new(plan)));
    }
    (!services.is_empty()).then(|| Arc::new(NamespacePlan { name: Arc::clone(name), services }))
}

impl GatewayPlan {
    /// Of which the first one to be given out is a change, even if there is nothing.
    const fn before_the_first() -> Self {
        Self { revision: 0, namespaces: BTreeMap::new(), gateways: BTreeMap::new(), must_withdraw: false }
    }

    fn changed_by(
        self: Arc<Self>,
        changed: Vec<(Arc<str>, Option<Arc<NamespacePlan>>)>,
        gateways: BTreeMap<ObjectName, Arc<super::GatewayState>>,
        must_withdraw: bool,
    ) -> Arc<Self> {
        let is_same = changed.is_empty() && gateways == self.gateways && must_withdraw == self.must_withdraw;
        if is_same && self.revision > 0 {
            return self;
        }
        let mut namespaces = self.namespaces.clone();
        for (name, plan) in changed {
            match plan {
                Some(plan) => namespaces.insert(name, plan),
                None => namespaces.remove(&name),
            };
        }
        Arc::new(Self { revision: self.revision + 1, namespaces, gateways, must_withdraw })
    }
}

impl Touched {
    fn upstream(&mut self, upstream: Upstream) {
        self.gateways = true;
        if let Upstream::Service(service) = upstream {
            self.services.insert(service);
        }
    }

    fn is_nothing(&self) -> bool {
        !self.all && !self.gateways && self.namespaces.is_empty() && self.services.is_empty()
    }
}

#[cfg(test)]
mod tests;
