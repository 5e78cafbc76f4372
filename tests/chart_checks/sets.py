"""Sets of values that the chart is rendered with, each with the plain files whose rights it must come to, and refused ones."""

from dataclasses import dataclass, field
from typing import Dict, List, Tuple

GATEWAY = {"namespace": "gateways", "secret": "mesh-certificate", "serviceAccount": "gateway"}
IDENTITY = "spiffe://cluster.local/ns/gateways/sa/edge"
OWN_ROOT = {"mode": "self-signed", "trustDomain": "gateways.example"}
MONITORED = {
    "serviceMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}},
    "agents": {"podMonitor": {"enabled": True, "interval": "15s", "labels": {"release": "prometheus"}}},
    "prometheusRule": {"enabled": True, "labels": {"release": "prometheus"}, "runbookUrl": "https://docs.example/alerts"},
    "grafanaDashboard": {"enabled": True},
}


@dataclass
class Set:
    name: str
    values: dict
    rights: List[str]
    release: str = "countersign"
    namespace: str = "countersign"
    full_name: str = "countersign"
    # what in the plain files stands for something that these values set
    instead: Dict[str, str] = field(default_factory=dict)


SETS = [
    Set("as it comes", {}, ["istiod", "istiod-policy", "policy"]),
    Set("istiod without policies", {"policy": False}, ["istiod", "istiod-services"]),
    Set("istiods that are given", {"policy": False, "settings": {"istiodAddresses": ["istiod.example:15012"]}}, ["istiod"]),
    Set("roots in a ClusterTrustBundle", {"settings": {"istiodRootClusterTrustBundle": "istio.io:istiod-ca:root-cert"}},
        ["istiod", "istiod-policy", "policy"]),
    Set("istiod and everything for gateways",
        {"policyObjects": True, "gatewayIdentities": [IDENTITY], "gatewaySecrets": [GATEWAY]},
        ["istiod", "istiod-policy", "policy", "policy-objects", "gateway-secret", "gateway-token"]),
    Set("istiod, with objects", {"policyObjects": True}, ["istiod", "istiod-policy", "policy", "policy-objects"]),
    Set("plugged-in", {"mode": "plugged-in", "policy": False}, [""]),
    Set("plugged-in and everything for gateways",
        {"mode": "plugged-in", "policyObjects": True, "gatewaySecrets": [GATEWAY], "pluggedIn": {"secretName": "ca"}},
        ["", "policy", "policy-objects", "gateway-secret"]),
    Set("plugged-in as the mesh's only CA", {"mode": "plugged-in", "meshCa": True}, ["", "policy", "mesh-ca"]),
    Set("a root of its own in a ClusterTrustBundle", {**OWN_ROOT, "clusterTrustBundle": True}, ["", "policy", "cluster-trust-bundle"],
        instead={"cluster.local": "gateways.example"}),
    Set("a root of its own", {**OWN_ROOT, "settings": {"svidTtl": "1h", "dnsNames": ["ca.example"]}}, ["", "policy"]),
    Set("the mesh's only CA",
        {"mode": "self-signed", "trustDomain": "cluster.local", "meshCa": True, "clusterTrustBundle": True,
         "policyObjects": True},
        ["", "policy", "policy-objects", "mesh-ca", "mesh-trust-bundle"]),
    Set("other names",
        {"mode": "plugged-in", "meshCa": True, "clusterTrustBundle": True, "policyObjects": True, "trustDomain": "mesh.example",
         "meshTrustDomain": "mesh.example", "istioNamespace": "aks-istio-system", "rootConfigMap": "roots",
         "fullnameOverride": "cs", "gatewaySecrets": [GATEWAY]},
        ["", "policy", "policy-objects", "mesh-ca", "mesh-trust-bundle", "gateway-secret"],
        release="edge", namespace="platform", full_name="cs",
        instead={"istio-system": "aks-istio-system", "istio-ca-root-cert": "roots", "cluster.local": "mesh.example"}),
    Set("a long release", {}, ["istiod", "istiod-policy", "policy"], release="a-release-whose-name-is-as-long-as-helm-lets-it-be",
        full_name="a-release-whose-name-is-as-long-as-helm"),
    Set("nothing that can be left out",
        {"policy": False, "networkPolicy": {"enabled": False}, "podDisruptionBudget": {"enabled": False},
         "tests": {"enabled": False}, "resources": {}, "nodeSelector": {}},
        ["istiod", "istiod-services"]),
    Set("all that can be added",
        {**OWN_ROOT, "metrics": MONITORED, "bundleEndpoint": {"enabled": True, "certificateSecret": "bundle-tls"}, "replicas": 3, "logLevel": "debug",
         "global": {"imagePullSecrets": [{"name": "all"}], "commonLabels": {"team": "platform"}},
         "image": {"registry": "registry.example", "digest": f"sha256:{'0' * 64}"}, "imagePullSecrets": [{"name": "own"}],
         "podSecurityContext": {"runAsUser": 65532, "fsGroup": 65532}, "podLabels": {"a": "b"}, "podAnnotations": {"c": "d"},
         "tolerations": [{"operator": "Exists"}], "priorityClassName": "", "serviceAccount": {"annotations": {"e": "f"}},
         "networkPolicy": {"apiServerPorts": [16443], "extraIngress": [{"ports": [{"port": 9000}]}],
                           "extraEgress": [{"to": [{"ipBlock": {"cidr": "192.0.2.0/24"}}]}]},
         "affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
             {"matchExpressions": [{"key": "pool", "operator": "In", "values": ["gateways"]}]}]}}},
         "extraVolumes": [{"name": "issuers", "configMap": {"name": "issuers"}}],
         "extraVolumeMounts": [{"name": "issuers", "mountPath": "/etc/countersign/issuers", "readOnly": True}],
         "settings": {"tokenIssuers": [{"issuer": "https://issuer.example", "audiences": ["istio-ca"],
                                        "jwksFile": "/etc/countersign/issuers/jwks.json"}],
                      "leaseDuration": "10s", "adopt": True, "istiodRevisions": ["canary"]}},
        ["", "policy"]),
    Set("plugged-in, monitored by pods",
        {"mode": "plugged-in", "policyObjects": True, "metrics": {"podMonitor": {"enabled": True, "interval": "1m"},
                                                                 "agents": {"namespaces": ["edge", "gateways"],
                                                                            "podMonitor": {"enabled": True}},
                                                                 "prometheusRule": {"enabled": True}}},
        ["", "policy", "policy-objects"]),
    Set("pods without IPv4",
        {"mode": "plugged-in", "listenAddress": "[::]", "bundleEndpoint": {"enabled": True}, "terminationGracePeriodSeconds": 106,
         "settings": {"drain": "1m30s500ms", "logFormat": "text"}},
        ["", "policy"]),
    Set("pods without IPv4, before istiod",
        {"policy": False, "listenAddress": "[::]", "settings": {"istiodAddresses": ["[2001:db8::1]:15012", "istiod.example:15012"]}},
        ["istiod"]),
    Set("istiod, monitored", {"metrics": MONITORED, "bundleEndpoint": {"enabled": True}}, ["istiod", "istiod-policy", "policy"]),
]

