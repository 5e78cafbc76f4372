"""The binary in a root that has nothing but it, certificates and configuration, that can't be written, and whose user is nobody.

Writable are two volumes in memory, as in the chart's pods. Names are resolved by a server of the test: a static libc has its resolver built in.
"""

import ctypes
import errno
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Callable, List, Optional

from chart_checks.helm import Broken
from run import say

LIMIT = 30  # seconds for each thing that is waited for
USER = 65532
PROGRAM, EMULATOR = "/usr/local/bin/countersign", "/usr/local/bin/emulator"
DATA, SOCKETS = "/var/lib/countersign", "/var/run/countersign"
NAME = "ca.mesh.example"
ID = "spiffe://cluster.local/ns/default/sa/gateway"
CONFIG = f"dataDir: {DATA}/data\nlogFormat: json\n"
CLONE_NEWUSER, PR_SET_NO_NEW_PRIVS = 0x10000000, 38
LIBC = ctypes.CDLL(None, use_errno=True)


def check(binary: Path, emulator: Optional[Path] = None) -> None:
    """An emulator, for a binary of another machine, is one static program too, and the only other one there."""
    with tempfile.TemporaryDirectory(prefix="countersign-root-") as folder:
        root = Root(Path(folder), binary, emulator)
        try:
            threading.Thread(target=answer_names, daemon=True).start()
            root.works()
        finally:
            root.end()


class Root:
    def __init__(self, path: Path, binary: Path, emulator: Optional[Path]):
        self.path, self.children, self.program = path, [], [EMULATOR, PROGRAM] if emulator else [PROGRAM]
        mount("tmpfs", path)
        for name in ("etc/countersign", "usr/local/bin", DATA[1:], SOCKETS[1:]):
            (path / name).mkdir(parents=True)
        shutil.copy2(binary, self.within(PROGRAM))
        if emulator:
            shutil.copy2(emulator, self.within(EMULATOR))
        (path / "etc/countersign/config.yaml").write_text(CONFIG)
        # the kubelet's
        (path / "etc/hosts").write_text("127.0.0.1 localhost\n")
        (path / "etc/resolv.conf").write_text("nameserver 127.0.0.1\noptions ndots:5\n")
        for name in (DATA, SOCKETS):
            mount("tmpfs", self.within(name))
            self.within(name).chmod(0o700)
            if is_root():
                os.chown(self.within(name), USER, USER)
        mount("remount,bind,ro", path)
        try:
            (path / "written").touch()
        except OSError as error:
            if error.errno == errno.EROFS:
                return
        raise Broken("the root of the test can be written")

    def within(self, name: str) -> Path:
        return self.path / name.lstrip("/")

    def works(self) -> None:
        if not self.run("--version").startswith("countersign "):
            raise Broken("the binary does not say its version")
        serve = self.start("serve", "--config", "/etc/countersign/config.yaml", "--workload-socket", f"{SOCKETS}/own.sock")
        self.wait("serve has its own identity", serve, lambda: self.inspect("own.sock"))
        token = self.run("token", "default/gateway", "--data-dir", f"{DATA}/data")
        self.give("token", token)
        self.give("root-cert.pem", self.within(f"{DATA}/data/root-cert.pem").read_text())
        agent = self.start("agent", "--ca-address", f"{NAME}:15012", "--ca-server-name", "localhost", "--token-file", f"{SOCKETS}/token",
                           "--root-file", f"{SOCKETS}/root-cert.pem", "--socket", f"{SOCKETS}/agent.sock", "--output-dir", f"{SOCKETS}/files")
        self.wait("the agent has an identity", agent, lambda: self.inspect("agent.sock"))
        shown = self.run("inspect", f"unix://{SOCKETS}/agent.sock")
        if ID not in shown or "verifies to the bundle" not in shown:
            raise Broken(f"inspect shows something else: {shown}")
        self.verify_files()
        if ID not in self.run("issuance", "list", "--data-dir", f"{DATA}/data"):
            raise Broken("the certificate is not on record")
        for name, child in (("serve", serve), ("agent", agent)):
            say(f"{name} in an empty root: {held_to_nothing(child.pid)} KiB resident")

    def verify_files(self) -> None:
        """By somebody else's code."""
        files = self.within(f"{SOCKETS}/files")
        verified = subprocess.run(["openssl", "verify", "-x509_strict", "-CAfile", str(files / "root-cert.pem"), str(files / "cert-chain.pem")],
                                  capture_output=True, text=True)
        if verified.returncode != 0:
            raise Broken(f"openssl: {verified.stdout}{verified.stderr}")

    def give(self, name: str, content: str) -> None:
        """A file as the kubelet mounts it."""
        file = self.within(f"{SOCKETS}/{name}")
        file.write_text(content)
        file.chmod(0o600)
        if is_root():
            os.chown(file, USER, USER)

    def inspect(self, socket_name: str) -> bool:
        return self._call("inspect", f"unix://{SOCKETS}/{socket_name}").returncode == 0

    def run(self, *arguments: str) -> str:
        done = self._call(*arguments)
        if done.returncode != 0:
            raise Broken(f"{' '.join(arguments)} ended with {done.returncode}: {done.stdout}{done.stderr}")
        return done.stdout

    def _call(self, *arguments: str) -> subprocess.CompletedProcess:
        try:
            return subprocess.run([*self.program, *arguments], env={}, capture_output=True, text=True, timeout=LIMIT, preexec_fn=self._enter)
        except FileNotFoundError as error:
            raise Broken(f"the binary does not start in an empty root: {error.strerror}") from error

    def start(self, *arguments: str) -> subprocess.Popen:
        log = (self.path.parent / f"{self.path.name}-{arguments[0]}.log").open("wb")
        try:
            child = subprocess.Popen([*self.program, *arguments], env={}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=self._enter)
        except FileNotFoundError as error:
            raise Broken(f"the binary does not start in an empty root: {error.strerror}") from error
        child.log = Path(log.name)
        self.children.append(child)
        return child

    def wait(self, what: str, child: subprocess.Popen, holds: Callable[[], bool]) -> None:
        end = time.monotonic() + LIMIT
        while not holds():
            if child.poll() is not None or time.monotonic() > end:
                raise Broken(f"not within {LIMIT} s: {what}; ended with {child.returncode}: {child.log.read_text()[-2000:]}")
            time.sleep(0.05)

    def end(self) -> None:
        for child in self.children:
            child.terminate()
        for child in self.children:
            child.wait(timeout=LIMIT)
            child.log.unlink()
        for name in (DATA, SOCKETS, "/"):
            subprocess.run(["umount", str(self.within(name))], check=True)

    def _enter(self) -> None:
        """In the child, before the binary: into the root, as nobody."""
        if is_root():
            os.chroot(self.path)
            os.setgroups([])
            os.setgid(USER)
            os.setuid(USER)
        else:
            # within a user namespace that knows one user alone; another one makes it somebody else
            if LIBC.unshare(CLONE_NEWUSER) != 0:
                raise OSError(ctypes.get_errno(), "unshare")
            for name, text in (("setgroups", "deny"), ("uid_map", f"{USER} 0 1"), ("gid_map", f"{USER} 0 1")):
                Path(f"/proc/self/{name}").write_text(text)
            os.chroot(self.path)
        os.chdir("/")
        LIBC.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def is_root() -> bool:
    """Whether there are other users than this one, as there are not in a user namespace of one."""
    return Path("/proc/self/uid_map").read_text().split()[2] != "1"


