"""What `helm uninstall` leaves of a pair that signs for the whole mesh and keeps objects for gateways: what docs/policy.md says, and what
is found by its command, where replicas went before labels. The pair runs as processes, as in `pair`."""

import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, Dict, List, Set, Tuple

from run import PEERS

from .cluster import Cluster
from .helm import Broken, documents, must, with_values
from .live import objects
from .objects import of_kind
from .pair import LIMIT, NAMESPACE, pod_of, replica

# None of these kinds is served by itself.
FLAGS = ["--feature-gates=ClusterTrustBundle=true", "--runtime-config=certificates.k8s.io/v1beta1/clustertrustbundles=true"]
VALUES = {"mode": "self-signed", "trustDomain": "cluster.local", "meshCa": True, "clusterTrustBundle": True, "policyObjects": True}
# Namespaces of a Service each, by how gateways verify it. The label of the first ones is taken away while replicas run.
TEAMS = [("sds", "sds-left"), ("portable", "portable-left")]
# For who holds the roots, beside the policy.
HOLDERS = {"sds": "Secret {0}/countersign-web", "portable": "ConfigMap {0}/countersign-mesh-ca"}
GATEWAY_API, ENVOY_GATEWAY = "gateway.networking.k8s.io/v1", "gateway.envoyproxy.io/v1alpha1"
MANAGED = "labelSelector=app.kubernetes.io%2Fmanaged-by%3Dcountersign"
PATHS = ["/apis/gateway.networking.k8s.io/v1/backendtlspolicies", "/api/v1/configmaps", "/api/v1/secrets"]


def made_by_users() -> List[dict]:
    """A Gateway of Envoy Gateway with the agent beside it, one of another controller, and a Service of the mesh in each namespace."""
    def item(version: str, kind: str, name: str, namespace: str = "", labels: Dict[str, str] = {}, **content: object) -> dict:
        place = {"namespace": namespace} if namespace else {}
        return {"apiVersion": version, "kind": kind, "metadata": {"name": name, **place, "labels": labels}, **content}

    def gateway(name: str, controller: str, flavour: str, **spec: object) -> List[dict]:
        routes = {"namespaces": {"from": "Selector", "selector": {"matchLabels": {"verified-by": flavour}}}}
        listener = {"name": "http", "protocol": "HTTP", "port": 80, "allowedRoutes": routes}
        return [item(GATEWAY_API, "GatewayClass", name, spec={"controllerName": controller}),
                item(GATEWAY_API, "Gateway", name, "edge", spec={"gatewayClassName": name, "listeners": [listener], **spec})]

    def team(name: str, flavour: str) -> List[dict]:
        pod = item("v1", "Pod", "web", name, {"app": "web"},
                   spec={"serviceAccountName": "web", "containers": [{"name": "main", "image": "none"}]})
        pod["metadata"]["annotations"] = {"sidecar.istio.io/status": "{}"}
        return [item("v1", "Namespace", name, labels={"verified-by": flavour, "istio-injection": "enabled"}),
                item("v1", "Service", "web", name, spec={"selector": {"app": "web"}, "ports": [{"name": "http", "port": 8080}]}), pod]

    secret = {"group": "", "kind": "Secret"}
    mounts = [{"name": "socket", "mountPath": "/var/run/countersign"}]
    deployment = {"patch": {"type": "StrategicMerge", "value": {"spec": {"template": {"spec": {"containers": [
        {"name": "envoy", "volumeMounts": mounts}]}}}}}}
    proxy = {"provider": {"type": "Kubernetes", "kubernetes": {"envoyDeployment": deployment}},
             "backendTLS": {"clientCertificateRef": {**secret, "name": "countersign-svid"},
                            "alpnProtocols": ["istio-http/1.1", "istio"]}}
    parameters = {"group": "gateway.envoyproxy.io", "kind": "EnvoyProxy", "name": "countersign"}
    config = "apiVersion: gateway.envoyproxy.io/v1alpha1\nkind: EnvoyGateway\nextensionApis: {enableSDSSecretRef: true}\n"
    return [
        item("v1", "Namespace", "edge"), item("v1", "Namespace", "envoy-gateway-system"),
        item("v1", "ConfigMap", "envoy-gateway-config", "envoy-gateway-system", data={"envoy-gateway.yaml": config}),
        item("v1", "Pod", "envoy-gateway-0", "envoy-gateway-system", {"control-plane": "envoy-gateway"},
             spec={"serviceAccountName": "envoy-gateway", "containers": [{"name": "envoy-gateway", "image": "envoyproxy/gateway:v1.9.1"}]}),
        item("v1", "Secret", "countersign-svid", "edge", type="gateway.envoyproxy.io/sds",
             stringData={"url": "unix:///var/run/countersign/workload.sock", "secretName": "default"}),
        item(ENVOY_GATEWAY, "EnvoyProxy", "countersign", "edge", spec=proxy),
        *gateway("eg", "gateway.envoyproxy.io/gatewayclass-controller", "sds", infrastructure={"parametersRef": parameters}),
        *gateway("kgateway", "kgateway.dev/kgateway", "portable", tls={"backend": {"clientCertificateRef": {**secret, "name": "client"}}}),
        *(each for flavour, left in TEAMS for name in (flavour, left) for each in team(name, flavour)),
    ]


