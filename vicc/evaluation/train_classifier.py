"""`vicc finetune` and the end-to-end probe: an encoder and labels to a classifier, by the engine
that pretrains.

RUN/recipe.json, split.csv, runs.jsonl, environment.json    as of every run
RUN/classifier/log.jsonl, curves.png, checkpoints/, ...     as of every stage
RUN/classifier/encoder/                                     the classifier, see `vicc.training.classifier_folder`
"""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vicc.data.dataset import ClipDataset
from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.data.splits import Division, divide_by_groups
from vicc.device import Precision
from vicc.distributed import first_then_others, is_first, on_first, processes, world_size
from vicc.errors import ViccError
from vicc.evaluation.classifier_recipe import classifier_recipe
from vicc.evaluation.configs import ClassifierConfig
from vicc.evaluation.encoders import require_flow
from vicc.evaluation.result import fingerprint
from vicc.evaluation.sets import few_labels
from vicc.methods.classifier import Classification
from vicc.methods.encoder import Encoder
from vicc.methods.features import Windows, describe_videos
from vicc.methods.task import Task
from vicc.prepare.scan import SCAN_FILE, open_frames
from vicc.progress import say
from vicc.training.build import ENCODER_FOLDER, assemble, encoder_config
from vicc.training.checkpoint import (
    BEST_FILE,
    CHECKPOINTS_FOLDER,
    copy_weights,
    load_checkpoint,
    load_encoder,
    weights_fingerprint,
)
from vicc.training.classifier_folder import save_classifier
from vicc.training.computation import Computation, choose_computation, choose_run_device, computing
from vicc.training.cost import StageCost, StepCost
from vicc.training.plan import (
    StageSummary,
    describe_costs,
    fitted_recipe,
    is_worth_measuring,
    num_workers,
    require_loading,
    stage_costs,
    stage_summary,
)
from vicc.training.run import is_finished, require_room_for_run
from vicc.training.run_folder import RunStart, claim_run, divide, held_run_folder
from vicc.training.stage import Recipe, Stage
from vicc.training.train_stage import StageGoal, train_stage
from vicc.training.watch.sinks import require_sinks

_LOOKS = 50


@dataclass(frozen=True)
class LabelledSplit:
    """What a classifier learns from, and what chooses its epoch. No test video is in either."""

    train: list[Video]
    validation: list[Video]
    classes: list[str]


@dataclass(frozen=True)
class ClassifierRun:
    """A run that trains a classifier: its recipe of one stage, how far that is, and the videos it
    learns from.
    """

    recipe: Recipe
    summary: StageSummary
    labelled_split: LabelledSplit


def train_classifier(
    config: ClassifierConfig, *, should_stop: Callable[[int], bool] = lambda step: False
) -> ClassifierRun:
    """Train a classifier, fine-tuned or a probe as the config's kind says; a run that is there is
    continued.

    Of several processes all call this; the first one writes.

    Args:
        should_stop: asked after every step with the steps done; True stops as a signal would.

    Raises:
        Stopped: asked to stop; a checkpoint has been written.
        ViccError: no such encoder, videos without labels or of one class, a store without the
            encoder's stream, a validation share that leaves no group, or a run of another encoder,
            recipe, seed, or of other videos.
    """
    require_sinks(config.log_to)
    if not config.dry_run:
        require_room_for_run(config.run)
    pretrained = load_encoder(config.encoder)
    device = choose_run_device(config)
    with processes(device), ExitStack() as stack:
        if config.store is None and not config.dry_run:  # what a scan finds is written there
            on_first(lambda: stack.enter_context(held_run_folder(config.run)))
        scan = None if config.dry_run else config.run / SCAN_FILE
        store = first_then_others(lambda: open_frames(config.store, config.videos, scan=scan, cache_mb=config.cache_mb))
        require_flow([(str(config.encoder), pretrained)], store)
        division = divide(store, config)
        labelled_split = choose_labelled_split(division, config)
        precision, computation = choose_computation(config, device)
        stack.enter_context(computing(computation))
        known: dict[str, StepCost] = {}
        recipe = _recipe(config, pretrained, labelled_split, precision, known)
        (stage,) = recipe.stages
        num_videos = len(labelled_split.train)
        if config.dry_run:
            costs = {}
            if config.launcher == "here":
                costs = stage_costs(
                    recipe, config, precision, store, labelled_split.train, num_videos=num_videos, known=known
                )
            summary = replace(stage_summary(config, stage, num_videos), cost=costs.get(stage.name))
            return ClassifierRun(recipe, summary, labelled_split)
        if config.store is not None:
            on_first(lambda: stack.enter_context(held_run_folder(config.run)))
        weights = weights_fingerprint(pretrained.state_dict())
        starts: list[RunStart] = []
        on_first(lambda: starts.append(_claim(recipe, config, computation, store, division, labelled_split, weights)))
        if on_first(lambda: is_finished(config.run, stage)):
            say(f"{stage.name}: finished already")
        else:
            require_loading(recipe, stage, config, num_videos=num_videos)
            planned = _announce(recipe, config, store, labelled_split, precision, known) if is_first() else None
            goal = _goal(stage, config, pretrained, store, labelled_split, weights)
            train_stage(
                stage,
                0,
                goal,
                config,
                store,
                labelled_split.train,
                precision,
                planned=planned,
                on_start=lambda step: starts[0].note(stage.name, step),
                should_stop=should_stop,
            )
        return ClassifierRun(recipe, stage_summary(config, stage, num_videos), labelled_split)


