"""What a pair, a replica in front of istiod, and an agent show: scraped from processes on this machine, and asked by promtool for what the
chart asks for. The labels that Prometheus adds are added."""

import json
import os
import re
import subprocess
import tempfile
import time
import urllib.request
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Set

from run import RELEASE

from .cluster import free_port
from .helm import CHART, Broken
from .objects import METRICS_PAGE
from .pair import LIMIT, NAMESPACE, SCRAPES, Process, metrics

BINARY = Path(os.environ.get("COUNTERSIGN_TEST_BINARY") or RELEASE)
DASHBOARD = CHART / "dashboards" / "countersign.json"
# Of promtool's time: a sample each quarter of a minute, and what is asked for after two.
INTERVAL, ASKED_AT, RATED = "15s", "2m", "1m"


@dataclass
class Scrapes:
    """Of each series what it shows first and last."""

    series: Dict[str, List[str]] = field(default_factory=dict)

    def add(self, pod: str, page: str) -> None:
        for sample in samples(page):
            name, labels, value = sample
            where = ",".join(filter(None, [labels, f'namespace="{NAMESPACE}"', f'pod="{pod}"']))
            self.series.setdefault(f"{name}{{{where}}}", []).append(value)

    def names(self) -> Set[str]:
        return {series.split("{")[0] for series in self.series}

    def input_series(self) -> List[dict]:
        # promtool's `x` repeats: what was there first, and then for as long as is looked at what was there last
        return [{"series": series, "values": f"{values[0]} {values[-1]} {values[-1]}x20"} for series, values in self.series.items()]


def samples(page: str) -> List[tuple]:
    if not page.endswith("# EOF\n"):
        raise Broken(f"a page of metrics does not end as OpenMetrics has it: {page[-200:]!r}")
    found = []
    for line in page.splitlines():
        if not line.startswith("#"):
            parts = re.fullmatch(r'(\w+)(?:\{(.*)\})? (\S+)', line)
            if not parts:
                raise Broken(f"this is no sample: {line!r}")
            found.append((parts[1], parts[2] or "", parts[3]))
    return found


def until(what: str, found: Callable[[], str]) -> None:
    """Until nothing is wrong any more; says what was last."""
    limit = time.monotonic() + LIMIT
    while True:
        wrong = found()
        if not wrong:
            return
        if time.monotonic() > limit:
            raise Broken(f"{what}, not within {LIMIT} s: {wrong}")
        time.sleep(0.1)


