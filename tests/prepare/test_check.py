"""Checking: every file is read, what is wrong is said, duplicates are found, and the page is safe and small."""

import json
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import lmdb
import numpy as np
import pytest

from tests.conftest import moving_frames, write_frames
from vicc.cli import main
from vicc.data.shard import key_of
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.prepare import check
from vicc.prepare.build import prepare_videos
from vicc.prepare.check import CheckedVideo, CheckReport, check_videos
from vicc.prepare.configs import CheckConfig, PrepareConfig

Write = Callable[..., Path]


def run(*paths: Path, **options: Any) -> CheckReport:
    return check_videos(CheckConfig(list(paths), **{"workers": 1, **options}))


def one(report: CheckReport) -> CheckedVideo:
    (video,) = report.videos
    return video


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory, write_video: Write) -> Path:
    """Two good videos and a copy, the same frames in another container, a broken and an empty file, one cut short."""
    folder = tmp_path_factory.mktemp("mixed")
    write_video(folder / "a" / "good.mp4", seed=1)
    write_video(folder / "b" / "other.mp4", seed=2)
    shutil.copy(folder / "a" / "good.mp4", folder / "b" / "copy.mp4")
    with av.open(str(folder / "a" / "good.mp4")) as source, av.open(str(folder / "b" / "remuxed.mkv"), "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    (folder / "a" / "text.mp4").write_text("not a video\n" * 50)
    (folder / "b" / "empty.avi").write_bytes(b"")
    whole = write_frames(folder / "cut.avi", moving_frames(40, (96, 128), seed=3), codec="mpeg4").read_bytes()
    (folder / "cut.avi").write_bytes(whole[: len(whole) * 3 // 4])
    return folder


@pytest.fixture(scope="module")
def checked(mixed: Path) -> dict[str, CheckedVideo]:
    return {video.name: video for video in run(mixed, workers=2).videos}


def test_every_file_has_its_verdict_and_its_reason(checked: dict[str, CheckedVideo]) -> None:
    assert {name: video.verdict for name, video in checked.items()} == {
        "a/good.mp4": "readable",
        "a/text.mp4": "unreadable",
        "b/copy.mp4": "readable",
        "b/empty.avi": "unreadable",
        "b/other.mp4": "readable",
        "b/remuxed.mkv": "readable",
        "cut.avi": "partly readable",
    }
    assert "cannot be decoded" in checked["a/text.mp4"].reason
    assert checked["b/empty.avi"].reason == "the file is empty (0 bytes)"
    assert re.search(r"\d+ of 40 declared frames decode", checked["cut.avi"].reason)
    assert all(not video.reason for video in checked.values() if video.verdict == "readable")


def test_what_is_said_of_a_video_is_true(checked: dict[str, CheckedVideo], mixed: Path) -> None:
    good, remuxed = checked["a/good.mp4"], checked["b/remuxed.mkv"]
    assert (good.frames_declared, good.frames_decoded, good.width, good.height) == (24, 24, 48, 40)
    assert (good.frames_per_second, good.seconds, good.codec, good.rotation) == (25, 24 / 25, "h264", 0)
    assert good.file_bytes == (mixed / "a/good.mp4").stat().st_size
    assert (remuxed.frames_declared, remuxed.frames_decoded) == (None, 24)
    assert checked["cut.avi"].frames_decoded < 38


def test_duplicates_are_found_by_bytes_and_by_frames(checked: dict[str, CheckedVideo]) -> None:
    assert {name: video.same_as for name, video in checked.items() if video.same_as} == {
        "b/copy.mp4": "a/good.mp4",
        "b/remuxed.mkv": "a/good.mp4",
    }
    assert checked["b/copy.mp4"].blake2b == checked["a/good.mp4"].blake2b != checked["b/remuxed.mkv"].blake2b


def test_rotation_and_variable_rates_are_remarked_and_the_size_is_that_shown(tmp_path: Path) -> None:
    write_frames(tmp_path / "a.mp4", moving_frames(4, (40, 64), seed=0), rotation=-90)
    video = one(run(tmp_path / "a.mp4"))
    assert (video.width, video.height, video.rotation) == (40, 64, 270)
    assert video.remarks == ("shown turned by 90 degrees clockwise",)
    assert video.verdict == "readable"


@pytest.fixture(scope="module")
def long_video(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 s with a key frame every second."""
    path = tmp_path_factory.mktemp("long") / "long.mkv"
    frames = np.tile(moving_frames(50, (48, 64), seed=0), (4, 1, 1, 1))
    return write_frames(path, frames, rate=10, options={"g": "10", "crf": "20"})


def test_fast_decodes_the_beginning_the_middle_and_the_end(long_video: Path) -> None:
    video = one(run(long_video, fast=True))
    assert (video.verdict, video.sampled, video.blake2b) == ("readable", True, "")
    assert 30 <= video.frames_decoded < 100
    assert one(run(long_video)).frames_decoded == 200


def test_fast_sees_a_missing_end(long_video: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.mkv").write_bytes(long_video.read_bytes()[: long_video.stat().st_size * 2 // 3])
    video = one(run(tmp_path / "cut.mkv", fast=True))
    assert video.verdict == "partly readable"
    assert "no frame is shown from 18.0 s on" in video.reason
    assert re.search(r"1\d\.\d of 20\.0 declared seconds decode", one(run(tmp_path / "cut.mkv")).reason)


def test_fast_hashes_only_files_of_one_size(mixed: Path) -> None:
    videos = {video.name: video for video in run(mixed, fast=True).videos}
    assert {name for name, video in videos.items() if video.blake2b} >= {"a/good.mp4", "b/copy.mp4"}
    assert videos["b/copy.mp4"].same_as == "a/good.mp4"
    assert not videos["b/other.mp4"].blake2b


# --- stores ----------------------------------------------------------------------------------------------------------


def test_a_sound_store_passes_and_names_its_videos_by_id(store_path: Path) -> None:
    report = run(store_path)
    assert report.passed
    assert [video.name for video in report.videos] == [video.id for video in Store(store_path).videos]
    assert {(video.frames_declared, video.frames_decoded) for video in report.videos} == {(24, 24)}


@pytest.mark.parametrize("stream", ["rgb", "flow"])
def test_a_damaged_entry_of_a_store_is_found_and_the_others_pass(store_path: Path, tmp_path: Path, stream: str) -> None:
    store = Path(shutil.copytree(store_path, tmp_path / "store"))
    victim = Store(store_path).videos[7].id
    (shard,) = store.glob("shard-*.lmdb")
    with lmdb.open(str(shard), subdir=False, map_size=1 << 30) as opened, opened.begin(write=True) as transaction:
        key = key_of(stream, victim)
        data = transaction.get(key)
        transaction.put(key, data[: len(data) * 3 // 4])
    report = run(store)
    assert [video.name for video in report.videos if video.is_problem] == [victim]
    assert stream in next(video.reason for video in report.videos if video.is_problem)


def test_what_a_store_set_aside_is_listed_and_is_no_failure(tmp_path: Path, write_video: Write) -> None:
    write_video(tmp_path / "videos" / "a.mp4", num_frames=5)
    (tmp_path / "videos" / "b.mp4").write_bytes(b"")
    prepare_videos(PrepareConfig(tmp_path / "videos", tmp_path / "store", workers=1))
    report = run(tmp_path / "store")
    assert {video.name: (video.verdict, video.reason) for video in report.videos} == {
        "a.mp4": ("readable", ""),
        "b.mp4": ("skipped", "the file is empty (0 bytes)"),
    }
    assert report.passed


# --- paths -----------------------------------------------------------------------------------------------------------


def test_several_paths_keep_names_apart_and_one_given_twice_counts_once(mixed: Path) -> None:
    report = run(mixed / "a" / "good.mp4", mixed / "a", mixed / "b", mixed / "a")
    names = [video.name for video in report.videos]
    assert len(names) == len(set(names)) == 6
    assert str(mixed / "b" / "copy.mp4") in names


def test_a_path_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match="No such file or folder"):
        run(tmp_path / "gone")


def test_a_file_of_any_name_is_read(tmp_path: Path, write_video: Write) -> None:
    path = write_video(tmp_path / "a.mp4", num_frames=4).rename(tmp_path / "upload.tmp")
    assert one(run(path)).verdict == "readable"


# --- the command -----------------------------------------------------------------------------------------------------


def test_check_and_prepare_say_the_same_of_too_short_a_video(
    tmp_path: Path, write_video: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    for num_frames in (1, 2, 3):
        write_video(tmp_path / "v" / f"{num_frames}.mp4", num_frames=num_frames)
    prepare_videos(PrepareConfig(tmp_path / "v", store=tmp_path / "s", flow="none", workers=1))
    found = {video.name: video for video in run(tmp_path / "v").videos}
    assert {name: video.verdict for name, video in found.items()} == {
        "1.mp4": "too short",
        "2.mp4": "too short",
        "3.mp4": "readable",
    }
    for entry in Store(tmp_path / "s").set_aside:
        assert found[entry.id].reason.startswith(entry.reason)
    assert run(tmp_path / "s").counts == {"readable": 1, "skipped": 2}  # a store without flow lacks nothing
    assert main(["check", str(tmp_path / "v"), "--workers", "1"]) == 1
    assert "3 videos: 1 readable, 2 too short" in capsys.readouterr().out


def test_a_file_of_two_recordings_is_as_long_as_both_and_its_sizes_are_remarked(tmp_path: Path) -> None:
    both = b""
    for seed, size in enumerate([(48, 64), (64, 48)]):
        both += write_frames(tmp_path / "part.ts", moving_frames(40, size, seed=seed), rate=10).read_bytes()
    (tmp_path / "both.ts").write_bytes(both)
    video = one(run(tmp_path / "both.ts"))
    assert (video.verdict, video.frames_decoded) == ("readable", 80)
    assert video.seconds == pytest.approx(8, abs=0.2)
    assert any(remark.startswith("from frame 40 on 48 x 64, scaled to 64 x 48") for remark in video.remarks)


def test_the_exit_status_says_whether_all_are_readable(mixed: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(mixed / "a" / "good.mp4"), "--workers", "1"]) == 0
    assert "1 readable" in capsys.readouterr().out
    assert main(["check", str(mixed), "--workers", "1", "--json"]) == 1
    document = json.loads(capsys.readouterr().out)
    assert document["counts"] == {"readable": 4, "partly readable": 1, "unreadable": 2}
    assert document["duplicates"] == 2
    assert {video["name"] for video in document["videos"]} >= {"cut.avi", "b/empty.avi"}
    assert "pictures" not in document["videos"][0]


def test_a_name_that_is_no_unicode_can_be_printed(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = Path(str(tmp_path / "bad") + "\udcff.mp4")
    path.write_bytes(b"")
    assert main(["check", str(path), "--workers", "1"]) == 1
    assert "1 unreadable" in capfd.readouterr().out


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_page_shows_problems_first_with_pictures_of_what_decodes(mixed: Path, tmp_path: Path) -> None:
    run(mixed, html=tmp_path / "check.html")
    page = (tmp_path / "check.html").read_text()
    order = [page.index(f"<bdi>{name}</bdi></h2>") for name in ("b/empty.avi", "cut.avi", "b/other.mp4")]
    assert order == sorted(order)
    assert page.count("data:image/jpeg;base64,") >= 5 * 3
    assert "http://" not in page
    assert "https://" not in page


def test_names_and_reasons_are_text_in_the_page(tmp_path: Path) -> None:
    path = tmp_path / "<script>alert(1)<&.mp4"
    path.write_bytes(b"")
    run(path, html=tmp_path / "check.html")
    page = (tmp_path / "check.html").read_text()
    assert "<script" not in page
    assert "&lt;script&gt;" in page


def test_the_page_is_bounded_and_says_how_many_it_leaves_out(mixed: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(check, "MAX_ON_SHEET", 3)
    run(mixed, html=tmp_path / "check.html")
    page = (tmp_path / "check.html").read_text()
    assert page.count("<article") == 3
    assert "<b>4</b> more are left out" in page


def test_pictures_are_spread_over_a_video_of_any_length_in_bounded_memory() -> None:
    for count in (1, 2, 3, 5, 17, 1000, 5000):
        pictures = check._Pictures()
        held = 0
        for number in range(count):
            pictures.add(np.full((4, 4, 3), number * 255 // count, np.uint8))
            held = max(held, len(pictures._frames))
        assert held <= 16
        assert len(pictures.encode()) == min(count, 4)
        chosen = sorted(frame[0, 0, 0] for frame in pictures._frames)
        assert chosen[-1] - chosen[0] >= (255 * 0.7 if count > 16 else 0)


def test_the_order_of_weight_puts_what_needs_a_look_first() -> None:
    ok = CheckedVideo("ok", "readable")
    videos = [
        ok,
        replace(ok, name="vfr", remarks=("x",)),
        CheckedVideo("bad", "unreadable"),
        CheckedVideo("half", "partly readable"),
    ]
    report = CheckReport(videos, sampled=False)
    assert [video.name for video in report.by_weight()] == ["bad", "half", "vfr", "ok"]
    assert not report.passed
