"""Other starts than random weights: what a stage takes over, what it refuses, and that a run says it everywhere."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.made_weights import save_weights
from tests.processes import finish, start
from vicc.backbones import S3D, registry
from vicc.cli import main
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation.configs import RetrieveConfig
from vicc.evaluation.encoders import fused_model
from vicc.evaluation.feature_cache import FeatureCache
from vicc.evaluation.retrieve import retrieve
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.task import Task
from vicc.recipes import create_recipe
from vicc.results.comparable import find_results
from vicc.results.configs import ReportConfig, RunsConfig
from vicc.results.page import write_report
from vicc.results.printed import result_table
from vicc.results.runs import compare_runs
from vicc.results.table import make_table
from vicc.training import start as start_module
from vicc.training.build import build_task, encoder_config
from vicc.training.checkpoint import load_encoder, save_encoder, weights_fingerprint
from vicc.training.configs import PretrainConfig
from vicc.training.engine import Stopped
from vicc.training.pretrain import pretrain
from vicc.training.run import Run
from vicc.training.stage import Recipe, Stage
from vicc.training.start import Start, load_starts, normalized_recipe
from vicc.training.watch.log import read_log

SMALL = ("all.steps=2", "all.batch_size=4", "all.size=32", "all.clip_frames=8", "all.num_prototypes=6")


@pytest.fixture(scope="module")
def store(store_path: Path) -> Store:
    return Store(store_path)


@pytest.fixture
def folder(tiny_recipe: Recipe, tmp_path: Path) -> Path:
    """An encoder as rgb-1 of `tiny_recipe` trains one, without prototypes."""
    return write_encoder(tmp_path / "encoder", tiny_recipe.stages[0])


def write_encoder(place: Path, stage: Stage, **changes: object) -> Path:
    torch.manual_seed(100)
    save_encoder(place, Encoder(replace(encoder_config(stage, flow_bound=20.0), **changes)))  # type: ignore[arg-type]
    return place


@pytest.fixture
def kinetics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """A thin S3D stands for S3D, and its made weights for torchvision's."""
    monkeypatch.setitem(registry._FACTORIES, "s3d", lambda in_channels: S3D(in_channels, width=1 / 16, blocks=2))
    torch.manual_seed(7)
    state = S3D(width=1 / 16, blocks=2).state_dict()
    save_weights("s3d", {**state, "classifier.1.weight": torch.ones(400)}, tmp_path / "torch", monkeypatch)
    return state


def begun(stage: Stage, store: Store, first: Start | None) -> Task:
    """The task of a stage as training begins with it."""
    torch.manual_seed(5)
    return build_task(stage, Path("no run"), store, first)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> bool:
    return ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)


# --- encoder folders --------------------------------------------------------------------------------------------------


