#!/usr/bin/env python3
"""Checks the image as far as that goes without a container engine: the Containerfile by what the chart runs, the binary by its headers and in
an empty root (certificates and configuration, read-only, nobody's user), where it signs, fetches and verifies; and the list of what is in it.

COUNTERSIGN_TEST_BINARY names the program, linked statically; the release build if not. `--arm64` builds that of arm64 and checks it, run by
qemu: some ten minutes, so it is by hand, before a release.
"""

import sys

sys.dont_write_bytecode = True

import argparse
import os
import platform
from pathlib import Path

import apart
from chart_checks.helm import Broken, provide
from image_checks import arm64, containerfile, contents, elf, empty_root, paths
from run import CARGO_HOME, RELEASE, ROOT, Failed, say


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm64", action="store_true", help="build the binary for arm64, and check that one by qemu")
    is_arm64 = parser.parse_args().arm64
    binary = arm64.BINARY if is_arm64 else Path(os.environ.get("COUNTERSIGN_TEST_BINARY") or RELEASE).resolve()
    try:
        if is_arm64 and not apart.is_apart():
            arm64.build()
        if not os.access(binary, os.X_OK):
            raise Broken(f"{binary} is not there: build it, or name another one by COUNTERSIGN_TEST_BINARY")
        if not apart.is_apart():
            provide()
            containerfile.check()
            say("the Containerfile has what the chart runs, and all that its build needs")
            elf.check(binary, "aarch64" if is_arm64 else platform.machine())
            say(f"{binary}: static, at an address of the kernel's choice, {binary.stat().st_size >> 20} MiB")
            say(f"{paths.check(binary.read_bytes(), [ROOT, CARGO_HOME])} names of files, none of where it was built")
            say(f"{contents.check(binary)} crates in the list, all that the binary names among them")
        apart.begin("mount", "net")
        empty_root.check(binary, arm64.emulator() if is_arm64 else None)
    except (Broken, Failed) as error:
        say(f"FAILED: {error}")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
