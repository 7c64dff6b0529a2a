"""The commands that the documentation marks as run are run, as they stand there, one page in one folder."""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "<!-- run by tests/cli/test_docs.py -->"
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if MARK in page.read_text(encoding="utf-8")]


def marked_blocks(page: Path) -> list[str]:
    """The shell blocks that follow a mark, in order."""
    parts = page.read_text(encoding="utf-8").split(MARK)[1:]
    found = [re.match(r"\s*```bash\n(.*?)```", part, re.DOTALL) for part in parts]
    assert all(found), f"{page.name}: a mark without a block after it"
    return [block.group(1) for block in found if block]


def test_some_page_has_commands_that_are_run() -> None:
    assert [page.name for page in PAGES] == ["training.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path) -> None:
    vicc = f'vicc() {{ {shlex.quote(sys.executable)} -m vicc "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euc", vicc + "\n".join(marked_blocks(page))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "flow-2" / "encoder" / "config.json").exists()
    assert "finished already" in done.stderr, "the same command, given again, has nothing left to do"
