"""One tolerance for every file that names videos: groups, split files, lists.

A name that is exactly a video's wins. Else it is read as it was meant: with backslashes, `./`,
blanks or quotes around it, absolute or with the folder's own name before it, in another Unicode
form; and, for a video that no other name has taken, without its suffix, with another one, or in
other letters' case.
"""

import os
import posixpath
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from vicc.data.csv_rows import unquoted
from vicc.video.container import VIDEO_SUFFIXES

_SHOWN = 3


@dataclass(frozen=True)
class MatchedNames:
    """Which videos some names mean.

    Attributes:
        ids: for each name the id of the video, or None: no video here, or more than one.
        ambiguous: names that fit more than one video, with those.
    """

    ids: list[str | None]
    ambiguous: dict[str, list[str]]


class VideoNames:
    """The videos of a folder or store, to be found by their names as people write them.

    Args:
        ids: of the videos.
        folder: where the videos are, for absolute names and for names that begin with the folder's
            own.
    """

    def __init__(self, ids: Iterable[str], *, folder: Path | None = None) -> None:
        self._ids = set(ids)
        roots = [] if folder is None else [folder.absolute(), Path(os.path.realpath(folder))]
        self._roots = [f"{clean_path(root.as_posix())}/" for root in roots]
        self._folders = {Path(root).name for root in self._roots} - {""}

    def match(self, names: Sequence[str]) -> MatchedNames:
        """Find the videos that names mean; of equally good ones none is chosen."""
        found: list[str | None] = [name if name in self._ids else None for name in names]
        ambiguous: dict[str, list[str]] = {}
        if None not in found:
            return MatchedNames(found, ambiguous)
        by_path: dict[str, set[str]] = defaultdict(set)
        by_stem: dict[str, set[str]] = defaultdict(set)
        for video in self._ids:
            path = clean_path(video)
            by_path[path].add(video)
            by_stem[_stem(path)].add(video)
        roots = [*self._roots, *_common_root(names, by_stem)]
        for index, loose in ((by_path, False), (by_stem, True)):
            # A second spelling of the same path is seen as such; a guess takes no video that
            # another name means.
            taken = {name for name in found if name is not None} if loose else set()
            for number, name in enumerate(names):
                if found[number] is not None or name in ambiguous:
                    continue
                keys = (_stem(path) if loose else path for path in self._paths(name, roots))
                found_ids = next((ids for key in keys if (ids := index.get(key))), set[str]())
                fitting = found_ids - taken
                has_suffix = is_video_name(clean_path(name))
                if not fitting and not has_suffix:
                    fitting = found_ids  # it means the video that another name means too
                if len(fitting) == 1:
                    [found[number]] = fitting
                elif fitting and not (loose and has_suffix):  # with a suffix of its own it names a file that is gone
                    ambiguous[name] = sorted(fitting)
        return MatchedNames(found, ambiguous)

    def _paths(self, name: str, roots: Sequence[str]) -> Iterator[str]:
        """The paths relative to the folder that a name may mean, the likeliest first."""
        path = clean_path(name)
        yield path
        for root in roots:
            if path.startswith(root):
                yield path.removeprefix(root)
        parts = path.split("/")
        for place, part in enumerate(parts[:-1]):
            if part in self._folders:
                yield "/".join(parts[place + 1 :])


def _common_root(names: Sequence[str], by_stem: Mapping[str, set[str]]) -> list[str]:
    """The folder that all absolute names of videos lie in, wherever they were written; none if
    there are several.
    """
    roots = set()
    for path in map(clean_path, names):
        if path.startswith("/") or path[1:3] == ":/":
            parts = path.split("/")
            places = (place for place in range(1, len(parts)) if _stem("/".join(parts[place:])) in by_stem)
            if (place := next(places, None)) is not None:
                roots.add("/".join(parts[:place]) + "/")
    return list(roots) if len(roots) == 1 else []


def clean_path(text: str) -> str:
    """A path as it is meant: slashes, no `./`, no blanks or quotes around it, composed Unicode
    (NFC).
    """
    text = unquoted(text).replace("\\", "/")
    return unicodedata.normalize("NFC", posixpath.normpath(text)) if text else ""


def without_suffix(name: str) -> str:
    """A name without the suffix of a video; a dot elsewhere in it (`v1.0`) begins no suffix."""
    stem, suffix = posixpath.splitext(name)
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


def _stem(path: str) -> str:
    return without_suffix(path).casefold()


class ExistingFiles:
    """Files on the disk, to be found by their paths as people write them; a folder is listed once."""

    def __init__(self) -> None:
        self._listed: dict[Path, list[str]] = {}

    def find(self, path: Path) -> Path:
        """The file that an absolute path means: itself, or the single one whose name differs in its
        Unicode form or, where there is none, in its suffix or case. A path that means no file is
        given back.
        """
        if os.path.lexists(path):
            return path
        here = Path(path.anchor)
        parts = path.relative_to(here).parts
        for number, part in enumerate(parts):
            if os.path.lexists(here / part):
                here = here / part
                continue
            names = self._names(here)
            fitting = [name for name in names if clean_path(name) == clean_path(part)]
            if not fitting and number == len(parts) - 1:
                stem = _stem(clean_path(part))
                fitting = [name for name in names if is_video_name(name) and _stem(clean_path(name)) == stem]
            if len(fitting) != 1:
                return path
            here = here / fitting[0]
        return here

    def _names(self, folder: Path) -> list[str]:
        if folder not in self._listed:
            try:
                self._listed[folder] = os.listdir(folder)
            except OSError:  # no such folder, or one that may not be read: the file is not found
                self._listed[folder] = []
        return self._listed[folder]


def is_video_name(name: str) -> bool:
    """Whether a name ends as videos do."""
    return posixpath.splitext(name)[1].lower() in VIDEO_SUFFIXES


def some(names: Sequence[str], *, at_most: int = _SHOWN) -> str:
    """The first few names, and a sign that there are more."""
    return ", ".join(names[:at_most]) + (", ..." if len(names) > at_most else "")
