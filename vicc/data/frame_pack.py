"""A frame pack: the encoded frames of one stream of one video, its writer and its reader side by
side.

    uint32                  length of the header
    header                  JSON: stream, codec, quality, num, height, width; for flow also bound and method
    uint64 x (num + 1)      where each encoded frame begins, counted from the end of the tables; then the end
    uint32 x num            CRC-32 of each encoded frame
    bytes                   the encoded frames

A pack describes itself, so it can be read without knowing how the rest of a store was made. The
checksums are looked at whenever a frame is read: decoders conceal damage, and a frame that is
silently wrong is worse than none.

Codecs: "h264" in groups of `GOP` frames that begin with a key frame, RGB as YUV 4:2:0 (BT.601, 16
to 235), flow as luma alone, so that quality 0 keeps it bit for bit; "jpeg", one image a frame.
Which and why: docs/decisions/data.md.
"""

import json
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Literal, Protocol, get_args

import av
import cv2
import numpy as np

from vicc.errors import ViccError

StoredStream = Literal["rgb", "flow"]
Codec = Literal["h264", "jpeg"]

GOP = 8
_HEADER = ("stream", "codec", "num", "height", "width")
# No B-frames, no deblocking, no arithmetic coding: frames are read many times and written once.
# `mbtree` makes x264's output depend on memory that it did not write, and equal runs are to write
# equal stores.
_X264 = {
    "preset": "veryfast",
    "tune": "fastdecode",
    "x264-params": f"keyint={GOP}:min-keyint={GOP}:scenecut=0:bframes=0:mbtree=0:threads=1:log-level=none",
}


@dataclass(frozen=True)
class PackHeader:
    """What a pack says of itself. `num` frames of `height` x `width` pixels; `body` is where its
    table begins.
    """

    stream: StoredStream
    codec: str
    num: int
    height: int
    width: int
    body: int

    @property
    def channels(self) -> int:
        return 2 if self.stream == "flow" else 3


class FrameEncoder:
    """Encodes frames of one stream one by one; memory holds the encoded ones.

    Args:
        stream: "rgb" takes uint8 (H, W, 3); "flow" takes the stored form, uint8 (H, W, 2).
        codec: how frames are encoded.
        quality: "h264": 0 (lossless) to 51, the smaller the better; constant rate factor for RGB,
            constant quantiser for flow. "jpeg": 1 to 100, the larger the better.
        about: further entries of the header, for instance the bound of flow.

    Raises:
        ViccError: this build of PyAV has no encoder for the codec.
    """

    def __init__(self, stream: StoredStream, *, codec: Codec, quality: int, **about: Any) -> None:
        self._about = {"stream": stream, "codec": codec, "quality": quality, **about}
        self._size: tuple[int, int] | None = None
        self._image_encoder = _ENCODERS[codec](quality=quality, grey=stream == "flow")
        self._num = 0

    def __len__(self) -> int:
        return self._num

    def add(self, frame: np.ndarray) -> None:
        """Encode the next frame.

        Raises:
            ViccError: a frame of another size than the first.
        """
        size = frame.shape[0], frame.shape[1]
        self._size = self._size or size
        if size != self._size:
            raise ViccError(f"a frame of {size} (height, width) among frames of {self._size}")
        if self._about["stream"] == "flow":
            # u beside v as one grey image: no chroma subsampling mixes or blurs them.
            frame = np.hstack((frame[..., 0], frame[..., 1]))
        self._image_encoder.add(np.ascontiguousarray(frame))
        self._num += 1

    def to_bytes(self) -> bytes:
        """The pack of all frames; nothing can be added after it."""
        frames = self._image_encoder.finish()
        height, width = self._size or (0, 0)
        header = json.dumps({**self._about, "height": height, "width": width, "num": len(frames)}).encode()
        offsets = np.cumsum([0, *map(len, frames)], dtype="<u8")
        checksums = np.array([zlib.crc32(frame) for frame in frames], "<u4")
        return b"".join((struct.pack("<I", len(header)), header, offsets.tobytes(), checksums.tobytes(), *frames))


class _ImageEncoder(Protocol):
    """Images, uint8 (H, W, 3) in RGB or grey (H, W), to one encoded frame each."""

    def __init__(self, *, quality: int, grey: bool) -> None: ...
    def add(self, image: np.ndarray) -> None: ...
    def finish(self) -> list[bytes]: ...


