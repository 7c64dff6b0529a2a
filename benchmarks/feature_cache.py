"""Features of many videos to disk and back: bytes written, memory, time; beside one plain write of the same bytes.

    python benchmarks/feature_cache.py --out FOLDER [--videos 1000000] [--old 65536]

Every way runs in a process of its own. Its memory is that beyond the import of torch and vicc: at its peak (VmHWM), the
pages of mapped files included, and of these alone what no file stands behind (RssAnon), looked at every 20 ms. Written
is what the system has sent towards the disk (write_bytes in /proc/self/io). The old way, one file that was written anew
with every part, is measured with so many videos and counted by its formula for all of them.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from retrieval import growth

from vicc.data.records import FileState, StoreSettings, Video
from vicc.evaluation.feature_cache import FeatureCache
from vicc.evaluation.video_values import VideoValues, write_video_values
from vicc.progress import Advance

WIDTH = 1024
FRAMES = 300  # of a video of Kinetics: 55 videos a part
PART = -(-(1 << 14) // FRAMES)
WAYS = ("plain", "write", "again", "half", "search", "old")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder on the disk to measure; emptied in the end")
    parser.add_argument("--videos", type=int, default=1_000_000)
    parser.add_argument("--old", type=int, default=65_536, help="videos of the old way")
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    if options.way:
        print(json.dumps(measured(options.way, options.out, options.videos)))
        return
    titles = {
        "plain": "one plain write of the same bytes",
        "write": "vicc, all computed",
        "again": "vicc, all kept: to a mapped tensor",
        "half": "vicc, every second one, in another order: to a copy",
        "search": "a mapped gallery read once, 100 queries",
        "old": f"the old way, {options.old:,} videos",
    }
    print("| | written, GB | times the rows | memory, MB | of it without a file | s | CPU s |\n" + 7 * "|---" + "|")
    for way, title in titles.items():
        videos = options.old if way == "old" else options.videos
        command = [sys.executable, __file__, "--out", options.out, "--videos", str(videos), "--way", way]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout)
        rows = videos * WIDTH * 4
        print(
            f"| {title} | {found['written'] / 1e9:.2f} | {found['written'] / rows:.3f} | {found['memory'] / 1e6:.0f} | "
            f"{found['anonymous'] / 1e6:.0f} | {found['seconds']:.0f} | {found['cpu']:.0f} |",
            flush=True,
        )
    parts = -(-options.videos // PART)
    print(
        f"\nThe old way for {options.videos:,}: {PART * WIDTH * 4 * parts * (parts + 1) / 2 / 1e12:.1f} TB, rows alone"
    )
    shutil.rmtree(options.out)


class Videos(Sequence[Video]):  # type: ignore[misc]
    """So many videos, each made when it is asked for: a store's list of them is no part of what is measured."""

    def __init__(self, numbers: range) -> None:
        self.numbers = numbers

    def __len__(self) -> int:
        return len(self.numbers)

    def __getitem__(self, place: int) -> Video:  # type: ignore[override]
        number = self.numbers[place]
        source = FileState(1 << 20, number, f"{number:032x}")
        return Video(f"train/class {number % 400}/video {number}.mp4", FRAMES, 256, 340, 25.0, source)


class Frames:
    """A store without any: features are made up."""

    settings = StoreSettings()


def made_up(videos: list[Video], advance: Advance) -> torch.Tensor:
    generator = torch.Generator().manual_seed(videos[0].source.modified_ns)
    advance(len(videos))
    return torch.randn(len(videos), WIDTH, generator=generator)


def nothing(videos: list[Video], advance: Advance) -> torch.Tensor:
    raise AssertionError("all are kept")


def measured(way: str, out: Path, count: int) -> dict[str, float]:
    cache = FeatureCache(out / "features", Frames())  # type: ignore[arg-type]

    def features(numbers: range, describe: Callable[[list[Video], Advance], torch.Tensor]) -> torch.Tensor:
        return cache.features({"way": "the same"}, Videos(numbers), describe, description="features")

    def search() -> None:
        rows = features(range(count), nothing)
        queries = rows[:: -(-count // 100)].clone()
        for begin in range(0, count, 1 << 14):
            (queries @ rows[begin : begin + (1 << 14)].t()).topk(10)

    ways: dict[str, Callable[[], object]] = {
        "plain": lambda: plain(out / "plain", count),
        "write": lambda: features(range(count), made_up),
        "again": lambda: features(range(count), nothing),
        "half": lambda: features(range(count - 1, 0, -2), nothing),
        "search": search,
        "old": lambda: old(out / "old.safetensors", count),
    }
    before, written, began, cpu = peak(), written_bytes(), time.monotonic(), time.process_time()
    with growth() as anonymous:
        ways[way]()
    return {
        "memory": peak() - before,
        "anonymous": anonymous[0],
        "written": written_bytes() - written,
        "seconds": time.monotonic() - began,
        "cpu": time.process_time() - cpu,
    }


def plain(path: Path, count: int) -> None:
    videos = Videos(range(count))
    with path.open("wb") as file:
        for begin in range(0, count, PART):
            part = [videos[place] for place in range(begin, min(begin + PART, count))]
            file.write(made_up(part, lambda count, note="": None).numpy().data)
        file.flush()
        os.fsync(file.fileno())
    path.unlink()


def old(path: Path, count: int) -> None:
    """As it was: after each part the file with all rows until then."""
    videos, rows = Videos(range(count)), torch.empty(0, WIDTH)
    for begin in range(0, count, PART):
        part = [videos[place] for place in range(begin, min(begin + PART, count))]
        rows = torch.cat([rows, made_up(part, lambda count, note="": None)])
        names = [videos[place].id for place in range(len(rows))]
        write_video_values(
            path, VideoValues(names, rows, {"contents": [f"{place:032x}" for place in range(len(rows))]})
        )
    path.unlink()


def peak() -> int:
    """The most memory that this process has had, in bytes (Linux)."""
    return 1024 * int(next(line for line in status() if line.startswith("VmHWM:")).split()[1])


def status() -> list[str]:
    return Path("/proc/self/status").read_text().splitlines()


def written_bytes() -> int:
    return int(Path("/proc/self/io").read_text().split("\nwrite_bytes: ")[1].split()[0])


if __name__ == "__main__":
    main()
