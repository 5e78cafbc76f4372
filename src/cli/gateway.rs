//! `countersign render gateway`: what a user applies so that a Gateway of Envoy Gateway has an identity of the mesh, kept by an
//! agent in its own pods. Nothing here looks at a cluster or changes one.

mod names;
mod sidecar;

use std::{fmt::Write as _, io};

use ring::digest::{SHA256, digest};
use serde_json::{Value, json};

pub use self::names::{EnvoyGatewayVersion, EnvoyProxyName, HostPort, Image, Name, NameError, ObjectName};
use crate::domain::identity::{ServiceAccount, SpiffeId, TrustDomain};

/// Where the agent serves, and where Envoy Gateway's SDS Secrets point to.
const SOCKET: &str = "/var/run/countersign/workload.sock";
/// Of the SDS Secret that stands for the gateway's own certificate.
const SVID_SECRET: &str = "countersign-svid";
/// Of the EnvoyProxy that is made where none is named.
const ENVOY_PROXY: &str = "countersign";
const ENVOY_GATEWAY_API: &str = "gateway.envoyproxy.io/v1alpha1";
const FIELD_MANAGER: &str = "countersign-render";

/// What was asked for.
#[derive(Clone, Debug)]
pub struct Request {
    /// The Gateway.
    pub gateway: ObjectName,
    /// An EnvoyProxy that is there already and that the Gateway, or its class, refers to.
    pub envoy_proxy: Option<EnvoyProxyName>,
    /// Where Envoy Gateway runs gateways.
    pub envoy_gateway_namespace: Name,
    /// Of Envoy Gateway.
    pub envoy_gateway_version: EnvoyGatewayVersion,
    /// What runs beside Envoy.
    pub agent: Agent,
}

/// The settings of the agent.
#[derive(Clone, Debug)]
pub struct Agent {
    /// Image with `countersign` as its entry point.
    pub image: Image,
    /// Of its identity.
    pub trust_domain: TrustDomain,
    /// Whom it asks for certificates.
    pub ca_addresses: Vec<HostPort>,
    /// By which ID those are known, where not by a name.
    pub ca_identities: Vec<SpiffeId>,
    /// Whom it follows for policies.
    pub policy_addresses: Vec<HostPort>,
    /// ConfigMap with the roots that all those are verified by.
    pub root_config_map: Name,
    /// Where its probes and metrics listen, as in a URL.
    pub listen_address: String,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// Documents, with what can't be one in comments.
    Yaml,
    /// A List, without comments.
    Json,
}

/// What is printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rendered {
    /// For stdout, and from there for `kubectl apply`.
    pub output: String,
    /// For stderr: what the output has no place for.
    pub notes: Vec<String>,
}

/// The objects, and what else must be done.
///
/// # Errors
///
/// When a serializer fails.
pub fn render(request: &Request, form: Form) -> io::Result<Rendered> {
    let (documents, notes) = (request.documents(), request.notes());
    if form == Form::Json {
        let list = json!({ "apiVersion": "v1", "kind": "List", "items": documents });
        return Ok(Rendered { output: serde_json::to_string_pretty(&list)? + "\n", notes });
    }
    let mut output = String::new();
    for line in notes.iter().flat_map(|note| note.lines().chain([""])) {
        writeln!(output, "{}", format!("# {line}").trim_end()).map_err(io::Error::other)?;
    }
    for document in documents {
        output.push_str("---\n");
        output.push_str(&serde_yaml_ng::to_string(&document).map_err(io::Error::other)?);
    }
    Ok(Rendered { output, notes: Vec::new() })
}

impl Request {
    /// The service account that Envoy Gateway makes for the pods of this Gateway.
    fn account(&self) -> String {
        let ObjectName { namespace, name } = &self.gateway;
        let hash = digest(&SHA256, self.gateway.to_string().as_bytes());
        let hash: String = hash.as_ref().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        // as long as Envoy Gateway leaves it
        let readable: String = format!("{namespace}-{name}").chars().take(48).collect();
        format!("envoy-{}-{hash}", readable.strip_suffix('-').filter(|_| readable.len() == 48).unwrap_or(&readable))
    }

    fn identity(&self) -> String {
        let account = ServiceAccount::new(&self.envoy_gateway_namespace.to_string(), &self.account());
        let id = account.ok().and_then(|account| account.spiffe_id(&self.agent.trust_domain).ok());
        id.map_or_else(String::new, |id| id.to_string())
    }

    /// Where the EnvoyProxy is; that of a class may be elsewhere than the Gateway.
    fn envoy_proxy(&self) -> ObjectName {
        let named = self.envoy_proxy.as_ref();
        let namespace = named.and_then(|proxy| proxy.namespace.clone());
        ObjectName {
            namespace: namespace.unwrap_or_else(|| self.gateway.namespace.clone()),
            name: named.map_or_else(|| ENVOY_PROXY.to_owned(), |proxy| proxy.name.clone()),
        }
    }

