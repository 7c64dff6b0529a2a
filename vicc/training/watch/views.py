"""RUN/STAGE/views.png: some training views as they enter the network, that is, what the
augmentation really does.
"""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from vicc.batch import Stream
from vicc.data.dataset import ClipDataset, Clips
from vicc.files import atomic_write

VIEWS_FILE = "views.png"
_VIDEOS, _FRAMES = 6, 5
_CELL, _GAP, _SIDE, _HEAD, _BETWEEN = 112, 3, 170, 34, 14  # pixels
_DPI = 100


def write_views(path: Path, dataset: ClipDataset, *, title: str) -> None:
    """Draw the views that some videos give in the first epoch: a line for each video and stream,
    its views in turn.

    Flow is coloured: the hue is the direction, the saturation the speed, grey is no motion. Small
    views come in lines of their own.
    """
    count = min(_VIDEOS, len(dataset))
    samples = [dataset[(0, place * len(dataset) // count)] for place in range(count)]
    lines = []
    for sample in samples:
        name = dataset.videos[sample.index].id
        groups: list[Clips] = [sample.clips, *sample.small_clips]
        for group in groups:
            lines += [(name, stream, views) for stream, views in group.items()]
    _draw(path, lines, title)


def _draw(path: Path, lines: Sequence[tuple[str, Stream, np.ndarray]], title: str) -> None:
    views = max(len(clips) for _, _, clips in lines)
    width = _SIDE + views * (_FRAMES * (_CELL + _GAP) + _BETWEEN)
    tops, height, before = [], 2 * _HEAD, lines[0][0]
    for name, _, _ in lines:
        height += _BETWEEN if name != before else 0
        before = name
        tops.append(height)
        height += _CELL + _GAP
    height += _GAP
    picture = _write_labels((width, height), lines, tops, views=views, title=title)
    for top, (_, stream, clips) in zip(tops, lines, strict=True):
        for number, clip in enumerate(clips):
            for place, frame in enumerate(_pictures(clip, stream)):
                at = _left(number) + place * (_CELL + _GAP)
                picture[top : top + _CELL, at : at + _CELL] = frame
    # Pixels stay pixels: as a part of the figure matplotlib would resample them, half of the time.
    _, encoded = cv2.imencode(".png", picture[..., ::-1], [cv2.IMWRITE_PNG_COMPRESSION, 3])
    with atomic_write(path, "wb") as file:
        file.write(encoded.tobytes())


def _left(view: int) -> int:
    """The pixel at which a view's first frame begins."""
    return _SIDE + view * (_FRAMES * (_CELL + _GAP) + _BETWEEN)


def _write_labels(
    size: tuple[int, int],
    lines: Sequence[tuple[str, Stream, np.ndarray]],
    tops: Sequence[int],
    *,
    views: int,
    title: str,
) -> np.ndarray:
    """A white sheet of `size` (width, height) with the title, the numbers of the views and what
    each line shows: uint8 (height, width, 3).
    """
    from matplotlib import rc_context  # here: it takes a third as long as torch
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    width, height = size
    with rc_context({"font.size": 9, "font.family": "sans-serif"}):
        # Half a pixel more, since matplotlib rounds down what the division has made a little less.
        figure = Figure(figsize=((width + 0.5) / _DPI, (height + 0.5) / _DPI), dpi=_DPI)
        figure.text(8 / width, 1 - 22 / height, title, fontsize=12, fontweight="bold")
        for number in range(views):
            figure.text(_left(number) / width, 1 - (2 * _HEAD - 8) / height, f"view {number + 1}")
        before = ""
        for top, (name, stream, clips) in zip(tops, lines, strict=True):
            label = f"{stream}, {clips.shape[2]} px, {clips.shape[1]} frames"
            label = label if name == before else f"{_short(name)}\n{label}"
            before = name
            figure.text(8 / width, 1 - (top + 4) / height, label, va="top", fontsize=8, parse_math=False)
        canvas = FigureCanvasAgg(figure)
        canvas.draw()
        return np.array(canvas.buffer_rgba())[..., :3].copy()


def _short(name: str) -> str:
    """The end of a name that fits beside the pictures."""
    text = name.encode("utf-8", "replace").decode()
    return text if len(text) <= 26 else "…" + text[-25:]


def _pictures(clip: np.ndarray, stream: Stream) -> list[np.ndarray]:
    """Some frames of a clip (T, size, size, C), evenly spread, as RGB of `_CELL` pixels."""
    chosen = np.linspace(0, len(clip) - 1, _FRAMES).round().astype(int)
    frames = color_flow(clip[chosen]) if stream == "flow" else clip[chosen]
    shrinks = clip.shape[1] > _CELL
    return [
        cv2.resize(frame, (_CELL, _CELL), interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_NEAREST)
        for frame in frames
    ]


def color_flow(flow: np.ndarray) -> np.ndarray:
    """Flow of frames, uint8 (T, H, W, 2) as (u, v) or (T, H, W, 3) as (128, v, u), to RGB: the hue
    is the direction.

    The most saturated colour is the fastest motion of all frames, or a tenth of the range where all
    is slower; pixels without motion are light grey.
    """
    u, v = (flow[..., 0], flow[..., 1]) if flow.shape[-1] == 2 else (flow[..., 2], flow[..., 1])
    x, y = (part.astype(np.float32).reshape(-1, flow.shape[2]) - 128 for part in (u, v))
    speed, angle = cv2.cartToPolar(x, y)
    hsv = np.full((*x.shape, 3), 235, np.uint8)
    hsv[..., 0] = (angle * (256 / (2 * np.pi))).astype(np.int32) % 256
    hsv[..., 1] = np.clip(speed * (255 / max(12.7, float(np.percentile(speed, 99)))), 0, 255)
    return cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB_FULL).reshape(*u.shape, 3)
