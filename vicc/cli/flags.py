"""Words of a command line to a config, and a config to its help: a field is a flag, its docstring
the flag's help.

argparse reads the words and lays out the help. A wrong word is answered in one sentence.
"""

import argparse
import dataclasses
import functools
import inspect
import itertools
import re
import shutil
import textwrap
import typing
from collections.abc import Iterable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

from vicc.cli.guesses import flag_meant, stray_meant, torchrun_hint
from vicc.cli.options import OPTION_WORDS
from vicc.errors import ViccError
from vicc.settings import (
    Place,
    Positional,
    Settings,
    bare,
    docstrings_of,
    element,
    expected,
    from_text,
    hints_of,
    marks,
    members,
    sections_of,
)


@dataclass(frozen=True, eq=False)
class Flag:
    """A field as the command line sees it.

    Attributes:
        field: its name in the config; with `owner`, in the config that this field of the whole one
            holds.
        hint: the annotation, marks included.
        default: MISSING where a value must be given.
        help: the docstring below the field, on one line.
    """

    field: str
    hint: Any
    default: Any
    help: str
    owner: str | None = None

    @property
    def positional(self) -> bool:
        return any(mark is Positional for mark in marks(self.hint))

    @property
    def word(self) -> str:
        """As it is written: --batch-size, or VIDEOS for what is given by position."""
        name = self.field.replace("_", "-")
        return name.upper() if self.positional else f"--{name}"

    @property
    def words(self) -> list[str]:
        """All that set it: a switch has --no-SWITCH as well."""
        return [self.word, f"--no-{self.word[2:]}"] if self.is_switch else [self.word]

    @property
    def is_switch(self) -> bool:
        return bare(self.hint) is bool

    @property
    def is_list(self) -> bool:
        return element(self.hint) is not None

    @property
    def is_required(self) -> bool:
        return self.default is dataclasses.MISSING

    @property
    def choices(self) -> list[str]:
        hint = element(self.hint) or self.hint
        return [word for kind in members(hint) if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]

    def convert(self, text: str) -> Any:
        """Raises ViccError: no value of this flag."""
        try:
            return from_text(text, element(self.hint) or self.hint)
        except ValueError as error:
            raise ViccError(f"{self.word} {text or repr(text)}: {error}") from None


def flags_of(config_type: type[Settings]) -> list[Flag]:
    """The flags of a command in the order of the fields; those of a config inside it stand among
    them.
    """
    found = []
    hints, helps = hints_of(config_type), docstrings_of(config_type)
    for entry in fields(config_type):
        kind = bare(hints[entry.name])
        if isinstance(kind, type) and issubclass(kind, Settings):
            found += [dataclasses.replace(flag, owner=entry.name) for flag in flags_of(kind)]
        else:
            factory = entry.default_factory
            default = entry.default if factory is dataclasses.MISSING else factory()
            found.append(Flag(entry.name, hints[entry.name], default, helps[entry.name]))
    return found


# --- words to a config -----------------------------------------------------------------------------------------------