def choose_labelled_split(division: Division[Video], config: ClassifierConfig) -> LabelledSplit:
    """The labelled training videos, their share that --label-share leaves, and those of them that
    only validate.

    Raises:
        ViccError: no labels, one class, or no whole group that could validate.
    """
    labelled = [video for video in division.train if video.label is not None]
    if len(labelled) < len(division.train):
        without = len(division.train) - len(labelled)
        say(
            f"{without} of {len(division.train)} training videos {'has' if without == 1 else 'have'} no label: left out"
        )
    classes = sorted({str(video.label) for video in labelled})
    if len(classes) < 2:
        found = f"all have the label {classes[0]!r}" if classes else "none has a label"
        raise ViccError(
            f"Of the {len(division.train)} training videos of the split {division.name} {found}; expected at least two "
            "classes. Put the videos into class folders, or give another --split."
        )
    if config.label_share < 1:
        labelled = few_labels(labelled, config.label_share, seed=config.label_seed)
    train, validation = labelled, list[Video]()
    if config.validated_share:
        train, validation = divide_by_groups(labelled, test_share=config.validated_share, seed=config.seed)
        if not validation:
            raise ViccError(
                f"--validation-share {config.validated_share}: among {len(labelled)} labelled training videos there "
                "is no group small enough to be held out of its class. Give a larger share, or 0 to keep the last "
                "epoch."
            )
    return LabelledSplit(train, validation, classes)


def _recipe(
    config: ClassifierConfig,
    pretrained: Encoder,
    labelled_split: LabelledSplit,
    precision: Precision,
    known: dict[str, StepCost],
) -> Recipe:
    num_videos = len(labelled_split.train)
    recipe = classifier_recipe(
        config, pretrained.config, num_videos=num_videos, num_classes=len(labelled_split.classes)
    )
    (stage,) = recipe.stages
    ours = encoder_config(stage, flow_bound=pretrained.config.flow_bound)
    # Only the clips' shape is free.
    kept = replace(pretrained.config, embedding_dim=0, clip_frames=ours.clip_frames, stride=ours.stride, size=ours.size)
    if ours != kept:
        changed = [name for name, value in asdict(ours).items() if getattr(kept, name) != value]
        raise ViccError(
            f"--set {' '.join(config.set)}: {', '.join(changed)} would make another encoder than {config.encoder}. "
            "Leave that as it is."
        )
    fewest = stage.settings.fewest_videos
    if fewest > 1 and min(stage.length.batch_size, num_videos) < fewest * world_size():
        raise ViccError(
            f"{num_videos} training videos in batches of {stage.length.batch_size} are too few for {world_size()} "
            "processes: BatchNorm needs at least {fewest} videos for each. Give more labels, or start fewer processes."
        )
    if config.batch_size != "auto":
        return recipe
    return fitted_recipe(recipe, config, precision, num_videos=num_videos, known=known)


def _claim(
    recipe: Recipe,
    config: ClassifierConfig,
    computation: Computation,
    store: FrameReader,
    division: Division[Video],
    labelled_split: LabelledSplit,
    weights: str,
) -> RunStart:
    validation = [(video.id, video.num_frames, video.source.blake2b) for video in labelled_split.validation]
    return claim_run(
        recipe,
        config,
        computation,
        store,
        division,
        videos=labelled_split.train,
        validation=labelled_split.validation,
        facts={
            "encoder_weights": weights,
            "classes": labelled_split.classes,
            "label_share": config.label_share,
            "validation": {"videos": len(validation), "content": fingerprint(validation)},
        },
        notes={"encoder": str(config.encoder.absolute())},
    )


