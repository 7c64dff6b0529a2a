"""Probabilities of the classes to a row of a result."""

import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vicc.evaluation.result import MEAN_CLASS_ACCURACY, Estimate, Kind, Queries, Row
from vicc.evaluation.uncertainty import estimate_metric
from vicc.evaluation.video_values import VideoValues, write_video_values

_TOP = (1, 5)


def classification_row(
    name: str,
    kind: Kind,
    probabilities: torch.Tensor,
    queries: Queries,
    classes: Sequence[str],
    *,
    model: dict[str, Any],
    outputs: str | None = None,
) -> Row:
    """Top-1, top-5 (where there are more than five classes) and mean class accuracy of
    probabilities (Q, C).

    Of equally probable classes the earlier comes first. A class that nothing speaks for (no vote
    among the nearest videos: its probability is 0, and no other's is less) is the last one,
    whatever it is called.
    """
    numbers = {label: number for number, label in enumerate(classes)}
    labels = torch.tensor([numbers[str(label)] for label in queries.labels])
    order = probabilities.sort(dim=1, descending=True, stable=True).indices
    ranks = (order == labels[:, None]).int().argmax(1) + 1
    own = probabilities.gather(1, labels[:, None])[:, 0]
    ranks[(own == 0) & (probabilities.min(dim=1).values >= 0)] = len(classes)
    row = Row(
        name,
        kind,
        {},
        model=model,
        ranks=ranks.tolist(),
        predicted=order[:, 0].tolist(),
        outputs=outputs,
    )
    metrics = metrics_of(len(classes))
    return replace(row, metrics={metric: estimate_metric(row, queries, metric) for metric in metrics})


def metrics_of(num_classes: int) -> list[str]:
    """The metrics of so many classes: of five or fewer, top-5 says nothing."""
    return [*(f"top-{k}" for k in _TOP if k == 1 or k < num_classes), MEAN_CLASS_ACCURACY]


def chance_row(num_classes: int) -> Row:
    """What guessing reaches."""
    shares = {metric: int(metric[4:]) if metric.startswith("top-") else 1 for metric in metrics_of(num_classes)}
    return Row("chance", "chance", {metric: Estimate(k / num_classes) for metric, k in shares.items()})


def write_probabilities(
    result: Path, name: str, probabilities: torch.Tensor, queries: Queries, classes: Sequence[str]
) -> str:
    """Write the probabilities (Q, C) of one row beside the result's file; returns the name of their
    file.
    """
    path = result.with_name(f"{result.stem}.{re.sub(r'[^A-Za-z0-9]+', '-', name).strip('-')}.safetensors")
    write_video_values(path, VideoValues(queries.ids, probabilities, {"classes": list(classes)}))
    return path.name
