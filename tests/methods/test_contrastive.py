"""InfoNCE, UberNCE, CoCLR: what a query should find, what the queue keeps, who follows whom."""

import math

import pytest
import torch
import torch.nn.functional as F

from vicc.batch import Batch
from vicc.errors import ViccError
from vicc.methods.coclr import CoCLR
from vicc.methods.configs import EncoderConfig
from vicc.methods.contrast import every_positive_loss
from vicc.methods.encoder import Encoder
from vicc.methods.infonce import InfoNCE, any_positive_loss
from vicc.methods.queue import KeyQueue
from vicc.methods.ubernce import UberNCE

VIDEOS, QUEUE = 3, 8


def tiny_encoder(stream: str) -> Encoder:
    return Encoder(EncoderConfig(stream, backbone="s3d-demo", embedding_dim=8, clip_frames=8, size=32))  # type: ignore[arg-type]


def tiny_batch(
    *, label: list[int] | None = None, recording: list[int] | None = None, first: int = 0, videos: int = VIDEOS
) -> Batch:
    generator = torch.Generator().manual_seed(first)
    clips = {
        stream: torch.randint(0, 256, (videos, 2, channels, 8, 32, 32), generator=generator, dtype=torch.uint8)
        for stream, channels in (("rgb", 3), ("flow", 2))
    }
    return Batch(
        clips,  # type: ignore[arg-type]
        first + torch.arange(videos),
        label=None if label is None else torch.tensor(label),
        recording=None if recording is None else torch.tensor(recording),
    )


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def plain_any(logits: torch.Tensor, positives: torch.Tensor) -> float:
    rows = []
    for row, marks in zip(logits.tolist(), positives.tolist(), strict=True):
        powers = [math.exp(value) for value in row]
        rows.append(-math.log(sum(p for p, mark in zip(powers, marks, strict=True) if mark) / sum(powers)))
    return sum(rows) / len(rows)


def plain_every(logits: torch.Tensor, positives: torch.Tensor) -> float:
    rows = []
    for row, marks in zip(logits.tolist(), positives.tolist(), strict=True):
        total = sum(math.exp(value) for value in row)
        found = [-math.log(math.exp(value) / total) for value, mark in zip(row, marks, strict=True) if mark]
        rows.append(sum(found) / len(found))
    return sum(rows) / len(rows)


def test_both_losses_equal_their_plain_form_and_cross_entropy_for_one_positive() -> None:
    logits = torch.randn(5, 7, dtype=torch.float64)
    positives = torch.rand(5, 7) < 0.4
    positives[:, 0] = True
    assert any_positive_loss(logits, positives).item() == pytest.approx(plain_any(logits, positives), abs=1e-12)
    assert every_positive_loss(logits, positives).item() == pytest.approx(plain_every(logits, positives), abs=1e-12)
    one = torch.zeros(5, 7, dtype=torch.bool)
    one[:, 0] = True
    expected = F.cross_entropy(logits, torch.zeros(5, dtype=torch.long))
    torch.testing.assert_close(any_positive_loss(logits, one), expected)
    torch.testing.assert_close(every_positive_loss(logits, one), expected)


def test_the_queue_is_a_ring_of_the_newest_keys() -> None:
    queue = KeyQueue(5, {"key": (2,), "label": ()})
    torch.testing.assert_close(queue.columns["key"].norm(dim=1), torch.ones(5))
    assert queue.columns["label"].tolist() == [-1] * 5
    for start in (0, 3):
        queue.put({"key": torch.full((3, 2), float(start)), "label": torch.arange(start, start + 3)})
    assert queue.columns["label"].tolist() == [5, 1, 2, 3, 4]
    assert queue.next == 1
    other = KeyQueue(5, {"key": (2,), "label": ()})
    other.load_state_dict(queue.state_dict(), torch.device("cpu"))
    assert torch.equal(other.columns["key"], queue.columns["key"])
    assert other.next == 1


def test_keys_follow_the_encoder_slowly_and_have_no_gradient() -> None:
    task = InfoNCE(tiny_encoder("rgb"), queue_length=QUEUE, key_momentum=0.75)
    with torch.no_grad():
        for weight in task.encoder.parameters():
            weight.add_(1)
    before = [weight.clone() for weight in task.key_encoder.parameters()]
    task.before_step()
    for old, new, leader in zip(before, task.key_encoder.parameters(), task.encoder.parameters(), strict=True):
        torch.testing.assert_close(new, 0.75 * old + 0.25 * leader)
    task.train()(tiny_batch(), 0)["loss"].backward()
    assert all(weight.grad is None for weight in task.key_encoder.parameters())
    assert all(weight.grad is not None for weight in task.encoder.parameters())


