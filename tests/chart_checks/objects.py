"""What is looked at in rendered objects, without a cluster."""

import json
import os
import re
import subprocess
import tarfile
import tempfile
import time
from functools import lru_cache
from pathlib import Path
from typing import Dict, List, Tuple

from run import ROOT

from .helm import CHART, KUBERNETES, Broken, documents, must, side_by_side, template
from .sets import REFUSED, Set

RIGHTS = {"Role", "ClusterRole", "RoleBinding", "ClusterRoleBinding", "ServiceAccount", "ValidatingAdmissionPolicy",
          "ValidatingAdmissionPolicyBinding"}
# Such functions give another result each time, or look at a cluster that `helm template` has not.
UNSTABLE = r"(?<!\.)\b(lookup|now|date|rand\w+|gen(CA|SelfSignedCert|SignedCert|PrivateKey)\w*|uuidv4|htpasswd|derivePassword|getHostByName|env)\b"
OF_AN_EDITOR = r"\.|.*(\.swp|\.tmp|~)$"  # as .helmignore has it
BAD_USAGE = 64
# What the kubelet would say of a pod.
SOME_POD = {"metadata.uid": "0b0e1c8a-1111-4222-8333-444455556666", "status.podIP": "10.0.0.7"}
ALERTS_PAGE = ROOT / "docs" / "alerts.md"
METRICS_PAGE = ROOT / "docs" / "metrics.md"


def of_kind(items: List[dict], *kinds: str) -> List[dict]:
    return [item for item in items if item["kind"] in kinds]


def key(item: dict) -> str:
    metadata = item["metadata"]
    return f"{item['kind']} {metadata.get('namespace', '')}/{metadata['name']}"


def stable(chart: Path = CHART) -> None:
    must("lint", "--strict", "--kube-version", KUBERNETES, str(chart))
    with tempfile.TemporaryDirectory() as folder:
        must("package", str(chart), "--destination", folder)
        with tarfile.open(next(Path(folder).glob("*.tgz"))) as package:
            packed = {name.removeprefix("countersign/") for name in package.getnames()}
    plain_files = {file.name for file in chart.glob("rbac*.yaml")}
    if plain_files & packed:
        raise Broken(f"the package holds the plain files {plain_files & packed}: .helmignore is to keep them out")
    there = {str(file.relative_to(chart)) for file in chart.rglob("*") if file.is_file() and not re.match(OF_AN_EDITOR, file.name)}
    lacking = there - plain_files - packed
    if lacking:
        raise Broken(f"the package lacks {sorted(lacking)}: .helmignore keeps out too much")
    for file in sorted((chart / "templates").rglob("*")):
        if file.is_file():
            for action in re.findall(r"\{\{(.*?)\}\}", file.read_text(), re.DOTALL):
                code = re.sub(r'/\*.*?\*/|"(\\.|[^"\\])*"', "", action, flags=re.DOTALL)
                found = re.search(UNSTABLE, code)
                if found:
                    raise Broken(f"{file.name} calls {found[0]}, which does not render the same each time")
    version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    for name in ("version", "appVersion"):
        if documents((chart / "Chart.yaml").read_text())[0][name] != version:
            raise Broken(f"{name} of the chart is not {version}, as in Cargo.toml")


def without_secrets(items: List[dict]) -> None:
    for item in items:
        if item["kind"] == "Secret":
            raise Broken(f"{key(item)} is rendered: the chart neither creates nor owns Secrets")
        found = re.search(r"PRIVATE KEY|(?i:password|passphrase)\W|eyJ[\w-]{20}", json.dumps(item))
        if found:
            raise Broken(f"{key(item)} has something secret in it: {found[0]}")


def without_hooks(items: List[dict]) -> None:
    """But those of `helm test`: an Argo CD has other ones, and would run them at another time or never."""
    for item in items:
        hook = item["metadata"].get("annotations", {}).get("helm.sh/hook", "test")
        if hook != "test":
            raise Broken(f"{key(item)} is a hook of {hook}")


