"""Which videos there are, and that no source of clips lies on both sides of a division."""

from collections import Counter, defaultdict
from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vicc.data.splits import discover_videos, train_and_test
from vicc.errors import ViccError


@dataclass(frozen=True)
class Member:
    id: str
    label: str | None = None
    group: str | None = None
    split: str | None = None


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def described(folder: Path, **options: Path) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {source.id: (source.label, source.group, source.split) for source in discover_videos(folder, **options)}


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    assert described(make_files(tmp_path, "b.mp4", "a.avi")) == {"a.avi": (None,) * 3, "b.mp4": (None,) * 3}


def test_class_folders_give_labels(tmp_path: Path) -> None:
    make_files(tmp_path, "run/a.mp4", "jump/b.mp4")
    assert described(tmp_path) == {"jump/b.mp4": ("jump", None, None), "run/a.mp4": ("run", None, None)}


@pytest.mark.parametrize(("train", "test"), [("train", "test"), ("Training", "TESTING")])
def test_train_and_test_folders_around_classes_give_the_split(tmp_path: Path, train: str, test: str) -> None:
    make_files(tmp_path, f"{train}/run/a.mp4", f"{train}/jump/b.mp4", f"{test}/run/c.mp4")
    assert described(tmp_path) == {
        f"{train}/run/a.mp4": ("run", None, "train"),
        f"{train}/jump/b.mp4": ("jump", None, "train"),
        f"{test}/run/c.mp4": ("run", None, "test"),
    }


def test_train_and_test_folders_without_classes_give_the_split_and_no_labels(tmp_path: Path) -> None:
    make_files(tmp_path, "train/a.mp4", "test/c.mp4")
    assert described(tmp_path) == {"train/a.mp4": (None, None, "train"), "test/c.mp4": (None, None, "test")}


def test_the_label_is_the_folder_that_holds_the_file(tmp_path: Path) -> None:
    make_files(tmp_path, "set/run/a.mp4", "set/jump/b.mp4")
    assert [label for label, *_ in described(tmp_path).values()] == ["jump", "run"]


def test_one_single_class_is_no_label(tmp_path: Path) -> None:
    make_files(tmp_path, "holiday/a.mp4", "holiday/b.mp4")
    assert {label for label, *_ in described(tmp_path).values()} == {None}


def test_videos_are_sorted_whatever_the_case_of_their_suffix_and_hidden_and_other_files_are_left_out(
    tmp_path: Path,
) -> None:
    make_files(
        tmp_path, "z.MP4", "a.mkv", ".hidden.mp4", ".cache/b.mp4", "notes.txt", "thumbs.jpg", "deep/er/c.WebM", "mp4"
    )
    assert list(described(tmp_path)) == ["a.mkv", "deep/er/c.WebM", "z.MP4"]


def test_a_folder_named_like_a_video_is_not_one(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4", "folder.mp4/b.mp4")
    assert list(described(tmp_path)) == ["a.mp4", "folder.mp4/b.mp4"]


def test_videos_are_sorted_by_id_as_a_store_sorts_them(tmp_path: Path) -> None:
    """By the text, where "-" comes before "/"; by folders it would be the other way round."""
    make_files(tmp_path, "a/x.mp4", "a-1/x.mp4")
    assert list(described(tmp_path)) == ["a-1/x.mp4", "a/x.mp4"]


def test_a_groups_file_in_the_folder_is_used(tmp_path: Path) -> None:
    make_files(tmp_path, "run/a.mp4", "jump/b.mp4")
    (tmp_path / "groups.csv").write_text("path,group\nrun/a.mp4,tape1\nelsewhere.mp4,tape9\n")
    assert described(tmp_path) == {"jump/b.mp4": ("jump", None, None), "run/a.mp4": ("run", "tape1", None)}


def test_a_label_in_the_groups_file_wins_over_the_folder(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4", "x/b.mp4", "x/c.mp4")
    groups = tmp_path / "other.csv"
    # A byte order mark, as spreadsheets write it.
    groups.write_text("﻿label,path,group\nrun,a.mp4,1\njump,x/b.mp4,2\n,x/c.mp4,3\n", encoding="utf-8")
    assert described(tmp_path, groups=groups) == {
        "a.mp4": ("run", "1", None),
        "x/b.mp4": ("jump", "2", None),
        "x/c.mp4": ("x", "3", None),
    }


def test_bad_folders_are_refused_in_a_sentence_that_names_them(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match=r"No such folder: .*missing.*Give"):
        discover_videos(tmp_path / "missing")
    make_files(tmp_path, "a.mp4")
    with pytest.raises(ViccError, match=r"a\.mp4 is a file; expected a folder"):
        discover_videos(tmp_path / "a.mp4")
    with pytest.raises(ViccError, match=r"No videos in .*empty.*\.mp4"):
        discover_videos(make_files(tmp_path / "empty", "readme.txt"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"file,tape\na.mp4,1\n", r"columns \['file', 'tape'\]; expected at least path and group"),
        (b"", r"expected at least path and group"),
        (b"path,group\nother.mp4,1\n", r"No path in .* names a video .*other\.mp4"),
        (b"path,group\n\xff\xfe.mp4,1\n", r"cannot be read"),
    ],
)
def test_a_groups_file_that_cannot_be_used_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    make_files(tmp_path, "a.mp4")
    groups = tmp_path / "groups.txt"
    groups.write_bytes(content)
    with pytest.raises(ViccError, match=message):
        discover_videos(tmp_path, groups=groups)


def test_an_empty_groups_file_with_the_right_columns_is_refused_in_a_sentence(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4")
    groups = tmp_path / "g.csv"
    groups.write_text("path,group\n")
    with pytest.raises(ViccError):
        discover_videos(tmp_path, groups=groups)


def test_a_groups_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4")
    with pytest.raises(ViccError, match="No such groups file"):
        discover_videos(tmp_path, groups=tmp_path / "missing.csv")


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


@pytest.mark.data
def test_real_clips_of_one_source_stay_together(test_data: Path) -> None:
    sources = discover_videos(test_data / "fights")
    assert len(sources) == 300
    assert Counter(source.label for source in sources).keys() == {"fight", "noFight"}
    train, test = train_and_test(sources)
    assert not {source.group for source in train} & {source.group for source in test}
    assert 60 <= len(test) <= 120
