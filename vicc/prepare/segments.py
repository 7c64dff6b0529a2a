"""Long videos to parts: cut where one shot ends and another begins, every so many seconds, or both.

A part is a `VideoFile` with a start and an end, prepared like any other video. What was measured of
a file (its length, its cuts) is remembered in STORE/segments.json, so that a second start measures
only what is new.
"""

import time
from array import array
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import cv2

from vicc.data.remote import SEGMENTS_FILE as SEGMENTS_FILE
from vicc.data.video_files import VideoFile, part_of
from vicc.errors import ViccError
from vicc.files import read_json, write_json
from vicc.prepare.engines import Engine
from vicc.prepare.workers import decoder_guard
from vicc.progress import progress, say
from vicc.video.container import declared_seconds
from vicc.video.decode import VideoReader

_VERSIONS = {True: 1, False: 2}  # of how shots and lengths are found: what another version found is found again
_DETECTOR_SHORT_SIDE = 144
_SHORTEST_SHOT = 0.6  # seconds; PySceneDetect's default of 15 frames at 25 a second
_SECONDS_BETWEEN_SAVES = 10.0
_AVI_PARTS_WITHOUT_NOTE = 20
_BYTES_OF_A_PART = 100  # at least; a damaged header may declare years, and a list of their parts would fill the memory


@dataclass(frozen=True)
class Measured:
    """What is known of a video without storing it. Times are seconds after the file's first frame.

    Attributes:
        seconds: when it ends; None where it cannot be told, and then it is not cut.
        cuts: where shots begin, but for the first; empty if shots were not looked for.
    """

    seconds: float | None
    cuts: tuple[float, ...] = ()


def cut_files(
    files: Sequence[VideoFile],
    *,
    segment_seconds: float | None,
    shots: bool,
    memory: Path,
    engine: Engine,
) -> list[VideoFile]:
    """Replace each video that is to be cut by its parts, sorted by id; the others stay as they are.

    A file that cannot be measured stays whole: preparing it then tells why it cannot be read.

    Args:
        segment_seconds: length of the parts; None: no cuts but those between shots.
        memory: file that remembers what was measured. What could not be is tried again next time.
        engine: runs the measuring.

    Raises:
        ViccError: PySceneDetect is needed and not installed.
    """
    if segment_seconds is None and not shots:
        return list(files)
    if shots and find_spec("scenedetect") is None:
        raise ViccError("--shots needs PySceneDetect: pip install 'vicc[shots]'")
    known = _remembered(memory, shots)
    keys = {file.id: _key(file) for file in files}
    todo = [file for file in files if keys[file.id] not in known]
    if todo:
        saved = time.monotonic()
        with (
            progress(
                "shots" if shots else "lengths", total=len(files), start=len(files) - len(todo), unit="videos"
            ) as advance,
            closing(engine(partial(measure, shots=shots), todo, died=_not_measured, size_of=_no_size)) as results,
        ):
            for file, measured in results:
                known[keys[file.id]] = measured
                if time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    _remember(memory, shots, known)
                    saved = time.monotonic()
                advance(1, file.id)
        _remember(memory, shots, known)
    parts = {file.id: _parts(file, known[keys[file.id]], segment_seconds) for file in files}
    cut = {name: found for name, found in parts.items() if len(found) > 1}
    if cut:
        say(f"{len(cut)} of {len(files)} videos are cut, into {sum(map(len, cut.values()))} parts")
    slow = [name for name, found in cut.items() if len(found) > _AVI_PARTS_WITHOUT_NOTE and _is_avi(found[0].path)]
    if slow:
        say(
            f"note: an AVI stores no times, so each part is decoded from the file's beginning ({slow[0]} has "
            f"{len(cut[slow[0]])} parts); faster after: ffmpeg -i FILE.avi -c copy FILE.mkv"
        )
    return sorted((part for found in parts.values() for part in found), key=lambda part: part.id)


