"""What every command takes, before its name or after it; taken out before the rest of the words is
read.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from vicc.errors import ViccError

OPTION_WORDS = ("--help", "--json", "--debug", "--import")


@dataclass(frozen=True)
class Options:
    """What is said of how to call a command.

    Attributes:
        json: print one document in place of tables.
        debug: print the traceback of an error.
        modules: to import before the command, see `vicc.plugins`.
    """

    json: bool = False
    debug: bool = False
    modules: tuple[str, ...] = ()


def take_options(words: Sequence[str]) -> tuple[Options, list[str]]:
    """These options, and the words that are left; what stands behind -- is none of them.

    Raises:
        ViccError: --import without a module.
    """
    end = words.index("--") if "--" in words else len(words)
    found: set[str] = set()
    modules: list[str] = []
    left: list[str] = []
    before_end = iter(words[:end])
    for word in before_end:
        name, equals, module = word.partition("=")
        if name == "--import":
            if not equals:
                module = next(before_end, "")
            if not module or module.startswith("-"):
                raise ViccError(
                    "--import: expected the name of a Python module after it, such as own_method for own_method.py."
                )
            modules.append(module)
        elif word in ("--json", "--debug"):
            found.add(word)
        else:
            left.append(word)
    return Options("--json" in found, "--debug" in found, tuple(modules)), [*left, *words[end:]]
