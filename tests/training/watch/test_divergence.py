"""A training that diverges stops, keeps what was good and shows the batch it happened with."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from vicc.data.loader import EpochBatches
from vicc.errors import Diverged, ViccError
from vicc.training.checkpoint import CheckpointFolder
from vicc.training.configs import PretrainConfig
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe
from vicc.training.train_stage import stage_seed
from vicc.training.watch.divergence import require_finite
from vicc.training.watch.log import read_log


def test_the_last_good_checkpoint_stays_and_the_batch_is_written(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    """Rates are sound for an epoch, then far too large."""
    stage = tiny_recipe.stages[0].replace(
        steps=9,
        batch_size=4,
        optimizer="adamw",
        schedule="step",
        warmup_steps=0,
        milestones=(1,),
        decay=1e30,
        learning_rate=1e-3,
    )
    config = PretrainConfig(store=store_path, run=tmp_path)
    with pytest.raises(ViccError, match="training has diverged") as caught:
        pretrain(replace(tiny_recipe, stages=(stage,)), config)
    state = CheckpointFolder(tmp_path / "rgb-1").load_newest()
    assert state is not None
    assert state["step"] == 3
    assert all(value.isfinite().all() for value in state["model"].values())
    assert [row["step"] for row in read_log(tmp_path / "rgb-1")][:3] == [0, 1, 2]

    (kept,) = (tmp_path / "rgb-1" / "diverged").glob("*.npz")
    step = int(kept.name[:8])
    assert str(kept) in str(caught.value)
    assert step > 3
    with np.load(kept) as arrays:
        assert arrays["clips_rgb"].shape == (4, 2, 3, 8, 32, 32)
        assert arrays["clips_rgb"].dtype == np.uint8
        expected = EpochBatches(12, 4, first_step=0, last_step=9, seed=stage_seed(31, "rgb-1")).batch(step)
        assert arrays["index"].tolist() == [position for _, position in expected]
    assert len(json.loads(kept.with_suffix(".json").read_text())["videos"]) == 4


def test_weights_that_are_not_finite_are_named_before_they_are_saved() -> None:
    module = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2))
    require_finite(module)
    module[1].bias.data[0] = torch.inf
    with pytest.raises(Diverged, match=r"1 weights are not finite \(1.bias\)"):
        require_finite(module)
