"""The kill drill: `vicc prepare` is killed at random moments and given again until it is done.

Then every file of the store must equal, byte for byte, that of a run which nothing disturbed. Linux only.

    python -m tests.drills.kill_prepare --kills 50 --stops 20

A round begins with an empty store and ends with a whole one; there are as many rounds as the kills last for. Half of
the moments are spread evenly over the start and the first seconds, half come up to five milliseconds after the store's
files have changed, for a run writes but rarely. Kills are SIGKILL to all processes of the run; `--stops` are the other
ways to end it.
"""

import argparse
import itertools
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from tests.conftest import make_video
from vicc.data.store import Store

ROOT = Path(__file__).parents[2]
KILL = "SIGKILL, all processes"
STOPS = ("SIGKILL, main process alone", "SIGKILL, one worker, then all", "Ctrl-C", "SIGTERM")
_PATIENCE_SECONDS = 20.0


class DrillError(Exception):
    """The store or the run was not what it must be."""


@dataclass
class Summary:
    """What a drill did; that it returned means that every round ended byte-equal."""

    rounds: int = 0
    ways: Counter[str] = field(default_factory=Counter)
    videos_there: list[int] = field(default_factory=list)
    """Videos in the store after each stop."""
    seconds_to_end: list[float] = field(default_factory=list)
    """From each stop until no process of the run was left."""
    shards: int = 0

    def __str__(self) -> str:
        lines = [
            f"{self.rounds} rounds, {sum(self.ways.values())} stops, every round byte-equal ({self.shards} shards)"
        ]
        lines += [f"  {count:3d}  {way}" for way, count in sorted(self.ways.items())]
        first = sum(count == 0 for count in self.videos_there)
        lines.append(f"  {first} of them before the first video was in the store")
        if self.seconds_to_end:
            middle, most = statistics.median(self.seconds_to_end), max(self.seconds_to_end)
            lines.append(f"  until no process was left: median {middle:.2f} s, at most {most:.2f} s")
        return "\n".join(lines)


