"""A run's folder, read: its recipe, how far its stages are, what they have logged, and what was
made of them.

No other module opens recipe.json (`vicc.places` only looks whether it is there);
`vicc.training.run_folder` says what a start may change in a run.
"""

import json
import shlex
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from vicc.data.records import Video
from vicc.data.splits import (
    Division,
    SplitTable,
    divide_by_table,
    division_table,
    read_split_table,
    write_split_table,
)
from vicc.data.video_files import file_id
from vicc.errors import ViccError
from vicc.files import atomic_write, read_json, require_writable, write_json
from vicc.methods.encoder import Encoder
from vicc.methods.registry import has_method
from vicc.places import require_run
from vicc.training.build import ENCODER_FOLDER
from vicc.training.checkpoint import CheckpointFolder, load_encoder
from vicc.training.computation import COMPUTATION_FILE, Computation, recorded_computation
from vicc.training.stage import Recipe, Stage
from vicc.training.watch.alarms import ALARMS_FILE
from vicc.training.watch.log import EPOCHS_FILE, LOG_FILE, read_log
from vicc.words import did_you_mean

_RECIPE_FILE, _STARTS_FILE, _SPLIT_FILE, _VIDEOS_FILE = "recipe.json", "runs.jsonl", "split.csv", "videos.json"
_DESCRIPTION, _VIDEOS = "run description", "list of the run's videos"
_RESULT_SIGN = b'"vicc_result"'  # the first key of every result
_FACTS_OF_A_START = ("time", "machine", "device", "precision", "threads", "vicc", "torch", "python")


