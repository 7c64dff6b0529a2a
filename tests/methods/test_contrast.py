"""The contrast term: its value against loops, what a view is compared with, what is remembered, how terms add up."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from tests.methods.test_streams import tiny_batch, tiny_encoder
from vicc.batch import Batch
from vicc.errors import ViccError
from vicc.methods.configs import CrossStreamSettings, SingleStreamSettings
from vicc.methods.contrast import ContrastTerm, positive_first
from vicc.methods.cross_stream import CrossStream
from vicc.methods.prototypes import Prototypes
from vicc.methods.queue import KeyQueue
from vicc.methods.single_stream import SingleStream
from vicc.training.schedule import stage_length
from vicc.training.stage import Stage, stage_from_json

DIM, TEMPERATURE = 6, 0.2
Past = Sequence[tuple[torch.Tensor, int]]
"""Remembered embeddings, each with the number of its video."""


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def unit(*shape: int) -> torch.Tensor:
    return F.normalize(torch.randn(*shape, DIM, dtype=torch.float64), dim=-1)


def term(memory: Past = ()) -> ContrastTerm:
    found = ContrastTerm(temperature=TEMPERATURE, memory_length=len(memory), embedding_dim=DIM)
    if found.memory is not None:
        found.memory.place(memory[0][0])
        numbers = torch.tensor([video for _, video in memory])
        found.memory.put({"key": torch.stack([row for row, _ in memory]), "video": numbers})
    return found


def share(anchor: torch.Tensor, right: torch.Tensor, wrong: list[torch.Tensor]) -> float:
    """-log of the softmax's share that falls on the right key."""
    powers = [math.exp(float(anchor @ key) / TEMPERATURE) for key in (right, *wrong)]
    return -math.log(powers[0] / sum(powers))


def plain_among_views(
    full: list[torch.Tensor], small: list[torch.Tensor], videos: torch.Tensor, memory: Past
) -> tuple[float, float]:
    """In words: for every view, and every other full view of its video, the share of that one among all full views of
    the batch but itself and what is remembered of other videos."""
    losses, found = [], []
    for place, view in enumerate([*full, *small]):
        for video, anchor in enumerate(view):
            keys = [
                (row, key)
                for number, key in enumerate(full)
                for row in range(len(key))
                if (number, row) != (place, video)
            ]
            past = [row for row, number in memory if number != videos[video]]
            of_anchor = []
            for right_row, right in keys:
                if right_row == video:
                    wrong = [key[row] for row, key in keys if not (row == right_row and key is right)]
                    of_anchor.append(share(anchor, right[right_row], [*wrong, *past]))
            losses.append(sum(of_anchor) / len(of_anchor))
            ranked = [(float(anchor @ key[row]), row == video) for row, key in keys]
            ranked += [(float(anchor @ row), False) for row in past]
            found.append(max(ranked)[1])
    return sum(losses) / len(losses), sum(found) / len(found)


def plain_between_streams(
    students: list[torch.Tensor], teachers: list[torch.Tensor], videos: torch.Tensor, memory: Past
) -> float:
    losses = []
    for student in students:
        for teacher in teachers:
            for video, anchor in enumerate(student):
                past = [row for row, number in memory if number != videos[video]]
                others = [key for row, key in enumerate(teacher) if row != video]
                losses.append(share(anchor, teacher[video], [*others, *past]))
    return sum(losses) / len(losses)


def remembered(videos: Sequence[int]) -> Past:
    return list(zip(unit(len(videos)), videos, strict=True))


@pytest.mark.parametrize("num_full", [2, 3])
@pytest.mark.parametrize("num_small", [0, 2])
@pytest.mark.parametrize("past", [(), (7, 11, 3, 3)])
def test_among_views_equals_the_plain_reference(num_full: int, num_small: int, past: tuple[int, ...]) -> None:
    """With two, three and small views; of the memory, rows of a video that is in the batch among them."""
    full, small, videos = [*unit(num_full, 4)], [*unit(num_small, 4)], torch.tensor([3, 5, 0, 11])
    memory = remembered(past)
    loss, first = plain_among_views(full, small, videos, memory)
    outputs = term(memory).among_views(full, small, videos)
    assert outputs["contrast_loss"].item() == pytest.approx(loss, rel=1e-12)
    assert outputs["contrast_first"].item() == pytest.approx(first)