def held_to_nothing(pid: int) -> int:
    """Resident KiB of a process that must have no capability, and be another user."""
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line)
    if int(status["CapEff"], 16) or (is_root() and status["Uid"].split() != [str(USER)] * 4):
        raise Broken(f"process {pid} is user {status['Uid']} with capabilities {status['CapEff']}")
    return int(status["VmRSS"].split()[0])


def mount(what: str, where: Path) -> None:
    command: List[str] = ["mount", "-o", what, str(where)] if "," in what else ["mount", "-t", what, what, str(where)]
    subprocess.run(command, check=True)


def answer_names() -> None:
    """A name server that knows one name, of this host."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 53))
        while True:
            query, peer = server.recvfrom(512)
            end = query.index(0, 12)
            labels, at = [], 12
            while query[at]:
                labels.append(query[at + 1:at + 1 + query[at]].decode())
                at += 1 + query[at]
            kind = struct.unpack_from(">H", query, end + 1)[0]
            known = ".".join(labels) == NAME
            answer = struct.pack(">HHHIH4B", 0xC00C, 1, 1, 60, 4, 127, 0, 0, 1) if known and kind == 1 else b""
            flags = 0x8580 if known else 0x8583  # an answer of who knows, or that there is no such name
            server.sendto(query[:2] + struct.pack(">5H", flags, 1, bool(answer), 0, 0) + query[12:end + 5] + answer, peer)
