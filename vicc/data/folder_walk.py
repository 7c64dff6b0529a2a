"""The video files of a folder, and whatever in it is passed over, with the reason."""

import os
from collections import Counter, defaultdict, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vicc.data.names import is_video_name

_EXAMPLES = 3
_HIDDEN = "hidden (a dot begins the name)"
_LOOP = "link to a folder above"
_OTHER_SUFFIX = "other suffix"


@dataclass(frozen=True)
class PassedOver:
    """Files and folders that were passed over for one reason.

    Attributes:
        reason: a few words; for files whose names do not end as videos do, `other suffix .txt`.
        examples: the first few, relative to the folder; fewer, or none, where these were read for
            what they say.
    """

    reason: str
    count: int
    examples: tuple[str, ...]

    @property
    def is_loss(self) -> bool:
        """Whether videos are likely to be among them, and not only notes and pictures that lie
        beside videos.
        """
        return self.reason not in (_HIDDEN, _LOOP) and not self.reason.startswith(_OTHER_SUFFIX)


@dataclass(frozen=True)
class WalkedFolder:
    """What a folder holds: video files as paths relative to it, files of the name looked for, what
    was passed over.
    """

    files: list[PurePosixPath]
    named: list[PurePosixPath]
    passed_over: tuple[PassedOver, ...]


def walk_folder(folder: Path, *, look_for: str = "") -> WalkedFolder:
    """Find the videos in a folder and in all folders in it, sorted by name.

    Links to files and folders are followed. A folder that several names lead to is taken once, by
    its own name before any link, so that a link to a folder above ends nowhere.

    Args:
        look_for: name in small letters of files that are read for what they say, and so are not
            passed over.
    """
    root = os.path.realpath(folder)
    files: list[PurePosixPath] = []
    named: list[PurePosixPath] = []
    passed = _Passed()
    seen = {root: "."}
    folders, links = deque([(PurePosixPath(), root)]), list[tuple[PurePosixPath, str]]()
    while folders or links:
        if not folders:
            links.sort()
            name, real = links.pop(0)
            if f"{root}/".startswith(f"{real.rstrip('/')}/"):
                passed.add(_LOOP, name)
                continue
            if real in seen:
                passed.add("link to a folder that is there already", f"{name} ({seen[real]})")
                continue
            seen[real] = str(name)
            folders.append((name, real))
        here, real = folders.popleft()
        try:
            with os.scandir(folder / here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            passed.add(f"folder that cannot be read ({error.strerror})", here)
            continue
        for entry in found:
            name = here / entry.name
            if entry.name.startswith("."):
                passed.add(_HIDDEN, name)
            elif entry.is_dir(follow_symlinks=False):
                inner = os.path.join(real, entry.name)
                if inner in seen:
                    passed.add("folder that is there already by a link", f"{name} ({seen[inner]})")
                else:
                    seen[inner] = str(name)
                    folders.append((name, inner))
            elif (reason := _reason(entry)) is not None:
                passed.add(reason, name)
            elif entry.is_dir():
                links.append((name, os.path.realpath(entry.path)))
            elif is_video_name(entry.name):
                files.append(name)
            elif entry.name.lower() == look_for:
                named.append(name)
            else:
                passed.add(_other_suffix(name), name)
    return WalkedFolder(sorted(files, key=str), sorted(named, key=str), passed.entries())


def without_read(passed: Sequence[PassedOver], folder: Path, files: Iterable[Path]) -> tuple[PassedOver, ...]:
    """What was passed over in a folder, without files in it that were read for what they say, such
    as lists.
    """
    root = Path(os.path.realpath(folder))
    read: dict[str, list[str]] = defaultdict(list)
    for file in dict.fromkeys(files):
        real = Path(os.path.realpath(file.parent)) / file.name
        if real.is_relative_to(root) and not any(part.startswith(".") for part in real.relative_to(root).parts):
            read[_other_suffix(PurePosixPath(file.name))].append(real.relative_to(root).as_posix())
    left = []
    for entry in passed:
        names = read.get(entry.reason, [])
        examples = tuple(name for name in entry.examples if name not in names)
        left.append(PassedOver(entry.reason, entry.count - len(names), examples))
    return tuple(entry for entry in left if entry.count > 0)


class _Passed:
    """Counts names by reason; of millions of pictures beside the videos only the first few names
    are kept.
    """

    def __init__(self) -> None:
        self._counts: Counter[str] = Counter()
        self._examples: dict[str, list[str]] = defaultdict(list)

    def add(self, reason: str, name: str | PurePosixPath) -> None:
        self._counts[reason] += 1
        if self._counts[reason] <= _EXAMPLES:
            self._examples[reason].append(str(name))

    def entries(self) -> tuple[PassedOver, ...]:
        reasons = sorted(self._counts, key=lambda reason: (reason.startswith(_OTHER_SUFFIX), reason))
        return tuple(PassedOver(reason, self._counts[reason], tuple(self._examples[reason])) for reason in reasons)


def _other_suffix(name: PurePosixPath) -> str:
    return f"{_OTHER_SUFFIX} {name.suffix.lower() or '(none)'}"


def _reason(entry: os.DirEntry[str]) -> str | None:
    """Why a name leads to no file or folder that can be looked at; None if it does."""
    try:
        is_file = entry.is_file()
    except OSError as error:
        return f"cannot be looked at ({error.strerror})"
    if is_file:
        return None
    if not entry.is_symlink():
        return "no ordinary file"
    try:
        os.stat(entry.path)
    except FileNotFoundError:
        return "link to a file or folder that is missing"
    except OSError as error:
        return f"link that cannot be followed ({error.strerror})"
    return None if entry.is_dir() else "no ordinary file"
