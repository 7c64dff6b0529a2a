"""A value for each video (probabilities, features) as a file: safetensors, with the ids and where
it comes from.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch

from vicc.errors import ViccError
from vicc.evaluation.feature_rows import FeatureRows
from vicc.files import atomic_write

_VERSION = "1"


@dataclass(frozen=True)
class VideoValues:
    """Rows for videos.

    Attributes:
        ids: of the videos. Of those that are there twice the last one holds.
        values: (N, D), float32.
        facts: what else there is to know, plain values: for instance the classes that D stands for.
    """

    ids: Sequence[str]
    values: torch.Tensor
    facts: dict[str, Any] = field(default_factory=dict)

    def of(self, ids: Sequence[str]) -> torch.Tensor:
        """The rows of some videos, in their order.

        Raises:
            KeyError: a video that is not in the table.
        """
        places = {name: place for place, name in enumerate(self.ids)}
        return self.values[[places[name] for name in ids]]


def write_video_values(path: Path, table: VideoValues) -> None:
    """Write a table, atomically."""
    # JSON in ASCII: names of files need not be valid UTF-8, and the format wants text that is.
    about = {"vicc_video_table": _VERSION, "ids": json.dumps(list(table.ids)), "facts": json.dumps(table.facts)}
    with atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save({"values": table.values.float().contiguous()}, about))


def read_video_values(path: Path) -> VideoValues:
    """Read a table: a file, or a folder of features (see `FeatureRows`), whose rows are mapped from
    the disk.

    Nothing in it is executed.

    Raises:
        ViccError: no such file, or one that is damaged or no such table.
    """
    if path.is_dir():
        kept = FeatureRows(path)
        return VideoValues(kept.ids(), kept.rows(), kept.about())
    try:
        with safetensors.safe_open(path, "pt") as file:
            about = file.metadata() or {}
            values = file.get_tensor("values")
        if about.get("vicc_video_table") != _VERSION:
            raise ValueError(f"its version is {about.get('vicc_video_table')}, not {_VERSION}")
        ids = json.loads(about["ids"])
        if values.ndim != 2 or len(ids) != len(values):
            raise ValueError(f"{len(ids)} ids for values of shape {tuple(values.shape)}")
        return VideoValues(ids, values, json.loads(about["facts"]))
    except FileNotFoundError:
        raise ViccError(f"No table of videos at {path}: there is no such file.") from None
    except (OSError, ValueError, KeyError, safetensors.SafetensorError) as error:
        reason = " ".join(str(error).split())[:150]
        raise ViccError(
            f"The table of videos {path} cannot be read ({reason}). Delete it and measure again."
        ) from error
