"""Containers of video files: opening one, and what it declares before a frame is decoded."""

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
from av.stream import Disposition

from vicc.errors import ViccError

_SUFFIXES = (
    "264 265 3g2 3gp 3gpp amv asf avc avi dav divx dv f4v flv gif gxf h264 h265 hevc ivf m1v m2p m2t m2ts m2v m4v mj2 "
    "mjpeg mjpg mk3d mkv mov mp4 mp4v mpe mpeg mpg mpv mts mxf nut obu ogm ogv ogx qt rm rmvb tp trp ts vob webm wmv "
    "wtv xvid y4m"
)
VIDEO_SUFFIXES = frozenset(f".{suffix}" for suffix in _SUFFIXES.split())

_PLAYLISTS = frozenset(("concat", "dash", "hls", "imf"))  # FFmpeg's names of formats that only point to other files

MAX_PIXELS = 8192 * 8192
"""Frames of more pixels are refused: one would take 200 MB, and so large a size is most often a
damaged header.
"""

DECODING_ERRORS = (av.FFmpegError, ValueError, RuntimeError, ArithmeticError)  # what PyAV raises for a damaged file

TIME_ROUNDING = Fraction(1, 1000)  # Matroska, FLV and ASF round times to milliseconds
_DEFAULT_RATE = Fraction(25)
_WITH_LENGTHS = frozenset(("mov,mp4,m4a,3gp,3g2,mj2", "avi"))  # formats that say how long each stream is
_DURATION = re.compile(r"(\d+):([0-5]?\d):([0-5]?\d(?:\.\d+)?)")


class VideoError(ViccError):
    """A file that cannot be used as a video; the message is the reason."""


@dataclass(frozen=True)
class VideoInfo:
    """What a container says of its video stream; trust none of it before decoding.

    Attributes:
        frames_per_second: declared average rate; 25 where none is declared.
        width, height: of the coded frames, before rotation, in pixels.
        num_frames: declared number of frames; 0 where none is declared, as in most mkv and webm
            files.
        seconds: declared duration of the stream, else of a container that holds nothing else; None
            where neither is declared.
        container_seconds: declared duration of the container, which is that of its longest stream,
            often the sound.
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
    container_seconds: float | None = None


@contextmanager
def open_video(
    path: Path, *, guard: Callable[[], AbstractContextManager[None]] = nullcontext
) -> Iterator[tuple[av.container.InputContainer, av.VideoStream, VideoInfo]]:
    """A file, the video stream of it that FFmpeg deems best, and what is declared of that.

    Raises:
        VideoError: a playlist, or a file without a video stream of a known codec.
        av.FFmpegError, ValueError, OSError: a file that cannot be opened.
    """
    # Only the file itself may be opened: a playlist in disguise must not reach the network or other
    # files. The path is absolute, for a colon in a relative one reads as a protocol.
    with guard():
        container = av.open(str(path.absolute()), metadata_errors="ignore", options={"protocol_whitelist": "file"})
    with container:
        if container.format.name in _PLAYLISTS:
            raise VideoError(f"the file is a playlist ({container.format.name}), not a video")
        stream, count = _video_stream(container)
        yield container, stream, _declared(container, stream, count)


def require_usual_size(info: VideoInfo) -> None:
    """Raises VideoError if frames are declared to be of more than `MAX_PIXELS` pixels."""
    if info.width * info.height > MAX_PIXELS:
        raise VideoError(f"frames of {info.width} x {info.height} pixels, more than {MAX_PIXELS / 1e6:.0f} million")


def declared_seconds(path: Path) -> float:
    """Length of a file's video in seconds without decoding it: as declared, else read off its
    packets.

    Raises:
        VideoError: no readable video stream, or nothing in the file tells a length.
    """
    try:
        with open_video(path) as (container, stream, info):
            require_usual_size(info)
            if info.seconds is not None and info.seconds > 0:
                return info.seconds
            # Many mkv and webm files declare no length, and one whose writer was killed never does.
            first, last = packet_spans(container, stream).get(stream.index, (Fraction(0), Fraction(0)))
    except (av.FFmpegError, ValueError, OSError) as error:
        raise VideoError(f"cannot be read ({reason_of(error)})") from error
    if last <= first:
        raise VideoError("nothing in the file tells how long it is")
    return float(last - first)


def packet_spans(
    container: av.container.InputContainer, *streams: av.stream.Stream
) -> dict[int, tuple[Fraction, Fraction]]:
    """When the packets of each stream begin and end, in seconds, by the stream's index; of all
    streams by default.
    """
    spans: dict[int, tuple[Fraction, Fraction]] = {}
    for packet in container.demux(*streams):
        span = spans.get(packet.stream.index)
        if packet.time_base is None:
            continue
        if packet.pts is not None:
            shown = packet.pts * packet.time_base
        elif span is not None:
            shown = span[1]  # an MPEG program stream gives times to some packets only: those between follow on
        else:
            continue
        until = shown + (packet.duration or 0) * packet.time_base
        first, last = span or (shown, until)
        spans[packet.stream.index] = min(first, shown), max(last, until)
    return spans


def times_increase(container: av.container.InputContainer, stream: av.VideoStream, target: int) -> bool:
    """Whether times increase up to `target`: formats made for broadcast may start anew, and a seek
    would be lost there.

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


def _video_stream(container: av.container.InputContainer) -> tuple[av.VideoStream, int]:
    """The stream that FFmpeg deems best, and how many there are. A sound file's cover picture is
    none.
    """
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
    of_container = container.duration / av.time_base if container.duration else None
    seconds = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else of_container
    shared = len(container.streams) > 1 and container.format.name not in _WITH_LENGTHS
    if shared and seconds is not None and of_container is not None and abs(seconds - of_container) < 2 * TIME_ROUNDING:
        # Where streams have no length of their own, FFmpeg gives each of them the container's.
        seconds = _seconds_of_tag(stream.metadata)
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
        container_seconds=of_container,
    )


def _seconds_of_tag(tags: Mapping[str, str]) -> float | None:
    """The length of a stream as a tag of Matroska gives it: `DURATION` or `DURATION-eng`,
    00:00:03.000000000.
    """
    for name, text in tags.items():
        found = _DURATION.fullmatch(text.strip()) if name.upper().partition("-")[0] == "DURATION" else None
        if found:
            hours, minutes, seconds = map(float, found.groups())
            return 3600 * hours + 60 * minutes + seconds or None
    return None


def reason_of(error: Exception) -> str:
    """FFmpeg's own words without its error number and the path, which the caller names anyway."""
    text = error.strerror if isinstance(error, av.FFmpegError) and error.strerror else str(error)
    return " ".join(text.split())[:200]