class _JpegEncoder:
    def __init__(self, *, quality: int, grey: bool) -> None:
        self._quality = quality
        self._frames: list[bytes] = []

    def add(self, image: np.ndarray) -> None:
        if image.ndim == 3:
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, self._quality))
        if not done:
            raise ViccError(f"OpenCV could not encode a frame of shape {image.shape} as JPEG.")
        self._frames.append(data.tobytes())

    def finish(self) -> list[bytes]:
        return self._frames


class _H264Encoder:
    def __init__(self, *, quality: int, grey: bool) -> None:
        try:
            self._context = av.CodecContext.create("libx264", "w")
        except ValueError as error:
            raise ViccError(
                "This build of PyAV has no H.264 encoder (libx264). Give --codec jpeg, or install PyAV from PyPI: "
                "pip install --force-reinstall av"
            ) from error
        self._grey = grey
        self._context.options = {**_X264, "qp" if grey else "crf": str(quality)}
        self._frames: list[bytes] = []
        self._added = 0

    def add(self, image: np.ndarray) -> None:
        if self._grey:
            frame = av.VideoFrame.from_ndarray(image, format="gray")
        else:
            # 4:2:0 needs even sides; the reader cuts the repeated border off again.
            height, width = image.shape[:2]
            image = cv2.copyMakeBorder(image, 0, height % 2, 0, width % 2, cv2.BORDER_REPLICATE)
            planes = cv2.cvtColor(image, cv2.COLOR_RGB2YUV_I420).astype(np.uint8, copy=False)  # for the type checker
            frame = av.VideoFrame.from_ndarray(planes, format="yuv420p")
        context = self._context
        if not self._added:
            context.height, context.width, context.pix_fmt = frame.height, frame.width, frame.format.name
            context.time_base, context.framerate = Fraction(1, 25), Fraction(25, 1)
            context.gop_size, context.max_b_frames, context.thread_count = GOP, 0, 1
        frame.pts, frame.time_base = self._added, context.time_base
        self._added += 1
        self._frames += map(bytes, context.encode(frame))

    def finish(self) -> list[bytes]:
        if self._added:
            self._frames += map(bytes, self._context.encode(None))
        return self._frames


_ENCODERS: dict[str, type[_ImageEncoder]] = {"h264": _H264Encoder, "jpeg": _JpegEncoder}


def read_header(data: bytes | memoryview) -> PackHeader:
    """What a pack says of itself.

    Raises:
        ViccError: no pack, or one of a codec that this version does not read.
    """
    try:
        (length,) = struct.unpack_from("<I", data)
        header = json.loads(bytes(data[4 : 4 + length]))
        found = PackHeader(**{name: header[name] for name in _HEADER}, body=4 + length)
    except (ValueError, TypeError, KeyError, struct.error) as error:
        raise ViccError(f"the header of its frames is damaged ({error})") from error
    if found.codec not in get_args(Codec):
        known = " and ".join(map(repr, get_args(Codec)))
        raise ViccError(f"its frames are stored with codec {found.codec!r}; this version of vicc reads {known}")
    return found


def check_frame_indices(frame_indices: Sequence[int], *, stream: str, num: int) -> None:
    """Raises ViccError for a frame index outside of 0 to num - 1."""
    for index in frame_indices:
        if not 0 <= index < num:
            raise ViccError(f"there is no frame {index} of stream {stream}, which has {num}")


def decode_frames(data: bytes | memoryview, frame_indices: Sequence[int]) -> np.ndarray:
    """Some frames of a pack, in any order and as often as asked for: uint8 (T, H, W, 3 for rgb or 2
    for flow).

    Raises:
        ViccError: a damaged pack, or a frame that it does not have.
    """
    header = read_header(data)
    check_frame_indices(frame_indices, stream=header.stream, num=header.num)
    frames = np.empty((len(frame_indices), header.height, header.width, header.channels), np.uint8)
    rows: dict[int, list[int]] = {}  # frame index -> where it goes: short videos repeat frames
    for row, index in enumerate(frame_indices):
        rows.setdefault(index, []).append(row)
    try:
        encoded = _Encoded(data, header)
        decode = _decode_jpeg if header.codec == "jpeg" else _decode_h264
        for number, image in decode(encoded, sorted(rows), grey=header.stream == "flow"):
            first, *others = rows[number]
            if header.stream == "flow":
                frames[first, ..., 0] = image[: header.height, : header.width]
                frames[first, ..., 1] = image[: header.height, header.width :]
            else:
                frames[first] = image[: header.height, : header.width]
            for row in others:
                frames[row] = frames[first]
    except (ValueError, TypeError, IndexError, cv2.error, av.FFmpegError) as error:
        raise ViccError(f"the frames of stream {header.stream} are damaged ({error})") from error
    return frames


