use std::sync::Arc;

use super::*;
use crate::domain::policy::SdsUrl;

fn key(kind: ObjectKind, name: &str) -> ObjectKey {
    ObjectKey { kind, object: ObjectName::new("app", name) }
}

fn owner() -> Owner {
    Owner { name: Arc::from("backend"), uid: "uid-1".into() }
}

fn roots() -> Wanted {
    let content = Content::Roots { pem: "PEM\n".into() };
    Wanted { key: key(ObjectKind::ConfigMap, "countersign-mesh-ca"), owner: None, content, only_if_there: false }
}

fn sds() -> Wanted {
    let content = Content::Sds { url: SdsUrl::Unix, resource: "validation/app/backend".into() };
    Wanted {
        key: key(ObjectKind::SdsSecret, "countersign-backend"),
        owner: Some(owner()),
        content,
        only_if_there: false,
    }
}

fn policy(ids: &[&str], ca: ObjectKey) -> Wanted {
    let content = Content::Verification {
        service: "backend".into(),
        hostname: "backend.app.svc.cluster.local".into(),
        ids: ids.iter().map(|id| (*id).to_owned()).collect(),
        ca,
        is_routed: false,
    };
    Wanted {
        key: key(ObjectKind::BackendTlsPolicy, "countersign-backend"),
        owner: Some(owner()),
        content,
        only_if_there: false,
    }
}

/// As the API server would give it back.
fn stored(wanted: &Wanted) -> Value {
    let mut object = render(wanted, None);
    object["metadata"]["uid"] = json!("u");
    object["metadata"]["resourceVersion"] = json!("12");
    object["metadata"]["generation"] = json!(1);
    object["metadata"]["managedFields"] = json!([{ "manager": "countersign", "operation": "Apply", "fieldsV1": {} }]);
    object
}

fn seen(wanted: &Wanted, object: &Value) -> SeenObject {
    let text = object.to_string();
    match wanted.key.kind {
        ObjectKind::ConfigMap => serde_json::from_str::<RootsObject>(&text).unwrap().seen(),
        ObjectKind::SdsSecret => serde_json::from_str::<SdsObject>(&text).unwrap().seen(),
        ObjectKind::BackendTlsPolicy => serde_json::from_str::<TlsPolicyObject>(&text).unwrap().seen(),
    }
}

fn all() -> [Wanted; 4] {
    let (secret, config_map) = (sds().key, roots().key);
    [roots(), sds(), policy(&[], secret), policy(&["spiffe://td/ns/app/sa/a"], config_map)]
}

#[test]
fn what_is_read_again_is_what_was_written() {
    for wanted in all() {
        let seen = seen(&wanted, &stored(&wanted));
        assert_eq!(seen.print, print_of(&wanted), "{}", wanted.key);
        assert!(seen.ours && seen.going.is_none() && !seen.is_unusable && seen.routed.is_none());
        assert_eq!(
            seen.needs.as_ref(),
            if let Content::Verification { ca, .. } = &wanted.content { Some(ca) } else { None }
        );
        assert_eq!((&*seen.version, &*seen.uid), ("12", "u"));
    }
}

#[test]
fn every_change_of_ours_is_noticed() {
    let changes: &[(usize, &str, Value)] = &[
        (0, "/data/ca.crt", json!("other")),
        (0, "/metadata/labels", json!({})),
        (0, "/metadata/annotations", json!({})),
        (1, "/data/url", json!("eA==")),
        (1, "/data/secretName", json!("eA==")),
        (1, "/immutable", json!(false)),
        (1, "/type", json!("Opaque")),
        (2, "/metadata/ownerReferences", json!([])),
        (2, "/metadata/annotations/istio.io~1ignore-policy-attachment", json!("false")),
        (2, "/spec/targetRefs/0/name", json!("other")),
        (2, "/spec/validation/hostname", json!("other.test")),
        (2, "/spec/validation/caCertificateRefs/0/name", json!("other")),
        (3, "/spec/validation/subjectAltNames/0/uri", json!("spiffe://td/ns/app/sa/b")),
        (3, "/spec/validation/subjectAltNames", json!([])),
        (3, "/spec/validation/caCertificateRefs/0/kind", json!("Secret")),
    ];
    for (which, pointer, value) in changes {
        let wanted = &all()[*which];
        let mut object = stored(wanted);
        *object.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}")) = value.clone();
        assert_ne!(seen(wanted, &object).print, print_of(wanted), "{pointer}");
    }
    let wanted = &all()[2];
    let mut object = stored(wanted);
    object["spec"]["targetRefs"][0]["sectionName"] = json!("http");
    assert_ne!(seen(wanted, &object).print, print_of(wanted));
    let mut added = stored(wanted);
    added["metadata"]["labels"]["team"] = json!("x");
    added["metadata"]["annotations"]["note"] = json!("x");
    added["status"] = json!({ "ancestors": [] });
    assert_eq!(seen(wanted, &added).print, print_of(wanted), "what others add is theirs");
}

