"""The binary for arm64, built by the Containerfile's command with a cross compiler, and run by qemu on this machine."""

import shutil
from pathlib import Path
from typing import Set

from run import MINUTE, RELEASE, Step, install_packages, run

from . import containerfile

TARGET = "aarch64-unknown-linux-gnu"
BINARY = RELEASE.parent.parent / TARGET / "release" / "countersign"
TOOLS = {"aarch64-linux-gnu-gcc": "gcc-aarch64-linux-gnu", "qemu-aarch64-static": "qemu-user-static"}
LIBC = Path("/usr/aarch64-linux-gnu/lib/libc.a")


def missing() -> Set[str]:
    return {package for tool, package in TOOLS.items() if not shutil.which(tool)} | (set() if LIBC.exists() else {"libc6-dev-arm64-cross"})


def build() -> None:
    step = Step(3, "release for arm64, Kubernetes, static", "8 min cold", 40 * MINUTE, lambda _: None)
    install_packages(step, missing, "the binary for arm64 is built and run by these")
    run(step, ["rustup", "target", "add", TARGET])
    run(step, ["sh", "-c", containerfile.build_command().replace(" -- ", f" --target {TARGET} -- ")])


def emulator() -> Path:
    return Path(shutil.which("qemu-aarch64-static"))
