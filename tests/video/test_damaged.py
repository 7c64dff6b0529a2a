"""Files with flipped bits and missing ends: frames or a reason, in bounded time and memory, and never a crash.

Each file is read in a process of its own kind, so that a crash of the decoder is seen as one.
"""

import os
import resource
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import moving_frames, write_frames
from vicc.prepare.workers import new_pool, submit
from vicc.video.container import VideoError
from vicc.video.decode import VideoReader

KINDS = ("h264.mp4", "mpeg4.avi", "vp9.webm", "animated.gif", "h264.ts")
SECONDS = 20.0  # for one small file; the slowest took 0.3 s on a quiet core


def write_kind(folder: Path, kind: str) -> Path:
    frames = moving_frames(12, (64, 80), seed=4)
    path = folder / kind
    if kind == "mpeg4.avi":
        return write_frames(path, frames, codec="mpeg4", options={"bf": "2"})
    if kind == "vp9.webm":
        return write_frames(path, frames, codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8"})
    if kind == "animated.gif":
        with av.open(str(path), "w") as container:
            stream = container.add_stream("gif", rate=Fraction(10))
            stream.height, stream.width, stream.pix_fmt = 64, 80, "rgb8"
            for frame in frames:
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="rgb8")))
            container.mux(stream.encode(None))
        return path
    return write_frames(path, frames, options={"g": "6", "bf": "2"})


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    folder = tmp_path_factory.mktemp("originals")
    return {kind: write_kind(folder, kind).read_bytes() for kind in KINDS}


@pytest.fixture(scope="module")
def pool() -> Iterator[ProcessPoolExecutor]:
    with new_pool(1) as executor:
        yield executor


@st.composite
def damages(draw: Callable[..., object]) -> tuple[float, list[tuple[float, int]]]:
    """Where a file ends, as a share of its length, and which bits of which bytes are flipped."""
    end = draw(st.one_of(st.just(1.0), st.floats(0.01, 1.0)))
    place = st.one_of(st.floats(0, 1), st.floats(0, 0.05))  # headers are short, and where the worst happens
    return end, draw(st.lists(st.tuples(place, st.integers(0, 7)), max_size=30))  # type: ignore[return-value]


def damaged(data: bytes, damage: tuple[float, list[tuple[float, int]]]) -> bytes:
    end, flips = damage
    result = bytearray(data[: max(1, int(end * len(data)))])
    for place, bit in flips:
        result[min(int(place * len(result)), len(result) - 1)] ^= 1 << bit
    return bytes(result)


def read(path: Path, rate: float | None, start: float | None) -> tuple[str, int, float, int, int]:
    """In a worker: the reason if there is one, frames, seconds, open files, peak memory in KiB."""
    began = time.monotonic()
    reason, count = "", 0
    try:
        for frame in VideoReader(path, short_side=32, start=start, frames_per_second=rate):
            assert frame.dtype == np.uint8
            assert frame.ndim == 3
            assert frame.shape[2] == 3
            count += 1
            if count == 2000:  # a damaged clock may ask for 10 s of every frame
                break
    except VideoError as error:
        reason = str(error)
    files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
    return reason, count, time.monotonic() - began, files, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_files_give_frames_or_a_reason(
    originals: dict[str, bytes], pool: ProcessPoolExecutor, tmp_path_factory: pytest.TempPathFactory, kind: str
) -> None:
    path = tmp_path_factory.mktemp("damaged") / kind
    path.write_bytes(originals[kind])
    reason, whole, _, files, memory = submit(pool, read, path, None, None).result(SECONDS)
    assert (reason, whole) == ("", 12)

    @settings(
        max_examples=int(os.environ.get("VICC_FUZZ_EXAMPLES", "30")),
        deadline=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow],
    )
    @given(damage=damages(), rate=st.sampled_from([None, None, 10.0]), start=st.sampled_from([None, None, 0.2]))
    def holds(damage: tuple[float, list[tuple[float, int]]], rate: float | None, start: float | None) -> None:
        path.write_bytes(damaged(originals[kind], damage))
        reason, count, seconds, open_files, peak = submit(pool, read, path, rate, start).result(SECONDS)
        assert bool(reason) != bool(count)
        assert "\n" not in reason
        assert seconds < SECONDS
        assert open_files <= files
        assert peak < memory + 300_000  # a flipped bit in a size may ask for one larger frame, not for hundreds

    holds()


@pytest.mark.parametrize("kind", KINDS)
def test_reading_a_damaged_file_again_and_again_leaks_nothing(
    originals: dict[str, bytes], tmp_path: Path, kind: str
) -> None:
    data = originals[kind]
    (tmp_path / kind).write_bytes(damaged(data, (0.8, [(share / 10, share % 8) for share in range(3, 10)])))
    with new_pool(1) as own:
        for _ in range(10):
            *_, files, memory = submit(own, read, tmp_path / kind, None, None).result(SECONDS)
        for _ in range(60):
            *_, last_files, last_memory = submit(own, read, tmp_path / kind, None, None).result(SECONDS)
    assert last_files == files
    assert last_memory - memory < 4_000  # KiB; 60 leaked frames of 64 x 80 alone would be 900, their decoders more
