"""Decoding: every frame, the right colours, upright, and files that are not what they say."""

import os
import re
import resource
import struct
from collections.abc import Callable, Iterable
from fractions import Fraction
from math import ceil
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import moving_frames, write_frames
from vicc.errors import ViccError
from vicc.video.container import VideoError, declared_seconds
from vicc.video.decode import SizeChange, VideoReader, shrink

QUARTERS = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0))


def four_colours(height: int = 48, width: int = 64) -> np.ndarray:
    """Red, green above; blue, yellow below: tells swapped channels, flips and rotations apart."""
    image = np.zeros((height, width, 3), np.uint8)
    half_y, half_x = height // 2, width // 2
    image[:half_y, :half_x], image[:half_y, half_x:] = QUARTERS[0], QUARTERS[1]
    image[half_y:, :half_x], image[half_y:, half_x:] = QUARTERS[2], QUARTERS[3]
    return image


def corners(image: np.ndarray) -> list[tuple[int, ...]]:
    """Colours of the four quarters, each channel as 0 or 255: top left, top right, bottom left, bottom right."""
    height, width = image.shape[:2]
    points = [(y, x) for y in (height // 4, 3 * height // 4) for x in (width // 4, 3 * width // 4)]
    return [tuple(255 * int(channel > 127) for channel in image[point]) for point in points]


@pytest.mark.parametrize("num_frames", [1, 2, 7, 24])
def test_every_frame_comes_out_once(tmp_path: Path, write_video: Callable[..., Path], num_frames: int) -> None:
    frames = list(VideoReader(write_video(tmp_path / "a.mp4", num_frames=num_frames)))
    assert len(frames) == num_frames
    assert all(frame.dtype == np.uint8 and frame.shape == (40, 48, 3) for frame in frames)


def test_frames_are_what_was_encoded_in_order_and_in_rgb(tmp_path: Path) -> None:
    original = moving_frames(12, (64, 80), seed=3)
    path = write_frames(tmp_path / "a.mp4", original, options={"crf": "4", "preset": "ultrafast"})
    decoded = np.stack(list(VideoReader(path)))
    errors = np.abs(decoded.astype(int)[:, None] - original.astype(int)[None]).mean(axis=(2, 3, 4))
    assert (errors.argmin(axis=1) == np.arange(12)).all()
    # 4:2:0 halves the colour planes of a colourful texture; a swap of red and blue would be an order off.
    assert errors.diagonal().max() < 8
    assert np.abs(decoded[..., ::-1].astype(int) - original).mean() > 3 * errors.diagonal().max()


def test_colours_are_rgb_and_upright(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.mp4", np.stack([four_colours()] * 3))
    for frame in VideoReader(path):
        assert corners(frame) == list(QUARTERS)


def test_colours_of_a_lossless_file_are_exact(tmp_path: Path) -> None:
    original = moving_frames(4, (33, 47), seed=1)
    path = write_frames(tmp_path / "a.mkv", original, codec="ffv1", pixel_format="bgr0")
    np.testing.assert_array_equal(np.stack(list(VideoReader(path))), original)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (-90, 3)])
def test_rotation_in_the_display_matrix_is_applied(tmp_path: Path, degrees: int, turns: int) -> None:
    path = write_frames(tmp_path / "a.mp4", np.stack([four_colours()] * 2), rotation=degrees)
    upright = np.rot90(four_colours(), turns)
    for frame in VideoReader(path):
        assert frame.shape == upright.shape
        assert corners(frame) == corners(upright)
        assert frame.flags.c_contiguous


@pytest.mark.data
@pytest.mark.parametrize("name", ["nasa_13013_rotated.mp4", "decord_video_90.mov"])
def test_rotation_agrees_with_opencv(test_data: Path, name: str) -> None:
    path = test_data / "edge-cases" / name
    read, expected = cv2.VideoCapture(str(path)).read()
    assert read
    frame = next(iter(VideoReader(path)))
    assert frame.shape == expected.shape
    assert np.abs(frame.astype(int) - expected[..., ::-1]).mean() < 2


@pytest.mark.parametrize(
    ("size", "short_side", "expected"),
    [
        ((40, 48), 128, (40, 48)),  # never enlarged
        ((40, 48), 40, (40, 48)),
        ((40, 48), None, (40, 48)),
        ((40, 80), 20, (20, 40)),
        ((80, 40), 20, (40, 20)),
        ((36, 64), 18, (18, 32)),
    ],
)
def test_short_side_shrinks_keeps_the_ratio_and_never_enlarges(
    tmp_path: Path,
    write_video: Callable[..., Path],
    size: tuple[int, int],
    short_side: int | None,
    expected: tuple[int, int],
) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=2, size=size)
    assert {frame.shape[:2] for frame in VideoReader(path, short_side=short_side)} == {expected}


