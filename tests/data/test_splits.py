"""No recording lies on both sides of a division, split files mean one thing only, folds are even."""

import re
from collections import Counter, defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vicc.data.splits import (
    SplitTable,
    add_to_split_table,
    divide_videos,
    division_table,
    grouped_folds,
    note_on_groups_of_sides,
    read_split_table,
    require_split,
    train_and_test,
    write_split_table,
)
from vicc.data.store import Store
from vicc.data.video_files import discover_videos
from vicc.errors import ViccError
from vicc.prepare.configs import SplitsConfig
from vicc.prepare.folds import make_folds


@dataclass(frozen=True)
class Member:
    id: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


@st.composite
def labelled_videos(draw: st.DrawFn) -> list[Member]:
    """Videos of up to three classes in groups; a group may hold several classes."""
    rows = draw(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 9)), min_size=1, max_size=60))
    return [
        Member(f"{number}", label, None if group == 0 else f"group{group}")
        for number, (label, group) in enumerate(rows)
    ]


@given(labelled_videos(), st.floats(0.05, 0.9), st.integers(0, 5))
def test_a_division_loses_no_video_and_splits_no_group(videos: list[Member], share: float, seed: int) -> None:
    train, test = train_and_test(videos, test_share=share, seed=seed)
    assert sorted([*train, *test], key=videos.index) == videos
    assert not {video.group for video in train if video.group} & {video.group for video in test if video.group}
    # In the order given.
    assert [*map(videos.index, train)] == sorted(map(videos.index, train))
    assert [*map(videos.index, test)] == sorted(map(videos.index, test))


@given(labelled_videos(), st.floats(0.05, 0.9), st.integers(0, 5), st.randoms(use_true_random=False))
def test_a_division_depends_only_on_seed_and_names_not_on_the_order(
    videos: list[Member],
    share: float,
    seed: int,
    random,  # type: ignore[no-untyped-def]
) -> None:
    shuffled = random.sample(videos, len(videos))
    first, second = (train_and_test(some, test_share=share, seed=seed)[1] for some in (videos, shuffled))
    assert set(first) == set(second)


@given(labelled_videos(), st.floats(0.05, 0.9))
def test_no_class_is_tested_much_more_than_asked_for(videos: list[Member], share: float) -> None:
    """By at most half of one of its groups."""
    _, test = train_and_test(videos, test_share=share)
    for label, total in Counter(video.label for video in videos).items():
        sizes: defaultdict[str, int] = defaultdict(int)
        for video in videos:
            sizes[video.group or video.id] += video.label == label
        assert sum(video.label == label for video in test) <= share * total + max(sizes.values()) / 2


def test_about_the_share_asked_for_of_every_class_is_tested() -> None:
    videos = [Member(f"{label}{number}", label) for label in "ab" for number in range(100)]
    _, test = train_and_test(videos, test_share=0.3)
    assert Counter(video.label for video in test) == {"a": 30, "b": 30}


def test_another_seed_gives_another_division() -> None:
    videos = [Member(f"{number}", "ab"[number % 2]) for number in range(100)]
    assert train_and_test(videos, seed=0)[1] != train_and_test(videos, seed=1)[1]


def test_the_folders_own_division_is_kept() -> None:
    videos = [Member("a", "x", split="train"), Member("b", "y", split="test"), Member("c", "x")]
    assert train_and_test(videos) == ([videos[0], videos[2]], [videos[1]])


def test_videos_without_labels_all_train() -> None:
    videos = [Member("a"), Member("b", "x"), Member("c", "y")]
    assert train_and_test(videos) == (videos, [])


@given(labelled_videos(), st.integers(1, 5), st.integers(0, 5))
def test_videos_without_labels_change_nothing_for_those_that_have_one(
    videos: list[Member], every: int, seed: int
) -> None:
    others = [Member(f"x{number}", None, video.group) for number, video in enumerate(videos[::every])]
    train, test = train_and_test([*videos, *others], seed=seed)
    alone = train_and_test(videos, seed=seed)
    assert ([video for video in train if video.label], test) == alone
    tested = {video.group or video.id for video in test}
    assert [video for video in others if video in train] == [
        video for video in others if (video.group or video.id) not in tested
    ], "an unlabelled clip of a tested recording must not be trained on"


