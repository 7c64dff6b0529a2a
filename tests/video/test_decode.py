"""Decoding: every frame, the right colours, upright, and files that are not what they say."""

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import moving_frames, write_frames
from vicc.video.decode import VIDEO_SUFFIXES, VideoError, VideoReader, shrink

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


def test_a_sound_file_is_refused(tmp_path: Path) -> None:
    import av

    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        list(VideoReader(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile 'secret.mp4'\n"),
        ("list.ts", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_playlist_in_disguise_does_not_open_other_files(
    tmp_path: Path, write_video: Callable[..., Path], name: str, text: str
) -> None:
    write_video(tmp_path / "secret.mp4")
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError):
        list(VideoReader(tmp_path / name))


def test_a_colon_in_a_name_is_not_taken_for_a_protocol(
    tmp_path: Path, write_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "take:1.mp4", num_frames=3)
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoReader(Path("take:1.mp4")))) == 3


def test_names_in_other_scripts_with_blanks_and_percent_signs_work(
    tmp_path: Path, write_video: Callable[..., Path]
) -> None:
    path = write_video(tmp_path / "видео 100%03d ü.mp4", num_frames=3)
    assert len(list(VideoReader(path))) == 3


def test_a_reader_can_be_read_twice(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    reader = VideoReader(write_video(tmp_path / "a.mp4", num_frames=4))
    np.testing.assert_array_equal(list(reader), list(reader))


def test_reading_stops_early_without_harm(tmp_path: Path, write_video: Callable[..., Path]) -> None:
    reader = VideoReader(write_video(tmp_path / "a.mp4", num_frames=6))
    frames = iter(reader)
    next(frames)
    frames.close()  # type: ignore[attr-defined]
    assert len(list(reader)) == 6
    assert reader.broken_after is None


# What stands in the folder's own notes, or in the name of the file; None: refused.
EDGE_CASES = {
    "animated.gif": True,
    "av1_video.mkv": True,
    "bt601_full_range.mp4": True,
    "decord_corrupted.mp4": "note",
    "derived_4k.mp4": True,
    "derived_gray.mkv": True,
    "derived_mjpeg.avi": True,
    "derived_odd_131x97_ffv1.mkv": True,
    "derived_one_frame.mp4": 1,
    "derived_text_named.mp4": None,
    "derived_tiny_16x16.mp4": True,
    "derived_truncated_half.avi": 77,
    "derived_zero_length.avi": None,
    "h264_10bits.mp4": True,
    "hmdb51_non_utf8_metadata.avi": True,
    "nasa_13013.mp4.audio.mp3": None,
    "test_non_zero_start.mp4": True,
    "testsrc2_odd_height_and_width_vp9.mp4": True,
}


@pytest.mark.data
@pytest.mark.parametrize("name", EDGE_CASES)
def test_odd_real_files_decode_or_are_refused_with_a_reason(test_data: Path, name: str) -> None:
    reader, expected = VideoReader(test_data / "edge-cases" / name, short_side=128), EDGE_CASES[name]
    if expected is None:
        with pytest.raises(VideoError, match=r"\w{3}"):
            list(reader)
        return
    frames = list(reader)
    assert len({frame.shape for frame in frames}) == 1
    assert min(frames[0].shape[:2]) <= 128
    if expected == "note":
        assert len(frames) == 28
        assert reader.broken_after is not None
        assert "28 frames" in reader.broken_after
    elif expected is not True:
        assert len(frames) == expected
    else:
        assert len(frames) > 1
        assert reader.broken_after is None


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in VIDEO_SUFFIXES)
