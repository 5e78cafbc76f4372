"""The default mode with the real istiod, and nothing set but who the gateway is: two Envoys speak mutual TLS by certificates that istiod signed,
for agents that the chart's template puts beside them, with the installed replicas behind it; pods are processes, as in `traffic`."""

import tempfile
from contextlib import ExitStack
from pathlib import Path

from run import PEERS

from . import envoys
from .cluster import Cluster
from .helm import documents, must, with_values
from .istiod import Istiod
from .node import Node
from .objects import of_kind
from .pair import NAMESPACE
from .rollout import Rollout
from .traffic import AT_LEAST, DEPLOYMENT, GATEWAY, SERVER, TTL, callers, judged, prepare, spiffe_id, wait_until, with_agent

MESH = "cluster.local"
VALUES = {"gatewayIdentities": [spiffe_id(GATEWAY, MESH)]}
# Without an address of the cluster's, which leads nowhere here: it is found by its name.
ISTIOD = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "istiod", "namespace": "istio-system", "labels": {"app": "istiod"}},
          "spec": {"clusterIP": "None", "selector": {"app": "istiod"}, "ports": [{"name": "https-dns", "port": 15012}]}}


def certified_by_istiod(binary: Path, chart: Path) -> str:
    """No request fails while both identities are renewed; how many there were, in words."""
    with Cluster() as cluster, tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        prepare(cluster)
        node = Node(cluster, {"countersign": binary, "envoy": PEERS / "bin" / "envoy"}, Path(folder))
        istiod = running.enter_context(Istiod(cluster, Path(folder), node.address(), 15012))
        node.others = [f"{istiod.address} istiod.istio-system.svc"]
        cluster.apply(ISTIOD, is_dry=False)
        where = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", NAMESPACE]
        must("install", "countersign", str(chart), *where, *with_values(VALUES, node.folder))
        services = of_kind(documents(must("get", "manifest", "countersign", *where)), "Service")
        istiod.start()
        rollout = running.enter_context(Rollout(node, services))
        rollout.to(cluster.ask("GET", cluster.path(DEPLOYMENT))[1])
        here, there = node.address(), node.address()
        pods = [with_agent(node, chart, VALUES, SERVER, there, envoys.server(there, spiffe_id(GATEWAY, MESH))),
                with_agent(node, chart, VALUES, GATEWAY, here, envoys.gateway(here, there, spiffe_id(SERVER, MESH)))]
        for pod in pods:
            running.enter_context(pod)
            pod.start({"COUNTERSIGN_SVID_TTL": f"{TTL}s"})
        wait_until(lambda: envoys.ask(here), "the first request is not answered")

        def renewals() -> str:
            answered, serials = load.check(), {line["serial"] for line in callers(pods[0])}
            return "" if len(serials) > 2 and answered >= AT_LEAST else f"the server was shown {serials} in {answered} requests"

        with envoys.Load(here) as load:
            wait_until(renewals, "the gateway's certificate is not renewed, or there are few requests")
            return f"{load.check()} requests, {judged(pods, load.check(), MESH)} certificates of the gateway"
