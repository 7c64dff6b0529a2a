import torch

from vicc.methods.queue import EmbeddingQueue


def rows(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None].expand(-1, 2).contiguous()


def test_newest_embeddings_stand_first_and_the_oldest_fall_out() -> None:
    queue = EmbeddingQueue(num_views=1, length=4, embedding_dim=2)
    queue.open(rows(0.0))
    for batch in (rows(1, 2), rows(3, 4), rows(5, 6)):
        queue.put(0, batch)
    assert queue.line(0)[:, 0].tolist() == [5, 6, 3, 4]


def test_a_queue_is_full_only_when_embeddings_reach_its_last_row() -> None:
    queue = EmbeddingQueue(num_views=2, length=4, embedding_dim=2)
    assert not queue.full(0)  # not even open
    queue.open(rows(0.0))
    queue.put(0, rows(1, 2))
    assert not queue.full(0)
    queue.put(0, rows(3, 4))
    assert queue.full(0)
    assert not queue.full(1)


def test_nothing_enters_before_it_opens() -> None:
    queue = EmbeddingQueue(num_views=1, length=2, embedding_dim=2)
    queue.put(0, rows(1, 2))
    queue.open(rows(0.0))
    assert not queue.line(0).any()


def test_opening_again_keeps_what_is_there() -> None:
    queue = EmbeddingQueue(num_views=1, length=2, embedding_dim=2)
    queue.open(rows(0.0))
    queue.put(0, rows(1, 2))
    queue.open(rows(0.0))
    assert queue.line(0)[:, 0].tolist() == [1, 2]


def test_state_survives_a_round_trip_and_is_a_copy() -> None:
    queue = EmbeddingQueue(num_views=1, length=2, embedding_dim=2)
    queue.open(rows(0.0))
    queue.put(0, rows(1, 2))
    state = queue.state_dict()
    queue.put(0, rows(3, 4))
    other = EmbeddingQueue(num_views=1, length=2, embedding_dim=2)
    other.load_state_dict(state, torch.device("cpu"))
    assert other.line(0)[:, 0].tolist() == [1, 2]
    closed = EmbeddingQueue(num_views=1, length=2, embedding_dim=2)
    other.load_state_dict(closed.state_dict(), torch.device("cpu"))
    assert other.rows is None
