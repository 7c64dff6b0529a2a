"""Hours of footage become parts: no frame is lost or there twice, a file stays together, a resume measures once."""

import json
import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.conftest import moving_frames, write_frames
from vicc.data.maintenance import merge_stores
from vicc.data.splits import SPLITS_FOLDER, divide_videos, grouped_folds
from vicc.data.store import Store
from vicc.data.video_files import VideoFile, discover_videos, file_id
from vicc.errors import ViccError
from vicc.prepare import segments
from vicc.prepare.build import PrepareReport, prepare_videos
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.engines import run_locally
from vicc.prepare.segments import SEGMENTS_FILE, cut_files, find_cuts, segment_starts

Write = Callable[..., Path]
RATE = 25
ONE, TWO = (partial(run_locally, workers=workers) for workers in (1, 2))


def run(videos: Path, store: Path, **options: Any) -> PrepareReport:
    return prepare_videos(PrepareConfig(videos, store, workers=1, **options))


def write_shots(path: Path, *lengths: int) -> Path:
    """A video whose shots of so many frames are different textures, each at rest or in slow motion."""
    shots = [moving_frames(length, (72, 96), seed=number, velocity=(1, 0)) for number, length in enumerate(lengths)]
    # Different brightness too, as different scenes have.
    frames = [(shot * (0.4 + 0.6 * (number % 2))).astype(np.uint8) for number, shot in enumerate(shots)]
    return write_frames(path, np.concatenate(frames), rate=RATE)


@pytest.mark.parametrize(
    ("end", "starts"),
    [
        (9.0, [0]),
        (14.9, [0]),
        (15.0, [0, 10]),
        (20.0, [0, 10]),
        (24.9, [0, 10]),
        (25.0, [0, 10, 20]),
        (30.04, [0, 10, 20]),
    ],
)
def test_a_rest_shorter_than_half_a_part_joins_the_last_part(end: float, starts: list[float]) -> None:
    assert segment_starts(0, end, 10) == starts
    assert segment_starts(5, 5 + end, 10) == [5 + start for start in starts]


def test_the_parts_of_a_long_video_hold_all_its_frames_once(tmp_path: Path, write_video: Write) -> None:
    write_video(tmp_path / "videos" / "long.mp4", num_frames=112)  # 4.48 s
    write_video(tmp_path / "videos" / "short.mp4", num_frames=30)
    report = run(tmp_path / "videos", tmp_path / "store", segment_seconds=1, quality=100, codec="jpeg")
    store = Store(tmp_path / "store")
    assert {video.id: video.num_frames for video in store.videos} == {
        "long.mp4#00000.000-00001.000": 25,
        "long.mp4#00001.000-00002.000": 25,
        "long.mp4#00002.000-00003.000": 25,
        "long.mp4#00003.000-end": 37,
        "short.mp4": 30,
    }
    assert (report.found, report.prepared, report.frames) == (5, 5, 142)
    run(tmp_path / "videos", tmp_path / "whole", quality=100, codec="jpeg")
    whole = Store(tmp_path / "whole").frames("long.mp4", "rgb", range(112))
    parts = [store.frames(video.id, "rgb", range(video.num_frames)) for video in store.videos[:4]]
    assert (np.concatenate(parts) == whole).all()


def test_parts_of_one_file_are_a_group_and_no_division_parts_them(tmp_path: Path, write_video: Write) -> None:
    for label in ("x", "y"):
        for number in range(3):
            write_video(tmp_path / "videos" / label / f"{number}.mp4", num_frames=30, seed=number)
    run(tmp_path / "videos", tmp_path / "store", segment_seconds=0.4)
    videos = Store(tmp_path / "store").videos
    assert len(videos) == 18
    assert all(video.group == file_id(video.id) != video.id for video in videos)
    division = divide_videos(videos, splits_folder=tmp_path / "none")
    assert division.test
    assert not {file_id(video.id) for video in division.train} & {file_id(video.id) for video in division.test}
    table = grouped_folds(videos, folds=3)
    assert all(
        len({table.cells[video.id] for video in videos if video.group == group}) == 1
        for group in ("x/0.mp4", "y/2.mp4")
    )


