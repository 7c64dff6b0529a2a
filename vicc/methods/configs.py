"""What an encoder and a method are set to: plain data, free of torch, so that a recipe is read and
checked at once.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal

from vicc.batch import CropPlace, FlowChannels, RgbNormalization, Stream
from vicc.settings import range_problems
from vicc.transforms.flow_form import FlowForm

ViewsWithGradient = Literal["one", "both"]


@dataclass(frozen=True)
class EncoderConfig:
    """All that is needed to build an encoder and to feed it.

    Attributes:
        stream: what it takes: "rgb" (3 channels), "flow" (2: u, v), or "diff" (3: how RGB changes
            to the next frame).
        backbone: a name in `list_backbones()`.
        embedding_dim: D of the paper; 0 for an encoder without a projection head, such as a
            classifier's: its embedding is the pooled feature.
        clip_frames, stride, size: T, frames from one to the next, and pixels of the clips it was
            made for.
        rgb_normalization: which means and deviations RGB is normalised by: "imagenet" (as
            published), or those that torchvision's weights expect, "kinetics" (S3D and the ResNets)
            and "slowfast" (MViT). Flow and diff have their own.
        flow_center: whether each frame's median flow is subtracted first.
        flow_std: the number that flow is divided by, in steps of the stored form.
        flow_normalization: "fixed" divides by `flow_std` only; "clip" also divides each clip of
            flow or diff by its own root mean square, so that clips no longer differ first of all in
            the size and speed of all motion.
        flow_channels: "uv" (two channels), or "128vu", the published three: a constant, v, u, in
            steps of `flow_bound / 127.5` pixels around 127.5, normalised like RGB.
        flow_bound: displacement, in pixels per frame, at which flow is clipped.
        flow_short_side: shorter side of the frames in whose pixels flow is counted; None for the
            store's own. It is 240 for the published encoders.
        crop: what views are cut out of, in training and in evaluation: the whole "frame", or the
            square in which most of the clip's "motion" is, see `vicc.transforms.motion_crop`.
    """

    stream: Stream
    backbone: str = "s3d"
    embedding_dim: int = 128
    clip_frames: int = 32
    stride: int = 1
    size: int = 128
    rgb_normalization: RgbNormalization = "imagenet"
    flow_center: bool = False
    flow_std: float = 24.0
    flow_normalization: Literal["fixed", "clip"] = "fixed"
    flow_channels: FlowChannels = "uv"
    flow_bound: float = 20.0
    flow_short_side: int | None = None
    crop: CropPlace = "frame"

    @property
    def in_channels(self) -> int:
        """Channels of the clips it takes."""
        return self.flow_form.num_channels if self.stream == "flow" else 3

    @property
    def flow_form(self) -> FlowForm:
        """The form in which it takes flow."""
        return FlowForm(self.flow_channels, self.flow_bound, self.flow_short_side)


@dataclass(frozen=True)
class MethodSettings:
    """The settings of a method, and the facts about it that the plan, the alarms, the tables and
    the loader use.

    Each method has a subclass, a frozen dataclass whose fields are its settings; `register_method`
    takes it. The defaults here are those of a method that encodes two clips of a video, both with
    gradient.

    Attributes:
        num_clips: clips of a video and stream that are loaded in full resolution.
        needs_teacher: whether it needs a finished encoder of the other stream.
        classifies: whether it is a classifier, trained on a finished encoder, without projection
            head.
        fewest_videos: that a process must have in a step; 2 where a BatchNorm sees one value of
            each.
        row_prefix: text before a stage's name in tables; None for the method's name.
    """

    num_clips: ClassVar[int] = 2
    needs_teacher: ClassVar[bool] = False
    classifies: ClassVar[bool] = False
    fewest_videos: ClassVar[int] = 1
    row_prefix: ClassVar[str | None] = None

    def problems(self, encoder: EncoderConfig) -> Iterator[str]:
        """A sentence for each setting that contradicts another one or the encoder's."""
        yield from ()

    def clips_encoded(self) -> tuple[int, int]:
        """Clips of one video that a step encodes: with gradient, and without."""
        return self.num_clips, 0

    def fewest_in_batch(self) -> int:
        """Videos that a step must have, those of all processes together, for the loss to compare."""
        return 1

    def chance_loss(self, batch_size: int) -> float | None:
        """The loss at chance, when all videos look alike to the encoder; None where the method has
        no such number.

        Args:
            batch_size: videos a step, those of all processes together.
        """
        return None

    @property
    def chance_name(self) -> str:
        """What `chance_loss` is, in a few words, such as "ln K"."""
        return ""

    def how_it_learns(self) -> tuple[str, ...]:
        """For readers of a run's page: sentences that say what the loss asks for; empty where there
        is nothing to say.
        """
        return ()

    def small_resolutions(self) -> tuple[tuple[int, int], ...]:
        """(views, pixels) of each group of smaller views, for instance ((4, 96),)."""
        return ()

    def prototype_heads(self) -> tuple[int, ...]:
        """Number of prototypes of each head."""
        return ()

    def queue_rows(self) -> int:
        """Length of the queue, that of all processes together; 0 for none."""
        return 0

    def queue_opens(self) -> int:
        """The epoch from which the queue collects."""
        return 0

    def needs_queue(self) -> bool:
        """Whether the queue is a part of the method that cannot be left out."""
        return False

    def epochs_frozen(self) -> int:
        """Epochs in which prototypes stay frozen."""
        return 0

    def queue_bytes(self, embedding_dim: int, processes: int) -> int:
        """Bytes of all processes' queues in a checkpoint."""
        return 0

    def encoder_rate_ratio(self) -> float:
        """Learning rate of the encoder, divided by that of the other weights."""
        return 1.0

    def synchronizes_batchnorm(self) -> bool:
        """Whether BatchNorm uses the clips of all processes."""
        return getattr(self, "batchnorm", "plain") == "sync"


