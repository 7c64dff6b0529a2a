"""`vicc check`: decode every file, or every entry of a store, and say what is wrong with which.

The words and the looks of the contact sheet are in `check.html.jinja`; here is what it shows.
"""

import base64
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import cv2
import jinja2
import numpy as np

from vicc.cores import usable_cores
from vicc.data.frame_pack import StoredStream
from vicc.data.records import Video
from vicc.data.store import Store
from vicc.data.survey import Survey, survey_members, survey_videos
from vicc.data.video_files import file_id
from vicc.errors import ViccError
from vicc.files import atomic_write, hash_file
from vicc.places import is_url, require_videos_or_store
from vicc.prepare.configs import MIN_FRAMES, CheckConfig
from vicc.prepare.engines import run_locally
from vicc.prepare.video import too_few_frames
from vicc.prepare.workers import decoder_guard
from vicc.progress import progress, say
from vicc.settings import takes_settings
from vicc.version import __version__
from vicc.video.container import VideoError, VideoInfo, declared_seconds
from vicc.video.decode import VideoReader

Verdict = Literal["unreadable", "too short", "partly readable", "readable", "skipped"]
MAX_ON_SHEET = 500
"""Videos on a contact sheet, at most: about 10 MB. Those with a problem come first."""

_LISTS = frozenset((".csv", ".parquet"))
_PICTURES, _PICTURE_SIDE = 4, 90  # a video; pixels of the shorter side
_PICTURES_PER_SECOND = 4.0
_SAMPLE_SECONDS = 1.0  # at the beginning, in the middle and at the end, with --fast
_BATCH = 64  # stored frames decoded at once


@dataclass(frozen=True)
class CheckedVideo:
    """What was found out about one file, or one entry of a store.

    Attributes:
        name: the path as given, or the video's id in a store.
        verdict: "too short": it decodes, and has fewer frames than `vicc prepare` takes by default.
            "skipped" only in a store: the file could not be used when the store was prepared.
        reason: why it is not wholly readable; empty if it is.
        remarks: what else is worth knowing, for instance that its frames do not come at one rate.
        frames_declared: by the container; None where it says nothing.
        frames_decoded: of the parts that were decoded, where only those were (`sampled`).
        width, height: as shown, rotation applied, in pixels.
        frames_per_second: found while decoding, not only declared.
        rotation: degrees, counterclockwise, by which frames are turned for display.
        blake2b: hash of the file; with --fast only of files that share their size with another.
        same_as: name of an earlier video with the same bytes, or the same frames in another
            container.
    """

    name: str
    verdict: Verdict
    reason: str = ""
    remarks: tuple[str, ...] = ()
    file_bytes: int = 0
    frames_declared: int | None = None
    frames_decoded: int = 0
    sampled: bool = False
    width: int = 0
    height: int = 0
    frames_per_second: float | None = None
    seconds: float | None = None
    rotation: int = 0
    mirrored: bool = False
    container: str = ""
    codec: str = ""
    pixel_format: str = ""
    blake2b: str = ""
    frames_hash: str = ""
    same_as: str = ""
    pictures: tuple[bytes, ...] = field(default=(), repr=False)

    @property
    def is_problem(self) -> bool:
        return self.verdict in ("unreadable", "too short", "partly readable")


