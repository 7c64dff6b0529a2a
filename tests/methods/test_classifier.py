"""Classifiers as tasks: what is trained, what a checkpoint holds, and a batch in parts."""

import pytest
import torch

from vicc.batch import Batch
from vicc.device import Precision
from vicc.errors import ViccError
from vicc.methods.classifier import Classification, FineTuned, LinearProbe
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.training.build import build_optimizer
from vicc.training.stage import Stage
from vicc.training.step import TrainingStep

CLASSES = 3
CPU = Precision("fp64", torch.device("cpu"))


def stage(method: str, ratio: float = 1.0) -> Stage:
    return Stage(
        "classifier",
        method,
        "rgb",
        backbone="s3d-demo",
        embedding_dim=0,
        num_classes=CLASSES,
        epochs=1,
        optimizer="sgd",
        schedule="step",
        learning_rate=0.1,
        weight_decay=0.0,
        momentum=0.0,
        **({"backbone_learning_rate_ratio": ratio} if method == "fine_tuned" else {}),
    )


def task(method: str, *, dropout: float = 0.0) -> Classification:
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig("rgb", backbone="s3d-demo", embedding_dim=0, clip_frames=8, size=32)).double()
    probe = method == "linear_probe"
    classifier = LinearProbe(encoder, CLASSES) if probe else FineTuned(encoder, CLASSES, dropout=dropout)
    return Classification(classifier.double())


def batch(size: int = 4) -> Batch:
    rng = torch.Generator().manual_seed(1)
    clips = torch.randint(0, 256, (size, 1, 3, 8, 32, 32), dtype=torch.uint8, generator=rng)
    return Batch({"rgb": clips}, torch.arange(size), torch.arange(size) % CLASSES, torch.arange(size))


def stepped(method: str, *, accumulate: int = 1, ratio: float = 1.0, dropout: float = 0.0) -> Classification:
    trained = task(method, dropout=dropout)
    step = TrainingStep(trained, build_optimizer(stage(method, ratio), trained), CPU, accumulate=accumulate)
    trained.train()
    torch.manual_seed(5)
    step(batch(), 0, learning_rate=0.1)
    return trained


@pytest.mark.parametrize("method", ["linear_probe", "fine_tuned"])
def test_the_loss_is_the_cross_entropy_of_the_classifiers_logits(method: str) -> None:
    trained = task(method)
    trained.train()
    with torch.no_grad():
        logits = trained.classifier(batch().clips["rgb"][:, 0])
        found = trained(batch(), 0)
    expected = -logits.log_softmax(1)[torch.arange(4), batch().label].mean()
    torch.testing.assert_close(found["loss"], expected)
    assert found["accuracy"] == (logits.argmax(1) == batch().label).double().mean()


def test_a_probe_trains_its_head_alone_and_its_checkpoint_holds_no_more() -> None:
    before, after = task("linear_probe"), stepped("linear_probe")
    names = {"classifier.linear.weight", "classifier.linear.bias", "classifier.batchnorm.weight"}
    assert names < set(after.state_dict())
    assert not [name for name in after.state_dict() if "encoder" in name]
    for name, value in after.encoder.state_dict().items():
        assert torch.equal(value, before.encoder.state_dict()[name]), f"{name} of the frozen encoder has changed"
    assert not torch.equal(after.classifier.linear.weight, before.classifier.linear.weight)
    before.load_state_dict(after.state_dict())
    assert torch.equal(after.classifier.linear.weight, before.classifier.linear.weight)
    with pytest.raises(RuntimeError, match=r"classifier\.linear\.bias"):
        before.load_state_dict({"classifier.linear.weight": after.classifier.linear.weight})


@pytest.mark.parametrize("method", ["linear_probe", "fine_tuned"])
def test_a_batch_in_parts_gives_the_head_the_gradient_of_the_whole(method: str) -> None:
    """Of a fine-tuned backbone BatchNorm sees parts; in eval mode it sees none of them, and all is equal."""
    whole, parts = (task(method, dropout=0.5) for _ in range(2))
    for trained, accumulate in ((whole, 1), (parts, 2)):
        step = TrainingStep(trained, build_optimizer(stage(method), trained), CPU, accumulate=accumulate)
        trained.train()
        trained.encoder.eval()
        torch.manual_seed(5)
        step(batch(), 0, learning_rate=0.1)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(parts.state_dict()[name], value, rtol=1e-9, atol=1e-12)


def test_the_backbones_rate_is_its_ratio_of_the_heads() -> None:
    start, whole, tenth = task("fine_tuned"), stepped("fine_tuned"), stepped("fine_tuned", ratio=0.1)
    for name, value in start.named_parameters():
        moved, less = (dict(other.named_parameters())[name] - value for other in (whole, tenth))
        torch.testing.assert_close(less, moved * (0.1 if "encoder" in name else 1.0), rtol=1e-6, atol=1e-12)


def test_a_batch_without_labels_is_refused_in_words() -> None:
    unlabelled = Batch(batch().clips, torch.arange(4))
    with pytest.raises(ViccError, match="learns from labels"):
        task("fine_tuned")(unlabelled, 0)


@pytest.mark.parametrize(
    ("method", "loss", "clips"), [("linear_probe", 1.0986, (0, 1)), ("fine_tuned", 1.0986, (1, 0))]
)
def test_chance_is_the_logarithm_of_the_classes(method: str, loss: float, clips: tuple[int, int]) -> None:
    described = stage(method)
    assert described.settings.chance_loss(16) == pytest.approx(loss, abs=1e-4)
    assert described.settings.chance_name == "ln of the classes"
    assert described.settings.clips_encoded() == clips
