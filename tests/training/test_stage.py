from typing import Any

import pytest

from vicc.errors import ViccError
from vicc.recipes import RECIPES, create_recipe
from vicc.training.stage import Recipe, Stage


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_is_described_and_survives_json(name: str) -> None:
    recipe = create_recipe(name)
    assert recipe.description
    assert recipe.name == name
    assert Recipe.from_json(recipe.to_json()) == recipe


@pytest.mark.parametrize("name", ["default", "demo"])
def test_one_cycle_alternates_as_the_paper_does(name: str) -> None:
    stages = {stage.name: stage for stage in create_recipe(name).stages}
    assert stages["rgb-1"].method == stages["flow-1"].method == "single_stream"
    assert (stages["rgb-2"].start_from, stages["rgb-2"].teacher) == ("rgb-1", "flow-1")
    assert (stages["flow-2"].start_from, stages["flow-2"].teacher) == ("flow-1", "rgb-2")


@pytest.mark.parametrize(
    ("change", "field", "value"),
    [
        ("rgb-1.learning_rate=0.5", "learning_rate", 0.5),
        ("rgb-1.epochs=7", "epochs", 7),
        ("all.optimizer=larc", "optimizer", "larc"),
        ("rgb-1.views_with_gradient=one", "views_with_gradient", "one"),
    ],
)
def test_changes_reach_the_stage_with_the_right_type(change: str, field: str, value: object) -> None:
    stage = create_recipe("demo", changes=[change]).stages[0]
    assert stage.flat()[field] == value
    assert type(stage.flat()[field]) is type(value)


def test_changes_of_one_stage_leave_the_others_and_epochs_push_out_steps() -> None:
    demo = create_recipe("demo")
    changed = create_recipe("demo", changes=["rgb-1.epochs=7", "rgb-1.augmentation.crop_area=0.5,1"])
    assert changed.stages[1:] == demo.stages[1:]
    assert (changed.stages[0].length.epochs, changed.stages[0].length.steps) == (7, None)
    assert changed.stages[0].augmentation.crop_area == (0.5, 1.0)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("rgb-1.epochs", "STAGE.FIELD=VALUE"),
        ("rgb-9.epochs=1", "no stage rgb-9"),
        ("rgb-1.epoch=1", "no field epoch"),
        ("rgb-1.steps=many", "'many' is not a value"),
        ("rgb-1.optimizer=adagrad", "'adagrad' is not a value"),
        ("rgb-1.batch_size=0", "expected at least 1"),
        ("rgb-1.temperature=0", "above 0"),
        ("rgb-1.augmentation.flip=2", "probability"),
        ("rgb-1.augmentation.crop_area=1", "is not a value"),
        ("rgb-2.teacher=none", "needs a teacher"),
        ("rgb-2.teacher=flow-2", "not an earlier stage"),
        ("rgb-2.start_from=flow-1", "another stream"),
        ("flow-2.teacher=flow-1", "so does its teacher"),
    ],
)
def test_contradictions_are_refused_in_the_words_of_the_flag(change: str, sentence: str) -> None:
    with pytest.raises(ViccError, match=sentence):
        create_recipe("demo", changes=[change])


def test_unknown_recipes_are_named_with_the_known_ones() -> None:
    with pytest.raises(ViccError, match="demo"):
        create_recipe("nothing")


def test_a_stage_lasts_either_epochs_or_steps() -> None:
    for lengths in ({}, {"epochs": 1, "steps": 1}):
        with pytest.raises(ViccError, match="give one of the two"):
            Stage("a", "single_stream", "rgb", **lengths)  # type: ignore[arg-type]


def test_a_learning_rate_that_no_float_of_32_bits_holds_is_refused() -> None:
    with pytest.raises(ViccError, match=r"learning_rate is 1e\+99; expected 0 or more, 1e\+30 at most"):
        create_recipe("demo", changes=["rgb-1.learning_rate=1e99"])


@pytest.mark.parametrize("name", ["", "all", "../other", "a/b", "a.b", ".hidden", "two words", 3, None])
def test_a_stage_has_a_name_that_can_be_a_folder_in_the_run_and_stand_in_a_change(name: Any) -> None:
    with pytest.raises(ViccError, match="expected letters, digits, - and _"):
        Stage(name, "single_stream", "rgb", steps=1)


@pytest.mark.parametrize("views", [None, "published", [], 5])
def test_an_augmentation_that_is_none_is_refused_from_json_and_from_python(views: Any) -> None:
    content = create_recipe("demo").to_json()
    content["stages"][0]["augmentation"] = views
    with pytest.raises(ViccError, match=r"Stage rgb-1: augmentation is .*; expected an object"):
        Recipe.from_json(content)
    if views is not None:
        with pytest.raises(ViccError, match=r"Stage rgb-1: augmentation is .*; expected an Augmentation"):
            Stage("rgb-1", "single_stream", "rgb", steps=1, augmentation=views)


@pytest.mark.parametrize("field", ["flow_center", "flow_as_image"])
def test_a_text_is_no_truth_value_of_an_augmentation(field: str) -> None:
    content = create_recipe("demo").to_json()
    content["stages"][0]["augmentation"][field] = "false"
    with pytest.raises(ViccError, match=f"augmentation.{field} is 'false'; expected true or false"):
        Recipe.from_json(content)
