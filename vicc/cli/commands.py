"""All commands of the command line, grouped by purpose, each with the function that does it.

Nothing is imported here but what a command needs to be found, so that `vicc --help` answers at
once.
"""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what `vicc --help` does without
    from vicc.cli.outcome import Outcome
    from vicc.settings import Settings


@dataclass(frozen=True)
class Group:
    """Commands about one thing, each called by two words."""

    summary: str
    about: str
    commands: dict[str, "Command"]


@dataclass(frozen=True)
class Command:
    """A command by its function, "module:function", whose one argument is the config that the words
    become.
    """

    summary: str
    function: str

    def load(self) -> "Callable[[Any], Outcome]":
        """The function; what does the work is imported only when it is called."""
        module, _, name = self.function.partition(":")
        loaded: Callable[[Any], Outcome] = getattr(import_module(module), name)
        return loaded

    @property
    def config_type(self) -> "type[Settings]":
        """The type of the function's config, as its annotation says."""
        import inspect

        (parameter,) = inspect.signature(self.load()).parameters.values()
        kind: type[Settings] = parameter.annotation
        return kind


COMMANDS_BY_PURPOSE: dict[str, dict[str, Command | Group]] = {
    "prepare": {
        "demo": Command("run every step, end to end, on drawn videos, in minutes", "vicc.cli.demo:demo"),
        "demo-videos": Command("write the videos of the demo", "vicc.cli.prepare:demo_videos"),
        "prepare": Command("decode videos and compute optical flow, into a store", "vicc.cli.prepare:prepare"),
        "check": Command("find videos that are damaged or odd, and say what is wrong", "vicc.cli.prepare:check"),
        "store": Group(
            "show, verify, merge and copy stores, drop videos from them",
            "A store is the folder that `vicc prepare` writes. Where one is read, a URL such as s3://bucket/store will "
            "do.",
            {
                "info": Command("show what a store holds", "vicc.cli.store:store_info"),
                "verify": Command("read a store and compare it with its checksums", "vicc.cli.store:store_verify"),
                "merge": Command(
                    "write several stores as one, such as those of --shard i/n", "vicc.cli.store:store_merge"
                ),
                "drop": Command("take videos out of a store", "vicc.cli.store:store_drop"),
                "copy": Command("copy a store to a URL, from one, or to another folder", "vicc.cli.store:store_copy"),
            },
        ),
        "splits": Command("divide videos into folds for cross-validation", "vicc.cli.prepare:splits"),
        "bench": Command("measure how fast a store feeds training here", "vicc.cli.prepare:bench"),
    },
    "learn": {
        "pretrain": Command("train encoders on a store, without labels", "vicc.cli.learn:pretrain"),
        "finetune": Command("train an encoder on with labels, to a classifier", "vicc.cli.learn:finetune"),
        "probe-clips": Command("train a linear classifier on clips, the encoder frozen", "vicc.cli.learn:probe_clips"),
        "recipes": Command("list the recipes, or show one", "vicc.cli.learn:recipes"),
    },
    "measure": {
        "retrieve": Command("retrieval by encoders: R@k and mean average precision", "vicc.cli.measure:retrieve"),
        "knn": Command("classify test videos by their nearest training videos", "vicc.cli.measure:knn"),
        "probe": Command("train a linear classifier on features, in seconds", "vicc.cli.measure:probe"),
        "test": Command("accuracies of classifiers", "vicc.cli.measure:test"),
    },
    "compare": {
        "table": Command("put results side by side, as text, Markdown, LaTeX or HTML", "vicc.cli.compare:table"),
        "compare": Command("compare two models query by query: difference, interval, p", "vicc.cli.compare:compare"),
        "fuse": Command("measure the results of several streams as one model", "vicc.cli.compare:fuse"),
        "runs": Command("compare runs in a table and a plot", "vicc.cli.compare:runs"),
    },
    "share": {
        "report": Command("write one HTML page of a run", "vicc.cli.share:report"),
        "import": Command("read a published checkpoint into an encoder folder", "vicc.cli.share:import_"),
        "export": Command("write an encoder as a published checkpoint", "vicc.cli.share:export"),
    },
}

COMMANDS: dict[str, Command | Group] = {
    name: entry for entries in COMMANDS_BY_PURPOSE.values() for name, entry in entries.items()
}