@pytest.mark.parametrize("num_students", [2, 4])
@pytest.mark.parametrize("past", [(), (7, 11, 3, 3)])
def test_between_streams_equals_the_plain_reference(num_students: int, past: tuple[int, ...]) -> None:
    students, teachers, videos = [*unit(num_students, 4)], [*unit(2, 4)], torch.tensor([3, 5, 0, 11])
    memory = remembered(past)
    outputs = term(memory).between_streams(students, teachers, videos)
    expected = plain_between_streams(students, teachers, videos, memory)
    assert outputs["contrast_loss"].item() == pytest.approx(expected, rel=1e-12)


def test_gradients_go_through_anchors_and_keys_and_are_those_of_the_loss() -> None:
    memory = remembered((7, 3))
    videos = torch.tensor([3, 5, 0])

    def loss(first: torch.Tensor, second: torch.Tensor, small: torch.Tensor) -> torch.Tensor:
        return term(memory).among_views([first, second], [small], videos)["contrast_loss"]

    views = [view.requires_grad_() for view in unit(3, 3)]
    assert torch.autograd.gradcheck(loss, tuple(views))


def test_a_view_is_no_negative_of_itself() -> None:
    """Videos at right angles whose views are alike: with itself among the keys the loss could not fall below ln 2."""
    view = torch.eye(4, DIM, dtype=torch.float64)
    outputs = term().among_views([view, view], [], torch.arange(4))
    assert outputs["contrast_loss"].item() == pytest.approx(math.log(1 + 6 * math.exp(-1 / TEMPERATURE)), rel=1e-12)
    assert outputs["contrast_first"] == 1


def test_a_video_is_no_negative_of_itself_when_it_comes_again() -> None:
    """The batch of the epoch before: what is remembered of a video's own views is not among its negatives."""
    view, videos = torch.eye(4, DIM, dtype=torch.float64), torch.tensor([9, 2, 4, 7])
    found = ContrastTerm(temperature=TEMPERATURE, memory_length=8, embedding_dim=DIM)
    for negatives in (6, 12):
        loss = found.among_views([view, view], [], videos)["contrast_loss"]
        assert loss.item() == pytest.approx(math.log(1 + negatives * math.exp(-1 / TEMPERATURE)), rel=1e-12)


def test_under_autocast_nothing_is_rounded() -> None:
    views = [view.float() for view in unit(2, 5)]
    with torch.autocast("cpu", torch.bfloat16):
        rounded = views[0] @ views[1].t()
        outputs = term().among_views(views, [], torch.arange(5))
    assert rounded.dtype == torch.bfloat16
    assert outputs["contrast_loss"].dtype == torch.float32
    exact = term().among_views([view.double() for view in views], [], torch.arange(5))
    assert outputs["contrast_loss"].item() == pytest.approx(exact["contrast_loss"].item(), rel=1e-6)


def test_a_share_counts_rows_whose_largest_logit_is_a_positive() -> None:
    logits = torch.tensor([[3.0, 1, 2], [1, 3, 2], [1, 2, 3], [1, 2, 3]])
    positives = torch.tensor([[True, False, False], [False, False, True], [True, False, True], [True, False, False]])
    assert positive_first(logits, positives) == 0.5


# --- the memory -------------------------------------------------------------------------------------------------------


def test_an_empty_memory_compares_with_nothing_and_draws_nothing() -> None:
    torch.manual_seed(5)
    queue = KeyQueue(6, {"key": (DIM,), "video": ()}, start="empty")
    assert queue.filled("key").shape == (0, DIM)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(drawn, torch.rand(1))
    full, videos = [*unit(2, 3)], torch.arange(3)
    found = ContrastTerm(temperature=TEMPERATURE, memory_length=6, embedding_dim=DIM)
    assert torch.equal(
        found.among_views(full, [], videos)["contrast_loss"], term().among_views(full, [], videos)["contrast_loss"]
    )


def test_what_was_put_is_filled_and_a_batch_longer_than_the_queue_leaves_its_last_rows() -> None:
    queue = KeyQueue(5, {"key": (1,)}, start="empty")
    for start, count in ((0, 3), (3, 4), (7, 12)):
        queue.put({"key": torch.arange(start, start + count).float()[:, None]})
        newest = range(max(0, start + count - 5), start + count)
        assert sorted(queue.filled("key")[:, 0].tolist()) == list(newest)
        assert queue.columns["key"][queue.next - 1, 0] == start + count - 1


