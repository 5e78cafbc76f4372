"""helm, as the checks use it. YAML is read by helm too, so that Python needs no package."""

import base64
import json
import os
import re
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Callable, Dict, Iterable, List, Optional, Tuple, TypeVar

from run import PEERS, ROOT, Step, install_go

HELM = ("helm.sh/helm/v3", "v3.22.0")
BINARY = PEERS / "bin" / "helm"
CHART = ROOT / "charts" / "countersign"
KUBERNETES = "1.34.4"
LIMIT = 60  # seconds for a command
T = TypeVar("T")

# Reads the documents of a file and gives each as JSON.
READER = {
    "Chart.yaml": "apiVersion: v2\nname: reader\nversion: 0.0.0\n",
    "templates/all.yaml": """\
apiVersion: v1
kind: ConfigMap
metadata: {name: all}
data:
{{- range $at, $document := splitList "\\n---\\n" (printf "\\n%s\\n" (.Files.Get "in.yaml")) }}
  document-{{ $at }}: {{ $document | fromYaml | toJson | b64enc }}
{{- end }}
""",
}


class Broken(Exception):
    """A check found what must not be; the text says what and where."""


def provide() -> None:
    """Builds helm, once."""
    install_go("helm", *HELM, "cmd")(Step(3, "helm", "2 min, once", 30 * 60, lambda _: None))


def call(*arguments: str, env: Optional[Dict[str, str]] = None) -> Tuple[int, str, str]:
    # nothing of the user's own helm counts
    with tempfile.TemporaryDirectory() as home:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HELM_", "KUBE"))}
        own = {"HELM_CACHE_HOME": home, "HELM_CONFIG_HOME": home, "HELM_DATA_HOME": home}
        done = subprocess.run([str(BINARY), *arguments], capture_output=True, text=True, timeout=LIMIT,
                              env={**kept, **own, **(env or {})})
    return done.returncode, done.stdout, done.stderr


def must(*arguments: str, env: Optional[Dict[str, str]] = None) -> str:
    code, out, err = call(*arguments, env=env)
    if code != 0:
        raise Broken(f"helm {' '.join(arguments)} ended with {code}: {err.strip()}")
    return out


def side_by_side(work: Callable[[T], None], on: Iterable[T]) -> None:
    """On a few at a time. The first that is broken counts."""
    with ThreadPoolExecutor(4) as pool:
        for _ in pool.map(work, on):
            pass


def with_values(values: dict, folder: Path) -> List[str]:
    file = folder / "values.json"
    file.write_text(json.dumps(values))
    return ["--values", str(file)]


def template(values: dict, release: str = "countersign", namespace: str = "countersign", chart: Path = CHART,
             kubernetes: str = KUBERNETES) -> Tuple[int, str, str]:
    with tempfile.TemporaryDirectory() as folder:
        return call("template", release, str(chart), "--namespace", namespace, "--kube-version", kubernetes,
                    *with_values(values, Path(folder)))


def render(values: dict, release: str = "countersign", namespace: str = "countersign", chart: Path = CHART) -> str:
    code, out, err = template(values, release, namespace, chart)
    if code != 0:
        raise Broken(f"{values} is not rendered: {err.strip()}")
    return out


def documents(text: str) -> List[dict]:
    """The objects in YAML; an empty document is none."""
    with tempfile.TemporaryDirectory() as folder:
        for name, content in {**READER, "in.yaml": text}.items():
            (Path(folder) / name).parent.mkdir(exist_ok=True)
            (Path(folder) / name).write_text(content)
        out = must("template", "reader", folder)
    found = [json.loads(base64.b64decode(text)) for text in re.findall(r"^  document-\d+: (\S+)$", out, re.MULTILINE)]
    for document in found:
        if set(document) == {"Error"}:
            raise Broken(f"not YAML: {document['Error']}")
    return [document for document in found if document]


def copy_chart(target: Path) -> None:
    shutil.copytree(CHART, target)
