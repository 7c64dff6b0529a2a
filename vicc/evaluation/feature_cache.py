"""Features kept in files, so that nothing is computed twice, and nothing old is ever taken for new.

FOLDER/KEY.safetensors   a `VideoValues`; KEY is a fingerprint of all that a row depends on but for its video: the
                         network's weights, how clips are cut, the precision, how the store's frames were made

Each row carries a fingerprint of its video's content. A row is used only if that is the same; all others are computed.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.data.video_folder import VideoFolder
from vicc.distributed import on_first
from vicc.errors import ViccError
from vicc.evaluation.result import fingerprint
from vicc.evaluation.video_values import VideoValues, read_video_values, write_video_values
from vicc.progress import Advance, progress, say

Describe = Callable[[list[Video], Advance], torch.Tensor]
"""Some videos to their features (N, D)."""

# Frames between two writes: minutes of S3D on one core. By frames, not by time, so that equal runs compute alike.
_FRAMES_A_WRITE = 1 << 14


class FeatureCache:
    """Features by what they depend on. Of several processes the first one reads and writes.

    Args:
        folder: where the files are; None keeps nothing.
        source: where frames come from.
    """

    def __init__(self, folder: Path | None, source: FrameReader) -> None:
        self.folder = folder
        # A folder's frames are decoded on the fly, without the loss of a store's codec.
        self._source = {"frames": "files" if isinstance(source, VideoFolder) else "store", **asdict(source.settings)}

    def path(self, key: dict[str, Any]) -> Path | None:
        """The file of a key; None where nothing is kept."""
        return None if self.folder is None else self.folder / f"{fingerprint([key, self._source])}.safetensors"

    def features(
        self, key: dict[str, Any], videos: Sequence[Video], describe: Describe, *, description: str
    ) -> torch.Tensor:
        """Features (N, D) of videos, in their order, as far as possible from the file of `key`.

        What is computed is written every few minutes, so that after a Ctrl-C the same call goes on from there.

        Args:
            key: plain values: everything that a feature depends on but for the video and how its frames were made.
            describe: computes the features of those that are not in the file; called in all processes.
        """
        path = self.path(key)
        known = on_first(lambda: {} if path is None else _read(path))
        contents = {video.id: fingerprint(_content(video)) for video in videos}
        rows = {
            video.id: known[video.id][1]
            for video in videos
            if video.id in known and known[video.id][0] == contents[video.id]
        }
        todo = [video for video in videos if video.id not in rows]
        if todo:
            with progress(description, total=len(videos), start=len(rows), unit="videos") as advance:
                for part in _parts(todo):
                    found = describe(part, advance)
                    for video, row in zip(part, found, strict=True):
                        rows[video.id] = row
                        known[video.id] = contents[video.id], row
                    if path is not None:
                        on_first(lambda: _write(path, key, known))
        return torch.stack([rows[video.id] for video in videos])


def _content(video: Video) -> list[Any]:
    source = video.source
    return [
        video.id,
        video.num_frames,
        video.height,
        video.width,
        source.blake2b or [source.bytes, source.modified_ns],
    ]


def _parts(videos: Sequence[Video]) -> list[list[Video]]:
    parts: list[list[Video]] = [[]]
    frames = 0
    for video in videos:
        if frames >= _FRAMES_A_WRITE:
            parts.append([])
            frames = 0
        parts[-1].append(video)
        frames += video.num_frames
    return parts


_Known = dict[str, tuple[str, torch.Tensor]]  # of each video its content and its row


def _read(path: Path) -> _Known:
    if not path.exists():
        return {}
    try:
        table = read_video_values(path)
        contents = table.facts["contents"]
        return {name: (content, row) for name, content, row in zip(table.ids, contents, table.values, strict=True)}
    except (ViccError, KeyError, TypeError, ValueError) as error:
        say(f"features are computed again, since those kept cannot be read: {error}")
        return {}


def _write(path: Path, key: dict[str, Any], known: _Known) -> None:
    rows = dict(sorted(known.items()))
    table = VideoValues(
        list(rows),
        torch.stack([row for _, row in rows.values()]),
        {"key": key, "contents": [content for content, _ in rows.values()]},
    )
    try:
        write_video_values(path, table)
    except PermissionError as error:  # somebody else's run can be measured, but not added to
        say(f"features are not kept: {error.filename} cannot be written")
