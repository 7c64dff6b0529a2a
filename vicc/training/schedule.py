"""How long a stage is, and its learning rate: pure functions of the step, so that a resume needs
nothing else.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from vicc.errors import ViccError
from vicc.training.stage import Stage


@dataclass(frozen=True)
class StageLength:
    """A stage on a number of videos.

    Attributes:
        batch_size: videos a step, of all processes; fewer than the stage asks for where there are
            not so many.
        steps_per_epoch: whole batches of an epoch.
        schedule_steps: what the learning rate counts with.
        steps: what is done; fewer than `schedule_steps` where the stage has a stop_epoch.
    """

    batch_size: int
    steps_per_epoch: int
    schedule_steps: int
    steps: int


def stage_length(stage: Stage, num_videos: int, processes: int = 1) -> StageLength:
    """The steps of a stage on so many training videos, each of which the processes share evenly.

    Raises:
        ViccError: a batch that cannot be shared evenly or has too few videos for the method, or fewer
            videos than processes.
    """
    length = stage.length
    if length.batch_size % processes:
        near = max(1, round(length.batch_size / processes)) * processes
        raise ViccError(
            f"Stage {stage.name}: {processes} processes cannot share a batch of {length.batch_size} videos evenly. "
            f"Start another number of processes, or give --set {stage.name}.batch_size={near}."
        )
    if num_videos < processes:
        raise ViccError(f"{processes} processes share {num_videos} training videos; expected at least one for each.")
    batch_size = min(length.batch_size, num_videos // processes * processes)
    if batch_size < (fewest := stage.settings.fewest_in_batch()):
        few = num_videos < fewest
        raise ViccError(
            f"Stage {stage.name}: its method compares the videos of a step with each other; expected at least {fewest} "
            f"a step, got {batch_size} of {num_videos} training videos. "
            + ("Give more videos." if few else f"Give --set {stage.name}.batch_size={fewest}, or more.")
        )
    steps_per_epoch = num_videos // batch_size
    schedule_steps = length.steps if length.steps is not None else (length.epochs or 0) * steps_per_epoch
    steps = schedule_steps if length.stop_epoch is None else length.stop_epoch * steps_per_epoch
    return StageLength(batch_size, steps_per_epoch, schedule_steps, steps)


def stage_learning_rate(stage: Stage, length: StageLength) -> Callable[[int], float]:
    """The learning rate of each step of a stage, counted from 0."""
    if stage.schedule.name == "step":
        return partial(
            step_learning_rate,
            steps_per_epoch=length.steps_per_epoch,
            base=stage.schedule.learning_rate,
            milestones=stage.schedule.milestones,
            decay=stage.schedule.decay,
        )
    return partial(
        cosine_learning_rate,
        total_steps=length.schedule_steps,
        base=stage.schedule.learning_rate,
        final=stage.schedule.final_learning_rate,
        warmup_steps=stage.schedule.warmup_steps,
    )


def cosine_learning_rate(step: int, *, total_steps: int, base: float, final: float, warmup_steps: int = 0) -> float:
    """Learning rate of step `step`, counted from 0: linear from near 0 to `base`, then half a
    cosine towards `final`.

    The published schedule has no warm-up and reaches `final` one step after the last.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * done))


def step_learning_rate(
    step: int, *, steps_per_epoch: int, base: float, milestones: Sequence[int], decay: float
) -> float:
    """Learning rate of step `step`, counted from 0: `base`, times `decay` from each milestone epoch
    on.
    """
    epoch = step // steps_per_epoch
    return base * decay ** sum(epoch >= milestone for milestone in milestones)
