"""The pods of an installed chart as processes: arguments, environment and configuration as rendered, the rights of its service account
and no others. Addresses are of this machine, as there is no network of pods, and files lie in a folder, as there is no kubelet."""

import json
import re
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Tuple

from run import PEERS

from .cluster import Cluster, free_port
from .helm import CHART, Broken, documents, must, with_values
from .istiod import Istiod
from .live import objects
from .objects import environment, of_kind

# What replicas at an API server showed, for tests/alerts.py.
SCRAPES = PEERS / "scrapes"
FAULTS = SCRAPES / "faults"
LIMIT = 40  # seconds until the replicas are ready, or the test's pod is
NAMESPACE = "countersign"
# What outlives the chart, as docs/policy.md says.
LEASE = {"Lease countersign/countersign"}
STATE = {"Secret countersign/countersign-authority", "Secret countersign/countersign-trust",
         "ConfigMap countersign/countersign-root-cert"}
# Of rights that are missing, in the log.
MISSING = r".*(?i:forbidden|_not_followed|_not_watched|lease_request_failed|not_written).*"


class Process:
    """Ends with its `with`."""

    def __init__(self, binary: Path, arguments: List[str], env: Dict[str, str], log: Path) -> None:
        self.log = log
        with open(log, "wb") as out:
            self.child = subprocess.Popen([str(binary), *arguments], env=env, stdout=out, stderr=out,
                                          stdin=subprocess.DEVNULL, cwd=log.parent)

    def __enter__(self) -> "Process":
        return self

    def __exit__(self, *_: object) -> None:
        self.child.kill()
        self.child.wait()

    def wait_until(self, admin: int, status: int, text: str = "") -> None:
        """Until `/readyz` answers so."""
        limit, seen = time.monotonic() + LIMIT, "nothing"
        while time.monotonic() < limit and self.child.poll() is None:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{admin}/readyz", timeout=5) as answer:
                    code, seen = answer.status, answer.read().decode()
            except urllib.error.HTTPError as error:
                code, seen = error.code, error.read().decode()
            except OSError as error:
                code, seen = 0, str(error)
            if code == status and text in seen:
                return
            time.sleep(0.05)
        raise Broken(f"{self.log.stem} does not answer {status} {text} within {LIMIT} s: {seen}\n{self.log.read_text()[-3000:]}")


def token(cluster: Cluster, pod: dict, audience: str = "") -> str:
    """Of the pod, as the kubelet asks for it."""
    namespace = pod["metadata"]["namespace"]
    code, made = cluster.ask("POST", f"/api/v1/namespaces/{namespace}/pods", pod)
    if code not in (201, 409):
        raise Broken(f"pod {pod['metadata']['name']} can't be made: {made}")
    uid = cluster.ask("GET", cluster.path(pod))[1]["metadata"]["uid"]
    spec = {"boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": pod["metadata"]["name"], "uid": uid},
            **({"audiences": [audience]} if audience else {})}
    account = pod["spec"]["serviceAccountName"]
    code, made = cluster.ask("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token",
                             {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec})
    if code != 201:
        raise Broken(f"there is no token of {account}: {made}")
    return made["status"]["token"]


def kubeconfig(cluster: Cluster, of: str, file: Path) -> None:
    config = json.loads(cluster.kubeconfig.read_text())
    config["users"][0]["user"] = {"token": of}
    config["contexts"][0]["context"]["namespace"] = NAMESPACE
    file.write_text(json.dumps(config))


def pod_of(deployment: dict, name: str) -> dict:
    template = deployment["spec"]["template"]
    return {"apiVersion": "v1", "kind": "Pod", "spec": template["spec"],
            "metadata": {**template["metadata"], "name": name, "namespace": NAMESPACE}}