def test_a_batch_is_remembered_after_it_was_used_and_only_when_training() -> None:
    task = SingleStream(tiny_encoder("rgb"), num_prototypes=5, contrast_weight=1.0, contrast_memory=9)
    assert task.contrast is not None
    memory = task.contrast.memory
    assert memory is not None
    with torch.no_grad():
        task(tiny_batch(), 0)
    assert len(memory.filled("key")) == 0
    views = task.embed(tiny_batch())
    task.outputs(views, [], tiny_batch(), 0)
    assert memory.filled("video").tolist() == [0, 0, 1, 1, 2, 2]
    torch.testing.assert_close(memory.filled("key"), torch.stack(views, 1).flatten(0, 1))
    assert not memory.filled("key").requires_grad
    task(tiny_batch(), 0)
    assert len(memory.filled("key")) == 9


def test_of_two_streams_the_teachers_views_are_remembered() -> None:
    task = cross(contrast_memory=8)
    task(tiny_batch(), 0)
    assert task.contrast is not None
    assert task.contrast.memory is not None
    with torch.no_grad():
        second, first = task.embed_fixed(tiny_batch())
        expected = torch.stack((second, first), 1).flatten(0, 1)
    torch.testing.assert_close(task.contrast.memory.filled("key"), expected)


@pytest.mark.parametrize("method", [SingleStream, CrossStream])
def test_a_task_goes_on_from_its_state_to_the_bit(method: type[SingleStream]) -> None:
    def fresh() -> SingleStream:
        torch.manual_seed(0)
        return made(method, contrast_memory=8, queue_length=3)

    straight, stopped = fresh(), fresh()
    for number in range(3):
        expected = straight(batch_of(number), 0)
    for number in range(2):
        stopped(batch_of(number), 0)
    resumed = fresh()
    resumed.load_state_dict(stopped.state_dict())
    resumed.load_rank_state(stopped.rank_state())
    assert torch.equal(resumed(batch_of(2), 0)["loss"], expected["loss"])


def test_another_number_of_processes_gets_the_whole_memory() -> None:
    task = made(SingleStream, contrast_memory=8, queue_length=6)
    task(tiny_batch(), 0)
    states = [task.rank_state(), task.rank_state()]
    for rank in range(3):
        share = task.redistribute(states, rank, 3)
        other = made(SingleStream, contrast_memory=8, queue_length=6)
        other.load_rank_state(share)
        assert other.contrast is not None
        assert task.contrast is not None
        for name in ("key", "video"):
            assert torch.equal(other.contrast.memory.filled(name), task.contrast.memory.filled(name))  # type: ignore[union-attr]


@pytest.mark.parametrize(("settings", "lines"), [(SingleStreamSettings, 2), (CrossStreamSettings, 4)])
@pytest.mark.parametrize("swap_weight", [0.0, 1.0])
def test_the_plan_knows_the_bytes_of_queue_and_memory(settings: Any, lines: int, swap_weight: float) -> None:
    method = SingleStream if lines == 2 else CrossStream
    values = {"swap_weight": swap_weight, "contrast_weight": 1.0, "contrast_memory": 10, "queue_length": 6}
    task = made(method, **values)
    for number in range(3):
        task(batch_of(number), 0)
    state = task.rank_state()
    tensors = [*state["queue"].values(), *state["contrast"]["columns"].values()]
    described = settings(**values)
    assert described.queue_bytes(8, 1) == sum(tensor.nbytes for tensor in tensors)
    # Of two processes each has half of the queue, and all of the memory.
    assert described.queue_bytes(8, 2) - described.queue_bytes(8, 1) == 10 * (4 * 8 + 8)


# --- the terms of a task ----------------------------------------------------------------------------------------------


def made(method: type[SingleStream], **values: Any) -> SingleStream:
    encoders = (tiny_encoder("rgb"),) if method is SingleStream else (tiny_encoder("rgb"), tiny_encoder("flow"))
    return method(*encoders, **{"num_prototypes": 5, "contrast_weight": 1.0, **values})


def cross(**values: Any) -> SingleStream:
    return made(CrossStream, **values)


