"""Records: which reasons for leaving a file out are tried again."""

import pytest

from vicc.data.records import FileState, SetAside, is_passing, new_record


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


def test_a_video_that_is_short_since_its_disk_failed_is_tried_again() -> None:
    reason = "2 frames, fewer than 3 (--min-frames); cannot be decoded after 2 frames ({})"
    for why, final in (("Invalid data found when processing input", True), ("Input/output error", False)):
        record, _ = new_record(SetAside("a.mp4", reason.format(why), FileState(9, 1)), {})
        assert record.is_final(FileState(9, 1), min_frames=3) is final, why
