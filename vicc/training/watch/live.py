"""The live line: where a training stands, how fast it is, what it waits for, how long it will take."""

import math
import os
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import psutil
import torch

from vicc.device import process_cores
from vicc.progress import duration
from vicc.training.engine import Row
from vicc.training.stage import Stage

_SECONDS_LOOKED_BACK = 60.0
_SECONDS_BETWEEN_MEMORY = 5.0
_STEPS_JUDGED, _SLOW_TIMES, _SECONDS_JUDGED = 9, 3.0, 10.0
_COST_WITHOUT_GRADIENT = 1 / 3  # backward costs about twice as much as forward


def step_cost(stage: Stage, batch_size: int) -> float:
    """What a step of a stage costs, in a unit that holds for all stages of a recipe: pixels forward
    and back.
    """
    trained, rest = stage.settings.clips_encoded()
    return batch_size * (trained + rest * _COST_WITHOUT_GRADIENT) * stage.encoder.clip_frames * stage.encoder.size**2


@dataclass(frozen=True)
class Pace:
    """How fast it went lately.

    Attributes:
        steps_per_second: all that happens in between included.
        clips_per_second: encoded clips, with and without gradient, of all processes.
        waited: share of the time spent waiting for clips.
    """

    steps_per_second: float
    clips_per_second: float
    waited: float


def _cores() -> int:
    """Of this machine, for all processes that train together on it."""
    return process_cores() * int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


@dataclass(frozen=True)
class Slowness:
    """Steps that take `seconds` each, where `expected` were planned (`was_planned`), or measured
    before.

    Attributes:
        load: average number of programs that want to compute, over the last minute.
        cores: that the training may use.
    """

    seconds: float
    expected: float
    was_planned: bool
    load: float
    cores: int

    @property
    def times(self) -> float:
        """How many times slower than expected."""
        return self.seconds / max(1e-9, self.expected)

    @property
    def note(self) -> str:
        """For the live line."""
        than = "planned" if self.was_planned else "before"
        return f"{self.times:.0f} x slower than {than} (load {self.load:.1f} on {self.cores} cores)"

    def message(self, threads: int) -> str:
        """What to do about it, for a process that computes in so many threads."""
        than = "they were planned to take" if self.was_planned else "they took before"
        told = f"a step takes {self.seconds:.2g} s, {self.times:.0f} times what {than} ({self.expected:.2g} s)"
        load = f"The load average is {self.load:.1f} on {self.cores} cores"
        if self.load < self.cores + 0.5:
            return (
                f"{told}. {load}, so other programs are not the reason: look at the disk, and whether memory is short."
            )
        if threads == 1:
            return f"{told}. {load}: other programs compute here as well. End them, or let it take its time."
        return (
            f"{told}. {load}: other programs compute here as well, and the {threads} threads wait for each other. End "
            "them, or stop this (Ctrl-C) and go on with --threads 1 --allow-elastic, which is faster beside them; the "
            "result is then no longer bit-equal to that of an undisturbed run."
        )


class PaceMeter:
    """Measures `Pace` over the last minute.

    Args:
        clips_per_step: of all processes.
    """

    def __init__(self, clips_per_step: int) -> None:
        self._clips = clips_per_step
        self._marks: deque[tuple[float, int, float]] = deque([(time.monotonic(), 0, 0.0)])

    def steps(self, rows: Sequence[Row]) -> Pace:
        """Count some steps; returns the pace with them."""
        now = time.monotonic()
        _, steps, waited = self._marks[-1]
        self._marks.append((now, steps + len(rows), waited + sum(row["waited"] for row in rows)))
        while len(self._marks) > 2 and now - self._marks[1][0] > _SECONDS_LOOKED_BACK:
            self._marks.popleft()
        (then, steps_then, waited_then), (_, steps, waited) = self._marks[0], self._marks[-1]
        seconds = max(1e-9, now - then)
        rate = (steps - steps_then) / seconds
        return Pace(rate, rate * self._clips, min(1.0, (waited - waited_then) / seconds))


class SlownessMeter:
    """Finds steps that take several times what they were planned to take, or took before.

    Args:
        planned_seconds: of a step, clips loaded; None where nothing was measured.
    """

    def __init__(self, planned_seconds: float | None) -> None:
        self._planned = math.inf if planned_seconds is None else planned_seconds
        self._fastest = math.inf
        self._last: deque[float] = deque(maxlen=_STEPS_JUDGED)

    def steps(self, rows: Sequence[Row]) -> Slowness | None:
        """Count some steps; returns how slow the last ones are, None where they are not."""
        # The middle of several, so that one long step (a first one, a stopped program) is none. On
        # an accelerator the time of many steps stands in the row of the last.
        self._last.append(sum(row["seconds"] + row["waited"] for row in rows) / len(rows))
        if len(self._last) < _STEPS_JUDGED:
            return None
        seconds = median(self._last)
        self._fastest = min(self._fastest, seconds)
        expected = min(self._planned, self._fastest)
        if seconds < _SLOW_TIMES * expected or seconds * _STEPS_JUDGED < _SECONDS_JUDGED:
            return None
        return Slowness(seconds, expected, expected == self._planned, os.getloadavg()[0], _cores())


class MemoryMeter:
    """Memory of this process and those it started, in GiB: what is resident, and what was taken of
    a CUDA device.
    """

    def __init__(self) -> None:
        self._looked_at = -_SECONDS_BETWEEN_MEMORY
        self._text = ""

    def text(self) -> str:
        """For instance "3.1 GiB" or "3.1 GiB, GPU 12.4 GiB"; looked up anew every few seconds."""
        if time.monotonic() - self._looked_at >= _SECONDS_BETWEEN_MEMORY:
            self._looked_at = time.monotonic()
            self._text = f"{resident_bytes() / 2**30:.1f} GiB"
            if torch.cuda.is_available():
                self._text += f", GPU {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB"
        return self._text


def resident_bytes() -> int:
    """Resident memory of this process and all below it; pages that they share count for each."""
    own = psutil.Process()
    total = 0
    for process in [own, *own.children(recursive=True)]:
        try:
            total += process.memory_info().rss
        except psutil.Error:
            continue  # it has ended since
    return total


def live_note(
    row: Row, pace: Pace, memory: str, *, steps_left: float, later_steps: float, slowness: Slowness | None = None
) -> str:
    """One line about now; the progress bar says before it which stage, how many steps, and when the
    stage is done.

    Args:
        row: of the last step.
        steps_left: of this stage.
        later_steps: of the stages that follow, counted in steps of this one by what they cost.
        slowness: of the last steps, where they are slow.
    """
    parts = [
        f"epoch {row['epoch']} loss {row['loss']:.3f}",
        f"{pace.clips_per_second:.3g} clips/s",
        f"{100 * pace.waited:.0f} % waiting",
        memory,
    ]
    if slowness is not None:
        parts.append(slowness.note)
    if later_steps and pace.steps_per_second:
        parts.append(f"recipe ETA {duration((steps_left + later_steps) / pace.steps_per_second)}")
    return ", ".join(parts)