def named(value: object, one: Set) -> object:
    """A plain file's object as these values name it."""
    if isinstance(value, dict):
        # the Lease, Secrets and ConfigMaps that rules name are not the chart's to name
        fixed = {"resources", "resourceNames", "verbs", "apiGroups"}
        return {name: instead(part, one) if name in fixed else named(part, one) for name, part in value.items()}
    if isinstance(value, list):
        return [named(part, one) for part in value]
    if isinstance(value, str):
        value = re.sub(r"^(countersign-\S+)\.countersign$", rf"\1.{one.namespace}", value)
        value = re.sub(r"^countersign(?=-|$)", one.full_name, value)
        value = value.replace("serviceaccount:countersign:countersign", f"serviceaccount:{one.namespace}:{one.full_name}")
        value = value.replace("namespace == 'countersign'", f"namespace == '{one.namespace}'")
        return instead(value, one)
    return value


def instead(value: object, one: Set) -> object:
    text = json.dumps(value)
    for old, new in one.instead.items():
        text = text.replace(old, new)
    return json.loads(text)


@lru_cache(maxsize=None)
def plain(name: str) -> str:
    """A plain file of the chart, as JSON."""
    return json.dumps(documents((CHART / f"rbac{'-' if name else ''}{name}.yaml").read_text()))


def plain_rights(one: Set) -> Dict[str, dict]:
    found = {}
    for name in one.rights:
        for item in json.loads(plain(name)):
            item = named(item, one)
            as_account(item, one)
            metadata = item["metadata"]
            for place in [metadata, *item.get("subjects", [])]:
                if place.get("namespace") == one.full_name:
                    place["namespace"] = one.namespace
            found[key(item)] = item
    if not one.values.get("rbac", {}).get("create", True):
        found = {name: item for name, item in found.items() if item["kind"] == "ServiceAccount"}
    if not one.values.get("serviceAccount", {}).get("create", True):
        found = {name: item for name, item in found.items() if item["kind"] != "ServiceAccount"}
    return found


def account_of(one: Set, full_name: str) -> str:
    """The replicas' ServiceAccount."""
    return one.values.get("serviceAccount", {}).get("name") or full_name


def as_account(item: dict, one: Set) -> None:
    """Names the replicas' ServiceAccount as these values do."""
    name = account_of(one, one.full_name)
    subjects = [subject for subject in item.get("subjects", []) if subject["kind"] == "ServiceAccount"]
    for place in subjects + ([item["metadata"]] if item["kind"] == "ServiceAccount" else []):
        place["name"] = name
    for condition in item.get("spec", {}).get("matchConditions", []):
        condition["expression"] = condition["expression"].replace(f":{one.full_name}'", f":{name}'")


def of_their_account(one: Set, items: List[dict]) -> None:
    """The replicas run as the account that has the rights, and agents in front of istiod look for it."""
    name = account_of(one, one.full_name)
    found = {item["spec"]["template"]["spec"]["serviceAccountName"] for item in of_kind(items, "Deployment")}
    found |= set(re.findall(rf"--ca-identity=\S+/ns/{one.namespace}/sa/([^\s\"]+)", json.dumps(items)))
    if found != {name}:
        raise Broken(f"the replicas are {sorted(found)}, and not {name}")


def labelled_as_ours(one: Set, items: List[dict]) -> None:
    """Labels that a parent chart has for everything are on everything, but take none away by which something is found or left alone."""
    common = one.values.get("global", {}).get("commonLabels") or {}
    for item in items:
        labels = item["metadata"].get("labels", {})
        if labels and labels.get("app.kubernetes.io/part-of") != common.get("app.kubernetes.io/part-of", "countersign"):
            raise Broken(f"{item['kind']} {item['metadata']['name']} is labelled {labels}")
    for deployment in of_kind(items, "Deployment"):
        labels, wanted = deployment["spec"]["template"]["metadata"]["labels"], deployment["spec"]["selector"]["matchLabels"]
        wanted = {**wanted, "sidecar.istio.io/inject": "false", **(one.values.get("podLabels") or {})}
        if not wanted.items() <= labels.items():
            raise Broken(f"the replicas' pods are labelled {labels}")


