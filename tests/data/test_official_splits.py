"""The published lists are found, and each clip gets its side in each fold; files as the archives have them."""

from pathlib import Path

import pytest

from vicc.data.official_splits import with_official_splits
from vicc.data.splits import SplitTable
from vicc.data.video_files import discover_videos
from vicc.errors import ViccError


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")
    return folder


def write(path: Path, *lines: str, end: str = "\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(line + end for line in lines), newline="")
    return path


def find(place: Path, given: Path | None = None) -> tuple[dict[str, str | None], SplitTable | None]:
    """Labels by id, and the table."""
    files, table = with_official_splits(place, discover_videos(place), given=given)
    return {file.id: file.label for file in files}, table


UCF101 = [
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g01_c01.avi",
    "ApplyEyeMakeup/v_ApplyEyeMakeup_g08_c01.avi",
    "HandstandPushups/v_HandStandPushups_g01_c01.avi",
]


def write_ucf101(folder: Path) -> Path:
    """As in UCF101TrainTestSplits-RecognitionTask.zip, cut down; the lists of test videos have no class numbers."""
    write(folder / "classInd.txt", "1 ApplyEyeMakeup", "37 HandstandPushups", end="\r\n")
    train = {
        1: [f"{UCF101[1]} 1", f"{UCF101[2]} 37", "Archery/v_Archery_g08_c01.avi 3"],
        2: [f"{UCF101[0]} 1", f"{UCF101[1]} 1"],
        3: [f"{UCF101[0]} 1", f"{UCF101[2]} 37"],
    }
    test = {1: [UCF101[0]], 2: [UCF101[2], "Archery/v_Archery_g01_c01.avi"], 3: [UCF101[1]]}
    for fold in (1, 2, 3):
        write(folder / f"trainlist{fold:02d}.txt", *train[fold])
        write(folder / f"testlist{fold:02d}.txt", *test[fold], end="\r\n")
    return folder


UCF101_CELLS = {
    UCF101[0]: ("test", "train", "train"),
    UCF101[1]: ("train", "train", "test"),
    UCF101[2]: ("train", "test", "train"),
}


@pytest.mark.parametrize(
    "where",
    [
        "UCF-101",
        "UCF-101/ucfTrainTestlist",
        "ucfTrainTestlist",
        "elsewhere",
        "UCF101TrainTestSplits-RecognitionTask/ucfTrainTestlist",
    ],
)
def test_all_folds_of_ucf101_are_found_in_the_usual_places_or_where_told(
    tmp_path: Path, where: str, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = make_files(tmp_path / "UCF-101", *UCF101)
    lists = write_ucf101(tmp_path / where)
    _, table = find(videos, lists if where == "elsewhere" else None)
    assert table == SplitTable(3, UCF101_CELLS)
    assert "official splits of UCF101, 3 folds: they name 3 of 3 videos" in capsys.readouterr().err


def test_clips_are_known_by_name_in_any_case_converted_and_flat_and_get_their_label(tmp_path: Path) -> None:
    names = [
        "v_ApplyEyeMakeup_g01_c01.mp4",
        "v_ApplyEyeMakeup_g08_c01.webm",
        "v_HandstandPushups_g01_c01.avi",
        "mine.mp4",
    ]
    videos = make_files(tmp_path / "flat", *names)
    labels, table = find(videos, write_ucf101(tmp_path / "lists"))
    assert table is not None
    assert table.cells == dict(zip(names[:3], UCF101_CELLS.values(), strict=True))
    assert labels == dict(zip(names, ["ApplyEyeMakeup", "ApplyEyeMakeup", "HandstandPushups", None], strict=True))


def test_lists_with_backslashes_capitals_and_other_suffixes_name_the_clips(tmp_path: Path) -> None:
    videos = make_files(tmp_path / "UCF-101", *UCF101)
    lists = tmp_path / "ucfTrainTestlist"
    write(
        lists / "TrainList01.TXT",
        ".\\" + UCF101[1].replace("/", "\\") + " 1",
        UCF101[2].replace(".avi", ""),
        end="\r\n",
    )
    write(lists / "TestList01.TXT", UCF101[0].replace("/", "\\").replace(".avi", ".mp4"))
    _, table = find(videos)
    assert table == SplitTable(1, {name: cells[:1] for name, cells in UCF101_CELLS.items()})


def test_lists_that_are_there_and_name_nothing_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    videos = make_files(tmp_path / "videos", "run/a.mp4", "jump/b.mp4")
    lists = write_ucf101(tmp_path / "ucfTrainTestlist")
    write(tmp_path / "annotations" / "k.csv", KINETICS, "zumba,R6llTwEh07w,1,10,train")
    assert find(videos)[1] is None
    said = capsys.readouterr().err
    assert f"official lists of UCF101 in {lists} name none of the 2 videos" in said
    assert f"official lists of Kinetics in {tmp_path / 'annotations'} name none of the 2 videos" in said


def test_a_fold_without_one_of_its_lists_is_refused(tmp_path: Path) -> None:
    videos = make_files(tmp_path / "UCF-101", *UCF101)
    (write_ucf101(videos / "ucfTrainTestlist") / "trainlist02.txt").unlink()
    with pytest.raises(ViccError, match=r"has no trainlist02\.txt, without which fold 2 of UCF101 is not whole"):
        find(videos)


def test_a_video_on_both_sides_of_a_fold_is_refused_with_the_line(tmp_path: Path) -> None:
    videos = make_files(tmp_path / "UCF-101", *UCF101)
    write(write_ucf101(tmp_path / "ucfTrainTestlist") / "testlist01.txt", UCF101[0], UCF101[2])
    with pytest.raises(ViccError, match=r"Line 2 of .*trainlist01\.txt puts a video .* 'train' of fold 1, and another"):
        find(videos)


def test_all_folds_of_hmdb51_with_its_unused_clips(tmp_path: Path) -> None:
    clips = [
        "brush_hair/April_09_brush_hair_u_nm_np1_ba_goo_0.avi",
        "brush_hair/#20_Rhythm_brush_hair_h_nm_np1_le_bad_1.avi",
        "wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi",
    ]
    videos = make_files(tmp_path / "hmdb51", *clips)
    lists = tmp_path / "testTrainMulti_7030_splits"
    for fold, flags in ((1, "102"), (2, "211"), (3, "020")):
        # Each line of the originals ends in a blank.
        write(
            lists / f"brush_hair_test_split{fold}.txt",
            f"{Path(clips[0]).name} {flags[0]} ",
            f"{Path(clips[1]).name} {flags[1]} ",
        )
        write(lists / f"wave_test_split{fold}.txt", f"{Path(clips[2]).name} {flags[2]} ")
    _, table = find(videos)
    assert table == SplitTable(
        3,
        {
            clips[1]: (None, "train", "test"),
            clips[0]: ("train", "test", None),
            clips[2]: ("test", "train", None),
        },
    )
    write(lists / "wave_test_split2.txt", f"{Path(clips[2]).name} 3 ")
    with pytest.raises(ViccError, match=r"Line 1 of .*wave_test_split2\.txt reads .*expected a file's name and 0"):
        find(videos)


@pytest.mark.parametrize("blank", [" ", "\t", "  "])
def test_lists_of_hmdb51_may_have_tabs_folders_and_capitals(tmp_path: Path, blank: str) -> None:
    clip = "wave/TrumanShow_wave_f_nm_np1_fr_med_26.avi"
    videos = make_files(tmp_path / "hmdb51", clip, "run/other.avi")
    write(tmp_path / "lists" / "wave_Test_Split1.TXT", "wave\\" + Path(clip).name + blank + "2" + blank, end="\r\n")
    _, table = find(videos, tmp_path / "lists")
    assert table == SplitTable(1, {clip: ("test",)})


KINETICS = "label,youtube_id,time_start,time_end,split"


def test_kinetics_labels_and_sides_come_from_its_csv_files(tmp_path: Path) -> None:
    names = ["-0abCdEfGh1_000010_000020.mp4", "-0abCdEfGh1_000030_000040.mp4", "R6llTwEh07w.mp4", "WUzgd7C1pWA.mp4"]
    videos = make_files(tmp_path / "videos", *names, "zzzzzzzzzzZ.mp4")
    lists = tmp_path / "annotations"
    write(lists / "train.csv", KINETICS, "zumba,-0abCdEfGh1,10,20,train", '"tai chi",R6llTwEh07w,46,56,train')
    write(lists / "validate.csv", KINETICS, "zumba,-0abCdEfGh1,30,40,validate")
    write(lists / "test.csv", KINETICS, "archery,WUzgd7C1pWA,1,11,test")
    labels, table = find(videos)
    assert labels == dict(zip([*names, "zzzzzzzzzzZ.mp4"], ["zumba", "zumba", "tai chi", "archery", None], strict=True))
    assert table is not None
    assert table.cells == dict(zip(names, [("train",), ("test",), ("train",), (None,)], strict=True))
    # Without validation videos the test videos are the tested ones.
    _, table = find(videos, lists / "test.csv")
    assert table is not None
    assert table.cells == {"WUzgd7C1pWA.mp4": ("test",)}


def test_a_name_that_could_be_two_clips_of_kinetics_is_neither(tmp_path: Path) -> None:
    videos = make_files(tmp_path / "videos", "R6llTwEh07w.mp4", "WUzgd7C1pWA.mp4")
    rows = ("zumba,R6llTwEh07w,0,10,train", "yoga,R6llTwEh07w,20,30,val", "yoga,WUzgd7C1pWA,20,30,val")
    _, table = find(videos, write(tmp_path / "k.csv", KINETICS, *rows))
    assert table is not None
    assert table.cells == {"WUzgd7C1pWA.mp4": ("test",)}


@pytest.mark.parametrize("times", ["_5_15", "_5.0_15.0", "-5-15", "_000005_000015"])
def test_clips_of_kinetics_are_known_by_times_that_are_not_padded(tmp_path: Path, times: str) -> None:
    videos = make_files(tmp_path / "k", f"train/abCDefGH_1k{times}.mp4", "val/Qw-rty12345_100_110.mp4")
    rows = ("tap dancing;abCDefGH_1k;5;15;train", " juggling ;Qw-rty12345;100;110;val")
    labels, table = find(videos, write(tmp_path / "k.csv", KINETICS.replace(",", ";").upper(), *rows))
    assert list(labels.values()) == ["tap dancing", "juggling"]
    assert table is not None
    assert list(table.cells.values()) == [("train",), ("test",)]


def test_rows_of_kinetics_that_contradict_one_another_are_not_used_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    videos = make_files(tmp_path / "k", "R6llTwEh07w_000001_000011.mp4", "WUzgd7C1pWA.mp4")
    rows = ("zumba,R6llTwEh07w,1,11,train", "zumba,R6llTwEh07w,1,11,val", "yoga,WUzgd7C1pWA,20,30,val")
    _, table = find(videos, write(tmp_path / "k.csv", KINETICS, *rows))
    assert table is not None
    assert list(table.cells) == ["WUzgd7C1pWA.mp4"]
    assert "differ from one another for 1 of 2 videos (R6llTwEh07w_000001_000011.mp4)" in capsys.readouterr().err


def test_a_bad_line_of_kinetics_is_named(tmp_path: Path) -> None:
    videos = make_files(tmp_path / "videos", "R6llTwEh07w.mp4")
    with pytest.raises(ViccError, match=r"Line 2 of .*k\.csv has split 'holdout' and time_start '1'"):
        find(videos, write(tmp_path / "k.csv", KINETICS, "zumba,R6llTwEh07w,1,10,holdout"))


def test_folders_without_lists_have_no_official_splits(tmp_path: Path) -> None:
    videos = make_files(tmp_path / "videos", "run/a.mp4", "jump/b.mp4")
    write(tmp_path / "annotations" / "other.csv", "a,b", "1,2")
    write_ucf101(videos)  # they name none of these videos
    assert find(videos) == ({"jump/b.mp4": "jump", "run/a.mp4": "run"}, None)


def test_lists_that_were_given_must_be_some_and_name_a_video(tmp_path: Path) -> None:
    videos = make_files(tmp_path / "videos", "run/a.mp4", "jump/b.mp4")
    with pytest.raises(ViccError, match="No such folder or file of official splits"):
        find(videos, tmp_path / "missing")
    with pytest.raises(ViccError, match=r"holds no official split files\. Give the folder"):
        find(videos, make_files(tmp_path / "empty", "readme.txt"))
    with pytest.raises(ViccError, match="name none of the 2 videos"):
        find(videos, write_ucf101(tmp_path / "lists"))


@pytest.mark.data
def test_real_clips_of_all_three_data_sets(test_data: Path, tmp_path: Path) -> None:
    ucf101 = test_data / "ucf101-sample"
    names = sorted(path.relative_to(ucf101).as_posix() for path in ucf101.rglob("*.avi"))
    for fold in (1, 2, 3):
        tested = [name for number, name in enumerate(names) if number % 3 == fold - 1]
        write(tmp_path / "u" / f"testlist{fold:02d}.txt", *tested)
        write(tmp_path / "u" / f"trainlist{fold:02d}.txt", *(f"{name} 1" for name in names if name not in tested))
    _, table = find(ucf101, tmp_path / "u")
    assert table is not None
    assert [cells.index("test") for _, cells in sorted(table.cells.items())] == [number % 3 for number in range(18)]

    hmdb51 = test_data / "hmdb51-sample"
    for path in hmdb51.rglob("*.avi"):
        with (tmp_path / f"{path.parent.name}_test_split1.txt").open("a") as file:
            file.write(f"{path.name} {1 + path.name.startswith('Truman')} \n")
    labels, table = find(hmdb51, tmp_path)
    assert table is not None
    assert {Path(name).name[:3]: cells for name, cells in table.cells.items()} == {
        **dict.fromkeys(("hmd", "RAT", "Sch"), ("train",)),
        "Tru": ("test",),
    }
    assert set(labels.values()) == {"cartwheel", "wave"}

    rows = ("climbing,SOX5yA1l24A,1,11,train", "yoga,R6llTwEh07w,1,11,val")
    labels, table = find(test_data / "kinetics-sample", write(tmp_path / "k.csv", KINETICS, *rows))
    assert table is not None
    assert {Path(name).stem: cells for name, cells in table.cells.items()} == {
        "SOX5yA1l24A": ("train",),
        "R6llTwEh07w": ("test",),
    }
    assert [labels[f"unlabelled/{name}.mp4"] for name in ("R6llTwEh07w", "SOX5yA1l24A", "WUzgd7C1pWA")] == [
        *("yoga", "climbing"),
        None,
    ]
