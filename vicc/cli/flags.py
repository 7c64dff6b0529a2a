"""Words of a command line to a config, and a config to its help: a field is a flag, its docstring the flag's help.

`parse` says what is wrong with a word in one sentence, with the nearest known word; `help_text` wraps once, at the
width of the terminal. Lists take all words up to the next flag, and further ones where the flag is given again.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import os
import re
import shutil
import sys
import textwrap
import typing
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from vicc.errors import ViccError
from vicc.places import what_is_at
from vicc.settings import (
    Place,
    Positional,
    Settings,
    bare,
    element,
    expected,
    from_text,
    groups_of,
    hints_of,
    marks,
    members,
)
from vicc.words import did_you_mean, nearest


@dataclass(frozen=True, eq=False)
class Flag:
    """A field as the command line sees it.

    Attributes:
        field: its name in the config; with `owner`, in the config that this field of the whole one holds.
        hint: the annotation, marks included.
        default: MISSING where a value must be given.
    """

    field: str
    hint: Any
    default: Any
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
    def is_switch(self) -> bool:
        return bare(self.hint) is bool

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
    """The flags of a command in the order of the fields; those of a config inside it stand among them."""
    found = []
    hints = hints_of(config_type)
    for entry in fields(config_type):
        kind = bare(hints[entry.name])
        if isinstance(kind, type) and issubclass(kind, Settings):
            found += [dataclasses.replace(flag, owner=entry.name) for flag in flags_of(kind)]
        else:
            factory = entry.default_factory
            default = entry.default if factory is dataclasses.MISSING else factory()
            found.append(Flag(entry.name, hints[entry.name], default))
    return found


# --- words to a config -----------------------------------------------------------------------------------------------


@dataclass
class _Reader:
    command: str
    flags: list[Flag]
    values: dict[Flag, Any] = field(default_factory=dict)
    written: dict[Flag, str] = field(default_factory=dict)
    stray: list[str] = field(default_factory=list)

    def read(self, words: list[str]) -> None:
        rest = list(words)
        while rest:
            word = rest.pop(0)
            if word == "--":
                self.stray += rest
                return
            if _is_flag(word):
                self._read_flag(word, rest)
            else:
                self.stray.append(word)

    def _read_flag(self, word: str, rest: list[str]) -> None:
        name, equals, text = word.partition("=")
        name = "--" + name.lstrip("-").replace("_", "-") if name.startswith("--") else name
        known = {flag.word: flag for flag in self.flags if not flag.positional}
        switches = {f"--no-{flag.field.replace('_', '-')}": flag for flag in known.values() if flag.is_switch}
        flag = known.get(name) or switches.get(name)
        if flag is None:
            raise ViccError(self._unknown(name, [*known, *switches], text if equals else _first_value(rest)))
        if flag.is_switch:
            if equals:
                raise ViccError(f"{word}: {flag.word} takes no value; {flag.word} and --no-{flag.word[2:]} say it all.")
            self._set(flag, name in known, name)
            return
        if element(flag.hint) is not None:
            texts = [text] if equals else _take(rest)
            # Given again, it adds: a flag does not take back in silence what stands before it.
            self.values.setdefault(flag, []).extend(flag.convert(one) for one in texts)
            return
        if not equals:
            if not rest or _is_flag(rest[0]):
                raise ViccError(f"{flag.word}: expected {expected(flag.hint)} after it.")
            text = rest.pop(0)
        self._set(flag, flag.convert(text), text)

    def _set(self, flag: Flag, value: Any, written: str) -> None:
        if flag in self.values and self.values[flag] != value:
            raise ViccError(
                f"{flag.word} is given twice, as {self.written[flag]} and as {written}; expected one of them."
            )
        self.values[flag], self.written[flag] = value, written

    def place_stray_words(self) -> None:
        """Give the words without a flag to the positional fields, in order."""
        for flag in self.flags:
            if flag.positional and self.stray:
                if element(flag.hint) is not None:
                    self.values[flag] = [flag.convert(word) for word in self.stray]
                    self.stray = []
                else:
                    self.values[flag] = flag.convert(self.stray.pop(0))
        if self.stray:
            raise ViccError(self._unexpected(self.stray[0]))

    def _unknown(self, name: str, known: list[str], value: str | None) -> str:
        question = _question(name, known, self.flags, value)
        return f"{self.command} has no flag {name}.{question} See: vicc {self.command} --help"

    def _unexpected(self, word: str) -> str:
        flags = {flag.word for flag in self.flags if flag not in self.values}
        place = Path(word)
        at = what_is_at(place)
        # What is there says which flag it belongs to; of what is not, the word itself may.
        guesses = {"a run": ["--run"], "a store": ["--store"], "": [f"--{word}", "--store", "--run"]}.get(
            at, ["--videos", "--store"]
        )
        guess = next((flag for flag in guesses if flag in flags), None)
        question = f" Did you mean {guess}{'' if guess == f'--{word}' else f' {word}'}?" if guess else ""
        return (
            f"{self.command}: {word!r} is a word too many, it belongs to no flag.{question} "
            f"See: vicc {self.command} --help"
        )


def parse(config_type: type[Settings], words: Iterable[str], *, command: str) -> Any:
    """The config that the words of a command line describe.

    Raises:
        ViccError: a flag that is not known, a word too many, a value that is none, something missing.
    """
    reader = _Reader(command, flags_of(config_type))
    reader.read(list(words))
    reader.place_stray_words()
    missing = [flag for flag in reader.flags if flag.is_required and flag not in reader.values]
    if missing:
        helps = field_helps(config_type)
        named = " and ".join(f"{flag.word} ({_first_sentence(helps[flag.field])})" for flag in missing)
        raise ViccError(f"{command} needs {named}.{_torchrun_hint(missing)} See: vicc {command} --help")
    arguments: dict[str, Any] = {}
    inner: dict[str, dict[str, Any]] = {}
    for flag, value in reader.values.items():
        (arguments if flag.owner is None else inner.setdefault(flag.owner, {}))[flag.field] = value
    hints = hints_of(config_type)
    return config_type(**arguments, **{owner: bare(hints[owner])(**values) for owner, values in inner.items()})


def _is_flag(word: str) -> bool:
    """Whether a word is a flag, and not a negative number or a lone dash."""
    return len(word) > 1 and word[0] == "-" and not word[1].isdigit() and not word[1:].startswith((".", "inf", "nan"))


def _take(rest: list[str]) -> list[str]:
    taken = []
    while rest and not _is_flag(rest[0]):
        taken.append(rest.pop(0))
    return taken


def _first_value(rest: list[str]) -> str | None:
    return rest[0] if rest and not _is_flag(rest[0]) else None


def _first_sentence(text: str) -> str:
    sentence = text.partition(". ")[0].rstrip(".")
    return sentence[:1].lower() + sentence[1:] if not sentence[:2].isupper() else sentence


def _torchrun_hint(missing: list[Flag]) -> str:
    if "TORCHELASTIC_RUN_ID" in os.environ and any(flag.word == "--run" for flag in missing):
        return " torchrun has a --run of its own: write torchrun ... -m -- vicc ..., with -- before vicc."
    return ""


# What other programs call it: the flag here, if the command has one, else a field of the recipe's stages.
_OTHER_NAMES = {
    "lr": ("learning-rate",),
    "wd": ("weight-decay",),
    "bs": ("batch-size",),
    "b": ("batch-size",),
    "arch": ("backbone",),
    "model": ("encoder", "classifier", "backbone"),
    "network": ("encoder", "backbone"),
    "checkpoint": ("encoder", "classifier"),
    "ckpt": ("encoder", "classifier"),
    "weights": ("encoder", "classifier"),
    "amp": ("precision",),
    "fp16": ("precision",),
    "bf16": ("precision",),
    "half": ("precision",),
    "jobs": ("workers",),
    "j": ("workers",),
    "num-workers": ("workers",),
    "processes": ("workers",),
    "output": ("out", "run", "store"),
    "output-dir": ("out", "run", "store"),
    "o": ("out", "run", "store"),
    "dest": ("out", "run", "store"),
    "data": ("store", "videos"),
    "data-dir": ("store", "videos"),
    "dataset": ("store", "videos"),
    "input": ("videos", "store"),
    "gpu": ("device",),
    "cuda": ("device",),
    "config": ("recipe",),
    "top-k": ("k",),
    "frames": ("clip-frames",),
    "n": ("dry-run",),
    "resolution": ("short-side", "size"),
}


def _question(name: str, known: list[str], flags: list[Flag], value: str | None) -> str:
    """Which flag an unknown one was meant to be, or which --set of a stage's field does the same."""
    bare_name = name.lstrip("-").casefold()
    wanted = (bare_name, *_OTHER_NAMES.get(bare_name, ()))
    for other in wanted:
        if f"--{other}" in known:
            return f" Did you mean --{other}?"
    if bare_name == "resume":
        return " Nothing is needed for that: the same command with the same --run goes on where it was."
    if "--set" in known:
        stage = "classifier" if "--schedule" in known else "all"
        stage_fields = _stage_fields()
        for other in wanted:
            # A name that is nearly a flag's is rather that flag.
            close = nearest(other, stage_fields, number=1)
            if close and (other.replace("-", "_") == close[0] or not nearest(name, known)):
                return f" Did you mean --set {stage}.{close[0]}={value or 'VALUE'}?"
    values = [f"{flag.word} {name.lstrip('-')}" for flag in flags if name.lstrip("-") in flag.choices]
    return f" Did you mean {values[0]}?" if values else did_you_mean(name, known)


