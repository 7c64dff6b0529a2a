"""THE loop. It knows no method and no stream, only the contract of `vicc.methods.task.Task`."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import Any, Protocol

import torch

from vicc.batch import Batch
from vicc.distributed import any_process, mean_of_all
from vicc.errors import Diverged
from vicc.training.step import TrainingStep
from vicc.training.watch.watchdog import Watchdog

Row = dict[str, Any]
"""A line of the log."""

_SECONDS_BETWEEN_CTRL_C = 1.0


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """Training was asked to stop and has written a checkpoint; the same command goes on from there."""


@dataclass
class Position:
    """Where a stage stands: `step` steps are done, of `total_steps`; an epoch has
    `steps_per_epoch`.
    """

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch

    def state_dict(self) -> dict[str, int]:
        """What a resume needs."""
        return {"step": self.step, "steps_per_epoch": self.steps_per_epoch}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Take back what `state_dict` gave, of a stage whose epochs have as many steps."""
        self.step, self.steps_per_epoch = state["step"], state["steps_per_epoch"]


class Observer(Protocol):
    """What the loop reports to, in every process."""

    def steps(self, rows: list[Row]) -> None:
        """Some steps are done; their rows are the same in all processes but for the times."""

    def epoch(self, epoch: int) -> None:
        """An epoch is done; its checkpoint comes next."""


@dataclass
class _Unfetched:
    """Rows whose values are still on the device, so that no step waits for it."""

    rows: list[Row] = field(default_factory=list)
    values: list[torch.Tensor] = field(default_factory=list)

    def add(self, scalars: dict[str, torch.Tensor], row: Row) -> None:
        """A step's values, and its row with None in their places."""
        self.rows.append(row)
        # All digits where there are any to keep; Apple's GPUs have no float64.
        kind = torch.float64 if all(value.device.type == "cpu" for value in scalars.values()) else torch.float32
        self.values.append(torch.stack([value.to(kind) for value in scalars.values()]))

    def fetch(self) -> list[Row]:
        """The rows with their values, the mean over all processes.

        Raises:
            Diverged: a loss is not finite.
        """
        if not self.rows:
            return []
        values = mean_of_all(torch.stack(self.values).cpu().double()).tolist()
        rows = self.rows
        self.rows, self.values = [], []
        for row, numbers in zip(rows, values, strict=True):
            row.update(zip([name for name, value in row.items() if value is None], numbers, strict=True))
            if not math.isfinite(row["loss"]):
                raise Diverged(f"The loss is {row['loss']} at step {row['step']}", step=row["step"])
        return rows


def train(
    step: TrainingStep,
    batches: Iterable[Batch],
    position: Position,
    *,
    learning_rate: Callable[[int], float],
    observer: Observer,
    save: Callable[[], None],
    watchdog: Watchdog,
    should_stop: Callable[[int], bool] = lambda step: False,
    seconds_between_checkpoints: float = 600.0,
    fetch_every: int = 1,
) -> None:
    """Train from `position` to the end of the stage.

    Args:
        batches: exactly the batches of the remaining steps.
        learning_rate: of a step.
        save: writes a checkpoint of everything, `position` included; called in all processes.
        should_stop: asked after every step with the number of steps done; True saves and raises
            `Stopped`; a signal (Ctrl-C, SIGTERM, SIGUSR1) does the same. One process that is asked
            stops all.
        fetch_every: steps after which values are fetched from the device, looked at and reported.

    Raises:
        Stopped: asked to stop.
        Diverged: the loss is not finite. The last checkpoint stays as it is.
    """
    step.task.train()
    unfetched = _Unfetched()
    saved_at = ended = time.monotonic()
    with _stop_signals() as stop_asked:
        watchdog.at("loads", position.step)
        for batch in batches:
            began = time.monotonic()
            watchdog.at("computes", position.step)
            epoch, rate = position.epoch, learning_rate(position.step)
            scalars = step(batch, epoch, learning_rate=rate)
            unfetched.add(
                scalars,
                {
                    "step": position.step,
                    "epoch": epoch,
                    **dict.fromkeys(scalars),
                    "learning_rate": rate,
                    "waited": round(began - ended, 4),
                    "seconds": round(time.monotonic() - began, 4),
                },
            )
            position.step += 1

            due = time.monotonic() - saved_at >= seconds_between_checkpoints
            stop, due = any_process([stop_asked() or should_stop(position.step), due])
            end_of_epoch = position.step % position.steps_per_epoch == 0
            save_now = stop or due or end_of_epoch or position.step == position.total_steps
            if save_now or len(unfetched.rows) >= fetch_every:
                looked = time.monotonic()
                rows = unfetched.fetch()
                # The wait for the device is part of the steps.
                rows[-1]["seconds"] = round(rows[-1]["seconds"] + time.monotonic() - looked, 4)
                observer.steps(rows)
            if end_of_epoch:
                watchdog.at("evaluates", position.step)
                observer.epoch(epoch)
            if save_now:
                watchdog.at("saves", position.step)
                save()
                saved_at = time.monotonic()
            if stop:
                raise Stopped
            ended = time.monotonic()
            watchdog.at("loads", position.step)


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into a question that answers True; a second Ctrl-C
    ends at once.

    A second one that comes at once is the first, passed on by torchrun.
    """
    asked_at: float | None = None

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked_at
        now = time.monotonic()
        if asked_at is not None and number == signal.SIGINT and now - asked_at > _SECONDS_BETWEEN_CTRL_C:
            raise KeyboardInterrupt
        asked_at = asked_at or now

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not the main thread: whoever started the thread handles signals
        before = {}
    try:
        yield lambda: asked_at is not None
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
