"""Jobs of a real Slurm: submitted, signalled, pre-empted, requeued, refused, finished. `make test-slurm` starts one.

Only on the cluster of tests/slurm/one_machine.sh: nobody's queue is to be filled by tests.
"""

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vicc.cli import main
from vicc.training.watch.log import read_log

pytestmark = pytest.mark.slurm
ROOT = Path(__file__).parents[2]
# Enough steps to be met in the middle of them, none of which takes long. Pre-emption takes Slurm longer than a signal.
STEPS = {"rgb-1": 40, "flow-1": 60}
CHANGES = (*(f"{stage}.steps={count}" for stage, count in STEPS.items()), "all.batch_size=4", "all.size=32")
CHANGES += ("all.clip_frames=8", "all.num_prototypes=6")


@pytest.fixture(autouse=True)
def _one_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    # By its file: without a Slurm that runs, asking it takes nine seconds.
    file = Path(os.environ.get("SLURM_CONF", "/etc/slurm/slurm.conf"))
    if not file.exists() or not re.search(r"^ClusterName=one-machine$", file.read_text(), re.MULTILINE):
        pytest.skip("needs the Slurm of tests/slurm/one_machine.sh: make test-slurm")
    # The jobs' vicc is the one that is tested.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}:{os.environ['PATH']}")


def slurm(*words: str) -> str:
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()


def of_job(job: str, what: str) -> str:
    """A field of `scontrol show job`, such as JobState."""
    match = re.search(rf"\b{what}=(\S+)", slurm("scontrol", "show", "job", job))
    assert match is not None
    return match[1]


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 240, log: Path | None = None) -> None:
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            said = log.read_text() if log is not None and log.exists() else ""
            pytest.fail(f"not within {seconds} s: {what}\n{slurm('squeue')}\n{said}")
        time.sleep(0.1)


def steps_done(run: Path, stage: str) -> int:
    return len(read_log(run / stage))


def results(run: Path) -> dict[str, object]:
    """What must not depend on what happened on the way."""
    return {
        stage: (
            (run / stage / "encoder" / "model.safetensors").read_bytes(),
            [(row["step"], row["loss"], row["learning_rate"]) for row in read_log(run / stage)],
        )
        for stage in STEPS
    }


def command(store: Path, run: Path, *changes: str) -> list[str]:
    words = ["pretrain", "--recipe", "demo", "--store", str(store), "--run", str(run), "--stages", *STEPS]
    return [*words, "--set", *CHANGES, *changes]


