"""The contrast term: every view must find its own video among many (NT-Xent: SimCLR, Chen et al.,
ICML 2020, equation 1).
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F

from vicc.distributed import all_gather, all_gather_with_gradient, rank
from vicc.methods.queue import KeyQueue


def contrast_logits(
    anchors: torch.Tensor, keys: torch.Tensor, *, temperature: float, left_out: torch.Tensor | None = None
) -> torch.Tensor:
    """Dot products of anchors (A, D) and keys (N, D) over the temperature, (A, N): float32 at
    least, under autocast too.

    Args:
        left_out: (A, N) bool, pairs that are not compared; minus infinity in the result.
    """
    # bf16 would round a cosine near 1 to 0.4 %, which the temperature makes ten times as much.
    with torch.autocast(anchors.device.type, enabled=False):
        logits = _at_least_float32(anchors) @ _at_least_float32(keys).t() / temperature
    return logits if left_out is None else logits.masked_fill(left_out, -torch.inf)


def every_positive_loss(logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """Mean over an anchor's positives of -log of the softmax's share that falls on each: all must
    be found.

    With one positive a row it is the cross-entropy of NT-Xent and InfoNCE; with several, equation 2
    of Khosla et al., NeurIPS 2020.

    Args:
        logits: (A, N), already divided by the temperature.
        positives: (A, N) bool, at least one a row.
    """
    log_p = logits.log_softmax(1).masked_fill(~positives, 0)
    return -(log_p.sum(1) / positives.sum(1)).mean()


@torch.no_grad()
def positive_first(logits: torch.Tensor, positives: torch.Tensor) -> torch.Tensor:
    """The share of rows of logits (A, N) whose largest one is a positive, (A, N) bool."""
    return positives.gather(1, logits.argmax(1, keepdim=True)).float().mean()


class ContrastTerm:
    """Views find their own video among those of the batch, which is that of all processes, and a
    memory of past ones.

    Of the memory take part the rows that hold something, and of those not the ones of the anchor's
    own video. Every process puts in the keys of all, so it is the same everywhere.

    Args:
        temperature: of the softmax over keys.
        memory_length: past embeddings that are kept; 0 for none.
        embedding_dim: D.
    """

    def __init__(self, *, temperature: float, memory_length: int, embedding_dim: int) -> None:
        self.temperature = temperature
        columns: dict[str, tuple[int, ...]] = {"key": (embedding_dim,), "video": ()}
        self.memory = KeyQueue(memory_length, columns, start="empty") if memory_length else None

    def among_views(
        self, full: Sequence[torch.Tensor], small: Sequence[torch.Tensor], videos: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """NT-Xent: each view finds the other full views of its video among the full views of all
        videos, itself left out.

        Small views are anchors too, which find all full views of their video; they are no keys.

        Args:
            full, small: embeddings (B, D) of each view of this process's videos.
            videos: (B,) numbers that tell videos apart.

        Returns:
            `contrast_loss`, the mean over anchors, with a gradient through anchors and keys; and
            `contrast_first`, the share of anchors whose nearest key is one that they should find.
        """
        views = torch.stack(list(full), dim=1)
        keys = all_gather_with_gradient(views)  # (videos of all processes, full views, D)
        own = _own_videos(len(views), len(keys), views.device)[:, None, :, None]
        anchors = torch.stack([*full, *small], dim=1)
        itself = torch.eye(anchors.shape[1], views.shape[1], dtype=torch.bool, device=views.device)[None, :, None]
        found = self._find(
            anchors.flatten(0, 1),
            keys.flatten(0, 1),
            _as_rows(own & ~itself),
            _as_rows(own & itself),
            videos.repeat_interleave(anchors.shape[1]),
        )
        self._remember(keys, videos)
        return found

    def between_streams(
        self, students: Sequence[torch.Tensor], teachers: Sequence[torch.Tensor], videos: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Each view of a student finds each view of a teacher of the same video, among that view of
        all videos.

        Args:
            students, teachers: embeddings (B, D) of each view of this process's videos; those of
                the teacher have no gradient.
            videos: (B,) numbers that tell videos apart.

        Returns:
            As `among_views`, the mean over pairs of a student's and a teacher's view.
        """
        anchors = torch.stack(list(students), dim=1)
        keys = all_gather(torch.stack(list(teachers), dim=1))
        own = _own_videos(len(anchors), len(keys), anchors.device).repeat_interleave(anchors.shape[1], dim=0)
        of_anchors = videos.repeat_interleave(anchors.shape[1])
        views = [
            self._find(anchors.flatten(0, 1), keys_of_view, own, torch.zeros_like(own), of_anchors)
            for keys_of_view in keys.unbind(1)
        ]
        self._remember(keys, videos)
        return {name: torch.stack([found[name] for found in views]).mean() for name in views[0]}

    def _find(
        self,
        anchors: torch.Tensor,
        keys: torch.Tensor,
        positives: torch.Tensor,
        left_out: torch.Tensor,
        videos: torch.Tensor,
    ) -> dict[str, torch.Tensor]:
        """Loss and share found of anchors (A, D), of `videos` (A,), among keys (N, D) and the
        memory.
        """
        if self.memory is not None:
            self.memory.place(anchors.detach())
            past = self.memory.filled("key")
            keys = torch.cat((keys, past))
            positives = F.pad(positives, (0, len(past)))
            # A video is no negative of itself, however long ago it was seen.
            left_out = torch.cat((left_out, videos[:, None] == self.memory.filled("video")), dim=1)
        logits = contrast_logits(anchors, keys, temperature=self.temperature, left_out=left_out)
        return {
            "contrast_loss": every_positive_loss(logits, positives),
            "contrast_first": positive_first(logits, positives),
        }

    def _remember(self, keys: torch.Tensor, videos: torch.Tensor) -> None:
        """Put keys (videos of all processes, V, D) into the memory; without gradient nothing
        enters.
        """
        if self.memory is not None and torch.is_grad_enabled():
            everywhere = all_gather(videos).repeat_interleave(keys.shape[1])
            self.memory.put({"key": keys.flatten(0, 1), "video": everywhere})

    def state_dict(self) -> dict[str, Any]:
        """The memory, for a checkpoint; nothing where there is none."""
        return {} if self.memory is None else self.memory.state_dict()

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take back what `state_dict` gave, onto a device."""
        if self.memory is not None:
            self.memory.load_state_dict(state, device)


def _own_videos(mine: int, everywhere: int, device: torch.device) -> torch.Tensor:
    """(mine, everywhere) bool: which of the videos of all processes, in the order of ranks, each of
    this process's is.
    """
    numbers = torch.arange(everywhere, device=device)
    return numbers[rank() * mine : (rank() + 1) * mine, None] == numbers


def _as_rows(mask: torch.Tensor) -> torch.Tensor:
    """(videos, anchor views, key videos, key views) to (anchors, keys)."""
    return mask.flatten(2).flatten(0, 1)


def _at_least_float32(tensor: torch.Tensor) -> torch.Tensor:
    return tensor if tensor.dtype == torch.float64 else tensor.float()
