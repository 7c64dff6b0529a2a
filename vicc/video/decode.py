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
from av.video.reformatter import ColorRange, Interpolation, VideoReformatter

from vicc.errors import ViccError
from vicc.video.container import (
    DECODING_ERRORS,
    MAX_PIXELS,
    TIME_ROUNDING,
    VideoError,
    VideoInfo,
    open_video,
    packet_spans,
    reason_of,
    require_usual_size,
    times_increase,
)

# An AVI stores no presentation times, and FFmpeg's guess runs backwards where there are B-frames:
# frames are counted.
_WITHOUT_TIMES = frozenset(("avi",))

_LONGEST_STILL = 10  # seconds that one frame is repeated for, at most; a clock that jumps must not fill a disk
_CHANGES_NAMED = 3  # of the size of frames, in a note; an adaptive recording may have hundreds
_RATIO_ROUNDING = 0.02
_FEWER_WITHOUT_NOTE = 2  # every HMDB51 clip declares one frame more than it holds


@dataclass(frozen=True)
class SizeChange:
    """Where the frames of a file take another size: two recordings in one file, or a phone that was
    turned.

    Attributes:
        number: of the first frame of that size among those shown in [start, end), before any
            sampling by time.
        seconds: after the file's first frame.
        width, height: in the file from there on, rotation applied, in pixels.
    """

    number: int
    seconds: float
    width: int
    height: int


