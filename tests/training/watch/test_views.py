from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest

from vicc.data.store import Store
from vicc.training.build import build_dataset, build_task
from vicc.training.stage import Recipe
from vicc.training.watch.views import color_flow, write_views


def hue_of(u: int, v: int) -> int:
    """The hue, 0 to 255, that flow of these stored values gets."""
    flow = np.full((1, 4, 4, 2), (u, v), np.uint8)
    return int(cv2.cvtColor(color_flow(flow)[0], cv2.COLOR_RGB2HSV_FULL)[0, 0, 0])


def test_the_hue_of_flow_is_its_direction() -> None:
    right, down, left, up = (hue_of(*flow) for flow in ((228, 128), (128, 228), (28, 128), (128, 28)))
    assert [right, down, left, up] == [pytest.approx(value, abs=2) for value in (0, 64, 128, 192)]


def test_what_stands_still_has_no_colour_and_slow_motion_little() -> None:
    flow = np.full((1, 1, 3, 2), 128, np.uint8)
    flow[0, 0, :, 0] = (128, 131, 228)
    still, slow, fast = (int(colour.max()) - int(colour.min()) for colour in color_flow(flow)[0, 0])
    assert still == 0
    assert 0 < slow < 20
    assert fast > 200


def test_all_frames_share_one_scale_so_that_noise_between_motions_stays_faint() -> None:
    flow = np.full((2, 1, 1, 2), 128, np.uint8)
    flow[:, 0, 0, 0] = (134, 228)
    faint, strong = (int(colour.max()) - int(colour.min()) for colour in color_flow(flow)[:, 0, 0])
    assert faint < 25 < 200 < strong


def test_both_layouts_of_flow_look_the_same() -> None:
    uv = np.random.default_rng(0).integers(0, 256, (2, 5, 4, 2)).astype(np.uint8)
    image = np.concatenate([np.full_like(uv[..., :1], 128), uv[..., ::-1]], axis=-1)
    assert np.array_equal(color_flow(uv), color_flow(image))


@pytest.mark.parametrize("stage_name", ["rgb-1", "flow-1", "rgb-2"])
def test_the_sheet_shows_the_very_pixels_that_enter_the_network(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path, stage_name: str
) -> None:
    stage = next(stage for stage in tiny_recipe.stages if stage.name == stage_name)
    stage = stage.replace(method="single_stream", teacher=None, start_from=None, small_views="2x16", name="s")
    store = Store(store_path)
    dataset = build_dataset(stage, build_task(stage, tmp_path, store), store, store.videos, seed=3)
    write_views(tmp_path / "views.png", dataset, title="what it sees")
    sheet = cv2.cvtColor(cv2.imread(str(tmp_path / "views.png")), cv2.COLOR_BGR2RGB)
    clip = dataset[(0, 0)].clips[stage.stream][0]
    first = (
        clip[0] if stage.stream == "rgb" else color_flow(clip[np.linspace(0, len(clip) - 1, 5).round().astype(int)])[0]
    )
    enlarged = cv2.resize(first, (112, 112), interpolation=cv2.INTER_NEAREST)
    left, top = cv2.minMaxLoc(cv2.matchTemplate(sheet, enlarged, cv2.TM_SQDIFF))[2]
    assert np.array_equal(sheet[top : top + 112, left : left + 112], enlarged)


def test_names_of_files_may_be_anything(tiny_recipe: Recipe, store_path: Path, tmp_path: Path) -> None:
    store = Store(store_path)
    stage = tiny_recipe.stages[0]
    dataset = build_dataset(stage, build_task(stage, tmp_path, store), store, store.videos[:1], seed=3)
    video = dataset.videos[0]
    usual = store.frames
    store.frames = lambda name, *rest: usual(video.id, *rest)  # type: ignore[method-assign]
    dataset.videos[0] = replace(video, id="$\\frac{a\udcff/" + "long" * 20 + ".mp4")
    write_views(tmp_path / "views.png", dataset, title=stage.name)
    assert (tmp_path / "views.png").stat().st_size > 1000
