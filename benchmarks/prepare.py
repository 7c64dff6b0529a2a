"""What `vicc prepare` takes: with one worker, with several, and what decoding and flow alone take in one process.

    python benchmarks/prepare.py VIDEOS --repeats 3

Everything is measured in turn, so that a machine that becomes slower becomes so for all rows. Start-up of Python and of
the workers counts. Options after `--` go to `vicc prepare`: python benchmarks/prepare.py VIDEOS -- --flow tvl1
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2

from vicc.cli.flags import parse
from vicc.data.video_files import discover_videos
from vicc.errors import ViccError
from vicc.prepare.build import store_settings
from vicc.prepare.configs import PrepareConfig
from vicc.video.decode import VideoReader
from vicc.video.flow import create_flow, quantize_flow

# A run in a process of its own that says what it took; the workers are its children.
_RUN = """
import json, resource, sys, time
began = time.monotonic()
if __name__ == "__main__":
    from vicc.cli import main
    status = main(sys.argv[1:])
    own, children = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    cpu = [usage.ru_utime + usage.ru_stime for usage in (own, children)]
    print(json.dumps([time.monotonic() - began, *cpu]), file=sys.stderr)
    sys.exit(status)
"""


@dataclass(frozen=True)
class Row:
    """One way of doing the work: medians, in seconds.

    Attributes:
        main_cpu: processor time of the main process, which only writes the store where there are workers.
        workers_cpu: that of all workers together. On a busy machine, compare processor times, not wall times.
    """

    name: str
    wall: float
    main_cpu: float
    workers_cpu: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", type=Path)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="print one JSON document in place of the table")
    parser.add_argument("options", nargs="*", help="after --: options of vicc prepare")
    options = parser.parse_args()
    load = os.getloadavg()[0]
    frames, rows = measure(options.videos, options.workers, options.repeats, options.options)
    if options.json:
        print(json.dumps({"frames": frames, "load_before": load, "rows": [asdict(row) for row in rows]}, indent=2))
        return
    alone, one = rows[0].wall, rows[1].wall
    print(f"{frames} frames, {os.cpu_count()} cores, load before the start {load:.2f}, medians of {options.repeats}\n")
    print("| | wall s | frames/s | times decode + flow | speed-up | main process CPU s | workers CPU s |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        speed_up = "" if row is rows[0] else f"{one / row.wall:.2f}"
        print(
            f"| {row.name} | {row.wall:.2f} | {frames / row.wall:.0f} | {row.wall / alone:.2f} | {speed_up} "
            f"| {row.main_cpu:.2f} | {row.workers_cpu:.2f} |"
        )


def measure(videos: Path, workers: list[int], repeats: int, words: list[str]) -> tuple[int, list[Row]]:
    """Frames, and a row for decode and flow alone, then one for each number of workers."""
    measured: dict[str, list[tuple[float, float, float]]] = {}
    frames = 0
    for _ in range(repeats):
        began, cpu = time.monotonic(), time.process_time()
        frames = decode_and_flow(videos, words)
        measured.setdefault("decode and flow alone, one process", []).append(
            (time.monotonic() - began, time.process_time() - cpu, 0.0)
        )
        for number in workers:
            name = f"vicc prepare, {number} worker{'s' if number != 1 else ''}"
            measured.setdefault(name, []).append(prepare(videos, number, words))
    return frames, [
        Row(name, *(statistics.median(column) for column in zip(*values, strict=True)))
        for name, values in measured.items()
    ]


def decode_and_flow(videos: Path, words: list[str]) -> int:
    """What preparing cannot do without: decode every video and compute its flow. Returns the number of frames."""
    config = parse(PrepareConfig, [str(videos), "--store", "unused", *words], command="prepare")
    settings = store_settings(config)
    short_side = settings.short_side if settings.flow_at == "store" else None
    cv2.setNumThreads(1)
    frames = 0
    for file in discover_videos(config.videos, groups=config.groups):
        compute_flow = create_flow("tvl1" if settings.flow == "tvl1" else "dis")
        previous = None
        try:
            for frame in VideoReader(file.path, short_side=short_side):
                grey = cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY)
                if previous is not None and previous.shape == grey.shape:
                    quantize_flow(compute_flow(previous, grey), bound=settings.flow_bound)
                previous = grey
                frames += 1
        except ViccError:
            continue  # `vicc prepare` reads as far and skips it
    return frames


def prepare(videos: Path, workers: int, words: list[str]) -> tuple[float, float, float]:
    """Wall seconds of a whole run, and the processor seconds of its main process and of its workers."""
    with tempfile.TemporaryDirectory(prefix="vicc-bench-") as folder:
        script = Path(folder) / "run.py"  # in a file: a spawned worker imports the main module
        script.write_text(_RUN)
        command = [sys.executable, str(script), "prepare", str(videos), "--store", f"{folder}/store"]
        done = subprocess.run([*command, "--workers", str(workers), *words], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"vicc prepare ended with {done.returncode}: {done.stderr}")
    wall, main_cpu, workers_cpu = json.loads(done.stderr.splitlines()[-1])
    return wall, main_cpu, workers_cpu


if __name__ == "__main__":
    main()
