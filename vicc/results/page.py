"""`vicc report`: a run as one HTML file that needs nothing else: table, curves, queries with what
was found for them.

The words and the looks are in `page.html.jinja`; here is what it shows.
"""

import base64
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import cv2
import jinja2
import numpy as np

from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation.encoders import row_name, stage_title
from vicc.evaluation.result import Neighbours, Result, Row, read_result
from vicc.evaluation.retrieve import RESULT_FILE
from vicc.files import atomic_write, require_writable
from vicc.prepare.scan import SCAN_FILE, open_frames
from vicc.progress import progress, say
from vicc.results.classes import ClassRow, Confusion, class_rows, confusion_counts, confusions, most_confused
from vicc.results.comparable import Measured
from vicc.results.configs import ReportConfig
from vicc.results.formats import FormattedTable
from vicc.results.table import formatted_table, make_table
from vicc.settings import takes_settings
from vicc.training.run import Run
from vicc.training.schedule import stage_length
from vicc.training.stage import Recipe, Stage
from vicc.training.watch.curves import USE, curves_figure, curves_svg
from vicc.version import __version__

REPORT_FILE = "report.html"
NEIGHBOURS_SHOWN = 5
FRAMES = 12
_BOX_WIDTH, _BOX_HEIGHT = 144, 108  # pixels an animation may take
_ANIMATION_BYTES = 4_000_000  # all animations together; a third more as text
_QUERIES_A_PAGE = 25  # of the list of all queries of videos without labels
_STILLS, _STILL_BOX = 300, 72  # pictures in that list, and the pixels of their longer side: half a megabyte
_CLASSES_SHOWN = 25  # in the confusion matrix: more do not fit a page
_PAIRS_SHOWN, _EXAMPLES_SHOWN = 5, 2
_OTHER_RESULTS = ("knn", "probe")
_GROUPS = (
    ("Chance, untrained and hand-made baselines", ("chance", "baseline", "untrained")),
    ("One stream, trained without labels", ("trained",)),
    ("Both streams together", ("fused",)),
)


@dataclass(frozen=True)
class _Tile:
    """One video in a grid. `right` is None where nothing can be said: no labels, or the query
    itself.
    """

    id: str
    label: str | None
    in_store: bool
    distance: float | None = None
    right: bool | None = None


@dataclass(frozen=True)
class _Case:
    """One query and, for each row of the table that is shown, its nearest videos."""

    query: _Tile
    found: dict[str, list[_Tile]]

    def tiles(self) -> list[_Tile]:
        return [self.query, *(tile for line in self.found.values() for tile in line)]


@dataclass(frozen=True)
class _Animation:
    """A video as a strip of frames side by side, played by CSS; `width` and `height` are of one
    frame on the page.
    """

    uri: str
    width: int
    height: int


@dataclass(frozen=True)
class _Heat:
    """One cell of the confusion matrix: how many queries, and how strong its colour is, from 0 to
    100.
    """

    count: int
    strength: int
    right: bool


@dataclass(frozen=True)
class _Confusion:
    """The confusion matrix, or the block of it that holds the most frequent confusions.

    Attributes:
        cells: (classes, classes): rows are the queries' classes, columns those of their nearest
            videos.
        elsewhere: for each row the queries whose nearest video is of a class that is not shown.
        of: classes that there are.
    """

    labels: list[str]
    cells: list[list[_Heat]]
    elsewhere: list[int]
    of: int


@dataclass(frozen=True)
class _HardPair:
    """A class that is often taken for another one, with some of its queries beside the video that
    was nearest.
    """

    confusion: Confusion
    examples: list[tuple[_Tile, _Tile]]


@dataclass(frozen=True)
class _Pages:
    """All queries by page, each with its nearest videos.

    Attributes:
        stills: pictures, as data URIs, of as many of the videos as the page has room for, in the
            order of the list.
    """

    pages: list[list[_Case]]
    stills: dict[str, str]


