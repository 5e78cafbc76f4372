"""A node for pods, as far as one can be had without a kubelet: the processes of a pod's containers, sidecars first, each in a file system of
its own in which volumes lie where the pod's spec mounts them. Pods and Services have loopback addresses, of a network drawn by lot,
and the names of Services are in everybody's file of hosts."""

import base64
import itertools
import json
import os
import random
import re
import shlex
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Dict, List, Optional

from .cluster import Cluster
from .helm import Broken
from .objects import environment
from .pair import LIMIT, Process, token

# Of the machine in a container: all but these, and these are the container's own.
OWN = ["etc", "run", "var"]
NAME = "node"
NAMES = "hosts: files\n"


class Node:
    def __init__(self, cluster: Cluster, executables: Dict[str, Path], folder: Path, network: str = "") -> None:
        """The executables by the names of images; the first three parts of addresses, where they are not to be drawn."""
        self.cluster, self.executables, self.folder = cluster, executables, folder
        self.network = network or f"127.{random.randrange(1, 255)}.{random.randrange(256)}"
        self.numbers = itertools.count(1)
        self.names = folder / "names"
        self.names.mkdir()
        # by their names, as an image has them in its PATH
        self.path = folder / "path"
        self.path.mkdir()
        for name, executable in executables.items():
            (self.path / name).symlink_to(executable)
        self.others: List[str] = []
        self.tell([])

    def tell(self, hosts: List[str]) -> None:
        """Lines of everybody's file of hosts, beside those of `others`. Whoever reads it has it whole."""
        (self.names / "new").write_text("".join(f"{line}\n" for line in [*self.others, *hosts]))
        (self.names / "new").rename(self.names / "hosts")

    def address(self) -> str:
        return f"{self.network}.{next(self.numbers)}"


