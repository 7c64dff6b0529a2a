"""Training classifiers: what they learn from, what chooses the epoch, resumes, several processes, and refusals."""

import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.processes import finish, start
from tests.training.test_resume import results, same
from vicc.data.splits import divide_videos, group_name
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation.classifier_recipe import classifier_recipe
from vicc.evaluation.configs import (
    ClassifierConfig,
    FinetuneConfig,
    MeasuredClassifiers,
    ProbeClipsConfig,
    RetrieveConfig,
)
from vicc.evaluation.measure_classifiers import measure_classifiers
from vicc.evaluation.retrieve import retrieve
from vicc.evaluation.train_classifier import choose_labelled_split, train_classifier
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.published.exporting import export_published
from vicc.results.configs import RunsConfig
from vicc.results.runs import compare_runs
from vicc.training.checkpoint import CheckpointFolder, load_checkpoint, load_encoder, save_encoder
from vicc.training.classifier_folder import load_classifier
from vicc.training.engine import Stopped
from vicc.training.watch.log import EPOCHS_FILE, read_log

# The classes of the tests' videos are motions to the left and to the right: a mirror image is of the other class.
SETTINGS = ["classifier.augmentation.flip=0"]


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A flow encoder with random weights for the smallest clips that mean anything."""
    folder = tmp_path_factory.mktemp("encoder") / "flow"
    torch.manual_seed(3)
    save_encoder(folder, Encoder(EncoderConfig("flow", backbone="s3d-demo", clip_frames=8, size=32, flow_std=6.0)))
    return folder


def finetune(store: Path, encoder: Path, run: Path, **options: Any) -> FinetuneConfig:
    settings = {"epochs": 4, "dropout": 0.5, "validation_share": 0.25, "batch_size": 4, "set": SETTINGS, **options}
    return FinetuneConfig(encoder=encoder, store=store, run=run, workers=0, log_to=(), **settings)


def probe(store: Path, encoder: Path, run: Path, **options: Any) -> ProbeClipsConfig:
    settings = {"epochs": 4, "validation_share": 0.25, "batch_size": 4, "set": SETTINGS, **options}
    return ProbeClipsConfig(encoder=encoder, store=store, run=run, workers=0, log_to=(), **settings)


@pytest.fixture(scope="module")
def finished(store_path: Path, encoder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("finetune") / "run"
    train_classifier(finetune(store_path, encoder, run))
    return run


# --- what comes out --------------------------------------------------------------------------------------------------


def test_it_learns_what_test_videos_show(store_path: Path, encoder: Path, tmp_path: Path) -> None:
    config = finetune(store_path, encoder, tmp_path / "run", epochs=25, learning_rate=0.02, validation_share=0)
    train_classifier(config)
    log = read_log(config.run / "classifier")
    assert log[-1]["loss"] < 0.6 * log[0]["loss"]
    row = measure_classifiers(MeasuredClassifiers(store=store_path, classifier=[config.run])).row("run")
    assert row.metrics["top-1"].value >= 4 / 6, "chance is a third"
    curves = config.run / "classifier" / "curves.png"
    assert curves.stat().st_size > 0


def test_the_weights_kept_are_those_of_the_best_epoch_on_validation_videos(finished: Path) -> None:
    rows = read_log(finished / "classifier", EPOCHS_FILE)
    accuracies = [row["val_accuracy"] for row in rows]
    best = max(place for place, value in enumerate(accuracies) if value == max(accuracies))
    folder = CheckpointFolder(finished / "classifier").folder
    state = load_checkpoint(folder / "best.pt")
    assert state["step"] == (best + 1) * 2, "two steps of 4 in each epoch of 9 videos"
    kept = load_classifier(finished)
    for name, value in kept.module.state_dict().items():
        assert torch.equal(value, state["model"][f"classifier.{name}"])
    about = json.loads((finished / "classifier" / "encoder" / "classifier.json").read_text())
    assert about["chosen"] == {"by": "val_accuracy", "epochs": best + 1, "val_accuracy": max(accuracies)}


def test_without_validation_videos_the_last_epoch_is_kept(store_path: Path, encoder: Path, tmp_path: Path) -> None:
    config = probe(store_path, encoder, tmp_path / "run", validation_share=0)
    train_classifier(config)
    state = CheckpointFolder(config.run / "classifier").load_newest()
    assert state is not None
    assert state["step"] == 4 * 3
    kept = load_classifier(config.run).module
    assert torch.equal(kept.linear.weight, state["model"]["classifier.linear.weight"])
    assert "val_accuracy" not in read_log(config.run / "classifier", EPOCHS_FILE)[-1]
    before = load_encoder(encoder).backbone.state_dict()
    for name, value in kept.encoder.backbone.state_dict().items():
        assert torch.equal(value, before[name]), f"{name} of the probe's encoder has changed"


def test_a_classifier_folder_is_an_encoder_folder_too(finished: Path) -> None:
    config = load_encoder(finished / "classifier").config
    assert (config.stream, config.embedding_dim, config.clip_frames) == ("flow", 0, 8)
    assert load_classifier(finished).classes == ["left", "right", "up"]


def test_other_commands_know_a_classifiers_run(finished: Path, store_path: Path, tmp_path: Path) -> None:
    (run,) = compare_runs(RunsConfig([finished], out=tmp_path / "runs.png"))
    (stage,) = run.stages
    assert (run.state, stage.instance_recall) == ("finished", None)
    assert stage.val_accuracy == read_log(finished / "classifier", EPOCHS_FILE)[-1]["val_accuracy"]
    config = RetrieveConfig(run=finished, store=store_path, baselines=False, cache=False, out=tmp_path / "r.json")
    assert [row.name for row in retrieve(config).rows] == ["chance", "Fine-tuned Flow"]
    with pytest.raises(ViccError, match="s3d-demo has no published layout"):
        export_published(finished, tmp_path / "x.pth.tar")


# --- what it learns from ---------------------------------------------------------------------------------------------


def labelled_split_of(store: Path, config: ClassifierConfig) -> Any:
    opened = Store(store)
    return choose_labelled_split(divide_videos(opened.videos, None, splits_folder=store / "splits"), config)


def test_validation_takes_whole_groups_of_training_videos_of_every_class(
    store_path: Path, encoder: Path, tmp_path: Path
) -> None:
    split = labelled_split_of(store_path, finetune(store_path, encoder, tmp_path / "run"))
    assert {video.split for video in split.train + split.validation} == {"train"}
    assert len(split.train) + len(split.validation) == 12
    assert {video.label for video in split.validation} == set(split.classes) == {"left", "right", "up"}
    assert not {group_name(video) for video in split.train} & {group_name(video) for video in split.validation}


def test_fewer_labels_are_part_of_more_and_every_class_keeps_one(
    store_path: Path, encoder: Path, tmp_path: Path
) -> None:
    config = replace(finetune(store_path, encoder, tmp_path / "run"), validation_share=None)
    chosen = [
        {video.id for video in labelled_split_of(store_path, replace(config, label_share=share)).train}
        for share in (0.01, 0.05, 0.5, 0.75)
    ]
    assert [len(ids) for ids in chosen] == [3, 3, 6, 9], "and no video of them validates"
    for few, more in itertools.pairwise(chosen):
        assert few <= more


# --- resume and processes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("steps", [1, 4])
def test_a_run_that_was_stopped_ends_bit_equal(
    finished: Path, store_path: Path, encoder: Path, tmp_path: Path, steps: int
) -> None:
    """In mid-epoch and after one, with dropout, whose random stream goes on."""
    config = finetune(store_path, encoder, tmp_path / "run")
    with pytest.raises(Stopped):
        train_classifier(config, should_stop=lambda done: done == steps)
    train_classifier(config)
    assert same(results(config.run, ["classifier"]), results(finished, ["classifier"]))
    head = "classifier/encoder/head.safetensors"
    assert (config.run / head).read_bytes() == (finished / head).read_bytes()


@pytest.mark.parametrize("command", ["probe-clips", pytest.param("finetune", marks=pytest.mark.slow)])
def test_two_processes_follow_one(store_path: Path, encoder: Path, tmp_path: Path, command: str) -> None:
    """In float64; of fine-tuning without dropout, whose masks are each process's own, and with joint BatchNorm."""
    changes = ["classifier.batchnorm=sync", *SETTINGS]
    one = {"epochs": 2, "precision": "fp64", "set": changes}
    words: list[object] = [command, "--encoder", encoder, "--store", store_path, "--run", tmp_path / "two"]
    words += ["--epochs", 2, "--precision", "fp64", "--batch-size", 4, "--validation-share", 0.25, "--workers", 0]
    words += [*(["--dropout", 0, "--learning-rate", 0.01] if command == "finetune" else []), "--set", *changes]
    started = start([*words, "--log-to"])
    if command == "finetune":
        train_classifier(finetune(store_path, encoder, tmp_path / "one", dropout=0.0, learning_rate=0.01, **one))
    else:
        train_classifier(probe(store_path, encoder, tmp_path / "one", **one))
    for status, said in finish(started):
        assert status == 0, said
    logs = [read_log(tmp_path / name / "classifier") for name in ("one", "two")]
    for name in ("loss", "accuracy"):
        assert [row[name] for row in logs[1]] == pytest.approx([row[name] for row in logs[0]], rel=1e-6)
    found = [read_log(tmp_path / name / "classifier", EPOCHS_FILE)[-1]["val_accuracy"] for name in ("one", "two")]
    assert found[0] == found[1]
    heads = [load_classifier(tmp_path / name).module.linear.weight for name in ("one", "two")]
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-6, atol=1e-7)


