"""Words to a call: the command that they name, its config, and the call itself. The demo calls
commands likewise.
"""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vicc.cli.commands import COMMANDS, Command, Group
from vicc.errors import ViccError
from vicc.words import did_you_mean

if TYPE_CHECKING:
    from vicc.cli.outcome import Outcome


def find_command(words: Sequence[str]) -> tuple[str, Command, list[str]]:
    """The command that words begin with: its name, of one word or two, itself, and the words after
    it.

    Raises:
        ViccError: there is no such command.
    """
    name, *rest = words
    found = COMMANDS.get(name)
    if isinstance(found, Group):
        known = {f"{name} {word}": command for word, command in found.commands.items()}
        both = " ".join([name, *rest[:1]])
        if both not in known:
            question = did_you_mean(both, known) or f" Commands: {', '.join(known)}."
            raise ViccError(f"There is no command {both!r}.{question} See: vicc {name} --help")
        return both, known[both], rest[1:]
    if found is None:
        if name.startswith("-"):
            raise ViccError(f"{name} stands where a command is expected, as in vicc COMMAND {name}. See: vicc --help")
        question = _command_meant(name) or f" Commands: {', '.join(COMMANDS)}."
        raise ViccError(f"There is no command {name!r}.{question} See: vicc --help")
    return name, found, rest


def call(name: str, command: Command, words: Sequence[str], *, before: Callable[[], None] | None = None) -> "Outcome":
    """Call a command with the config that `words` describe.

    Args:
        before: called when nothing is wrong with the words, and nothing heavy is imported yet.

    Raises:
        ViccError: the words or what they name are not right, or the command itself finds a mistake.
    """
    from vicc.cli.flags import parse  # here, not above: `vicc --help` does without
    from vicc.places import check_places

    config = parse(command.config_type, words, command=name)
    # Before anything heavy is imported: torch alone takes seconds.
    check_places(config)
    _check_split(config)
    if before is not None:
        before()
    return command.load()(config)


def _check_split(config: Any) -> None:
    """Look for the split that a config names in its store; what needs the videos is for the command
    itself.

    Raises:
        ViccError: no such split or fold.
    """
    from vicc.places import is_url

    split, store = getattr(config, "split", None), getattr(config, "store", None)
    if split is not None and store is not None and not is_url(store):
        from vicc.data.splits import SPLITS_FOLDER, require_split  # a store's alone: OpenCV comes with it

        require_split(split, Path(store) / SPLITS_FOLDER)


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
    """Which command an unknown one was meant to be: one of its letters, of two words, or by another
    program's name.
    """
    if name.casefold() in _OTHER_COMMANDS:
        return f" Did you mean {_OTHER_COMMANDS[name.casefold()]}?"
    for group_name, group in COMMANDS.items():
        if isinstance(group, Group):
            second = name.casefold().removeprefix(group_name).lstrip("-_ ")
            if second in group.commands:
                return f" Did you mean {group_name} {second}?"
    return did_you_mean(name, COMMANDS)
