"""The rules by which learning rate, queue and prototypes follow batch and data."""

from dataclasses import replace

import pytest

from vicc.recipes import create_recipe
from vicc.training.fit import changes, fit_to_batch, fit_to_data, largest_batch, round_batch
from vicc.training.stage import Stage

DEFAULT = create_recipe("default").stages[0]
PUBLISHED = create_recipe("vicc_ucf101").stages[0]
MOCO = create_recipe("infonce_ucf101").stages[0]


def test_the_published_stage_is_where_the_rules_say_it_should_be() -> None:
    """192 videos a step at 0.6, 300 prototypes and 1920 rows on the 9,537 videos of UCF101."""
    assert fit_to_data(fit_to_batch(PUBLISHED, 192), 9537) == PUBLISHED
    assert largest_batch(PUBLISHED, 9537) == 192
    assert largest_batch(DEFAULT, 9537) == 190
    assert largest_batch(DEFAULT, 100) == 16


def test_rates_follow_the_batch_linearly_with_larc_and_by_its_root_with_adam() -> None:
    fitted = fit_to_batch(DEFAULT, 128)  # of 16, at 0.05
    assert (fitted.schedule.learning_rate, fitted.schedule.final_learning_rate) == (0.4, 0.0004)
    adam = DEFAULT.replace(optimizer="adamw", learning_rate=1e-3)
    assert fit_to_batch(adam, 64).schedule.learning_rate == pytest.approx(2e-3)


@pytest.mark.parametrize("stage", [DEFAULT, MOCO], ids=["vicc", "moco"])
@pytest.mark.parametrize("batch_size", [7, 16, 100])
@pytest.mark.parametrize("videos", [30, 900, 100_000])
def test_a_queue_is_whole_batches_and_at_most_a_quarter_of_the_videos(
    stage: Stage, batch_size: int, videos: int
) -> None:
    fitted = fit_to_data(fit_to_batch(stage, batch_size), videos)
    assert fitted.settings.queue_rows() % batch_size == 0
    least = batch_size if stage is MOCO else 0  # which cannot do without
    assert least <= fitted.settings.queue_rows() <= max(least, min(stage.settings.queue_rows(), videos / 4))


@pytest.mark.parametrize(("videos", "prototypes"), [(20, 10), (300, 50), (9537, 300), (240_000, 1500)])
def test_prototypes_follow_the_root_of_the_videos(videos: int, prototypes: int) -> None:
    assert fit_to_data(DEFAULT, videos).settings.prototype_heads() == (prototypes,)
    two = DEFAULT.replace(num_prototypes=(300, 600))
    assert fit_to_data(two, videos).settings.prototype_heads() == (prototypes, 2 * prototypes)


def test_what_a_contrast_alone_does_not_use_is_not_fitted() -> None:
    stage = DEFAULT.replace(swap_weight=0.0, contrast_weight=1.0)
    assert fit_to_data(stage, 300) == stage
    assert fit_to_batch(stage, 64).flat()["queue_length"] == stage.flat()["queue_length"]


def test_sizes_are_rounded_down_to_few() -> None:
    sizes = [round_batch(most) for most in range(1, 200)]
    assert sorted(set(sizes)) == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192]
    assert all(size <= most < 1.51 * size + 1 for most, size in enumerate(sizes, 1))


def test_what_changes_is_said_once_for_all_stages() -> None:
    recipe = create_recipe("default")
    fitted = replace(recipe, stages=tuple(fit_to_data(stage, 300) for stage in recipe.stages))
    assert list(changes(recipe, fitted)) == [
        "rgb-1, flow-1, rgb-2, flow-2: num_prototypes 50, not 300",
        "rgb-1, flow-1, rgb-2, flow-2: queue_length 64, not 1920",
    ]
    assert not list(changes(recipe, recipe))
