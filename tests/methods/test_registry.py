"""What others ask of a method, they ask the registry; a method of one's own is answered like vicc's."""

import dataclasses
import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any, ClassVar

import pytest

from vicc.errors import ViccError
from vicc.methods import registry
from vicc.methods.configs import EncoderConfig, MethodSettings
from vicc.methods.encoder import Encoder
from vicc.methods.registry import build_method, list_methods, method_settings, register_method, row_prefix
from vicc.methods.task import Task
from vicc.training.stage import Recipe, Stage, stage_from_json

BUILT_IN = tuple(list_methods())


@dataclass(frozen=True)
class OwnSettings(MethodSettings):
    """A method that sees three clips, one of them without gradient."""

    sharpness: float = 2.0
    """Of what it compares."""

    num_clips: ClassVar[int] = 3

    def clips_encoded(self) -> tuple[int, int]:
        return 2, 1


class Own(Task):
    def __init__(self, encoder: Encoder, sharpness: float) -> None:
        super().__init__()
        self.encoder = encoder
        self.sharpness = sharpness

    @classmethod
    def from_settings(cls, settings: Any, encoder: Encoder, teacher: Encoder | None, *, batch_size: int) -> "Own":
        return cls(encoder, settings.sharpness)


@pytest.fixture
def own(monkeypatch: pytest.MonkeyPatch) -> str:
    """A method "own", known within a test."""
    monkeypatch.setattr(registry, "_SETTINGS", {**registry._SETTINGS})
    monkeypatch.setattr(registry, "_TASKS", {**registry._TASKS})
    register_method("own", settings=OwnSettings)(Own)
    return "own"


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_built_in_method_is_registered_with_the_settings_that_are_known_without_torch(name: str) -> None:
    known = registry._SETTINGS[name]
    import_module(registry._MODULES[name])
    assert registry._SETTINGS[name] is known
    assert name in registry._TASKS


@pytest.mark.parametrize("name", BUILT_IN)
def test_a_method_is_built_from_its_settings(name: str) -> None:
    settings = method_settings(name)()
    given = {"num_classes": 3, "queue_length": 8, "num_prototypes": (5,)}
    values = {key: value for key, value in given.items() if hasattr(settings, key)}
    settings = dataclasses.replace(settings, **values)

    def encoder(stream: Any) -> Encoder:
        dim = 0 if settings.classifies else 16
        return Encoder(EncoderConfig(stream, backbone="s3d-demo", embedding_dim=dim, clip_frames=8, size=32))

    teacher = encoder("flow") if settings.needs_teacher else None
    task = build_method(name, settings, encoder("rgb"), teacher, batch_size=4)
    assert task.encoder.config.stream == "rgb"
    assert (task.teacher is None) is (teacher is None)
    assert not list(settings.problems(task.encoder.config))


def test_rows_of_vicc_stand_alone_and_those_of_others_say_their_method(own: str) -> None:
    assert [row_prefix(name) for name in ("single_stream", "coclr", "fine_tuned", own)] == [
        "",
        "CoCLR",
        "Fine-tuned",
        "own",
    ]


def test_a_method_of_ones_own_answers_what_a_stage_asks(own: str) -> None:
    stage = Stage("rgb-1", own, "rgb", steps=3, sharpness=4, size=64)
    assert isinstance(stage.settings, OwnSettings)
    assert (stage.settings.sharpness, stage.encoder.size) == (4.0, 64)
    assert stage.settings.chance_loss(16) is None
    assert stage_from_json(stage.to_json()) == stage
    changed = Recipe("r", "", (stage,)).with_changes(["rgb-1.sharpness=0.5"])
    assert changed.stages[0].flat()["sharpness"] == 0.5


def test_a_name_stands_for_one_method(own: str) -> None:
    register_method(own, settings=OwnSettings)(Own)  # its module, imported again

    class Another(Own):
        pass

    for taken in (own, "infonce"):
        with pytest.raises(ValueError, match=f"'{taken}' is registered already"):
            register_method(taken, settings=OwnSettings)(Another)


