"""What processes showed before and under a fault, replayed for promtool: a minute of its time for each time that they were looked at.

A second there may stand for more than one here: certificates of seconds then have their shares of minutes, and whatever is tried again each
second is each minute. Absolute times and spans of time are stretched alike. What was seen last stays, for as long as is looked at.
"""

import json
from dataclasses import dataclass, field
from typing import Dict, List, Set, Tuple

from .helm import Broken
from .objects import METRICS_PAGE
from .pair import FAULTS, NAMESPACE
from .scrapes import samples

MINUTE = 60
# Of a page that was there before the fault: how many minutes it is shown.
BEFORE = 3
SPANS = ("countersign_federated_bundle_interval_seconds", "countersign_clock_skew_seconds")


@dataclass
class Recording:
    """Each round has when it was and the pages by pod; from round `fault` on something is wrong."""

    rounds: List[Tuple[float, Dict[str, str]]] = field(default_factory=list)
    fault: int = 0
    stretch: int = 1

    def series(self, minutes: int) -> List[dict]:
        """As promtool has them, up to then."""
        begin = self.rounds[self.fault][0]
        values: Dict[str, List[str]] = {}
        for at, (_, pages) in enumerate(self.rounds):
            for pod, page in pages.items():
                for name, labels, value in samples(page):
                    where = ",".join(part for part in (labels, f'namespace="{NAMESPACE}"', f'pod="{pod}"') if part)
                    one = values.setdefault(f"{name}{{{where}}}", ["_"] * at)
                    # one that was away for a while
                    one += ["_"] * (at - len(one)) + [self._stretched(name, value, begin)]
        count = len(self.rounds)
        return [{"series": name, "values": " ".join(one) + (f" {one[-1]}x{minutes}" if len(one) == count else " stale")}
                for name, one in values.items()]

    def names(self) -> Set[str]:
        return {name for _, pages in self.rounds for page in pages.values() for name, _, _ in samples(page)}

    def _stretched(self, name: str, value: str, begin: float) -> str:
        if name.endswith("_timestamp_seconds"):
            return str((float(value) - begin) * self.stretch + self.fault * MINUTE)
        return str(float(value) * self.stretch) if name in SPANS else value


def held(before: List[Tuple[float, Dict[str, str]]], fault: Tuple[float, Dict[str, str]]) -> Recording:
    """Of what stays as it is seen under the fault."""
    rounds = [one for one in before for _ in range(BEFORE)]
    return Recording([*rounds, fault], len(rounds))


def left() -> Dict[str, Recording]:
    """By name; those of another list of families say nothing."""
    files = [file for file in sorted(FAULTS.glob("*.json")) if file.stat().st_mtime > METRICS_PAGE.stat().st_mtime]
    found = {file.stem: json.loads(file.read_text()) for file in files}
    return {name: held([(one["at"], one["before"])], (one["at"], one["fault"])) for name, one in found.items()}


def replay(alert: str, recording: Recording, after: int, labels: str = "") -> dict:
    """A test of promtool: nothing before the fault, and the alert, with these labels, that many minutes after it."""
    wanted = ",".join(filter(None, [f'alertname="{alert}"', 'alertstate="firing"', labels]))
    firing = f"(count(ALERTS{{{wanted}}}) or vector(0)) > bool 0"
    if not recording.fault:
        raise Broken(f"{alert}: nothing was seen before the fault")
    expected = [(recording.fault - 1, 0), (recording.fault + after, 1)]
    return {"name": alert, "interval": "1m", "input_series": recording.series(recording.fault + after),
            "promql_expr_test": [{"expr": firing, "eval_time": f"{minute}m", "exp_samples": [{"labels": "{}", "value": value}]}
                                 for minute, value in expected]}