class VideoReader:
    """Iterates over the frames of a file as uint8 RGB arrays (H, W, 3), rotation applied.

    A file that breaks in the middle yields what decodes; `broken_after` then holds the reason.
    Damage that the decoder covers up is counted, see `num_damaged` and `note`. The attributes below
    are those of the latest iteration.

    All frames have the size of the first one. Where their size changes in the file they are scaled
    to fit into it, ratio kept, with black bars.

    Args:
        path: the video file.
        short_side: frames whose shorter side is longer than this are scaled down to it (area
            interpolation, ratio kept); smaller frames stay as they are, since enlarging adds bytes
            and no information. None: never scale.
        start, end: seconds after the first frame; frames shown in [start, end) are yielded. None:
            from the first, to the last. A file whose times can be trusted is sought to the key
            frame before `start`; an AVI has none, is decoded from its beginning, and its frames are
            counted.
        frames_per_second: sample by time: at every k / frames_per_second seconds after the file's
            first frame, the frame then shown, whatever the file's own rate; right for variable
            rates. Cutting a file at any times gives the same frames as reading it whole. None:
            every frame, once.
        guard: makes a context that is entered whenever the decoder is waited for, so that one that
            hangs can be ended.

    Attributes:
        info: what the container declares; None before the first frame.
        broken_after: why decoding stopped before the end; None if it did not.
        num_decoded: frames that came out of the decoder.
        num_damaged: how many of them the decoder marked as damaged: it covers up what it could not
            read, and the error lives on in the frames after it until the next key frame.
        rotation: degrees, counterclockwise, by which frames were turned: 0, 90, 180 or 270.
        mirrored: whether they were mirrored, left to right, before that.
        interval: the shortest and the longest time between two frames of [start, end), in seconds;
            None before the second frame.
        size_changes: where frames take another size.
        size_changed: whether the frame yielded last has another size in the file than the one
            before it: no motion can be measured between the two.

    Raises:
        ViccError: times or a rate that make no sense.
        VideoError: on iteration, for a file without a readable video stream or without a single
            decodable frame.
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
        self.size_changes: list[SizeChange] = []
        self.size_changed = False
        self._decoded_size: tuple[int, int] | None = None  # in the file, (width, height) of the frame before
        self._yielded_size: tuple[int, int] | None = None
        self._canvas: tuple[int, int] | None = None  # (height, width) of all frames that are yielded
        self._first_size = (0, 0)
        self._num_inside = 0
        self._whole = self._was_sought = False
        self._cut_short = ""
        self._long_stills = 0
        self._num_intervals = 0
        self._span = self._step = self._last = Fraction(0)
        self._reformatter = VideoReformatter()

    @property
    def frames_per_second(self) -> float:
        """Rate of the yielded frames: the one asked for, else the file's own."""
        return self.file_frames_per_second if self._rate is None else float(self._rate)

    @property
    def file_frames_per_second(self) -> float:
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
        """Whether frames do not follow each other at one rate; `frames_per_second` then samples
        them by time.
        """
        return self.interval is not None and self.interval[1] > max(1.2 * self.interval[0], self.interval[0] + 0.002)

    @property
    def seconds(self) -> float:
        """From the first frame to the end of the last one that was decoded."""
        return float(self._last + self._step)

    @property
    def can_seek(self) -> bool:
        """Whether `start` is reached without decoding what comes before; an AVI has no times to
        seek by.
        """
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
        """What a user should know of the frames of the latest iteration: `problem`, and what else
        was changed.
        """
        stills = f"{self._long_stills} frames shown for more than {_LONGEST_STILL} s were cut to that"
        sizes = self.describe_sizes(by_number=self._rate is None)
        return "; ".join(filter(None, (self.problem, sizes, stills if self._long_stills else "")))

    def describe_sizes(self, *, by_number: bool) -> str:
        """Where frames take another size and what is done with them, in words; empty if all have
        one.

        Args:
            by_number: name the frame; else its time, where frames are sampled and have other
                numbers.
        """
        if not self.size_changes or self._canvas is None:
            return ""
        changes = [
            f"from {f'frame {change.number}' if by_number else f'{change.seconds:.2f} s'} on "
            f"{change.width} x {change.height}"
            for change in self.size_changes[:_CHANGES_NAMED]
        ]
        more = len(self.size_changes) - len(changes)
        named = ", ".join(changes) + (f" and {more} more changes of size" if more else "")
        width, height = self._first_size
        return f"{named}, scaled to {width} x {height} (ratio kept; no motion is measured over the change)"

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
        if self.info.seconds is None:
            return self._cut_short
        return _missing_seconds(self.seconds, self.info.seconds)

    def _missing_end(self) -> str:
        """What is missing of a video whose own length is not declared, only that of a file with
        other streams in it.

        The file is whole if one of its streams goes on to the declared end, the video if its
        packets were all decoded. Packets are only listed, and only where the video ends too early.
        """
        assert self.info is not None
        declared = self.info.container_seconds
        if self.info.seconds is not None or declared is None or not _missing_seconds(self.seconds, declared):
            return ""
        try:
            with self._opened() as (container, stream), self.guard():
                spans = packet_spans(container)
        except DECODING_ERRORS:
            return _missing_seconds(self.seconds, declared)
        begin = min((first for first, _ in spans.values()), default=Fraction(0))
        end = max((last for _, last in spans.values()), default=Fraction(0))
        if _missing_seconds(float(end - begin), declared):
            return _missing_seconds(self.seconds, declared)
        first, last = spans.get(stream.index, (Fraction(0), Fraction(0)))
        return _missing_seconds(self.seconds, float(last - first))

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
        except DECODING_ERRORS as error:
            reason = reason_of(error)
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
            if self._end is not None and time >= self._end - TIME_ROUNDING:
                return
            if time >= self._start - TIME_ROUNDING:
                yield frame

    def _sampled(self, rate: Fraction) -> Iterator[av.VideoFrame]:
        """The frame shown at every tick of [start, end); ticks are counted from the file's first
        frame.

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
                    yield from until(time - TIME_ROUNDING)
                shown = time, frame
                if self._end is not None and tick / rate >= self._end:
                    return
        except DECODING_ERRORS:
            if shown is not None:
                yield from until(shown[0] + self._step - TIME_ROUNDING)
            raise
        if shown is not None:
            yield from until(shown[0] + self._step - TIME_ROUNDING)

    def _timed(self) -> Iterator[tuple[Fraction, av.VideoFrame]]:
        """Frames with their seconds after the first, from the key frame before `start` on where the
        file is sought.
        """
        with self._opened() as (container, stream):
            frames = self._clocked(container, stream)
            first = next(frames, None)
            if first is None:
                return
            if self._start == 0 or not self.can_seek or first[1].pts is None:
                yield first
                yield from frames
                self._whole = True
                self._cut_short = self._missing_end()
                return
            landed = self._sought(container, stream, first[1].pts)
            if landed is not None:
                yield from landed
                return
        with self._opened() as (container, stream):
            self.num_decoded = self.num_damaged = 0
            yield from self._clocked(container, stream)
            self._whole = True
            self._cut_short = self._missing_end()

    def _sought(
        self, container: av.container.InputContainer, stream: av.VideoStream, origin: int
    ) -> Iterator[tuple[Fraction, av.VideoFrame]] | None:
        """Frames from a key frame not after `start`; None if the file cannot be sought there."""
        assert stream.time_base is not None
        target = origin + floor((self._start - TIME_ROUNDING) / stream.time_base)
        try:
            with self.guard():
                if Flags.ts_discont in Flags(container.format.flags) and not times_increase(container, stream, target):
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
        """Decode, with each frame's seconds after the first. Times always increase.

        Args:
            origin: presentation time of the file's first frame, where decoding does not begin with
                it.
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
            # What is decoded on the way from a key frame to `start` has a rate and a size of its
            # own.
            after_start = last is not None and last >= self._start - TIME_ROUNDING
            if last is not None and after_start and (self._end is None or time <= self._end + TIME_ROUNDING):
                self._num_intervals += 1
                self._span += time - last
                low, high = self.interval or (inf, 0.0)
                self.interval = min(low, float(time - last)), max(high, float(time - last))
            if time >= self._start - TIME_ROUNDING and (self._end is None or time < self._end - TIME_ROUNDING):
                self._note_size(frame, time)
            self._last = last = time
            # An mp4 lists durations in the order of decoding: with B-frames the last one shown may
            # have another's.
            self._step = min(step, stream_end - time) if stream_end is not None and time < stream_end else step
            yield time, frame

    @contextmanager
    def _opened(self) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
        with open_video(self.path, guard=self.guard) as (container, stream, info):
            self.info = info
            require_usual_size(info)
            # The frames need not be of the declared size.
            stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}
            stream.codec_context.thread_count = 1  # processes run one a core; two threads in each would be slower
            yield container, stream

    def _note_size(self, frame: av.VideoFrame, time: Fraction) -> None:
        size = _shown_size(frame)
        if self._decoded_size is None:
            self._first_size = size
        elif size != self._decoded_size:
            self.size_changes.append(SizeChange(self._num_inside, float(time), *size))
        self._decoded_size = size
        self._num_inside += 1

    def _compare_size(self, frame: av.VideoFrame) -> None:
        """Set `size_changed` for the frame that is yielded next."""
        size = _shown_size(frame)
        self.size_changed = self._yielded_size not in (None, size)
        self._yielded_size = size

    def _to_array(self, frame: av.VideoFrame) -> np.ndarray:
        self._compare_size(frame)
        self.rotation, self.mirrored = _orientation(frame)
        # Halving in the decoder's own format first: 4K to 128 takes 14 ms a frame, from full-size
        # RGB 44. Whole averages of 2 x 2, so nothing aliases; swscale's area filter at other ratios
        # differs by up to 190 of 255.
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
        image = shrink(image, self.short_side)
        if self._canvas is None:
            self._canvas = image.shape[0], image.shape[1]
        return np.ascontiguousarray(_fit(image, self._canvas))