def test_official_sides_and_groups_of_a_file_are_those_of_its_parts(tmp_path: Path, write_video: Write) -> None:
    videos = tmp_path / "UCF-101"
    for name in ("Diving/v_Diving_g01_c01", "Archery/v_Archery_g02_c01"):
        write_video(videos / f"{name}.mp4", num_frames=30)
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Diving/v_Diving_g01_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("Archery/v_Archery_g02_c01.avi\n")
    run(videos, tmp_path / "store", segment_seconds=0.4)
    store = Store(tmp_path / "store")
    division = divide_videos(store.videos, splits_folder=store.path / SPLITS_FOLDER)
    assert division.name == "official:1"
    assert [(video.label, video.group) for video in division.train] == [("Diving", "Diving_g01")] * 3
    assert [(video.label, video.group) for video in division.test] == [("Archery", "Archery_g02")] * 3


def test_a_second_run_measures_and_prepares_nothing_and_leaves_the_store_as_it_was(
    tmp_path: Path, write_video: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "videos" / "a.mp4", num_frames=50)
    run(tmp_path / "videos", tmp_path / "store", segment_seconds=1)
    before = (tmp_path / "store" / SEGMENTS_FILE).read_bytes()
    monkeypatch.setattr(segments, "measure", None)
    report = run(tmp_path / "videos", tmp_path / "store", segment_seconds=1)
    assert (report.found, report.prepared) == (2, 0)
    assert (tmp_path / "store" / SEGMENTS_FILE).read_bytes() == before


def test_a_file_that_has_changed_is_measured_again(tmp_path: Path, write_video: Write) -> None:
    path = write_video(tmp_path / "videos" / "a.mp4", num_frames=50)
    options: dict[str, Any] = {"segment_seconds": 1, "shots": False, "memory": tmp_path / "m.json", "engine": ONE}
    assert len(cut_files(discover_videos(path), **options)) == 2
    write_video(path, num_frames=75)
    assert len(cut_files(discover_videos(path), **options)) == 3


def test_a_store_is_cut_in_one_way_only(tmp_path: Path, write_video: Write) -> None:
    write_video(tmp_path / "videos" / "a.mp4", num_frames=50)
    run(tmp_path / "videos", tmp_path / "store", segment_seconds=1)
    with pytest.raises(ViccError, match=r"prepared with segment_seconds 1.* \(asked for: None\)"):
        run(tmp_path / "videos", tmp_path / "store")


def test_a_list_that_gives_start_and_end_is_cut_within_them(tmp_path: Path, write_video: Write) -> None:
    write_video(tmp_path / "long.mp4", num_frames=100)
    place = tmp_path / "videos.csv"
    place.write_text("path,start,end\nlong.mp4,0.5,2.5\nlong.mp4,3,\n")
    run(place, tmp_path / "store", segment_seconds=1)
    assert {video.id: video.num_frames for video in Store(tmp_path / "store").videos} == {
        "long.mp4#00000.500-00001.500": 25,
        "long.mp4#00001.500-00002.500": 25,
        "long.mp4#00003.000-end": 25,
    }


def test_a_file_that_a_list_names_and_that_is_not_there_is_set_aside(tmp_path: Path, write_video: Write) -> None:
    write_video(tmp_path / "here.mp4")
    place = tmp_path / "videos.csv"
    place.write_text("path,end\nhere.mp4,\ngone.mp4,60\n")
    for prepared in (2, 0):
        report = run(place, tmp_path / "store", segment_seconds=5)
        assert report.prepared == prepared
        assert [(entry.id, entry.reason) for entry in report.set_aside] == [
            ("gone.mp4#00000.000-00060.000", "cannot be read (No such file or directory)")
        ]
    write_video(tmp_path / "gone.mp4")
    assert run(place, tmp_path / "store", segment_seconds=5).set_aside == []


