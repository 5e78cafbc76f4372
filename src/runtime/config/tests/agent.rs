use super::*;
use crate::service::ca_roots::RootsObject;

#[test]
fn an_agent_outside_of_a_pod_needs_an_authority() {
    let error = AgentConfig::load(&AgentArgs::default(), &Environment::new()).unwrap_err();
    assert_eq!(error.problems, ["--ca-address: required, but no source gives it"]);
    let args = agent_flags(&["--ca-address", "[::1]:1", "--token-file", "t", "--root-file", "r", "--allow-uid", "7"]);
    let config = AgentConfig::load(&args, &Environment::new()).unwrap();
    assert_eq!(config.socket, PathBuf::from("/var/run/secrets/workload-spiffe-uds/socket"));
    assert_eq!((config.socket_mode, config.allow_uids.as_slice()), (0o666, [7].as_slice()));
    assert_eq!((config.admin_listen, config.authority.followed_roots), (None, None));
}

const IN_A_POD: (&str, &str) = ("KUBERNETES_SERVICE_HOST", "10.0.0.1");

#[test]
fn an_agent_in_a_pod_needs_nothing() {
    let config = AgentConfig::load(&AgentArgs::default(), &environment(&[IN_A_POD])).unwrap();
    let authority = &config.authority;
    assert_eq!(authority.addresses, [parse::ca_address("istiod.istio-system.svc:15012", None).unwrap()]);
    assert_eq!(config.identities.first.token_file, PathBuf::from("/var/run/secrets/tokens/istio-token"));
    assert_eq!(authority.root_file, PathBuf::from("/var/run/secrets/istio/root-cert.pem"));
    let object = RootsObject::ConfigMap { namespace: None, name: "istio-ca-root-cert".to_owned() };
    let followed = FollowedRootsConfig { object, kubeconfig: None, chosen: false };
    assert_eq!(authority.followed_roots, cfg!(feature = "kubernetes").then_some(followed));
    assert_eq!(authority.bundle_source, BundleSource::Ca);
    // whoever says where the roots are means it
    let config = AgentConfig::load(&agent_flags(&["--root-file", "r"]), &environment(&[IN_A_POD])).unwrap();
    assert_eq!(config.authority.followed_roots, None);
}

#[test]
fn an_agent_may_keep_several_identities_each_with_a_hint_and_a_token_of_its_own() {
    let load = |flags: &[&str]| {
        AgentConfig::load(&agent_flags(&[&["--ca-address", "a:1"], flags].concat()), &Environment::new())
    };
    let config = load(&["--identity", "api=/run/api=1", "--identity", "web=/run/web", "--hint", "gateway"]).unwrap();
    let named = |identity: &IdentityConfig| (identity.hint.to_string(), identity.token_file.display().to_string());
    let first = ("gateway".to_owned(), "/var/run/secrets/tokens/istio-token".to_owned());
    assert_eq!(named(&config.identities.first), first);
    let others: Vec<_> = config.identities.others.iter().map(named).collect();
    assert_eq!(others, [("api".into(), "/run/api=1".into()), ("web".into(), "/run/web".into())]);
    assert_eq!(load(&[]).unwrap().identities.first.hint.as_str(), "", "one that is alone needs no hint");
    for (flags, expected) in [
        (&["--identity", "api"][..], "--identity: \"api\" is not HINT=FILE"),
        (&["--identity", "=/run/api"], "--identity: a hint is not empty"),
        (&["--identity", "api="], "--identity: a path can't be empty"),
        (&["--identity", "a=/x", "--identity", "a=/y"], "--identity: \"a\" is the hint of two"),
        (&["--identity", "a=/x", "--hint", "a"], "--identity: \"a\" is the hint of two"),
        (&["--identity", "a=/x", "--token-file", "/x"], "--identity: /x is the token of two"),
        (&["--hint", ""], "--hint: a hint is not empty"),
    ] {
        let problems = load(flags).unwrap_err().problems;
        assert!(problems.len() == 1 && problems[0].starts_with(expected), "{flags:?}: {problems:?}");
    }
}

#[test]
fn variables_of_an_istio_proxy_count_above_the_defaults_only() {
    let istios = [
        IN_A_POD,
        ("CA_ADDR", "countersign.countersign-system.svc:15012"),
        ("CA_ROOT_CA", "/etc/root.pem"),
        ("TRUST_DOMAIN", "mesh.example"),
        ("SECRET_TTL", "1h0m0s"),
        ("ISTIO_META_CLUSTER_ID", "east"),
        ("ISTIO_META_CERT_SIGNER", "blue"),
        ("CA_HEADER_X_TENANT", "secret, really"),
        ("WORKLOAD_IDENTITY_SOCKET_FILE", "ours"),
    ];
    let config = AgentConfig::load(&AgentArgs::default(), &environment(&istios)).unwrap();
    let authority = &config.authority;
    assert_eq!(authority.addresses[0].host, "countersign.countersign-system.svc");
    assert_eq!((authority.root_file.to_str(), &authority.followed_roots), (Some("/etc/root.pem"), &None));
    assert_eq!((config.trust_domain.as_str(), config.svid_ttl), ("mesh.example", Duration::from_secs(3600)));
    let extras = &authority.extras;
    assert_eq!((extras.cluster_id.as_deref(), extras.cert_signer.as_deref()), (Some("east"), Some("blue")));
    assert_eq!(extras.headers, [crate::grpc::ca_client::CaHeader::new("x_tenant", "secret, really").unwrap()]);
    assert!(!format!("{config:?}").contains("secret, really"));
    assert_eq!(config.socket, PathBuf::from("/var/run/secrets/workload-spiffe-uds/ours"));

    let file = file("trustDomain: file\nclusterId: file\ncertSigner: file\n");
    let own = [("COUNTERSIGN_CONFIG", file.path().to_str().unwrap()), ("COUNTERSIGN_CLUSTER_ID", "own")];
    let all = environment(&[&istios[..], &own].concat());
    let config = AgentConfig::load(&agent_flags(&["--ca-address", "flag:1"]), &all).unwrap();
    assert_eq!(config.authority.addresses[0].host, "flag");
    let extras = &config.authority.extras;
    assert_eq!((extras.cluster_id.as_deref(), extras.cert_signer.as_deref()), (Some("own"), Some("file")));
    assert_eq!((config.trust_domain.as_str(), config.svid_ttl.as_secs()), ("file", 3600));
}