def parse(config_type: type[Settings], words: Iterable[str], *, command: str) -> Any:
    """The config that the words of a command line describe.

    Raises:
        ViccError: a flag that is not known, a word too many, a value that is none, something
            missing.
    """
    flags = flags_of(config_type)
    known = {word: flag for flag in flags if not flag.positional for word in flag.words}
    see = f"See: vicc {command} --help"
    spelled = _spelled(words, known, command, see)
    try:
        namespace, stray = _parser(config_type, flags, command).parse_known_intermixed_args(spelled)
    except argparse.ArgumentError as error:  # of their number only: values are refused by Flag.convert
        flag = known[str(error.argument_name).partition("/")[0]]
        if flag.is_switch:
            raise ViccError(f"{flag.word} takes no value; {' and '.join(flag.words)} say it all.") from None
        raise ViccError(f"{flag.word}: expected {expected(flag.hint)} after it.") from None
    values = {name: value for name, value in vars(namespace).items() if value is not dataclasses.MISSING}
    for word in stray:
        if word != "--":
            question = stray_meant(word, {flag.word for flag in flags if flag.field not in values})
            raise ViccError(f"{command}: {word!r} is a word too many, it belongs to no flag.{question} {see}")
    missing = [flag for flag in flags if flag.is_required and flag.field not in values]
    if missing:
        named = " and ".join(f"{flag.word} ({_first_sentence(flag.help)})" for flag in missing)
        raise ViccError(f"{command} needs {named}.{torchrun_hint({flag.word for flag in missing})} {see}")
    inner: dict[str, dict[str, Any]] = {}
    for flag in flags:
        if flag.owner is not None and flag.field in values:
            inner.setdefault(flag.owner, {})[flag.field] = values.pop(flag.field)
    hints = hints_of(config_type)
    return config_type(**values, **{owner: bare(hints[owner])(**given) for owner, given in inner.items()})


_NEGATIVE = re.compile(r"-(\.?\d|inf|nan)")  # argparse of Python 3.11 takes -1e-3 for a flag


def _is_flag(word: str) -> bool:
    return len(word) > 1 and word[0] == "-" and not _NEGATIVE.match(word)


def _spelled(words: Iterable[str], known: dict[str, Flag], command: str, see: str) -> list[str]:
    """The words with hyphens for underscores in the names of flags.

    Raises:
        ViccError: a flag that is not known; argparse takes one with a blank in its value for a
            value itself.
    """
    spelled = list(words)
    for at, word in enumerate(itertools.takewhile(lambda word: word != "--", spelled)):
        if _is_flag(word):
            name, equals, text = word.partition("=")
            name = name.replace("_", "-")
            if name not in known:
                following = next((other for other in spelled[at + 1 : at + 2] if not _is_flag(other)), None)
                choices = {choice: flag.word for flag in known.values() for choice in flag.choices}
                question = flag_meant(name, [*known, *OPTION_WORDS], choices, text if equals else following)
                raise ViccError(f"{command} has no flag {name}.{question} {see}")
            spelled[at] = name + equals + text
    return spelled


class _Once(argparse.Action):
    """Keeps the value of a flag; given again with another one it is refused, where argparse drops
    the first.
    """

    def __call__(self, parser: Any, namespace: argparse.Namespace, values: Any, option_string: Any = None) -> None:
        value = not option_string.startswith("--no-") if self.nargs == 0 else values
        before = getattr(namespace, self.dest, value)
        if before != value:
            word = "--" + self.dest.replace("_", "-")
            twice = (
                f"and --no-{word[2:]} are both given"
                if self.nargs == 0
                else f"is given twice, as {before} and as {value}"
            )
            raise ViccError(f"{word} {twice}; expected one of them.")
        setattr(namespace, self.dest, value)


def _first_sentence(text: str) -> str:
    sentence = text.partition(". ")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:] if not sentence[:2].isupper() else sentence


# --- a config to its help --------------------------------------------------------------------------------------------


_GLUE = "\N{NO-BREAK SPACE}"  # while lines are wrapped


def help_text(config_type: type[Settings], *, command: str, more: str) -> str:
    """What `vicc COMMAND --help` prints, wrapped at the width of the terminal (or COLUMNS, or 80)."""
    return _parser(config_type, flags_of(config_type), command, more).format_help()