def test_a_stray_video_without_label_is_said_and_the_others_are_divided(tmp_path: Path) -> None:
    videos = [*(Member(f"{label}{number}", label) for label in "ab" for number in range(3)), Member("stray.mp4")]
    division = divide_videos(videos, splits_folder=tmp_path)
    assert (division.name, len(division.train), len(division.test)) == ("grouped", 5, 2)
    assert division.notes == (
        "split grouped: 5 training and 2 test videos; no video has a group, so each counts as a recording of its own",
        "1 of 7 videos has no label (stray.mp4): it trains, and is not tested",
    )


def test_unlabelled_clips_of_tested_recordings_are_counted(tmp_path: Path) -> None:
    videos = [Member(f"{n}", "ab"[n % 2], f"tape{n // 2}") for n in range(40)]
    unlabelled = [Member(f"x{n}", None, f"tape{n}") for n in range(20)]
    division = divide_videos([*videos, *unlabelled], splits_folder=tmp_path)
    left = 60 - len(division.train) - len(division.test)
    assert left == len({video.group for video in division.test}) > 0
    assert division.notes[0].endswith("20 groups, and every video has one")
    assert division.notes[-1].startswith(f"{left} videos without a label are of the same groups as test videos")


def test_how_many_groups_there_are_is_said(tmp_path: Path) -> None:
    videos = [Member(f"{n}", "ab"[n % 2], f"tape{n // 4}" if n < 20 else None) for n in range(24)]
    [note] = divide_videos(videos, "grouped", splits_folder=tmp_path).notes
    assert note.endswith("5 groups, 4 videos have none, and each counts as a recording of its own")
    assert divide_videos([Member("a"), Member("b")], splits_folder=tmp_path).notes == (
        "all 2 videos train, none is tested: none has a label",
    )


def test_videos_of_val_beside_test_are_on_neither_side_unless_asked_for(tmp_path: Path) -> None:
    sides_of = ["train", "train", "val", "test", "val", None]
    videos = [Member(f"{n}", "ab"[n % 2], split=side) for n, side in enumerate(sides_of)]
    assert sides(videos, None, tmp_path) == sides(videos, "folders", tmp_path) == ("015", "3")
    assert sides(videos, "folders:val", tmp_path) == ("015", "24")
    assert train_and_test(videos) == ([videos[0], videos[1], videos[5]], [videos[3]])
    unlabelled = [*videos, Member("x", split="test")]
    assert divide_videos(unlabelled, splits_folder=tmp_path).notes[-1] == "1 of 7 videos has no label (x)"
    assert divide_videos(videos, splits_folder=tmp_path).notes == (
        "split folders: 3 training and 1 test videos, as their folders or list say",
        "2 videos of val are neither trained on nor tested; --split folders:val tests them in place of test",
        "1 of 6 videos has no side (5): trained on",
    )
    without_test = [video for video in videos if video.split != "test"]
    assert sides(without_test, None, tmp_path) == ("015", "24"), "held-out videos are not trained on"
    with pytest.raises(ViccError, match="no videos came from val beside train and test folders"):
        divide_videos([video for video in videos if video.split != "val"], "folders:val", splits_folder=tmp_path)


def test_a_split_file_names_its_videos_in_any_spelling(tmp_path: Path) -> None:
    videos = [
        Member("a/1.mp4", "x"),
        Member("a/2.avi", "x"),
        Member("b/3.mp4", "y"),
        Member("b/4.mp4#00000.000-00001.000"),
    ]
    rows = ("ID; 1", ".\\a\\1.mp4; Train", ' "a/2" ;TEST', "b/3.MP4;train", "b/4;test")
    (tmp_path / "mine.csv").write_text("\ufeff" + "\r\n".join(rows), encoding="utf-8")
    division = divide_videos(videos, f"{tmp_path / 'mine.csv'}:1", splits_folder=tmp_path)
    assert (division.train, division.test) == ([videos[0], videos[2]], [videos[1], videos[3]])
    assert (division.notes, division.missing) == ((), ())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a/1.mp4,train\n./a/1.mp4,test\n", r"has 'a/1\.mp4' twice, as 'a/1\.mp4' and as '\./a/1\.mp4', on different"),
        ("a/2,train\n", r"has 'a/2', which could be a/2\.avi or a/2\.mp4"),
    ],
)
def test_a_split_file_that_means_two_things_is_refused(tmp_path: Path, rows: str, message: str) -> None:
    (tmp_path / "mine.csv").write_text(f"id,1\n{rows}")
    with pytest.raises(ViccError, match=message):
        divide_videos([Member("a/1.mp4"), Member("a/2.mp4"), Member("a/2.avi")], "mine", splits_folder=tmp_path)


