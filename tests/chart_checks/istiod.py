"""The real istiod, in the cluster's namespace `istio-system`."""

import json
import os
import subprocess
from pathlib import Path
from typing import List

from run import PEERS

from .cluster import Cluster, free_port
from .helm import documents

MESH = {"trustDomain": "cluster.local", "rootNamespace": "istio-system"}


class Istiod:
    """Its address is known before it starts. Ends with its `with`."""

    def __init__(self, cluster: Cluster, folder: Path, address: str = "127.0.0.1", port: int = 0) -> None:
        self.cluster, self.folder, self.address, self.port = cluster, folder, address, port or free_port()
        self.children: List[subprocess.Popen] = []

    def __enter__(self) -> "Istiod":
        return self

    def __exit__(self, *_: object) -> None:
        for child in self.children:
            child.kill()
            child.wait()

    def start(self) -> None:
        for kind in documents((PEERS / "bin" / "istio-crds.yaml").read_text()):
            self.cluster.apply(kind, is_dry=False)
        mesh = self.folder / "mesh.yaml"
        mesh.write_text(json.dumps(MESH))
        addresses = [f"--{name}Addr=127.0.0.1:{free_port()}" for name in ("grpc", "http", "https", "monitoring")]
        env = {"PATH": os.environ.get("PATH", ""), "HOME": str(self.folder), "POD_NAMESPACE": "istio-system", "POD_NAME": "istiod-0",
               "SERVICE_ACCOUNT": "istiod", "CLUSTER_ID": "Kubernetes", "PILOT_ENABLE_GATEWAY_API": "false",
               "INJECTION_WEBHOOK_CONFIG_NAME": "", "VALIDATION_WEBHOOK_CONFIG_NAME": ""}
        with open(self.folder / "istiod.log", "wb") as log:
            self.children.append(subprocess.Popen(
                [str(PEERS / "bin" / "pilot-discovery"), "discovery", "--kubeconfig", str(self.cluster.kubeconfig), "--meshConfig",
                 str(mesh), f"--secureGRPCAddr={self.address}:{self.port}", *addresses, "--ctrlz_port", "0"],
                cwd=self.folder, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log))
