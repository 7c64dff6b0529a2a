"""What a settings field accepts, from Python and from the command line, and what is said of
anything else.

The settings themselves are in the `configs.py` of the folder that uses them. A leaf, free of heavy
imports.
"""

import ast
import dataclasses
import functools
import inspect
import itertools
import math
import numbers
import operator
import os
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, ParamSpec, TypeVar

from vicc.errors import ViccError
from vicc.words import did_you_mean, either

Parameters = ParamSpec("Parameters")
Returned = TypeVar("Returned")


class Positional:
    """Marks a field that is given on the command line by its position, without a flag."""


@dataclass(frozen=True)
class Place:
    """Marks a field that names something on disk, of the kind that `vicc.places` looks for; of
    some, a URL will do.
    """

    kind: str
    url: bool = False


@dataclass(frozen=True)
class OldWord:
    """Marks a field of which a value once had another name, which is taken still and stands for
    today's.
    """

    old: str
    now: str


Sections = tuple[tuple[str, tuple[str, ...]], ...]


def sections(*titled: tuple[str, tuple[str, ...]]) -> Sections:
    """The sections of the help of a config: titles, each with the names of the fields under it."""
    return titled


@dataclass(frozen=True)
class Settings:
    """The base of every config: values are converted to the fields' types, or refused in the words
    of the field.

    A string will do for a path ("~" is the home folder, as in a shell; a URL stays a string where
    one is allowed), a tuple for a list, one value for a list of one, a whole number for a float.
    """

    SECTIONS: ClassVar[Sections] = ()
    """Under which titles the help shows its fields, see `sections`. A config adds to the sections
    of its bases.
    """

    def __post_init__(self) -> None:
        """Convert all fields; a config with rules of its own checks them after calling this.

        Raises:
            ViccError: a value that the field cannot take; names the class, the field, the value and
                what is expected.
        """
        for name, hint in hints_of(type(self)).items():
            value = getattr(self, name)
            try:
                new = converted(value, hint)
            except ValueError as error:
                raise ViccError(f"{type(self).__name__}({name}={_shown(value)}): {error}") from None
            if new is not value:
                object.__setattr__(self, name, new)  # frozen for everybody else


def takes_settings(kind: type[Settings]) -> Callable[[Callable[Parameters, Returned]], Callable[Parameters, Returned]]:
    """Around a function of one config: another call is answered with how to make one.

    Raises (the function):
        ViccError: what stands in the config's place is none of `kind`, or arguments are missing or
            not known.
    """

    def decorate(function: Callable[Parameters, Returned]) -> Callable[Parameters, Returned]:
        signature = inspect.signature(function)
        config_name = next(name for name, p in signature.parameters.items() if _names_type(p.annotation, kind))
        example = f"{function.__name__}({', '.join(_example(signature, config_name, kind))})"

        @functools.wraps(function)
        def checked(*args: Parameters.args, **kwargs: Parameters.kwargs) -> Returned:
            try:
                given = signature.bind(*args, **kwargs).arguments
            except TypeError as error:
                raise ViccError(f"{function.__name__}: {error}; expected vicc.{example}.") from None
            if not isinstance(given[config_name], kind):
                raise ViccError(
                    f"{function.__name__}: got {_shown(given[config_name])} where a {kind.__name__} is expected, as in "
                    f"vicc.{example}."
                )
            return function(*args, **kwargs)

        return checked

    return decorate


def _names_type(annotation: Any, kind: type) -> bool:
    return annotation is kind or annotation == kind.__name__


def _example(signature: inspect.Signature, config_name: str, kind: type[Settings]) -> Iterator[str]:
    for name, parameter in signature.parameters.items():
        if name == config_name:
            yield f"vicc.{kind.__name__}(...)"
        elif parameter.default is parameter.empty and parameter.kind is not parameter.KEYWORD_ONLY:
            yield name


def flag_word(field_name: str) -> str:
    """A field's name as the flag that it is on the command line."""
    return "--" + field_name.replace("_", "-")


def require(condition: bool, message: str) -> None:
    """Raises ViccError, with the message, unless the condition holds: for the rules of a config of
    its own.
    """
    if not condition:
        raise ViccError(message)


_LARGEST = 1e30  # what is computed from it must still be a float of 32 bits


def range_problems(
    values: Mapping[str, Any],
    *,
    from_one: Sequence[str] = (),
    above_zero: Sequence[str] = (),
    from_zero: Sequence[str] = (),
    below_one: Sequence[str] = (),
) -> Iterator[str]:
    """A sentence, without its full stop, for each named value that lies outside its range; None
    lies in every one.

    Args:
        below_one: names of values from 0 on, below 1.
    """
    # Written so that nan, which compares with nothing, is refused as well.
    for name in from_one:
        if values[name] is not None and not values[name] >= 1:
            yield f"{name} is {values[name]}; expected at least 1"
    for name in above_zero:
        if values[name] is not None and not 0 < values[name] < math.inf:
            yield f"{name} is {values[name]}; expected a number above 0"
    for name in from_zero:
        if values[name] is not None and not 0 <= values[name] <= _LARGEST:
            yield f"{name} is {values[name]}; expected 0 or more, {_LARGEST:g} at most"
    for name in below_one:
        if values[name] is not None and not 0 <= values[name] < 1:
            yield f"{name} is {values[name]}; expected 0 or more, below 1"