def test_files_that_cannot_be_measured_stay_whole_and_are_set_aside_with_their_reason(
    tmp_path: Path, write_video: Write
) -> None:
    write_video(tmp_path / "videos" / "good.mp4", num_frames=50)
    (tmp_path / "videos" / "empty.mp4").write_bytes(b"")
    (tmp_path / "videos" / "text.mp4").write_text("not a video" * 100)
    report = run(tmp_path / "videos", tmp_path / "store", segment_seconds=1, shots=True)
    assert [entry.id for entry in report.set_aside] == ["empty.mp4", "text.mp4"]
    assert report.set_aside[0].reason == "the file is empty (0 bytes)"
    assert report.frames == 50


class Crasher(VideoFile):
    """Ends the process that receives it, as a decoder that crashes does."""

    def __reduce__(self) -> tuple[Any, ...]:
        return (os._exit, (3,))


def test_a_decoder_that_crashes_while_measuring_leaves_its_own_video_whole(tmp_path: Path, write_video: Write) -> None:
    write_video(tmp_path / "a.mp4", num_frames=50)
    good = discover_videos(tmp_path / "a.mp4")[0]
    bad = Crasher("b.mp4", tmp_path / "b.mp4", None, None, None)
    parts = cut_files([good, bad], segment_seconds=1, shots=False, memory=tmp_path / "m.json", engine=TWO)
    assert [part.id for part in parts] == ["a.mp4#00000.000-00001.000", "a.mp4#00001.000-end", "b.mp4"]


def test_a_header_that_declares_years_is_not_believed(
    tmp_path: Path, write_video: Write, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = discover_videos(write_video(tmp_path / "a.mp4"))[0]
    memory = tmp_path / "m.json"
    cut_files([file], segment_seconds=1, shots=False, memory=memory, engine=ONE)
    content = json.loads(memory.read_text())
    for entry in content["videos"].values():
        entry["seconds"] = 1e12
    memory.write_text(json.dumps(content))
    assert cut_files([file], segment_seconds=1, shots=False, memory=memory, engine=ONE) == [file]
    assert "more than so small a file has" in capsys.readouterr().err


def test_what_could_not_be_measured_is_tried_again(tmp_path: Path, write_video: Write) -> None:
    place = tmp_path / "videos.csv"
    place.write_text("path\nlater.mp4\nhere.mp4\n")
    write_video(tmp_path / "here.mp4", num_frames=50)
    options: dict[str, Any] = {"segment_seconds": 1, "shots": False, "memory": tmp_path / "m.json", "engine": ONE}
    assert len(cut_files(discover_videos(place), **options)) == 3
    assert len(json.loads((tmp_path / "m.json").read_text())["videos"]) == 1
    write_video(tmp_path / "later.mp4", num_frames=50)
    assert len(cut_files(discover_videos(place), **options)) == 4


def test_jobs_of_an_array_cut_and_divide_as_one_job_does(tmp_path: Path, write_video: Write) -> None:
    for number in range(3):
        write_video(tmp_path / "videos" / "x" / f"v_Diving_g0{number}_c01.mp4", num_frames=40, seed=number)
    lists = tmp_path / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "trainlist01.txt").write_text("Diving/v_Diving_g00_c01.avi 1\nDiving/v_Diving_g01_c01.avi 1\n")
    (lists / "testlist01.txt").write_text("Diving/v_Diving_g02_c01.avi\n")
    run(tmp_path / "videos", tmp_path / "all", segment_seconds=0.8)
    parts = []
    for number in (1, 2):
        run(tmp_path / "videos", tmp_path / "all", segment_seconds=0.8, shard=f"{number}/2")
        parts.append(tmp_path / f"all.part-{number}-of-2")
    ids = [video.id for part in parts for video in Store(part).videos]
    assert sorted(ids) == [video.id for video in Store(tmp_path / "all").videos]
    assert len(ids) == 6
    official = [(store / SPLITS_FOLDER / "official.csv").read_bytes() for store in (tmp_path / "all", *parts)]
    assert official == official[:1] * 3
    merged = merge_stores([str(part) for part in parts], tmp_path / "merged")
    assert merged.splits == ["splits/official.csv"]
    assert (tmp_path / "merged" / "splits" / "official.csv").read_bytes() == official[0]


