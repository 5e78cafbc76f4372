"""Follows a page to the letter, in a clean folder: commands as they stand there, those that stay in the background as in terminals of
their own. cargo is a stand-in which hands out the binary that is built already."""

import os
import pty
import select
import shutil
import signal
import subprocess
import tempfile
import termios
import time
from pathlib import Path
from typing import Callable, Dict, List

from chart_checks.helm import Broken

from .pages import Block, simple_commands

LIMIT = 30  # seconds for a command, and for one in the background to be there
PATIENCE = 90  # seconds for a step that waits
WAITS = ("rollout status", "helm test")  # by themselves
SOCKET = "/var/run/secrets/workload-spiffe-uds/socket"  # of an agent that is told of none
PASSPHRASE = b"correct horse\n"
CARGO = """#!/bin/sh
# `run … -- ARGUMENTS` runs the binary; what is only built is built already
[ "$1" = run ] || exit 0
while [ "$1" != -- ]; do shift; done
shift
exec countersign "$@"
"""


class Folder:
    """Where a page is followed."""

    def __init__(self, binary: Path):
        self.folder = tempfile.TemporaryDirectory(prefix="countersign-docs-")
        self.path = Path(self.folder.name) / "work"
        tools = Path(self.folder.name) / "bin"
        for one in (self.path, tools):
            one.mkdir()
        (tools / "countersign").symlink_to(binary)
        (tools / "cargo").write_text(CARGO)
        (tools / "cargo").chmod(0o755)
        self.env = {"PATH": f"{tools}:/usr/local/bin:/usr/bin:/bin", "HOME": str(self.path), "TERM": "dumb"}
        self.background: List[subprocess.Popen] = []
        # What stands for something of a reader's, and what that is by now; whether a command that fails is to be run again later.
        self.filled_in: Dict[str, Callable[[], str]] = {}
        self.waits = False
        # by the last command that has ended
        self.said = ""

    def __enter__(self) -> "Folder":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        self.folder.cleanup()

    def stop(self) -> None:
        """Ends whatever runs in the background."""
        for child in self.background:
            if child.poll() is None:
                os.killpg(child.pid, signal.SIGTERM)
        for child in self.background:
            child.wait(timeout=LIMIT)
        self.background = []

    def follow(self, block: Block) -> None:
        for command in block.commands():
            try:
                for word, mine in self.filled_in.items():
                    if word in command:
                        command = command.replace(word, mine())
                words = simple_commands(command)[0]
                if words[0] == "countersign" and words[1] in ("serve", "agent"):
                    self._start(command, words)
                elif self.waits:
                    self._run_in_time(command)
                else:
                    self._run(command)
            except Broken as error:
                raise Broken(f"{block.where}: {command}: {error}") from error

    def first_line(self, block: Block) -> None:
        """Of a command that goes on for as long as one looks."""
        self.other_terminal(block)
        self.stop()

    def other_terminal(self, block: Block) -> None:
        """Runs there from its first line on, in place of what ran there until now."""
        self.stop()
        for command in block.commands():
            log = self.path / f"terminal-{len(self.background)}.log"
            self._begin(command, log)
            wait("a first line", self.background[-1], log, lambda: "\n" in log.read_text())

    def lose_pair(self) -> None:
        self.stop()
        shutil.rmtree(self.path / "countersign-data")

    def begin_pair(self, *flags: str, data: str = "countersign-data") -> None:
        """It has made its root."""
        command = ["countersign", "serve", *flags]
        self._start(" ".join(command), command)
        log = self.path / f"terminal-{len(self.background) - 1}.log"
        wait("a root", self.background[-1], log, lambda: (self.path / data / "root-cert.pem").exists())

    def answer(self, *command: str) -> str:
        return subprocess.run(command, cwd=self.path, env=self.env, check=True, capture_output=True, text=True, timeout=LIMIT).stdout

    def start_pair(self) -> None:
        self.begin_pair()
        child, log = self.background[-1], self.path / f"terminal-{len(self.background) - 1}.log"
        socket = f"unix://{self.path}/countersign-data/workload.sock"
        wait("an identity of its own", child, log, lambda: self._quiet("countersign", "inspect", socket))
        wait("an answer to operators", child, log, lambda: self._quiet("countersign", "authority", "x509", "show"))

    def _start(self, command: str, words: List[str]) -> None:
        log = self.path / f"terminal-{len(self.background)}.log"
        child = self._begin(command, log)
        if words[1] == "serve":
            wait("the last line of its summary", child, log, lambda: "trust bundle" in log.read_text())
        else:
            socket = self.path / (words[words.index("--socket") + 1] if "--socket" in words else SOCKET)
            wait("an identity on its socket", child, log, lambda: self._quiet("countersign", "inspect", f"unix://{socket}"))

    def _begin(self, command: str, log: Path) -> subprocess.Popen:
        child = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=self.path, env=self.env, stdin=subprocess.DEVNULL,
                                 stdout=log.open("wb"), stderr=subprocess.STDOUT, start_new_session=True)
        self.background.append(child)
        return child

    def _quiet(self, *command: str) -> bool:
        return subprocess.run(command, cwd=self.path, env=self.env, capture_output=True, timeout=LIMIT).returncode == 0

    def _run_in_time(self, command: str) -> None:
        """A step that has to wait fails, and is run again later."""
        end = time.monotonic() + PATIENCE
        while True:
            try:
                return self._run(command)
            except Broken:
                if time.monotonic() > end:
                    raise
            time.sleep(0.5)  # between two attempts

    def _run(self, command: str) -> None:
        """On a terminal: who asks for a passphrase gets one."""
        terminal, inside = pty.openpty()
        child = subprocess.Popen(["bash", "-euo", "pipefail", "-c", command], cwd=self.path, env=self.env, stdin=inside, stdout=inside,
                                 stderr=inside, start_new_session=True)
        os.close(inside)
        said, end = b"", time.monotonic() + (PATIENCE if any(waiting in command for waiting in WAITS) else LIMIT)
        while time.monotonic() < end:
            if not select.select([terminal], [], [], 0.2)[0]:
                continue
            try:
                more = os.read(terminal, 65536)
            except OSError:  # nobody has it open any more
                break
            if not more:
                break
            said += more
            if more.rstrip(b" ").endswith((b"passphrase:", b"the same again:")):
                while time.monotonic() < end and termios.tcgetattr(terminal)[3] & termios.ECHO:
                    time.sleep(0.01)  # what is typed before the terminal is silent is dropped
                os.write(terminal, PASSPHRASE)
        else:
            os.killpg(child.pid, signal.SIGKILL)
        os.close(terminal)
        code, self.said = child.wait(timeout=LIMIT), said.decode(errors="replace").replace("\r\n", "\n")
        if code != 0:
            raise Broken(f"ended with {code}: {self.said.strip()[-800:]}")


def wait(what: str, child: subprocess.Popen, log: Path, there: Callable[[], bool]) -> None:
    end = time.monotonic() + LIMIT
    while not there():
        if child.poll() is not None:
            raise Broken(f"ended with {child.returncode}: {log.read_text()[-800:]}")
        if time.monotonic() > end:
            raise Broken(f"{what} has not come within {LIMIT} s: {log.read_text()[-800:]}")
        time.sleep(0.05)