@dataclass(frozen=True)
class SingleStreamSettings(MethodSettings):
    """Settings of ViCC's first stage, see `SingleStream`. Defaults are those of the paper."""

    num_prototypes: tuple[int, ...] = (300,)
    """K; several numbers make several heads."""
    epsilon: float = 0.05
    """Epsilon of Sinkhorn: lower values make assignments sharper."""
    sinkhorn_iterations: int = 3
    """Iterations of Sinkhorn."""
    temperature: float = 0.1
    """Temperature of the softmax of predictions."""
    queue_length: int = 0
    """Past embeddings in the queues of all processes together; 0 for no queue."""
    queue_from_epoch: int = 0
    """Epoch from which the queue collects."""
    freeze_prototypes_epochs: int = 0
    """Number of epochs, from the start, in which prototypes stay frozen."""
    views_for_assign: tuple[int, ...] = ()
    """Views whose assignments are predicted, in the order of the method; empty for all full views.
    """
    views_with_gradient: ViewsWithGradient = "both"
    """"one" trains as the published code does: the second view is encoded without gradient."""
    batchnorm: Literal["plain", "shuffled", "sync"] = "plain"
    """"shuffled" encodes views without gradient among the clips of other processes, "sync" uses the
    clips of all.
    """
    small_views: str = ""
    """Further views of lower resolution (SwAV's multi-crop), as COUNTxPIXELS, for instance "4x96",
    or several joined by "+"; they are predicted, not assigned.
    """

    swap_weight: float = 1.0
    """Weight of the swapped prediction in the loss; 0 for none, then without prototypes and queue.
    """
    contrast_weight: float = 0.0
    """Weight of a contrast term (NT-Xent), in which views find their own video among those of the
    batch; 0 for none, as published.
    """
    contrast_temperature: float = 0.1
    """Temperature of the contrast's softmax over views."""
    contrast_memory: int = 0
    """Past embeddings, of all processes together, that are further negatives of the contrast; 0 for
    none.
    """

    row_prefix: ClassVar[str | None] = ""
    num_full_views: ClassVar[int] = 2
    """Views in full resolution that take part in the loss, those of the teacher included."""

    def problems(self, encoder: EncoderConfig) -> Iterator[str]:
        yield from range_problems(
            vars(self),
            above_zero=("epsilon", "temperature", "contrast_temperature"),
            from_zero=("queue_length", "swap_weight", "contrast_weight", "contrast_memory"),
        )
        if not self.swap_weight and not self.contrast_weight:
            yield "swap_weight and contrast_weight are both 0, which leaves no loss; set one of them above 0"
        if self.contrast_memory and not self.contrast_weight:
            yield (
                f"contrast_memory={self.contrast_memory} holds negatives of the contrast term, which is left out; set "
                "contrast_weight above 0, or contrast_memory=0"
            )
        if not self.num_prototypes or min(self.num_prototypes) < 1:
            yield f"num_prototypes is {self.num_prototypes}; expected at least 1 a head"
        if not all(0 <= view < self.num_full_views for view in self.views_for_assign):
            yield (
                f"views_for_assign is {self.views_for_assign}; the full views of this method have the numbers 0 to "
                f"{self.num_full_views - 1}"
            )
        if self.small_views and self.views_with_gradient == "one":
            yield (
                "small_views are there to be trained through; views_with_gradient=one leaves only the first view a "
                "gradient. Set views_with_gradient=both"
            )
        if self.batchnorm == "shuffled" and self.views_with_gradient == "both":
            yield (
                "batchnorm=shuffled exchanges views between processes without their gradient; it goes with "
                "views_with_gradient=one. Use batchnorm=sync for both"
            )
        for part in self._small_parts():
            count, times, pixels = part.partition("x")
            if not times or not (count.isdecimal() and pixels.isdecimal()) or not 0 < int(pixels) < encoder.size:
                yield (
                    f"small_views is {self.small_views!r}; expected COUNTxPIXELS with fewer pixels than the "
                    f"{encoder.size} of the full views, for instance 4x{max(1, encoder.size * 3 // 4)}"
                )

    def clips_encoded(self) -> tuple[int, int]:
        trained = 1 if self.views_with_gradient == "one" else 2
        return trained + self._num_small_views(), self.num_full_views - trained

    def fewest_in_batch(self) -> int:
        return 2 if self.contrast_weight and not self.contrast_memory else 1

    def chance_loss(self, batch_size: int) -> float:
        swapped = sum(map(math.log, self.num_prototypes)) / len(self.num_prototypes)
        return self.swap_weight * swapped + self.contrast_weight * self._contrast_at_chance(batch_size)

    def _contrast_at_chance(self, batch_size: int) -> float:
        """The logarithm of the keys that a view is compared with, the memory full; its mean over
        the views.
        """
        keys, small = self.num_clips * batch_size + self.contrast_memory, self._num_small_views()
        return (self.num_clips * math.log(keys - 1) + small * math.log(keys)) / (self.num_clips + small)

    @property
    def chance_name(self) -> str:
        terms = ((self.swap_weight, "ln K"), (self.contrast_weight, "ln of the keys compared"))
        return " + ".join(name if weight == 1 else f"{weight:g} {name}" for weight, name in terms if weight)

    def how_it_learns(self) -> tuple[str, ...]:
        swapped = (
            "An encoder learns by sorting every clip into one of K prototypes (cluster centres, learned too) and "
            "predicting, from one clip of a video, where another clip of it was put."
        )
        return (swapped,) * (self.swap_weight > 0) + (self._contrast_in_words(),) * (self.contrast_weight > 0)

    def _contrast_in_words(self) -> str:
        also = "It also" if self.swap_weight else "An encoder"
        return f"{also} learns by finding, among the clips of many videos, those of the same video."

    def _num_small_views(self) -> int:
        return sum(count for count, _ in self.small_resolutions())

    def small_resolutions(self) -> tuple[tuple[int, int], ...]:
        groups = (part.partition("x") for part in self._small_parts())
        return tuple((int(count), int(pixels)) for count, _, pixels in groups)

    def _small_parts(self) -> list[str]:
        return self.small_views.split("+") if self.small_views else []

    def prototype_heads(self) -> tuple[int, ...]:
        return self.num_prototypes if self.swap_weight else ()

    def queue_rows(self) -> int:
        return self.queue_length if self.swap_weight else 0

    def queue_opens(self) -> int:
        return self.queue_from_epoch

    def epochs_frozen(self) -> int:
        return self.freeze_prototypes_epochs if self.swap_weight else 0

    def queue_bytes(self, embedding_dim: int, processes: int) -> int:
        queue = 4 * self.queue_rows() * embedding_dim * self.num_full_views
        memory = self.contrast_memory * (4 * embedding_dim + 8)  # an embedding and the number of its video
        return queue + memory * processes  # every one holds the whole memory