# Values, and what must be said of them.
REFUSED: List[Tuple[dict, str]] = [
    # by the schema
    ({"replicaCount": 2}, "replicaCount"),
    ({"image": {"name": "x"}}, "name"),
    ({"global": {"imagePullSecrets": ["registry"]}}, "imagePullSecrets/0"),
    ({"metrics": {"serviceMonitor": {"enabled": True, "path": "/"}}}, "path"),
    ({"settings": {"svidTTL": "1h"}}, "svidTTL"),
    ({"settings": {"trustDomain": "a.example"}}, "trustDomain"),
    ({"settings": {"state": "embedded"}}, "state"),
    ({"settings": {"istiodQps": "fast"}}, "istiodQps"),
    ({"settings": {"dnsNames": "one.example"}}, "dnsNames"),
    ({"mode": "vault"}, "/mode"),
    ({"mode": ""}, "/mode"),
    ({"meshCa": "yes"}, "/meshCa"),
    ({"replicas": 0}, "/replicas"),
    ({"replicas": "two"}, "/replicas"),
    ({"trustDomain": "https://a.example"}, "/trustDomain"),
    ({"meshTrustDomain": ""}, "/meshTrustDomain"),
    ({"istioNamespace": "Istio"}, "/istioNamespace"),
    ({"image": {"digest": "sha256:12"}}, "/image/digest"),
    ({"image": {"pullPolicy": "Sometimes"}}, "/image/pullPolicy"),
    ({"gatewayIdentities": ["gateways/edge"]}, "/gatewayIdentities/0"),
    ({"gatewaySecrets": [{"namespace": "gateways", "secret": "x"}]}, "serviceAccount"),
    ({"gatewaySecrets": ["gateways/x=gateway"]}, "/gatewaySecrets/0"),
    ({"terminationGracePeriodSeconds": 10}, "/terminationGracePeriodSeconds"),
    ({"podDisruptionBudget": {"maxUnavailable": 0}}, "/podDisruptionBudget/maxUnavailable"),
    ({"networkPolicy": {"apiServerPorts": []}}, "/networkPolicy/apiServerPorts"),
    ({"networkPolicy": {"apiServerPorts": [70000]}}, "/networkPolicy/apiServerPorts/0"),
    ({"fullnameOverride": "Big"}, "/fullnameOverride"),
    ({"podLabels": {"sidecar.istio.io/inject": "true"}}, "sidecar.istio.io/inject"),
    ({"podLabels": {"istio.io/dataplane-mode": "ambient"}}, "istio.io/dataplane-mode"),
    ({"podLabels": {"app.kubernetes.io/component": "x"}}, "app.kubernetes.io/component"),
    ({"podAnnotations": {"checksum/config": "x"}}, "checksum/config"),
    ({"listenAddress": "::"}, "/listenAddress"),
    ({"settings": {"listen": "[::]:15012"}}, "listen"),
    ({"settings": {"logFormat": "yaml"}}, "/settings/logFormat"),
    ({"settings": {"istiodAddresses": ["istiod.example"]}}, "/settings/istiodAddresses/0"),
    ({"settings": {"istiodAddresses": ["2001:db8::1:15012"]}}, "/settings/istiodAddresses/0"),
    *(({**OWN_ROOT, "settings": {"svidTtl": wrong}}, "/settings/svidTtl") for wrong in ("abc", "90", "1.5h", "30m1h", "")),
    ({"metrics": {"agents": {"namespaces": ["Gateways"]}}}, "/metrics/agents/namespaces/0"),
    # by the templates
    ({"mode": "self-signed"}, "mode self-signed needs trustDomain: a trust domain of its own"),
    ({"mode": "self-signed", "trustDomain": "cluster.local"}, "trustDomain cluster.local is the mesh's own, which has a CA"),
    ({"mode": "self-signed", "trustDomain": "a.example", "meshTrustDomain": "a.example"}, "trustDomain a.example is the mesh's own"),
    ({"meshCa": True}, "meshCa does not go with mode istiod"),
    ({"clusterTrustBundle": True}, "clusterTrustBundle does not go with mode istiod"),
    ({"trustDomain": "gateways.example"}, "trustDomain gateways.example is not the mesh's, cluster.local"),
    ({"policy": False, "policyObjects": True}, "policyObjects needs policy"),
    ({"policy": False, "gatewayIdentities": [IDENTITY]}, "gatewayIdentities count with policy only"),
    ({**OWN_ROOT, "policyObjects": True}, "policyObjects needs the mesh's own trust domain, cluster.local"),
    ({"bundleEndpoint": {"certificateSecret": "x"}}, "bundleEndpoint.certificateSecret is of the bundle endpoint"),
    ({"settings": {"svidTtl": "1h"}}, "settings.svidTtl counts with modes plugged-in and self-signed only"),
    ({"settings": {"jwtSvidTtl": "1m"}}, "settings.jwtSvidTtl counts with modes plugged-in and self-signed only"),
    ({"settings": {"tokenIssuers": []}}, "settings.tokenIssuers counts with modes"),
    ({**OWN_ROOT, "settings": {"istiodQps": 10}}, "settings.istiodQps counts with mode istiod only"),
    ({"policy": False, "settings": {"policyMembership": "auto"}}, "settings.policyMembership counts with policy only"),
    ({"policy": False, "settings": {"tokenCache": "1s"}}, "settings.tokenCache counts with policy, or modes"),
    ({"gatewaySecrets": [GATEWAY, {**GATEWAY, "serviceAccount": "other"}]}, "gateways/mesh-certificate is for two"),
    ({"settings": {"drain": "60s"}, "terminationGracePeriodSeconds": 20}, "raise that to 75"),
    ({"settings": {"drain": "1m30s500ms"}, "terminationGracePeriodSeconds": 105}, "raise that to 106"),
    ({"metrics": {"serviceMonitor": {"enabled": True}, "podMonitor": {"enabled": True}}}, "enable one of them"),
]
