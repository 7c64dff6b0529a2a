"""Which folders are sides of a division, and which are classes that are called like one."""

import pytest

from vicc.data.sides import find_side_folders, kind_of, resolve_sides


def sides(*paths: str) -> dict[str, str]:
    """Folders that are sides, of paths of folders that hold files."""
    found = find_side_folders(tuple(path.split("/")) if path else () for path in paths)
    return {"/".join(folders): kind for folders, kind in found.sides.items()}


def notes(*paths: str) -> tuple[str, ...]:
    return find_side_folders(tuple(path.split("/")) for path in paths).notes


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ("train", "valid"),
        ("train", "dev"),
        ("train", "eval"),
        ("train", "holdout"),
        ("Training", "Validation"),
        ("trainset", "testset"),
        ("Train Set", "test-set"),
        ("train_256", "val_256"),
        ("train2017", "val2017"),
        ("train_videos", "test_videos"),
        ("kinetics400_train", "kinetics400_val"),
        ("train-clean-100", "test-clean"),
        ("train", "test_unseen"),
        ("train_part_1", "test"),
        ("trainval", "test"),
        ("train_val", "test"),
    ],
)
def test_a_training_side_and_its_counterpart_in_many_spellings(train: str, held_out: str) -> None:
    found = sides(f"{train}/a", f"{train}/b", f"{held_out}/a")
    assert set(found) == {train, held_out}
    assert found[train] == "train" != found[held_out]
    assert set(sides(train, held_out)) == {train, held_out}, "flat folders too"
    assert set(sides(f"set/{train}/a", f"set/{held_out}/a")) == {f"set/{train}", f"set/{held_out}"}, "inside a folder"


@pytest.mark.parametrize("name", ["train", "training", "test", "validation", "val", "dev", "test1", "train_256"])
def test_a_folder_without_a_counterpart_among_classes_is_a_class_and_that_is_said(name: str) -> None:
    assert sides("bus", "car", name) == {}
    [note] = notes("bus", "car", name)
    assert f"the folder {name}" in note
    assert "taken for a class" in note


@pytest.mark.parametrize("name", ["training dog", "test drive", "strain", "latest", "device", "validating"])
def test_a_class_with_such_a_word_in_its_name_is_nothing_to_speak_of(name: str) -> None:
    assert (sides("bus", name), notes("bus", name)) == ({}, ())


def test_a_training_side_beside_folders_that_no_word_is_known_for_is_said() -> None:
    assert sides("train/a", "train/b", "unseen/a") == {"train": "train"}
    [note] = notes("train/a", "train/b", "unseen/a")
    assert "the folder unseen are not held out" in note


def test_folders_beside_both_sides_are_said() -> None:
    [note] = notes("train/a", "test/a", "extra/a")
    assert note == "no side is known for the folder extra, beside the folders test and train: videos there train"


def test_sides_inside_each_class_are_sides_even_where_a_class_has_only_one() -> None:
    assert sides("run/train", "run/test", "jump/train") == {
        "run/train": "train",
        "run/test": "test",
        "jump/train": "train",
    }


def test_a_class_inside_a_side_is_no_side() -> None:
    assert sides("train/train", "train/bus", "test/train", "test/test") == {"train": "train", "test": "test"}


def test_of_held_out_videos_of_two_kinds_one_is_tested() -> None:
    def resolved(*words: str) -> list[str | None]:
        return resolve_sides([kind_of(word) for word in words])

    assert resolved("train", "val", "test", "") == ["train", "val", "test", None]
    assert resolved("train", "dev", "eval") == ["train", "val", "test"]
    assert resolved("train", "val", "validation") == ["train", "test", "test"]
    assert resolved("train", "") == ["train", None]
    assert resolved("Train_256", "HOLDOUT") == ["train", "test"]
