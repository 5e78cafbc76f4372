//! The arguments of `render`.

use clap::{Args, Subcommand, ValueEnum};

use crate::{
    cli::gateway::{Agent, EnvoyGatewayVersion, EnvoyProxyName, Form, HostPort, Image, Name, ObjectName, Request},
    domain::identity::{SpiffeId, TrustDomain},
};

/// What can be printed for others to apply.
#[derive(Debug, Subcommand)]
pub enum RenderCommand {
    /// The objects by which a Gateway of Envoy Gateway has an identity, kept by an agent in its own pods
    ///
    /// Nothing is looked at, and nothing is applied: pipe it into `kubectl apply --server-side -f -` once it has been read.
    Gateway(RenderGatewayArgs),
}

/// The arguments of `render gateway`.
#[derive(Args, Clone, Debug)]
pub struct RenderGatewayArgs {
    /// The Gateway
    #[arg(value_name = "NAMESPACE/NAME")]
    pub gateway: ObjectName,
    /// Image of the agent, with `countersign` as its entry point
    #[arg(long, value_name = "IMAGE")]
    pub image: Image,
    /// EnvoyProxy that the Gateway or its class refers to already. If not given, one is made
    #[arg(long, value_name = "[NAMESPACE/]NAME")]
    pub envoy_proxy: Option<EnvoyProxyName>,
    /// Version of Envoy Gateway: 1.8 and later ones differ in how a socket is written
    #[arg(long, value_name = "VERSION", default_value = "1.9")]
    pub envoy_gateway_version: EnvoyGatewayVersion,
    /// Namespace in which Envoy Gateway runs gateways
    #[arg(long, value_name = "NAME", default_value = "envoy-gateway-system")]
    pub envoy_gateway_namespace: Name,
    /// Address of a certificate authority for the agent. Repeatable
    #[arg(long = "ca-address", value_name = "HOST:PORT", default_value = "istiod.istio-system.svc:15012")]
    pub ca_addresses: Vec<HostPort>,
    /// Identity by which an authority is taken for the right one, as of a pair in front of istiod. Repeatable
    #[arg(long = "ca-identity", value_name = "SPIFFE_ID")]
    pub ca_identities: Vec<SpiffeId>,
    /// Address of a replica that says which Services need mutual TLS. Repeatable
    #[arg(long = "policy-address", value_name = "HOST:PORT", default_value = "countersign.countersign.svc:15012")]
    pub policy_addresses: Vec<HostPort>,
    /// ConfigMap with the roots that these are verified by, in the namespace of Envoy Gateway
    #[arg(long, value_name = "NAME", default_value = "istio-ca-root-cert")]
    pub root_config_map: Name,
    /// Trust domain of the identity
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: TrustDomain,
    /// Address that the agent's probes and metrics listen on: `[::]` where pods have no IPv4
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0", value_parser = ["0.0.0.0", "[::]"])]
    pub listen_address: String,
    /// How to print
    #[arg(short, long, value_enum, default_value_t = DocumentFormat::Yaml)]
    pub output: DocumentFormat,
}

/// What documents are printed as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum DocumentFormat {
    /// Documents, with what can't be one in comments
    Yaml,
    /// One List; the rest goes to stderr
    Json,
}

impl From<DocumentFormat> for Form {
    fn from(format: DocumentFormat) -> Self {
        match format {
            DocumentFormat::Yaml => Self::Yaml,
            DocumentFormat::Json => Self::Json,
        }
    }
}

impl From<&RenderGatewayArgs> for Request {
    fn from(args: &RenderGatewayArgs) -> Self {
        let args = args.clone();
        Self {
            gateway: args.gateway,
            envoy_proxy: args.envoy_proxy,
            envoy_gateway_namespace: args.envoy_gateway_namespace,
            envoy_gateway_version: args.envoy_gateway_version,
            agent: Agent {
                image: args.image,
                trust_domain: args.trust_domain,
                ca_addresses: args.ca_addresses,
                ca_identities: args.ca_identities,
                policy_addresses: args.policy_addresses,
                root_config_map: args.root_config_map,
                listen_address: args.listen_address,
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use crate::runtime::args::Cli;

    #[test]
    fn values_are_checked_at_once() {
        for bad in [
            &["render", "gateway", "gw", "--image", "x"][..],
            &["render", "gateway", "gw/gw"],
            &["render", "gateway", "gw/gw", "--image", "x", "--ca-address", "x"],
            &["render", "gateway", "gw/gw", "--image", "x", "--envoy-gateway-version", "1.7"],
            &["render", "gateway", "gw/gw", "--image", "x", "--listen-address", "::"],
        ] {
            assert!(Cli::try_parse_from(["countersign"].iter().chain(bad)).is_err(), "{bad:?}");
        }
        let good = ["countersign", "render", "gateway", "gw/gw", "--image", "x", "--listen-address", "[::]"];
        assert!(Cli::try_parse_from(good).is_ok());
    }
}