def _announce(
    recipe: Recipe,
    config: ClassifierConfig,
    store: FrameReader,
    labelled_split: LabelledSplit,
    precision: Precision,
    known: dict[str, StepCost],
) -> StageCost | None:
    """Say what is learned from what; also what it will take, where that is worth measuring."""
    chosen = "the last epoch is kept"
    if labelled_split.validation:
        chosen = f"{len(labelled_split.validation)} others choose the epoch that is kept"
    say(f"learns {len(labelled_split.classes)} classes from {len(labelled_split.train)} videos; {chosen}")
    if (config.run / recipe.stages[0].name).exists() or not is_worth_measuring(
        recipe, num_videos=len(labelled_split.train)
    ):
        return None
    costs = stage_costs(
        recipe, config, precision, store, labelled_split.train, num_videos=len(labelled_split.train), known=known
    )
    say(describe_costs(costs)[0])
    return costs[recipe.stages[0].name]


def _goal(
    stage: Stage,
    config: ClassifierConfig,
    pretrained: Encoder,
    store: FrameReader,
    labelled_split: LabelledSplit,
    weights: str,
) -> StageGoal:
    def new_task() -> Task:
        encoder = Encoder(encoder_config(stage, flow_bound=pretrained.config.flow_bound))
        copy_weights(pretrained.backbone, encoder.backbone, what=f"The encoder {config.encoder}")
        return assemble(stage, encoder)

    def evaluation(task: Task, dataset: ClipDataset, precision: Precision) -> Callable[[], dict[str, float]]:
        assert isinstance(task, Classification)
        return ValidationAccuracy(task, store, labelled_split, precision, workers=num_workers(config.workers))

    def save(folder: Path, task: Task, precision: Precision) -> None:
        on_first(lambda: _save(folder, task, config=config, labelled_split=labelled_split, weights=weights))

    epochs = stage.length.epochs or 1
    looks = config.evaluate_epochs or max(1, epochs // _LOOKS)
    return StageGoal(
        new_task=new_task,
        evaluation=evaluation,
        evaluate_epochs=looks if labelled_split.validation else 0,
        best_metric="val_accuracy" if labelled_split.validation else "loss",
        save_result=save,
    )


class ValidationAccuracy:
    """The share of validation videos whose own class gets the highest mean probability over their
    windows.

    Windows follow one another without overlap, in the view that retrieval sees; nothing is random.
    Weights and random streams are left as they were.
    """

    def __init__(
        self,
        task: Classification,
        store: FrameReader,
        labelled_split: LabelledSplit,
        precision: Precision,
        *,
        workers: int,
    ) -> None:
        self._task = task
        places = {name: place for place, name in enumerate(labelled_split.classes)}
        self._labels = torch.tensor([places[str(video.label)] for video in labelled_split.validation])
        config = task.encoder.config
        self._describe = partial(
            describe_videos,
            partial(probabilities, task.classifier),
            config,
            store,
            labelled_split.validation,
            Windows(step=config.clip_frames * config.stride),
            precision=precision,
            workers=workers,
            advance=lambda count, note="": None,
        )

    def __call__(self) -> dict[str, float]:
        self._task.eval()
        try:
            found = self._describe()
        finally:
            self._task.train()
        right = found.argmax(dim=1) == self._labels
        return {"val_accuracy": int(right.sum()) / len(right)}


def probabilities(classifier: torch.nn.Module, clips: torch.Tensor) -> torch.Tensor:
    """Probabilities (B, classes) of clips."""
    return classifier(clips).float().softmax(dim=1)


def _save(folder: Path, task: Task, *, config: ClassifierConfig, labelled_split: LabelledSplit, weights: str) -> None:
    """The classifier of the best epoch, or without validation videos of the last."""
    assert isinstance(task, Classification)
    chosen: dict[str, Any] = {"by": "the last epoch"}
    if labelled_split.validation:
        state = load_checkpoint(folder / CHECKPOINTS_FOLDER / BEST_FILE)
        task.load_state_dict(state["model"])
        epochs, accuracy = state["step"] // state["steps_per_epoch"], state["monitor"]["best"]
        chosen = {"by": "val_accuracy", "epochs": epochs, "val_accuracy": accuracy}
        say(f"kept: the weights after epoch {epochs}, right on {100 * accuracy:.1f} % of the validation videos")
    facts = {
        "start": {"encoder": str(config.encoder.absolute()), "weights": weights},
        "chosen": chosen,
    }
    save_classifier(
        folder / ENCODER_FOLDER,
        task.classifier,
        classes=labelled_split.classes,
        label_share=config.label_share,
        facts=facts,
    )
