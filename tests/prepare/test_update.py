"""Given again, `vicc prepare` brings a store up to date: labels, groups, splits, names, files skipped for a time."""

import errno
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import pytest

import vicc.data.store as vicc_store
from tests.conftest import make_video
from vicc.cli import main
from vicc.data.maintenance import merge_stores, store_info
from vicc.data.records import FileState, SetAside
from vicc.data.store import Store, StoreWriter
from vicc.errors import ViccError
from vicc.prepare import build, scan
from vicc.prepare.build import PrepareReport, prepare_videos
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.scan import scan_videos
from vicc.prepare.verify import verify_store
from vicc.prepare.video import hash_once
from vicc.video.decode import VideoReader

decoded: list[str] = []


@pytest.fixture(autouse=True)
def _in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without processes, which take a second to start; `decoded` notes what is decoded."""

    def run(work: Callable[..., Any], items: Sequence[Any], **_: Any) -> Iterator[tuple[Any, Any]]:
        for item in items:
            decoded.append(item.id)
            yield item, work(item)

    monkeypatch.setattr(build, "run_locally", run)
    monkeypatch.setattr(scan, "run_locally", run)
    decoded.clear()


def prepare(place: Path, store: Path, **options: Any) -> PrepareReport:
    decoded.clear()
    return prepare_videos(PrepareConfig(place, **{"store": store, "flow": "none", **options}))


def videos(folder: Path, *names: str) -> Path:
    for name in names:
        make_video(folder / name, num_frames=6, size=(16, 24), seed=sum(map(ord, name)))
    return folder


def facts(store: Path) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {video.id: (video.label, video.group, video.split) for video in Store(store).videos}


def tree(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.glob("*.*") if path.is_file() and path.name != ".lock"}


# --- labels, groups, splits ------------------------------------------------------------------------------------------


def test_a_second_class_gives_the_first_one_its_label(tmp_path: Path) -> None:
    """One class is no label; of two, the first must not stay without."""
    place = videos(tmp_path / "v", "run/1.mp4", "run/2.mp4")
    prepare(place, tmp_path / "s")
    assert {label for label, _, _ in facts(tmp_path / "s").values()} == {None}
    videos(place, "jump/3.mp4")
    report = prepare(place, tmp_path / "s")
    assert {name: label for name, (label, _, _) in facts(tmp_path / "s").items()} == {
        "jump/3.mp4": "jump",
        "run/1.mp4": "run",
        "run/2.mp4": "run",
    }
    assert decoded == ["jump/3.mp4"]
    assert report.updated == {"labels": 2}
    assert report.changes == [
        "updated in 2 videos: 2 labels (run/1.mp4: label none -> run; run/2.mp4: label none -> run)"
    ]


@pytest.mark.parametrize("segment_seconds", [None, 0.1])
def test_a_groups_file_that_is_added_later_is_taken_over_and_nothing_is_decoded(
    tmp_path: Path, segment_seconds: float | None
) -> None:
    place, options = videos(tmp_path / "v", "run/1.mp4", "jump/2.mp4"), {"segment_seconds": segment_seconds}
    prepare(place, tmp_path / "s", **options)
    (place / "groups.csv").write_text("path,group,label\nrun/1.mp4,g1,sprint\njump/2.mp4,g1,leap\n")
    planned = prepare(place, tmp_path / "s", dry_run=True, **options)
    report = prepare(place, tmp_path / "s", **options)
    assert planned.updated == report.updated
    parts = 1 if segment_seconds is None else 2
    expected = [("leap", "g1", None), ("sprint", "g1", None)]
    assert sorted(facts(tmp_path / "s").values()) == sorted(expected * parts)
    assert report.updated == {"labels": 2 * parts, "groups": 2 * parts}
    assert decoded == []
    assert prepare(place, tmp_path / "s", **options).changes == []


def test_a_corrected_list_and_a_folder_sorted_into_sides_are_taken_over(tmp_path: Path) -> None:
    videos(tmp_path, "v/1.mp4", "v/2.mp4")
    rows = tmp_path / "l.csv"
    rows.write_text("path,label,split\nv/1.mp4,run,train\nv/2.mp4,run,test\n")
    prepare(rows, tmp_path / "s")
    rows.write_text("path,label,split\nv/1.mp4,run,train\nv/2.mp4,jump,train\n")
    report = prepare(rows, tmp_path / "s")
    assert facts(tmp_path / "s") == {"v/1.mp4": ("run", None, "train"), "v/2.mp4": ("jump", None, "train")}
    assert report.updated == {"labels": 2, "splits": 1}  # one class is no label


def test_a_store_brought_up_to_date_is_the_store_prepared_at_once(tmp_path: Path) -> None:
    """Byte for byte, in several shards; and so it is after a kill between two of them."""
    place = videos(tmp_path / "v", *(f"{label}/{number}.mp4" for label in "ab" for number in range(3)))
    for name in ("again", "killed"):
        small_shards(place, tmp_path / name)
    assert len(store_info(tmp_path / "again").shards) == 3
    rows = [f"{label}/{number}.mp4,g{number},{label.upper()}" for label in "ab" for number in range(3)]
    (place / "groups.csv").write_text("\n".join(["path,group,label", *rows]))
    small_shards(place, tmp_path / "once")
    small_shards(place, tmp_path / "again")
    with pytest.MonkeyPatch.context() as patch:
        write, left = vicc_store.write_shard, [2]

        def killed(*arguments: Any) -> str:
            left[0] -= 1
            if left[0] < 0:
                raise KeyboardInterrupt
            return write(*arguments)

        patch.setattr(vicc_store, "write_shard", killed)
        with pytest.raises(KeyboardInterrupt):
            small_shards(place, tmp_path / "killed")
    halfway = facts(tmp_path / "killed").values()
    assert {group is None for _, group, _ in halfway} == {True, False}
    assert store_info(tmp_path / "killed").problems
    small_shards(place, tmp_path / "killed")
    assert decoded == []
    assert tree(tmp_path / "once") == tree(tmp_path / "again") == tree(tmp_path / "killed")
    assert verify_store(tmp_path / "again", workers=1).damage == []


def small_shards(place: Path, store: Path) -> None:
    """Prepare with shards of about two of these videos."""
    decoded.clear()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "StoreWriter", lambda path, settings, **_: StoreWriter(path, settings, shard_bytes=2000))
        prepare(place, store)


def test_only_shards_in_which_something_changes_are_written_anew(tmp_path: Path) -> None:
    place = videos(tmp_path / "v", *(f"a/{number}.mp4" for number in range(6)))
    small_shards(place, tmp_path / "s")
    before = {path.name: path.stat().st_ino for path in (tmp_path / "s").glob("shard-*")}
    (place / "groups.csv").write_text("path,group\na/0.mp4,g\n")
    small_shards(place, tmp_path / "s")
    after = {path.name: path.stat().st_ino for path in (tmp_path / "s").glob("shard-*")}
    assert [name for name in sorted(before) if before[name] != after[name]] == ["shard-00000.lmdb"]


def test_a_reader_that_was_open_reads_on_and_sees_the_new_labels_when_opened_again(tmp_path: Path) -> None:
    place = videos(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    prepare(place, tmp_path / "s")
    reader = Store(tmp_path / "s")
    frames = reader.frames("a/1.mp4", "rgb", [0, 3])
    (place / "groups.csv").write_text("path,group,label\na/1.mp4,g,A\n")
    prepare(place, tmp_path / "s")
    for store in (reader, Store(tmp_path / "s")):
        assert (store.frames("a/1.mp4", "rgb", [0, 3]) == frames).all()
    assert facts(tmp_path / "s")["a/1.mp4"] == ("A", "g", None)


def test_a_place_without_classes_takes_no_label_away(tmp_path: Path) -> None:
    """Of two classes one is deleted: the other is then no label by its folder, but it was one."""
    place = videos(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    prepare(place, tmp_path / "s")
    shutil.rmtree(place / "b")
    report = prepare(place, tmp_path / "s")
    assert facts(tmp_path / "s")["a/1.mp4"][0] == "a"
    assert report.changes[0] == "this place names no classes: 1 video of the store keep the label they have"
    assert report.missing == ["b/2.mp4"]


def test_splits_made_with_earlier_groups_are_named(tmp_path: Path) -> None:
    place = videos(tmp_path / "v", *(f"a/{number}.mp4" for number in range(4)))
    prepare(place, tmp_path / "s")
    assert main(["splits", str(tmp_path / "s"), "--folds", "2"]) == 0
    (place / "groups.csv").write_text("path,group\na/0.mp4,g\na/1.mp4,g\n")
    assert "the splits grouped-2 of" in prepare(place, tmp_path / "s").changes[1]


def test_parts_of_a_sharded_run_are_brought_up_to_date_and_merge(tmp_path: Path) -> None:
    """A video that is added shifts which run has which: what a part already has is restated all the same."""
    place = videos(tmp_path / "v", "a/1.mp4", "a/2.mp4", "b/3.mp4")
    for number in (1, 2):
        prepare(place, tmp_path / "s", shard=f"{number}/2")
    videos(place, "a/0.mp4")
    (place / "groups.csv").write_text("path,group,label\na/1.mp4,g,A\na/2.mp4,g,A\n")
    for number in (1, 2):
        prepare(place, tmp_path / "s", shard=f"{number}/2")
    merge_stores([tmp_path / f"s.part-{number}-of-2" for number in (1, 2)], tmp_path / "all")
    assert facts(tmp_path / "all") == {
        "a/0.mp4": ("a", None, None),
        "a/1.mp4": ("A", "g", None),
        "a/2.mp4": ("A", "g", None),
        "b/3.mp4": ("b", None, None),
    }


def test_a_dry_run_says_what_would_change_and_changes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = videos(tmp_path / "v", "a/1.mp4", "b/2.mp4", "b/3.mp4")
    prepare(place, tmp_path / "s")
    before = tree(tmp_path / "s")
    (place / "groups.csv").write_text("path,group,label\na/1.mp4,g,A\n")
    (place / "b" / "3.mp4").rename(place / "a" / "3.mp4")
    (place / "b" / "2.mp4").unlink()
    assert main(["prepare", str(place), "--store", str(tmp_path / "s"), "--flow", "none", "--dry-run"]) == 0
    said = capsys.readouterr()
    assert "would prepare 0 of 2 videos" in said.err
    assert "would be updated in 1 video: 1 label, 1 group (a/1.mp4: label a -> A; a/1.mp4: group none -> g)" in said.out
    assert "would be moved: b/3.mp4 -> a/3.mp4" in said.out
    assert "no estimate: there is nothing new to decode\n" in said.out
    assert "1 video of the store" in said.out
    assert tree(tmp_path / "s") == before


# --- other names -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seen_before", [False, True], ids=["moved between two runs", "held twice by an older vicc"])
def test_a_video_moved_to_the_other_side_is_in_the_store_once(
    tmp_path: Path, seen_before: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = videos(tmp_path / "v", "train/a/1.mp4", "train/a/2.mp4", "train/b/3.mp4", "test/b/4.mp4")
    prepare(place, tmp_path / "s")
    (place / "test" / "a").mkdir()
    (place / "train" / "a" / "1.mp4").rename(place / "test" / "a" / "1.mp4")
    if seen_before:
        with monkeypatch.context() as patch:
            patch.setattr(build, "_update", lambda writer, updates: None)
            prepare(place, tmp_path / "s")
        assert len(facts(tmp_path / "s")) == 5
    report = prepare(place, tmp_path / "s")
    assert facts(tmp_path / "s") == {
        "test/a/1.mp4": ("a", None, "test"),
        "test/b/4.mp4": ("b", None, "test"),
        "train/a/2.mp4": ("a", None, "train"),
        "train/b/3.mp4": ("b", None, "train"),
    }
    assert report.changes == ["moved: train/a/1.mp4 -> test/a/1.mp4"]
    assert decoded == []
    assert verify_store(tmp_path / "s", decode=True, workers=1).damage == []
    assert prepare(place, tmp_path / "s").changes == []


def test_a_moved_video_stands_where_one_prepared_now_would_stand(tmp_path: Path) -> None:
    place = videos(tmp_path / "v", "a/1.mp4", "b/2.mp4")
    prepare(place, tmp_path / "s")
    (place / "b" / "2.mp4").rename(place / "a" / "2.mp4")
    prepare(place, tmp_path / "s")
    prepare(place, tmp_path / "once")
    # One class is left, which is no label; the store keeps the one it had.
    assert facts(tmp_path / "s")["a/2.mp4"][0] == "b"
    videos(place, "c/3.mp4")
    prepare(place, tmp_path / "s")
    prepare(place, tmp_path / "once")
    assert tree(tmp_path / "s") == tree(tmp_path / "once")


def test_parts_of_a_renamed_file_are_moved_one_by_one(tmp_path: Path) -> None:
    place, options = videos(tmp_path / "v", "a/1.mp4", "b/2.mp4"), {"segment_seconds": 0.1}
    prepare(place, tmp_path / "s", **options)
    (place / "a" / "1.mp4").rename(place / "a" / "x.mp4")
    report = prepare(place, tmp_path / "s", **options)
    assert sorted(report.moved) == ["a/1.mp4#00000.000-00000.100", "a/1.mp4#00000.100-end"]
    assert sorted(facts(tmp_path / "s")) == [
        "a/x.mp4#00000.000-00000.100",
        "a/x.mp4#00000.100-end",
        "b/2.mp4#00000.000-00000.100",
        "b/2.mp4#00000.100-end",
    ]
    assert facts(tmp_path / "s")["a/x.mp4#00000.100-end"][1] == "a/x.mp4"
    assert decoded == ["a/x.mp4"]  # whose length is read; none of its parts


def test_a_true_copy_and_a_file_of_another_folder_stay(tmp_path: Path) -> None:
    first, second = videos(tmp_path / "v", "a/1.mp4", "b/2.mp4"), videos(tmp_path / "w", "c/3.mp4", "d/4.mp4")
    prepare(first, tmp_path / "s")
    shutil.copy(first / "a" / "1.mp4", first / "b" / "1.mp4")
    report = prepare(first, tmp_path / "s")
    assert (report.changes, decoded) == ([], ["b/1.mp4"])
    report = prepare(second, tmp_path / "s")
    assert sorted(facts(tmp_path / "s")) == ["a/1.mp4", "b/1.mp4", "b/2.mp4", "c/3.mp4", "d/4.mp4"]
    assert report.missing == ["a/1.mp4", "b/1.mp4", "b/2.mp4"]
    assert "3 videos of the store" in report.changes[0]
    assert "vicc store drop" in report.changes[0]
    assert prepare(videos(tmp_path, "single.mp4") / "single.mp4", tmp_path / "s").changes == []


def test_a_name_given_to_another_video_loses_none_of_the_two(tmp_path: Path) -> None:
    """1 becomes 2 and 2 becomes 3, as when files are numbered anew."""
    place = videos(tmp_path / "v", "1.mp4", "2.mp4")
    prepare(place, tmp_path / "s")
    content = {video.source.blake2b for video in Store(tmp_path / "s").videos}
    (place / "2.mp4").rename(place / "3.mp4")
    (place / "1.mp4").rename(place / "2.mp4")
    prepare(place, tmp_path / "s")
    again = Store(tmp_path / "s").videos
    assert [video.id for video in again] == ["2.mp4", "3.mp4"]
    assert {video.source.blake2b for video in again} == content


def test_a_moved_file_is_once_in_a_scan_too(tmp_path: Path) -> None:
    place = videos(tmp_path / "v", "train/a/1.mp4", "train/b/2.mp4", "test/a/3.mp4")
    scan_videos(place, remembered=tmp_path / "scan.json")
    (place / "train" / "a" / "1.mp4").rename(place / "test" / "a" / "1.mp4")
    found = scan_videos(place, remembered=tmp_path / "scan.json").videos
    assert [(video.id, video.split) for video in found] == [
        ("test/a/1.mp4", "test"),
        ("test/a/3.mp4", "test"),
        ("train/b/2.mp4", "train"),
    ]


# --- files skipped in passing -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["EACCES", "EIO", "ESTALE", "ETIMEDOUT", "EMFILE", "ENOMEM", "ENOENT"])
@pytest.mark.parametrize("where", ["store", "scan"])
def test_a_file_that_could_not_be_read_for_a_time_is_tried_again(
    tmp_path: Path, kind: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of the file changes when a disk comes back, neither its size nor its time."""
    place = videos(tmp_path / "v", "1.mp4", "2.mp4")

    def run() -> list[SetAside]:
        if where == "store":
            return prepare(place, tmp_path / "s").set_aside
        decoded.clear()
        return scan_videos(place, remembered=tmp_path / "scan.json").set_aside

    def failing(self: Any) -> Iterator[Any]:
        if self.path.name == "1.mp4":
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)), str(self.path))
        yield from opened(self)

    opened = VideoReader.__iter__
    with monkeypatch.context() as patch:
        patch.setattr("vicc.video.decode.VideoReader.__iter__", failing)
        (entry,) = run()
    assert os.strerror(getattr(errno, kind)) in entry.reason
    assert run() == []
    assert decoded == ["1.mp4"]


