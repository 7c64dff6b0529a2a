"""What may be measured: every way in which a split does not fit is named, and refused unless it is allowed."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from vicc.data.records import Video
from vicc.data.splits import SPLITS_FOLDER, Split, SplitTable, write_split_table
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation import sets as sets_module
from vicc.evaluation.configs import MeasuredVideos
from vicc.evaluation.sets import few_labels, open_sets
from vicc.prepare.build import prepare_videos
from vicc.prepare.configs import PrepareConfig

Change = Callable[[dict[str, tuple[Split | None, ...]]], None]


@pytest.fixture
def with_split(store_path: Path, tmp_path: Path) -> Callable[[Change], MeasuredVideos]:
    """A config that measures the store by its own division, changed."""

    def make(change: Change) -> MeasuredVideos:
        store = tmp_path / "store"
        shutil.copytree(store_path, store)
        cells: dict[str, tuple[Split | None, ...]] = {video.id: (video.split,) for video in Store(store).videos}
        change(cells)
        write_split_table(store / SPLITS_FOLDER / "mine.csv", SplitTable(1, cells))
        return MeasuredVideos(store=store, split="mine:1")

    return make


def both(config: MeasuredVideos, refusal: str, *, train: int, test: int) -> None:
    """It is refused in these words, and with --intersection measured on what is left."""
    with pytest.raises(ViccError, match=refusal + r".*Give --intersection"):
        open_sets(config)
    found = open_sets(replace(config, intersection=True))
    assert (len(found.train), len(found.test)) == (train, test)
    assert (found.data.train, found.data.test, len(found.queries.ids)) == (train, test, test)


def test_a_split_that_fits_is_taken_whole(with_split: Callable[[Change], MeasuredVideos]) -> None:
    found = open_sets(with_split(lambda cells: None))
    assert (len(found.train), len(found.test), found.data.classes) == (12, 6, ["left", "right", "up"])
    assert {video.split for video in found.test} == {"test"}


def test_a_split_that_names_absent_videos(
    with_split: Callable[[Change], MeasuredVideos], capsys: pytest.CaptureFixture[str]
) -> None:
    config = with_split(lambda cells: cells.update({"test/up/lost.mp4": ("test",)}))
    both(config, r"names 1 videos that .* does not have: test/up/lost\.mp4", train=12, test=6)
    assert "measured without them, on 6 test and 12 training videos" in capsys.readouterr().err


def test_classes_without_training_videos(with_split: Callable[[Change], MeasuredVideos]) -> None:
    def change(cells: dict[str, tuple[Split | None, ...]]) -> None:
        for name in cells:
            if name.startswith("train/up/"):
                cells[name] = (None,)

    both(with_split(change), r"1 classes have test videos and no training video .*: up", train=8, test=4)


def test_classes_without_test_videos_are_named(
    with_split: Callable[[Change], MeasuredVideos], capsys: pytest.CaptureFixture[str]
) -> None:
    def change(cells: dict[str, tuple[Split | None, ...]]) -> None:
        for name in cells:
            if name.startswith("test/up/"):
                cells[name] = (None,)

    assert len(open_sets(with_split(change)).test) == 4
    assert "1 classes have no test video, so nothing is said of them: up" in capsys.readouterr().err


def test_a_video_on_both_sides_under_two_names(write_video: Callable[..., Path], tmp_path: Path) -> None:
    videos = tmp_path / "videos"
    for number, name in enumerate(("train/a/0", "train/b/0", "test/a/1", "test/b/1")):
        write_video(videos / f"{name}.mp4", num_frames=4, size=(24, 32), seed=number)
    shutil.copy(videos / "train/b/0.mp4", videos / "test/b/2.mp4")
    prepare_videos(PrepareConfig(videos, tmp_path / "store", flow="none", workers=1))
    config = MeasuredVideos(store=tmp_path / "store")
    both(config, r"the same file under another name: test/b/2\.mp4 is train/b/0\.mp4", train=2, test=2)


def test_nothing_left_is_refused_with_the_flag_as_well(with_split: Callable[[Change], MeasuredVideos]) -> None:
    def change(cells: dict[str, tuple[Split | None, ...]]) -> None:
        for name in cells:
            if "/up/" in name:
                cells[name] = ("test",)
            elif name.startswith("test/"):
                cells[name] = (None,)

    with pytest.raises(ViccError, match="no test video is left"):
        open_sets(replace(with_split(change), intersection=True))


def test_videos_without_labels_have_no_classes(unlabelled_store_path: Path) -> None:
    config = MeasuredVideos(store=unlabelled_store_path)
    found = open_sets(config)
    assert not found.labelled
    assert found.train is found.test
    with pytest.raises(ViccError, match="have no label; expected at least two classes"):
        open_sets(config, need_labels=True)


def partly_labelled(folder: Path, write_video: Callable[..., Path], labels: str) -> Path:
    """A store of one video for each sign, its label, `-` for none."""
    lines = ["path,label"]
    for number, label in enumerate(labels):
        write_video(folder / f"{number}.mp4", num_frames=4, size=(24, 32), seed=number)
        lines.append(f"{number}.mp4,{label.strip('-')}")
    (folder / "list.csv").write_text("\n".join(lines))
    prepare_videos(PrepareConfig(folder / "list.csv", folder / "store", flow="none", workers=1))
    return folder / "store"


def test_videos_without_a_label_are_left_out_on_both_sides_and_counted_once(
    write_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = partly_labelled(tmp_path, write_video, "aab-ab-")
    cells: dict[str, tuple[Split | None, ...]] = {
        f"{number}.mp4": (side,) for number, side in enumerate(["train"] * 4 + ["test"] * 3)
    }
    write_split_table(store / SPLITS_FOLDER / "mine.csv", SplitTable(1, cells))
    found = open_sets(MeasuredVideos(store=store, split="mine:1"), need_labels=True)
    assert [video.id for video in found.train] == ["0.mp4", "1.mp4", "2.mp4"]
    assert [video.id for video in found.test] == ["4.mp4", "5.mp4"]
    assert found.labelled
    assert capsys.readouterr().err.count(f"2 of 7 videos of {store} have no label: the others are measured") == 1


def test_labels_of_which_none_is_tested_and_a_single_label_make_no_table(
    write_video: Callable[..., Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    store = partly_labelled(tmp_path, write_video, "aab-")
    cells: dict[str, tuple[Split | None, ...]] = {f"{number}.mp4": ("train",) for number in range(4)}
    write_split_table(store / SPLITS_FOLDER / "mine.csv", SplitTable(1, cells))
    config = MeasuredVideos(store=store, split="mine:1")
    assert len(open_sets(config).test) == 4
    assert "1 of 4 videos" in capsys.readouterr().err
    with pytest.raises(ViccError, match=r"The 3 labelled videos .* cannot be divided"):
        open_sets(config, need_labels=True)
    cells |= {"1.mp4": ("test",), "2.mp4": (None,)}
    write_split_table(store / SPLITS_FOLDER / "one.csv", SplitTable(1, cells))
    assert not open_sets(replace(config, split="one:1")).labelled, "a class alone is always found"


def test_official_divisions_are_known_by_name_only_when_whole(
    with_split: Callable[[Change], MeasuredVideos], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sets_module, "_OFFICIAL_SIZES", {"ucf101": (3, {1: (12, 6)})})
    config = with_split(lambda cells: None)
    assert isinstance(config.store, Path)
    folder = config.store / SPLITS_FOLDER
    (folder / "mine.csv").rename(folder / "official.csv")
    assert open_sets(replace(config, split="official:1")).data.name == "ucf101"
    assert open_sets(replace(config, split="folders")).data.name == "own"
    monkeypatch.setattr(sets_module, "_OFFICIAL_SIZES", {"ucf101": (3, {1: (13, 6)})})
    assert open_sets(replace(config, split="official:1")).data.name == "own"


def test_few_labels_are_nested_and_leave_no_class_out(store_path: Path) -> None:
    state = Store(store_path).videos[0].source
    videos = [Video(f"{label}{n}", 9, 8, 8, 25.0, state, label=label) for label in "ab" for n in range(40)]
    shares = [0.01, 0.05, 0.1, 0.5, 1.0]
    chosen = [{video.id for video in few_labels(videos, share, seed=3)} for share in shares]
    assert [len(one) for one in chosen] == [2, 4, 8, 40, 80]
    assert all(small <= large for small, large in pairwise(chosen))
    assert all({name[0] for name in one} == {"a", "b"} for one in chosen)
    assert chosen[2] != {video.id for video in few_labels(videos, 0.1, seed=4)}
    assert {video.id for video in few_labels(videos[::-1], 0.1, seed=3)} == chosen[2]
