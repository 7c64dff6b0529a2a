import math

import torch

from vicc.methods.assignments import sinkhorn
from vicc.methods.loss import assign_views, swapped_prediction_loss
from vicc.methods.prototypes import Prototypes
from vicc.methods.queue import EmbeddingQueue
from vicc.methods.statistics import prototype_statistics


def plain_loss(scores: list[torch.Tensor], assignments: dict[int, torch.Tensor], temperature: float) -> float:
    """As described: mean over assigned i, of the mean over v != i, of -sum q_i log softmax(s_v / T)."""
    per_assigned = []
    for i, q in assignments.items():
        per_view = []
        for v, score in enumerate(scores):
            if v == i:
                continue
            per_sample = []
            for b in range(len(score)):
                exponentials = [math.exp(value / temperature) for value in score[b].tolist()]
                log_p = [math.log(value / sum(exponentials)) for value in exponentials]
                per_sample.append(-sum(share * log for share, log in zip(q[b].tolist(), log_p, strict=True)))
            per_view.append(sum(per_sample) / len(per_sample))
        per_assigned.append(sum(per_view) / len(per_view))
    return sum(per_assigned) / len(per_assigned)


def test_equals_the_plain_reference_for_two_and_for_four_views() -> None:
    for num_views, assigned in ((2, (0, 1)), (4, (0, 1, 2, 3)), (4, (0, 1))):
        scores = [2 * torch.rand(5, 7, dtype=torch.float64) - 1 for _ in range(num_views)]
        assignments = {view: sinkhorn(scores[view]) for view in assigned}
        loss = swapped_prediction_loss(scores, assignments, temperature=0.1)
        assert math.isclose(loss.item(), plain_loss(scores, assignments, 0.1), rel_tol=1e-12)


def test_equal_scores_give_ln_k_which_is_where_a_collapsed_encoder_stays() -> None:
    scores = [torch.full((4, 50), 0.3) for _ in range(2)]
    loss = swapped_prediction_loss(scores, {0: sinkhorn(scores[0]), 1: sinkhorn(scores[1])})
    assert math.isclose(loss.item(), math.log(50), rel_tol=1e-6)


def test_a_view_learns_from_the_others_but_not_from_its_own_assignment() -> None:
    scores = [torch.randn(3, 4, requires_grad=True) for _ in range(2)]
    swapped_prediction_loss(scores, {0: sinkhorn(scores[0])}).backward()
    assert scores[0].grad is None or not scores[0].grad.any()
    assert scores[1].grad is not None
    assert scores[1].grad.any()


def test_log_softmax_keeps_the_loss_finite_where_softmax_then_log_would_not() -> None:
    scores = [torch.tensor([[30.0, -30.0]]), torch.tensor([[-30.0, 30.0]])]
    loss = swapped_prediction_loss(scores, {0: torch.tensor([[1.0, 0.0]])}, temperature=0.1)
    assert math.isclose(loss.item(), 600.0, rel_tol=1e-6)


def test_a_full_queue_changes_assignments_and_only_the_batch_is_kept() -> None:
    torch.manual_seed(0)
    prototypes = Prototypes(8, 5)
    past, batch = (torch.nn.functional.normalize(torch.randn(n, 8), dim=1) for n in (12, 4))
    queue = EmbeddingQueue(1, 12, 8)
    queue.open(batch)
    queue.put(0, past)
    scores = [prototypes(batch)]
    given = {"views_for_assign": (0,), "epsilon": 0.05, "num_iterations": 3}
    assignments = assign_views(scores, prototypes, queue, **given)[0]
    joint = sinkhorn(torch.cat((prototypes(past), scores[0])).detach())
    torch.testing.assert_close(assignments, joint[-4:])
    assert not torch.allclose(assignments, sinkhorn(scores[0]))


def test_statistics_tell_collapse_from_use() -> None:
    sure = 10 * torch.eye(4)
    spread = prototype_statistics(sure, sinkhorn(sure), temperature=0.1)
    assert spread["prototypes_used"] == 4
    assert math.isclose(spread["prediction_perplexity"].item(), 1.0, rel_tol=1e-3)
    flat = torch.zeros(4, 4)
    collapsed = prototype_statistics(flat, sinkhorn(flat), temperature=0.1)
    assert math.isclose(collapsed["prediction_perplexity"].item(), 4.0, rel_tol=1e-5)
