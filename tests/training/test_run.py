"""A run's folder, read: what `vicc.Run` knows, that it reads each file once, and what it says of a damaged one."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
import torch

import vicc
from vicc.data.splits import SplitTable, write_split_table
from vicc.errors import ViccError
from vicc.files import write_json
from vicc.methods.encoder import Encoder
from vicc.recipes import create_recipe
from vicc.training.build import encoder_config
from vicc.training.checkpoint import save_encoder
from vicc.training.run import Run, is_run
from vicc.training.stage import Recipe

PACKAGE = Path(vicc.__file__).parent


@pytest.fixture
def recipe() -> Recipe:
    return create_recipe("demo", changes=["all.steps=4", "all.size=32", "all.clip_frames=8"])


@pytest.fixture
def run(tmp_path: Path, recipe: Recipe) -> Path:
    """A run with one finished stage, one that is at step 3, and two that have not begun."""
    folder = tmp_path / "run"
    description = {"recipe": recipe.to_json(), "seed": 7, "split": "mine:1", "videos": 2, "processes": 2}
    write_json(folder / "recipe.json", description)
    write_split_table(folder / "split.csv", SplitTable(1, {"a.mp4": ("train",), "b.mp4": ("test",)}))
    write_json(folder / "retrieval.json", {"vicc_result": 1, "rows": []})
    write_json(folder / "notes.json", {"of": "somebody"})
    (folder / "runs.jsonl").write_text('{"command": ["/bin/vicc", "pretrain", "--run", "a b"], "stage": "rgb-1"}\n')
    rgb, flow = recipe.stages[:2]
    torch.manual_seed(0)
    save_encoder(folder / rgb.name / "encoder", Encoder(encoder_config(rgb, flow_bound=20.0)))
    for stage, steps in ((rgb, 4), (flow, 3)):
        (folder / stage.name).mkdir(exist_ok=True)
        (folder / stage.name / "log.jsonl").write_text(
            "".join(json.dumps({"step": step, "loss": 4.0 - step}) + "\n" for step in range(steps))
        )
    (folder / flow.name / "checkpoints").mkdir()
    (folder / flow.name / "checkpoints" / "00000003.pt").touch()
    return folder


def test_a_run_knows_what_is_in_its_folder(run: Path, recipe: Recipe) -> None:
    found = vicc.Run(str(run))
    assert found.folder == run
    assert (found.recipe, found.stages) == (recipe, recipe.stages)
    assert (found.seed, found.split, found.num_videos, found.processes) == (7, "mine:1", 2, 2)
    assert found.finished == recipe.stages[:1]
    assert found.division == SplitTable(1, {"a.mp4": ("train",), "b.mp4": ("test",)})
    assert [row["loss"] for row in found.log("flow-1")] == [4.0, 3.0, 2.0]
    assert found.epochs("flow-1") == found.alarms("rgb-2") == found.log("rgb-2") == []
    assert found.encoders == {"rgb-1": run / "rgb-1" / "encoder"}
    assert found.results == {"retrieval": run / "retrieval.json"}, "a file of another kind is no result"
    (start,) = found.starts
    assert (start["command"], start["machine"]) == ("vicc pretrain --run 'a b'", "unknown")
    assert (found.videos, found.computation) == ({}, None), "not written by every version"


def test_its_encoder_is_the_one_that_was_saved(run: Path) -> None:
    ours, saved = Run(run).load_encoder("rgb-1"), vicc.load_encoder(run / "rgb-1")
    assert not ours.training
    assert all(torch.equal(value, saved.state_dict()[name]) for name, value in ours.state_dict().items())


def test_it_shows_how_far_its_stages_are(run: Path) -> None:
    assert repr(Run(run)) == (
        f"Run({str(run)!r}): recipe demo, rgb-1 finished, flow-1 after step 3, rgb-2 not begun, flow-2 not begun"
    )
    (run / "recipe.json").write_text("{")
    assert repr(Run(run)).startswith(f"Run({str(run)!r}), which cannot be read: The run description ")


def test_what_was_read_once_is_not_read_again(run: Path) -> None:
    found = Run(run)
    before = [found.recipe, found.division, found.log("rgb-1"), found.starts, found.results]
    for path in run.rglob("*.json*"):
        path.unlink()
    (run / "split.csv").unlink()
    assert [found.recipe, found.division, found.log("rgb-1"), found.starts, found.results] == before


def test_a_run_is_found_from_the_folders_of_its_encoders_and_from_no_other(run: Path, tmp_path: Path) -> None:
    for place in (run, run / "rgb-1", run / "rgb-1" / "encoder"):
        found = Run.of(place)
        assert found is not None
        assert found.folder == run
    assert Run.of(tmp_path) is None
    assert not is_run(tmp_path)
    with pytest.raises(ViccError, match=r"is not a run \(it has no recipe.json\)"):
        Run(tmp_path)


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("{", r"The run description .*recipe\.json cannot be read"),
        ("[]", r"The run description .*recipe\.json is damaged: expected an object, got '\[\]'"),
        ("{}", r"The run description .*recipe\.json has no recipe: it is damaged"),
        ('{"recipe": {"stages": []}}', "written by another version of vicc cannot be understood"),
        ('{"recipe": {"stages": ["rgb-1"]}}', "written by another version of vicc cannot be understood"),
        (
            '{"recipe": {"stages": [{"method": "rotations"}]}}',
            r"^The run \S+ was trained with the method 'rotations', which is not known here: make it known with "
            r"--import MODULE, or import its module\.$",
        ),
    ],
)
def test_a_run_that_cannot_be_read_says_why(content: str, sentence: str, run: Path) -> None:
    (run / "recipe.json").write_text(content)
    with pytest.raises(ViccError, match=sentence):
        _ = Run(run).recipe


@pytest.mark.parametrize("name", ["log.jsonl", "epochs.jsonl", "alarms.jsonl"])
def test_a_log_that_is_no_text_is_named_with_its_line(name: str, run: Path) -> None:
    (run / "rgb-1").mkdir(exist_ok=True)
    (run / "rgb-1" / name).write_bytes(b'{"step": 1}\n\xff\x00\n')
    found = Run(run)
    read = {"log.jsonl": found.log, "epochs.jsonl": found.epochs, "alarms.jsonl": found.alarms}[name]
    with pytest.raises(ViccError, match=rf"^Line 2 of .*{name} is not JSON"):
        read("rgb-1")


@pytest.mark.parametrize(("line", "said"), [(b"\xff{}", "codec can't decode"), (b"{}", "it has no command")])
def test_a_list_of_starts_that_cannot_be_understood_is_named_with_its_line(line: bytes, said: str, run: Path) -> None:
    (run / "runs.jsonl").write_bytes(line + b"\n")
    with pytest.raises(ViccError, match=rf"^Line 1 of .*runs\.jsonl cannot be understood \(.*{said}"):
        _ = Run(run).starts


@pytest.mark.parametrize("content", ["[1]", "null", "5"])
def test_the_description_of_an_encoder_that_is_no_object_is_refused(content: str, run: Path) -> None:
    folder = run / "rgb-1" / "encoder"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(content)
    with pytest.raises(ViccError, match="config"):
        Run(run).load_encoder("rgb-1")


def test_a_stage_that_is_not_there_or_not_finished_is_named(run: Path) -> None:
    with pytest.raises(ViccError, match=r"has no stage 'rgb1'; it has rgb-1, flow-1, .*Did you mean rgb-1\?"):
        Run(run).log("rgb1")
    with pytest.raises(ViccError, match=r"Stage flow-1 of .* is not finished yet"):
        Run(run).load_encoder("flow-1")


def _texts(path: Path) -> set[Any]:
    return {node.value for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}


def test_no_other_file_knows_where_a_run_keeps_its_recipe() -> None:
    """`vicc.places` tells kinds of folders apart by the files in them, and opens none."""
    knowing = {path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py") if "recipe.json" in _texts(path)}
    assert knowing == {"places.py", "training/run.py"}