class _Encoded:
    """The encoded frames of a pack by number, each checked as it is taken."""

    def __init__(self, data: bytes | memoryview, header: PackHeader) -> None:
        self._data = data
        self._stream = header.stream
        self._offsets = np.frombuffer(data, "<u8", header.num + 1, header.body)
        self._checksums = np.frombuffer(data, "<u4", header.num, header.body + self._offsets.nbytes)
        self._body = header.body + self._offsets.nbytes + self._checksums.nbytes

    def __getitem__(self, number: int) -> bytes | memoryview:
        begin, end = (self._body + int(offset) for offset in self._offsets[number : number + 2])
        frame = self._data[begin:end]
        if zlib.crc32(frame) != self._checksums[number]:
            raise ViccError(f"frame {number} of stream {self._stream} is damaged (its checksum differs)")
        return frame


def _decode_jpeg(encoded: _Encoded, numbers: Sequence[int], *, grey: bool) -> Iterator[tuple[int, np.ndarray]]:
    flags = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    for number in numbers:
        image = cv2.imdecode(np.frombuffer(encoded[number], np.uint8), flags)
        if image is None:
            raise ValueError(f"frame {number} is not a readable JPEG")
        yield number, image


def _decode_h264(encoded: _Encoded, numbers: Sequence[int], *, grey: bool) -> Iterator[tuple[int, np.ndarray]]:
    """`numbers` ascend. Each run of neighbouring groups is decoded once, from its first key frame
    on.
    """
    wanted = set(numbers)
    for first, last in _runs(numbers):
        context = av.CodecContext.create("h264", "r")
        context.thread_count = 1
        found = 0
        for position in range(first, last + 2):
            # Behind the last one, None asks the decoder for what it still holds.
            for frame in context.decode(_packet(encoded, position) if position <= last else None):
                if frame.pts in wanted:
                    found += 1
                    yield frame.pts, _grey_image(frame) if grey else _rgb_image(frame)
        if found != sum(first <= number <= last for number in numbers):
            raise ValueError(f"frames {first} to {last} do not all decode")


def _runs(numbers: Sequence[int]) -> Iterator[tuple[int, int]]:
    """Key frame and last frame of each stretch of groups that holds some of the numbers, which
    ascend.
    """
    if not numbers:
        return
    first, last = numbers[0] // GOP * GOP, numbers[0]
    for number in numbers[1:]:
        if number // GOP > last // GOP + 1:
            yield first, last
            first = number // GOP * GOP
        last = number
    yield first, last


def _packet(encoded: _Encoded, number: int) -> av.Packet:
    packet = av.Packet(bytes(encoded[number]))
    packet.pts = packet.dts = number
    return packet


def _grey_image(frame: av.VideoFrame) -> np.ndarray:
    return _plane(frame.planes[0])


def _rgb_image(frame: av.VideoFrame) -> np.ndarray:
    # OpenCV wants the three planes as one image of one and a half times the height; it made them,
    # so it turns them back with the same matrix.
    height, width = frame.height, frame.width
    image = np.empty((height * 3 // 2, width), np.uint8)
    image[:height] = _plane(frame.planes[0])
    chroma = image[height:].reshape(2, height // 2, width // 2)
    chroma[0], chroma[1] = _plane(frame.planes[1]), _plane(frame.planes[2])
    return cv2.cvtColor(image, cv2.COLOR_YUV2RGB_I420)


def _plane(plane: Any) -> np.ndarray:
    return np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)[: plane.height, : plane.width]


def read_frames(data: bytes | memoryview, frame_indices: Sequence[int]) -> int:
    """Read what decoding these frames reads, check its checksums and decode nothing; returns the
    bytes.

    Raises:
        ViccError: a damaged pack, or a frame that it does not have.
    """
    header = read_header(data)
    check_frame_indices(frame_indices, stream=header.stream, num=header.num)
    encoded, wanted = _Encoded(data, header), sorted(set(frame_indices))
    if header.codec == "h264":
        wanted = [number for first, last in _runs(wanted) for number in range(first, last + 1)]
    return sum(len(encoded[number]) for number in wanted)
