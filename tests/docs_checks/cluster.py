"""Follows pages against a real API server with the real istiod, as one does who has a cluster: kubectl and helm as they stand there, in a
folder in which the chart lies. What is installed runs (nodes.py), so that a rollout ends, `helm test` tests and `kubectl exec` gets somewhere.
Where a page has a reader fill something in, it is filled in."""

import re
import subprocess
import time
from pathlib import Path
from typing import List, Set, Tuple

from chart_checks.cluster import Cluster, free_port
from chart_checks.helm import BINARY as HELM
from chart_checks.helm import Broken, documents
from chart_checks.traffic import wait_until
from run import PEERS, ROOT

from . import quick_start
from .follow import PATIENCE, Folder
from .nodes import Nodes
from .pages import Block, blocks
from .parse import without_options

# In this order: the first of each installs what the others go on with.
PAGES = [quick_start.PAGE, "docs/envoy-gateway.md", "docs/gateways.md", "docs/agent.md", "docs/istiod.md", "docs/policy.md"]
AGAIN = ["docs/chart.md"]
WITH_A_ROOT = ["docs/operations.md", "docs/outputs.md", "docs/upgrade.md"]
ROOTED = "helm install countersign charts/countersign --namespace countersign --set mode=self-signed,trustDomain=gateways.example\n"
UNINSTALL = "helm uninstall countersign --namespace countersign\n"
# Which commands are of a cluster.
OURS = re.compile(r"^(kubectl|helm|sed|curl -i|countersign (policy|render|authority export --state kubernetes|agent --ca-address istiod|serve --state kubernetes))\b")
IN_POD = "kubectl --namespace countersign exec deployment/countersign -- "
FILLED_IN = {"NAMESPACE/NAME": "gateways/edge", "NAMESPACE/SERVICE": "shop/web", "NAMESPACE": "shop", "IMAGE": "registry.example/countersign:0.1.0",
             "HOST:PORT": "countersign.countersign.svc:15012"}
# Of a replica beside the installed ones, with a state of its own.
REPLICA = "--namespace gateways --replica-uid reader --data-dir replica --trust-domain gateways.example --listen 127.0.0.1:0 --admin-listen 127.0.0.1:0"
# Must be refused so, and the chart's rights are what refuses it.
REFUSED = {"kubectl --as system:serviceaccount:countersign:countersign": "a replica of Countersign writes no Secret of this type and name"}
CLASS = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "GatewayClass", "metadata": {"name": "any"},
         "spec": {"controllerName": "gateway.example/controller"}}
GATEWAY = {"apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway", "metadata": {"name": "public", "namespace": "gateways"},
           "spec": {"gatewayClassName": "any", "listeners": [{"name": "http", "protocol": "HTTP", "port": 80}]}}
ACCOUNT = {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "public", "namespace": "gateways"}}
COLOUR = re.compile("\x1b\\[[0-9;]*m")


def prepare(cluster: Cluster) -> None:
    """What a reader has beside what runs (nodes.py): the kinds of the Gateway API, and a Gateway of somebody else's."""
    for name in ("gateway-crds.yaml", "envoy-gateway-crds.yaml"):
        for kind in documents((PEERS / "bin" / name).read_text()):
            cluster.apply(kind, is_dry=False)
    cluster.namespace("gateways")
    # kinds are served a moment after they are made
    established(cluster)
    for item in (CLASS, GATEWAY, ACCOUNT):
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
        for name in ("charts", "docs"):
            (folder.path / name).symlink_to(ROOT / name)
        tools = Path(folder.env["PATH"].split(":")[0])
        for name, binary in (("helm", HELM), ("kubectl", PEERS / "bin" / "kubectl")):
            (tools / name).symlink_to(binary)
        folder.env["KUBECONFIG"] = str(cluster.kubeconfig)

    def follow(self, page: str) -> None:
        """With the files that the page has a reader make, as they stood last."""
        text = (ROOT / page).read_text()
        # no page knows of another's
        (self.folder.path / "backup").unlink(missing_ok=True)
        shown = [(match.start(), match[1], match[2]) for match in re.finditer(r"^```yaml\n# (\S+\.yaml)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)]
        for block in blocks(ROOT / page):
            begin = sum(len(line) for line in text.splitlines(keepends=True)[:block.line])
            for at, name, content in shown:
                if at < begin:
                    (self.folder.path / name).write_text(content)
            self.run_block(block)
            if page == quick_start.PAGE:
                self._see(block, answer_of(text[begin:]))

    def run_block(self, block: Block) -> None:
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

    def _see(self, block: Block, answer: List[str]) -> None:
        """What the page says that there is to be seen, as the last command says it; a reader may ask once more."""
        def missing() -> str:
            left = iter(" ".join(COLOUR.sub("", line).split()) for line in self.folder.said.splitlines())
            unseen = next((wanted for wanted in answer if not any(seen(wanted, line) for line in left)), "")
            if unseen:
                self._command(block, block.commands()[-1])
            return f"{unseen!r} is not in {self.folder.said!r}" if unseen else ""

        if answer:
            wait_until(missing, f"{block.where}: what the page shows is not to be seen")

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
        elif "port-forward" in command:
            self.folder.other_terminal(block)
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


def follow_pages(binary: Path) -> Tuple[int, float]:
    """How many commands were run, and how many seconds the quick start took."""
    with Cluster() as cluster, Folder(binary) as folder:
        prepare(cluster)
        with Nodes(cluster, binary) as nodes:
            there = InCluster(folder, cluster, nodes)
            begun, took = time.monotonic(), 0.0
            for page in PAGES + AGAIN + WITH_A_ROOT:
                if page in (AGAIN[0], WITH_A_ROOT[0]):
                    folder.follow(Block(page, 0, UNINSTALL))
                    nodes.settled()
                if page == WITH_A_ROOT[0]:
                    folder.follow(Block(page, 0, ROOTED))
                    nodes.settled()
                there.follow(page)
                if page == quick_start.PAGE:
                    took = time.monotonic() - begun
                    quick_start.check(there, took)
        return len(there.run), took


def answer_of(after: str) -> List[str]:
    """The lines of the text that follows a block."""
    found = re.match(r".*?^```\n\n```text\n(.*?)^```$", after, re.MULTILINE | re.DOTALL)
    return [" ".join(line.split()) for line in found[1].splitlines()] if found and "```sh" not in found[0] else []


def seen(wanted: str, line: str) -> bool:
    """`…` stands for what is another one each time."""
    return bool(re.fullmatch(".*".join(re.escape(part) for part in wanted.split("…")), line))