@dataclass(frozen=True)
class CrossStreamSettings(SingleStreamSettings):
    """Settings of ViCC's second stage, see `CrossStream`."""

    needs_teacher: ClassVar[bool] = True
    num_full_views: ClassVar[int] = 4

    def _contrast_at_chance(self, batch_size: int) -> float:
        return math.log(batch_size + self.contrast_memory)

    def _contrast_in_words(self) -> str:
        also = "also " if self.swap_weight else ""
        return f"One that is taught {also}finds them among clips as the other stream's encoder describes them."


@dataclass(frozen=True)
class InfoNCESettings(MethodSettings):
    """Settings of InfoNCE with a queue of keys, see `InfoNCE`."""

    queue_length: int = 0
    """Past keys, those of all processes; must be set."""
    temperature: float = 0.1
    """Temperature of the softmax over keys."""
    key_momentum: float = 0.999
    """Share of itself that the key encoder keeps at each step."""
    batchnorm: Literal["plain", "shuffled", "sync"] = "plain"
    """"shuffled" encodes keys among the clips of other processes, "sync" uses the clips of all
    processes.
    """

    row_prefix: ClassVar[str | None] = "InfoNCE"

    def problems(self, encoder: EncoderConfig) -> Iterator[str]:
        yield from range_problems(
            vars(self), above_zero=("temperature",), from_zero=("queue_length",), below_one=("key_momentum",)
        )
        if not self.queue_length:
            yield "this method compares with a queue of keys; queue_length must be above 0"

    def clips_encoded(self) -> tuple[int, int]:
        return 1, 1 + self.needs_teacher  # the query; the key, and the teacher's clip

    def chance_loss(self, batch_size: int) -> float:
        return math.log(1 + self.queue_length)

    @property
    def chance_name(self) -> str:
        return "ln of the keys compared"

    def how_it_learns(self) -> tuple[str, ...]:
        return ("An encoder learns by finding the clips that belong to its own among those of many videos.",)

    def queue_rows(self) -> int:
        return self.queue_length

    def needs_queue(self) -> bool:
        return True

    def queue_bytes(self, embedding_dim: int, processes: int) -> int:
        return 4 * self.queue_length * embedding_dim * (1 + self.needs_teacher) * processes  # every one holds all keys


