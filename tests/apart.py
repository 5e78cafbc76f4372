"""Runs a test once more in namespaces of its own, as root or by a user namespace."""

import os
import shutil
import subprocess
import sys
from typing import Dict, List, Tuple

ALONE = "COUNTERSIGN_TEST_APART"


def is_apart() -> bool:
    return bool(os.environ.get(ALONE))


def part() -> str:
    """Which one this process does."""
    return os.environ[ALONE]


def begin(*namespaces: str) -> None:
    """Returns within them, with a loopback device that is up. What was done before is done again there."""
    if is_apart():
        settle()
        return
    command, env = again(namespaces, "all")
    os.execvpe(command[0], command, env)


def start(*namespaces: str, part: str) -> subprocess.Popen:
    """Does a part of it beside this process, which goes on. What it says is its `stdout`."""
    command, env = again(namespaces, part)
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)


def settle() -> None:
    """The loopback device."""
    subprocess.run([shutil.which("ip") or "ip", "link", "set", "lo", "up"], check=True)


def again(namespaces: Tuple[str, ...], part: str) -> Tuple[List[str], Dict[str, str]]:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    user = [] if os.geteuid() == 0 else ["--user", "--map-root-user"]
    command = ["unshare", *user, *(f"--{name}" for name in namespaces), sys.executable, *sys.argv]
    return command, {**os.environ, "PATH": path, ALONE: part}
