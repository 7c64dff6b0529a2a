"""Every odd or broken file of the real collection: what it is, and exactly what comes out of it."""

from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from vicc.video.container import VideoError
from vicc.video.decode import VideoReader

DOCUMENT = Path(__file__).parents[2] / "docs" / "edge-cases.md"


@dataclass(frozen=True)
class Expected:
    """What a file gives: frames of (height, width), the rate found, frames when sampled at 10 a second by time.

    `problem` is what is missing; a file without frames is refused with it.
    """

    frames: int = 0
    size: tuple[int, int] | None = None
    rate: float = 0.0
    at_10: int = 0
    problem: str = ""
    uneven: bool = False
    opencv_agrees: bool = True


CASES = {
    "animated.gif": Expected(4, (48, 64), 10, 4),
    "av1_video.mkv": Expected(125, (360, 640), 25, 50, opencv_agrees=False),
    "bt601_full_range.mp4": Expected(60, (240, 320), 30, 20),
    "decord_corrupted.mp4": Expected(28, (720, 1280), 10, 28, "stopped after 28 frames (Invalid data"),
    "decord_video_90.mov": Expected(3, (568, 320), 30, 1),
    "derived_4k.mp4": Expected(8, (2160, 3840), 25, 4),
    "derived_60fps_long_gop.mp4": Expected(60, (240, 320), 60, 10),
    "derived_gray.mkv": Expected(25, (240, 320), 25, 10),
    "derived_mjpeg.avi": Expected(25, (240, 320), 25, 10),
    "derived_odd_131x97_ffv1.mkv": Expected(25, (97, 131), 25, 10),
    "derived_one_frame.mp4": Expected(1, (240, 320), 25, 1),
    "derived_text_named.mp4": Expected(problem="cannot be decoded"),
    "derived_tiny_16x16.mp4": Expected(25, (16, 16), 25, 10),
    "derived_truncated.mp4": Expected(problem="cannot be decoded"),
    "derived_truncated_half.avi": Expected(77, (240, 320), 25, 31, "77 of 164 declared frames decode"),
    "derived_vfr.mp4": Expected(60, (240, 320), 60 / 7.524, 76, uneven=True),
    "derived_zero_length.avi": Expected(problem="empty (0 bytes)"),
    "h264_10bits.mp4": Expected(30, (200, 200), 30, 10),
    "hmdb51_non_utf8_metadata.avi": Expected(83, (240, 320), 30, 28),
    "nasa_13013.mp4": Expected(390, (270, 480), 29.97, 131, opencv_agrees=False),
    "nasa_13013.mp4.audio.mp3": Expected(problem="no video stream"),
    "nasa_13013_rotated.mp4": Expected(17, (480, 270), 29.97, 6),
    "test_non_zero_start.mp4": Expected(12, (112, 200), 30, 4),
    "testsrc2_mpeg4.mp4": Expected(1, (64, 64), 25, 1),
    "testsrc2_odd_height_and_width_vp9.mp4": Expected(25, (241, 321), 25, 10),
    "testsrc2_vp9.webm": Expected(30, (720, 1280), 30, 10),
}
READABLE = [name for name, expected in CASES.items() if expected.frames]


@pytest.mark.data
def test_no_file_is_left_out(test_data: Path) -> None:
    assert {path.name for path in (test_data / "edge-cases").iterdir()} == set(CASES)


def test_the_document_has_a_row_for_every_file_with_its_frames_and_its_size() -> None:
    files = DOCUMENT.read_text().partition("# What else goes wrong")[0]
    rows = [line.split("|")[1:-1] for line in files.splitlines() if line.startswith("| `")]
    cells = {row[0].strip().strip("`"): [cell.strip() for cell in row[1:]] for row in rows}
    assert list(cells) == list(CASES)
    for name, expected in CASES.items():
        size = "{1} x {0}".format(*expected.size) if expected.size else "-"
        assert cells[name][1:3] == [str(expected.frames or "-"), size], name


@pytest.mark.data
@pytest.mark.parametrize("name", READABLE)
def test_a_file_gives_its_frames(test_data: Path, name: str) -> None:
    expected, reader = CASES[name], VideoReader(test_data / "edge-cases" / name)
    sizes = [frame.shape for frame in reader]
    assert sizes == [(*(expected.size or ()), 3)] * expected.frames
    assert reader.frames_per_second == pytest.approx(expected.rate, rel=0.001)
    assert reader.uneven == expected.uneven
    assert expected.problem in reader.problem
    assert bool(expected.problem) == bool(reader.problem)


@pytest.mark.data
@pytest.mark.parametrize("name", sorted(set(CASES) - set(READABLE)))
def test_a_file_is_refused_with_its_reason(test_data: Path, name: str) -> None:
    with pytest.raises(VideoError) as caught:
        list(VideoReader(test_data / "edge-cases" / name))
    assert CASES[name].problem in str(caught.value)


@pytest.mark.data
@pytest.mark.parametrize("name", READABLE)
def test_a_file_is_sampled_by_time(test_data: Path, name: str) -> None:
    assert (
        len(list(VideoReader(test_data / "edge-cases" / name, short_side=16, frames_per_second=10)))
        == CASES[name].at_10
    )


@pytest.mark.data
@pytest.mark.parametrize("name", [name for name in READABLE if CASES[name].opencv_agrees])
def test_pictures_are_those_that_opencv_gives(test_data: Path, name: str) -> None:
    """OpenCV carries an FFmpeg of its own. It cannot read AV1, and takes another stream of nasa_13013.mp4."""
    path = test_data / "edge-cases" / name
    other = cv2.VideoCapture(str(path))
    for number, frame in enumerate(VideoReader(path)):
        read, expected = other.read()
        assert read, f"OpenCV has no frame {number}"
        # 10-bit and odd sizes are rounded otherwise.
        assert cv2.absdiff(frame, np.ascontiguousarray(expected[..., ::-1])).mean() < 2
    assert not other.read()[0]


@pytest.mark.data
@pytest.mark.parametrize("name", READABLE)
@pytest.mark.parametrize("rate", [None, 12.5])
def test_parts_of_a_file_put_together_are_the_whole(test_data: Path, name: str, rate: float | None) -> None:
    """Whatever the cuts, each frame is in one part: seeking neither loses a frame nor shows another."""
    path = test_data / "edge-cases" / name
    reader = VideoReader(path, short_side=32, frames_per_second=rate)
    whole = list(reader)
    cuts = [0.0, *(share * reader.seconds for share in (0.21, 0.5, 0.83)), None]
    parts = []
    for start, end in pairwise(cuts):
        try:
            parts += list(VideoReader(path, short_side=32, start=start, end=end, frames_per_second=rate))
        except VideoError as error:
            if "no frame is shown" not in str(error):  # a part between two frames
                raise
    np.testing.assert_array_equal(parts, whole)
