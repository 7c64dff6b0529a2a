"""Clips of videos as samples. Every sample is a pure function of (seed, epoch, video id, view).

So it does not matter which worker or rank loads a sample, and a run that resumes in mid-epoch sees
what a run that never stopped would have seen.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import cv2
import numpy as np
from torch.utils.data import Dataset

from vicc.batch import CropPlace, Stream
from vicc.data.frame_pack import StoredStream
from vicc.data.frame_reader import FrameReader
from vicc.data.motion_boxes import FramesOnce, clip_box
from vicc.data.records import Video
from vicc.data.sampling import ViewDistance, random_clips
from vicc.errors import ViccError
from vicc.transforms.augmentation import (
    Augmentation,
    ViewDraw,
    apply_to_flow,
    apply_to_flow_image,
    apply_to_rgb,
    draw_sample,
    draw_view,
)
from vicc.transforms.difference import apply_to_diff, frames_of_diff
from vicc.transforms.flow_form import FlowForm
from vicc.transforms.motion_crop import Box, jittered, within

Key = tuple[int, int]  # (epoch, index of the video)
Clips = dict[Stream, np.ndarray]


@dataclass(frozen=True)
class Sample:
    """One video of a batch.

    Attributes:
        index: of the video in the dataset.
        clips: uint8 (V, T, size, size, C) a stream.
        small_clips: the same for each group of small views.
        label, recording: see `Batch`; label is None where a video of the dataset has none.
    """

    index: int
    clips: Clips
    small_clips: tuple[Clips, ...]
    label: int | None
    recording: int


@dataclass(frozen=True)
class _View:
    """One view of a sample: which of its clips, cut how, to how many pixels."""

    clip: int
    draw: ViewDraw
    size: int


def _no_box(clip: int) -> Box | None:
    return None


class ClipDataset(Dataset[Sample]):
    """Random clips of videos, each video a sample; a pure function of seed, epoch, video and view.

    Small views show the frames of the full ones in turn, the first small view those of the first,
    each through a crop of its own.

    Args:
        reader: where frames come from.
        videos: the videos of an epoch, in a fixed order.
        streams: streams to load; all get the same frames and crops.
        num_views, clip_frames, stride, size: shape of a sample, (V, T, size, size, C) a stream.
        distance: how far apart the clips of a video lie, see `random_clips`.
        augmentation: how views are drawn.
        seed: start of the random streams.
        small_views: (views, pixels) of each group of small views.
        small_streams: streams of small views.
        flow_form: the form of flow that the encoder takes; None for the stored one.
        crop: what views are cut out of, see `EncoderConfig`. All views of a clip, small ones too,
            and all streams share the clip's box of motion; each view moves it a little.

    Raises:
        ViccError: `augmentation.flow_as_image` with flow that is no image.
    """

    def __init__(
        self,
        reader: FrameReader,
        videos: Sequence[Video],
        *,
        streams: Sequence[Stream],
        num_views: int,
        clip_frames: int,
        stride: int,
        size: int,
        distance: ViewDistance,
        augmentation: Augmentation,
        seed: int,
        small_views: Sequence[tuple[int, int]] = (),
        small_streams: Sequence[Stream] = (),
        flow_form: FlowForm | None = None,
        crop: CropPlace = "frame",
    ) -> None:
        channels = "uv" if flow_form is None else flow_form.channels
        if "flow" in streams and augmentation.flow_as_image and channels == "uv":
            raise ViccError(
                "augmentation.flow_as_image changes the colours of (128, v, u), and the flow encoder takes uv; set "
                "flow_channels=128vu for the stage that trains it, or augmentation.flow_as_image=false."
            )
        self.reader = reader
        self.videos = list(videos)
        self.streams = tuple(streams)
        self.num_views = num_views
        self.clip_frames = clip_frames
        self.size = size
        self.augmentation = augmentation
        self.seed = seed
        self.small_views = tuple(small_views)
        self.small_streams = tuple(small_streams)
        self.flow_form = flow_form
        self.crop = crop
        labels = [video.label for video in self.videos]
        self.labels = None if None in labels else _numbered(labels)
        # A video without a group is a recording of its own, whatever groups are called.
        self.recordings = _numbered([(video.group is None, video.group or video.id) for video in self.videos])
        self._clips: Callable[..., np.ndarray] = partial(
            random_clips, num_views=num_views, clip_frames=clip_frames, stride=stride, distance=distance
        )

    def __len__(self) -> int:
        return len(self.videos)

    @property
    def stored_streams(self) -> set[StoredStream]:
        """What is read; boxes of motion come from RGB."""
        found: set[StoredStream] = {"flow" if stream == "flow" else "rgb" for stream in self.streams}
        return found | {"rgb"} if self.crop == "motion" else found

    @property
    def sample_bytes(self) -> int:
        """Bytes of the clips of one video."""
        full = self.num_views * self.size**2
        small = sum(count * pixels**2 for count, pixels in self.small_views)
        channels = 2 if self.flow_form is None else self.flow_form.num_channels
        total = 0
        for stream in self.streams:
            pixels = full + small * (stream in self.small_streams)
            total += pixels * (3 if stream != "flow" else channels)
        return total * self.clip_frames

    def __getitem__(self, key: Key) -> Sample:
        epoch, index = key
        video = self.videos[index]
        indices = self._clips(video.num_frames - 1, rng=sample_rng(self.seed, epoch, video.id))
        try:
            reader, box_of = self.reader, _no_box
            if self.crop == "motion":
                reader = FramesOnce(self.reader)
                box_of = cache(lambda clip: clip_box(reader, video, indices[clip]))
            groups = self._draw(video, epoch, box_of)
            clips: list[Clips] = [{} for _ in groups]
            for stream in self.streams:
                wanted = groups if stream in self.small_streams else groups[:1]
                for group, views in zip(clips, self._cut(reader, video, stream, indices, wanted), strict=False):
                    group[stream] = views
        except (ValueError, cv2.error) as error:
            raise ViccError(f"Cannot make a clip of {video.id!r}: {error}.") from error
        label = None if self.labels is None else self.labels[index]
        return Sample(index, clips[0], tuple(clips[1:]), label, self.recordings[index])

    def _draw(self, video: Video, epoch: int, box_of: Callable[[int], Box | None] = _no_box) -> list[list[_View]]:
        """The full views, then each group of small ones; `box_of` a clip its views are cut."""
        sizes = [(self.num_views, self.size), *self.small_views]
        total = sum(count for count, _ in sizes)
        sample = draw_sample(
            self.augmentation,
            num_views=self.num_views,
            num_small_views=total - self.num_views,
            rng=sample_rng(self.seed, epoch, video.id, part=1),
        )
        clips = [0 if sample.same_clip else number % self.num_views for number in range(total)]
        draws = (
            self._draw_view(video, epoch, number, box_of(clips[number]), strong=sample.strong[number])
            for number in range(total)
        )
        views = zip(clips, draws, strict=True)
        return [[_View(*next(views), size) for _ in range(count)] for count, size in sizes]

    def _draw_view(self, video: Video, epoch: int, number: int, box: Box | None, *, strong: bool) -> ViewDraw:
        """One view, of the frame or near a box of it, from the view's own random numbers."""
        height, width = video.height, video.width
        rng = sample_rng(self.seed, epoch, video.id, number)
        if box is not None:
            box = jittered(box, height=height, width=width, rng=rng)
        draw = draw_view(
            self.augmentation,
            height=height if box is None else box.side,
            width=width if box is None else box.side,
            rng=rng,
            strong=strong,
            small=number >= self.num_views,
        )
        return draw if box is None else within(box, draw)

    def _cut(
        self,
        reader: FrameReader,
        video: Video,
        stream: Stream,
        indices: np.ndarray,
        groups: Sequence[list[_View]],
    ) -> list[np.ndarray]:
        """Views of one stream, uint8 (V, T, size, size, C) a group; `indices` (V, T): the frames of
        each clip.
        """
        needed = sorted({view.clip for views in groups for view in views})
        frames = {clip: _read(reader, video, stream, indices[clip]) for clip in needed}
        return [
            np.stack(
                [
                    _cut_view(
                        reader,
                        video,
                        stream,
                        frames[view.clip],
                        indices[view.clip],
                        view.draw,
                        size=view.size,
                        flow_center=self.augmentation.flow_center,
                        flow_form=self.flow_form,
                    )
                    for view in views
                ]
            )
            for views in groups
        ]