class World:
    """A pair of gateways.example that federates with other.example, one in front of the pair as if that were istiod, and an agent."""

    def __init__(self, folder: Path, running: ExitStack) -> None:
        self.folder, self.running = folder, running
        self.admins: Dict[str, int] = {}
        self.ports: Dict[str, int] = {}
        data = folder / "data"
        first = self.replica("replica-0", data, "gateways.example")
        first.wait_until(self.admins["replica-0"], 200)
        self.replica("replica-1", data, "gateways.example").wait_until(self.admins["replica-1"], 200, "standby")
        other, endpoint = folder / "other", free_port()
        there = self.replica("other", other, "other.example", f"--bundle-endpoint=127.0.0.1:{endpoint}")
        there.wait_until(self.admins.pop("other"), 200)
        self.command("federation", "create", "other.example", "--url", f"https://127.0.0.1:{endpoint}/", "--endpoint-id",
                     "spiffe://other.example/countersign/serving", "--bundle", str(other / "root-cert.pem"), "--data-dir", str(data))
        token = folder / "token"
        token.write_text(self.command("token", "default/gateway", "--lifetime", "10m", "--data-dir", str(data)))
        token.chmod(0o600)
        asked = f"127.0.0.1:{self.ports['replica-1']}"
        root = str(data / "root-cert.pem")
        before = self.process("before-istiod", "serve", "--source=istiod", f"--listen=127.0.0.1:{self.port('before-istiod')}",
                              "--trust-domain=gateways.example", f"--istiod-address={asked}", f"--istiod-root-file={root}",
                              f"--istiod-token-file={token}")
        agent = self.process("agent", "agent", f"--ca-address={asked}", f"--token-file={token}", f"--root-file={root}",
                             f"--socket={folder / 'agent.sock'}", "--trust-domain=gateways.example")
        before.wait_until(self.admins["before-istiod"], 200)
        agent.wait_until(self.admins["agent"], 200)

    def port(self, name: str) -> int:
        self.ports[name] = free_port()
        return self.ports[name]

    def replica(self, name: str, data: Path, trust_domain: str, *more: str) -> Process:
        return self.process(name, "serve", f"--data-dir={data}", f"--trust-domain={trust_domain}",
                            f"--listen=127.0.0.1:{self.port(name)}", *more)

    def process(self, name: str, *arguments: str) -> Process:
        self.admins[name] = free_port()
        started = Process(BINARY, [*arguments, f"--admin-listen=127.0.0.1:{self.admins[name]}"], {}, self.folder / f"{name}.log")
        return self.running.enter_context(started)

    def command(self, *arguments: str) -> str:
        done = subprocess.run([str(BINARY), *arguments], capture_output=True, text=True, env={}, timeout=20, cwd=self.folder)
        if done.returncode != 0:
            raise Broken(f"countersign {arguments[0]} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def pages(self) -> Dict[str, str]:
        return {name: metrics(admin) for name, admin in self.admins.items()}


def scraped() -> Scrapes:
    scrapes = Scrapes()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as running:
        world = World(Path(folder), running)
        wanted = {"replica-0": ['federated_bundle_sequence{trust_domain="other.example"}', "federated_bundle_fetched_timestamp_seconds{",
                                'trust_followers{state="behind"} 0'],
                  "replica-1": ["trust_acknowledged_sequence{} ", 'federated_bundle_sequence{trust_domain="other.example"}'],
                  "agent": ["trust_bundle_sequence{} ", 'federated_bundle_sequence{trust_domain="other.example"}']}

        def missing() -> str:
            pages = world.pages()
            return ", ".join(f"{text} of {name}" for name, texts in wanted.items() for text in texts if text not in pages[name])

        until("everybody shows the trust that is published", missing)
        for _ in range(2):
            for name, page in world.pages().items():
                scrapes.add(name, page)
        vanishes(world)
    for kept in sorted(SCRAPES.glob("*.txt")):
        # one of another list of families says nothing
        if kept.stat().st_mtime > METRICS_PAGE.stat().st_mtime:
            scrapes.add(kept.stem, kept.read_text())
    return scrapes


def vanishes(world: World) -> None:
    """What is over is not shown any more."""
    pages = world.pages()
    authority = 'certificate_expiry_timestamp_seconds{certificate="authority"}'
    if authority not in pages["replica-0"] or authority in pages["replica-1"]:
        raise Broken("the active alone shows when its authority ends")
    if 'certificate="root"' not in pages["replica-1"] or 'certificate="root"' not in pages["before-istiod"]:
        raise Broken("every replica shows when the first root ends")
    world.command("federation", "delete", "other.example", "--data-dir", str(world.folder / "data"))
    until("what was federated with is shown no more",
          lambda: ", ".join(name for name, page in world.pages().items() if "other.example" in page))


def told_of() -> Dict[str, Dict[str, Set[str]]]:
    """Families of docs/metrics.md with their labels, each with its values, or none where it may be any text."""
    told = {}
    for name, labels in re.findall(r"^\| `(\w+)` \| \w+ \| (.*?) \| ", METRICS_PAGE.read_text(), re.MULTILINE):
        parts = [part.split(": ", 1) for part in labels.split("; ") if part]
        told[name] = {label.strip("`"): set(re.findall(r"`([^`]+)`", values)) if values.startswith("`") else set()
                      for label, values in parts}
    return told


def is_as_told(scrapes: Scrapes) -> None:
    """Names and labels of what was scraped."""
    told = told_of()
    for series in scrapes.series:
        name, labels = series.rstrip("}").split("{")
        # of a histogram there are several
        name = re.sub(r"_seconds_(bucket|sum|count)$", "_seconds", name)
        if name not in told:
            raise Broken(f"docs/metrics.md does not tell of {name}")
        for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
            values = told[name].get(label)
            if label in ("namespace", "pod", "le") or values == set():
                continue
            if values is None or value not in values:
                raise Broken(f"docs/metrics.md does not tell of {label}={value!r} of {name}")


def has_beginnings(scrapes: Scrapes) -> None:
    """Whatever docs/metrics.md tells the beginning of has it beside its end: of others no share of a life can be told, nor an alert fire."""
    told = told_of()
    for series in scrapes.series:
        beginning = series.replace("_expiry_timestamp_seconds{", "_not_before_timestamp_seconds{")
        name, labels = beginning.split("{")
        certificate = re.search(r'certificate="(\w+)"', labels)
        is_told = name in told and (certificate is None or certificate[1] in told[name]["certificate"])
        if is_told and beginning not in scrapes.series:
            raise Broken(f"{series} is there, and {beginning} is not")


def names_in(query: str) -> Set[str]:
    return set(re.findall(r"\b(?:countersign|citadel)_\w+", query))


def answers(scrapes: Scrapes, alerts: Dict[str, str], under_faults: Set[str], promtool: Callable[..., str]) -> str:
    """Each query of the dashboard has an answer, and what each alert compares is there, some of it under a fault alone. Says how many
    were asked."""
    is_known = scrapes.names() | under_faults
    for what, query in [*alerts.items(), ("the dashboard", DASHBOARD.read_text())]:
        missing = names_in(query) - is_known
        if missing:
            raise Broken(f"{what} asks for {sorted(missing)}, which nobody shows (those of a cluster are left by python3 tests/chart.py)")
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    tests = []
    for _, query in queries:
        asked = query.replace("$namespace", NAMESPACE).replace("$__rate_interval", RATED)
        # whatever the values are: that there is one
        tests.append({"expr": f"count({asked}) > bool 0", "eval_time": ASKED_AT, "exp_samples": [{"labels": "{}", "value": 1}]})
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "dashboard.json"
        file.write_text(json.dumps({"evaluation_interval": INTERVAL, "tests": [
            {"interval": INTERVAL, "input_series": scrapes.input_series(), "promql_expr_test": tests}]}))
        promtool("test", "rules", str(file))
    return f"{len(queries)} queries of the dashboard"
