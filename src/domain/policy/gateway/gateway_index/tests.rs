//! Whatever order things are seen in, the end is the same.

mod world;

use proptest::prelude::*;

use self::world::{Follower, KINDS, NOT_WAITED_FOR, Seen, Step, World, service};
use super::*;
use crate::domain::policy::{
    DesiredObject, IdentitySet, Labels, MeshLabels, Parent, ParentFacts, PolicyTarget, RouteBackend, RouteFacts,
    Target, TlsPolicyFacts, Verification, WrittenFacts,
};

fn step() -> impl Strategy<Value = Step> {
    (0..KINDS, 0u8..3, 0u8..2, 0u8..64)
}

/// What works, and then something else; or anything at all.
fn before() -> impl Strategy<Value = World> {
    let after = |of: fn() -> World| {
        move |steps: Vec<Step>| {
            let mut world = of();
            steps.into_iter().for_each(|step| drop(world.take(step)));
            world
        }
    };
    prop_oneof![
        3 => prop::collection::vec(step(), 0..40).prop_map(after(World::usual)),
        1 => prop::collection::vec(step(), 0..150).prop_map(after(World::default)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2048, ..ProptestConfig::default() })]

    /// Steps with lists, late lists and restarts in between, and looks at what comes out at any time.
    #[test]
    fn whatever_was_seen_the_end_is_that_of_a_fresh_start(
        mut world in before(),
        first in 0..KINDS,
        steps in prop::collection::vec((0u8..16, step()), 0..60),
    ) {
        let mut follower = Follower::default();
        for kind in 0..KINDS {
            let is_waited_for = (kind..KINDS).any(|left| !NOT_WAITED_FOR.contains(&((left + first) % KINDS)));
            prop_assert!(!is_waited_for || follower.plan().is_none(), "before everything was listed");
            follower.see(world.list((kind + first) % KINDS));
        }
        let mut read = follower.plan().unwrap();
        for (what, step) in steps {
            match what {
                0 | 1 => follower.see(world.list(step.0)),
                2 => {
                    let stale = world.list(step.0);
                    follower.see(world.take(step));
                    follower.see(stale);
                    follower.see(world.list(step.0));
                }
                3 => {
                    follower = Follower::started(&world, first);
                    read = follower.plan().unwrap();
                }
                4..10 => {
                    follower.see(world.take(step));
                    let new = follower.plan().unwrap();
                    if new == read {
                        prop_assert!(Arc::ptr_eq(&new, &read), "nothing has changed, and yet there is a new one");
                    } else {
                        prop_assert_eq!(new.revision, read.revision + 1);
                    }
                    shares(&read, &new);
                    read = new;
                }
                _ => follower.see(world.take(step)),
            }
        }
        let end = follower.plan().unwrap();
        prop_assert_eq!(&end, &Follower::started(&world, first).plan().unwrap());
        prop_assert!(Arc::ptr_eq(&end, &follower.plan().unwrap()));
    }

    /// Who writes what a plan says sees it then, and is told to write nothing else because of that.
    #[test]
    fn what_was_written_stays(mut world in before()) {
        let mut plan = Follower::started(&world, 0).plan().unwrap();
        for _ in 0..3 {
            write(&mut world, &plan);
            let new = Follower::started(&world, 0).plan().unwrap();
            if objects(&new) == objects(&plan) {
                return Ok(());
            }
            plan = new;
        }
        prop_assert!(false, "it goes on: {:?}", objects(&plan));
    }

    /// Whoever names an object comes after it, and nobody names what is not there.
    #[test]
    fn what_is_named_is_written_before(world in before()) {
        for namespace in Follower::started(&world, 0).plan().unwrap().namespaces.values() {
            let objects = namespace.objects();
            for (at, object) in objects.iter().enumerate() {
                let DesiredObject::BackendTlsPolicy(policy) = object else { continue };
                let named = policy.sds_secret().unwrap_or(DesiredObject::CaConfigMap { namespace: Arc::clone(&namespace.name) });
                prop_assert!(objects[..at].contains(&named), "{policy:?}");
                if let Verification::Portable(accounts) = &policy.verification {
                    prop_assert!(accounts.len() <= 5);
                }
            }
        }
    }
}

fn objects(plan: &GatewayPlan) -> Vec<DesiredObject> {
    plan.namespaces.values().flat_map(|namespace| namespace.objects()).collect()
}

/// What is there after the plan was carried out.
fn write(world: &mut World, plan: &GatewayPlan) {
    let were_there: BTreeSet<ObjectName> =
        world.tls.values().filter(|policy| policy.ours).map(|policy| policy.object.clone()).collect();
    world.tls.retain(|_, policy| !policy.ours);
    world.secrets.retain(|name, _| !name.name.starts_with("countersign-"));
    for object in objects(plan) {
        let name = object.object();
        match object {
            DesiredObject::BackendTlsPolicy(policy) if policy.only_if_there && !were_there.contains(&name) => {}
            DesiredObject::CaConfigMap { .. } => {}
            DesiredObject::SdsSecret { service, url, .. } => {
                let (resource, url) = (DesiredObject::sds_resource(&service).into(), url.text().into());
                world.secrets.insert(name.clone(), SdsSecretFacts { object: name, resource, url });
            }
            DesiredObject::BackendTlsPolicy(policy) => {
                let target = Target::Service(policy.service.name.as_ref().into());
                let targets = [PolicyTarget { target, section: None }].into();
                let written = Some(WrittenFacts {
                    identities: IdentitySet::of([]),
                    is_sds: matches!(policy.verification, Verification::Sds(_)),
                    accepted_by: [].into(),
                });
                world.tls.insert(name.clone(), TlsPolicyFacts { object: name, ours: true, targets, written });
            }
        }
    }
}

