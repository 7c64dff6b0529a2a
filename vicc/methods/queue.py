"""The queue: embeddings of past batches that make Sinkhorn's batch larger (paper, section 3)."""

import torch


class EmbeddingQueue:
    """Past embeddings of one process, newest first, one line for each assigned view.

    Not a buffer of a module: DistributedDataParallel would overwrite every process's queue with that of process 0.
    `state()` and `load_state()` carry it through checkpoints, once for every process.

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

    def open(self, like: torch.Tensor) -> None:
        """Begin to collect: zeros on the device and in the precision of `like`, unless open already."""
        if self.rows is None:
            self.rows = like.new_zeros(self.num_views, self.length, self.embedding_dim)

    def full(self, view: int) -> bool:
        """Whether embeddings have reached the end of a line; before that its zeros would take part."""
        return self.rows is not None and bool(self.rows[view, -1].any())

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

    def state(self) -> dict[str, torch.Tensor]:
        return {} if self.rows is None else {"rows": self.rows.cpu().clone()}

    def load_state(self, state: dict[str, torch.Tensor], device: torch.device) -> None:
        self.rows = state["rows"].to(device) if "rows" in state else None
