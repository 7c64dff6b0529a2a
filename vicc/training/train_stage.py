"""One stage of a run, from its newest checkpoint to its end: what pretraining and classifiers have
in common.
"""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vicc.data.dataset import ClipDataset
from vicc.data.frame_reader import FrameReader
from vicc.data.loader import ClipLoader, EpochBatches, worker_deaths_named
from vicc.data.records import Video
from vicc.device import Precision
from vicc.distributed import gathered, is_first, on_first, rank, world_size
from vicc.errors import Diverged, ViccError
from vicc.methods.task import Task
from vicc.progress import progress, say
from vicc.training.build import build_dataset, build_step
from vicc.training.checkpoint import CheckpointFolder, load_checkpoint
from vicc.training.configs import TrainingConfig
from vicc.training.cost import StageCost
from vicc.training.engine import Position, Stopped, train
from vicc.training.plan import num_workers
from vicc.training.schedule import StageLength, stage_learning_rate, stage_length
from vicc.training.stage import Stage
from vicc.training.state import rank_state, restore, training_state
from vicc.training.step import TrainingStep
from vicc.training.watch.divergence import keep_batch, require_finite
from vicc.training.watch.live import step_cost
from vicc.training.watch.monitor import Monitor
from vicc.training.watch.views import VIEWS_FILE, write_views
from vicc.training.watch.watchdog import Watchdog

_FETCH_EVERY = 16  # steps: on an accelerator, whose work a look at the loss would wait for


@dataclass(frozen=True)
class StageGoal:
    """What a stage is trained for: all that the loop and its surroundings do not know.

    Attributes:
        new_task: the method, its encoders with the weights they start from.
        evaluation: of the task on its device, its training clips and the precision: what measures
            it while it trains, called in all processes.
        evaluate_epochs: epochs from one such measurement to the next; 0 for none.
        best_metric: what makes a checkpoint the best, see `Monitor`.
        save_result: writes what the stage has made into its folder; called in all processes, of
            which the first one writes. The folder's encoder must come last: it says that the stage
            is finished.
    """

    new_task: Callable[[], Task]
    evaluation: Callable[[Task, ClipDataset, Precision], Callable[[], dict[str, float]]]
    evaluate_epochs: int
    best_metric: str
    save_result: Callable[[Path, Task, Precision], None]


def train_stage(
    stage: Stage,
    number: int,
    goal: StageGoal,
    config: TrainingConfig,
    store: FrameReader,
    videos: list[Video],
    precision: Precision,
    *,
    later: Sequence[Stage] = (),
    planned: StageCost | None = None,
    on_start: Callable[[int], None],
    should_stop: Callable[[int], bool],
) -> None:
    """Train a stage to its end, from its newest checkpoint if there is one. All processes call it.

    Args:
        number: place of the stage in its recipe.
        later: stages that follow, for the time that is left.
        planned: what the stage was measured to take, where it was.
        on_start: called in the first process with the steps done before, when all that could refuse
            the stage has been checked and nothing is written yet.
        should_stop: called after every step with the steps done.

    Raises:
        Stopped: asked to stop; a checkpoint has been written.
        ViccError: the loss is not finite, a checkpoint of other settings or none that is whole, a
            video that cannot be read.
    """
    folder = config.run / stage.name
    torch.manual_seed(stage_seed(config.seed, f"{number}/{stage.name}"))
    task = goal.new_task()
    step = build_step(stage, task, precision, config)
    precision = step.precision  # fp32 in place of bf16, where clips are short
    length = stage_length(stage, len(videos), world_size())
    position = Position(step=0, total_steps=length.steps, steps_per_epoch=length.steps_per_epoch)
    if not is_first():
        torch.manual_seed(stage_seed(config.seed, f"{number}/{stage.name}/process {rank()}"))
    if length.batch_size < (asked := stage.length.batch_size):
        say(f"{stage.name}: batches of {length.batch_size}, not {asked}: there are no more training videos")
    seed = stage_seed(config.seed, stage.name)
    dataset = build_dataset(stage, task, store, videos, seed=seed)
    checkpoints = CheckpointFolder(folder, keep=config.keep_checkpoints)
    monitor = _monitor(stage, length, goal, config, goal.evaluation(task, dataset, precision), later, planned)
    _resume(folder, checkpoints, stage, step, position, monitor)

    def save() -> None:
        require_finite(task)
        monitor.sync()
        state = training_state(stage, step, position, monitor, gathered(rank_state(task, precision.device)))
        on_first(lambda: checkpoints.save(state, best=monitor.improved))

    loader = _new_loader(dataset, position, config, precision, batch_size=length.batch_size, seed=seed)
    on_first(lambda: on_start(position.step))
    on_first(partial(_write_views, folder / VIEWS_FILE, dataset, stage))
    with (
        _stops_explained(stage, position, monitor, precision, partial(keep_batch, folder, loader)),
        progress(stage.name, total=position.total_steps, start=position.step, unit="steps") as advance,
        monitor.open(folder, first_step=position.step, advance=advance),
        Watchdog(folder, minutes=config.hang_minutes, videos=loader.loading) as watchdog,
        worker_deaths_named(),
    ):
        train(
            step,
            loader,
            position,
            learning_rate=stage_learning_rate(stage, length),
            observer=monitor,
            save=save,
            watchdog=watchdog,
            should_stop=should_stop,
            seconds_between_checkpoints=60 * config.checkpoint_minutes,
            fetch_every=1 if precision.device.type == "cpu" else _FETCH_EVERY,
        )
        monitor.finish()
    goal.save_result(folder, task, precision)