def _parts(file: VideoFile, measured: Measured, segment_seconds: float | None) -> list[VideoFile]:
    if measured.seconds is None:
        return [file]
    begin = file.start or 0.0
    end = measured.seconds if file.end is None else min(file.end, measured.seconds)
    edges = [begin, *(cut for cut in measured.cuts if begin < cut < end)]
    if segment_seconds is not None and end > edges[-1]:
        if (end - begin) / segment_seconds > file.path.stat().st_size / _BYTES_OF_A_PART:
            say(f"note on {file.id}: it declares {end:.0f} seconds, more than so small a file has: it is not cut")
            return [file]
        shots = zip(edges, [*edges[1:], end], strict=True)
        edges = [edge for first, last in shots for edge in segment_starts(first, last, segment_seconds)]
    if len(edges) == 1:
        return [file]
    # The last part goes on to the end, wherever that really is: a declared length may be too short.
    return [part_of(file, first, last) for first, last in zip(edges, [*edges[1:], file.end], strict=True)]


def segment_starts(start: float, end: float, seconds: float) -> list[float]:
    """Where parts of `seconds` begin in [start, end), in milliseconds; a rest shorter than half a
    part is no part.
    """
    count = max(1, int((end - start) / seconds + 0.5 + 1e-9))
    return [round(start + number * seconds, 3) for number in range(count)]


def _is_avi(path: Path) -> bool:
    return path.suffix.lower() == ".avi"


def _not_measured(file: VideoFile, reason: str) -> Measured:
    """The decoder crashed or hung; it will again when the video is prepared, which then tells the
    reason.
    """
    return Measured(None)


def _no_size(measured: Measured) -> int:
    return 0


def measure(file: VideoFile, shots: bool) -> Measured:
    """How long a video is and, if asked for, where its shots begin; of a file that cannot be read,
    nothing.
    """
    try:
        if shots:
            cuts, seconds = find_cuts(file.path, start=file.start, end=file.end)
            return Measured(seconds, cuts)
        with decoder_guard():
            return Measured(declared_seconds(file.path))
    except (ViccError, OSError):
        return Measured(None)


def find_cuts(path: Path, *, start: float | None = None, end: float | None = None) -> tuple[tuple[float, ...], float]:
    """Where shots begin, but for the first, and where the last one ends: seconds after the file's
    first frame.

    A cut stands half-way between two frames, so rounding cannot put a frame on the wrong side of
    it.

    Raises:
        VideoError: the file cannot be read.
    """
    from scenedetect.detectors import AdaptiveDetector

    reader = VideoReader(path, short_side=_DETECTOR_SHORT_SIDE, start=start, end=end, guard=decoder_guard)
    detector: Any = None
    times = array("d")
    found: list[int] = []
    for number, frame in enumerate(reader):
        if detector is None:
            detector = AdaptiveDetector(min_scene_len=max(2, round(_SHORTEST_SHOT * reader.frames_per_second)))
        times.append(reader.time)
        found += detector.process_frame(number, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
    found += detector.post_process(len(times) - 1)
    cuts = sorted({number for number in found if 0 < number < len(times)})
    return tuple(round((times[number - 1] + times[number]) / 2, 3) for number in cuts), reader.seconds


def _key(file: VideoFile) -> str:
    """Names a video and the state of its file."""
    try:
        stat = file.path.stat()
        state = f"{stat.st_size} {stat.st_mtime_ns}"
    except OSError:
        state = "missing"
    return f"{state} {file.id}"


def _remembered(memory: Path, shots: bool) -> dict[str, Measured]:
    if not memory.exists():
        return {}
    content = read_json(memory, what="list of shots and lengths")
    if not isinstance(content, Mapping) or content.get("shots") != shots or content.get("version") not in (1, 2):
        return {}
    try:
        found = {
            key: Measured(entry["seconds"], tuple(map(float, entry["cuts"])))
            for key, entry in content["videos"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ViccError(f"{memory} cannot be understood ({error}). Delete it: it is measured again.") from error
    # Lengths of version 1 are those of the container, sound and all.
    return found if content["version"] == _VERSIONS[shots] else {}


def _remember(memory: Path, shots: bool, known: Mapping[str, Measured]) -> None:
    videos = {key: asdict(measured) for key, measured in sorted(known.items()) if measured.seconds is not None}
    write_json(memory, {"version": _VERSIONS[shots], "shots": shots, "videos": videos})
