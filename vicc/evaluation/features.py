"""Videos to feature vectors: sliding windows, the backbone's pooled output, averaged (as in the paper's retrieval)."""

from collections.abc import Iterator, Sequence

import numpy as np
import torch
import torch.nn.functional as F

from vicc.data.dataset import load_view, sample_rng
from vicc.data.frame_source import FrameSource
from vicc.data.sampling import sliding_windows
from vicc.data.store import Video
from vicc.device import Precision, choose_device, choose_precision
from vicc.methods.encoder import Encoder
from vicc.progress import progress
from vicc.transforms.augmentation import center_view

_WINDOWS_A_PASS = 32


def extract_features(
    encoder: Encoder,
    store: FrameSource,
    videos: Sequence[Video],
    *,
    precision: Precision | None = None,
    window_step: int | None = None,
    shuffle_frames: bool = False,
    description: str = "features",
) -> torch.Tensor:
    """Features (N, num_features) of videos, float32 on the CPU, rows in the order of `videos`.

    Every window gives the backbone's pooled output, brought to unit length; a video's feature is their mean. Nothing
    here is random, but for `shuffle_frames`, whose order depends on the video's id alone.

    Args:
        precision: how and where to compute; default float32 on the best device there is.
        window_step: frames between windows; default half a clip.
        shuffle_frames: put each window's frames in random order (a control: appearance stays, motion goes).
    """
    precision = precision or choose_precision("fp32", choose_device())
    precision.place(encoder)
    encoder.eval()
    totals = torch.zeros(len(videos), encoder.num_features)
    counts = torch.zeros(len(videos), 1)
    begun = 0
    with progress(description, total=len(videos), unit="videos") as advance, torch.inference_mode():
        for rows, clips in _window_batches(encoder, store, videos, window_step, shuffle_frames):
            with precision.autocast():
                features = encoder.features(clips.to(precision.device))
            features = F.normalize(features.float(), dim=1).cpu()
            totals.index_add_(0, rows, features)
            counts.index_add_(0, rows, torch.ones(len(rows), 1))
            advance(int(rows[-1]) + 1 - begun)
            begun = int(rows[-1]) + 1
    return totals / counts


def calibrate_batchnorm(encoder: Encoder, store: FrameSource, videos: Sequence[Video], *, precision: Precision) -> None:
    """Set the running statistics of BatchNorm to the mean over some windows of `videos`; weights stay as they are.

    An encoder with random weights needs this before it can be compared: with statistics of 0 and 1 its deep layers map
    every clip to nearly the same vector.
    """
    precision.place(encoder)
    norms = [module for module in encoder.modules() if isinstance(module, torch.nn.modules.batchnorm._BatchNorm)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain mean over the batches
    encoder.train()
    with torch.no_grad():
        for number, (_, clips) in enumerate(_window_batches(encoder, store, videos, None, shuffle=False)):
            if number == 8:
                break
            with precision.autocast():
                encoder.features(clips.to(precision.device))
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum
    encoder.eval()


def _window_batches(
    encoder: Encoder, store: FrameSource, videos: Sequence[Video], window_step: int | None, shuffle: bool
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Batches of windows across videos: rows (W,) and uint8 clips (W, C, T, size, size)."""
    waiting: list[tuple[int, np.ndarray]] = []
    for row, video in enumerate(videos):
        for window in _windows(encoder, store, video, window_step, shuffle):
            waiting.append((row, window))
            if len(waiting) == _WINDOWS_A_PASS:
                yield _stack(waiting)
                waiting = []
    if waiting:
        yield _stack(waiting)


def _windows(
    encoder: Encoder, store: FrameSource, video: Video, window_step: int | None, shuffle: bool
) -> Iterator[np.ndarray]:
    config = encoder.config
    windows = sliding_windows(
        video.num_frames - 1,
        clip_frames=config.clip_frames,
        stride=config.stride,
        step=window_step or max(1, config.clip_frames * config.stride // 2),
    )
    rng = sample_rng(0, 0, video.id)
    draw = center_view(height=video.height, width=video.width)
    # Neighbouring windows overlap: some at a time, each frame is read once.
    for part in np.array_split(windows, -(-len(windows) // 16)):
        numbers, inverse = np.unique(part, return_inverse=True)
        frames = load_view(
            store,
            video,
            config.stream,
            numbers,
            draw,
            size=config.size,
            flow_center=config.flow_center,
            flow_form=config.flow_form,
        )
        for window in inverse.reshape(part.shape):
            yield frames[rng.permutation(window) if shuffle else window]


def _stack(windows: list[tuple[int, np.ndarray]]) -> tuple[torch.Tensor, torch.Tensor]:
    clips = torch.from_numpy(np.stack([clip for _, clip in windows])).permute(0, 4, 1, 2, 3)
    return torch.tensor([row for row, _ in windows]), clips
