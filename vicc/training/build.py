"""A stage to what trains it: encoder, method, dataset, optimiser, learning rate."""

from pathlib import Path
from typing import Any

import torch

from vicc.data.dataset import ClipDataset
from vicc.data.frame_source import FrameSource
from vicc.data.store import Video
from vicc.distributed import world_size
from vicc.errors import ViccError
from vicc.methods.coclr import CoCLR
from vicc.methods.cross_stream import CrossStream
from vicc.methods.encoder import Encoder, EncoderConfig
from vicc.methods.infonce import InfoNCE
from vicc.methods.single_stream import SingleStream
from vicc.methods.task import Task
from vicc.methods.ubernce import UberNCE
from vicc.training.checkpoint import CheckpointFolder, copy_weights, load_encoder
from vicc.training.optim import LARC
from vicc.training.stage import CONTRASTIVE, Stage

ENCODER_FOLDER = "encoder"
"""Its name in the folder of a stage."""


def encoder_config(stage: Stage, store: FrameSource) -> EncoderConfig:
    """The encoder a stage trains on a store."""
    return EncoderConfig(
        stream=stage.stream,
        backbone=stage.backbone,
        embedding_dim=stage.embedding_dim,
        clip_frames=stage.clip_frames,
        stride=stage.stride,
        size=stage.size,
        flow_center=stage.augmentation.flow_center,
        flow_std=stage.flow_std,
        flow_normalization=stage.flow_normalization,
        flow_channels=stage.flow_channels,
        # The published channels are steps of the published bound, whatever the store's.
        flow_bound=store.settings.flow_bound if stage.flow_channels == "uv" else 20.0,
        flow_short_side=stage.flow_short_side,
    )


def build_task(stage: Stage, run: Path, store: FrameSource) -> Task:
    """The method of a stage, its encoders built and, where the stage says so, taken from finished stages of the run."""
    encoder = Encoder(encoder_config(stage, store))
    if stage.start_from is not None:
        what = f"Stage {stage.name} starts from {stage.start_from}"
        copy_weights(load_encoder(run / stage.start_from / ENCODER_FOLDER), encoder, what=what)
    teacher = None if stage.teacher is None else load_encoder(run / stage.teacher / ENCODER_FOLDER)
    task = _contrastive(stage, encoder, teacher) if stage.method in CONTRASTIVE else _vicc(stage, encoder, teacher)
    if stage.start_from is not None:
        state = CheckpointFolder(run / stage.start_from).load_newest()
        if state is None:
            raise ViccError(f"{what}, which has no checkpoint in {run}. Train that stage first, in the same run.")
        _copy_rest(state["model"], task, what=what)
    return task


def _vicc(stage: Stage, encoder: Encoder, teacher: Encoder | None) -> Task:
    options: dict[str, Any] = {
        "num_prototypes": stage.num_prototypes,
        "epsilon": stage.epsilon,
        "num_iterations": stage.sinkhorn_iterations,
        "temperature": stage.temperature,
        "queue_length": stage.queue_length // stage.batch_size * stage.batch_size // world_size(),
        "queue_from_epoch": stage.queue_from_epoch,
        "freeze_prototypes_epochs": stage.freeze_prototypes_epochs,
        "views_with_gradient": stage.views_with_gradient,
        "views_for_assign": stage.views_for_assign or range(stage.num_full_views),
        "shuffled_batchnorm": stage.batchnorm == "shuffled",
    }
    return SingleStream(encoder, **options) if teacher is None else CrossStream(encoder, teacher, **options)


def _contrastive(stage: Stage, encoder: Encoder, teacher: Encoder | None) -> Task:
    options: dict[str, Any] = {
        "queue_length": stage.queue_length,
        "temperature": stage.temperature,
        "key_momentum": stage.key_momentum,
        "shuffled_batchnorm": stage.batchnorm == "shuffled",
    }
    if teacher is not None:
        return CoCLR(encoder, teacher, num_mined=stage.num_mined, **options)
    return (UberNCE if stage.method == "ubernce" else InfoNCE)(encoder, **options)


def _copy_rest(model: dict[str, torch.Tensor], task: Task, *, what: str) -> None:
    """Take over what an earlier stage trained beside its encoder (prototypes, key encoder) where both have it."""
    for name, child in task.named_children():
        state = {key.removeprefix(f"{name}."): value for key, value in model.items() if key.startswith(f"{name}.")}
        if name in ("encoder", "teacher") or not state:
            continue
        ours = {key: value.shape for key, value in child.state_dict().items()}
        if ours != {key: value.shape for key, value in state.items()}:
            raise ViccError(f"{what}, whose {name} have other shapes: set the same numbers for both.")
        child.load_state_dict(state)


def build_dataset(stage: Stage, task: Task, store: FrameSource, videos: list[Video], *, seed: int) -> ClipDataset:
    """The training clips of a stage."""
    encoders = [task.encoder] if task.teacher is None else [task.encoder, task.teacher]
    flow_forms = [encoder.config.flow_form for encoder in encoders if encoder.config.stream == "flow"]
    return ClipDataset(
        store,
        videos,
        streams=task.streams,
        num_views=2,
        clip_frames=stage.clip_frames,
        stride=stage.stride,
        size=stage.size,
        distance=stage.view_distance,
        augmentation=stage.augmentation,
        seed=seed,
        small_views=stage.small_resolutions(),
        small_streams=(task.encoder.config.stream,),
        flow_form=flow_forms[0] if flow_forms else None,
    )


def build_optimizer(stage: Stage, task: Task) -> torch.optim.Optimizer:
    """The optimiser over everything that is trained."""
    weights = [weight for weight in task.parameters() if weight.requires_grad]
    if stage.optimizer == "larc":
        return LARC(weights, lr=stage.learning_rate, momentum=stage.momentum, weight_decay=stage.weight_decay)
    # Adam adds weight decay to the gradient, AdamW shrinks the weights themselves.
    adam = torch.optim.Adam if stage.optimizer == "adam" else torch.optim.AdamW
    # foreach: one call for all tensors; 0.13 M parameters in 60 tensors are all overhead otherwise.
    return adam(
        weights, lr=stage.learning_rate, betas=(stage.momentum, 0.999), weight_decay=stage.weight_decay, foreach=True
    )
