"""What in schema and docs is made from other files: kept as it is by a check, made anew by `tests/chart.py --write`."""

import json
import re
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List, Optional

from run import ROOT

from .helm import CHART, KUBERNETES, Broken, documents, must, with_values

PARENT = Path(__file__).parent / "parent"
SCHEMA = CHART / "values.schema.json"
FLAGS = CHART / "templates" / "_flags.tpl"
DEFAULTS = CHART / "templates" / "_defaults.tpl"
VALUES = CHART / "values.yaml"
CHART_PAGE = ROOT / "docs" / "chart.md"
README = CHART / "README.md"
GATEWAYS_PAGE = ROOT / "docs" / "gateways.md"
CONFIGURATION_PAGE = ROOT / "docs" / "configuration.md"
GATEWAYS = ["plain-envoy", "istio", "traefik", "kgateway"]

# Settings of `serve` that follow from values of their own, and those that are of the pod.
OF_THE_CHART = {
    "state", "source", "trustDomain", "meshTrustDomain", "meshCa", "istioNamespace", "rootConfigMap",
    "clusterTrustBundle", "jwtSvids", "policy", "policyObjects", "gatewayIdentities", "standaloneGatewayIdentities", "gatewaySecrets",
    "caDir", "dataDir", "listen", "adminListen", "pairListen", "pairAddress", "pairService", "replicaUid", "namespace", "kubeconfig", "workloadSocket",
    "workload", "istiodRootFile", "istiodTokenFile", "bundleEndpoint", "bundleEndpointCert", "bundleEndpointKey",
}
# Settings by which the chart knows what else there must be: a flag would go by it.
LOOKED_AT = {"dnsNames", "drain", "istiodAddresses", "istiodRootClusterTrustBundle"}
TEXT = {"type": "string", "minLength": 1}
# What is known of a setting by the kind of its value; the rest is any text.
KINDS = {
    "BOOL": {"type": "boolean"},
    "NUMBER": {"type": "integer"},
    "DURATION": {**TEXT, "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?$"},
    "HOST:PORT": {**TEXT, "pattern": r"^([^:\[\]/]+|\[[0-9A-Fa-f:.]+\]):[1-9][0-9]{0,4}$"},
}


def section(begin: str, end: str) -> str:
    page = CONFIGURATION_PAGE.read_text()
    return page[page.index(begin):page.index(end)]


def settings_of_serve() -> Dict[str, dict]:
    """Each with its schema, as docs/configuration.md has them, which is made from the command line."""
    rows = section("\n## serve\n", "\n### Token issuers\n")
    found = {}
    for kind, name, meaning in re.findall(r"^\| `--[a-z0-9-]+ ([^`]+)` \| `(\w+)` \| `\w+` \| (.*) \|$", rows, re.MULTILINE):
        one = {"enum": re.search(r": (\w+ or \w+)\.", meaning)[1].split(" or ")} if kind == "FORMAT" else KINDS.get(kind, TEXT)
        found[name] = {"type": "array", "items": one, "minItems": 1} if "Repeatable" in meaning else one
    if not OF_THE_CHART <= set(found):
        raise Broken(f"{CONFIGURATION_PAGE.name} has no {OF_THE_CHART - set(found)}, which the chart sets")
    # what is only in the file has an example each
    examples = section("\n### Token issuers\n", "\n## agent\n")
    for example in re.findall(r"^```yaml\n(.*?)^```$", examples, re.MULTILINE | re.DOTALL):
        for name in re.findall(r"^(\w+):$", example, re.MULTILINE):
            found[name] = {"type": "array", "items": {"type": "object"}}
    if "tokenIssuers" not in found:
        raise Broken(f"{CONFIGURATION_PAGE.name} has no example of tokenIssuers")
    return {name: schema for name, schema in sorted(found.items()) if name not in OF_THE_CHART}


def flags() -> str:
    """Of each flag of `serve` its setting; nothing if that is not for a flag."""
    found = re.findall(r"^\| `(--[a-z0-9-]+) [^`]+` \| `(\w+)` \|", section("\n## serve\n", "\n### Token issuers\n"), re.MULTILINE)
    settings = {"--config": "", **{flag: "" if name in OF_THE_CHART | LOOKED_AT else name for flag, name in sorted(found)}}
    rows = [f"{flag}: {json.dumps(name)}" for flag, name in settings.items()]
    return ("{{/* Flags of `countersign serve`, each with its setting; none if the chart sets it or goes by it. Made by `tests/chart.py --write`. */}}\n"
            '{{- define "countersign.flags" -}}\n' + "\n".join(rows) + "\n{{- end -}}\n")