@given(labelled_videos(), st.integers(2, 6), st.integers(0, 5), st.randoms(use_true_random=False))
@settings(max_examples=60)
def test_folds_test_each_video_once_and_split_no_group_whatever_the_order(
    videos: list[Member],
    folds: int,
    seed: int,
    random,  # type: ignore[no-untyped-def]
) -> None:
    groups = {video.group or video.id for video in videos}
    if len(groups) < folds:
        with pytest.raises(ViccError, match=f"{len(groups)} groups? of videos cannot make {folds} folds"):
            grouped_folds(videos, folds=folds, seed=seed)
        return
    table = grouped_folds(videos, folds=folds, seed=seed)
    assert table == grouped_folds(random.sample(videos, len(videos)), folds=folds, seed=seed)
    assert set(table.cells) == {video.id for video in videos}
    assert all(sorted(cells) == ["test", *["train"] * (folds - 1)] for cells in table.cells.values())
    fold_of = {name: cells.index("test") for name, cells in table.cells.items()}
    assert set(fold_of.values()) == set(range(folds))  # none is empty
    for group in groups:
        assert len({fold_of[video.id] for video in videos if (video.group or video.id) == group}) == 1


def class_counts(table: SplitTable, videos: list[Member]) -> dict[str | None, list[int]]:
    """Videos of each class in each fold."""
    return {
        label: [
            sum(table.cells[video.id][fold] == "test" for video in videos if video.label == label)
            for fold in range(table.num_folds)
        ]
        for label in {video.label for video in videos}
    }


def test_folds_are_as_even_as_can_be_in_every_class() -> None:
    """25 groups of 4 to 7 clips a class, as in UCF101; dealing groups blindly gives differences of ten and more."""
    videos = [
        Member(f"{label}{group}-{clip}", label, f"{label}_g{group}")
        for label in "abcd"
        for group in range(25)
        for clip in range(4 + (group * 7 + ord(label)) % 4)
    ]
    table = grouped_folds(videos, folds=5)
    assert all(max(counts) - min(counts) <= 1 for counts in class_counts(table, videos).values())


def test_groups_change_places_where_dealing_the_largest_first_is_not_even() -> None:
    """5, 4, 3, 3, 3 dealt by size make 8 and 10; 5 + 4 and 3 + 3 + 3 are even."""
    sizes = {"a": 5, "b": 4, "c": 3, "d": 3, "e": 3}
    videos = [Member(f"{name}{clip}", "x", name) for name, size in sizes.items() for clip in range(size)]
    assert class_counts(grouped_folds(videos, folds=2), videos) == {"x": [9, 9]}


def test_another_seed_gives_other_folds() -> None:
    videos = [Member(f"{number}", "ab"[number % 2]) for number in range(40)]
    assert grouped_folds(videos, folds=4, seed=0) != grouped_folds(videos, folds=4, seed=1)


def test_a_split_file_reads_back_as_written_and_looks_as_documented(tmp_path: Path) -> None:
    odd = 'b, "c"\udce9.mp4'  # a comma, quotes, and a byte that is not UTF-8
    table = SplitTable(2, {odd: ("test", "train"), "a.mp4": ("train", None)})
    write_split_table(tmp_path / "s.csv", table)
    assert read_split_table(tmp_path / "s.csv") == table
    assert (tmp_path / "s.csv").read_bytes() == b'id,1,2\na.mp4,train,\n"b, ""c""\xe9.mp4",test,train\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("name,1\na,train\n", r"columns \['name', '1'\]; expected at least id"),
        ("id\na\n", r"expected id, 1, 2, \.\.\. with a column for each fold"),
        ("id,1,3\na,train,test\n", r"expected id, 1, 2"),
        ("id,1\n", "has no rows"),
        ("id,1\na,train\na,test\n", r"Line 3 of .* gives 'a' a second time"),
        ("id,1\na,validation\n", r"Line 2 of .* has 'validation'; expected train, test or nothing"),
        ("id,1\na\n", r"Line 2 of .* has 1 cells; expected 2"),
    ],
)
def test_a_split_file_that_cannot_be_used_is_refused_with_the_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "s.csv").write_text(content)
    with pytest.raises(ViccError, match=message):
        read_split_table(tmp_path / "s.csv")