def batch_of(number: int) -> Batch:
    generator = torch.Generator().manual_seed(number)
    clips = {
        stream: torch.randint(0, 256, (3, 2, channels, 8, 32, 32), generator=generator, dtype=torch.uint8)
        for stream, channels in (("rgb", 3), ("flow", 2))
    }
    return Batch(clips, 2 * number + torch.arange(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [SingleStream, CrossStream])
def test_the_loss_is_the_weighted_sum_of_its_terms(method: type[SingleStream]) -> None:
    task = made(method, swap_weight=0.5, contrast_weight=3.0).eval()
    outputs = task(tiny_batch(), 0)
    terms = 0.5 * outputs["swapped_loss"] + 3 * outputs["contrast_loss"]
    torch.testing.assert_close(outputs["loss"], terms)
    published = made(method, contrast_weight=0.0).eval()
    published.load_state_dict(task.state_dict())
    alone = published(tiny_batch(), 0)
    torch.testing.assert_close(outputs["swapped_loss"], alone["loss"])
    assert outputs.keys() - alone.keys() == {"swapped_loss", "contrast_loss", "contrast_first"}
    published.swap_weight = 2.0
    torch.testing.assert_close(published(tiny_batch(), 0)["loss"], 2 * alone["loss"])


@pytest.mark.parametrize("method", [SingleStream, CrossStream])
def test_what_is_published_has_no_trace_of_the_contrast(method: type[SingleStream]) -> None:
    """The same random numbers are drawn, the same is logged and kept; the weight of 1 changes no bit."""
    torch.manual_seed(3)
    task = made(method, contrast_weight=0.0).eval()
    drawn = torch.rand(3)
    torch.manual_seed(3)
    for stream in ("rgb", "flow")[: len(task.streams)]:
        tiny_encoder(stream)
    Prototypes(8, 5)
    assert torch.equal(drawn, torch.rand(3))
    assert task.rank_state().keys() == {"queue"}
    assert {name.partition(".")[0] for name in task.state_dict()} <= {"encoder", "teacher", "prototypes"}
    outputs = task(tiny_batch(), 0)
    assert outputs.keys() == {
        "loss",
        "effective_rank",
        "prototypes_used",
        "prototype_entropy",
        "prediction_perplexity",
        "assignment_perplexity",
    }
    with torch.no_grad():
        assert torch.equal(outputs["loss"], task.loss(task.embed(tiny_batch()), 0)["loss"])


@pytest.mark.parametrize("method", [SingleStream, CrossStream])
def test_without_swapped_prediction_there_are_no_prototypes_and_no_queue(method: type[SingleStream]) -> None:
    task = made(method, swap_weight=0.0, queue_length=6, freeze_prototypes_epochs=1)
    outputs = task(tiny_batch(), 0)
    assert outputs.keys() == {"loss", "contrast_loss", "contrast_first", "effective_rank"}
    assert torch.equal(outputs["loss"], outputs["contrast_loss"])
    assert not any(isinstance(module, Prototypes) for module in task.modules())
    assert not any(name.startswith("prototypes") for name in task.state_dict())
    assert task.rank_state()["queue"] == {}
    outputs["loss"].backward()
    task.cancel_gradients(0)
    assert all(weight.grad is not None for weight in task.encoder.parameters())
    if task.teacher is not None:
        assert all(weight.grad is None for weight in task.teacher.parameters())


def test_a_second_view_without_gradient_is_anchor_and_key_as_it_is() -> None:
    task = made(SingleStream, swap_weight=0.0, views_with_gradient="one").eval()
    both = made(SingleStream, swap_weight=0.0).eval()
    both.load_state_dict(task.state_dict())
    ours, theirs = task(tiny_batch(), 0)["contrast_loss"], both(tiny_batch(), 0)["contrast_loss"]
    torch.testing.assert_close(ours, theirs)
    for loss in (ours, theirs):
        loss.backward()
    head = [module.projection_head[0].weight.grad for module in (task.encoder, both.encoder)]  # type: ignore[union-attr]
    assert head[0].any()  # type: ignore[union-attr]
    assert not torch.allclose(*head)  # type: ignore[arg-type]


@pytest.mark.parametrize("method", [SingleStream, CrossStream])
def test_small_views_find_the_full_ones_of_their_video(method: type[SingleStream]) -> None:
    batch = tiny_batch()
    small = torch.randint(0, 256, (3, 2, 3, 8, 24, 24), dtype=torch.uint8)
    batch = Batch(batch.clips, batch.index, small_clips=({"rgb": small},))
    task = made(method, contrast_temperature=TEMPERATURE).eval()
    views = [view.detach().double() for view in task.embed(batch)]
    own = views[:2]
    if method is SingleStream:
        expected, _ = plain_among_views(own, views[2:], batch.index, ())
    else:
        expected = plain_between_streams([*own, *views[4:]], views[2:4], batch.index, ())
    assert task(batch, 0)["contrast_loss"].item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("method", ["single_stream", "cross_stream"])
@pytest.mark.parametrize("values", [{}, {"contrast_memory": 12}, {"small_views": "1x24", "swap_weight": 0.5}])
def test_the_loss_of_an_encoder_that_tells_nothing_apart_is_the_chance_loss(
    method: str, values: dict[str, Any]
) -> None:
    kinds = {"single_stream": (SingleStream, SingleStreamSettings), "cross_stream": (CrossStream, CrossStreamSettings)}
    kind, described = kinds[method]
    options = {name: value for name, value in values.items() if name != "small_views"}
    task = made(kind, contrast_weight=2.0, **options)
    for head in task.prototypes:
        nn.init.ones_(head.weight)  # type: ignore[arg-type]
    for encoder in (task.encoder, task.teacher):
        if encoder is not None:  # the same direction for every clip
            last = encoder.projection_head[2]
            assert isinstance(last, nn.Conv3d)
            nn.init.zeros_(last.weight)
            assert last.bias is not None
            nn.init.ones_(last.bias)
    small = ({"rgb": torch.zeros(3, 1, 3, 8, 24, 24)},) if "small_views" in values else ()
    for number in (0, 10, 20, 30):  # no video comes again
        batch = batch_of(number)
        outputs = task(Batch(batch.clips, batch.index, small_clips=small), 0)  # type: ignore[arg-type]
    settings = described(num_prototypes=(5,), contrast_weight=2.0, **values)
    assert outputs["loss"].item() == pytest.approx(settings.chance_loss(3), rel=1e-5)


def test_chance_says_its_terms_and_weights() -> None:
    assert SingleStreamSettings().chance_name == "ln K"
    assert SingleStreamSettings().chance_loss(1) == math.log(300)
    both = SingleStreamSettings(contrast_weight=2.0, swap_weight=0.5)
    assert both.chance_name == "0.5 ln K + 2 ln of the keys compared"
    assert SingleStreamSettings(contrast_weight=1.0, swap_weight=0.0).chance_name == "ln of the keys compared"


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"swap_weight": -1.0}, "swap_weight is -1.0; expected 0 or more"),
        ({"contrast_weight": -0.1}, "contrast_weight is -0.1; expected 0 or more"),
        ({"swap_weight": 0.0}, "swap_weight and contrast_weight are both 0"),
        ({"contrast_weight": 1.0, "contrast_temperature": 0.0}, "contrast_temperature is 0.0; expected a number above"),
        ({"contrast_weight": 1.0, "contrast_memory": -1}, "contrast_memory is -1; expected 0 or more"),
        ({"contrast_memory": 128}, "contrast_memory=128 holds negatives of the contrast term, which is left out"),
    ],
)
@pytest.mark.parametrize("method", ["single_stream", "cross_stream"])
def test_settings_that_contradict_each_other_are_refused(method: str, values: dict[str, Any], said: str) -> None:
    teacher = {"teacher": "flow-1"} if method == "cross_stream" else {}
    with pytest.raises(ViccError, match=f"^Stage rgb-1: {said}"):
        Stage("rgb-1", method, "rgb", steps=1, **teacher, **values)


