"""A store of frames and flow to batches of clips."""

from typing import TYPE_CHECKING

from vicc.public_names import lazy_names

if TYPE_CHECKING:
    from vicc.data.dataset import ClipDataset, sample_rng
    from vicc.data.loader import ClipLoader, EpochBatches
    from vicc.data.records import Video
    from vicc.data.sampling import clip_frame_indices, random_clips, sliding_windows
    from vicc.data.store import Store

_PLACES = {
    "ClipDataset": "vicc.data.dataset",
    "ClipLoader": "vicc.data.loader",
    "EpochBatches": "vicc.data.loader",
    "Store": "vicc.data.store",
    "Video": "vicc.data.records",
    "clip_frame_indices": "vicc.data.sampling",
    "random_clips": "vicc.data.sampling",
    "sample_rng": "vicc.data.dataset",
    "sliding_windows": "vicc.data.sampling",
}

__all__ = [
    "ClipDataset",
    "ClipLoader",
    "EpochBatches",
    "Store",
    "Video",
    "clip_frame_indices",
    "random_clips",
    "sample_rng",
    "sliding_windows",
]

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