# --- recipes ---------------------------------------------------------------------------------------------------------


def recipe_stage(config: ClassifierConfig, num_videos: int = 9537) -> Any:
    return classifier_recipe(config, EncoderConfig("rgb"), num_videos=num_videos, num_classes=101).stages[0]


def test_the_published_schedules_are_exactly_those(tmp_path: Path) -> None:
    common: dict[str, Any] = {"encoder": tmp_path, "store": tmp_path, "run": tmp_path, "schedule": "published"}
    tuned, probed = recipe_stage(FinetuneConfig(**common)), recipe_stage(ProbeClipsConfig(**common))
    for stage in (tuned, probed):
        assert (
            stage.schedule.learning_rate,
            stage.length.batch_size,
            stage.optimizer.momentum,
            stage.optimizer.weight_decay,
        ) == (0.1, 128, 0.9, 1e-3)
        assert (stage.optimizer.name, stage.schedule.name, stage.schedule.decay) == ("sgd", "step", 0.1)
        assert (stage.augmentation.jitter, stage.augmentation.flip, stage.augmentation.grey) == (0.3, 0.0, 0.0)
    assert (tuned.length.epochs, tuned.schedule.milestones) == (500, (200, 300, 400, 450))
    assert (tuned.settings.dropout, tuned.settings.backbone_learning_rate_ratio) == (0.9, 1.0)
    assert (probed.length.epochs, probed.schedule.milestones) == (100, (60, 80))