def _stage_fields() -> list[str]:
    from vicc.training.stage import Stage  # after a mistake only: it brings NumPy with it

    return [entry.name for entry in fields(Stage)]


# --- a config to its help --------------------------------------------------------------------------------------------


def field_helps(config_type: type[Settings]) -> dict[str, str]:
    """The docstring below each field, on one line; of configs inside the config as well."""
    helps: dict[str, str] = {}
    for entry_type in [hint for hint in map(bare, hints_of(config_type).values()) if isinstance(hint, type)]:
        if issubclass(entry_type, Settings):
            helps |= field_helps(entry_type)
    wanted = [kind for kind in reversed(config_type.__mro__) if dataclasses.is_dataclass(kind)]
    for kind in wanted:
        body = _classes(kind.__module__)[kind.__name__].body
        for statement, following in itertools.pairwise(body):
            if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
                text = following.value.value if isinstance(following, ast.Expr) else ""  # type: ignore[attr-defined]
                helps[statement.target.id] = " ".join(str(text).split())
    return helps


@functools.cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}


def help_text(config_type: type[Settings], *, command: str, more: str, encoding: str | None = None) -> str:
    """What `vicc COMMAND --help` prints, wrapped at the width of the terminal (or COLUMNS, or 80)."""
    width = max(40, shutil.get_terminal_size().columns)
    flags, helps = flags_of(config_type), field_helps(config_type)
    positional = "".join(f" {_usage(flag)}" for flag in flags if flag.positional)
    lines = [f"usage: vicc {command}{positional} [OPTIONS]", ""]
    lines += [*_wrapped_docstring(inspect.getdoc(config_type) or "", width), "", *textwrap.wrap(more, width)]
    draw = _LINES if _can_show("".join(_LINES), encoding) else _ASCII
    for title, members_of_group in _grouped(config_type, flags):
        entries = [(_invocation(flag), _described(flag, helps[flag.field])) for flag in members_of_group]
        lines += ["", *_box(title, entries, width, draw)]
    return "\n".join(lines)


