//! The objects of a plan with everything that is in them.

use std::sync::Arc;

use super::ports::{Content, ObjectKey, Owner, Wanted};
use crate::domain::{
    identity::{ServiceAccount, TrustDomain},
    policy::{CA_CONFIG_MAP, DesiredObject, DesiredPolicy, NamespacePlan, ObjectKind, ObjectName, Verification},
};

/// Those of a namespace, in a mesh with these roots.
pub(super) fn wanted(plan: &NamespacePlan, trust_domain: &TrustDomain, roots: &Arc<str>) -> Vec<Wanted> {
    plan.objects().iter().map(|object| in_full(object, trust_domain, roots)).collect()
}

fn in_full(desired: &DesiredObject, trust_domain: &TrustDomain, roots: &Arc<str>) -> Wanted {
    let object = desired.object();
    let key = |kind| ObjectKey { kind, object: object.clone() };
    match desired {
        DesiredObject::CaConfigMap { .. } => {
            let content = Content::Roots { pem: Arc::clone(roots) };
            Wanted { key: key(ObjectKind::ConfigMap), owner: None, content, only_if_there: false }
        }
        DesiredObject::SdsSecret { service, owner, url } => Wanted {
            key: key(ObjectKind::SdsSecret),
            owner: Some(owned_by(service, owner)),
            content: Content::Sds { url: *url, resource: DesiredObject::sds_resource(service) },
            only_if_there: false,
        },
        DesiredObject::BackendTlsPolicy(policy) => Wanted {
            key: key(ObjectKind::BackendTlsPolicy),
            owner: Some(owned_by(&policy.service, &policy.owner)),
            content: verification(policy, &object, trust_domain),
            only_if_there: policy.only_if_there,
        },
    }
}

fn owned_by(service: &ObjectName, uid: &Arc<str>) -> Owner {
    Owner { name: Arc::clone(&service.name), uid: Arc::clone(uid) }
}

fn verification(policy: &DesiredPolicy, object: &ObjectName, trust_domain: &TrustDomain) -> Content {
    let DesiredPolicy { service, verification, is_routed, .. } = policy;
    let (ids, ca) = match verification {
        Verification::Sds(_) => (Vec::new(), ObjectKey { kind: ObjectKind::SdsSecret, object: object.clone() }),
        Verification::Portable(accounts) => {
            let roots = ObjectName { namespace: Arc::clone(&service.namespace), name: CA_CONFIG_MAP.into() };
            (ids(accounts, trust_domain), ObjectKey { kind: ObjectKind::ConfigMap, object: roots })
        }
    };
    let hostname = format!("{}.{}.svc.cluster.local", service.name, service.namespace);
    Content::Verification { service: Arc::clone(&service.name), hostname, ids, ca, is_routed: *is_routed }
}

/// Never none: with none a gateway would verify the host name instead.
fn ids(accounts: &[ServiceAccount], trust_domain: &TrustDomain) -> Vec<String> {
    let ids = accounts.iter().filter_map(|account| account.spiffe_id(trust_domain).ok());
    let ids: Vec<String> = ids.map(|id| id.to_string()).collect();
    if ids.is_empty() { vec![nobody(trust_domain)] } else { ids }
}

/// No workload's: those are below `/ns/`. The API server takes no URI without two slashes.
fn nobody(trust_domain: &TrustDomain) -> String {
    format!("spiffe://{trust_domain}/countersign/nobody")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::domain::policy::{SdsUrl, ServicePlan};

    fn plan(services: &[(&str, Verification)]) -> NamespacePlan {
        let services = services.iter().map(|(name, verification)| {
            let service = ObjectName::new("app", name);
            let policy = DesiredPolicy {
                service: service.clone(),
                owner: "u1".into(),
                verification: verification.clone(),
                is_routed: false,
                only_if_there: false,
            };
            let plan = ServicePlan {
                service,
                gateways: [].into(),
                routed: [].into(),
                policy: Some(policy),
                overruled: [].into(),
                is_split: false,
                uptake: None,
                conditions: [].into(),
            };
            (Arc::from(*name), Arc::new(plan))
        });
        NamespacePlan { name: "app".into(), services: services.collect::<BTreeMap<_, _>>() }
    }

    fn all(services: &[(&str, Verification)]) -> Vec<Wanted> {
        wanted(&plan(services), &"cluster.local".parse().unwrap(), &"PEM".into())
    }

    #[test]
    fn roots_come_before_the_policies_that_name_them() {
        let account = "app/one".parse().unwrap();
        let objects = all(&[("a", Verification::Sds(SdsUrl::Unix)), ("b", Verification::Portable([account].into()))]);
        let keys: Vec<String> = objects.iter().map(|wanted| wanted.key.to_string()).collect();
        assert_eq!(
            keys,
            [
                "ConfigMap app/countersign-mesh-ca",
                "Secret app/countersign-a",
                "BackendTLSPolicy app/countersign-a",
                "BackendTLSPolicy app/countersign-b",
            ]
        );
        let named: Vec<_> = objects.iter().filter_map(|wanted| wanted.needs().map(ToString::to_string)).collect();
        assert_eq!(named, ["Secret app/countersign-a", "ConfigMap app/countersign-mesh-ca"]);
        let Content::Sds { url, resource } = &objects[1].content else { panic!("{objects:?}") };
        assert_eq!(
            (url.text().as_str(), resource.as_str()),
            ("unix:///var/run/countersign/workload.sock", "validation/app/a")
        );
        let Content::Verification { ids, hostname, .. } = &objects[3].content else { panic!("{objects:?}") };
        assert_eq!(*ids, ["spiffe://cluster.local/ns/app/sa/one"]);
        assert_eq!(hostname, "b.app.svc.cluster.local");
    }

    #[test]
    fn what_a_policy_names_is_wanted_too_whatever_its_service_is_called() {
        for service in ["web", "svid", "authority", "trust"] {
            let objects = all(&[(service, Verification::Sds(SdsUrl::Unix))]);
            let [secret, policy] = objects.as_slice() else { panic!("{objects:?}") };
            assert_eq!(policy.needs(), Some(&secret.key));
            assert_eq!(policy.key.object, secret.key.object);
        }
    }

    #[test]
    fn with_nobody_behind_it_a_policy_names_nobody_instead_of_none() {
        let objects = all(&[("a", Verification::Portable([].into()))]);
        let Content::Verification { ids, .. } = &objects[1].content else { panic!("{objects:?}") };
        assert_eq!(*ids, ["spiffe://cluster.local/countersign/nobody"]);
    }
}
