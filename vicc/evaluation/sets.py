"""Which videos are measured: training and test videos of a split, checked before anything is
computed.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.data.splits import OFFICIAL, TEST_SHARE, Division, divide_videos, group_name
from vicc.data.video_files import file_id
from vicc.distributed import on_first
from vicc.errors import ViccError
from vicc.evaluation.configs import MeasuredVideos
from vicc.evaluation.result import Data, Queries, fingerprint
from vicc.prepare.scan import SCAN_FILE, open_frames, splits_of
from vicc.progress import say
from vicc.training.run import Run

# Videos in the official divisions, training and test videos of each fold, as their lists have them.
_OFFICIAL_SIZES = {
    "ucf101": (101, {1: (9537, 3783), 2: (9586, 3734), 3: (9624, 3696)}),
    "hmdb51": (51, {1: (3570, 1530), 2: (3570, 1530), 3: (3570, 1530)}),
}
_NAMES_SHOWN = 5


@dataclass(frozen=True)
class Sets:
    """The videos of one evaluation. Of retrieval, `train` is the gallery and `test` the queries.

    Without labels, or with one alone, every video searches all others: `train` and `test` are then
    the same list. Of videos some of which have a label, those without one are in neither.
    """

    store: FrameReader
    train: list[Video]
    test: list[Video]
    labelled: bool
    data: Data
    queries: Queries


def open_sets(
    config: MeasuredVideos, *, run: Run | None = None, encoders: Sequence[Path] = (), need_labels: bool = False
) -> Sets:
    """Open the store or folder and divide its videos. Of several processes the first opens it
    first.

    Args:
        run: a run whose encoders are measured: its own split is the default, and what it was
            trained on is not tested unasked.
        encoders: folders of encoders that are measured by themselves; what the run of one was
            trained on is said.
        need_labels: refuse videos without labels.

    Raises:
        ViccError: nothing to test; and, unless the config says --intersection, a split that names
            videos which are not here, test videos of classes without training videos, or a video
            that is on both sides under two names.
    """
    scan = None if run is None else run.folder / SCAN_FILE
    opened: list[FrameReader] = []
    on_first(lambda: opened.append(open_frames(config.store, config.videos, scan=scan)))
    store = opened[0] if opened else open_frames(config.store, config.videos, scan=scan)
    division = _labelled(_divide(store, config, run))
    of_encoders = {run.folder: run for run in map(Run.of, encoders) if run is not None}
    for other in of_encoders.values():
        if seen := _trained_and_tested(other, store, division):
            say(
                f"warning: {seen}: their numbers say little. --run {other.folder} takes the split that it was trained "
                "with"
            )
    for trained in [*([] if run is None else [run]), *of_encoders.values()]:
        for origin in trained.origins:
            if seen := _trained_and_tested(origin, store, division):
                say(f"warning: {trained.folder} starts from an encoder of {origin.folder}, and {seen}")
    classes = {video.label for video in store.videos} - {None}
    without = sum(video.label is None for video in store.videos)
    if division.train and division.test and len({video.label for video in division.train}) > 1:
        if without:
            say(f"{_of_videos(without, store)} no label: the others are measured")
        test = _checked(store, division, intersection=config.intersection)
        return _sets(store, division.train, test, labelled=True, split=division.name)
    if len(classes) > 1 and (need_labels or not without):
        raise ViccError(
            f"The {len(store.videos) - without} labelled videos of {store.path} cannot be divided into training and "
            f"test videos with whole groups, two classes to train on at least (split {division.name}). Give more "
            "videos or groups, another --split or --test-share."
        )
    if need_labels:
        raise ViccError(
            f"{_of_videos(without, store)} no label; expected at least two classes of "
            "labelled videos. Put the videos into class folders, or give a list with the column label."
            if without
            else f"All videos of {store.path} have the label {next(iter(classes))!r}; expected at least two classes."
        )
    if len(store.videos) < 2:
        raise ViccError(f"There is {len(store.videos)} video in {store.path}; expected at least 2 to search in.")
    why = "no labels"
    if len(classes) == 1:
        why = f"one label ({next(iter(classes))}) alone"
    elif classes:
        why = f"{_of_videos(without, store)} no label, and the split {division.name} does not divide the others"
    say(f"{why}: no table, but each of the {len(store.videos)} videos searches all others")
    return _sets(store, store.videos, store.videos, labelled=False, split="undivided")


def _labelled(division: Division[Video]) -> Division[Video]:
    """The division without videos that have no label."""
    train, test = ([video for video in side if video.label is not None] for side in (division.train, division.test))
    return replace(division, train=train, test=test)


def _of_videos(count: int, store: FrameReader) -> str:
    return f"{count} of {len(store.videos)} videos of {store.path} {'has' if count == 1 else 'have'}"


def _divide(store: FrameReader, config: MeasuredVideos, run: Run | None) -> Division[Video]:
    """The split asked for, else that of the run. Videos that the run was trained on are not tested
    unasked.
    """
    by_share = config.test_share is not None or config.split_seed is not None
    split = "grouped" if by_share else config.split
    own = run.divide(store.videos) if run is not None else None
    if own is not None and split is None:
        division = own
    else:
        division = divide_videos(
            store.videos,
            split,
            splits_folder=splits_of(store, None if run is None else run.folder),
            test_share=TEST_SHARE if config.test_share is None else config.test_share,
            seed=config.split_seed or 0,
        )
    for note in division.notes:
        say(note)
    seen = "" if run is None else _trained_and_tested(run, store, division)
    if seen and config.split is None:
        way = "Leave --test-share and --split-seed away, or give" if by_share else "Give"
        raise ViccError(f"{seen}. {way} --split to test them even so.")
    if seen:
        say(f"warning: {seen}: their numbers say little")
    return division


def _trained_and_tested(run: Run, store: FrameReader, division: Division[Video]) -> str:
    """In words, how many of the test videos a run was trained on; empty for none."""
    trained = run.trained_on(store.videos)
    seen = sum(video.id in trained for video in division.test)
    of = f"{seen} of the {len(division.test)} test videos of the split {division.name}"
    return f"{run.folder} was trained on {of}" if seen else ""


def _checked(store: FrameReader, division: Division[Video], *, intersection: bool) -> list[Video]:
    """The test videos that can be measured; all of them unless `intersection`."""
    test = division.test

    def object_to(what: str, left: list[Video]) -> list[Video]:
        if not intersection:
            raise ViccError(f"{what}. Give --intersection to measure without them, or mend the split or the store.")
        if not left:
            raise ViccError(f"{what}. Without them no test video is left.")
        say(f"{what}: measured without them, on {len(left)} test and {len(division.train)} training videos")
        return left

    if division.missing:
        reasons = {entry.id: entry.reason for entry in store.set_aside}
        names = [f"{name} (skipped: {reasons[name]})" if name in reasons else name for name in division.missing]
        object_to(
            f"The split {division.name} names {len(names)} videos that {store.path} does not have: {_some(names)}", test
        )
    trained_classes = {video.label for video in division.train}
    unknown = {str(video.label) for video in test} - set(map(str, trained_classes))
    if unknown:
        test = object_to(
            f"{len(unknown)} classes have test videos and no training video in the split {division.name}: "
            f"{_some(sorted(unknown))}",
            [video for video in test if video.label in trained_classes],
        )
    untested = {str(label) for label in trained_classes} - {str(video.label) for video in test}
    if untested:
        say(f"{len(untested)} classes have no test video, so nothing is said of them: {_some(sorted(untested))}")
    twins = _twins(division.train, test)
    if twins:
        test = object_to(
            f"{len(twins)} test videos are training videos as well, the same file under another name: "
            f"{_some([f'{one} is {other}' for one, other in sorted(twins.items())])}",
            [video for video in test if video.id not in twins],
        )
    return test


def _twins(train: Sequence[Video], test: Sequence[Video]) -> dict[str, str]:
    """Test videos whose file has the content of a training video's file; parts of one file are not
    meant.
    """
    trained = {video.source.blake2b: video.id for video in train if video.source.blake2b}
    found = ((video.id, trained.get(video.source.blake2b)) for video in test)
    return {one: other for one, other in found if other is not None and file_id(one) != file_id(other)}


def _sets(store: FrameReader, train: list[Video], test: list[Video], *, labelled: bool, split: str) -> Sets:
    content = [(video.id, video.label, video.num_frames) for video in store.videos if video.label is not None]
    data = Data(
        name=_name(train, test, split),
        place=str(store.path),
        content=fingerprint(content or [video.id for video in store.videos]),
        split=split,
        train=len(train),
        test=len(test),
        classes=sorted({str(video.label) for video in train}) if labelled else [],
    )
    queries = Queries(
        [video.id for video in test], [video.label for video in test], [group_name(video) for video in test]
    )
    return Sets(store, train, test, labelled, data, queries)


def _name(train: Sequence[Video], test: Sequence[Video], split: str) -> str:
    """The name of a data set whose official division is here as a whole; "own" for any other."""
    name, _, fold = split.partition(":")
    if name == OFFICIAL and fold.isdecimal():
        for data, (classes, sizes) in _OFFICIAL_SIZES.items():
            if len({video.label for video in train}) == classes and sizes.get(int(fold)) == (len(train), len(test)):
                return data
    return "own"


def few_labels(videos: Sequence[Video], share: float, *, seed: int = 0) -> list[Video]:
    """So many of each class's videos, at least one, in the order given.

    Which ones depends on the seed and their ids alone, and a smaller share is part of every larger
    one.
    """
    counts = Counter(video.label for video in videos)
    left = {label: max(1, round(share * count)) for label, count in counts.items()}
    chosen = set()
    for video in sorted(videos, key=lambda video: fingerprint([seed, video.id])):
        if left[video.label] > 0:
            left[video.label] -= 1
            chosen.add(video.id)
    return [video for video in videos if video.id in chosen]


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - _NAMES_SHOWN} more" if len(names) > _NAMES_SHOWN else ""
    return ", ".join(names[:_NAMES_SHOWN]) + more
