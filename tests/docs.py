#!/usr/bin/env python3
"""Runs every command of README.md, of docs and of the chart's README, verbatim, in a clean folder, those of kubectl and helm in a cluster
of a real API server and the real istiod, where pods are processes. What can't be run is checked as far as that goes: ours by the program's
own parser, helm's by the chart and its schema, the others by the files and objects that they name; and it is said, with the reason.

COUNTERSIGN_TEST_BINARY names the program, of a build with Kubernetes; the release build if not. kubectl is built once and kept with the
other peers, as helm is.
"""

import sys

sys.dont_write_bytecode = True

import os
import time
from pathlib import Path
from typing import Callable, Dict, Optional, Tuple, TypeVar

import apart
from chart_checks.helm import Broken, provide
from docs_checks import cluster, given, names, nodes, versions
from docs_checks.follow import Folder
from docs_checks.pages import Block, blocks, inline, pages, simple_commands
from docs_checks.parse import Parser, Reader, check_continuous_delivery, known_values
from run import RELEASE, ROOT, Failed, Step, build_driver, kubernetes_version, say

# What else a block needs, by page and beginning.
NEEDS: Dict[Tuple[str, str], Callable[[Folder], None]] = {
    ("docs/issuance.md", "countersign issuance deny"): Folder.start_pair,
    ("docs/operations.md", "countersign authority export --out backup  "): Folder.start_pair,
    ("docs/operations.md", "countersign authority import"): Folder.lose_pair,
    ("docs/federation.md", "countersign federation create"): given.two_trust_domains,
    ("docs/inspect.md", "countersign inspect svid.token"): given.things_to_inspect,
    ("docs/root-rotation.md", "countersign authority x509 show"): given.quick_rotation,
    ("docs/outputs.md", "countersign agent …"): given.agent_of_readme,
    ("docs/agent.md", "countersign agent --ca-address ca.example"): given.two_tokens,
    ("RELEASING.md", "python3 tests/sbom.py"): given.checkout,
    ("RELEASING.md", "helm package"): given.checkout,
}
NOT_RUN: Dict[Tuple[str, str], str] = {
    ("README.md", "python3 tests/run.py"): "this is a step of it",
    ("CONTRIBUTING.md", "cargo build"): "tests/run.py has these steps",
    ("RELEASING.md", "export SOURCE_DATE_EPOCH"): "builds and pushes an image; tests/image.py reads the Containerfile",
    ("RELEASING.md", "podman manifest"): "pushes an image",
    ("RELEASING.md", "python3 tests/image.py --arm64"): "a release build of its own, and packages that are installed",
    ("RELEASING.md", "python3 tests/reproducible.py"): "two release builds; tests/image.py looks for what would make them differ",
    ("RELEASING.md", "helm push"): "publishes",
    ("RELEASING.md", "cosign"): "publishes",
    ("charts/countersign/README.md", "helm install"): "pulls from a registry; docs/quick-start.md has it with the folder",
    ("docs/quick-start.md", "podman build"): "builds and pushes an image; tests/image.py reads the Containerfile",
    ("docs/testing.md", "cargo test --lib"): "tests/run.py has these tests",
    ("docs/why-not-pilot-agent.md", "cargo rustc"): "tests/run.py has that test",
}
NEEDS_A_CLUSTER = {"kubectl", "helm"}
T = TypeVar("T")

# Each must be refused.
BROKEN = [
    "countersign serve --no-such-flag", "countersign issuance denyy", "countersign policy explain a/b c",
    "helm install countersign charts/countersign --set image.registri=a", "helm upgrade countersign charts/elsewhere",
    "helm upgrade countersign charts/countersign --set 'gatewayIdentities={spiffe://a.example/ns/a/sa/a}'",
    "helm upgrade countersign charts/countersign --values nowhere.yaml", "sed s/a/b/ charts/countersign/rbac-none.yaml | kubectl apply -f -",
    "kubectl apply -f charts/countersign/rbac-none.yaml", "kubectl exec deployment/countersign-b -- countersign policy list",
    "kubectl exec deployment/countersign -- countersign policy lst", "cargo test --test nowhere", "python3 tests/nothing.py", "somebody else",
]


def row_of(table: Dict[Tuple[str, str], T], block: Block) -> Optional[T]:
    return next((what for (page, begin), what in table.items() if page == block.page and block.text.startswith(begin)), None)