VIDEOS = [Member("a", "x"), Member("b", "x"), Member("c", "y"), Member("d", "y")]


def write_split(folder: Path, name: str, **cells: str) -> Path:
    """A split file from `video="train/test"`, a side for each fold."""
    rows = {video: tuple((side or None) for side in text.split("/")) for video, text in cells.items()}
    write_split_table(folder / f"{name}.csv", SplitTable(len(next(iter(rows.values()))), rows))  # type: ignore[arg-type]
    return folder / f"{name}.csv"


def sides(videos: list[Member], split: str | None, folder: Path) -> tuple[str, str]:
    division = divide_videos(videos, split, splits_folder=folder)
    return "".join(video.id for video in division.train), "".join(video.id for video in division.test)


def test_a_split_is_chosen_by_name_and_fold_or_by_file(tmp_path: Path) -> None:
    path = write_split(tmp_path, "mine", a="train/test", b="test/train", c="train/", d="test/train")
    assert sides(VIDEOS, "mine:1", tmp_path) == ("ac", "bd")
    assert sides(VIDEOS, "mine:2", tmp_path) == ("bd", "a")
    assert sides(VIDEOS, f"{path}:1", tmp_path / "elsewhere") == ("ac", "bd")
    write_split(tmp_path, "one", a="train", b="test", c="train", d="test")
    assert sides(VIDEOS, "one", tmp_path) == ("ac", "bd")
    assert divide_videos(VIDEOS, "one", splits_folder=tmp_path).name == "one:1"


@pytest.mark.parametrize(
    ("split", "message"),
    [
        ("other:1", r"no split 'other' in .*There are: mine, of-others\."),
        ("mine", r"it has 2 folds\. Give one of them, for instance --split mine:1"),
        ("mine:0", r"no fold 0; .* has 2"),
        ("mine:3", r"no fold 3; .* has 2"),
        ("of-others:1", r"names none of these 4 videos"),
        ("folders", r"did not come from train and test folders"),
        ("gone.csv:1", r"No such split file: gone\.csv"),
    ],
)
def test_a_split_that_is_not_there_is_refused(tmp_path: Path, split: str, message: str) -> None:
    write_split(tmp_path, "mine", a="train/test", b="test/train", c="train/train", d="test/test")
    write_split(tmp_path, "of-others", k="train", m="test")
    with pytest.raises(ViccError, match=message):
        divide_videos(VIDEOS, split, splits_folder=tmp_path)


def test_a_split_is_looked_for_without_the_videos(tmp_path: Path) -> None:
    path = write_split(tmp_path, "mine", a="train/test", b="test/train")
    for split in ("mine:2", f"{path}:1", "folders", "folders:val", "grouped"):
        require_split(split, tmp_path)
    for split, message in (("other", "no split 'other'"), ("mine", "2 folds"), ("mine:3", "no fold 3")):
        with pytest.raises(ViccError, match=message):
            require_split(split, tmp_path)


def test_official_is_the_default_where_it_is_and_says_so(tmp_path: Path) -> None:
    videos = [Member("a", "x", split="test"), *VIDEOS[1:]]
    assert sides(videos, None, tmp_path) == ("bcd", "a")
    write_split(tmp_path, "official", a="train/test", b="test/train", c="train/train", d="test/train")
    assert sides(videos, None, tmp_path) == ("ac", "bd")
    division = divide_videos(videos, splits_folder=tmp_path)
    assert division.name == "official:1"
    assert division.notes == ("training and test videos as in official:1, 2 and 2; --split changes it",)
    assert divide_videos(videos, "official:2", splits_folder=tmp_path).notes == ()
    assert sides(videos, "folders", tmp_path) == ("bcd", "a")


