"""A folder that reads as a store does: the same frames and flow as `prepare` encodes, asked for in any order."""

import json
import os
import pickle
import re
import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import moving_frames, write_frames
from vicc.data.dataset import ClipDataset
from vicc.data.loader import ClipLoader, EpochBatches
from vicc.data.records import StoreSettings
from vicc.data.video_folder import VideoFolder
from vicc.errors import ViccError
from vicc.prepare import scan as scan_module
from vicc.prepare.scan import SCAN_FILE, scan_videos
from vicc.prepare.video import encode_streams
from vicc.transforms.augmentation import Augmentation
from vicc.video.container import VIDEO_SUFFIXES
from vicc.video.decode import VideoReader
from vicc.video.flow import create_flow, quantize_flow
from vicc.video.frame_index import IndexedReader

ENCODINGS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": {"crf": "20", "g": "12", "bf": "3"}},
    "h264-open-gop.mp4": {"options": {"crf": "20", "x264-params": "keyint=12:open-gop=1:bframes=3:b-adapt=0"}},
    "h264-one-key.mp4": {"options": {"crf": "20", "g": "500"}},
    "mpeg4.avi": {"codec": "mpeg4", "options": {"g": "12", "bf": "2"}},
    "intra.avi": {"codec": "mjpeg", "pixel_format": "yuvj420p"},
    "vp9.webm": {"codec": "libvpx-vp9", "options": {"g": "15", "deadline": "realtime", "cpu-used": "8"}},
    "turned.mp4": {"options": {"crf": "20", "g": "12"}, "rotation": 90},
}
NUM_FRAMES = 48
TURNED = "two-sizes.ts"  # 20 frames across, then 20 upright


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One video of every encoding, all larger than they are read, one smaller."""
    folder = tmp_path_factory.mktemp("on-the-fly")
    for seed, (name, options) in enumerate(ENCODINGS.items()):
        write_frames(folder / name, moving_frames(NUM_FRAMES, (136, 160), seed=seed, velocity=(2, 1)), **options)
    write_frames(folder / "small.mp4", moving_frames(40, (40, 48), seed=9))
    recordings = b""
    for seed, size in ((10, (136, 160)), (11, (160, 136))):
        part = write_frames(folder / "part.ts", moving_frames(20, size, seed=seed), options={"crf": "20", "g": "12"})
        recordings += part.read_bytes()
        part.unlink()
    (folder / TURNED).write_bytes(recordings)
    return folder


@pytest.fixture(scope="module")
def scanned(folder: Path) -> VideoFolder:
    return scan_videos(folder, workers=1)


@pytest.fixture(scope="module")
def tiny(video_folder: Path) -> VideoFolder:
    """18 videos of 24 frames of 40 x 48 pixels."""
    return scan_videos(video_folder, workers=1)


def fresh(folder: VideoFolder) -> VideoFolder:
    """As another process gets it: nothing in memory."""
    return pickle.loads(pickle.dumps(folder))  # noqa: S301 - our own bytes


class Uncoded:
    """What `prepare` hands to its encoders."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.frames: list[np.ndarray] = []

    def add(self, frame: np.ndarray) -> None:
        self.frames.append(frame.copy())


def before_encoding(path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, np.ndarray]:
    """RGB and flow of a file as `prepare` makes them, before they are encoded."""
    monkeypatch.setattr("vicc.prepare.video.FrameEncoder", Uncoded)
    rgb, flow, _ = encode_streams(VideoReader(path, short_side=128), StoreSettings())
    return {"rgb": np.stack(rgb.frames), "flow": np.stack(flow.frames)}  # type: ignore[attr-defined]