def test_a_module_imported_again_brings_the_fields_that_it_has_now(own: str) -> None:
    @dataclass(frozen=True)
    class Changed(MethodSettings):
        softness: int = 1

    assert "sharpness" in Stage("rgb-1", own, "rgb", steps=3).flat()
    register_method(own, settings=Changed)(Own)
    assert Stage("rgb-1", own, "rgb", steps=3, softness=2).flat()["softness"] == 2
    with pytest.raises(ViccError, match="there is no field sharpness"):
        Stage("rgb-1", own, "rgb", steps=3, sharpness=1.0)


def test_settings_are_a_dataclass_whose_fields_no_stage_has_already(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SETTINGS", {**registry._SETTINGS})
    monkeypatch.setattr(registry, "_TASKS", {**registry._TASKS})
    with pytest.raises(ValueError, match="expected a dataclass of MethodSettings"):
        register_method("loose", settings=dict)  # type: ignore[type-var, arg-type]

    @dataclass(frozen=True)
    class Clashing(MethodSettings):
        momentum: float = 0.5

    register_method("clashing", settings=Clashing)(Own)
    with pytest.raises(ViccError, match="a field momentum, which every stage has"):
        Stage("rgb-1", "clashing", "rgb", steps=1)


def test_what_is_registered_is_a_task_whose_settings_all_have_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "_SETTINGS", {**registry._SETTINGS})

    @dataclass(frozen=True)
    class Wanting(MethodSettings):
        margin: float

    with pytest.raises(ValueError, match="setting margin of method 'wanting' has no default"):
        register_method("wanting", settings=Wanting)
    for thing in (object, lambda: None):
        with pytest.raises(ValueError, match=r"expected a class derived from vicc\.methods\.Task"):
            register_method("thing", settings=OwnSettings)(thing)  # type: ignore[type-var]
    assert not {"wanting", "thing"} & set(list_methods())


def test_a_task_that_cannot_be_built_says_what_it_lacks(own: str) -> None:
    class Bare(Task):
        pass

    register_method("bare", settings=OwnSettings)(Bare)
    encoder = Encoder(EncoderConfig("rgb", backbone="s3d-demo", embedding_dim=8, clip_frames=8, size=32))
    with pytest.raises(ViccError, match="Bare does not define from_settings"):
        build_method("bare", OwnSettings(), encoder, batch_size=4)


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"method": "byol"}, "There is no method 'byol'"),
        ({"method": "single_steam"}, "Did you mean single_stream?"),
        ({"optimizer": "adamx"}, "optimizer is 'adamx'; expected larc, adam, adamw or sgd. Did you mean adam"),
        ({"schedule": "linear"}, "schedule is 'linear'; expected cosine or step"),
        ({"batchnorm": "joint"}, "batchnorm is 'joint'; expected plain, shuffled or sync"),
        ({"views_with_gradient": "all"}, "expected one or both"),
        ({"view_distance": "near-ish"}, "view_distance is 'near-ish'"),
        ({"flow_channels": "vu"}, "expected uv or 128vu"),
        ({"flow_normalization": "clips"}, "Did you mean clip?"),
        ({"stream": "rbg"}, "stream is 'rbg'; expected rgb, flow or diff. Did you mean rgb?"),
        ({"queue_lenght": 8}, "Did you mean queue_length?"),
        ({"num_mined": 3}, "single_stream has no num_mined, a field of coclr"),
        ({"steps": "many"}, "steps is 'many'; expected a whole number"),
        ({"temperature": float("nan")}, "temperature is nan; expected a number above 0"),
    ],
)
def test_what_a_stage_does_not_know_is_refused_with_the_nearest_word(values: dict[str, Any], said: str) -> None:
    given = {"method": "single_stream", "stream": "rgb", "steps": 10, **values}
    with pytest.raises(ViccError, match=f"^Stage rgb-1: .*{re.escape(said)}"):
        Stage("rgb-1", **given)