def test_a_step_of_one_video_is_refused_where_it_would_be_compared_with_nothing() -> None:
    stage = Stage("rgb-1", "single_stream", "rgb", steps=1, batch_size=4, contrast_weight=1.0)
    assert stage_length(stage, 2).batch_size == 2
    for few, videos, remedy in (
        (stage.replace(batch_size=1), 9, "--set rgb-1.batch_size=2"),
        (stage, 1, "more videos"),
    ):
        with pytest.raises(ViccError, match=rf"at least 2 a step, got 1 of {videos} training videos. Give {remedy}"):
            stage_length(few, videos)
        assert stage_length(few.replace(contrast_memory=64), videos).batch_size == 1
        assert stage_length(few.replace(contrast_weight=0.0), videos).batch_size == 1


def test_a_stage_written_before_there_was_a_contrast_is_the_same_stage() -> None:
    stage = Stage("rgb-1", "single_stream", "rgb", steps=1)
    new = ("swap_weight", "contrast_weight", "contrast_temperature", "contrast_memory")
    assert stage_from_json({name: value for name, value in stage.to_json().items() if name not in new}) == stage


@pytest.mark.parametrize("method", [SingleStream, CrossStream])
def test_steps_on_one_batch_let_every_view_find_its_video(method: type[SingleStream]) -> None:
    task = made(method, swap_weight=0.0)
    optimizer = torch.optim.AdamW(task.encoder.parameters(), lr=3e-3)
    losses = []
    for _ in range(15):
        outputs = task(batch_of(0), 0)
        optimizer.zero_grad()
        outputs["loss"].backward()
        optimizer.step()
        losses.append(outputs["loss"].item())
    assert outputs["contrast_first"] == 1
    # An untrained teacher gives all videos nearly the same embedding, so there the loss cannot fall far.
    assert losses[-1] < (0.5 if method is SingleStream else 1) * losses[0]
