//! What users and controllers write, as texts.

use std::net::Ipv4Addr;

use super::backend::{Class, PORT};
use crate::pair::TRUST_DOMAIN;

pub(super) const GATEWAY: &str = "
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: gw, namespace: gw}
spec:
  gatewayClassName: envoy
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]
";

/// A class whose Gateways have their client certificate from a Secret and no agent, and one of them.
pub(super) const PORTABLE_GATEWAY: &str = "
apiVersion: gateway.envoyproxy.io/v1alpha1
kind: EnvoyProxy
metadata: {name: files, namespace: gw}
spec:
  backendTLS: {clientCertificateRef: {kind: Secret, name: files}, alpnProtocols: [istio-http/1.1, istio]}
---
apiVersion: gateway.networking.k8s.io/v1
kind: GatewayClass
metadata: {name: files}
spec:
  controllerName: gateway.envoyproxy.io/gatewayclass-controller
  parametersRef: {group: gateway.envoyproxy.io, kind: EnvoyProxy, name: files, namespace: gw}
---
apiVersion: gateway.networking.k8s.io/v1
kind: Gateway
metadata: {name: files, namespace: gw}
spec:
  gatewayClassName: files
  listeners: [{name: http, port: 80, protocol: HTTP, allowedRoutes: {namespaces: {from: All}}}]
";

/// A namespace, labelled `istio-injection: VALUE` or not.
pub(super) fn namespace(name: &str, injection: Option<&str>) -> String {
    let labels = injection.map_or_else(String::new, |value| format!("istio-injection: {value}"));
    namespace_with(name, &labels)
}

/// A namespace with these labels.
pub(super) fn namespace_with(name: &str, labels: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata: {{name: {name}, labels: {{{labels}}}}}\n")
}

/// A Service with one port, and the slice of those who are behind it.
pub(super) fn service(namespace: &str, name: &str, class: Class, addresses: &[Ipv4Addr]) -> String {
    let (port_name, protocol) = match class {
        Class::Http => ("http", ""),
        Class::Grpc => ("grpc", ""),
        Class::H2c => ("web", ", appProtocol: kubernetes.io/h2c"),
        Class::Sniffed => ("\"\"", ""),
    };
    let endpoints: Vec<String> =
        addresses.iter().map(|address| format!("{{addresses: [{address}], conditions: {{ready: true}}}}")).collect();
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{selector: {{app: {name}}}, ports: [{{name: {port_name}, port: {PORT}{protocol}}}]}}\n---\n\
         apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{kubernetes.io/service-name: {name}}}}}\n\
         addressType: IPv4\nports: [{{name: {port_name}, port: {PORT}, protocol: TCP{protocol}}}]\nendpoints: [{}]\n---\n",
        endpoints.join(", ")
    )
}

/// A Service of the same pods as `of` at another port of theirs, without a name.
pub(super) fn unnamed_service(namespace: &str, name: &str, of: &str, address: Ipv4Addr, port: u16) -> String {
    let selected = service(namespace, name, Class::Sniffed, &[address]);
    let selected = selected.replace(&format!("selector: {{app: {name}}}"), &format!("selector: {{app: {of}}}"));
    let port_of = |field: &str| format!("port: {PORT}{field}");
    selected
        .replace(&port_of("}]}"), &format!("port: {PORT}, targetPort: {port}}}]}}"))
        .replace(&port_of(", protocol"), &format!("port: {port}, protocol"))
}

/// A pod of a Service, with a sidecar or without.
pub(super) fn pod(namespace: &str, name: &str, of: &str, account: &str, injected: bool) -> String {
    let annotations = if injected { "sidecar.istio.io/status: \"{}\"" } else { "" };
    format!(
        "apiVersion: v1\nkind: Pod\n\
         metadata: {{name: {name}, namespace: {namespace}, labels: {{app: {of}}}, annotations: {{{annotations}}}}}\n\
         spec: {{serviceAccountName: {account}, containers: [{{name: main, image: none}}]}}\n---\n"
    )
}

/// A route for paths of a host to Services of its namespace, in equal parts.
pub(super) fn http_route(namespace: &str, name: &str, host: &str, services: &[&str]) -> String {
    route("HTTPRoute", &["gw"], namespace, name, host, services)
}

