use super::*;
use crate::service::ca_roots::RootsObject;

const IN_POD: &str = "state: kubernetes\nreplicaUid: 5f3c\npairAddress: 10.0.0.7:15013\n";

#[test]
fn a_pod_has_defaults_of_its_own() {
    let config = load_file(&format!("{IN_POD}trustDomain: gateways.example")).unwrap();
    assert_eq!(config.listen.address, "0.0.0.0:15012".parse().unwrap());
    assert_eq!(config.admin_listen.address, "0.0.0.0:15020".parse().unwrap());
    assert_eq!((config.drain, config.workload_socket.as_deref()), (Duration::from_secs(5), None));
    let kubernetes = config.kubernetes.as_ref().unwrap();
    assert_eq!(kubernetes.lease, crate::domain::leadership::LeaseTiming::DEFAULT);
    assert_eq!(kubernetes.reviews.audiences, ["istio-ca"]);
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);
}

#[test]
fn a_pod_s_address_may_be_bare_and_of_either_family() {
    for (written, more, address, listen) in [
        ("10.0.0.7", "", "10.0.0.7:15013", "0.0.0.0:15013"),
        ("10.0.0.7:8443", "", "10.0.0.7:8443", "0.0.0.0:15013"),
        ("fd00::7", "", "[fd00::7]:15013", "[::]:15013"),
        ("'[fd00::7]:8443'", "", "[fd00::7]:8443", "[::]:15013"),
        ("fd00::7", "pairListen: 127.0.0.1:9000\n", "[fd00::7]:9000", "127.0.0.1:9000"),
        ("'::1'", "pairService: '[::1]:15013'\n", "[::1]:15013", "[::]:15013"),
    ] {
        let file = format!(
            "state: kubernetes\nreplicaUid: 5f3c\npairAddress: {written}\ntrustDomain: gateways.example\n{more}"
        );
        let config = load_file(&file).unwrap_or_else(|error| panic!("{file}: {error}"));
        let pair = &config.kubernetes.as_ref().unwrap().pair;
        assert_eq!((pair.address, pair.listen), (address.parse().unwrap(), listen.parse().unwrap()), "{file}");
        assert_eq!(config.listen.address.is_ipv6(), pair.address.is_ipv6(), "{file}");
        assert_eq!(config.admin_listen.address.is_ipv6(), pair.address.is_ipv6(), "{file}");
        assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);
    }
    for wrong in ["'::'", "0.0.0.0", "fd00::7:15013", "pod:15013", "'[fd00::7]'", "10.0.0.7:0"] {
        let file =
            format!("state: kubernetes\nreplicaUid: 5f3c\npairAddress: {wrong}\ntrustDomain: gateways.example\n");
        assert!(problem_of(&file).starts_with("pairAddress in FILE: "), "{wrong}");
    }
}

#[test]
fn what_is_for_kubernetes_is_refused_elsewhere_and_its_bad_values_there() {
    assert_eq!(
        problem_of("pairListen: 127.0.0.1:0"),
        "pairListen in FILE: counts with state kubernetes only: set that, or leave this out"
    );
    assert_eq!(problem_of("state: etcd"), "state in FILE: \"etcd\" is no kind of state: write embedded or kubernetes");
    let in_pod = |more: &str| problem_of(&format!("{IN_POD}trustDomain: gateways.example\n{more}"));
    assert_eq!(
        in_pod("leaseStepDown: 6s"),
        "leaseDuration (the default): lease (5s) must be longer than step-down (6s)"
    );
    assert!(in_pod("meshCa: yes please").contains("neither true nor false"));
    assert!(in_pod("tokenCache: 1m1s").contains("at most 1m"));
    assert!(in_pod("namespace: Istio_System").contains("not a name of Kubernetes"));
    let error = ServeConfig::load(&flags(&["--state", "kubernetes"]), &Environment::new()).unwrap_err();
    assert!(error.problems.iter().any(|problem| problem.starts_with("--replica-uid: required")), "{error}");
    assert!(error.problems.iter().any(|problem| problem.starts_with("--pair-address: required")), "{error}");
}

#[test]
fn objects_for_gateways_need_policies_and_the_meshs_own_authority() {
    let objects = format!("{IN_POD}caDir: /etc/cacerts\npolicyObjects: true\n");
    assert!(problem_of(&objects).contains("counts with policy only"));
    let objects = format!("{objects}policy: true\n");
    let elsewhere = format!("{objects}meshTrustDomain: other.example\n");
    assert!(problem_of(&elsewhere).contains("needs the mesh's own trust domain"));
    load_file(&objects).unwrap();
}

#[test]
fn a_second_root_in_the_mesh_is_refused() {
    assert!(problem_of(IN_POD).contains("is the mesh's own, which has a CA"));
    load_file(&format!("{IN_POD}trustDomain: gateways.example\ntokenCache: 60s")).unwrap();
    for fine in ["meshCa: true", "caDir: /etc/cacerts", "trustDomain: gateways.example", "meshTrustDomain: other"] {
        load_file(&format!("{IN_POD}{fine}")).unwrap();
    }
}