@takes_settings(ReportConfig)
def write_report(config: ReportConfig) -> Path:
    """Write the report of a run that has been measured; returns the file.

    Raises:
        ViccError: no such run or store, nothing measured yet, or a damaged log or video.
    """
    path = config.out or config.run / REPORT_FILE
    run = Run(config.run)
    result = _measured(run)
    require_writable(path)
    recipe = run.recipe
    store = open_frames(config.store, config.videos, scan=config.run / SCAN_FILE)
    videos = {video.id: video for video in store.videos}

    # Fused rows come last.
    main_row = list(result.neighbours)[-1]
    asked = [entry.query for entry in result.neighbours[main_row]]
    named = {name for entry in result.neighbours[main_row] for name in (entry.query, *entry.videos)}
    absent = len(named - set(videos))
    if absent:
        say(
            f"{absent} of {len(named)} videos of the result are not in {store.path}, so the page has no pictures of "
            f"them: it was measured on {result.data.place}"
        )
    queries = _choose_queries(asked, videos, config.queries, result.labelled)
    grids = {
        "main": _cases(result, [main_row], queries, videos),
        "taught": _cases(result, _before_and_after(recipe, result), queries, videos),
    }
    pages = _pages(result, main_row, videos, store)
    hard = _hardest_pairs(result, main_row, videos)
    tiles = [tile for cases in grids.values() for case in cases for tile in case.tiles()]
    tiles += [tile for pair in hard for example in pair.examples for tile in example]
    shown = {tile.id: None for tile in tiles if tile.in_store}
    html = _template().render(
        version=__version__,
        run=config.run.resolve().name,
        result=result,
        headline=_headline(result, main_row),
        metrics=result.metrics,
        groups=[
            (title, rows) for title, kinds in _GROUPS if (rows := [row for row in result.rows if row.kind in kinds])
        ],
        notes={row.name: _note(row, recipe) for row in result.rows},
        stages=_stages(run),
        # Stages of one method say the same.
        how_it_learns=dict.fromkeys(words for stage in run.stages for words in stage.settings.how_it_learns()),
        has_prototypes=any(stage.settings.prototype_heads() for stage in run.stages),
        curves=USE.values(),
        main_row=main_row,
        fused=any(row.name == main_row and row.kind == "fused" for row in result.rows),
        groups_drawn=_groups_drawn(result),
        grids=grids,
        pages=pages,
        still_box=_STILL_BOX,
        still_numbers={name: number for number, name in enumerate(pages.stills)},
        classes=_classes(result, main_row),
        confusion=_confusion(result, main_row),
        hard=hard,
        others=_other_results(run),
        animations=_animations(store, [videos[name] for name in shown]),
        numbers={name: number for number, name in enumerate(shown)},
        recipe=recipe,
        description=run.description,
        start=run.start_in_words,
        settings=_settings_table(recipe),
        runs=run.starts,
        store=store,
        place="store" if config.videos is None else "folder",
        store_settings=_settings(store),
        commands=_commands(config, store, run.starts),
        motion="RGB's changes" if any(stage.stream == "diff" for stage in recipe.stages) else "optical flow",
        frames=FRAMES,
    )
    with atomic_write(path, "wb") as file:
        # Names of files need not be Unicode; what cannot be written becomes a question mark.
        file.write(html.encode("utf-8", "replace"))
    return path


def _measured(run: Run) -> Result:
    path = run.folder / RESULT_FILE
    if not path.exists():
        raise ViccError(
            f"Nothing has been measured in {run.folder} yet (no {RESULT_FILE}). Run: vicc retrieve --run {run.folder} "
            "--store STORE"
        )
    return read_result(path)


def _groups_drawn(result: Result) -> str:
    """What the intervals draw, in words."""
    queries, groups = len(result.queries.ids), len(set(result.queries.groups))
    if queries == groups:
        return f"the {queries} queries"
    return f"the {groups} recordings of the {queries} queries, whole, as clips of one succeed and fail together,"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("vicc.results", "."),
        autoescape=True,  # names and labels come from strangers' files
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["percent"] = lambda share: f"{100 * share:.1f}"
    environment.filters["title"] = stage_title
    return environment.get_template("page.html.jinja")


