"""The versions that docs/compatibility.md calls tested are those that the tests have, and what the pages for those who come from elsewhere
name of ours is there."""

import re
from pathlib import Path
from typing import Dict, Set

from chart_checks import helm
from chart_checks.helm import Broken
from run import ENVOY, ENVOY_GATEWAY, GATEWAY_API, GO_DRIVERS, ISTIO_VERSION, KUBERNETES, ROOT

TESTED, UNTESTED = "tested", "untested"


def tested() -> Dict[str, str]:
    """By the names of the page."""
    go_spiffe = re.search(r"spiffe/go-spiffe/v2 v(\S+)", (GO_DRIVERS / "spiffe-client" / "go.mod").read_text())
    date, commit = ISTIO_VERSION.split("-")[1:]
    return {
        "Istio": f"main of {date[:4]}-{date[4:6]}-{date[6:8]} ({commit})",
        "Kubernetes": ".".join(map(str, KUBERNETES)),
        "Gateway API": GATEWAY_API[1].lstrip("v"),
        "Envoy Gateway": ENVOY_GATEWAY[1].lstrip("v"),
        "Envoy": ENVOY.split("==")[1],
        "helm": helm.HELM[1].lstrip("v"),
        "go-spiffe": go_spiffe[1] if go_spiffe else "",
    }


def check(page: Path) -> int:
    """How many there are. A row is `| peer | versions | tested or untested | … |`."""
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \| (tested|untested)[ ,|]", page.read_text(), re.MULTILINE)
    claimed = [(peer, version) for peer, version, how in rows if how == TESTED]
    missing, wrong = set(tested().items()) - set(claimed), set(claimed) - set(tested().items())
    if missing or wrong or len(claimed) != len(set(claimed)):
        raise Broken(f"{page.name} calls {sorted(wrong)} tested and lacks {sorted(missing)}")
    for peer in tested():
        if (peer, UNTESTED) not in {(one, how) for one, _, how in rows}:
            raise Broken(f"{page.name} doesn't say that other versions of {peer} are untested")
    return len(claimed)


def migrations(flags: Set[str], values: Set[str]) -> int:
    """The second column of each table of settings names ours: flags as `--flag`, values of the chart bare."""
    counted = 0
    for page in sorted(ROOT.glob("docs/coming-from-*.md")):
        for row in re.findall(r"^\| `[^|]+\| ([^|]+) \|", page.read_text(), re.MULTILINE):
            for name in re.findall(r"`(--[a-z0-9-]+|[a-z][A-Za-z0-9.]+)(?:: [^`]*)?`", row):
                if name not in (flags if name.startswith("--") else values):
                    raise Broken(f"{page.name}: there is no {name}: {row}")
                counted += 1
    if not counted:
        raise Broken("the pages for those who come from elsewhere name no setting")
    return counted