def test_shrinking_averages_areas() -> None:
    """A pixelwise checkerboard becomes grey; taking every second pixel would leave it black or white."""
    board = np.indices((32, 48)).sum(axis=0) % 2 * np.uint8(255)
    small = shrink(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), 16)
    assert small.shape == (16, 24, 3)
    assert np.abs(small.astype(int) - 127).max() <= 1


def test_rate_and_size_are_known_after_the_first_frame(tmp_path: Path) -> None:
    reader = VideoReader(write_frames(tmp_path / "a.mp4", moving_frames(3, (40, 48), seed=0), rate=12))
    next(iter(reader))
    assert reader.info is not None
    assert (reader.info.frames_per_second, reader.info.width, reader.info.height) == (12, 48, 40)


def test_a_file_that_breaks_in_the_middle_yields_its_beginning(tmp_path: Path) -> None:
    original = moving_frames(40, (48, 64), seed=2)
    whole = write_frames(tmp_path / "a.avi", original, codec="mjpeg", pixel_format="yuvj420p")
    assert len(list(VideoReader(whole))) == 40
    data = whole.read_bytes()
    cut = tmp_path / "cut.avi"
    cut.write_bytes(data[: len(data) // 2])
    frames = list(VideoReader(cut))
    assert 10 < len(frames) < 30
    np.testing.assert_array_equal(frames[0], next(iter(VideoReader(whole))))


def test_an_mp4_without_its_index_is_refused_with_a_reason(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    """The index of an mp4 stands at its end: cut short, nothing can be decoded."""
    data = write_video(tmp_path / "a.mp4").read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) // 2])
    with pytest.raises(VideoError, match=r"cannot be decoded \(.+\)"):
        list(VideoReader(cut))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "the file is empty"),
        (b"This is a text, whatever its name says.\n" * 30, "cannot be decoded"),
        (bytes(range(256)) * 40, "cannot be decoded"),
    ],
)
def test_a_file_that_is_no_video_is_refused_with_a_reason(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=reason) as caught:
        list(VideoReader(path))
    assert "\n" not in str(caught.value)
    assert str(path) not in str(caught.value)  # the caller names the file


