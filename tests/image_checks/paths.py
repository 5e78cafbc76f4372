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
OURS = {Path("/countersign"), Path("/crates")}  # as reproducible.sh calls each checkout, and what it is built from
# Files as they are called everywhere. A folder of theirs, such as `build`, may be called as one of this machine.
MAPPED = rb"/(?:countersign/(?:src|target)|crates/[\w.+-]+-\d[\w.+-]*|rust/deps|rustc/[0-9a-f]{40})/[\w./@+-]*?\.rs|/checkout/src/"
AT_LEAST = 100  # names of files, or there is nothing to look at


def check(data: bytes, folders: Iterable[Path]) -> int:
    """How many names of files there are, none of them below those folders, in a home or a registry."""
    mapped = [match.span() for match in re.finditer(MAPPED, data)]
    for folder in [*folders, Path(os.environ.get("RUSTUP_HOME") or Path.home() / ".rustup"), Path("/home")]:
        if folder == Path("/") or OURS & {folder, *folder.parents}:
            continue
        for at in (match.start() for match in re.finditer(re.escape(f"{folder}/".encode()), data)):
            if not any(begin < at < end for begin, end in mapped):
                raise Broken(f"the binary names {folder}: {shown(data, at)}")
    if b"registry/src" in data:
        raise Broken(f"the binary names the registry that crates came from: {shown(data, data.index(b'registry/src'))}")
    crates, generated = re.findall(OF_A_CRATE, data), re.findall(GENERATED, data)
    for found, named in ((crates, CRATES), (generated, OUTPUT)):
        others = sorted({one.decode() for one in found if not one.endswith(named)})
        if others:
            raise Broken(f"files are called by {others[:5]}, not by {named[0].decode()}")
    if len(crates) < AT_LEAST or not generated:
        raise Broken(f"the binary names only {len(crates)} files of crates and {len(generated)} made ones: nothing to look at")
    return len(crates) + len(generated)


def shown(data: bytes, at: int) -> str:
    return re.sub(rb"[^ -~].*", b"", data[at:at + 100]).decode()