def _parser(config_type: type[Settings], flags: list[Flag], command: str, more: str = "") -> argparse.ArgumentParser:
    """Its sections are those of `sections_of`, what is given by position first, what is in none of
    them last.
    """
    parser = argparse.ArgumentParser(
        usage=" ".join(["vicc", command, *(_usage(flag) for flag in flags if flag.positional), "[OPTIONS]"]),
        description=inspect.getdoc(config_type),
        epilog=more,
        formatter_class=functools.partial(_Layout, width=max(40, shutil.get_terminal_size().columns)),
        add_help=False,
        allow_abbrev=False,
        exit_on_error=False,
    )
    parser._negative_number_matcher = _NEGATIVE
    sections = {"arguments": [flag for flag in flags if flag.positional]}
    for title, names in sections_of(config_type).items():
        sections[title] = [flag for name in names for flag in flags if name in (flag.field, flag.owner)]
    placed = set().union(*sections.values())
    sections["other options" if len(sections) > 1 else "options"] = [flag for flag in flags if flag not in placed]
    for title, section in sections.items():
        group = parser.add_argument_group(title)
        for flag in section:
            _add(group, flag)
    return parser


def _add(group: argparse._ArgumentGroup, flag: Flag) -> None:
    """Nothing is required here: `parse` names all that is missing at once."""
    common: dict[str, Any] = {"help": _described(flag).replace("%", "%%"), "default": argparse.SUPPRESS}
    if flag.is_switch:
        common |= {"dest": flag.field, "action": _Once, "nargs": 0}
        shown = flag.words if flag.default else flag.words[:1]
        group.add_argument(*shown, **common)
        for word in flag.words[len(shown) :]:
            group.add_argument(word, **common | {"help": argparse.SUPPRESS})
        return
    common |= {"type": flag.convert, "metavar": _metavar(flag)}
    if flag.positional:
        group.add_argument(flag.field, **common | {"default": flag.default}, nargs="*" if flag.is_list else "?")
    elif flag.is_list:
        group.add_argument(flag.word, **common, action="extend", nargs="*")
    else:
        group.add_argument(flag.word, **common, action=_Once)


class _Layout(argparse.HelpFormatter):
    """Wraps paragraph by paragraph, at blanks only; a line of an example that is too long goes on
    after a backslash.
    """

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(text, width, break_on_hyphens=False)

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        lines: list[str] = []
        for paragraph in text.split("\n\n"):
            about, example, commands = paragraph.partition("Example:\n")
            lines += ["", *textwrap.wrap(about + example, width, break_on_hyphens=False)]
            for command in commands.splitlines():
                glued = re.sub(r"(--\S+) (?!--)", rf"\1{_GLUE}", command)  # a flag keeps its value
                options: dict[str, Any] = {"subsequent_indent": " " * 6, "break_long_words": False}
                parts = textwrap.wrap(glued, width - 2, break_on_hyphens=False, **options)
                lines.append(" \\\n".join(parts))
        return "\n".join(lines)

    def format_help(self) -> str:
        """Names of flags are wrapped too."""
        lines = super().format_help().splitlines()
        options: dict[str, Any] = {"subsequent_indent": " " * 6, "break_on_hyphens": False}
        return "\n".join(textwrap.fill(line, self._width, **options) for line in lines).replace(_GLUE, " ")


def _usage(flag: Flag) -> str:
    text = _metavar(flag) + " ..." * flag.is_list
    return text if flag.is_required else f"[{text}]"


def _metavar(flag: Flag) -> str:
    if flag.positional:
        return "|".join(flag.choices) or flag.word
    place = next((mark for mark in marks(flag.hint) if isinstance(mark, Place)), None)
    if place is not None:
        what = {"new file": "FILE", "checkpoint": "FILE", "result": "RESULT"}.get(place.kind, "FOLDER")
        return what + "|URL" * place.url
    kinds = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
    return "|".join(
        [*(kinds[kind] for kind in members(element(flag.hint) or flag.hint) if kind in kinds), *flag.choices]
    )


def _described(flag: Flag) -> str:
    if flag.is_required:
        return f"{flag.help} (required)"
    shown = ", ".join(map(str, flag.default)) if isinstance(flag.default, list | tuple) else str(flag.default)
    if shown in ("None", "False", "") or "Default:" in flag.help:
        return flag.help
    return f"{flag.help} (default:{_GLUE}{'on' if flag.default is True else shown})"