def require_seed(flag: str, seed: int | None) -> None:
    """Raises ViccError for a seed below 0."""
    require(seed is None or seed >= 0, f"{flag} {seed}: expected 0 or more.")


def sections_of(kind: type[Settings]) -> dict[str, tuple[str, ...]]:
    """`SECTIONS` of a config and of all its bases: the bases' sections first, in each the class's
    own fields first.
    """
    merged: dict[str, tuple[str, ...]] = {}
    for one in reversed(kind.__mro__):
        for title, names in vars(one).get("SECTIONS", ()):
            merged[title] = names + merged.get(title, ())
    return merged


def hints_of(kind: type) -> dict[str, Any]:
    """The annotations of a dataclass's fields, with their marks, in the order of the fields."""
    hints = typing.get_type_hints(kind, include_extras=True)
    return {entry.name: hints[entry.name] for entry in dataclasses.fields(kind)}


def docstrings_of(kind: type) -> dict[str, str]:
    """The docstrings below a dataclass's fields and those of its bases, each on one line."""
    found: dict[str, str] = {}
    for one in filter(dataclasses.is_dataclass, reversed(kind.__mro__)):
        found |= _docstrings(one.__module__)[one.__name__]
    return found


@functools.cache
def _docstrings(module: str) -> dict[str, dict[str, str]]:
    """Of all classes of a module, by their names."""
    return {
        node.name: {
            ast.unparse(statement.target): " ".join(ast.literal_eval(following.value).split())
            for statement, following in itertools.pairwise(node.body)
            if isinstance(statement, ast.AnnAssign) and isinstance(following, ast.Expr)
        }
        for node in ast.parse(inspect.getsource(sys.modules[module])).body
        if isinstance(node, ast.ClassDef)
    }


def marks(hint: Any) -> Iterator[Any]:
    """All marks of an annotation, those of its parts included."""
    if typing.get_origin(hint) is Annotated:
        yield from hint.__metadata__
        yield from marks(hint.__origin__)
    else:
        for part in typing.get_args(hint):
            if typing.get_origin(part) is not None:
                yield from marks(part)


def bare(hint: Any) -> Any:
    """An annotation without its marks; those of its parts stay."""
    return bare(hint.__origin__) if typing.get_origin(hint) is Annotated else hint


def members(hint: Any) -> tuple[Any, ...]:
    """The types that a value may have, None among them as NoneType."""
    hint = bare(hint)
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        return tuple(inner for part in typing.get_args(hint) for inner in members(part))
    return (hint,)


def element(hint: Any) -> Any | None:
    """The type of a list's or tuple's elements; None for what holds one value."""
    for member in members(hint):
        if typing.get_origin(member) in (list, tuple):
            return typing.get_args(member)[0]
    return None


def takes_url(hint: Any) -> bool:
    """Whether a URL may stand in the place of a path."""
    return any(isinstance(mark, Place) and mark.url for mark in marks(hint))


def expected(hint: Any) -> str:
    """What a field takes, in words: "a whole number or none"."""
    words: list[str] = []
    for member in members(hint):
        if typing.get_origin(member) is Literal:
            words += map(str, typing.get_args(member))
        elif typing.get_origin(member) in (list, tuple):
            inner = typing.get_args(member)
            fixed = typing.get_origin(member) is tuple and inner[-1] is not Ellipsis
            words.append(f"{len(inner)} values" if fixed else f"several values, each {expected(inner[0])}")
        else:
            words.append(_WORDS.get(member, f"a {getattr(member, '__name__', member)}"))
    if {"a path", "a text"} <= set(words):
        words.remove("a text")
        words[words.index("a path")] = "a path or a URL"
    return either(dict.fromkeys(words))


_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "a text",
    Path: "a path",
    type(None): "None",
}


def from_text(text: str, hint: Any, *, finite: bool = True) -> Any:
    """The value that a word of the command line stands for; with finite=False also nan and inf, for
    others to judge.

    Raises:
        ValueError: none; its text says what is expected.
    """
    text, kinds = _todays_word(text, hint), members(hint)
    if type(None) in kinds and text.lower() == "none":
        return None
    for kind in kinds:
        if kind is bool and text.lower() in ("true", "false"):
            return text.lower() == "true"
        if kind in (int, float):
            try:
                return _number(kind(text), kind) if finite else kind(text)
            except (ValueError, OverflowError):
                continue
        if typing.get_origin(kind) is Literal and text in typing.get_args(kind):
            return text
        if typing.get_origin(kind) is tuple:
            return _tuple_from_text(text, kind, finite=finite)
        if kind in (str, Path):
            return converted(text, hint)
    raise _refused(text, hint)


