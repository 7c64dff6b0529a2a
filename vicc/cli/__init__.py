"""Words to calls. `COMMANDS` is the whole command line: a command is a library function, its config becomes the flags.

Nothing heavy is imported before a command is known, so that `vicc --help` answers at once.
"""

import errno
import inspect
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from io import TextIOWrapper
from pathlib import Path
from typing import Any

from vicc.errors import ViccError
from vicc.settings import Settings
from vicc.version import __version__
from vicc.words import did_you_mean

EXIT_BAD_INPUT, EXIT_STOPPED, EXIT_UNREAD = 2, 130, 141


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

    def load(self) -> Callable[[Any], Any]:
        """The function; what does the work is imported only when it is called."""
        module, _, name = self.function.partition(":")
        loaded: Callable[[Any], Any] = getattr(import_module(module), name)
        return loaded

    @property
    def config_type(self) -> type[Settings]:
        """The type of the function's config, as its annotation says."""
        (parameter,) = inspect.signature(self.load()).parameters.values()
        kind: type[Settings] = parameter.annotation
        return kind


COMMANDS: dict[str, Command | Group] = {
    "demo": Command("walk the whole road on drawn videos, in minutes", "vicc.cli.commands:demo"),
    "demo-videos": Command("write the demo's videos", "vicc.cli.commands:demo_videos"),
    "prepare": Command("videos to a store: decode, optical flow", "vicc.cli.commands:prepare"),
    "check": Command("say which videos are readable, and what is wrong with the others", "vicc.cli.commands:check"),
    "store": Group(
        "look at, verify, merge, thin out and copy stores",
        "A store is the folder that `vicc prepare` writes. Where one is read, a URL such as s3://bucket/store will do.",
        {
            "info": Command("what a store holds", "vicc.cli.commands:store_info"),
            "verify": Command("read all of it and compare with its checksums", "vicc.cli.commands:store_verify"),
            "merge": Command("several stores to one, for instance of --shard i/n", "vicc.cli.commands:store_merge"),
            "drop": Command("take videos out", "vicc.cli.commands:store_drop"),
            "copy": Command("to a URL, from one, or to another folder", "vicc.cli.commands:store_copy"),
        },
    ),
    "splits": Command("divide videos into folds for cross-validation", "vicc.cli.commands:splits"),
    "pretrain": Command("a store to encoders, without labels", "vicc.cli.commands:pretrain"),
    "finetune": Command("an encoder and labels to a classifier", "vicc.cli.commands:finetune"),
    "probe-clips": Command("a linear classifier on a frozen encoder, from clips", "vicc.cli.commands:probe_clips"),
    "test": Command("classifiers to accuracies", "vicc.cli.commands:test"),
    "retrieve": Command("encoders to a retrieval table", "vicc.cli.commands:retrieve"),
    "knn": Command("classes of test videos by their nearest training videos", "vicc.cli.commands:knn"),
    "probe": Command("a linear classifier on features, in seconds", "vicc.cli.commands:probe"),
    "table": Command("results side by side, as text, Markdown, LaTeX or HTML", "vicc.cli.commands:table"),
    "compare": Command("two models on the same queries: difference, interval, p", "vicc.cli.commands:compare"),
    "fuse": Command("two streams' results as one model", "vicc.cli.commands:fuse"),
    "report": Command("a run to one HTML page", "vicc.cli.commands:report"),
    "runs": Command("compare runs in a table and a plot", "vicc.cli.commands:runs"),
    "import": Command("a published checkpoint to an encoder folder", "vicc.cli.commands:import_"),
    "export": Command("an encoder to a published checkpoint", "vicc.cli.commands:export"),
    "bench": Command("how fast a store feeds training here", "vicc.cli.commands:bench"),
    "recipes": Command("list the recipes, or show one", "vicc.cli.commands:recipes"),
}

_HELP = """usage: vicc COMMAND [OPTIONS]

vicc learns to understand video without labels: an RGB encoder and an optical-flow encoder that teach each other.

commands:
{commands}

options of every command:
  --help     what the command does, its options, an example
  --json     print one JSON document on standard output instead of a table
  --debug    on an error, print the traceback as well

example, from a folder of videos to a table and a page:
  vicc prepare videos --store store
  vicc pretrain --store store --run run
  vicc retrieve --store store --run run
  vicc report --store store --run run

To see all of it on drawn videos, in minutes: vicc demo
"""


_EVERYWHERE = "Also: --json prints one JSON document in place of tables, --debug a traceback on an error."


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 2 bad input (one sentence on standard error), 130 stopped.

    What is printed into a pipe that nobody reads any more ends the program silently with 141, as other programs end.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    open_closed_streams()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # names of files need not be Unicode
    try:
        return _main(words)
    except OutputLostError as error:
        return _complain(str(error))


