"""Single-stream and cross-stream tasks: who is trained, who is not, and in which order views stand."""

import pytest
import torch

from vicc.batch import Batch
from vicc.methods.configs import EncoderConfig
from vicc.methods.cross_stream import CrossStream
from vicc.methods.encoder import Encoder
from vicc.methods.single_stream import SingleStream


def tiny_encoder(stream: str) -> Encoder:
    return Encoder(EncoderConfig(stream, backbone="s3d-demo", embedding_dim=8, clip_frames=8, size=32))  # type: ignore[arg-type]


def tiny_batch(videos: int = 3) -> Batch:
    generator = torch.Generator().manual_seed(0)
    clips = {
        stream: torch.randint(0, 256, (videos, 2, channels, 8, 32, 32), generator=generator, dtype=torch.uint8)
        for stream, channels in (("rgb", 3), ("flow", 2))
    }
    return Batch(clips, torch.arange(videos))  # type: ignore[arg-type]


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_embeddings_have_unit_length_and_prototypes_too_after_before_step() -> None:
    task = SingleStream(tiny_encoder("rgb"), num_prototypes=5)
    with torch.no_grad():
        task.prototypes[0].weight.mul_(3)
    task.before_step()
    torch.testing.assert_close(task.prototypes[0].weight.norm(dim=1), torch.ones(5))
    for view in task.embed(tiny_batch()):
        torch.testing.assert_close(view.norm(dim=1), torch.ones(3))


def test_with_one_view_of_gradient_the_second_view_does_not_train_the_encoder() -> None:
    one = SingleStream(tiny_encoder("rgb"), num_prototypes=5, views_with_gradient="one")
    first, second = one.embed(tiny_batch())
    assert first.requires_grad
    assert not second.requires_grad
    both = SingleStream(tiny_encoder("rgb"), num_prototypes=5).embed(tiny_batch())
    assert all(view.requires_grad for view in both)


def test_frozen_prototypes_get_no_gradient_until_their_epoch() -> None:
    task = SingleStream(tiny_encoder("rgb"), num_prototypes=5, freeze_prototypes_epochs=2)
    task(tiny_batch(), 1)["loss"].backward()
    task.cancel_gradients(1)
    assert task.prototypes[0].weight.grad is None
    task(tiny_batch(), 2)["loss"].backward()
    task.cancel_gradients(2)
    assert task.prototypes[0].weight.grad is not None


def test_the_queue_opens_at_its_epoch_and_fills_with_embeddings() -> None:
    task = SingleStream(tiny_encoder("rgb"), num_prototypes=5, queue_length=6, queue_from_epoch=1)
    task(tiny_batch(), 0)
    assert task.queue.rows is None
    for _ in range(2):
        task(tiny_batch(), 1)
    assert task.queue.full(0)
    assert task.queue.full(1)


def test_the_teacher_stands_still_in_eval_mode_without_gradient() -> None:
    teacher = tiny_encoder("flow")
    task = CrossStream(tiny_encoder("rgb"), teacher, num_prototypes=5)
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    task.train()
    assert task.encoder.training
    assert not any(module.training for module in teacher.modules())
    task(tiny_batch(), 0)["loss"].backward()
    assert all(weight.grad is None for weight in teacher.parameters())
    assert all(torch.equal(before[name], value) for name, value in teacher.state_dict().items())
    assert all(weight.grad is not None for weight in task.encoder.parameters())


def test_four_views_stand_as_x1_x2_f2_f1() -> None:
    teacher = tiny_encoder("flow")
    task = CrossStream(tiny_encoder("rgb"), teacher, num_prototypes=5)
    batch = tiny_batch()
    embeddings = task.embed(batch)
    with torch.no_grad():
        flow_1, flow_2 = (teacher(batch.clips["flow"][:, view]) for view in (0, 1))
    torch.testing.assert_close(embeddings[2], flow_2)
    torch.testing.assert_close(embeddings[3], flow_1)


def test_flow_learns_from_rgb_in_the_same_way() -> None:
    task = CrossStream(tiny_encoder("flow"), tiny_encoder("rgb"), num_prototypes=5)
    assert task.streams == ("flow", "rgb")
    task(tiny_batch(), 0)["loss"].backward()
    assert all(weight.grad is not None for weight in task.encoder.parameters())


def test_steps_on_one_batch_lower_the_loss() -> None:
    task = SingleStream(tiny_encoder("rgb"), num_prototypes=5)
    optimizer = torch.optim.AdamW(task.parameters(), lr=3e-3)
    losses = []
    for _ in range(12):
        task.before_step()
        loss = task(tiny_batch(6), 0)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert min(losses[-3:]) < 0.8 * losses[0]


@pytest.mark.parametrize("normalization", ["fixed", "clip"])
def test_clip_normalisation_takes_the_speed_out_and_leaves_stillness_still(normalization: str) -> None:
    config = EncoderConfig("flow", backbone="s3d-demo", size=32, flow_normalization=normalization, flow_std=1.0)  # type: ignore[arg-type]
    encoder = Encoder(config).eval()
    seen: list[torch.Tensor] = []
    encoder.backbone.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    motion = torch.randint(-30, 31, (1, 2, 8, 32, 32))
    for speed in (1, 4, 0):
        encoder((128 + speed * motion).to(torch.uint8))
    slow, fast, still = seen
    torch.testing.assert_close(fast, slow if normalization == "clip" else 4 * slow, rtol=0.01, atol=0.01)
    assert not still.any()


def test_uint8_clips_are_normalised_by_the_encoder_and_float_clips_are_not() -> None:
    encoder = tiny_encoder("flow").eval()
    clips = tiny_batch().clips["flow"][:, 0]
    torch.testing.assert_close(encoder(clips), encoder((clips.float() - 128) / encoder.config.flow_std))
