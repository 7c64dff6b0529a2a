import math

import pytest
import torch
import torch.nn.functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from vicc.methods.assignments import sinkhorn
from vicc.methods.queue import EmbeddingQueue, KeyQueue
from vicc.methods.statistics import effective_rank, prototype_statistics, queue_statistics


def test_effective_rank_counts_the_directions_that_are_used_alike() -> None:
    axes = torch.eye(8)
    assert effective_rank(axes[:5]).item() == pytest.approx(5)
    assert effective_rank(axes[0].expand(6, 8)).item() == pytest.approx(1)
    assert effective_rank(axes[[0, 1, 0, 1]]).item() == pytest.approx(2)


def test_effective_rank_is_that_of_the_spectrum() -> None:
    embeddings = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    spectrum = torch.linalg.svdvals(embeddings).square()
    expected = spectrum.sum() ** 2 / spectrum.square().sum()
    assert effective_rank(embeddings).item() == pytest.approx(expected.item(), rel=1e-5)


def test_effective_rank_is_as_precise_within_autocast() -> None:
    embeddings = F.normalize(torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), dim=1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = effective_rank(embeddings)
    assert torch.equal(inside, effective_rank(embeddings))


def test_prototype_entropy_tells_one_prototype_for_all_from_one_for_each() -> None:
    each, one = 50 * torch.eye(4), 50 * torch.eye(4)[[2, 2, 2, 2]]
    spread = prototype_statistics(each, sinkhorn(each), temperature=0.1)
    collapsed = prototype_statistics(one, torch.eye(4)[[2, 2, 2, 2]], temperature=0.1)
    assert spread["prototype_entropy"].item() == pytest.approx(1)
    assert spread["prototypes_used"].item() == 4
    assert collapsed["prototype_entropy"].item() == pytest.approx(0, abs=1e-6)
    assert collapsed["prototypes_used"].item() == 1
    assert spread["prediction_perplexity"].item() == pytest.approx(1, abs=1e-6)
    flat = prototype_statistics(torch.zeros(4, 5), torch.full((4, 5), 0.2), temperature=0.1)
    assert flat["assignment_perplexity"].item() == pytest.approx(5)
    assert math.isclose(flat["prototype_entropy"].item(), 1, abs_tol=1e-6)


def test_a_queue_says_how_full_it_is_and_how_old_its_oldest_rows_are() -> None:
    queue = EmbeddingQueue(num_views=1, length=6, embedding_dim=2)
    like = torch.ones(2, 2)
    assert queue.statistics() == {"queue_filled": 0, "queue_age": 0}
    queue.open(like)
    filled = []
    for _ in range(5):
        queue.put(0, like)
        filled.append((queue.statistics()["queue_filled"], queue.statistics()["queue_age"]))
    assert filled == [(pytest.approx(1 / 3), 1), (pytest.approx(2 / 3), 2), (1, 3), (1, 3), (1, 3)]


@pytest.mark.parametrize("puts", [0, 1, 2, 4])
def test_a_queue_that_comes_from_a_checkpoint_says_the_same(puts: int) -> None:
    ours, keys = EmbeddingQueue(1, 6, 2), KeyQueue(6, {"key": (2,)})
    ours.open(torch.ones(2, 2))
    for _ in range(puts):
        ours.put(0, torch.ones(2, 2))
        keys.put({"key": torch.ones(2, 2)})
    again, keys_again = EmbeddingQueue(1, 6, 2), KeyQueue(6, {"key": (2,)})
    again.load_state_dict(ours.state_dict(), torch.device("cpu"))
    keys_again.load_state_dict(keys.state_dict(), torch.device("cpu"))
    for queue in (ours, again):
        queue.put(0, torch.ones(2, 2))
    for ring in (keys, keys_again):
        ring.put({"key": torch.ones(2, 2)})
    assert ours.statistics() == again.statistics()
    assert ours.full(0) == again.full(0)
    assert keys.statistics() == keys_again.statistics()


class NoWaiting(TorchDispatchMode):
    """Refuses what would make the CPU wait for a value of the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        name = func.overloadpacket.__name__
        assert name not in ("_local_scalar_dense", "nonzero", "_unique2", "is_nonzero", "masked_select"), name
        return func(*args, **(kwargs or {}))


def test_no_statistic_waits_for_the_device() -> None:
    scores, embeddings = torch.randn(4, 6), F.normalize(torch.randn(4, 3), dim=1)
    queue = EmbeddingQueue(1, 8, 3)
    queue.open(embeddings)
    with NoWaiting():
        prototype_statistics(scores, scores.softmax(1), temperature=0.1)
        effective_rank(embeddings)
        queue.put(0, embeddings)
        assert not queue.full(0)
        queue_statistics(queue, embeddings)
