"""`vicc demo`: the whole road on drawn videos, by the same commands a user gives, each shown before it runs."""

import resource
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path

from vicc.cli import commands
from vicc.cli.commands import Outcome
from vicc.cli.configs import DemoConfig
from vicc.cores import usable_cores
from vicc.evaluation.configs import RetrieveConfig
from vicc.prepare.configs import DemoVideosConfig, PrepareConfig
from vicc.progress import say
from vicc.results.configs import ReportConfig
from vicc.training.configs import PretrainConfig

# 99.6 % of the drawn videos' displacements lie within: a bound of 20 would waste 40 % of the 8 bits.
FLOW_BOUND = 12.0


def walk(config: DemoConfig) -> Outcome:
    """Videos, store, run, table, report, all under `config.out`. What is there already is not made again."""
    began = time.monotonic()
    videos, store, run = (config.out / name for name in ("videos", "store", "run"))
    seconds: dict[str, float] = {}

    def step(title: str, words: list[str | Path | float], call: Callable[[], Outcome]) -> Outcome:
        say(f"\n[{len(seconds) + 1}/5] {title}\n$ vicc {shlex.join(map(str, words))}")
        started = time.monotonic()
        outcome = call()
        seconds[str(words[0])] = round(time.monotonic() - started, 1)
        return outcome

    num_test = config.videos // 30 * 10  # as many of each action
    step(
        "Draw videos of a figure that does ten actions. Everything but the motion is independent of the action.",
        ["demo-videos", videos, "--train", config.videos, "--test", num_test, "--seed", config.seed],
        lambda: commands.demo_videos(DemoVideosConfig(videos, config.videos, num_test, config.seed)),
    )
    prepared = step(
        "Decode them, compute optical flow, write both to a store.",
        ["prepare", videos, "--store", store, "--flow-bound", FLOW_BOUND],
        lambda: commands.prepare(PrepareConfig(videos, store, flow_bound=FLOW_BOUND)),
    )
    trained = step(
        "Train, without labels: each stream alone, then RGB taught by flow, then flow taught by RGB. RGB alone learns "
        "nothing in so short a time, of which a warning tells.",
        ["pretrain", "--recipe", "demo", "--store", store, "--run", run, "--seed", config.seed],
        lambda: commands.pretrain(PretrainConfig(store=store, run=run, recipe="demo", seed=config.seed)),
    )
    if trained.status:
        return trained
    measured = step(
        "Measure: does a test video find training videos of the same action? Labels are used only here.",
        ["retrieve", "--run", run, "--store", store],
        lambda: commands.retrieve(RetrieveConfig(run=run, store=store)),
    )
    reported = step(
        "Write a page to look at.",
        ["report", "--run", run, "--store", store, "--out", config.out / "report.html"],
        lambda: commands.report(ReportConfig(run=run, store=store, out=config.out / "report.html")),
    )

    total = time.monotonic() - began
    peak = _peak_gib()

    def show() -> None:
        measured.show()
        reported.show()
        parts = ", ".join(f"{name} {part:.0f} s" for name, part in seconds.items())
        say(f"{total / 60:.1f} minutes ({parts}), at most {peak:.2f} GiB of memory")

    document = {
        "out": str(config.out),
        "seconds": {**seconds, "total": round(total, 1)},
        "peak_gib": round(peak, 2),
        "prepare": prepared.document,
        "retrieve": measured.document,
        "report": reported.document,
    }
    return Outcome(document, show)


def _peak_gib() -> float:
    """Peak memory, from above: this process's peak and, for every core, that of the largest of its children."""
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return (own + child * usable_cores()) / 2**30
