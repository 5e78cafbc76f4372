"""What a cluster does by itself for the pods of the pages: the replicas of the chart's Deployment are rolled by its strategy, pods of its test
run to their end, those of a gateway and of an application follow their Deployments, and of all the API server is told. Containers are processes
here (chart_checks/node.py); `kubectl exec` and `kubectl port-forward` come to them by the streaming code of Kubernetes' own kubelet."""

import shlex
import shutil
import subprocess
import tempfile
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, List, Optional

from chart_checks.cluster import Cluster
from chart_checks.helm import Broken, documents, must
from chart_checks.istiod import Istiod
from chart_checks.mesh import ISTIOD
from chart_checks.node import NAME, Node, Pod
from chart_checks.objects import of_kind
from chart_checks.pair import LIMIT, NAMESPACE
from chart_checks.rollout import Rollout, template_hash
from chart_checks.traffic import DEPLOYMENT, spiffe_id, tell_of_api_server, wait_until
from run import PEERS

from . import envoy_gateway
from .workloads import EDGE, MESH, Web, Workload

# Of pods. API server and gateways take none of the loopback device's own.
NETWORK = "10.244.0"
LOOK = 0.1  # seconds between two looks at what is there
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def settle() -> None:
    """Pods' addresses, in a network of one's own."""
    for command in (["link", "set", "lo", "up"], ["address", "add", f"{NETWORK}.0/24", "dev", "lo"], ["route", "add", "default", "dev", "lo"]):
        subprocess.run([shutil.which("ip") or "ip", *command], check=True)


