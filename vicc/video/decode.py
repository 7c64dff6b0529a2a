"""Video files to frames, one at a time, so that memory does not grow with the length of a video."""

import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain
from math import atan2, ceil, floor, inf, pi
from pathlib import Path

import av
import cv2
import numpy as np
from av.format import Flags
from av.sidedata.sidedata import SideData
from av.stream import Disposition
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vicc.errors import ViccError

_SUFFIXES = (
    "264 265 3g2 3gp 3gpp amv asf avc avi dav divx dv f4v flv gif gxf h264 h265 hevc ivf m1v m2p m2t m2ts m2v m4v mj2 "
    "mjpeg mjpg mk3d mkv mov mp4 mp4v mpe mpeg mpg mpv mts mxf nut obu ogm ogv ogx qt rm rmvb tp trp ts vob webm wmv "
    "wtv xvid y4m"
)
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())

_PLAYLISTS = frozenset(("concat", "dash", "hls", "imf"))  # FFmpeg's names of formats that only point to other files

# An AVI stores no presentation times, and FFmpeg's guess runs backwards where there are B-frames: frames are counted.
_WITHOUT_TIMES = frozenset(("avi",))

MAX_PIXELS = 8192 * 8192
"""Frames of more pixels are refused: one would take 200 MB, and so large a size is most often a damaged header."""

_ERRORS = (av.FFmpegError, ValueError, RuntimeError, ArithmeticError)  # what PyAV raises for a damaged file

_ROUNDING = Fraction(1, 1000)  # Matroska, FLV and ASF round times to milliseconds
_LONGEST_STILL = 10  # seconds that one frame is repeated for, at most; a clock that jumps must not fill a disk
_DEFAULT_RATE = Fraction(25)
_FEWER_WITHOUT_NOTE = 2  # every HMDB51 clip declares one frame more than it holds


