"""A small evaluation while training, without labels: instance retrieval R@1 (same video).

It looks at training videos only, so that nothing is chosen by what is tested in the end.
"""

import math
from copy import copy

import torch
import torch.nn.functional as F

from vicc.data.dataset import ClipDataset
from vicc.data.loader import collate
from vicc.device import Precision
from vicc.distributed import all_gather, rank, world_size
from vicc.methods.encoder import Encoder
from vicc.retrieval import centered, hits, search, similarity

MAX_VIDEOS = 200
# A video that is looked at costs two clips forward; one that is trained on two to four clips,
# mostly back as well.
_SHARE = 1 / 12
_BATCH = 8


def evaluation_period(num_videos: int) -> int:
    """Epochs from one evaluation to the next, such that it looks at no more than a twelfth of what
    is trained on.
    """
    return max(1, math.ceil(min(MAX_VIDEOS, num_videos) / (_SHARE * num_videos)))


class OnlineEvaluation:
    """Two training views of each of some videos, the same each time, through the encoder as it is.

    Weights, BatchNorm's statistics, modes and random streams are left as they were. Several
    processes share the work.

    Args:
        encoder: the one that is trained, on its device.
        dataset: training clips; its augmentation makes the views.
    """

    def __init__(self, encoder: Encoder, dataset: ClipDataset, precision: Precision) -> None:
        self._encoder = encoder
        self._precision = precision
        # The views of the encoder's own stream alone, drawn from another seed than those that are
        # trained on.
        self._dataset = copy(dataset)
        self._dataset.streams = (encoder.config.stream,)
        self._dataset.small_views = ()
        self._dataset.seed = dataset.seed + 1
        count = min(MAX_VIDEOS, len(dataset)) // world_size() * world_size()
        self._places = [place * len(dataset) // count for place in range(count)]

    @torch.no_grad()
    def __call__(self) -> dict[str, float]:
        """Instance retrieval R@1 (same video), and R@1 by label where videos have labels.

        Returns:
            `instance_recall`: the share of first clips whose nearest second clip is of the same
                video.
            `label_recall`: the share of videos whose nearest other one has their label; left out
                without labels.
        """
        modes = {module: module.training for module in self._encoder.modules()}
        self._encoder.eval()
        try:
            features = self._features()
        finally:
            for module, mode in modes.items():
                module.training = mode
        first, second = features.unbind(1)
        names = [str(place) for place in self._places]
        found = {"instance_recall": _share(hits(similarity(first, second), names, names, k=1))}
        labels = self._dataset.labels
        if labels is not None and len(set(labels)) > 1:
            known = torch.tensor([labels[place] for place in self._places])
            both = centered(features.mean(1))
            _, nearest = search(both, both, k=1, exclude_self=True)
            found["label_recall"] = _share(known[nearest[:, 0]] == known)
        return found

    def _features(self) -> torch.Tensor:
        """Features (N, 2, D) of unit length on the CPU, in the order of the videos, those of all
        processes.
        """
        share = len(self._places) // world_size()
        mine = self._places[rank() * share : (rank() + 1) * share]
        parts = []
        for start in range(0, share, _BATCH):
            clips = collate([self._dataset[(0, place)] for place in mine[start : start + _BATCH]])
            views = clips.clips[self._encoder.config.stream].to(self._precision.device)
            with self._precision.autocast():
                features = self._encoder.features(views.flatten(0, 1))
            parts.append(F.normalize(features.float(), dim=1).unflatten(0, views.shape[:2]))
        return all_gather(torch.cat(parts)).cpu()


def _share(found: torch.Tensor) -> float:
    return int(found.sum()) / len(found)
