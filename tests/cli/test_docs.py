"""The documents: what they mark as run is run, what they link to and name exists, and they read well at any width."""

import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from vicc.cli import COMMANDS
from vicc.cli.commands import COMMANDS_BY_PURPOSE

ROOT = Path(__file__).parents[2]
MARK = "<!-- run by tests/cli/test_docs.py -->"
PAGES = [page for page in sorted((ROOT / "docs").glob("*.md")) if MARK in page.read_text(encoding="utf-8")]

DOCUMENTS = [*sorted(ROOT.glob("*.md")), ROOT / "benchmarks" / "RESULTS.md", *sorted((ROOT / "docs").rglob("*.md"))]
DECISIONS = ROOT / "docs" / "decisions"
FENCE = re.compile(r"^ *```.*?^ *```$", re.DOTALL | re.MULTILINE)


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


each_document = pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)


# --- what every document keeps to -------------------------------------------------------------------------------------


def anchors(text: str) -> set[str]:
    """What a link can name in a page: its headings, as GitHub spells them."""
    headings = re.findall(r"^#+ +(.+?) *$", FENCE.sub("", text), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken_links(path: Path) -> Iterator[str]:
    """Links of a page to files that are not there and to headings that the file does not have."""
    for link in re.findall(r"\]\(([^)\s]+)\)", FENCE.sub("", path.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        if not target.exists() or (anchor and anchor not in anchors(target.read_text(encoding="utf-8"))):
            yield link


def code_of(text: str) -> str:
    """The blocks and the spans of code of a page, a line each, words that a line break parts in one line."""
    blocks = FENCE.findall(text)
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", FENCE.sub("", text))
    return "\n".join([*blocks, *(" ".join(span.split()) for span in spans)])


def commands_in(text: str) -> set[str]:
    """The commands that code names: `vicc store info` and the like."""
    found = set()
    begins = r"^(?:.*(?:\$|--|-m|srun|;|&&|wrap '))? *vicc +([a-z][a-z-]*)(?: +([a-z]+)\b)?"
    for first, second in re.findall(begins, code_of(text), re.MULTILINE):
        group = getattr(COMMANDS.get(first), "commands", {})
        found.add(f"{first} {second}" if group and second else first)
    return found


@each_document
def test_every_link_leads_somewhere(path: Path) -> None:
    assert not list(broken_links(path))


@each_document
def test_lines_outside_tables_fit_120_columns(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert not [line for line in lines if len(line) > 120 and not line.startswith("|")]


@each_document
def test_every_command_that_is_named_is_there(path: Path) -> None:
    if path.name == "CHANGELOG.md":
        return  # it also names what went
    known = {*COMMANDS, "help", "COMMAND"}
    known |= {f"{name} {part}" for name, group in COMMANDS.items() for part in getattr(group, "commands", {})}
    # The guesses for mistyped words are described with an example.
    assert not commands_in(path.read_text(encoding="utf-8")) - known - {"train"}


@each_document
def test_every_file_of_this_repository_that_is_named_is_there(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    files = set(re.findall(r"\b(?:vicc|tests|benchmarks|slurm|docs)/[\w/.-]+\.(?:py|md|sbatch|sh|jpg|png)\b", text))
    gone = {file for file in files if not (ROOT / file).exists()}
    # The changelog and the decisions also name what went.
    assert gone <= ({"docs/decisions.md"} if path.name == "CHANGELOG.md" else set())


@each_document
def test_what_python_blocks_import_from_vicc_is_there(path: Path) -> None:
    blocks = re.findall(r"^ *```python\n(.*?)^ *```$", path.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    for module, names in re.findall(r"^from (vicc[\w.]*) import ([\w, ]+)$", "\n".join(blocks), re.MULTILINE):
        for name in names.split(","):
            assert hasattr(importlib.import_module(module), name.strip()), f"{module}.{name.strip()}"


def test_the_page_of_commands_has_all_of_them_under_the_purposes_of_the_help() -> None:
    text = (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")
    for purpose, commands in COMMANDS_BY_PURPOSE.items():
        table = re.search(rf"^\| {purpose} \| \|\n(?:\|.*\n)+", text, re.MULTILINE)
        assert table, purpose
        assert {name.split()[0] for name in commands_in(table[0].replace(", `", "\n`"))} == set(commands)


def test_what_is_wrong_in_a_document_is_found(tmp_path: Path) -> None:
    """Or the tests above would hold nothing."""
    page = tmp_path / "page.md"
    page.write_text("# A `b`, c\n[x](#a-b-c) [y](#d) [z](gone.md) [w](https://e.org) ![v](page.md)\n`vicc\nparrot x`\n")
    assert list(broken_links(page)) == ["#d", "gone.md"]
    assert commands_in(page.read_text()) == {"parrot"}
    assert commands_in("`vicc store melt x`, `python -m vicc demo`, `import vicc`, `/x/vicc y`") == {
        "store melt",
        "demo",
    }


def test_the_readme_is_short_and_shows_a_picture_first() -> None:
    lines = (ROOT / "README.md").read_text(encoding="utf-8").splitlines()
    assert len(lines) <= 120
    (picture,) = re.findall(r"!\[.+\]\((.+)\)", "\n".join(lines[:10]))
    assert (ROOT / picture).stat().st_size < 200_000


def test_every_document_is_linked_from_the_readme_or_its_index() -> None:
    for folder, index in ((ROOT / "docs", ROOT / "README.md"), (DECISIONS, DECISIONS / "README.md")):
        links = re.findall(r"\]\(([^)#\s]+)", index.read_text(encoding="utf-8"))
        linked = {(index.parent / link).resolve() for link in links if "://" not in link}
        assert not [name_of(page) for page in folder.glob("*.md") if page != index and page.resolve() not in linked]


def test_the_layout_has_a_line_for_every_folder_of_the_package() -> None:
    text = (ROOT / "docs" / "layout.md").read_text(encoding="utf-8")
    folders = [path.parent for path in (ROOT / "vicc").rglob("__init__.py")]
    assert not [folder.name for folder in folders if not re.search(rf"^ *{folder.name}/ ?", text, re.MULTILINE)]


@pytest.mark.parametrize("path", sorted(DECISIONS.glob("[!R]*.md")), ids=name_of)
def test_a_decision_says_what_was_decided(path: Path) -> None:
    """An entry is a heading with text directly below it; its parts begin with one of a few words."""
    entries = re.split(r"^#+ +", FENCE.sub("", path.read_text(encoding="utf-8")), flags=re.MULTILINE)[2:]
    bodies = {title: body.strip() for title, _, body in (entry.partition("\n") for entry in entries)}
    decisions = {title: body for title, body in bodies.items() if re.search(r"^\*\*\w", body, re.MULTILINE)}
    assert len(decisions) >= 2
    assert not [title for title, body in decisions.items() if not body.startswith("**Decision.**")]
    labels = set(re.findall(r"^\*\*(.+?)\*\*", "\n".join(decisions.values()), re.MULTILINE))
    assert labels <= {"Decision.", "Evidence.", "Tried.", "Revisit when", "Overturned in part."}


def test_a_term_of_the_glossary_is_short_and_says_where_it_is_used() -> None:
    text = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8")
    terms = [entry.partition("\n") for entry in re.split(r"^### ", text, flags=re.MULTILINE)[1:]]
    assert len(terms) >= 30
    for term, _, body in terms:
        entry = " ".join(re.split(r"^## ", body, flags=re.MULTILINE)[0].split())
        meaning, used, where = entry.partition("Used in:")
        assert used, term
        assert where.strip(), term
        assert 1 <= len(re.findall(r"[.?](?= )", meaning)) <= 3, term


# --- what is marked as run is run -------------------------------------------------------------------------------------


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
    prepared, trained, neighbours, beside, table, run, refused = said
    assert "13 videos" in prepared
    assert "classes: left, right, up" in prepared
    assert "not read: train/up/broken.mp4" in prepared
    assert trained.count("2 of 2 steps, finished: True") == 4
    assert neighbours.count(" is like ") == 12
    assert " is nearest to prototype " in beside
    assert "centred by the mean of 6 training videos" in beside
    assert "RGB-2: R@1 0." in table or "RGB-2: R@1 1." in table
    assert table.count(" is nearest to ") == 6
    assert run.startswith("Run('run'): recipe demo, rgb-1 finished, flow-1 finished, rgb-2 finished, flow-2 finished\n")
    assert run.count("2 steps, the last loss is") == 4
    assert "seed 31, split folders, " in run
    assert refused == "PrepareConfig(workers='four'): expected a whole number or None.\n"
