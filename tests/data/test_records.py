"""Records: which reasons for leaving a file out are tried again."""

import pytest

from vicc.data.records import is_passing


@pytest.mark.parametrize(
    ("reason", "passing"),
    [
        ("cannot be decoded (Permission denied)", True),
        ("[Errno 5] Input/output error: '/x/a.mp4'", True),
        ("the decoder was killed on this file, most often because memory was short", True),
        ("the node n7 has no file /x/a.mp4: all nodes must see the videos at this path", True),
        ("cannot be decoded (Invalid data found when processing input)", False),
        ("the decoder crashed on this file", False),
        ("the file is empty (0 bytes)", False),
        ("", False),
    ],
)
def test_which_reasons_pass(reason: str, passing: bool) -> None:
    assert is_passing(reason) is passing