def load_view(
    reader: FrameReader,
    video: Video,
    stream: Stream,
    frame_indices: np.ndarray,
    draw: ViewDraw,
    *,
    size: int,
    flow_center: bool,
    flow_form: FlowForm | None = None,
) -> np.ndarray:
    """Read frames of one stream and cut the view `draw` out of them: uint8 (T, size, size, C).

    Args:
        frame_indices: (T,).
        flow_form: the form that flow is to have; None for the stored one.
    """
    return load_views(
        reader, video, stream, frame_indices, [draw], size=size, flow_center=flow_center, flow_form=flow_form
    )[0]


def load_views(
    reader: FrameReader,
    video: Video,
    stream: Stream,
    frame_indices: np.ndarray,
    draws: Sequence[ViewDraw],
    *,
    size: int,
    flow_center: bool,
    flow_form: FlowForm | None = None,
) -> list[np.ndarray]:
    """Several views of the same frames, which are read once; see `load_view`."""
    frames = _read(reader, video, stream, frame_indices)
    return [
        _cut_view(
            reader, video, stream, frames, frame_indices, draw, size=size, flow_center=flow_center, flow_form=flow_form
        )
        for draw in draws
    ]


def _read(reader: FrameReader, video: Video, stream: Stream, frame_indices: np.ndarray) -> np.ndarray:
    """The stored frames that these frames of a stream are made of."""
    if stream == "diff":
        return reader.frames(video.id, "rgb", frames_of_diff(frame_indices).tolist())
    return reader.frames(video.id, stream, frame_indices.tolist())