#[test]
fn ours_is_what_we_have_applied() {
    let wanted = roots();
    let mut object = stored(&wanted);
    for managers in [
        json!([]),
        json!([{ "manager": "kubectl", "operation": "Apply" }]),
        json!([{ "manager": "countersign", "operation": "Update" }]),
    ] {
        object["metadata"]["managedFields"] = managers;
        assert!(!seen(&wanted, &object).ours);
    }
}

#[test]
fn a_policy_whose_roots_a_gateway_does_not_find_is_unusable() {
    let wanted = policy(&[], sds().key);
    let mut object = stored(&wanted);
    let condition = |status: &str, reason: &str| {
        json!({ "ancestors": [{ "conditions": [
            { "type": "Accepted", "status": "True", "reason": "Accepted" },
            { "type": "ResolvedRefs", "status": status, "reason": reason },
        ] }] })
    };
    object["status"] = condition("True", "ResolvedRefs");
    assert_eq!(seen(&wanted, &object).routed.as_deref(), Some("backend"));
    assert!(!seen(&wanted, &object).is_unusable);
    object["status"] = condition("False", "InvalidCACertificateRef");
    assert!(seen(&wanted, &object).is_unusable);
    assert_eq!(seen(&wanted, &object).print, print_of(&wanted));
}

#[test]
fn what_is_to_be_gone_says_what_keeps_it() {
    let wanted = roots();
    let mut object = stored(&wanted);
    object["metadata"]["deletionTimestamp"] = json!("2026-11-27T10:00:00Z");
    object["metadata"]["finalizers"] = json!(["a.test/x", "b.test/y"]);
    assert_eq!(seen(&wanted, &object).going.as_deref(), Some("a.test/x, b.test/y"));
    let answer = |json: &Value| serde_json::from_value::<Written>(json.clone()).unwrap().after_removal();
    assert_eq!((answer(&object), answer(&stored(&wanted))), (Removed::Going, Removed::Gone));
}

#[test]
fn a_gateway_has_accepted_what_its_controller_says_of_the_policy_as_it_is() {
    let accepted = |gateway: &str, section: Option<&str>, status: &str, generation: u64| {
        json!({
            "ancestorRef": { "group": "gateway.networking.k8s.io", "kind": "Gateway", "namespace": "gw", "name": gateway,
                "sectionName": section },
            "controllerName": "example.com/controller",
            "conditions": [
                { "type": "Accepted", "status": status, "reason": "Accepted", "observedGeneration": generation },
                { "type": "ResolvedRefs", "status": "True", "reason": "ResolvedRefs", "observedGeneration": generation },
            ],
        })
    };
    let wanted = policy(&["spiffe://td/ns/app/sa/b", "spiffe://td/ns/app/sa/a"], roots().key);
    let mut object = stored(&wanted);
    object["metadata"]["generation"] = json!(2);
    object["status"] = json!({ "ancestors": [
        accepted("yes", None, "True", 2),
        accepted("old", None, "True", 1),
        accepted("no", None, "False", 2),
        accepted("half", Some("one"), "True", 2),
        accepted("half", Some("two"), "False", 2),
        { "ancestorRef": { "kind": "Service", "name": "backend" }, "conditions": [] },
    ] });
    let written = serde_json::from_value::<TlsPolicyObject>(object).unwrap().written();
    let ids = ["spiffe://td/ns/app/sa/a", "spiffe://td/ns/app/sa/b"].map(|id| id.parse::<SpiffeId>().unwrap());
    assert_eq!(written.identities, IdentitySet::of(&ids));
    assert_eq!(*written.accepted_by, [ObjectName::new("gw", "yes")]);
}

#[test]
fn a_policy_is_as_old_as_the_last_change_of_what_it_says() {
    let (made, changed, told) = ("2026-11-28T10:00:00Z", "2026-11-28T10:00:07Z", "2026-11-28T11:00:00Z");
    let at = |time: &str, subresource: Option<&str>| json!({ "manager": "countersign", "operation": "Apply", "time": time, "subresource": subresource.unwrap_or_default() });
    let wanted = policy(&[], sds().key);
    let age = |fields: Value| {
        let mut object = stored(&wanted);
        object["metadata"]["creationTimestamp"] = json!(made);
        object["metadata"]["managedFields"] = fields;
        object["metadata"]["generation"] = json!(3);
        let seen = seen(&wanted, &object);
        assert_eq!(seen.generation, 3);
        seen.changed_at.to_string()
    };
    assert_eq!(age(json!([at(made, None)])), made);
    assert_eq!(age(json!([at(made, None), at(changed, None)])), changed);
    assert_eq!(age(json!([at(changed, None), at(told, Some("status"))])), changed, "what gateways say is no change");
    assert_eq!(age(json!([])), made);
}
