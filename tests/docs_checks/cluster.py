"""Follows pages against a real API server with the real istiod, as one does who has a cluster: kubectl and helm as they stand there, in a
folder in which the chart lies. What is installed runs (nodes.py), so that a rollout ends, `helm test` tests and `kubectl exec` gets somewhere.
Where a page has a reader fill something in, it is filled in."""

import json
import re
import subprocess
import time
from pathlib import Path
from typing import Callable, List, Set, Tuple

from chart_checks.cluster import Cluster, free_port
from chart_checks.documents import GATEWAYS_PAGE
from chart_checks.helm import BINARY as HELM
from chart_checks.helm import Broken, documents
from chart_checks.live import deployment
from run import PEERS, ROOT

from .follow import PATIENCE, Folder
from .nodes import Nodes
from .pages import Block, blocks
from .parse import without_options

# In this order: the first of each installs what the others go on with.
QUICK_START = "docs/quick-start.md"
PAGES = [QUICK_START, "docs/envoy-gateway.md", "docs/gateways.md", "docs/agent.md", "docs/istiod.md", "docs/policy.md"]
AGAIN = ["docs/chart.md"]
WITH_A_ROOT = ["docs/operations.md", "docs/outputs.md", "docs/upgrade.md"]
ROOTED = "helm install countersign charts/countersign --namespace countersign --set mode=self-signed,trustDomain=gateways.example\n"
UNINSTALL = "helm uninstall countersign --namespace countersign\n"
# What the quick start may take, without what is downloaded and built.
LIMIT = 600  # seconds
# Which commands are of a cluster.
OURS = re.compile(r"^(kubectl|helm|sed|countersign (policy|render|authority export --state kubernetes|agent --ca-address istiod|serve --state kubernetes))\b")
IN_POD = "kubectl --namespace countersign exec deployment/countersign -- "
FILLED_IN = {"NAMESPACE/NAME": "gateways/edge", "NAMESPACE/SERVICE": "shop/web", "NAMESPACE": "shop", "IMAGE": "registry.example/countersign:0.1.0",
             "HOST:PORT": "countersign.countersign.svc:15012"}
# Of a replica beside the installed ones, with a state of its own.
REPLICA = "--namespace gateways --replica-uid reader --data-dir replica --trust-domain gateways.example --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0"
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
    account = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "edge", "namespace": "gateways"}}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "web", "namespace": "shop"},
               "spec": {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80}]}}
    for item in (web, service, account, deployment("edge", "envoy", 101)):
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


def takes(page: str, command: str) -> bool:
    """Whether it is run here."""
    return page in PAGES + AGAIN + WITH_A_ROOT and bool(OURS.match(command))


class InCluster:
    """A folder beside a cluster, and what was done there."""

    def __init__(self, folder: Folder, cluster: Cluster, nodes: Nodes) -> None:
        self.folder, self.cluster, self.nodes = folder, cluster, nodes
        self.run: Set[str] = set()
        (folder.path / "charts").symlink_to(ROOT / "charts")
        tools = Path(folder.env["PATH"].split(":")[0])
        for name, binary in (("helm", HELM), ("kubectl", PEERS / "bin" / "kubectl")):
            (tools / name).symlink_to(binary)
        folder.env["KUBECONFIG"] = str(cluster.kubeconfig)

    def follow(self, page: str) -> None:
        """With the files that the page has a reader make, as they stood last."""
        path = ROOT / page
        # no page knows of another's
        (self.folder.path / "backup").unlink(missing_ok=True)
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
        if not takes(block.page, command):
            return
        where = f"{block.where}: {command}"
        refusal = next((text for begin, text in REFUSED.items() if command.startswith(begin)), "")
        try:
            for one in self._filled_in(command):
                self._whole(Block(block.page, block.line, one + "\n"))
        except Broken as error:
            self.nodes.check()
            if not refusal or refusal not in str(error):
                raise
        else:
            if refusal:
                raise Broken(f"{where}: it is not refused")
        self.run.add(where)

    def _filled_in(self, command: str) -> List[str]:
        """All that a reader may make of it."""
        own = {"--kubeconfig K": f"--kubeconfig {self.cluster.kubeconfig}"}
        if command.startswith("countersign serve"):
            pair = f"127.0.0.1:{free_port()}"
            own["…"] = f"{REPLICA} --kubeconfig {self.cluster.kubeconfig} --pair-listen {pair} --pair-address {pair}"
        if "POD" in command:
            own.update({"POD": self.nodes.active(), "--passphrase-file F": f"--passphrase-file {self.nodes.place(b'correct horse')}"})
        written = without_options(command) if command.startswith("countersign") else [command]
        for words in (FILLED_IN, own):
            for word, mine in words.items():
                written = [re.sub(rf"(?<![\w/-]){re.escape(word)}(?![\w/])", mine, one) for one in written]
        # "`kubectl exec` into either pod", as its page says
        return [IN_POD + one if one.startswith("countersign policy") else one for one in written]

    def _whole(self, block: Block) -> None:
        command = block.text.strip()
        if command.startswith("countersign agent"):
            self.nodes.run_agent(command)
        elif command.startswith("countersign serve"):
            self._run_replica(block)
        elif "policy watch" in command:
            self.folder.first_line(block)
        else:
            if " exec " in command:
                self.nodes.settled()
            self.folder.follow(block)

    def _run_replica(self, block: Block) -> None:
        """Until the Secret that it is to keep is there."""
        self.folder.follow(block)
        namespace, name = re.search(r"--gateway-secret (\S+)/(\S+)=", block.text).groups()
        limit = time.monotonic() + PATIENCE
        while self.cluster.ask("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")[0] != 200:
            if time.monotonic() > limit:
                raise Broken(f"there is no Secret {namespace}/{name} after {PATIENCE} s")
            time.sleep(0.1)
        self.folder.stop()


def follow_pages(binary: Path, installed: Callable[[Cluster], None]) -> Tuple[int, float]:
    """How many commands were run, and how many seconds the quick start took."""
    with Cluster() as cluster, Folder(binary) as folder:
        prepare(cluster)
        with Nodes(cluster, binary) as nodes:
            there = InCluster(folder, cluster, nodes)
            (folder.path / "patch.yaml").write_text(patch())
            begun, took = time.monotonic(), 0.0
            for page in PAGES + AGAIN + WITH_A_ROOT:
                if page in (AGAIN[0], WITH_A_ROOT[0]):
                    folder.follow(Block(page, 0, UNINSTALL))
                    nodes.settled()
                if page == WITH_A_ROOT[0]:
                    folder.follow(Block(page, 0, ROOTED))
                    nodes.settled()
                there.follow(page)
                if page == QUICK_START:
                    took = time.monotonic() - begun
                    if took > LIMIT:
                        raise Broken(f"the quick start took {took:.0f} s: more than {LIMIT}")
                    installed(cluster)
        return len(there.run), took


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
