"""A step of the demo beside busy programs: one thread, two, and the number that --threads auto chooses.

    python benchmarks/busy.py
    python benchmarks/busy.py --steps 60 --repeats 5 --neighbours 0 1 2 4

`vicc pretrain` trains the demo's first stage on drawn videos, as a user's does, while other programs compute for ever.
Wall clock seconds of its steps, waiting for clips included: the median of all, and the tenth and ninetieth hundredths.
OMP_NUM_THREADS must not be set, since `auto` would take it. On a machine that is quiet but for this.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Literal

import numpy as np

from vicc import PrepareConfig, PretrainConfig, create_recipe, prepare_videos, pretrain
from vicc.device import process_cores
from vicc.prepare.demo_videos import write_demo_videos
from vicc.training.stage import Recipe
from vicc.training.watch.log import read_log

_FIRST = 3  # steps that are slower than others, as first ones are


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps of each training")
    parser.add_argument("--repeats", type=int, default=3, help="trainings of each row, in turn")
    parser.add_argument("--neighbours", type=int, nargs="+", default=[0, 1, 2], help="busy programs beside it")
    options = parser.parse_args()
    if "OMP_NUM_THREADS" in os.environ:
        parser.error("OMP_NUM_THREADS is set: expected it not to be, since --threads auto takes it")
    recipe = create_recipe("demo", changes=[f"rgb-1.steps={options.steps + _FIRST}"])
    recipe = replace(recipe, stages=recipe.stages[:1])
    many = max(2, process_cores())
    choices: list[int | Literal["auto"]] = [1, many, "auto"]
    seconds: dict[tuple[int, int | str], list[float]] = {}
    chosen: dict[tuple[int, int | str], list[int]] = {}
    with tempfile.TemporaryDirectory() as place:
        videos, store = Path(place) / "videos", Path(place) / "store"
        write_demo_videos(videos, num_train=40, num_test=0, seed=0)
        prepare_videos(PrepareConfig(videos, store))
        print(f"{process_cores()} cores, load before the start {os.getloadavg()[0]:.2f}", file=sys.stderr)
        for repeat, neighbours, threads in product(range(options.repeats), options.neighbours, choices):
            run = Path(place) / f"{repeat}-{neighbours}-{threads}"
            with _busy(neighbours):
                row, took = _train(recipe, PretrainConfig(run=run, store=store, workers=0, threads=threads, log_to=()))
            seconds.setdefault((neighbours, threads), []).extend(row)
            chosen.setdefault((neighbours, threads), []).append(took)
    quiet = float(np.median(seconds[options.neighbours[0], "auto"]))
    print("| busy neighbours | threads | seconds a step (median, 10 % to 90 %) | of `auto` without neighbours |")
    print("|---|---|---|---|")
    for (neighbours, threads), values in seconds.items():
        low, middle, high = np.percentile(values, [10, 50, 90])
        numbers = ", ".join(map(str, sorted(set(chosen[neighbours, threads]))))
        name = f"auto: {numbers}" if threads == "auto" else threads
        print(f"| {neighbours} | {name} | {middle:.3f} ({low:.3f} to {high:.3f}) | {middle / quiet:.1f} |")


def _train(recipe: Recipe, config: PretrainConfig) -> tuple[list[float], int]:
    """Seconds of each step, and the threads that were taken."""
    pretrain(recipe, config)
    rows = read_log(config.run / recipe.stages[0].name)[_FIRST:]
    threads = json.loads((config.run / "computation.json").read_text())["threads"]
    return [row["seconds"] + row["waited"] for row in rows], threads


@contextmanager
def _busy(number: int) -> Iterator[None]:
    """So many programs that compute for ever, within the block."""
    started = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(number)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
