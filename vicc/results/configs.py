"""What results are compared, fused and shown with."""

import math
from dataclasses import dataclass, field
from typing import Annotated, Literal

from vicc.places import (
    ExistingFolder,
    ExistingResult,
    ExistingRun,
    ExistingStore,
    ExistingVideos,
    NewFile,
    require_store_or_videos,
)
from vicc.settings import Positional, Settings, require


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Compare two models on the same queries: difference with its 95 % interval and p, and the
    classes where it lies.

    A model is a result file, or a run (of which retrieval.json is read, see --kind), with :ROW for
    one row of it. Without rows, all are compared that both have by name. Several files of one model
    are its folds and seeds: the queries of folds are taken together, and each query is averaged
    over the seeds.

    Example:
        vicc compare run-1 run-2
        vicc compare run:RGB-1 run:RGB-2
        vicc compare --a vicc-fold-*/retrieval.json --b infonce-fold-*/retrieval.json
        vicc compare --a "vicc-fold-*:RGB-2" --b "coclr-fold-*:CoCLR RGB-2" --kind probe
    """

    models: Annotated[list[ExistingResult], Positional] = field(default_factory=list)
    """Two models, each FILE or RUN, with or without :ROW. Give these, or --a and --b."""
    a: list[ExistingResult] = field(default_factory=list)
    """Several files or runs of the first model; wildcards with :ROW in quotes."""
    b: list[ExistingResult] = field(default_factory=list)
    """The same of the second model."""
    kind: str = "retrieval"
    """Which result of a run is read: retrieval, knn, probe, or another that exists as
    RUN/KIND.json.
    """
    intersection: bool = False
    """Where the two were measured on different queries, compare on the common ones, and say how
    many these are.
    """
    out: NewFile | None = None
    """Also write all of it to this file, .json."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            (len(self.models) == 2 and not self.a and not self.b) or (not self.models and bool(self.a and self.b)),
            f"vicc compare: got {len(self.models)} models, {len(self.a)} files of --a and {len(self.b)} of --b; "
            "expected two models, or files of both --a and --b.",
        )

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The files of each model."""
        return (self.a, self.b) if self.a else ([self.models[0]], [self.models[1]])


@dataclass(frozen=True)
class TableConfig(Settings):
    """Put results side by side: models down, what was measured across, folds and seeds of a model
    as mean and spread.

    Rows of the literature are added where data and protocol are theirs. What was measured in
    different ways, or on different data, is not put into one column.

    Example:
        vicc table run
        vicc table runs --metrics R@1 mAP --format latex --out table.tex
        vicc table run/retrieval.json --view classes
        vicc table run/retrieval.json:RGB-2 --view confusions
    """

    results: Annotated[list[ExistingResult], Positional] = field(default_factory=list)
    """Result files, each with or without :ROW, or folders with results at any depth."""
    view: Literal["models", "classes", "confusions"] = "models"
    """models: the table of models. classes: of one result every class by itself. confusions: of one
    result, for each model, which classes are taken for which, most frequent first.
    """
    metrics: list[str] = field(default_factory=list)
    """Metrics shown, for instance R@1 R@5 mAP top-1. Default: all."""
    format: Literal["text", "markdown", "latex", "html"] = "text"
    """text for a terminal; latex needs the package booktabs; html is a page of its own."""
    separate: bool = False
    """Give every protocol, data set and set of splits columns of its own, in place of refusing to
    mix them.
    """
    published: bool = True
    """Add rows of the literature where data and protocol are the same."""
    out: NewFile | None = None
    """File to write the table to. Default: print it."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.results) > 0, "vicc table: expected result files, or folders with results in them.")
        require(
            self.view == "models" or len(self.results) == 1,
            f"--view {self.view} shows one result; got {len(self.results)}.",
        )
        require(
            self.view == "models" or not self.separate,
            f"--separate is for --view models, not for --view {self.view}, which shows one result.",
        )


@dataclass(frozen=True)
class FuseConfig(Settings):
    """Two or more streams as one model: similarities or probabilities of results already measured
    are averaged.

    Retrieval needs the features that `vicc retrieve` keeps, classification the probabilities that
    `vicc test` keeps.

    Example:
        vicc fuse run/retrieval.json:RGB-2 run/retrieval.json:Flow-2
        vicc fuse rgb-classifier/test.json flow-classifier/test.json --weights 2 1 --out fused.json
    """

    results: Annotated[list[ExistingResult], Positional] = field(default_factory=list)
    """Results to fuse, two or more, each FILE or RUN, with :ROW where it has several trained rows.
    """
    weights: list[float] = field(default_factory=list)
    """Weight of each, for instance 2 1. Default: all the same, as published."""
    kind: str = "retrieval"
    """Which result of a run is read: retrieval, knn, probe, or another that exists as
    RUN/KIND.json.
    """
    name: str | None = None
    """Name of the fused row. Default: the names of its parts."""
    intersection: bool = False
    """Where they were measured on different videos, evaluate on the common ones, and say how many
    these are.
    """
    out: NewFile | None = None
    """File to write, .json. Default: fused.json beside the first result."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.results) > 1, f"vicc fuse: got {len(self.results)} result; expected two or more.")
        require(
            not self.weights or len(self.weights) == len(self.results),
            f"--weights: got {len(self.weights)} for {len(self.results)} results; expected one for each.",
        )
        require(
            all(0 < weight < math.inf for weight in self.weights),
            f"--weights {' '.join(map(str, self.weights))}: expected numbers above 0.",
        )


@dataclass(frozen=True)
class ReportConfig(Settings):
    """Write one HTML file of a run: table, curves, queries with their nearest neighbours as
    animations.

    The file needs no network and no other file. Run `vicc retrieve` first: the report shows its
    result.

    Example:
        vicc report --run run --store store --out report.html
    """

    run: ExistingRun
    """Run that `vicc retrieve` has measured."""
    store: ExistingStore | None = None
    """The store it was measured on. Give this, or --videos."""
    videos: ExistingVideos | None = None
    """The folder of videos it was measured on, in place of a store."""
    out: NewFile | None = None
    """File to write. Default: RUN/report.html."""
    queries: int = 10
    """Number of queries shown with their neighbours."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require_store_or_videos(self.store, self.videos)
        require(self.queries > 0, f"--queries {self.queries}: expected at least 1.")


@dataclass(frozen=True)
class RunsConfig(Settings):
    """Compare runs: how far each is, its loss beside ln K, evaluations, speed, and which settings
    differ.

    Runs are found at any depth below the folders. Their logs are read, nothing is changed; those
    that are still running are shown as they are now.

    Example:
        vicc runs runs
        vicc runs runs --out runs.png
        vicc runs run-1 run-2 --json
    """

    folders: Annotated[list[ExistingFolder], Positional]
    """Runs, or folders with runs in them."""
    out: NewFile | None = None
    """Also draw losses and evaluations of all of them into this file, .png, .svg or .pdf."""

    def __post_init__(self) -> None:
        super().__post_init__()
        require(len(self.folders) > 0, "vicc runs: expected runs, or folders with runs in them.")
        require(
            self.out is None or self.out.suffix.lower() in (".png", ".svg", ".pdf"),
            f"--out {self.out}: expected a name that ends in .png, .svg or .pdf.",
        )
