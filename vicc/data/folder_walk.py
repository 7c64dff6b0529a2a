"""The video files of a folder, and whatever in it is passed over, with the reason."""

import os
from collections import defaultdict, deque
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
        examples: the first few, relative to the folder.
    """

    reason: str
    count: int
    examples: tuple[str, ...]

    @property
    def is_loss(self) -> bool:
        """Whether videos are likely to be among them, and not only notes and pictures that lie beside videos."""
        return self.reason not in (_HIDDEN, _LOOP) and not self.reason.startswith(_OTHER_SUFFIX)


@dataclass(frozen=True)
class WalkedFolder:
    """What a folder holds: video files as paths relative to it, and what was passed over."""

    files: list[PurePosixPath]
    passed_over: tuple[PassedOver, ...]


def walk_folder(folder: Path, *, used: frozenset[str] = frozenset()) -> WalkedFolder:
    """Find the videos in a folder and in all folders in it, sorted by name.

    Links to files and folders are followed. A folder that several names lead to is taken once, by its own name before
    any link, so that a link to a folder above ends nowhere.

    Args:
        used: files at the top that are read for what they say, and so are not passed over.
    """
    root = os.path.realpath(folder)
    files: list[PurePosixPath] = []
    passed: dict[str, list[str]] = defaultdict(list)
    seen = {root: "."}
    folders, links = deque([(PurePosixPath(), root)]), list[tuple[PurePosixPath, str]]()
    while folders or links:
        if not folders:
            links.sort()
            name, real = links.pop(0)
            if f"{root}/".startswith(f"{real.rstrip('/')}/"):
                passed[_LOOP].append(str(name))
                continue
            if real in seen:
                passed["link to a folder that is there already"].append(f"{name} ({seen[real]})")
                continue
            seen[real] = str(name)
            folders.append((name, real))
        here, real = folders.popleft()
        try:
            with os.scandir(folder / here) as entries:
                found = sorted(entries, key=lambda entry: entry.name)
        except OSError as error:
            passed[f"folder that cannot be read ({error.strerror})"].append(str(here))
            continue
        for entry in found:
            name = here / entry.name
            if entry.name.startswith("."):
                passed[_HIDDEN].append(str(name))
            elif entry.is_dir(follow_symlinks=False):
                inner = os.path.join(real, entry.name)
                if inner in seen:
                    passed["folder that is there already by a link"].append(f"{name} ({seen[inner]})")
                else:
                    seen[inner] = str(name)
                    folders.append((name, inner))
            elif (reason := _reason(entry)) is not None:
                passed[reason].append(str(name))
            elif entry.is_dir():
                links.append((name, os.path.realpath(entry.path)))
            elif is_video_name(entry.name):
                files.append(name)
            elif str(name) not in used:
                passed[f"{_OTHER_SUFFIX} {name.suffix.lower() or '(none)'}"].append(str(name))
    return WalkedFolder(
        sorted(files, key=str),
        tuple(
            PassedOver(reason, len(names), tuple(names[:_EXAMPLES]))
            for reason, names in sorted(passed.items(), key=lambda item: (item[0].startswith(_OTHER_SUFFIX), item[0]))
        ),
    )


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
