"""What is done with a Deployment and its Services: pods of a new template take the place of those of the old one, as its strategy says, and a
Service's address leads to those that are ready."""

import hashlib
import itertools
import json
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Callable, List

from .helm import Broken
from .node import Node, Pod

# Seconds for which a pod that ends still gets new connections: kube-proxy hears of it no earlier than the kubelet.
LAG = 1.0
CHUNK = 65536


class Service:
    """Each connection goes to one of the endpoints, in turn, and stays there. One that refuses it is as bad as it is."""

    def __init__(self, item: dict, node: Node) -> None:
        self.item, self.address, self.endpoints, self.turn = item, node.address(), [], itertools.count()
        self.listeners = [self._listen(port) for port in item["spec"]["ports"]]

    def close(self) -> None:
        for listener in self.listeners:
            listener.close()

    def counts(self, pod: Pod) -> bool:
        of, labels = self.item["spec"], pod.item["metadata"]["labels"]
        return of["selector"].items() <= labels.items() and (
            pod.is_ready or not pod.is_gone and of.get("publishNotReadyAddresses", False))

    def _listen(self, port: dict) -> socket.socket:
        listener = socket.create_server((self.address, port["port"]))
        threading.Thread(target=self._accept, args=(listener, port["targetPort"]), daemon=True).start()
        return listener

    def _accept(self, listener: socket.socket, target: object) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            threading.Thread(target=self._lead, args=(client, target), daemon=True).start()

    def _lead(self, client: socket.socket, target: object) -> None:
        with client:
            endpoints = list(self.endpoints)
            if not endpoints:
                return
            pod = endpoints[next(self.turn) % len(endpoints)]
            ports = {port["name"]: port["containerPort"] for port in pod.spec["containers"][0].get("ports", [])}
            try:
                with socket.create_connection((pod.address, ports.get(target, target))) as server:
                    back = threading.Thread(target=pass_on, args=(server, client), daemon=True)
                    back.start()
                    pass_on(client, server)
                    back.join()
            except OSError:
                return


def pass_on(source: socket.socket, sink: socket.socket) -> None:
    """Until the source ends, of which the sink hears."""
    try:
        while True:
            content = source.recv(CHUNK)
            if not content:
                break
            sink.sendall(content)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        # whoever of the two is still there hears that the other one is not
        for end in (source, sink):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


class Rollout:
    """Ends with its `with`, and all that was started."""

    def __init__(self, node: Node, services: List[dict]) -> None:
        self.node, self.numbers, self.pods, self.past = node, itertools.count(1), [], []
        self.services = [Service(item, node) for item in services]
        self.work, self.ending, self.lock = ThreadPoolExecutor(8), [], threading.Lock()
        self._tell()

    def __enter__(self) -> "Rollout":
        return self

    def __exit__(self, *_: object) -> None:
        for pod in self.pods + self.past:
            pod.__exit__()
        for service in self.services:
            service.close()
        self.work.shutdown()

    def to(self, deployment: dict, look: Callable[[], object] = lambda: None) -> List[Pod]:
        """Rolls to this one's template; gives the new pods, all of them ready. Old ones may still be ending. `look` as in `ended`."""
        spec, strategy = deployment["spec"], deployment["spec"]["strategy"]
        old, new, wanted = list(self.pods), [], spec["replicas"]
        rolling = strategy.get("rollingUpdate", {"maxSurge": 0, "maxUnavailable": wanted})
        if strategy["type"] == "Recreate":
            self.end(old)
            self.ended(look)
            old = []
        while old or len(new) < wanted:
            spare = max(0, len(old) + len(new) - wanted + rolling["maxUnavailable"])
            may_end, old = old[:spare], old[spare:]
            self.end(may_end)
            starting = min(wanted + rolling["maxSurge"] - len(old), wanted) - len(new)
            if starting <= 0 and not may_end:
                raise Broken(f"the strategy {strategy} leads nowhere")
            begun = [self._start(deployment) for _ in range(starting)]
            for pod in begun:
                pod.wait_until_ready()
                self._tell()
            new += begun
        return new

    def end(self, pods: List[Pod]) -> None:
        for pod in pods:
            self.pods.remove(pod)
            self.past.append(pod)
            self.ending.append(self.work.submit(self._end, pod))

    def ended(self, look: Callable[[], object] = lambda: None) -> None:
        """Waits for all that are ending. `look` raises if there is nothing more to wait for."""
        ending, self.ending = self.ending, []
        while wait(ending, timeout=0.2).not_done:
            look()
        for one in ending:
            one.result()

    def _start(self, deployment: dict) -> Pod:
        template = deployment["spec"]["template"]
        name = f"countersign-{template_hash(deployment)}-{next(self.numbers)}"
        pod = Pod.make(self.node, name, deployment["metadata"]["namespace"], template)
        self.pods.append(pod)
        # each listens at its own address, as it has no network of its own
        listen = {"LISTEN": 15012, "PAIR_LISTEN": 15013, "ADMIN_LISTEN": 15020}
        pod.start({f"COUNTERSIGN_{setting}": f"{pod.address}:{port}" for setting, port in listen.items()})
        self._tell()
        return pod

    def _end(self, pod: Pod) -> None:
        pod.terminate()
        # not a wait for anything: new connections come as long as this
        time.sleep(LAG)
        pod.is_ready = False
        self._tell()
        pod.wait_until_gone()
        self._tell()

    def _tell(self) -> None:
        """Services and names, of who is there."""
        with self.lock:
            hosts = []
            for service in self.services:
                service.endpoints = [pod for pod in self.pods + self.past if service.counts(pod)]
                metadata, of = service.item["metadata"], service.item["spec"]
                addresses = [pod.address for pod in service.endpoints] if of.get("clusterIP") == "None" else [service.address]
                hosts += [f"{address} {metadata['name']}.{metadata['namespace']}.svc" for address in addresses]
            self.node.tell(hosts)


def template_hash(deployment: dict) -> str:
    return hashlib.sha256(json.dumps(deployment["spec"]["template"], sort_keys=True).encode()).hexdigest()[:8]
