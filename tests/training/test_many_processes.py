"""Training in several processes: it follows one process, survives the loss of one, and goes on with another number."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from tests.drills.kill_pretrain import difference
from tests.processes import ROOT, finish, free_port, start
from vicc.cli import main
from vicc.errors import ViccError
from vicc.methods.queue import EmbeddingQueue
from vicc.training.checkpoint import CheckpointFolder
from vicc.training.schedule import stage_length
from vicc.training.stage import Recipe
from vicc.training.watch.log import read_log

PATIENCE = 300  # seconds, for a machine that does much else


def command(store: Path, run: Path, *changes: str, stages: tuple[str, ...] = ("rgb-1",)) -> list[object]:
    small = ("all.clip_frames=8", "all.size=32", "all.num_prototypes=6")
    options = ["--recipe", "demo", "--store", store, "--run", run, "--workers", 0, "--stages", *stages]
    return ["pretrain", *options, "--set", *small, *changes]


def losses(run: Path, stage: str) -> list[float]:
    return [row["loss"] for row in read_log(run / stage)]


def test_two_processes_follow_one(store_path: Path, tmp_path: Path) -> None:
    """In float64 with joint BatchNorm, through queue and frozen prototypes, in both stages of ViCC."""
    stages = ("rgb-1", "flow-1", "rgb-2")
    both = ("all.steps=5", "all.batchnorm=sync", "all.queue_from_epoch=0", "all.freeze_prototypes_epochs=1")
    both += ("all.batch_size=6", "all.queue_length=12")
    started = [
        start([*command(store_path, tmp_path / name, *both, stages=stages), "--precision", "fp64"], processes)
        for name, processes in (("one", 1), ("two", 2))
    ]
    for processes in started:
        for status, said in finish(processes):
            assert status == 0, said
    for stage in stages:
        one, two = losses(tmp_path / "one", stage), losses(tmp_path / "two", stage)
        assert len(one) == 5
        assert len(set(one)) == 5, "it learns"
        # The published targets are float32, which bounds how near two orders of a sum can come.
        assert two == pytest.approx(one, rel=1e-6)
    states = [CheckpointFolder(tmp_path / name / "rgb-2").load_newest() for name in ("one", "two")]
    assert states[0] is not None
    assert states[1] is not None
    queues = [rank["task"]["queue"]["rows"] for rank in states[1]["ranks"]]
    assert len(queues) == 2
    assert not torch.equal(*queues), "each process has a queue of its own"
    for name, weight in states[0]["model"].items():
        torch.testing.assert_close(states[1]["model"][name], weight, rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_torchrun_starts_anew_when_a_process_is_killed_and_ends_bit_equal(store_path: Path, tmp_path: Path) -> None:
    changes = ("all.steps=20", "all.batch_size=6", "all.queue_length=12", "all.queue_from_epoch=0")
    straight = start(command(store_path, tmp_path / "straight", *changes))
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    words = [
        *torchrun,
        "--master-port",
        free_port(),
        "-m",
        "--",
        "vicc",
        *command(store_path, tmp_path / "r", *changes),
    ]
    with subprocess.Popen(
        list(map(str, words)), cwd=ROOT, stderr=subprocess.PIPE, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    ) as process:
        beats = tmp_path / "r" / "rgb-1" / "processes" / "1.json"
        checkpoints = CheckpointFolder(tmp_path / "r" / "rgb-1")
        end = time.monotonic() + PATIENCE
        while not (beats.exists() and 0 < checkpoints.newest_step() < 20):
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        os.kill(json.loads(beats.read_text())["pid"], signal.SIGKILL)
        _, said = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, said
    for status, problem in finish(straight):
        assert status == 0, problem
    assert "rgb-1: resumes after step" in said
    states = [CheckpointFolder(tmp_path / name / "rgb-1").load_newest() for name in ("straight", "r")]
    assert difference(*states) is None
    assert losses(tmp_path / "r", "rgb-1") == losses(tmp_path / "straight", "rgb-1")


@pytest.fixture(scope="module")
def begun_with_two(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[list[object], int, str]:
    """A run in float64, its queue full, of two processes, one of which was killed: the command, then exit status and
    standard error of the other one."""
    run = tmp_path_factory.mktemp("elastic") / "run"
    changes = ("all.steps=2000", "all.batch_size=6", "all.queue_length=12", "all.queue_from_epoch=0")
    words = [*command(store_path, run, *changes, "all.batchnorm=sync"), "--precision", "fp64"]
    started = start(words)
    wait_for_step(run, 4, started)
    started[1].kill()
    (status, said), _ = finish(started)
    return words, status, said


def wait_for_step(run: Path, step: int, started: "list[subprocess.Popen[str]]") -> None:
    end = time.monotonic() + PATIENCE
    while CheckpointFolder(run / "rgb-1").newest_step() < step:
        assert all(process.poll() is None for process in started), finish(started)
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_process_that_loses_another_says_so_and_ends(begun_with_two: tuple[list[object], int, str]) -> None:
    _, status, said = begun_with_two
    assert status == 2
    assert "Process 0 has lost another one of the 2" in said
    assert "Traceback" not in said


def test_another_number_of_processes_is_refused(
    begun_with_two: tuple[list[object], int, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(word) for word in begun_with_two[0]]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "started with 2 processes and now has 1" in said
    assert "--allow-elastic" in said


def test_with_leave_one_process_goes_on_as_two_would_have(
    begun_with_two: tuple[list[object], int, str], tmp_path: Path
) -> None:
    """Both go on from the same checkpoint for some steps; the queue's rows are those of both processes."""
    begun, *_ = begun_with_two
    run = Path(str(begun[begun.index("--run") + 1]))
    stopped_at = CheckpointFolder(run / "rgb-1").newest_step()
    words: dict[int, list[object]] = {}
    for processes in (1, 2):
        copy = Path(shutil.copytree(run, tmp_path / str(processes)))
        words[processes] = [copy if word == run else word for word in begun]
    started = {1: start([*words[1], "--allow-elastic"], processes=1), 2: start(words[2])}
    for processes, group in started.items():
        wait_for_step(tmp_path / str(processes), stopped_at + 6, group)
        group[0].terminate()
        ended = finish(group)
        assert [status for status, _ in ended] == [130] * processes, "one that is asked to stop stops all"
        said = ended[0][1]
        assert ("goes on with 1 processes in place of 2" in " ".join(said.split())) == (processes == 1)
    one, two = (losses(tmp_path / str(processes), "rgb-1") for processes in (1, 2))
    assert one[: stopped_at + 6] == pytest.approx(two[: stopped_at + 6], rel=1e-6)
    assert len(set(one)) > stopped_at


