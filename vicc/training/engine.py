"""THE loop. It knows no method and no stream, only the contract of `vicc.methods.task.Task`."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

import torch

from vicc.batch import Batch
from vicc.device import Precision
from vicc.errors import ViccError
from vicc.methods.task import Task
from vicc.progress import Advance
from vicc.training.log import StepLog


class Stopped(Exception):  # noqa: N818 - not an error: somebody asked for it
    """Training was asked to stop and has written a checkpoint; the same command goes on from there."""


@dataclass
class Position:
    """Where a stage stands: `step` steps are done, of `total_steps`; an epoch has `steps_per_epoch`."""

    step: int
    total_steps: int
    steps_per_epoch: int

    @property
    def epoch(self) -> int:
        return self.step // self.steps_per_epoch


def train(
    task: Task,
    batches: Iterable[Batch],
    optimizer: torch.optim.Optimizer,
    position: Position,
    *,
    learning_rate: Callable[[int], float],
    precision: Precision,
    log: StepLog,
    save: Callable[[], None],
    advance: Advance,
    should_stop: Callable[[int], bool] = lambda step: False,
    seconds_between_checkpoints: float = 600.0,
) -> None:
    """Train from `position` to the end of the stage.

    Args:
        batches: exactly the batches of the remaining steps.
        learning_rate: of a step.
        save: writes a checkpoint of everything, `position` included.
        should_stop: asked after every step with the number of steps done; True saves and raises `Stopped`; a signal
            (Ctrl-C, SIGTERM, SIGUSR1) does the same.

    Raises:
        Stopped: asked to stop.
        ViccError: the loss is not finite. The last checkpoint stays as it is.
    """
    task.train()
    saved_at = ended = time.monotonic()
    with _stop_signals() as stop_asked:
        for batch in batches:
            began = time.monotonic()
            epoch, rate = position.epoch, learning_rate(position.step)
            for group in optimizer.param_groups:
                group["lr"] = rate
            task.before_step()
            with precision.autocast():
                outputs = task(batch.to(precision.device), epoch)
            optimizer.zero_grad()
            outputs["loss"].backward()
            task.cancel_gradients(epoch)
            optimizer.step()

            scalars = {name: value.item() for name, value in outputs.items()}
            if not math.isfinite(scalars["loss"]):
                raise ViccError(
                    f"The loss is {scalars['loss']} at step {position.step}: training has diverged. The last "
                    "checkpoint is kept. Try a smaller learning rate, a longer warm-up or --precision fp32."
                )
            log.write(
                {
                    "step": position.step,
                    "epoch": epoch,
                    **scalars,
                    "learning_rate": rate,
                    "waited": round(began - ended, 4),
                    "seconds": round(time.monotonic() - began, 4),
                }
            )
            position.step += 1
            advance(1, f"epoch {epoch} loss {scalars['loss']:.3f}")

            ended = time.monotonic()

            if stop_asked() or should_stop(position.step):
                save()
                raise Stopped
            if time.monotonic() - saved_at >= seconds_between_checkpoints:
                save()
                saved_at = time.monotonic()
    save()


@contextmanager
def _stop_signals() -> Iterator[Callable[[], bool]]:
    """Turn the first Ctrl-C, SIGTERM or SIGUSR1 into a question that answers True; a second Ctrl-C ends at once."""
    asked = False

    def ask(number: int, frame: FrameType | None) -> None:
        nonlocal asked
        if asked and number == signal.SIGINT:
            raise KeyboardInterrupt
        asked = True

    try:
        before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)}
    except ValueError:  # not the main thread: whoever started the thread handles signals
        before = {}
    try:
        yield lambda: asked
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
