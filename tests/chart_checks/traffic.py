"""What a gateway's traffic notices of the chart: nothing. Two Envoys speak mutual TLS by the agents that the chart's template puts beside
them, while `helm upgrade` and `helm rollback` replace the replicas; all of it as pods whose containers are processes here."""

import json
import re
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Callable, List

from run import PEERS

from . import envoys
from .cluster import Cluster
from .documents import of_parent
from .helm import Broken, documents, must, with_values
from .live import objects
from .node import Node, Pod
from .objects import of_kind
from .pair import LEASE, LIMIT, NAMESPACE, STATE
from .rollout import Rollout, template_hash

GATEWAY, SERVER = ("gateways", "edge"), ("platform", "backend")
TRUST_DOMAIN = "gateways.example"
# Half of it passes between renewals. A drain and the start of a replica take longer than all of it.
TTL = 6  # seconds
AT_LEAST = 300  # requests
ROOTS = {f"ConfigMap {namespace}/countersign-root-cert" for namespace, _ in (GATEWAY, SERVER)}
# Of the gateways, not of the chart.
OTHERS = {f"{kind} {namespace}/{name}" for namespace, account in (GATEWAY, SERVER) for kind, name in (
    ("ConfigMap", account), ("Deployment", account), ("Role", f"countersign-agent-{account}"), ("RoleBinding", f"countersign-agent-{account}"))}
DEPLOYMENT = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "countersign", "namespace": NAMESPACE}}
VALUES = {"mode": "self-signed", "trustDomain": TRUST_DOMAIN,
          "gatewayIdentities": [f"spiffe://{TRUST_DOMAIN}/ns/{GATEWAY[0]}/sa/{GATEWAY[1]}"]}


def unnoticed(binary: Path, chart: Path) -> str:
    """No request fails; how many there were, in words."""
    with Cluster() as cluster, tempfile.TemporaryDirectory() as folder:
        prepare(cluster)
        return installed(Node(cluster, {"countersign": binary, "envoy": PEERS / "bin" / "envoy"}, Path(folder)), chart)


def prepare(cluster: Cluster) -> None:
    """What a cluster has by itself, and who is to have gateways."""
    for namespace in [NAMESPACE, GATEWAY[0], SERVER[0], "istio-system"]:
        cluster.namespace(namespace)
        tell_of_api_server(cluster, namespace)
    for namespace, account in (GATEWAY, SERVER):
        cluster.apply({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account, "namespace": namespace}}, is_dry=False)


def tell_of_api_server(cluster: Cluster, namespace: str) -> None:
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt", "namespace": namespace},
                   "data": {"ca.crt": (cluster.folder / "certs" / "apiserver.crt").read_text()}}, is_dry=False)


def installed(node: Node, chart: Path) -> str:
    """Installed, upgraded, rolled back and taken away again, with requests all the while until then."""
    cluster, before = node.cluster, objects(node.cluster)
    where = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", NAMESPACE]
    upgrade = ["upgrade", "countersign", str(chart), "--reuse-values", "--set", "logLevel=debug", "--set", "image.tag=other"]
    must("install", "countersign", str(chart), *where, *with_values(VALUES, node.folder))
    services = of_kind(documents(must("get", "manifest", "countersign", *where)), "Service")
    with Rollout(node, services) as rollout, ExitStack() as running:
        wanted = [cluster.ask("GET", cluster.path(DEPLOYMENT))[1]]
        replicas = rollout.to(wanted[0])
        here, there = node.address(), node.address()
        pods = [with_agent(node, chart, VALUES, SERVER, there, envoys.server(there, spiffe_id(GATEWAY))),
                with_agent(node, chart, VALUES, GATEWAY, here, envoys.gateway(here, there, spiffe_id(SERVER)))]
        for pod in pods:
            running.enter_context(pod)
            pod.start({"COUNTERSIGN_SVID_TTL": f"{TTL}s"})
        wait_until(lambda: envoys.ask(here), "the first request is not answered")
        with envoys.Load(here) as load:
            renewed_by(replicas, pods, load)
            for step in (upgrade, ["rollback", "countersign", "1"]):
                must(*step, *where)
                wanted.append(cluster.ask("GET", cluster.path(DEPLOYMENT))[1])
                replicas = rollout.to(wanted[-1], load.check)
                renewed_by(replicas, pods, load)
                rollout.ended(load.check)
        hashes = [template_hash(one) for one in wanted]
        if hashes[0] == hashes[1] or hashes[0] != hashes[2]:
            raise Broken(f"the pods are not other ones after `helm upgrade` and those of before after `helm rollback`: {hashes}")
        answered = load.check()
        shown = judged(pods, answered)
        # first those whose requests would be held while nobody signs any more
        running.close()
        must("uninstall", "countersign", *where)
        rollout.end(list(rollout.pods))
        rollout.ended()
        for pod in pods:
            cluster.ask("DELETE", f"{cluster.path(pod.item)}?gracePeriodSeconds=0")
    left = objects(cluster) - before - OTHERS
    if left != LEASE | STATE | ROOTS:
        raise Broken(f"after `helm uninstall` there is {sorted(left)}, and not {sorted(LEASE | STATE | ROOTS)} as documented")
    return f"{answered} requests, {shown} certificates of the gateway"


