"""What can be said of a command without running it: ours is read by the program's own parser, and what the others name must be there."""

import json
import re
import subprocess
import tempfile
from functools import lru_cache
from itertools import product
from pathlib import Path
from typing import List, Set, Tuple

from chart_checks.helm import CHART, KUBERNETES, Broken, call, documents, render, with_values
from run import ROOT

from .pages import Block, pages, simple_commands

# What stands for something that a reader has of his own.
PLACEHOLDERS = {
    "NAMESPACE/NAME": "default/web", "NAMESPACE/ACCOUNT": "default/web", "NAMESPACE/SERVICE": "default/web", "HOST:PORT": "ca.example:15012",
    "SERIAL": "5c0f", "ID": "spiffe://cluster.local/ns/default/sa/web", "TRUST-DOMAIN": "two.example",
}
LIMIT = 20  # seconds


class Parser:
    """Of the binary's command line."""

    def __init__(self, binary: Path):
        self.binary = binary

    @lru_cache(maxsize=None)
    def flags(self, *command: str) -> Set[str]:
        return set(re.findall(r"--[a-z0-9-]+", self._help(*command)))

    @lru_cache(maxsize=None)
    def commands(self, *above: str) -> Set[str]:
        listed = re.search(r"^Commands:\n(.*?)\n\n", self._help(*above), re.MULTILINE | re.DOTALL)
        return set(re.findall(r"^  ([a-z0-9-]+)  ", listed[1], re.MULTILINE)) - {"help"} if listed else set()

    def check(self, words: List[str]) -> None:
        """`--help` at the end runs nothing, and comes after everything before it was read."""
        given = [PLACEHOLDERS.get(word, word) for word in words[1:] if word != "…"]
        if "--" in given:
            raise Broken("arguments after --, which nothing reads")
        self._help(*given)

    def all_flags(self) -> Set[str]:
        return self.flags("serve") | self.flags("agent")

    def _help(self, *arguments: str) -> str:
        done = subprocess.run([str(self.binary), *arguments, "--help"], capture_output=True, text=True, timeout=LIMIT, env={})
        if done.returncode != 0:
            raise Broken(done.stderr.strip().splitlines()[0])
        return done.stdout


def without_options(text: str) -> List[str]:
    """Usage such as `show [NAME]` or `list|explain`, written out: with all that may be left out, once for each alternative."""
    whole = text.replace("[NAMESPACE[/SERVICE]]", "[NAMESPACE/SERVICE]").replace("NAMESPACE[/SERVICE]", "NAMESPACE/SERVICE")
    whole = re.sub(r"\s*#.*", "", whole)
    whole = re.sub(r"(?<= )\[([^\]]*)\]", r"\1", whole)
    parts = re.split(r"(?<= )([a-z0-9]+(?:\|[a-z0-9]+)+)", whole)
    return ["".join(one) for one in product(*(part.split("|") if at % 2 else [part] for at, part in enumerate(parts)))]


class Reader:
    """Checks each command of a block that isn't run."""

    def __init__(self, parser: Parser):
        self.parser = parser
        self.made: Set[str] = set()

    def check(self, block: Block) -> int:
        """How many commands there were."""
        counted = 0
        for usage in block.commands():
            for command in without_options(usage):
                self.made |= set(re.findall(r"(?:>|--out) (\S+)", command))
                for words in simple_commands(command):
                    try:
                        self._words(words)
                    except Broken as error:
                        raise Broken(f"{block.where}: {' '.join(words)}: {error}") from error
                    counted += 1
        return counted

    def _words(self, words: List[str]) -> None:
        while words and re.match(r"^[A-Z_]+=", words[0]):
            words = words[1:]
        known = {"countersign": self.parser.check, "kubectl": self._kubectl, "helm": helm, "cargo": cargo, "python3": python, "sed": sed}
        check = known.get(words[0])
        if check:
            check(words)
        elif words[0] not in {"export", "umask", "podman", "git", "cosign", "curl"}:
            raise Broken(f"nothing here knows {words[0]}")

    def _kubectl(self, words: List[str]) -> None:
        if "--" in words:
            at = words.index("--")
            self._words(words[at + 1:])
            words = words[:at]
        for flag, file in zip(words, words[1:]):
            if flag in ("-f", "--patch-file") and "/" in file and not (ROOT / file).is_file():
                raise Broken(f"there is no {file}")
        for kind, name in (word.split("/", 1) for word in words[2:] if re.fullmatch(r"[a-z]+/[a-z-]+", word)):
            if name.startswith("countersign") and (kind, name) not in objects():
                raise Broken(f"the chart has no {kind}/{name}, only {sorted(name for of, name in objects() if of == kind)}")