def test_a_field_of_another_method_is_refused_by_name_and_of_all_reaches_those_that_have_it() -> None:
    vicc = Stage("rgb-1", "single_stream", "rgb", steps=1)
    coclr = Stage("flow-1", "infonce", "flow", steps=1, queue_length=8)
    recipe = Recipe("both", "", (vicc, coclr))
    with pytest.raises(ViccError, match=r"--set rgb-1.key_momentum=0.9: single_stream has no key_momentum"):
        recipe.with_changes(["rgb-1.key_momentum=0.9"])
    changed = recipe.with_changes(["all.key_momentum=0.9"])
    assert changed.stages[0] == vicc
    assert changed.stages[1].flat()["key_momentum"] == 0.9
    with pytest.raises(ViccError, match="a field of coclr"):
        recipe.with_changes(["all.num_mined=3"])


@pytest.mark.parametrize(
    ("method", "values", "said"),
    [
        ("single_stream", {"epsilon": 0.0}, "epsilon is 0.0; expected a number above 0"),
        ("infonce", {"queue_length": -8}, "queue_length is -8; expected 0 or more"),
        ("infonce", {"queue_length": 8, "key_momentum": 1.0}, "key_momentum is 1.0; expected 0 or more, below 1"),
        ("ubernce", {"queue_length": 8, "temperature": -1.0}, "temperature is -1.0; expected a number above 0"),
        ("fine_tuned", {"num_classes": 2, "embedding_dim": 0, "dropout": 1.0}, "dropout is 1.0; expected 0 or more"),
    ],
)
def test_the_numbers_of_a_method_are_judged_by_its_settings(method: str, values: dict[str, Any], said: str) -> None:
    with pytest.raises(ViccError, match=re.escape(f"Stage rgb-1: {said}")):
        Stage("rgb-1", method, "rgb", steps=1, **values)


def test_a_field_of_ones_own_method_means_what_that_method_says(own: str) -> None:
    @dataclass(frozen=True)
    class Signed(MethodSettings):
        temperature: float = 1.0

    register_method(own, settings=Signed)(Own)
    assert Stage("rgb-1", own, "rgb", steps=1, temperature=-1.0).flat()["temperature"] == -1.0


@pytest.mark.parametrize("order", [1, -1])
def test_another_method_and_its_fields_are_set_together_in_any_order(order: int) -> None:
    stage = Stage("rgb-1", "single_stream", "rgb", steps=1, queue_length=8)
    changes = ["rgb-1.method=infonce", "rgb-1.key_momentum=0.9"][::order]
    changed = Recipe("r", "", (stage,)).with_changes(changes).stages[0]
    assert (changed.method, changed.flat()["key_momentum"], changed.flat()["queue_length"]) == ("infonce", 0.9, 8)
    with pytest.raises(
        ViccError, match=r"--set rgb-1.method=infonse: There is no method 'infonse'. Did you mean infonce"
    ):
        Recipe("r", "", (stage,)).with_changes(["rgb-1.method=infonse"])


def test_a_stage_written_before_methods_had_settings_of_their_own_is_the_same_stage() -> None:
    stage = Stage("rgb-1", "single_stream", "rgb", steps=10, queue_length=32, optimizer="adamw")
    old = stage.to_json() | {"num_mined": 5, "key_momentum": 0.999, "num_classes": 0, "dropout": 0.9}
    assert stage_from_json(old | {"backbone_learning_rate_ratio": 1.0}) == stage
    with pytest.raises(ViccError, match="there is no field num_prototips"):
        stage_from_json(stage.to_json() | {"num_prototips": [5]})


def test_another_method_keeps_what_both_have() -> None:
    stage = Stage("rgb-1", "single_stream", "rgb", steps=10, queue_length=32, epsilon=0.03, size=64)
    other = stage.replace(method="infonce")
    assert (other.flat()["queue_length"], other.encoder.size) == (32, 64)
    assert "epsilon" not in other.flat()
    assert stage.replace(size=32).replace(size=64) == stage
