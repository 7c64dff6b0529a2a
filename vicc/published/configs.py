"""What files of the published code are read and written with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vicc.settings import Place, Positional, Settings


@dataclass(frozen=True)
class ImportConfig(Settings):
    """Read a published checkpoint of ViCC, InfoNCE, UberNCE, CoCLR or a classifier on them into an encoder folder.

    Says what it found. Every tensor is given a place, or the file is refused with the names of those that have none.
    The folder also gets a card (README.md) and what the file held beside the encoder: the other stream's encoder in
    FOLDER/teacher, the momentum encoder in FOLDER/key_encoder, prototypes, queue, classifier.

    Example:
        vicc import vicc-rgb.pth.tar --out imported-rgb --stream rgb
    """

    file: Annotated[Path, Place("checkpoint"), Positional]
    """The published file, .pth.tar. Loading it never executes code."""
    out: Path
    """Folder to write; must not exist, or be empty."""
    stream: Literal["rgb", "flow"] | None = None
    """What the trained encoder sees. The published files do not say, so it is needed for them."""
    allow_partial: bool = False
    """Leave out tensors that have no place and parts that are not whole, and say so. The backbone must be whole."""


@dataclass(frozen=True)
class ExportConfig(Settings):
    """Write an encoder in the layout that the published code reads.

    Example:
        vicc export imported-rgb --out vicc-rgb.pth.tar
        vicc export run/rgb-2 --out rgb-2.pth.tar
    """

    source: Annotated[Path, Place("source of an export"), Positional]
    """Imported folder, stage of a run (RUN/rgb-2), run of `vicc finetune`, or encoder folder (encoder only, without
    prototypes)."""
    out: Path
    """File to write; must not exist."""
    format: Literal["published"] = "published"
    """published: .pth.tar as the published code writes it, for S3D and R(2+1)D."""