def same_rights(one: Set, items: List[dict]) -> None:
    expected = plain_rights(one)
    rendered = {}
    for item in of_kind(items, *RIGHTS):
        if item["metadata"].get("annotations", {}).get("helm.sh/hook") == "test":
            continue
        item = json.loads(json.dumps(item))
        item["metadata"].pop("labels", None)
        if item["kind"] == "ServiceAccount":
            item["metadata"].pop("annotations", None)
            item.pop("automountServiceAccountToken")
        rendered[key(item)] = item
    if set(rendered) != set(expected):
        raise Broken(f"other objects than in the plain files {one.rights}: too many {sorted(set(rendered) - set(expected))}, "
                     f"missing {sorted(set(expected) - set(rendered))}")
    for name, item in expected.items():
        if rendered[name] != item:
            raise Broken(f"{name} is not as in the plain files:\n  rendered {json.dumps(rendered[name], sort_keys=True)}"
                         f"\n  plain    {json.dumps(item, sort_keys=True)}")


def found_unready(_: Set, items: List[dict]) -> None:
    """Policies and the trust bundle are told also by replicas that can't have anything signed."""
    for item in of_kind(items, "Service"):
        component = item["metadata"]["labels"]["app.kubernetes.io/component"]
        if component in ("bundle", "policy") and not item["spec"].get("publishNotReadyAddresses"):
            raise Broken(f"{key(item)} leads to nobody while nobody can sign")


def has_the_mesh_roots(one: Set, items: List[dict]) -> None:
    """Beside the mesh, from a ConfigMap that need not be there yet, unless the values name another source; and nowhere else."""
    config = documents(of_kind(items, "ConfigMap")[0]["data"]["config.yaml"])[0]
    mesh, given = one.values.get("meshTrustDomain", "cluster.local"), one.values.get("settings", {}).get("federation", [])
    is_beside = config["source"] != "istiod" and not config["meshCa"] and config["trustDomain"] != mesh and one.values.get("federateMesh", True)
    found = config.get("federation", [])
    added = [entry for entry in found if entry not in given]
    if [entry for entry in found if entry in given] != given:
        raise Broken(f"of what the values federate with there is {found}")
    if not is_beside or any(entry["trustDomain"] == mesh for entry in given):
        if added:
            raise Broken(f"nobody asked for {added}")
        return
    if [entry["trustDomain"] for entry in added] != [mesh]:
        raise Broken(f"gateways get no roots of {mesh}: {found}")
    spec = of_kind(items, "Deployment")[0]["spec"]["template"]["spec"]
    folder, name = added[0]["bundleFile"].rsplit("/", 1)
    volumes = [mount["name"] for mount in spec["containers"][0]["volumeMounts"] if mount["mountPath"] == folder]
    maps = [volume.get("configMap") for volume in spec["volumes"] if volume["name"] in volumes]
    wanted = {"name": one.values.get("rootConfigMap", "istio-ca-root-cert"), "optional": True}
    if name != "root-cert.pem" or maps != [wanted]:
        raise Broken(f"{added[0]['bundleFile']} is from {maps}, and not from {wanted}")


def listens_where_told(one: Set, text: str) -> None:
    """Whatever has a port of its own, where an address is given for all."""
    given = one.values.get("listenAddress")
    if given:
        found = set(re.findall(r"(0\.0\.0\.0|\[::\]):(\d+)", text))
        wanted = {(given, port) for port in re.findall(r"containerPort: (\d+)", text)}
        if found != wanted:
            raise Broken(f"it listens at {sorted(found)}, and not at {sorted(wanted)}")


def refused(chart: Path = CHART, rows: List = REFUSED) -> None:
    def of(row: Tuple[dict, str]) -> None:
        values, text = row
        code, _, err = template(values, chart=chart)
        if code == 0:
            raise Broken(f"{json.dumps(values)} is not refused, as it should be with: {text}")
        if text not in err:
            raise Broken(f"{json.dumps(values)} is refused, but not with: {text}\n{err.strip()}")

    side_by_side(of, rows)
    code, _, err = template({"policyObjects": True}, kubernetes="1.29.3", chart=chart)
    if code == 0 or "policyObjects needs Kubernetes 1.30" not in err:
        raise Broken(f"policyObjects is not refused before Kubernetes 1.30: {err}")


