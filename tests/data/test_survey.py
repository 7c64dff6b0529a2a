"""One table says what a place holds: found, passed over, labelled, grouped, split."""

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from vicc.cli import main
from vicc.data.survey import Survey, survey_members, survey_videos
from vicc.data.video_files import discover_videos
from vicc.prepare.build import prepare_videos
from vicc.prepare.check import check_videos
from vicc.prepare.configs import CheckConfig, PrepareConfig


def make_files(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def rows(survey: Survey) -> dict[str, str]:
    return dict(survey.rows())


def test_every_file_is_in_the_table(tmp_path: Path) -> None:
    folder = make_files(
        tmp_path / "v",
        *("a/1.mp4", "a/2.mp4", "a/3.mkv", "b/4.mp4", "stray.mp4", "notes.txt", ".DS_Store"),
    )
    (folder / "a" / "gone.mp4").symlink_to("nowhere")
    (folder / "groups.csv").write_text("path;group\na\\1;x\na\\2;x\nb\\9;x\n")
    survey = survey_videos(folder).survey
    assert rows(survey) == {
        "found": "5 videos (.mp4 4, .mkv 1)",
        "passed over": "hidden (a dot begins the name) 1 (.DS_Store)\n"
        "link to a file or folder that is missing 1 (a/gone.mp4)\n"
        "other suffix .txt 1 (notes.txt)",
        "labelled": "2 classes: a has 3, b has 1; 1 of 5 videos has no label (stray.mp4)",
        "grouped": "1 group of 2 videos (2 from groups.csv); 3 videos without: each a recording of its own",
        "split": "none: divided by group when needed",
    }
    assert survey.notes[0] == "passed over: link to a file or folder that is missing 1 (a/gone.mp4)"
    assert any("names no video here (b\\9)" in note for note in survey.notes)


def test_sides_and_where_they_come_from(tmp_path: Path) -> None:
    names = ["train/a/1.mp4", "train/b/2.mp4", "dev/a/3.mp4", "test/b/4.mp4", "extra/5.mp4"]
    folder = make_files(tmp_path / "v", *names)
    assert rows(survey_videos(folder).survey)["split"] == (
        "train 2, val 1, test 1, no side 1: trained on (folders). "
        "Val is neither trained on nor tested: --split folders:val"
    )
    (tmp_path / "l.csv").write_text("path,split,start,end\nv/train/a/1.mp4,train,0,1\nv/train/a/1.mp4,test,1,2\n")
    survey = survey_videos(tmp_path / "l.csv").survey
    assert (survey.videos, survey.files) == (2, 1)
    assert rows(survey)["found"] == "2 videos, parts of 1 file (.mp4 1)"
    assert rows(survey)["split"] == "train 1, test 1 (list)."


def test_official_lists_are_the_split_where_they_name_videos(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "v", *(f"Diving/v_Diving_g0{n}_c01.avi" for n in (1, 2, 3)), "Archery/x.avi")
    lists = tmp_path / "lists"
    lists.mkdir()
    for fold, tested in ((1, 1), (2, 2)):
        (lists / f"testlist0{fold}.txt").write_text(f"Diving\\v_Diving_g0{tested}_c01.avi\n")
        (lists / f"trainlist0{fold}.txt").write_text("Diving/v_Diving_g03_c01.avi 1\n")
    found = survey_videos(folder, official_splits=lists)
    assert found.official is not None
    assert found.official.num_folds == 2
    assert rows(found.survey)["split"] == "train 1, test 1, unused 2 (official lists, fold 1 of 2 folds)"
    assert rows(found.survey)["grouped"].startswith("3 groups of 3 videos (3 from names of the clips); 1 video without")
    assert found.survey.notes == ("official splits of UCF101, 2 folds: they name 3 of 4 videos",)


@pytest.mark.parametrize("inside", ["", "ucfTrainTestlist/"])
def test_lists_in_the_folder_of_videos_are_read_and_not_passed_over(inside: str, tmp_path: Path) -> None:
    names = [f"Diving/v_Diving_g0{n}_c01.avi" for n in (1, 2)]
    folder = make_files(tmp_path / "v", *names, f"{inside}classInd.txt", f"{inside}readme.csv")
    (folder / inside / "testlist01.txt").write_text(f"{names[0]}\n")
    (folder / inside / "trainlist01.txt").write_text(f"{names[1]} 1\n")
    assert rows(survey_videos(folder).survey)["passed over"] == (
        f"other suffix .csv 1 ({inside}readme.csv)\nother suffix .txt 1 ({inside}classInd.txt)"
    )


def test_a_list_of_kinetics_is_not_passed_over_also_where_it_names_no_video(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "v", "a/AAAAAAAAAAb.mp4", "b/other.mp4")
    for youtube_id in ("AAAAAAAAAAb", "ZZZZZZZZZZz"):
        (folder / "k.csv").write_text(f"label,youtube_id,time_start,time_end,split\na,{youtube_id},1,11,train\n")
        assert rows(survey_videos(folder).survey)["passed over"] == "nothing", youtube_id


def test_groups_in_a_file_of_another_name_are_not_passed_over(tmp_path: Path) -> None:
    folder = make_files(tmp_path / "v", "a/1.mp4", "b/2.mp4", "b/z.csv")
    (folder / "who.csv").write_text("path,group\na/1.mp4,x\n")
    (tmp_path / "who.csv").write_text("path,group\na/1.mp4,x\n")
    passed = [rows(survey_videos(folder, groups=at / "who.csv").survey)["passed over"] for at in (folder, tmp_path)]
    assert passed == ["other suffix .csv 1 (b/z.csv)", "other suffix .csv 2 (who.csv, b/z.csv)"]


def test_labels_that_are_none_are_explained(tmp_path: Path) -> None:
    folder = make_files(tmp_path, "holiday/a.mp4", "holiday/b.mp4")
    survey = survey_videos(folder).survey
    assert rows(survey)["labelled"] == "no labels (holiday alone is one class, which is no label)"
    assert rows(survey)["split"] == "none: without labels all train"


def test_a_survey_of_known_videos_counts_what_was_set_aside(tmp_path: Path) -> None:
    files = discover_videos(make_files(tmp_path, "a/1.mp4", "b/2.mp4"))
    survey = survey_members("store", files, set_aside=["c.mp4"])
    assert rows(survey)["passed over"] == "skipped 1 (c.mp4)"
    assert rows(survey)["labelled"] == "2 classes: 1 each"


def test_check_and_prepare_count_the_same_and_print_it(
    tmp_path: Path,
    write_video: Callable[..., Path],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("run/a.mp4", "jump/b.mp4"):
        write_video(tmp_path / "v" / name, num_frames=5)
    make_files(tmp_path / "v", "notes.txt", "run/.hidden.mp4", "jump/c.part")
    checked = check_videos(CheckConfig([tmp_path / "v"], workers=1))
    prepared = prepare_videos(PrepareConfig(tmp_path / "v", tmp_path / "s", workers=1, flow="none"))
    assert checked.surveys == [prepared.survey]
    assert prepared.survey is not None
    monkeypatch.setenv("COLUMNS", "80")
    capsys.readouterr()
    commands = [
        ["check", str(tmp_path / "v"), "--workers", "1"],
        ["prepare", str(tmp_path / "v"), "--store", str(tmp_path / "s"), "--flow", "none", "--workers", "1"],
        ["prepare", str(tmp_path / "v"), "--store", str(tmp_path / "t"), "--workers", "1", "--dry-run"],
    ]
    for command in commands:
        assert main(command) == 0
        shown = capsys.readouterr().out
        assert all(word in shown for word in ("2 videos (.mp4 2)", "other suffix .part 1 (jump/c.part)", "2 classes"))
    assert main([*commands[1], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["survey"] == json.loads(json.dumps(asdict(prepared.survey)))
    store = check_videos(CheckConfig([tmp_path / "s"], workers=1))
    assert (store.passed, rows(store.surveys[0])["found"]) == (True, "2 videos (.mp4 2)"), "a store without flow"