def until(what: str, expected: Set[str], found: Callable[[], Set[str]]) -> None:
    limit = time.monotonic() + LIMIT
    while (seen := found()) != expected:
        if time.monotonic() > limit:
            raise Broken(f"{what}, after {LIMIT} s: {sorted(seen - expected)} too much, {sorted(expected - seen)} too little")
        time.sleep(0.1)


def kept(cluster: Cluster) -> Set[str]:
    """What docs/policy.md has looked for, but for what lies beside the replicas or is the mesh's."""
    items = ((path, item["metadata"]) for path in PATHS for item in cluster.ask("GET", f"{path}?{MANAGED}")[1]["items"])
    kinds = dict(zip(PATHS, ("BackendTLSPolicy", "ConfigMap", "Secret")))
    found = {(kinds[path], metadata["namespace"], metadata["name"]) for path, metadata in items}
    mine = {place for pair in TEAMS for place in pair}
    return {f"{kind} {place}/{name}" for kind, place, name in found if place in mine and name != "istio-ca-root-cert"}


def written(teams: List[Tuple[str, str]]) -> Set[str]:
    """For the Services of these namespaces, each with its flavour."""
    return {form.format(name) for name, flavour in teams for form in (HOLDERS[flavour], "BackendTLSPolicy {0}/countersign-web")}


def documented(cluster: Cluster, bundle: str) -> Set[str]:
    namespaces = {item["metadata"]["name"] for item in cluster.ask("GET", "/api/v1/namespaces")[1]["items"]}
    roots = {f"ConfigMap {name}/istio-ca-root-cert" for name in namespaces - {"kube-public", "kube-node-lease", "local-path-storage"}}
    beside = {"Lease countersign", "Secret countersign-authority", "Secret countersign-trust"}
    own = {f"{kind} {NAMESPACE}/{name}" for kind, name in (one.split() for one in beside)}
    return roots | own | {"Secret istio-system/istiod-tls", f"ClusterTrustBundle /{bundle}"}


def leaves_what_is_documented(binary: Path, chart: Path) -> str:
    """How much that was, in words."""
    with Cluster(*FLAGS) as cluster, tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        for name in (NAMESPACE, "istio-system"):
            cluster.namespace(name)
        for file in ("gateway-crds.yaml", "envoy-gateway-crds.yaml"):
            for kind in documents((PEERS / "bin" / file).read_text()):
                cluster.apply(kind, is_dry=False)
        place, where = Path(folder), ["--kubeconfig", str(cluster.kubeconfig), "--namespace", NAMESPACE]
        for item in made_by_users():
            applied(cluster, item)
        before = objects(cluster)
        must("install", "countersign", str(chart), *where, *with_values(VALUES, place))
        manifest = documents(must("get", "manifest", "countersign", *where))
        deployment = of_kind(manifest, "Deployment")[0]
        config = of_kind(manifest, "ConfigMap")[0]["data"]["config.yaml"]
        pods = [pod_of(deployment, f"replica-{at}") for at in range(deployment["spec"]["replicas"])]
        replicas = [replica(binary, cluster, pod, config, place / pod["metadata"]["name"]) for pod in pods]
        with ExitStack() as replicas_running:
            for process, _, _ in replicas:
                replicas_running.enter_context(process)
            for process, _, admin in replicas:
                process.wait_until(admin, 200)
            every = [(name, pair[0]) for pair in TEAMS for name in pair]
            until("of labelled namespaces there is", written(every), lambda: kept(cluster))
            for name, _ in TEAMS:
                labels = {"metadata": {"labels": {"istio-injection": None}}}
                cluster.ask("PATCH", f"/api/v1/namespaces/{name}", labels, "application/merge-patch+json")
            left = written([(pair[1], pair[0]) for pair in TEAMS])
            until("once labels are gone there is", left, lambda: kept(cluster))
            # what waits to be written would be missed
            expected = left | documented(cluster, "istio.io:istiod-ca:root-cert")
            until("before `helm uninstall` there lacks", set(), lambda: expected - objects(cluster))
        for pod in pods:
            cluster.ask("DELETE", f"{cluster.path(pod)}?gracePeriodSeconds=0")
        must("uninstall", "countersign", *where)
        until("after `helm uninstall` there is", expected, lambda: objects(cluster) - before)
        return f"{len(expected)} objects"


def applied(cluster: Cluster, item: dict) -> None:
    """A kind that was made just now may not be served yet."""
    limit = time.monotonic() + LIMIT
    while True:
        try:
            cluster.apply(item, is_dry=False)
            return
        except Broken:
            if time.monotonic() > limit:
                raise
            cluster.kinds.pop(item["apiVersion"], None)
            time.sleep(0.1)
