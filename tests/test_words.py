"""The nearest known word."""

import pytest

from vicc.words import did_you_mean, either, nearest


@pytest.mark.parametrize(
    ("typed", "known", "meant"),
    [
        ("inof", ["info", "verify", "merge"], ["info"]),
        ("rgb1", ["rgb-1", "flow-1", "rgb-2"], ["rgb-1"]),
        ("RGB_1", ["rgb-1", "flow-1", "rgb-2"], ["rgb-1"]),
        ("--stor", ["--store", "--videos"], ["--store"]),
        ("learningrate", ["learning_rate", "final_learning_rate", "decay"], ["learning_rate"]),
        ("eval", ["evaluate-epochs", "seed"], ["evaluate-epochs"]),
        ("xyzzy", ["info", "verify"], []),
        ("", ["info"], []),
        ("info", [], []),
    ],
)
def test_a_mistyped_word_finds_the_one_that_was_meant(typed: str, known: list[str], meant: list[str]) -> None:
    assert nearest(typed, known) == meant


def test_a_question_names_equally_near_words_and_is_nothing_where_none_is_near() -> None:
    assert did_you_mean("rgb", ["rgb-1", "rgb-2", "flow-1"]) == " Did you mean rgb-1 or rgb-2?"
    assert did_you_mean("xyzzy", ["rgb-1"]) == ""
    assert either(["a", "b", "c"]) == "a, b or c"
