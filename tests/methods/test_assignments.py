"""Sinkhorn assignments against a slow, plain reference and against their own defining properties."""

import math

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from vicc.errors import Diverged
from vicc.methods.assignments import sinkhorn


def plain_sinkhorn(scores: torch.Tensor, epsilon: float, num_iterations: int) -> torch.Tensor:
    """The published recipe, element by element in float64, without any care for overflow."""
    samples, prototypes = scores.shape
    q = [[math.exp(scores[b, k].item() / epsilon) for b in range(samples)] for k in range(prototypes)]
    total = sum(map(sum, q))
    q = [[value / total for value in row] for row in q]
    for _ in range(num_iterations):
        for k in range(prototypes):
            row = sum(q[k])
            q[k] = [value / row / prototypes for value in q[k]]
        for b in range(samples):
            column = sum(q[k][b] for k in range(prototypes))
            for k in range(prototypes):
                q[k][b] /= column * samples
    return torch.tensor([[q[k][b] * samples for k in range(prototypes)] for b in range(samples)], dtype=torch.float64)


@pytest.mark.parametrize("num_iterations", [1, 3, 10])
@pytest.mark.parametrize(("samples", "prototypes"), [(8, 5), (4, 12), (1, 3)])
def test_equals_the_plain_reference(samples: int, prototypes: int, num_iterations: int) -> None:
    scores = 2 * torch.rand(samples, prototypes, dtype=torch.float64) - 1
    expected = plain_sinkhorn(scores, 0.05, num_iterations).float()
    torch.testing.assert_close(
        sinkhorn(scores, epsilon=0.05, num_iterations=num_iterations), expected, rtol=1e-6, atol=1e-7
    )


def test_rows_sum_to_one_and_prototypes_are_used_alike() -> None:
    scores = torch.nn.functional.normalize(torch.randn(64, 16), dim=1)
    assignments = sinkhorn(scores, num_iterations=50)
    torch.testing.assert_close(assignments.sum(1), torch.ones(64))
    torch.testing.assert_close(assignments.sum(0), torch.full((16,), 4.0), rtol=1e-3, atol=1e-3)


def test_scores_that_would_overflow_an_exponential_give_the_same_as_their_float64_limit() -> None:
    scores = torch.tensor([[9.0, 8.9, 1.0], [8.8, 9.0, 8.7]])  # exp(9 / 0.05) is infinite in float32
    assignments = sinkhorn(scores, epsilon=0.05)
    torch.testing.assert_close(assignments, plain_sinkhorn(scores.double(), 0.05, 3).float(), rtol=1e-4, atol=1e-6)


def test_a_small_epsilon_does_not_underflow() -> None:
    """Cosines of 1 and -1 at epsilon 0.01 are exp(200) apart, out of float32's range."""
    scores = torch.tensor([[1.0, 0.9], [-0.9, -1.0]])
    expected = plain_sinkhorn(scores.double() - 1, 0.01, 3).float()
    torch.testing.assert_close(sinkhorn(scores, epsilon=0.01), expected, rtol=1e-4, atol=1e-6)


def test_a_prototype_that_no_sample_reaches_is_left_out() -> None:
    scores = torch.rand(4, 3)
    with_unreached = torch.cat((scores, torch.full((4, 1), -math.inf)), dim=1)
    torch.testing.assert_close(sinkhorn(with_unreached)[:, :3], sinkhorn(scores))
    assert not sinkhorn(with_unreached)[:, 3].any()


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_scores_that_are_not_finite_are_refused_in_words(bad: float) -> None:
    scores = torch.zeros(4, 3)
    scores[1, 2] = bad
    with pytest.raises(Diverged, match="not finite"):
        sinkhorn(scores)


def test_assignments_are_float32_targets_for_any_precision_of_the_scores() -> None:
    assert sinkhorn(torch.randn(4, 3).double()).dtype == torch.float32


def test_bf16_scores_are_assigned_in_float32() -> None:
    assert sinkhorn(torch.randn(4, 3).bfloat16()).dtype == torch.float32


def _one_of_two(rank: int, port: int, scores: torch.Tensor, results: torch.Tensor) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    results[rank] = sinkhorn(scores[rank])
    dist.destroy_process_group()


def test_two_processes_assign_as_one_process_with_the_joint_batch() -> None:
    scores = torch.randn(2, 6, 5, dtype=torch.float64)
    results = torch.zeros(scores.shape).share_memory_()
    store = dist.TCPStore("127.0.0.1", 0, is_master=True)  # finds a free port
    port = store.port
    del store
    mp.start_processes(_one_of_two, args=(port, scores, results), nprocs=2, start_method="forkserver")
    torch.testing.assert_close(results.flatten(0, 1), sinkhorn(scores.flatten(0, 1)), rtol=1e-6, atol=1e-7)
