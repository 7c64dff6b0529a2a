"""Queues: past embeddings that make Sinkhorn's batch larger (paper, section 3), past keys to
contrast with (MoCo).
"""

from typing import Any, Literal

import torch
import torch.nn.functional as F


class EmbeddingQueue:
    """Past embeddings of one process, newest first, one line for each assigned view.

    Not a buffer of a module: DistributedDataParallel would overwrite every process's queue with
    that of process 0. `state_dict()` and `load_state_dict()` carry it through checkpoints, once for
    every process.

    Args:
        num_views: lines.
        length: rows of a line, a multiple of the batch.
        embedding_dim: D.
    """

    def __init__(self, num_views: int, length: int, embedding_dim: int) -> None:
        self.num_views = num_views
        self.length = length
        self.embedding_dim = embedding_dim
        self.rows: torch.Tensor | None = None  # (views, length, D), once open
        # Counted here, since to look at the rows would wait for the device.
        self._filled = [0] * num_views
        self._batch = 0

    def open(self, like: torch.Tensor) -> None:
        """Begin to collect: zeros on the device and in the precision of `like`, unless open
        already.
        """
        if self.rows is None:
            self.rows = like.new_zeros(self.num_views, self.length, self.embedding_dim)

    def full(self, view: int) -> bool:
        """Whether embeddings have reached the end of a line; before that its zeros would take part."""
        return self.rows is not None and self._filled[view] >= self.length

    def statistics(self) -> dict[str, float]:
        """For the log: the share of the first line that is filled, and how many steps ago its
        oldest rows came.
        """
        filled = self._filled[0]
        return {"queue_filled": filled / self.length, "queue_age": filled / max(1, self._batch)}

    def line(self, view: int) -> torch.Tensor:
        """Past embeddings of one view (length, D)."""
        if self.rows is None:
            raise RuntimeError("The queue is not open.")
        return self.rows[view]

    @torch.no_grad()
    def put(self, view: int, embeddings: torch.Tensor) -> None:
        """Add a batch (B, D) at the front; the oldest rows fall out."""
        if self.rows is None:
            return
        self.rows[view] = torch.cat((embeddings.detach(), self.rows[view]))[: self.length]
        self._batch = len(embeddings)
        self._filled[view] = min(self.length, self._filled[view] + self._batch)

    def state_dict(self) -> dict[str, torch.Tensor]:
        """A copy of the rows on the CPU; nothing of a queue that is not open."""
        return {} if self.rows is None else {"rows": self.rows.cpu().clone()}

    def load_state_dict(self, state: dict[str, torch.Tensor], device: torch.device) -> None:
        """Take back what `state_dict` gave, onto a device."""
        self.rows = state["rows"].to(device) if "rows" in state else None
        # Embeddings have unit length: a row of zeros is one that nothing has reached yet.
        self._filled = state["rows"].any(2).sum(1).tolist() if "rows" in state else [0] * self.num_views

    def redistribute(self, states: list[dict[str, torch.Tensor]], rank: int, processes: int) -> dict[str, torch.Tensor]:
        """The rows of all processes' queues, of like age side by side, redistributed to
        `processes`: those of `rank`.

        With more processes than before there are too few rows; the queue fills up again before it
        takes part.
        """
        if not states[0]:
            return {}
        rows = torch.stack([state["rows"] for state in states], dim=2).flatten(1, 2)[:, rank::processes]
        share = rows.new_zeros(self.num_views, self.length, self.embedding_dim)
        share[:, : rows.shape[1]] = rows[:, : self.length]
        return {"rows": share}


class KeyQueue:
    """Past keys and what is known of them, a ring in which the newest overwrite the oldest (MoCo,
    section 3.2).

    Every process puts the keys of all processes in, so it is the same everywhere.

    Args:
        length: rows.
        columns: shape of a row of each column: () for whole numbers (-1 where nothing is known
            yet), (D,) for vectors.
        start: with "random" unit vectors, which are compared with from the first step on, as
            published; or "empty", with zeros, for those who compare with `filled` rows only.
    """

    def __init__(
        self, length: int, columns: dict[str, tuple[int, ...]], *, start: Literal["random", "empty"] = "random"
    ) -> None:
        self.length = length
        self.next = 0
        self._put = 0
        self._batch = 0
        vectors = _random_unit_vectors if start == "random" else torch.zeros
        self.columns = {
            name: vectors(length, *shape) if shape else torch.full((length,), -1) for name, shape in columns.items()
        }

    def place(self, like: torch.Tensor) -> None:
        """Bring vectors to the device and precision of `like`, numbers to its device."""
        self.columns = {
            name: column.to(like) if column.is_floating_point() else column.to(like.device)
            for name, column in self.columns.items()
        }

    def filled(self, name: str) -> torch.Tensor:
        """The rows of a column that keys were put in, in no order of age."""
        return self.columns[name][: self._put]

    @torch.no_grad()
    def put(self, rows: dict[str, torch.Tensor]) -> None:
        """Overwrite the oldest rows with a batch of each column; of one longer than the queue its
        last rows stay.
        """
        batch = len(next(iter(rows.values())))
        device = next(iter(self.columns.values())).device
        kept = slice(max(0, batch - self.length), batch)  # no place twice: which row stays would be left to chance
        places = (self.next + torch.arange(kept.start, batch, device=device)) % self.length
        for name, values in rows.items():
            column = self.columns[name]
            # Not in place: the loss of this step was computed with these columns and is yet to be
            # differentiated.
            self.columns[name] = column.index_copy(0, places, values[kept].detach().to(column))
        self.next = (self.next + batch) % self.length
        self._put = min(self.length, self._put + batch)
        self._batch = batch

    def statistics(self) -> dict[str, float]:
        """For the log: the share that is filled with keys, and how many steps ago the oldest of
        them came.
        """
        return {"queue_filled": self._put / self.length, "queue_age": self._put / max(1, self._batch)}

    def state_dict(self) -> dict[str, Any]:
        """A copy of the columns on the CPU, and where the next row goes."""
        return {
            "next": self.next,
            "put": self._put,
            "columns": {name: column.cpu().clone() for name, column in self.columns.items()},
        }

    def load_state_dict(self, state: dict[str, Any], device: torch.device) -> None:
        """Take back what `state_dict` gave, onto a device."""
        self.next = state["next"]
        self._put = state["put"]
        self.columns = {name: column.to(device) for name, column in state["columns"].items()}


def _random_unit_vectors(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape), dim=1)