def with_agent(node: Node, chart: Path, values: dict, of: tuple, address: str, config: dict) -> Pod:
    """A pod of such a Deployment."""
    namespace, account = of
    return Pod.make(node, account, namespace, deployed(node.cluster, chart, values, of, config)["spec"]["template"], address)


def deployed(cluster: Cluster, chart: Path, values: dict, of: tuple, config: dict) -> dict:
    """An Envoy's Deployment with the patch of docs/gateways.md, and what that page asks for: rights and a label."""
    namespace, account = of
    cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": {
        "pod-security.kubernetes.io/enforce": "restricted", "countersign.io/root-cert": "true"}}}, is_dry=False)
    rights = of_parent("rights", chart, values).replace("namespace: default", f"namespace: {namespace}")
    for item in documents(re.sub(r"gateway$", account, rights, flags=re.MULTILINE)):
        cluster.apply(item, is_dry=False)
    cluster.apply({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": account, "namespace": namespace},
                   "data": {Path(envoys.CONFIG).name: json.dumps(config)}}, is_dry=False)
    item = envoys.deployment(account, namespace, account)
    cluster.apply(item, is_dry=False)
    patch = documents(of_parent("plain-envoy", chart, values))[0]
    code, patched = cluster.ask("PATCH", f"{cluster.path(item)}?fieldValidation=Strict", patch, "application/strategic-merge-patch+json")
    if code != 200:
        raise Broken(f"the patch for {account} is refused: {patched}")
    return patched


def renewed_by(replicas: List[Pod], pods: List[Pod], load: envoys.Load) -> None:
    """Until both Envoys' identities have been signed by these replicas, more than once, and the server was shown one of those."""
    def missing() -> str:
        load.check()
        issued = [one for replica in replicas for one in json.loads(replica.execute("issuance", "list", "-o", "json"))]
        serials = {of: {one["serial"] for one in issued if one["spiffeId"] == spiffe_id(of)} for of in (GATEWAY, SERVER)}
        is_shown = serials[GATEWAY] & {line["serial"] for line in callers(pods[0])}
        return "" if is_shown and all(len(found) > 1 for found in serials.values()) else f"{serials}"

    wait_until(missing, f"there is no renewal by {[replica.name for replica in replicas]}")


def judged(pods: List[Pod], answered: int, trust_domain: str = TRUST_DOMAIN) -> int:
    """How many certificates the server was shown, each of the gateway's identity, if all of that is as it should be."""
    if answered < AT_LEAST:
        raise Broken(f"there were only {answered} requests")
    for pod in pods:
        if "svid_not_renewed" in pod.log("countersign-agent"):
            raise Broken(f"a renewal failed: {pod.log('countersign-agent')}")
    shown = callers(pods[0])
    if {line["id"] for line in shown} != {spiffe_id(GATEWAY, trust_domain)}:
        raise Broken(f"the server was shown {sorted({str(line['id']) for line in shown})}")
    return len({line["serial"] for line in shown})


def callers(server: Pod) -> List[dict]:
    """What the server was shown so far. The last line may be half of one."""
    text = (server.volumes["log"] / "access.log").read_text()
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def spiffe_id(of: tuple, trust_domain: str = TRUST_DOMAIN) -> str:
    return f"spiffe://{trust_domain}/ns/{of[0]}/sa/{of[1]}"


def wait_until(missing: Callable[[], str], what: str) -> None:
    limit = time.monotonic() + LIMIT
    while True:
        seen = missing()
        if not seen:
            return
        if time.monotonic() > limit:
            raise Broken(f"{what} within {LIMIT} s: {seen}")
        time.sleep(0.1)