#[test]
fn where_istiod_signs_only_what_counts_there_is_taken() {
    let istiod =
        "source: istiod\nistiodAddresses: [istiod.a.svc:15012, '[::1]:15012']\nistiodServerName: istiod.a.svc\n";
    let config = load_file(istiod).unwrap();
    let asked = config.istiod.clone().unwrap();
    assert_eq!((asked.addresses.len(), asked.qps.get(), asked.cluster.is_none()), (2, 40, true));
    assert_eq!(config.workload_socket, None);
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap().istiod, config.istiod);

    let problem = problem_of(&format!("{istiod}svidTtl: 1h\n"));
    assert_eq!(problem, "svidTtl in FILE: does not count with source istiod: leave it out");
    let problem = problem_of("istiodQps: 5\n");
    assert_eq!(problem, "istiodQps in FILE: counts with source istiod only: set that, or leave this out");
    let problem = problem_of(&format!("{istiod}istiodQps: 0\n"));
    assert!(problem.starts_with("istiodQps in FILE: \"0\" is no number of requests"), "{problem}");
    assert!(problem_of("source: plugged-in\n").contains("needs caDir"));
    assert!(problem_of("source: self-signed\ncaDir: a\n").contains("leave one out"));
    assert!(problem_of("source: vault\n").contains("write self-signed, plugged-in or istiod"));
}

#[test]
fn before_istiod_the_own_cluster_is_named_if_that_is_wanted() {
    for istiod in ["source: istiod\n", "source: istiod\nstate: kubernetes\nreplicaUid: a-b\n"] {
        assert_eq!(load_file(istiod).unwrap().istiod.unwrap().cluster_id, None);
        let config = load_file(&format!("{istiod}clusterId: remote\n")).unwrap();
        assert_eq!(config.istiod.as_ref().unwrap().cluster_id.as_deref(), Some("remote"));
        assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap().istiod, config.istiod);
        assert!(problem_of(&format!("{istiod}clusterId: \"\\t\"\n")).contains("has characters that can't be sent"));
    }
    assert!(problem_of("clusterId: remote\n").contains("counts with state kubernetes only"));
}

#[test]
fn a_replica_before_istiod_in_kubernetes_needs_its_name_and_no_pair_port() {
    let problem = problem_of("source: istiod\nstate: kubernetes\n");
    assert!(problem.contains("--replica-uid: required"), "{problem}");
    let config = load_file("source: istiod\nstate: kubernetes\nreplicaUid: a-b\n").unwrap();
    assert_eq!((config.kubernetes.is_none(), config.drain), (true, Duration::from_secs(5)));
    let istiod = config.istiod.clone().unwrap();
    assert_eq!(istiod.addresses[0].endpoint().address, "istiod.istio-system.svc:15012");
    let cluster = istiod.cluster.unwrap();
    assert_eq!((cluster.replica_uid.as_str(), cluster.finds_istiods), ("a-b", true));
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);
    let bundle = "source: istiod\nstate: kubernetes\nreplicaUid: a-b\nistiodRootClusterTrustBundle: a.b:c:d\n";
    let config = load_file(bundle).unwrap();
    let named = RootsObject::ClusterTrustBundle { name: "a.b:c:d".to_owned() };
    assert_eq!(config.istiod.clone().unwrap().cluster.unwrap().roots, named);
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap().istiod, config.istiod);
    let problem = problem_of(&format!("{bundle}rootConfigMap: roots\n"));
    assert!(problem.starts_with("rootConfigMap in FILE: but a ClusterTrustBundle is named"), "{problem}");
    let problem = problem_of("source: istiod\nistiodRootClusterTrustBundle: a.b:c:d\n");
    assert!(
        problem.starts_with("istiodRootClusterTrustBundle in FILE: counts with state kubernetes only"),
        "{problem}"
    );
    let problem = problem_of("source: istiod\nstate: kubernetes\nreplicaUid: a-b\nmeshCa: true\n");
    assert_eq!(problem, "meshCa in FILE: does not count with source istiod: leave it out");
}

