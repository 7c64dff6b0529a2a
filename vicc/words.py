"""The known word that is nearest to a mistyped one: for every name a user types or passes."""

from collections.abc import Iterable

_ALIKE = 0.6  # of difflib: two thirds of the letters in their order


def nearest(word: str, known: Iterable[str], *, number: int = 3) -> list[str]:
    """The known words that `word` was most likely meant to be, best first; none where all are far
    from it.

    Capitals, hyphens, underscores and blanks make no difference. Words clearly further than the
    best are left out.
    """
    from difflib import SequenceMatcher  # only after a mistake

    wanted = _plain(word)
    scores: dict[str, float] = {}
    for other in dict.fromkeys(known):
        plain = _plain(other)
        score = SequenceMatcher(None, wanted, plain).ratio()
        if len(wanted) >= 3 and (plain.startswith(wanted) or (wanted.startswith(plain) and len(plain) >= 3)):
            score = max(score, 0.75)
        scores[other] = score
    best = max(scores.values(), default=0.0)
    close = [other for other in sorted(scores, key=lambda other: -scores[other]) if scores[other] >= best - 0.1]
    return close[:number] if wanted and best >= _ALIKE else []


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """A question to put after an error sentence, with a blank before it: " Did you mean rgb-1?"; or
    nothing.
    """
    found = nearest(word, known)
    return f" Did you mean {either(found)}?" if found else ""


def either(words: Iterable[str]) -> str:
    """Words as a choice: "a", "a or b", "a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last


def _plain(word: str) -> str:
    return "".join(letter for letter in word.casefold() if letter not in "-_ ")
