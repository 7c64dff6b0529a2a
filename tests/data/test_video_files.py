"""Which videos a folder, a file or a list holds, and what their places and names say of them."""

import csv
import os
import sys
import unicodedata
from collections import Counter
from pathlib import Path

import pytest

from vicc.data.video_files import VideoFile, discover_videos, file_id, list_video_files, part_id
from vicc.errors import ViccError


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def described(folder: Path, **options: Path) -> dict[str, tuple[str | None, str | None, str | None]]:
    return {file.id: (file.label, file.group, file.split) for file in discover_videos(folder, **options)}


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


def test_val_folders_are_tested_too(tmp_path: Path) -> None:
    """Kinetics comes as train/ and val/."""
    make_files(tmp_path, "train/run/a.mp4", "val/run/b.mp4", "validation/jump/c.mp4")
    assert [split for *_, split in described(tmp_path).values()] == ["train", "test", "test"]


def test_videos_of_val_beside_test_are_on_a_side_of_their_own(tmp_path: Path) -> None:
    make_files(tmp_path, "train/run/a.mp4", "val/run/b.mp4", "test/jump/c.mp4")
    assert [split for *_, split in described(tmp_path).values()] == ["test", "train", "val"]


def test_a_class_that_is_called_like_a_side_is_a_class(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"{label}/{number}.mp4" for label in ("bus", "car", "train") for number in (1, 2)))
    assert Counter((label, split) for label, _, split in described(tmp_path).values()) == {
        (label, None): 2 for label in ("bus", "car", "train")
    }


@pytest.mark.parametrize("sides", [("train", "valid"), ("train_256", "val_256"), ("trainset", "testset")])
def test_sides_in_other_spellings_keep_their_videos_apart(tmp_path: Path, sides: tuple[str, str]) -> None:
    train, test = sides
    make_files(tmp_path, f"{train}/run/a.mp4", f"{train}/jump/b.mp4", f"{test}/run/c.mp4")
    assert {name: split for name, (_, _, split) in described(tmp_path).items()} == {
        f"{train}/run/a.mp4": "train",
        f"{train}/jump/b.mp4": "train",
        f"{test}/run/c.mp4": "test",
    }


def test_sides_inside_classes_and_inside_a_folder_are_sides_and_no_labels(tmp_path: Path) -> None:
    make_files(tmp_path / "c", "run/train/a.mp4", "run/test/b.mp4", "jump/train/c.mp4", "jump/test/d.mp4")
    assert [(label, split) for label, _, split in described(tmp_path / "c").values()] == [
        ("jump", "test"),
        ("jump", "train"),
        ("run", "test"),
        ("run", "train"),
    ]
    make_files(tmp_path / "w", "data/train/run/a.mp4", "data/train/jump/b.mp4", "data/dev/run/c.mp4")
    assert [(label, split) for label, _, split in described(tmp_path / "w").values()] == [
        ("run", "test"),
        ("jump", "train"),
        ("run", "train"),
    ]


def test_a_class_folder_may_be_a_link(tmp_path: Path) -> None:
    make_files(tmp_path / "else", "run/a.mp4")
    make_files(tmp_path / "v", "walk/b.mp4")
    (tmp_path / "v" / "run").symlink_to(tmp_path / "else" / "run")
    [run, walk] = discover_videos(tmp_path / "v")
    assert (run.id, run.label, run.path) == ("run/a.mp4", "run", tmp_path / "v" / "run" / "a.mp4")
    assert walk.label == "walk"


def test_one_class_and_a_video_without_a_label_are_no_labels(tmp_path: Path) -> None:
    make_files(tmp_path, "holiday/a.mp4", "holiday/b.mp4", "c.mp4")
    listing = list_video_files(tmp_path)
    assert ({file.label for file in listing.files}, listing.single_class) == ({None}, "holiday")


def notes(place: Path) -> str:
    return "\n".join(list_video_files(place).notes)


def test_where_the_class_could_be_another_folder_it_is_said(tmp_path: Path) -> None:
    make_files(tmp_path / "a", "run/cam1/a.mp4", "jump/cam1/b.mp4", "run/c.mp4")
    assert "in folders within folders, 2 of 3: the label is the folder that holds the file (cam1" in notes(
        tmp_path / "a"
    )
    make_files(tmp_path / "b", "set/run/a.mp4", "set/jump/b.mp4")
    assert notes(tmp_path / "b") == "", "a single folder around all classes is no doubt"