    fn documents(&self) -> Vec<Value> {
        let mut documents = vec![self.svid_secret(), self.role(), self.role_binding(), self.retries()];
        if self.envoy_proxy.is_none() {
            documents.push(self.envoy_proxy_object());
        }
        documents
    }

    fn svid_secret(&self) -> Value {
        json!({
            "apiVersion": "v1", "kind": "Secret", "type": "gateway.envoyproxy.io/sds",
            "metadata": metadata(&self.envoy_proxy().namespace, SVID_SECRET),
            "stringData": { "url": self.envoy_gateway_version.socket_url(SOCKET), "secretName": "default" },
        })
    }

    fn role(&self) -> Value {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": metadata(&self.envoy_gateway_namespace.to_string(), &self.own_name()),
            "rules": [{
                "apiGroups": [""], "resources": ["configmaps"],
                "resourceNames": [self.agent.root_config_map.to_string()], "verbs": ["list", "watch"],
            }],
        })
    }

    fn role_binding(&self) -> Value {
        json!({
            "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
            "metadata": metadata(&self.envoy_gateway_namespace.to_string(), &self.own_name()),
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": self.own_name() },
            "subjects": [{
                "kind": "ServiceAccount", "namespace": self.envoy_gateway_namespace.to_string(), "name": self.account(),
            }],
        })
    }

    /// When TLS to a Service ends, Envoy Gateway's cluster is without its certificate and ALPN before it is without TLS.
    fn retries(&self) -> Value {
        let ObjectName { namespace, name } = &self.gateway;
        json!({
            "apiVersion": ENVOY_GATEWAY_API, "kind": "BackendTrafficPolicy",
            "metadata": metadata(namespace, &self.own_name()),
            "spec": {
                "targetRefs": [{ "group": "gateway.networking.k8s.io", "kind": "Gateway", "name": name }],
                // nothing of a request has been sent by then, so any may be repeated
                "retry": { "numRetries": 2, "retryOn": { "triggers": ["connect-failure"] } },
            },
        })
    }

    /// Of what there is once for this Gateway.
    fn own_name(&self) -> String {
        format!("countersign-{}", self.account())
    }

    fn envoy_proxy_object(&self) -> Value {
        let ObjectName { namespace, name } = self.envoy_proxy();
        let patch = sidecar::deployment_patch(&self.agent);
        json!({
            "apiVersion": ENVOY_GATEWAY_API, "kind": "EnvoyProxy",
            "metadata": { "namespace": namespace, "name": name },
            "spec": {
                "provider": { "type": "Kubernetes", "kubernetes": { "envoyDeployment": {
                    "patch": { "type": "StrategicMerge", "value": patch },
                } } },
                "backendTLS": {
                    "clientCertificateRef": { "group": "", "kind": "Secret", "name": SVID_SECRET },
                    // what sidecars take in every mode, and Envoy then speaks what is set for the backend
                    "alpnProtocols": ["istio-http/1.1", "istio"],
                },
            },
        })
    }

    fn gateway_object(&self) -> Value {
        let ObjectName { namespace, name } = &self.gateway;
        json!({
            "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
            "metadata": { "namespace": namespace, "name": name },
            "spec": { "infrastructure": { "parametersRef": {
                "group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": self.envoy_proxy().name,
            } } },
        })
    }

    /// In the order in which they are done.
    fn notes(&self) -> Vec<String> {
        let mut notes = vec![
            format!(
                "Envoy Gateway must read SDS Secrets: set extensionApis.enableSDSSecretRef to true in its configuration (ConfigMap\n\
                 envoy-gateway-config of namespace {}; with its Helm chart:\n\
                 --set config.envoyGateway.extensionApis.enableSDSSecretRef=true).",
                self.envoy_gateway_namespace
            ),
            format!("The replicas must know this gateway: --gateway-identity {}", self.identity()),
        ];
        let ObjectName { namespace, name } = self.envoy_proxy();
        if self.envoy_proxy.is_some() {
            notes.push(format!(
                "EnvoyProxy {namespace}/{name} is there already. This adds to it, after all else is applied; where it has a patch\n\
                 of its own kubectl refuses: then add these fields by hand.\n{}",
                apply_command(&self.envoy_proxy_object())
            ));
        }
        if namespace == self.gateway.namespace {
            notes.push(format!(
                "Last, the Gateway's own field spec.infrastructure.parametersRef; its spec.tls.backend must not be set.\n{}",
                apply_command(&self.gateway_object())
            ));
        }
        notes
    }
}

/// As its own field manager: whoever else has set one of these fields is not overruled, and loses none of the others.
fn apply_command(object: &Value) -> String {
    // nothing in it has a quote: names, images and addresses are checked
    format!("echo '{object}' | kubectl apply --server-side --field-manager {FIELD_MANAGER} -f -")
}

fn metadata(namespace: &str, name: &str) -> Value {
    json!({ "namespace": namespace, "name": name, "labels": { "app.kubernetes.io/part-of": "countersign" } })
}

#[cfg(test)]
mod tests;
