"""Certificates that have lived for a year, with so much of their life left."""

import shutil
import subprocess
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import List

from .helm import Broken
from .scene import DOMAIN

# What they have left.
EXPIRES = {"long": timedelta(days=400), "short": timedelta(days=20), "ending": timedelta(days=5)}
LIVED = timedelta(days=365)


def openssl(folder: Path, *arguments: str) -> None:
    done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, cwd=folder)
    if done.returncode != 0:
        raise Broken(f"openssl {' '.join(arguments)}: {done.stderr}")


def certified(folder: Path, name: str, life: str, extensions: str, *by: str) -> None:
    """NAME.pem with NAME-key.pem, signed by a certificate and its key if not by itself, that has lived for a year."""
    now = datetime.now(timezone.utc)
    begin, end = (f"{at:%Y%m%d%H%M%SZ}" for at in (now - LIVED, now + EXPIRES[life]))
    (folder / "extensions").write_text(extensions)
    (folder / "index").write_text("")
    # of all the commands of openssl it is `ca` that can date back, whatever its version
    (folder / "ca.conf").write_text("[ca]\ndefault_ca=it\n[it]\ndatabase=index\nrand_serial=yes\nnew_certs_dir=.\ndefault_md=sha256\npolicy=any\n"
                                    "[any]\norganizationName=optional\n")
    openssl(folder, "ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", f"{name}-key.pem")
    openssl(folder, "req", "-new", "-key", f"{name}-key.pem", "-subj", f"/O={name}", "-out", "request")
    signer = ["-cert", by[0], "-keyfile", by[1]] if by else ["-selfsign", "-keyfile", f"{name}-key.pem"]
    openssl(folder, "ca", "-batch", "-notext", "-config", "ca.conf", "-in", "request", "-out", f"{name}.pem", "-extfile", "extensions", *signer,
            "-startdate", begin, "-enddate", end)


def root_from(folder: Path, life: str, domain: str = DOMAIN, between: str = "") -> Path:
    """A directory with a root and an authority that have so many days left, as Istio's `cacerts` has them, with another one in between if
    that is given a life of its own."""
    made, place = folder / f"made-{life}{between}", folder / f"root-{life}{between}"
    for one in (made, place):
        one.mkdir()
    extensions = (f"basicConstraints=critical,CA:true\nkeyUsage=critical,keyCertSign,cRLSign\nsubjectAltName=URI:spiffe://{domain}\n"
                  "subjectKeyIdentifier=hash\nauthorityKeyIdentifier=keyid\n")
    lives = {"root": life, **({"above": between} if between else {}), "ca": life}
    issuer: List[str] = []
    for name, own in lives.items():
        certified(made, name, own, extensions, *issuer)
        issuer = [f"{name}.pem", f"{name}-key.pem"]
    for file, name in {"root": "root-cert", "ca": "ca-cert", "ca-key": "ca-key"}.items():
        shutil.copy(made / f"{file}.pem", place / f"{name}.pem")
    chain = [made / f"{name}.pem" for name in reversed(lives) if name != "root"]
    (place / "cert-chain.pem").write_text("".join(file.read_text() for file in chain))
    return place