def test_classes_that_differ_in_their_spelling_only_are_said_and_unicode_forms_are_one(tmp_path: Path) -> None:
    forms = [unicodedata.normalize(form, "b\u00fcgeln") for form in ("NFC", "NFD")]
    make_files(tmp_path, "Jump rope/a.mp4", "jump_rope/b.mp4", "run/c.mp4", *(f"{form}/d.mp4" for form in forms))
    assert "Jump rope and jump_rope" in notes(tmp_path)
    assert len({file.label for file in discover_videos(tmp_path)}) == 4


def test_what_is_passed_over_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_files(tmp_path, "a.mp4", "b.txt", ".cache/c.mp4")
    discover_videos(tmp_path)
    said = capsys.readouterr().err
    assert "passed over" in said
    assert "other suffix .txt 1 (b.txt)" in said
    with pytest.raises(ViccError, match=r"No videos in .*passed over: .*\.pdf 1 \(x\.pdf\)"):
        discover_videos(make_files(tmp_path / "none", "x.pdf"))


SPELLINGS = {
    "backslashes": lambda path, folder: path.replace("/", "\\"),
    "./": lambda path, folder: f"./{path}",
    "blanks": lambda path, folder: f"  {path} ",
    "no suffix": lambda path, folder: path.removesuffix(".mp4"),
    "absolute": lambda path, folder: str(folder / path),
    "of another machine": lambda path, folder: "E:\\clips\\" + path.replace("/", "\\"),
    "the folder's name": lambda path, folder: f"{folder.name}/{path}",
    "another Unicode form": lambda path, folder: unicodedata.normalize("NFD", path),
    "capitals": lambda path, folder: path.replace(".mp4", ".MP4"),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize("heading", ["path,group", "group, path", "Path;Group"])
def test_a_groups_file_in_another_spelling_means_the_same(tmp_path: Path, spelling: str, heading: str) -> None:
    names = [f"{label}/cam{cam}_{clip}.mp4" for label in ("f\u00fcr", "quiet") for cam in (1, 2) for clip in (1, 2)]
    folder = make_files(tmp_path / "clips", *names)
    delimiter = ";" if ";" in heading else ", " if ", " in heading else ","
    rows = [(SPELLINGS[spelling](name, folder), name.rpartition("_")[0]) for name in names]
    cells = [row if heading.lower().startswith("path") else row[::-1] for row in rows]
    (folder / "groups.csv").write_text("\n".join([heading, *map(delimiter.join, cells)]), encoding="utf-8")
    assert {name: group for name, (_, group, _) in described(folder).items()} == {
        name: name.rpartition("_")[0] for name in names
    }
    assert notes(folder) == ""


def test_rows_and_videos_that_a_groups_file_does_not_match_are_counted(tmp_path: Path) -> None:
    folder = make_files(tmp_path, "a/1.mp4", "a/2.mp4", "b/3.mp4")
    (folder / "groups.csv").write_text("path,group,camera\na/1.mp4,x,1\nc/9.mp4,x,1\na/2.avi,y,1\n")
    assert f"1 of 3 rows of {folder / 'groups.csv'} names no video here (c/9.mp4)" in notes(folder)
    assert f"1 of 3 videos is in no row of {folder / 'groups.csv'} (b/3.mp4)" in notes(folder)
    assert "camera (known columns: path, group, label)" in notes(folder)
    assert described(folder)["a/2.mp4"][1] == "y", "of a file that was converted"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ("a/1.mp4,x\na\\1.mp4,y\n", r"Lines 2 and 3 of .*Groups\.csv give a/1\.mp4 the groups 'x' and 'y'"),
        ("a/1.mp4,x\na/1,y\n", r"Lines 2 and 3 of .* the groups 'x' and 'y'"),
        ("a/2,x\n", r"'a/2' could be a/2\.avi or a/2\.mp4"),
        ("c/1.mp4,x\n", r"No path in .*Groups\.csv names a video in .*first: c/1\.mp4.*such as a/1\.mp4"),
    ],
)
def test_the_folders_own_groups_file_is_refused_where_it_contradicts_itself_or_fits_nothing(
    tmp_path: Path, rows: str, message: str
) -> None:
    folder = make_files(tmp_path, "a/1.mp4", "a/2.mp4", "a/2.avi")
    (folder / "Groups.csv").write_text(f"path,group\n{rows}")
    with pytest.raises(ViccError, match=message):
        discover_videos(folder)


