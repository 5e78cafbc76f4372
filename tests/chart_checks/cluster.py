"""A real API server, with an etcd of its own: ports chosen by the system, keys and certificates made for it."""

import itertools
import json
import os
import secrets
import shutil
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Dict, List, Tuple

from run import ASSETS, PEERS

from .helm import Broken

START = 60  # seconds
ANSWER = 20


# Below those that the system gives to whoever connects, so that none is taken before its listener has it; each once.
PORTS = itertools.cycle(range(16_000, 32_000))
[next(PORTS) for _ in range(os.getpid() * 769 % 16_000)]


def free_port() -> int:
    while True:
        port = next(PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue


class Cluster:
    """Use it by `with`; the API server with these flags besides."""

    def __init__(self, *flags: str) -> None:
        self.flags = flags

    def __enter__(self) -> "Cluster":
        self.folder = Path(tempfile.mkdtemp(prefix="countersign-chart-"))
        self.children: List[subprocess.Popen] = []
        self.kinds: Dict[str, Dict[str, Tuple[str, bool]]] = {}
        try:
            self._start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        for child in reversed(self.children):
            child.kill()
            child.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, name: str, *arguments: str) -> None:
        binary = Path(ASSETS) / name if ASSETS else PEERS / "bin" / name
        with open(self.folder / f"{name}.log", "wb") as log:
            self.children.append(subprocess.Popen([str(binary), *arguments], stdout=log, stderr=log, cwd=self.folder,
                                                  stdin=subprocess.DEVNULL))

    def _start(self) -> None:
        key, public = self.folder / "accounts.key", self.folder / "accounts.pub"
        subprocess.run(["openssl", "genrsa", "-out", str(key), "2048"], check=True, capture_output=True)
        subprocess.run(["openssl", "rsa", "-in", str(key), "-pubout", "-out", str(public)], check=True,
                       capture_output=True)
        self.token = secrets.token_hex(32)
        (self.folder / "tokens.csv").write_text(f"{self.token},admin,admin,system:masters\n")
        clients, peers, port = free_port(), free_port(), free_port()
        etcd, self.url = f"http://127.0.0.1:{clients}", f"https://127.0.0.1:{port}"
        self._run("etcd", "--data-dir", "etcd-data", "--unsafe-no-fsync", "--listen-client-urls", etcd,
                  "--advertise-client-urls", etcd, "--listen-peer-urls", f"http://127.0.0.1:{peers}",
                  "--log-level", "warn")
        self._run("kube-apiserver", "--etcd-servers", etcd, "--bind-address", "127.0.0.1", "--secure-port", str(port),
                  "--cert-dir", str(self.folder / "certs"), "--token-auth-file", "tokens.csv",
                  "--service-account-issuer", "https://kubernetes.default.svc",
                  "--service-account-key-file", str(public), "--service-account-signing-key-file", str(key),
                  "--authorization-mode", "RBAC", "--service-cluster-ip-range", "10.96.0.0/16", "--allow-privileged",
                  "--endpoint-reconciler-type", "none", "--api-audiences", "https://kubernetes.default.svc,istio-ca",
                  # nothing runs that would make each namespace's default service account, which it waits for
                  "--disable-admission-plugins", "ServiceAccount", *self.flags)
        self._wait()
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{"name": "it", "cluster": {"server": self.url, "certificate-authority": str(self._root())}}],
            "users": [{"name": "it", "user": {"token": self.token}}],
            "contexts": [{"name": "it", "context": {"cluster": "it", "user": "it"}}],
        }
        self.kubeconfig = self.folder / "kubeconfig"
        self.kubeconfig.write_text(json.dumps(config))

    def _root(self) -> Path:
        return self.folder / "certs" / "apiserver.crt"

    def _wait(self) -> None:
        limit, seen = time.monotonic() + START, "nothing"
        while time.monotonic() < limit:
            for child in self.children:
                if child.poll() is not None:
                    logs = [path.read_text()[-2000:] for path in sorted(self.folder.glob("*.log"))]
                    raise Broken(f"{child.args[0]} ended with {child.returncode}: {logs}")
            try:
                code, answer = self.ask("GET", "/readyz")
                if code == 200:
                    return
                seen = f"{code} {answer}"
            except (OSError, ssl.SSLError) as error:
                seen = str(error)
            time.sleep(0.1)
        raise Broken(f"the API server is not ready after {START} s: {seen}")

    def ask(self, method: str, path: str, body: object = None, kind: str = "application/json", user: str = "") -> Tuple[int, object]:
        """Status and answer, the latter as JSON where it is that; as `user`, with that one's rights."""
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": kind, **({"Impersonate-User": user} if user else {})}
        request = urllib.request.Request(self.url + path, method=method, headers=headers,
                                         data=None if body is None else json.dumps(body).encode())
        context = ssl.create_default_context(cafile=str(self._root()))
        # what the API server signs for itself lacks what is asked of authorities since Python 3.13
        context.verify_flags &= ~getattr(ssl, "VERIFY_X509_STRICT", 0)
        try:
            with urllib.request.urlopen(request, timeout=ANSWER, context=context) as answer:
                code, text = answer.status, answer.read()
        except urllib.error.HTTPError as error:
            code, text = error.code, error.read()
        try:
            return code, json.loads(text)
        except ValueError:
            return code, text.decode(errors="replace")

    def path(self, item: dict) -> str:
        """Of the object, by what the API server says of its kind."""
        version = item["apiVersion"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        if version not in self.kinds:
            code, found = self.ask("GET", base)
            if code != 200:
                raise Broken(f"{version} is not served: {found}")
            self.kinds[version] = {kind["kind"]: (kind["name"], kind["namespaced"]) for kind in found["resources"]
                                   if "/" not in kind["name"]}
        if item["kind"] not in self.kinds[version]:
            raise Broken(f"{version} has no kind {item['kind']}")
        plural, is_namespaced = self.kinds[version][item["kind"]]
        metadata = item["metadata"]
        place = f"/namespaces/{metadata['namespace']}" if is_namespaced else ""
        return f"{base}{place}/{plural}/{metadata['name']}"

    def apply(self, item: dict, is_dry: bool = True) -> dict:
        """By server-side apply, with nothing that the API server does not know."""
        options = "fieldManager=check&fieldValidation=Strict" + ("&dryRun=All" if is_dry else "")
        code, answer = self.ask("PATCH", f"{self.path(item)}?{options}", item, "application/apply-patch+yaml")
        if code not in (200, 201):
            said = answer.get("message") if isinstance(answer, dict) else answer
            raise Broken(f"{item['kind']} {item['metadata']['name']} is refused: {code} {said}")
        return answer

    def namespace(self, name: str) -> None:
        """In which only pods of the strictest standard may run."""
        labels = {"pod-security.kubernetes.io/enforce": "restricted"}
        self.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}, is_dry=False)
