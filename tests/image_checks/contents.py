"""The list of what is in the binary, held to the lock file and to the binary itself."""

import re
from pathlib import Path

import sbom
from chart_checks.helm import Broken

LINKED = {"kube", "ring", "rustls", "sled", "tokio", "tonic"}
# Of macros, of build scripts, and of tests.
NOT_LINKED = {"clap_derive", "proptest", "protox", "rsa", "tempfile", "tonic-prost-build"}


def check(binary: Path) -> int:
    """How many crates there are."""
    made, again = sbom.bom(), sbom.bom()
    if made != again:
        raise Broken("the list is another one each time")
    crates = made["components"]
    names = {crate["name"] for crate in crates}
    if not LINKED <= names or names & NOT_LINKED:
        raise Broken(f"the list lacks {LINKED - names} and has {names & NOT_LINKED}")
    for crate in crates:
        if len(crate.get("hashes", [{}])[0].get("content", "")) != 64 or not crate["licenses"][0]["expression"]:
            raise Broken(f"{crate['name']} has no checksum or no licence in the list")
    refs = {crate["bom-ref"] for crate in [*crates, made["metadata"]["component"]]}
    for row in made["dependencies"]:
        if not {row["ref"], *row["dependsOn"]} <= refs:
            raise Broken(f"{row['ref']} depends on what is not in the list")
    # texts of panics name the file that they are in
    named = re.findall(rb"/crates/([A-Za-z0-9_-]+?)-(\d+\.\d+\.\d+[A-Za-z0-9.+-]*)/src/", binary.read_bytes())
    for name, version in {(name.decode(), version.decode()) for name, version in named}:
        if f"pkg:cargo/{name}@{version}" not in refs:
            raise Broken(f"{name} {version} is in the binary and not in the list")
    if len(set(named)) < 10:
        raise Broken(f"{binary} names only {len(set(named))} crates: nothing to compare with")
    return len(crates)
