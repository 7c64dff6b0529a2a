"""The recipes of the published runs, value by value."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from vicc.errors import ViccError
from vicc.recipes import RECIPES, TRAINING_VIDEOS, create_recipe
from vicc.training.configs import PretrainConfig
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe, Stage
from vicc.transforms.augmentation import PRESETS

PUBLISHED = [name for name in RECIPES if name not in ("default", "demo")]
SIX = ["rgb-1", "flow-1", "rgb-2-cycle-1", "flow-2-cycle-1", "rgb-2", "flow-2"]

# ViCC's README and slurm_scripts/pretrain (martinetoering/ViCC, 2e9f9ca): flags of main_single.py and main_cross.py.
# Batches are those of 4 GPUs together; the queue is that of all GPUs.
VICC: dict[str, Any] = {
    "backbone": "s3d",
    "embedding_dim": 128,  # --moco-dim 128
    "clip_frames": 32,  # --seq_len 32
    "stride": 1,  # --ds 1
    "size": 128,  # --img_dim 128
    "num_prototypes": (300,),  # --nmb_prototypes 300
    "epsilon": 0.05,  # --epsilon 0.05
    "sinkhorn_iterations": 3,  # --sinkhorn_iterations 3
    "temperature": 0.1,  # --moco-t 0.1
    "queue_length": 1920,  # --moco-k 1920
    "optimizer": "larc",  # --optim sgd, and LARC around it
    "momentum": 0.9,
    "weight_decay": 1e-6,  # --wd 1e-6
    "schedule": "cosine",  # --cos True
    "learning_rate": 0.6,  # --base_lr 0.6
    "final_learning_rate": 0.0006,  # --final_lr 0.0006
    "warmup_steps": 0,  # w_e0 in the names of the published folders
    "views_with_gradient": "one",
    "batchnorm": "shuffled",
}
SINGLE = {"batch_size": 48 * 4, "epochs": 500, "stop_epoch": 300, "freeze_prototypes_epochs": 100}
CROSS = {
    "batch_size": 24 * 4,  # --batch_size 24
    "epochs": 100,  # --epochs 100
    "stop_epoch": None,
    "freeze_prototypes_epochs": 0,  # --freeze_prototypes_nepochs 0
    "queue_from_epoch": 25,  # --epoch_queue_starts 25
    "views_for_assign": (0, 1, 2, 3),  # --views_for_assign 0 1 2 3
}
# CoCLR's README (TengdaHan/CoCLR, 45f200e), and the defaults of its main_nce.py and main_coclr.py.
CONTRASTIVE: dict[str, Any] = {
    "backbone": "s3d",
    "clip_frames": 32,  # --seq_len 32
    "stride": 1,  # --ds 1
    "size": 128,  # --img_dim
    "embedding_dim": 128,  # --moco-dim
    "temperature": 0.07,  # --moco-t
    "key_momentum": 0.999,  # --moco-m
    "optimizer": "adam",
    "momentum": 0.9,  # Adam's beta 1
    "learning_rate": 1e-3,  # --lr
    "weight_decay": 1e-5,  # --wd
    "schedule": "step",
    "decay": 0.1,
    "warmup_steps": 0,
    "batchnorm": "shuffled",
}
NCE = {"epochs": 300, "milestones": (250, 280), "stop_epoch": None}  # --epochs 300 --schedule 250 280
COCLR_UCF101 = {"epochs": 100, "milestones": (80,), "num_mined": 5}  # --epochs 100 --schedule 80 --topk 5
COCLR_K400 = {"epochs": 50, "milestones": (40,), "num_mined": 5}  # --epochs 50 --schedule 40 --topk 5
ON_UCF101 = {"batch_size": 32 * 2, "queue_length": 2048}  # --nproc_per_node=2 --moco-k 2048
ON_K400 = {"batch_size": 32 * 4, "queue_length": 16384}  # --nproc_per_node=4 --moco-k 16384
ON_K400_COCLR = {"batch_size": 32 * 2, "queue_length": 16384}  # --nproc_per_node=2 --moco-k 16384

VICC_RUN = [
    {**VICC, **SINGLE, "queue_from_epoch": 150, "views_for_assign": (0, 1)},  # e_q150 of the released checkpoint
    {**VICC, **SINGLE, "queue_from_epoch": 200, "views_for_assign": (0, 1)},  # e_q200
    *[{**VICC, **CROSS}] * 4,
]
EXPECTED: dict[str, list[dict[str, Any]]] = {
    "vicc_ucf101": VICC_RUN,
    "vicc_k400": VICC_RUN,  # assumed
    "infonce_ucf101": [{**CONTRASTIVE, **NCE, **ON_UCF101}] * 2,
    "infonce_k400": [{**CONTRASTIVE, **NCE, **ON_K400}] * 2,
    "ubernce_ucf101": [{**CONTRASTIVE, **NCE, **ON_UCF101}] * 2,  # assumed
    "coclr_ucf101": [
        *[{**CONTRASTIVE, **NCE, **ON_UCF101}] * 2,
        *[{**CONTRASTIVE, **COCLR_UCF101, **ON_UCF101}] * 4,
    ],
    "coclr_k400": [
        *[{**CONTRASTIVE, **NCE, **ON_K400}] * 2,
        *[{**CONTRASTIVE, **COCLR_K400, **ON_K400_COCLR}] * 2,
    ],
}


def test_every_published_recipe_is_held_to_a_table() -> None:
    assert sorted(EXPECTED) == sorted(PUBLISHED)


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_recipe_has_the_published_values(name: str) -> None:
    stages = create_recipe(name).stages
    assert len(stages) == len(EXPECTED[name])
    for stage, expected in zip(stages, EXPECTED[name], strict=True):
        assert {field: stage.flat()[field] for field in expected} == expected, stage.name


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_published_recipe_sees_what_was_published(name: str) -> None:
    for stage in create_recipe(name).stages:
        assert stage.augmentation == PRESETS["published"]
        assert (stage.encoder.flow_channels, stage.encoder.flow_short_side) == ("128vu", 240)
        assert (stage.view_distance, stage.settings.small_resolutions()) == ("any", ())


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_survives_json(name: str) -> None:
    recipe = create_recipe(name)
    assert recipe.name == name
    assert Recipe.from_json(json.loads(json.dumps(recipe.to_json()))) == recipe


@pytest.mark.parametrize("name", ["vicc_ucf101", "vicc_k400", "coclr_ucf101"])
def test_two_cycles_always_take_the_newest(name: str) -> None:
    """The published alternation: RGB from the newest RGB with the newest flow, then flow likewise."""
    stages = create_recipe(name).stages
    assert [stage.name for stage in stages] == SIX
    newest: dict[str, str | None] = {"rgb": None, "flow": None}
    for stage in stages:
        other = "flow" if stage.stream == "rgb" else "rgb"
        assert stage.start_from == newest[stage.stream]
        assert stage.teacher == (newest[other] if "-2" in stage.name else None)
        newest[stage.stream] = stage.name


def test_methods_of_the_stages() -> None:
    def methods(name: str) -> list[str]:
        return [stage.method for stage in create_recipe(name).stages]

    assert methods("vicc_ucf101") == ["single_stream"] * 2 + ["cross_stream"] * 4
    assert methods("coclr_ucf101") == ["infonce"] * 2 + ["coclr"] * 4
    assert methods("coclr_k400") == ["infonce"] * 2 + ["coclr"] * 2
    assert methods("infonce_ucf101") == methods("infonce_k400") == ["infonce"] * 2
    assert methods("ubernce_ucf101") == ["ubernce"] * 2


def test_coclr_begins_as_infonce_does() -> None:
    for data in ("ucf101", "k400"):
        assert create_recipe(f"coclr_{data}").stages[:2] == create_recipe(f"infonce_{data}").stages


@pytest.mark.parametrize("name", PUBLISHED)
def test_it_is_known_how_many_videos_a_published_recipe_was_made_for(name: str) -> None:
    assert TRAINING_VIDEOS[name.split("_")[1]] > 9000


@pytest.mark.parametrize(
    ("stage", "encoded"),
    [
        (Stage("a", "single_stream", "rgb", epochs=1), (2, 0)),
        (Stage("a", "single_stream", "rgb", epochs=1, small_views="4x96+2x64"), (8, 0)),
        (Stage("a", "single_stream", "rgb", epochs=1, views_with_gradient="one"), (1, 1)),
        (Stage("a", "cross_stream", "rgb", epochs=1, teacher="b"), (2, 2)),
        (Stage("a", "cross_stream", "rgb", epochs=1, teacher="b", views_with_gradient="one"), (1, 3)),
        (Stage("a", "infonce", "rgb", epochs=1, queue_length=8), (1, 1)),
        (Stage("a", "coclr", "rgb", epochs=1, teacher="b", queue_length=8), (1, 2)),
    ],
    ids=lambda value: value.method if isinstance(value, Stage) else str(value),
)
def test_clips_that_a_step_encodes(stage: Stage, encoded: tuple[int, int]) -> None:
    assert stage.settings.clips_encoded() == encoded


def test_views_reach_every_vicc_stage_and_no_other() -> None:
    default = create_recipe("default", views="2x112+4x96+2x64")
    assert {(stage.encoder.size, stage.settings.small_views) for stage in default.stages} == {(112, "4x96+2x64")}
    assert default == replace(
        create_recipe("default"),
        stages=tuple(stage.replace(size=112, small_views="4x96+2x64") for stage in create_recipe("default").stages),
    )
    assert create_recipe("coclr_ucf101", views="2x112+4x96") == create_recipe("coclr_ucf101")


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_motion_diff_takes_the_place_of_flow_and_changes_nothing_else(name: str) -> None:
    flow, diff = create_recipe(name), create_recipe(name, motion="diff")
    assert [stage.name for stage in diff.stages] == [stage.name.replace("flow", "diff") for stage in flow.stages]
    assert {stage.stream for stage in diff.stages} == {"rgb", "diff"}
    renamed = json.loads(json.dumps(flow.to_json()["stages"]).replace('"flow', '"diff').replace('"diff_', '"flow_'))
    assert diff.to_json()["stages"] == renamed
    assert create_recipe(name, motion="flow") == flow
    assert create_recipe(name, motion="diff", changes=["diff-1.size=64"]).stages[1].encoder.size == 64


def test_views_without_small_ones_change_the_size_only() -> None:
    assert {
        (stage.encoder.size, stage.settings.small_views) for stage in create_recipe("vicc_ucf101", views="2x112").stages
    } == {(112, "")}


def test_small_views_that_would_have_no_gradient_are_refused() -> None:
    with pytest.raises(ViccError, match="views_with_gradient=both"):
        create_recipe("vicc_ucf101", views="2x128+4x96")


@pytest.mark.parametrize("name", ["vicc_ucf101", "coclr_k400", "ubernce_ucf101"])
def test_a_published_recipe_runs_from_end_to_end(name: str, store_path: Path, tmp_path: Path) -> None:
    """One step a stage, on the smallest network and clips; everything else as published."""
    small = ["backbone=s3d-demo", "clip_frames=8", "size=32", "batch_size=4", "queue_length=8", "steps=1"]
    recipe = create_recipe(name, changes=[f"all.{change}" for change in ["stop_epoch=none", *small]])
    summaries = pretrain(recipe, PretrainConfig(store=store_path, run=tmp_path))
    assert [stage.name for stage in summaries if stage.finished] == [stage.name for stage in recipe.stages]