#[test]
fn policies_where_istiod_signs_need_a_port_for_the_other_replicas_and_have_the_mesh_s_trust_domain() {
    let base = "source: istiod\nstate: kubernetes\nreplicaUid: a-b\n";
    let policy = format!("{base}policy: true\n");
    assert!(problem_of(&policy).contains("--pair-address: required"), "{}", problem_of(&policy));
    let policy = format!("{policy}pairAddress: 10.0.0.7:15013\n");
    let config = load_file(&policy).unwrap();
    let followed = config.istiod.clone().unwrap().cluster.unwrap().policy.unwrap();
    assert_eq!((followed.reviews.audiences, followed.policy.objects), (vec!["istio-ca".to_owned()], false));
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);
    let more = "policyObjects: true\ngatewayIdentities: ['spiffe://cluster.local/ns/a/sa/b']\n\
                standaloneGatewayIdentities: ['spiffe://cluster.local/ns/a/sa/c']\npairService: a:1\n\
                istioNamespace: istio\npolicyMembership: auto\ntokenCache: 1s\n";
    let config = load_file(&format!("{policy}{more}")).unwrap();
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);

    let problem = problem_of(&format!("{policy}meshTrustDomain: cluster.local\n"));
    assert_eq!(problem, "meshTrustDomain in FILE: does not count with source istiod: trustDomain is the mesh's");
    for (alone, said) in [
        ("pairListen: 127.0.0.1:1", "counts with policy or jwtSvids only: set one of them"),
        ("tokenCache: 1s", "counts with policy or jwtSvids only: set one of them"),
        ("policyObjects: true", "counts with policy only: set that"),
        ("standaloneGatewayIdentities: ['spiffe://a/b']", "counts with policy only: set that"),
    ] {
        let problem = problem_of(&format!("{base}{alone}\n"));
        assert!(problem.contains(said), "{alone}: {problem}");
    }
    let problem = problem_of("source: istiod\npolicy: true\n");
    assert_eq!(problem, "policy in FILE: counts with state kubernetes only: set that, or leave this out");
}

#[test]
fn jwt_svids_where_istiod_signs_need_what_callers_are_attested_by() {
    let base = "state: kubernetes\nsource: istiod\nreplicaUid: a\n";
    let without = load_file(base).unwrap();
    assert!(!without.istiod.unwrap().mints(), "off unless it is asked for");
    let problem = problem_of(&format!("{base}jwtSvids: true\n"));
    assert!(problem.contains("--pair-address: required"), "{problem}");
    let minting = format!("{base}jwtSvids: true\npairAddress: 127.0.0.1\n");
    let config = load_file(&format!("{minting}jwtSvidTtl: 1m\ntokenCache: 1s\n")).unwrap();
    assert_eq!(config.jwt_svid_ttl, Duration::from_secs(60));
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);
    let cluster = config.istiod.unwrap().cluster.unwrap();
    let pair = cluster.pair_with_keys(&config.trust_domain).unwrap();
    assert_eq!((pair.mesh_trust_domain, pair.reviews.cache), (config.trust_domain, Duration::from_secs(1)));
    assert!(!pair.mesh_ca && pair.policy.is_none());
    let config = load_file(&format!("{minting}policy: true\n")).unwrap();
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);

    for (text, said) in [
        ("source: istiod\njwtSvids: true\n".to_owned(), "jwtSvids in FILE: needs state kubernetes"),
        (format!("{base}jwtSvidTtl: 1m\n"), "jwtSvidTtl in FILE: counts with jwtSvids only"),
        ("jwtSvids: true\n".to_owned(), "jwtSvids in FILE: counts with source istiod only"),
    ] {
        let problem = problem_of(&text);
        assert!(problem.contains(said), "{text}: {problem}");
    }
}

#[test]
fn istiods_are_found_in_their_namespace_unless_their_addresses_are_given() {
    let in_pod = "source: istiod\nstate: kubernetes\nreplicaUid: a-b\nistioNamespace: mesh\n";
    let config = load_file(in_pod).unwrap();
    let istiod = config.istiod.clone().unwrap();
    assert_eq!(istiod.addresses[0].endpoint().address, "istiod.mesh.svc:15012");
    assert_eq!(istiod.addresses[0].endpoint().server_name, "istiod.mesh.svc");
    let cluster = istiod.cluster.unwrap();
    assert_eq!((cluster.istio_namespace.as_str(), cluster.finds_istiods), ("mesh", true));
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);
    let given = "istiodAddresses: [istiod.a.svc:15012]\n";
    let problem = problem_of(&format!("{in_pod}{given}"));
    assert!(problem.starts_with("istioNamespace in FILE: counts with policy, or without istiodAddresses"), "{problem}");
    for more in ["", "policy: true\npairAddress: 10.0.0.7:15013\nistioNamespace: mesh\n"] {
        let config = load_file(&format!("source: istiod\nstate: kubernetes\nreplicaUid: a-b\n{given}{more}")).unwrap();
        assert!(!config.istiod.clone().unwrap().cluster.unwrap().finds_istiods);
        assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);
    }
    let problem = problem_of("source: istiod\nstate: kubernetes\nreplicaUid: a-b\nistiodAddresses: []\n");
    assert!(problem.starts_with("--istiod-address: required"), "{problem}");
    let config = load_file("source: istiod\n").unwrap();
    assert_eq!(config.istiod.clone().unwrap().addresses[0].endpoint().address, "istiod.istio-system.svc:15012");
    assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap().istiod, config.istiod);
    let problem = problem_of("source: istiod\nistioNamespace: mesh\n");
    assert!(problem.starts_with("istioNamespace in FILE: counts with state kubernetes only"), "{problem}");
}
