"""A forked program is a process like any other: its words, environment, folder, files, signals and status."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.forking import Forked, run

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="processes are forked on Linux alone")

READY = "import sys, time; print('ready', flush=True); time.sleep(60)"


def test_it_has_its_own_words_environment_folder_and_path(tmp_path: Path) -> None:
    code = "import os, sys; print(sys.argv, os.environ.get('ONLY_HERE'), os.getcwd(), sys.path[:2]); sys.exit(7)"
    environment = {**os.environ, "ONLY_HERE": "yes", "PYTHONPATH": "/elsewhere"}
    done = run(["-c", code, "a", 2], cwd=tmp_path, env=environment)
    assert done.returncode == 7
    assert done.stdout == f"{['-c', 'a', '2']} yes {tmp_path} {['', '/elsewhere']}\n"
    assert "ONLY_HERE" not in os.environ


def test_it_reads_and_writes_the_files_it_is_given() -> None:
    code = "import sys; print(sys.stdin.read().upper()); print('aside', file=sys.stderr)"
    with Forked(["-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.communicate("grüße", timeout=60) == ("GRÜSSE\n", "aside\n")
    assert process.returncode == 0


def test_it_is_a_child_of_this_process_and_loaded_already() -> None:
    done = run(["-c", "import os, sys; print(os.getppid(), 'torch._dynamo' in sys.modules)"])
    assert done.stdout == f"{os.getpid()} True\n"


def test_one_does_not_see_what_another_did() -> None:
    run(["-c", "import torch; torch.left_behind = True; torch.manual_seed(5)"], check=True)
    assert run(["-c", "import torch; print(hasattr(torch, 'left_behind'))"]).stdout == "False\n"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_signal_ends_it_with_the_status_of_that_signal(number: signal.Signals) -> None:
    with Forked(["-c", READY], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        _, said = process.communicate(timeout=60)
    assert process.returncode == -number
    assert ("KeyboardInterrupt" in said) == (number == signal.SIGINT)


def test_a_session_of_its_own_and_a_limit_of_its_files(tmp_path: Path) -> None:
    code = (
        "import os; print(os.getsid(0) == os.getpid(), flush=True); "
        "file = open('large', 'wb'); file.write(bytes(1000)); file.close()"
    )
    with Forked(
        ["-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        largest_file=100,
    ) as process:  # fmt: skip
        out, said = process.communicate(timeout=60)
    assert out == "True\n"
    assert "File too large" in said
    assert process.returncode == 1