#[test]
fn what_of_an_istio_proxys_environment_can_not_be_used_is_named() {
    for (variable, value, expected) in [
        (
            "CA_ADDR",
            "istiod.istio-system.svc:15010",
            "CA_ADDR: \"istiod.istio-system.svc:15010\" is istiod without TLS",
        ),
        ("PROXY_CONFIG", "discoveryAddress: istiod:15010", "PROXY_CONFIG: \"istiod:15010\" is istiod without TLS"),
        ("PROXY_CONFIG", "[", "PROXY_CONFIG: not YAML"),
        ("CA_ROOT_CA", "SYSTEM", "CA_ROOT_CA: the roots of the operating system are not used"),
        ("SECRET_TTL", "soon", "SECRET_TTL: \"soon\" is not a duration"),
        ("CA_HEADER_AUTHORIZATION", "Bearer x", "CA_HEADER_*: the header \"AUTHORIZATION\" is set by countersign"),
    ] {
        let error = AgentConfig::load(&AgentArgs::default(), &environment(&[IN_A_POD, (variable, value)])).unwrap_err();
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(error.problems[0].starts_with(expected), "{error}");
    }
    // a flag goes first, and nothing of it is looked at
    let flags = agent_flags(&["--ca-address", "a:1"]);
    AgentConfig::load(&flags, &environment(&[("CA_ADDR", "istiod:15010")])).unwrap();
}

#[test]
fn what_needs_a_config_map_is_refused_without_one() {
    let load = |flags: &[&str]| AgentConfig::load(&agent_flags(flags), &Environment::new());
    for flag in [["--kubeconfig", "x"], ["--namespace", "x"], ["--bundle-source", "config-map"]] {
        let error = load(&["--ca-address", "a:1", flag[0], flag[1]]).unwrap_err();
        assert!(error.problems[0].starts_with(flag[0]) && error.problems[0].contains("rootConfigMap"), "{error}");
    }
    let with = load(&["--ca-address", "a:1", "--root-config-map", "roots", "--bundle-source", "config-map"]);
    if cfg!(feature = "kubernetes") {
        assert!(with.unwrap().authority.followed_roots.unwrap().chosen);
    } else {
        assert!(with.unwrap_err().problems[0].contains("build it with --features kubernetes"));
    }
}

#[test]
fn a_cluster_trust_bundle_is_followed_instead_of_a_config_map() {
    let load = |flags: &[&str]| AgentConfig::load(&agent_flags(flags), &environment(&[IN_A_POD]));
    let refused = |flags: &[&str]| load(flags).unwrap_err().problems.join("\n");
    let (bundle, named) = (["--bundle-source", "cluster-trust-bundle"], ["--root-cluster-trust-bundle", "a.b:c:d"]);
    if !cfg!(feature = "kubernetes") {
        assert!(
            refused(&bundle).contains("--bundle-source: is not in this build: build it with --features kubernetes")
        );
        assert!(refused(&named).contains("--root-cluster-trust-bundle: is not in this build"));
        return;
    }
    let followed = |flags: &[&str]| {
        let authority = load(flags).unwrap().authority;
        let followed = authority.followed_roots.unwrap();
        assert!(followed.chosen);
        match followed.object {
            RootsObject::ClusterTrustBundle { name } => (name, authority.bundle_source),
            other @ RootsObject::ConfigMap { .. } => panic!("{other:?}"),
        }
    };
    assert_eq!(followed(&bundle), ("istio.io:istiod-ca:root-cert".to_owned(), BundleSource::Followed));
    assert_eq!(followed(&named), ("a.b:c:d".to_owned(), BundleSource::Ca));
    assert_eq!(followed(&[bundle, named].concat()), ("a.b:c:d".to_owned(), BundleSource::Followed));
    assert_eq!(followed(&[named, ["--root-file", "r"]].concat()), ("a.b:c:d".to_owned(), BundleSource::Ca));
    for (flags, expected) in [
        ([named, ["--root-config-map", "x"]], "--root-config-map: but a ClusterTrustBundle is asked for"),
        ([named, ["--bundle-source", "config-map"]], "--bundle-source: but a ClusterTrustBundle is asked for"),
        ([named, ["--namespace", "x"]], "--namespace: does not count with a ClusterTrustBundle"),
        (
            [bundle, ["--root-cluster-trust-bundle", "a/b:c"]],
            "--root-cluster-trust-bundle: \"a/b:c\" is not the name of",
        ),
        ([bundle, ["--root-cluster-trust-bundle", "a::b"]], "--root-cluster-trust-bundle: \"a::b\" is not the name of"),
    ] {
        let problems = refused(&flags.concat());
        assert!(problems.starts_with(expected) && !problems.contains('\n'), "{problems}");
    }
}