def test_the_default_schedule_is_in_proportion_and_long_enough_for_few_videos(tmp_path: Path) -> None:
    config = FinetuneConfig(encoder=tmp_path, store=tmp_path, run=tmp_path)
    large, small = recipe_stage(config), recipe_stage(config, num_videos=64)
    assert (large.length.epochs, large.schedule.milestones) == (100, (40, 60, 80, 90))
    assert (small.length.epochs, small.schedule.milestones) == (500, (200, 300, 400, 450)), "1,000 steps of 32"
    assert large.schedule.learning_rate == small.schedule.learning_rate == 0.1 * 32 / 128
    tiny = recipe_stage(config, num_videos=10)
    assert (tiny.length.batch_size, tiny.schedule.learning_rate) == (10, pytest.approx(0.1 * 10 / 128, rel=1e-3))
    assert recipe_stage(replace(config, batch_size=64)).schedule.learning_rate == 0.05
    assert recipe_stage(replace(config, batch_size=64, learning_rate=0.3)).schedule.learning_rate == 0.3
    assert recipe_stage(replace(config, epochs=50)).schedule.milestones == (20, 30, 40, 45)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_another_encoder_refuses_the_resume_and_a_moved_one_does_not(
    store_path: Path, encoder: Path, tmp_path: Path
) -> None:
    config = probe(store_path, encoder, tmp_path / "run", epochs=1)
    with pytest.raises(Stopped):
        train_classifier(config, should_stop=lambda done: True)
    torch.manual_seed(4)
    save_encoder(tmp_path / "other", Encoder(load_encoder(encoder).config))
    with pytest.raises(ViccError, match=r"other settings: encoder_weights was .*encoder"):
        train_classifier(replace(config, encoder=tmp_path / "other"))
    shutil.copytree(encoder, tmp_path / "moved")
    assert train_classifier(replace(config, encoder=tmp_path / "moved")).summary.finished


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"set": ["classifier.backbone=s3d"]}, "backbone would make another encoder"),
        ({"set": ["classifier.flow_std=3"]}, "flow_std would make another encoder"),
        ({"set": ["classifier.steps=9"]}, "steps of a classifier .* --epochs"),
        ({"set": ["classifier.num_classes=9"]}, "num_classes of a classifier"),
        ({"set": ["classifier.no_such=3"]}, "there is no field no_such"),
        ({"validation_share": 0.01}, "no group small enough .* --validation-share|larger share"),
    ],
)
def test_what_cannot_be_is_refused_before_a_folder_is_made(
    store_path: Path, encoder: Path, tmp_path: Path, options: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ViccError, match=sentence):
        train_classifier(finetune(store_path, encoder, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


def test_videos_without_labels_and_stores_without_flow_are_refused(
    unlabelled_store_path: Path, store_path: Path, encoder: Path, tmp_path: Path
) -> None:
    with pytest.raises(ViccError, match="none has a label; expected at least two classes"):
        train_classifier(finetune(unlabelled_store_path, encoder, tmp_path / "run"))
    copy = tmp_path / "store"
    shutil.copytree(store_path, copy)
    about = json.loads((copy / "store.json").read_text())
    text = json.dumps(about).replace('"flow": "dis"', '"flow": "none"')
    (copy / "store.json").write_text(text)
    with pytest.raises(ViccError, match="prepared without it"):
        train_classifier(finetune(copy, encoder, tmp_path / "run"))


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"learning_rate": 0.1, "batch_size": "auto"}, "--learning-rate .* --batch-size auto"),
        ({"label_share": 0.0}, "--label-share 0.0"),
        ({"validation_share": 0.9}, "--validation-share 0.9: expected 0 to 0.5"),
        ({"epochs": 0}, "--epochs 0"),
        ({"dropout": 1.0}, "--dropout 1.0"),
        ({"backbone_learning_rate_ratio": 0.0}, "vicc probe"),
    ],
)
def test_flags_that_contradict_are_refused(tmp_path: Path, options: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ViccError, match=sentence):
        FinetuneConfig(**{"encoder": tmp_path, "store": tmp_path, "run": tmp_path, **options})