def submit(words: list[str], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The numbers of the jobs of the two stages."""
    capsys.readouterr()
    assert main([*words, "--launcher", "slurm", "--json"]) == 0
    return [job["job"] for job in json.loads(capsys.readouterr().out)["jobs"]]


# In this order, two at a time: while the first waits for the clock on one node, the last two use the other.


def test_a_job_goes_back_to_the_queue_before_its_time_is_over_until_somebody_cancels_it(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Slurm looks at the clock every 30 seconds: with a minute's limit the signal comes after 18 to 48."""
    run = tmp_path / "run"
    words = [*command(store_path, run, "all.steps=1000000"), "--workers", "1"]  # which get the signals, too
    jobs = submit([*words, "--tasks-per-node", "1", "--time", "1", "--signal-minutes", "0.2"], capsys)
    log = run / "slurm" / f"{jobs[0]}_0_log.out"
    wait_until(lambda: of_job(jobs[0], "Restarts") == "1", "requeued", log=log)
    before = steps_done(run, "rgb-1")
    assert before > 0
    wait_until(lambda: steps_done(run, "rgb-1") > before, "trains again", log=log)
    said = log.read_text()
    assert f"job {jobs[0]} goes back to the queue" in said
    assert f"resumes after step {before} of" in said

    slurm("scancel", jobs[0])
    wait_until(lambda: not slurm("squeue", "--noheader", f"--jobs={','.join(jobs)}"), "cancelled", log=log)
    assert [of_job(job, "JobState") for job in jobs] == ["CANCELLED", "CANCELLED"]
    assert "does not go back to the queue by itself" in log.read_text().removeprefix(said)


def test_signalled_and_preempted_jobs_end_equal_to_the_bit_to_undisturbed_ones(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes on two nodes; the undisturbed ones are srun's own, without the launcher."""
    run, straight = tmp_path / "run", tmp_path / "straight"
    words = [*command(store_path, run), "--nodes", "2", "--tasks-per-node", "1", "--time", "10"]
    jobs = submit(words, capsys)
    logs = [run / "slurm" / f"{job}_0_log.out" for job in jobs]

    assert main([*words, "--launcher", "slurm"]) == 2
    refusal = capsys.readouterr().err
    assert all(f"{job} (run-{stage}, " in refusal for job, stage in zip(jobs, STEPS, strict=True))

    wait_until(lambda: steps_done(run, "rgb-1") > 0, "the first stage trains", log=logs[0])
    slurm("scancel", "--signal=USR1", jobs[0])  # what Slurm sends before the time is over
    wait_until(lambda: of_job(jobs[0], "JobState") == "PENDING", "back in the queue", log=logs[0])
    assert 0 < steps_done(run, "rgb-1") < STEPS["rgb-1"]

    wait_until(lambda: steps_done(run, "flow-1") > 0, "the second stage trains", log=logs[1])
    assert (of_job(jobs[0], "JobState"), of_job(jobs[0], "Restarts")) == ("COMPLETED", "1")
    slurm("sbatch", "--partition=urgent", "--nodes=2", f"--output={tmp_path}/urgent.log", "--wrap=hostname")
    wait_until(lambda: of_job(jobs[1], "JobState") == "PENDING", "pre-empted", log=logs[1])
    assert 0 < steps_done(run, "flow-1") < STEPS["flow-1"]
    wait_until(lambda: of_job(jobs[1], "JobState") == "COMPLETED", "finished", log=logs[1])
    assert of_job(jobs[1], "Restarts") == "1"

    slurm("srun", "--nodes=2", "--ntasks=2", "vicc", *command(store_path, straight))
    assert results(run) == results(straight)


def test_a_job_that_fails_stays_failed_and_what_waits_for_it_is_cancelled(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*command(store_path, tmp_path / "run", "all.learning_rate=1e30"), "--tasks-per-node", "1", "--time", "10"]
    jobs = submit(words, capsys)
    log = tmp_path / "run" / "slurm" / f"{jobs[0]}_0_log.out"
    wait_until(lambda: of_job(jobs[1], "JobState") == "CANCELLED", "the second is cancelled", log=log)
    assert (of_job(jobs[0], "JobState"), of_job(jobs[0], "Restarts")) == ("FAILED", "0")
    assert "training has diverged" in log.read_text()


def test_the_plain_file_goes_back_to_the_queue_and_finishes(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """slurm/pretrain.sbatch, edited as a user would."""
    text = (ROOT / "slurm" / "pretrain.sbatch").read_text()
    for before, after in [
        ("#SBATCH --ntasks-per-node=4\n", "#SBATCH --ntasks-per-node=1\n"),
        ("#SBATCH --gpus-per-node=4\n", ""),
        ("#SBATCH --cpus-per-task=8\n", "#SBATCH --cpus-per-task=1\n"),
        ("#SBATCH --mem=128G\n", ""),
    ]:
        assert before in text
        text = text.replace(before, after)
    (tmp_path / "pretrain.sbatch").write_text(text)
    run = tmp_path / "run"
    for name, value in [("STORE", store_path), ("RUN", run), ("RECIPE", "demo")]:
        monkeypatch.setenv(name, str(value))
    monkeypatch.chdir(tmp_path)
    more = ["--stages", "rgb-1", "--workers", "1", "--set", *CHANGES]
    job = slurm("sbatch", "--parsable", "pretrain.sbatch", *more)
    log = tmp_path / f"pretrain-{job}.log"
    wait_until(lambda: steps_done(run, "rgb-1") > 0, "trains", log=log)
    slurm("scancel", "--signal=USR1", job)
    wait_until(lambda: of_job(job, "JobState") == "COMPLETED", "finished", log=log)
    assert of_job(job, "Restarts") == "1"
    assert [row["step"] for row in read_log(run / "rgb-1")] == list(range(STEPS["rgb-1"]))
    assert (run / "rgb-1" / "encoder" / "config.json").exists()
