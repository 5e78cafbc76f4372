"""kubeconform, by the schemas that the API server itself publishes. It sees the text as it is: keys that stand there twice too."""

import json
import re
import subprocess
import tempfile
from pathlib import Path
from typing import Dict

from run import PEERS, Step, install_go

from .cluster import Cluster
from .helm import Broken

KUBECONFORM = ("github.com/yannh/kubeconform", "v0.8.0")
GROUPS = ["api/v1"] + [f"apis/{group}/v1" for group in ("apps", "policy", "rbac.authorization.k8s.io", "networking.k8s.io",
                                                         "admissionregistration.k8s.io")]
PLACE = "{{ .ResourceKind }}{{ .KindSuffix }}.json"
STRING = {"type": "string"}
METADATA = {"type": "object", "required": ["name", "namespace"], "additionalProperties": False, "properties": {
    "name": STRING, "namespace": STRING, "labels": {"type": "object", "additionalProperties": STRING}}}
OPTIONAL = {"interval", "scrapeTimeout", "honorLabels", "relabelings", "metricRelabelings", "namespaceSelector"}


def closed(properties: Dict[str, dict]) -> dict:
    """An object with these and no others."""
    return {"type": "object", "properties": properties, "required": [name for name in properties if name not in OPTIONAL],
            "additionalProperties": False}


# The kinds of the Prometheus operator are not served: of its fields those that the chart sets.
SELECTOR = closed({"matchLabels": {"type": "object", "additionalProperties": STRING}})
DURATION = {"type": "string", "pattern": "^([0-9]+(ms|s|m|h))+$"}
RELABELINGS = {"type": "array", "items": closed({"sourceLabels": {"type": "array", "items": STRING}, "targetLabel": STRING})}
ENDPOINTS = {"type": "array", "minItems": 1, "items": closed({
    "port": STRING, "path": STRING, "interval": DURATION, "scrapeTimeout": DURATION, "honorLabels": {"const": True},
    "relabelings": RELABELINGS, "metricRelabelings": RELABELINGS})}
NAMESPACES = {"oneOf": [closed({"any": {"const": True}}), closed({"matchNames": {"type": "array", "minItems": 1, "items": STRING}})]}
RULE = closed({"alert": STRING, "expr": STRING, "for": DURATION, "labels": {"type": "object", "required": ["severity"], "additionalProperties": STRING},
               "annotations": {"type": "object", "required": ["summary"], "additionalProperties": STRING}})
MONITORING = {
    "ServiceMonitor": closed({"selector": SELECTOR, "endpoints": ENDPOINTS}),
    "PodMonitor": closed({"selector": SELECTOR, "namespaceSelector": NAMESPACES, "podMetricsEndpoints": ENDPOINTS}),
    "PrometheusRule": closed({"groups": {"type": "array", "minItems": 1, "items": closed({
        "name": STRING, "rules": {"type": "array", "minItems": 1, "items": RULE}})}}),
}


def provide() -> None:
    """Builds kubeconform, once."""
    install_go("kubeconform", *KUBECONFORM, "cmd")(Step(3, "kubeconform", "20 s, once", 10 * 60, lambda _: None))


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
    for kind, spec in MONITORING.items():
        schema = closed({"apiVersion": STRING, "kind": STRING, "metadata": METADATA, "spec": spec})
        write(folder, kind, "monitoring.coreos.com", "v1", schema)


def write(folder: Path, kind: str, group: str, version: str, schema: dict) -> None:
    group = f"-{group.split('.')[0]}" if group else ""
    (folder / f"{kind.lower()}{group}-{version}.json").write_text(json.dumps(schema))


def refusing_others(schema: dict) -> dict:
    if "properties" in schema and "additionalProperties" not in schema:
        return {**schema, "additionalProperties": False}
    return schema


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
