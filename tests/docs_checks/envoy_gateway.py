"""The real Envoy Gateway, as its chart installs it and docs/quick-start.md asks for it, in a pod; and the pods of the Gateway that it makes."""

import json
import os
import subprocess

from chart_checks.helm import Broken
from chart_checks.node import Node
from chart_checks.pair import LIMIT
from chart_checks.traffic import tell_of_api_server
from run import ENVOY_GATEWAY, PEERS

from .workloads import Workload

# Its image by its names: a build that was told no version gives the second one to who ends Envoys.
EXECUTABLES = dict.fromkeys(("gateway", "gateway-dev"), PEERS / "bin" / "envoy-gateway")
NAMESPACE = "envoy-gateway-system"
ACCOUNT = "envoy-gateways-edge-d8f74599"  # by which the page knows its Gateway's pods
CONFIG = {
    "apiVersion": "gateway.envoyproxy.io/v1alpha1", "kind": "EnvoyGateway",
    "gateway": {"controllerName": "gateway.envoyproxy.io/gatewayclass-controller"},
    "extensionApis": {"enableSDSSecretRef": True},
    # nobody elects a leader, and the API server has no way to a webhook
    "provider": {"type": "Kubernetes", "kubernetes": {"leaderElection": {"disable": True}, "proxyTopologyInjector": {"disabled": True}}},
    # its Envoy has that port, and all pods share one network
    "admin": {"address": {"host": "127.0.0.1", "port": 19100}},
}
# Of metrics. Envoy's own is another one than Envoy Gateway's here.
METRICS, FREE = "19001", "19101"


class EnvoyGateway(Workload):
    """Its Deployment is there once this is."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, (NAMESPACE, "envoy-gateway"))
        cluster = node.cluster
        name = f"envoy-gateway.{NAMESPACE}.svc.cluster.local"
        node.others += [f"{self.address} {name}", f"{self.address} {name}."]
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}, is_dry=False)
        tell_of_api_server(cluster, NAMESPACE)
        own = {"KUBECONFIG": str(cluster.kubeconfig), "ENVOY_GATEWAY_NAMESPACE": NAMESPACE, "HOME": "/"}
        made = subprocess.run([str(PEERS / "bin" / "envoy-gateway"), "certgen", "--disable-topology-injector"], env={**os.environ, **own},
                              capture_output=True, text=True, timeout=LIMIT)
        if made.returncode != 0:
            raise Broken(f"Envoy Gateway has no certificates: {made.stdout}{made.stderr}")
        cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "envoy-gateway-config", "namespace": NAMESPACE},
                       "data": {"envoy-gateway.yaml": json.dumps(CONFIG)}}, is_dry=False)
        labels = {"control-plane": "envoy-gateway"}
        container = {
            "name": "envoy-gateway", "image": f"docker.io/envoyproxy/gateway:{ENVOY_GATEWAY[1]}",
            "args": ["server", "--config-path=/config/envoy-gateway.yaml"],
            "env": [{"name": name, "value": value} for name, value in own.items()],
            "readinessProbe": {"httpGet": {"path": "/readyz", "port": 8081}},
            "volumeMounts": [{"name": "gateway-config", "mountPath": "/config"}, {"name": "certs", "mountPath": "/certs"}]}
        spec = {"serviceAccountName": "envoy-gateway", "containers": [container], "volumes": [
            {"name": "gateway-config", "configMap": {"name": "envoy-gateway-config"}}, {"name": "certs", "secret": {"secretName": "envoy-gateway"}}]}
        account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "envoy-gateway", "namespace": NAMESPACE}}
        template = {"metadata": {"labels": labels}, "spec": spec}
        for item in (account, {**self.item, "spec": {"selector": {"matchLabels": labels}, "template": template}}):
            cluster.apply(item, is_dry=False)


class Proxy(Workload):
    """The Gateway's Envoy with the agent, as Envoy Gateway writes its Deployment."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, (NAMESPACE, ACCOUNT))

    def _replace(self, template: dict) -> None:
        super()._replace(json.loads(json.dumps(template).replace(METRICS, FREE)))
