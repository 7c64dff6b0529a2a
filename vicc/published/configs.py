"""What files of the published code are read and written with."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from vicc.settings import Place, Positional, Settings


@dataclass(frozen=True)
class ImportConfig(Settings):
    """Read a published checkpoint of ViCC, InfoNCE, UberNCE, CoCLR or a classifier on them into an
    encoder folder.

    Prints what the file held. A file with tensors that are not known is refused, with their names.
    The folder also gets a card (README.md) and what the file held beside the encoder: the other
    stream's encoder in FOLDER/teacher, the momentum encoder in FOLDER/key_encoder, prototypes,
    queue, classifier.

    Example:
        vicc import vicc-rgb.pth.tar --out imported-rgb --stream rgb
    """

    file: Annotated[Path, Place("checkpoint"), Positional]
    """The published file, .pth.tar. Loading it never executes code."""
    out: Path
    """Folder to write; must not exist, or be empty."""
    stream: Literal["rgb", "flow"] | None = None
    """Stream that the trained encoder sees. Published files do not name it, so it must be given for
    them.
    """
    allow_partial: bool = False
    """Leave out, and list, tensors that are not known and parts that are incomplete. The backbone
    must be complete.
    """


@dataclass(frozen=True)
class ExportConfig(Settings):
    """Write an encoder in the layout that the published code reads.

    Example:
        vicc export imported-rgb --out vicc-rgb.pth.tar
        vicc export run/rgb-2 --out rgb-2.pth.tar
    """

    source: Annotated[Path, Place("source of an export"), Positional]
    """What to export: imported folder, stage of a run (RUN/rgb-2), run of `vicc finetune`, or
    encoder folder (then without prototypes).
    """
    out: Path
    """File to write; must not exist."""
    format: Literal["published"] = "published"
    """published: .pth.tar as the published code writes it, for S3D and R(2+1)D."""
