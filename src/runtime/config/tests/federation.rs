//! Other trust domains: where their bundles are.

use super::*;

fn entry(rest: &str) -> String {
    format!("trustDomain: own.example\nfederation:\n- trustDomain: other.example\n{rest}")
}

#[test]
fn a_bundle_is_at_an_endpoint_or_in_a_file() {
    for (rest, printed) in [
        ("  url: https://other.example/\n", "  url: https://other.example/\n"),
        ("  bundleFile: /etc/roots.pem\n", "  bundleFile: /etc/roots.pem\n"),
        (
            "  url: https://a.example\n  endpointSpiffeId: spiffe://other.example/e\n  bootstrapFile: first.pem\n",
            "  url: https://a.example/\n  endpointSpiffeId: spiffe://other.example/e\n  bootstrapFile: first.pem\n",
        ),
    ] {
        let config = load_file(&entry(rest)).unwrap();
        let shown = config.to_yaml().unwrap();
        assert!(shown.contains(&entry(printed)["trustDomain: own.example\n".len()..]), "{shown}");
        assert_eq!(load_file(&shown).unwrap().federation, config.federation);
    }
}

#[test]
fn what_is_wrong_with_an_entry_is_said_by_the_name_of_its_field() {
    for (rest, said) in [
        ("", "url, bundleFile: give one of them"),
        ("  url: https://other.example/\n  bundleFile: a.pem\n", "url, bundleFile: the bundle is in one place"),
        ("  bundleFile: ''\n", "bundleFile: a path can't be empty"),
        ("  bundleFile: a.pem\n  bootstrapFile: b.pem\n", "bootstrapFile: goes with url"),
        ("  bundleFile: a.pem\n  endpointSpiffeId: spiffe://a/b\n", "endpointSpiffeId: goes with url"),
        ("  url: http://other.example/\n", "url: the URL of a bundle endpoint begins with https://"),
        ("  url: https://a.example\n  endpointSpiffeId: nobody\n", "endpointSpiffeId: "),
        ("  url: https://a.example\n  endpointSpiffeId: spiffe://other.example/e\n", "bootstrapFile: the endpoint is"),
        (
            "  bundleFile: a.pem\n- trustDomain: other.example\n  bundleFile: b.pem\n",
            "other.example stands there twice",
        ),
        ("  bundleFile: a.pem\n- trustDomain: own.example\n  bundleFile: b.pem\n", "[1]: trustDomain: is the own one"),
        ("  bundleFiles: [a.pem]\n", "unknown field `bundleFiles`"),
    ] {
        let problem = problem_of(&entry(rest));
        assert!(problem.contains("federation") && problem.contains(said), "{rest}: {problem}");
    }
}