def test_the_end_of_a_file_that_could_not_be_read_for_a_time_is_read_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else half a video would be taken for the whole one for ever."""
    place = videos(tmp_path / "v", "1.mp4", "2.mp4")

    def broken(self: Any, *arguments: Any, **options: Any) -> Iterator[Any]:
        for number, found in enumerate(clocked(self, *arguments, **options)):
            if number == 3 and self.path.name == "1.mp4":
                raise av.error.OSError(errno.EIO, os.strerror(errno.EIO))
            yield found

    clocked = VideoReader._clocked
    with monkeypatch.context() as patch:
        patch.setattr(VideoReader, "_clocked", broken)
        report = prepare(place, tmp_path / "s")
    assert report.notes == {"1.mp4": "decoding stopped after 4 frames (Input/output error)"}
    report = prepare(place, tmp_path / "s")
    assert (report.notes, report.frames, decoded) == ({}, 12, ["1.mp4"])


def test_a_file_that_fails_when_its_content_is_summed_up_is_set_aside_and_not_the_end_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = videos(tmp_path / "v", "1.mp4", "2.mp4")
    for run in (lambda: prepare(place, tmp_path / "s").set_aside, lambda: scan_videos(place).set_aside):
        with monkeypatch.context() as patch:
            patch.setattr("vicc.prepare.video.hash_file", raising(errno.ESTALE, only="1.mp4"))
            hash_once.cache_clear()
            (entry,) = run()
        assert (entry.id, entry.reason) == ("1.mp4", f"cannot be read ({os.strerror(errno.ESTALE)})")


def raising(number: int, *, only: str) -> Callable[[Path], str]:
    def hash_file(path: Path) -> str:
        if path.name == only:
            raise OSError(number, os.strerror(number))
        return "0" * 32

    return hash_file


def test_reasons_of_content_stay_until_the_file_changes(tmp_path: Path) -> None:
    place = videos(tmp_path / "v", "1.mp4")
    (place / "text.mp4").write_text("no video")
    prepare(place, tmp_path / "s")
    prepare(place, tmp_path / "s")
    assert decoded == []
    videos(place, "text.mp4")
    assert prepare(place, tmp_path / "s").set_aside == []


def test_a_bound_that_is_lowered_lets_short_videos_in(tmp_path: Path) -> None:
    place = videos(tmp_path / "v", "1.mp4")
    make_video(place / "short.mp4", num_frames=2, size=(16, 24))
    prepare(place, tmp_path / "s", min_frames=4)
    for bound, tried in ((3, []), (2, ["short.mp4"]), (4, [])):
        prepare(place, tmp_path / "s", min_frames=bound)
        assert decoded == tried
    assert Store(tmp_path / "s").set_aside == []


def test_a_stale_part_that_was_set_aside_goes_with_the_cut_that_made_it(tmp_path: Path) -> None:
    """As parts of a length that was measured wrong, which the file never had."""
    place, options = videos(tmp_path / "v", "a/1.mp4", "b/2.mp4"), {"segment_seconds": 0.1}
    prepare(place, tmp_path / "s", **options)
    writer = StoreWriter(tmp_path / "s", Store(tmp_path / "s").settings)
    writer.put_aside(SetAside("a/1.mp4#00009.000-end", "no frame is shown from 9 s on", FileState(1, 1)))
    writer.put_aside(SetAside("of/another/folder.mp4", "empty", FileState(1, 1)))
    writer.close()
    assert [entry.id for entry in prepare(place, tmp_path / "s", **options).set_aside] == ["of/another/folder.mp4"]


def test_restating_and_moving_refuse_what_is_not_there(tmp_path: Path) -> None:
    prepare(videos(tmp_path / "v", "1.mp4"), tmp_path / "s")
    (video,) = Store(tmp_path / "s").videos
    writer = StoreWriter(tmp_path / "s", Store(tmp_path / "s").settings)
    with pytest.raises(ViccError, match="no video 'x'"):
        writer.move("x", video)
    writer.drop(["1.mp4"])
    with pytest.raises(ViccError, match=r"no '1\.mp4'"):
        writer.restate([video])
    writer.close()
