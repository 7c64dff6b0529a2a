"""What a loader gives to a method."""

from dataclasses import dataclass, replace
from typing import Literal

import torch

Stream = Literal["rgb", "flow", "diff"]
FlowChannels = Literal["uv", "128vu"]


@dataclass(frozen=True)
class Batch:
    """Clips of some videos.

    Attributes:
        clips: for each stream uint8 (B, V, C, T, H, W), V views a video; view v of all streams shows the same moment
            through the same crop. In memory the channels come last, which is the fast layout of 3D convolutions.
        index: (B,) positions of the videos in the dataset.
        label: (B,) class numbers, where every video has a label.
        source: (B,) numbers of the recordings the videos were cut from; clips of one group share a number.
        small_clips: further views at lower resolutions (SwAV's multi-crop), one dict like `clips` for each resolution.
    """

    clips: dict[Stream, torch.Tensor]
    index: torch.Tensor
    label: torch.Tensor | None = None
    source: torch.Tensor | None = None
    small_clips: tuple[dict[Stream, torch.Tensor], ...] = ()

    def to(self, device: torch.device) -> "Batch":
        """The same batch on another device."""

        def moved(clips: dict[Stream, torch.Tensor]) -> dict[Stream, torch.Tensor]:
            return {stream: views.to(device, non_blocking=True) for stream, views in clips.items()}

        return replace(
            self,
            clips=moved(self.clips),
            index=self.index.to(device, non_blocking=True),
            label=None if self.label is None else self.label.to(device, non_blocking=True),
            source=None if self.source is None else self.source.to(device, non_blocking=True),
            small_clips=tuple(moved(clips) for clips in self.small_clips),
        )