@dataclass(frozen=True)
class CheckReport:
    """What `check_videos` found, in the order of the paths and of the names in them.

    `surveys` count what the folders, lists and stores among the paths hold, and what was passed
    over there.
    """

    videos: list[CheckedVideo]
    sampled: bool
    surveys: list[Survey] = field(default_factory=list)

    @property
    def counts(self) -> dict[str, int]:
        """How many videos there are of each verdict, those of which there is none left out."""
        counts = Counter(video.verdict for video in self.videos)
        return {verdict: counts[verdict] for verdict in _VERDICTS if counts[verdict]}

    @property
    def duplicates(self) -> int:
        """Videos that an earlier one equals."""
        return sum(bool(video.same_as) for video in self.videos)

    @property
    def passed(self) -> bool:
        """Whether every video is wholly readable; what a store has skipped does not count."""
        return not any(video.is_problem for video in self.videos)

    def by_weight(self) -> list[CheckedVideo]:
        """Unreadable ones first, then too short and partly readable ones, then those with remarks."""
        weights = {"unreadable": 0, "too short": 1, "partly readable": 2, "skipped": 3, "readable": 4}
        return sorted(self.videos, key=lambda video: (weights[video.verdict], not (video.remarks or video.same_as)))

    def to_json(self) -> dict[str, Any]:
        videos = [{name: value for name, value in asdict(v).items() if name != "pictures"} for v in self.videos]
        return {
            "checked": len(videos),
            "counts": self.counts,
            "duplicates": self.duplicates,
            "sampled": self.sampled,
            "surveys": [asdict(survey) for survey in self.surveys],
            "videos": videos,
        }


_VERDICTS: tuple[Verdict, ...] = ("readable", "partly readable", "too short", "unreadable", "skipped")


@dataclass(frozen=True)
class _File:
    name: str
    path: Path
    with_hash: bool = True


@dataclass(frozen=True)
class _Entry:
    """A video of a store."""

    name: str
    store: Path | str
    video: Video


@takes_settings(CheckConfig)
def check_videos(config: CheckConfig) -> CheckReport:
    """Decode all files under some paths, and all entries of the stores among them; write the
    contact sheet if asked.

    Raises:
        ViccError: a path that does not exist, a folder without videos, a store that cannot be
            opened.
    """
    items, done, surveys = _collect(config.paths)
    if config.fast:
        items = _hash_where_sizes_agree(items)
    check = partial(_check, fast=config.fast, with_pictures=config.html is not None)
    workers = min(config.workers or usable_cores(), max(1, len(items)))
    pictured = 0
    running = run_locally(check, items, died=_died, size_of=_size, workers=workers)
    with progress("check", total=len(items), unit="videos") as advance, closing(running) as results:
        for item, video in results:
            # Pictures of the first ones are kept, and of all problems: memory must not grow with
            # the data set.
            if pictured >= MAX_ON_SHEET and not (video.is_problem and pictured < 2 * MAX_ON_SHEET):
                video = replace(video, pictures=())
            pictured += bool(video.pictures)
            done.append(video)
            advance(1, item.name)
    report = CheckReport(_with_duplicates(done), sampled=config.fast, surveys=surveys)
    if config.html is not None:
        _write_sheet(report, config.html)
    return report


def _collect(paths: Sequence[Path | str]) -> tuple[list[_File | _Entry], list[CheckedVideo], list[Survey]]:
    """What is to be decoded, what stores have skipped already, and what folders, lists and stores
    hold.

    With several paths, names begin with theirs.
    """
    items: dict[str, _File | _Entry] = {}  # by name: a path given twice is no duplicate
    aside: list[CheckedVideo] = []
    surveys: list[Survey] = []
    seen: set[Path] = set()
    for place in paths:
        path = Path(place)
        root = path if len(paths) > 1 else Path()
        if is_url(place) or (path / "store.json").is_file():
            prefix = f"{str(place).rstrip('/')}/" if len(paths) > 1 else ""
            store = Store(place)
            for video in store.videos:
                items[prefix + video.id] = _Entry(prefix + video.id, place, video)
            for entry in store.set_aside:
                aside.append(CheckedVideo(prefix + entry.id, "skipped", entry.reason, file_bytes=entry.source.bytes))
            surveys.append(survey_members(str(place), store.videos, set_aside=[entry.id for entry in store.set_aside]))
            store.close()
        elif path.is_dir() or path.suffix.lower() in _LISTS:
            found = survey_videos(path)
            surveys.append(found.survey)
            for note in found.survey.notes:
                say(note)
            for file in found.files:
                if file.path not in seen:  # the parts of a file that a list names are one file
                    name = str(root / file_id(file.id))
                    items[name] = _File(name, file.path)
                    seen.add(file.path)
        elif path.exists():
            items[str(path)] = _File(str(path), path)
        else:
            require_videos_or_store(path)
    return list(items.values()), aside, surveys