/// Makes sure that what has not changed is one and the same.
fn shares(old: &GatewayPlan, new: &GatewayPlan) {
    for service in new.namespaces.values().flat_map(|namespace| namespace.services.values()) {
        if let Some(before) = old.service(&service.service.namespace, &service.service.name) {
            assert_eq!(before == service, Arc::ptr_eq(before, service), "{}: made again for nothing", service.service);
        }
    }
    for (name, gateway) in &new.gateways {
        if let Some(before) = old.gateways.get(name) {
            assert_eq!(before == gateway, Arc::ptr_eq(before, gateway), "{name}: made again for nothing");
        }
    }
}

/// 250 namespaces with 20 Services each, to each of which a Route leads from one Gateway.
fn many() -> (Follower, World) {
    let world = World::usual();
    let mut follower = Follower::started(&world, 0);
    let names: Vec<String> = (0..250).map(|number| format!("n{number}")).collect();
    let mesh = MeshLabels { injection: Some("enabled".into()), ..MeshLabels::default() };
    let namespaces = names.iter().map(|name| NamespaceFacts {
        name: name.as_str().into(),
        labels: mesh.clone(),
        all_labels: Labels::default(),
    });
    let namespaces = ClusterChange::Namespaces(Change::Reset(namespaces.collect()));
    let objects: Vec<ObjectName> = names
        .iter()
        .flat_map(|namespace| (0..20).map(move |number| ObjectName::new(namespace, &format!("s{number}"))))
        .collect();
    let services = objects.iter().map(|object| service(object.clone(), 2)).collect();
    let routes = objects.iter().map(|object| route_to(object, "g0")).collect();
    follower.see(Seen::Cluster(namespaces));
    follower.see(Seen::Cluster(ClusterChange::Services(Change::Reset(services))));
    follower.see(Seen::Gateway(GatewayChange::HttpRoutes(Change::Reset(routes))));
    (follower, world)
}

fn route_to(service: &ObjectName, gateway: &str) -> RouteFacts {
    let parent = Parent::Gateway(ObjectName::new("n0", gateway));
    RouteFacts {
        object: service.clone(),
        parents: [ParentFacts { parent, section: None, port: None }].into(),
        backends: [RouteBackend::Service(service.clone(), Some(80))].into(),
    }
}

#[test]
fn a_preview_of_what_is_there_is_the_plan() {
    let world = World::usual();
    let mut follower = Follower::started(&world, 0);
    let previews = follower.previews();
    assert!(previews.iter().any(|[now, _]| now.as_ref().is_some_and(|plan| !plan.objects().is_empty())));
    previews.iter().for_each(|[now, then]| assert_eq!(now, then));
}

#[test]
fn one_change_among_thousands_of_services_makes_one_plan_anew() {
    let (mut follower, world) = many();
    let mut read = follower.plan().unwrap();
    assert_eq!(read.reachable(&ObjectName::new("n0", "g0")).count(), 5_000);
    assert!(read.service("n7", "s7").unwrap().policy.is_some());
    let one = ObjectName::new("n7", "s7");
    let elsewhere = route_to(&one, "gone");
    let ours = TlsPolicyFacts {
        object: one.clone(),
        ours: false,
        targets: [PolicyTarget { target: Target::Service("s7".into()), section: None }].into(),
        written: None,
    };
    for seen in [
        Seen::Gateway(GatewayChange::TlsPolicies(Change::Put(ours))),
        Seen::Cluster(ClusterChange::Services(Change::Put(service(one.clone(), 3)))),
        Seen::Gateway(GatewayChange::HttpRoutes(Change::Put(elsewhere))),
        Seen::Gateway(GatewayChange::TlsPolicies(Change::Gone(one))),
    ] {
        let what = format!("{seen:?}");
        follower.see(seen);
        let new = follower.plan().unwrap();
        let anew = new.namespaces.values().flat_map(|namespace| namespace.services.values());
        let anew =
            anew.filter(|plan| !Arc::ptr_eq(plan, read.service(&plan.service.namespace, &plan.service.name).unwrap()));
        assert!(anew.count() <= 1, "{what}");
        let namespaces = new.namespaces.iter().filter(|(name, plan)| !Arc::ptr_eq(plan, &read.namespaces[*name]));
        assert!(namespaces.count() <= 1, "{what}");
        read = new;
    }
    follower.see(world.list(13));
    follower.see(Seen::Gateway(GatewayChange::BackendTlsApi(BackendTlsApi::TooOld)));
    assert_ne!(*follower.plan().unwrap(), *read);
}

#[test]
fn an_envoy_gateway_that_is_away_changes_nothing() {
    const UNKNOWN: Step = (15, 0, 0, 26);
    let verification = |follower: &mut Follower| {
        let plan = follower.plan().unwrap();
        plan.service("n0", "s0").unwrap().policy.as_ref().unwrap().verification.clone()
    };
    let mut world = World::usual();
    let mut follower = Follower::started(&world, 0);
    assert_eq!(verification(&mut follower), Verification::Sds(SdsUrl::Unix));
    follower.see(world.take(UNKNOWN));
    let form = "the agent's SDS Secret says in which form Envoy Gateway takes it";
    assert_eq!(verification(&mut follower), Verification::Sds(SdsUrl::Unix), "{form}");
}
