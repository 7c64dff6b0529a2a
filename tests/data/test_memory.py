"""A process that loads clips for days must not grow."""

import multiprocessing
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from vicc.data.dataset import ClipDataset
from vicc.data.frame_pack import StoredStream
from vicc.data.frame_reader import FrameReader
from vicc.data.loader import ClipLoader, EpochBatches
from vicc.data.store import Store
from vicc.prepare.scan import scan_videos
from vicc.transforms.augmentation import Augmentation

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads a process's memory from /proc"),
]


def private_bytes(process: int) -> int:
    """Memory of a process that is its own, pages of files (which a store's are) left out."""
    status = Path(f"/proc/{process}/status").read_text()
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def growth(reader: FrameReader, *, samples: int, warm_up: int, batch_size: int = 10) -> int:
    """Bytes by which one worker has grown between `warm_up` and `samples` samples."""
    dataset = ClipDataset(
        reader,
        reader.videos,
        streams=("rgb", "flow", "diff"),
        num_views=1,
        clip_frames=3,
        stride=1,
        size=16,
        distance="any",
        augmentation=Augmentation(),
        seed=0,
    )
    batches = EpochBatches(len(dataset), batch_size, first_step=0, last_step=samples // batch_size, seed=0)
    seen: list[int] = []
    # Spawned: a forked worker begins with this process's free memory, and would grow into that unseen.
    for step, _ in enumerate(ClipLoader(dataset, batches, workers=1, start_method="spawn")):
        if step in (warm_up // batch_size, samples // batch_size - 10):  # before the worker comes to its end
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            seen.append(private_bytes(worker.pid))
    return seen[1] - seen[0]


def test_a_worker_is_flat_over_ten_thousand_samples(store_path: Path) -> None:
    """Nothing is kept (no cache), so every sample decodes, crops and colours anew; 1 kB a sample would be seen."""
    assert growth(Store(store_path), samples=10_000, warm_up=2_000) < 5 << 20


def test_a_worker_that_decodes_files_is_flat(video_folder: Path) -> None:
    """Every sample opens a file and computes flow. A decoder that is not closed is some 100 kB."""
    assert growth(scan_videos(video_folder, workers=1), samples=900, warm_up=300) < 5 << 20


class Leaking(Store):
    """Keeps a kilobyte of every answer."""

    def frames(self, video_id: str, stream: StoredStream, numbers: Sequence[int]) -> np.ndarray:
        self.kept = [*getattr(self, "kept", []), bytes(1024)]
        return super().frames(video_id, stream, numbers)


def test_a_kilobyte_a_sample_would_be_seen(store_path: Path) -> None:
    """What the tests above must be able to tell: 8,000 samples of this would be 24 MB. Of the 7 MB here some may go
    into huge pages that the kernel has made of the worker's memory before.
    """
    assert growth(Leaking(store_path), samples=3_000, warm_up=500) > 2 << 20
