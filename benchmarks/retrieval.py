"""Retrieval against the published way, on the same videos: features, a second run, similarities with top-k; probes.

    OMP_NUM_THREADS=1 python benchmarks/retrieval.py --videos VIDEOS --out FOLDER

The published way, written from its description: one video at a time, its windows of 32 frames as one fp32 batch of a
contiguous S3D, PIL images from an LMDB of JPEGs, five calls of top-k on the whole matrix of similarities. Each way of
making features has a process of its own and they take turns, eight videos each; CPU seconds of one core, median and
range.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from vicc import PrepareConfig, Store, prepare_videos
from vicc.data.records import Video
from vicc.data.video_files import discover_videos
from vicc.device import choose_precision
from vicc.evaluation.feature_cache import FeatureCache
from vicc.evaluation.solvers import ridge_classifier, sgd_classifier
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.features import Windows, extract_features
from vicc.progress import Advance
from vicc.retrieval import search

WAYS = ("published", "vicc, fp32", "vicc, bf16", "vicc, second run")
FRAMES, STEP, WINDOWS, SIZE = 32, 15, 10, 128
VIDEOS = 8  # a turn: 80 windows
KS = (1, 5, 10, 20, 50)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, help="folder of videos of at least 168 frames")
    parser.add_argument("--out", type=Path, required=True, help="folder for both stores; kept for the next run")
    parser.add_argument("--rounds", type=int, default=5, help="turns of each way, after a short one to warm up")
    parser.add_argument("--only", choices=("features", "search", "probe"))
    parser.add_argument("--way", choices=WAYS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.way:
        serve(options.way, options.out)
        return
    if options.only in (None, "features"):
        features(options.videos, options.out, options.rounds)
    if options.only in (None, "probe"):
        probes()
    if options.only in (None, "search"):
        large_gallery(options.out)  # first, so that no memory that was freed before is used again
        similarities()


def features(videos: Path, out: Path, rounds: int) -> None:
    from published_way import build

    prepare_videos(PrepareConfig(videos, out / "store"))
    if not (out / "published.lmdb").exists():
        long = [video.id for video in Store(out / "store").videos if video.num_frames > STEP * (WINDOWS - 1) + FRAMES]
        paths = [file.path for file in discover_videos(videos) if file.id in long]
        # Flow is not looked at.
        partial = out / "published.partial"
        partial.unlink(missing_ok=True)
        build(paths, partial, flow=lambda before, after: np.zeros((*after.shape, 2)))
        partial.rename(out / "published.lmdb")
    command = [sys.executable, __file__, "--out", str(out), "--way"]
    servers = {
        way: subprocess.Popen([*command, way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for way in WAYS
    }
    seconds: dict[str, list[float]] = {way: [] for way in WAYS}
    for turn in range(rounds + 1):
        for way, server in servers.items():
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(f"{VIDEOS if turn else 1}\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            if turn:
                seconds[way].append(answer["seconds"] / VIDEOS)
    for server in servers.values():
        server.communicate()
    print(
        f"S3D, {WINDOWS} windows a video of {FRAMES} x {SIZE} x {SIZE}\n\n| | CPU s a video | videos/s | times faster |"
    )
    print("|---|---|---|---|")
    old = statistics.median(seconds["published"])
    for way, values in seconds.items():
        median = statistics.median(values)
        spread = f"{median:.3g} ({min(values):.3g}–{max(values):.3g})"
        print(f"| {way} | {spread} | {1 / median:.3g} | {old / median:.3g} |")


def serve(way: str, out: Path) -> None:
    """Describe so many videos whenever their number comes in."""
    describe = published(out) if way == "published" else ours(way, out)
    for line in sys.stdin:
        begin = time.process_time()
        describe(range(int(line)))
        print(json.dumps({"seconds": time.process_time() - begin}), flush=True)


def published(out: Path) -> Callable[[range], object]:
    import lmdb
    from PIL import Image
    from published_way import _to_tensor
    from torch import nn
    from torchvision.models.video import s3d

    network = s3d(norm_layer=nn.BatchNorm3d).features.eval()
    environment = lmdb.open(str(out / "published.lmdb"), subdir=False, readonly=True, lock=False, readahead=False)

    def frame(transaction: "lmdb.Transaction", number: int, index: int) -> torch.Tensor:
        image = Image.open(io.BytesIO(transaction.get(f"{number}/rgb/{index:06d}".encode()))).convert("RGB")
        width, height = image.size
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        image = image.crop((left, top, left + side, top + side)).resize((SIZE, SIZE), Image.Resampling.BICUBIC)
        return _to_tensor(image)

    @torch.no_grad()
    def describe(number: int) -> torch.Tensor:
        with environment.begin() as transaction:
            clips = [
                torch.stack([frame(transaction, number, STEP * window + step) for step in range(FRAMES)], dim=1)
                for window in range(WINDOWS)
            ]
        found = network(torch.stack(clips)).mean(dim=(2, 3, 4))
        return nn.functional.normalize(found, dim=1).mean(dim=0)

    return lambda numbers: [describe(number) for number in numbers]


def ours(way: str, out: Path) -> Callable[[range], object]:
    store = Store(out / "store")
    # As many windows as the published way looks at.
    videos = [shortened(video) for video in store.videos if video.num_frames > STEP * (WINDOWS - 1) + FRAMES]
    encoder = Encoder(EncoderConfig("rgb", clip_frames=FRAMES, size=SIZE)).eval()
    precision = choose_precision("bf16" if "bf16" in way else "fp32", torch.device("cpu"))
    cached = way == "vicc, second run"
    folder = tempfile.mkdtemp() if cached else None
    cache = FeatureCache(None if folder is None else Path(folder), store)

    def describe(some: list[Video], advance: Advance) -> torch.Tensor:
        return extract_features(encoder, store, some, windows=Windows(STEP), precision=precision, advance=advance)

    def look(numbers: range) -> torch.Tensor:
        some = [videos[number] for number in numbers]
        return cache.features({"encoder": "the same"}, some, describe, description="features")

    if cached:
        look(range(VIDEOS))
    return look


def shortened(video: Video) -> Video:
    """The video as if it ended after `WINDOWS` windows."""
    return replace(video, num_frames=STEP * (WINDOWS - 1) + FRAMES + 1)


def similarities() -> None:
    """4,000 queries, 10,000 gallery videos, 1,024 features: one product of matrices, ours, and five calls of top-k."""
    generator = torch.Generator().manual_seed(0)
    queries, gallery = (
        torch.nn.functional.normalize(torch.randn(count, 1024, generator=generator), dim=1) for count in (4000, 10000)
    )

    def five() -> None:
        whole = queries @ gallery.t()
        for k in KS:
            whole.topk(k, dim=1)

    ways: dict[str, Callable[[], object]] = {
        "one product of matrices": lambda: queries @ gallery.t(),
        "vicc, the 50 nearest": lambda: search(queries, gallery, k=50),
        "published, five calls of top-k": five,
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(8):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            if turn:
                seconds[name].append(time.process_time() - begin)
    print("\n| 4,000 x 10,000 x 1,024 | CPU s | times one product |\n|---|---|---|")
    product = statistics.median(seconds["one product of matrices"])
    for name, values in seconds.items():
        median = statistics.median(values)
        print(f"| {name} | {median:.3g} ({min(values):.3g}–{max(values):.3g}) | {median / product:.2f} |")


def probes() -> None:
    """Both solvers on 10,000 training and 4,000 test features of 1,024, 101 classes that overlap."""
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(101, 1024, generator=generator)
    labels, expected = (torch.randint(0, 101, (count,), generator=generator) for count in (10_000, 4_000))
    train, test = (centers[of] + 6 * torch.randn(len(of), 1024, generator=generator) for of in (labels, expected))
    solvers: dict[str, Callable[[], torch.Tensor]] = {
        "sgd": lambda: sgd_classifier(train, labels, test, 101),
        "closed form": lambda: ridge_classifier(train, labels, test, 101, folds=[n % 5 for n in range(len(labels))]),
    }
    print("\n| probe on 10,000 x 1,024, 101 classes | CPU s | right |\n|---|---|---|")
    for name, solve in solvers.items():
        begin = time.process_time()
        scores = solve()
        seconds = time.process_time() - begin
        print(f"| {name} | {seconds:.1f} | {float((scores.argmax(1) == expected).float().mean()):.3f} |")


def large_gallery(out: Path) -> None:
    """100 queries in a gallery of 10 million clips of 64 features, mapped from a file."""
    path = out / "gallery.npy"
    gallery = np.lib.format.open_memmap(path, "w+", np.float32, (10_000_000, 64))
    rng = np.random.default_rng(0)
    for begin in range(0, len(gallery), 100_000):
        block = rng.standard_normal((100_000, 64), dtype=np.float32)
        gallery[begin : begin + 100_000] = block / np.linalg.norm(block, axis=1, keepdims=True)
    gallery.flush()
    del gallery
    gallery = np.load(path, mmap_mode="r+")
    queries = torch.from_numpy(gallery[::100_000].copy())
    with growth() as grown:
        begin = time.process_time()
        _, places = search(queries, torch.from_numpy(gallery), k=50)
        seconds = time.process_time() - begin
    assert places[:, 0].tolist() == list(range(0, 10_000_000, 100_000))
    whole = len(queries) * len(gallery) * 4
    print(
        f"\n{len(queries)} queries among 10,000,000: {seconds:.1f} CPU s; beside the file's own pages the process grew "
        f"by {grown[0] / 2**20:.0f} MiB at its peak (all similarities: {whole / 2**20:,.0f} MiB)"
    )
    path.unlink()


@contextmanager
def growth() -> Iterator[list[int]]:
    """The most bytes by which this process grew within the block, looked at every 20 ms."""
    before, most, done = anonymous_memory(), [0], threading.Event()

    def watch() -> None:
        while not done.wait(0.02):
            most[0] = max(most[0], anonymous_memory() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    yield most
    done.set()
    watcher.join()


def anonymous_memory() -> int:
    """Bytes of memory that no file stands behind, at this moment (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) << 10
    raise OSError("this benchmark wants Linux")


if __name__ == "__main__":
    main()
