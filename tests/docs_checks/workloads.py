"""Pods beside the pair's, of Deployments that the pages make, patch and restart: a gateway's Envoy, and behind Service shop/web one that stands
for a sidecar, with an SVID of the mesh, and lets in whom a PERMISSIVE one takes for its own. Each change of a Deployment replaces its pod."""

from typing import Optional

from chart_checks import envoys
from chart_checks.helm import CHART, Broken
from chart_checks.node import Node, Pod
from chart_checks.rollout import Service
from chart_checks.traffic import deployed, spiffe_id, tell_of_api_server

MESH = "cluster.local"
# Of the application: Envoy Gateway has 8080 everywhere, and all pods share one network.
PORT = 9080
WEB, EDGE = ("shop", "web"), ("gateways", "edge")
SERVICE = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": WEB[1], "namespace": WEB[0]},
           "spec": {"selector": {"app": WEB[1]}, "ports": [{"name": "http", "port": 80, "targetPort": PORT}]}}
# Whose pods are behind it, as Kubernetes' controllers have it.
SLICE = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4", "ports": [{"name": "http", "port": PORT}],
         "metadata": {"name": WEB[1], "namespace": WEB[0], "labels": {"kubernetes.io/service-name": WEB[1]}}}
# By these a PERMISSIVE sidecar tells mutual TLS of the mesh from what is the application's own.
OF_THE_MESH = ["istio", "istio-peer-exchange", "istio-http/1.0", "istio-http/1.1", "istio-h2"]
# What Istio's webhook does to a pod, as far as anybody looks.
INJECTED = {"annotations": {"sidecar.istio.io/status": "{}"}, "labels": {"security.istio.io/tlsMode": "istio"}}


class Workload:
    """The pod of a Deployment, once that is there. Ends with its `with`."""

    def __init__(self, node: Node, of: tuple) -> None:
        self.node, (self.namespace, self.name), self.address = node, of, node.address()
        self.item = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": self.name, "namespace": self.namespace}}
        self.generation = 0
        self.pod: Optional[Pod] = None

    def __enter__(self) -> "Workload":
        return self

    def __exit__(self, *_: object) -> None:
        if self.pod:
            self.pod.__exit__()

    def look(self) -> bool:
        """Whether the pod has become ready since."""
        code, wanted = self.node.cluster.ask("GET", self.node.cluster.path(self.item))
        if code != 200:
            return False
        if wanted["metadata"]["generation"] != self.generation:
            self._replace(wanted["spec"]["template"])
            self.generation = wanted["metadata"]["generation"]
        for process in self.pod.processes:
            if process.child.poll() is not None:
                raise Broken(f"{process.log.stem} has ended with {process.child.returncode}: {process.log.read_text()[-3000:]}")
        containers = self.pod.spec["containers"]
        if self.pod.is_ready or any("readinessProbe" in one and self.pod.missing(one, "readinessProbe") for one in containers):
            return False
        self.pod.is_ready = True
        return True

    def _replace(self, template: dict) -> None:
        cluster = self.node.cluster
        if self.pod:
            self.pod.__exit__()
            cluster.ask("DELETE", f"{cluster.path(self.pod.item)}?gracePeriodSeconds=0")
        namespace = cluster.ask("GET", f"/api/v1/namespaces/{self.namespace}")[1]["metadata"]
        metadata = template["metadata"]
        if namespace["labels"].get("istio-injection") == "enabled":
            metadata = {**metadata, **{of: {**metadata.get(of, {}), **more} for of, more in INJECTED.items()}}
        name = f"{self.name}-{self.generation + 1}"
        self.pod = Pod.make(self.node, name, self.namespace, {**template, "metadata": metadata}, self.address)
        # all pods share the machine's network
        for file in self.pod.volumes["config"].iterdir() if "config" in self.pod.volumes else []:
            file.write_text(file.read_text().replace("0.0.0.0", self.address))
        self.pod.start({})


class Web(Workload):
    """What a reader has in the mesh, and its Service; whom it lets in beside the gateway."""

    def __init__(self, node: Node, *callers: str) -> None:
        super().__init__(node, WEB)
        cluster = node.cluster
        cluster.namespace(WEB[0])
        for namespace, _ in (WEB, EDGE):
            tell_of_api_server(cluster, namespace)
        cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": WEB[1], "namespace": WEB[0]}}, is_dry=False)
        for item in (SERVICE, {**SLICE, "endpoints": [{"addresses": [self.address], "conditions": {"ready": True}}]}):
            cluster.apply(item, is_dry=False)
        deployed(cluster, CHART, {}, WEB, sidecar(self.address, spiffe_id(EDGE, MESH), *callers))
        # the patch is for gateways, which keep out of the mesh by this
        labels = {"spec": {"template": {"metadata": {"labels": {"sidecar.istio.io/inject": None}}}}}
        code, answer = cluster.ask("PATCH", cluster.path(self.item), labels, "application/merge-patch+json")
        if code != 200:
            raise Broken(f"the label of Deployment web can't be taken off: {answer}")
        self.service = Service(SERVICE, node)
        node.others.append(f"{self.service.address} web.shop.svc.cluster.local")
        node.tell([])

    def __exit__(self, *_: object) -> None:
        self.service.close()
        super().__exit__()

    def look(self) -> bool:
        is_new = super().look()
        self.service.endpoints = [self.pod] if self.pod and self.pod.is_ready else []
        return is_new


def sidecar(address: str, *callers: str) -> dict:
    config = envoys.server(address, *callers)
    listener = config["static_resources"]["listeners"][0]
    listener["address"]["socket_address"]["port_value"] = PORT
    listener["listener_filters"] = [{"name": "tls", "typed_config": {
        "@type": f"{envoys.TYPES}/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"}}]
    listener["filter_chains"][0]["filter_chain_match"] = {"application_protocols": OF_THE_MESH}
    listener["filter_chains"][0]["transport_socket"]["typed_config"]["common_tls_context"]["alpn_protocols"] = OF_THE_MESH
    return config