_LINES, _ASCII = ("╭", "─", "╮", "│", "╰", "╯"), ("+", "-", "+", "|", "+", "+")


def _can_show(text: str, encoding: str | None) -> bool:
    try:
        text.encode(encoding or "utf-8")
    except (UnicodeEncodeError, LookupError):
        return False
    return True


def _wrapped_docstring(text: str, width: int) -> Iterator[str]:
    """Paragraphs wrapped; the lines of an example stay lines, one too long goes on after a backslash."""
    paragraph: list[str] = []

    def flushed() -> Iterator[str]:
        yield from textwrap.wrap(" ".join(paragraph), width)
        paragraph.clear()

    for line in text.splitlines():
        if line.startswith(" ") or not line.strip() or (line.endswith(":") and not paragraph):
            yield from flushed()
            yield from _continued(line, width)
        else:
            paragraph.append(line.strip())
    yield from flushed()


def _continued(line: str, width: int) -> Iterator[str]:
    indent = " " * (len(line) - len(line.lstrip()))
    if len(line) <= width:
        yield line.rstrip()
        return
    part = indent
    for piece in re.split(r" (?=--)", line.strip()):  # a flag keeps its values
        if part.strip() and len(part) + len(piece) + 3 > width:
            yield f"{part.rstrip()} \\"
            part = indent + "    "
        part += piece + " "
    yield part.rstrip()