def _cut_view(
    reader: FrameReader,
    video: Video,
    stream: Stream,
    frames: np.ndarray,
    frame_indices: np.ndarray,
    draw: ViewDraw,
    *,
    size: int,
    flow_center: bool,
    flow_form: FlowForm | None,
) -> np.ndarray:
    if stream == "rgb":
        return apply_to_rgb(frames, draw, size=size)
    if stream == "diff":
        return apply_to_diff(frames, frame_indices, draw, size=size)
    bound = reader.settings.flow_bound
    view = apply_to_flow(frames, draw, size=size, bound=bound, center=flow_center)
    if flow_form is not None:
        view = flow_form.convert(view, bound=bound, short_side=min(video.height, video.width))
    return apply_to_flow_image(view, draw) if draw.flow_as_image else view


def _numbered(names: Sequence[Any]) -> list[int]:
    """Each name's index among the different names, sorted."""
    index = {name: number for number, name in enumerate(sorted(set(names)))}
    return [index[name] for name in names]


def sample_rng(seed: int, epoch: int, video_id: str, view: int | None = None, *, part: int = 0) -> np.random.Generator:
    """The random stream of one sample (which frames), or of one of its views (which crop, which
    colours).

    Args:
        view: index of the view; None for what is drawn once a sample.
        part: 1 for the draw of which views are strong.
    """
    name = int.from_bytes(hashlib.blake2b(video_id.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "big")
    return np.random.default_rng([seed, epoch, name, 0 if view is None else view + 1, *([part] if part else [])])
