"""Whole stores: damage is found and named, merging equals preparing at once, dropping gives space back."""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import lmdb
import pytest

from tests.data.test_store import SETTINGS, files_of, packed, video, write_store
from vicc.data.maintenance import (
    copy_store,
    drop_videos,
    list_store,
    merge_stores,
    store_info,
)
from vicc.data.records import FileState, SetAside
from vicc.data.store import Store, StoreWriter
from vicc.errors import ViccError
from vicc.prepare.verify import Verification, verify_store

NAMES = {f"{number}.mp4": number for number in range(6)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos in three shards. Read it only."""
    return write_store(tmp_path_factory.mktemp("whole") / "store", NAMES, shard_bytes=30_000)


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    """A copy to spoil."""
    return Path(shutil.copytree(whole, tmp_path / "store"))


def change_value(shard: Path, key: bytes, change: Callable[[bytes], bytes | None]) -> None:
    """Change one value behind LMDB's back; None deletes it."""
    environment = lmdb.open(str(shard), subdir=False, map_size=1 << 28)
    with environment.begin(write=True) as transaction:
        keys = [bytes(found) for found in transaction.cursor().iternext(values=False) if found.startswith(key)]
        value = change(bytes(transaction.get(keys[0])))
        transaction.delete(keys[0]) if value is None else transaction.put(keys[0], value)
    environment.close()
    Path(f"{shard}-lock").unlink()


def flipped(value: bytes) -> bytes:
    return value[:-40] + bytes([value[-40] ^ 1]) + value[-39:]


def verify(path: Path, **options: bool) -> Verification:
    return verify_store(path, workers=1, **options)


def test_a_store_says_what_it_holds(store: Path) -> None:
    writer = StoreWriter(store, SETTINGS)
    writer.put_aside(SetAside("bad.mp4", "broken", FileState(5, 5)))
    writer.close()
    info = store_info(store)
    assert (info.videos, info.set_aside, info.frames, info.labels) == (6, 1, 30, {"run": 6})
    assert info.bytes == {
        stream: sum(len(packed(number)[stream]) for number in NAMES.values()) for stream in ("flow", "rgb")
    }
    assert info.problems == []
    assert {row["id"]: row["note"] for row in list_store(store)} == {
        **dict.fromkeys(NAMES, ""),
        "bad.mp4": "skipped: broken",
    }


def test_a_sound_store_has_no_damage_and_all_of_it_is_read(whole: Path) -> None:
    found = verify(whole, decode=True)
    assert (found.damage, found.videos, found.decoded_frames) == ([], 6, 6 * 9)
    assert found.bytes == sum(file.stat().st_size for file in whole.glob("shard-*"))


def test_one_wrong_bit_of_a_video_names_the_video_and_no_other(store: Path) -> None:
    shard = store / "shard-00001.lmdb"
    name = next(i for i, home in Store(store).shard_of.items() if home == shard.name)
    data, pack = bytearray(shard.read_bytes()), packed(NAMES[name])["rgb"]
    data[data.index(pack[:64]) + len(pack) // 2] ^= 1
    shard.write_bytes(data)
    found = verify(store)
    assert [(entry.shard, entry.video) for entry in found.damage] == [(shard.name, ""), (shard.name, name)]
    assert "stream rgb: its checksum does not fit" in found.damage[1].what


@pytest.mark.parametrize(
    ("key", "change", "what"),
    [
        (b"rgb:", flipped, "stream rgb: its checksum does not fit"),
        (b"flow:", lambda value: value[:-1], "stream flow: "),
        (b"flow:", lambda value: None, "stream flow: missing"),
        (b"video:", flipped, "is damaged (its checksum does not fit)"),
        (b"video:", lambda value: None, "manifest.json has it, the shard has not"),
    ],
)
def test_what_is_damaged_in_a_shard_is_found(
    store: Path, key: bytes, change: Callable[[bytes], bytes | None], what: str
) -> None:
    change_value(store / "shard-00000.lmdb", key, change)
    found = verify(store)
    assert any(what in entry.what for entry in found.damage), found.damage
    assert all(entry.shard in ("shard-00000.lmdb", "") for entry in found.damage)


def test_a_shard_whose_structure_is_damaged_is_named_and_the_others_are_read(store: Path) -> None:
    """LMDB may crash its process on such a file, hence the processes of their own."""
    shard, homes = store / "shard-00001.lmdb", Store(store).shard_of.values()
    data = bytearray(shard.read_bytes())
    for page in range(2, len(data) // 4096):
        data[page * 4096 : page * 4096 + 24] = os.urandom(24)
    shard.write_bytes(data)
    found = verify(store)
    assert {entry.shard for entry in found.damage} == {shard.name}
    assert found.videos == sum(home != shard.name for home in homes)


def test_a_missing_or_additional_shard_makes_the_manifest_stale(store: Path) -> None:
    (store / "shard-00001.lmdb").rename(store / "shard-00007.lmdb")
    problems = [*store_info(store).problems, *(entry.what for entry in verify(store).damage)]
    assert sum("manifest.json is stale: shard-00001.lmdb: missing" in problem for problem in problems) == 2
    with pytest.raises(ViccError, match=r"stale: shard-00001"):
        copy_store(store, store.parent / "copy")


def test_a_store_whose_run_was_killed_is_verified_with_its_journal(store: Path) -> None:
    writer = StoreWriter(store, SETTINGS)
    writer.add(video("new.mp4"), packed(9))
    assert "killed" in store_info(store).problems[0]
    assert verify(store).videos == 7
    with pytest.raises(ViccError, match="killed"):
        merge_stores([store], store.parent / "merged")
    with pytest.raises(ViccError, match="killed"):
        copy_store(store, store.parent / "copy")
    writer.close()


# --- merge -----------------------------------------------------------------------------------------------------------


def parts(folder: Path, count: int) -> list[Path]:
    return [
        write_store(folder / f"part-{part}", dict(list(NAMES.items())[part::count]), shard_bytes=20_000)
        for part in range(count)
    ]


@pytest.mark.parametrize("shard_bytes", [1, 40_000, 1 << 30])
def test_merged_parts_are_the_store_that_was_made_at_once_byte_for_byte(tmp_path: Path, shard_bytes: int) -> None:
    once = write_store(tmp_path / "once", NAMES, shard_bytes=shard_bytes)
    merged = merge_stores(parts(tmp_path, 3)[::-1], tmp_path / "merged", shard_bytes=shard_bytes)
    assert files_of(tmp_path / "merged") == files_of(once)
    assert (merged.videos, merged.twice) == (6, 0)


def test_the_same_video_is_taken_once_and_a_different_one_of_the_same_id_is_refused(tmp_path: Path) -> None:
    first = write_store(tmp_path / "first", {"a": 1, "b": 2})
    second = write_store(tmp_path / "second", {"b": 2, "c": 3})
    assert merge_stores([first, second], tmp_path / "merged").twice == 1
    other = write_store(tmp_path / "other", {"b": 7})
    with pytest.raises(ViccError, match=r"'b' stands in .*first and in .*other with different content"):
        merge_stores([first, other], tmp_path / "refused")
    assert not (tmp_path / "refused").exists()


def test_stores_of_other_settings_and_folders_that_exist_are_refused(tmp_path: Path) -> None:
    first = write_store(tmp_path / "first", {"a": 1})
    StoreWriter(tmp_path / "other", replace(SETTINGS, flow="tvl1")).close()
    with pytest.raises(ViccError, match=r"different settings: flow 'dis' \(there: 'tvl1'\)"):
        merge_stores([first, tmp_path / "other"], tmp_path / "merged")
    with pytest.raises(ViccError, match="exists"):
        merge_stores([first], tmp_path / "other")
    with pytest.raises(ViccError, match="twice"):
        merge_stores([first, first], tmp_path / "merged")


def test_split_files_go_along_where_they_divide_all_of_the_videos(tmp_path: Path) -> None:
    first, second = parts(tmp_path, 2)
    (first / "splits").mkdir()
    (first / "splits" / "half.csv").write_text("id,1\n")
    assert merge_stores([first, second], tmp_path / "merged").splits == []
    whole = write_store(tmp_path / "whole", NAMES)
    (whole / "splits").mkdir()
    (whole / "splits" / "five.csv").write_text("id,1\n0.mp4,train\n")
    assert merge_stores([second, whole], tmp_path / "again").splits == ["splits/five.csv"]
    assert (tmp_path / "again" / "splits" / "five.csv").read_text() == "id,1\n0.mp4,train\n"


# --- drop and copy ---------------------------------------------------------------------------------------------------


def test_videos_are_dropped_by_id_and_by_label(store: Path) -> None:
    writer = StoreWriter(store, SETTINGS, shard_bytes=40_000)
    writer.add(replace(video("walk.mp4"), label="walk"), packed(9))
    writer.close()
    before = files_of(store)
    assert drop_videos(store, ["0.mp4"], labels=["walk"], dry_run=True).ids == ["0.mp4", "walk.mp4"]
    assert files_of(store) == before
    drop_videos(store, ["0.mp4"], labels=["walk"])
    assert sorted(Store(store).shard_of) == ["1.mp4", "2.mp4", "3.mp4", "4.mp4", "5.mp4"]
    assert verify(store).damage == []


@pytest.mark.parametrize("options", [{"ids": ["x.mp4"]}, {"ids": ["x.mp4"], "dry_run": True}, {"labels": ["fly"]}])
def test_what_is_not_there_is_not_dropped(store: Path, options: dict[str, list[str]]) -> None:
    before = files_of(store)
    with pytest.raises(ViccError, match=r"no 'x\.mp4'|no label 'fly'\. Labels: run"):
        drop_videos(store, **options)  # type: ignore[arg-type]
    assert files_of(store) == before


def test_a_copy_between_folders_is_the_same_and_is_brought_up_to_date(store: Path, tmp_path: Path) -> None:
    copied = copy_store(store, tmp_path / "copy")
    assert files_of(tmp_path / "copy") == files_of(store)
    assert copied.sent_bytes == copied.bytes
    assert copy_store(store, tmp_path / "copy").sent_bytes == 0
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(ViccError, match="exists and is not a store"):
        copy_store(store, tmp_path / "mine")


def measured(folder: Path, videos: dict[str, float], *, version: int = 2) -> Path:
    content = {name: {"seconds": seconds, "cuts": []} for name, seconds in videos.items()}
    (folder / "segments.json").write_text(json.dumps({"version": version, "shots": False, "videos": content}))
    return folder


def test_merging_keeps_what_was_measured_and_leaves_out_what_contradicts(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first = measured(write_store(tmp_path / "1", {"a.mp4": 8}), {"9 1 a.mp4": 3.0, "9 2 both.mp4": 4.0})
    second = measured(write_store(tmp_path / "2", {"b.mp4": 8}), {"9 3 b.mp4": 5.0, "9 2 both.mp4": 6.0})
    older = measured(write_store(tmp_path / "3", {"c.mp4": 8}), {"9 4 c.mp4": 20.0}, version=1)
    merge_stores([first, second, older], tmp_path / "all")
    content = json.loads((tmp_path / "all" / "segments.json").read_text())
    assert {name: entry["seconds"] for name, entry in content["videos"].items()} == {"9 1 a.mp4": 3.0, "9 3 b.mp4": 5.0}
    said = capsys.readouterr().err
    assert "left out the lengths of 1 files" in said
    assert "both.mp4" in said
    assert f"left out {older / 'segments.json'}" in said
    copy_store(tmp_path / "all", tmp_path / "copy")
    assert json.loads((tmp_path / "copy" / "segments.json").read_text()) == content


def test_merging_refuses_measures_that_it_does_not_understand(tmp_path: Path) -> None:
    first, second = write_store(tmp_path / "1", {"a.mp4": 8}), write_store(tmp_path / "2", {"b.mp4": 8})
    (first / "segments.json").write_text('{"version": 2}')
    with pytest.raises(ViccError, match=r"segments\.json cannot be understood"):
        merge_stores([first, second], tmp_path / "all")
