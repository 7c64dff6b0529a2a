"""What a training says of itself while it runs: the log, the progress line, the best checkpoint."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vicc.distributed import is_first
from vicc.progress import Advance
from vicc.training.engine import Row
from vicc.training.log import StepLog


class Monitor:
    """Told by the loop of every step and epoch, in all processes; the first one writes and speaks.

    Its state is part of the checkpoint, so that a resumed run judges an epoch as the straight run does.

    Args:
        best_metric: what makes a checkpoint the best; lower is better.
    """

    def __init__(self, *, best_metric: str = "loss") -> None:
        self.best_metric = best_metric
        self.best: float | None = None
        self.improved = False
        self._sum, self._count = 0.0, 0
        self._log: StepLog | None = None
        self._advance: Advance = lambda count, note="": None

    @contextmanager
    def open(self, folder: Path, *, first_step: int, advance: Advance) -> Iterator[None]:
        """Write to the folder of a stage within the block, from step `first_step` on."""
        self._advance = advance
        if is_first():
            self._log = StepLog(folder, first_step=first_step)
        try:
            yield
        finally:
            if self._log is not None:
                self._log.close()

    def steps(self, rows: list[Row]) -> None:
        """Log some steps."""
        self.improved = False
        for row in rows:
            self._sum, self._count = self._sum + row["loss"], self._count + 1
            if self._log is not None:
                self._log.write(row)
        self._advance(len(rows), f"epoch {rows[-1]['epoch']} loss {rows[-1]['loss']:.3f}")

    def epoch(self, epoch: int) -> None:
        """Judge an epoch: whether the checkpoint that comes next is the best until now."""
        metrics = {"loss": self._sum / self._count}
        self._sum, self._count = 0.0, 0
        value = metrics[self.best_metric]
        self.improved = self.best is None or value < self.best
        if self.improved:
            self.best = value

    def sync(self) -> None:
        """Bring the log to the disk; a checkpoint must not be ahead of it."""
        if self._log is not None:
            self._log.sync()

    def state(self) -> dict[str, Any]:
        """What a resume needs."""
        return {"best": self.best, "improved": self.improved, "sum": self._sum, "count": self._count}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take back what `state` gave."""
        self.best, self.improved = state["best"], state["improved"]
        self._sum, self._count = state["sum"], state["count"]
