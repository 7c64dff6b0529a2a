"""Words to a config, and a config to its help."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from vicc.cli import main
from vicc.cli.commands import COMMANDS, Group
from vicc.cli.flags import flags_of, help_text, parse
from vicc.data.configs import StoreDropConfig
from vicc.errors import ViccError
from vicc.evaluation.configs import FinetuneConfig, KnnConfig, RetrieveConfig
from vicc.prepare.configs import PrepareConfig
from vicc.results.configs import CompareConfig
from vicc.settings import Settings
from vicc.training.configs import PretrainConfig

# --- words to a config -----------------------------------------------------------------------------------------------


def test_words_become_a_config_in_any_order_and_spelling() -> None:
    words = "--run r --batch_size=8 --store=s --set all.epochs=2 rgb-1.decay=0.5 --no-compile --log-to --device none"
    config = parse(PretrainConfig, words.split(), command="pretrain")
    assert config == PretrainConfig(
        run=Path("r"), store="s", batch_size=8, set=["all.epochs=2", "rgb-1.decay=0.5"], log_to=()
    )
    assert (
        parse(
            PretrainConfig, ["--run", "r", "--store", "s", "--batch-size", "auto", "--nodes", "1"], command="x"
        ).batch_size
        == "auto"
    )
    assert parse(KnnConfig, ["--run", "r", "--store", "s", "--no-baselines"], command="knn").baselines is False
    assert parse(RetrieveConfig, ["--run", "r", "--store", "s", "--encoder"], command="x").encoder == []
    drop = parse(StoreDropConfig, ["store", "a.mp4", "--dry-run", "b.mp4"], command="store drop")
    assert drop == StoreDropConfig(Path("store"), ["a.mp4", "b.mp4"], dry_run=True)
    assert parse(StoreDropConfig, ["store", "--", "--odd.mp4"], command="store drop").ids == ["--odd.mp4"]
    assert parse(CompareConfig, ["--a", "x:1", "y", "--b", "z"], command="compare").sides == (["x:1", "y"], ["z"])


def test_a_value_that_was_called_otherwise_is_taken_still_and_shown_nowhere() -> None:
    words = ["--store", "s", "--run", "r", "--best", "own_video_recall"]
    assert parse(PretrainConfig, words, command="pretrain").best == "instance_recall"
    assert "own_video_recall" not in help_text(PretrainConfig, command="pretrain", more="")


def test_a_list_given_twice_is_one_list_and_a_value_given_twice_must_be_one_value() -> None:
    """The last one winning in silence lost what stood before it."""
    words = [
        "--run",
        "r",
        "--store",
        "s",
        "--set",
        "all.epochs=2",
        "--seed",
        "3",
        "--set",
        "all.size=32",
        "--seed",
        "3",
    ]
    config = parse(PretrainConfig, words, command="pretrain")
    assert (config.set, config.seed) == (["all.epochs=2", "all.size=32"], 3)
    with pytest.raises(ViccError, match="--seed is given twice, as 3 and as 4"):
        parse(PretrainConfig, [*words, "--seed", "4"], command="pretrain")


@pytest.mark.parametrize(
    ("config", "words", "said"),
    [
        (PrepareConfig, "v --stor s", "prepare has no flag --stor. Did you mean --store?"),
        (PretrainConfig, "--batchsize 8", "Did you mean --batch-size?"),
        (PretrainConfig, "--pretrained s3d.pth", "Did you mean --start?"),
        (PretrainConfig, "--lr 0.1", "Did you mean --set all.learning_rate=0.1?"),
        (PretrainConfig, "--epochs 20", "Did you mean --set all.epochs=20?"),
        (PretrainConfig, "--learningrate=1", "Did you mean --set all.learning_rate=1?"),
        (PretrainConfig, "--num-workers 2", "Did you mean --workers?"),
        (PretrainConfig, "--resume", "goes on where it was"),
        (PretrainConfig, "--fp16", "Did you mean --precision?"),
        (PretrainConfig, "--slurm", "Did you mean --launcher slurm?"),
        (FinetuneConfig, "--lr 0.1", "Did you mean --learning-rate?"),
        (FinetuneConfig, "--weight-decay 0.1", "Did you mean --set classifier.weight_decay=0.1?"),
        (RetrieveConfig, "--output r.json", "Did you mean --out?"),
        (PrepareConfig, "v --output s", "Did you mean --store?"),
        (RetrieveConfig, "store --run r", "'store' is a word too many, it belongs to no flag. Did you mean --store?"),
        (RetrieveConfig, "--xyzzy", "retrieve has no flag --xyzzy. See: vicc retrieve --help"),
        (PretrainConfig, "--precision bf15", "--precision bf15: expected auto, fp32, bf16, fp16 or fp64. Did you mean"),
        (PretrainConfig, "--seed x", "--seed x: expected a whole number."),
        (PretrainConfig, "--store", "--store: expected a path or a URL"),
        (PretrainConfig, "--run --store s", "--run: expected a path after it."),
        (PretrainConfig, "--dry-run=yes", "--dry-run takes no value"),
        (PretrainConfig, "--compile --no-compile", "--compile and --no-compile are both given"),
        (PretrainConfig, "--seed -1e-3", "--seed -1e-3: expected a whole number."),
        (PretrainConfig, "--store s", "pretrain needs --run (folder of the run: checkpoints, logs, results)."),
        (PrepareConfig, "", "prepare needs VIDEOS (folder of videos, "),
    ],
)
def test_a_wrong_word_is_answered_in_a_sentence(config: type[Settings], words: str, said: str) -> None:
    command = {PrepareConfig: "prepare", RetrieveConfig: "retrieve", FinetuneConfig: "finetune"}.get(config, "pretrain")
    with pytest.raises(ViccError) as refused:
        parse(config, words.split(), command=command)
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


def test_an_unknown_flag_with_a_blank_in_its_value_is_no_value() -> None:
    with pytest.raises(ViccError, match="prepare has no flag --rum"):
        parse(PrepareConfig, ["--rum=my folder", "--store", "s"], command="prepare")


def test_a_word_without_a_flag_is_asked_for_by_what_is_there(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "recipe.json").touch()
    with pytest.raises(ViccError, match=rf"Did you mean --run {tmp_path}/run\?"):
        parse(RetrieveConfig, [str(tmp_path / "run")], command="retrieve")
    with pytest.raises(ViccError, match=rf"Did you mean --videos {tmp_path}\?"):
        parse(RetrieveConfig, [str(tmp_path)], command="retrieve")


def test_under_torchrun_a_missing_run_names_the_dashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchrun has flags that begin with --run, and takes vicc's for one of them."""
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "1")
    with pytest.raises(ViccError, match=r"torchrun \.\.\. -m -- vicc \.\.\."):
        parse(PretrainConfig, ["--store", "s"], command="pretrain")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("store inof", "Did you mean store info?"),
        ("info", "Did you mean store info?"),
        ("store-verify s", "Did you mean store verify?"),
        ("retreive", "Did you mean retrieve?"),
        ("recipes --jsno", "recipes has no flag --jsno. Did you mean --json?"),
        ("recipes --improt own", "recipes has no flag --improt. Did you mean --import?"),
        ("--jsno recipes", "--jsno stands where a command is expected"),
        ("--json", "--json stands where a command is expected"),
        ("recipes show demo --set rgb-1.method=infonse", "Did you mean infonce?"),
        ("train", "Did you mean pretrain?"),
        ("--store s pretrain", "--store stands where a command is expected, as in vicc COMMAND --store."),
        ("recipes show vicc-ucf101", "Did you mean vicc_ucf101?"),
        ("recipes show demo --set rgb1.epochs=3", "Did you mean rgb-1?"),
        ("recipes show demo --set rgb-1.learningrate=1", "Did you mean learning_rate?"),
        ("recipes show demo --set rgb-1.brightnes=1", "Did you mean augmentation.brightness?"),
        ("recipes show demo --set rgb-1.augmentation.brightnes=1", "Did you mean augmentation.brightness?"),
        ("recipes show demo --set rgb-1.optimizer=adamx", "Did you mean adam or adamw?"),
        ("recipes show demo --set all.augmentation=publish", "Did you mean published?"),
        ("pretrain --recipe dmeo --videos {here} --run r", "Did you mean demo?"),
        ("pretrain --recipe demo --videos {here} --run r --stages rgb1", "Did you mean rgb-1?"),
        ("pretrain --recipe demo --store sotre --run r", "No such store: sotre. Did you mean store?"),
        ("finetune --encoder nothing --store store --run r", "No encoder at nothing: there is no such folder."),
        ("retrieve --run nothing --store store", "No such run: nothing."),
        ("knn --encoder nothing --store store", "No encoder at nothing: there is no such folder."),
        ("test --classifier nothing --store store", "No classifier at nothing: there is no such folder."),
        ("compare nothing nowhere", "No result at nothing: there is no such file or run."),
        ("report --run nothing --store store", "No such run: nothing."),
        ("import nothing --out o", "No checkpoint at nothing: there is no such file."),
        ("export nothing --out o", "No encoder at nothing: there is no such folder."),
        ("runs nothing", "There is no folder nothing."),
        ("bench data --store nothing", "No such store: nothing."),
        ("check nothing", "No such file or folder: nothing."),
        ("splits nothing", "No such file or folder: nothing."),
        ("prepare nothing --store o", "No such folder: nothing."),
        ("prepare {here} --store store --workers 0", "--workers 0: expected at least 1, since a broken video"),
        ("check {here} --workers 0", "--workers 0: expected at least 1, since a broken video"),
        ("store verify store --workers 0", "--workers 0: expected at least 1, since a broken video"),
        ("demo-videos o --workers 0", "--workers 0: expected at least 1, since a broken video"),
        ("pretrain --store store --run r --split mien:1", "no split 'mien' in store/splits. Did you mean mine?"),
        ("pretrain --store store --run r --split mine:3", "there is no fold 3; store/splits/mine.csv has 2"),
        ("knn --run run --store store --split mine", "it has 2 folds. Give one of them"),
        ("test --classifier head --store store --split gone.csv:1", "No such split file: gone.csv."),
        ("retrieve -- --x", "'--x' is a word too many, it belongs to no flag. See: vicc retrieve --help"),
        ("knn run", "'run' is a word too many, it belongs to no flag. Did you mean --run run?"),
        ("finetune head", "'head' is a word too many, it belongs to no flag. Did you mean --encoder head?"),
        ("test head", "'head' is a word too many, it belongs to no flag. Did you mean --classifier head?"),
    ],
)
def test_what_is_mistyped_is_said_before_anything_heavy_is_imported(
    words: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """torch alone takes seconds; NumPy may be there, for the fields of a recipe."""
    for name in ("clip.mp4", "store/store.json", "run/recipe.json", "head/head.safetensors", "store/splits/mine.csv"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "store" / "splits" / "mine.csv").write_text("id,1,2\na,train,test\n")
    monkeypatch.chdir(tmp_path)
    before = {name: sys.modules.pop(name) for name in list(sys.modules) if name == "torch" or name.startswith("torch.")}
    monkeypatch.setitem(sys.modules, "torch", None)  # importing it is an error
    try:
        assert main([word.format(here=tmp_path) for word in words.split()]) == 2
    finally:
        monkeypatch.undo()
        sys.modules.update(before)
    assert said in capsys.readouterr().err
    assert {entry.name for entry in tmp_path.iterdir()} == {"store", "clip.mp4", "run", "head"}, (
        "nothing is left behind"
    )


def test_flags_of_every_command_may_stand_before_it_and_help_is_a_word_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--json", "recipes"]) == 0
    assert "demo" in json.loads(capsys.readouterr().out)
    assert main(["help", "store", "drop"]) == 0
    assert capsys.readouterr().out.startswith("usage: vicc store drop STORE [IDS ...] [OPTIONS]")


def test_a_name_behind_two_dashes_is_no_flag_of_every_command(
    store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A video may be called --json: it was taken away from the videos to drop."""
    assert main(["store", "drop", str(store_path), "--dry-run", "--", "--json"]) == 2
    said = capsys.readouterr()
    assert "--json" in said.err
    assert said.out == ""


# --- a config to its help --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("width", [40, 60, 80, 120, 200])
def test_help_is_wrapped_once_at_any_width(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines fill the width: a line that ends early ends a paragraph."""
    monkeypatch.setenv("COLUMNS", str(width))
    lines = help_text(PretrainConfig, command="pretrain", more="More.").splitlines()
    assert max(map(len, lines)) <= width
    joined = " ".join(" ".join(lines).split())
    assert "Start of every random stream: initial weights, order of the videos, clips, augmentation." in joined
    assert "(default: 31)" in joined


def test_help_says_a_default_once_and_shows_choices_and_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    text = help_text(PretrainConfig, command="pretrain", more="")
    assert "None" not in text
    assert "--precision auto|fp32|bf16|fp16|fp64" in text
    assert "Default: the best that is there. (default" not in text
    assert "results. (required)" in text
    titles = re.findall(r"^([a-z].*):$", text, re.MULTILINE)
    assert titles == ["run", "what to train on", "recipe", "speed and memory", "watching", "jobs of a Slurm cluster"]


@pytest.mark.parametrize("width", [50, 80, 200])
def test_the_examples_of_the_help_stay_commands(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(width))
    text = help_text(PretrainConfig, command="pretrain", more="")
    lines = text.partition("Example:\n")[2].partition("\n\n")[0].replace("\\\n", " ").splitlines()
    assert [" ".join(line.split()) for line in lines] == [
        "vicc pretrain --recipe demo --store store --run run",
        "vicc pretrain --recipe default --store store --run run --set rgb-1.epochs=50 --dry-run",
        "vicc pretrain --recipe demo --videos videos --motion diff --run run",
        "vicc pretrain --store store --run run --launcher slurm --nodes 2 --gpus-per-node 4 --time 24:00:00",
    ]


def test_help_on_a_console_of_plain_letters_has_no_escapes() -> None:
    text = help_text(StoreDropConfig, command="store drop", more="")
    assert text.isascii()
    assert "\noptions:\n" in text
    assert help_text(PretrainConfig, command="pretrain", more="").isascii(), "defaults are shown without a hard blank"


def test_every_flag_is_in_the_help(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    for config in (PretrainConfig, FinetuneConfig, RetrieveConfig, PrepareConfig):
        text = help_text(config, command="x", more="")
        shown = re.findall(r"^  (--[a-z-]+|[A-Z]+)", text, re.MULTILINE)
        assert sorted(shown) == sorted(flag.word for flag in flags_of(config))


# --- standard streams ------------------------------------------------------------------------------------------------

STREAMS = """
import os, sys
{close}
from vicc.cli import main
status = main({words!r})
os.write(int({report}), f"{{status}} {{os.fstat(1).st_rdev}}".encode())
"""


def run_with(close: str, words: list[str]) -> tuple[str, str, str]:
    """Run vicc after `close`: its status and the device behind descriptor 1, standard output and error."""
    read, write = os.pipe()
    code = STREAMS.format(close=close, words=words, report=write)
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, pass_fds=[write], timeout=120, check=False
    )
    os.close(write)
    with os.fdopen(read) as pipe:
        return pipe.read(), done.stdout, done.stderr


CLOSE = "os.close({0}); sys.{1} = None"


@pytest.mark.parametrize("words", [["recipes"], ["recipes", "show", "demo", "--json"], ["--help"]])
def test_a_closed_standard_output_ends_no_command(words: list[str]) -> None:
    """And no file that is opened later becomes standard output for whatever prints."""
    said, _, complaint = run_with(CLOSE.format(1, "stdout"), words)
    assert said == f"0 {os.stat(os.devnull).st_rdev}"
    assert complaint == ""


def test_closed_standard_error_and_input_end_no_command() -> None:
    said, out, _ = run_with("\n".join([CLOSE.format(2, "stderr"), CLOSE.format(0, "stdin")]), ["recipes", "--json"])
    assert said.startswith("0 ")
    assert "demo" in json.loads(out)
    said, out, _ = run_with(CLOSE.format(2, "stderr"), ["nonsense"])
    assert (said.split()[0], out) == ("2", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_an_output_that_takes_nothing_is_said_and_a_full_standard_error_ends_nothing() -> None:
    full = "os.dup2(os.open('/dev/full', os.O_WRONLY), {0})"
    said, _, complaint = run_with(full.format(1), ["recipes"])
    assert said.startswith("2 ")
    assert complaint.count("\n") == 1
    assert "could not be written to standard output (No space left on device)" in complaint
    said, _, _ = run_with(full.format(2), ["nonsense"])
    assert said.startswith("2 ")


# --- the next command ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "following"),
    [
        ("recipes", "vicc recipes show NAME"),
        (
            "recipes show demo --set rgb-1.steps=7",
            "vicc pretrain --recipe demo --set rgb-1.steps=7 --store STORE",
        ),
        ("store info {store}", "vicc pretrain --store {store} --run RUN"),
        ("store copy {store} {tmp}/copy", "vicc store verify {tmp}/copy"),
        ("store drop {copy} --label up", "vicc store info {copy}"),
        ("splits {copy} --folds 3", "vicc pretrain --store {copy} --run RUN --split grouped-3:1"),
        ("splits {store} --folds 3 --out {tmp}/f.csv", "vicc pretrain --store STORE --run RUN --split {tmp}/f.csv:1"),
        ("check {videos} --fast --workers 1", "vicc prepare {videos} --store STORE"),
        ("prepare {videos} --store {copy} --workers 1", "vicc pretrain --store {copy} --run RUN"),
    ],
)
def test_a_command_that_ends_well_names_the_next_one(
    words: str, following: str, store_path: Path, video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """And what it names is a command line that vicc understands."""
    copy = shutil.copytree(store_path, tmp_path / "my store") if "{copy}" in words else ""
    places = {"store": store_path, "videos": video_folder, "tmp": tmp_path, "copy": shlex.quote(str(copy))}
    assert main(shlex.split(words.format(**places))) == 0
    *_, last = capsys.readouterr().out.splitlines()
    assert last.startswith(f"next: {following.format(**places)}")
    _, name, *rest = shlex.split(last.removeprefix("next: "))
    entry = COMMANDS[name]
    if isinstance(entry, Group):
        entry, rest = entry.commands[rest[0]], rest[1:]
    parse(entry.config_type, rest, command=name)


def test_json_has_no_next_line(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["store", "info", str(store_path), "--json"]) == 0
    json.loads(capsys.readouterr().out)
