"""Engines: results in order, workers kept busy, what breaks is done again or lost by name, nothing outlives a stop."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.prepare.test_build import content, run
from vicc.cli import main
from vicc.data.records import FileState, SetAside, StoreSettings
from vicc.data.store import Store, store_exists
from vicc.data.video_files import discover_videos
from vicc.errors import ViccError
from vicc.prepare import engines
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.engines import run_locally
from vicc.prepare.video import prepare_video, prepare_video_on_node
from vicc.version import __version__

Write = Callable[..., Path]
WORK = partial(prepare_video, settings=StoreSettings(short_side=32), min_frames=3)


def one_byte(result: Any) -> int:
    return 1


def lost(item: Any, reason: str) -> tuple[str, str]:
    return "lost", reason


class Bomb:
    """Ends the process that unpickles it at once, as a decoder's crash would: no exception, no goodbye."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os._exit, (1,)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.fixture(scope="module")
def four_videos(tmp_path_factory: pytest.TempPathFactory, write_video: Write) -> Path:
    folder = tmp_path_factory.mktemp("four")
    for number in range(4):
        write_video(folder / "ab"[number % 2] / f"{number}.mp4", num_frames=6, seed=number)
    return folder


# --- this machine ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("workers", "pause"), [(2, 0.0), (1, 0.7)], ids=["at once", "after the pool broke"])
def test_a_crashing_decoder_sets_its_own_video_aside_and_no_other(
    four_videos: Path, workers: int, pause: float
) -> None:
    """Also when the crash is noticed as the next video is handed over, which is why the reader pauses."""
    files = discover_videos(four_videos)
    files = [*files, *(replace(file, id=f"again/{file.id}") for file in files)]
    files[1] = replace(files[1], group=Bomb())  # type: ignore[arg-type]
    results = []
    for file, result in run_locally(WORK, files, died=lost, size_of=one_byte, workers=workers):
        results.append((file.id, result))
        time.sleep(pause if len(results) == 1 else 0)
    assert [name for name, _ in results] == [file.id for file in files]
    assert [name for name, result in results if result[0] == "lost"] == [files[1].id]
    assert results[1][1] == ("lost", "the decoder crashed on this file")


def wait_for_others(folder: Path, number: int) -> int:
    """Item 0 ends once 20 others have; each of those leaves a mark. Returns the number of marks it saw."""
    if number:
        (folder / str(number)).touch()
        return number
    end = time.monotonic() + 300
    while (seen := len(list(folder.iterdir()))) < 20 and time.monotonic() < end:
        time.sleep(0.01)
    return seen


def test_one_long_video_does_not_stop_the_other_workers(tmp_path: Path) -> None:
    """The first item ends only when twenty behind it have, of which a window of six results would start five."""
    work = partial(wait_for_others, tmp_path)
    results = list(run_locally(work, range(21), died=lost, size_of=one_byte, workers=2))
    assert results == [(0, 20), *((number, number) for number in range(1, 21))]


def test_results_that_wait_for_an_earlier_one_are_bounded_in_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "HELD_BYTES", 8)
    work = partial(rest, tmp_path)
    running = run_locally(work, range(60), died=lost, size_of=one_byte, workers=2)
    assert next(running) == (0, 0)
    # Eight results may wait for the first, and four items may be under way.
    assert len(list(tmp_path.iterdir())) <= 8 + 4
    assert [number for number, _ in running] == list(range(1, 60))


def rest(folder: Path, number: int) -> int:
    if number == 0:
        time.sleep(1.5)
    else:
        (folder / str(number)).touch()
    return number


def sleep_long(folder: Path, number: int) -> int:
    if number:
        (folder / str(os.getpid())).touch()
        time.sleep(60)
    return number


def test_a_run_that_is_stopped_ends_its_workers_in_the_middle_of_a_video(tmp_path: Path) -> None:
    running = run_locally(partial(sleep_long, tmp_path), range(4), died=lost, size_of=one_byte, workers=2)
    assert next(running) == (0, 0)
    while len(pids := [int(path.name) for path in tmp_path.iterdir()]) < 2:
        time.sleep(0.01)
    began = time.monotonic()
    running.close()
    assert time.monotonic() - began < 5
    assert not any(map(is_alive, pids))


