"""The training step: in parts, with activations computed twice, in fp16, it is the step it would be otherwise."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from vicc.batch import Batch
from vicc.device import Precision
from vicc.errors import ViccError
from vicc.methods.coclr import CoCLR
from vicc.methods.configs import EncoderConfig
from vicc.methods.cross_stream import CrossStream
from vicc.methods.encoder import Encoder
from vicc.methods.infonce import InfoNCE
from vicc.methods.single_stream import SingleStream
from vicc.methods.task import Task
from vicc.methods.ubernce import UberNCE
from vicc.training.optim import LARC
from vicc.training.step import TrainingStep, checkpoint_activations, compile_encoders

CPU = torch.device("cpu")
VIDEOS = 4


def encoder(stream: str) -> Encoder:
    return Encoder(EncoderConfig(stream, backbone="s3d-demo", embedding_dim=8, clip_frames=8, size=32))  # type: ignore[arg-type]


TASKS: dict[str, Callable[[], Task]] = {
    "single": lambda: SingleStream(encoder("rgb"), num_prototypes=(5, 3), queue_length=VIDEOS),
    "single one": lambda: SingleStream(encoder("rgb"), num_prototypes=5, views_with_gradient="one"),
    "cross": lambda: CrossStream(encoder("rgb"), encoder("flow"), num_prototypes=5),
    "cross one": lambda: CrossStream(encoder("rgb"), encoder("flow"), num_prototypes=5, views_with_gradient="one"),
    "single contrast": lambda: SingleStream(encoder("rgb"), num_prototypes=5, contrast_weight=2.0, contrast_memory=12),
    "single contrast one": lambda: SingleStream(
        encoder("rgb"), swap_weight=0.0, contrast_weight=1.0, views_with_gradient="one"
    ),
    "cross contrast": lambda: CrossStream(
        encoder("rgb"), encoder("flow"), swap_weight=0.0, contrast_weight=1.0, contrast_memory=12
    ),
    "infonce": lambda: InfoNCE(encoder("rgb"), queue_length=12),
    "ubernce": lambda: UberNCE(encoder("rgb"), queue_length=12),
    "coclr": lambda: CoCLR(encoder("rgb"), encoder("flow"), queue_length=12),
}


def build(name: str, *, dtype: torch.dtype = torch.float64) -> Task:
    """The same weights whenever it is called."""
    torch.manual_seed(0)
    return TASKS[name]().to(dtype).train()


def small_batch(name: str, *, dtype: torch.dtype = torch.float64) -> Batch:
    """Four videos; with small views for the methods that may have them."""
    generator = torch.Generator().manual_seed(3)

    def clips(views: int, size: int) -> dict[Any, torch.Tensor]:
        return {
            stream: torch.randn(VIDEOS, views, channels, 8, size, size, generator=generator, dtype=dtype)
            for stream, channels in (("rgb", 3), ("flow", 2))
        }

    numbers = torch.arange(VIDEOS)
    small = (clips(2, 24),) if name in ("single", "cross", "single contrast", "cross contrast") else ()
    return Batch(clips(2, 32), numbers, label=numbers % 2, recording=numbers // 2, small_clips=small)


def step_of(task: Task, *, precision: str = "fp32", **options: Any) -> TrainingStep:
    optimizer = LARC([weight for weight in task.parameters() if weight.requires_grad], lr=0.1)
    return TrainingStep(task, optimizer, Precision(precision, CPU), **options)  # type: ignore[arg-type]


def after_steps(task: Task, name: str, **options: Any) -> dict[str, Any]:
    """Two steps, so that the queue takes part; then all that they leave."""
    step = step_of(task, **options)
    torch.manual_seed(1)
    losses = [step(small_batch(name), 0, learning_rate=0.1)["loss"] for _ in range(2)]
    return {
        "losses": torch.stack(losses),
        "random": torch.rand(1),
        **{name: weight.grad for name, weight in task.named_parameters() if weight.grad is not None},
        **task.state_dict(),
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any], *, atol: float) -> None:
    assert ours.keys() == theirs.keys()
    for key, value in theirs.items():
        torch.testing.assert_close(ours[key], value, rtol=atol, atol=atol, msg=lambda text, key=key: f"{key}: {text}")


@pytest.mark.parametrize("name", TASKS)
def test_with_standing_batchnorm_a_step_in_parts_is_the_whole_step(name: str) -> None:
    """Assignments are float32 targets, whose last digit follows the order of a sum."""
    whole, parts = (build(name).eval() for _ in range(2))
    assert_same(after_steps(parts, name, accumulate=3), after_steps(whole, name), atol=1e-6)


class InTwoParts(Task):
    """The reference: all parts with their graphs at once, normalised apart, joined for the loss."""

    def __init__(self, task: Task) -> None:
        super().__init__()
        self.task = task

    def forward(self, batch: Batch, epoch: int) -> dict[str, torch.Tensor]:
        parts = [(self.task.embed_trained(part), self.task.embed_fixed(part)) for part in batch.split(2)]
        trained, fixed = ([torch.cat(views) for views in zip(*kind, strict=True)] for kind in zip(*parts, strict=True))
        return self.task.outputs(trained, fixed, batch, epoch)

    def before_step(self) -> None:
        self.task.before_step()


@pytest.mark.parametrize("name", TASKS)
def test_batchnorm_sees_parts_as_two_processes_would_and_counts_each_once(name: str) -> None:
    """Gradients, weights, and running statistics, which a part encoded twice would move twice."""
    ours = after_steps(build(name), name, accumulate=2)
    reference = after_steps(InTwoParts(build(name)), name)
    assert_same(ours, {key.removeprefix("task."): value for key, value in reference.items()}, atol=1e-6)
    assert ours["encoder.backbone.features.0.0.1.num_batches_tracked"] > 0


def test_dropout_is_the_same_when_a_part_is_encoded_again() -> None:
    def with_dropout() -> Task:
        task = build("single")
        task.encoder.projection_head.append(nn.Dropout(0.5))
        return task

    ours = after_steps(with_dropout(), "single", accumulate=2)
    reference = after_steps(InTwoParts(with_dropout()), "single")
    assert_same(ours, {key.removeprefix("task."): value for key, value in reference.items()}, atol=1e-6)


def saved_bytes(call: Callable[[], Any]) -> int:
    """Bytes of the different tensors that a forward pass keeps for backward."""
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = call()
    del result
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("name", ["single one", "cross one", "infonce", "coclr"])
def test_a_view_without_gradient_keeps_no_graph(name: str) -> None:
    task, batch = build(name), small_batch(name)
    assert saved_bytes(lambda: task(batch, 0)) < 1.01 * saved_bytes(lambda: task.embed_trained(batch)) + 10_000


@pytest.mark.parametrize("name", ["single", "cross", "infonce"])
def test_activations_computed_again_change_nothing_but_what_is_kept(name: str) -> None:
    kept, again = build(name), build(name)
    names = set(again.state_dict())
    checkpoint_activations(again.encoder)
    assert set(again.state_dict()) == names
    batch = small_batch(name)
    assert saved_bytes(lambda: again.embed_trained(batch)) < 0.5 * saved_bytes(lambda: kept.embed_trained(batch))
    kept, again = build(name), build(name)
    checkpoint_activations(again.encoder)
    assert_same(after_steps(again, name), after_steps(kept, name), atol=0.0)


def test_a_backbone_without_blocks_is_refused_in_words() -> None:
    module = encoder("rgb")
    module.backbone = nn.Sequential(module.backbone)
    with pytest.raises(ViccError, match=r"--checkpoint-activations.*blocks"):
        checkpoint_activations(module)


class NoWaiting(TorchDispatchMode):
    """Refuses whatever needs a value on the CPU, for which a step would wait for an accelerator."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        waits = ("_local_scalar_dense", "nonzero", "_unique2", "unique_dim", "masked_select", "is_nonzero")
        assert func.overloadpacket.__name__ not in waits, func
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_step_never_asks_for_a_value(name: str, accumulate: int) -> None:
    step = step_of(build(name), accumulate=accumulate)
    with NoWaiting():
        for _ in range(3):  # the queue is full in the last one
            step(small_batch(name), 0, learning_rate=0.1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_step_never_waits_for_the_gpu(name: str, precision: str) -> None:
    place = Precision(precision, torch.device("cuda"))  # type: ignore[arg-type]
    task = build(name, dtype=torch.float32)
    place.place(task)
    optimizer = LARC([weight for weight in task.parameters() if weight.requires_grad], lr=0.1)
    step = TrainingStep(task, optimizer, place, accumulate=2)
    batch = small_batch(name, dtype=torch.float32).pin_memory()
    step(batch, 0, learning_rate=0.1)  # the first one makes what is made once
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            step(batch, 0, learning_rate=0.1)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_to_ask_for_a_value_is_noticed() -> None:
    with pytest.raises(AssertionError), NoWaiting():
        torch.ones(1).item()


def fp16_step(*, scale: float) -> TrainingStep:
    step = step_of(build("single one", dtype=torch.float32), precision="fp16")
    state = step.state_dict()
    state["scaler"]["scale"] = scale
    step.load_state_dict(state)
    return step


def test_fp16_steps_go_where_fp32_steps_go_and_wait_for_nothing() -> None:
    batch = small_batch("single one", dtype=torch.float32)
    exact, half = step_of(build("single one", dtype=torch.float32)), fp16_step(scale=1024.0)
    with NoWaiting():
        outputs = half(batch, 0, learning_rate=0.1)
    expected = exact(batch, 0, learning_rate=0.1)["loss"]
    assert outputs["skipped"] == 0
    torch.testing.assert_close(outputs["loss"], expected, rtol=0.02, atol=0.02)
    ours, theirs = (torch.cat([weight.grad.flatten() for weight in step.weights]) for step in (half, exact))
    assert torch.cosine_similarity(ours, theirs, dim=0) > 0.9


def test_an_overflow_in_fp16_changes_no_weight_and_halves_the_scale_which_a_resume_keeps() -> None:
    step = fp16_step(scale=1e30)
    encoder = step.task.encoder
    before = [weight.clone() for weight in encoder.parameters()]
    outputs = step(small_batch("single one", dtype=torch.float32), 0, learning_rate=0.1)
    assert outputs["skipped"] == 1
    assert outputs["loss"].isfinite()
    assert all(torch.equal(old, new) for old, new in zip(before, encoder.parameters(), strict=True))
    assert step.state_dict()["scaler"]["scale"] == pytest.approx(5e29)
    assert not any(state["momentum"].any() for state in step.optimizer.state.values())


def test_compiled_encoders_keep_their_names_and_their_loss() -> None:
    plain, compiled = build("cross"), build("cross")
    names = list(compiled.state_dict())
    compile_encoders(compiled, backend="eager")
    assert list(compiled.state_dict()) == names
    ours, theirs = (task(small_batch("cross"), 0)["loss"] for task in (compiled, plain))
    torch.testing.assert_close(ours, theirs)


def test_a_machine_that_cannot_compile_says_so() -> None:
    def broken(graph: Any, inputs: Any) -> Any:
        raise OSError("no C++ compiler found")

    with pytest.raises(ViccError, match=r"--compile.*no C\+\+ compiler"):
        compile_encoders(build("single"), backend=broken)  # type: ignore[arg-type]


def test_parts_of_a_batch_are_all_of_it_in_order() -> None:
    batch = small_batch("single")
    parts = batch.split(3)
    assert [len(part.index) for part in parts] == [2, 1, 1]
    assert torch.equal(torch.cat([part.small_clips[0]["rgb"] for part in parts]), batch.small_clips[0]["rgb"])
    assert torch.equal(torch.cat([part.label for part in parts]), batch.label)  # type: ignore[arg-type]
    assert len(batch.split(9)) == VIDEOS


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (None, "returned None"),
        ({"accuracy": torch.ones(())}, r"returned \['accuracy'\]"),
        ({"loss": 1.0}, r"\['loss'\]"),
    ],
)
def test_a_method_that_returns_no_loss_is_named(returned: Any, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    task = build("single")
    monkeypatch.setattr(task, "forward", lambda batch, epoch: returned)
    step = TrainingStep(task, LARC(task.parameters(), lr=0.1), Precision("fp32", CPU))
    with pytest.raises(ViccError, match=rf"SingleStream .*{said}.*the loss under"):
        step(small_batch("single"), 0, learning_rate=0.1)
