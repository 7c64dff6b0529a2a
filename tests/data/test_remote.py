"""Stores behind URLs, on a real local server that speaks S3: copied whole, read by need, damage and mistakes named."""

import json
import multiprocessing
import os
import shutil
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.data.test_store import files_of, write_store
from vicc.cli import main
from vicc.data import remote
from vicc.data.cache import cache_folder
from vicc.data.maintenance import copy_store, drop_videos, merge_stores, store_info
from vicc.data.remote import splits_folder, staging_folder
from vicc.data.splits import read_split_table
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.files import exclusive_folder
from vicc.prepare import build
from vicc.prepare.build import prepare_videos
from vicc.prepare.configs import PrepareConfig, SplitsConfig
from vicc.prepare.folds import make_folds
from vicc.prepare.verify import verify_store

pytest.importorskip("s3fs", reason="needs the extra remote")
moto_server = pytest.importorskip("moto.server", reason="needs moto[server,s3]")

NAMES = {f"{number}.mp4": number for number in range(6)}


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a server that speaks S3 and keeps all in memory."""
    server = moto_server.ThreadedMotoServer(port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(autouse=True)
def s3(server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty bucket `bucket`, and a cache of this test alone."""
    import boto3

    for name, value in {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "very-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "VICC_CACHE": str(tmp_path / "cache"),
    }.items():
        monkeypatch.setenv(name, value)
    urllib.request.urlopen(urllib.request.Request(f"{server}/moto-api/reset", method="POST")).read()
    client = boto3.client("s3")
    client.create_bucket(Bucket="bucket")
    return client


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Six videos in three shards. Read it only."""
    return write_store(tmp_path_factory.mktemp("whole") / "store", NAMES, shard_bytes=30_000)


URL = "s3://bucket/some/store"


def cached() -> list[str]:
    return sorted(path.name for path in (cache_folder() / "shards").rglob("*.lmdb"))


def objects(s3: Any) -> dict[str, int]:
    found = s3.list_objects_v2(Bucket="bucket").get("Contents", [])
    return {entry["Key"].removeprefix("some/store/"): entry["Size"] for entry in found}


def test_a_store_that_was_copied_up_reads_as_the_local_one_does(whole: Path, s3: Any) -> None:
    copied = copy_store(whole, URL)
    assert copied.sent_bytes == copied.bytes == sum(file.stat().st_size for file in whole.glob("shard-*"))
    local, remote = Store(whole), Store(URL)
    assert (remote.videos, remote.settings, remote.records) == (local.videos, local.settings, local.records)
    assert cached() == []  # nothing is fetched before a frame is asked for
    for name in NAMES:
        np.testing.assert_array_equal(remote.frames(name, "rgb", [0, 4]), local.frames(name, "rgb", [0, 4]))
        np.testing.assert_array_equal(remote.frames(name, "flow", [3]), local.frames(name, "flow", [3]))


def test_only_the_shards_that_are_read_are_fetched_and_only_once(
    whole: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy_store(whole, URL)
    store = Store(URL)
    store.frames("0.mp4", "rgb", [0])
    assert len(cached()) == 1
    for key in objects(s3):
        if key.startswith("shard-"):
            s3.delete_object(Bucket="bucket", Key=f"some/store/{key}")
    assert Store(URL).frames("0.mp4", "flow", [0]).shape[0] == 1  # from the cache: the bucket has it no more
    missing = next(name for name in NAMES if store.shard_of[name] != store.shard_of["0.mp4"])
    with pytest.raises(ViccError, match=r"s3://bucket/some/store is not there"):
        store.frames(missing, "rgb", [0])


def _read_all(store: Store, results: "multiprocessing.Queue[Any]") -> None:
    results.put({name: int(store.frames(name, "rgb", range(5)).sum()) for name in sorted(NAMES)})


@pytest.mark.parametrize("method", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_several_workers_share_one_download(whole: Path, s3: Any, method: str) -> None:
    copy_store(whole, URL)
    store = Store(URL)
    store.frames("0.mp4", "rgb", [0])  # files and connections are open before the fork
    context = multiprocessing.get_context(method)
    results = context.Queue()
    children = [context.Process(target=_read_all, args=(store, results)) for _ in range(3)]
    for child in children:
        child.start()
    sums = [results.get(timeout=60) for _ in children]
    for child in children:
        child.join()
        assert child.exitcode == 0
    local = Store(whole)
    assert sums == [{name: int(local.frames(name, "rgb", range(5)).sum()) for name in sorted(NAMES)}] * 3
    assert len(cached()) == 3
    assert not list(cache_folder().rglob("*.partial"))


def test_half_a_copy_is_no_store_and_goes_on_where_it_was(
    whole: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:

    send, sent = remote._send, []

    def break_off(path: Path, *arguments: Any) -> None:
        if sent:
            raise OSError("the cable was pulled out")
        sent.append(path.name)
        send(path, *arguments)

    monkeypatch.setattr(remote, "_send", break_off)
    with pytest.raises(ViccError, match=r"cannot be reached.*cable"):
        copy_store(whole, URL)
    with pytest.raises(ViccError, match=r"No store at s3://bucket/some/store.*a copy to it has not ended"):
        Store(URL)
    monkeypatch.setattr(remote, "_send", send)
    copied = copy_store(whole, URL)
    assert copied.sent_bytes == copied.bytes - (whole / sent[0]).stat().st_size
    assert len(Store(URL).videos) == 6


def test_a_changed_store_is_copied_again_and_old_shards_are_removed(whole: Path, tmp_path: Path, s3: Any) -> None:
    store = Path(shutil.copytree(whole, tmp_path / "store"))
    copy_store(store, URL)
    assert copy_store(store, URL).sent_bytes == 0
    last = [name for name, shard in Store(store).shard_of.items() if shard == "shard-00002.lmdb"]
    drop_videos(store, last)
    assert copy_store(store, URL).sent_bytes == 0
    assert sorted(objects(s3)) == [
        "manifest.json",
        *(f"shard-0000{number}.lmdb{end}" for number in (0, 1) for end in ("", ".blake2b")),
        "store.json",
    ]
    assert len(Store(URL).videos) == 6 - len(last)


def test_a_damaged_shard_is_named_and_leaves_nothing_in_the_cache(whole: Path, s3: Any) -> None:
    copy_store(whole, URL)
    key = "some/store/shard-00001.lmdb"
    data = bytearray(s3.get_object(Bucket="bucket", Key=key)["Body"].read())
    data[len(data) // 2] ^= 1
    s3.put_object(Bucket="bucket", Key=key, Body=bytes(data))
    store = Store(URL)
    name = next(i for i, shard in store.shard_of.items() if shard == "shard-00001.lmdb")
    with pytest.raises(ViccError, match=r"shard-00001\.lmdb of s3://bucket/some/store is not what its manifest says"):
        store.frames(name, "rgb", [0])
    assert cached() == []
    found = verify_store(URL, workers=1)
    assert [entry.shard for entry in found.damage] == ["shard-00001.lmdb"]
    assert found.videos == sum(shard != "shard-00001.lmdb" for shard in store.shard_of.values())


def test_a_remote_store_is_copied_down_and_merged(whole: Path, tmp_path: Path, s3: Any) -> None:
    copy_store(whole, URL)
    copy_store(URL, tmp_path / "down")
    assert files_of(tmp_path / "down") == files_of(whole)
    other = write_store(tmp_path / "other", {"x.mp4": 8})
    merge_stores([URL, other], tmp_path / "merged")
    assert sorted(Store(tmp_path / "merged").shard_of) == [*NAMES, "x.mp4"]
    assert store_info(URL).videos == 6


def test_prepare_writes_to_a_url_and_goes_on_from_another_machine(
    video_folder: Path, tmp_path: Path, s3: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    videos = tmp_path / "videos"
    shutil.copytree(video_folder / "test", videos)
    moved = next(videos.rglob("*.mp4"))
    moved.rename(tmp_path / "later.mp4")
    report = prepare_videos(PrepareConfig(videos, URL, workers=1))
    assert (report.store, report.found, report.prepared) == (URL, 5, 5)
    (tmp_path / "later.mp4").rename(moved)
    monkeypatch.setenv("VICC_CACHE", str(tmp_path / "another-machine"))
    report = prepare_videos(PrepareConfig(videos, URL, workers=1))
    assert (report.prepared, report.already_there) == (1, 5)
    assert len(Store(URL).videos) == 6
    assert prepare_videos(PrepareConfig(videos, URL, workers=1)).prepared == 0


@pytest.mark.parametrize(
    ("changes", "url", "message"),
    [
        ({}, "s3://no-such-bucket/store", r"No store at s3://no-such-bucket/store|is not there"),
        ({}, "s3://bucket/empty", r"No store at s3://bucket/empty"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_SECRET_ACCESS_KEY": None}, URL, r"No keys for s3://bucket/some/store"),
        ({"AWS_ENDPOINT_URL": "closed"}, URL, r"s3://bucket/some/store cannot be reached"),
        ({}, "s4://bucket/store", r"s4://bucket/store is no place for a store"),
        ({}, "s3://me:hunter2@bucket/store", r"s3://\.\.\.@bucket/store holds a user or password"),
    ],
)
def test_a_place_that_cannot_be_read_is_one_sentence_without_secrets(
    changes: dict[str, str | None], url: str, message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in changes.items():
        if value == "closed":
            with socket.socket() as closed:
                closed.bind(("127.0.0.1", 0))
                value = f"http://127.0.0.1:{closed.getsockname()[1]}"
        monkeypatch.delenv(name) if value is None else monkeypatch.setenv(name, value)
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(ViccError, match=message) as caught:
        Store(url)
    assert "very-secret" not in str(caught.value)
    assert "hunter2" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_without_the_extra_one_is_told_what_to_install() -> None:
    code = f"import sys; sys.modules['s3fs'] = None; from vicc.cli import main; main(['store', 'info', {URL!r}])"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False).stderr
    assert said.startswith("vicc: ")
    assert "pip install 'vicc[remote]'" in said


def test_a_copy_into_a_bucket_that_is_not_there_is_refused(whole: Path, server: str) -> None:
    with pytest.raises(ViccError, match="s3://no-such-bucket/store"):
        copy_store(whole, "s3://no-such-bucket/store")


def test_a_damaged_manifest_is_named(whole: Path, s3: Any) -> None:
    copy_store(whole, URL)
    s3.put_object(Bucket="bucket", Key="some/store/manifest.json", Body=b"{")
    with pytest.raises(ViccError, match=r"The manifest s3://bucket/some/store/manifest\.json is damaged"):
        Store(URL)


def test_no_secret_is_written_anywhere(whole: Path, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "copy", str(whole), URL]) == 0
    assert main(["store", "info", URL, "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out[said.out.index("{") :])["videos"] == 6
    written = said.out + said.err
    for key in objects(s3):
        written += s3.get_object(Bucket="bucket", Key=f"some/store/{key}")["Body"].read().decode(errors="replace")
    assert "very-secret" not in written


@pytest.mark.slow
def test_training_and_retrieval_read_a_store_behind_a_url(store_path: Path, tmp_path: Path, s3: Any) -> None:
    from tests.conftest import TINY_CHANGES

    copy_store(store_path, URL)
    run, changes = tmp_path / "run", [*TINY_CHANGES, "all.steps=2"]
    assert (
        main(["pretrain", "--recipe", "demo", "--store", URL, "--run", str(run), "--set", *changes, "--workers", "1"])
        == 0
    )
    assert main(["retrieve", "--run", str(run), "--store", URL, "--no-baselines"]) == 0
    assert main(["report", "--run", str(run), "--store", URL, "--queries", "1"]) == 0
    assert os.listdir(cache_folder() / "shards")


def test_split_files_of_a_remote_store_are_read_as_they_are_now(whole: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    shutil.copytree(whole, store)
    (store / "splits").mkdir()
    first, second, *_ = NAMES
    for text in ("train", "test"):
        (store / "splits" / "mine.csv").write_text(f"id,1\n{first},{text}\n{second},train\n")
        copy_store(store, URL)
        assert read_split_table(splits_folder(URL) / "mine.csv").cells == {first: (text,), second: ("train",)}
    assert splits_folder(store) == store / "splits"
    with pytest.raises(ViccError, match="1 group of videos cannot make 2 folds"):  # they are one group in this store
        make_folds(SplitsConfig(URL, folds=2, out=tmp_path / "folds.csv"))
    with pytest.raises(ViccError, match=r"is not a local store: give --out FILE\.csv"):
        make_folds(SplitsConfig(URL))


@pytest.fixture
def two_videos(video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of two classes with a video each, which are prepared without processes."""
    for name in ("up/0.mp4", "left/0.mp4"):
        (tmp_path / "two" / name).parent.mkdir(parents=True)
        shutil.copy(video_folder / "test" / name, tmp_path / "two" / name)
    monkeypatch.setattr(build, "run_locally", lambda work, items, **_: ((item, work(item)) for item in items))
    return tmp_path / "two"