def _grouped(config_type: type[Settings], flags: list[Flag]) -> list[tuple[str, list[Flag]]]:
    """Flags by what they are for, see `groups_of`; what is given by position first, what has no group last."""
    titles: dict[str, list[Flag]] = {"arguments": [flag for flag in flags if flag.positional]}
    where = {name: (title, at) for title, names in groups_of(config_type).items() for at, name in enumerate(names)}
    titles |= {title: [] for title in groups_of(config_type)}
    rest = "options" if len(titles) == 1 else "other options"
    named = [flag for flag in flags if not flag.positional]

    def place(flag: Flag) -> tuple[str, int]:
        return where.get(flag.field) or where.get(flag.owner or "") or (rest, 0)

    for flag in sorted(named, key=lambda flag: place(flag)[1]):
        titles.setdefault(place(flag)[0], []).append(flag)
    return [(title, members_of_group) for title, members_of_group in titles.items() if members_of_group]


def _usage(flag: Flag) -> str:
    text = f"{flag.word} ..." if element(flag.hint) is not None else flag.word
    if flag.choices:
        text = "|".join(flag.choices)
    return text if flag.is_required else f"[{text}]"


def _invocation(flag: Flag) -> str:
    if flag.positional:
        return _usage(flag)
    if flag.is_switch:
        return f"{flag.word}, --no-{flag.word[2:]}" if flag.default else flag.word
    inner = element(flag.hint)
    return f"{flag.word} {_metavar(inner or flag.hint)}{' ...' if inner else ''}"


def _metavar(hint: Any) -> str:
    place = next((mark for mark in marks(hint) if isinstance(mark, Place)), None)
    if place is not None:
        what = {"new file": "FILE", "checkpoint": "FILE", "result": "RESULT"}.get(place.kind, "FOLDER")
        return what + "|URL" * place.url
    words: list[str] = []
    for kind in members(hint):
        if typing.get_origin(kind) is Literal:
            words += typing.get_args(kind)
        elif kind is not type(None):
            words.append({int: "N", float: "X", str: "TEXT", Path: "PATH"}[kind])
    return "|".join(words)


def _described(flag: Flag, text: str) -> str:
    if flag.is_required:
        return f"{text} (required)"
    shown = ", ".join(map(str, flag.default)) if isinstance(flag.default, list | tuple) else flag.default
    if flag.default is True:
        shown = "on"
    elif flag.default in (None, False) or shown == "" or "Default:" in text:
        return text
    return f"{text} (default:\N{NO-BREAK SPACE}{shown})"


def _box(title: str, entries: list[tuple[str, str]], width: int, draw: tuple[str, ...]) -> Iterator[str]:
    top_left, line, top_right, side, bottom_left, bottom_right = draw
    yield f"{top_left}{line} {title} ".ljust(width - 1, line) + top_right
    inner = width - 4
    column = min(max(len(name) for name, _ in entries) + 2, 26, inner // 3)
    for name, text in entries:
        wrapped = textwrap.wrap(text, inner - column, break_on_hyphens=False) or [""]
        names = textwrap.wrap(name, inner, subsequent_indent="  ", break_on_hyphens=False)
        if len(names) == 1 and len(name) + 2 <= column:
            wrapped[0] = name.ljust(column) + wrapped[0]
            names = []
        else:
            wrapped[0] = " " * column + wrapped[0]
        for row in [*names, wrapped[0], *(" " * column + rest for rest in wrapped[1:])]:
            yield f"{side} {row.ljust(inner)} {side}".replace("\N{NO-BREAK SPACE}", " ")
    yield bottom_left + line * (width - 2) + bottom_right
