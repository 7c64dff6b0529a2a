"""The command line: quick help, one JSON document, and every mistake a sentence with exit status 2."""

import contextlib
import json
import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.forking import Forked, run
from vicc.cli import main
from vicc.cli.commands import COMMANDS, COMMANDS_BY_PURPOSE, Group
from vicc.data.store import Store
from vicc.files import exclusive_folder

Write = Callable[..., Path]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "COLUMNS": "200"}


def words(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "vicc", *map(str, arguments)]


def call(*arguments: object, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run `vicc` as a user does, in a process of its own."""
    return subprocess.run(
        words(*arguments), capture_output=True, text=True, timeout=300, env=ENVIRONMENT, check=False, **options
    )


def complaint(error_text: str) -> str:
    """The one line that begins with `vicc: `; no traceback beside it."""
    lines = [line for line in error_text.splitlines() if line.startswith("vicc: ")]
    assert len(lines) == 1, error_text
    assert "Traceback" not in error_text
    assert len(lines[0]) < 700
    return lines[0]


def refuse(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """Run a command in this process that has to end with status 2, one sentence and nothing on standard output."""
    capsys.readouterr()
    assert main([str(word) for word in arguments]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    return complaint(said.err)


def succeed(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[Any, str]:
    """Run a command in this process that has to succeed: its one JSON document, and what it said beside it."""
    capsys.readouterr()
    status = main([*map(str, arguments), "--json"])
    said = capsys.readouterr()
    assert status == 0, said.err
    assert "Traceback" not in said.err
    return json.loads(said.out), said.err


# Those of two words too, by both.
EVERY_COMMAND = {
    name if word is None else f"{name} {word}": command
    for name, entry in COMMANDS.items()
    for word, command in (entry.commands.items() if isinstance(entry, Group) else [(None, entry)])
}


# --- help ------------------------------------------------------------------------------------------------------------


def test_help_answers_at_once() -> None:
    """By the time that it computes, which other programs of the machine do not change much."""
    call("--help")  # the first writes byte code
    seconds = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert call("--help").returncode == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(seconds) < 0.3, seconds


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_help_lists_every_command_and_an_example(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert all(f"\n  {name} " in said.out for name in COMMANDS)
    assert "vicc prepare videos --store store" in said.out


def test_help_lists_the_commands_by_purpose(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    paragraphs = capsys.readouterr().out.strip().split("\n\n")
    listed = {head: lines for head, *lines in (part.splitlines() for part in paragraphs)}
    assert list(COMMANDS_BY_PURPOSE) == ["prepare", "learn", "measure", "compare", "share"]
    for purpose, commands in COMMANDS_BY_PURPOSE.items():
        assert [line.split()[0] for line in listed[f"{purpose}:"]] == list(commands)


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    import vicc

    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"vicc {vicc.__version__}\n"


HEAVY = ("torch", "numpy", "cv2", "av", "lmdb", "matplotlib")
HELPS = [["--help"], ["--version"], *([*name.split(), "--help"] for name in dict.fromkeys([*COMMANDS, *EVERY_COMMAND]))]
IMPORTED_AFTER = """
import json, sys
from tests.forking import Forked, run
from vicc.cli import main
for words in json.loads(sys.argv[1]):
    main(words)
    print(json.dumps(sorted(set(json.loads(sys.argv[2])) & set(sys.modules))), file=sys.stderr)
"""


@pytest.fixture(scope="module")
def heavy_after_help() -> dict[str, list[str]]:
    """Which heavy modules are there after each help, all in one process, where a module once imported stays."""
    program = [sys.executable, "-c", IMPORTED_AFTER, json.dumps(HELPS), json.dumps(HEAVY)]
    result = subprocess.run(program, capture_output=True, text=True, check=True)
    found = map(json.loads, result.stderr.splitlines())
    return dict(zip(map(" ".join, HELPS), found, strict=True))


@pytest.mark.parametrize("arguments", [" ".join(words) for words in HELPS])
def test_help_imports_nothing_heavy(arguments: str, heavy_after_help: dict[str, list[str]]) -> None:
    assert heavy_after_help[arguments] == []


@pytest.mark.parametrize("name", [name for name, entry in COMMANDS.items() if isinstance(entry, Group)])
@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_a_command_of_two_words_lists_the_second_ones(
    name: str, arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([name, *arguments]) == 0
    said = capsys.readouterr()
    assert all(f"  vicc {words} " in said.out for words in EVERY_COMMAND if words.startswith(f"{name} "))
    assert f"vicc {name} --help" in refuse(capsys, name, "nonsense")


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_every_command_has_help_with_an_example_of_itself(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*name.split(), "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text
    assert f"vicc {name}" in text


@pytest.mark.parametrize("name", EVERY_COMMAND)
def test_every_flag_is_explained(name: str) -> None:
    """The docstring below a field is its help; a field without one has an empty help."""
    import ast
    import inspect

    tree = ast.parse(inspect.getsource(EVERY_COMMAND[name].config_type))
    body = tree.body[0].body  # type: ignore[attr-defined]
    for statement, following in zip(body, [*body[1:], None], strict=True):
        if isinstance(statement, ast.AnnAssign):
            assert isinstance(following, ast.Expr), ast.unparse(statement)


# --- one JSON document -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["recipes"], ["recipes", "show", "demo"]])
def test_json_of_recipes(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_json_of_the_whole_road_is_one_document_a_command(
    video_folder: Path, tmp_path: Path, tiny_changes: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    store, run = tmp_path / "store", tmp_path / "run"
    commands: dict[str, list[object]] = {
        "prepare": ["prepare", video_folder, "--store", store, "--workers", 1],
        "plan": ["pretrain", "--recipe", "demo", "--store", store, "--run", run, "--dry-run", "--set", *tiny_changes],
        "pretrain": ["pretrain", "--recipe", "demo", "--store", store, "--run", run, "--set", *tiny_changes],
        "retrieve": ["retrieve", "--run", run, "--store", store],
    }
    documents = {name: succeed(capsys, *arguments)[0] for name, arguments in commands.items()}
    assert documents["prepare"]["found"] == 18
    assert not any(stage["finished"] for stage in documents["plan"]["stages"])
    assert [stage["steps"] for stage in documents["pretrain"]["stages"]] == [4] * 4
    assert all(stage["finished"] for stage in documents["pretrain"]["stages"])
    assert documents["retrieve"]["vicc_result"] == 1
    assert all(0 <= row["metrics"]["R@1"]["value"] <= 1 for row in documents["retrieve"]["rows"])


def test_splits_prints_its_folds_and_refuses_names_that_are_paths(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "folds.csv"
    document, _ = succeed(capsys, "splits", store_path, "--folds", 3, "--out", out)
    assert [(fold["number"], fold["videos"]) for fold in document["folds"]] == [(1, 6), (2, 6), (3, 6)]
    assert main(["splits", str(store_path), "--folds", "3", "--out", str(out)]) == 0
    assert f"use it as --split {out}:1 to {out}:3" in capsys.readouterr().out
    assert "--name '../x'" in refuse(capsys, "splits", store_path, "--name", "../x")
    assert "18 groups of videos cannot make 30 folds" in refuse(
        capsys, "splits", store_path, "--folds", 30, "--out", out
    )


def test_check_reads_the_files_of_a_list_once_each_and_names_the_missing_one(
    video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = video_folder / "train" / "left" / "0.mp4"
    (tmp_path / "videos.csv").write_text(f"path,start,end\n{video},0,0.5\n{video},0.5,\ngone.mp4,,\n")
    assert main(["check", str(tmp_path / "videos.csv"), "--workers", "1", "--json"]) == 1
    videos = json.loads(capsys.readouterr().out)["videos"]
    assert {entry["name"]: (entry["verdict"], entry["frames_decoded"]) for entry in videos} == {
        str(video)[1:]: ("readable", 24),
        "gone.mp4": ("unreadable", 0),
    }


# --- mistakes --------------------------------------------------------------------------------------------------------


def test_an_unknown_command_is_refused_and_the_known_ones_named() -> None:
    """In a process of its own, whose exit status it is."""
    result = call("prepair", "videos")
    assert (result.returncode, result.stdout) == (2, "")
    sentence = complaint(result.stderr)
    assert "'prepair'" in sentence
    assert "prepare" in sentence


@pytest.mark.parametrize("arguments", [["prepare"], ["prepare", "v", "--stoer", "s"], ["pretrain", "--seed", "x"]])
def test_wrong_flags_end_with_status_2_and_no_traceback(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert refuse(capsys, *arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ["prepare", "missing", "--store", "store"],
        ["recipes", "show", "missing"],
        ["pretrain", "--recipe", "demo", "--store", "missing", "--run", "run", "--set", "rgb-1.steps"],
        ["retrieve", "--run", "missing", "--store", "missing"],
        ["prepare", "missing", "--store", "store", "--workers", "0"],
    ],
    ids=" ".join,
)
def test_debug_adds_the_traceback_of_the_very_mistake(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    sentence = refuse(capsys, *arguments)
    assert main([*arguments, "--debug"]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert sentence in said.err
    assert "Traceback (most recent call last)" in said.err
    assert "ViccError: " + sentence.removeprefix("vicc: ") in said.err


def test_a_folder_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refuse(capsys, "prepare", tmp_path / "missing", "--store", tmp_path / "store")
    assert "missing" in sentence
    assert not (tmp_path / "store").exists()


def test_a_folder_without_videos(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "notes.txt").touch()
    assert "No videos in" in refuse(capsys, "prepare", tmp_path, "--store", tmp_path / "store")


def test_only_videos_of_one_and_two_frames(
    tmp_path: Path, write_video: Write, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in (1, 2):
        write_video(tmp_path / "videos" / f"{number}.mp4", num_frames=number)
    words = ["prepare", tmp_path / "videos", "--store", tmp_path / "store", "--workers", 1]
    assert "fewer than 3" in refuse(capsys, *words)


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--short-side", "4"], "--short-side 4"),
        (["--quality", "52"], "--quality 52"),
        (["--flow-bound", "0"], "--flow-bound 0"),
        (["--flow-bound", "nan"], "--flow-bound nan"),
        (["--min-frames", "1"], "--min-frames 1"),
        (["--workers", "0"], "--workers 0"),
        (["--groups", "nowhere.csv"], "nowhere.csv"),
    ],
)
def test_values_out_of_range(
    video_folder: Path, tmp_path: Path, flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert named in refuse(capsys, "prepare", video_folder, "--store", tmp_path / "store", *flags)
    assert not (tmp_path / "store").exists()


@pytest.fixture
def own_store(store_path: Path, tmp_path: Path) -> Path:
    """A copy of the store to spoil."""
    return Path(shutil.copytree(store_path, tmp_path / "own-store"))


def newer(store: Path) -> Path:
    description = json.loads((store / "store.json").read_text())
    (store / "store.json").write_text(json.dumps({**description, "version": 99}))
    return store


def test_a_store_of_a_newer_format(
    own_store: Path, video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    newer(own_store)
    for command in (["prepare", video_folder], ["pretrain", "--recipe", "demo", "--run", tmp_path / "run"]):
        assert "format version 99" in refuse(capsys, *command, "--store", own_store)
    assert not (tmp_path / "run").exists()


def test_a_store_path_that_is_another_folder(
    video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "is not a store" in refuse(capsys, "prepare", video_folder, "--store", video_folder)
    assert "is not a store" in refuse(
        capsys, "pretrain", "--recipe", "demo", "--store", video_folder, "--run", tmp_path / "run"
    )


def test_a_store_cut_short(own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shard = own_store / "shard-00000.lmdb"
    os.truncate(shard, shard.stat().st_size // 2)
    words = ["pretrain", "--recipe", "demo", "--store", own_store, "--run", tmp_path / "run"]
    assert "cut short" in refuse(capsys, *words)


HOLD = """
import sys
from pathlib import Path
from vicc.data.store import Store
from vicc.files import exclusive_folder
with exclusive_folder(Path(sys.argv[1]), what="folder"):
    print("held", flush=True)
    sys.stdin.read()
"""


@contextlib.contextmanager
def held(folder: Path) -> Iterator[None]:
    """Another process works in the folder."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdin is not None
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        yield
        other.stdin.close()


@pytest.fixture
def pretrain_words(store_path: Path, tmp_path: Path, tiny_changes: tuple[str, ...]) -> Callable[..., list[object]]:
    """`pretrain_words("rgb-1.epsilon=0.1")`: a tiny training, with more changes if asked for."""

    def make(*changes: str) -> list[object]:
        base = ["pretrain", "--recipe", "demo", "--store", store_path, "--run", tmp_path / "run", "--workers", 0]
        return [*base, "--set", *tiny_changes, *changes]

    return make


def test_a_run_or_store_in_use_by_another_process(
    pretrain_words: Callable[..., list[object]],
    own_store: Path,
    video_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    with held(tmp_path / "run"):
        assert "in use by another process" in refuse(capsys, *pretrain_words())
    with held(own_store):
        assert "in use by another process" in refuse(capsys, "prepare", video_folder, "--store", own_store)
    with exclusive_folder(tmp_path / "run", what="run"):
        pass  # let go of by now


def test_a_run_folder_that_is_something_else(
    pretrain_words: Callable[..., list[object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    assert "is not a run" in refuse(capsys, *pretrain_words())
    assert [file.name for file in (tmp_path / "run").iterdir() if file.name != ".lock"] == ["thesis.txt"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("rgb-7.steps=3", "no stage rgb-7"),
        ("rgb-1.colour=3", "no field colour"),
        ("rgb-1.augmentation.colour=3", "no field augmentation.colour"),
        ("rgb-1.steps=many", "'many' is not a value for steps"),
        ("rgb-1.optimizer=magic", "'magic' is not a value for optimizer"),
        ("rgb-1.augmentation.crop_area=0.5", "crop_area"),
        ("rgb-1.augmentation.flip=2", "augmentation.flip is 2"),
        ("rgb-1.augmentation.flow_center=perhaps", "'perhaps' is not a value"),
        ("rgb-1.steps", "expected STAGE.FIELD=VALUE"),
        ("steps=3", "expected STAGE.FIELD=VALUE"),
        ("rgb-1.batch_size=0", "batch_size is 0"),
        ("rgb-1.epsilon=-1", "epsilon is -1"),
        ("rgb-1.epsilon=nan", "epsilon is nan"),
        ("rgb-1.learning_rate=nan", "learning_rate is nan"),
        ("rgb-1.backbone=vgg", "vgg"),
        ("rgb-2.teacher=rgb-1", "teacher"),
    ],
)
def test_a_change_that_cannot_be_made_is_refused_before_anything_is_written(
    pretrain_words: Callable[..., list[object]],
    tmp_path: Path,
    change: str,
    named: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert named in refuse(capsys, *pretrain_words(change))
    assert not (tmp_path / "run" / "recipe.json").exists()


def test_an_unknown_recipe(store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sentence = refuse(capsys, "pretrain", "--recipe", "secret", "--store", store_path, "--run", tmp_path / "run")
    assert "'secret'" in sentence
    assert "demo" in sentence
    sentence = refuse(capsys, "recipes", "show", "secret")
    assert "'secret'" in sentence
    assert "vicc_ucf101" in sentence


def test_a_device_that_is_not_there(
    pretrain_words: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("cuda:99", "abacus"):
        assert f"--device {name}" in refuse(capsys, *pretrain_words(), "--device", name)


def test_retrieve_and_report_without_a_run(
    store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ("retrieve", "report"):
        assert "run" in refuse(capsys, command, "--run", tmp_path / "nothing", "--store", store_path)


# --- checkpoints -----------------------------------------------------------------------------------------------------


@pytest.fixture
def stopped_run(pretrain_words: Callable[..., list[object]], tmp_path: Path) -> Path:
    """A run that was stopped after the second step of its first stage."""
    from vicc.recipes import create_recipe
    from vicc.training.configs import PretrainConfig
    from vicc.training.engine import Stopped
    from vicc.training.pretrain import pretrain

    arguments = [str(word) for word in pretrain_words()]
    store, changes = Path(arguments[arguments.index("--store") + 1]), arguments[arguments.index("--set") + 1 :]
    config = PretrainConfig(store=store, run=tmp_path / "run", recipe="demo", workers=0)
    with pytest.raises(Stopped):
        pretrain(create_recipe("demo", changes=changes), config, should_stop=lambda stage, step: step == 2)
    return tmp_path / "run"


def test_a_checkpoint_cut_short(
    stopped_run: Path, pretrain_words: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    path = stopped_run / "rgb-1" / "checkpoints" / "00000002.pt"
    size = path.stat().st_size
    for share in (0.9, 0.5, 0.0):
        os.truncate(path, int(size * share))
        sentence = refuse(capsys, *pretrain_words())
        assert "damaged or cut short" in sentence
        assert "rgb-1/checkpoints/00000002.pt" in sentence


class Malicious:
    """Loaded by an unguarded unpickler, this creates a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch '{self.path}'",)


@pytest.mark.parametrize("writer", ["pickle", "torch"])
def test_a_malicious_checkpoint_is_refused_and_runs_nothing(
    stopped_run: Path,
    pretrain_words: Callable[..., list[object]],
    tmp_path: Path,
    writer: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, proof = stopped_run / "rgb-1" / "checkpoints" / "00000002.pt", tmp_path / "proof"
    content = {"version": 1, "step": Malicious(proof)}
    if writer == "pickle":
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    sentence = refuse(capsys, *pretrain_words())
    assert "00000002.pt" in sentence
    assert ("refused" if writer == "torch" else "damaged") in sentence
    assert not proof.exists()
    # It would have, had it been loaded the old way.
    torch.load(path, weights_only=False) if writer == "torch" else pickle.loads(path.read_bytes())  # noqa: S301
    assert proof.exists()


def test_a_checkpoint_of_another_recipe(
    stopped_run: Path, pretrain_words: Callable[..., list[object]], capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = refuse(capsys, *pretrain_words("rgb-1.epsilon=0.1"))
    assert "epsilon was 0.05, now 0.1" in sentence
    # Also when the checkpoint alone was brought from elsewhere.
    description = json.loads((stopped_run / "recipe.json").read_text())
    description["recipe"]["stages"][0]["epsilon"] = 0.1
    (stopped_run / "recipe.json").write_text(json.dumps(description))
    sentence = refuse(capsys, *pretrain_words("rgb-1.epsilon=0.1"))
    assert "belongs to another recipe" in sentence
    assert "epsilon" in sentence


def test_another_seed_or_store(
    stopped_run: Path,
    pretrain_words: Callable[..., list[object]],
    video_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "seed was 31, now 32" in refuse(capsys, *pretrain_words(), "--seed", 32)
    other = tmp_path / "other"
    assert main(["prepare", str(video_folder), "--store", str(other), "--short-side", "32", "--workers", "1"]) == 0
    arguments = [str(word) for word in pretrain_words()]
    arguments[arguments.index("--store") + 1] = str(other)
    assert "content was" in refuse(capsys, *arguments)


# --- whole stores ----------------------------------------------------------------------------------------------------


def test_a_store_is_looked_at_thinned_out_copied_merged_and_verified(
    own_store: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As a user goes about it; damage ends with status 1 and the name of the video."""
    info, _ = succeed(capsys, "store", "info", own_store, "--videos")
    assert (info["videos"], len(info["listed"]), info["problems"]) == (18, 18, [])
    dropped, _ = succeed(capsys, "store", "drop", own_store, "--label", "up")
    assert len(dropped["ids"]) == 6
    copied, _ = succeed(capsys, "store", "copy", own_store, tmp_path / "copy")
    assert copied["videos"] == 12
    first = info["listed"][0]["id"]
    succeed(capsys, "store", "drop", tmp_path / "copy", first)
    merged, _ = succeed(capsys, "store", "merge", tmp_path / "copy", own_store, "--store", tmp_path / "merged")
    assert (merged["videos"], merged["twice"]) == (12, 11)
    verified, _ = succeed(capsys, "store", "verify", tmp_path / "merged", "--decode", "--workers", 1)
    assert (verified["videos"], verified["damage"]) == (12, [])
    shard = tmp_path / "merged" / "shard-00000.lmdb"
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    capsys.readouterr()
    assert main(["store", "verify", str(tmp_path / "merged"), "--workers", "1"]) == 1
    assert "shard-00000.lmdb" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["info", "nowhere"], "No such store: nowhere"),
        (["verify", "nowhere"], "No such store: nowhere"),
        (["copy", "nowhere", "there"], "No such store: nowhere"),
        (["merge", "nowhere", "--store", "there"], "No such store: nowhere"),
        (["merge", "nowhere", "--store", "there", "--shard-mb", "0"], "--shard-mb 0"),
        (["drop", "nowhere", "a.mp4"], "No such store: nowhere"),
        (["drop", "nowhere"], "expected ids of videos, or --label"),
    ],
)
def test_commands_on_stores_that_are_not_there(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in refuse(capsys, "store", *arguments)
    assert not list(tmp_path.iterdir())


# --- a full disk -----------------------------------------------------------------------------------------------------


def file_size_limit(limit: int) -> Callable[[], None]:
    """For `preexec_fn`: no file may grow beyond `limit` bytes; a write beyond fails, as on a full disk."""

    def limit_in_child() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    return limit_in_child


def store_content(path: Path) -> dict[str, int]:
    store = Store(path)
    return {video.id: int(store.frames(video.id, "rgb", range(video.num_frames)).sum()) for video in store.videos}


@pytest.mark.parametrize("limit", [1024, 6000, 200_000])
def test_a_disk_full_while_preparing_and_again_with_room(
    video_folder: Path, store_path: Path, tmp_path: Path, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    """The limits meet the run before its first shard, as the shard begins, and among the videos."""
    command = ["prepare", video_folder, "--store", tmp_path / "store", "--workers", 1]
    result = call(*command, preexec_fn=file_size_limit(limit))
    assert result.returncode == 2, result.stderr
    sentence = complaint(result.stderr)
    assert "disk is full" in sentence or "space" in sentence or "too large" in sentence
    assert succeed(capsys, *command)[0]["found"] == 18
    assert store_content(tmp_path / "store") == store_content(store_path)


@pytest.mark.parametrize("limit", [1024, 100_000])
def test_a_disk_full_while_training_and_again_with_room(
    pretrain_words: Callable[..., list[object]], tmp_path: Path, limit: int, capsys: pytest.CaptureFixture[str]
) -> None:
    command = pretrain_words("all.steps=2")
    result = run(["-m", "vicc", *command], env=ENVIRONMENT, largest_file=limit)
    assert result.returncode == 2, result.stderr
    assert "disk is full" in complaint(result.stderr)
    document, _ = succeed(capsys, *command)
    assert all(stage["finished"] for stage in document["stages"])
    assert not list(tmp_path.rglob("*.partial"))


# --- Ctrl-C ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_a_training_that_is_stopped_leaves_a_checkpoint_and_the_same_command_finishes(
    pretrain_words: Callable[..., list[object]],
    tmp_path: Path,
    number: signal.Signals,
    capsys: pytest.CaptureFixture[str],
) -> None:
    from vicc.training.checkpoint import CheckpointFolder

    changes = ["all.steps=2", "rgb-1.steps=20"]
    command = ["-m", "vicc", *pretrain_words(*changes)]
    with Forked(command, stderr=subprocess.PIPE, stdout=subprocess.PIPE, env=ENVIRONMENT) as process:
        end = time.monotonic() + 300
        while not CheckpointFolder(tmp_path / "run" / "rgb-1").newest_step():
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < end
            time.sleep(0.01)
        process.send_signal(number)
        _, said = process.communicate(timeout=300)
    assert process.returncode == 130, said
    assert "the same command continues" in said
    assert "Traceback" not in said
    step = CheckpointFolder(tmp_path / "run" / "rgb-1").newest_step()
    assert 0 < step < 20
    _, said = succeed(capsys, *pretrain_words(*changes))
    assert f"rgb-1: resumes after step {step} of 20" in said
    log = (tmp_path / "run" / "rgb-1" / "log.jsonl").read_text().splitlines()
    assert [json.loads(line)["step"] for line in log] == list(range(20))


@pytest.mark.parametrize(
    "command", [["--help"], ["store", "--help"], ["recipes", "show", "demo"], ["recipes"], ["recipes", "--json"]]
)
def test_a_pipe_that_closes_is_nothing_to_complain_of(command: list[str]) -> None:
    """`vicc recipes show demo | head -1`"""
    with subprocess.Popen(
        words(*command), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    ) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == ""
    assert process.returncode == 141, "as after SIGPIPE, and not as after a mistake"


# --- recipes and views -----------------------------------------------------------------------------------------------


def test_the_list_of_recipes_says_what_each_is_for(capsys: pytest.CaptureFixture[str]) -> None:
    from vicc.recipes import RECIPES

    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    for name, build in RECIPES.items():
        assert any(name in line and build().description[:20] in line for line in lines), name


def test_a_recipe_is_shown_with_its_values_learning_rate_and_cost(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    assert main(["recipes", "show", "vicc_ucf101", "--set", "rgb-1.stop_epoch=250"]) == 0
    said = capsys.readouterr().out
    assert "changed: rgb-1.stop_epoch from 300 to 250" in said
    assert "250 of 500" in said
    assert "█" in said
    assert "9,537 videos" in said
    assert "key_momentum" not in said  # which means nothing to ViCC


def test_a_recipe_is_shown_with_another_method_whose_fields_are_others(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["recipes", "show", "demo", "--set", "rgb-1.method=infonce", "rgb-1.queue_length=8"]
    assert main(arguments) == 0
    assert "changed: rgb-1.method from single_stream to infonce" in capsys.readouterr().out
    assert main([*arguments, "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    changes = {change["field"]: (change["from"], change["to"]) for change in shown["changes"]}
    assert changes["method"] == ("single_stream", "infonce")
    assert changes["num_prototypes"][1] is None
    assert changes["key_momentum"][0] is None


def test_the_cost_of_a_recipe_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    """400 videos: 2 steps of 192 an epoch in single-stream stages, 4 of 96 across streams."""
    document, _ = succeed(
        capsys, "recipes", "show", "vicc_ucf101", "--videos", 400, "--clips-per-second", 10, "--gpus", 2
    )
    rgb_1, *_, flow_2 = document["cost"]["stages"]
    assert (rgb_1["steps"], rgb_1["schedule_steps"]) == (600, 1000)
    assert (rgb_1["clips_with_gradient"], rgb_1["clips_without_gradient"]) == (600 * 192, 600 * 192)
    assert rgb_1["gpu_hours"] == pytest.approx(600 * 192 * (1 + 1 / 3) / 10 / 3600)
    assert (flow_2["clips_with_gradient"], flow_2["clips_without_gradient"]) == (400 * 96, 400 * 96 * 3)
    assert document["cost"]["hours"] == pytest.approx(document["cost"]["gpu_hours"] / 2)
    assert document["learning_rate"]["rgb-1"][0] == [0.0, 0.6]
    assert document["learning_rate"]["rgb-1"][-1][0] == pytest.approx(499.5)


def test_small_views_cost_by_their_pixels() -> None:
    from vicc.cli.recipes import stage_cost
    from vicc.training.schedule import stage_length
    from vicc.training.stage import Stage

    stage = Stage("rgb-1", "single_stream", "rgb", size=128, small_views="4x64", batch_size=10, steps=36)
    cost = stage_cost(stage, stage_length(stage, 100), clips_per_second=1)
    assert cost.clips_with_gradient == 36 * 10 * 6
    assert cost.gpu_hours == pytest.approx(36 * 10 * (2 + 4 / 4) / 3600)


@pytest.mark.parametrize(("name", "ending"), [("vicc_ucf101", "png"), ("coclr_ucf101", "svg"), ("demo", "svg")])
def test_the_learning_rate_is_drawn(name: str, ending: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / f"plot.{ending}"
    succeed(capsys, "recipes", "show", name, "--plot", path)
    head = path.read_bytes()[:400]
    assert head.startswith(b"\x89PNG") if ending == "png" else b"<svg" in head or b"<?xml" in head


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nothing"], "recipes show"),
        (["show"], "name of a recipe"),
        (["show", "nothing"], "There is no recipe 'nothing'"),
        (["show", "demo", "--set", "rgb-1.colour=3"], "no field colour"),
        (["show", "demo", "--videos", "0"], "--videos 0"),
        (["show", "demo", "--gpus", "0"], "--gpus 0"),
        (["show", "demo", "--clips-per-second", "nan"], "--clips-per-second nan"),
        (["show", "demo", "--plot", "curve.doc"], "--plot curve.doc"),
        (["show", "demo", "--plot", "missing/curve.png"], "missing/curve.png"),
        (["--plot", "curve.png"], "--plot"),
        (["show", "vicc_ucf101", "--set", "all.epochs=2"], "stop_epoch=300"),
    ],
    ids=str,
)
def test_mistakes_in_asking_for_a_recipe(
    arguments: list[str],
    named: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert named in refuse(capsys, "recipes", *arguments)


def test_views_are_recorded_in_the_run_and_counted_in_the_plan(
    pretrain_words: Callable[..., list[object]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    document, _ = succeed(capsys, *pretrain_words("all.steps=1", "all.size=24"), "--views", "2x32+2x16+1x12")
    assert [stage["steps"] for stage in document["stages"]] == [1] * 4
    recorded = json.loads((tmp_path / "run" / "recipe.json").read_text())["recipe"]["stages"]
    # A change of --set comes after --views.
    assert {(stage["size"], stage["small_views"]) for stage in recorded} == {(24, "2x16+1x12")}
    assert "small_views was" in refuse(capsys, *pretrain_words("all.steps=1", "all.size=24"), "--views", "2x32")


@pytest.mark.parametrize("views", ["3x128", "2x", "2", "128", "2x128+", "+4x96", "2x128+4y96", "2x128+4x128", "two"])
def test_views_that_cannot_be_understood(
    views: str, store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    sentence = refuse(capsys, "pretrain", "--store", store_path, "--run", tmp_path / "run", f"--views={views}")
    assert "COUNTxPIXELS" in sentence
    assert not (tmp_path / "run").exists()


def test_the_plan_counts_clips_and_tells_steps_from_the_schedule(
    store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    arguments = ["pretrain", "--store", str(store_path), "--run", str(tmp_path / "run"), "--dry-run"]
    small = ["all.backbone=s3d-demo", "all.size=32", "all.clip_frames=8"]  # since the plan measures a few steps
    assert main([*arguments, "--recipe", "coclr_ucf101", "--set", "rgb-1.stop_epoch=200", *small]) == 0
    rows = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    # The store has 12 training videos: one batch of them an epoch.
    assert "12 x 2" in rows["rgb-1"]
    assert "0 of 200 (schedule 300)" in rows["rgb-1"]
    assert "12 x 3" in rows["rgb-2"]
    assert "0 of 100 " in rows["rgb-2"]