class Run:
    """A run of `vicc pretrain` or of a classifier, for reading: its recipe, logs, encoders and
    results.

    Every file is read once, at its first use; make another `Run` to see later changes.

        run = vicc.Run("run")
        run.recipe.name, run.seed, [stage.name for stage in run.finished]
        losses = [row["loss"] for row in run.log("rgb-1")]
        encoder = run.load_encoder("rgb-2")

    Attributes:
        folder: of the run.

    Raises:
        ViccError: there is no run in the folder; at the first use of a file, that it is damaged, or
            that a stage has a method that is not known here.
    """

    def __init__(self, folder: Path | str) -> None:
        require_run(folder)
        self.folder = Path(folder)
        self._logs: dict[tuple[str, str], list[dict[str, Any]]] = {}

    @classmethod
    def of(cls, place: Path) -> Self | None:
        """The run in which an encoder or a classifier was trained, from its folder; None where
        there is none.
        """
        folder = next((folder for folder in (place, place.parent, place.parent.parent) if is_run(folder)), None)
        return None if folder is None else cls(folder)

    def __repr__(self) -> str:
        try:
            finished, recipe = self.finished, self.recipe
            stages = (f"{stage.name} {self._how_far(stage, done=stage in finished)}" for stage in recipe.stages)
            return f"Run({str(self.folder)!r}): recipe {recipe.name}, {', '.join(stages)}"
        except ViccError as error:
            return f"Run({str(self.folder)!r}), which cannot be read: {error}"

    def _how_far(self, stage: Stage, *, done: bool) -> str:
        steps = CheckpointFolder(self.folder / stage.name).newest_step()
        return "finished" if done else f"after step {steps}" if steps else "not begun"

    @cached_property
    def description(self) -> dict[str, Any]:
        """What makes the run, as it was written: recipe, seed, split, number and fingerprint of the
        videos, ...
        """
        path = self.folder / _RECIPE_FILE
        found = read_json(path, what=_DESCRIPTION)
        if not isinstance(found, dict):
            raise ViccError(f"The {_DESCRIPTION} {path} is damaged: expected an object, got {str(found)[:60]!r}.")
        return found

    @cached_property
    def recipe(self) -> Recipe:
        """The recipe with all values."""
        content = self.description.get("recipe")
        if not isinstance(content, dict):
            raise ViccError(f"The {_DESCRIPTION} {self.folder / _RECIPE_FILE} has no recipe: it is damaged.")
        self._require_methods(content)
        return Recipe.from_json(content)

    def _require_methods(self, content: dict[str, Any]) -> None:
        stages = content.get("stages")
        named = [stage.get("method") for stage in stages if isinstance(stage, dict)] if isinstance(stages, list) else []
        unknown = [method for method in named if isinstance(method, str) and not has_method(method)]
        if unknown:
            raise ViccError(
                f"The run {self.folder} was trained with the method {unknown[0]!r}, which is not known here: make it "
                "known with --import MODULE, or import its module."
            )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """All stages of the recipe, in their order."""
        return self.recipe.stages

    @cached_property
    def finished(self) -> tuple[Stage, ...]:
        """The stages that have an encoder, in the order of the recipe."""
        return tuple(stage for stage in self.stages if is_finished(self.folder, stage))

    @property
    def seed(self) -> int | None:
        """Seed of the training; None of runs from before it was written."""
        return self.description.get("seed")

    @property
    def num_videos(self) -> int:
        """Number of training videos."""
        if not isinstance(count := self.description.get("videos"), int):
            raise ViccError(f"The {_DESCRIPTION} {self.folder / _RECIPE_FILE} has no number of videos: it is damaged.")
        return count

    @property
    def processes(self) -> int:
        """Number of processes that share every step; 1 of runs from before there were several."""
        return int(self.description.get("processes", 1))

    @property
    def split(self) -> str:
        """Name of the split of the training."""
        return str(self.description.get("split", "of the run"))

    @cached_property
    def start(self) -> dict[str, str]:
        """Where stages had their first weights from (`vicc pretrain --start`), by stage; those that
        began with random ones are not in it.
        """
        found = self.description.get("start", {})
        if not isinstance(found, dict):
            raise ViccError(f"The {_DESCRIPTION} {self.folder / _RECIPE_FILE} has a start {found!r}: it is damaged.")
        return found

    @property
    def start_in_words(self) -> str:
        """For tables and pages: "rgb-1, flow-1 from torchvision:s3d (...)"; empty where all stages
        began with random weights.
        """
        stages: dict[str, list[str]] = defaultdict(list)
        for stage, place in self.start.items():
            origin = self._origin(place)
            before = [] if origin is None else [_with_labels(earlier) for earlier in origin.start.values()]
            more = f" (which began with {', '.join(dict.fromkeys(before))})" if before else ""
            stages[_with_labels(place) + more].append(stage)
        return ", ".join(f"{', '.join(names)} from {place}" for place, names in stages.items())

    @property
    def origins(self) -> list["Run"]:
        """The runs in which its start was trained, as far as they are still there."""
        found = filter(None, map(self._origin, self.start.values()))
        return list({run.folder: run for run in found}.values())

    def _origin(self, place: str) -> "Run | None":
        return Run.of(Path(place)) if Path(place).is_absolute() else None  # others are no folders

    @cached_property
    def division(self) -> SplitTable | None:
        """Which videos it trains on and which are for testing it, by id; None before its first
        step.
        """
        path = self.folder / _SPLIT_FILE
        return read_split_table(path) if path.exists() else None

    @cached_property
    def videos(self) -> dict[str, Any]:
        """How its videos were prepared ("prepared"), and frames and checksum of each ("videos", by
        id).

        Empty before its first step, and of runs from before this was written.
        """
        path = self.folder / _VIDEOS_FILE
        return read_json(path, what=_VIDEOS) if path.exists() else {}

    @cached_property
    def computation(self) -> Computation | None:
        """How it has computed until now; None of runs from before this was written."""
        return recorded_computation(self.folder)

    @cached_property
    def starts(self) -> list[dict[str, Any]]:
        """Who started it, when and where: a row for each start that trained something, with the
        command as one would type it.
        """
        path = self.folder / _STARTS_FILE
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []
        rows = []
        for number, line in enumerate(lines, 1):
            try:
                row = dict.fromkeys(_FACTS_OF_A_START, "unknown") | json.loads(line)
                program, *arguments = row["command"]
            except (KeyError, TypeError, ValueError) as error:
                text = line[:60].decode(errors="backslashreplace")
                reason = "it has no command" if isinstance(error, KeyError) else error
                raise ViccError(f"Line {number} of {path} cannot be understood ({reason}): {text!r}.") from error
            name = Path(program).name
            rows.append({**row, "command": shlex.join(["vicc" if name == "__main__.py" else name, *arguments])})
        return rows

    def log(self, stage: str) -> list[dict[str, Any]]:
        """The steps of a stage, each with its loss and everything else that was logged; empty
        before its first step.
        """
        return self._rows(stage, LOG_FILE)

    def epochs(self, stage: str) -> list[dict[str, Any]]:
        """The epochs of a stage: means of their steps, and what was evaluated after them."""
        return self._rows(stage, EPOCHS_FILE)

    def alarms(self, stage: str) -> list[dict[str, Any]]:
        """The warnings of a stage, as they were printed: name, step, message."""
        return self._rows(stage, ALARMS_FILE)

    def _rows(self, stage: str, file: str) -> list[dict[str, Any]]:
        if (stage, file) not in self._logs:
            self._require_stage(stage)
            self._logs[stage, file] = read_log(self.folder / stage, file)
        return self._logs[stage, file]

    def _require_stage(self, stage: str) -> None:
        names = [other.name for other in self.stages]
        if stage not in names:
            raise ViccError(
                f"The run {self.folder} has no stage {stage!r}; it has {', '.join(names)}.{did_you_mean(stage, names)}"
            )

    @cached_property
    def encoders(self) -> dict[str, Path]:
        """Folders of the finished stages' encoders, by stage; `vicc.load_encoder` takes them too."""
        return {stage.name: self.folder / stage.name / ENCODER_FOLDER for stage in self.finished}

    def load_encoder(self, stage: str) -> Encoder:
        """The encoder of a finished stage, in eval mode; a new one at every call.

        Raises:
            ViccError: no such stage, or one that is not finished; weights that do not fit.
        """
        self._require_stage(stage)
        if stage not in self.encoders:
            raise ViccError(f"Stage {stage} of {self.folder} is not finished yet. Train on: vicc pretrain.")
        return load_encoder(self.encoders[stage])

    @cached_property
    def results(self) -> dict[str, Path]:
        """Files of what was measured of it, by their names ("retrieval", "probe", ...); for
        `vicc.read_result`.
        """
        return {path.stem: path for path in sorted(self.folder.glob("*.json")) if _is_result(path)}

    def divide(self, videos: Sequence[Video]) -> Division[Video] | None:
        """These videos, divided into training and test videos as in the run; None before its first
        step, and where fewer than half of them are in the run's split: they are then of another
        store.

        Raises:
            ViccError: the run's files are damaged.
        """
        if self.division is None:
            return None
        if 2 * sum(video.id in self.division.cells for video in videos) < len(videos):
            return None
        return divide_by_table(videos, self.division, 1, name=self.split)

    def trained_on(self, videos: Sequence[Video]) -> set[str]:
        """The ids of those among these videos that the run has trained on.

        A video counts if its file has the checksum of a training video (and it is the same part of
        that file, where files were cut), whatever its id; where one of the two has no checksum, if
        its id is that of a training video.

        Raises:
            ViccError: the run's files are damaged.
        """
        if self.division is None:
            return set()
        seen = self.videos["videos"] if self.videos else {}
        names = {name for name, sides in self.division.cells.items() if sides[0] == "train"}
        checksums = {name: seen[name][1] for name in names if name in seen and seen[name][1]}
        parts: dict[str, set[str]] = defaultdict(set)  # of each content; of a whole file the empty text
        for name, checksum in checksums.items():
            parts[checksum].add(name.removeprefix(file_id(name)))
        own = self.divide(videos)
        found = {video.id for video in own.train} if own is not None else set()
        for video in videos:
            checksum, part = video.source.blake2b, video.id.removeprefix(file_id(video.id))
            if checksum in parts:
                if not part or parts[checksum] & {"", part}:
                    found.add(video.id)
            elif video.id in names and not (checksum and video.id in checksums):
                found.add(video.id)
        return found


