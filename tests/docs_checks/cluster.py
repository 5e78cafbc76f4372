"""Follows pages against a real API server, as one does who has a cluster: kubectl and helm as they stand there, in a folder in which the
chart lies. No kubelet is there, nor what makes ReplicaSets and pods: what needs those is counted, and not run."""

import json
import re
import subprocess
from pathlib import Path
from typing import Callable, Dict, List, Set, Tuple

from chart_checks.cluster import Cluster
from chart_checks.documents import GATEWAYS_PAGE
from chart_checks.helm import BINARY as HELM
from chart_checks.helm import Broken, documents
from chart_checks.live import deployment
from run import PEERS, ROOT

from .follow import Folder
from .pages import Block, blocks

# In this order: the first one installs what the others go on with.
PAGES = ["docs/quick-start.md", "docs/gateways.md", "docs/agent.md", "docs/outputs.md", "docs/policy.md", "docs/upgrade.md", "docs/chart.md"]
OURS = re.compile(r"^kubectl --namespace countersign exec deployment/countersign -- (countersign render .*)$")
# What keeps a command from being run, by what stands in it.
LEFT_OUT = [("needs nodes", r"\brollout status\b|\bexec\b|^helm test\b"),
            ("has something to fill in", r"…|\bNAMESPACE\b|\bPOD\b|--kubeconfig K\b"),
            ("needs replicas", r"^countersign policy\b")]
# Must be refused so, and the chart's rights are what refuses it.
REFUSED = {"kubectl --as system:serviceaccount:countersign:countersign": "a replica of Countersign writes no Secret of this type and name"}
CLASS = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "any"},
         "spec": {"controllerName": "gateway.example/controller"}}
GATEWAY = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "edge", "namespace": "gateways"},
           "spec": {"gatewayClassName": "any", "listeners": [{"name": "http", "protocol": "HTTP", "port": 80}]}}


def prepare(cluster: Cluster) -> None:
    """What a reader has: a namespace with an application, one with gateways, and the kinds of the Gateway API."""
    for name in ("gateway-crds.yaml", "envoy-gateway-crds.yaml"):
        for kind in documents((PEERS / "bin" / name).read_text()):
            cluster.apply(kind, is_dry=False)
    for name in ("shop", "gateways", "envoy-gateway-system"):
        cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}, is_dry=False)
    web = deployment("web", "web", 1000)
    web["metadata"]["namespace"] = "shop"
    for item in (web, deployment("edge", "envoy", 101)):
        cluster.apply(item, is_dry=False)
    # kinds are served a moment after they are made
    established(cluster)
    for item in (CLASS, GATEWAY):
        cluster.apply(item, is_dry=False)


def established(cluster: Cluster) -> None:
    done = subprocess.run([str(PEERS / "bin" / "kubectl"), "--kubeconfig", str(cluster.kubeconfig), "wait", "--for=condition=Established",
                           "--timeout=30s", "crd", "--all"], capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        raise Broken(f"the Gateway API's kinds are not served: {done.stderr}")


class InCluster:
    """A folder beside a cluster, and what was done there."""

    def __init__(self, folder: Folder, cluster: Cluster) -> None:
        self.folder, self.cluster = folder, cluster
        self.run: Set[str] = set()
        self.left_out: Dict[str, List[str]] = {}
        (folder.path / "charts").symlink_to(ROOT / "charts")
        tools = Path(folder.env["PATH"].split(":")[0])
        for name, binary in (("helm", HELM), ("kubectl", PEERS / "bin" / "kubectl")):
            (tools / name).symlink_to(binary)
        folder.env["KUBECONFIG"] = str(cluster.kubeconfig)

    def follow(self, page: str) -> None:
        """With the files that the page has a reader make, as they stood last."""
        path = ROOT / page
        shown = [(match.start(), match[1], match[2]) for match in
                 re.finditer(r"^```yaml\n# (\S+\.yaml)\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)]
        for block in blocks(path):
            begin = sum(len(line) for line in path.read_text().splitlines(keepends=True)[:block.line])
            for at, name, text in shown:
                if at < begin:
                    (self.folder.path / name).write_text(text)
            for command in block.commands():
                self._command(block, command)

    def _command(self, block: Block, command: str) -> None:
        ours = OURS.match(command)
        if not ours and not re.match(r"^(kubectl|helm|sed)\b", command) and not re.match(r"^countersign policy\b", command):
            return
        where = f"{block.where}: {command}"
        why = "" if ours else next((why for why, text in LEFT_OUT if re.search(text, command)), "")
        if why:
            self.left_out.setdefault(why, []).append(where)
            return
        refusal = next((text for begin, text in REFUSED.items() if command.startswith(begin)), "")
        try:
            # what a pod would be asked for by `exec` needs no pod
            self.folder.follow(Block(block.page, block.line, (ours[1] if ours else command) + "\n"))
        except Broken as error:
            if not refusal or refusal not in str(error):
                raise
        else:
            if refusal:
                raise Broken(f"{where}: it is not refused")
        self.run.add(where)


def follow_pages(binary: Path, installed: Callable[[Cluster], None]) -> Tuple[int, Dict[str, List[str]]]:
    """How many commands were run, and those that were not, by the reason."""
    with Cluster() as cluster, Folder(binary) as folder:
        prepare(cluster)
        there = InCluster(folder, cluster)
        (folder.path / "patch.yaml").write_text(patch())
        for page in PAGES:
            if page == "docs/chart.md":
                folder.follow(Block(page, 0, "helm uninstall countersign --namespace countersign\n"))
            there.follow(page)
            if page == PAGES[0]:
                installed(cluster)
        return len(there.run), there.left_out


def patch() -> str:
    """That of docs/gateways.md for an Envoy."""
    return re.search(r"<!-- plain-envoy: begin -->\n```yaml\n(.*?)```", GATEWAYS_PAGE.read_text(), re.DOTALL)[1]


def quick_start_is_done(cluster: Cluster) -> None:
    """What the quick start leaves in a cluster, whichever gateway one has."""
    def found(path: str) -> dict:
        code, answer = cluster.ask("GET", path)
        if code != 200:
            raise Broken(f"after the quick start there is no {path}: {code} {answer}")
        return answer

    config = found("/api/v1/namespaces/countersign/configmaps/countersign")["data"]["config.yaml"]
    edge = json.dumps(found("/apis/apps/v1/namespaces/gateways/deployments/edge")["spec"]["template"]["spec"])
    proxy = found("/apis/gateway.networking.k8s.io/v1/namespaces/gateways/gateways/edge")["spec"]
    labels = found("/api/v1/namespaces/shop")["metadata"]["labels"]
    found("/apis/rbac.authorization.k8s.io/v1/namespaces/gateways/roles/countersign-agent-edge")
    for what, is_there in (("the gateway's identity", "spiffe://cluster.local/ns/gateways/sa/edge" in config),
                           ("the agent beside the gateway", "countersign-agent" in edge),
                           ("the Gateway's own client certificate", "mesh-certificate" in json.dumps(proxy)),
                           ("the label of the application", labels.get("istio-injection") == "enabled")):
        if not is_there:
            raise Broken(f"after the quick start there is not {what}")