# --- a Ray cluster of two nodes, simulated on this machine -----------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    pytest.importorskip("ray", reason="needs the extra ray")
    from ray.cluster_utils import Cluster

    size = {"num_cpus": 2, "object_store_memory": 80 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**size, "include_dashboard": False})
    cluster.add_node(**size)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def many_videos(tmp_path_factory: pytest.TempPathFactory, write_video: Write) -> Path:
    """Enough work that a worker can be met in the middle of it."""
    folder = tmp_path_factory.mktemp("many")
    one = write_video(folder / "00.mp4", num_frames=60, size=(96, 128))
    for number in range(1, 12):
        shutil.copy2(one, folder / f"{number:02d}.mp4")
    (folder / "broken.mp4").write_text("I am not a video.\n" * 40)
    return folder


@pytest.fixture(scope="module")
def done_locally(many_videos: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("local") / "store"
    run(many_videos, store, short_side=96, workers=2)
    return store


def ray_workers() -> list[int]:
    """Processes that are preparing a video now: Ray gives a worker the title of its task."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and (entry / "cmdline").read_bytes().startswith(b"ray::vicc prepare"):
                found.append(int(entry.name))
        except OSError:
            continue
    return found


@pytest.mark.slow
def test_a_cluster_writes_the_store_that_one_machine_writes_though_a_worker_is_killed(
    cluster: Any, many_videos: Path, done_locally: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """With paths relative to here, which are no paths there; and with nothing of Ray's in the document or beside it."""
    killed: list[int] = []

    def kill_one() -> None:
        while not killed:
            for pid in ray_workers()[:1]:
                time.sleep(0.1)
                os.kill(pid, signal.SIGKILL)
                killed.append(pid)

    monkeypatch.chdir(many_videos.parent)
    killer = threading.Thread(target=kill_one)
    killer.start()
    words = f"prepare {many_videos.name} --store {tmp_path}/store --short-side 96 --engine ray --json"
    assert main([*words.split(), "--ray-address", cluster.address]) == 0
    killer.join()
    said = capsys.readouterr()
    assert json.loads(said.out)["prepared"] == 13
    assert said.err.startswith("Ray: 4 CPUs on 2 nodes\n")
    assert "raylet" not in said.err
    assert content(tmp_path / "store") == content(done_locally)
    assert [entry.id for entry in Store(tmp_path / "store").set_aside] == ["broken.mp4"]


def where(number: int) -> str:
    import ray

    time.sleep(0.3)
    return str(ray.get_runtime_context().get_node_id())


@pytest.mark.slow
def test_both_nodes_work_and_an_item_that_ends_every_worker_is_lost_alone(cluster: Any) -> None:
    from vicc.prepare.ray_engine import DIED, run_on_ray

    items = [0, 1, 2, Bomb(), 4, 5, 6, 7]
    results = list(run_on_ray(where, items, died=lost, size_of=len, address=cluster.address, workers=None))
    assert [item for item, _ in results] == items
    assert results[3][1] == ("lost", DIED)
    assert len({result for _, result in results}) == 3


@pytest.mark.slow
def test_a_run_on_a_cluster_that_is_stopped_says_so_and_goes_on_when_given_again(
    cluster: Any, many_videos: Path, done_locally: Path, tmp_path: Path
) -> None:
    """By SIGTERM, for which Ray puts in a handler of its own."""
    store = tmp_path / "store"
    words = ["prepare", str(many_videos), "--store", str(store), "--short-side", "96", "--engine", "ray"]
    words += ["--ray-address", cluster.address, "--workers", "1"]
    with subprocess.Popen([sys.executable, "-m", "vicc", *words], stderr=subprocess.PIPE, text=True) as process:
        # Not before the first record: while Ray is starting, its own handler ends the process by an abort.
        while process.poll() is None and not (store_exists(store) and Store(store).records):
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=120)
    assert process.returncode == 130, said
    assert said.splitlines()[-1] == "stopped; the same command continues where it was"
    assert "Traceback" not in said
    assert 0 < len(Store(store).records) < 13
    run(many_videos, store, short_side=96)
    assert content(store) == content(done_locally)


