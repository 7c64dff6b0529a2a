"""A frame pack: the encoded frames of one stream of one video, its writer and its reader side by side.

    uint32                  length of the header
    header                  JSON: stream, codec, quality, num, height, width; for flow also bound and method
    uint64 x (num + 1)      where each encoded frame begins, counted from the end of this table; then the end
    bytes                   the encoded frames

A pack describes itself, so it can be read without knowing how the rest of a store was made.
"""

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import cv2
import numpy as np

from vicc.errors import ViccError

StoredStream = Literal["rgb", "flow"]
Codec = Literal["jpeg"]


@dataclass(frozen=True)
class PackHeader:
    """What a pack says of itself. `num` frames of `height` x `width` pixels; `body` is where its table begins."""

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
        codec, quality: how frames are encoded. "jpeg": one image a frame, quality 1 to 100.
        about: further entries of the header, for instance the bound of flow.
    """

    def __init__(self, stream: StoredStream, *, codec: Codec, quality: int, **about: Any) -> None:
        self._about = {"stream": stream, "codec": codec, "quality": quality, **about}
        self._frames: list[bytes] = []
        self._size: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self._frames)

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
            image = np.ascontiguousarray(np.hstack((frame[..., 0], frame[..., 1])))
        else:
            image = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        done, data = cv2.imencode(".jpg", image, (cv2.IMWRITE_JPEG_QUALITY, self._about["quality"]))
        if not done:
            raise ViccError(f"OpenCV could not encode a frame of shape {image.shape} as JPEG.")
        self._frames.append(data.tobytes())

    def to_bytes(self) -> bytes:
        """The pack of all frames so far."""
        height, width = self._size or (0, 0)
        about = {**self._about, "height": height, "width": width, "num": len(self._frames)}
        header = json.dumps(about).encode()
        offsets = np.cumsum([0, *map(len, self._frames)], dtype="<u8")
        return b"".join((struct.pack("<I", len(header)), header, offsets.tobytes(), *self._frames))


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
    if found.codec != "jpeg":
        raise ViccError(f"its frames are stored with codec {found.codec!r}; this version of vicc reads 'jpeg'")
    return found


_HEADER = ("stream", "codec", "num", "height", "width")


def check_numbers(numbers: Sequence[int], *, stream: str, num: int) -> None:
    """Raises ViccError for a frame number outside of 0 to num - 1."""
    for number in numbers:
        if not 0 <= number < num:
            raise ViccError(f"there is no frame {number} of stream {stream}, which has {num}")


def decode_frames(data: bytes | memoryview, numbers: Sequence[int]) -> np.ndarray:
    """Some frames of a pack, in any order and as often as asked for: uint8 (T, H, W, 3 for rgb or 2 for flow).

    Raises:
        ViccError: a damaged pack, or a frame that it does not have.
    """
    header = read_header(data)
    check_numbers(numbers, stream=header.stream, num=header.num)
    try:
        return _decode_jpeg(data, header, numbers)
    except (ValueError, TypeError, IndexError, cv2.error) as error:
        raise ViccError(f"the frames of stream {header.stream} are damaged ({error})") from error


def _decode_jpeg(data: bytes | memoryview, header: PackHeader, numbers: Sequence[int]) -> np.ndarray:
    offsets = np.frombuffer(data, "<u8", header.num + 1, header.body)
    body = header.body + offsets.nbytes
    grey = header.stream == "flow"
    flags = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR_RGB
    frames = np.empty((len(numbers), header.height, header.width, header.channels), np.uint8)
    decoded: dict[int, int] = {}  # frame number -> row: short videos repeat frames
    for row, number in enumerate(numbers):
        if number in decoded:
            frames[row] = frames[decoded[number]]
            continue
        decoded[number] = row
        image = cv2.imdecode(
            np.frombuffer(data[body + int(offsets[number]) : body + int(offsets[number + 1])], np.uint8), flags
        )
        if image is None:
            raise ViccError(f"frame {number} of stream {header.stream} is damaged (not a readable JPEG)")
        if grey:
            frames[row, ..., 0], frames[row, ..., 1] = image[:, : header.width], image[:, header.width :]
        else:
            frames[row] = image
    return frames