def test_groups_files_further_down_are_for_their_own_folders(tmp_path: Path) -> None:
    folder = make_files(tmp_path, "train/a/1.mp4", "train/b/2.mp4", "test/a/3.mp4", "test/b/4.mp4")
    (folder / "train" / "groups.csv").write_text("path,group\na/1.mp4,x\nb/2.mp4,y\n")
    (folder / "test" / "groups.csv").write_text("path,group\na/3.mp4,z\ntest/b/4.mp4,z\n")
    assert {name: group for name, (_, group, _) in described(folder).items()} == {
        "train/a/1.mp4": "x",
        "train/b/2.mp4": "y",
        "test/a/3.mp4": "z",
        "test/b/4.mp4": "z",
    }
    assert list_video_files(folder).groups_from == {"test/groups.csv, train/groups.csv": 4}
    (folder / "tables").mkdir()
    (folder / "tables" / "groups.csv").write_text("path,group\ntrain/a/1.mp4,q\n")
    with pytest.raises(ViccError, match=r"train/groups\.csv and another .* give train/a/1\.mp4 different groups"):
        discover_videos(folder)
    (folder / "tables" / "groups.csv").write_text("who,what\n1,2\n")
    assert f"{folder / 'tables' / 'groups.csv'} has no columns path and group: not used" in notes(folder)
    given = tmp_path / "given.csv"
    given.write_text("path,group\ntrain/a/1.mp4,q\n")
    listing = list_video_files(folder, groups=given)
    assert listing.groups_from == {str(given): 1}
    assert any("since --groups is given: tables/groups.csv, test/groups.csv" in note for note in listing.notes)


def test_a_list_is_read_with_the_same_tolerance(tmp_path: Path) -> None:
    ue = unicodedata.normalize("NFD", "\u00fc")
    make_files(tmp_path, "v/a.mp4", "v/b.mkv", f"v/{ue}.mp4", "v/c.mp4")
    rows = ("Path;Label;Split;shot by", "v\\a.mp4;run;Train;me", "./v/b;jump;valid;", '"v/\u00fc.MP4" ; "run" ;dev;')
    place = write_list(tmp_path / "videos.csv", *rows, "v/gone.mp4;run;;")
    assert described(place) == {
        "v/a.mp4": ("run", None, "train"),
        "v/b.mkv": ("jump", None, "test"),
        f"v/{ue}.mp4": ("run", None, "test"),
        "v/gone.mp4": ("run", None, None),
    }
    assert f"1 of 4 rows of {place} names no file that is there" in notes(place)
    assert "not used of" in notes(place)
    assert "shot by" in notes(place)


def test_a_single_file_is_a_set_of_one(tmp_path: Path) -> None:
    make_files(tmp_path, "walk.MOV", "other.mp4")
    assert discover_videos(tmp_path / "walk.MOV") == [VideoFile("walk.MOV", tmp_path / "walk.MOV", None, None, None)]


def test_a_file_that_is_neither_video_nor_list_is_refused(tmp_path: Path) -> None:
    make_files(tmp_path, "notes.txt", "a.mp4")
    with pytest.raises(ViccError, match=r"notes\.txt is neither a video .* nor a list"):
        discover_videos(tmp_path / "notes.txt")
    with pytest.raises(ViccError, match=r"--groups .* is for a folder"):
        discover_videos(tmp_path / "a.mp4", groups=tmp_path / "notes.txt")


