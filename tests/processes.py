"""Start vicc in several processes, as torchrun does, without the seconds that it and imports take."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterable
from typing import Any

from tests.forking import ROOT, Forked


def start(words: Iterable[object], processes: int = 2, *, fresh: bool = False) -> list["subprocess.Popen[str]"]:
    """Processes of one `vicc` command, by rank; one process is started without any of torchrun's variables.

    Args:
        fresh: start interpreters that load everything themselves, as a user's do.
    """
    command = ["-m", "vicc", *map(str, words)]
    port = free_port()
    started = []
    for rank in range(processes):
        ranks = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        variables = {name: str(value) for name, value in (ranks | address if processes > 1 else {}).items()}
        options: dict[str, Any] = {
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "cwd": ROOT,
            "start_new_session": True,
            "env": {**os.environ, "OMP_NUM_THREADS": "1", **variables},
        }
        if fresh:
            started.append(subprocess.Popen([sys.executable, *command], text=True, **options))
        else:
            started.append(Forked(command, **options))
    return started


def finish(started: list["subprocess.Popen[str]"], *, seconds: float = 300) -> list[tuple[int, str]]:
    """Exit status and standard error of each, waited for; one that outlasts the time is killed."""
    found = []
    for process in started:
        try:
            _, said = process.communicate(timeout=seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            _, said = process.communicate()
            said += f"\nkilled by the test after {seconds} s"
        found.append((process.returncode, said))
    return found


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