def replica(binary: Path, cluster: Cluster, pod: dict, config: str, folder: Path) -> Tuple[Process, int, int]:
    """With its ports of the CA API and of health."""
    folder.mkdir()
    (folder / "config.yaml").write_text(config)
    kubeconfig(cluster, token(cluster, pod), folder / "kubeconfig")
    container = pod["spec"]["containers"][0]
    ca, between, admin = free_port(), free_port(), free_port()
    uid = cluster.ask("GET", cluster.path(pod))[1]["metadata"]["uid"]
    env = {**environment(container), "COUNTERSIGN_REPLICA_UID": uid, "COUNTERSIGN_DATA_DIR": str(folder / "data"),
           "COUNTERSIGN_KUBECONFIG": str(folder / "kubeconfig"), "COUNTERSIGN_LISTEN": f"127.0.0.1:{ca}",
           "COUNTERSIGN_ADMIN_LISTEN": f"127.0.0.1:{admin}", "COUNTERSIGN_PAIR_LISTEN": f"127.0.0.1:{between}",
           "COUNTERSIGN_PAIR_ADDRESS": f"127.0.0.1:{between}"}
    if any(mount["mountPath"] == "/var/run/secrets/tokens" for mount in container["volumeMounts"]):
        (folder / "istio-token").write_text(token(cluster, pod, "istio-ca"))
        env["COUNTERSIGN_ISTIOD_TOKEN_FILE"] = str(folder / "istio-token")
    arguments = [part.replace("/etc/countersign/", f"{folder}/") for part in container["args"]]
    return Process(binary, arguments, env, folder / f"{pod['metadata']['name']}.log"), ca, admin


def mounted(cluster: Cluster, pod: dict, volume: str) -> dict:
    """What is in a ConfigMap that a pod mounts, for which the kubelet waits."""
    name = next(part for part in pod["spec"]["volumes"] if part["name"] == volume)["configMap"]["name"]
    limit = time.monotonic() + LIMIT
    while True:
        code, answer = cluster.ask("GET", f"/api/v1/namespaces/{NAMESPACE}/configmaps/{name}")
        if code == 200:
            return answer["data"]
        if time.monotonic() > limit:
            raise Broken(f"ConfigMap {name}, which the test's pod mounts, is not there after {LIMIT} s: {answer}")
        time.sleep(0.05)


def tested(binary: Path, cluster: Cluster, hooks: List[dict], ca: int, folder: Path) -> None:
    """What `helm test` runs: the sidecar until it is ready, then the command whose exit code counts."""
    for item in of_kind(hooks, "ServiceAccount"):
        cluster.apply(item, is_dry=False)
    pod = of_kind(hooks, "Pod")[0]
    folder.mkdir()
    (folder / "istio-token").write_text(token(cluster, pod, "istio-ca"))
    (folder / "root-cert.pem").write_text(mounted(cluster, pod, "roots")["root-cert.pem"])
    admin = free_port()
    places = {"/var/run/secrets/istio/": f"{folder}/", "/var/run/countersign/": f"{folder}/", "0.0.0.0:15020": f"127.0.0.1:{admin}",
              "--ca-address=countersign.countersign.svc:15012": f"--ca-address=127.0.0.1:{ca}"}

    def placed(arguments: List[str]) -> List[str]:
        for old, new in places.items():
            arguments = [part.replace(old, new) for part in arguments]
        return arguments

    agent = placed(pod["spec"]["initContainers"][0]["args"])
    # as the mount has it, and the name that the address had
    agent += [f"--token-file={folder}/istio-token", "--ca-server-name=countersign.countersign.svc"]
    with Process(binary, agent, {}, folder / "agent.log") as running:
        running.wait_until(admin, 200)
        done = subprocess.run([str(binary), *placed(pod["spec"]["containers"][0]["args"])], capture_output=True, text=True,
                              env={}, timeout=20)
        if done.returncode != 0 or "verifies to the bundle" not in done.stdout:
            raise Broken(f"the test's command ended with {done.returncode}: {done.stdout}{done.stderr}")
    cluster.ask("DELETE", f"{cluster.path(pod)}?gracePeriodSeconds=0")
    for item in of_kind(hooks, "ServiceAccount"):
        cluster.ask("DELETE", cluster.path(item))


