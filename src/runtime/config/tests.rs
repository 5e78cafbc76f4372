mod agent;
mod federation;
#[cfg(feature = "kubernetes")]
mod kubernetes;

use std::io::Write;

use clap::Parser;
use proptest::prelude::*;

use super::*;
use crate::runtime::args::{Cli, Command};

fn flags(flags: &[&str]) -> ServeArgs {
    let Command::Serve(args) = Cli::try_parse_from(["countersign", "serve"].iter().chain(flags)).unwrap().command
    else {
        panic!("not serve");
    };
    args
}

fn agent_flags(flags: &[&str]) -> AgentArgs {
    let Command::Agent(args) = Cli::try_parse_from(["countersign", "agent"].iter().chain(flags)).unwrap().command
    else {
        panic!("not agent");
    };
    args
}

fn environment(variables: &[(&str, &str)]) -> Environment {
    variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

fn file(yaml: &str) -> tempfile::NamedTempFile {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(yaml.as_bytes()).unwrap();
    file
}

fn load_file(yaml: &str) -> Result<ServeConfig, ConfigError> {
    let file = file(yaml);
    ServeConfig::load(&flags(&["--config", file.path().to_str().unwrap()]), &Environment::new())
}

/// The only problem, with `FILE` for the path of the temporary file.
fn problem_of(yaml: &str) -> String {
    let file = file(yaml);
    let path = file.path().to_str().unwrap();
    let error = ServeConfig::load(&flags(&["--config", path]), &Environment::new()).unwrap_err();
    assert_eq!(error.problems.len(), 1, "{error}");
    error.problems[0].replace(path, "FILE")
}

#[test]
fn nothing_at_all_gives_the_defaults() {
    let config = ServeConfig::load(&ServeArgs::default(), &Environment::new()).unwrap();
    assert_eq!(config.data_dir, PathBuf::from("./countersign-data"));
    assert_eq!(config.workload_socket, Some(PathBuf::from("./countersign-data/workload.sock")));
    assert_eq!(config.kubernetes, None);
    assert_eq!(config.listen, ListenAddress { address: "127.0.0.1:15012".parse().unwrap(), chosen: false });
    assert_eq!(config.ttl.max_ttl(), Duration::from_secs(90 * 86_400));
    assert_eq!(config.dns_names, ["localhost", "istiod.istio-system.svc"]);
    assert_eq!(config.drain, Duration::ZERO);
    assert!(config.token_issuers.is_empty());
}

#[test]
fn an_embedded_replica_has_a_bundle_endpoint_and_others_if_it_is_given() {
    let endpoint = |yaml: &str| load_file(yaml).unwrap().bundle_endpoint;
    let default = ListenAddress { address: "127.0.0.1:8443".parse().unwrap(), chosen: false };
    assert_eq!(
        endpoint(""),
        Some(BundleEndpointConfig { listen: default, files: None, refresh_hint: Duration::from_secs(300) })
    );
    let chosen = endpoint("bundleEndpoint: 127.0.0.1:1\nbundleEndpointCert: c\nbundleEndpointKey: k").unwrap();
    assert!(chosen.listen.chosen && chosen.files.is_some());
    let istiod = "source: istiod\nistiodAddresses: localhost:15012\nistiodRootFile: r\nistiodTokenFile: t\n";
    assert_eq!(load_file(istiod).map(|config| config.bundle_endpoint), Ok(None));
    let said = problem_of(&format!("{istiod}bundleEndpointCert: c\nbundleEndpointKey: k"));
    assert_eq!(said, "bundleEndpointCert in FILE: is of the bundle endpoint: set bundleEndpoint, or leave this out");
    for (yaml, named) in
        [("bundleEndpointCert: c", "bundleEndpointKey"), ("bundleEndpointKey: k", "bundleEndpointCert")]
    {
        let said = problem_of(yaml);
        assert!(said.contains(&format!("needs {named}")), "{said}");
    }
}

#[test]
fn flags_go_over_environment_over_file_over_defaults() {
    let file = file("listen: 1.1.1.1:1\ntrustDomain: file\nworkload: file/a\n");
    let variables = environment(&[
        ("COUNTERSIGN_CONFIG", file.path().to_str().unwrap()),
        ("COUNTERSIGN_LISTEN", "2.2.2.2:2"),
        ("COUNTERSIGN_TRUST_DOMAIN", "environment"),
        ("COUNTERSIGN_WORKLOAD", ""),
        ("COUNTERSIGN_DNS_NAMES", "a.example, B.example"),
        ("COUNTERSIGN_SERVICE_HOST", "10.0.0.1"),
    ]);
    let config = ServeConfig::load(&flags(&["--listen", "3.3.3.3:3"]), &variables).unwrap();
    assert_eq!(config.listen, ListenAddress { address: "3.3.3.3:3".parse().unwrap(), chosen: true });
    assert_eq!(config.trust_domain.as_str(), "environment");
    assert_eq!(config.workload.to_string(), "file/a", "an empty variable counts as none");
    assert_eq!(config.dns_names, ["a.example", "b.example"]);
    assert_eq!(config.drain, Duration::ZERO);
}

#[test]
fn a_list_of_one_source_replaces_those_below() {
    let file = file("dnsNames: [a, b]");
    let config =
        ServeConfig::load(&flags(&["--config", file.path().to_str().unwrap(), "--dns-name", "c"]), &Environment::new());
    assert_eq!(config.unwrap().dns_names, ["c"]);
}

#[test]
fn all_problems_are_reported_at_once_each_with_its_place() {
    let file = file("lisen: x\nsvidTtl: 5\ndrain:\n");
    let path = file.path().to_str().unwrap();
    let variables = environment(&[("COUNTERSIGN_WORKLOAD", "default"), ("COUNTERSIGN_LOG_FORMAT", "xml")]);
    let error = ServeConfig::load(&flags(&["--listen", "15012", "--config", path]), &variables).unwrap_err();
    let text = error.to_string();
    for expected in [
        "--listen: \"15012\" is not IP:PORT".to_owned(),
        "COUNTERSIGN_WORKLOAD: a service account is written NAMESPACE/ACCOUNT".to_owned(),
        "COUNTERSIGN_LOG_FORMAT: \"xml\" is not a log format".to_owned(),
        format!("lisen in {path}: no such setting; did you mean listen?"),
        format!("svidTtl in {path}: \"5\" is not a duration"),
        format!("drain in {path}: has no value"),
    ] {
        assert!(text.contains(&expected), "{expected}\nis not in\n{text}");
    }
    assert_eq!(error.problems.len(), 6, "{text}");
}

#[test]
fn bad_files() {
    for (yaml, expected) in [
        ("port: 1", "port in FILE: no such setting"),
        ("svid-ttl: 1h", "svid-ttl in FILE: no such setting; did you mean svidTtl?"),
        ("config: x", "config in FILE: no such setting"),
        ("listen: {a: b}", "listen in FILE: takes a plain value or a list of those"),
        ("listen: [1.1.1.1:1, 2.2.2.2:2]", "listen in FILE: takes exactly one value"),
        ("dnsNames: []", "--dns-name: required, but no source gives it"),
        ("svidTtl: 0s", "svidTtl in FILE: \"0s\" is not a whole number of seconds above zero"),
        ("svidTtl: 2161h", "svidTtl in FILE: the default TTL is over the maximum TTL: lower it, or raise maxSvidTtl"),
        ("7: a", "FILE: a key is not a text"),
        ("- a", "FILE: a configuration file holds settings"),
        ("{", "FILE: not YAML"),
        ("listen: 1.1.1.1:1\nlisten: 2.2.2.2:2", "FILE: not YAML"),
        ("tokenIssuers: x", "tokenIssuers: takes a list of issuers"),
    ] {
        let problem = problem_of(yaml);
        assert!(problem.starts_with(expected), "{yaml}: {problem}");
    }
    let missing = flags(&["--config", "/does/not/exist"]);
    let error = ServeConfig::load(&missing, &Environment::new()).unwrap_err();
    assert!(error.problems[0].starts_with("/does/not/exist: the configuration file can't be read"), "{error}");
    assert!(load_file("").is_ok());
}

#[test]
fn token_issuers() {
    let config = load_file("tokenIssuers: [{issuer: 'https://a', jwksFile: a.json, namespaces: [x]}]").unwrap();
    let rules = &config.token_issuers[0].rules;
    assert_eq!((rules.issuer.as_str(), rules.audiences[0].as_str()), ("https://a", "istio-ca"));
    assert_eq!(rules.namespaces, Some(vec!["x".to_owned()]));
    for (entry, expected) in [
        ("{jwksFile: a}", "missing field `issuer`"),
        ("{issuer: a}", "missing field `jwksFile`"),
        ("{issuer: a, jwksFile: a, audience: x}", "unknown field `audience`"),
        ("{issuer: '', jwksFile: a}", "issuer: must not be empty"),
        ("{issuer: a, jwksFile: ''}", "jwksFile: a path can't be empty"),
        ("{issuer: a, jwksFile: a, audiences: []}", "audiences: needs at least one"),
        ("{issuer: a, jwksFile: a, namespaces: [A]}", "namespaces: a namespace is"),
        ("{issuer: a, jwksFile: a}, {issuer: a, jwksFile: b}", "issuer \"a\" stands there twice"),
    ] {
        let error = load_file(&format!("tokenIssuers: [{entry}]")).unwrap_err().to_string();
        assert!(error.contains(expected) && error.contains("tokenIssuers: ["), "{entry}: {error}");
    }
}

#[test]
fn every_setting_of_the_command_line_is_read() {
    let garbage = "\u{1}".repeat(200);
    for field in reference::fields("serve").iter().filter(|field| !field.ends_with("_dir")) {
        let error = ServeConfig::load(&ServeArgs::default(), &environment(&[(&names::variable(field), &garbage)]));
        assert!(error.unwrap_err().problems[0].starts_with(&names::variable(field)), "{field}");
    }
    let is_path = |field: &String| field.ends_with("_file") || field.ends_with("_dir");
    for field in reference::fields("agent").iter().filter(|field| !is_path(field)) {
        let error = AgentConfig::load(&AgentArgs::default(), &environment(&[(&names::variable(field), &garbage)]));
        let error = error.unwrap_err();
        assert!(error.problems.iter().any(|problem| problem.starts_with(&names::variable(field))), "{field}: {error}");
    }
}

#[test]
fn authorities_are_verified_by_name() {
    for (text, host, name) in [
        ("127.0.0.1:15012", "127.0.0.1", "localhost"),
        ("[::1]:15012", "::1", "localhost"),
        ("localhost:15012", "localhost", "localhost"),
        ("10.0.0.1:15012", "10.0.0.1", "10.0.0.1"),
        ("istiod.istio-system.svc:15012", "istiod.istio-system.svc", "istiod.istio-system.svc"),
    ] {
        let address = parse::ca_address(text, None).unwrap();
        assert_eq!((address.host.as_str(), &*address.server_name.to_str()), (host, name), "{text}");
        let given = parse::server_name("given").unwrap();
        assert_eq!(parse::ca_address(text, Some(&given)).unwrap().server_name, given);
    }
    for text in ["", "a", "a:", ":1", "a:0", "a:65536", "::1:5", "https://a:1", "a b:1", "[a:1"] {
        assert!(parse::ca_address(text, None).is_err(), "{text}");
    }
}

#[test]
fn values_with_a_sharp_edge() {
    for (text, expected) in [
        ("0666", Some(0o666)),
        ("0000", Some(0)),
        ("666", None),
        ("416", None),
        ("0o660", None),
        ("0888", None),
        ("+666", None),
    ] {
        assert_eq!(parse::file_mode(text).ok(), expected, "{text}");
    }
    assert!(parse::numeric_id("4294967295").is_err());
    assert!(parse::socket_path(&"x".repeat(107)).is_ok());
    assert!(parse::socket_path(&"x".repeat(108)).is_err());
    let long = "d".repeat(100);
    let error = ServeConfig::load(&flags(&["--data-dir", &long]), &Environment::new()).unwrap_err();
    assert!(error.problems[0].starts_with("--data-dir: "), "{error}");
    assert!(ServeConfig::load(&flags(&["--data-dir", &long, "--workload-socket", "x"]), &Environment::new()).is_err());
    assert!(parse::data_dir(&"x".repeat(86)).is_ok());
    assert!(parse::data_dir(&"x".repeat(87)).is_err());
}

proptest! {
    #[test]
    fn what_config_prints_is_the_same_configuration(
        ttl in 1u64..1_000_000,
        more in 0u64..1_000_000,
        drain in 0u64..1_000_000,
        issuer in "[ -~]{1,20}",
        dir in "[a-z: #'\"-]{1,20}",
    ) {
        let printed = load_file("tokenIssuers: [{issuer: a, jwksFile: b}]").unwrap();
        let mut config = printed;
        config.ttl = TtlBounds::new(Duration::from_secs(ttl), Duration::from_secs(ttl + more)).unwrap();
        config.drain = Duration::from_millis(drain);
        config.token_issuers[0].rules.issuer = issuer;
        config.data_dir = dir.into();
        config.listen.chosen = true;
        config.admin_listen.chosen = true;
        config.bundle_endpoint.as_mut().unwrap().listen.chosen = true;
        prop_assert_eq!(load_file(&config.to_yaml().unwrap()).unwrap(), config);
    }
}
