"""The pages, and the commands in them."""

import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import List

from run import ROOT

# A shell's operators between simple commands; what is redirected to is dropped with its operator.
OPERATORS = {"&&", "||", ";", "|", "&", "(", ")"}
REDIRECTIONS = {">", ">>", "<", "2>"}


@dataclass(frozen=True)
class Block:
    """A fenced block of commands: `sh`, or `console`, whose commands follow a `$`."""

    page: str
    line: int
    text: str

    @property
    def where(self) -> str:
        return f"{self.page}:{self.line}"

    def commands(self) -> List[str]:
        """Each with its continuation lines, without those that are only a comment."""
        whole = re.sub(r"\\\n\s*", " ", self.text)
        return [line.strip() for line in whole.splitlines() if line.strip() and not line.lstrip().startswith("#")]


def pages() -> List[Path]:
    return sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("charts/*/*.md")])


def blocks(page: Path) -> List[Block]:
    found = []
    for match in re.finditer(r"^( *)```(sh|console|bash|shell)\n(.*?)^\1```$", page.read_text(), re.MULTILINE | re.DOTALL):
        line = page.read_text()[:match.start()].count("\n") + 2
        text = match[3]
        if match[2] == "console":
            text = "".join(f"{one[2:]}\n" for one in text.splitlines() if one.startswith("$ "))
        found.append(Block(str(page.relative_to(ROOT)), line, text))
    return found


def inline(page: Path) -> List[Block]:
    """Commands of ours within a sentence or a table."""
    text = re.sub(r"^( *)```.*?^\1```$", lambda match: "\n" * match[0].count("\n"), page.read_text(), flags=re.MULTILINE | re.DOTALL)
    found = re.finditer(r"`(countersign [a-z][^`]*)`", text)
    return [Block(str(page.relative_to(ROOT)), text[:match.start()].count("\n") + 1, " ".join(match[1].split()) + "\n")
            for match in found]


def simple_commands(command: str) -> List[List[str]]:
    """The words of each simple command in a line of shell; what is substituted is one word."""
    lexer = shlex.shlex(re.sub(r"\$\([^)]*\)", "SUBSTITUTED", command), posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = "#"
    found, words, skip = [], [], False
    for word in lexer:
        if word in REDIRECTIONS:
            skip = True
        elif skip:
            skip = False
        elif word in OPERATORS:
            found.append(words)
            words = []
        else:
            words.append(word)
    return [words for words in [*found, words] if words]