def write_list(path: Path, *rows: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_a_list_says_everything_of_each_video(tmp_path: Path) -> None:
    make_files(tmp_path, "lists/a.mp4", "lists/deep/b, c.mp4", "far/d.mp4", "else/e.mp4")
    place = write_list(
        tmp_path / "lists" / "videos.csv",
        "split,path,label,group,note",
        "train,a.mp4,run,tape 1,x",
        'val,"deep/b, c.mp4",jump,,',
        ",../far/d.mp4,run,tape 1,",
        f"test,{tmp_path / 'else' / 'e.mp4'},jump,,",
    )
    files = {file.id: file for file in discover_videos(place)}
    assert list(files) == sorted(files)
    assert {name: (file.label, file.group, file.split) for name, file in files.items()} == {
        "a.mp4": ("run", "tape 1", "train"),
        "deep/b, c.mp4": ("jump", None, "val"),
        "far/d.mp4": ("run", "tape 1", None),
        f"{tmp_path / 'else' / 'e.mp4'}"[1:]: ("jump", None, "test"),
    }
    assert all(file.path.is_absolute() and file.path.exists() for file in files.values())
    assert not any(".." in name or name.startswith("/") for name in files)


def test_an_absolute_path_inside_the_lists_folder_has_the_same_id_as_the_relative_one(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4", "b.mp4")
    place = write_list(tmp_path / "videos.csv", "path", "a.mp4", str(tmp_path / "b.mp4"))
    assert [file.id for file in discover_videos(place)] == ["a.mp4", "b.mp4"]


def test_several_rows_may_be_parts_of_one_file_and_share_its_group(tmp_path: Path) -> None:
    make_files(tmp_path, "long.mp4", "short.mp4")
    rows = (
        "path,start,end",
        "long.mp4,100,110.5",
        "long.mp4,9.5,20",
        "long.mp4,,9.5",
        "long.mp4,110.5,",
        "short.mp4,,",
    )
    files = discover_videos(write_list(tmp_path / "videos.csv", *rows))
    assert [(file.id, file.start, file.end, file.group) for file in files] == [
        ("long.mp4#00000.000-00009.500", None, 9.5, "long.mp4"),
        ("long.mp4#00009.500-00020.000", 9.5, 20.0, "long.mp4"),
        ("long.mp4#00100.000-00110.500", 100.0, 110.5, "long.mp4"),
        ("long.mp4#00110.500-end", 110.5, None, "long.mp4"),
        ("short.mp4", None, None, None),
    ]


def test_the_id_of_a_part_leads_back_to_its_file_even_if_its_name_looks_odd() -> None:
    for name in ("a.mp4", "#20_Rhythm_clap.avi", "a#1-2.mp4", "x/y#00001.000-end.mp4"):
        assert file_id(name) == name
        assert file_id(part_id(name, 3.25, None)) == file_id(part_id(name, None, 7)) == name


def test_the_bytes_of_a_name_that_is_not_utf8_survive_a_list(tmp_path: Path) -> None:
    if sys.platform != "linux":
        pytest.skip("names of files are Unicode here")
    name = b"caf\xe9.mp4"
    (tmp_path / os.fsdecode(name)).write_bytes(b"")
    (tmp_path / "videos.csv").write_bytes(b"path\n" + name + b"\n")
    [file] = discover_videos(tmp_path / "videos.csv")
    assert file.path.exists()
    assert [file.id] == [found.id for found in discover_videos(tmp_path)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (("file", "a.mp4"), r"has the columns \['file'\]; expected at least path"),
        (("path,path", "a.mp4,a.mp4"), "two columns of the same name"),
        (("path",), "has no rows"),
        (("path,label", "a.mp4,run", "b.mp4"), r"Line 3 of .* has 1 cells; expected 2"),
        (("path,label", "a, b.mp4,run"), r"Line 2 of .* has 3 cells; expected 2.*double quotes"),
        (("path", "a.mp4", "./a.mp4"), r"Lines 2 and 3 of .* both give 'a\.mp4'"),
        (("path,label", "a.mp4,run", " ,run"), r"Line 3 of .* has no usable path"),
        (("path,split", "a.mp4,maybe"), r"Line 2 of .* has split 'maybe'; expected train, test, val or nothing"),
        (("path,start", "a.mp4,soon"), r"Line 2 of .* has start 'soon'; expected seconds"),
        (("path,end", "a.mp4,-1"), r"Line 2 of .* has end '-1'; expected seconds"),
        (("path,end", "a.mp4,nan"), r"Line 2 of .* has end 'nan'; expected seconds"),
        (("path,start,end", "a.mp4,5,5"), r"Line 2 of .* ends at 5\.0 s, not after its start at 5\.0 s"),
        (("path", "gone.mp4"), r"None of the 1 paths in .* exists \(first: .*gone\.mp4\)"),
        (("path", "a.mp4\0"), "cannot be read|no usable path"),
    ],
)
def test_a_list_that_cannot_be_used_is_refused_with_the_line(
    tmp_path: Path, rows: tuple[str, ...], message: str
) -> None:
    make_files(tmp_path, "a.mp4", "b.mp4")
    with pytest.raises(ViccError, match=message):
        discover_videos(write_list(tmp_path / "videos.csv", *rows))


def test_a_parquet_list_reads_like_the_csv_of_the_same_rows(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    make_files(tmp_path, "a.mp4", "b.mp4")
    columns = {
        "path": ["b.mp4", "a.mp4", "b.mp4"],
        "label": ["run", "jump", "run"],
        "Group": [7, None, 7],
        "start": [0.5, float("nan"), 3.0],
        "end": [3.0, None, None],
        "ignored": [b"\xff", b"", None],
    }
    parquet.write_table(pyarrow.table(columns), tmp_path / "videos.parquet")
    with (tmp_path / "videos.csv").open("w", newline="") as file:
        rows = [("b.mp4", "run", 7, 0.5, 3.0), ("a.mp4", "jump", "", "", ""), ("b.mp4", "run", 7, 3.0, "")]
        csv.writer(file).writerows([("path", "label", "group", "start", "end"), *rows])
    assert discover_videos(tmp_path / "videos.parquet") == discover_videos(tmp_path / "videos.csv")


def test_a_parquet_file_that_is_none_or_lacks_paths_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    make_files(tmp_path, "a.mp4")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 this is not one PAR1")
    with pytest.raises(ViccError, match=r"broken\.parquet cannot be read"):
        discover_videos(tmp_path / "broken.parquet")
    parquet.write_table(pyarrow.table({"file": ["a.mp4"]}), tmp_path / "other.parquet")
    with pytest.raises(ViccError, match=r"\['file'\]; expected at least path"):
        discover_videos(tmp_path / "other.parquet")


def test_without_pyarrow_a_parquet_list_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    (tmp_path / "videos.parquet").write_bytes(b"PAR1")
    with pytest.raises(ViccError, match=r"pip install 'vicc\[parquet\]'"):
        discover_videos(tmp_path / "videos.parquet")


def test_clips_of_one_recording_of_ucf101_are_a_group_in_each_class(tmp_path: Path) -> None:
    make_files(
        tmp_path,
        "Diving/v_Diving_g01_c01.avi",
        "Diving/v_Diving_g01_c02.mp4",
        "Diving/v_Diving_g02_c01.avi",
        "Archery/v_Archery_g01_c01.avi",
        # The folder's spelling and the files' differ in the original.
        "HandstandPushups/v_HandStandPushups_g01_c01.avi",
        "HandstandPushups/v_HandstandPushups_g01_c02.avi",
    )
    assert [group for _, group, _ in described(tmp_path).values()] == [
        "Archery_g01",
        *("Diving_g01", "Diving_g01", "Diving_g02"),
        *("HandstandPushups_g01", "HandstandPushups_g01"),
    ]


def test_clips_of_one_film_of_hmdb51_are_a_group_across_classes(tmp_path: Path) -> None:
    make_files(
        tmp_path,
        "wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
        "brush_hair/TrumanShow_brush_hair_u_cm_np2_ba_goo_0.avi",
        "brush_hair/#20_Rhythm_brush_hair_h_nm_np1_le_bad_11.avi",
        "wave/wave_at_the_door.avi",
    )
    assert {Path(name).name: group for name, (_, group, _) in described(tmp_path).items()} == {
        "TrumanShow_wave_f_nm_np1_fr_med_26.avi": "TrumanShow",
        "TrumanShow_brush_hair_u_cm_np2_ba_goo_0.avi": "TrumanShow",
        "#20_Rhythm_brush_hair_h_nm_np1_le_bad_11.avi": "#20_Rhythm",
        "wave_at_the_door.avi": None,
    }


def test_clips_of_one_youtube_video_are_a_group_only_where_all_names_are_kinetics_names(tmp_path: Path) -> None:
    make_files(
        tmp_path / "k", "zumba/-0abCdEfGh1_000010_000020.mp4", "zumba/-0abCdEfGh1_000030_000040.mp4", "R6llTwEh07w.mp4"
    )
    assert [group for _, group, _ in described(tmp_path / "k").values()] == ["R6llTwEh07w", *["-0abCdEfGh1"] * 2]
    make_files(tmp_path / "own", "fight/recording01.mp4", "quiet/recording01.mp4")
    assert {group for _, group, _ in described(tmp_path / "own").values()} == {None}


def test_one_other_video_does_not_turn_off_the_groups_of_kinetics(tmp_path: Path) -> None:
    names = ("zumba/-0abCdEfGh1_000010_000020.mp4", "yoga/-0abCdEfGh1_000030_000040.mp4", "yoga/intro.mp4")
    make_files(tmp_path, *names)
    assert {name: group for name, (_, group, _) in described(tmp_path).items()} == {
        **dict.fromkeys(names[:2], "-0abCdEfGh1"),
        names[2]: None,
    }


@pytest.mark.parametrize("times", ["_5_15", "_5.0_15.0", "-5-15", "_000005_000015"])
def test_times_of_kinetics_need_no_padding(tmp_path: Path, times: str) -> None:
    make_files(tmp_path, f"-0abCdEfGh1{times}.mp4", "R6llTwEh07w_1_2.mp4")
    assert [group for _, group, _ in described(tmp_path).values()] == ["-0abCdEfGh1", "R6llTwEh07w"]


def test_a_groups_file_wins_over_the_names(tmp_path: Path) -> None:
    make_files(tmp_path, "Diving/v_Diving_g01_c01.avi", "Archery/v_Archery_g01_c01.avi")
    (tmp_path / "groups.csv").write_text("path,group\nDiving/v_Diving_g01_c01.avi,mine\n")
    assert [group for _, group, _ in described(tmp_path).values()] == ["Archery_g01", "mine"]


@pytest.mark.data
def test_the_groups_of_real_clips(test_data: Path) -> None:
    files = {name: discover_videos(test_data / f"{name}-sample") for name in ("ucf101", "hmdb51", "kinetics")}
    assert Counter(file.group for file in files["ucf101"]) == {
        **dict.fromkeys(("ApplyEyeMakeup_g01", "BenchPress_g01", "Diving_g01"), 5),
        **dict.fromkeys(("Basketball_g01", "SoccerJuggling_g23", "SoccerJuggling_g24"), 1),
    }
    assert [file.group for file in files["hmdb51"]] == [
        "hmdb51_Turnk_r_Pippi_Michel",
        *("RATRACE", "SchoolRulesHowTheyHelpUs", "TrumanShow"),
    ]
    assert [file.group for file in files["kinetics"]] == ["R6llTwEh07w", "SOX5yA1l24A", "WUzgd7C1pWA"]


def test_groups_that_are_likely_to_be_one_are_named_as_classes_are(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"{number}.mp4" for number in range(5)))
    groups = ("Tape 1", "tape 1", "tape1-12", "tape11-2", "Reel")
    rows = (f"{number}.mp4,{group},{'ab'[number % 2]}" for number, group in enumerate(groups))
    (tmp_path / "groups.csv").write_text("\n".join(["path,group,label", *rows]))
    [note] = list_video_files(tmp_path).notes
    assert note == "groups that are told apart though their names hardly differ: Tape 1 and tape 1"


def test_words_of_other_programs_for_an_empty_cell_are_names_which_is_said(tmp_path: Path) -> None:
    make_files(tmp_path, *(f"{number}.mp4" for number in range(4)))
    rows = ("0.mp4,nan,g", "1.mp4,a,None", "2.mp4,b,None", "3.mp4,nan,h")
    (tmp_path / "list.csv").write_text("\n".join(["path,label,group", *rows]))
    listing = list_video_files(tmp_path / "list.csv")
    assert [note.partition(",")[0] for note in listing.notes] == [
        "2 videos have the label 'nan'",
        "2 videos have the group 'None'",
    ]
    assert [(file.label, file.group) for file in listing.files][:2] == [("nan", "g"), ("a", "None")]


def test_parts_that_share_frames_and_are_of_different_groups_are_named(tmp_path: Path) -> None:
    make_files(tmp_path, "a.mp4", "b.mp4")
    rows = ("a.mp4,g,0,10", "a.mp4,g,5,8", "a.mp4,h,9,12", "a.mp4,i,12,14", "b.mp4,j,0,", "b.mp4,k,100,")
    (tmp_path / "list.csv").write_text("\n".join(["path,group,start,end", *rows]))
    [note] = list_video_files(tmp_path / "list.csv").notes
    assert note.startswith("2 pairs of parts overlap and are of different groups")
    assert "a.mp4#00000.000-00010.000 and a.mp4#00009.000-00012.000" in note