def pods(items: List[dict]) -> List[dict]:
    """Each pod that there would be."""
    made = [{"apiVersion": "v1", "kind": "Pod", "spec": item["spec"]["template"]["spec"],
             "metadata": {**item["spec"]["template"]["metadata"], "name": f"{item['metadata']['name'][:50]}-x",
                          "namespace": item["metadata"]["namespace"]}}
            for item in of_kind(items, "Deployment")]
    return made + of_kind(items, "Pod")


def environment(container: dict, told: Dict[str, str] = SOME_POD) -> Dict[str, str]:
    """As the kubelet gives it, with these fields of the pod."""
    found: Dict[str, str] = {}
    for variable in container.get("env", []):
        value = variable.get("value")
        if value is None:
            field = variable["valueFrom"]["fieldRef"]["fieldPath"]
            # no pod has annotations here, and one that is not there is empty
            value = "" if field.startswith("metadata.annotations[") else told[field]
        found[variable["name"]] = re.sub(r"\$\((\w+)\)", lambda name: found[name[1]], value)
    return found


def taken_by_the_program(binary: Path, items: List[dict]) -> None:
    """Configuration and arguments, by the program itself."""
    config = of_kind(items, "ConfigMap")[0]["data"]["config.yaml"]
    for pod in pods(items):
        for container in pod["spec"].get("initContainers", []) + pod["spec"]["containers"]:
            arguments, env = container["args"], environment(container)
            with tempfile.TemporaryDirectory() as folder:
                if arguments[0] == "serve":
                    (Path(folder) / "config.yaml").write_text(config)
                    arguments = [part.replace("/etc/countersign/config.yaml", f"{folder}/config.yaml") for part in arguments]
                    run(binary, ["config", *arguments[1:]], env, {0})
                elif arguments[0] == "inspect":
                    # there is no socket here, which is another thing than bad usage
                    run(binary, arguments, env, {1})
                else:
                    agent_starts(binary, arguments, env, folder)


def run(binary: Path, arguments: List[str], env: Dict[str, str], codes: set) -> None:
    done = subprocess.run([str(binary), *arguments], env=env, capture_output=True, text=True, timeout=20)
    if done.returncode not in codes:
        raise Broken(f"{binary.name} {' '.join(arguments)} ended with {done.returncode}: {done.stderr.strip()}")


