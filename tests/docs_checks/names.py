"""What sentences and tables name: each flag is one of ours or of a known tool, each page is in README's index."""

import re
from typing import Set

from chart_checks.helm import Broken
from run import ROOT

from .pages import pages
from .parse import Parser

# Of cargo, helm, istiod, podman, and the tests.
OTHERS = {"--build-arg", "--features", "--kubernetesApiBurst", "--kubernetesApiQPS", "--locked", "--quick", "--reset-then-reuse-values",
          "--show-only", "--write"}
# Its first column has flags of istio-csr.
FIRST_COLUMN = "coming-from-istio-csr.md"


def every_flag(parser: Parser, *command: str) -> Set[str]:
    """Of a command and all below it."""
    found = parser.flags(*command)
    for below in parser.commands(*command):
        found = found | every_flag(parser, *command, below)
    return found


def check_flags(parser: Parser) -> int:
    """How many are named."""
    known, counted = every_flag(parser) | OTHERS, 0
    for page in pages():
        text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        if page.name == FIRST_COLUMN:
            text = re.sub(r"^\|[^|]*\|", "|", text, flags=re.MULTILINE)
        for flag in re.findall(r"`(--[A-Za-z0-9-]+)[^`\n]*`", text):
            if flag not in known:
                raise Broken(f"{page.name} names {flag}, which is no flag of any command")
            counted += 1
    return counted


def check_index() -> int:
    """How many pages there are."""
    index = set(re.findall(r"\]\((docs/[a-z0-9-]+\.md)\)", (ROOT / "README.md").read_text()))
    missing = {f"docs/{page.name}" for page in (ROOT / "docs").glob("*.md")} - index
    if missing:
        raise Broken(f"README.md does not link to {sorted(missing)}")
    return len(index)