def _missing_seconds(there: float, declared: float) -> str:
    """In words; sound may go on a little after the last frame."""
    missing = declared - there > max(1.0, 0.1 * declared)
    return f"{there:.1f} of {declared:.1f} declared seconds decode" if missing else ""


def _orientation(frame: av.VideoFrame) -> tuple[int, bool]:
    """Degrees counterclockwise by which a frame is to be turned, and whether it is to be mirrored
    before that.
    """
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if not isinstance(matrix, SideData):
        return 0, False
    # Row vectors: (x, y) goes to (a x + c y, b x + d y). A negative determinant mirrors, as front
    # cameras do.
    a, b, _, c, d = struct.unpack("<5i", bytes(matrix)[:20])
    mirrored = a * d - b * c < 0
    angle = -atan2(-b, -a) if mirrored else -atan2(b, a)
    return round(angle / (pi / 2)) % 4 * 90, mirrored


def _shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    """Width and height of a frame with its rotation applied."""
    rotation, _ = _orientation(frame)
    return (frame.height, frame.width) if rotation % 180 else (frame.width, frame.height)


def shrink(image: np.ndarray, short_side: int | None) -> np.ndarray:
    """An image (H, W, ...) scaled down to this shorter side, ratio kept; None and smaller images
    stay as they are.
    """
    height, width = image.shape[:2]
    if short_side is None or min(height, width) <= short_side:
        return image
    scale = short_side / min(height, width)
    size = (max(short_side, round(width * scale)), max(short_side, round(height * scale)))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _fit(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image (H, W, 3) scaled to fit into a size (height, width), its ratio kept, in the middle
    of black.
    """
    if image.shape[:2] == size:
        return image
    scale = min(size[0] / image.shape[0], size[1] / image.shape[1])
    height, width = (max(1, round(scale * side)) for side in image.shape[:2])
    # Rounding leaves a line or two of one ratio; bars are for another one.
    height, width = (
        whole if whole - side <= max(1, _RATIO_ROUNDING * whole) else side
        for side, whole in zip((height, width), size, strict=True)
    )
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    canvas = np.zeros((*size, *image.shape[2:]), image.dtype)
    canvas[top : top + height, left : left + width] = cv2.resize(image, (width, height), interpolation=interpolation)
    return canvas
