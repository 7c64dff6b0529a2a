"""The state of a training: all that a resume needs, collected from all processes and given back to
them.
"""

import json
from pathlib import Path
from typing import Any

import torch

from vicc.distributed import rank, world_size
from vicc.errors import ViccError
from vicc.methods.task import Task
from vicc.progress import say
from vicc.training.engine import Position
from vicc.training.run_folder import first_difference
from vicc.training.stage import Stage, stage_from_json
from vicc.training.step import TrainingStep
from vicc.training.watch.monitor import Monitor
from vicc.version import __version__


def rank_state(task: Task, device: torch.device) -> dict[str, Any]:
    """What only this process knows: its queue and its random streams."""
    state = {"task": task.rank_state(), "torch_rng": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda_rng"] = torch.cuda.get_rng_state(device)
    return state


def training_state(
    stage: Stage, step: TrainingStep, position: Position, monitor: Monitor, ranks: list[Any] | None
) -> dict[str, Any]:
    """A checkpoint's content; `ranks` holds the `rank_state` of every process."""
    return {
        "vicc": __version__,
        "stage": json.dumps(stage.to_json()),
        **position.state_dict(),
        "precision": step.precision.name,
        "monitor": monitor.state_dict(),
        "ranks": ranks,
        **step.state_dict(),
    }


def restore(
    state: dict[str, Any], folder: Path, stage: Stage, step: TrainingStep, position: Position, monitor: Monitor
) -> None:
    """Go back to a state, in place. With another number of processes, queues are redistributed.

    Raises:
        ViccError: the state is of a stage with other settings.
    """
    # Read as a stage, since an older version wrote more fields than the method has.
    theirs, ours = stage_from_json(json.loads(state["stage"])).to_json(), stage.to_json()
    if theirs != ours:
        raise ViccError(
            f"The checkpoint in {folder} belongs to another recipe: {first_difference(theirs, ours)}. "
            "Give the recipe it was trained with, or another --run folder."
        )
    if state["precision"] != step.precision.name:
        say(f"{stage.name}: was trained in {state['precision']}, goes on in {step.precision.name}")
    step.load_state_dict(state)
    monitor.load_state_dict(state["monitor"])
    ranks = state["ranks"]
    if len(ranks) != world_size() and position.steps_per_epoch != state["steps_per_epoch"]:
        raise ViccError(
            f"{stage.name} has {position.steps_per_epoch} steps an epoch with {world_size()} processes, and had "
            f"{state['steps_per_epoch']} with {len(ranks)}: there are too few videos for equal batches. Start "
            f"{len(ranks)} processes."
        )
    position.load_state_dict(state)
    if len(ranks) == world_size():
        mine = ranks[rank()]
        step.task.load_rank_state(mine["task"])
        torch.set_rng_state(mine["torch_rng"])
        if "cuda_rng" in mine and step.precision.device.type == "cuda":
            torch.cuda.set_rng_state(mine["cuda_rng"], step.precision.device)
        return
    step.task.load_rank_state(step.task.redistribute([state["task"] for state in ranks], rank(), world_size()))
