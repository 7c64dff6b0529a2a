"""What a command leaves, and what several commands say in the same way."""

import shlex
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vicc.plugins import imported_modules
from vicc.text_table import TextTable, print_line, print_table

EXIT_BAD_INPUT, EXIT_STOPPED, EXIT_UNREAD = 2, 130, 141


@dataclass(frozen=True)
class Outcome:
    """What a command leaves: a document for machines, a way to show it to people, an exit status."""

    document: Any
    show: Callable[[], None]
    status: int = 0


def say_next(command: str) -> None:
    """The last line of a command that ended well: what is usually given after it, with the same
    modules imported.
    """
    if "--import" not in command:
        words = ["vicc", *(word for module in imported_modules() for word in ("--import", module))]
        command = command.replace("vicc ", f"{shlex.join(words)} ", 1)
    print_line(f"next: {command}")


def print_parts(parts: Iterable[TextTable | str]) -> None:
    """Tables and lines in their order."""
    for part in parts:
        if isinstance(part, TextTable):
            print_table(part)
        else:
            print_line(part)


def command_line(*words: object) -> str:
    """A command of vicc's as a shell takes it."""
    return shlex.join(["vicc", *map(str, words)])


def shell_word(place: Path | str | None) -> str:
    """A path as a shell takes it."""
    return shlex.quote(str(place))
