"""All commands of the command line, grouped by purpose, each with the function that does it.

Nothing is imported here but what a command needs to be found, so that `vicc --help` answers at once.
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
    """A command by its function, "module:function", whose one argument is the config that the words become."""

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
        "demo": Command("walk the whole road on drawn videos, in minutes", "vicc.cli.demo:demo"),
        "demo-videos": Command("write the demo's videos", "vicc.cli.prepare:demo_videos"),
        "prepare": Command("videos to a store: decode, optical flow", "vicc.cli.prepare:prepare"),
        "check": Command("say which videos are readable, and what is wrong with the others", "vicc.cli.prepare:check"),
        "store": Group(
            "look at, verify, merge, thin out and copy stores",
            "A store is the folder that `vicc prepare` writes. Where one is read, a URL such as s3://bucket/store will "
            "do.",
            {
                "info": Command("what a store holds", "vicc.cli.store:store_info"),
                "verify": Command("read all of it and compare with its checksums", "vicc.cli.store:store_verify"),
                "merge": Command("several stores to one, for instance of --shard i/n", "vicc.cli.store:store_merge"),
                "drop": Command("take videos out", "vicc.cli.store:store_drop"),
                "copy": Command("to a URL, from one, or to another folder", "vicc.cli.store:store_copy"),
            },
        ),
        "splits": Command("divide videos into folds for cross-validation", "vicc.cli.prepare:splits"),
        "bench": Command("how fast a store feeds training here", "vicc.cli.prepare:bench"),
    },
    "learn": {
        "pretrain": Command("a store to encoders, without labels", "vicc.cli.learn:pretrain"),
        "finetune": Command("an encoder and labels to a classifier", "vicc.cli.learn:finetune"),
        "probe-clips": Command("a linear classifier on a frozen encoder, from clips", "vicc.cli.learn:probe_clips"),
        "recipes": Command("list the recipes, or show one", "vicc.cli.learn:recipes"),
    },
    "measure": {
        "retrieve": Command("encoders to a retrieval table", "vicc.cli.measure:retrieve"),
        "knn": Command("classes of test videos by their nearest training videos", "vicc.cli.measure:knn"),
        "probe": Command("a linear classifier on features, in seconds", "vicc.cli.measure:probe"),
        "test": Command("classifiers to accuracies", "vicc.cli.measure:test"),
    },
    "compare": {
        "table": Command("results side by side, as text, Markdown, LaTeX or HTML", "vicc.cli.compare:table"),
        "compare": Command("two models on the same queries: difference, interval, p", "vicc.cli.compare:compare"),
        "fuse": Command("two streams' results as one model", "vicc.cli.compare:fuse"),
        "runs": Command("compare runs in a table and a plot", "vicc.cli.compare:runs"),
    },
    "share": {
        "report": Command("a run to one HTML page", "vicc.cli.share:report"),
        "import": Command("a published checkpoint to an encoder folder", "vicc.cli.share:import_"),
        "export": Command("an encoder to a published checkpoint", "vicc.cli.share:export"),
    },
}

COMMANDS: dict[str, Command | Group] = {
    name: entry for entries in COMMANDS_BY_PURPOSE.values() for name, entry in entries.items()
}
