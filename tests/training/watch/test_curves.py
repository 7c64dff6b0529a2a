import math
from pathlib import Path

import cv2
import pytest

from vicc.recipes import create_recipe
from vicc.training.watch.curves import curves_figure, curves_svg, write_curves

STAGE = create_recipe("demo").stages[1]
LOG = [
    {"step": step, "loss": 4.5 - step / 100, "prototypes_used": 8.0, "learning_rate": 0.1, "effective_rank": 2.0}
    for step in range(100)
]


def lines(figure, title: str):  # type: ignore[no-untyped-def]
    (axes,) = [axes for axes in figure.axes if axes.get_title(loc="left").startswith(title)]
    return axes.get_lines()


def test_the_curves_are_those_of_the_log() -> None:
    figure = curves_figure(STAGE, LOG, batch_size=16, panels=("loss", "use"))
    every, smooth, chance = lines(figure, "loss")
    assert list(every.get_ydata()) == pytest.approx([row["loss"] for row in LOG])
    assert list(smooth.get_ydata())[10:90] == pytest.approx([row["loss"] for row in LOG][10:90])
    assert chance.get_ydata()[0] == pytest.approx(STAGE.settings.chance_loss(16))
    assert lines(figure, "prototypes")[-1].get_ydata()[5] == pytest.approx(8 / 16)


def test_the_loss_is_drawn_for_the_batch_of_all_processes_and_prototypes_for_that_of_one() -> None:
    stage = STAGE.replace(contrast_weight=1.0)
    figure = curves_figure(stage, LOG, batch_size=32, processes=2, panels=("loss", "use"))
    chance = lines(figure, "loss")[-1].get_ydata()[0]
    assert chance == pytest.approx(math.log(50) + math.log(63))  # 50 prototypes; two views of 32 videos, but itself
    assert lines(figure, "prototypes")[-1].get_ydata()[5] == pytest.approx(8 / 16)


def test_a_figure_is_the_same_bytes_each_time() -> None:
    def draw() -> bytes:
        return curves_svg(curves_figure(STAGE, LOG, batch_size=16, panels=("loss",)), salt="s")

    assert draw() == draw()


@pytest.mark.parametrize("rows", [1, 2, 100])
def test_a_picture_shows_what_there_is(tmp_path: Path, rows: int) -> None:
    def height(log: list[dict[str, float]], epochs: list[dict[str, float]]) -> int:
        write_curves(tmp_path / "curves.png", STAGE, log, epochs, batch_size=16)
        return cv2.imread(str(tmp_path / "curves.png")).shape[0]

    few = height([{"step": row["step"], "loss": row["loss"]} for row in LOG[:rows]], [])
    more = height(LOG[:rows], [])
    assert few < more < height(LOG[:rows], [{"step": 0, "instance_recall": 0.5}])
