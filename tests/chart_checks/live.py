"""What the real API server says of what is rendered, and what helm does to it."""

import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Dict, List

from run import ISTIO, ISTIO_VERSION, ROOT, Step, module_folder

from .cluster import Cluster
from .documents import GATEWAYS_PAGE, of_parent
from .helm import CHART, KUBERNETES, Broken, documents, must, with_values
from .objects import key, of_kind, pods

NAMESPACES = ["countersign", "platform", "istio-system", "aks-istio-system", "gateways"]
# what comes and goes by itself, and the kinds that checks install beside the chart
OF_ITSELF = ("events", "componentstatuses", "customresourcedefinitions", "apiservices")
RENDERED_GATEWAY = ROOT / "src" / "cli" / "gateway" / "tests" / "gateway.yaml"


def accepted(cluster: Cluster, items: List[dict]) -> None:
    """By server-side apply, dry; and each pod, in a namespace of the restricted standard."""
    for item in items:
        cluster.apply(item)
    for pod in pods(items):
        cluster.apply(pod)


def deployment(name: str, container: str, user: int) -> dict:
    """Of a gateway that somebody has."""
    restricted = {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}, "runAsNonRoot": True,
                  "runAsUser": user, "seccompProfile": {"type": "RuntimeDefault"}}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": name, "namespace": "gateways"},
            "spec": {"selector": {"matchLabels": {"app": name}}, "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {"serviceAccountName": "edge", "containers": [
                    {"name": container, "image": "gateway.example/image", "securityContext": restricted}]}}}}


def gateways(cluster: Cluster) -> None:
    """The patches of docs/gateways.md fit a Deployment of the gateway, and come to a native sidecar in a pod that may run;
    its rights to the gateway's account, and to another one of the namespace."""
    envoy = documents(of_parent("plain-envoy"))[0]
    patched(cluster, deployment("plain-envoy", "envoy", 101), envoy)
    overlay = documents(of_parent("kgateway"))[0]["spec"]["kube"]["deploymentOverlay"]
    patched(cluster, deployment("kgateway", "kgateway-proxy", 10101), overlay)
    traefik = documents(of_parent("traefik"))[0]
    spec = {"initContainers": traefik["deployment"]["initContainers"], "volumes": traefik["deployment"]["additionalVolumes"],
            "containers": [{"name": "traefik", "volumeMounts": traefik["additionalVolumeMounts"]}]}
    patched(cluster, deployment("traefik", "traefik", 65532), {"spec": {"template": {"spec": spec}}})
    with_variables(cluster)
    # Istio's own chart takes these values
    chart = module_folder(Step(3, "Istio's gateway", "1 s", 600, lambda _: None), ISTIO, ISTIO_VERSION)
    with tempfile.TemporaryDirectory() as folder:
        rendered = must("template", "edge", str(chart / "manifests/charts/gateway"), "--namespace", "gateways", "--kube-version",
                        KUBERNETES, *with_values(documents(of_parent("istio"))[0], Path(folder)))
    for item in of_kind(documents(rendered), "Deployment"):
        has_agent(cluster.apply(item))
    as_rendered_by_the_program()
    rights_of_each(cluster)


def with_variables(cluster: Cluster) -> None:
    """And what it may use: as a parent gives them."""
    patch = documents(of_parent("telemetry"))[0]
    patched(cluster, deployment("telemetry", "envoy", 101), patch)
    agent = patch["spec"]["template"]["spec"]["initContainers"][0]
    if [one["name"] for one in agent["env"]] != ["OTEL_EXPORTER_OTLP_ENDPOINT"] or agent["resources"] != {"limits": {"memory": "96Mi"}}:
        raise Broken(f"the agent has not the variables and resources that a parent gives: {agent}")


def rights_of_each(cluster: Cluster) -> None:
    """As the page has them applied, once for each of two gateways."""
    command = re.search(r"^(sed .* charts/countersign/rbac-agent.yaml) \| kubectl apply -f -$", GATEWAYS_PAGE.read_text(), re.MULTILINE)[1]
    for account in ("edge", "other"):
        done = subprocess.run(["sh", "-c", command.replace("edge", account)], cwd=ROOT, capture_output=True, text=True, check=True)
        for item in documents(done.stdout):
            cluster.apply(item, is_dry=False)
    # rights count a moment after they are written
    limit, path = time.monotonic() + 10, "/api/v1/namespaces/gateways/configmaps?fieldSelector=metadata.name%3Distio-ca-root-cert"
    for account in ("edge", "other"):
        while True:
            code, answer = cluster.ask("GET", path, user=f"system:serviceaccount:gateways:{account}")
            if code == 200:
                break
            if time.monotonic() > limit:
                raise Broken(f"the agent beside gateways/{account} may not follow the roots: {code} {answer}")
            time.sleep(0.05)