def _hash_where_sizes_agree(items: list[_File | _Entry]) -> list[_File | _Entry]:
    """Files of different size differ; only the others need to be read whole."""
    sizes = Counter(_file_bytes(item.path) for item in items if isinstance(item, _File))
    return [
        replace(item, with_hash=sizes[_file_bytes(item.path)] > 1) if isinstance(item, _File) else item
        for item in items
    ]


def _file_bytes(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None  # a list may name a file that is not there; its check says so


def _check(item: _File | _Entry, *, fast: bool, with_pictures: bool) -> CheckedVideo:
    if isinstance(item, _File):
        return _check_file(item, fast, with_pictures)
    return _check_entry(item, fast, with_pictures)


def _size(video: CheckedVideo) -> int:
    return sum(map(len, video.pictures))


def _died(item: _File | _Entry, reason: str) -> CheckedVideo:
    return CheckedVideo(item.name, "unreadable", reason)


# --- files -----------------------------------------------------------------------------------------------------------


def _check_file(item: _File, fast: bool, with_pictures: bool) -> CheckedVideo:
    try:
        size = item.path.stat().st_size
        blake2b = hash_file(item.path) if item.with_hash else ""
    except OSError as error:
        return CheckedVideo(item.name, "unreadable", f"cannot be read ({error.strerror})")
    found = CheckedVideo(item.name, "unreadable", file_bytes=size, blake2b=blake2b)
    try:
        return (
            _decode_parts(found, item.path, with_pictures) if fast else _decode_whole(found, item.path, with_pictures)
        )
    except (VideoError, OSError) as error:
        return replace(found, reason=str(error))


def _decode_whole(found: CheckedVideo, path: Path, with_pictures: bool) -> CheckedVideo:
    reader = _reader(path)
    pictures, digest = _Pictures(), hashlib.blake2b(digest_size=16)
    for frame in reader:
        digest.update(frame.data)
        pictures.add(frame)
    digest.update(f"{reader.num_decoded} {frame.shape}".encode())
    found = _described(found, reader, frame, pictures if with_pictures else None)
    found = replace(found, frames_decoded=reader.num_decoded, frames_hash=digest.hexdigest())
    if reader.num_decoded >= MIN_FRAMES:
        return found
    reason = f"{too_few_frames(reader.num_decoded, MIN_FRAMES)}: vicc prepare skips it"
    return replace(found, verdict="too short", reason="; ".join(filter(None, (reason, found.reason))))


def _decode_parts(found: CheckedVideo, path: Path, with_pictures: bool) -> CheckedVideo:
    """A second each at the beginning, in the middle and at the end.

    What cannot be sought is decoded whole, and so is a short video, whose key frames are too few to
    gain from seeking.
    """
    first = _reader(path, end=_SAMPLE_SECONDS)
    pictures = _Pictures()
    for frame in first:
        pictures.add(frame)
    assert first.info is not None
    seconds = first.info.seconds
    if seconds is None and first.info.container_seconds is not None:
        seconds = declared_seconds(path)  # of the picture: the sound may be longer
    if not first.can_seek or seconds is None or seconds <= 5 * 3 * _SAMPLE_SECONDS:
        return _decode_whole(found, path, with_pictures)
    found = _described(found, first, frame, None)
    decoded, problems = first.num_decoded, [first.problem]
    # As far from the declared end as the last frame may be, see VideoReader.problem.
    last = seconds - max(_SAMPLE_SECONDS, 0.1 * seconds)
    for start, end in ((seconds / 2, seconds / 2 + _SAMPLE_SECONDS), (last, None)):
        part = _reader(path, start=start, end=end)
        try:
            for frame in part:
                pictures.add(frame)
            problems.append(part.problem)
        except VideoError as error:
            problems.append(str(error))
        decoded += part.num_decoded
    problem = "; ".join(dict.fromkeys(filter(None, problems)))
    return replace(
        found,
        verdict="partly readable" if problem else "readable",
        reason=problem,
        frames_decoded=decoded,
        sampled=True,
        pictures=pictures.encode() if with_pictures else (),
    )


def _reader(path: Path, *, start: float | None = None, end: float | None = None) -> VideoReader:
    # All frames are decoded; only those that may be shown are converted and scaled.
    return VideoReader(
        path,
        short_side=_PICTURE_SIDE,
        start=start,
        end=end,
        frames_per_second=_PICTURES_PER_SECOND,
        guard=decoder_guard,
    )


def _described(
    found: CheckedVideo, reader: VideoReader, frame: np.ndarray, pictures: "_Pictures | None"
) -> CheckedVideo:
    info = reader.info
    assert info is not None
    turned = reader.rotation % 180 != 0
    # Two recordings in one file: it declares the length of one of them.
    longer = info.seconds is None or reader.seconds - info.seconds > 1.0
    return replace(
        found,
        verdict="partly readable" if reader.problem else "readable",
        reason=reader.problem,
        remarks=tuple(_remarks(reader, info)),
        frames_declared=info.num_frames or None,
        width=info.height if turned else info.width,
        height=info.width if turned else info.height,
        frames_per_second=reader.file_frames_per_second,
        seconds=info.seconds if not longer else reader.seconds,
        rotation=reader.rotation,
        mirrored=reader.mirrored,
        container=info.container,
        codec=info.codec,
        pixel_format=info.pixel_format,
        pictures=pictures.encode() if pictures else (),
    )


_TURNS = {90: "90 degrees counterclockwise", 180: "180 degrees", 270: "90 degrees clockwise"}


def _remarks(reader: VideoReader, info: VideoInfo) -> Iterator[str]:
    if reader.rotation:
        yield f"shown turned by {_TURNS[reader.rotation]}"
    if reader.mirrored:
        yield "shown mirrored"
    if reader.uneven and reader.interval is not None:
        low, high = (1000 * seconds for seconds in reader.interval)
        yield f"variable frame rate, {low:.0f} to {high:.0f} ms a frame"
    if info.streams > 1:
        yield f"{info.streams} video streams; the one of {info.width} x {info.height} is used"
    if sizes := reader.describe_sizes(by_number=True):
        yield sizes


# --- entries of a store ----------------------------------------------------------------------------------------------


def _check_entry(item: _Entry, fast: bool, with_pictures: bool) -> CheckedVideo:
    video, store = item.video, _open_store(item.store)
    found = CheckedVideo(
        item.name,
        "readable",
        remarks=(video.note,) if video.note else (),
        file_bytes=video.source.bytes,
        frames_declared=video.num_frames,
        sampled=fast,
        width=video.width,
        height=video.height,
        frames_per_second=video.frames_per_second,
        seconds=video.num_frames / video.frames_per_second,
        blake2b=video.source.blake2b,
    )
    pictures, decoded = _Pictures(), 0
    streams: list[tuple[StoredStream, int]] = [("rgb", video.num_frames)]
    if store.settings.flow != "none":
        streams.append(("flow", video.num_frames - 1))
    try:
        for stream, num_frames in streams:
            store.check_pack(video.id, stream)
            for numbers in _batches(num_frames, fast):
                frames = store.frames(video.id, stream, numbers)
                if frames.shape[1:3] != (video.height, video.width):
                    size = f"{frames.shape[2]} x {frames.shape[1]}"
                    reason = (
                        f"frames of stream {stream} are of {size} pixels, declared are {video.width} x {video.height}"
                    )
                    return replace(found, verdict="unreadable", reason=reason)
                if stream == "rgb":
                    decoded += len(frames)
                    for frame in frames[:: max(1, len(frames) // _PICTURES)]:
                        pictures.add(frame)
    except ViccError as error:
        return replace(found, verdict="unreadable", reason=str(error), frames_decoded=decoded)
    return replace(found, frames_decoded=decoded, pictures=pictures.encode() if with_pictures else ())


@lru_cache(maxsize=2)
def _open_store(path: Path | str) -> Store:
    """Once in each process, not once a video."""
    return Store(path)


def _batches(num_frames: int, fast: bool) -> list[list[int]]:
    """Frame indices to decode: all, or the first, middle and last few."""
    numbers = list(range(num_frames))
    if fast and num_frames > 24:
        middle = num_frames // 2
        numbers = [*numbers[:8], *numbers[middle - 4 : middle + 4], *numbers[-8:]]
    return [numbers[at : at + _BATCH] for at in range(0, len(numbers), _BATCH)]


# --- duplicates and pictures -----------------------------------------------------------------------------------------


def _with_duplicates(videos: Iterable[CheckedVideo]) -> list[CheckedVideo]:
    first: dict[str, str] = {}
    result = []
    for video in videos:
        hashes = [value for value in (video.blake2b, video.frames_hash) if value and video.file_bytes]
        same_as = next((first[value] for value in hashes if value in first), "")
        for value in hashes:
            first.setdefault(value, video.name)
        result.append(replace(video, same_as=same_as))
    return result


class _Pictures:
    """A few frames, evenly over a video of unknown length; memory holds a dozen."""

    def __init__(self) -> None:
        self._frames: list[np.ndarray] = []
        self._every = 1
        self._seen = 0

    def add(self, frame: np.ndarray) -> None:
        if self._seen % self._every == 0:
            self._frames.append(frame)
            if len(self._frames) == 4 * _PICTURES:
                self._frames, self._every = self._frames[::2], 2 * self._every
        self._seen += 1

    def encode(self) -> tuple[bytes, ...]:
        """As JPEG, at most `_PICTURES`."""
        count = min(_PICTURES, len(self._frames))
        chosen = [self._frames[(2 * number + 1) * len(self._frames) // (2 * count)] for number in range(count)]
        return tuple(_to_jpeg(frame) for frame in chosen)


def _to_jpeg(frame: np.ndarray) -> bytes:
    height, width = frame.shape[:2]
    scale = min(1.0, _PICTURE_SIDE / min(height, width), 3 * _PICTURE_SIDE / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    small = cv2.resize(frame, size, interpolation=cv2.INTER_AREA)
    done, data = cv2.imencode(".jpg", cv2.cvtColor(small, cv2.COLOR_RGB2BGR), (cv2.IMWRITE_JPEG_QUALITY, 70))
    if not done:
        raise ViccError(f"OpenCV could not encode a picture of {size[0]} x {size[1]} pixels as JPEG.")
    return data.tobytes()


# --- the contact sheet -----------------------------------------------------------------------------------------------


def _write_sheet(report: CheckReport, path: Path) -> None:
    videos = report.by_weight()
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vicc.prepare", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["data_uri"] = lambda data: "data:image/jpeg;base64," + base64.b64encode(data).decode()
    environment.filters["facts"] = describe
    html = environment.get_template("check.html.jinja").render(
        report=report,
        videos=videos[:MAX_ON_SHEET],
        left_out=len(videos) - MAX_ON_SHEET,
        version=__version__,
    )
    with atomic_write(path, "wb") as file:
        # Names of files need not be Unicode; what cannot be written becomes a question mark.
        file.write(html.encode("utf-8", "replace"))


def describe(video: CheckedVideo) -> str:
    """What a video is, on one line: size, rate, length, codec."""
    facts = [f"{video.width} x {video.height}" if video.width else ""]
    facts.append(f"{video.frames_per_second:.4g} fps" if video.frames_per_second else "")
    facts.append(f"{video.seconds:.1f} s" if video.seconds else "")
    facts.append(f"{video.codec} {video.pixel_format}".strip())
    facts.append(f"{video.file_bytes / 1e6:.1f} MB" if video.file_bytes >= 1e6 else f"{video.file_bytes / 1e3:.1f} kB")
    return ", ".join(filter(None, facts))
