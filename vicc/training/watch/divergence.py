"""What is left of a training that diverged: the batch it was made with, and weights that must not
be saved.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from vicc.data.loader import ClipLoader
from vicc.distributed import rank
from vicc.errors import Diverged
from vicc.files import atomic_write, write_json


@torch.no_grad()
def require_finite(task: torch.nn.Module) -> None:
    """Look at all weights before they become a checkpoint: a gradient that overflowed shows in the
    loss a step later.

    Raises:
        Diverged: a weight is infinite or not a number.
    """
    weights: list[torch.Tensor] = list(task.parameters())
    finite = torch.stack([norm.cpu().double() for norm in torch._foreach_norm(weights)]).isfinite()
    if not finite.all():
        names = [name for (name, _), good in zip(task.named_parameters(), finite.tolist(), strict=True) if not good]
        raise Diverged(f"{len(names)} weights are not finite ({', '.join(names[:3])}{', ...' * (len(names) > 3)})")


def keep_batch(folder: Path, loader: ClipLoader, step: int) -> str:
    """Write the batch of a step of this process, and say where.

    A sample is a pure function of seed, epoch and video, so it is loaded once more, exactly as it
    was.

    STAGE/diverged/00000012-process-0.npz    clips, uint8 (B, V, C, T, H, W) a stream, and index, label, source
    STAGE/diverged/00000012-process-0.json   names of the videos
    """
    batch = loader.load(step)
    path = folder / "diverged" / f"{step:08d}-process-{rank()}.npz"
    arrays: dict[str, Any] = {f"clips_{stream}": clips.numpy() for stream, clips in batch.clips.items()}
    for name, values in (("index", batch.index), ("label", batch.label), ("source", batch.recording)):
        if values is not None:
            arrays[name] = values.numpy()
    with atomic_write(path, "wb") as file:
        np.savez(file, **arrays)
    videos = loader.videos(step)
    write_json(path.with_suffix(".json"), {"step": step, "videos": videos})
    return f"The batch of step {step} is in {path}: {', '.join(videos[:3])}{', ...' * (len(videos) > 3)}."
