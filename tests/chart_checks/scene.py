"""A place in which processes of this machine have a fault, and what is seen of them."""

import os
import re
import signal
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Dict, Tuple

from .cluster import free_port
from .helm import Broken
from .pair import LIMIT, Process, metrics
from .recordings import Recording
from .scrapes import BINARY, until

DOMAIN, IDENTITY = "gateways.example", "spiffe://gateways.example/ns/default/sa/gateway"
# A minute of promtool's for a second here.
STRETCH = 60


class Scene:
    """Processes in a folder, ended with its `with`; those of `shown` are looked at."""

    def __init__(self, running: ExitStack) -> None:
        self.folder = Path(running.enter_context(tempfile.TemporaryDirectory()))
        self.running, self.processes, self.admins, self.shown = running, {}, {}, []
        self.ports: Dict[str, int] = {}
        self.recording = Recording(stretch=STRETCH)

    def start(self, pod: str, *arguments: str, is_shown: bool = True) -> Process:
        admin = self.admins.setdefault(pod, free_port())
        log = self.folder / f"{pod}-{time.monotonic_ns()}.log"
        self.processes[pod] = self.running.enter_context(Process(BINARY, [*arguments, f"--admin-listen=127.0.0.1:{admin}"], {}, log))
        if is_shown and pod not in self.shown:
            self.shown.append(pod)
        return self.processes[pod]

    def replica(self, pod: str, *more: str, data: str = "data", is_shown: bool = True, domain: str = DOMAIN) -> None:
        port = self.ports.setdefault(pod, free_port())
        self.start(pod, "serve", f"--data-dir={self.folder / data}", f"--trust-domain={domain}", f"--listen=127.0.0.1:{port}", *more,
                   is_shown=is_shown)
        self.ready(pod)

    def before_istiod(self, pod: str, istiod: str, *more: str, domain: str = DOMAIN) -> None:
        port = self.ports.setdefault(pod, free_port())
        self.start(pod, "serve", "--source=istiod", f"--listen=127.0.0.1:{port}", f"--trust-domain={domain}",
                   f"--istiod-address=127.0.0.1:{self.ports[istiod]}", f"--istiod-root-file={self.root()}",
                   f"--istiod-token-file={self.token()}", *more)

    def agent(self, pod: str, of: str, *more: str, domain: str = DOMAIN, is_shown: bool = True) -> None:
        self.start(pod, "agent", f"--ca-address=127.0.0.1:{self.ports[of]}", f"--token-file={self.token()}", f"--root-file={self.root()}",
                   f"--socket={self.folder / pod}.sock", f"--trust-domain={domain}", *more, is_shown=is_shown)

    def root(self) -> Path:
        return self.folder / "data" / "root-cert.pem"

    def token(self) -> Path:
        file = self.folder / "token"
        if not file.exists():
            made = self.command("token", "default/gateway", "--lifetime", "10m")
            file.touch(0o600)
            file.write_text(made)
        return file

    def command(self, *arguments: str) -> str:
        done = subprocess.run([str(BINARY), *arguments, "--data-dir", str(self.folder / "data")], capture_output=True, text=True, env={},
                              timeout=LIMIT, cwd=self.folder)
        if done.returncode != 0:
            raise Broken(f"countersign {' '.join(arguments)} ended with {done.returncode}: {done.stderr}")
        return done.stdout

    def ready(self, pod: str) -> None:
        self.processes[pod].wait_until(self.admins[pod], 200)

    def end(self, pod: str) -> None:
        self.processes[pod].__exit__()

    def stand_still(self, pod: str) -> None:
        child = self.processes[pod].child
        child.send_signal(signal.SIGSTOP)
        os.waitpid(child.pid, os.WUNTRACED)

    def page(self, pod: str) -> str:
        return metrics(self.admins[pod])

    def seen(self) -> Tuple[float, Dict[str, str]]:
        """Of all that answer."""
        pages = {}
        for pod in self.shown:
            try:
                pages[pod] = self.page(pod)
            except OSError:
                continue
        return time.time(), pages

    def watch(self, rounds: int) -> None:
        """A round each second."""
        begin = time.monotonic()
        for at in range(rounds):
            time.sleep(max(0.0, begin + at - time.monotonic()))
            self.recording.rounds.append(self.seen())

    def goes_wrong(self) -> None:
        self.recording.fault = len(self.recording.rounds)

    def shows(self, pod: str, text: str) -> None:
        """Until its metrics have what a regular expression asks for."""
        def missing() -> str:
            try:
                page = self.page(pod)
            except OSError as error:
                return f"{error}; its log: {self.processes[pod].log.read_text()[-1000:]}"
            return "" if re.search(text, page, re.MULTILINE) else page

        until(f"{pod} shows {text}", missing)
