"""What the training loop costs beside the steps themselves.

    OMP_NUM_THREADS=1 python benchmarks/loop.py
    OMP_NUM_THREADS=1 python benchmarks/loop.py --s3d

`vicc pretrain` trains one stage on drawn videos, as any user's does, with clocks around its parts: the step, the
loading of clips, the writing of checkpoints. What is left of the time in the loop is the loop's own: signals, the
log, the monitor, the watchdog. CPU seconds of the process, so that other work on the machine disturbs them little.
"""

import argparse
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from vicc import PrepareConfig, PretrainConfig, create_recipe, prepare_videos, pretrain
from vicc.data.loader import ClipLoader
from vicc.prepare.demo_videos import write_demo_videos
from vicc.training import train_stage as stage_module
from vicc.training.step import TrainingStep
from vicc.training.watch.monitor import Monitor

TOY = ("rgb-1.steps=600", "rgb-1.size=16", "rgb-1.clip_frames=8", "rgb-1.batch_size=2", "rgb-1.num_prototypes=10")
S3D = ("rgb-1.steps=6", "rgb-1.epochs=none", "rgb-1.batch_size=4")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--s3d", action="store_true", help="S3D on batches of 4 in place of the toy model")
    options = parser.parse_args()
    recipe = create_recipe("default" if options.s3d else "demo", changes=S3D if options.s3d else TOY)
    recipe = replace(recipe, stages=recipe.stages[:1])
    with tempfile.TemporaryDirectory() as place:
        videos, store = Path(place) / "videos", Path(place) / "store"
        write_demo_videos(videos, num_train=20, num_test=0, seed=0)
        prepare_videos(PrepareConfig(videos, store))
        spent: dict[str, float] = defaultdict(float)
        _put_clocks(spent)
        pretrain(recipe, PretrainConfig(run=Path(place) / "run", store=store, workers=0))
    own = spent["loop"] - spent["step"] - spent["load"] - spent["save"] - spent["epoch"]
    steps = recipe.stages[0].length.steps or 1
    print("| a step | CPU ms |\n|---|---|")
    for name, seconds in (
        ("step", spent["step"]),
        ("loading", spent["load"]),
        ("checkpoints", spent["save"]),
        ("evaluations and curves at the ends of epochs", spent["epoch"]),
    ):
        print(f"| {name} | {1000 * seconds / steps:.3f} |")
    print(f"| the loop's own | {1000 * own / steps:.3f} ({own / spent['step']:.3%} of the step) |")


def _put_clocks(spent: dict[str, float]) -> None:
    """Time the parts of every training that follows."""
    loop = stage_module.train

    def train(*arguments: Any, save: Callable[[], None], **options: Any) -> None:
        _timed(loop, spent, "loop")(*arguments, save=_timed(save, spent, "save"), **options)

    stage_module.train = train  # type: ignore[attr-defined]
    Monitor.epoch = _timed(Monitor.epoch, spent, "epoch")  # type: ignore[method-assign]
    TrainingStep.__call__ = _timed(TrainingStep.__call__, spent, "step")  # type: ignore[method-assign]
    load = ClipLoader.__iter__

    def timed_load(self: ClipLoader) -> Iterator[Any]:
        batches = load(self)
        following = _timed(lambda: next(batches, None), spent, "load")
        while (batch := following()) is not None:
            yield batch

    ClipLoader.__iter__ = timed_load  # type: ignore[method-assign]


def _timed(call: Callable[..., Any], spent: dict[str, float], name: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **options: Any) -> Any:
        began = time.process_time()
        try:
            return call(*arguments, **options)
        finally:
            spent[name] += time.process_time() - began

    return timed


if __name__ == "__main__":
    main()
