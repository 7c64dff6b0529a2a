"""Which videos a folder holds, what is known of them, and which of them are for training and which for testing."""

import csv
import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, TypeVar

from vicc.errors import ViccError
from vicc.video.decode import VIDEO_SUFFIXES

Split = Literal["train", "test"]
_SPLIT_FOLDERS: dict[str, Split] = {"train": "train", "training": "train", "test": "test", "testing": "test"}
GROUPS_FILE = "groups.csv"


@dataclass(frozen=True)
class VideoSource:
    """A video file and what its place says of it.

    Attributes:
        id: path relative to the folder, with forward slashes; the video's name everywhere in vicc.
        label: class name, or None where the folder has no class folders.
        group: source of the clip; clips of one group never fall into both training and test. None: its own source.
        split: "train" or "test" where the folder says so, else None.
    """

    id: str
    path: Path
    label: str | None
    group: str | None
    split: Split | None


def discover_videos(folder: Path, *, groups: Path | None = None) -> list[VideoSource]:
    """List the videos under `folder`, sorted by id.

    Understood layouts: `video.mp4` (no labels), `class/video.mp4`, and either of them inside `train/` and `test/`.
    A label is the name of the folder that holds the file; one single class is no label. A file `groups.csv` in the
    folder, or the one given, with a column `path` and a column `group` (and `label`, which then wins over the
    folder's name), says which clips come from the same source.

    Raises:
        ViccError: no such folder, no video in it, or a groups file that cannot be used.
    """
    if not folder.exists():
        raise ViccError(f"No such folder: {folder}. Give the folder that holds the videos.")
    if not folder.is_dir():
        raise ViccError(f"{folder} is a file; expected a folder of videos. Give the folder that holds it.")
    files = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in VIDEO_SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
        and path.is_file()
    ]
    if not files:
        raise ViccError(
            f"No videos in {folder}: none of its files ends in one of {', '.join(sorted(VIDEO_SUFFIXES))}. "
            "Check the folder, or convert the files (for instance to .mp4)."
        )
    rows = _read_groups(groups or folder / GROUPS_FILE, required=groups is not None)
    sources = sorted((_source(folder, path, rows) for path in files), key=lambda source: source.id)
    unknown = sorted(set(rows) - {source.id for source in sources})
    if groups is not None and len(unknown) == len(rows):
        raise ViccError(
            f"No path in {groups} names a video in {folder} (first: {unknown[0] if unknown else 'it has no rows'}). "
            "Paths must be relative to the folder."
        )
    if len({source.label for source in sources}) == 1:
        sources = [VideoSource(s.id, s.path, None, s.group, s.split) for s in sources]
    return sources


def _source(folder: Path, path: Path, rows: dict[str, dict[str, str]]) -> VideoSource:
    relative = path.relative_to(folder)
    parts = relative.parts
    split = _SPLIT_FOLDERS.get(parts[0].lower()) if len(parts) > 1 else None
    inner = parts[1:] if split else parts
    row = rows.get(relative.as_posix(), {})
    return VideoSource(
        id=relative.as_posix(),
        path=path,
        label=row.get("label") or (inner[-2] if len(inner) > 1 else None),
        group=row.get("group") or None,
        split=split,
    )


def _read_groups(path: Path, *, required: bool) -> dict[str, dict[str, str]]:
    if not path.exists():
        if required:
            raise ViccError(f"No such groups file: {path}. Give a CSV with the columns path and group.")
        return {}
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file)
            columns = reader.fieldnames or []
            if not {"path", "group"} <= set(columns):
                raise ViccError(f"{path} has the columns {list(columns)}; expected at least path and group.")
            return {row["path"]: row for row in reader}
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ViccError(f"The groups file {path} cannot be read: {error}.") from error


class SplitMember(Protocol):
    """What a split looks at; `Video` and `VideoSource` both have it."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str | None: ...
    @property
    def group(self) -> str | None: ...
    @property
    def split(self) -> Split | None: ...


Member = TypeVar("Member", bound=SplitMember)


def train_and_test(
    videos: Sequence[Member], *, test_share: float = 0.3, seed: int = 0
) -> tuple[list[Member], list[Member]]:
    """Divide videos into training and test videos.

    The folders' own `train` and `test` are kept where there are any. Otherwise labelled videos are divided so that
    about `test_share` of each class is tested and no group lies on both sides; the division depends only on the seed
    and the names of the groups. Videos without labels all train: there is nothing to test them against.
    """
    if any(video.split == "test" for video in videos):
        test = [video for video in videos if video.split == "test"]
        return [video for video in videos if video.split != "test"], test
    if any(video.label is None for video in videos):
        return list(videos), []
    groups: dict[str, list[Member]] = defaultdict(list)
    for video in videos:
        groups[video.group or video.id].append(video)
    wanted = {label: test_share * count for label, count in Counter(video.label for video in videos).items()}
    test_groups: set[str] = set()
    taken: Counter[str | None] = Counter()
    for name in sorted(groups, key=lambda name: hashlib.blake2b(f"{seed}/{name}".encode()).digest()):
        counts = Counter(video.label for video in groups[name])
        # Half a group too many is as far from the wanted share as half a group too few.
        if all(taken[label] + count / 2 <= wanted[label] for label, count in counts.items()):
            test_groups.add(name)
            taken.update(counts)
    return (
        [video for video in videos if (video.group or video.id) not in test_groups],
        [video for video in videos if (video.group or video.id) in test_groups],
    )
