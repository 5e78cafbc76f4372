//! The variables of an istio-proxy container that say the same as settings of the agent: so the environment of a sidecar can
//! be kept. They count where neither flag, own variable nor file says anything.

use std::collections::BTreeMap;

use serde_yaml_ng::Mapping;

use super::Environment;

/// What they say, by field.
#[derive(Debug, Default)]
pub(super) struct IstioVariables {
    /// Each value with the variable it is from.
    pub(super) values: BTreeMap<String, (String, Vec<String>)>,
    pub(super) problems: Vec<String>,
}

/// One variable, one setting, the same text.
const SAME: [(&str, &str); 6] = [
    ("CA_ROOT_CA", "root_file"),
    ("TRUST_DOMAIN", "trust_domain"),
    ("OUTPUT_CERTS", "output_dir"),
    ("SECRET_TTL", "svid_ttl"),
    ("ISTIO_META_CLUSTER_ID", "cluster_id"),
    ("ISTIO_META_CERT_SIGNER", "cert_signer"),
];
/// What the name of a variable with a header begins with.
pub(super) const HEADER: &str = "CA_HEADER_";
/// The folder of the sockets, which every injected pod has.
const SOCKETS: &str = "/var/run/secrets/workload-spiffe-uds";
/// What pilot-agent takes a CA at localhost for.
const ISTIOD: &str = "istiod.istio-system.svc";

impl IstioVariables {
    /// Reads them all. An empty variable counts as none.
    pub(super) fn read(environment: &Environment) -> Self {
        let mut read = Self::default();
        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
        for (name, field) in SAME {
            if let Some(value) = variable(name) {
                read.take(field, name, vec![value.clone()]);
            }
        }
        if let Some(name) = variable("WORKLOAD_IDENTITY_SOCKET_FILE") {
            read.take("socket", "WORKLOAD_IDENTITY_SOCKET_FILE", vec![format!("{SOCKETS}/{name}")]);
        }
        let headers = environment.iter().filter_map(|(name, value)| Some((name.strip_prefix(HEADER)?, value)));
        let headers: Vec<_> = headers.map(|(name, value)| format!("{name}={value}")).collect();
        if !headers.is_empty() {
            read.take("ca_headers", "CA_HEADER_*", headers);
        }
        read.take_address(variable("CA_ADDR"), variable("PROXY_CONFIG"), variable("ISTIOD_SAN"));
        read
    }

    /// As pilot-agent finds it: a CA of its own, or else istiod, which may be told to have another name.
    fn take_address(&mut self, ca: Option<&String>, proxy_config: Option<&String>, istiod_name: Option<&String>) {
        let discovery = proxy_config.and_then(|text| match serde_yaml_ng::from_str::<Mapping>(text) {
            Ok(config) => config.get("discoveryAddress")?.as_str().map(str::to_owned),
            Err(error) => {
                self.problems.push(format!("PROXY_CONFIG: not YAML: {error}"));
                None
            }
        });
        let (variable, address) = match (ca, discovery) {
            (Some(address), _) => ("CA_ADDR", address.clone()),
            (None, Some(address)) => ("PROXY_CONFIG", address),
            (None, None) => {
                if let Some(name) = istiod_name {
                    self.take("ca_server_name", "ISTIOD_SAN", vec![name.clone()]);
                }
                return;
            }
        };
        if let Some(name) = istiod_name.filter(|_| ca.is_none()) {
            self.take("ca_server_name", "ISTIOD_SAN", vec![name.clone()]);
        } else if address.contains("localhost") {
            self.take("ca_server_name", variable, vec![ISTIOD.to_owned()]);
        }
        self.take("ca_addresses", variable, vec![address]);
    }

    fn take(&mut self, field: &str, variable: &str, values: Vec<String>) {
        self.values.insert(field.to_owned(), (variable.to_owned(), values));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> IstioVariables {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        IstioVariables::read(&variables.collect())
    }

    fn value<'a>(read: &'a IstioVariables, field: &str) -> Option<(&'a str, Vec<&'a str>)> {
        let (variable, values) = read.values.get(field)?;
        Some((variable, values.iter().map(String::as_str).collect()))
    }

    #[test]
    fn addresses_are_found_as_pilot_agent_finds_them() {
        let proxy_config = ("PROXY_CONFIG", r#"{"discoveryAddress":"istiod-canary.istio-system.svc:15012"}"#);
        let canary = "istiod-canary.istio-system.svc:15012";
        let both = read(&[("CA_ADDR", "ca:1"), proxy_config, ("ISTIOD_SAN", "other")]);
        assert_eq!(value(&both, "ca_addresses"), Some(("CA_ADDR", vec!["ca:1"])));
        assert_eq!(value(&both, "ca_server_name"), None);
        let only = read(&[("CA_ADDR", ""), proxy_config, ("ISTIOD_SAN", "other")]);
        assert_eq!(value(&only, "ca_addresses"), Some(("PROXY_CONFIG", vec![canary])));
        assert_eq!(value(&only, "ca_server_name"), Some(("ISTIOD_SAN", vec!["other"])));
        let local = read(&[("CA_ADDR", "localhost:15012")]);
        assert_eq!(value(&local, "ca_server_name"), Some(("CA_ADDR", vec![ISTIOD])));
        for without in ["{}", "concurrency: 2\ndiscoveryAddress: 7"] {
            assert_eq!(value(&read(&[("PROXY_CONFIG", without)]), "ca_addresses"), None, "{without}");
        }
        assert_eq!(read(&[("PROXY_CONFIG", "{")]).problems.len(), 1);
    }

    #[test]
    fn headers_are_all_that_begin_so() {
        let found = read(&[("CA_HEADER_A", "1"), ("CA_HEADER_b", "x=y, z"), ("CA_ADDRESS", "none of ours")]);
        assert_eq!(value(&found, "ca_headers"), Some(("CA_HEADER_*", vec!["A=1", "b=x=y, z"])));
        assert_eq!(found.values.len(), 1);
    }
}
