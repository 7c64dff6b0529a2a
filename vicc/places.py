"""What is at a path: a store, a run, an encoder, videos; and one sentence for what is not there,
from every command.

A leaf without heavy imports: the command line looks here before it imports what works with the
place, and the library says the same. A URL is left to what opens it. The types of fields that name
such a place are here, too.
"""

import glob
import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated

from vicc.errors import ViccError
from vicc.files import require_writable
from vicc.settings import Place, Settings, flag_word, hints_of, marks, require
from vicc.words import nearest

# A folder or a URL. A Path would turn s3:// into s3:/.
StorePlace = Annotated[str | Path, Place("store to write", url=True)]
# What must be there before a command begins: `check_places` looks.
ExistingStore = Annotated[str | Path, Place("store", url=True)]
ExistingRun = Annotated[Path, Place("run")]
ExistingEncoder = Annotated[Path, Place("encoder")]
ExistingVideos = Annotated[Path, Place("videos")]
ExistingVideosOrStore = Annotated[str | Path, Place("videos or store", url=True)]
ExistingClassifier = Annotated[Path, Place("classifier")]
ExistingFolder = Annotated[Path, Place("folder")]
ExistingResult = Annotated[str, Place("result")]
NewFile = Annotated[Path, Place("new file")]

_STORE, _RUN, _ENCODER, _HEAD = "store.json", "recipe.json", "config.json", "head.safetensors"
_MANY = 2000  # names of a folder among which a nearly right one is looked for


def is_url(place: Path | str) -> bool:
    """Whether a place is a URL, and not a path."""
    return isinstance(place, str) and "://" in place


def require_store(place: Path | str) -> None:
    """Raises ViccError if there is no store in a folder; says nothing of a URL."""
    if not is_url(place):
        _require_signed(Path(place), "store", _STORE, made_by="vicc prepare VIDEOS --store")


def require_store_or_videos(store: Path | str | None, videos: Path | None) -> None:
    """Raises ViccError unless just one of --store and --videos is given."""
    require(
        (store is None) != (videos is None),
        f"{'Neither --store nor --videos is' if store is None else 'Both --store and --videos are'} given: expected "
        "one of the two.",
    )


def require_run(place: Path | str) -> None:
    """Raises ViccError if a folder is no run of `vicc pretrain` (or of a command that trains
    classifiers).
    """
    _require_signed(Path(place), "run", _RUN, made_by="vicc pretrain --store STORE --run")


def _require_signed(path: Path, what: str, sign: str, *, made_by: str) -> None:
    """Raises ViccError if a folder does not hold the file that every folder of its kind has."""
    advice = f"Make one with: {made_by} {path}"
    _require_there(path, f"No such {what}: {path}.", advice, is_right=lambda other: (other / sign).exists())
    if not (path / sign).exists():
        there = what_is_at(path)
        if there in ("a folder", "a file") and "VIDEOS" in made_by:  # the videos themselves: no store can be made there
            advice = f"Make one of the videos in it with: {made_by.replace('VIDEOS', str(path))} {what.upper()}"
        elif there != "an empty folder":
            advice = f"Make one with: {made_by} {what.upper()}"
        raise ViccError(f"{path} is not a {what} (it has no {sign}){_it_is(path)}. {advice}")


def require_encoder(place: Path | str) -> None:
    """Raises ViccError if a folder is neither an encoder nor a finished stage of a run."""
    path = Path(place)
    _require_there(path, f"No encoder at {path}: there is no such folder.", _ENCODER_ADVICE, is_right=_is_encoder)
    if not _is_encoder(path):
        stages = [entry for entry in sorted(path.iterdir()) if _is_encoder(entry)] if path.is_dir() else []
        which = f"; its stages have: {', '.join(map(str, stages))}" if stages else _it_is(path)
        raise ViccError(f"No encoder at {path}: it has no {_ENCODER}{which}. {_ENCODER_ADVICE}")


_ENCODER_ADVICE = "Expected a folder such as RUN/rgb-2/encoder."


def require_classifier(place: Path | str) -> None:
    """Raises ViccError if a folder is neither a classifier nor a run that has one."""
    path = Path(place)
    _require_there(
        path, f"No classifier at {path}: there is no such folder.", _CLASSIFIER_ADVICE, is_right=_is_classifier
    )
    if not _is_classifier(path):
        raise ViccError(f"No classifier at {path}{_it_is(path)}. {_CLASSIFIER_ADVICE}")


_CLASSIFIER_ADVICE = (
    "Expected a finished run of `vicc finetune` or `vicc probe-clips`, or an imported classifier (a folder with "
    f"{_HEAD})."
)


def require_videos(place: Path | str) -> None:
    """Raises ViccError where videos are expected and there is nothing, an empty folder, or what
    vicc itself wrote.
    """
    path = Path(place)
    advice = "Give a folder of videos, a video file, or a list (.csv, .parquet)."
    _require_there(path, f"No such folder: {path}.", advice)
    if path.is_dir():
        if not any(path.iterdir()):
            raise ViccError(f"No videos in {path}: the folder is empty. {advice}")
        if (path / _STORE).exists():
            raise ViccError(f"{path} is a store, not a folder of videos: --store {path}?")
        if (path / _RUN).exists():
            raise ViccError(f"{path} is a run, not a folder of videos: --run {path}? {advice}")


