"""What a folder, list or store holds, in counts, as `vicc check` and `vicc prepare` show it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from vicc.data.folder_walk import PassedOver, without_read
from vicc.data.official_splits import find_official_splits
from vicc.data.splits import OFFICIAL, SplitMember, SplitTable, note_on_groups_of_sides
from vicc.data.video_files import Listing, VideoFile, describe_passed, file_id, list_video_files

_EXAMPLES = 3


@dataclass(frozen=True)
class Survey:
    """What a folder, list or store holds. Counts are of videos, where nothing else is said.

    Attributes:
        files: of which the videos are parts, or themselves.
        suffixes: how many files end in what, the most frequent first.
        passed_over: files and folders that are no videos of it, by reason.
        classes: by name. `single_class` is the one class that all had, which is no label.
        without_label: the first few; `unlabelled` is their number.
        groups: number of groups; `groups_from` is how many videos have theirs from where;
            `ungrouped` have none.
        split: by side, "train", "val", "test" and "none"; of official lists in their first fold,
            where "none" is unused or not named.
        split_from: "folders", "list", "official", or nothing.
        folds: of the official lists.
        notes: sentences that a user should see.
    """

    place: str
    videos: int
    files: int
    suffixes: Mapping[str, int]
    passed_over: tuple[PassedOver, ...]
    classes: Mapping[str, int]
    single_class: str | None
    unlabelled: int
    without_label: tuple[str, ...]
    groups: int
    groups_from: Mapping[str, int]
    ungrouped: int
    split: Mapping[str, int]
    split_from: str
    folds: int
    notes: tuple[str, ...]

    def rows(self) -> list[tuple[str, str]]:
        """The survey as a table: what, and how many with examples."""
        return [
            ("found", self._found()),
            ("passed over", "\n".join(map(describe_passed, self.passed_over)) or "nothing"),
            ("labelled", self._labelled()),
            ("grouped", self._grouped()),
            ("split", self._split()),
        ]

    def _found(self) -> str:
        suffixes = ", ".join(f"{suffix} {count}" for suffix, count in self.suffixes.items())
        what = _count(self.videos, "video") + (f", parts of {_count(self.files, 'file')}" * (self.files < self.videos))
        return f"{what} ({suffixes})"

    def _labelled(self) -> str:
        if not self.classes:
            why = f" ({self.single_class} alone is one class, which is no label)" if self.single_class else ""
            return f"no labels{why}"
        ranked = sorted(self.classes.items(), key=lambda item: (-item[1], item[0]))
        (largest, most), (smallest, fewest) = ranked[0], ranked[-1]
        sizes = f"{most} each" if most == fewest else f"{largest} has {most}, {smallest} has {fewest}"
        text = f"{_count(len(self.classes), 'class')}: {sizes}"
        if self.unlabelled:
            has = "has" if self.unlabelled == 1 else "have"
            text += f"; {self.unlabelled} of {self.videos} videos {has} no label ({self._unlabelled_names()})"
        return text

    def _unlabelled_names(self) -> str:
        return ", ".join(self.without_label) + ", ..." * (self.unlabelled > len(self.without_label))

    def _grouped(self) -> str:
        if not self.groups:
            return "no groups: each video counts as a recording of its own"
        origins = ", ".join(f"{count} from {origin}" for origin, count in self.groups_from.items())
        text = f"{_count(self.groups, 'group')} of {_count(self.videos - self.ungrouped, 'video')}"
        each = "each a recording" if self.ungrouped > 1 else "a recording"
        rest = f"; {_count(self.ungrouped, 'video')} without: {each} of its own" if self.ungrouped else ""
        return text + (f" ({origins})" if origins else "") + rest

    def _split(self) -> str:
        if not self.split_from:
            drawn = "divided by group when needed" if self.classes else "without labels all train"
            return f"none: {drawn}"
        sides = ", ".join(f"{side} {count}" for side, count in self.split.items() if side != "none" and count)
        rest = self.split.get("none", 0)
        if self.split_from == OFFICIAL:
            of = f" of {self.folds} folds" if self.folds > 1 else ""
            return f"{sides}" + (f", unused {rest}" if rest else "") + f" (official lists, fold 1{of})"
        left = " Val is neither trained on nor tested: --split folders:val" if self.split.get("val") else ""
        return f"{sides}" + (f", no side {rest}: trained on" if rest else "") + f" ({self.split_from}).{left}"


@dataclass(frozen=True)
class SurveyedVideos:
    """The videos of a folder, file or list, their sides by official lists, and the survey of it
    all.
    """

    files: list[VideoFile]
    official: SplitTable | None
    survey: Survey


def survey_videos(place: Path, *, groups: Path | None = None, official_splits: Path | None = None) -> SurveyedVideos:
    """List the videos of a folder, file or list, and count what there is; see `list_video_files`
    and `find_official_splits`.

    Raises:
        ViccError: no such path, no video in it, a list, groups file or official lists that cannot
            be used.
    """
    listing = list_video_files(place, groups=groups)
    official = find_official_splits(place, listing.files, given=official_splits)
    if place.is_dir():
        listing = replace(listing, passed_over=without_read(listing.passed_over, place, official.lists))
    survey = _survey(
        str(place),
        official.files,
        listing=listing,
        table=official.table,
        notes=(
            *(f"passed over: {describe_passed(entry)}" for entry in listing.passed_over if entry.is_loss),
            *listing.notes,
            *official.notes,
            *(note_on_groups_of_sides(official.files) if official.table is None else ()),
        ),
    )
    return SurveyedVideos(official.files, official.table, survey)


def survey_members(place: str, videos: Sequence[SplitMember], *, set_aside: Sequence[str] = ()) -> Survey:
    """Count videos that are known already, such as those of a store, and files that could not be
    used.
    """
    aside = (PassedOver("skipped", len(set_aside), tuple(set_aside[:_EXAMPLES])),) if set_aside else ()
    split_from = "folders or list" if any(video.split for video in videos) else ""
    return _survey(place, videos, listing=Listing([], aside, split_from=split_from), table=None, notes=())


def _survey(
    place: str, videos: Sequence[SplitMember], *, listing: Listing, table: SplitTable | None, notes: tuple[str, ...]
) -> Survey:
    files = {file_id(video.id) for video in videos}
    unlabelled = [video.id for video in videos if video.label is None]
    if table is None:
        sides = Counter(video.split or "none" for video in videos)
    else:
        first = {name: cells[0] for name, cells in table.cells.items()}
        sides = Counter(first.get(file_id(video.id)) or "none" for video in videos)
    return Survey(
        place=place,
        videos=len(videos),
        files=len(files),
        suffixes=dict(Counter(sorted(Path(name).suffix.lower() for name in files)).most_common()),
        passed_over=listing.passed_over,
        classes=dict(sorted(Counter(video.label for video in videos if video.label is not None).items())),
        single_class=listing.single_class,
        unlabelled=len(unlabelled),
        without_label=tuple(unlabelled[:_EXAMPLES]),
        groups=len({video.group for video in videos} - {None}),
        groups_from=dict(listing.groups_from),
        ungrouped=sum(video.group is None for video in videos),
        split={side: sides[side] for side in ("train", "val", "test", "none") if sides[side]},
        split_from=listing.split_from if table is None else OFFICIAL,
        folds=0 if table is None else table.num_folds,
        notes=notes,
    )


def _count(number: int, what: str) -> str:
    plural = {"class": "classes"}.get(what, f"{what}s")
    return f"{number:,} {what if number == 1 else plural}"
