#!/usr/bin/env python3
"""Runs every command of README.md and docs, verbatim, in a clean folder, those of kubectl and helm against a real API server. What can't
be run is checked as far as that goes: ours by the program's own parser, helm's by the chart and its schema, the others by the files and
objects that they name; and it is said, with the reason.

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
from docs_checks import cluster, names, versions
from docs_checks.follow import Folder
from docs_checks.pages import Block, blocks, inline, pages, simple_commands
from docs_checks.parse import Parser, Reader, check_continuous_delivery, known_values
from run import RELEASE, ROOT, Failed, Step, build_driver, kubernetes_version, say

# What else a block needs, by page and beginning.
NEEDS: Dict[Tuple[str, str], Callable[[Folder], None]] = {
    ("docs/issuance.md", "countersign issuance deny"): Folder.start_pair,
    ("docs/operations.md", "countersign authority export --out backup  "): Folder.start_pair,
    ("docs/operations.md", "countersign authority import"): Folder.lose_pair,
}
NOT_RUN: Dict[Tuple[str, str], str] = {
    ("README.md", "python3 tests/run.py"): "this is a step of it",
    ("CONTRIBUTING.md", "cargo build"): "tests/run.py has these steps",
    ("RELEASING.md", "export SOURCE_DATE_EPOCH"): "builds and pushes an image; tests/image.py reads the Containerfile",
    ("RELEASING.md", "podman manifest"): "pushes an image",
    ("RELEASING.md", "python3 tests/sbom.py"): "tests/image.py checks what comes of it",
    ("RELEASING.md", "helm package"): "publishes",
    ("RELEASING.md", "cosign"): "publishes",
    ("docs/quick-start.md", "podman build"): "builds and pushes an image; tests/image.py reads the Containerfile",
    ("docs/policy.md", "countersign policy list"): "needs a cluster",
    ("docs/testing.md", "cargo test --lib"): "tests/run.py has these tests",
    ("docs/why-not-pilot-agent.md", "cargo rustc"): "tests/run.py has that test",
    ("docs/federation.md", "countersign federation create"): "needs another trust domain; tests/federation.rs has one",
    ("docs/inspect.md", "countersign inspect svid.token"): "files of a reader's own; tests/inspect.rs has such",
    ("docs/root-rotation.md", "countersign authority x509 show"): "steps wait for hours; tests/rotation takes them",
    ("docs/outputs.md", "countersign agent …"): "the rest of it stands elsewhere; tests/outputs has all of it",
    ("docs/istiod.md", "countersign agent --ca-address istiod"): "needs a cluster",
    ("docs/agent.md", "countersign agent --ca-address ca.example"): "a CA and tokens of a reader's own; tests/pair has such",
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


def reason(block: Block) -> str:
    """Why it isn't run; empty if it is."""
    why = row_of(NOT_RUN, block)
    if why:
        return why
    words = [words[0] for command in block.commands() for words in simple_commands(command)]
    if block.page in cluster.PAGES and NEEDS_A_CLUSTER & set(words):
        return "followed in a cluster, as said above"
    return "needs a cluster" if NEEDS_A_CLUSTER & set(words) or "--state kubernetes" in block.text else ""


def follow_pages(binary: Path, reader: Reader) -> None:
    matched = set()
    for page in pages():
        with Folder(binary) as folder:
            for block in blocks(page):
                if not block.commands():
                    raise Broken(f"{block.where}: no command")
                matched |= {row for row in [*NOT_RUN, *NEEDS] if row[0] == block.page and block.text.startswith(row[1])}
                why = reason(block)
                if why:
                    say(f"  {block.where}: {reader.check(block)} commands read, not run: {why}")
                    continue
                needs = row_of(NEEDS, block)
                if needs:
                    needs(folder)
                begun = time.monotonic()
                folder.follow(block)
                say(f"  {block.where}: {len(block.commands())} commands run ({time.monotonic() - begun:.1f} s)")
    unused = {*NOT_RUN, *NEEDS} - matched
    if unused:
        raise Broken(f"no block begins so: {sorted(unused)}")


def follow_in_cluster(binary: Path) -> None:
    begun = time.monotonic()
    count, left_out = cluster.follow_pages(binary, cluster.quick_start_is_done)
    say(f"{count} commands run against an API server ({time.monotonic() - begun:.1f} s)")
    for why, commands in left_out.items():
        say(f"{len(commands)} of those not, since each {why}:" + "".join(f"\n  {one}" for one in commands))


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


def main() -> int:
    binary = Path(os.environ.get("COUNTERSIGN_TEST_BINARY") or RELEASE).resolve()
    try:
        if not os.access(binary, os.X_OK):
            raise Broken(f"{binary} is not there: build it, or name another one by COUNTERSIGN_TEST_BINARY")
        if not apart.is_apart():
            provide()
            build_driver("kubectl", f"-s -w {kubernetes_version()}")(Step(3, "kubectl", "1 min, once", 30 * 60, lambda _: None))
            follow_in_cluster(binary)
        apart.begin("net")  # the pages name ports; whoever else has them here must not matter
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
    except (Broken, Failed) as error:
        say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
