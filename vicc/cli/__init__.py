"""Words to calls. `vicc.cli.commands` is the whole command line: a command is a function, its
config becomes the flags.

Nothing heavy is imported before a command is known, so that `vicc --help` answers at once.
"""

import errno
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import TextIOWrapper
from typing import Any

from vicc.cli.call import call, find_command
from vicc.cli.commands import COMMANDS, COMMANDS_BY_PURPOSE, Command, Group
from vicc.cli.options import Options, take_options
from vicc.cli.outcome import EXIT_BAD_INPUT, EXIT_STOPPED, EXIT_UNREAD
from vicc.errors import ViccError
from vicc.plugins import import_modules
from vicc.version import __version__

_HELP = """usage: vicc COMMAND [OPTIONS]

vicc learns to understand video without labels: an RGB encoder and an optical-flow encoder that teach each other.

{commands}

options of every command:
  --help           what the command does, its options, an example
  --json           print one JSON document on standard output instead of a table
  --debug          on an error, print the traceback as well
  --import MODULE  import a Python module first, with backbones and methods of your own; may be given several times

example, from a folder of videos to a table and a page:
  vicc prepare videos --store store
  vicc pretrain --store store --run run
  vicc retrieve --store store --run run
  vicc report --store store --run run

To see all of it on drawn videos, in minutes: vicc demo
"""


_EVERYWHERE = (
    "Also: --json prints one JSON document in place of tables, --debug a traceback on an error, --import MODULE makes "
    "backbones and methods of your own known."
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0 done, 2 bad input (one sentence on standard
    error), 130 stopped.

    What is printed into a pipe that nobody reads any more ends the program silently with 141, as
    other programs end.
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
    try:
        options, left = take_options(words)
        if left[:1] == ["help"] and len(left) > 1:
            left = [*left[1:], "--help"]
        if not words or left[:1] in (["-h"], ["--help"], ["help"]):
            _print(_HELP.format(commands="\n\n".join(map(_listed, COMMANDS_BY_PURPOSE))))
            return 0
        if left[:1] in (["-V"], ["--version"]):
            _print(f"vicc {__version__}")
            return 0
        group = COMMANDS.get(left[0]) if left else None
        if isinstance(group, Group) and left[1:2] in ([], ["-h"], ["--help"], ["help"]):
            _print(_group_help(left[0], group))
            return 0
        found = find_command(left or words)  # words without a command are refused there
    except ViccError as error:
        return _complain(str(error))
    try:
        # A polite end (a scheduler's, a container's) is a Ctrl-C: what cleans up after one cleans
        # up after the other. So is Slurm's warning that the time is nearly over.
        signal.signal(signal.SIGTERM, _interrupt)
        signal.signal(signal.SIGUSR1, _interrupt)
        return _run(*found, options)
    except KeyboardInterrupt:
        if os.environ.get("RANK", "0") == "0":
            print("stopped; the same command continues where it was", file=sys.stderr)
        return EXIT_STOPPED
    except (ViccError, OSError) as error:
        if options.debug:
            traceback.print_exc()
        return _complain(_disk_error(error) if isinstance(error, OSError) else str(error))
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)  # an interrupt while Python itself ends is only noise


def _run(name: str, command: Command, words: list[str], options: Options) -> int:
    before_end = words[: words.index("--")] if "--" in words else words
    if "--help" in before_end or "-h" in before_end:
        from vicc.cli.flags import help_text

        _print(help_text(command.config_type, command=name, more=_EVERYWHERE))
        return 0
    result = call(name, command, words, before=lambda: import_modules(options.modules))

    from vicc.progress import process_number

    if process_number() != 0:
        return result.status  # the first process shows what all of them did
    with _output():
        if options.json:
            json.dump(result.document, sys.stdout, indent=2)
            sys.stdout.write("\n")
        else:
            result.show()
    return result.status


class OutputLostError(ViccError):
    """What a command has to say could not be written to standard output."""


@contextmanager
def _output() -> Iterator[None]:
    """Around what is printed: who reads it through a pipe (head, less) may have had enough, which
    is no error.

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

    Python has None in their place; worse, the next file that is opened, a store's perhaps, would
    become standard output for every library and child process that prints.
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


def _listed(purpose: str) -> str:
    width = max(map(len, COMMANDS))
    entries = COMMANDS_BY_PURPOSE[purpose]
    return "\n".join([f"{purpose}:", *(f"  {name:<{width}}  {entry.summary}" for name, entry in entries.items())])


def _group_help(name: str, group: Group) -> str:
    width = max(map(len, group.commands))
    lines = "\n".join(f"  vicc {name} {word:<{width}}  {command.summary}" for word, command in group.commands.items())
    return f"{group.about}\n\n{lines}\n\nEach has its own --help with an example."


def _complain(message: str) -> int:
    from vicc.progress import complain, process_number

    if process_number() != 0:
        # Most mistakes are those of all processes. The first has then said it, and torchrun ends
        # the others.
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