def test_a_stage_begins_with_backbone_and_projection_head_of_a_folder_and_all_else_is_as_without(
    folder: Path, tiny_recipe: Recipe, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    starts = load_starts(tiny_recipe, [folder])
    assert [*starts] == ["rgb-1"], "rgb-2 goes on from rgb-1, and flow is another stream"
    stage = tiny_recipe.stages[0]
    ours, random = begun(stage, store, starts["rgb-1"]), begun(stage, store, None)
    assert same(ours.encoder.state_dict(), load_encoder(folder).state_dict())
    rest, as_ever = (
        {name: value for name, value in task.state_dict().items() if not name.startswith("encoder.")}
        for task in (ours, random)
    )
    assert rest
    assert same(rest, as_ever)
    said = capsys.readouterr().err
    assert f"rgb-1: starts from {folder}: backbone, projection head; all else is random" in said
    assert "flow-1: starts with random weights (no --start is for it)" in said
    assert "warning" not in said
    assert "torchvision" not in said


def test_prototypes_beside_the_encoder_are_taken_where_they_fit(
    finished_run_path: Path, tiny_recipe: Recipe, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = tiny_recipe.stages[0]
    (first,) = load_starts(tiny_recipe, [finished_run_path / "rgb-1"]).values()
    assert "backbone, projection head, prototypes; all else is random" in capsys.readouterr().err
    (theirs,) = first.prototypes
    assert torch.equal(begun(stage, store, first).prototypes[0].weight, theirs)  # type: ignore[index, union-attr]
    for changes in (["rgb-1.num_prototypes=7"], ["rgb-1.num_prototypes=6,6"], ["all.embedding_dim=32"]):
        (other, *_), random = tiny_recipe.with_changes(changes).stages, None
        ours, random = begun(other, store, first), begun(other, store, None)
        assert same(ours.prototypes.state_dict(), random.prototypes.state_dict()), changes  # type: ignore[operator, union-attr]


def test_a_projection_head_of_another_size_stays_random(folder: Path, tiny_recipe: Recipe, store: Store) -> None:
    recipe = tiny_recipe.with_changes(["all.embedding_dim=32"])
    (first,) = load_starts(recipe, [folder]).values()
    ours, random = (begun(recipe.stages[0], store, one).encoder for one in (first, None))
    assert same(ours.backbone.state_dict(), load_encoder(folder).backbone.state_dict())
    assert same(ours.projection_head.state_dict(), random.projection_head.state_dict())


def test_what_weights_were_made_for_is_said_where_the_stage_has_something_else(
    tiny_recipe: Recipe, tmp_path: Path, store: Store, capsys: pytest.CaptureFixture[str]
) -> None:
    flow = tiny_recipe.stages[1]
    place = write_encoder(tmp_path / "flow", flow, clip_frames=16, flow_std=12.5, rgb_normalization="kinetics")
    (first,) = load_starts(tiny_recipe, [place]).values()
    assert (
        f"warning: flow-1: these weights were made for other input: clip_frames 16, not 8, flow_std 12.5, not "
        f"{flow.encoder.flow_std}; the stage's own values are used"
    ) in capsys.readouterr().err
    assert begun(flow, store, first).encoder.config == encoder_config(flow, flow_bound=store.settings.flow_bound), (
        "it is the stage's encoder"
    )


@pytest.mark.parametrize(
    ("stage", "changes", "said"),
    [
        (
            0,
            {"backbone": "r2plus1d-10"},
            "its backbone is r2plus1d-10, that of rgb-1 is s3d-demo, so its weights do not fit. Give --set "
            "rgb-1.backbone=r2plus1d-10 rgb-2.backbone=r2plus1d-10, or another --start.",
        ),
        (
            1,
            {"flow_channels": "128vu"},
            "its flow_channels is 128vu, that of flow-1 is uv, so its weights do not fit. Give --set "
            "flow-1.flow_channels=128vu flow-2.flow_channels=128vu, or another --start.",
        ),
        (
            0,
            {"stream": "diff"},
            "it is a diff encoder, and no stage begins with that stream (rgb-1 sees rgb, flow-1 sees flow).",
        ),
    ],
)
def test_weights_that_fit_no_stage_are_refused_with_what_would_make_them_fit(
    stage: int, changes: dict[str, object], said: str, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    place = write_encoder(tmp_path / "other", tiny_recipe.stages[stage], **changes)
    with pytest.raises(ViccError) as error:
        load_starts(tiny_recipe, [place])
    assert f"--start {place}: {said}" in str(error.value)


def test_words_that_contradict_each_other_are_refused(folder: Path, tiny_recipe: Recipe, tmp_path: Path) -> None:
    other = shutil.copytree(folder, tmp_path / "other")
    with pytest.raises(ViccError, match=r"--start \S+ \S+: both are rgb encoders; expected at most one of each"):
        load_starts(tiny_recipe, [folder, other])
    with pytest.raises(ViccError, match=r"torchvision has no weights 's3dd' .*Did you mean s3d\?"):
        load_starts(tiny_recipe, ["torchvision:s3dd"])
    with pytest.raises(ViccError, match="no-such"):
        load_starts(tiny_recipe, [tmp_path / "no-such"])
    for words in (["none", "torchvision:s3d"], ["a", "a"]):
        with pytest.raises(ViccError, match=f"--start {' '.join(words)}: expected encoder folders"):
            PretrainConfig(run=tmp_path / "run", store=tmp_path, start=words)  # type: ignore[arg-type]
    assert load_starts(tiny_recipe, ["none"]) == load_starts(tiny_recipe, []) == {}


# --- torchvision's weights --------------------------------------------------------------------------------------------


@pytest.fixture
def s3d_recipe() -> Recipe:
    return create_recipe("demo", changes=[*SMALL, "all.backbone=s3d"])


def test_weights_that_no_stage_could_begin_with_are_not_fetched(
    tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_module, "load_torchvision_weights", lambda name: pytest.fail("fetched"))
    with pytest.raises(ViccError, match=r"no stage could begin with it \(rgb-1 has s3d-demo, .*all\.backbone=s3d"):
        load_starts(tiny_recipe, ["torchvision:s3d"])


def test_torchvisions_weights_beside_a_folder_for_every_stage_are_refused(
    s3d_recipe: Recipe, kinetics: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    folders = [write_encoder(tmp_path / stage.name, stage) for stage in s3d_recipe.stages[:2]]
    with pytest.raises(ViccError, match="another --start is for every stage that could begin with it"):
        load_starts(s3d_recipe, [*folders, "torchvision:s3d"])


def test_rgb_takes_torchvisions_weights_as_they_are_and_flow_their_mean_over_colours(
    s3d_recipe: Recipe, store: Store, kinetics: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    starts = load_starts(s3d_recipe, ["torchvision:s3d"])
    assert [*starts] == ["rgb-1", "flow-1"]
    rgb, flow = (begun(s3d_recipe.stages[number], store, [*starts.values()][number]).encoder for number in (0, 1))
    stem = "features.0.0.0.weight"
    for name, weight in kinetics.items():
        ours = rgb.backbone.state_dict()[name]
        assert torch.equal(ours, weight + 0.00099 if name.endswith("running_var") else weight), name
        if name != stem:
            assert torch.equal(flow.backbone.state_dict()[name], ours), name
    seen = flow.backbone.state_dict()[stem]
    assert seen.shape[1] == 2
    torch.testing.assert_close(seen.sum(dim=1), kinetics[stem].sum(dim=1))
    said = capsys.readouterr().err
    assert "rgb-1: starts from torchvision:s3d: backbone; all else is random" in said
    assert "flow-1: starts from torchvision:s3d: backbone, its first layer as the mean over colours; all else" in said
    assert said.count("It is your responsibility to determine") == 1
    assert "learned with the labels of Kinetics-400" in said


def test_a_change_of_colour_goes_through_the_weights_of_that_colour(
    s3d_recipe: Recipe, store: Store, kinetics: dict[str, torch.Tensor]
) -> None:
    recipe = s3d_recipe.with_motion("diff")
    starts = load_starts(recipe, ["torchvision:s3d"])
    diff = begun(recipe.stages[1], store, starts["diff-1"]).encoder.backbone
    assert torch.equal(diff.state_dict()["features.0.0.0.weight"], kinetics["features.0.0.0.weight"])


def test_rgb_is_normalised_as_the_weights_expect_unless_set_says_otherwise(
    s3d_recipe: Recipe, kinetics: dict[str, torch.Tensor], capsys: pytest.CaptureFixture[str]
) -> None:
    starts = load_starts(s3d_recipe, ["torchvision:s3d"], silent=True)
    recipe = normalized_recipe(s3d_recipe, starts, [])
    assert [stage.encoder.rgb_normalization for stage in recipe.stages] == ["kinetics", "imagenet"] * 2
    assert "rgb-1, rgb-2: rgb_normalization kinetics, not imagenet, as the weights expect" in capsys.readouterr().err
    kept = normalized_recipe(s3d_recipe, starts, ["rgb-1.rgb_normalization=imagenet"])
    assert [stage.encoder.rgb_normalization for stage in kept.stages[::2]] == ["imagenet", "kinetics"]
    said = capsys.readouterr().err
    assert "warning: rgb-1: the weights expect rgb_normalization kinetics, and --set has imagenet" in said
    assert "warning: rgb-2" not in said
    assert normalized_recipe(s3d_recipe, {}, []) == s3d_recipe


def test_an_encoder_that_began_with_them_hands_its_normalisation_on(
    tiny_recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = write_encoder(tmp_path / "rgb", tiny_recipe.stages[0], rgb_normalization="kinetics")
    recipe = normalized_recipe(tiny_recipe, load_starts(tiny_recipe, [place]), [])
    assert [stage.encoder.rgb_normalization for stage in recipe.stages] == ["kinetics", "imagenet"] * 2
    assert "warning" not in capsys.readouterr().err


def test_a_folder_goes_before_torchvision_for_its_stream(
    s3d_recipe: Recipe, tmp_path: Path, kinetics: dict[str, torch.Tensor]
) -> None:
    place = write_encoder(tmp_path / "rgb", s3d_recipe.stages[0])
    starts = load_starts(s3d_recipe, ["torchvision:s3d", place])
    assert {name: one.place for name, one in starts.items()} == {"rgb-1": str(place), "flow-1": "torchvision:s3d"}


# --- a run ------------------------------------------------------------------------------------------------------------


def command(run: Path, store_path: Path, *more: object) -> list[str]:
    words = ["pretrain", "--recipe", "demo", "--store", store_path, "--run", run, "--set", *SMALL, *more]
    return [str(word) for word in words]


def test_a_run_keeps_its_start_and_is_refused_with_another(
    folder: Path, tiny_recipe: Recipe, store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    words = command(run, store_path, "--stages", "rgb-1")
    assert main([*words, "--start", str(folder), "--dry-run", "--json"]) == 0
    stages = json.loads(capsys.readouterr().out)["stages"]
    assert [stage["start"] for stage in stages] == [str(folder), None, None, None]
    assert not run.exists()
    assert main([*words, "--start", str(folder), "--dry-run"]) == 0
    assert str(folder.name) in capsys.readouterr().out
    assert main([*words, "--start", str(folder)]) == 0
    content = json.loads((run / "recipe.json").read_text())
    assert content["start"] == {"rgb-1": str(folder)}
    before = {path: path.read_bytes() for path in run.rglob("*.json*")}
    other = write_encoder(tmp_path / "other", tiny_recipe.stages[0])
    weights = load_encoder(other)
    with torch.no_grad():
        next(weights.parameters()).add_(1)
    save_encoder(other, weights)
    capsys.readouterr()
    for place, now in (("none", "now none"), (other, f"now {other} for rgb-1 (weights ")):
        assert main([*words, "--start", str(place)]) == 2
        said = " ".join(capsys.readouterr().err.split())
        assert f"--start was {folder} for rgb-1 (weights {content['start_weights']['rgb-1'][:12]}), {now}" in said
    assert {path: path.read_bytes() for path in run.rglob("*.json*")} == before
    moved = shutil.move(folder, tmp_path / "moved")
    assert main([*words, "--start", str(moved)]) == 0, "the same weights at another place"
    said = capsys.readouterr().err
    assert "rgb-1: finished already" in said
    assert "starts from" not in said, "what it began with is said when it begins"


def test_a_run_from_random_weights_has_no_start_and_takes_none_later(
    finished_run_path: Path, folder: Path, tiny_recipe: Recipe, store_path: Path
) -> None:
    assert "start" not in Run(finished_run_path).description
    assert (Run(finished_run_path).start, Run(finished_run_path).start_in_words) == ({}, "")
    config = PretrainConfig(run=finished_run_path, store=store_path, start=[folder])
    with pytest.raises(ViccError, match=r"--start was none, now \S+encoder for rgb-1 \(weights "):
        pretrain(tiny_recipe, config)


def test_a_stopped_run_ends_as_one_that_was_not(
    folder: Path, tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    def config(name: str) -> PretrainConfig:
        return PretrainConfig(run=tmp_path / name, store=store_path, start=[folder], stages=["rgb-1"])

    pretrain(tiny_recipe, config("straight"))
    with pytest.raises(Stopped):
        pretrain(tiny_recipe, config("stopped"), should_stop=lambda stage, step: step == 2)
    pretrain(tiny_recipe, config("stopped"))
    straight, stopped = (Run(tmp_path / name).load_encoder("rgb-1").state_dict() for name in ("straight", "stopped"))
    assert same(straight, stopped)
    assert not same(straight, load_encoder(folder).state_dict()), "it has trained"


def test_two_processes_begin_with_the_same_weights_and_follow_one(
    folder: Path, store_path: Path, tmp_path: Path
) -> None:
    more = ("all.batchnorm=sync", "--stages", "rgb-1", "--precision", "fp64", "--workers", 0, "--start", folder)
    started = [
        start(command(tmp_path / name, store_path, *more), processes) for name, processes in (("one", 1), ("two", 2))
    ]
    for processes in started:
        for status, said in finish(processes):
            assert status == 0, said
    one, two = ([row["loss"] for row in read_log(tmp_path / name / "rgb-1")] for name in ("one", "two"))
    assert len(one) == 2
    assert two == pytest.approx(one, rel=1e-6)


def test_a_process_that_reads_other_weights_than_the_first_is_named(
    folder: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start_module, "on_first", lambda work: dict.fromkeys(work(), "others"))
    with pytest.raises(ViccError, match=r"--start \S+: process 0 reads other weights there than process 0"):
        load_starts(tiny_recipe, [folder])


# --- what is said of it -----------------------------------------------------------------------------------------------


@pytest.fixture
def kinetics_run(s3d_recipe: Recipe, store_path: Path, tmp_path: Path, kinetics: dict[str, torch.Tensor]) -> Path:
    run = tmp_path / "run"
    recipe = replace(s3d_recipe, stages=s3d_recipe.stages[:3])
    pretrain(recipe, PretrainConfig(run=run, store=store_path, start=["torchvision:s3d"]))
    return run


def test_no_table_or_page_shows_such_a_run_as_one_from_scratch(
    kinetics_run: Path, finished_run_path: Path, store_path: Path, tmp_path: Path
) -> None:
    words = "rgb-1, flow-1 from torchvision:s3d (learned with the labels of Kinetics-400)"
    run = Run(kinetics_run)
    assert run.start_in_words == words
    assert [stage.encoder.rgb_normalization for stage in run.stages] == ["kinetics", "imagenet", "kinetics"]
    assert run.load_encoder("rgb-2").config.rgb_normalization == "kinetics", "what is measured sees what was trained"
    result = retrieve(RetrieveConfig(run=kinetics_run, store=store_path, workers=0))
    began = {row.name: row.model.get("start") for row in result.rows if row.kind in ("trained", "fused")}
    assert began == dict.fromkeys(("RGB-1", "Flow-1", "RGB-2", "R+F"), words)
    assert not [row.name for row in result.rows if row.kind not in ("trained", "fused") and "start" in row.model]
    assert f"Not from scratch: RGB-1, Flow-1, RGB-2, R+F ({words})" in str(result_table(result).caption)
    page = write_report(ReportConfig(run=kinetics_run, store=store_path)).read_text()
    assert f"not from scratch: {words}" in page
    (state,) = compare_runs(RunsConfig([kinetics_run]))
    assert state.start == words
    scratch = shutil.copytree(finished_run_path, tmp_path / "scratch")
    states = {state.run: state for state in compare_runs(RunsConfig([tmp_path]))}
    assert states["run"].differs["rgb-1+flow-1.start"] == "torchvision:s3d"
    assert states["scratch"].start == ""
    retrieve(RetrieveConfig(run=scratch, store=store_path, workers=0))
    table = make_table(find_results([str(kinetics_run), str(scratch)]))
    assert sum(row.start == words for row in table.rows) == 4
    (noted,) = (note for note in table.notes if note.startswith("Not from scratch: "))
    assert noted.endswith(f" ({words}).")
    assert all(name in noted for name in ("RGB-1 (", "Flow-1 (", "RGB-2 (", "R+F ("))


def test_seeds_of_a_training_from_other_weights_are_not_pooled_with_those_from_scratch(
    folder: Path, tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    """The recipe is the same, as an encoder folder changes nothing in it."""
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    trained = []
    for name, places in (("one", []), ("two", [folder])):
        pretrain(recipe, PretrainConfig(run=tmp_path / name, store=store_path, start=places))  # type: ignore[arg-type]
        result = retrieve(RetrieveConfig(run=tmp_path / name, store=store_path, baselines=False, workers=0))
        trained.append(result.row("RGB-1").model["training"])
    assert trained[0] != trained[1]


def test_parts_of_a_fused_row_that_began_otherwise_are_both_named() -> None:
    scratch = {"seed": 1}
    model = fused_model({"RGB-1": {**scratch, "start": "a"}, "Flow-1": scratch, "Flow-2": {**scratch, "start": "b"}})
    assert (model["start"], model["seed"]) == ("a; b", 1)
    assert "start" not in fused_model({"RGB-1": scratch, "Flow-1": scratch})


def test_test_videos_that_the_start_was_trained_on_are_said(
    finished_run_path: Path, tiny_recipe: Recipe, store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    recipe = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    pretrain(recipe, PretrainConfig(run=first, store=store_path, split="grouped"))
    place = first / "rgb-1"
    pretrain(recipe, PretrainConfig(run=second, store=store_path, start=[place]))
    capsys.readouterr()
    retrieve(RetrieveConfig(run=second, store=store_path, baselines=False, workers=0))
    said = capsys.readouterr().err
    assert f"warning: {second} starts from an encoder of {first}, and {first} was trained on " in said
    assert "of the 6 test videos of the split folders" in said


def test_what_a_start_began_with_is_said_too(
    finished_run_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_start(name: str, begun_with: dict[str, str]) -> Run:
        (tmp_path / name).mkdir()
        description = Run(finished_run_path).description | {"start": begun_with}
        (tmp_path / name / "recipe.json").write_text(json.dumps(description))
        return Run(tmp_path / name)

    first = with_start("first", {"rgb-1": "torchvision:s3d"})
    place = first.folder / "rgb-1"
    second = with_start("second", {"rgb-1": str(place), "flow-1": "somebody/flow"})
    monkeypatch.chdir(first.folder)  # names are looked up nowhere, not even here
    assert second.start_in_words == (
        f"rgb-1 from {place} (which began with torchvision:s3d (learned with the labels of Kinetics-400)), "
        "flow-1 from somebody/flow"
    )
    assert [origin.folder for origin in second.origins] == [first.folder]
    assert first.origins == []
    with pytest.raises(ViccError, match=r"recipe\.json has a start 'x': it is damaged"):
        _ = with_start("third", "x").start  # type: ignore[arg-type]


def test_an_encoder_remembers_how_rgb_was_normalised(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = EncoderConfig("rgb", "s3d-demo", clip_frames=8, size=32, rgb_normalization="slowfast")
    save_encoder(tmp_path / "encoder", Encoder(config))
    assert load_encoder(tmp_path / "encoder").config == config
    path = tmp_path / "encoder" / "config.json"
    path.write_text(path.read_text().replace("slowfast", "sloth"))
    with pytest.raises(ViccError, match="cannot be loaded: 'sloth'"):
        load_encoder(tmp_path / "encoder")


def test_features_that_were_kept_before_encoders_had_a_normalisation_are_still_found(
    finished_run_path: Path, store: Store, store_path: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(finished_run_path, tmp_path / "run")
    retrieve(RetrieveConfig(run=run, store=store_path, baselines=False, workers=0, precision="fp32"))
    config = {
        "stream": "rgb",
        "backbone": "s3d-demo",
        "embedding_dim": 128,
        "clip_frames": 8,
        "stride": 1,
        "size": 32,
        "flow_center": True,
        "flow_std": 16.0,
        "flow_normalization": "clip",
        "flow_channels": "uv",
        "flow_bound": store.settings.flow_bound,
        "flow_short_side": None,
    }
    key = {
        "version": 1,
        "encoder": weights_fingerprint(load_encoder(run / "rgb-1").state_dict()),
        "config": config,
        "windows": {"step": None, "crops": "view", "one": False, "shuffle": False},
        "precision": "fp32",
    }
    path = FeatureCache(run / "features", store).path(key)
    assert path is not None
    assert path.is_dir()