def runs(binary: Path, cluster: Cluster) -> None:
    """With a root of its own: both replicas are ready, and each has a certificate for the test's pod."""
    values = {"mode": "self-signed", "trustDomain": "gateways.example"}
    signer = "by a root of its own, in trust domain gateways.example"
    with installed_pair(binary, cluster, values, signer, LEASE | STATE) as (replicas, hooks, folder):
        for process, _, admin in replicas:
            process.wait_until(admin, 200)
        for at, (_, ca, _) in enumerate(replicas):
            tested(binary, cluster, hooks, ca, folder / f"test-{at}")
        keep("self-signed", replicas, ["countersign_root_places{", "countersign_policy_services{"])
        roots_of_others(cluster, replicas)
        state_deleted(cluster, replicas)


def roots_of_others(cluster: Cluster, replicas: List[tuple]) -> None:
    """Somebody else keeps other roots where the trust bundle is to be. It is left in peace, and shown."""
    item = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "countersign-root-cert", "namespace": "gateways"}}
    cluster.apply({**item, "data": {"root-cert.pem": "somebody's own"}}, is_dry=False)
    before = pages(replicas)

    def label(value: Optional[str]) -> None:
        labels = {"metadata": {"labels": {"countersign.io/root-cert": value}}}
        cluster.ask("PATCH", "/api/v1/namespaces/gateways", labels, "application/merge-patch+json")

    label("true")
    leave("roots_of_others", before, shown(replicas, r'^countersign_root_places\{.*state="conflict".*\} 1$'))
    label(None)
    shown(replicas, r'^countersign_root_places\{.*state="conflict".*\} 0$')
    cluster.ask("DELETE", cluster.path(item))


def state_deleted(cluster: Cluster, replicas: List[tuple]) -> None:
    """The authority is deleted by hand. It comes back as it was."""
    path = f"/api/v1/namespaces/{NAMESPACE}/secrets"
    saved = cluster.ask("GET", f"{path}/countersign-authority")[1]
    before = pages(replicas)
    cluster.ask("DELETE", f"{path}/countersign-authority")
    leave("state_deleted", before, shown(replicas, r"^countersign_state_altered(?:\{\})? 1$"))
    kept = {name: saved["metadata"][name] for name in ("name", "namespace", "labels", "annotations") if name in saved["metadata"]}
    code, answer = cluster.ask("POST", path, {**saved, "metadata": kept})
    if code != 201:
        raise Broken(f"Secret countersign-authority is not taken back: {code} {answer}")
    for process, _, admin in replicas:
        process.wait_until(admin, 200)


def pages(replicas: List[tuple]) -> Dict[str, str]:
    return {process.log.stem: metrics(admin) for process, _, admin in replicas}


def shown(replicas: List[tuple], text: str) -> Dict[str, str]:
    """What they show once one of them has what a regular expression asks for."""
    limit = time.monotonic() + LIMIT
    while True:
        found = pages(replicas)
        if any(re.search(text, page, re.MULTILINE) for page in found.values()):
            return found
        if time.monotonic() > limit:
            raise Broken(f"no replica shows {text} within {LIMIT} s: {found}")
        time.sleep(0.1)


def waits_for_istiod(binary: Path, cluster: Cluster) -> None:
    """Before istiod: both replicas wait for nothing else, one of them active. Once it is there both are ready, nobody restarted, and
    each has a certificate of it for the test's pod."""
    with tempfile.TemporaryDirectory() as folder, Istiod(cluster, Path(folder)) as istiod:
        values = {"policyObjects": True, "gatewayIdentities": ["spiffe://cluster.local/ns/gateways/sa/edge"],
                  "settings": {"istiodAddresses": [f"127.0.0.1:{istiod.port}"], "istiodServerName": "istiod.istio-system.svc"}}
        with installed_pair(binary, cluster, values, "istiod signs (istio-system)", LEASE) as (replicas, hooks, place):
            for process, _, admin in replicas:
                process.wait_until(admin, 503, "IstioNotDetected")
            limit, active = time.monotonic() + LIMIT, []
            while sorted(active) != ["0", "1"]:
                if time.monotonic() > limit:
                    raise Broken(f"not one replica of two is active after {LIMIT} s, but {active}")
                time.sleep(0.05)
                active = [re.search(r"^countersign_active (\d)$", metrics(admin), re.MULTILINE)[1] for _, _, admin in replicas]
            istiod.start()
            for process, _, admin in replicas:
                process.wait_until(admin, 200)
            for at, (_, ca, _) in enumerate(replicas):
                tested(binary, cluster, hooks, ca, place / f"test-{at}")
            keep("istiod", replicas, ["countersign_policy_objects{", "countersign_policy_services{"])