def with_sound(path: Path, *, seconds: int, sound_seconds: int) -> Path:
    """Ten frames a second, and silence that goes on longer."""
    codec, sound, rate, kind = {
        ".webm": ("libvpx-vp9", "libopus", 48000, "flt"),
        ".avi": ("mpeg4", "mp2", 44100, "s16"),
        ".mpg": ("mpeg1video", "mp2", 44100, "s16"),
    }.get(path.suffix, ("libx264", "aac", 44100, "fltp"))
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=25 if path.suffix == ".mpg" else 10)
        video.width, video.height, video.pix_fmt = 64, 48, "yuv420p"
        audio = container.add_stream(sound, rate=rate, layout="mono")
        step = audio.codec_context.frame_size or 1024
        for image in moving_frames(int(seconds * video.average_rate), (48, 64), seed=0):
            container.mux(video.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(video.encode(None))
        for number in range(sound_seconds * rate // step):
            silence = np.zeros((1, step), np.int16 if kind == "s16" else np.float32)
            frame = av.AudioFrame.from_ndarray(silence, format=kind, layout="mono")
            frame.sample_rate, frame.pts = rate, number * step
            container.mux(audio.encode(frame))
        container.mux(audio.encode(None))
    return path


@pytest.mark.parametrize("suffix", ["mkv", "flv", "ts", "m2ts", "webm", "mpg", "avi", "mp4", "mov"])
def test_sound_that_goes_on_longer_is_no_missing_end_of_the_picture(tmp_path: Path, suffix: str) -> None:
    path = with_sound(tmp_path / f"a.{suffix}", seconds=2, sound_seconds=8)
    reader = VideoReader(path)
    assert sum(1 for _ in reader) == (50 if suffix == "mpg" else 20)
    assert reader.problem == ""
    assert reader.seconds == pytest.approx(2, abs=0.11)
    # Of an MPEG program stream FFmpeg guesses the length, from the few packets that have a time.
    assert declared_seconds(path) == pytest.approx(2, abs=0.6 if suffix == "mpg" else 0.11)


@pytest.mark.parametrize("suffix", ["mkv", "flv"])
def test_a_missing_end_is_seen_beside_sound_too(tmp_path: Path, suffix: str) -> None:
    """Cut in half, a file has no stream that goes on to the declared end."""
    path = with_sound(tmp_path / f"a.{suffix}", seconds=4, sound_seconds=4)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    reader = VideoReader(path)
    list(reader)
    assert re.match(r"[12]\.\d of 4\.\d declared seconds decode|decoding stopped after", reader.problem)


def test_names_in_other_scripts_with_blanks_and_percent_signs_work(
    tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    path = write_video(tmp_path / "видео 100%03d ü.mp4", num_frames=3)
    assert len(list(VideoReader(path))) == 3


def test_a_reader_can_be_read_twice(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    reader = VideoReader(write_video(tmp_path / "a.mp4", num_frames=4))
    np.testing.assert_array_equal(list(reader), list(reader))


def open_files() -> list[str]:
    """Names of this process's open files, where the system tells."""
    folder = Path("/proc/self/fd")
    return [os.readlink(entry) for entry in folder.iterdir() if entry.is_symlink()] if folder.is_dir() else []


def test_reading_stops_early_without_harm(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    reader = VideoReader(write_video(tmp_path / "a.mp4", num_frames=6))
    frames = iter(reader)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert not [name for name in open_files() if name.endswith("a.mp4")]
    assert len(list(reader)) == 6
    assert reader.broken_after is None


# --- sizes that change -----------------------------------------------------------------------------------------------


def concatenated(folder: Path, *sizes: tuple[int, int], num_frames: int = 10) -> Path:
    """Recordings of some sizes (height, width) in one file, one after the other; each is red, green, blue, yellow."""
    parts = [
        write_frames(folder / f"{number}.ts", np.stack([four_colours(*size)] * num_frames), rate=10)
        for number, size in enumerate(sizes)
    ]
    path = folder / "both.ts"
    path.write_bytes(b"".join(part.read_bytes() for part in parts))
    for part in parts:
        part.unlink()
    return path


def test_frames_that_change_their_shape_keep_their_ratio_between_black_bars(tmp_path: Path) -> None:
    reader = VideoReader(concatenated(tmp_path, (64, 96), (96, 64)))
    frames, changed = [], []
    for frame in reader:
        frames.append(frame)
        changed.append(reader.size_changed)
    assert {frame.shape for frame in frames} == {(64, 96, 3)}
    assert changed == [number == 10 for number in range(20)]
    # 64 pixels high, an upright frame is 43 wide.
    later = frames[15]
    assert later[:, :25].max() < 20
    assert later[:, -25:].max() < 20
    assert corners(later[:, 27:69]) == list(QUARTERS)
    assert reader.size_changes == [SizeChange(10, pytest.approx(1.0, abs=0.01), 64, 96)]
    assert reader.note.startswith("from frame 10 on 64 x 96, scaled to 96 x 64")


def test_a_change_of_size_is_counted_from_the_start_of_a_part(tmp_path: Path) -> None:
    path = concatenated(tmp_path, (64, 96), (96, 64))
    reader = VideoReader(path, start=0.5)
    assert len(list(reader)) == 15
    assert [change.number for change in reader.size_changes] == [5]
    after = VideoReader(path, start=1.2)
    assert {frame.shape for frame in after} == {(96, 64, 3)}  # a part has the size of its own first frame
    assert after.note == ""


def test_sampled_by_time_a_change_of_size_is_named_by_its_time(tmp_path: Path) -> None:
    reader = VideoReader(concatenated(tmp_path, (64, 96), (96, 64)), frames_per_second=5)
    changed = []
    for _ in reader:
        changed.append(reader.size_changed)
    assert sum(changed) == 1
    assert changed[5]
    assert reader.note.startswith("from 1.00 s on 64 x 96")


def test_an_adaptive_recording_fills_the_frame_and_many_changes_are_counted(tmp_path: Path) -> None:
    """Of one ratio, no size needs bars, whatever rounding does to it."""
    sizes = [(64, 96), (32, 48), (62, 94), (96, 144), (64, 96), (32, 48)]
    reader = VideoReader(concatenated(tmp_path, *sizes, num_frames=5))
    for frame in reader:
        assert frame.shape == (64, 96, 3)
        assert corners(frame) == list(QUARTERS)
        assert frame[2:4, 2:4].max() > 150
        assert frame[-4:-2, -4:-2].max() > 150
    assert len(reader.size_changes) == 5
    assert "and 2 more changes of size" in reader.note


def test_a_file_of_one_size_has_no_note(tmp_path: Path) -> None:
    reader = VideoReader(concatenated(tmp_path, (64, 96), (64, 96)))
    assert len(list(reader)) == 20
    assert (reader.note, reader.size_changes) == ("", [])


# --- times -----------------------------------------------------------------------------------------------------------


def numbered_frames(num_frames: int) -> np.ndarray:
    """Frames that carry their number as six black or white bars, which every codec keeps apart."""
    bits = np.arange(num_frames)[:, None] >> np.arange(6) & 1
    rows = np.repeat(bits * 255, 8, axis=1).astype(np.uint8)
    return np.ascontiguousarray(np.broadcast_to(rows[:, None, :, None], (num_frames, 32, 48, 3)))


def numbers_of(frames: Iterable[np.ndarray]) -> list[int]:
    bits = [frame.reshape(32, 6, 8, 3).mean(axis=(0, 2, 3)) > 127 for frame in frames]
    return [int(value @ (1 << np.arange(6))) for value in bits]


def write_at(
    path: Path, times: list[Fraction], *, codec: str = "libx264", options: dict[str, str] | None = None
) -> Path:
    """Numbered frames with presentation times of their own, in seconds."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options=options or {"crf": "4", "g": "8", "bf": "2"})
        stream.height, stream.width, stream.pix_fmt = 32, 48, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 90000)
        for time, image in zip(times, numbered_frames(len(times)), strict=True):
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.time_base, frame.pts = Fraction(1, 90000), int(time * 90000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


REGULAR = [Fraction(number, 25) for number in range(50)]
UNEVEN = [Fraction(milliseconds, 1000) for milliseconds in (0, 40, 200, 240, 280, 600, 640, 1000)]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts", "avi"])
@pytest.mark.parametrize(("start", "end"), [(0, 1), (0.4, 0.8), (0.41, 0.79), (1.0, None), (None, 0.04), (1.96, 99)])
def test_exactly_the_frames_between_two_times_are_read(
    tmp_path: Path, suffix: str, start: float | None, end: float | None
) -> None:
    """With key frames before, between and after them, or in an AVI without times."""
    path = tmp_path / f"a.{suffix}"
    if suffix == "avi":
        write_frames(path, numbered_frames(50), codec="mpeg4", options={"qscale": "1", "bf": "2"})
    else:
        write_at(path, REGULAR)
    first, last = Fraction(str(start or 0)), Fraction(str(end or 99))
    wanted = [number for number, time in enumerate(REGULAR) if first <= time < last]
    assert numbers_of(VideoReader(path, start=start, end=end)) == wanted


@pytest.mark.parametrize("start", [0.5, 1.8, 2.0, 2.2, 2.5, 3.9])
def test_a_clock_that_starts_anew_in_the_middle_is_no_trap_for_seeking(tmp_path: Path, start: float) -> None:
    """Two broadcasts in one file, both from 0 s: times go on where the first ends."""
    part = write_at(tmp_path / "part.ts", REGULAR).read_bytes()
    (tmp_path / "both.ts").write_bytes(part + part)
    whole = numbers_of(VideoReader(tmp_path / "both.ts"))
    assert len(whole) == 100
    assert numbers_of(VideoReader(tmp_path / "both.ts", start=start)) == whole[ceil(Fraction(str(start)) * 25) :]


def test_a_part_near_the_end_is_sought_and_not_decoded_from_the_beginning(tmp_path: Path) -> None:
    reader = VideoReader(write_at(tmp_path / "a.mp4", REGULAR), start=1.8)
    assert numbers_of(reader) == [45, 46, 47, 48, 49]
    assert reader.num_decoded <= 1 + 10  # the first, for its time; then from the key frame 40 on


def test_where_seeking_fails_the_file_is_decoded_from_its_beginning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_at(tmp_path / "a.mp4", REGULAR)
    monkeypatch.setattr(VideoReader, "_sought", lambda *arguments: None)
    assert numbers_of(VideoReader(path, start=1.8)) == [45, 46, 47, 48, 49]


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "ts"])
@pytest.mark.parametrize(
    ("rate", "wanted"),
    [
        # Ticks of 200 ms; the last frame is shown from 1000 ms on.
        (5, [0, 2, 4, 5, 6, 7]),
        (25, [0, *[1] * 4, 2, 3, *[4] * 8, 5, *[6] * 9, 7]),
    ],
)
def test_an_uneven_rate_is_sampled_by_time(tmp_path: Path, suffix: str, rate: float, wanted: list[int]) -> None:
    reader = VideoReader(write_at(tmp_path / f"a.{suffix}", UNEVEN), frames_per_second=rate)
    assert numbers_of(reader)[: len(wanted)] == wanted
    assert set(numbers_of(reader)[len(wanted) :]) <= {7}
    assert reader.uneven
    assert reader.frames_per_second == rate


def test_without_a_rate_an_uneven_file_gives_every_frame_once_and_its_mean_rate(tmp_path: Path) -> None:
    reader = VideoReader(write_at(tmp_path / "a.mkv", UNEVEN))
    assert numbers_of(reader) == list(range(8))
    assert reader.frames_per_second == pytest.approx(7 / 1.0, rel=0.01)


# Two seconds at 8 frames a second, four at 2, two at 8 again.
THREE_RATES = (
    [Fraction(i, 8) for i in range(16)]
    + [2 + Fraction(i, 2) for i in range(8)]
    + [6 + Fraction(i, 8) for i in range(16)]
)


@pytest.mark.parametrize("keys", ["4", "100"])
@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize(("start", "end", "rate"), [(0, 2, 8), (2, 6, 2), (6, None, 8), (6, 8, 8), (1.5, 2, 8)])
def test_the_rate_of_a_part_is_that_of_its_own_frames(
    tmp_path: Path, suffix: str, keys: str, start: float, end: float | None, rate: float
) -> None:
    """And not of those that are decoded on the way from the key frame before it, wherever that lies."""
    path = write_at(tmp_path / f"a.{suffix}", THREE_RATES, options={"crf": "4", "g": keys, "bf": "2"})
    reader = VideoReader(path, start=start, end=end)
    assert len(list(reader)) == sum(start <= time < (end or 99) for time in THREE_RATES)
    assert reader.frames_per_second == pytest.approx(rate, rel=0.005)
    assert not reader.uneven


def test_a_part_that_ends_in_a_pause_has_the_rate_before_it(tmp_path: Path) -> None:
    times = [*(Fraction(i, 10) for i in range(11)), Fraction(60)]
    reader = VideoReader(write_at(tmp_path / "a.mp4", times), start=0.5, end=1.05)
    assert len(list(reader)) == 6
    assert reader.frames_per_second == pytest.approx(10, rel=0.005)


@pytest.mark.parametrize("suffix", ["mp4", "mkv", "avi"])
@pytest.mark.parametrize(
    ("rate", "step"), [(30, Fraction(1)), (15, Fraction(2)), (60, Fraction(1, 2)), (10, Fraction(3))]
)
def test_a_constant_rate_is_dropped_to_or_doubled(tmp_path: Path, suffix: str, rate: int, step: Fraction) -> None:
    """Also in Matroska, whose times of 30 frames a second are rounded to 33, 67 and 100 ms."""
    path = write_frames(tmp_path / f"a.{suffix}", numbered_frames(30), codec="mpeg4", rate=30, options={"qscale": "1"})
    wanted = [int(number * step) for number in range(rate)]
    assert numbers_of(VideoReader(path, frames_per_second=rate)) == wanted


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    gaps=st.lists(st.integers(5, 400), min_size=3, max_size=20),
    cut=st.floats(0.01, 3),
    rate=st.sampled_from([None, 3.0, 10.0, 24.0, 29.97]),
)
def test_a_cut_at_any_time_loses_and_repeats_nothing(
    tmp_path_factory: pytest.TempPathFactory, gaps: list[int], cut: float, rate: float | None
) -> None:
    times = [Fraction(sum(gaps[:number]), 1000) for number in range(len(gaps) + 1)]
    path = write_at(tmp_path_factory.mktemp("cut") / "a.mkv", times)
    whole = numbers_of(VideoReader(path, frames_per_second=rate))
    parts: list[int] = []
    for start, end in ((None, cut), (cut, None)):
        try:
            parts += numbers_of(VideoReader(path, start=start, end=end, frames_per_second=rate))
        except VideoError as error:
            if "no frame is shown" not in str(error):
                raise
    assert parts == whole
    if rate is not None:
        ticks = (Fraction(tick) / Fraction(rate).limit_denominator(1000) for tick in range(len(whole)))
        assert whole == [max(n for n, time in enumerate(times) if time <= tick + Fraction(1, 1000)) for tick in ticks]


def test_a_clock_that_jumps_does_not_fill_the_disk(tmp_path: Path) -> None:
    path = write_at(tmp_path / "a.mkv", [Fraction(0), Fraction(1, 25), Fraction(100_000), Fraction(100_000) + 1])
    reader = VideoReader(path, frames_per_second=25)
    assert len(list(reader)) < 11 * 25 * 2
    assert "shown for more than 10 s" in reader.note


def test_a_part_that_lies_beyond_the_end_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(VideoError, match=r"no frame is shown from 9 s on: the last one begins at 1\.960 s"):
        list(VideoReader(write_at(tmp_path / "a.mp4", REGULAR), start=9))


@pytest.mark.parametrize(
    "times", [{"start": -1}, {"start": 2, "end": 2}, {"end": 0}, {"start": float("nan")}, {"start": float("inf")}]
)
def test_times_that_make_no_sense_are_refused(times: dict[str, float]) -> None:
    with pytest.raises(ViccError, match="0 <= start < end"):
        VideoReader(Path("a.mp4"), **times)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0, -1, 1001, float("nan"), float("inf")])
def test_a_rate_that_makes_no_sense_is_refused(rate: float) -> None:
    with pytest.raises(ViccError, match="expected a number above 0"):
        VideoReader(Path("a.mp4"), frames_per_second=rate)


# --- what a container says and what is there -------------------------------------------------------------------------


def test_the_missing_end_of_a_file_is_noted_where_nothing_raises(tmp_path: Path) -> None:
    """An AVI keeps the declared number in its header; cut behind a whole frame, it just ends."""
    whole = write_frames(tmp_path / "a.avi", moving_frames(40, (96, 128), seed=2), codec="mpeg4")
    (tmp_path / "cut.avi").write_bytes(whole.read_bytes()[: whole.stat().st_size * 3 // 4])
    reader = VideoReader(tmp_path / "cut.avi")
    count = len(list(reader))
    assert 5 < count < 38
    assert f"{count} of 40 declared frames decode" in reader.note
    again = VideoReader(whole)
    assert len(list(again)) == 40
    assert again.note == ""


def test_an_edit_list_that_cuts_frames_off_is_no_missing_end(tmp_path: Path) -> None:
    """An mp4 declares all frames of which it shows a part."""
    path = write_at(tmp_path / "a.mp4", REGULAR)
    data = bytearray(path.read_bytes())
    at = data.index(b"elst") + 12  # after the name, version, flags and number of entries
    data[at : at + 4] = (int.from_bytes(data[at : at + 4], "big") // 2).to_bytes(4, "big")
    path.write_bytes(data)
    reader = VideoReader(path)
    assert len(list(reader)) < 30
    assert reader.info is not None
    assert reader.info.num_frames == 50
    assert reader.note == ""


def test_damage_that_the_decoder_covers_up_is_noted(tmp_path: Path) -> None:
    path = write_frames(tmp_path / "a.mp4", moving_frames(30, (96, 128), seed=1), options={"crf": "20", "bf": "0"})
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    reader = VideoReader(path)
    frames = list(reader)
    assert reader.broken_after or (
        len(frames) == 30 and reader.num_damaged > 0 and "as damaged, from frame" in reader.note
    )


def test_a_mirrored_picture_is_turned_back(tmp_path: Path) -> None:
    """As from a front camera: the display matrix has a negative determinant."""
    path = write_frames(tmp_path / "a.mp4", np.stack([four_colours()] * 2))
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    for matrix, expected in (
        ((-1, 0, 0, 1), np.fliplr(four_colours())),
        ((1, 0, 0, -1), np.flipud(four_colours())),
        ((0, 1, 1, 0), four_colours().transpose(1, 0, 2)),
    ):
        a, b, c, d = (65536 * value for value in matrix)
        data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
        path.write_bytes(data)
        reader = VideoReader(path)
        for frame in reader:
            assert corners(frame) == corners(expected)
        assert reader.mirrored


@pytest.mark.parametrize(
    ("space", "red", "blue"), [(1, 0.2126, 0.0722), (5, 0.299, 0.114), (6, 0.299, 0.114), (9, 0.2627, 0.0593)]
)
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv420p10le"])
def test_colours_follow_the_declared_matrix_and_range(
    space: int, red: float, blue: float, full: bool, pixel_format: str
) -> None:
    """Against the standards' own formula, on 16 flat patches of random colour."""
    rng = np.random.default_rng(0)
    luma, cb, cr = (rng.integers(low, high, (4, 4)) for low, high in ((60, 190), (108, 148), (108, 148)))
    frame = av.VideoFrame(64, 64, pixel_format)
    deep = pixel_format.endswith("10le")
    for plane, patches in zip(frame.planes, (luma, cb, cr), strict=True):
        rows = np.frombuffer(plane, np.uint16 if deep else np.uint8).reshape(plane.height, -1)
        rows[:, : plane.width] = np.kron(patches * (4 if deep else 1), np.ones((plane.height // 4, plane.width // 4)))
    frame.colorspace, frame.color_range = space, 2 if full else 1
    image = VideoReader(Path("a.mp4"))._to_array(frame)[8::16, 8::16]
    y = luma / 255 if full else (luma - 16) / 219
    u, v = ((plane - 128) / (255 if full else 224) for plane in (cb, cr))
    r, b = y + 2 * (1 - red) * v, y + 2 * (1 - blue) * u
    g = (y - red * r - blue * b) / (1 - red - blue)
    expected = np.stack((r, g, b), axis=-1).clip(0, 1) * 255
    assert np.abs(image - expected).max() <= 3.5


def test_large_frames_are_halved_as_whole_areas() -> None:
    """Noise keeps its mean over every area; a filter that skips pixels would not."""
    noise = np.random.default_rng(0).integers(0, 256, (512, 768), dtype=np.uint8)
    frame = av.VideoFrame.from_ndarray(noise, format="gray")
    frame.color_range = 2
    image = VideoReader(Path("a.mp4"), short_side=32)._to_array(frame)
    assert image.shape == (32, 48, 3)
    areas = noise.reshape(32, 16, 48, 16).mean(axis=(1, 3))
    assert np.abs(image - areas[..., None]).max() <= 1


def write_gif(path: Path, num_frames: int) -> Path:
    with av.open(str(path), "w") as container:
        stream = container.add_stream("gif", rate=10)
        stream.height, stream.width, stream.pix_fmt = 32, 48, "rgb8"
        for image in numbered_frames(num_frames):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24").reformat(format="rgb8")))
        container.mux(stream.encode(None))
    return path


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.mp4")
    with pytest.raises(VideoError, match="not a regular file"):
        list(VideoReader(tmp_path / "a.mp4"))


def test_memory_does_not_grow_with_the_length_of_a_video(tmp_path: Path) -> None:
    """300 frames of 360 x 480 would take 155 MB at once."""
    path = write_frames(
        tmp_path / "a.mp4",
        np.broadcast_to(moving_frames(1, (360, 480), seed=0), (300, 360, 480, 3)),
        options={"crf": "30"},
    )
    list(VideoReader(path, end=0.4, short_side=32))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert sum(1 for _ in VideoReader(path)) == 300
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 50_000
