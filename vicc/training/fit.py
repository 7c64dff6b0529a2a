"""A recipe for another batch size and another number of videos: what follows from them, and by
which rule.

docs/decisions/training.md says where the rules come from.
"""

import math
from collections.abc import Iterator
from typing import Any

from vicc.training.stage import Recipe, Stage

FITTED_FIELDS = ("batch_size", "learning_rate", "final_learning_rate", "queue_length", "num_prototypes")
"""What the functions below change of a stage."""

_PUBLISHED_VIDEOS, _PUBLISHED_PROTOTYPES = 9537, 300
_FEWEST_PROTOTYPES = 10
_VIDEOS_A_QUEUE_ROW = 4
_VIDEOS_A_BATCH_ROW = 50


def fit_to_batch(stage: Stage, batch_size: int) -> Stage:
    """The stage with another batch.

    Learning rates follow it, linearly with SGD and LARC and by its square root with Adam; a queue
    keeps its length, rounded down to whole batches.
    """
    times = batch_size / stage.length.batch_size
    if stage.optimizer.name not in ("larc", "sgd"):
        times = math.sqrt(times)
    return stage.replace(
        batch_size=batch_size,
        learning_rate=_round(stage.schedule.learning_rate * times),
        final_learning_rate=_round(stage.schedule.final_learning_rate * times),
        **_queue(stage, stage.settings.queue_rows(), batch_size),
    )


def fit_to_data(stage: Stage, num_videos: int) -> Stage:
    """The stage with a queue of at most a quarter of the videos and 300 * sqrt(videos / 9537)
    prototypes.
    """
    rows = min(stage.settings.queue_rows(), num_videos // _VIDEOS_A_QUEUE_ROW)
    fitted = stage.replace(**_queue(stage, rows, stage.length.batch_size))
    heads = stage.settings.prototype_heads()
    if not heads:
        return fitted
    wanted = 10 * round(_PUBLISHED_PROTOTYPES * math.sqrt(num_videos / _PUBLISHED_VIDEOS) / 10)
    share = max(_FEWEST_PROTOTYPES, wanted) / heads[0]
    return fitted.replace(num_prototypes=tuple(max(2, round(share * count)) for count in heads))


def largest_batch(stage: Stage, num_videos: int) -> int:
    """The batch beyond which there is nothing to gain, however much memory there is.

    A fiftieth of the videos, the published share (192 of 9,537), or what the recipe asks for where
    that is more.
    """
    return min(num_videos, max(stage.length.batch_size, num_videos // _VIDEOS_A_BATCH_ROW))


def round_batch(most: int) -> int:
    """The largest of 1, 2, 3, 4, 6, 8, 12, 16, ... that is not above `most`: noise in a measurement
    seldom shows.
    """
    return max(size for power in range(most.bit_length()) for size in (1 << power, 3 << power >> 1) if size <= most)


def changes(before: Recipe, after: Recipe) -> Iterator[str]:
    """What differs between two recipes of the same stages, a line for each field and its values."""
    found: dict[str, list[str]] = {}
    for old, new in zip(before.stages, after.stages, strict=True):
        for (name, was), now in zip(old.to_json().items(), new.to_json().values(), strict=True):
            if was != now:
                found.setdefault(f"{name} {_text(now)}, not {_text(was)}", []).append(new.name)
    for what, names in found.items():
        yield f"{', '.join(names)}: {what}"


def _queue(stage: Stage, rows: int, batch_size: int) -> dict[str, int]:
    """A queue of at most so many rows, in whole batches; at least one for the methods that cannot
    do without.
    """
    if "queue_length" not in stage.flat() or not stage.settings.queue_rows():
        return {}
    return {"queue_length": max(int(stage.settings.needs_queue()), rows // batch_size) * batch_size}


def _round(rate: float) -> float:
    return float(f"{rate:.4g}")


def _text(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
