"""A folder of published numbers: arrays (.npz) and descriptions (.json), read without executing anything."""

import json
import math
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicc.errors import ViccError


@dataclass(frozen=True)
class Comparison:
    """One quantity of one case, ours against the published one.

    Attributes:
        deviation: largest absolute difference; for arrays divided by the published array's largest magnitude; for
            things that must be equal (masks, frame numbers) the number of entries that are not.
        bound: what the deviation may be at most.
        note: what a reader should know, for instance why it failed.
    """

    case: str
    quantity: str
    deviation: float
    bound: float
    note: str = ""

    @property
    def passed(self) -> bool:
        return self.deviation <= self.bound


class Fixtures:
    """Files of a folder by name, without their endings.

    Raises:
        ViccError: not a folder, or a file that cannot be read as what its ending says.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise ViccError(f"There is no folder {folder}. --fixtures takes a folder of .npz and .json files.")
        self.folder = folder

    def names(self, pattern: str) -> list[str]:
        """Names of the array files that match a pattern, for instance "traj_*.f64"."""
        return sorted(path.name.removesuffix(".npz") for path in self.folder.glob(f"{pattern}.npz"))

    def has(self, *files: str) -> bool:
        """Whether all these files are there."""
        return all((self.folder / file).is_file() for file in files)

    def arrays(self, name: str) -> dict[str, np.ndarray]:
        path = self.folder / f"{name}.npz"
        try:
            with np.load(path, allow_pickle=False) as stored:
                return {key: stored[key] for key in stored.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile, zipfile.LargeZipFile, NotImplementedError) as error:
            raise ViccError(f"{path} cannot be read as a .npz of plain arrays: {error}.") from error

    def description(self, name: str) -> Any:
        path = self.folder / f"{name}.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ViccError(f"{path} cannot be read as JSON: {error}.") from error


def compare(case: str, quantity: str, ours: Any, theirs: Any, *, bound: float, relative: bool = True) -> Comparison:
    """Largest difference of two arrays, relative to the published one's largest magnitude unless said otherwise."""
    mine, published = (_float64(values) for values in (ours, theirs))
    if mine.shape != published.shape:
        return Comparison(
            case, quantity, math.inf, bound, f"shape {list(mine.shape)}, published {list(published.shape)}"
        )
    if not mine.size:
        return Comparison(case, quantity, 0.0, bound)
    scale = float(np.abs(published).max()) if relative else 1.0
    deviation = float(np.abs(mine - published).max()) / (scale or 1.0)
    return Comparison(case, quantity, math.inf if math.isnan(deviation) else deviation, bound)


def require_equal(case: str, quantity: str, ours: Any, theirs: Any) -> Comparison:
    """Number of entries that differ; every entry must be equal."""
    mine, published = (np.asarray(_numpy(values)) for values in (ours, theirs))
    if mine.shape != published.shape:
        return Comparison(case, quantity, math.inf, 0, f"shape {list(mine.shape)}, published {list(published.shape)}")
    return Comparison(case, quantity, float((mine != published).sum()), 0)


def _float64(values: Any) -> np.ndarray:
    return np.asarray(_numpy(values), dtype=np.float64)


def _numpy(values: Any) -> Any:
    if isinstance(values, torch.Tensor):
        return values.detach().cpu().numpy()
    if isinstance(values, Sequence) and values and isinstance(values[0], torch.Tensor):
        return torch.stack(list(values)).detach().cpu().numpy()
    return values