def test_lengths_of_an_older_vicc_are_measured_again(tmp_path: Path, write_video: Write) -> None:
    """They were those of the container: of the sound, where that goes on longer than the picture."""
    file = discover_videos(write_video(tmp_path / "a.mp4"))[0]
    memory = tmp_path / "m.json"
    memory.write_text(
        json.dumps({"version": 1, "shots": False, "videos": {segments._key(file): {"seconds": 9, "cuts": []}}})
    )
    parts = cut_files([file], segment_seconds=0.5, shots=False, memory=memory, engine=ONE)
    assert len(parts) == 2
    assert json.loads(memory.read_text())["videos"] != {}


def test_a_damaged_memory_is_named(tmp_path: Path, write_video: Write) -> None:
    file = discover_videos(write_video(tmp_path / "a.mp4"))[0]
    (tmp_path / "m.json").write_text('{"version": 1, "shots": false, "videos": {"x": 3}}')
    with pytest.raises(ViccError, match=r"m\.json cannot be understood"):
        cut_files([file], segment_seconds=1, shots=False, memory=tmp_path / "m.json", engine=ONE)


def test_a_file_that_declares_no_length_is_measured_by_its_packets(tmp_path: Path) -> None:
    """As a live recording in Matroska: no length, no number of frames."""
    path = write_frames(tmp_path / "a.mkv", moving_frames(60, (40, 48), seed=1), container_options={"live": "1"})
    file = discover_videos(path)[0]
    parts = cut_files([file], segment_seconds=1, shots=False, memory=tmp_path / "m.json", engine=ONE)
    assert [part.id for part in parts] == ["a.mkv#00000.000-00001.000", "a.mkv#00001.000-end"]


def test_cuts_are_found_between_shots_to_the_frame_and_nowhere_else(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    cuts, end = find_cuts(write_shots(tmp_path / "a.mp4", 40, 30, 50))
    assert cuts == (39.5 / RATE, 69.5 / RATE)  # half-way between two frames
    assert end == pytest.approx(120 / RATE)
    assert find_cuts(write_shots(tmp_path / "b.mp4", 60))[0] == ()


def test_shots_become_parts_and_long_shots_are_cut_further(tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    write_shots(tmp_path / "videos" / "a.mp4", 40, 30, 80)
    write_shots(tmp_path / "videos" / "b.mp4", 40)
    run(tmp_path / "videos", tmp_path / "shots", shots=True)
    assert {video.id: video.num_frames for video in Store(tmp_path / "shots").videos} == {
        "a.mp4#00000.000-00001.580": 40,
        "a.mp4#00001.580-00002.780": 30,
        "a.mp4#00002.780-end": 80,
        "b.mp4": 40,
    }
    run(tmp_path / "videos", tmp_path / "both", shots=True, segment_seconds=1.6)
    assert [video.num_frames for video in Store(tmp_path / "both").videos] == [40, 30, 40, 40, 40]


def test_shots_need_no_second_opencv_and_say_what_to_install_where_it_is_missing(
    tmp_path: Path, write_video: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "videos" / "a.mp4")
    monkeypatch.setitem(sys.modules, "scenedetect", None)
    with pytest.raises(ViccError, match=r"pip install 'vicc\[shots\]'"):
        run(tmp_path / "videos", tmp_path / "store", shots=True)


@pytest.mark.data
def test_real_footage_with_a_cut_is_cut_there(test_data: Path, tmp_path: Path) -> None:
    pytest.importorskip("scenedetect")
    cuts, end = find_cuts(test_data / "edge-cases" / "nasa_13013.mp4")
    assert len(cuts) == 1
    assert 7.9 < cuts[0] < 8.1
    assert 12.9 < end < 13.1
