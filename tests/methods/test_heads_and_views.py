"""Several prototype heads and views of several resolutions, in both stages of ViCC."""

import pytest
import torch

from tests.methods.test_streams import tiny_batch, tiny_encoder
from vicc.batch import Batch
from vicc.methods.cross_stream import CrossStream
from vicc.methods.single_stream import SingleStream


def small_batch(groups: tuple[tuple[int, int], ...] = ((2, 24), (1, 16))) -> Batch:
    batch = tiny_batch()
    generator = torch.Generator().manual_seed(1)
    small = tuple(
        {"rgb": torch.randint(0, 256, (3, count, 3, 8, size, size), generator=generator, dtype=torch.uint8)}
        for count, size in groups
    )
    return Batch(batch.clips, batch.index, small_clips=small)  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_the_loss_of_several_heads_is_the_mean_of_each_ones() -> None:
    encoder = tiny_encoder("rgb")
    both = SingleStream(encoder, num_prototypes=(5, 9)).eval()
    expected = []
    for head in both.prototypes:
        alone = SingleStream(encoder, num_prototypes=len(head.weight)).eval()  # type: ignore[arg-type]
        alone.prototypes[0].load_state_dict(head.state_dict())
        expected.append(alone(tiny_batch(), 0)["loss"])
    assert expected[0] != expected[1]
    torch.testing.assert_close(both(tiny_batch(), 0)["loss"], (expected[0] + expected[1]) / 2)


def test_every_head_is_normalised_frozen_and_trained() -> None:
    task = SingleStream(tiny_encoder("rgb"), num_prototypes=(5, 9), freeze_prototypes_epochs=1, queue_length=6)
    with torch.no_grad():
        for weight in task.prototypes.parameters():
            weight.mul_(2)
    task.before_step()
    for epoch in (0, 1):
        task(tiny_batch(), epoch)["loss"].backward()
        task.cancel_gradients(epoch)
        assert [weight.grad is None for weight in task.prototypes.parameters()] == [epoch == 0] * 2
    for head in task.prototypes:
        torch.testing.assert_close(head.weight.norm(dim=1), torch.ones(len(head.weight)))  # type: ignore[operator, arg-type]
    assert task.queue.full(0)
    assert task.queue.line(0).shape == (6, 8), "one queue serves all heads"


@pytest.mark.parametrize("cross", [False, True])
def test_small_views_come_last_and_are_predicted_but_not_assigned(cross: bool) -> None:
    encoder = tiny_encoder("rgb")
    task = CrossStream(encoder, tiny_encoder("flow"), num_prototypes=5) if cross else SingleStream(encoder)
    task.eval()
    full = 4 if cross else 2
    batch = small_batch()
    embeddings = task.embed(batch)
    assert len(embeddings) == full + 3
    for view in range(full):
        torch.testing.assert_close(embeddings[view], task.embed(tiny_batch())[view])
    small = batch.small_clips[0]["rgb"]
    torch.testing.assert_close(embeddings[full + 1], encoder(small[:, 1]))
    assert all(view < full for view in task.views_for_assign)
    # Another small view changes what is predicted, so the loss; not what it is predicted from.
    other = task.loss([*embeddings[:-1], embeddings[0]], 0)
    assert other["loss"] != task.loss(embeddings, 0)["loss"]
    assert other["assignment_perplexity"] == task.loss(embeddings, 0)["assignment_perplexity"]


def test_small_views_train_the_encoder() -> None:
    task = SingleStream(tiny_encoder("rgb"), num_prototypes=5)
    embeddings = task.embed(small_batch())
    kept = [view.detach() for view in embeddings[:2]]
    task.loss([*kept, *embeddings[2:]], 0)["loss"].backward()
    assert all(weight.grad is not None for weight in task.encoder.parameters())


def test_only_the_views_asked_for_are_assigned() -> None:
    task = SingleStream(tiny_encoder("rgb"), num_prototypes=5, views_for_assign=(1,), queue_length=3)
    embeddings = [view.detach() for view in task.embed(tiny_batch())]
    task.loss(embeddings, 0)
    assert task.queue.num_views == 1
    torch.testing.assert_close(task.queue.line(0), embeddings[1])
