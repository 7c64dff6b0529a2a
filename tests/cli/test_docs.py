"""What the documentation marks as run is run, as it stands there, one page in one folder."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MARK = "<!-- run by tests/cli/test_docs.py -->"
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if MARK in page.read_text(encoding="utf-8")]


def marked_blocks(page: Path, language: str) -> list[str]:
    """The blocks of a language that follow a mark, in order."""
    parts = page.read_text(encoding="utf-8").split(MARK)[1:]
    found = [re.match(rf"\s*```{language}\n(.*?)```", part, re.DOTALL) for part in parts]
    assert all(found), f"{page.name}: a mark without a block after it"
    return [block.group(1) for block in found if block]


def test_some_page_has_commands_that_are_run() -> None:
    assert [page.name for page in PAGES] == ["python.md", "training.md"]


@pytest.mark.slow
@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "python.md"], ids=lambda page: page.name)
def test_the_commands_of_a_page_work(page: Path, tmp_path: Path) -> None:
    vicc = f'vicc() {{ {shlex.quote(sys.executable)} -m vicc "$@"; }}\n'
    done = subprocess.run(
        ["bash", "-euc", vicc + "\n".join(marked_blocks(page, "bash"))],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (tmp_path / "run" / "flow-2" / "encoder" / "config.json").exists()
    assert "finished already" in done.stderr, "the same command, given again, has nothing left to do"


def test_the_python_page_works(
    video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(video_folder, tmp_path / "videos", ignore=shutil.ignore_patterns("2.mp4", "3.mp4"))
    (tmp_path / "videos" / "train" / "up" / "broken.mp4").write_bytes(b"no video")
    monkeypatch.chdir(tmp_path)
    said = []
    for block in marked_blocks(ROOT / "docs" / "python.md", "python"):
        exec(compile(block, "docs/python.md", "exec"), {"__name__": "__main__"})  # noqa: S102 - the page of this repository
        said.append(capsys.readouterr().out)
    prepared, trained, neighbours, table, run, refused = said
    assert "13 videos" in prepared
    assert "classes: left, right, up" in prepared
    assert "not read: train/up/broken.mp4" in prepared
    assert trained.count("2 of 2 steps, finished: True") == 4
    assert neighbours.count(" is like ") == 12
    assert "RGB-2: R@1 0." in table or "RGB-2: R@1 1." in table
    assert table.count(" is nearest to ") == 6
    assert run.startswith("Run('run'): recipe demo, rgb-1 finished, flow-1 finished, rgb-2 finished, flow-2 finished\n")
    assert run.count("2 steps, the last loss is") == 4
    assert "seed 31, split folders, " in run
    assert refused == "PrepareConfig(workers='four'): expected a whole number or None.\n"