def drill(
    folder: Path, *, kills: int, stops: int, seed: int, videos: int, say: Callable[[str], None] = print
) -> Summary:
    """Kill and stop runs that prepare generated videos with two workers.

    Args:
        folder: empty; what a failure leaves can be looked at there.
        kills: times that all processes get SIGKILL.
        stops: times that the run is stopped otherwise, by `STOPS` in turn.
        videos: in each round.

    Raises:
        DrillError: a store differs from the undisturbed one, videos were lost, a process stayed, or a stopped run did
            not say so.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored, by all children too
    rng = random.Random(seed)
    write_videos(folder / "videos", videos)
    began = time.monotonic()
    first_write = undisturbed(folder)
    took = time.monotonic() - began
    expected = files_of(folder / "undisturbed")
    say(f"undisturbed: {videos} videos in {took:.1f} s, first of them after {first_write:.1f} s; seed {seed}")
    ways = [KILL] * kills + list(itertools.islice(itertools.cycle(STOPS), stops))
    rng.shuffle(ways)
    summary = Summary(shards=sum(name.startswith("shard-") for name in expected))
    while ways:
        store = folder / "store"
        shutil.rmtree(store, ignore_errors=True)
        there = 0
        while ways:
            ended = attempt(folder, ways[-1], first_write, rng)
            if ended is None:
                break  # done before its moment came: the next round takes it
            now = count_videos(store)
            if now < there:
                raise DrillError(f"{ways[-1]}: {there} videos were in the store, and only {now} are left")
            there = now
            summary.seconds_to_end.append(ended)
            summary.videos_there.append(now)
            way = ways.pop()
            summary.ways[way] += 1
            say(f"{sum(summary.ways.values()):3d}  {way}: {now} videos there, ended after {ended:.2f} s")
        finish(folder)
        compare(files_of(store), expected)
        summary.rounds += 1
        say(f"round {summary.rounds}: byte-equal")
    return summary


def write_videos(folder: Path, number: int) -> None:
    """Videos of various lengths, a few of them broken."""
    originals = [make_video(folder / f"{n:03d}.mp4", num_frames=10 + 4 * n, size=(96, 128), seed=n) for n in range(8)]
    for n in range(len(originals), number):
        shutil.copy2(originals[n % len(originals)], folder / f"{n:03d}.mp4")
    for n in range(5, number, 17):
        (folder / f"{n:03d}.mp4").write_text("I am not a video.\n" * 40)


def start(folder: Path, store: str = "store") -> "subprocess.Popen[str]":
    # JPEG and the smallest shards, so that a few small videos fill several.
    words = f"prepare {folder}/videos --store {folder}/{store} --workers 2".split()
    words += ["--short-side", "96", "--codec", "jpeg", "--shard-mb", "1"]
    return subprocess.Popen(
        [sys.executable, "-m", "vicc", *words],
        stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip


def undisturbed(folder: Path) -> float:
    """Make the store to compare with; returns the seconds until its first video was written."""
    began = time.monotonic()
    first = 0.0
    with start(folder, "undisturbed") as process:
        while process.poll() is None:
            if not first and any(path.stat().st_size > 50_000 for path in (folder / "undisturbed").glob("*.lmdb")):
                first = time.monotonic() - began
            time.sleep(0.002)
        _require_ok(process)
    return first


def finish(folder: Path) -> None:
    """Give the command a last time, undisturbed."""
    with start(folder) as process:
        _require_ok(process)


def attempt(folder: Path, way: str, first_write: float, rng: random.Random) -> float | None:
    """Start a run and stop it at a random moment; returns the seconds until nothing of it was left.

    None: the run was done before.
    """
    with start(folder) as process:
        try:
            if not _wait_for_moment(folder / "store", process, first_write, rng):
                _require_ok(process)
                return None
            began = time.monotonic()
            if way == STOPS[1]:
                workers = [pid for pid in group(process.pid) if "spawn_main" in _command(pid)]
                if workers:
                    os.kill(rng.choice(workers), signal.SIGKILL)
                time.sleep(rng.uniform(0, 1.5))
                began = time.monotonic()
            listens = _handles_sigterm(process.pid)
            if way in (STOPS[0], "SIGTERM"):
                process.send_signal(signal.SIGKILL if way == STOPS[0] else signal.SIGTERM)
            else:
                os.killpg(process.pid, signal.SIGINT if way == "Ctrl-C" else signal.SIGKILL)
            _, said = process.communicate(timeout=_PATIENCE_SECONDS)
            while left := group(process.pid):
                if time.monotonic() - began > _PATIENCE_SECONDS:
                    raise DrillError(f"{way}: still there after {_PATIENCE_SECONDS:.0f} s: {[*map(_command, left)]}")
                time.sleep(0.005)
            ended = time.monotonic() - began
        finally:
            if group(process.pid):
                os.killpg(process.pid, signal.SIGKILL)
    if way in ("Ctrl-C", "SIGTERM") and process.returncode == 0:
        return None
    # Where the interrupt met a string in exec (dataclasses do that), python -m ends by SIGINT: shells call it 130 too.
    stopped = process.returncode in (130, -signal.SIGINT) and "Traceback" not in said
    if way in ("Ctrl-C", "SIGTERM") and listens and not stopped:
        raise DrillError(f"{way}: ended with {process.returncode} and said: {said}")
    return ended


def _wait_for_moment(store: Path, process: "subprocess.Popen[str]", first_write: float, rng: random.Random) -> bool:
    """Wait for a random moment; False if the run ended before it."""
    if rng.random() < 0.5:
        end = time.monotonic() + rng.uniform(0, first_write + 1)
        while time.monotonic() < end:
            if process.poll() is not None:
                return False
            time.sleep(0.001)
        return True
    changes, before = rng.randrange(1, 12), _state(store)
    while changes:
        if process.poll() is not None:
            return False
        time.sleep(0.0005)
        now = _state(store)
        changes -= now != before
        before = now
    time.sleep(rng.uniform(0, 0.005))
    return process.poll() is None


def _state(store: Path) -> list[tuple[str, int, int]]:
    try:
        with os.scandir(store) as entries:
            return sorted((e.name, e.stat().st_size, e.stat().st_mtime_ns) for e in entries if e.is_file())
    except FileNotFoundError:
        return []


def count_videos(store: Path) -> int:
    """Whatever the moment, what is in the store can be read."""
    if not (store / "store.json").exists():
        return 0
    reader = Store(store)
    for video in reader.videos:
        reader.frames(video.id, "flow", [0, video.num_frames - 2])
    reader.close()
    return len(reader.videos)


def files_of(store: Path) -> dict[str, bytes]:
    """Every file of a store but the locks, which say who reads and writes it."""
    files = [path for path in sorted(store.rglob("*")) if path.is_file() and not path.name.endswith("lock")]
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


def compare(found: dict[str, bytes], expected: dict[str, bytes]) -> None:
    if found.keys() != expected.keys():
        raise DrillError(f"the store's files are {sorted(found)}; expected {sorted(expected)}")
    for name, data in expected.items():
        if found[name] != data:
            at = next((n for n, (a, b) in enumerate(zip(found[name], data, strict=False)) if a != b), "the end")
            raise DrillError(
                f"{name} differs from the undisturbed one at byte {at}: {len(found[name])} bytes, expected {len(data)}"
            )


def group(leader: int) -> list[int]:
    """Processes of a process group that are running."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                state, _, process_group = (entry / "stat").read_text().rsplit(")", 1)[1].split()[:3]
            except OSError:
                continue
            if int(process_group) == leader and state not in "ZX":
                found.append(int(entry.name))
    return found


def _handles_sigterm(pid: int) -> bool:
    """Whether vicc has begun: until it puts in its handler, a process that is stopped ends as Python ends."""
    status = Path(f"/proc/{pid}/status").read_text()
    caught = next(line.split()[1] for line in status.splitlines() if line.startswith("SigCgt:"))
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _require_ok(process: "subprocess.Popen[str]") -> None:
    _, said = process.communicate()
    if process.returncode:
        raise DrillError(f"an undisturbed run ended with {process.returncode} and said: {said}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--stops", type=int, default=20, help=f"stops in other ways: {'; '.join(STOPS)}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--videos", type=int, default=60, help="videos that a round prepares")
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="vicc-drill-"))
    try:
        print(drill(folder, **vars(options)))
    except DrillError as error:
        raise SystemExit(f"{error}\nThe stores are left in {folder}") from None
    shutil.rmtree(folder)


if __name__ == "__main__":
    main()
