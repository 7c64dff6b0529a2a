"""The kill drill, short; the whole of it is `make drill`."""

import sys
from pathlib import Path

import pytest

from tests.drills.kill_prepare import KILL, STOPS, DrillError, compare, drill


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds the processes of a run in /proc")
def test_a_run_that_is_killed_again_and_again_ends_byte_equal_to_an_undisturbed_one(tmp_path: Path) -> None:
    summary = drill(tmp_path, kills=4, stops=4, seed=3, videos=30)
    assert summary.ways == {KILL: 4, **dict.fromkeys(STOPS, 1)}
    assert summary.shards > 1
    assert max(summary.videos_there) > 0
    assert max(summary.seconds_to_end) < 10


def test_the_drill_sees_one_byte_that_differs_and_a_file_that_was_left_behind() -> None:
    """Otherwise the test above would hold nothing."""
    compare({"a": b"xyz"}, {"a": b"xyz"})
    with pytest.raises(DrillError, match="a differs from the undisturbed one at byte 2: 3 bytes, expected 3"):
        compare({"a": b"xyZ"}, {"a": b"xyz"})
    with pytest.raises(DrillError, match="at byte the end: 4 bytes, expected 3"):
        compare({"a": b"xyz0"}, {"a": b"xyz"})
    with pytest.raises(DrillError, match=r"the store's files are \['a', 'a.partial'\]"):
        compare({"a": b"", "a.partial": b""}, {"a": b""})
