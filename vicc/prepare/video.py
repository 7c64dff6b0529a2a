"""One video file to encoded frames and flow: decode, shrink, compute flow, encode."""

import platform
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np

from vicc.data.frame_pack import FrameEncoder, StoredStream
from vicc.data.records import FileState, SetAside, StoreSettings, Video
from vicc.data.video_files import VideoFile
from vicc.errors import ViccError
from vicc.files import hash_file
from vicc.prepare.workers import decoder_guard
from vicc.video.decode import VideoReader, shrink
from vicc.video.flow import create_flow, no_flow, quantize_flow

Packs = dict[StoredStream, bytes]
Result = tuple[Video, Packs] | SetAside


def prepare_video(file: VideoFile, settings: StoreSettings, min_frames: int) -> Result:
    """Decode one file into encoded frames and flow; memory holds two frames and the encoded result."""
    try:
        stat = file_state(file.path)
    except OSError as error:
        return SetAside(file.id, f"cannot be read ({error.strerror})", FileState(0, 0))
    reader = open_video(file, settings)
    try:
        rgb, flow, (height, width) = encode_streams(reader, settings)
    except (ViccError, OSError) as error:
        return SetAside(file.id, str(error), stat)
    num_frames = len(rgb)
    if num_frames < min_frames:
        reason = too_few_frames(num_frames, min_frames)
        return SetAside(file.id, f"{reason}; {reader.note}" if reader.note else reason, stat)
    rate, note = reader.frames_per_second, reader.note
    video = describe_video(file, stat, num_frames, (height, width), frames_per_second=rate, note=note)
    if isinstance(video, SetAside):
        return video
    packs: Packs = {"rgb": rgb.to_bytes()}
    if settings.flow != "none":
        packs["flow"] = flow.to_bytes()
    return video, packs


def open_video(file: VideoFile, settings: StoreSettings) -> VideoReader:
    """The frames of a file as a store of these settings wants them."""
    return VideoReader(
        file.path,
        short_side=settings.short_side if settings.flow_at == "store" else None,
        start=file.start,
        end=file.end,
        frames_per_second=settings.frames_per_second,
        guard=decoder_guard,
    )


def describe_video(
    file: VideoFile,
    state: FileState,
    num_frames: int,
    size: tuple[int, int],
    *,
    frames_per_second: float,
    note: str,
) -> Video | SetAside:
    """What is known of a file that was decoded, its checksum included.

    Args:
        state: of the file before it was decoded.
        size: (height, width) of the frames.
    """
    try:
        content = hash_once(file.path, state)
    except OSError as error:
        return SetAside(file.id, f"cannot be read ({error.strerror})", state)
    return Video(
        id=file.id,
        num_frames=num_frames,
        height=size[0],
        width=size[1],
        frames_per_second=frames_per_second,
        source=replace(state, blake2b=content),
        label=file.label,
        group=file.group,
        split=file.split,
        note=note,
    )


def prepare_video_on_node(file: VideoFile, settings: StoreSettings, min_frames: int) -> Result:
    """`prepare_video` on a machine that may lack the file that the main process has seen."""
    if not file.path.exists():
        # The state is that of no file, so that the next run tries again.
        reason = f"the node {platform.node()} has no file {file.path}: all nodes must see the videos at this path"
        return SetAside(file.id, reason, FileState(0, 0))
    return prepare_video(file, settings, min_frames)


def too_few_frames(num_frames: int, min_frames: int) -> str:
    """Why so short a video is skipped."""
    return f"{num_frames} frame{'s' if num_frames != 1 else ''}, fewer than {min_frames} (--min-frames)"


def encode_streams(reader: VideoReader, settings: StoreSettings) -> tuple[FrameEncoder, FrameEncoder, tuple[int, int]]:
    """Both streams and the size of their frames, (height, width)."""
    compute_flow = create_flow("tvl1" if settings.flow == "tvl1" else "dis")
    rgb = FrameEncoder("rgb", codec=settings.codec, quality=settings.quality)
    flow = FrameEncoder(
        "flow",
        codec=settings.codec,
        quality=settings.flow_quality,
        bound=settings.flow_bound,
        method=settings.flow,
        at=settings.flow_at,
    )
    native = settings.flow_at == "native"
    previous: np.ndarray | None = None
    size = (0, 0)
    for frame in reader:
        grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
        stored = shrink(frame, settings.short_side) if native else frame
        size = stored.shape[0], stored.shape[1]
        rgb.add(stored)
        if previous is not None and settings.flow != "none":
            moved = no_flow(*grey.shape) if reader.size_changed else compute_flow(previous, grey)
            flow.add(quantize_flow(_resize_flow(moved, size), bound=settings.flow_bound))
        previous = grey
    return rgb, flow, size


def _resize_flow(flow: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Flow (H, W, 2) at another size (height, width), its displacements in pixels of that size."""
    height, width = flow.shape[:2]
    if (height, width) == size:
        return flow
    scale = np.array((size[1] / width, size[0] / height), np.float32)
    return cv2.resize(flow, size[::-1], interpolation=cv2.INTER_AREA) * scale


def file_state(path: Path) -> FileState:
    stat = path.stat()
    return FileState(stat.st_size, stat.st_mtime_ns)


def file_state_or_none(path: Path) -> FileState:
    try:
        return file_state(path)
    except OSError:
        return FileState(0, 0)  # as of a file that was skipped because it was not there


@lru_cache(maxsize=8)  # the parts of a long file are prepared one after the other
def hash_once(path: Path, state: FileState) -> str:
    return hash_file(path)