def metrics(admin: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{admin}/metrics", timeout=5) as answer:
        return answer.read().decode()


def keep(name: str, replicas: List[tuple], families: List[str]) -> None:
    """What the active shows, once it shows all of these."""
    text = "".join(f"(?=.*^{re.escape(family)})" for family in families)
    page = next(page for page in shown(replicas, f"(?s){text}").values() if re.search(f"(?s){text}", page, re.MULTILINE))
    SCRAPES.mkdir(exist_ok=True)
    (SCRAPES / f"{name}.txt").write_text(page)


def leave(name: str, before: Dict[str, str], fault: Dict[str, str]) -> None:
    """What there was before a fault, and under it, for tests/alerts.py. Tests in Rust leave theirs in the same form."""
    FAULTS.mkdir(parents=True, exist_ok=True)
    (FAULTS / f"{name}.json").write_text(json.dumps({"at": time.time(), "before": before, "fault": fault}))


@contextmanager
def installed_pair(binary: Path, cluster: Cluster, values: dict, signer: str, stays: set) -> Iterator[tuple]:
    """The replicas of an installed chart, whose notes name the signer, each with its ports of the CA API and of health, and the chart's
    hooks. It is taken away again, and then there is only what is documented to stay; that goes as well, for the next one."""
    before = objects(cluster)
    where = ["--kubeconfig", str(cluster.kubeconfig), "--namespace", NAMESPACE]
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        notes = must("install", "countersign", str(CHART), *where, *with_values(values, place))
        if signer not in notes or "Next check:\n" not in notes:
            raise Broken(f"the notes of the installation do not say that {signer!r}, and what to do next:\n{notes}")
        manifest = documents(must("get", "manifest", "countersign", *where))
        hooks = documents(must("get", "hooks", "countersign", *where))
        deployment = of_kind(manifest, "Deployment")[0]
        config = of_kind(manifest, "ConfigMap")[0]["data"]["config.yaml"]
        pods = [pod_of(deployment, f"replica-{at}") for at in range(deployment["spec"]["replicas"])]
        replicas = [replica(binary, cluster, pod, config, place / pod["metadata"]["name"]) for pod in pods]
        with ExitStack() as running:
            for process, _, _ in replicas:
                running.enter_context(process)
            yield replicas, hooks, place
        for process, _, _ in replicas:
            missing = re.search(MISSING, process.log.read_text())
            if missing:
                raise Broken(f"a replica misses a right: {missing[0]}")
        for pod in pods:
            cluster.ask("DELETE", f"{cluster.path(pod)}?gracePeriodSeconds=0")
        must("uninstall", "countersign", *where)
    # and what istiod makes by itself, if there is one
    left = {name for name in objects(cluster) - before if "/istio-" not in name}
    if left != stays:
        raise Broken(f"after `helm uninstall` there is {sorted(left - stays)} beside what is documented, and not {sorted(stays - left)}")
    for kind, name in (item.split(f" {NAMESPACE}/") for item in stays):
        version = "coordination.k8s.io/v1" if kind == "Lease" else "v1"
        item = {"apiVersion": version, "kind": kind, "metadata": {"name": name, "namespace": NAMESPACE}}
        cluster.ask("DELETE", cluster.path(item))
