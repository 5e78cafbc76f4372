"""The Containerfile: what it is built from, as whom it runs, and that it is what the chart runs."""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Dict, Iterator, List, Tuple

from chart_checks.helm import Broken, documents, render
from run import CARGO, ROOT

FILE = ROOT / "Containerfile"
LABELS = {"title", "description", "licenses", "version", "revision"}
Stage = List[Tuple[str, str]]


def stages() -> List[Stage]:
    """The instructions of each stage; what stands before the first is one too."""
    text = re.sub(r"^\s*#.*\n", "", FILE.read_text(), flags=re.MULTILINE)
    found: List[Stage] = [[]]
    for line in re.sub(r"\\\n", " ", text).splitlines():
        if line.strip():
            name, rest = line.split(None, 1)
            if name == "FROM":
                found.append([])
            found[-1].append((name, rest.strip()))
    return found


def check() -> None:
    before, *all_stages = stages()
    if len(all_stages) != 2:
        raise Broken(f"{FILE.name} has {len(all_stages)} stages, not a build and an image")
    build, image = all_stages
    check_build(before, build)
    check_context()
    last = dict(image)
    if last["FROM"] != "scratch" or "RUN" in last:
        raise Broken("the image is not made of what was built alone")
    user = re.fullmatch(r"(\d+):(\d+)", last["USER"])
    if not user or "0" in user.groups():
        raise Broken(f"USER {last['USER']} is not a number other than 0: a kubelet can't see that it is not root")
    labels = set(re.findall(r"org\.opencontainers\.image\.([a-z.]+)=", last["LABEL"]))
    if not LABELS <= labels:
        raise Broken(f"labels {LABELS - labels} are missing")
    version = re.search(r'^version = "(.+)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)
    if ("ARG", f"VERSION={version[1]}") not in image:
        raise Broken(f"VERSION is not {version[1]}")
    check_chart(last)


def copied() -> List[str]:
    """What the build has of this repository."""
    return [word for name, rest in stages()[1] if name == "COPY" for word in rest.split()[:-1]]


def build_command() -> str:
    """The command that makes the binary, as a shell takes it."""
    run = next(rest for name, rest in stages()[1] if name == "RUN")
    return run.split("&&")[0].strip()


def toolchain() -> str:
    return re.search(r'channel = "(.+)"', (ROOT / "rust-toolchain.toml").read_text())[1]


def check_build(before: Stage, build: Stage) -> None:
    base = build[0][1]
    arguments = dict(rest.split("=", 1) for name, rest in before if name == "ARG")
    named = arguments.get("RUST", "")
    if base != "${RUST} AS build" or not re.fullmatch(rf"docker\.io/library/rust:{re.escape(toolchain())}-slim-\w+(@sha256:[0-9a-f]{{64}})?", named):
        raise Broken(f"the build is from {base}, {named}: not one version of Rust, that of rust-toolchain.toml")
    run = " ".join(rest for name, rest in build if name == "RUN")
    for needed in ("sh reproducible.sh rustc", "--locked", "--release", "--features kubernetes", "SOURCE_DATE_EPOCH", "target-feature=+crt-static"):
        if needed not in run:
            raise Broken(f"the build has no {needed}")


def check_context() -> None:
    """What is copied is there, may be copied, and is a package that cargo can read."""
    ignored = (ROOT / ".containerignore").read_text().splitlines()
    allowed = {line[1:] for line in ignored if line.startswith("!")}
    if "*" not in ignored or set(copied()) != allowed:
        raise Broken(f"copied is {sorted(copied())}, let into the build {sorted(allowed)}")
    with tempfile.TemporaryDirectory() as folder:
        for name in copied():
            source, target = ROOT / name, Path(folder) / name
            shutil.copytree(source, target) if source.is_dir() else shutil.copyfile(source, target)
        done = subprocess.run([CARGO, "metadata", "--locked", "--offline", "--no-deps", "--format-version", "1"], cwd=folder, capture_output=True,
                              text=True)
        if done.returncode != 0:
            raise Broken(f"cargo can't read what is copied: {done.stderr.strip()}")
    for text in (file.read_text() for file in (ROOT / "src").rglob("*.rs") if "test" not in str(file)):
        if re.search(r'include_(?:str|bytes)!\("\.\./\.\.', text):
            raise Broken("a source includes a file that is not copied")


def check_chart(image: Dict[str, str]) -> None:
    entry = re.fullmatch(r'\["(/usr/local/bin/countersign)"\]', image["ENTRYPOINT"])
    path = dict(rest.split("=", 1) for name, rest in image.items() if name == "ENV" for rest in [rest]).get("PATH")
    if not entry or path != str(Path(entry[1]).parent):
        raise Broken(f"ENTRYPOINT {image['ENTRYPOINT']} with PATH {path}: `countersign` by its name is not what is started")
    for pod in pods():
        for container in [*pod.get("initContainers", []), *pod["containers"]]:
            commands = [probe.get("exec", {}).get("command") for key, probe in container.items() if key.endswith("Probe")]
            for command in [container.get("command"), *commands]:
                if command and command[0] != "countersign":
                    raise Broken(f"{container['name']} runs {command}, which the image has not")
            if not container.get("args") and not container.get("command"):
                raise Broken(f"{container['name']} runs the entrypoint without a command of it")
            for mount in container.get("volumeMounts", []):
                if entry[1].startswith(mount["mountPath"].rstrip("/") + "/"):
                    raise Broken(f"{container['name']} hides the binary by a mount at {mount['mountPath']}")


def pods() -> Iterator[dict]:
    found = [one["spec"]["template"]["spec"] if one["kind"] == "Deployment" else one["spec"]
             for one in documents(render({})) if one["kind"] in ("Deployment", "Pod")]
    if len(found) < 2:
        raise Broken("the chart has not a Deployment and a test")
    yield from found
