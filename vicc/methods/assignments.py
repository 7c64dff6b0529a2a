"""Sinkhorn-Knopp: scores to balanced soft assignments (paper, section 3; SwAV, Caron et al.,
NeurIPS 2020).
"""

import torch

from vicc.distributed import all_reduce_max, all_reduce_sum, world_size
from vicc.errors import Diverged


@torch.no_grad()
def sinkhorn(
    scores: torch.Tensor, *, epsilon: float = 0.05, num_iterations: int = 3, check: bool = True
) -> torch.Tensor:
    """Assign every sample to prototypes so that all prototypes are used alike, over the batches of
    all processes.

    The largest score is subtracted before the exponential, which cancels in the result and keeps
    float32 from overflowing at any temperature.

    Args:
        scores: (B, K) of this process, not yet divided by epsilon. Every process has the same B.
        epsilon: smoothness; small means hard assignments.
        check: raise where scores are not finite, which waits for an accelerator. Training leaves it
            out: such scores give a loss that is not finite, which stops the run.

    Returns:
        Assignments (B, K), rows sum to 1, float32: targets, as published, whatever the precision of
        the scores. A prototype that no sample reaches (scores of minus infinity) is left out.

    Raises:
        Diverged: a score of any process is plus infinity or not a number.
    """
    # Below, exponents of cosines, 2 / epsilon apart at most, would leave float32's range.
    double = scores.dtype == torch.float64 or epsilon < 2 / 80
    scores = scores.double() if double else scores.float()
    largest = all_reduce_max(scores.max())
    if check and all_reduce_max((scores.isnan() | scores.isposinf()).any().byte()):
        raise Diverged("Scores are not finite")
    Q = torch.exp((scores - largest) / epsilon).t()
    num_prototypes, total_samples = Q.shape[0], Q.shape[1] * world_size()
    Q = Q / all_reduce_sum(Q.sum())
    smallest = torch.finfo(Q.dtype).tiny  # a row of zeros stays one
    for _ in range(num_iterations):
        Q = Q / all_reduce_sum(Q.sum(dim=1, keepdim=True)).clamp_min(smallest) / num_prototypes
        Q = Q / Q.sum(dim=0, keepdim=True) / total_samples
    return (Q / Q.sum(dim=0, keepdim=True)).t().float()