@pytest.mark.parametrize("name", [*ENCODINGS, "small.mp4", TURNED])
def test_frames_and_flow_are_what_prepare_encodes(
    folder: Path, scanned: VideoFolder, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit, wherever a clip begins: after a seek to a key frame as well as in order from the beginning."""
    expected = before_encoding(folder / name, monkeypatch)
    video = next(video for video in scanned.videos if video.id == name)
    assert video.num_frames == len(expected["rgb"])
    assert (video.height, video.width) == expected["rgb"].shape[1:3]
    for stream in ("rgb", "flow"):
        last = len(expected[stream]) - 1
        for numbers in ([0], [last], [last - 7, last], list(range(13, 24)), [30, 2, 2, 17]):
            found = fresh(scanned).frames(name, stream, numbers)  # type: ignore[arg-type]
            np.testing.assert_array_equal(found, expected[stream][numbers])
    np.testing.assert_array_equal(scanned.frames(name, "rgb", range(len(expected["rgb"]))), expected["rgb"])


def test_no_motion_is_measured_where_the_size_of_the_frames_changes(
    folder: Path, scanned: VideoFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    flow = before_encoding(folder / TURNED, monkeypatch)["flow"]
    assert [number for number, frame in enumerate(flow) if (frame == 128).all()] == [19]
    assert "from frame 20 on 136 x 160, scaled to 160 x 136" in next(v.note for v in scanned.videos if v.id == TURNED)


def test_a_remembered_scan_knows_where_sizes_change_and_an_older_one_is_read(folder: Path, tmp_path: Path) -> None:
    place, file = tmp_path / "place", tmp_path / SCAN_FILE
    place.mkdir()
    shutil.copy(folder / TURNED, place)
    scan_videos(place, remembered=file, workers=1)
    assert (scan_videos(place, remembered=file, workers=1).frames(TURNED, "flow", [19]) == 128).all()
    document = json.loads(file.read_text())
    del document["entries"][0]["index"]["size_changes"]
    file.write_text(json.dumps(document))
    assert scan_videos(place, remembered=file, workers=1).videos[0].num_frames == 40


def test_most_encodings_can_be_sought(folder: Path) -> None:
    """Otherwise the test above would only see decoding from the beginning."""
    keys = {name: IndexedReader(folder / name).index().keys for name in ENCODINGS}
    assert {name for name, found in keys.items() if len(found) >= 3} >= {
        "h264.mp4",
        "intra.avi",
        "vp9.webm",
        "turned.mp4",
    }
    assert keys["h264-one-key.mp4"] == ()


def test_a_key_frame_that_decodes_to_something_else_after_a_seek_is_not_used(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever a container says: here every seek lands on another frame than the index names."""
    reader = IndexedReader(folder / "intra.avi", short_side=128)
    sought = IndexedReader._sought_frames
    monkeypatch.setattr(
        IndexedReader,
        "_sought_frames",
        lambda self, container, stream, key: sought(self, container, stream, (key[0], key[1] + 1)),
    )
    assert reader.index().keys == ()


def test_an_index_that_no_longer_fits_falls_back_to_the_beginning(folder: Path) -> None:
    path = folder / "h264.mp4"
    reader = IndexedReader(path, short_side=128)
    index = reader.index()
    broken = type(index)(index.num_frames, index.height, index.width, 25.0, ((24, 10**9),))
    expected = list(VideoReader(path, short_side=128))[40]
    np.testing.assert_array_equal(reader.frames([40], broken)[40], expected)


@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    cache_frames=st.integers(0, 90),
    reads=st.lists(
        st.tuples(
            st.integers(0, 1),
            st.sampled_from(["rgb", "flow"]),
            st.lists(st.integers(0, 22), min_size=1, max_size=6),
        ),
        min_size=1,
        max_size=6,
    ),
)
def test_what_is_kept_in_memory_changes_nothing(
    tiny: VideoFolder, cache_frames: int, reads: list[tuple[int, Any, list[int]]]
) -> None:
    """Any reads in any order give what each gives alone, and no more is kept than allowed."""
    most = cache_frames * 40 * 48 * 3
    folder = VideoFolder(tiny.path, list(tiny._entries.values()), cache_bytes=most)
    for place, stream, numbers in reads:
        name = tiny.videos[place].id
        alone = fresh(tiny).frames(name, stream, numbers)
        np.testing.assert_array_equal(folder.frames(name, stream, numbers), alone)
        kept = sum(frame.nbytes for frames in folder._cache.values() for frame in frames.values())
        assert kept == most - folder._cache_left <= most