class VideoError(ViccError):
    """A file that cannot be used as a video; the message is the reason."""


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its video stream; trust none of it before decoding.

    Attributes:
        frames_per_second: declared average rate; 25 where none is declared.
        width, height: of the coded frames, before rotation, in pixels.
        num_frames: declared number of frames; 0 where none is declared, as in most mkv and webm files.
        seconds: declared duration of the stream, else of the container; None where neither is declared.
        codec, pixel_format, container: FFmpeg's names.
        streams: number of video streams in the file, cover pictures not counted.
    """

    frames_per_second: float
    width: int
    height: int
    num_frames: int = 0
    seconds: float | None = None
    codec: str = ""
    pixel_format: str = ""
    container: str = ""
    streams: int = 1


class VideoReader:
    """Iterates over the frames of a file as uint8 RGB arrays (H, W, 3), rotation applied.

    A file that breaks in the middle yields what decodes; `broken_after` then holds the reason. Damage that the decoder
    covers up is counted, see `num_damaged` and `note`. The attributes below are those of the latest iteration.

    Args:
        path: the video file.
        short_side: frames whose shorter side is longer than this are scaled down to it (area interpolation, ratio
            kept); smaller frames stay as they are, since enlarging adds bytes and no information. None: never scale.
        start, end: seconds after the first frame; frames shown in [start, end) are yielded. None: from the first, to
            the last. A file whose times can be trusted is sought to the key frame before `start`; an AVI has none, is
            decoded from its beginning, and its frames are counted.
        frames_per_second: sample by time: at every k / frames_per_second seconds after the file's first frame, the
            frame then shown, whatever the file's own rate; right for variable rates. Cutting a file at any times
            gives the same frames as reading it whole. None: every frame, once.
        guard: makes a context that is entered whenever the decoder is waited for, so that one that hangs can be ended.

    Attributes:
        info: what the container declares; None before the first frame.
        broken_after: why decoding stopped before the end; None if it did not.
        num_decoded: frames that came out of the decoder.
        num_damaged: how many of them the decoder marked as damaged: it covers up what it could not read, and the error
            lives on in the frames after it until the next key frame.
        rotation: degrees, counterclockwise, by which frames were turned: 0, 90, 180 or 270.
        mirrored: whether they were mirrored, left to right, before that.
        interval: the shortest and the longest time between two frames, in seconds; None before the second frame.

    Raises:
        ViccError: times or a rate that make no sense.
        VideoError: on iteration, for a file without a readable video stream or without a single decodable frame.
    """

    def __init__(
        self,
        path: Path,
        *,
        short_side: int | None = None,
        start: float | None = None,
        end: float | None = None,
        frames_per_second: float | None = None,
        guard: Callable[[], AbstractContextManager[None]] = nullcontext,
    ) -> None:
        if not 0 <= (start or 0) < (float("inf") if end is None else end):
            raise ViccError(f"start {start} and end {end}: expected seconds with 0 <= start < end.")
        if frames_per_second is not None and not 0 < frames_per_second <= 1000:
            raise ViccError(f"{frames_per_second} frames per second: expected a number above 0, up to 1000.")
        self.path = path
        self.short_side = short_side
        self.start = start
        self.end = end
        self.guard = guard
        self._rate = None if frames_per_second is None else Fraction(frames_per_second).limit_denominator(100_000)
        self._start = Fraction(start or 0).limit_denominator(1_000_000)  # what was written, 0.1, and not its float
        self._end = None if end is None else Fraction(end).limit_denominator(1_000_000)
        self._begin()

    def _begin(self) -> None:
        self.info: VideoInfo | None = None
        self.broken_after: str | None = None
        self.num_decoded = 0
        self.num_damaged = 0
        self._first_damaged = 0
        self.rotation = 0
        self.mirrored = False
        self.interval: tuple[float, float] | None = None
        self._whole = self._was_sought = False
        self._long_stills = 0
        self._num_intervals = 0
        self._span = self._step = self._last = Fraction(0)
        self._reformatter = VideoReformatter()

    @property
    def frames_per_second(self) -> float:
        """Rate of the yielded frames: the one asked for, else the file's own."""
        return self.source_frames_per_second if self._rate is None else float(self._rate)

    @property
    def source_frames_per_second(self) -> float:
        """The declared rate of the file, unless the times of the decoded frames tell another."""
        assert self.info is not None  # asked before the first frame
        declared = self.info.frames_per_second
        if not self._span or self.info.container in _WITHOUT_TIMES:
            return declared
        measured = float(self._num_intervals / self._span)
        # Times in milliseconds cannot tell 29.97 from 30; a wrong declaration is far off.
        return declared if abs(measured / declared - 1) < 0.02 else measured

    @property
    def uneven(self) -> bool:
        """Whether frames do not follow each other at one rate; `frames_per_second` then samples them by time."""
        return self.interval is not None and self.interval[1] > max(1.2 * self.interval[0], self.interval[0] + 0.002)

    @property
    def seconds(self) -> float:
        """From the first frame to the end of the last one that was decoded."""
        return float(self._last + self._step)

    @property
    def can_seek(self) -> bool:
        """Whether `start` is reached without decoding what comes before; an AVI has no times to seek by."""
        return self.info is not None and self.info.container not in _WITHOUT_TIMES

    @property
    def problem(self) -> str:
        """What is missing or damaged in what was decoded by the latest iteration; empty: nothing."""
        problems = [self.broken_after or self._shortfall()]
        if self.num_damaged:
            problems.append(
                f"the decoder marked {self.num_damaged} of {self.num_decoded} frames as damaged, from frame "
                f"{self._first_damaged} on"
            )
        return "; ".join(filter(None, problems))

    @property
    def note(self) -> str:
        """What a user should know of the frames of the latest iteration: `problem`, and what else was changed."""
        stills = f"{self._long_stills} frames shown for more than {_LONGEST_STILL} s were cut to that"
        return "; ".join(filter(None, (self.problem, stills if self._long_stills else "")))

    def _shortfall(self) -> str:
        """Frames or seconds that are declared and not there, though nothing raised an error."""
        if not self._whole or self.info is None:
            return ""
        missing = self.info.num_frames - self.num_decoded
        # An mp4 counts also the frames that its edit list cuts off.
        if self.info.num_frames and "mp4" not in self.info.container:
            return (
                f"{self.num_decoded} of {self.info.num_frames} declared frames decode"
                if missing > _FEWER_WITHOUT_NOTE
                else ""
            )
        seconds, there = self.info.seconds or 0.0, self.seconds
        # Sound may go on a little after the last frame.
        if seconds - there > max(1.0, 0.1 * seconds):
            return f"{there:.1f} of {seconds:.1f} declared seconds decode"
        return ""

    @property
    def time(self) -> float:
        """Seconds after the file's first frame at which the frame decoded last is shown."""
        return float(self._last)

    def __iter__(self) -> Iterator[np.ndarray]:
        self._begin()
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise VideoError("it is not a regular file")  # a pipe would be waited for without end
        if status.st_size == 0:
            raise VideoError("the file is empty (0 bytes)")
        num_yielded = 0
        frames = self._frames() if self._rate is None else self._sampled(self._rate)
        try:
            for frame in frames:
                num_yielded += 1
                yield self._to_array(frame)
        except _ERRORS as error:
            reason = _reason(error)
            if self.num_decoded == 0:
                raise VideoError(f"cannot be decoded ({reason})") from error
            where = f"at {self.seconds:.2f} s" if self._was_sought else f"after {self.num_decoded} frames"
            self.broken_after = f"decoding stopped {where} ({reason})"
        if self.num_decoded == 0:
            raise VideoError("no frame could be decoded")
        if num_yielded == 0:
            raise VideoError(
                f"no frame is shown from {self.start or 0} s on: the last one begins at {float(self._last):.3f} s"
            )

    def _frames(self) -> Iterator[av.VideoFrame]:
        """Every frame shown in [start, end), once."""
        for time, frame in self._timed():
            if self._end is not None and time >= self._end - _ROUNDING:
                return
            if time >= self._start - _ROUNDING:
                yield frame

    def _sampled(self, rate: Fraction) -> Iterator[av.VideoFrame]:
        """The frame shown at every tick of [start, end); ticks are counted from the file's first frame.

        times     0    40            200  240     a rate of 12.5: every 80 ms
        frames    A    B              C    D
        ticks     0       80    160      240      A B B D
        """
        tick = ceil(self._start * rate)
        shown: tuple[Fraction, av.VideoFrame] | None = None

        def until(time: Fraction) -> Iterator[av.VideoFrame]:
            nonlocal tick
            assert shown is not None
            while tick / rate < time and (self._end is None or tick / rate < self._end):
                if tick / rate - shown[0] > _LONGEST_STILL:
                    self._long_stills += 1
                    tick = ceil(time * rate)
                    return
                yield shown[1]
                tick += 1

        try:
            for time, frame in self._timed():
                if shown is not None:
                    yield from until(time - _ROUNDING)
                shown = time, frame
                if self._end is not None and tick / rate >= self._end:
                    return
        except _ERRORS:
            if shown is not None:
                yield from until(shown[0] + self._step - _ROUNDING)
            raise
        if shown is not None:
            yield from until(shown[0] + self._step - _ROUNDING)

    def _timed(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """Frames with their seconds after the first, from the key frame before `start` on where the file is sought."""
        with self._opened() as (container, stream):
            frames = self._clocked(container, stream)
            first = next(frames, None)
            if first is None:
                return
            if self._start == 0 or not self.can_seek or first[1].pts is None:
                yield first
                yield from frames
                self._whole = True
                return
            landed = self._sought(container, stream, first[1].pts)
            if landed is not None:
                yield from landed
                return
        with self._opened() as (container, stream):
            self.num_decoded = self.num_damaged = 0
            yield from self._clocked(container, stream)
            self._whole = True

    def _sought(
        self, container: av.container.InputContainer, stream: av.VideoStream, origin: int
    ) -> Iterator[tuple[Fraction, av.VideoFrame]] | None:
        """Frames from a key frame not after `start`; None if the file cannot be sought there."""
        assert stream.time_base is not None
        target = origin + floor((self._start - _ROUNDING) / stream.time_base)
        try:
            with self.guard():
                if Flags.ts_discont in Flags(container.format.flags) and not _runs_on(container, stream, target):
                    return None
                container.seek(target, stream=stream)
            frames = self._clocked(container, stream, origin=origin)
            landed = next(frames, None)
        except av.FFmpegError:
            return None
        if landed is None or not 0 <= landed[0] <= self._start:
            return None
        self._was_sought = True
        return chain((landed,), frames)

    def _clocked(
        self, container: av.container.InputContainer, stream: av.VideoStream, *, origin: int | None = None
    ) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """Decode, with each frame's seconds after the first. Times never stand still or run backwards.

        Args:
            origin: presentation time of the file's first frame, where decoding does not begin with it.
        """
        counted = container.format.name in _WITHOUT_TIMES
        assert self.info is not None
        nominal = 1 / Fraction(self.info.frames_per_second).limit_denominator(100_000)
        stream_end = stream.duration * stream.time_base if stream.duration and stream.time_base else None
        shift, last = Fraction(0), None
        frames = container.decode(stream)
        while True:
            with self.guard():
                frame = next(frames, None)
            if frame is None:
                return
            self.num_decoded += 1
            if frame.is_corrupt:
                self._first_damaged = self._first_damaged if self.num_damaged else self.num_decoded - 1
                self.num_damaged += 1
            if origin is None:
                origin = frame.pts
            unit = frame.time_base
            step = frame.duration * unit if frame.duration and unit and not counted else nominal
            if counted or frame.pts is None or origin is None or not unit:
                time = Fraction(0) if last is None else last + nominal
            else:
                time = (frame.pts - origin) * unit + shift
                if last is not None and time <= last:
                    # Two files in one, or a damaged time: go on from here.
                    shift += last + nominal - time
                    time = last + nominal
            if last is not None:
                self._num_intervals += 1
                self._span += time - last
                low, high = self.interval or (inf, 0.0)
                self.interval = min(low, float(time - last)), max(high, float(time - last))
            self._last = last = time
            # An mp4 lists durations in the order of decoding: with B-frames the last one shown may have another's.
            self._step = min(step, stream_end - time) if stream_end is not None and time < stream_end else step
            yield time, frame

    @contextmanager
    def _opened(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        # Only the file itself may be opened: a playlist in disguise must not reach the network or other files. The
        # path is absolute, for a colon in a relative one reads as a protocol.
        path, options = str(self.path.absolute()), {"protocol_whitelist": "file"}
        with self.guard():
            container = av.open(path, metadata_errors="ignore", options=options)
        with container:
            if container.format.name in _PLAYLISTS:
                raise VideoError(f"the file is a playlist ({container.format.name}), not a video")
            stream, count = _video_stream(container)
            self.info = _declared(container, stream, count)
            if self.info.width * self.info.height > MAX_PIXELS:
                raise VideoError(
                    f"frames of {self.info.width} x {self.info.height} pixels, more than {MAX_PIXELS / 1e6:.0f} million"
                )
            stream.codec_context.options = {
                "max_pixels": str(MAX_PIXELS)
            }  # the frames need not be of the declared size
            stream.codec_context.thread_count = 1  # processes run one a core; two threads in each would be slower
            yield container, stream

    def _to_array(self, frame: av.VideoFrame) -> np.ndarray:
        self.rotation, self.mirrored = _orientation(frame)
        # Halving in the decoder's own format first: 4K to 128 takes 14 ms a frame, from full-size RGB 44. Whole
        # averages of 2 x 2, so nothing aliases; swscale's area filter at other ratios differs by up to 190 of 255.
        half = 1
        while self.short_side is not None and min(frame.width, frame.height) >= 4 * half * self.short_side:
            half *= 2
        image = self._reformatter.reformat(
            frame,
            frame.width // half,
            frame.height // half,
            "rgb24",
            interpolation=Interpolation.AREA if half > 1 else Interpolation.BILINEAR,
            dst_color_range=ColorRange.JPEG,
            threads=1,
        ).to_ndarray()
        if self.mirrored:
            image = image[:, ::-1]
        if self.rotation:
            image = np.rot90(image, self.rotation // 90)
        return np.ascontiguousarray(shrink(image, self.short_side))


def declared_seconds(path: Path) -> float:
    """Length of a file's video in seconds without decoding it: as declared, else read off its packets.

    Raises:
        VideoError: no readable video stream, or nothing in the file tells a length.
    """
    reader = VideoReader(path)
    try:
        with reader._opened() as (container, stream):
            assert reader.info is not None
            if reader.info.seconds is not None and reader.info.seconds > 0:
                return reader.info.seconds
            # Many mkv and webm files declare no length, and one whose writer was killed never does.
            first = last = None
            for packet in container.demux(stream):
                if packet.pts is not None and packet.time_base is not None:
                    shown = packet.pts * packet.time_base
                    first = shown if first is None else min(first, shown)
                    until = shown + (packet.duration or 0) * packet.time_base
                    last = until if last is None else max(last, until)
    except (av.FFmpegError, ValueError, OSError) as error:
        raise VideoError(f"cannot be read ({_reason(error)})") from error
    if first is None or last is None or last <= first:
        raise VideoError("nothing in the file tells how long it is")
    return float(last - first)


def _runs_on(container: av.container.InputContainer, stream: av.VideoStream, target: int) -> bool:
    """Whether times increase up to `target`: formats made for broadcast may start anew, and a seek would be lost there.

    Packets are only listed, not decoded.
    """
    last: int | None = None
    for packet in container.demux(stream):
        if packet.dts is None:
            continue
        if last is not None and packet.dts < last:
            return False
        if packet.dts > target:
            return True
        last = packet.dts
    return False


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Degrees counterclockwise by which a frame is to be turned, and whether it is to be mirrored before that."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return 0, False
    # Row vectors: (x, y) goes to (a x + c y, b x + d y). A negative determinant mirrors, as front cameras do.
    a, b, _, c, d = struct.unpack("<5i", bytes(matrix)[:20])
    mirrored = a * d - b * c < 0
    angle = -atan2(-b, -a) if mirrored else -atan2(b, a)
    return round(angle / (pi / 2)) % 4 * 90, mirrored


def _video_stream(container: av.container.InputContainer) -> tuple[av.VideoStream, int]:
    """The stream that FFmpeg deems best, and how many there are. A sound file's cover picture is none."""
    streams = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not streams:
        raise VideoError("the file has no video stream")
    best = container.streams.best("video")
    stream = best if best in streams else streams[0]
    if stream.codec_context is None:
        raise VideoError("the codec of its video stream is not known; the file may be damaged")
    return stream, len(streams)


def _declared(container: av.container.InputContainer, stream: av.VideoStream, streams: int) -> VideoInfo:
    rate = stream.average_rate or stream.guessed_rate or _DEFAULT_RATE
    seconds: float | None = None
    if stream.duration and stream.time_base:
        seconds = float(stream.duration * stream.time_base)
    elif container.duration:
        seconds = container.duration / av.time_base
    return VideoInfo(
        frames_per_second=float(rate),
        width=stream.width,
        height=stream.height,
        num_frames=stream.frames,
        seconds=seconds,
        codec=stream.codec.canonical_name,  # av1, whichever library decodes it
        pixel_format=stream.codec_context.pix_fmt or "",
        container=container.format.name,
        streams=streams,
    )


def shrink(image: np.ndarray, short_side: int | None) -> np.ndarray:
    """An image (H, W, ...) scaled down to this shorter side, ratio kept; None and smaller images stay as they are."""
    height, width = image.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _reason(error: Exception) -> str:
    # FFmpeg's own words without its error number and the path, which the caller names anyway.
    text = error.strerror if isinstance(error, av.FFmpegError) and error.strerror else str(error)
    return " ".join(text.split())[:200]
