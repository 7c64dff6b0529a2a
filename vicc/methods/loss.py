"""Swapped prediction: from one view, predict the assignment of another (paper, equations 1 to 3)."""

from collections.abc import Sequence

import torch
import torch.nn.functional as F

from vicc.methods.assignments import sinkhorn
from vicc.methods.prototypes import Prototypes
from vicc.methods.queue import EmbeddingQueue


def swapped_prediction_loss(
    scores: Sequence[torch.Tensor], assignments: dict[int, torch.Tensor], *, temperature: float = 0.1
) -> torch.Tensor:
    """Mean over assigned views i, of the mean over the other views v, of the cross-entropy of q_i
    and p_v.

    Args:
        scores: (B, K) for each view.
        assignments: (B, K) for each assigned view, by its index.
        temperature: of the softmax over prototypes.
    """
    log_p = [F.log_softmax((view if view.dtype == torch.float64 else view.float()) / temperature, 1) for view in scores]
    total = torch.zeros((), dtype=log_p[0].dtype, device=log_p[0].device)
    for assigned, q in assignments.items():
        others = [log_p[view] for view in range(len(scores)) if view != assigned]
        total = total - sum((q * other).sum(1).mean() for other in others) / len(others)
    return total / len(assignments)


@torch.no_grad()
def assign_views(
    scores: Sequence[torch.Tensor],
    prototypes: Prototypes,
    queue: EmbeddingQueue | None,
    *,
    views_for_assign: Sequence[int],
    epsilon: float,
    num_iterations: int,
) -> dict[int, torch.Tensor]:
    """Sinkhorn assignments (B, K) of the views that are assigned, with the queue's help once it is
    full.

    Past embeddings are scored by today's prototypes. Of the joint result only the batch's rows are
    kept.
    """
    assignments = {}
    for line, view in enumerate(views_for_assign):
        joint = scores[view].detach()
        if queue is not None and queue.full(line):
            joint = torch.cat((prototypes(queue.line(line)), joint))
        batch = scores[view].shape[0]
        assignments[view] = sinkhorn(joint, epsilon=epsilon, num_iterations=num_iterations, check=False)[-batch:]
    return assignments
