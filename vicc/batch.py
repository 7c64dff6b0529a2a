"""What a loader gives to a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:  # the names of streams are needed without it
    import torch

Stream = Literal["rgb", "flow", "diff"]
FlowChannels = Literal["uv", "128vu"]
RgbNormalization = Literal["imagenet", "kinetics", "slowfast"]
CropPlace = Literal["frame", "motion"]


@dataclass(frozen=True)
class Batch:
    """Clips of some videos.

    Attributes:
        clips: for each stream uint8 (B, V, C, T, H, W), V views a video; view v of all streams
            shows the same frames through the same crop. In memory the channels come last, which is
            the fast layout of 3D convolutions.
        index: (B,) indices of the videos in the dataset.
        label: (B,) class numbers, where every video has a label.
        recording: (B,) numbers of the recordings the videos were cut from; clips of one group share
            a number.
        small_clips: further views at lower resolutions (SwAV's multi-crop), one dict like `clips`
            for each resolution.
    """

    clips: dict[Stream, torch.Tensor]
    index: torch.Tensor
    label: torch.Tensor | None = None
    recording: torch.Tensor | None = None
    small_clips: tuple[dict[Stream, torch.Tensor], ...] = ()

    def to(self, device: torch.device) -> Batch:
        """The same batch on another device."""
        return self.apply(lambda tensor: tensor.to(device, non_blocking=True))

    def pin_memory(self) -> Batch:
        """The same batch in memory that an accelerator can copy from by itself; the loader's own
        thread calls it.
        """
        return self.apply(lambda tensor: tensor.pin_memory())

    def split(self, parts: int) -> list[Batch]:
        """The videos in so many parts, in order, as equal in size as can be; no more parts than
        videos.
        """
        parts = min(parts, len(self.index))

        def part(number: int) -> Batch:
            return self.apply(lambda tensor: tensor.tensor_split(parts)[number])

        return [part(number) for number in range(parts)]

    def apply(self, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
        """The batch with every tensor changed."""

        def changed(clips: dict[Stream, torch.Tensor]) -> dict[Stream, torch.Tensor]:
            return {stream: change(views) for stream, views in clips.items()}

        return replace(
            self,
            clips=changed(self.clips),
            index=change(self.index),
            label=None if self.label is None else change(self.label),
            recording=None if self.recording is None else change(self.recording),
            small_clips=tuple(changed(clips) for clips in self.small_clips),
        )
