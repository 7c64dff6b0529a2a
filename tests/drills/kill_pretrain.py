"""The kill drill of training: two processes are killed at random moments and started again until they are done.

Then every weight, momentum, queue and line of the log must equal, bit for bit, that of a run which nothing disturbed.
Linux only.

    python -m tests.drills.kill_pretrain --kills 50

The moments are spread evenly over the start and a fifth of the training. A kill is, by turns, SIGKILL to both
processes, SIGKILL to one of them, and the signals that ask for a stop, to one of them: SIGTERM, SIGINT, SIGUSR1. In
every third round the newest checkpoint is damaged after one of the kills.
"""

import argparse
import itertools
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch

from tests.conftest import make_video
from tests.processes import finish, start
from vicc.training.checkpoint import CheckpointFolder
from vicc.training.watch.log import read_log

STAGES = ("rgb-1", "flow-1", "rgb-2")
WAYS = ("SIGKILL both", "SIGKILL one", "SIGTERM one", "SIGINT one", "SIGUSR1 one")
_PATIENCE_SECONDS, _PATIENCE_AT_START_SECONDS = 60.0, 5.0


class DrillError(Exception):
    """A run was not what it must be."""


@dataclass(frozen=True)
class Ended:
    """How an attempt was stopped: whether all processes were `training`, and the `seconds` until none was left."""

    training: bool
    seconds: float

    def __str__(self) -> str:
        return f"ended after {self.seconds:.2f} s" if self.training else "while starting"


@dataclass
class Summary:
    """What a drill did; that it returned means that every round ended bit-equal."""

    rounds: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    steps_lost: list[int] = field(default_factory=list)
    seconds_to_end: list[float] = field(default_factory=list)
    damaged: int = 0
    in_training: int = 0
    """Stops that met all processes in the loop of a stage; the others met them while they started or ended one."""

    def __str__(self) -> str:
        lines = [f"{self.rounds} rounds, {sum(self.ways.values())} stops, every round bit-equal"]
        lines += [f"  {count:3d}  {way}" for way, count in sorted(self.ways.items())]
        lines.append(f"  {self.in_training} of them while all processes trained, the others while they started")
        lines.append(f"  {self.damaged} times the newest checkpoint was damaged on top")
        ends, lost = self.seconds_to_end, self.steps_lost
        lines.append(f"  until no process was left: median {statistics.median(ends):.2f} s, at most {max(ends):.2f} s")
        lines.append(f"  steps done again: median {statistics.median(lost)}, at most {max(lost)}")
        return "\n".join(lines)


def drill(
    folder: Path, *, kills: int, seed: int, steps: int, processes: int, say: Callable[[str], None] = print
) -> Summary:
    """Kill a training of three stages on generated videos.

    Args:
        folder: empty; what a failure leaves can be looked at there.
        kills: how often.
        steps: of each stage.

    Raises:
        DrillError: a run differs from the undisturbed one, a process stayed, or one ended as it must not.
    """
    rng = random.Random(seed)
    write_store(folder)
    begins, took = undisturbed(folder, steps, processes)
    expected = results(folder / "undisturbed")
    say(f"undisturbed: {len(STAGES)} stages of {steps} steps in {processes} processes, {took:.1f} s; seed {seed}")
    ways = list(itertools.islice(itertools.cycle(WAYS), kills))
    rng.shuffle(ways)
    summary = Summary()
    run = folder / "run"
    while ways:
        shutil.rmtree(run, ignore_errors=True)
        damage_after = rng.randrange(1, 6) if summary.rounds % 3 == 0 else 0
        while ways:
            # A fifth of the training at most, so that a round takes several stops.
            moment = rng.uniform(begins / 2, begins + (took - begins) / 5)
            ended = attempt(folder, ways[-1], steps, processes, moment, rng)
            if ended is None:
                break  # done before its moment came: the next round takes it
            way = ways.pop()
            summary.ways[way] += 1
            summary.in_training += ended.training
            summary.seconds_to_end += [ended.seconds] if ended.training else []
            summary.steps_lost.append(_steps_ahead(run))
            damage_after -= 1
            damaged = damage_after == 0 and damage_newest(run, rng)
            summary.damaged += damaged
            note = ", newest checkpoint damaged" if damaged else ""
            say(f"{sum(summary.ways.values()):3d}  {way}: {progress_of(run)}, {ended}{note}")
        _train(folder, "run", steps, processes)
        compare(results(run), expected)
        summary.rounds += 1
        say(f"round {summary.rounds}: bit-equal")
    return summary


def write_store(folder: Path) -> None:
    """A store of small videos."""
    for number in range(16):
        make_video(folder / "videos" / f"{number:02d}.mp4", num_frames=20, size=(64, 64), seed=number)
    words = ["prepare", folder / "videos", "--store", folder / "store", "--short-side", "64", "--workers", "1"]
    ((status, said),) = finish(start(words, processes=1, fresh=True))
    if status:
        raise DrillError(f"vicc prepare ended with {status} and said: {said}")


def words_of(folder: Path, run: str, steps: int) -> list[object]:
    """The command: a small network, queues that fill, an epoch of two steps, checkpoints that are often written."""
    changes = ["all.clip_frames=8", "all.size=32", "all.batch_size=8", "all.queue_length=32", "all.queue_from_epoch=1"]
    return [
        *("pretrain", "--recipe", "demo", "--store", folder / "store", "--run", folder / run, "--precision", "fp32"),
        *("--workers", 1, "--split", "grouped", "--checkpoint-minutes", 0.01, "--stages", *STAGES),
        *("--set", *changes, f"all.steps={steps}"),
    ]


