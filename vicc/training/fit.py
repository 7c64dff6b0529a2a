"""A recipe for another batch size and another number of videos: what follows from them, and by which rule.

docs/decisions.md says where the rules come from.
"""

import json
import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

from vicc.training.stage import CONTRASTIVE, Recipe, Stage

FITTED_FIELDS = ("batch_size", "learning_rate", "final_learning_rate", "queue_length", "num_prototypes")
"""What the functions below change of a stage."""

_PUBLISHED_VIDEOS, _PUBLISHED_PROTOTYPES = 9537, 300
_FEWEST_PROTOTYPES = 10
_VIDEOS_A_QUEUE_ROW = 4
_VIDEOS_A_BATCH_ROW = 50


def fit_to_batch(stage: Stage, batch_size: int, *, processes: int) -> Stage:
    """The stage with `batch_size` videos a process and step.

    The recipe's own batch, learning rate and queue are those of all processes together. Learning rates follow the
    global batch, linearly with LARC and by its square root with Adam; a queue keeps its length, rounded down to whole
    batches.
    """
    together = batch_size * processes
    times = together / stage.batch_size
    if stage.optimizer != "larc":
        times = math.sqrt(times)
    fitted = replace(
        stage,
        batch_size=batch_size,
        learning_rate=_round(stage.learning_rate * times),
        final_learning_rate=_round(stage.final_learning_rate * times),
    )
    return replace(fitted, queue_length=_queue_length(stage, stage.queue_length, together, processes=processes))


def fit_to_data(stage: Stage, num_videos: int, *, processes: int) -> Stage:
    """The stage with a queue of at most a quarter of the videos and 300 * sqrt(videos / 9537) prototypes."""
    together = stage.batch_size * processes
    rows = stage.queue_length * (1 if stage.method in CONTRASTIVE else processes)
    fitted = replace(
        stage,
        queue_length=_queue_length(stage, min(rows, num_videos // _VIDEOS_A_QUEUE_ROW), together, processes=processes),
    )
    if stage.method in CONTRASTIVE:
        return fitted
    wanted = 10 * round(_PUBLISHED_PROTOTYPES * math.sqrt(num_videos / _PUBLISHED_VIDEOS) / 10)
    share = max(_FEWEST_PROTOTYPES, wanted) / stage.num_prototypes[0]
    return replace(fitted, num_prototypes=tuple(max(2, round(share * count)) for count in stage.num_prototypes))


def largest_batch(stage: Stage, num_videos: int, *, processes: int) -> int:
    """Videos a process and step beyond which there is nothing to gain, however much memory there is.

    A fiftieth of the videos for all processes together, the published share (192 of 9,537), or what the recipe asks for
    where that is more.
    """
    together = max(stage.batch_size, num_videos // _VIDEOS_A_BATCH_ROW)
    return max(1, min(together, num_videos) // processes)


def round_batch(most: int) -> int:
    """The largest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is not above `most`: noise in a measurement seldom shows."""
    return max(size for power in range(most.bit_length()) for size in (1 << power, 3 << power >> 1) if size <= most)


def changes(before: Recipe, after: Recipe) -> Iterator[str]:
    """What differs between two recipes of the same stages, a line for each field and its values."""
    found: dict[str, list[str]] = {}
    for old, new in zip(before.stages, after.stages, strict=True):
        for (name, was), now in zip(_plain(old).items(), _plain(new).values(), strict=True):
            if was != now:
                found.setdefault(f"{name} {_text(now)}, not {_text(was)}", []).append(new.name)
    for what, names in found.items():
        yield f"{', '.join(names)}: {what}"


def _queue_length(stage: Stage, rows: int, together: int, *, processes: int) -> int:
    """Rows of a process's queue that come to at most `rows` in all processes: whole batches."""
    whole = rows // together
    if stage.method in CONTRASTIVE:  # every process holds the keys of all, and cannot do without
        return max(1, whole) * together
    return whole * together // processes


def _round(rate: float) -> float:
    return float(f"{rate:.4g}")


def _plain(stage: Stage) -> dict[str, Any]:
    return json.loads(json.dumps(asdict(stage)))


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