class Nodes:
    """In a cluster with the real istiod. Use it by `with`."""

    def __init__(self, cluster: Cluster, binary: Path) -> None:
        self.cluster, self.binary, self.running = cluster, binary, ExitStack()
        self.rollout: Optional[Rollout] = None
        self.rolled = ""
        self.wrong: Optional[BaseException] = None
        self.is_over = threading.Event()

    def __enter__(self) -> "Nodes":
        with ExitStack() as running:
            self.folder = Path(running.enter_context(tempfile.TemporaryDirectory(prefix="countersign-nodes-")))
            executables = {"countersign": self.binary, "envoy": PEERS / "bin" / "envoy", **envoy_gateway.EXECUTABLES}
            self.node = Node(self.cluster, executables, self.folder, NETWORK)
            istiod = running.enter_context(Istiod(self.cluster, self.folder, self.node.address(), 15012))
            self.node.others = [f"{istiod.address} istiod.istio-system.svc"]
            self.cluster.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "istio-system"}}, is_dry=False)
            self.cluster.apply(ISTIOD, is_dry=False)
            istiod.start()
            self._join(running)
            self.web = Web(self.node, spiffe_id((envoy_gateway.NAMESPACE, envoy_gateway.ACCOUNT), MESH))
            self.workloads = [self.web, Workload(self.node, EDGE), envoy_gateway.EnvoyGateway(self.node), envoy_gateway.Proxy(self.node)]
            for one in self.workloads:
                running.enter_context(one)
            running.callback(lambda: self.rollout and self.rollout.__exit__())
            watching = threading.Thread(target=self._watch)
            watching.start()
            running.callback(watching.join)
            running.callback(self.is_over.set)
            self.running = running.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.running.close()

    def settled(self) -> None:
        """Until the pods are those of the newest Deployment, or gone with it: a reader reads on meanwhile."""
        wait_until(self._unsettled, "the replicas are not those of the Deployment")

    def check(self) -> None:
        """Raises what has gone wrong with pods."""
        if self.wrong:
            raise Broken(f"the pods can't be run: {self.wrong!r}") from self.wrong

    def active(self) -> str:
        """The name of the pod that is."""
        return self._active().name

    def _active(self) -> Optional[Pod]:
        holder, rollout = self._holder(), self.rollout
        return next((pod for pod in rollout.pods if pod.fields["metadata.uid"] in holder), None) if rollout else None

    def _holder(self) -> str:
        code, lease = self.cluster.ask("GET", f"/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases/countersign")
        return lease["spec"].get("holderIdentity") or "" if code == 200 else ""

    def place(self, content: bytes) -> str:
        """A file of an operator's in the active's pod, which has it there."""
        pod = self._active()
        file = pod.volumes["data"] / "passphrase"
        file.write_bytes(content)
        file.chmod(0o600)
        return next(mount["mountPath"] for mount in pod.spec["containers"][0]["volumeMounts"] if mount["name"] == "data") + "/passphrase"

    def run_agent(self, command: str) -> None:
        """In a pod beside the gateway that the quick start has patched, until it has an identity there."""
        tell_of_api_server(self.cluster, "gateways")
        edge = self.cluster.ask("GET", "/apis/apps/v1/namespaces/gateways/deployments/edge")[1]["spec"]["template"]
        agent = next(one for one in edge["spec"]["initContainers"] if one["name"] == "countersign-agent")
        container = {name: agent[name] for name in ("name", "image", "securityContext", "volumeMounts")}
        container.update({"args": shlex.split(command)[1:], "ports": [{"name": "admin", "containerPort": 15020}],
                          "readinessProbe": {"httpGet": {"path": "/readyz", "port": "admin"}}})
        template = {"metadata": edge["metadata"], "spec": {**edge["spec"], "initContainers": [], "containers": [container]}}
        with Pod.make(self.node, "edge", "gateways", template) as pod:
            pod.start({"COUNTERSIGN_ADMIN_LISTEN": f"{pod.address}:15020"})
            pod.wait_until_ready()
        self.cluster.ask("DELETE", f"{self.cluster.path(pod.item)}?gracePeriodSeconds=0")

    def _join(self, running: ExitStack) -> None:
        """The node, with the address at which it is asked for `kubectl exec`."""
        entrances = self.folder / "entrances"
        kubelet = subprocess.Popen([str(PEERS / "bin" / "kubelet-exec"), str(entrances)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        running.callback(kubelet.wait)
        running.callback(kubelet.kill)
        item = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": NAME}}
        self.cluster.apply(item, is_dry=False)
        self._tell(item, {"addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
                          "daemonEndpoints": {"kubeletEndpoint": {"Port": int(kubelet.stdout.readline())}}})

    def _watch(self) -> None:
        try:
            while not self.is_over.wait(LOOK):
                self._roll()
                self._test()
                for one in self.workloads:
                    if one.look():
                        self._is_running(one.pod)
                        self._is_rolled_out(one.item, one.generation, 1)
        except BaseException as error:
            self.wrong = error

    def _deployment(self) -> Optional[dict]:
        code, found = self.cluster.ask("GET", self.cluster.path(DEPLOYMENT))
        return found if code == 200 else None

    def _unsettled(self) -> str:
        self.check()
        wanted = self._deployment()
        if not wanted:
            return "pods of no Deployment" if self.rollout else ""
        observed = wanted.get("status", {}).get("observedGeneration", 0)
        if observed != wanted["metadata"]["generation"]:
            return f"generation {observed} of {wanted['metadata']['generation']}"
        # the Lease may be a dead one's for a while
        return "" if self._active() else f"the active is none of them: {self._holder()}"

    def _roll(self) -> None:
        wanted = self._deployment()
        if not wanted:
            if self.rollout:
                self.rollout.end(list(self.rollout.pods))
                self.rollout.ended()
                self.rollout.__exit__()
                self.rollout, self.rolled = None, ""
            return
        generation, count = wanted["metadata"]["generation"], wanted["spec"]["replicas"]
        if wanted.get("status", {}).get("observedGeneration") == generation:
            return
        if not self.rollout:
            tell_of_api_server(self.cluster, NAMESPACE)
            manifest = must("get", "manifest", "countersign", "--kubeconfig", str(self.cluster.kubeconfig), "--namespace", NAMESPACE)
            self.rollout = Rollout(self.node, of_kind(documents(manifest), "Service"))
        if self.rolled != template_hash(wanted):
            for pod in self.rollout.to(wanted):
                self._is_running(pod)
            self.rolled = template_hash(wanted)
        self._is_rolled_out(DEPLOYMENT, generation, count)

    def _test(self) -> None:
        """A pod that nobody has put on a node is one of the chart's test."""
        items = self.cluster.ask("GET", f"{PODS}?fieldSelector=spec.nodeName%3D,status.phase%3DPending")[1]["items"]
        for item in items:
            name = item["metadata"]["name"]
            self.cluster.ask("POST", f"{PODS}/{name}/binding", {
                "apiVersion": "v1", "kind": "Binding", "metadata": {"name": name}, "target": {"kind": "Node", "name": NAME}})
            with Pod(self.node, {**item, "apiVersion": "v1", "kind": "Pod"}) as pod:
                pod.start({})
                code = pod.processes[-1].child.wait(timeout=LIMIT)
            self._tell(pod.item, {"phase": "Failed" if code else "Succeeded"})

    def _is_running(self, pod: Pod) -> None:
        """Of a pod that is ready."""
        entrances = self.folder / "entrances" / pod.item["metadata"]["namespace"] / pod.name
        entrances.mkdir(parents=True, exist_ok=True)
        (entrances / "address").write_text(pod.address)
        statuses: List[Dict[str, object]] = []
        for container in pod.spec["containers"]:
            (entrances / container["name"]).write_text(pod.entrance(container))
            (entrances / container["name"]).chmod(0o755)
            statuses.append({"name": container["name"], "image": container["image"], "imageID": "", "ready": True, "started": True,
                             "restartCount": 0, "state": {"running": {}}})
        self._tell(pod.item, {"phase": "Running", "podIP": pod.address, "podIPs": [{"ip": pod.address}], "containerStatuses": statuses,
                              "conditions": [{"type": "Ready", "status": "True"}]})

    def _is_rolled_out(self, item: dict, generation: int, count: int) -> None:
        self._tell(item, {"observedGeneration": generation, "replicas": count, "updatedReplicas": count, "readyReplicas": count,
                          "availableReplicas": count})

    def _tell(self, item: dict, status: dict) -> None:
        code, answer = self.cluster.ask("PATCH", f"{self.cluster.path(item)}/status", {"status": status}, "application/merge-patch+json")
        if code != 200:
            raise Broken(f"the status of {item['metadata']['name']} is refused: {answer}")