/// The same from other Gateways.
pub(super) fn http_route_from(gateways: &[&str], namespace: &str, name: &str, host: &str, service: &str) -> String {
    route("HTTPRoute", gateways, namespace, name, host, &[service])
}

/// A route with a rule for each path of a host, to Services of its namespace in equal parts.
pub(super) fn path_route(namespace: &str, name: &str, host: &str, rules: &[(String, Vec<String>)]) -> String {
    let rules = rules.iter().map(|(path, services)| {
        let backends: Vec<String> = services.iter().map(|name| format!("{{name: {name}, port: {PORT}}}")).collect();
        let matches = format!("matches: [{{path: {{type: Exact, value: {path}}}}}]");
        format!("  - {{{matches}, backendRefs: [{}]}}\n", backends.join(", "))
    });
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: HTTPRoute\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  hostnames: [{host}]\n  parentRefs: [{{name: gw, namespace: gw}}]\n  rules:\n{}---\n",
        rules.collect::<String>()
    )
}

/// A route for all of gRPC of a host.
pub(super) fn grpc_route(namespace: &str, name: &str, host: &str, services: &[&str]) -> String {
    route("GRPCRoute", &["gw"], namespace, name, host, services)
}

fn route(kind: &str, from: &[&str], namespace: &str, name: &str, host: &str, services: &[&str]) -> String {
    let parents: Vec<String> = from.iter().map(|gateway| format!("{{name: {gateway}, namespace: gw}}")).collect();
    let backends: Vec<String> = services.iter().map(|service| format!("{{name: {service}, port: {PORT}}}")).collect();
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  hostnames: [{host}]\n  parentRefs: [{}]\n  rules: [{{backendRefs: [{}]}}]\n---\n",
        parents.join(", "),
        backends.join(", ")
    )
}

/// What a replica writes for a Service whose gateways have SDS.
pub(super) fn policy(namespace: &str, service: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\ntype: gateway.envoyproxy.io/sds\n\
         metadata: {{name: countersign-{service}, namespace: {namespace}}}\n\
         stringData: {{url: \"unix:///var/run/countersign/workload.sock\", secretName: validation/{namespace}/{service}}}\n---\n\
         apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
         metadata: {{name: countersign-{service}, namespace: {namespace}}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  \
         validation: {{hostname: {service}.{namespace}.svc.cluster.local, \
         caCertificateRefs: [{{group: \"\", kind: Secret, name: countersign-{service}}}]}}\n---\n"
    )
}

/// What a user writes for a Service outside the mesh that has a certificate for `host`.
pub(super) fn server_policy(namespace: &str, service: &str, host: &str, roots: &str) -> String {
    format!(
        "apiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\nmetadata: {{name: {service}, namespace: {namespace}}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  \
         validation: {{hostname: {host}, caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: {roots}}}]}}\n---\n"
    )
}

/// A Service is asked about each request of an HTTPRoute of its namespace.
pub(super) fn checked_by(namespace: &str, route: &str, service: &str) -> String {
    format!(
        "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: SecurityPolicy\nmetadata: {{name: {route}, namespace: {namespace}}}\n\
         spec:\n  targetRefs: [{{group: gateway.networking.k8s.io, kind: HTTPRoute, name: {route}}}]\n  \
         extAuth: {{http: {{backendRefs: [{{name: {service}, port: {PORT}}}]}}}}\n---\n"
    )
}

/// What a replica writes for a Service where some gateway has no SDS: whom to accept stands in it.
pub(super) fn portable_policy(namespace: &str, service: &str, account: &str, roots: &str) -> String {
    let ca = serde_json::json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": "countersign-mesh-ca", "namespace": namespace }, "data": { "ca.crt": roots },
    });
    format!(
        "{ca}\n---\napiVersion: gateway.networking.k8s.io/v1\nkind: BackendTLSPolicy\n\
         metadata: {{name: countersign-{service}, namespace: {namespace}}}\n\
         spec:\n  targetRefs: [{{group: \"\", kind: Service, name: {service}}}]\n  \
         validation:\n    hostname: {service}.{namespace}.svc.cluster.local\n    \
         subjectAltNames: [{{type: URI, uri: \"spiffe://{TRUST_DOMAIN}/ns/{namespace}/sa/{account}\"}}]\n    \
         caCertificateRefs: [{{group: \"\", kind: ConfigMap, name: countersign-mesh-ca}}]\n---\n"
    )
}
