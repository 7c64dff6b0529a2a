"""Every file of a folder is found or counted among those passed over, with the reason."""

import os
from pathlib import Path

import pytest

from vicc.data.folder_walk import WalkedFolder, walk_folder


def make(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    return folder


def files(walked: WalkedFolder) -> list[str]:
    return [str(path) for path in walked.files]


def passed(walked: WalkedFolder) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {entry.reason: (entry.count, entry.examples) for entry in walked.passed_over}


def test_links_to_folders_are_followed_and_loops_end(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "run/3.mp4", "run/deep/4.mp4")
    folder = make(tmp_path / "v", "walk/1.mp4", "walk/2.mp4")
    (folder / "run").symlink_to("../elsewhere/run")
    (folder / "walk" / "up").symlink_to("..")
    (folder / "walk" / "higher").symlink_to(tmp_path)
    (tmp_path / "elsewhere" / "run" / "deep" / "back").symlink_to("..")
    walked = walk_folder(folder)
    assert files(walked) == ["run/3.mp4", "run/deep/4.mp4", "walk/1.mp4", "walk/2.mp4"]
    assert passed(walked) == {
        "link to a folder above": (2, ("walk/higher", "walk/up")),
        "link to a folder that is there already": (1, ("run/deep/back (run)",)),
    }
    assert [entry.is_loss for entry in walked.passed_over] == [False, True]


def test_two_links_to_one_folder_are_one_folder_under_its_own_name_or_the_first(tmp_path: Path) -> None:
    make(tmp_path / "elsewhere", "x/1.mp4")
    folder = make(tmp_path / "v", "own/2.mp4")
    for name, target in (("jog", "../elsewhere/x"), ("run", "../elsewhere/x"), ("also", "own")):
        (folder / name).symlink_to(target)
    walked = walk_folder(folder)
    assert files(walked) == ["jog/1.mp4", "own/2.mp4"]
    assert passed(walked) == {"link to a folder that is there already": (2, ("also (own)", "run (jog)"))}


def test_what_leads_nowhere_or_is_no_file_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path, "a.mp4")
    (folder / "annex.mp4").symlink_to(".git/annex/objects/x")
    (folder / "self").symlink_to("self")
    os.mkfifo(folder / "pipe.mp4")
    found = passed(walk_folder(folder))
    assert found.pop("link to a file or folder that is missing") == (1, ("annex.mp4",))
    assert found.pop("no ordinary file") == (1, ("pipe.mp4",))
    [(reason, (count, names))] = found.items()
    assert reason.startswith("cannot be looked at (")
    assert (count, names) == (1, ("self",))


def test_a_folder_that_may_not_be_read_is_named_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path, "walk/1.mp4", "run/2.mp4")
    scan = os.scandir

    def refuse(path: Path) -> object:  # the tests may run as root, whom no mode stops
        if Path(path).name == "run":
            raise PermissionError(13, "Permission denied")
        return scan(path)

    monkeypatch.setattr(os, "scandir", refuse)
    walked = walk_folder(folder)
    assert files(walked) == ["walk/1.mp4"]
    assert passed(walked) == {"folder that cannot be read (Permission denied)": (1, ("run",))}
    assert walked.passed_over[0].is_loss


def test_other_suffixes_and_hidden_names_are_counted_and_the_first_few_named(tmp_path: Path) -> None:
    folder = make(
        tmp_path, "a.mp4", "b.txt", "c.TXT", "d.txt", "e.txt", "readme", ".cache/x.mp4", "run/._a.mp4", "run/G.csv"
    )
    walked = walk_folder(folder, look_for="g.csv")
    assert files(walked) == ["a.mp4"]
    assert list(map(str, walked.named)) == ["run/G.csv"]
    assert passed(walked) == {
        "hidden (a dot begins the name)": (2, (".cache", "run/._a.mp4")),
        "other suffix (none)": (1, ("readme",)),
        "other suffix .txt": (4, ("b.txt", "c.TXT", "d.txt")),
    }
    assert not any(entry.is_loss for entry in walked.passed_over)