@pytest.mark.slow
def test_a_node_with_another_version_of_vicc_is_refused_in_a_sentence(
    cluster: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vicc.prepare import ray_engine

    monkeypatch.setattr(ray_engine, "__version__", "9.9")
    with pytest.raises(ViccError, match=f"has vicc {__version__}, this machine 9.9") as refused:
        list(ray_engine.run_on_ray(where, [1], died=lost, size_of=len, address=cluster.address, workers=None))
    assert "\n" not in str(refused.value)


def test_a_node_that_lacks_the_file_is_named_and_the_file_is_tried_again_next_time(
    four_videos: Path, tmp_path: Path
) -> None:
    file = replace(discover_videos(four_videos)[0], path=tmp_path / "gone.mp4")
    result = prepare_video_on_node(file, StoreSettings(), 3)
    assert isinstance(result, SetAside)
    assert result.reason.startswith(f"the node {os.uname().nodename} has no file {file.path}")
    assert result.source == FileState(0, 0)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("127.0.0.1:1", "No Ray cluster answers at 127.0.0.1:1"),
        ("ray://head:10001", "--ray-address ray://head:10001: expected host:port"),
        ("head", "--ray-address head: expected host:port"),
    ],
)
def test_a_cluster_that_is_not_there_is_named_at_once(
    four_videos: Path, tmp_path: Path, address: str, message: str
) -> None:
    """Ray itself would try for five minutes and then end the process."""
    pytest.importorskip("ray", reason="needs the extra ray")
    began = time.monotonic()
    with pytest.raises(ViccError, match=message):
        run(four_videos, tmp_path / "store", engine="ray", ray_address=address)
    assert time.monotonic() - began < 10


def test_without_ray_the_extra_is_named(four_videos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ViccError, match=r"pip install 'vicc\[ray\]'"):
        run(four_videos, tmp_path / "store", engine="ray")


def test_an_address_without_the_engine_is_refused() -> None:
    with pytest.raises(ViccError, match="--ray-address head:6379 without --engine ray"):
        PrepareConfig(Path("v"), Path("s"), ray_address="head:6379")


# --- independent jobs ------------------------------------------------------------------------------------------------


def test_the_parts_of_a_sharded_run_hold_every_video_once(
    four_videos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(four_videos, tmp_path / "whole")
    ids = []
    for number in (1, 2, 3):
        report = run(four_videos, tmp_path / "store", shard=f"{number}/3")
        assert report.store == f"{tmp_path}/store.part-{number}-of-3"
        ids.append([video.id for video in Store(report.store).videos])
    assert ids == [["a/0.mp4", "b/3.mp4"], ["a/2.mp4"], ["b/1.mp4"]]
    parts = [content(tmp_path / f"store.part-{number}-of-3") for number in (1, 2, 3)]
    assert parts[0] | parts[1] | parts[2] == content(tmp_path / "whole")
    merge = f"vicc store merge {tmp_path}/store.part-*-of-3 --store {tmp_path}/store"
    assert capsys.readouterr().err.count(merge) == 3
    assert run(four_videos, tmp_path / "store", shard="2/3").prepared == 0


def test_numbers_of_parts_are_as_wide_as_their_count_so_that_a_listing_is_in_order(
    four_videos: Path, tmp_path: Path
) -> None:
    """And a part without any video is a store all the same, or a job of the array would fail."""
    report = run(four_videos, tmp_path / "store", shard="9/12")
    assert (report.store, report.found, report.frames) == (f"{tmp_path}/store.part-09-of-12", 0, 0)
    assert Store(report.store).videos == []


@pytest.mark.parametrize("shard", ["0/4", "5/4", "x", "1", "1/", "/16", "1/0", "-1/4", "1/4/2", "1.5/4", "1 /4", ""])
def test_a_part_that_does_not_exist_is_refused(shard: str) -> None:
    with pytest.raises(ViccError, match="expected i/n with i from 1 to n"):
        PrepareConfig(Path("v"), Path("s"), shard=shard)