def defaults() -> str:
    """Of each value what it is if it is not there. Not of a map that is the user's as a whole: to have none of it he sets it to null."""
    def of(values: dict, properties: dict) -> dict:
        found = {}
        for name, value in values.items():
            within = properties[name].get("properties")
            if value and isinstance(value, dict):
                if within:
                    found[name] = of(value, within)
            else:
                found[name] = value
        return found

    kept = of(documents(VALUES.read_text())[0], json.loads(SCHEMA.read_text())["properties"])
    return ("{{/* Of each value what values.yaml has, but for maps that are the user's as a whole. Made by `tests/chart.py --write`. */}}\n"
            '{{- define "countersign.defaults" -}}\n' + json.dumps(kept, indent=2) + "\n{{- end -}}\n")


def schema() -> str:
    whole = json.loads(SCHEMA.read_text())
    whole["properties"]["settings"]["properties"] = settings_of_serve()
    return json.dumps(whole, indent=2) + "\n"


def described_values() -> List[dict]:
    """Name, default and meaning of each value, as values.yaml has them."""
    defaults = documents(VALUES.read_text())[0]
    rows, above, comment = [], [], []
    for line in VALUES.read_text().splitlines():
        key = re.match(r"^( *)([A-Za-z]+):", line)
        if line.lstrip().startswith("#"):
            comment.append(line.strip().lstrip("#").strip())
        elif key and (comment or line.rstrip().endswith(":")):
            above = above[:len(key[1]) // 2] + [key[2]]
            if comment:
                default = defaults
                for part in above:
                    default = default[part]
                rows.append({"name": ".".join(above), "default": json.dumps(default), "meaning": " ".join(comment)})
            comment = []
        else:
            comment = []
    undescribed = leaves(defaults, "") - {row["name"] for row in rows}
    # what is within a value that is described as a whole is described by it
    undescribed = {name for name in undescribed if not any(name.startswith(row["name"] + ".") for row in rows)}
    if undescribed:
        raise Broken(f"values.yaml does not say what {', '.join(sorted(undescribed))} is: put a comment above it")
    return rows


def leaves(values: dict, prefix: str) -> set:
    found = set()
    for name, value in values.items():
        if isinstance(value, dict) and value:
            found |= leaves(value, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def values_table() -> str:
    lines = ["| value | default | meaning |", "|---|---|---|"]
    escaped = lambda text: text.replace("|", "\\|")
    lines += [f"| `{row['name']}` | `{escaped(row['default'])}` | {escaped(row['meaning'])} |" for row in described_values()]
    return "\n".join(lines)


def parent(chart: Path, folder: Path) -> Path:
    """The parent chart with this one in it."""
    target = folder / "platform"
    shutil.copytree(PARENT, target)
    shutil.copytree(chart, target / "charts" / "countersign")
    return target


def of_parent(name: str, chart: Path = CHART, values: Optional[dict] = None) -> str:
    """What a template of the parent chart renders, with these values of this one."""
    with tempfile.TemporaryDirectory() as folder:
        text = must("template", "countersign", str(parent(chart, Path(folder))), "--namespace", "countersign", "--kube-version", KUBERNETES,
                    "--show-only", f"templates/{name}.yaml", *with_values({"countersign": values or {}}, Path(folder)))
    return re.sub(r"^# Source: .*\n", "", text, flags=re.MULTILINE).strip().removeprefix("---\n")


def with_parts(page: Path, parts: Dict[str, str]) -> str:
    text = page.read_text()
    for name, part in parts.items():
        begin, end = f"<!-- {name}: begin -->\n", f"<!-- {name}: end -->"
        if text.count(begin) != 1 or text.count(end) != 1:
            raise Broken(f"{page.name} has no place for {name}")
        text = text[:text.index(begin) + len(begin)] + part + "\n" + text[text.index(end):]
    return text


def made() -> Dict[Path, str]:
    gateways = {name: f"```yaml\n{of_parent(name)}\n```" for name in GATEWAYS}
    return {
        SCHEMA: schema(),
        FLAGS: flags(),
        DEFAULTS: defaults(),
        CHART_PAGE: with_parts(CHART_PAGE, {"values": values_table()}),
        README: with_parts(README, {"values": values_table()}),
        GATEWAYS_PAGE: with_parts(GATEWAYS_PAGE, gateways),
    }


def write() -> None:
    # by which the rest is rendered
    SCHEMA.write_text(schema())
    FLAGS.write_text(flags())
    DEFAULTS.write_text(defaults())
    for path, text in made().items():
        path.write_text(text)


def check() -> None:
    for path, text in made().items():
        if path.read_text() != text:
            raise Broken(f"{path.relative_to(ROOT)} is not what its sources make: run python3 tests/chart.py --write")
