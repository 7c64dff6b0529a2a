"""The data path against the published way of loading, on the same videos, in the same process.

    python benchmarks/data.py --videos VIDEOS --out FOLDER

VIDEOS is a folder of ordinary videos (the numbers of RESULTS.md: 18 of UCF101, 320 x 240). Each figure is the median
over rounds in which both ways take turns, with the smallest and the largest, in CPU seconds of this one process, so
that other work on the machine disturbs it little.
"""

import argparse
import itertools
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import torch
from published_way import Samples, build

from vicc import PrepareConfig, Store, prepare_videos
from vicc.batch import Stream
from vicc.data.dataset import ClipDataset
from vicc.data.video_files import discover_videos
from vicc.transforms.augmentation import PRESETS
from vicc.transforms.flow_form import FlowForm
from vicc.video.decode import VideoReader
from vicc.video.flow import FlowName, create_flow

Rates = tuple[float, float, float]  # median, smallest, largest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="folder for both stores; kept for the next run")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    paths = [file.path for file in discover_videos(options.videos)]
    lmdb_path, sizes_path, store_path = (
        options.out / "published.lmdb",
        options.out / "sizes.json",
        options.out / "store",
    )
    if not sizes_path.exists():
        # Bytes only: with TV-L1 the old way's store alone would take hours. DIS at native size stands in for it.
        lmdb_path.unlink(missing_ok=True)
        sizes_path.write_text(json.dumps(build(paths, lmdb_path, flow=create_flow("dis"))))
    frames, size = json.loads(sizes_path.read_text())
    prepare_videos(PrepareConfig(options.videos, store_path))
    rows = {
        "samples/s, RGB": compare(samples(lmdb_path, store_path, ("rgb",)), options.rounds),
        "samples/s, RGB and flow": compare(samples(lmdb_path, store_path, ("rgb", "flow")), options.rounds),
        "flow, frames/s (default)": compare(flows(paths, "dis"), options.rounds),
        "flow, frames/s (TV-L1 at the store's size)": compare(flows(paths, "tvl1"), options.rounds),
    }
    ours = stored_bytes(store_path) / sum(video.num_frames for video in Store(store_path).videos)
    print("| | published way | vicc | ratio |\n|---|---|---|---|")
    for name, (old, new) in rows.items():
        print(f"| {name} | {_range(old)} | {_range(new)} | {new[0] / old[0]:.1f} |")
    print(f"| bytes a frame, RGB and flow | {size / frames:,.0f} | {ours:,.0f} | 1/{size / frames / ours:.1f} |")
    if options.json:
        document = {name: {"published": old, "vicc": new} for name, (old, new) in rows.items()}
        options.json.write_text(json.dumps({**document, "bytes": {"published": size / frames, "vicc": ours}}, indent=1))


def samples(lmdb_path: Path, store_path: Path, streams: tuple[Stream, ...]) -> list[tuple[Callable[[], object], int]]:
    """A sample of the published way and one of ours: two clips of 32 frames, 128 x 128, the published augmentation."""
    random.seed(0)
    old = Samples(lmdb_path, streams=streams)
    store = Store(store_path)
    dataset = ClipDataset(
        store,
        store.videos,
        streams=streams,
        num_views=2,
        clip_frames=32,
        stride=1,
        size=128,
        distance="any",
        augmentation=PRESETS["published"],
        seed=0,
        flow_form=FlowForm("128vu", bound=20.0, short_side=240),
    )
    old_numbers, new_keys = itertools.count(), itertools.count()

    def new_sample() -> object:
        epoch, position = divmod(next(new_keys), len(dataset))
        return dataset[epoch, position]

    return [(lambda: old[next(old_numbers) % old.num], 6), (new_sample, 36)]


def flows(paths: list[Path], name: FlowName) -> list[tuple[Callable[[], object], int]]:
    """Flow of one pair of frames: TV-L1 at native size against ours at the store's size."""
    native, stored = (_grey_frames(paths, short_side) for short_side in (None, 128))
    tvl1, ours = create_flow("tvl1"), create_flow(name)
    pairs = [itertools.cycle(itertools.pairwise(frames)) for frames in (native, stored)]
    return [(lambda: tvl1(*next(pairs[0])), 2), (lambda: ours(*next(pairs[1])), 8 if name == "tvl1" else 200)]


def _grey_frames(paths: list[Path], short_side: int | None) -> list[np.ndarray]:
    frames = itertools.islice(VideoReader(paths[0], short_side=short_side), 40)
    return [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]


def compare(ways: list[tuple[Callable[[], object], int]], rounds: int) -> tuple[Rates, Rates]:
    """Calls a CPU second of each way, which take turns."""
    rates: list[list[float]] = [[] for _ in ways]
    for turn in range(rounds + 1):
        for way, (call, times) in enumerate(ways):
            begin = time.process_time()
            for _ in range(times):
                call()
            if turn:  # the first warms up
                rates[way].append(times / (time.process_time() - begin))
    old, new = ((statistics.median(values), min(values), max(values)) for values in rates)
    return old, new


def stored_bytes(store: Path) -> int:
    return sum(file.stat().st_blocks * 512 for file in store.glob("shard-*.lmdb"))


def _range(rates: Rates) -> str:
    median, smallest, largest = rates
    return f"{median:,.3g} ({smallest:,.3g}–{largest:,.3g})"


if __name__ == "__main__":
    main()