class Pod:
    """One that is in the cluster, started by `start`. Ends with its `with`."""

    def __init__(self, node: Node, made: dict, address: Optional[str] = None) -> None:
        self.node, self.name, self.address = node, made["metadata"]["name"], address or node.address()
        self.spec, uid, namespace = made["spec"], made["metadata"]["uid"], made["metadata"]["namespace"]
        self.folder = node.folder / uid
        self.item = {"apiVersion": "v1", "kind": "Pod", "spec": self.spec,
                     "metadata": {"name": self.name, "namespace": namespace, "labels": made["metadata"].get("labels", {})}}
        self.fields = {"metadata.uid": uid, "metadata.name": self.name, "metadata.namespace": namespace, "status.podIP": self.address}
        self.is_ready = self.is_gone = False
        self.processes: List[Process] = []
        self.volumes = {volume["name"]: self._volume(volume) for volume in self.spec["volumes"]}

    @staticmethod
    def make(node: Node, name: str, namespace: str, template: dict, address: Optional[str] = None) -> "Pod":
        # one that is on a node is there until that says that its processes have ended
        item = {"apiVersion": "v1", "kind": "Pod", "spec": {**template["spec"], "nodeName": NAME},
                "metadata": {**template["metadata"], "name": name, "namespace": namespace}}
        code, made = node.cluster.ask("POST", f"/api/v1/namespaces/{namespace}/pods", item)
        if code != 201:
            raise Broken(f"pod {name} can't be made: {made}")
        return Pod(node, made, address)

    def __enter__(self) -> "Pod":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.__exit__()

    def start(self, env: Dict[str, str]) -> None:
        """Its sidecars, each once the one before has started, and then its containers. `env` goes to all, beside what the spec says."""
        for container in self.spec.get("initContainers", []):
            self._run(container, env)
            self._probe(container, "startupProbe")
        for container in self.spec["containers"]:
            self._run(container, env)

    def wait_until_ready(self) -> None:
        for container in self.spec["containers"]:
            self._probe(container, "readinessProbe")
        self.is_ready = True

    def terminate(self) -> None:
        """As a pod is deleted: it stays in the cluster, being deleted, and its processes get SIGTERM."""
        self.node.cluster.ask("DELETE", self.node.cluster.path(self.item))
        for process in self.processes:
            process.child.terminate()

    def wait_until_gone(self) -> None:
        """Its processes end, in the time that the spec gives them, and then the pod is deleted."""
        grace = self.spec["terminationGracePeriodSeconds"]
        for process in self.processes:
            try:
                code = process.child.wait(timeout=grace)
            except subprocess.TimeoutExpired as error:
                raise Broken(f"{process.log.stem} has not ended {grace} s after SIGTERM") from error
            if code != 0:
                raise Broken(f"{process.log.stem} ended with {code} after SIGTERM: {process.log.read_text()[-2000:]}")
        self.is_gone = True
        self.node.cluster.ask("DELETE", f"{self.node.cluster.path(self.item)}?gracePeriodSeconds=0")

    def execute(self, *arguments: str) -> str:
        """As `kubectl exec` in its first container."""
        container = self.spec["containers"][0]
        command = self._inside(container, [self._executable(container), *arguments])
        done = subprocess.run(command, env=self._environment(container, {}), capture_output=True, text=True, timeout=LIMIT)
        if done.returncode != 0:
            raise Broken(f"{' '.join(arguments)} in {self.name} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def entrance(self, container: dict) -> str:
        """A script that runs a command in a container, with its environment."""
        env = [f"{name}={value}" for name, value in self._environment(container, {}).items()]
        return f'#!/bin/sh\nexec env -i {shlex.join(env + self._inside(container, []))} "$@"\n'

    def log(self, container: str) -> str:
        return (self.folder / f"{self.name}-{container}.log").read_text()

    def _run(self, container: dict, env: Dict[str, str]) -> None:
        env = self._environment(container, env)
        # all pods share the machine's network
        arguments = [re.sub(r"\$\((\w+)\)", lambda name: env.get(name[1], name[0]), part).replace("0.0.0.0:", f"{self.address}:")
                     for part in container["args"]]
        inside = self._inside(container, [self._executable(container), *arguments])
        self.processes.append(Process(Path(inside[0]), inside[1:], env, self.folder / f"{self.name}-{container['name']}.log"))

    def _environment(self, container: dict, env: Dict[str, str]) -> Dict[str, str]:
        host, port = re.fullmatch(r"https://(.*):(\d+)", self.node.cluster.url).groups()
        return {"KUBERNETES_SERVICE_HOST": host, "KUBERNETES_SERVICE_PORT": port, **environment(container, self.fields), **env}

    def _probe(self, container: dict, kind: str) -> None:
        if kind not in container:
            return
        process, limit, seen = self.processes[-1], time.monotonic() + LIMIT, "nothing"
        while time.monotonic() < limit and process.child.poll() is None:
            seen = self.missing(container, kind)
            if not seen:
                return
            time.sleep(0.05)
        raise Broken(f"{kind} of {self.name} fails for {LIMIT} s: {seen}\n{process.log.read_text()[-3000:]}")

    def missing(self, container: dict, kind: str) -> str:
        """What a probe is answered at this moment; nothing if it succeeds."""
        how = next(name for name in ("httpGet", "tcpSocket") if name in container[kind])
        asked = container[kind][how]
        ports = {port["name"]: port["containerPort"] for port in container.get("ports", [])}
        port = ports.get(asked["port"], asked["port"])
        try:
            if how == "tcpSocket":
                socket.create_connection((self.address, port), timeout=5).close()
            else:
                urllib.request.urlopen(f"http://{self.address}:{port}{asked['path']}", timeout=5).close()
            return ""
        except urllib.error.HTTPError as error:
            return error.read().decode() or str(error)
        except OSError as error:
            return str(error)

    def _executable(self, container: dict) -> str:
        return str(self.node.executables[re.search(r"([^/:@]+)(?::[^/]+)?(?:@.*)?$", container["image"])[1]])

    def _inside(self, container: dict, command: List[str]) -> List[str]:
        """A command in a file system with the container's mounts."""
        root = self.folder / f"root-{container['name']}"
        # the machine's folders first, then the container's own, which may lie in those
        script = ["set -e", f"export PATH=/usr/sbin:/usr/bin:/sbin:/bin:{self.node.path}"]
        for path in Path("/").iterdir():
            target = root / path.name
            if path.name in OWN:
                continue
            if path.is_symlink():
                target.parent.mkdir(parents=True, exist_ok=True)
                if not target.is_symlink():
                    target.symlink_to(os.readlink(path))
            elif path.is_dir():
                target.mkdir(parents=True, exist_ok=True)
                script.append(f"mount --rbind '{path}' '{target}'")
        script.append(f"mount -t tmpfs shm '{root}/dev/shm'")
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc" / "nsswitch.conf").write_text(NAMES)
        if not (root / "etc" / "hosts").is_symlink():
            (root / "etc" / "hosts").symlink_to("/etc/names/hosts")
        binds = [(self.node.names, "/etc/names")]
        for mount in container.get("volumeMounts", []):
            source = self.volumes[mount["name"]]
            binds.append((source / mount["subPath"] if "subPath" in mount else source, mount["mountPath"]))
        for source, place in binds:
            target = root / place.lstrip("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            target.mkdir(exist_ok=True) if source.is_dir() else target.touch()
            script.append(f"mount --bind '{source}' '{target}'")
        script.append(f"exec chroot '{root}' \"$@\"")
        user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
        return [str(shutil.which("unshare")), *user, "--mount", "/bin/sh", "-c", "\n".join(script), "enter",
                *command]

    def _volume(self, volume: dict) -> Path:
        place = self.folder / "volumes" / volume["name"]
        place.mkdir(parents=True)
        if "emptyDir" not in volume:
            for source in volume["projected"]["sources"] if "projected" in volume else [volume]:
                for name, content in self._files(source).items():
                    (place / name).write_bytes(content)
        return place

    def _files(self, source: dict) -> Dict[str, bytes]:
        if "serviceAccountToken" in source:
            asked = source["serviceAccountToken"]
            return {asked["path"]: token(self.node.cluster, self.item, asked.get("audience", "")).encode()}
        if "downwardAPI" in source:
            return {item["path"]: self.fields[item["fieldRef"]["fieldPath"]].encode() for item in source["downwardAPI"]["items"]}
        kind = "configMap" if "configMap" in source else "secret"
        asked = source[kind]
        name = asked.get("name") or asked["secretName"]
        code, found = self.node.cluster.ask("GET", f"/api/v1/namespaces/{self.fields['metadata.namespace']}/{kind.lower()}s/{name}")
        if code == 404 and asked.get("optional"):
            return {}
        if code != 200:
            raise Broken(f"{kind} {name}, which {self.name} mounts, is not there: {json.dumps(found)}")
        data = {key: value.encode() if kind == "configMap" else base64.b64decode(value) for key, value in found["data"].items()}
        return {item["path"]: data[item["key"]] for item in asked["items"]} if "items" in asked else data