def test_queues_are_redistributed_by_age_and_no_row_twice() -> None:
    """Rows are numbered by process and age: 100 is the first process's newest, 107 its oldest."""
    queues = []
    for process in (100, 200):
        queue = EmbeddingQueue(2, 8, 1)
        queue.rows = (process + torch.arange(8.0)).repeat(2, 1)[:, :, None]
        queues.append(queue.state_dict())
    small = EmbeddingQueue(2, 8, 1)
    of_one = small.redistribute(queues, 0, 1)["rows"][0, :, 0].tolist()
    assert of_one == [100, 200, 101, 201, 102, 202, 103, 203], "the newest of both"
    of_four = [small.redistribute(queues, rank, 4)["rows"][1, :, 0].tolist() for rank in range(4)]
    assert sorted(row for rows in of_four for row in rows if row) == [*range(100, 108), *range(200, 208)]
    assert all(rows[-1] == 0 for rows in of_four), "not full: it takes part when it is"


def test_processes_share_a_batch_evenly_or_are_refused(tiny_recipe: Recipe) -> None:
    stage = tiny_recipe.stages[0].replace(batch_size=12)
    assert [stage_length(stage, 100, processes).steps_per_epoch for processes in (1, 3, 4)] == [8, 8, 8]
    assert stage_length(stage, 11, 4).batch_size == 8, "no process has more videos than another"
    with pytest.raises(ViccError, match=r"5 processes cannot share a batch of 12 videos.*batch_size=10"):
        stage_length(stage, 100, 5)
    with pytest.raises(ViccError, match="4 processes share 3 training videos"):
        stage_length(stage, 3, 4)
