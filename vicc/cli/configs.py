"""The settings of the commands that are the command line's own."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from vicc.places import NewFile
from vicc.settings import Positional, Settings, require, require_seed


@dataclass(frozen=True)
class RecipesConfig(Settings):
    """List the recipes that `vicc pretrain --recipe` knows, or show one: stages, learning rate,
    what it costs.

    Example:
        vicc recipes
        vicc recipes show vicc_ucf101 --plot schedule.png
        vicc recipes show default --videos 5000 --gpus 1 --set all.epochs=50
    """

    action: Annotated[str | None, Positional] = None
    """`show` for one recipe. Default: the list."""
    name: Annotated[str | None, Positional] = None
    """Recipe to show."""
    motion: Literal["flow", "diff"] = "flow"
    """Stream of motion, as for `vicc pretrain`."""
    set: list[str] = field(default_factory=list)
    """Changes to the recipe, as for `vicc pretrain`, each STAGE.FIELD=VALUE."""
    videos: int | None = None
    """Training videos. Default: those of the data the recipe was made for, else of UCF101."""
    clips_per_second: float = 7.0
    """Clips that one GPU trains on in a second, for the hours. Default: what the published jobs
    come to (S3D, up to 38 hours on four GPUs of 24 GB). Newer GPUs do many times that: see
    `seconds` in log.jsonl of your own run.
    """
    gpus: int = 4
    """GPUs that share the work, for the hours."""
    plot: NewFile | None = None
    """Also draw the learning rate into this file, .png, .svg or .pdf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.action in (None, "show"),
            f"vicc recipes {self.action!r}: expected `vicc recipes` for the list, or `vicc recipes show NAME`.",
        )
        require(
            self.action is None or self.name is not None,
            "vicc recipes show: expected the name of a recipe as well; `vicc recipes` lists them.",
        )
        require(
            self.action is not None
            or (not self.set and self.videos is None and self.plot is None and self.motion == "flow"),
            "--set, --motion, --videos and --plot belong to one recipe: expected `vicc recipes show NAME` before them.",
        )
        require(self.videos is None or self.videos > 0, f"--videos {self.videos}: expected at least 1.")
        require(
            0 < self.clips_per_second < float("inf"),
            f"--clips-per-second {self.clips_per_second}: expected a number above 0.",
        )
        require(self.gpus > 0, f"--gpus {self.gpus}: expected at least 1.")
        require(
            self.plot is None or self.plot.suffix.lower() in (".png", ".svg", ".pdf"),
            f"--plot {self.plot}: expected a file that ends in .png, .svg or .pdf.",
        )


@dataclass(frozen=True)
class DemoConfig(Settings):
    """Run every step, end to end, on drawn videos: videos, prepare, pretrain, retrieve, report.
    Minutes on two cores.

    Every step is an ordinary command, shown before it runs. Given again, the demo continues where
    it stopped.

    Example:
        vicc demo --out vicc-demo
    """

    out: Path = Path("vicc-demo")
    """Folder for videos, store, run and report."""
    videos: int = 300
    """Training videos; a third as many more are drawn for testing."""
    seed: int = 0
    """Seed of the videos and of the training."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_seed("--seed", self.seed)
        require(
            self.videos >= 30 and self.videos % 10 == 0,
            f"--videos {self.videos}: expected a multiple of 10, as there are ten actions, and at least 30.",
        )
