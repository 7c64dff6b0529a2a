"""What a folder or list says today of videos that a store has held for longer: labels, groups,
splits, and other names.

Nothing is decoded for it. A video whose file has another name now is known by its content.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from vicc.data.records import FileState, SetAside, Video
from vicc.data.video_files import LIST_SUFFIXES, VideoFile, file_id, part_of
from vicc.files import hash_file

_FACTS = {"label": "labels", "group": "groups", "split": "splits"}
_NAMED = 3  # changes that are told one by one

Entry = Video | SetAside


@dataclass
class Updates:
    """What is to be changed in a store before new videos are added.

    Attributes:
        restated: videos, with what the folder or list says of them today.
        counts: how many labels, groups and splits are other ones.
        examples: the first few of these, in words.
        labels_kept: videos whose label stays since the place, of one class or none, names no
            classes at all.
        moved: the earlier id, and the video under the id that its file has now.
        twice: ids whose file is gone and whose content the store has under another id too: they are
            dropped.
        superseded: skipped files under an id that a cut into other parts does not give any more.
        missing: ids that the place does not have; of another place, or deleted since.
    """

    restated: list[Video] = field(default_factory=list)
    counts: dict[str, int] = field(default_factory=dict)
    examples: list[str] = field(default_factory=list)
    labels_kept: int = 0
    moved: dict[str, Video] = field(default_factory=dict)
    twice: dict[str, str] = field(default_factory=dict)
    superseded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)

    def lines(self, store: Path | str, *, planned: bool = False) -> Iterator[str]:
        """What changes, in words."""
        would = "would be " if planned else ""
        if self.counts:
            what = ", ".join(f"{count} {name if count > 1 else name[:-1]}" for name, count in self.counts.items())
            some = "; ".join(self.examples) + ("; ..." if sum(self.counts.values()) > len(self.examples) else "")
            yield f"{would}updated in {_videos(len(self.restated))}: {what} ({some})"
        if self.labels_kept:
            yield f"this place names no classes: {_videos(self.labels_kept)} of the store keep the label they have"
        names = {old: video.id for old, video in self.moved.items()} | self.twice
        for old, new in list(names.items())[:_NAMED]:
            yield f"{would}moved: {old} -> {new}"
        if len(names) > _NAMED:
            yield f"{would}moved: {_videos(len(names) - _NAMED)} more"
        if self.missing:
            count = len(self.missing)
            some = ", ".join(self.missing[:_NAMED]) + (", ..." if count > _NAMED else "")
            yield (
                f"{_videos(count)} of the store {store} "
                f"{'are' if count > 1 else 'is'} not in this place ({some}): from another place, or deleted since, and "
                "still trained on. To take some out: vicc store drop STORE ID"
            )


def find_updates(
    entries: Sequence[Entry], files: Sequence[VideoFile], *, whole: Sequence[VideoFile], place: Path
) -> Updates:
    """Compare what a store says with what the folder or list of its videos says today.

    Args:
        entries: everything in the store.
        files: the videos of this run, cut into parts where they are to be.
        whole: all videos of the place, before they were cut or divided among several runs.
    """
    here = {file.id: file for file in files}
    of_place = {file.id: file for file in whole}
    # Of files of another run of --shard it is not known here which parts they have.
    ours = {file_id(file.id) for file in files}
    updates = Updates()
    labelled = any(file.label is not None for file in whole)
    counts: Counter[str] = Counter()
    gone: list[Entry] = []
    for entry in entries:
        file = here.get(entry.id)
        if file is None and file_id(entry.id) not in ours:
            file = of_place.get(entry.id)
            if file is None and (of_file := of_place.get(file_id(entry.id))) is not None:
                file = part_of(of_file, None, None)
        if file is None:
            if isinstance(entry, SetAside) and file_id(entry.id) in ours:
                updates.superseded.append(entry.id)
            else:
                gone.append(entry)
        elif isinstance(entry, Video):
            label = file.label if labelled else entry.label
            updates.labels_kept += label != file.label
            video = replace(entry, label=label, group=file.group, split=file.split)
            if video != entry:
                updates.restated.append(video)
                for fact, name in _FACTS.items():
                    before, after = getattr(entry, fact), getattr(video, fact)
                    counts[name] += before != after
                    if before != after and len(updates.examples) < _NAMED:
                        updates.examples.append(f"{entry.id}: {fact} {before or 'none'} -> {after or 'none'}")
    updates.counts.update({name: counts[name] for name in _FACTS.values() if counts[name]})
    if gone:  # else no file need be looked at
        _find_moved(gone, entries, here, of_place, place, updates)
    if place.is_file() and place.suffix.lower() not in LIST_SUFFIXES:
        updates.missing.clear()  # a single file that is added is no list of what there is to be
    return updates


def _find_moved(
    gone: Iterable[Entry],
    entries: Sequence[Entry],
    here: Mapping[str, VideoFile],
    of_place: Mapping[str, VideoFile],
    place: Path,
    updates: Updates,
) -> None:
    """Which of the videos that the place has no more are there under another name, by their
    content.
    """
    unchanged = {
        entry.id: (entry.source.blake2b, _part(entry.id))
        for entry in entries
        if entry.id in here and entry.source == replace(_state(here[entry.id].path), blake2b=entry.source.blake2b)
    }
    known = {content: name for name, content in unchanged.items()}
    others = {entry.id for entry in entries} - here.keys()
    new = _NewFiles({**of_place, **here}, others | unchanged.keys())
    for entry in gone:
        content = entry.source.blake2b
        if isinstance(entry, SetAside) or not content or _is_there(place, entry.id):
            updates.missing.append(entry.id)
        elif twin := known.get((content, _part(entry.id))):
            updates.twice[entry.id] = twin
        elif (file := new.take(entry)) is None:
            updates.missing.append(entry.id)
        elif file.id not in here:  # another run of --shard prepares it
            updates.twice[entry.id] = file.id
        else:
            updates.moved[entry.id] = replace(
                entry,
                id=file.id,
                source=replace(_state(file.path), blake2b=content),
                label=file.label if any(other.label for other in of_place.values()) else entry.label,
                group=file.group,
                split=file.split,
            )


class _NewFiles:
    """Files that the store does not know yet, by their content. Only those of the size of a lost
    one are read.
    """

    def __init__(self, files: Mapping[str, VideoFile], known: set[str]) -> None:
        self._by_size: dict[int, list[VideoFile]] = {}
        self._hashes: dict[Path, str] = {}
        for file in files.values():
            if file.id not in known:
                self._by_size.setdefault(_state(file.path).bytes, []).append(file)

    def take(self, lost: Video) -> VideoFile | None:
        """The file that a lost video has become; each is given once."""
        candidates = self._by_size.get(lost.source.bytes, [])
        for number, file in enumerate(candidates):
            if _part(file.id) == _part(lost.id) and self._hash(file.path) == lost.source.blake2b:
                return candidates.pop(number)
        return None

    def _hash(self, path: Path) -> str:
        if path not in self._hashes:
            try:
                self._hashes[path] = hash_file(path)
            except OSError:
                self._hashes[path] = ""  # preparing it says why
        return self._hashes[path]


def _videos(count: int) -> str:
    return f"{count} video{'s' if count != 1 else ''}"


def _state(path: Path) -> FileState:
    try:
        stat = path.stat()
    except OSError:
        return FileState(-1, 0)  # of no file
    return FileState(stat.st_size, stat.st_mtime_ns)


def _part(video_id: str) -> str:
    return video_id[len(file_id(video_id)) :]


def _is_there(place: Path, video_id: str) -> bool:
    """Whether the file of an id still lies where the place would have it, listed or not."""
    name = file_id(video_id)
    folder = place if place.is_dir() else place.absolute().parent
    return (folder / name).exists() or Path("/", name).exists()