def undisturbed(folder: Path, steps: int, processes: int) -> tuple[float, float]:
    """Make the run to compare with; returns the seconds until it logged a step, and until it ended."""
    began = time.monotonic()
    started = start(words_of(folder, "undisturbed", steps), processes, fresh=True)
    log, begins = folder / "undisturbed" / STAGES[0] / "log.jsonl", 0.0
    while any(process.poll() is None for process in started):
        if not begins and log.exists() and log.stat().st_size:
            begins = time.monotonic() - began
        time.sleep(0.02)
    _require_ended("undisturbed", finish(started), (0,))
    return begins, time.monotonic() - began


def _train(folder: Path, run: str, steps: int, processes: int) -> None:
    """Give the command and leave it alone."""
    for status, said in finish(start(words_of(folder, run, steps), processes, fresh=True), seconds=600):
        if status:
            raise DrillError(f"an undisturbed run ended with {status} and said: {said}")


def attempt(folder: Path, way: str, steps: int, processes: int, seconds: float, rng: random.Random) -> "Ended | None":
    """Start the training and stop it after some seconds. None: it was done before."""
    started = start(words_of(folder, "run", steps), processes, fresh=True)
    try:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if all(process.poll() is not None for process in started):
                _require_ended(way, finish(started), (0,))
                return None
            time.sleep(0.002)
        training = in_training(folder / "run", started)
        began = time.monotonic()
        number, _, who = way.partition(" ")
        for process in started if who == "both" else [rng.choice(started)]:
            process.send_signal(getattr(signal, number))
        # One that waits for the others to join would wait ten minutes; torchrun ends it, and so does this.
        found = finish(started, seconds=_PATIENCE_SECONDS if training else _PATIENCE_AT_START_SECONDS)
        ended = time.monotonic() - began
    finally:
        for process in started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    if training and any("killed by the test" in said for _, said in found):
        raise DrillError(f"{way}: still there after {_PATIENCE_SECONDS:.0f} s: {found}")
    if number == "SIGKILL" and any("Traceback" in said for _, said in found):
        raise DrillError(f"{way}: a process ended without a sentence: {found}")
    return Ended(training, ended)


def in_training(run: Path, started: Sequence["subprocess.Popen[str]"]) -> bool:
    """Whether all processes have reached the loop of some stage."""
    beats = [json.loads(path.read_text()) for path in run.glob("*/processes/*.json")]
    return {process.pid for process in started} <= {beat["pid"] for beat in beats}


def _require_ended(way: str, found: Sequence[tuple[int, str]], expected: Sequence[int]) -> None:
    for status, said in found:
        if status not in expected:
            raise DrillError(f"{way}: ended with {status} and said: {said}")


def _steps_ahead(run: Path) -> int:
    """Steps in the logs that no checkpoint holds."""
    ahead = 0
    for name in STAGES:
        if (run / name / "log.jsonl").exists() and not (run / name / "encoder" / "config.json").exists():
            done = sum(line.endswith("\n") for line in (run / name / "log.jsonl").open())
            ahead += max(0, done - CheckpointFolder(run / name).newest_step())
    return ahead


def progress_of(run: Path) -> str:
    """The newest checkpoint of each stage."""
    return ", ".join(f"{name} {CheckpointFolder(run / name).newest_step()}" for name in STAGES)


def damage_newest(run: Path, rng: random.Random) -> bool:
    """Turn a bit of the newest checkpoint of the stage that is being trained, if it has an earlier one."""
    for name in STAGES:
        paths = CheckpointFolder(run / name).paths()
        if not (run / name / "encoder" / "config.json").exists() and len(paths) > 1:
            content = bytearray(paths[0].read_bytes())
            content[rng.randrange(len(content) // 4, len(content) // 2)] ^= 1
            paths[0].unlink()  # not through its second name, best.pt
            paths[0].write_bytes(content)
            return True
    return False


def results(run: Path) -> dict[str, object]:
    """All that a run leaves behind, but for how long steps took."""
    found: dict[str, object] = {}
    for name in STAGES:
        found[f"{name}: log"] = [{**row, "seconds": 0, "waited": 0} for row in read_log(run / name)]
        found[f"{name}: encoder"] = (run / name / "encoder" / "model.safetensors").read_bytes()
        found[f"{name}: checkpoint"] = CheckpointFolder(run / name).load_newest()
    found["recipe"] = json.loads((run / "recipe.json").read_text())
    return found


def compare(found: dict[str, object], expected: dict[str, object]) -> None:
    for name, value in expected.items():
        where = difference(found[name], value)
        if where is not None:
            raise DrillError(f"{name} differs from the undisturbed run at {where or 'its content'}")


def difference(left: object, right: object, path: str = "") -> str | None:
    """Where two results differ, by bits; None if they do not."""
    if isinstance(left, torch.Tensor) and isinstance(right, torch.Tensor):
        return None if left.dtype == right.dtype and torch.equal(left, right) else path
    if isinstance(left, dict) and isinstance(right, dict) and left.keys() == right.keys():
        pairs = ((f"{path}.{key}", left[key], right[key]) for key in left)
    elif isinstance(left, list | tuple) and isinstance(right, list | tuple) and len(left) == len(right):
        pairs = ((f"{path}[{n}]", a, b) for n, (a, b) in enumerate(zip(left, right, strict=True)))
    else:
        return None if left == right else path
    return next((where for name, a, b in pairs if (where := difference(a, b, name)) is not None), None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=40, help="of each stage")
    parser.add_argument("--processes", type=int, default=2)
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vicc-drill-"))
    try:
        print(drill(folder, **vars(options)))
    except DrillError as error:
        raise SystemExit(f"{error}\nThe runs are left in {folder}") from None
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