def test_a_batch_enters_the_queue_after_it_was_used_and_only_when_training() -> None:
    task = InfoNCE(tiny_encoder("rgb"), queue_length=QUEUE).train()
    before = task.queue.columns["key"].clone()
    with torch.no_grad():
        task(tiny_batch(), 0)
    assert torch.equal(task.queue.columns["key"], before)
    outputs = task(tiny_batch(), 0)
    with torch.no_grad():
        keys = task.key_encoder(tiny_batch().clips["rgb"][:, 1])
    torch.testing.assert_close(task.queue.columns["key"][:VIDEOS], keys)
    assert torch.equal(task.queue.columns["key"][VIDEOS:], before[VIDEOS:])
    assert outputs["positives"] == 1  # its own key is no candidate of the queue yet


def test_ubernce_finds_past_keys_of_the_class_and_asks_for_labels() -> None:
    task = UberNCE(tiny_encoder("rgb"), queue_length=4).train()
    task(tiny_batch(label=[0, 1, 2]), 0)
    rows = {"key": torch.zeros(2, 8), "label": torch.tensor([1, 5])}
    assert task.past_positives(rows).tolist() == [[False, True, False, False], [False] * 4]
    with pytest.raises(ViccError, match="labels"):
        task(tiny_batch(), 0)


def test_coclr_mines_neighbours_in_the_other_stream_once_its_queue_is_full() -> None:
    task = CoCLR(tiny_encoder("rgb"), tiny_encoder("flow"), queue_length=4, num_mined=1).train()
    axes = torch.eye(8)
    task.queue.columns["teacher"] = axes[:4].clone()
    rows = {"key": axes[:2], "teacher": axes[[2, 3]] + 0.1 * axes[[0, 0]], "source": torch.tensor([7, 9])}
    task.queue.columns["source"] = torch.tensor([7, 1, 2, -1])
    assert task.past_positives(rows).tolist() == [[True, False, False, False], [False] * 4], "not full: siblings only"
    task.queue.columns["source"] = torch.tensor([7, 1, 2, 9])
    # Query 0: a sibling at place 0, its neighbour is 2. Query 1: its nearest, place 3, is a sibling; next comes 0.
    assert task.past_positives(rows).tolist() == [[True, False, True, False], [True, False, False, True]]


def test_coclrs_teacher_sees_the_moment_of_the_key_and_stands_still() -> None:
    teacher = tiny_encoder("flow")
    task = CoCLR(tiny_encoder("rgb"), teacher, queue_length=QUEUE).train()
    state = {name: value.clone() for name, value in teacher.state_dict().items()}
    assert not any(module.training for module in teacher.modules())
    batch = tiny_batch(recording=[0, 0, 5])
    task(batch, 0)["loss"].backward()
    with torch.no_grad():
        expected = teacher(batch.clips["flow"][:, 1])
    torch.testing.assert_close(task.queue.columns["teacher"][:VIDEOS], expected)
    assert task.queue.columns["source"][:VIDEOS].tolist() == [0, 0, 5]
    assert all(torch.equal(state[name], value) for name, value in teacher.state_dict().items())
    assert all(weight.grad is None for weight in teacher.parameters())


def test_without_known_recordings_every_video_is_its_own() -> None:
    task = CoCLR(tiny_encoder("rgb"), tiny_encoder("flow"), queue_length=QUEUE).train()
    task(tiny_batch(first=4), 0)
    assert task.queue.columns["source"][:VIDEOS].tolist() == [4, 5, 6]


@pytest.mark.parametrize("method", [InfoNCE, UberNCE])
def test_steps_on_one_batch_lower_the_loss(method: type[InfoNCE]) -> None:
    task = method(tiny_encoder("rgb"), queue_length=16).train()
    optimizer = torch.optim.AdamW(task.encoder.parameters(), lr=3e-3)
    losses = []
    past = task.queue.state_dict()
    for _ in range(10):
        task.before_step()
        # The same queue each time, or the one batch would meet itself in it.
        task.queue.load_state_dict(past, torch.device("cpu"))
        loss = task(tiny_batch(label=[0, 1, 2, 3], videos=4), 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]
