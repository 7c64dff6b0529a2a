"""`vicc splits`: videos to grouped folds in a split file."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from vicc.data.names import some
from vicc.data.splits import (
    SPLITS_FOLDER,
    SplitMember,
    SplitTable,
    describe_groups,
    group_name,
    grouped_folds,
    note_on_sides_passed_over,
    read_split_table,
    require_split_name,
    write_split_table,
)
from vicc.data.store import Store, say_if_unfinished, store_exists
from vicc.data.video_files import discover_videos
from vicc.errors import ViccError
from vicc.places import is_url
from vicc.prepare.configs import SplitsConfig


@dataclass(frozen=True)
class Fold:
    """The videos that one fold tests; `videos_of_a_class` are the fewest and the most that a class
    has of them.
    """

    number: int
    videos: int
    groups: int
    classes: int
    videos_of_a_class: tuple[int, int]


@dataclass(frozen=True)
class FoldsReport:
    """What `make_folds` wrote: `split` is the name that --split takes, before the colon; counts are
    of videos, but for `groups`; `notes` are sentences that a user should see.
    """

    file: str
    split: str
    folds: list[Fold]
    videos: int
    groups: int
    without_group: int
    without_label: int
    notes: list[str]


def make_folds(config: SplitsConfig) -> FoldsReport:
    """Divide the videos of a store, a folder or a list into grouped folds and write the split file.

    Raises:
        ViccError: no videos there, fewer groups than folds, a name that cannot be used, or a file
            of another division.
    """
    is_store, remote = store_exists(config.path), isinstance(config.path, str) and is_url(config.path)
    if config.groups is not None and is_store:
        raise ViccError(f"--groups {config.groups} is for a folder of videos; the store {config.path} has its own.")
    if config.out is None and (remote or not is_store):
        raise ViccError(f"{config.path} is not a local store: give --out FILE.csv to say where the split file goes.")
    videos: list[SplitMember]
    if is_store:
        store = Store(config.path)
        say_if_unfinished(store)
        videos = list(store.videos)
    else:
        videos = list(discover_videos(Path(config.path), groups=config.groups))
    default = f"grouped-{config.folds}" + (f"-{config.seed}" if config.seed else "")
    name = default if config.name is None else config.name
    require_split_name(name)
    path = config.out or Path(config.path) / SPLITS_FOLDER / f"{name}.csv"
    table = grouped_folds(videos, folds=config.folds, seed=config.seed)
    if not path.exists():
        write_split_table(path, table)
    elif read_split_table(path) != table:
        # Runs may have been trained on it, and would then be tested on what they have seen.
        raise ViccError(f"{path} exists and divides the videos otherwise. Give another --name or --out, or remove it.")
    unlabelled = [video.id for video in videos if video.label is None]
    notes = [f"{len(videos)} videos in {config.folds} folds: {describe_groups(videos)}"]
    if unlabelled and len(unlabelled) < len(videos):
        notes.append(
            f"{len(unlabelled)} of {len(videos)} videos {'has' if len(unlabelled) == 1 else 'have'} no label "
            f"({some(unlabelled)}): spread over the folds, and no class"
        )
    notes += note_on_sides_passed_over(videos)
    return FoldsReport(
        str(path),
        str(path) if config.out else name,
        _summaries(videos, table),
        videos=len(videos),
        groups=len({video.group for video in videos} - {None}),
        without_group=sum(video.group is None for video in videos),
        without_label=len(unlabelled),
        notes=notes,
    )


def _summaries(videos: list[SplitMember], table: SplitTable) -> list[Fold]:
    labels = {video.label for video in videos} - {None}
    folds = []
    for number in range(table.num_folds):
        tested = [video for video in videos if table.cells[video.id][number] == "test"]
        counts = Counter(video.label for video in tested)
        each = [counts[label] for label in labels] or [0]
        classes = sum(counts[label] > 0 for label in labels)
        groups = len({group_name(video) for video in tested})
        folds.append(Fold(number + 1, len(tested), groups, classes, (min(each), max(each))))
    return folds