def _main(words: list[str]) -> int:
    while len(words) > 1 and words[0] in ("--json", "--debug"):  # before the command is as good as after it
        words = [*words[1:], words[0]]
    if words[:1] == ["help"] and len(words) > 1:
        words = [*words[1:], "--help"]
    if not words or words[0] in ("-h", "--help", "help"):
        width = max(map(len, COMMANDS))
        _print(_HELP.format(commands="\n".join(f"  {name:<{width}}  {c.summary}" for name, c in COMMANDS.items())))
        return 0
    if words[0] in ("-V", "--version"):
        _print(f"vicc {__version__}")
        return 0
    name, words = words[0], words[1:]
    command = COMMANDS.get(name)
    if isinstance(command, Group):
        if not words or words[0] in ("-h", "--help", "help"):
            _print(_group_help(name, command))
            return 0
        first, name, words = name, f"{name} {words[0]}", words[1:]
        known = {f"{first} {word}": entry for word, entry in command.commands.items()}
        if name not in known:
            question = did_you_mean(name, known) or f" Commands: {', '.join(known)}."
            return _complain(f"There is no command {name!r}.{question} See: vicc {first} --help")
        command = known[name]
    if command is None:
        if name.startswith("-"):
            return _complain(f"{name} stands where a command is expected, as in vicc COMMAND {name}. See: vicc --help")
        question = _command_meant(name) or f" Commands: {', '.join(COMMANDS)}."
        return _complain(f"There is no command {name!r}.{question} See: vicc --help")
    end = words.index("--") if "--" in words else len(words)  # what stands behind it is no flag
    as_json, debug = "--json" in words[:end], "--debug" in words[:end]
    words = [word for word in words[:end] if word not in ("--json", "--debug")] + words[end:]
    try:
        # A polite end (a scheduler's, a container's) is a Ctrl-C: what cleans up after one cleans up after the other.
        # So is Slurm's warning that the time is nearly over.
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGUSR1, _interrupt)
        return _run(name, command, words, as_json)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("stopped; the same command continues where it was", file=sys.stderr)
        return EXIT_STOPPED
    except (ViccError, OSError) as error:
        if debug:
            traceback.print_exc()
        return _complain(_disk_error(error) if isinstance(error, OSError) else str(error))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an interrupt while Python itself ends is only noise


_OTHER_COMMANDS = {
    "train": "pretrain",
    "fit": "pretrain",
    "extract": "prepare",
    "convert": "prepare",
    "eval": "retrieve",
    "evaluate": "retrieve",
    "search": "retrieve",
    "linear": "probe",
    "version": "--version",
}


def _command_meant(name: str) -> str:
    """Which command an unknown one was meant to be: one of its letters, of two words, or by another program's name."""
    if name.casefold() in _OTHER_COMMANDS:
        return f" Did you mean {_OTHER_COMMANDS[name.casefold()]}?"
    for group_name, group in COMMANDS.items():
        if isinstance(group, Group):
            second = name.casefold().removeprefix(group_name).lstrip("-_ ")
            if second in group.commands:
                return f" Did you mean {group_name} {second}?"
    return did_you_mean(name, COMMANDS)


def _run(name: str, command: Command, words: list[str], as_json: bool) -> int:
    from vicc.cli.flags import help_text, parse  # here, not above: `vicc --help` does without
    from vicc.places import check_places

    config_type = command.config_type
    before_end = words[: words.index("--")] if "--" in words else words
    if "--help" in before_end or "-h" in before_end:
        _print(help_text(config_type, command=name, more=_EVERYWHERE))
        return 0
    config = parse(config_type, words, command=name)
    # Before anything heavy is imported: torch alone takes seconds.
    check_places(config)
    _check_split(config)

    from vicc.progress import process_number

    result = command.load()(config)
    if process_number() != 0:
        return int(result.status)  # the first process shows what all of them did
    with _output():
        if as_json:
            json.dump(result.document, sys.stdout, indent=2)
            sys.stdout.write("\n")
        else:
            result.show()
    return int(result.status)


def _check_split(config: Any) -> None:
    """Look for the split that a config names in its store; what needs the videos is for the command itself.

    Raises:
        ViccError: no such split or fold.
    """
    from vicc.places import is_url

    split, store = getattr(config, "split", None), getattr(config, "store", None)
    if split is not None and store is not None and not is_url(store):
        from vicc.data.splits import SPLITS_FOLDER, require_split  # a store's alone: OpenCV comes with it

        require_split(split, Path(store) / SPLITS_FOLDER)


class OutputLostError(ViccError):
    """What a command has to say could not be written to standard output."""


@contextmanager
def _output() -> Iterator[None]:
    """Around what is printed: who reads it through a pipe (head, less) may have had enough, which is no error.

    Raises:
        OutputLostError: standard output takes nothing, since its disk is full, for instance.
    """
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
        raise SystemExit(EXIT_UNREAD) from None
    except OSError as error:
        _drop_output()
        raise OutputLostError(
            f"What the command found could not be written to standard output ({error.strerror or error}). Its work is "
            "done; give the same command again with the output elsewhere."
        ) from error


def _drop_output() -> None:
    """Let standard output lead nowhere, since Python flushes once more as it ends."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def open_closed_streams() -> None:
    """Let standard streams that are closed (>&-, some services) lead nowhere.

    Python has None in their place; worse, the next file that is opened, a store's perhaps, would become standard output
    for every library and child process that prints.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            os.set_inheritable(number, True)  # also by the processes that decode and load
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(number, mode, closefd=False))


def _print(text: str) -> None:
    with _output():
        print(text)


def _group_help(name: str, group: Group) -> str:
    width = max(map(len, group.commands))
    lines = "\n".join(f"  vicc {name} {word:<{width}}  {command.summary}" for word, command in group.commands.items())
    return f"{group.about}\n\n{lines}\n\nEach has its own --help with an example."


def _complain(message: str) -> int:
    from vicc.progress import complain, process_number

    if process_number() != 0:
        # Most mistakes are those of all processes. The first has then said it, and torchrun ends the others.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        time.sleep(3)
    complain(message)
    return EXIT_BAD_INPUT


def _disk_error(error: OSError) -> str:
    where = f" ({error.filename})" if error.filename else ""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return (
            f"The disk is full or a size limit is reached{where}: {error.strerror}. "
            "Free some space and give the same command again."
        )
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return (
            f"No more files may be open{where}: {error.strerror}. Raise that limit (ulimit -n 4096), or give fewer "
            "--workers."
        )
    return f"A file could not be read or written{where}: {error.strerror or error}."


def _interrupt(number: int, frame: Any) -> None:
    raise KeyboardInterrupt
