"""Videos to features: a vector for each clip of sliding windows and crops, averaged over a video."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch.utils.data import Dataset

from vicc.data.dataset import load_views, sample_rng
from vicc.data.frame_reader import FrameReader
from vicc.data.loader import load_in_order
from vicc.data.motion_boxes import FramesOnce, clip_box
from vicc.data.records import Video
from vicc.data.sampling import random_clips, sliding_windows
from vicc.device import Precision, choose_device, choose_precision, keep_freed_memory
from vicc.distributed import all_reduce_sum, rank, world_size
from vicc.errors import ViccError
from vicc.methods.batchnorm import fold_batchnorm
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.progress import Advance, progress
from vicc.transforms.augmentation import Crops, evaluation_views
from vicc.transforms.motion_crop import Box, energy_frames, within

# Single-threaded, torch has fast kernels for 1x1 convolutions from 16 clips on only; more take more
# memory.
_CLIPS_A_PASS = 16
_CALIBRATION_PASSES = 16
_CROPS: dict[Crops, int] = {"view": 1, "center": 1, "five": 5, "ten": 10}


@dataclass(frozen=True)
class Windows:
    """Which clips of a video are encoded, and how their frames are cut.

    Attributes:
        step: frames from one window to the next; None for the published 15 of 32, in proportion to
            the clip.
        crops: see `evaluation_views`.
        one: a single window; which one depends on the video's id alone (the published gallery's is
            random).
        shuffle: put the frames of each window in an order that depends on the video's id alone (a
            control: appearance stays, motion goes).
    """

    step: int | None = None
    crops: Crops = "view"
    one: bool = False
    shuffle: bool = False

    def step_of(self, config: EncoderConfig) -> int:
        """Frames from one window of this encoder's clips to the next."""
        return self.step or max(1, config.clip_frames * config.stride * 15 // 32)

    def frame_indices(self, config: EncoderConfig, video: Video) -> np.ndarray:
        """Frame indices (W, T) of the windows of a video, in order of time."""
        available = video.num_frames - 1
        shape: dict[str, Any] = {"clip_frames": config.clip_frames, "stride": config.stride}
        rng = sample_rng(0, 0, video.id)
        if self.one:
            return random_clips(available, num_views=1, distance="any", rng=rng, **shape)
        return sliding_windows(available, step=self.step_of(config), **shape)


def extract_features(
    encoder: Encoder,
    store: FrameReader,
    videos: Sequence[Video],
    *,
    windows: Windows | None = None,
    precision: Precision | None = None,
    workers: int = 0,
    advance: Advance | None = None,
    description: str = "features",
) -> torch.Tensor:
    """Features (N, num_features) of videos: each window's pooled output of the backbone, brought to
    unit length, averaged over the windows of the video. Float32, on the CPU; other arguments are
    those of `describe_videos`.

    Raises:
        ViccError: something else than an encoder; no videos, or something else than those of a
            store.
    """
    if not isinstance(encoder, Encoder):
        raise ViccError(f"Got {encoder!r} where an encoder is expected. Load it: vicc.load_encoder('run/rgb-2').")
    if not len(videos):
        raise ViccError("No videos are given, so there are no features; expected videos of the store: store.videos.")
    strange = next((video for video in videos if not isinstance(video, Video)), None)
    if strange is not None:
        raise ViccError(f"Got {strange!r} among the videos; expected videos of the store: store.videos.")
    precision = precision or choose_precision("fp32", choose_device())
    network = for_inference(encoder, precision)

    def forward(clips: torch.Tensor) -> torch.Tensor:
        return F.normalize(network.features(clips).float(), dim=1)

    return describe_videos(
        forward,
        encoder.config,
        store,
        videos,
        windows or Windows(),
        precision=precision,
        workers=workers,
        advance=advance,
        description=description,
    )


def describe_videos(
    forward: Callable[[torch.Tensor], torch.Tensor],
    config: EncoderConfig,
    store: FrameReader,
    videos: Sequence[Video],
    windows: Windows,
    *,
    precision: Precision,
    workers: int = 0,
    advance: Advance | None = None,
    description: str = "videos",
) -> torch.Tensor:
    """What a network computes of each video, float32 (N, D) on the CPU, the mean over its windows
    and their crops.

    Nothing is random. Several processes share the clips, and each gets all rows; which process or
    worker makes a clip changes nothing but the order in which float64 numbers are added.

    Args:
        forward: uint8 clips (B, C, T, H, W) on the device to (B, D), where there is one row a clip.
        config: of the encoder in it: what its clips look like.
        advance: called with the number of videos that are done; default a progress bar of that
            description.
    """
    if advance is None:
        with progress(description, total=len(videos), unit="videos") as bar:
            return describe_videos(
                forward, config, store, videos, windows, precision=precision, workers=workers, advance=bar
            )
    keep_freed_memory(precision.device)
    clips = _Clips(config, store, videos, windows)
    totals: torch.Tensor | None = None
    done = 0
    with torch.inference_mode():
        for rows, batch, finished in clips.load(precision, workers):
            with precision.autocast():
                values = forward(batch.to(precision.device, non_blocking=True))
            if totals is None:
                totals = torch.zeros(len(videos), values.shape[1], dtype=torch.float64)
            totals.index_add_(0, rows, values.cpu().double())
            advance(finished - done, "")
            done = finished
    width = _common_width(0 if totals is None else totals.shape[1])
    totals = torch.zeros(len(videos), width, dtype=torch.float64) if totals is None else totals.clone()
    advance(len(videos) - done, "")
    return (all_reduce_sum(totals) / clips.counts[:, None]).float()


def _common_width(width: int) -> int:
    """The width of all processes' rows: one that had no clip to look at does not know it."""
    if world_size() == 1:
        return width
    present = torch.tensor([float(width), float(width > 0)], dtype=torch.float64)
    total, count = all_reduce_sum(present).tolist()
    return round(total / max(1.0, count))


def for_inference(module: torch.nn.Module, precision: Precision) -> Any:
    """A copy of a network in eval mode for its device, its BatchNorm folded into the convolutions
    before it.

    In float32 that changes an S3D feature by 1e-5 of its length and takes 0.6 times as long (one
    core).
    """
    return precision.place(fold_batchnorm(module.eval())).requires_grad_(False)


def calibrate_batchnorm(encoder: Encoder, store: FrameReader, videos: Sequence[Video], *, precision: Precision) -> None:
    """Set the running statistics of BatchNorm to the mean over some windows of `videos`; weights
    stay as they are.

    An encoder with random weights needs this before it can be compared: with statistics of 0 and 1
    its deep layers map every clip to nearly the same vector.
    """
    precision.place(encoder)
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    encoder.train()
    clips = _Clips(encoder.config, store, videos, Windows())
    with torch.no_grad():
        for number in range(min(_CALIBRATION_PASSES, len(clips))):
            with precision.autocast():
                encoder.features(clips[number][1].to(precision.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()


def pass_bytes(config: EncoderConfig, windows: Windows) -> int:
    """Bytes of the clips that a network is given at a time, which is what a process that loads
    hands over.
    """
    crops = _CROPS[windows.crops]
    clips = max(1, _CLIPS_A_PASS // crops) * crops
    return clips * config.clip_frames * config.size**2 * config.in_channels


class _Clips(Dataset[tuple[torch.Tensor, torch.Tensor]]):
    """The clips of all videos in a row, cut into passes of about `_CLIPS_A_PASS`; an item is a
    pass.

    An item is the video's row (B,) of each clip and the uint8 clips (B, C, T, size, size). What a
    pass holds does not depend on who loads it.
    """

    def __init__(self, config: EncoderConfig, store: FrameReader, videos: Sequence[Video], windows: Windows) -> None:
        self.config, self.store, self.videos, self.windows = config, store, videos, windows
        num_windows = torch.tensor([len(windows.frame_indices(config, video)) for video in videos])
        num_crops = _CROPS[windows.crops]
        self.counts = num_windows * num_crops
        self._ends = num_windows.cumsum(0).numpy()
        self._windows_a_pass = max(1, _CLIPS_A_PASS // num_crops)

    def __len__(self) -> int:
        return -(-int(self._ends[-1]) // self._windows_a_pass)

    def load(self, precision: Precision, workers: int) -> Iterator[tuple[torch.Tensor, torch.Tensor, int]]:
        """The passes of this process, with the number of videos that are then done (those of the
        others assumed).
        """
        mine = range(rank(), len(self), world_size())
        passes = load_in_order(
            self,
            mine,
            workers=workers,
            pin_memory=precision.device.type == "cuda",
            item_bytes=pass_bytes(self.config, self.windows),
            name_of=self._first_video,
        )
        for number, (rows, clips) in zip(mine, passes, strict=True):
            end = (number + 1) * self._windows_a_pass
            yield rows, clips, int(np.searchsorted(self._ends, end, side="right"))

    def _first_video(self, number: int) -> str:
        """The video that a pass begins with."""
        return self.videos[int(np.searchsorted(self._ends, number * self._windows_a_pass, side="right"))].id

    def __getitem__(self, number: int) -> tuple[torch.Tensor, torch.Tensor]:
        begin = number * self._windows_a_pass
        end = min(begin + self._windows_a_pass, int(self._ends[-1]))
        rows: list[int] = []
        clips: list[np.ndarray] = []
        while begin < end:
            row = int(np.searchsorted(self._ends, begin, side="right"))
            first = int(self._ends[row - 1]) if row else 0
            until = min(end, int(self._ends[row]))
            found = self._cut(self.videos[row], slice(begin - first, until - first))
            rows += [row] * len(found)
            clips += found
            begin = until
        stacked = torch.from_numpy(np.stack(clips)).permute(0, 4, 1, 2, 3)  # channels stay last in memory
        return torch.tensor(rows), stacked

    def _cut(self, video: Video, which: slice) -> list[np.ndarray]:
        """Some windows of a video, each of (T, size, size, C), all crops of a window together."""
        config = self.config
        windows = self.windows.frame_indices(config, video)[which]
        # Neighbouring windows overlap: each frame is read and cut once.
        indices, inverse = np.unique(windows, return_inverse=True)
        places = inverse.reshape(windows.shape)
        if self.windows.shuffle:
            rng = sample_rng(0, 0, video.id)
            places = rng.permuted(places, axis=1)
        if config.crop == "motion":
            return self._cut_near_motion(video, windows, indices[places])
        views = self._views(self.store, video, indices, None)
        return [view[place] for place in places for view in views]

    def _cut_near_motion(self, video: Video, windows: np.ndarray, order: np.ndarray) -> list[np.ndarray]:
        """The same where every window has a box of its own, so that its frames are cut for it alone.

        Args:
            order: (W, T) the frame indices of each window as its frames are to follow each other.
        """
        reader = FramesOnce(self.store)
        # A store's frames are decoded in groups: those of all windows at once.
        seen = np.unique(np.concatenate([energy_frames(window)[1] for window in windows]))
        reader.frames(video.id, "rgb", seen.tolist())
        clips: list[np.ndarray] = []
        for window, wanted in zip(windows, order, strict=True):
            indices = np.unique(window)
            box = clip_box(reader, video, indices)
            places = np.searchsorted(indices, wanted)
            clips += [view[places] for view in self._views(reader, video, indices, box)]
        return clips

    def _views(self, reader: FrameReader, video: Video, indices: np.ndarray, box: Box | None) -> list[np.ndarray]:
        """All crops of some frames, each (N, size, size, C), of the whole frame or of a box of it."""
        config = self.config
        draws = evaluation_views(
            height=video.height if box is None else box.side,
            width=video.width if box is None else box.side,
            crops=self.windows.crops,
            flow_as_image=config.flow_channels == "128vu",
        )
        return load_views(
            reader,
            video,
            config.stream,
            indices,
            draws if box is None else [within(box, draw) for draw in draws],
            size=config.size,
            flow_center=config.flow_center,
            flow_form=config.flow_form,
        )
