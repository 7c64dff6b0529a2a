"""The picture of the README: test videos of a demo, each beside the training videos that its encoder finds nearest.

    make demo
    python benchmarks/picture.py --run vicc-demo/run --store vicc-demo/store --out docs/neighbours.jpg

A line for the first test video of every class, in alphabetical order: nothing is chosen. The middle frame stands for a
video; beside the query's is its optical flow (hue: direction, saturation: speed). Green: the same class, which no
training has seen; orange: another one.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from vicc import Store, read_result
from vicc.evaluation.result import Neighbours
from vicc.training.watch.views import color_flow

_RIGHT, _WRONG, _QUIET = "#0a7d5a", "#c2570c", "#666666"
_SHOWN, _COLUMNS = 3, 2


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, required=True, help="a run that `vicc retrieve` has measured")
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--row", default="RGB-2", help="row of the table whose neighbours are shown")
    parser.add_argument("--out", type=Path, required=True, help="picture to write: .jpg or .png")
    options = parser.parse_args()
    result = read_result(options.run / "retrieval.json")
    labels = dict(zip(result.queries.ids, result.queries.labels, strict=True)) | result.gallery
    first: dict[str | None, Neighbours] = {}
    for found in result.neighbours[options.row]:
        first.setdefault(labels[found.query], found)
    draw(options.out, Store(options.store), [first[label] for label in sorted(first, key=str)], labels)


def draw(out: Path, store: Store, cases: Sequence[Neighbours], labels: dict[str, str | None]) -> None:
    """Two blocks of lines side by side: a query, its flow, and the nearest videos."""
    lines, cells = -(-len(cases) // _COLUMNS), _SHOWN + 2
    figure = Figure(figsize=(1.0 * _COLUMNS * (cells + 0.35), 1.12 * lines + 0.25), dpi=100)
    blocks = figure.add_gridspec(
        1, _COLUMNS, wspace=0.07, left=0.005, right=0.995, top=1 - 0.3 / figure.get_figheight(), bottom=0.005
    )
    for column in range(_COLUMNS):
        grid = blocks[column].subgridspec(lines, cells, wspace=0.06, hspace=0.16)
        for line, case in enumerate(cases[column * lines : (column + 1) * lines]):
            axes = [figure.add_subplot(grid[line, cell]) for cell in range(cells)]
            video = labels[case.query]
            _show(axes[0], _middle(store, case.query, "rgb"), f"{video}", "black")
            _show(axes[1], color_flow(_middle(store, case.query, "flow")[None])[0], "", _QUIET)
            for axis, name in zip(axes[2:], case.videos, strict=False):
                right = labels[name] == video
                color = _RIGHT if right else _WRONG
                _show(axis, _middle(store, name, "rgb"), f"{'✓' if right else '✗'} {labels[name]}", color, frame=True)
            if line == 0:
                heads = ("test video", "its optical flow", "nearest training videos: found without labels")
                for axis, head in zip(axes, heads, strict=False):
                    axis.set_title(head, fontsize=7.5, color=_QUIET, loc="left", pad=3)
    figure.savefig(out, pil_kwargs={"quality": 85} if out.suffix == ".jpg" else None)
    print(f"{out}: {out.stat().st_size / 1000:.0f} kB")


def _middle(store: Store, name: str, stream: str) -> np.ndarray:
    """The frame in the middle of a video, uint8 (H, W, C)."""
    frames = {video.id: video.num_frames for video in store.videos}[name]
    return store.frames(name, "flow" if stream == "flow" else "rgb", [(frames - 1) // 2])[0]


def _show(axis: Axes, picture: np.ndarray, text: str, color: str, *, frame: bool = False) -> None:
    axis.imshow(picture)
    axis.set(xticks=[], yticks=[])
    for spine in axis.spines.values():
        spine.set(visible=frame, color=color, linewidth=2.2)
    if text:
        axis.text(
            0.03, 0.03, text, transform=axis.transAxes, fontsize=7.5, color="white", va="bottom",
            bbox={"facecolor": color, "edgecolor": "none", "pad": 1.5},
        )  # fmt: skip


if __name__ == "__main__":
    main()
