"""Numbers about a step that show a collapse before the result does; for the log, so without
gradient.

Nothing here waits for the device: no value comes back to the CPU, and no decomposition is made, for
which a GPU waits.
"""

import math

import torch
import torch.nn.functional as F

from vicc.methods.queue import EmbeddingQueue, KeyQueue


@torch.no_grad()
def prototype_statistics(
    scores: torch.Tensor, assignments: torch.Tensor, *, temperature: float
) -> dict[str, torch.Tensor]:
    """How prototypes are used by one view, scores and assignments (B, K).

    `prototypes_used` counts the prototypes that are some sample's first choice. `prototype_entropy`
    is the entropy of the batch's mean prediction as a share of ln K: 1 when all prototypes are
    predicted alike, 0 when it is always the same one. `prediction_perplexity` is exp(entropy) of a
    sample's predicted distribution, averaged: K when nothing is distinguished, 1 when all is sure.
    `assignment_perplexity` is the same of the assignments, the sharpness of the target.
    """
    log_p = F.log_softmax(scores.detach().float() / temperature, dim=1)
    q = assignments.float().clamp_min(1e-12)
    num_prototypes = scores.shape[1]
    chosen = torch.zeros_like(log_p[0]).index_fill(0, assignments.argmax(1), 1.0)
    mean = log_p.exp().mean(0).clamp_min(1e-12)
    return {
        "prototypes_used": chosen.sum(),
        "prototype_entropy": -(mean * mean.log()).sum() / math.log(max(2, num_prototypes)),
        "prediction_perplexity": torch.exp(-(log_p.exp() * log_p).sum(1)).mean(),
        "assignment_perplexity": torch.exp(-(q * q.log()).sum(1)).mean(),
    }


@torch.no_grad()
def effective_rank(embeddings: torch.Tensor) -> torch.Tensor:
    """In how many directions embeddings (B, D) of unit length spread: 1 if all are alike, at most
    min(B, D).

    exp(entropy of order 2) of the spectrum, (sum of l)^2 / sum of l^2 for the eigenvalues l of
    their Gram matrix, which is B^2 over the sum of all squared cosines. The entropy of order 1 (Roy
    and Vetterli, 2007) says the same of a collapse, but needs the singular values, for which a GPU
    is waited for.
    """
    rows = embeddings.detach().float()
    with torch.autocast(rows.device.type, enabled=False):  # bf16 would round the rank to 1 % of it
        return rows.shape[0] ** 2 / (rows @ rows.t()).square().sum()


def queue_statistics(queue: EmbeddingQueue | KeyQueue, like: torch.Tensor) -> dict[str, torch.Tensor]:
    """`queue_filled`, the share of the queue that holds embeddings, and `queue_age`, the steps
    since its oldest came.

    Scalars on the device of `like`; empty where there is no queue.
    """
    facts = queue.statistics() if queue.length else {}
    return {name: torch.full((), value, device=like.device) for name, value in facts.items()}
