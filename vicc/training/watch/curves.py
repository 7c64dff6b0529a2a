"""The log of a stage as curves, one above the other: for the report's page and for
RUN/STAGE/curves.png.

matplotlib is imported when something is drawn: it takes a third as long as torch.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from vicc.files import atomic_write
from vicc.training.stage import Stage

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES_FILE = "curves.png"
Panel = Literal["loss", "accuracy", "found", "use", "rank", "gradient", "rate", "speed"]
Rows = Sequence[dict[str, Any]]
# Okabe and Ito's colours, told apart by colour-blind readers too; the line styles say the same
# again.
USE = {
    "prototypes_used": ("prototypes used", "#009e73", "solid"),
    "prediction_perplexity": ("spread of the predictions", "#0072b2", "dashed"),
    "assignment_perplexity": ("spread of the assignments", "#d55e00", "dotted"),
}
FOUND = {
    "instance_recall": ("instance retrieval R@1 (same video)", "#0072b2", "solid"),
    "label_recall": ("R@1 by label", "#d55e00", "dashed"),
}
ACCURACY = {
    "accuracy": ("training clips", "#0072b2", "solid"),
    "val_accuracy": ("validation videos", "#d55e00", "dashed"),
}
EVALUATED = (*FOUND, "val_accuracy")
"""What is not of every step: found by the evaluations while training."""
_INK, _FAINT = "#333333", "#777777"
_HEIGHTS = {"loss": 3.0, "accuracy": 3.0, "found": 2.0, "use": 3.0, "rank": 2.0}
_LOW = 1.6  # the other panels
_POINTS = 400
_LEFT, _RIGHT, _ABOVE, _TITLE, _BELOW, _BETWEEN = 0.62, 0.12, 0.32, 0.28, 0.5, 0.34  # inches
_TEXT: dict[Any, Any] = {"font.size": 9, "font.family": "sans-serif"}


def curves_figure(
    stage: Stage,
    log: Rows,
    *,
    batch_size: int,
    processes: int = 1,
    panels: Sequence[Panel],
    width: float = 2.9,
    loss_limits: tuple[float, float] | None = None,
    title: str = "",
) -> Figure:
    """A figure with a panel for each name, the steps below.

    Args:
        log: rows of the stage's log; what they do not hold is not drawn.
        batch_size: videos of a step, those of all processes together.
        processes: that share them; the log counts by the share of one.
        width: inches.
        loss_limits: range of the loss, so that several figures can be compared; None for what the
            log needs.
        title: above all panels; empty for none.
    """
    from matplotlib import rc_context
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    with rc_context(_TEXT):
        heights = [_HEIGHTS.get(panel, _LOW) for panel in panels]
        figure = Figure(figsize=(width, 0.6 * sum(heights)))
        axes = figure.subplots(len(panels), 1, sharex=True, height_ratios=heights, squeeze=False)[:, 0]
        _set_margins(figure, len(panels), above=_ABOVE + (_TITLE if title else 0))
        if title:
            figure.suptitle(title, x=0.01, y=1 - 0.06 / figure.get_figheight(), ha="left", fontsize=12, weight="bold")
        for panel, place in zip(panels, axes, strict=True):
            place.spines[["top", "right"]].set_visible(False)
            place.patch.set_alpha(0)
            place.grid(axis="y", linewidth=0.5, alpha=0.35)
            place.yaxis.set_major_formatter("{x:g}")  # a factor for all would stand in the title's place
            name = _draw_panel(place, panel, stage, log, batch_size=batch_size, processes=processes)
            place.set_title(name, loc="left", fontsize=9)
        if loss_limits is not None:
            axes[panels.index("loss")].set_ylim(*loss_limits)
        axes[-1].xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes[-1].set_xlabel("step")
    return figure


def _set_margins(figure: Figure, panels: int, *, above: float) -> None:
    """Fixed ones: to find a layout, matplotlib would draw everything twice."""
    width, height = figure.get_size_inches()
    panel = (height - above - _BELOW - (panels - 1) * _BETWEEN) / panels
    figure.subplots_adjust(
        left=_LEFT / width,
        right=1 - _RIGHT / width,
        top=1 - above / height,
        bottom=_BELOW / height,
        hspace=_BETWEEN / panel,
    )


def curves_svg(figure: Figure, *, salt: str) -> bytes:
    """The figure as SVG, the same bytes for the same figure and salt."""
    image = io.BytesIO()
    from matplotlib import rc_context

    with rc_context({**_TEXT, "svg.fonttype": "none", "svg.hashsalt": salt}):
        figure.savefig(image, format="svg", transparent=True, metadata={"Date": None})
    return image.getvalue()


def write_curves(path: Path, stage: Stage, log: Rows, epochs: Rows, *, batch_size: int, processes: int = 1) -> None:
    """Write what there is to see of a stage as a PNG, atomically; panels for which there is nothing
    are left out.

    Args:
        batch_size, processes: of `curves_figure`.
        epochs: rows of the log of epochs, which hold what was evaluated.
    """
    needs: dict[Panel, str] = {
        "loss": "loss",
        "accuracy": "accuracy",
        "found": "instance_recall",
        "use": "prototypes_used",
        "rank": "effective_rank",
        "gradient": "gradient_norm",
        "rate": "learning_rate",
        "speed": "clips_per_second",
    }
    rows = [*log, *({name: row[name] for name in ("step", *EVALUATED) if name in row} for row in epochs)]
    panels = [panel for panel, name in needs.items() if any(name in row for row in rows)]
    figure = curves_figure(
        stage, rows, batch_size=batch_size, processes=processes, panels=panels, width=7.5, title=stage.name
    )
    for place in figure.axes:
        if place.get_legend_handles_labels()[0]:
            place.legend(fontsize=8, frameon=False, loc="lower right", bbox_to_anchor=(1.01, 0.97), ncols=3)
    with atomic_write(path, "wb") as file:
        figure.savefig(file, format="png", dpi=110)


def _draw_panel(axes: Axes, panel: Panel, stage: Stage, log: Rows, *, batch_size: int, processes: int) -> str:
    """One panel; returns its title."""
    share = batch_size // processes
    if panel == "loss":
        draw_curve(axes, log, "loss", color=_INK)
        chance = stage.settings.chance_loss(batch_size)
        if chance is not None:
            axes.axhline(chance, color=_FAINT, linestyle="dashed", linewidth=1)
            axes.annotate(
                stage.settings.chance_name,
                (1, chance),
                (0, 2),
                axes.get_yaxis_transform(),
                "offset points",
                ha="right",
                fontsize=8,
            )
        return "loss"
    if panel == "accuracy":
        for name, (label, color, style) in ACCURACY.items():
            evaluated = name in EVALUATED
            points: dict[str, Any] = {"window": 1, "marker": "o"} if evaluated else {}
            draw_curve(axes, log, name, color=color, linestyle=style, label=label, **points)
        axes.set_ylim(-0.03, 1.05)
        return "accuracy (share)"
    if panel == "found":
        for name, (label, color, style) in FOUND.items():
            draw_curve(axes, log, name, color=color, linestyle=style, label=label, window=1, marker="o")
        axes.set_ylim(-0.03, 1.05)
        return "R@1 while training (share)"
    if panel == "use":
        (prototypes, *_) = stage.settings.prototype_heads() or (1,)
        most = {"prototypes_used": min(prototypes, share)}
        for name, (label, color, style) in USE.items():
            unit = most.get(name, prototypes)
            draw_curve(axes, log, name, unit=unit, color=color, linestyle=style, label=label)
        axes.set_ylim(-0.03, 1.05)
        return "prototypes (share)"
    if panel == "rank":
        draw_curve(axes, log, "effective_rank", color=_INK)
        axes.set_ylim(bottom=1)
        return f"effective rank (1: all alike, at most {min(share, stage.encoder.embedding_dim)})"
    if panel == "gradient":
        draw_curve(axes, log, "gradient_norm", color=_INK)
        axes.set_ylim(bottom=0)
        return "gradient norm"
    if panel == "rate":
        draw_curve(axes, log, "learning_rate", color=_INK, window=1)
        axes.set_ylim(bottom=0)
        from matplotlib.ticker import MaxNLocator

        axes.yaxis.set_major_locator(MaxNLocator(2))
        return "learning rate"
    draw_curve(axes, log, "clips_per_second", color=_INK)
    axes.set_ylim(bottom=0)
    return "clips a second"


def draw_curve(
    axes: Axes,
    log: Rows,
    name: str,
    *,
    color: str,
    unit: float = 1.0,
    linestyle: str = "solid",
    label: str | None = None,
    window: int = 0,
    marker: str = "",
) -> None:
    """A running mean over a thirtieth of the stage, and every value faint behind it; nothing if no
    row has it.
    """
    rows = [row for row in log if name in row]
    if not rows:
        return
    steps, values = np.array([row["step"] for row in rows]), np.array([row[name] / unit for row in rows])
    window = window or max(1, len(rows) // 30)
    kernel = np.ones(window)
    smooth = np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
    kept = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), _POINTS)).astype(int))
    if window > 1:
        axes.plot(steps[kept], values[kept], color=color, linewidth=0.6, alpha=0.25)
    axes.plot(
        steps[kept],
        smooth[kept],
        color=color,
        linestyle=linestyle,
        linewidth=1.5,
        label=label,
        marker=marker,
        markersize=4,
    )
