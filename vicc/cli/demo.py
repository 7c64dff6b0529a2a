"""`vicc demo`: every step, end to end, on drawn videos, by ordinary commands, each shown before it
runs.
"""

import resource
import shlex
import sys
import time

from vicc.cli.call import call, find_command
from vicc.cli.configs import DemoConfig
from vicc.cli.outcome import Outcome
from vicc.cores import usable_cores
from vicc.progress import say

# 99.6 % of the drawn videos' displacements lie within: a bound of 20 would waste 40 % of the 8
# bits.
FLOW_BOUND = 12.0


def demo(config: DemoConfig) -> Outcome:
    """Videos, store, run, table, report, all under `config.out`. What is there already is not made
    again.
    """
    began = time.monotonic()
    videos, store, run = (config.out / name for name in ("videos", "store", "run"))
    page = config.out / "report.html"
    num_test = config.videos // 30 * 10  # as many of each action
    seconds: dict[str, float] = {}

    def step(title: str, *command: object) -> Outcome:
        words = [*map(str, command)]
        say(f"\n[{len(seconds) + 1}/5] {title}\n$ vicc {shlex.join(words)}")
        started = time.monotonic()
        outcome = call(*find_command(words))
        seconds[words[0]] = round(time.monotonic() - started, 1)
        return outcome

    step(
        "Draw videos of a figure that does ten actions. Everything but the motion is independent of the action.",
        *("demo-videos", videos, "--train", config.videos, "--test", num_test, "--seed", config.seed),
    )
    prepared = step(
        "Decode them, compute optical flow, write both to a store.",
        *("prepare", videos, "--store", store, "--flow-bound", FLOW_BOUND),
    )
    trained = step(
        "Train, without labels: each stream alone, then RGB taught by flow, then flow taught by RGB. RGB alone learns "
        "nothing in so short a time, and a warning says so.",
        *("pretrain", "--recipe", "demo", "--store", store, "--run", run, "--seed", config.seed),
    )
    if trained.status:
        return trained
    measured = step(
        "Measure: does a test video find training videos of the same action? Labels are used only here.",
        *("retrieve", "--run", run, "--store", store),
    )
    reported = step("Write a page to look at.", "report", "--run", run, "--store", store, "--out", page)

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
    """Peak memory, from above: this process's peak and, for every core, that of the largest of its
    children.
    """
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB on Linux
    own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
    child = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
    return (own + child * usable_cores()) / 2**30