def _tuple_from_text(text: str, kind: Any, *, finite: bool) -> tuple[Any, ...]:
    inner = typing.get_args(kind)
    parts = text.split(",") if text else []
    if inner[-1] is Ellipsis:
        return tuple(from_text(part, inner[0], finite=finite) for part in parts)
    if len(parts) != len(inner):
        raise _refused(text, kind)
    return tuple(from_text(part, one, finite=finite) for part, one in zip(parts, inner, strict=True))


def converted(value: Any, hint: Any, *, finite: bool = True) -> Any:
    """`value` as the field has it; with finite=False also nan and inf, for others to judge.

    Raises:
        ValueError: it cannot have it; its text says what is expected.
    """
    value, kinds = _todays_word(value, hint), members(hint)
    if value is None and type(None) in kinds:
        return None
    for kind in kinds:
        origin = typing.get_origin(kind)
        if origin in (list, tuple):
            return _several(value, kind, finite=finite)
        if origin is Literal:
            if isinstance(value, str) and value in typing.get_args(kind):
                return value
        elif kind in (str, Path):
            if isinstance(value, str | os.PathLike) and not (kind is str and Path not in kinds and _is_path(value)):
                return _text_or_path(value, kind, hint)
        elif kind is bool:
            if isinstance(value, bool):
                return value
        elif kind in (int, float):
            try:
                return _number(value, kind, finite=finite)
            except (TypeError, ValueError, OverflowError):
                continue
        elif isinstance(value, kind):
            return value
    raise _refused(value, hint)


def _todays_word(value: Any, hint: Any) -> Any:
    """The value, or what it is called today, see `OldWord`."""
    return next((mark.now for mark in marks(hint) if isinstance(mark, OldWord) and mark.old == value), value)


def _is_path(value: Any) -> bool:
    return isinstance(value, os.PathLike)


def _several(value: Any, kind: Any, *, finite: bool) -> Any:
    inner = typing.get_args(kind)[0]
    if isinstance(value, str | os.PathLike):
        value = [value]  # a text is no list of letters
    if not isinstance(value, list | tuple):
        raise _refused(value, kind)
    elements = [converted(one, inner, finite=finite) for one in value]
    if type(value) is typing.get_origin(kind) and all(a is b for a, b in zip(elements, value, strict=True)):
        return value
    return typing.get_origin(kind)(elements)


def _number(value: Any, kind: type, *, finite: bool = True) -> Any:
    """Also NumPy's numbers; raises TypeError or ValueError for what is no such number."""
    if isinstance(value, bool):
        raise TypeError
    if kind is int:
        whole = operator.index(value)
        if abs(whole) >= 2**63:  # no counter or seed is larger
            raise ValueError
        return whole
    if not isinstance(value, numbers.Real) or (finite and not math.isfinite(value)):
        raise ValueError
    return float(value)


def _text_or_path(value: Any, kind: type, hint: Any) -> Any:
    """A text, a path, or, where both are allowed, what was given: a URL must stay a text."""
    text = os.fspath(value)
    if not isinstance(text, str) or "\0" in text:
        raise _refused(value, hint)
    if Path not in members(hint):
        return text
    if not text.strip():  # which would be the folder in which one stands
        raise ValueError(f"expected {expected(hint)}, got an empty one; is a variable of the shell not set?")
    if "://" in text:
        if not takes_url(hint):
            raise ValueError("expected a path on this machine, not a URL (commands that read a store take one).")
        return text
    if not isinstance(value, str) and ":/" in text and text.partition(":/")[0] in _URL_SCHEMES:
        raise ValueError("a Path makes s3:/ of s3://; give a URL as a text.")
    expanded = os.path.expanduser(text)
    if str not in members(hint):
        return value if isinstance(value, Path) and expanded == text else Path(expanded)
    return value if expanded == text else expanded


_URL_SCHEMES = ("s3", "gs", "gcs", "az", "abfs", "http", "https", "file", "memory", "hf")


def _refused(value: Any, hint: Any) -> ValueError:
    known = [word for kind in members(hint) if typing.get_origin(kind) is Literal for word in typing.get_args(kind)]
    question = did_you_mean(value, known) if isinstance(value, str) else ""
    return ValueError(f"expected {expected(hint)}.{question}")


def _shown(value: Any) -> str:
    """A value as the user wrote it, in short; where that says little, its type."""
    if isinstance(value, str | int | float | list | tuple | dict | os.PathLike | None):
        text = repr(str(value) if isinstance(value, os.PathLike) else value)
        return text if len(text) <= 100 else f"{text[:97]}..."
    return f"a {type(value).__name__}"