def _with_labels(place: str) -> str:
    """A place of a start; of torchvision's weights also what they are."""
    return f"{place} (learned with the labels of Kinetics-400)" if place.startswith("torchvision:") else place


def is_run(folder: Path) -> bool:
    """Whether a folder is a run that has begun."""
    return (folder / _RECIPE_FILE).exists()


def find_runs(place: Path) -> list[Path]:
    """The folders of all runs at or below a folder, by name."""
    return [path.parent for path in sorted(place.rglob(_RECIPE_FILE))]


def is_finished(folder: Path, stage: Stage) -> bool:
    """Whether a stage of the run in a folder has its result. There need not be a run yet."""
    return (folder / stage.name / ENCODER_FOLDER / "config.json").exists()


def require_new_or_run(folder: Path, *, besides: Sequence[str]) -> None:
    """A folder that is empty, or a run, or holds only files of the names `besides`; else it may be
    somebody's work.

    Raises:
        ViccError: it is another.
    """
    if not is_run(folder) and any(
        not entry.name.startswith(".") and entry.name not in besides for entry in folder.iterdir()
    ):
        raise ViccError(f"{folder} is not empty and is not a run (no {_RECIPE_FILE}). Give another --run folder.")


def require_room_for_run(folder: Path) -> None:
    """Raises ViccError if a run cannot be written there; nothing is left there."""
    require_writable(folder / _RECIPE_FILE, instead="Give another --run folder")


def write_run(
    folder: Path,
    description: dict[str, Any],
    computation: Computation,
    division: Division[Video],
    videos: dict[str, Any],
    start: dict[str, Any],
) -> None:
    """Write what a run is, as far as it is not written yet, and add a start to its list; see `Run`
    for each.
    """
    for name, content in ((_RECIPE_FILE, description), (COMPUTATION_FILE, asdict(computation))):
        path = folder / name
        if not path.exists() or read_json(path, what=_DESCRIPTION) != content:
            write_json(path, content)
    if not (folder / _SPLIT_FILE).exists():
        write_split_table(folder / _SPLIT_FILE, division_table(division))
    if not (folder / _VIDEOS_FILE).exists():
        with atomic_write(folder / _VIDEOS_FILE) as file:
            json.dump(videos, file)
    with (folder / _STARTS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(start) + "\n")


def _is_result(path: Path) -> bool:
    with path.open("rb") as file:
        return _RESULT_SIGN in file.read(2 * len(_RESULT_SIGN))
