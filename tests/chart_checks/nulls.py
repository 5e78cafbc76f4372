"""Values that are null, as a parent chart may set them to have none of what this one brings: they are not given."""

import json
from pathlib import Path
from typing import Callable, List

from .documents import VALUES
from .helm import CHART, Broken, documents, render

# So that there is something in each template.
BASE = {"metrics": {"serviceMonitor": {"enabled": True}, "agents": {"podMonitor": {"enabled": True}},
                    "prometheusRule": {"enabled": True}, "grafanaDashboard": {"enabled": True}}}
FIRST = '{{- include "countersign.defaulted" . -}}'


def each(values: dict, base: dict) -> dict:
    """None for each value, but what is given."""
    return {name: each(value, base.get(name, {})) if isinstance(value, dict) and value else base.get(name) for name, value in values.items()}


def sections(values: dict, base: dict) -> dict:
    """None for each value of the uppermost row, all at once with what is in it."""
    return {name: base.get(name) for name in values}


def mean_not_given(chart: Path = CHART) -> None:
    # helm renders them in an order of its own, and what one of them sets the others see
    for file in sorted((chart / "templates").rglob("*")):
        if file.suffix in (".yaml", ".txt") and not file.read_text().startswith(FIRST):
            raise Broken(f"{file.name} does not begin with {FIRST}")
    defaults = documents(VALUES.read_text())[0]
    told: List[Callable[[dict, dict], dict]] = [each, sections]
    for nulls in told:
        for base in ({}, BASE):
            found, expected = (without_own_maps(documents(render(values, chart=chart))) for values in (nulls(defaults, base), base))
            for one, other in zip(found, expected):
                if one != other:
                    raise Broken(f"with null for {nulls.__name__} value {one['kind']} {one['metadata']['name']} is {json.dumps(one)}, "
                                 f"not as it comes: {json.dumps(other)}")
            if len(found) != len(expected):
                raise Broken(f"with null for {nulls.__name__} value there are {len(found)} objects, not {len(expected)}")


def without_own_maps(items: List[dict]) -> List[dict]:
    """Of these there is nothing with null: that is how a user has none of what stands in values.yaml."""
    for item in items:
        pod = item["spec"].get("template", item)["spec"] if item["kind"] in ("Deployment", "Pod") else {}
        pod.pop("nodeSelector", None)
        if item["kind"] == "Deployment":
            for container in pod["containers"]:
                container.pop("resources", None)
        item["metadata"]["labels"].pop("grafana_dashboard", None)
    return items
