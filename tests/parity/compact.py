"""Cut a folder of published numbers down to what stands in this repository.

    python tests/parity/compact.py NUMBERS/fixtures tests/parity/fixtures

Kept are all losses, logits, masks, queues, norms and statistics of every case, and some large arrays once each; values
are not touched.
"""

import json
import shutil
import sys
from pathlib import Path

import numpy as np

# Large arrays that are kept, by file; every other array beyond LARGEST bytes is left out.
KEPT = {
    "vicc.f64": ("shuf_q.grad/prototypes.weight",),
    "vicc2.f64": ("shuf_q.grad/prototypes.weight",),
    "traj_single_shuf.f64": ("param/prototypes.weight",),
    "traj_cross_shuf.f64": ("param/prototypes.weight",),
    "s3d.f64": (),
    "nce.f64": ("coclr_full.grad/encoder_q.4.weight",),
}
LARGEST = 64 << 10
WHOLE = ("sinkhorn", "retrieval", "lincls.f64", "r21d.f64")
DESCRIPTIONS = ("vicc_meta", "vicc2_meta", "nce_meta", "sinkhorn_meta", "retrieval_meta", "traj_meta", "frame_sampler")


def compact(source: Path, target: Path) -> None:
    """Write the compact folder `target` from `source`."""
    target.mkdir(parents=True, exist_ok=True)
    for name in WHOLE:
        shutil.copyfile(source / f"{name}.npz", target / f"{name}.npz")
    for name, kept in KEPT.items():
        with np.load(source / f"{name}.npz") as stored:
            arrays = {key: stored[key] for key in stored.files if stored[key].nbytes <= LARGEST or key in kept}
        np.savez_compressed(target / f"{name}.npz", **arrays)
    for name in DESCRIPTIONS:
        content = json.loads((source / f"{name}.json").read_text())
        (target / f"{name}.json").write_text(json.dumps(content, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    compact(Path(sys.argv[1]), Path(sys.argv[2]))
