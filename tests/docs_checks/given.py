"""What a reader has of his own, by the names that the pages give it: an addition to the folder in which a page is followed. It is for a
namespace of mounts, and one of the network, of one's own."""

import http.server
import json
import os
import shutil
import ssl
import subprocess
import threading
from functools import partial
from pathlib import Path

from chart_checks.helm import BINARY as HELM
from run import CARGO, PEERS, ROOT

from .follow import Folder

RUN = Path("/run")
# Of hosts that pages name. All of them are here.
HOSTS = ["localhost", "ca.example", "bundles.two.example", "other.example"]
# A step of a rotation waits for certificates to end, and for readings of the bundle.
QUICK = {"SVID_TTL": "8s", "MAX_SVID_TTL": "8s", "BUNDLE_REFRESH_HINT": "2s"}


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def settle() -> None:
    """A /run of one's own, and the hosts."""
    subprocess.run(["mount", "-t", "tmpfs", "run", str(RUN)], check=True)
    hosts = RUN / "hosts"
    hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in HOSTS))
    subprocess.run(["mount", "--bind", str(hosts), "/etc/hosts"], check=True)


def two_trust_domains(folder: Folder) -> None:
    """The pair of the other one has its bundle endpoint at the default port."""
    folder.begin_pair("--data-dir", "two", "--trust-domain", "two.example", "--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", data="two")
    (folder.path / "two-root-cert.pem").write_bytes((folder.path / "two" / "root-cert.pem").read_bytes())
    folder.start_pair()


def quick_rotation(folder: Folder) -> None:
    """One that takes seconds."""
    folder.env.update({f"COUNTERSIGN_{name}": value for name, value in QUICK.items()})
    folder.start_pair()

    def of(phase: str) -> str:
        shown = json.loads(folder.answer("countersign", "authority", "x509", "show", "-o", "json"))["authorities"]
        return next(one["id"] for one in shown if one["phase"] == phase)

    first = of("active")
    folder.filled_in = {"ID": lambda: of("prepared"), "5f0c…": lambda: first}
    folder.waits = True


def two_tokens(folder: Folder) -> None:
    """Of a CA at ca.example that is not in this folder."""
    folder.begin_pair("--dns-name", "ca.example")
    for place in ("tokens", "secrets/istio", "secrets/workload-spiffe-uds"):
        (RUN / place).mkdir(parents=True)
    (RUN / "secrets/istio/root-cert.pem").write_bytes((folder.path / "countersign-data" / "root-cert.pem").read_bytes())
    for account in ("edge", "api"):
        token = RUN / "tokens" / account
        token.touch(0o600)
        token.write_text(folder.answer("countersign", "token", f"default/{account}"))


def things_to_inspect(folder: Folder) -> None:
    """A JWT-SVID, as a workload has it, and a server of the web that tells a bundle at a place of its own."""
    folder.begin_pair("--workload-socket", "/run/countersign/workload.sock")
    client = [str(PEERS / "bin" / "spiffe-client"), "--socket", "unix:///run/countersign/workload.sock", "--mode", "jwt", "--audiences", "reader"]
    (folder.path / "svid.token").write_text(json.loads(folder.answer(*client))["token"])
    fetch = ["curl", "--silent", "--show-error", "--fail", "--cacert", "countersign-data/root-cert.pem", "https://localhost:8443/"]
    (folder.path / "bundle").write_text(folder.answer(*fetch))
    folder.answer("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1", "-subj", "/CN=other.example",
                  "-addext", "subjectAltName=DNS:other.example", "-keyout", "web-key.pem", "-out", "web.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(folder.path / "web.pem", folder.path / "web-key.pem")
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 443), partial(Quiet, directory=str(folder.path)))
    server.socket = tls.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    folder.env["CURL_CA_BUNDLE"] = "web.pem"


def checkout(folder: Folder) -> None:
    """What one who makes a release has: the repository, and its tools."""
    links = {folder.path / "tests": ROOT / "tests", folder.path / "charts": ROOT / "charts", Path(folder.env["PATH"].split(":")[0]) / "helm": HELM}
    for link, target in links.items():
        if not link.exists():
            link.symlink_to(target)
    own = {name: os.environ[name] for name in ("HOME", "CARGO_HOME", "RUSTUP_HOME") if name in os.environ}
    folder.env.update({**own, "CARGO": shutil.which(CARGO)})


def agent_of_readme(folder: Folder) -> None:
    """What stands elsewhere of its flags."""
    folder.begin_pair()
    token = folder.path / "token"
    token.touch(0o600)
    token.write_text(folder.answer("countersign", "token", "default/gateway"))
    (RUN / "secrets").mkdir(exist_ok=True)
    flags = "--ca-address 127.0.0.1:15012 --token-file token --root-file countersign-data/root-cert.pem --socket agent.sock"
    folder.filled_in = {"…": lambda: flags}