def is_of_a_cluster(block: Block) -> bool:
    """All of it is run there."""
    if all(cluster.takes(block.page, command) for command in block.commands()):
        return True
    words = {words[0] for command in block.commands() for words in simple_commands(command)}
    # what is packed needs none
    if (NEEDS_A_CLUSTER & words and not block.text.startswith("helm package")) or "--state kubernetes" in block.text:
        raise Broken(f"{block.where}: it is not run, and there is no reason why")
    return False


def follow_pages(binary: Path, reader: Reader) -> None:
    matched, left = set(), []
    done = 0
    for page in pages():
        with Folder(binary) as folder:
            for block in blocks(page):
                if not block.commands():
                    raise Broken(f"{block.where}: no command")
                matched |= {row for row in [*NOT_RUN, *NEEDS] if row[0] == block.page and block.text.startswith(row[1])}
                counted, why = reader.check(block), row_of(NOT_RUN, block)
                if why:
                    left.append(f"  {block.where}: {counted} commands: {why}")
                    continue
                done += 1
                if not is_of_a_cluster(block):
                    needs = row_of(NEEDS, block)
                    if needs:
                        needs(folder)
                    begun = time.monotonic()
                    folder.follow(block)
                    say(f"  {block.where}: {len(block.commands())} commands run ({time.monotonic() - begun:.1f} s)")
    unused = {*NOT_RUN, *NEEDS} - matched
    if unused:
        raise Broken(f"no block begins so: {sorted(unused)}")
    say(f"{done} of {done + len(left)} blocks are run, those in a cluster among them. The others are only read:\n" + "\n".join(left))


def follow_in_cluster(binary: Path) -> None:
    begun = time.monotonic()
    nodes.settle()
    count, took = cluster.follow_pages(binary)
    say(f"{count} commands run in a cluster ({time.monotonic() - begun:.1f} s), {took:.1f} s of it from nothing to the end of the quick start")


def can_fail(reader: Reader, folder: Folder) -> None:
    for command in [*BROKEN, "false"]:
        block = Block("a broken page", 1, command + "\n")
        try:
            folder.follow(block) if command == "false" else reader.check(block)
        except Broken:
            continue
        raise Broken(f"not noticed: {command}")


def read_sentences(reader: Reader) -> int:
    return sum(reader.check(block) for page in pages() for block in inline(page))


def alone(binary: Path) -> None:
    """All that is not of a cluster."""
    apart.settle()
    given.settle()
    parser = Parser(binary)
    reader = Reader(parser)
    follow_pages(binary, reader)
    say(f"{read_sentences(reader)} commands within sentences read")
    say(f"{check_continuous_delivery()} files for Argo CD and Flux have values that the chart takes")
    say(f"{versions.check(ROOT / 'docs' / 'compatibility.md')} versions are those of the tests")
    say(f"{versions.migrations(parser.all_flags(), known_values())} settings of the pages for those who come from elsewhere are there")
    say(f"{names.check_flags(parser)} flags are some command's, {names.check_index()} pages are in README.md")
    with Folder(binary) as folder:
        can_fail(reader, folder)
    say(f"{len(BROKEN) + 1} broken commands are noticed")


PARTS = {"alone": alone, "in a cluster": follow_in_cluster}


def main() -> int:
    binary = Path(os.environ.get("COUNTERSIGN_TEST_BINARY") or RELEASE).resolve()
    try:
        if not os.access(binary, os.X_OK):
            raise Broken(f"{binary} is not there: build it, or name another one by COUNTERSIGN_TEST_BINARY")
        if apart.is_apart():
            PARTS[apart.part()](binary)
            return 0
        provide()
        for name, flags in (("kubectl", f"-s -w {kubernetes_version()}"), ("kubelet-exec", "-s -w"), ("spiffe-client", "")):
            build_driver(name, flags)(Step(3, name, "1 min, once", 30 * 60, lambda _: None))
        # the pages name ports and paths; whoever else has them here must not matter
        with apart.start("net", "mount", part="alone") as beside, apart.start("net", part="in a cluster") as in_cluster:
            for part in (in_cluster, beside):
                print(part.communicate()[0], end="", flush=True)
        if beside.returncode != 0 or in_cluster.returncode != 0:
            return 1
    except (Broken, Failed) as error:
        say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
