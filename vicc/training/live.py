"""The live line: where a training stands, how fast it is, what it waits for, how long it will take."""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import psutil
import torch

from vicc.progress import duration
from vicc.training.engine import Row
from vicc.training.stage import Stage

_SECONDS_LOOKED_BACK = 60.0
_SECONDS_BETWEEN_MEMORY = 5.0
_COST_WITHOUT_GRADIENT = 1 / 3  # backward costs about twice as much as forward


def step_cost(stage: Stage, batch_size: int) -> float:
    """What a step of a stage costs, in a unit that holds for all stages of a recipe: pixels forward and back."""
    trained, rest = stage.clips_encoded
    return batch_size * (trained + rest * _COST_WITHOUT_GRADIENT) * stage.clip_frames * stage.size**2


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


class MemoryMeter:
    """Memory of this process and those it started, in GiB: what is resident, and what was taken of a CUDA device."""

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


def live_note(row: Row, pace: Pace, memory: str, *, steps_left: float, later_steps: float) -> str:
    """One line about now; the progress bar says before it which stage, how many steps, and when the stage is done.

    Args:
        row: of the last step.
        steps_left: of this stage.
        later_steps: of the stages that follow, counted in steps of this one by what they cost.
    """
    parts = [
        f"epoch {row['epoch']} loss {row['loss']:.3f}",
        f"{pace.clips_per_second:.3g} clips/s",
        f"{100 * pace.waited:.0f} % waiting",
        memory,
    ]
    if later_steps and pace.steps_per_second:
        parts.append(f"recipe ETA {duration((steps_left + later_steps) / pace.steps_per_second)}")
    return ", ".join(parts)
