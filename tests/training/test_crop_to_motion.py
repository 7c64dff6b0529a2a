"""A run that crops to motion: its setting, what is said before it, and what is measured after it."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.conftest import write_frames
from tests.data.test_motion_boxes import MIDDLES, pictures
from vicc.cli import main
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation.classifier_recipe import classifier_recipe
from vicc.evaluation.configs import FinetuneConfig
from vicc.evaluation.encoders import clip_words, in_keys
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.prepare.build import prepare_videos
from vicc.prepare.configs import PrepareConfig
from vicc.recipes import create_recipe
from vicc.training.checkpoint import load_encoder, save_encoder
from vicc.training.small_boxes import say_small_boxes
from vicc.training.stage import Recipe

SMALL = ("all.clip_frames=8", "all.num_prototypes=4", "all.batch_size=4", "all.warmup_steps=1", "all.steps=3")


@pytest.fixture(scope="module")
def store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight videos of two classes: small squares that move to the right, and to the left."""
    folder = tmp_path_factory.mktemp("squares")
    for number, middle in enumerate((*MIDDLES.values(), (66, 36))):
        write_frames(folder / "videos" / "right" / f"{number}.mp4", pictures(middle))
        write_frames(folder / "videos" / "left" / f"{number}.mp4", pictures(middle)[::-1])
    prepare_videos(PrepareConfig(folder / "videos", folder / "store", short_side=96, flow_bound=8, workers=1))
    return folder / "store"


def pretrain(store: Path, run: Path, *changes: str, more: tuple[str, ...] = ()) -> int:
    words = ["pretrain", "--recipe", "demo", "--store", store, "--run", run, "--workers", 0, *more]
    return main([*map(str, words), "--set", *SMALL, *changes])


# --- the setting -----------------------------------------------------------------------------------------------------


def test_it_is_set_like_any_field_of_the_encoder_and_survives_json() -> None:
    recipe = create_recipe("demo", changes=["all.crop=motion"])
    assert {stage.encoder.crop for stage in recipe.stages} == {"motion"}
    assert {stage.encoder.crop for stage in create_recipe("demo").stages} == {"frame"}
    assert Recipe.from_json(recipe.to_json()) == recipe
    with pytest.raises(ViccError, match=r"'middle' is not a value for crop"):
        create_recipe("demo", changes=["all.crop=middle"])


def test_a_recipe_and_an_encoder_of_an_earlier_version_crop_the_frame(tmp_path: Path) -> None:
    content = create_recipe("demo").to_json()
    for stage in content["stages"]:
        del stage["crop"]
    assert Recipe.from_json(content) == create_recipe("demo")
    save_encoder(tmp_path, Encoder(EncoderConfig("rgb", backbone="s3d-demo", clip_frames=6, size=32)))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.pop("crop") == "frame"
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert load_encoder(tmp_path).config.crop == "frame"


def test_a_teacher_sees_the_views_of_its_student_so_both_crop_alike() -> None:
    with pytest.raises(ViccError, match=r"Stage rgb-2 has crop=motion, its teacher flow-1 crop=frame"):
        create_recipe("demo", changes=["rgb-1.crop=motion", "rgb-2.crop=motion"])
    create_recipe("demo", changes=["rgb-1.crop=motion"])  # weights may come from any crop


def test_a_classifier_crops_as_its_encoder_was_trained() -> None:
    config = FinetuneConfig(encoder=Path("e"), store=Path("s"), run=Path("r"))
    encoder = EncoderConfig("rgb", crop="motion")
    (stage,) = classifier_recipe(config, encoder, num_videos=100, num_classes=4).stages
    assert stage.encoder.crop == "motion"


def test_features_that_an_earlier_version_has_kept_stay_valid_and_others_have_a_key_of_their_own() -> None:
    frame, motion = (EncoderConfig("rgb", crop=crop) for crop in ("frame", "motion"))  # type: ignore[arg-type]
    assert "crop" not in in_keys(frame)
    assert in_keys(motion) == {**in_keys(frame), "crop": "motion"}
    assert clip_words(motion) == clip_words(frame) + ", around the motion"


# --- what is said before ---------------------------------------------------------------------------------------------


def said(store: Path, capsys: pytest.CaptureFixture[str], *changes: str) -> str:
    say_small_boxes(create_recipe("demo", changes=[*SMALL, *changes]), Store(store), Store(store).videos)
    return " ".join(capsys.readouterr().err.split())


def test_boxes_with_fewer_pixels_than_the_clips_are_said_with_the_frames_that_would_do(
    store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = said(store_path, capsys, "all.crop=motion", "all.size=24", "flow-1.size=64")
    assert text.startswith("flow-1: most boxes of motion are smaller than the clips of 64 x 64")
    found = re.search(r"median (\d+) pixels, 8 videos looked at, frames of 96", text)
    proposed = re.search(r"vicc prepare --short-side (\d+)", text)
    assert found
    assert proposed
    assert 32 <= int(found[1]) < 48
    assert int(proposed[1]) % 16 == 0
    assert 64 <= int(found[1]) * int(proposed[1]) / 96 < 64 + 16


def test_nothing_is_said_where_boxes_are_large_enough_or_not_looked_for(
    store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert said(store_path, capsys, "all.crop=motion", "all.size=24") == ""
    assert said(store_path, capsys, "all.size=64") == ""


def test_a_dry_run_says_it_once_for_stages_alike(store_path: Path, tmp_path: Path, capsys: Any) -> None:
    options = ("all.crop=motion", "all.size=64", "all.backbone=s3d-demo")
    assert pretrain(store_path, tmp_path / "run", *options, more=("--dry-run",)) == 0
    text = " ".join(capsys.readouterr().err.split())
    assert text.count("most boxes of motion are smaller") == 1
    assert "rgb-1, flow-1, rgb-2, flow-2: most boxes" in text
    assert not (tmp_path / "run").exists()


# --- a run -----------------------------------------------------------------------------------------------------------


def test_a_run_is_trained_resumed_and_measured_near_motion(store_path: Path, tmp_path: Path, capsys: Any) -> None:
    options = ("all.crop=motion", "all.size=32", "all.small_views=1x16")
    for stages in (("flow-1",), ("rgb-1", "flow-1", "rgb-2")):  # rgb-2 sees both streams
        assert pretrain(store_path, tmp_path / "run", *options, more=("--stages", *stages)) == 0
    assert load_encoder(tmp_path / "run" / "rgb-2").config.crop == "motion"
    assert (tmp_path / "run" / "rgb-2" / "views.png").exists()
    capsys.readouterr()
    assert main(["retrieve", "--run", str(tmp_path / "run"), "--store", str(store_path), "--json"]) == 0
    rows = {row["name"]: row for row in json.loads(capsys.readouterr().out)["rows"]}
    assert rows["RGB-2"]["model"]["clip"] == "8 frames, 32 x 32, around the motion"
    assert rows["untrained Flow"]["model"]["clip"] == "8 frames, 32 x 32, around the motion"


def test_two_runs_of_the_same_seed_end_with_the_same_weights(store_path: Path, tmp_path: Path) -> None:
    found = []
    for name in ("one", "two"):
        options, more = ("all.crop=motion", "all.size=32"), ("--stages", "flow-1", "--evaluate-epochs", "0")
        assert pretrain(store_path, tmp_path / name, *options, more=more) == 0
        found.append(load_encoder(tmp_path / name / "flow-1").state_dict())
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
    assert np.isfinite([float(value.abs().sum()) for value in found[0].values()]).all()
