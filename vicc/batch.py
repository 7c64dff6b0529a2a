"""What a loader gives to a method."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

Stream = Literal["rgb", "flow"]


@dataclass(frozen=True)
class Batch:
    """Clips of some videos.

    Attributes:
        clips: for each stream uint8 (B, V, C, T, H, W), V views a video; view v of all streams shows the same moment
            through the same crop. In memory the channels come last, which is the fast layout of 3D convolutions.
        index: (B,) positions of the videos in the dataset.
    """

    clips: dict[Stream, torch.Tensor]
    index: torch.Tensor

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""
        moved = {stream: clips.to(device, non_blocking=True) for stream, clips in self.clips.items()}
        return replace(self, clips=moved, index=self.index.to(device, non_blocking=True))
