"""One video file to frames and flow: what is stored of it, and what is said of it."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.conftest import moving_frames, write_frames
from tests.prepare.test_build import Write, run
from vicc.data.records import SetAside, StoreSettings
from vicc.data.store import Store
from vicc.data.video_files import discover_videos
from vicc.errors import ViccError
from vicc.prepare.video import prepare_video
from vicc.video.decode import VideoReader
from vicc.video.flow import create_flow, dequantize_flow


def test_the_stored_flow_is_that_of_the_motion(tmp_path: Path, write_video: Write) -> None:
    write_video(tmp_path / "videos" / "a.mp4", num_frames=6, velocity=(3, -1))
    run(tmp_path / "videos", tmp_path / "store", short_side=128, flow_bound=10.0)
    stored = Store(tmp_path / "store").frames("a.mp4", "flow", range(5)).astype(float)
    np.testing.assert_allclose(np.median((stored - 128) * 10 / 127, axis=(0, 1, 2)), (3, -1), atol=0.2)


def test_stored_flow_is_within_one_step_of_the_float_flow(tmp_path: Path, write_video: Write) -> None:
    """Of every pixel, not on average; beyond the bound it is cut off."""
    path = write_video(tmp_path / "videos" / "a.mp4", num_frames=12, size=(64, 82), velocity=(7, 2))
    run(tmp_path / "videos", tmp_path / "store", short_side=48, flow_bound=4.0)
    store = Store(tmp_path / "store")
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in VideoReader(path, short_side=48)]
    dis = create_flow("dis")
    exact = np.stack([dis(first, second) for first, second in itertools.pairwise(grey)])
    stored = dequantize_flow(store.frames("a.mp4", "flow", range(11)), bound=4.0)
    assert np.abs(exact).max() > 4  # so that the bound is met
    assert np.abs(stored - np.clip(exact, -4, 4)).max() <= 4 / 127


def test_native_flow_is_computed_from_the_files_own_frames_and_told_in_stored_pixels(
    tmp_path: Path, write_video: Write
) -> None:
    path = write_video(tmp_path / "videos" / "a.mp4", num_frames=8, size=(96, 128), velocity=(6, 3))
    for place in ("store", "native"):
        run(tmp_path / "videos", tmp_path / place, short_side=32, flow_at=place)
    stores = {place: Store(tmp_path / place) for place in ("store", "native")}
    np.testing.assert_array_equal(*(store.frames("a.mp4", "rgb", range(8)) for store in stores.values()))
    flow = dequantize_flow(stores["native"].frames("a.mp4", "flow", range(7)), bound=20.0)
    assert flow.shape == (7, 32, 43, 2)
    np.testing.assert_allclose(np.median(flow, axis=(0, 1, 2)), (2, 1), atol=0.2)  # a third of the file's own pixels
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in VideoReader(path)]
    exact = create_flow("dis")(grey[0], grey[1])
    exact = cv2.resize(exact, (43, 32), interpolation=cv2.INTER_AREA) * np.float32((43 / 128, 32 / 96))
    np.testing.assert_allclose(flow[0], exact, atol=20 / 127)
    assert stores["native"].settings.flow_at == "native"
    with pytest.raises(ViccError, match="flow_at"):
        run(tmp_path / "videos", tmp_path / "native", short_side=32)


def test_fps_samples_every_video_at_one_rate_and_the_store_knows_it(tmp_path: Path) -> None:
    for rate in (10, 30):
        write_frames(tmp_path / "videos" / f"{rate}.mp4", moving_frames(2 * rate, (40, 48), seed=rate), rate=rate)
    run(tmp_path / "videos", tmp_path / "store", fps=15.0)
    store = Store(tmp_path / "store")
    assert store.settings.frames_per_second == 15
    assert [(video.num_frames, video.frames_per_second) for video in store.videos] == [(30, 15), (30, 15)]
    with pytest.raises(ViccError, match="prepared with frames_per_second 15"):
        run(tmp_path / "videos", tmp_path / "store")


def test_a_file_without_its_end_keeps_what_decodes_and_says_so(tmp_path: Path) -> None:
    """Nothing raises: an AVI just ends."""
    whole = write_frames(tmp_path / "a.avi", moving_frames(40, (96, 128), seed=3), codec="mpeg4").read_bytes()
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "a.avi").write_bytes(whole[: len(whole) * 3 // 4])
    report = run(tmp_path / "videos", tmp_path / "store")
    (video,) = Store(tmp_path / "store").videos
    assert f"{video.num_frames} of 40 declared frames decode" in video.note == report.notes["a.avi"]
    with pytest.raises(ViccError, match=r"fewer than 50 \(--min-frames\); .* of 40 declared frames decode"):
        run(tmp_path / "videos", tmp_path / "third", min_frames=50)


def test_a_video_that_changes_its_size_on_the_way_gets_one_size(tmp_path: Path, write_video: Write) -> None:
    """Two MPEG transport streams of different size, one after the other, are one valid stream."""
    small, large = (write_video(tmp_path / f"{size[0]}.ts", num_frames=6, size=size) for size in ((40, 48), (64, 80)))
    (tmp_path / "videos").mkdir()
    (tmp_path / "videos" / "both.ts").write_bytes(small.read_bytes() + large.read_bytes())
    run(tmp_path / "videos", tmp_path / "store", short_side=128)
    (video,) = Store(tmp_path / "store").videos
    assert (video.height, video.width) == (40, 48)
    assert video.num_frames > 6
    assert Store(tmp_path / "store").frames("both.ts", "rgb", [0, video.num_frames - 1]).shape == (2, 40, 48, 3)


def test_a_file_that_vanishes_is_set_aside(tmp_path: Path, write_video: Write) -> None:
    path = write_video(tmp_path / "videos" / "gone.mp4")
    (file,) = discover_videos(tmp_path / "videos")
    path.unlink()
    result = prepare_video(file, StoreSettings(short_side=32), 3)
    assert isinstance(result, SetAside)
    assert "No such file" in result.reason