def test_rgb_and_flow_of_a_clip_decode_its_frames_once(scanned: VideoFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = fresh(scanned)
    read: list[int] = []
    frames = IndexedReader.frames
    monkeypatch.setattr(
        IndexedReader, "frames", lambda self, numbers, index: (read.extend(numbers), frames(self, numbers, index))[1]
    )
    folder.frames("h264.mp4", "rgb", range(10, 26))
    folder.frames("h264.mp4", "flow", range(10, 26))
    assert sorted(read) == list(range(10, 27))


def test_what_is_not_there_is_refused_by_name(scanned: VideoFolder) -> None:
    with pytest.raises(ViccError, match=r"no video 'nothing.mp4'"):
        scanned.frames("nothing.mp4", "rgb", [0])
    for stream, number in (("rgb", 40), ("flow", 39), ("rgb", -1)):
        with pytest.raises(ViccError, match=rf"small\.mp4.*no frame {number} of stream {stream}"):
            scanned.frames("small.mp4", stream, [number])  # type: ignore[arg-type]


def one_video(tmp_path: Path, num_frames: int = 20) -> Path:
    write_frames(tmp_path / "videos" / "a.mp4", moving_frames(num_frames, (40, 48), seed=1))
    write_frames(tmp_path / "videos" / "b.mp4", moving_frames(20, (40, 48), seed=2))
    return tmp_path / "videos"


def test_files_that_vanish_or_change_while_training_are_named(tmp_path: Path) -> None:
    place = one_video(tmp_path)
    folder = scan_videos(place, workers=1)
    dataset = make_dataset(folder)
    write_frames(place / "a.mp4", moving_frames(12, (40, 48), seed=3))
    with pytest.raises(ViccError, match=r"'a\.mp4'.*changed since"):
        _ = dataset[0, 0]
    (place / "b.mp4").unlink()
    for workers in (0, 1):
        batches = EpochBatches(2, 1, first_step=0, last_step=1, seed=0)
        with pytest.raises(ViccError, match=r"'b\.mp4'.*gone since") as caught:
            list(ClipLoader(make_dataset(folder, only="b.mp4"), batches, workers=workers))
        assert "\n" not in str(caught.value)


def test_a_file_damaged_behind_its_back_is_named(tmp_path: Path) -> None:
    """Of the same size and time, as after a disk error: what does not decode is said, and nothing else is given."""
    place = one_video(tmp_path, num_frames=64)
    folder = scan_videos(place, workers=1)
    path = place / "a.mp4"
    stat = path.stat()
    data = bytearray(path.read_bytes())
    data[40:-2000] = bytes(len(data) - 2040)
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    with pytest.raises(ViccError, match=r"Cannot read frames of 'a\.mp4'"):
        folder.frames("a.mp4", "rgb", range(50, 64))


# --- the scan ---------------------------------------------------------------------------------------------------------


def test_a_scan_sets_aside_what_prepare_would(tmp_path: Path) -> None:
    place = one_video(tmp_path)
    (place / "empty.mp4").touch()
    (place / "text.mp4").write_text("no video")
    write_frames(place / "two.mp4", moving_frames(2, (40, 48), seed=3))
    half = write_frames(place / "half.ts", moving_frames(40, (40, 48), seed=4)).read_bytes()
    (place / "half.ts").write_bytes(half[: len(half) // 2])
    folder = scan_videos(place, workers=2)
    assert [video.id for video in folder.videos] == ["a.mp4", "b.mp4", "half.ts"]
    assert 3 <= next(video for video in folder.videos if video.id == "half.ts").num_frames < 40
    reasons = {entry.id: entry.reason for entry in folder.set_aside}
    assert "empty" in reasons["empty.mp4"]
    assert "cannot be decoded" in reasons["text.mp4"]
    assert reasons["two.mp4"].startswith("2 frames, fewer than 3")


def test_labels_groups_and_splits_are_those_of_the_folder(video_folder: Path, store_path: Path) -> None:
    """All that training and retrieval know of a video is what they would know of it from a store."""
    from vicc.data.store import Store

    facts = ("id", "num_frames", "height", "width", "frames_per_second", "source", "label", "group", "split")
    ours = scan_videos(video_folder, workers=1).videos
    theirs = Store(store_path).videos
    assert [[getattr(video, fact) for fact in facts] for video in ours] == [
        [getattr(video, fact) for fact in facts] for video in theirs
    ]


def test_a_remembered_scan_reads_only_what_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, file = one_video(tmp_path), tmp_path / "run" / SCAN_FILE
    (place / "empty.mp4").touch()
    first = scan_videos(place, remembered=file, workers=1)
    read: list[str] = []
    scan_all = scan_module._scan_all
    monkeypatch.setattr(
        scan_module,
        "_scan_all",
        lambda files, *rest: (read.extend(file.id for file in files), scan_all(files, *rest))[1],
    )
    again = scan_videos(place, remembered=file, workers=1)
    assert (again.videos, again.set_aside, read) == (first.videos, first.set_aside, [])
    assert np.array_equal(again.frames("a.mp4", "flow", [3, 18]), first.frames("a.mp4", "flow", [3, 18]))
    write_frames(place / "b.mp4", moving_frames(30, (40, 48), seed=5))
    write_frames(place / "c.mp4", moving_frames(9, (40, 48), seed=6))
    changed = scan_videos(place, remembered=file, workers=1)
    assert read == ["b.mp4", "c.mp4"]
    assert [video.num_frames for video in changed.videos] == [20, 30, 9]
    (place / "c.mp4").unlink()
    assert [video.id for video in scan_videos(place, remembered=file, workers=1).videos] == ["a.mp4", "b.mp4"]


def test_the_scan_of_another_folder_is_left_alone(tmp_path: Path) -> None:
    place, file = one_video(tmp_path), tmp_path / SCAN_FILE
    scan_videos(place, remembered=file, workers=1)
    before = file.read_bytes()
    shutil.copytree(place, tmp_path / "other")
    (tmp_path / "other" / "b.mp4").unlink()
    assert [video.id for video in scan_videos(tmp_path / "other", remembered=file, workers=1).videos] == ["a.mp4"]
    assert file.read_bytes() == before


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"version": 1}', b"\xff"])
def test_a_damaged_scan_is_refused_in_a_sentence(tmp_path: Path, content: bytes) -> None:
    place, file = one_video(tmp_path), tmp_path / SCAN_FILE
    file.write_bytes(content)
    with pytest.raises(ViccError, match=r"scan of the videos"):
        scan_videos(place, remembered=file, workers=1)


def test_a_scan_that_was_stopped_goes_on_where_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, file = one_video(tmp_path), tmp_path / SCAN_FILE
    monkeypatch.setattr(scan_module, "_SECONDS_BETWEEN_WRITES", 0.0)
    scan_all = scan_module._scan_all

    def stopped(*arguments: Any) -> Any:
        results = scan_all(*arguments)
        yield next(results)
        raise KeyboardInterrupt

    monkeypatch.setattr(scan_module, "_scan_all", stopped)
    with pytest.raises(KeyboardInterrupt):
        scan_videos(place, remembered=file, workers=1)
    assert [entry["video"]["id"] for entry in json.loads(file.read_text())["entries"]] == ["a.mp4"]
    monkeypatch.setattr(scan_module, "_scan_all", scan_all)
    assert len(scan_videos(place, remembered=file, workers=1).videos) == 2


def test_a_folder_of_which_nothing_can_be_used_is_refused_with_reasons(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    with pytest.raises(ViccError, match=r"None of the 1 files.*empty"):
        scan_videos(tmp_path, workers=1)


def test_names_that_are_not_unicode_are_remembered(tmp_path: Path) -> None:
    place = one_video(tmp_path)
    os.rename(place / "b.mp4", os.fsencode(place) + b"/caf\xe9.mp4")
    for _ in range(2):
        folder = scan_videos(place, remembered=tmp_path / SCAN_FILE, workers=1)
        assert folder.frames("caf\udce9.mp4", "rgb", [4]).shape == (1, 40, 48, 3)


# --- training clips ---------------------------------------------------------------------------------------------------


def make_dataset(folder: VideoFolder, *, only: str | None = None, **changes: Any) -> ClipDataset:
    options: dict[str, Any] = {
        "streams": ("rgb", "flow", "diff"),
        "num_views": 2,
        "clip_frames": 6,
        "stride": 1,
        "size": 24,
        "distance": "any",
        "augmentation": Augmentation(),
        "seed": 3,
    }
    videos = [video for video in folder.videos if only is None or video.id == only]
    return ClipDataset(folder, videos * (1 if only is None else 2), **{**options, **changes})


@pytest.mark.parametrize("start_method", ["fork", "spawn"])
def test_batches_are_the_same_with_workers(tiny: VideoFolder, start_method: Any) -> None:
    dataset = make_dataset(tiny)
    batches = EpochBatches(len(dataset), 2, first_step=0, last_step=6, seed=1)
    alone = list(ClipLoader(dataset, batches, workers=0))
    helped = list(ClipLoader(dataset, batches, workers=2, start_method=start_method))
    for first, second in zip(alone, helped, strict=True):
        assert torch.equal(first.index, second.index)
        assert all(torch.equal(clips, second.clips[stream]) for stream, clips in first.clips.items())


def frames_or_reason(path: Path) -> tuple[list[np.ndarray], str]:
    try:
        return list(VideoReader(path, short_side=64)), ""
    except ViccError as error:
        return [], str(error)


@pytest.mark.data
def test_real_files_are_read_as_they_are_prepared(test_data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clips from the middle and the end of every kind of file there is, edge cases included."""
    kinds = ("ucf101-sample", "hmdb51-sample", "kinetics-sample", "edge-cases")
    paths = sorted(path for kind in kinds for path in (test_data / kind).rglob("*"))
    paths = [path for path in paths if path.suffix.lower() in VIDEO_SUFFIXES]
    assert len(paths) > 40
    sought = 0
    for path in [*paths[:18:6], *paths[18:]]:
        reader = IndexedReader(path, short_side=64)
        expected, reason = frames_or_reason(path)
        if reason:
            with pytest.raises(ViccError, match=re.escape(reason)):
                reader.index()
            continue
        index = reader.index()
        assert index.num_frames == len(expected), path
        sought += len(index.keys)
        for first in (0, len(expected) // 2, max(0, len(expected) - 9)):
            numbers = range(first, min(first + 8, len(expected)))
            for number, frame in reader.frames(numbers, index).items():
                np.testing.assert_array_equal(frame, expected[number], err_msg=f"{path} frame {number}")
    assert sought > 20


def test_flow_is_that_of_the_shrunk_frames(folder: Path, scanned: VideoFolder) -> None:
    frames = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in VideoReader(folder / "h264.mp4", short_side=128)]
    expected = quantize_flow(create_flow("dis")(frames[20], frames[21]), bound=20.0)
    np.testing.assert_array_equal(scanned.frames("h264.mp4", "flow", [20])[0], expected)