def test_grouped_passes_over_the_folders_own_division(tmp_path: Path) -> None:
    videos = [Member(f"{n}", "xy"[n % 2], split="test" if n < 2 else None) for n in range(20)]
    plain = [Member(video.id, video.label) for video in videos]
    grouped = divide_videos(videos, "grouped", splits_folder=tmp_path)
    assert grouped.name == "grouped"
    assert [video.id for video in grouped.test] == [video.id for video in train_and_test(plain)[1]]
    assert grouped.notes[-1].endswith("(test 2) are not kept: all videos are divided anew")
    assert divide_videos(videos, splits_folder=tmp_path).name == "folders"
    assert divide_videos([Member("a")], splits_folder=tmp_path).name == "undivided"


def test_what_a_split_and_the_videos_do_not_share_is_counted(tmp_path: Path) -> None:
    write_split(tmp_path, "mine", a="train", b="test", k="train", m="test", n="")
    notes = divide_videos(VIDEOS, "mine:1", splits_folder=tmp_path).notes
    assert [re.sub(":.*", "", note.replace("mine:1", "mine")) for note in notes] == [
        "2 of 4 videos are not in the split mine",
        "2 of 5 videos of the split mine are not here",
    ]


def test_a_group_on_both_sides_of_a_split_is_told(tmp_path: Path) -> None:
    videos = [Member("a", "x", "tape"), Member("b", "x", "tape"), Member("c", "y"), Member("d", "y")]
    write_split(tmp_path, "mine", a="train", b="test", c="train", d="test")
    [note] = divide_videos(videos, "mine:1", splits_folder=tmp_path).notes
    assert note == "1 group of videos on both sides of the split mine:1, such as tape"


def test_a_row_of_a_file_stands_for_all_its_parts(tmp_path: Path) -> None:
    parts = [Member(f"long.mp4#0000{n}.000-0000{n + 1}.000", "x", "long.mp4") for n in range(3)]
    videos = [*parts, Member("short.mp4", "y")]
    write_split_table(tmp_path / "s.csv", SplitTable(1, {"long.mp4": ("test",), "short.mp4": ("train",)}))
    division = divide_videos(videos, "s:1", splits_folder=tmp_path)
    assert (division.train, division.test, division.notes) == ([videos[3]], parts, ())


def test_a_division_can_be_kept_as_a_split_file(tmp_path: Path) -> None:
    videos = [Member(f"{n}", "xy"[n % 2]) for n in range(20)]
    division = divide_videos(videos, splits_folder=tmp_path)
    write_split_table(tmp_path / "kept.csv", division_table(division))
    assert divide_videos(videos, "kept", splits_folder=tmp_path).test == division.test


def test_rows_of_other_videos_stay_when_a_split_file_is_added_to(tmp_path: Path) -> None:
    path = write_split(tmp_path, "official", a="train/test/train", b="test/train/train")
    add_to_split_table(path, SplitTable(1, {"b": ("train",), "c": ("test",)}))
    assert read_split_table(path).cells == {
        "a": ("train", "test", "train"),
        "b": ("train", None, None),
        "c": ("test", None, None),
    }


def test_splits_writes_folds_into_the_store_once(store_path: Path, tmp_path: Path) -> None:
    import shutil

    store = tmp_path / "store"
    shutil.copytree(store_path, store)
    report = make_folds(SplitsConfig(store, folds=3))
    assert (report.split, report.file) == ("grouped-3", str(store / "splits" / "grouped-3.csv"))
    assert [(fold.number, fold.videos, fold.groups, fold.classes) for fold in report.folds] == [
        (1, 6, 6, 3),
        (2, 6, 6, 3),
        (3, 6, 6, 3),
    ]
    assert all(fold.videos_of_a_class == (2, 2) for fold in report.folds)
    assert "(train 12, test 6) are not kept" in report.notes[-1]
    before = (store / "splits" / "grouped-3.csv").read_bytes()
    assert make_folds(SplitsConfig(store, folds=3)) == report
    assert (store / "splits" / "grouped-3.csv").read_bytes() == before
    with pytest.raises(ViccError, match="divides the videos otherwise"):
        make_folds(SplitsConfig(store, folds=4, name="grouped-3"))
    assert make_folds(SplitsConfig(store, folds=3, seed=2)).split == "grouped-3-2"
    videos = Store(store).videos
    tested = [divide_videos(videos, f"grouped-3:{n}", splits_folder=store / "splits").test for n in (1, 2, 3)]
    assert sorted(video.id for fold in tested for video in fold) == [video.id for video in videos]


