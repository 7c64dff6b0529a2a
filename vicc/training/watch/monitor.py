"""What is written and printed while a stage trains: log, live line, warnings, evaluations, the best
checkpoint.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from vicc.distributed import is_first, world_size
from vicc.progress import Advance
from vicc.training.configs import SinkName
from vicc.training.engine import Row
from vicc.training.schedule import StageLength
from vicc.training.stage import Stage
from vicc.training.watch.alarms import SLOW_STEPS, Alarm, Facts
from vicc.training.watch.live import MemoryMeter, PaceMeter, SlownessMeter, live_note
from vicc.training.watch.record import StageRecord


class Monitor:
    """Notified by the loop of every step and epoch, in all processes; the first process writes and
    prints.

    Its state is part of the checkpoint, so that a resumed run judges an epoch as the straight run
    does.

    Args:
        evaluate: what to measure of the encoder, called in all processes; None for nothing.
        evaluate_epochs: epochs from one evaluation to the next; there is one at the end of the
            stage, and none so shortly before it.
        log_to: sinks beside the log.
        workers: processes that load clips, for the alarms.
        later_steps: of the stages that follow, counted in steps of this one, for the live line.
        planned_seconds: of a step, where that was measured, to see when steps are slower.
        best_metric: what makes a checkpoint the best: "loss", of which less is better, or a recall
            or accuracy.
    """

    def __init__(
        self,
        stage: Stage,
        length: StageLength,
        *,
        evaluate: Callable[[], dict[str, float]] | None = None,
        evaluate_epochs: int = 1,
        log_to: Sequence[SinkName] = (),
        workers: int = 0,
        later_steps: float = 0.0,
        planned_seconds: float | None = None,
        best_metric: str = "loss",
    ) -> None:
        self._facts = Facts(stage, length, world_size(), workers)
        self._evaluate, self._evaluate_epochs = evaluate, evaluate_epochs
        self._log_to = log_to
        self._later_steps = later_steps
        self._slowness = SlownessMeter(planned_seconds)
        self.best_metric = best_metric
        self.best: float | None = None
        self.improved = False
        self._sum, self._count = 0.0, 0
        self._record: StageRecord | None = None
        self._advance: Advance = lambda count, note="": None

    @contextmanager
    def open(self, folder: Path, *, first_step: int, advance: Advance) -> Iterator[None]:
        """Write to the folder of a stage within the block, from step `first_step` on."""
        self._advance = advance
        clips = self._facts.length.batch_size * sum(self._facts.stage.settings.clips_encoded())
        self._pace, self._memory = PaceMeter(clips), MemoryMeter()
        if is_first():
            self._record = StageRecord(
                folder, self._facts, first_step=first_step, clips_per_step=clips, log_to=self._log_to
            )
        try:
            yield
        finally:
            if self._record is not None:
                self._record.close()

    def steps(self, rows: list[Row]) -> None:
        """Log some steps."""
        self.improved = False
        for row in rows:
            self._sum, self._count = self._sum + row["loss"], self._count + 1
        if self._record is None:
            return
        self._record.steps(rows)
        slowness = self._slowness.steps(rows)
        if slowness is not None:
            message = slowness.message(torch.get_num_threads())
            self._record.alarm(Alarm(SLOW_STEPS, rows[-1]["step"], f"{self._facts.stage.name}: {message}"))
        note = live_note(
            rows[-1],
            self._pace.steps(rows),
            self._memory.text(),
            steps_left=self._facts.length.steps - rows[-1]["step"] - 1,
            later_steps=self._later_steps,
            slowness=slowness,
        )
        self._advance(len(rows), note)

    def epoch(self, epoch: int) -> None:
        """Judge an epoch: whether the checkpoint that comes next is the best until now."""
        done = (epoch + 1) * self._facts.length.steps_per_epoch
        left = (self._facts.length.steps - done) / self._facts.length.steps_per_epoch
        due = (epoch + 1) % max(1, self._evaluate_epochs) == 0 and left >= self._evaluate_epochs
        found = self._evaluate() if self._evaluate is not None and (due or left == 0) else {}
        metrics = {"loss": self._sum / self._count, **found}
        self._sum, self._count = 0.0, 0
        self.improved = self.best_metric in metrics and self._is_better(metrics[self.best_metric])
        if self.improved:
            self.best = metrics[self.best_metric]
        if self._record is not None:
            self._record.epoch(found)

    def _is_better(self, value: float) -> bool:
        if self.best is None:
            return True
        # Of equal shares, which few videos often give, the later one has learned more.
        return value < self.best if self.best_metric == "loss" else value >= self.best

    def finish(self) -> None:
        """The stage is done: evaluate what a last, unfinished epoch has made, and draw the curves."""
        if self._facts.length.steps % self._facts.length.steps_per_epoch:
            found = {} if self._evaluate is None else self._evaluate()
            if self._record is not None:
                self._record.epoch(found)
        if self._record is not None:
            self._record.sync()
            self._record.draw()

    def why_not_finite(self, precision: str) -> str:
        """What the first process's log tells of a loss that is not finite; empty in the others."""
        return "" if self._record is None else self._record.why_not_finite(precision)

    def sync(self) -> None:
        """Bring the log to the disk; a checkpoint must not be ahead of it."""
        if self._record is not None:
            self._record.sync()

    def state_dict(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"best": self.best, "improved": self.improved, "sum": self._sum, "count": self._count}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take back what `state_dict` gave."""
        self.best, self.improved = state["best"], state["improved"]
        self._sum, self._count = state["sum"], state["count"]
