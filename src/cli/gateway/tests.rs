use super::*;

fn request(envoy_proxy: Option<&str>) -> Request {
    Request {
        gateway: "gw/gw".parse().unwrap(),
        envoy_proxy: envoy_proxy.map(|name| name.parse().unwrap()),
        envoy_gateway_namespace: "envoy-gateway-system".parse().unwrap(),
        envoy_gateway_version: EnvoyGatewayVersion::Url,
        agent: Agent {
            image: "registry.example/countersign:1.0".parse().unwrap(),
            trust_domain: "cluster.local".parse().unwrap(),
            ca_addresses: vec!["istiod.istio-system.svc:15012".parse().unwrap()],
            ca_identities: Vec::new(),
            policy_addresses: vec!["countersign.countersign.svc:15012".parse().unwrap()],
            root_config_map: "istio-ca-root-cert".parse().unwrap(),
            listen_address: "0.0.0.0".to_owned(),
        },
    }
}

fn items(request: &Request) -> Vec<Value> {
    let rendered = render(request, Form::Json).unwrap();
    let list: Value = serde_json::from_str(&rendered.output).unwrap();
    list["items"].as_array().unwrap().clone()
}

#[test]
fn a_gateway_s_objects_are_these() {
    let Rendered { output, notes } = render(&request(None), Form::Yaml).unwrap();
    assert_eq!(notes, [""; 0]);
    assert_eq!(output, include_str!("tests/gateway.yaml"));
}

#[test]
fn an_envoy_proxy_that_is_there_is_added_to_by_a_command() {
    let request = request(Some("own"));
    let kinds: Vec<Value> = items(&request).iter().map(|item| item["kind"].clone()).collect();
    assert_eq!(kinds, ["Secret", "Role", "RoleBinding", "BackendTrafficPolicy"]);
    let notes = render(&request, Form::Json).unwrap().notes;
    let [_, _, proxy, gateway] = notes.as_slice() else { panic!("{notes:#?}") };
    for (note, kind, name) in [(proxy, "EnvoyProxy", "own"), (gateway, "Gateway", "gw")] {
        let command = note.lines().last().unwrap();
        let object: Value = serde_json::from_str(command.split('\'').nth(1).unwrap()).unwrap();
        assert_eq!((&object["kind"], &object["metadata"]["name"]), (&kind.into(), &name.into()), "{command}");
        assert!(command.ends_with("kubectl apply --server-side --field-manager countersign-render -f -"), "{command}");
    }
    assert!(gateway.contains(r#""name":"own""#), "{gateway}");
}

#[test]
fn that_of_a_class_has_its_secret_beside_it_and_the_gateway_is_left_alone() {
    let request = request(Some("envoy-gateway-system/class"));
    assert_eq!(items(&request)[0]["metadata"]["namespace"], "envoy-gateway-system");
    let notes = render(&request, Form::Json).unwrap().notes;
    assert!(notes.iter().all(|note| !note.contains("parametersRef")), "{notes:#?}");
}

#[test]
fn a_version_before_urls_has_a_bare_path() {
    let request = Request { envoy_gateway_version: EnvoyGatewayVersion::BarePath, ..request(None) };
    assert_eq!(items(&request)[0]["stringData"]["url"], "/var/run/countersign/workload.sock");
}

#[test]
fn an_agent_listens_where_its_pods_can_be_reached() {
    let mut request = request(None);
    request.agent.listen_address = "[::]".to_owned();
    let Rendered { output, .. } = render(&request, Form::Yaml).unwrap();
    assert!(output.contains("--admin-listen=[::]:15020\n") && !output.contains("0.0.0.0"), "{output}");
}

/// As Envoy Gateway's own tests have them.
#[test]
fn accounts_are_named_as_envoy_gateway_names_them() {
    let account = |gateway: &str| Request { gateway: gateway.parse().unwrap(), ..request(None) }.account();
    assert_eq!(account("gw/gw"), "envoy-gw-gw-cd20121d");
    let long = account(&format!("some-namespace/{}", "a".repeat(60)));
    assert_eq!(long.len(), "envoy-".len() + 48 + 9, "{long}");
    let cut_at_a_dash = account(&format!("some-namespace/{}-b{}", "a".repeat(32), "c".repeat(20)));
    assert!(cut_at_a_dash.contains("aaa-") && !cut_at_a_dash.contains("--"), "{cut_at_a_dash}");
}
