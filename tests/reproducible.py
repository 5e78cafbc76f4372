#!/usr/bin/env python3
"""Builds the release binary twice, by the very commands of the Containerfile, in folders, with a home of cargo, a time zone, a mask and a
number of jobs of their own, and compares the two byte for byte. Takes the time of two release builds, and 2 GiB in the folder for temporary
files; prints the digest, which another machine must print as well.
"""

import sys

sys.dont_write_bytecode = True

import hashlib
import os
import re
import shutil
import tempfile
from pathlib import Path
from typing import Dict, List

from chart_checks.helm import Broken
from image_checks import containerfile, paths
from run import CARGO_HOME, ROOT, Failed, Step, run, say

LIMIT = 40 * 60
AROUND = 40  # bytes that are shown before and after the first difference
# What differs between the two, beside the folders.
OTHERWISE: List[Dict[str, str]] = [{"TZ": "UTC", "CARGO_BUILD_JOBS": "2"}, {"TZ": "Pacific/Apia", "CARGO_BUILD_JOBS": "3"}]
MASKS = (0o022, 0o077)


def place(folder: Path, home: Path) -> None:
    """What the Containerfile copies, and a home of cargo."""
    folder.mkdir(parents=True)
    for name in containerfile.copied():
        source, target = ROOT / name, folder / name
        shutil.copytree(source, target) if source.is_dir() else shutil.copy(source, target)
    home.mkdir(parents=True)
    # what was downloaded once need not be again
    for entry in CARGO_HOME.glob("*"):
        (home / entry.name).symlink_to(entry)


def build(folder: Path, home: Path, otherwise: Dict[str, str], mask: int) -> bytes:
    """The binary, there."""
    os.umask(mask)
    env = {"CARGO_HOME": str(home), "RUSTUP_TOOLCHAIN": containerfile.toolchain(), **otherwise}
    run(Step(3, f"build in {folder}", "7 min", LIMIT, lambda _: None), ["sh", "-c", containerfile.build_command()], cwd=folder, env=env)
    return (folder / "target" / "release" / "countersign").read_bytes()


def compare(first: bytes, second: bytes) -> None:
    if first == second:
        return
    at = next((at for at, (one, other) in enumerate(zip(first, second)) if one != other), min(len(first), len(second)))
    shown = [re.sub(rb"[^ -~]", b".", data[max(0, at - AROUND):at + AROUND]).decode() for data in (first, second)]
    raise Broken(f"{len(first)} and {len(second)} bytes, another one first at {at:#x}: {shown[0]!r} and {shown[1]!r}")


def main() -> int:
    try:
        for name in ("CARGO_TARGET_DIR", "RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS"):
            os.environ.pop(name, None)
        with tempfile.TemporaryDirectory(prefix="countersign-") as above:
            homes = [Path(above) / "one" / "cargo", Path(above) / "the-other" / "home" / "of cargo"]
            folders = [Path(above) / "one" / "source", Path(above) / "the-other" / "further down" / "countersign"]
            # both before either is built: of the same
            for each in zip(folders, homes):
                place(*each)
            found = [build(*each) for each in zip(folders, homes, OTHERWISE, MASKS)]
        for data, folder, home in zip(found, folders, homes):
            paths.check(data, [folder, home])
        compare(*found)
    except (Broken, Failed) as error:
        say(f"FAILED: {error}")
        return 1
    say(f"both have {len(found[0])} bytes, SHA-256 {hashlib.sha256(found[0]).hexdigest()}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