@contextmanager
def _stops_explained(
    stage: Stage, position: Position, monitor: Monitor, precision: Precision, keep: Callable[[int], str]
) -> Iterator[None]:
    """Say after which step a stage was stopped; of a loss that is not finite say why, and `keep`
    its batch.
    """
    try:
        yield
    except Diverged as error:
        at = position.step if error.step is None else error.step
        raise ViccError(f"{error} {monitor.why_not_finite(precision.name)} {keep(at)}") from error
    except Stopped:
        say(f"{stage.name}: stopped after step {position.step} of {position.total_steps}; the same command continues")
        raise


def _new_loader(
    dataset: ClipDataset,
    position: Position,
    config: TrainingConfig,
    precision: Precision,
    *,
    batch_size: int,
    seed: int,
) -> ClipLoader:
    """This process's part of every batch from `position` to the end of the stage."""
    batches = EpochBatches(
        len(dataset),
        batch_size // world_size(),
        first_step=position.step,
        last_step=position.total_steps,
        seed=seed,
        rank=rank(),
        world_size=world_size(),
    )
    return ClipLoader(
        dataset,
        batches,
        workers=num_workers(config.workers),
        pin_memory=precision.device.type == "cuda",
    )


def _monitor(
    stage: Stage,
    length: StageLength,
    goal: StageGoal,
    config: TrainingConfig,
    evaluate: Callable[[], dict[str, float]],
    later: Sequence[Stage],
    planned: StageCost | None,
) -> Monitor:
    num_videos = length.steps_per_epoch * length.batch_size
    costs = (
        stage_length(after, num_videos, world_size()).steps * step_cost(after, length.batch_size) for after in later
    )
    return Monitor(
        stage,
        length,
        evaluate=evaluate if goal.evaluate_epochs else None,
        evaluate_epochs=goal.evaluate_epochs,
        log_to=config.log_to,
        workers=num_workers(config.workers),
        best_metric=goal.best_metric,
        later_steps=sum(costs) / step_cost(stage, length.batch_size),
        planned_seconds=None if planned is None or not planned.steps else planned.seconds / planned.steps,
    )


def _write_views(path: Path, dataset: ClipDataset, stage: Stage) -> None:
    if not path.exists():
        write_views(path, dataset, title=f"{stage.name}: training views as they enter the network")


def _resume(
    folder: Path,
    checkpoints: CheckpointFolder,
    stage: Stage,
    step: TrainingStep,
    position: Position,
    monitor: Monitor,
) -> None:
    """Go back to the newest checkpoint, if there is one."""
    state = _load_newest(checkpoints)
    if state is not None:
        restore(state, folder, stage, step, position, monitor)
        say(f"{stage.name}: resumes after step {position.step} of {position.total_steps}")


def _load_newest(checkpoints: CheckpointFolder) -> dict[str, Any] | None:
    """The newest whole checkpoint, in all processes; which one it is, and what is damaged, the
    first one says.
    """
    state: dict[str, Any] | None = None

    def find() -> int | None:
        nonlocal state
        state = checkpoints.load_newest()
        return None if state is None else state["step"]

    found = on_first(find)
    if found is not None and state is None:
        state = load_checkpoint(checkpoints.path(found))
    return state


def stage_seed(seed: int, name: str) -> int:
    """A seed of its own for every stage, or all stages would see the same clips in the same order."""
    return int.from_bytes(hashlib.blake2b(f"{seed}/{name}".encode(), digest_size=4).digest(), "big")
