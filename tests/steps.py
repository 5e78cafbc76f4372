"""A step of the test command: how it runs a command, and what the failures in its output said."""

import os
import signal
import subprocess
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Deque, Dict, List, Optional

ROOT = Path(__file__).resolve().parent.parent
HEARTBEAT = 30  # seconds of silence after which a running step says that it still runs
MINUTE = 60
# Of a panic's message, which may hold a whole log; of the output of a command that ends without one.
LINES_OF_A_PANIC = 12
LENGTH_OF_A_LINE = 500
LAST_LINES = 15


class Failed(Exception):
    """A step did not do what it is there for: the reason, and what was said of it."""

    def __init__(self, reason: str, said: str = "") -> None:
        super().__init__(reason)
        self.said = said


@dataclass
class Step:
    stage: int
    name: str
    estimate: str
    limit: int
    run: Callable[["Step"], None]


def say(text: str = "") -> None:
    print(text, flush=True)


def run(step: Step, command: List[str], cwd: Path = ROOT, env: Optional[Dict[str, str]] = None) -> None:
    """Runs a command with its output on the terminal, in a process group of its own, ended with it at the limit."""
    say("$ " + " ".join(str(word) for word in command))
    try:
        child = subprocess.Popen(
            command, cwd=cwd, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True, errors="replace", start_new_session=True
        )
    except OSError as error:
        raise Failed(f"{command[0]} does not start: {error.strerror or error}") from error
    output = Output(child)
    begin = time.monotonic()
    try:
        while True:
            left = begin + step.limit - time.monotonic()
            if left <= 0:
                raise Failed(f"not done after {step.limit // MINUTE} min: {command[0]} was ended", output.said())
            try:
                code = child.wait(timeout=min(HEARTBEAT, left))
                break
            except subprocess.TimeoutExpired:
                say(f"... {step.name}: {time.monotonic() - begin:.0f} s")
    finally:
        if child.poll() is None:
            end_group(child)
    output.end()
    if code != 0:
        text = f"{Path(command[0]).name} ended with {'signal ' if code < 0 else 'code '}{abs(code)}"
        raise Failed(text, output.said())


class Output:
    """Passes on what a command says, and keeps what is worth to be read again: its panics, or else its last lines."""

    def __init__(self, child: subprocess.Popen) -> None:
        self.child = child
        self.panics: List[str] = []
        self.last: Deque[str] = deque(maxlen=LAST_LINES)
        self.reader = threading.Thread(target=self.read, daemon=True)
        self.reader.start()

    def read(self) -> None:
        lines_left = 0
        for line in self.child.stdout:
            print(line, end="", flush=True)
            line = line.rstrip()[:LENGTH_OF_A_LINE]
            self.last.append(line)
            if " panicked at " in line:
                lines_left = LINES_OF_A_PANIC
            elif line.startswith("stack backtrace:"):
                lines_left = 0
            if lines_left:
                self.panics.append(line)
                lines_left -= 1

    def end(self) -> None:
        """Somebody whom the command left behind may still hold the pipe."""
        self.reader.join(timeout=5)

    def said(self) -> str:
        return "\n".join(self.panics or self.last)


def end_group(child: subprocess.Popen) -> None:
    for sign, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
        try:
            os.killpg(child.pid, sign)
            child.wait(timeout=patience)
            return
        except ProcessLookupError:
            return
        except subprocess.TimeoutExpired:
            continue
