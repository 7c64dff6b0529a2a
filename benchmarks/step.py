"""One S3D ViCC step against the step as it was published, and what each option costs and saves.

    OMP_NUM_THREADS=1 python benchmarks/step.py
    OMP_NUM_THREADS=1 python benchmarks/step.py --only "published, both" vicc --repeats 9

Every way has a process of its own, so that its peak memory is its own; the processes take turns, one step at a time.
Seconds are CPU seconds of one core, so that other work on the machine disturbs them little.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

# Batch of 4 videos, two clips each of 32 frames at 128 x 128.
VIDEOS, FRAMES, SIZE = 4, 32, 128
WAYS: dict[str, dict[str, object]] = {
    "published, one": {"published": True, "both": False},
    "published, both": {"published": True, "both": True},
    "vicc, one": {"both": False},
    "vicc": {},
    "vicc, fp32": {"precision": "fp32"},
    "vicc, --accumulate 2": {"accumulate": 2},
    "vicc, --accumulate 4": {"accumulate": 4},
    "vicc, --checkpoint-activations": {"again": True},
    "vicc, both of them": {"accumulate": 4, "again": True},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--only", nargs="+", default=list(WAYS), choices=list(WAYS))
    parser.add_argument("--json", type=Path, help="write the numbers here as well")
    parser.add_argument("--larc", action="store_true", help="the optimiser alone, against one tensor after the other")
    parser.add_argument("--way", choices=list(WAYS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.way:
        serve(options.way)
        return
    if options.larc:
        compare_larc(options.repeats)
        return
    results = compare(options.only, options.repeats)
    print("| | CPU s a step: median (range) | peak memory, GiB | of it the process itself |\n|---|---|---|---|")
    for way, result in results.items():
        seconds = sorted(result["seconds"])
        middle = statistics.median(seconds)
        peak, idle = (result[name] / 2**30 for name in ("peak", "idle"))
        print(f"| {way} | {middle:.2f} ({seconds[0]:.2f}–{seconds[-1]:.2f}) | {peak:.2f} | {idle:.2f} |")
    if options.json:
        options.json.write_text(json.dumps(results, indent=1))


def compare(ways: list[str], repeats: int) -> dict[str, dict]:
    """Steps of each way in turns; the first of each warms up."""
    servers = {
        way: subprocess.Popen(
            [sys.executable, __file__, "--way", way], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for way in ways
    }
    results: dict[str, dict] = {way: {"seconds": []} for way in ways}
    for turn in range(repeats + 1):
        for way, server in servers.items():
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write("step\n")
            server.stdin.flush()
            answer = json.loads(server.stdout.readline())
            if turn:
                results[way]["seconds"].append(answer["seconds"])
            results[way] |= {"peak": answer["peak"], "idle": answer["idle"]}
    for server in servers.values():
        server.communicate()
    return results


def compare_larc(repeats: int) -> None:
    """Milliseconds of CPU time of LARC on the weights of S3D, both ways in turns."""
    from published_step import PublishedStep

    from vicc.training.optim import LARC

    torch.set_num_threads(1)
    old = PublishedStep(both=True)
    new = LARC([torch.nn.Parameter(weight.detach().clone()) for weight in old.weights], lr=0.6)
    for weight in (*old.weights, *new.param_groups[0]["params"]):
        weight.grad = torch.randn_like(weight)
    ways: dict[str, Callable[[], object]] = {"one tensor after the other": old.update, "foreach": new.step}
    milliseconds: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(10 * repeats + 1):
        for name, way in ways.items():
            begin = time.process_time()
            way()
            if turn:
                milliseconds[name].append(1000 * (time.process_time() - begin))
    for name, values in milliseconds.items():
        print(f"{name}: {statistics.median(values):.1f} ms ({min(values):.1f}–{max(values):.1f})")


def serve(way: str) -> None:
    """Make a step whenever a line comes in."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    idle = peak_memory()
    step = build(**WAYS[way])
    for _ in sys.stdin:
        begin = time.process_time()
        step()
        print(json.dumps({"seconds": time.process_time() - begin, "peak": peak_memory(), "idle": idle}), flush=True)


def build(
    *,
    published: bool = False,
    both: bool = True,
    precision: str = "auto",
    accumulate: int = 1,
    again: bool = False,
) -> Callable[[], object]:
    clips = torch.randint(0, 256, (VIDEOS, 2, FRAMES, SIZE, SIZE, 3), dtype=torch.uint8).permute(0, 1, 5, 2, 3, 4)
    if published:
        from published_step import PublishedStep

        old = PublishedStep(both=both)
        normalised = ((clips.float() - 110) / 60).contiguous()  # where the published loader puts it
        return lambda: old(normalised)
    from vicc.batch import Batch
    from vicc.device import choose_precision, keep_freed_memory
    from vicc.methods.configs import EncoderConfig
    from vicc.methods.encoder import Encoder
    from vicc.methods.single_stream import SingleStream
    from vicc.training.optim import LARC
    from vicc.training.step import TrainingStep, checkpoint_activations

    task = SingleStream(Encoder(EncoderConfig("rgb")), views_with_gradient="both" if both else "one").train()
    chosen = choose_precision(precision, torch.device("cpu"))  # type: ignore[arg-type]
    keep_freed_memory(chosen.device)
    chosen.place(task)
    if again:
        checkpoint_activations(task.encoder)
    new = TrainingStep(task, LARC(task.parameters(), lr=0.6), chosen, accumulate=accumulate)
    batch = Batch({"rgb": clips}, torch.arange(VIDEOS))
    return lambda: new(batch, 0, learning_rate=0.6)


def peak_memory() -> int:
    """Bytes of this process's memory at its highest."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1]) << 10
    raise OSError(f"no VmHWM in /proc/{os.getpid()}/status: this benchmark wants Linux")


if __name__ == "__main__":
    main()
