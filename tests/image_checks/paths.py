"""What a binary says of where it was built: nothing. Texts of panics and of the log name files, by the names that reproducible.sh gives."""

import os
import re
from pathlib import Path
from typing import Iterable

from chart_checks.helm import Broken

# File names of crates and of what their build scripts made: what stands before them. The standard library has some of its own.
OF_A_CRATE = rb"([\w./@+-]*)/[A-Za-z][\w-]*-\d+\.\d+\.\d+[\w.+-]*/src/[\w/-]+\.rs"
GENERATED = rb"([\w./@+-]*)/build/[\w-]+-[0-9a-f]{16}/out/"
CRATES, OUTPUT = (b"/crates", b"/rust/deps"), (b"/countersign/target/release", b"/countersign/target/aarch64-unknown-linux-gnu/release")
AT_LEAST = 100  # names of files, or there is nothing to look at


def check(data: bytes, folders: Iterable[Path]) -> int:
    """How many names of files there are, none of them below those folders, in a home or a registry."""
    for folder in [*folders, Path(os.environ.get("RUSTUP_HOME") or Path.home() / ".rustup"), Path("/home")]:
        if str(folder) != "/" and f"{folder}/".encode() in data:
            raise Broken(f"the binary names {folder}: {shown(data, f'{folder}/'.encode())}")
    if b"registry/src" in data:
        raise Broken(f"the binary names the registry that crates came from: {shown(data, b'registry/src')}")
    crates, generated = re.findall(OF_A_CRATE, data), re.findall(GENERATED, data)
    for found, named in ((crates, CRATES), (generated, OUTPUT)):
        others = sorted({one.decode() for one in found if not one.endswith(named)})
        if others:
            raise Broken(f"files are called by {others[:5]}, not by {named[0].decode()}")
    if len(crates) < AT_LEAST or not generated:
        raise Broken(f"the binary names only {len(crates)} files of crates and {len(generated)} made ones: nothing to look at")
    return len(crates) + len(generated)


def shown(data: bytes, what: bytes) -> str:
    at = data.index(what)
    return re.sub(rb"[^ -~].*", b"", data[at:at + 100]).decode()