def _headline(result: Result, main_row: str) -> dict[str, Row | None]:
    """The rows the first sentence compares: ours, chance, and the best of the untrained and
    hand-made baselines.
    """
    rows = {row.name: row for row in result.rows}
    unlearned = [row for row in result.rows if row.kind in ("baseline", "untrained")]
    best = max(unlearned, key=lambda row: row.metrics["R@1"].value, default=None)
    return {"ours": rows.get(main_row), "chance": rows.get("chance"), "best": best}


def _note(row: Row, recipe: Recipe) -> str:
    """What a row is, in a few words."""
    if row.kind == "trained":
        stage = next((stage for stage in recipe.stages if row_name(stage) == row.name), None)
        if stage is None:
            return ""
        return f"taught by {stage_title(stage.teacher)}" if stage.teacher else "on its own"
    return {
        "chance": "a random order",
        "baseline": "hand-made",
        "untrained": "random weights",
        "fused": f"{' and '.join(row.model.get('fused', []))}, distances averaged",
    }[row.kind]


def _choose_queries(queries: Sequence[str], videos: Mapping[str, Video], count: int, labelled: bool) -> list[str]:
    """The first query of each class in turn; of more classes than `count`, and without labels,
    evenly spread ones.
    """
    classes: dict[str, list[str]] = {}
    for query in sorted(queries):
        label = videos[query].label if labelled and query in videos else query
        classes.setdefault(str(label), []).append(query)
    names = sorted(classes)
    if len(names) > count:
        names = [names[place * len(names) // count] for place in range(count)]
    turns = zip_longest(*(classes[name] for name in names))
    return [query for turn in turns for query in turn if query is not None][:count]


def _before_and_after(recipe: Recipe, result: Result) -> list[str]:
    """The first and last trained RGB row, between which flow was the teacher; empty where there is
    only one.
    """
    rows = [row_name(stage) for stage in recipe.stages if stage.stream == "rgb"]
    rows = [row for row in rows if row in result.neighbours]
    return [rows[0], rows[-1]] if len(rows) > 1 else []


def _classes(result: Result, main_row: str) -> list[ClassRow]:
    """Every class, the one found least first."""
    if not result.labelled:
        return []
    rows = class_rows(result, [result.row(main_row)])
    return sorted(rows, key=lambda row: (row.shares[main_row].value, row.label))


def _confusion(result: Result, main_row: str) -> _Confusion | None:
    if not result.labelled or result.row(main_row).predicted is None:
        return None
    counts = confusion_counts(result, result.row(main_row))
    labels = most_confused(counts, _CLASSES_SHOWN)
    lines = [counts.get(label, Counter()) for label in labels]
    return _Confusion(
        labels,
        cells=[
            [_Heat(line[other], round(100 * line[other] / max(1, line.total())), label == other) for other in labels]
            for label, line in zip(labels, lines, strict=True)
        ],
        elsewhere=[line.total() - sum(line[other] for other in labels) for line in lines],
        of=len({*counts, *result.data.classes}),
    )


def _hardest_pairs(result: Result, main_row: str, videos: Mapping[str, Video]) -> list[_HardPair]:
    """The pairs of classes most often confused, each with queries in the order of their names."""
    if not result.labelled or result.row(main_row).predicted is None:
        return []
    nearest = {entry.query: entry for entry in result.neighbours[main_row]}
    taken_for: dict[tuple[str, str], list[str]] = {}
    for name, label, predicted in zip(
        result.queries.ids, result.queries.labels, result.row(main_row).predicted or [], strict=True
    ):
        taken_for.setdefault((str(label), result.data.classes[predicted]), []).append(name)
    pairs = []
    for confusion in confusions(result, result.row(main_row))[:_PAIRS_SHOWN]:
        names = sorted(taken_for[confusion.label, confusion.taken_for])[:_EXAMPLES_SHOWN]
        pairs.append(_HardPair(confusion, [_example(nearest[name], videos, confusion) for name in names]))
    return pairs


def _example(entry: Neighbours, videos: Mapping[str, Video], confusion: Confusion) -> tuple[_Tile, _Tile]:
    found = entry.videos[0]
    return (
        _Tile(entry.query, confusion.label, entry.query in videos),
        _Tile(found, confusion.taken_for, found in videos, entry.distances[0], right=False),
    )


def _other_results(run: Run) -> list[FormattedTable]:
    """The tables of what else was measured of the run: classification of its features."""
    files = [run.results[name] for name in _OTHER_RESULTS if name in run.results]
    return [formatted_table(make_table([Measured(path, read_result(path))])) for path in files]


def _cases(result: Result, rows: Sequence[str], queries: Sequence[str], videos: Mapping[str, Video]) -> list[_Case]:
    def tile(name: str, distance: float | None = None, query: _Tile | None = None) -> _Tile:
        label = videos[name].label if name in videos else None
        known = result.labelled and query is not None and label is not None and query.label is not None
        return _Tile(name, label, name in videos, distance, label == query.label if known and query else None)

    found = {row: {entry.query: entry for entry in result.neighbours[row]} for row in rows}
    cases = []
    for name in queries if rows else ():
        query = tile(name)
        lines = {}
        for row in rows:
            nearest = found[row][name]
            pairs = list(zip(nearest.videos, nearest.distances, strict=True))[:NEIGHBOURS_SHOWN]
            lines[row] = [tile(video, distance, query) for video, distance in pairs]
        cases.append(_Case(query, lines))
    return cases


def _pages(result: Result, main_row: str, videos: Mapping[str, Video], store: FrameReader) -> _Pages:
    """Where no label says what is right, every query is there to be looked at."""
    if result.labelled:
        return _Pages([], {})
    cases = _cases(result, [main_row], [entry.query for entry in result.neighbours[main_row]], videos)
    shown = list(dict.fromkeys(tile.id for case in cases for tile in case.tiles() if tile.in_store))
    stills = {name: _still(store, videos[name]) for name in shown[:_STILLS]}
    return _Pages([cases[first : first + _QUERIES_A_PAGE] for first in range(0, len(cases), _QUERIES_A_PAGE)], stills)


def _still(store: FrameReader, video: Video) -> str:
    """The frame in the middle of a video, small."""
    frame = store.frames(video.id, "rgb", [video.num_frames // 2])[0]
    scale = min(1.0, _STILL_BOX / max(video.width, video.height))
    size = max(1, round(video.width * scale)), max(1, round(video.height * scale))
    small = cv2.cvtColor(cv2.resize(frame, size, interpolation=cv2.INTER_AREA), cv2.COLOR_RGB2BGR)
    done, data = cv2.imencode(".jpg", small, (cv2.IMWRITE_JPEG_QUALITY, 60))
    if not done:
        raise ViccError(f"OpenCV could not encode a frame of {video.id!r} of shape {small.shape}.")
    return _data_uri("image/jpeg", data.tobytes())


def _animations(store: FrameReader, videos: Sequence[Video]) -> list[_Animation]:
    most_bytes = _ANIMATION_BYTES // max(1, len(videos))
    animations = []
    with progress("report", total=len(videos), unit="videos") as advance:
        for video in videos:
            animations.append(_animation(store, video, most_bytes))
            advance(1, "")
    return animations


def _animation(store: FrameReader, video: Video, most_bytes: int) -> _Animation:
    numbers = np.linspace(0, video.num_frames - 1, FRAMES).round().astype(int).tolist()
    frames = store.frames(video.id, "rgb", numbers)
    scale = min(_BOX_WIDTH / video.width, _BOX_HEIGHT / video.height)
    size = max(1, round(video.width * scale)), max(1, round(video.height * scale))
    if scale < 1:
        frames = np.stack([cv2.resize(frame, size, interpolation=cv2.INTER_AREA) for frame in frames])
    strip = cv2.cvtColor(np.hstack(list(frames)), cv2.COLOR_RGB2BGR)
    for quality in (80, 65, 50, 35, 20):
        done, data = cv2.imencode(".jpg", strip, (cv2.IMWRITE_JPEG_QUALITY, quality))
        if not done:
            raise ViccError(f"OpenCV could not encode {video.id!r} as a strip of shape {strip.shape}.")
        if len(data) <= most_bytes:
            break
    return _Animation(_data_uri("image/jpeg", data.tobytes()), *size)


def _data_uri(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _stages(run: Run) -> list[dict[str, Any]]:
    """Each stage with its curves; all stages share the range of the loss, so that they can be
    compared.
    """
    logs = {stage.name: run.log(stage.name) for stage in run.stages}
    batches = [stage_length(stage, run.num_videos, run.processes).batch_size for stage in run.stages]
    losses = [row["loss"] for log in logs.values() for row in log if "loss" in row]
    chances = [stage.settings.chance_loss(batch) for stage, batch in zip(run.stages, batches, strict=True)]
    losses += [chance for chance in chances if chance is not None] or [0.0] * (not losses)
    margin = 0.05 * (max(losses) - min(losses)) or 0.1
    limits = min(losses) - margin, max(losses) + margin
    return [
        {
            "stage": stage,
            "steps": len(log),
            "minutes": sum(row.get("seconds", 0.0) for row in log) / 60,
            "chance": _chance_text(stage, chance),
            "curves": _draw_curves(stage, log, limits, batch_size=batch, processes=run.processes) if log else None,
        }
        for stage, log, batch, chance in zip(run.stages, logs.values(), batches, chances, strict=True)
    ]


def _chance_text(stage: Stage, chance: float | None) -> str:
    heads = stage.settings.prototype_heads()
    prototypes = f"K = {', '.join(map(str, heads))}, " if heads else ""
    return prototypes + ("" if chance is None else f"{stage.settings.chance_name} = {chance:.2f}")


def _draw_curves(
    stage: Stage, log: list[dict[str, Any]], loss_limits: tuple[float, float], *, batch_size: int, processes: int
) -> str:
    """Loss, use of the prototypes if it has some, and learning rate of a stage, as an SVG image."""
    figure = curves_figure(
        stage,
        log,
        batch_size=batch_size,
        processes=processes,
        panels=("loss", "use", "rate") if stage.settings.prototype_heads() else ("loss", "rate"),
        loss_limits=loss_limits,
    )
    return _data_uri("image/svg+xml", curves_svg(figure, salt=stage.name))


def _settings_table(recipe: Recipe) -> dict[str, list[str]]:
    """Every setting by its name for --set, as text for each stage; empty where its method has no
    such setting.
    """
    columns = []
    for stage in recipe.stages:
        fields = stage.to_json()
        inner = {f"augmentation.{name}": value for name, value in fields.pop("augmentation").items()}
        columns.append(fields | inner)
    names = dict.fromkeys(name for column in columns for name in column if name != "name")
    return {name: [_setting(column.get(name, "")) for column in columns] for name in names}


def _setting(value: Any) -> str:
    return ",".join(map(str, value)) if isinstance(value, list) else str(value).replace("None", "none")


def _commands(config: ReportConfig, store: FrameReader, runs: Sequence[dict[str, Any]]) -> list[str]:
    """The commands that lead to this report; the training as it was started, each different command
    once.
    """
    settings = [_as_flag(name, value) for name, value in _settings(store).items() if value not in (None, False)]
    run = ["--run", str(config.run)]
    place = ["--store", str(config.store)] if config.videos is None else ["--videos", str(config.videos)]
    return [
        *([shlex.join(["vicc", "prepare", "VIDEOS", *place, *settings])] if config.videos is None else []),
        *dict.fromkeys(row["command"] for row in runs),
        shlex.join(["vicc", "retrieve", *run, *place]),
        shlex.join(["vicc", "report", *run, *place]),
    ]


def _settings(store: FrameReader) -> dict[str, Any]:
    """How frames were made; files that are decoded on the fly have no codec of ours."""
    settings = asdict(store.settings)
    if isinstance(store, Store):
        return settings
    return {name: settings[name] for name in ("short_side", "flow", "flow_bound")}


def _as_flag(name: str, value: Any) -> str:
    flag = f"--{name.replace('_', '-')}"
    return flag if value is True else f"{flag}={value}"
