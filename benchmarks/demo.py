"""The demo's table over several seeds, with wall time and memory; and its controls.

    python benchmarks/demo.py table --out bench --seeds 0 1 2
    python benchmarks/demo.py controls --out bench --seed 0

`table` runs `vicc demo` once a seed, as a user would, and prints every seed with mean and 95 % interval over seeds.
`controls` uses the store and the run of one of those seeds.
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path

from vicc import PretrainConfig, Recipe, RetrieveConfig, Stage, create_recipe, pretrain, retrieve
from vicc.evaluation.result import Estimate, read_result
from vicc.training.watch.log import read_log

_T_95 = {1: 12.706, 2: 4.303, 3: 3.182, 4: 2.776}  # Student's t, two-sided, by degrees of freedom


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("table", "controls"))
    parser.add_argument("--out", type=Path, required=True, help="folder for everything that is made")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--seed", type=int, default=0, help="seed whose run the controls build on")
    options = parser.parse_args()
    print(f"{os.cpu_count()} cores, load before the start {os.getloadavg()[0]:.2f}", file=sys.stderr)
    table(options.out, options.seeds) if options.what == "table" else controls(options.out / f"seed-{options.seed}")


def table(out: Path, seeds: list[int]) -> None:
    """Run the demo for every seed and print its rows as Markdown."""
    results, costs = {}, []
    for seed in seeds:
        folder = out / f"seed-{seed}"
        costs.append(
            _timed([sys.executable, "-m", "vicc", "demo", "--out", str(folder), "--seed", str(seed), "--json"])
        )
        results[seed] = read_result(folder / "run" / "retrieval.json")
    for metric in ("R@1", "R@5"):
        print(f"\n{metric}\n\n| row | {' | '.join(f'seed {seed}' for seed in seeds)} | mean ± 95 % over seeds |")
        print("|---|" + "---|" * (len(seeds) + 1))
        for number, row in enumerate(results[seeds[0]].rows):
            rows = [results[seed].rows[number] for seed in seeds]
            estimates = [row.metrics[metric] for row in rows]
            cells = " | ".join(map(_cell, estimates))
            print(f"| {row.name} | {cells} | {_mean_and_interval([estimate.value for estimate in estimates])} |")
    print("\nwall s, peak GiB of all processes together: " + "; ".join(f"{s:.0f}, {g:.2f}" for s, g in costs))
    for seed in seeds:
        seconds = json.loads((out / f"seed-{seed}.json").read_text())["seconds"]
        print(f"seed {seed}: " + ", ".join(f"{name} {value:.0f} s" for name, value in seconds.items()))


def controls(demo: Path) -> None:
    """RGB-1 for the time of RGB-1 and RGB-2; RGB-2 with an untrained teacher; RGB-2 on shuffled frames."""
    store, seed = demo / "store", int(demo.name.removeprefix("seed-"))
    rgb_1, flow_1, rgb_2, _ = create_recipe("demo").stages
    # A learning rate of 0 leaves the random weights as they are while BatchNorm's statistics settle.
    untrained = flow_1.replace(name="flow-untrained", steps=30, learning_rate=0.0, final_learning_rate=0.0)
    taught_by_nothing = rgb_2.replace(name="rgb-2-untrained-teacher", teacher="flow-untrained")
    teacher_run, long_run = demo / "control-teacher", demo / "control-long"
    recipe = Recipe("control-teacher", "what a teacher's training is worth", (rgb_1, untrained, taught_by_nothing))
    pretrain(recipe, PretrainConfig(store=store, run=teacher_run, seed=seed))

    def seconds(stage: Stage) -> float:
        return sum(row["seconds"] + row["waited"] for row in read_log(teacher_run / stage.name))

    steps = round((seconds(rgb_1) + seconds(taught_by_nothing)) / seconds(rgb_1) * (rgb_1.length.steps or 0))
    long = rgb_1.replace(name="rgb-1-long", steps=steps)
    pretrain(Recipe("control-long", "RGB alone", (long,)), PretrainConfig(store=store, run=long_run, seed=seed))
    rows = {
        row.name: row for row in read_result(demo / "run" / "retrieval.json").rows if row.name in ("RGB-1", "RGB-2")
    }
    for run in (teacher_run, long_run):
        rows |= {row.name: row for row in retrieve(RetrieveConfig(run=run, store=store, baselines=False)).rows}
    shuffled = retrieve(RetrieveConfig(run=demo / "run", store=store, baselines=False, shuffle_frames=True))
    rows |= {f"{row.name}, frames shuffled": row for row in shuffled.rows}
    print(f"\nRGB-1-long: {steps} steps, the time of RGB-1 and RGB-2 together\n\n| row | R@1 | R@5 |\n|---|---|---|")
    for name, row in rows.items():
        if row.kind != "chance":
            print(f"| {name} | {_cell(row.metrics['R@1'])} | {_cell(row.metrics['R@5'])} |")


def _timed(command: list[str]) -> tuple[float, float]:
    """Run a command; its wall seconds and the largest sum of its processes' memory (proportional set size), GiB."""
    began = time.monotonic()
    out = Path(command[command.index("--out") + 1])
    out.parent.mkdir(parents=True, exist_ok=True)
    peak = 0.0
    with out.with_suffix(".json").open("w") as document:
        process = subprocess.Popen(command, stdout=document)
        finished = threading.Event()

        def watch() -> None:
            nonlocal peak
            while not finished.wait(0.5):
                peak = max(peak, _tree_gib(process.pid))

        watcher = threading.Thread(target=watch)
        watcher.start()
        status = process.wait()
        finished.set()
        watcher.join()
    if status:
        raise SystemExit(f"{' '.join(command)} ended with status {status}")
    return time.monotonic() - began, peak


def _tree_gib(root: int) -> float:
    """Memory of a process and all that it started (Linux), shared pages counted once."""
    parents = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
            except (OSError, ValueError):
                continue
    tree = {root}
    while grown := {child for child, parent in parents.items() if parent in tree} - tree:
        tree |= grown
    total = 0
    for pid in tree:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
    return total / 2**20


def _cell(estimate: Estimate) -> str:
    if estimate.low is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} ({estimate.low:.2f}–{estimate.high:.2f})"


def _mean_and_interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.2f}"
    half = _T_95[len(values) - 1] * statistics.stdev(values) / math.sqrt(len(values))
    return f"{statistics.mean(values):.2f} ± {half:.2f}"


if __name__ == "__main__":
    main()
