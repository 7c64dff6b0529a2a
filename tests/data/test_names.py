"""Names of videos are read as they were meant, whoever wrote them; nothing is guessed where two videos fit."""

import unicodedata
from pathlib import Path

import pytest

from vicc.data.names import ExistingFiles, VideoNames, clean_path, without_suffix

IDS = ["fight/cam1_1.mp4", "fight/cam1_2.mp4", "quiet/v1.0.mp4", "quiet/T\u00fcr.MP4"]


@pytest.mark.parametrize(
    "written",
    [
        "fight/cam1_1.mp4",
        "fight\\cam1_1.mp4",
        "./fight/cam1_1.mp4",
        ".\\fight\\cam1_1.mp4",
        " fight/cam1_1.mp4 ",
        '"fight/cam1_1.mp4"',
        "fight//cam1_1.mp4",
        "quiet/../fight/cam1_1.mp4",
        "fight/cam1_1",
        "fight/cam1_1.MP4",
        "fight/cam1_1.avi",
        "Fight/CAM1_1.mp4",
        "clips/fight/cam1_1.mp4",
        "/data/clips/fight/cam1_1.mp4",
        "/elsewhere/clips/fight/cam1_1.mp4",
        "C:\\Users\\me\\clips\\fight\\cam1_1.mp4",
        "D:\\others\\fight\\cam1_1",
    ],
)
def test_a_name_in_any_spelling_finds_its_video(written: str) -> None:
    assert VideoNames(IDS, folder=Path("/data/clips")).match([written]).ids == [IDS[0]]


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_both_unicode_forms_are_one_name_on_either_side(form: str) -> None:
    name = unicodedata.normalize(form, IDS[3])
    other = unicodedata.normalize({"NFC": "NFD", "NFD": "NFC"}[form], IDS[3])
    assert name != other
    assert VideoNames([name]).match([other, other[:-4]]).ids == [name, name]


@pytest.mark.parametrize("written", ["cam1_1.mp4", "other/cam1_1.mp4", "fight/cam1_3.mp4", "", "quiet/v1"])
def test_what_names_no_video_finds_none(written: str) -> None:
    """The same name in another folder is another video, and a dot in a name begins no suffix."""
    found = VideoNames(IDS, folder=Path("/data/clips")).match([written])
    assert (found.ids, found.ambiguous) == ([None], {})


def test_of_two_videos_that_fit_none_is_chosen_and_an_exact_name_wins() -> None:
    names = VideoNames(["a/1.avi", "a/1.mp4"])
    found = names.match(["a/1", "a/1.mp4"])
    # The second name takes its video, so that one is left for the first.
    assert (found.ids, found.ambiguous) == (["a/1.avi", "a/1.mp4"], {})
    assert names.match(["a/1"]).ambiguous == {"a/1": ["a/1.avi", "a/1.mp4"]}
    gone = names.match(["a/1.mov"])
    assert (gone.ids, gone.ambiguous) == ([None], {})


def test_a_name_without_suffix_is_a_second_name_of_its_video() -> None:
    assert VideoNames(["a/1.mp4"]).match(["a/1.mp4", "a/1"]).ids == ["a/1.mp4", "a/1.mp4"]


def test_a_guess_takes_no_video_that_another_name_means() -> None:
    assert VideoNames(["a/1.mp4"]).match(["a/1.avi", "./a/1.mp4"]).ids == [None, "a/1.mp4"]


def test_absolute_names_under_several_folders_are_not_guessed() -> None:
    """`/x/a/1.mp4` and `/x/b/1.mp4` could both be 1.mp4."""
    assert VideoNames(["1.mp4"]).match(["/x/a/1.mp4", "/x/b/1.mp4"]).ids == [None, None]


def test_a_name_with_a_backslash_in_it_is_taken_as_it_is_where_there_is_one() -> None:
    odd = ["a\\b.mp4", "a/b.mp4", " blank.mp4"]
    assert VideoNames(odd).match(odd).ids == odd


def test_only_the_suffix_of_a_video_is_one() -> None:
    assert [without_suffix(name) for name in ("a.mp4", "a.v2.WebM", "a.v2", "a")] == ["a", "a.v2", "a.v2", "a"]
    assert clean_path("") == ""


def test_files_are_found_in_another_unicode_form_and_without_their_suffix(tmp_path: Path) -> None:
    folder = tmp_path / unicodedata.normalize("NFD", "Stra\u00dfe \u00fc")
    folder.mkdir()
    for name in ("a.mp4", "b.mp4", "b.avi", "c.txt"):
        (folder / name).touch()
    files = ExistingFiles()
    written = tmp_path / unicodedata.normalize("NFC", folder.name)
    assert files.find(written / "a") == files.find(written / "a.MP4") == folder / "a.mp4"
    assert files.find(written / "b.avi") == folder / "b.avi"
    for missing in ("b", "c", "d.mp4"):
        assert files.find(written / missing) == written / missing