def agent_starts(binary: Path, arguments: List[str], env: Dict[str, str], folder: str) -> None:
    """Past its configuration it makes its socket; with a bad one it makes none."""
    path = f"{folder}/s"
    # there is no API server here to follow roots in, and ports are others'
    others = ("--socket=", "--admin-listen=", "--root-config-map=", "--root-file=")
    arguments = [part for part in arguments if not part.startswith(others)]
    arguments += [f"--socket={path}", f"--root-file={folder}/none"]
    child = subprocess.Popen([str(binary), *arguments], env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        limit = time.monotonic() + 20
        while not os.path.exists(path):
            if child.poll() is not None or time.monotonic() > limit:
                child.kill()
                raise Broken(f"{binary.name} {' '.join(arguments)} makes no socket: {child.communicate()[0]}")
            time.sleep(0.02)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()


def alerts_and_queries(rendered: Dict[str, List[dict]], is_all: bool) -> None:
    """Name only what replicas show, and each alert has its place in the docs."""
    shown = families()
    alerts = set()
    for name, items in rendered.items():
        texts = {key(item): json.dumps(item) for item in of_kind(items, "PrometheusRule")}
        texts.update({key(item): item["data"]["countersign.json"] for item in of_kind(items, "ConfigMap")
                      if "countersign.json" in item.get("data", {})})
        for of, text in texts.items():
            unknown = set(re.findall(r"\bcountersign_[a-z_]+", text)) - shown
            if unknown:
                raise Broken(f"{name}: {of} asks for {sorted(unknown)}, which no replica shows")
        # as the Prometheus operator names them
        jobs = {f"{item['metadata']['namespace']}/{item['metadata']['name']}" for item in of_kind(items, "PodMonitor")}
        for item in of_kind(items, "PrometheusRule"):
            for rule in item["spec"]["groups"][0]["rules"]:
                alerts.add(rule["alert"])
                for job in set(re.findall(r'\bjob="([^"]*)"', rule["expr"])) - jobs:
                    raise Broken(f"{name}: {rule['alert']} asks for {job}, which is the job of no PodMonitor")
                url = rule["annotations"].get("runbook_url")
                if url and not url.endswith(f"#{rule['alert'].lower()}"):
                    raise Broken(f"{rule['alert']} leads to {url}")
    described = set(re.findall(r"^## (\w+)$", ALERTS_PAGE.read_text(), re.MULTILINE))
    # some are of other sets of values
    if alerts - described or (is_all and alerts != described):
        raise Broken(f"{ALERTS_PAGE.name} and the alerts differ: {sorted(alerts ^ described)}")
    known = set(json.loads((CHART / "values.schema.json").read_text())["definitions"]["alert"]["enum"])
    if known != described:
        raise Broken(f"the schema and {ALERTS_PAGE.name} differ: {sorted(known ^ described)}")


def alerts_as_told(one: Set, items: List[dict]) -> None:
    """What is said of single alerts holds for these, and for no other."""
    told = one.values.get("metrics", {}).get("prometheusRule", {})
    overrides, labels = told.get("overrides", {}), told.get("additionalRuleLabels", {})
    rules = {rule["alert"]: rule for item in of_kind(items, "PrometheusRule") for rule in item["spec"]["groups"][0]["rules"]}
    if of_kind(items, "PrometheusRule") and not rules:
        raise Broken("there is a PrometheusRule without an alert")
    left = {"warning": 0.33, "critical": 0.15, **(told.get("lifeLeft") or {})}
    for name, share in {"CertificateExpiring": "warning", "OutputExpiring": "warning", "CertificateExpiresNow": "critical"}.items():
        rule = rules.get(f"Countersign{name}")
        if rule and not rule["expr"].endswith(f" < {left[share]}"):
            raise Broken(f"{name} does not go by {left[share]} of a life: {rule['expr']}")
    for name in told.get("disabled", []):
        if name in rules:
            raise Broken(f"{name} is disabled, and there")
    for name, rule in rules.items():
        other = overrides.get(name, {})
        severities = [other["severity"]] if "severity" in other else ["warning", "critical"]
        if rule["for"] != other.get("for", rule["for"]) or rule["labels"] not in [{"severity": severity, **labels} for severity in severities]:
            raise Broken(f"{name} is not as told: {rule}")
    for name in overrides:
        if name not in rules:
            raise Broken(f"{name} is told to be otherwise, and is not there")


def families() -> set:
    """Names of the time series that replicas and agents can have: the page is made from what they are registered by."""
    found = re.findall(r"^\| `(\w+)` \| (\w+)", METRICS_PAGE.read_text(), re.MULTILINE)
    parts = {"histogram": ("_bucket", "_sum", "_count")}
    return {name + part for name, kind in found for part in parts.get(kind, ("",))}


def values_are_in_the_schema() -> None:
    """And nothing else is, so that none is without a default."""
    def compare(values: dict, schema: dict, where: str) -> None:
        properties = schema.get("properties", {})
        if not properties or where == ".settings":
            return
        if set(values) != set(properties):
            raise Broken(f"values.yaml and its schema differ at {where or 'the top'}: {sorted(set(values) ^ set(properties))}")
        if schema.get("additionalProperties", True) is not False and where != ".global":
            raise Broken(f"the schema takes unknown keys at {where or 'the top'}")
        for name, value in values.items():
            if isinstance(value, dict):
                compare(value, properties[name], f"{where}.{name}")

    compare(documents((CHART / "values.yaml").read_text())[0], json.loads((CHART / "values.schema.json").read_text()), "")