@pytest.mark.parametrize("name", ["../x", "a/b", "", ".hidden", "official", "folders", "x.csv", "a:1", "ü"])
def test_names_that_are_paths_or_have_a_meaning_are_refused(store_path: Path, name: str) -> None:
    with pytest.raises(ViccError, match="--name"):
        make_folds(SplitsConfig(store_path, name=name))


def test_a_folder_of_videos_needs_a_place_for_the_split_file(video_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ViccError, match=r"is not a local store: give --out FILE\.csv"):
        make_folds(SplitsConfig(video_folder))
    with pytest.raises(ViccError, match=r"expected a name that ends in \.csv"):
        SplitsConfig(video_folder, out=tmp_path / "folds")
    with pytest.raises(ViccError, match="expected one of the two"):
        SplitsConfig(video_folder, out=tmp_path / "f.csv", name="f")
    report = make_folds(SplitsConfig(video_folder, folds=2, out=tmp_path / "f.csv"))
    assert report.split == str(tmp_path / "f.csv")
    assert read_split_table(tmp_path / "f.csv").num_folds == 2


def test_folds_say_how_many_groups_there_are_and_count_no_missing_label_as_a_class(tmp_path: Path) -> None:
    names = [*(f"{label}/{number}.mp4" for label in "ab" for number in range(3)), "stray.mp4"]
    for name in names:
        (tmp_path / "v" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "v" / name).touch()
    (tmp_path / "v" / "groups.csv").write_text("path,group\na\\0,tape\na\\1,tape\n")
    report = make_folds(SplitsConfig(tmp_path / "v", folds=2, out=tmp_path / "f.csv"))
    assert {fold.classes for fold in report.folds} == {2}
    assert all(fold.videos_of_a_class[0] >= 1 for fold in report.folds)
    assert (report.videos, report.groups, report.without_group, report.without_label) == (7, 1, 5, 1)
    assert report.notes == [
        "7 videos in 2 folds: 1 group, 5 videos have none, and each counts as a recording of its own",
        "1 of 7 videos has no label (stray.mp4): spread over the folds, and no class",
    ]


@pytest.mark.data
def test_folds_of_real_clips_are_even_and_split_no_recording(test_data: Path) -> None:
    files = discover_videos(test_data / "fights")
    table = grouped_folds(files, folds=5)
    for fold in range(5):
        test = [file for file in files if table.cells[file.id][fold] == "test"]
        assert Counter(file.label for file in test) == {"fight": 30, "noFight": 30}
        train = {file.group for file in files if table.cells[file.id][fold] == "train"}
        assert not train & {file.group for file in test}


@pytest.mark.data
def test_real_clips_of_one_recording_stay_together(test_data: Path) -> None:
    files = discover_videos(test_data / "fights")
    assert len(files) == 300
    assert Counter(file.label for file in files).keys() == {"fight", "noFight"}
    train, test = train_and_test(files)
    assert not {file.group for file in train} & {file.group for file in test}
    assert 60 <= len(test) <= 120


def test_a_group_on_both_sides_of_the_folders_is_told_before_and_when_they_are_used(tmp_path: Path) -> None:
    videos = [
        Member("a", "x", "tape", "train"),
        Member("b", "x", "tape", "test"),
        Member("c", "y", None, "train"),
        Member("d", "y", "reel", "val"),
        Member("e", "y", "reel"),
    ]
    told = "1 group of videos on both sides of the split folders, such as tape"
    assert divide_videos(videos, splits_folder=tmp_path).notes[-1] == told
    told = "2 groups of videos on both sides of the split folders, such as reel"
    assert note_on_groups_of_sides(videos) == (told,), "val is held out as well"
    assert note_on_groups_of_sides([replace(video, split=None) for video in videos]) == ()
