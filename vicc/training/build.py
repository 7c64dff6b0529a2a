"""A stage to what trains it: encoder, method, dataset, optimiser, learning rate."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vicc.data.dataset import ClipDataset
from vicc.data.frame_reader import FrameReader
from vicc.data.records import Video
from vicc.device import Precision, cpu_bf16_loses_gradients, keep_freed_memory
from vicc.errors import ViccError
from vicc.methods.batchnorm import synchronize_batchnorm
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.registry import build_method
from vicc.methods.task import Task
from vicc.progress import say
from vicc.training.checkpoint import CheckpointFolder, copy_weights, load_encoder
from vicc.training.configs import TrainingConfig
from vicc.training.optim import LARC
from vicc.training.stage import Recipe, Stage
from vicc.training.start import Start, take_prototypes, take_weights
from vicc.training.step import TrainingStep, checkpoint_activations, compile_encoders

ENCODER_FOLDER = "encoder"
"""Its name in the folder of a stage."""


def encoder_config(stage: Stage, *, flow_bound: float) -> EncoderConfig:
    """The encoder a stage trains on a store whose flow was clipped at `flow_bound`."""
    # The published channels are steps of the published bound, whatever the store's.
    return replace(stage.encoder, flow_bound=flow_bound if stage.encoder.flow_channels == "uv" else 20.0)


def build_task(stage: Stage, run: Path, store: FrameReader, start: Start | None = None) -> Task:
    """The method of a stage, its encoders built and, where the stage says so, taken from finished
    stages of the run.

    Args:
        start: weights for a stage that goes on from no other; None for random ones.
    """
    encoder = Encoder(encoder_config(stage, flow_bound=store.settings.flow_bound))
    if stage.start_from is not None:
        what = f"Stage {stage.name} starts from {stage.start_from}"
        copy_weights(load_encoder(run / stage.start_from / ENCODER_FOLDER), encoder, what=what)
    if start is not None:
        take_weights(start, stage, encoder)
    teacher = None if stage.teacher is None else load_encoder(run / stage.teacher / ENCODER_FOLDER)
    task = assemble(stage, encoder, teacher)
    if stage.start_from is not None:
        state = CheckpointFolder(run / stage.start_from).load_newest()
        if state is None:
            raise ViccError(f"{what}, which has no checkpoint in {run}. Train that stage first, in the same run.")
        _copy_rest(state["model"], task, what=what)
    if start is not None:
        take_prototypes(start, stage, task)
    return task


def untrained_task(recipe: Recipe, stage: Stage) -> Task:
    """The method of a stage with random weights in all its encoders, the teacher's too; as large
    and as slow.
    """

    def untrained(name: str | None) -> Encoder | None:
        found = next((other for other in recipe.stages if other.name == name), None)
        return None if found is None else Encoder(encoder_config(found, flow_bound=20.0)).eval()

    return assemble(stage, Encoder(encoder_config(stage, flow_bound=20.0)), untrained(stage.teacher))


def assemble(stage: Stage, encoder: Encoder, teacher: Encoder | None = None) -> Task:
    """The method of a stage on an encoder, what it trains beside it with random weights."""
    return build_method(stage.method, stage.settings, encoder, teacher, batch_size=stage.length.batch_size)


def _copy_rest(model: dict[str, torch.Tensor], task: Task, *, what: str) -> None:
    """Take over what an earlier stage trained beside its encoder (prototypes, key encoder) where
    both have it.
    """
    for name, child in task.named_children():
        state = {key.removeprefix(f"{name}."): value for key, value in model.items() if key.startswith(f"{name}.")}
        ours = {key: value.shape for key, value in child.state_dict().items()}
        if name in ("encoder", "teacher") or not state or not ours:
            continue
        if ours != {key: value.shape for key, value in state.items()}:
            raise ViccError(f"{what}, whose {name} have other shapes: set the same numbers for both.")
        child.load_state_dict(state)


def build_step(stage: Stage, task: Task, precision: Precision, config: TrainingConfig) -> TrainingStep:
    """A stage's training step: the method on its device, its optimiser, and what the flags ask for.

    Raises:
        ViccError: a backbone without blocks for --checkpoint-activations, or a machine that cannot
            --compile.
    """
    if stage.settings.synchronizes_batchnorm():
        synchronize_batchnorm(task, precision.device)
    keep_freed_memory(precision.device)
    precision.place(task)
    precision = _sound_precision(precision, stage, task.encoder)
    if config.checkpoint_activations:
        checkpoint_activations(task.encoder)
    if config.compile:
        compile_encoders(task)
    return TrainingStep(task, build_optimizer(stage, task), precision, accumulate=config.accumulate)


def _sound_precision(precision: Precision, stage: Stage, encoder: Encoder) -> Precision:
    """fp32 in place of bf16 where this stage's clips are too short for the CPU's bf16 gradients."""
    if precision.name == "fp16" and precision.device.type == "cpu":
        say(f"{stage.name}: CPUs emulate fp16, tens of times slower than fp32; for a test it will do")
    if precision.name != "bf16" or precision.device.type != "cpu":
        return precision
    config = encoder.config
    clip = torch.zeros(1, config.in_channels, config.clip_frames, config.size, config.size, dtype=torch.uint8)
    unsound = cpu_bf16_loses_gradients(encoder, clip)
    if not unsound:
        return precision
    say(
        f"{stage.name}: fp32, since bf16 gradients are wrong on CPUs where a clip is shorter than a kernel "
        f"({len(unsound)} layers with clips of {stage.encoder.clip_frames} frames)"
    )
    return replace(precision, name="fp32")


def build_dataset(stage: Stage, task: Task, store: FrameReader, videos: list[Video], *, seed: int) -> ClipDataset:
    """The training clips of a stage."""
    encoders = [task.encoder] if task.teacher is None else [task.encoder, task.teacher]
    flow_forms = [encoder.config.flow_form for encoder in encoders if encoder.config.stream == "flow"]
    return ClipDataset(
        store,
        videos,
        streams=task.streams,
        num_views=stage.settings.num_clips,
        clip_frames=stage.encoder.clip_frames,
        stride=stage.encoder.stride,
        size=stage.encoder.size,
        distance=stage.view_distance,
        augmentation=stage.augmentation,
        seed=seed,
        small_views=stage.settings.small_resolutions(),
        small_streams=(task.encoder.config.stream,),
        flow_form=flow_forms[0] if flow_forms else None,
        crop=stage.encoder.crop,
    )


def build_optimizer(stage: Stage, task: Task) -> torch.optim.Optimizer:
    """The optimiser over everything that is trained."""
    weights = [weight for weight in task.parameters() if weight.requires_grad]
    groups = _with_ratio(weights, task.encoder, stage.settings.encoder_rate_ratio())
    # foreach: one call for all tensors; 0.13 M parameters in 60 tensors are all overhead otherwise.
    # On GPUs one kernel for all, which can also pass over a step whose fp16 gradients overflowed
    # without telling the CPU first.
    on_gpu = weights[0].is_cuda
    optimizer, rate = stage.optimizer, stage.schedule.learning_rate
    if optimizer.name == "sgd":
        return torch.optim.SGD(
            groups,
            lr=rate,
            momentum=optimizer.momentum,
            weight_decay=optimizer.weight_decay,
            foreach=not on_gpu,
            fused=on_gpu,
        )
    if optimizer.name == "larc":
        return LARC(groups, lr=rate, momentum=optimizer.momentum, weight_decay=optimizer.weight_decay)
    # Adam adds weight decay to the gradient, AdamW shrinks the weights themselves.
    adam = torch.optim.Adam if optimizer.name == "adam" else torch.optim.AdamW
    return adam(
        groups,
        lr=rate,
        betas=(optimizer.momentum, 0.999),
        weight_decay=optimizer.weight_decay,
        foreach=not on_gpu,
        fused=on_gpu,
    )


def _with_ratio(weights: list[torch.nn.Parameter], encoder: Encoder, ratio: float) -> list[Any]:
    """The weights as the optimiser takes them: in groups where those of the encoder have a learning
    rate of their own, `ratio` times that of the others.
    """
    inner = {id(weight) for weight in encoder.parameters()}
    if ratio == 1 or not any(id(weight) in inner for weight in weights):
        return weights
    return [
        {"params": [weight for weight in weights if id(weight) in inner], "learning_rate_ratio": ratio},
        {"params": [weight for weight in weights if id(weight) not in inner], "learning_rate_ratio": 1.0},
    ]