@lru_cache(maxsize=None)
def objects() -> Set[Tuple[str, str]]:
    everything = {"policyObjects": True, "bundleEndpoint": {"enabled": True}}
    return {(one["kind"].lower(), one["metadata"]["name"]) for one in documents(render(everything))}


def helm(words: List[str]) -> None:
    """What is set must be taken by the chart and its schema."""
    if any(word.startswith("charts/") and not (ROOT / word).is_dir() for word in words):
        raise Broken("there is no such chart")
    given = [word for pair in zip(words, words[1:]) if pair[0] in ("--set", "--set-string") for word in pair]
    files = [file for flag, file in zip(words, words[1:]) if flag == "--values"]
    if words[1] == "upgrade" and any(re.search(r"=\{|\[\d+\]", word) for word in given):
        raise Broken("--set replaces the list that the release has: give a file with all of it")
    if words[1] in ("install", "upgrade"):
        with tempfile.TemporaryDirectory() as folder:
            for text in (text for file in files for text in shown(file)):
                (Path(folder) / "values.yaml").write_text(text)
                rendered(words[2], ["--values", f"{folder}/values.yaml", *given])
        if not files:
            rendered(words[2], given)
    elif given:
        raise Broken(f"nothing reads --set of helm {words[1]}")


def shown(file: str) -> List[str]:
    """What the pages have such a file be: YAML that begins with its name."""
    block = re.compile(rf"^```yaml\n# {re.escape(file)}\n(.*?)^```$", re.MULTILINE | re.DOTALL)
    found = [text for page in pages() for text in block.findall(page.read_text())]
    if not found:
        raise Broken(f"no page shows {file}")
    return found


def check_continuous_delivery() -> int:
    """What the pages give Argo CD and Flux as values is rendered, and the chart is where they look; how many there are."""
    files = ("application.yaml", "release.yaml")
    for file in files:
        for item in documents(shown(file)[0]):
            spec = item["spec"]
            path = spec["source"]["path"] if "source" in spec else spec["chart"]["spec"]["chart"]
            if not (ROOT / path / "Chart.yaml").is_file():
                raise Broken(f"{file}: there is no chart in {path}")
            with tempfile.TemporaryDirectory() as folder:
                values = spec["source"]["helm"]["valuesObject"] if "source" in spec else spec["values"]
                rendered("countersign", with_values(values, Path(folder)))
    return len(files)


def rendered(release: str, values: List[str]) -> None:
    code, _, error = call("template", release, str(CHART), "--namespace", "countersign", "--kube-version", KUBERNETES, *values)
    if code != 0:
        raise Broken(error.strip().splitlines()[-1])


def sed(words: List[str]) -> None:
    if not (ROOT / words[-1]).is_file():
        raise Broken(f"there is no {words[-1]}")


def cargo(words: List[str]) -> None:
    """Test targets, and the modules that a filter names, are there."""
    for flag, name in zip(words, words[1:]):
        sources = [ROOT / "tests" / f"{name}.rs", ROOT / "tests" / name / "main.rs", ROOT / "benches" / f"{name}.rs"]
        if flag in ("--test", "--bench") and not any(source.is_file() for source in sources):
            raise Broken(f"there is no {flag[2:]} {name}")
    for word in words:
        parts = [part for part in word.split("::") if part]
        if "::" in word and not any(parts[-1] in file.stem or f"fn {parts[-1]}" in file.read_text() or f"mod {parts[-1]}" in file.read_text()
                                    for place in ("src", "tests") for file in (ROOT / place).rglob("*.rs")):
            raise Broken(f"no test or module is named {parts[-1]}")


def python(words: List[str]) -> None:
    if not (ROOT / words[1]).is_file():
        raise Broken(f"there is no {words[1]}")


def known_values() -> Set[str]:
    """The chart's, by their dotted names."""
    def names(of: object, above: str) -> Set[str]:
        if not isinstance(of, dict):
            return set()
        return {f"{above}{name}" for name in of}.union(*(names(value, f"{above}{name}.") for name, value in of.items()))

    settings = json.loads((CHART / "values.schema.json").read_text())["properties"]["settings"]["properties"]
    return names(documents((CHART / "values.yaml").read_text())[0], "") | {f"settings.{name}" for name in settings}
