"""kubeconform, by the schemas that the API server itself publishes. It sees the text as it is: keys that stand there twice too."""

import json
import re
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Dict

from run import PEERS, Step, fetch_monitoring_crds, install_go

from .cluster import Cluster
from .helm import Broken, documents

KUBECONFORM = ("github.com/yannh/kubeconform", "v0.8.0")
MONITORING = "monitoring.coreos.com"
GROUPS = ["api/v1"] + [f"apis/{group}/v1" for group in ("apps", "policy", "rbac.authorization.k8s.io", "networking.k8s.io",
                                                         "admissionregistration.k8s.io", MONITORING)]
KINDS = {"ServiceMonitor", "PodMonitor", "PrometheusRule"}
LIMIT = 30  # seconds until they are served
PLACE = "{{ .ResourceKind }}{{ .KindSuffix }}.json"


def provide() -> None:
    """Builds kubeconform, once, and fetches the kinds of the Prometheus operator."""
    step = Step(3, "kubeconform", "20 s, once", 10 * 60, lambda _: None)
    install_go("kubeconform", *KUBECONFORM, "cmd")(step)
    fetch_monitoring_crds(step)


def serve_monitoring(cluster: Cluster) -> None:
    """The real kinds of the Prometheus operator; their schemas are published a moment after they are served."""
    for kind in documents((PEERS / "bin" / "monitoring-crds.yaml").read_text()):
        cluster.apply(kind, is_dry=False)
    limit, path = time.monotonic() + LIMIT, f"apis/{MONITORING}/v1"
    while True:
        code, index = cluster.ask("GET", "/openapi/v3")
        found = cluster.ask("GET", index["paths"][path]["serverRelativeURL"])[1] if code == 200 and path in index["paths"] else {}
        served = {kind["kind"] for schema in found.get("components", {}).get("schemas", {}).values()
                  for kind in schema.get("x-kubernetes-group-version-kind", [])}
        if KINDS <= served:
            return
        if time.monotonic() > limit:
            raise Broken(f"of {MONITORING} there is only {sorted(served)} after {LIMIT} s")
        time.sleep(0.1)


def write_schemas(cluster: Cluster, folder: Path) -> None:
    """Of every kind in those groups, each in a file that needs no other."""
    code, index = cluster.ask("GET", "/openapi/v3")
    if code != 200:
        raise Broken(f"the API server publishes no schemas: {index}")
    for group in GROUPS:
        code, document = cluster.ask("GET", index["paths"][group]["serverRelativeURL"])
        schemas = {name: refusing_others(schema) for name, schema in document["components"]["schemas"].items()}
        for name, schema in schemas.items():
            for kind in schema.get("x-kubernetes-group-version-kind", []):
                if f"{kind['group']}/{kind['version']}".lstrip("/") == group.split("/", 1)[1]:
                    write(folder, kind["kind"], kind["group"], kind["version"],
                          {"$ref": f"#/components/schemas/{name}", "components": {"schemas": schemas}})


def write(folder: Path, kind: str, group: str, version: str, schema: dict) -> None:
    group = f"-{group.split('.')[0]}" if group else ""
    (folder / f"{kind.lower()}{group}-{version}.json").write_text(json.dumps(schema))


def refusing_others(schema: object) -> object:
    """Wherever fields are told, only those. Kinds of others have all of theirs in one schema."""
    if isinstance(schema, list):
        return [refusing_others(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    inside = {name: refusing_others(part) for name, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "additionalProperties" not in schema:
        inside["additionalProperties"] = False
    return inside


def conform(schemas: Path, texts: Dict[str, str]) -> None:
    """Texts by name, by the schemas in that folder, which are read once for all of them."""
    with tempfile.TemporaryDirectory() as folder:
        names = {f"{at}.yaml": name for at, name in enumerate(texts)}
        for file, name in names.items():
            (Path(folder) / file).write_text(texts[name])
        done = subprocess.run([str(PEERS / "bin" / "kubeconform"), "-strict", "-schema-location", f"{schemas}/{PLACE}", folder],
                              capture_output=True, text=True, timeout=60)
    if done.returncode != 0:
        said = done.stdout + done.stderr
        raise Broken("kubeconform: " + re.sub(r"\S*/(\d+\.yaml)", lambda file: names[file[1]], said))