@dataclass(frozen=True)
class UberNCESettings(InfoNCESettings):
    """Settings of InfoNCE with labels, see `UberNCE`."""

    row_prefix: ClassVar[str | None] = "UberNCE"


@dataclass(frozen=True)
class CoCLRSettings(InfoNCESettings):
    """Settings of co-training, see `CoCLR`."""

    num_mined: int = 5
    """Positives found in the other stream for each query."""

    needs_teacher: ClassVar[bool] = True
    row_prefix: ClassVar[str | None] = "CoCLR"

    def problems(self, encoder: EncoderConfig) -> Iterator[str]:
        yield from super().problems(encoder)
        yield from range_problems(vars(self), from_one=("num_mined",))


@dataclass(frozen=True)
class ClassifierSettings(MethodSettings):
    """Settings of a classifier, see `Classification`."""

    num_classes: int = 0
    """Number of classes; must be set."""
    batchnorm: Literal["plain", "sync"] = "plain"
    """"sync" uses the clips of all processes."""

    num_clips: ClassVar[int] = 1
    classifies: ClassVar[bool] = True

    def problems(self, encoder: EncoderConfig) -> Iterator[str]:
        if self.num_classes < 2:
            yield f"a classifier has num_classes={self.num_classes}; expected at least 2"
        elif encoder.embedding_dim:
            yield (
                f"a classifier works on features before any projection head; embedding_dim is {encoder.embedding_dim}, "
                "expected 0"
            )

    def chance_loss(self, batch_size: int) -> float:
        return math.log(self.num_classes)

    @property
    def chance_name(self) -> str:
        return "ln of the classes"


@dataclass(frozen=True)
class LinearProbeSettings(ClassifierSettings):
    """Settings of a linear classifier on a frozen encoder."""

    fewest_videos: ClassVar[int] = 2  # it normalises features
    row_prefix: ClassVar[str | None] = "Probed"

    def clips_encoded(self) -> tuple[int, int]:
        return 0, 1


@dataclass(frozen=True)
class FineTunedSettings(ClassifierSettings):
    """Settings of fine-tuning: an encoder trained on with labels."""

    dropout: float = 0.9
    """Share of the features that is dropped; published 0.9."""
    backbone_learning_rate_ratio: float = 1.0
    """Learning rate of the backbone over that of the linear layer."""

    row_prefix: ClassVar[str | None] = "Fine-tuned"

    def problems(self, encoder: EncoderConfig) -> Iterator[str]:
        yield from super().problems(encoder)
        yield from range_problems(vars(self), above_zero=("backbone_learning_rate_ratio",), below_one=("dropout",))

    def encoder_rate_ratio(self) -> float:
        return self.backbone_learning_rate_ratio
