"""Frame packs: what goes in comes out as well as the codec promises, and damage is never silent."""

import json
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import moving_frames
from vicc.data.frame_pack import GOP, Codec, FrameEncoder, StoredStream, decode_frames, read_header
from vicc.errors import ViccError


def pack(stream: StoredStream, frames: np.ndarray, *, codec: Codec = "h264", quality: int | None = None) -> bytes:
    if quality is None:
        quality = {"h264": 20, "jpeg": 95}[codec]
    encoder = FrameEncoder(stream, codec=codec, quality=quality, bound=20.0)
    for frame in frames:
        encoder.add(frame)
    assert len(encoder) == len(frames)
    return encoder.to_bytes()


def flow_frames(num: int, size: tuple[int, int], *, seed: int = 0) -> np.ndarray:
    """Noise, the worst case of every codec."""
    return np.random.default_rng(seed).integers(1, 256, (num, *size, 2), dtype=np.uint8)


SIZES = [(40, 48), (41, 49), (1, 1), (2, 3), (17, 64), (113, 61)]


@pytest.mark.parametrize("size", SIZES, ids=str)
def test_flow_of_quality_0_is_lossless_at_any_size(size: tuple[int, int]) -> None:
    flow = flow_frames(2 * GOP + 3, size)
    data = pack("flow", flow, quality=0)
    np.testing.assert_array_equal(decode_frames(data, range(len(flow))), flow)


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_rgb_keeps_its_colours_at_any_size(codec: Codec, size: tuple[int, int]) -> None:
    """A swap of channels, of range or of matrix is off by far more."""
    colours = np.array([(200, 30, 90), (10, 240, 20), (20, 40, 250), (255, 255, 255), (0, 0, 0)], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (5, *size, 3))
    decoded = decode_frames(pack("rgb", frames, codec=codec), range(5))
    assert np.abs(decoded.astype(int) - frames).max() <= 6


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_rgb_comes_back_close(codec: Codec) -> None:
    frames = moving_frames(20, (41, 55), seed=1)
    data = pack("rgb", frames, codec=codec)
    right, shifted = (
        cv2.PSNR(decode_frames(data, numbers).reshape(-1, 55, 3), frames.reshape(-1, 55, 3))
        for numbers in (range(20), [*range(1, 20), 0])
    )
    assert right > 26
    assert right > shifted + 5


def test_h264_is_much_smaller_than_jpeg_on_video() -> None:
    frames = moving_frames(40, (96, 128), seed=1, velocity=(1, 0))
    assert len(pack("rgb", frames)) < len(pack("rgb", frames, codec="jpeg", quality=90)) / 2


@settings(max_examples=40, deadline=None, derandomize=True)
@given(numbers=st.lists(st.integers(0, 4 * GOP), min_size=0, max_size=40))
@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_frames_by_number_are_those_of_the_whole_in_any_order(codec: Codec, numbers: list[int]) -> None:
    """Also repeated, backwards, across groups and with gaps."""
    data, whole = _long_pack(codec)
    np.testing.assert_array_equal(decode_frames(data, numbers), whole[numbers])


_PACKS: dict[Codec, tuple[bytes, np.ndarray]] = {}


def _long_pack(codec: Codec) -> tuple[bytes, np.ndarray]:
    if codec not in _PACKS:
        data = pack("rgb", moving_frames(4 * GOP + 1, (32, 40), seed=3), codec=codec)
        _PACKS[codec] = data, decode_frames(data, range(4 * GOP + 1))
    return _PACKS[codec]


@pytest.mark.parametrize(("stream", "quality"), [("rgb", 20), ("flow", 0)])
def test_equal_frames_make_equal_bytes(stream: StoredStream, quality: int) -> None:
    """At 112 x 112 x264 was seen to differ from run to run (macroblock tree)."""
    frames = moving_frames(40, (112, 112), seed=5)[..., : 2 if stream == "flow" else 3]
    assert pack(stream, frames, quality=quality) == pack(stream, frames, quality=quality)


def test_a_pack_describes_itself() -> None:
    """It can be read by its own header alone, as the module's docstring lays it out."""
    data = pack("flow", flow_frames(4, (40, 48)), codec="jpeg")
    length = int.from_bytes(data[:4], "little")
    header = json.loads(data[4 : 4 + length])
    size = {"height": 40, "width": 48, "num": 4}
    assert header == {"stream": "flow", "codec": "jpeg", "quality": 95, "bound": 20.0, **size}
    offsets = np.frombuffer(data, "<u8", 5, 4 + length)
    checksums = np.frombuffer(data, "<u4", 4, 4 + length + offsets.nbytes)
    body = data[4 + length + offsets.nbytes + checksums.nbytes :]
    assert (offsets[0], offsets[-1]) == (0, len(body))
    for number in range(4):
        frame = body[offsets[number] : offsets[number + 1]]
        assert zlib.crc32(frame) == checksums[number]
        assert cv2.imdecode(np.frombuffer(frame, np.uint8), cv2.IMREAD_GRAYSCALE).shape == (40, 96)


@pytest.mark.parametrize("codec", ["h264", "jpeg"])
def test_no_flipped_bit_goes_unseen(codec: Codec) -> None:
    """Decoders conceal damage; the checksums do not."""
    data = pack("rgb", moving_frames(GOP + 2, (32, 40), seed=3), codec=codec)
    whole = decode_frames(data, range(GOP + 2))
    begin = read_header(data).body
    rng, seen = np.random.default_rng(0), 0
    for position in rng.integers(begin, len(data), 60):
        damaged = bytearray(data)
        damaged[position] ^= 1 << int(rng.integers(8))
        try:
            frames = decode_frames(bytes(damaged), range(GOP + 2))
        except ViccError:
            seen += 1
        else:
            np.testing.assert_array_equal(frames, whole)  # for instance the end of the last frame, moved further out
    assert seen > 50


def test_damage_in_one_group_leaves_the_others_readable() -> None:
    data = bytearray(pack("rgb", moving_frames(3 * GOP, (32, 40), seed=3)))
    whole = decode_frames(bytes(data), range(3 * GOP))
    data[-1] ^= 1  # of the last frame
    for numbers in (range(2 * GOP), range(3 * GOP - 1)):
        np.testing.assert_array_equal(decode_frames(bytes(data), numbers), whole[numbers])
    with pytest.raises(ViccError, match=f"frame {3 * GOP - 1} of stream rgb is damaged"):
        decode_frames(bytes(data), [3 * GOP - 1])


def test_frames_of_two_sizes_do_not_make_a_pack() -> None:
    encoder = FrameEncoder("rgb", codec="h264", quality=20)
    encoder.add(np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ViccError, match=r"\(8, 10\).*\(8, 8\)"):
        encoder.add(np.zeros((8, 10, 3), np.uint8))


def test_a_pack_without_frames_has_none() -> None:
    data = FrameEncoder("flow", codec="h264", quality=0).to_bytes()
    assert read_header(data).num == 0
    with pytest.raises(ViccError, match="no frame 0"):
        decode_frames(data, [0])


def test_an_encoder_that_is_not_there_is_named_with_a_way_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str, mode: str) -> None:
        raise ValueError(name)

    monkeypatch.setattr("vicc.data.frame_pack.av.CodecContext", type("Context", (), {"create": staticmethod(missing)}))
    with pytest.raises(ViccError, match="--codec jpeg"):
        FrameEncoder("rgb", codec="h264", quality=20)