def require_videos_or_store(place: Path | str) -> None:
    """Raises ViccError if there is neither a store nor what `require_videos` takes."""
    if not is_url(place):
        path = Path(place)
        advice = "Give videos, folders of videos, or a store."
        _require_there(path, f"No such file or folder: {path}.", advice)
        if not (path / _STORE).exists():
            require_videos(path)


def require_folder(place: Path | str) -> None:
    """Raises ViccError if there is no folder."""
    path = Path(place)
    _require_there(path, f"There is no folder {path}.", "", is_right=Path.is_dir)
    if not path.is_dir():
        raise ViccError(f"{path} is not a folder{_it_is(path)}.")


def require_checkpoint(place: Path | str) -> None:
    """Raises ViccError if there is no file."""
    path = Path(place)
    _require_there(path, f"No checkpoint at {path}: there is no such file.", "", is_right=Path.is_file)
    if path.is_dir():
        raise ViccError(f"No checkpoint at {path}{_it_is(path) or '; it is a folder'}. Expected a file, .pth.tar.")


def require_exportable(place: Path | str) -> None:
    """Raises ViccError if there is no folder that an encoder could be in."""
    path = Path(place)
    _require_there(path, f"No encoder at {path}: there is no such folder.", _ENCODER_ADVICE, is_right=Path.is_dir)


def require_result(place: str) -> None:
    """Raises ViccError if FILE or RUN, with or without :ROW, is not there; wildcards stand for what
    they match.
    """
    name = place
    if not Path(place).exists() and ":" in place:
        before = place.rpartition(":")[0]
        name = before if Path(before).exists() else place.partition(":")[0]
    if not Path(name).exists() and not glob.glob(name):
        advice = "Make one with: vicc retrieve --run RUN --store STORE"
        _require_there(Path(name), f"No result at {name}: there is no such file or run.", advice)


_CHECKS: dict[str, Callable[[Path], None]] = {
    "store": require_store,
    "run": require_run,
    "encoder": require_encoder,
    "classifier": require_classifier,
    "videos": require_videos,
    "videos or store": require_videos_or_store,
    "folder": require_folder,
    "checkpoint": require_checkpoint,
    "source of an export": require_exportable,
    "result": lambda place: require_result(str(place)),
}


def check_places(config: Settings) -> None:
    """Look for everything on disk that a config names, see `vicc.settings.Place`; imports nothing
    heavy.

    Raises:
        ViccError: something is not there, or is something else; a file to write cannot be written.
    """
    for name, hint in hints_of(type(config)).items():
        kind = next((mark.kind for mark in marks(hint) if isinstance(mark, Place)), None)
        value = getattr(config, name)
        if kind == "new file" and value is not None:
            require_writable(value, instead=f"Give another {flag_word(name)}")
        elif kind in _CHECKS and value is not None:
            for place in value if isinstance(value, list | tuple) else [value]:
                if not is_url(place):
                    _CHECKS[kind](place)


def what_is_at(path: Path) -> str:
    """What vicc takes a path for, with an article: "a run"; empty for what it does not know."""
    if path.is_file():
        return "a file"
    if not path.is_dir():
        return ""
    for sign, what in ((_STORE, "a store"), (_RUN, "a run"), (_HEAD, "a classifier"), (_ENCODER, "an encoder")):
        if (path / sign).exists():
            return what
    if _is_encoder(path):
        return "a stage of a run"
    return "a folder" if any(path.iterdir()) else "an empty folder"


_FLAGS = {"a store": "--store", "a run": "--run", "an encoder": "--encoder", "a classifier": "--classifier"}


def _it_is(path: Path) -> str:
    """After a sentence on what a path is not: what it is, and which flag takes that."""
    what = what_is_at(path)
    if what in _FLAGS:
        return f"; it is {what} ({_FLAGS[what]} {path})"
    return f"; it is {what}" if what in ("a file", "an empty folder") else ""


def _require_there(path: Path, sentence: str, advice: str, *, is_right: Callable[[Path], bool] | None = None) -> None:
    """Raises ViccError, with `sentence`, if nothing is at `path`; asks for a neighbour of nearly
    that name which `is_right`.
    """
    if path.exists():
        return
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    question = ""
    near = nearest(missing.name, _names(missing.parent), number=5)
    if missing == path:
        right = [name for name in near if is_right is None or is_right(path.parent / name)]
        if right:
            question = f" Did you mean {path.parent / right[0]}?"
    elif near:
        question = f" There is no folder {missing}; did you mean {missing.parent / near[0]}?"
    else:
        question = f" There is no folder {missing}."
    raise ViccError(f"{sentence}{question} {advice}".rstrip())


def _names(folder: Path) -> Iterable[str]:
    if not folder.is_dir():
        return []
    with os.scandir(folder) as entries:
        return [entry.name for entry, _ in zip(entries, range(_MANY), strict=False) if not entry.name.startswith(".")]


def _is_encoder(path: Path) -> bool:
    return (path / _ENCODER).exists() or (path / "encoder" / _ENCODER).exists()


def _is_classifier(path: Path) -> bool:
    return any((path / at / _HEAD).exists() for at in ("", "encoder", "classifier/encoder"))
