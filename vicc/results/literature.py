"""Numbers of the literature, with what they were measured on and how, to stand beside ours where
that is the same.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from vicc.evaluation.result import Data, Protocol

_SPLIT = "official:1"


@dataclass(frozen=True)
class PublishedProtocol:
    """What a protocol of ours must be to be a published one.

    Attributes:
        settings: values that its settings must have; several where they mean the same.
        absent: settings that it must not have.
        flags: what to give to `vicc` to measure so.
    """

    name: str
    version: int
    flags: str
    settings: dict[str, Sequence[object]] = field(default_factory=dict)
    absent: Sequence[str] = ()

    def is_that_of(self, protocol: Protocol) -> bool:
        return (
            (self.name, self.version) == (protocol.name, protocol.version)
            and all(protocol.settings.get(name) in values for name, values in self.settings.items())
            and not any(name in protocol.settings for name in self.absent)
        )


@dataclass(frozen=True)
class PublishedRow:
    """A row of the literature, on the first official split of a data set, pretrained on UCF101's
    split 1.

    Attributes:
        metrics: shares from 0 to 1.
        source: where the numbers stand.
    """

    name: str
    data: str
    protocol: PublishedProtocol
    metrics: dict[str, float]
    source: str


RETRIEVAL = PublishedProtocol(
    "retrieval-published",
    1,
    "retrieve --gallery published",
    settings={"window_step": ("15/32 of a clip", 15), "centering": ("each set by its own mean",)},
    absent=("frames",),
)

FINE_TUNED, LINEAR = (
    PublishedProtocol(
        "test-ten-crop",
        1,
        "test --crops ten",
        settings={"classifier": (classifier,), "window_step": ("15/32 of a clip", 15)},
        absent=("label_share",),
    )
    for classifier in ("fine-tuned", "linear probe")
)


def _recall_at_1(name: str, percent: float, source: str, data: str = "ucf101") -> PublishedRow:
    return PublishedRow(name, data, RETRIEVAL, {"R@1": percent / 100}, source)


def _recalls(name: str, percents: Sequence[float], source: str, data: str) -> PublishedRow:
    metrics = {f"R@{k}": percent / 100 for k, percent in zip((1, 5, 10, 20), percents, strict=True)}
    return PublishedRow(name, data, RETRIEVAL, metrics, source)


def _top_1(name: str, percent: float, protocol: PublishedProtocol, source: str, data: str = "ucf101") -> PublishedRow:
    return PublishedRow(name, data, protocol, {"top-1": percent / 100}, source)


PUBLISHED = (
    _recall_at_1("ViCC-RGB-2, S3D", 62.1, "ViCC README"),
    _recall_at_1("ViCC-Flow-2, S3D", 59.7, "ViCC README"),
    _recall_at_1("ViCC-R+F-2, S3D", 65.1, "ViCC README"),
    _recall_at_1("ViCC RGB, R(2+1)D", 58.6, "ViCC README"),
    _recall_at_1("ViCC Flow, R(2+1)D", 50.0, "ViCC README"),
    _recall_at_1("CoCLR RGB, S3D", 51.8, "CoCLR README"),
    _recalls("CoCLR RGB, S3D", (53.3, 69.4, 76.6, 82.0), "quoted by MVCGC", "ucf101"),
    _recall_at_1("CoCLR Flow, S3D", 48.4, "CoCLR README"),
    _recall_at_1("InfoNCE RGB, S3D", 33.1, "CoCLR README"),
    _recall_at_1("InfoNCE Flow, S3D", 45.2, "CoCLR README"),
    _recall_at_1("ViCC RGB, S3D", 25.5, "quoted", "hmdb51"),
    _recalls("CoCLR RGB, S3D", (23.2, 43.2, 53.5, 65.5), "quoted by MVCGC", "hmdb51"),
    _top_1("ViCC R+F, S3D", 90.5, FINE_TUNED, "ViCC abstract"),
    _top_1("CoCLR RGB, S3D", 81.4, FINE_TUNED, "quoted"),
    _top_1("CoCLR RGB, S3D", 70.2, LINEAR, "quoted"),
    _top_1("ViCC R+F, S3D", 62.2, FINE_TUNED, "quoted", "hmdb51"),
    _top_1("CoCLR RGB, S3D", 52.1, FINE_TUNED, "quoted", "hmdb51"),
    _top_1("CoCLR RGB, S3D", 39.1, LINEAR, "quoted", "hmdb51"),
)


def published_rows(protocol: Protocol, data: Data) -> list[PublishedRow]:
    """The rows of the literature that were measured like this on this data; empty where there are
    none.
    """
    return [row for row in _on(data) if row.protocol.is_that_of(protocol)]


def how_published(protocol: Protocol, data: Data) -> str | None:
    """What to give to `vicc` so that published rows can stand beside; None where they do, and where
    there are none.
    """
    family = protocol.family
    same = protocol.settings.get("classifier")
    others = [
        row.protocol
        for row in _on(data)
        if row.protocol.name.partition("-")[0] == family and row.protocol.settings.get("classifier", (same,)) == (same,)
    ]
    if not others or any(other.is_that_of(protocol) for other in others):
        return None
    return f"vicc {others[0].flags}"


def _on(data: Data) -> list[PublishedRow]:
    return [row for row in PUBLISHED if row.data == data.name and data.split == _SPLIT]