def patched(cluster: Cluster, item: dict, patch: dict) -> None:
    cluster.apply(item, is_dry=False)
    code, answer = cluster.ask("PATCH", f"{cluster.path(item)}?dryRun=All&fieldValidation=Strict", patch,
                               "application/strategic-merge-patch+json")
    if code != 200:
        raise Broken(f"the patch for {item['metadata']['name']} is refused: {code} {answer}")
    has_agent(answer)
    containers = answer["spec"]["template"]["spec"]["containers"]
    if len(containers) != 1 or not containers[0].get("volumeMounts"):
        raise Broken(f"the gateway's container of {item['metadata']['name']} does not have the socket: {containers}")
    for pod in pods([answer]):
        cluster.apply(pod)


def has_agent(item: dict) -> None:
    spec = item["spec"]["template"]["spec"]
    agents = [container for container in spec.get("initContainers", []) if container["name"] == "countersign-agent"]
    if len(agents) != 1 or agents[0]["restartPolicy"] != "Always":
        raise Broken(f"{item['metadata']['name']} has no agent as a native sidecar: {spec.get('initContainers')}")


def as_rendered_by_the_program() -> None:
    """`countersign render gateway` and the chart come to the same sidecar, but for whom it asks."""
    proxy = of_kind(documents(RENDERED_GATEWAY.read_text()), "EnvoyProxy")[0]
    spec = proxy["spec"]["provider"]["kubernetes"]["envoyDeployment"]["patch"]["value"]["spec"]["template"]["spec"]
    ours = documents(of_parent("traefik"))[0]
    pairs = [(spec["initContainers"], ours["deployment"]["initContainers"]), (spec["volumes"], ours["deployment"]["additionalVolumes"])]
    for theirs, own in json.loads(json.dumps(pairs)):
        for container in theirs + own:
            [container.pop(name, None) for name in ("args", "image", "imagePullPolicy")]
        if theirs != own:
            raise Broken(f"the agent is another one than `countersign render gateway` prints:\n  {theirs}\n  {own}")


def installed(cluster: Cluster) -> None:
    """Installed, upgraded, rolled back and taken away again: nothing of the chart stays behind."""
    before = objects(cluster)
    where = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", "countersign"]
    must("install", "countersign", str(CHART), *where)
    beside_another(cluster)
    must("upgrade", "countersign", str(CHART), *where, "--set", "image.tag=other", "--set", "policyObjects=true")
    item = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "countersign", "namespace": "countersign"}}
    images = []
    for step in (lambda: None, lambda: must("rollback", "countersign", "1", *where)):
        step()
        images.append(cluster.ask("GET", cluster.path(item))[1]["spec"]["template"]["spec"]["containers"][0]["image"])
    if images[0] != "countersign:other" or images[1] == images[0]:
        raise Broken(f"the image after upgrade and rollback was {images}")
    made = objects(cluster) - before
    if not any(" /countersign-policy" in name for name in made):
        raise Broken(f"after an installation there was only {sorted(made)}")
    must("uninstall", "countersign", *where)
    left = objects(cluster) - before
    if left:
        raise Broken(f"after `helm uninstall` there is still {sorted(left)}")


def beside_another(cluster: Cluster) -> None:
    """A release of the same name in another namespace, with rights in the same places, and each with its own."""
    where = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", "platform"]
    before = objects(cluster)
    must("install", "countersign", str(CHART), *where, "--set", "policy=false")
    must("upgrade", "countersign", str(CHART), *where, "--reset-values", "--set", "mode=plugged-in,meshCa=true,policyObjects=true")
    must("uninstall", "countersign", *where)
    if objects(cluster) != before:
        raise Broken(f"what two releases of one name have is not apart: {sorted(objects(cluster) ^ before)}")


def objects(cluster: Cluster) -> set:
    """Everything there is, of every kind that the API server serves."""
    found = set()
    groups = cluster.ask("GET", "/apis")[1]["groups"]
    versions = [version["groupVersion"] for group in groups for version in group["versions"]]
    for base in ["/api/v1", *(f"/apis/{version}" for version in versions)]:
        kinds: Dict[str, dict] = {kind["name"]: kind for kind in cluster.ask("GET", base)[1]["resources"]}
        for name, kind in kinds.items():
            if "/" not in name and "list" in kind["verbs"] and name not in OF_ITSELF:
                items = cluster.ask("GET", f"{base}/{name}")[1].get("items") or []
                found |= {f"{kind['kind']} {item['metadata'].get('namespace', '')}/{item['metadata']['name']}" for item in items}
    return found
