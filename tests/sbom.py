#!/usr/bin/env python3
"""Prints what the binary is made of, as CycloneDX 1.5: each crate that is linked into it, on amd64 or arm64, with licence, checksum and what it depends on.
From Cargo.lock alone, so the same lock gives the same bytes. Build scripts and macros run at build time and are not in it, nor is what
only tests need.
"""

import sys

sys.dont_write_bytecode = True

import json
import os
import re
import subprocess
import uuid
from pathlib import Path
from typing import Dict, List

ROOT = Path(__file__).resolve().parent.parent
CARGO = os.environ.get("CARGO") or "cargo"
TARGETS = ("x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu")


def tree() -> Dict[str, dict]:
    """By `NAME@VERSION`, its licence and what it needs to run, as cargo resolves it for any of the platforms."""
    said = "".join(subprocess.run(
        [CARGO, "tree", "--locked", "--features", "kubernetes", "--target", target, "--edges", "normal,no-proc-macro", "--prefix", "depth",
         "--format", " {p}|{l}"], cwd=ROOT, capture_output=True, text=True, check=True).stdout for target in TARGETS)
    found: Dict[str, dict] = {}
    above: List[str] = []
    for depth, name, version, licence in re.findall(r"^(\d+) (\S+) v([^|\s]+)[^|\n]*\|(.*?)(?: \(\*\))?$", said, re.MULTILINE):
        one = f"{name}@{version}"
        above[int(depth):] = [one]
        found.setdefault(one, {"licence": licence, "needs": set()})
        if len(above) > 1:
            found[above[-2]]["needs"].add(one)
    return found


def checksums() -> Dict[str, str]:
    lock = (ROOT / "Cargo.lock").read_text()
    found = re.findall(r'^name = "(.+)"\nversion = "(.+)"\nsource = .+\nchecksum = "(.+)"$', lock, re.MULTILINE)
    return {f"{name}@{version}": checksum for name, version, checksum in found}


def component(one: str, licence: str, checksum: str, kind: str) -> dict:
    name, version = one.split("@")
    return {
        "type": kind, "bom-ref": f"pkg:cargo/{one}", "name": name, "version": version,
        **({"hashes": [{"alg": "SHA-256", "content": checksum}]} if checksum else {}),
        "licenses": [{"expression": licence.replace("/", " OR ")}], "purl": f"pkg:cargo/{one}",
    }


def bom() -> dict:
    crates, sums = tree(), checksums()
    every = {one: component(one, crate["licence"], sums.get(one, ""), "application" if one not in sums else "library")
             for one, crate in sorted(crates.items())}
    own = [one for one in every if one.startswith("countersign@")]
    body = {
        "metadata": {"component": every[own[0]]},
        "components": [what for one, what in every.items() if one not in own],
        "dependencies": [{"ref": f"pkg:cargo/{one}", "dependsOn": sorted(f"pkg:cargo/{other}" for other in crates[one]["needs"])} for one in every],
    }
    serial = uuid.uuid5(uuid.NAMESPACE_URL, json.dumps(body, sort_keys=True))
    return {"bomFormat": "CycloneDX", "specVersion": "1.5", "serialNumber": f"urn:uuid:{serial}", "version": 1, **body}


if __name__ == "__main__":
    json.dump(bom(), sys.stdout, indent=2)
    print()