def test_runs_of_shard_write_to_urls_that_are_merged_at_one(two_videos: Path, tmp_path: Path, s3: Any) -> None:
    options: dict[str, Any] = {"flow": "none", "segment_seconds": 0.5}
    parts = [prepare_videos(PrepareConfig(two_videos, URL, shard=f"{number}/2", **options)).store for number in (1, 2)]
    assert parts == [f"{URL}.part-1-of-2", f"{URL}.part-2-of-2"]
    assert merge_stores(parts, URL).store == URL
    prepare_videos(PrepareConfig(two_videos, tmp_path / "once", **options))
    assert [video.id for video in Store(URL).videos] == [video.id for video in Store(tmp_path / "once").videos]
    copy_store(URL, tmp_path / "down")
    measured = [(tmp_path / name / "segments.json").read_bytes() for name in ("once", "down")]
    assert measured[0] == measured[1]
    with pytest.raises(ViccError, match="There is a store at"):
        merge_stores(parts, URL)


def test_a_merge_at_a_url_deletes_nothing_that_was_prepared_for_it(tmp_path: Path) -> None:
    """By a run whose copy to the URL failed; what the stores to merge hold as well is no loss."""
    one, two = (write_store(tmp_path / name, {f"{name}.mp4": 8}) for name in "ab")
    prepared = write_store(staging_folder(URL), {"a.mp4": 8, "c.mp4": 8})
    with pytest.raises(ViccError, match=r"neither there yet nor in the stores given: 1 \(c\.mp4\)"):
        merge_stores([one, two], URL)
    with exclusive_folder(prepared, what="store"), pytest.raises(ViccError, match="is being prepared in"):
        merge_stores([one, two], URL)
    assert sorted(Store(prepared).shard_of) == ["a.mp4", "c.mp4"]
    drop_videos(prepared, ["c.mp4"])
    merge_stores([one, two], URL)
    assert sorted(Store(URL).shard_of) == ["a.mp4", "b.mp4"]


def test_a_copy_from_url_to_url_deletes_nothing_that_was_prepared_for_the_first(tmp_path: Path) -> None:
    copy_store(write_store(tmp_path / "one", {"a.mp4": 8}), URL)
    prepared = write_store(staging_folder(URL), {"a.mp4": 8, "c.mp4": 8})
    with pytest.raises(ViccError, match=r"nor in the stores given: 1 \(c\.mp4\)"):
        copy_store(URL, "s3://bucket/other")
    assert sorted(Store(prepared).shard_of) == ["a.mp4", "c.mp4"]
    drop_videos(prepared, ["c.mp4"])
    assert copy_store(URL, "s3://bucket/other").videos == 1


def test_labels_that_change_later_reach_the_url(two_videos: Path, s3: Any) -> None:
    prepare_videos(PrepareConfig(two_videos, URL, flow="none"))
    (two_videos / "groups.csv").write_text("path,group,label\nup/0.mp4,g,UP\n")
    assert prepare_videos(PrepareConfig(two_videos, URL, flow="none")).updated == {"labels": 1, "groups": 1}
    assert next((v.label, v.group) for v in Store(URL).videos if v.id == "up/0.mp4") == ("UP", "g")
