"""Configs take what users pass from Python, and name what they cannot take."""

import dataclasses
import re
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vicc
from vicc.cli.commands import COMMANDS, Group
from vicc.evaluation.configs import ClassifierConfig, MeasuredClassifiers, MeasuredEncoders, MeasuredVideos
from vicc.results.configs import FuseConfig
from vicc.settings import Settings, hints_of, members, sections_of
from vicc.training.configs import SlurmConfig, TrainingConfig

PACKAGE = Path(vicc.__file__).parent
OF_COMMANDS = {
    command.config_type
    for entry in COMMANDS.values()
    for command in (entry.commands.values() if isinstance(entry, Group) else [entry])
}
BASES = {TrainingConfig, ClassifierConfig, MeasuredVideos, MeasuredEncoders}


def all_configs() -> Iterator[type[Settings]]:
    """Every class derived from `Settings` in any module of the package that is called configs.py."""
    for path in sorted(PACKAGE.rglob("configs.py")):
        module = import_module(".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts))
        for value in vars(module).values():
            if isinstance(value, type) and issubclass(value, Settings) and value.__module__ == module.__name__:
                yield value


CONFIGS = [kind for kind in all_configs() if kind not in BASES]


def test_every_config_is_that_of_a_command_or_a_part_of_one() -> None:
    """So that the tests below see each of them, and none is left that no command takes."""
    assert set(CONFIGS) == OF_COMMANDS | {SlurmConfig}
    written = [path for path in PACKAGE.rglob("*.py") if re.search(r"^class \w+\(Settings", path.read_text(), re.M)]
    assert {path.name for path in written} == {"configs.py"}
    assert not (PACKAGE / "configs.py").exists(), "each folder has its own"


def any_config(kind: type[Settings], **changes: Any) -> Settings:
    """A config of that kind in which all that is needed is given."""
    lists = {"paths": ["v"], "stores": ["s"], "results": ["a"], "folders": ["f"], "models": ["a", "b"], "ids": ["a"]}
    if kind is FuseConfig:
        lists["results"] = ["a", "b"]
    values: dict[str, Any] = {name: value for name, value in lists.items() if name in hints_of(kind)}
    for entry in dataclasses.fields(kind):
        if entry.default is dataclasses.MISSING and entry.default_factory is dataclasses.MISSING:
            values.setdefault(entry.name, "data" if entry.name == "what" else entry.name)
    values |= {name: name for name in ("store", "run") if name in hints_of(kind) and name not in values}
    if kind is MeasuredClassifiers:
        values["classifier"] = "ft"
    return kind(**{**values, **changes})


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_every_config_takes_strings_for_paths(kind: type[Settings]) -> None:
    config = any_config(kind)
    for name, hint in hints_of(kind).items():
        value = getattr(config, name)
        if Path in members(hint) and str not in members(hint):
            assert value is None or isinstance(value, Path), name


NUMBERS = [
    (kind, name) for kind in CONFIGS for name, hint in hints_of(kind).items() if {int, float} & set(members(hint))
]


@pytest.mark.parametrize(("kind", "name"), NUMBERS, ids=lambda value: getattr(value, "__name__", value))
def test_a_number_that_means_nothing_is_refused_in_the_words_of_its_field(kind: type[Settings], name: str) -> None:
    """No field of any config means anything below zero, and none takes what is no number."""
    for value in (-1, float("nan"), float("inf"), "many", True, 10**30 if int in members(hints_of(kind)[name]) else -2):
        with pytest.raises(vicc.ViccError) as refused:
            any_config(kind, **{name: value})
        assert f"--{name.replace('_', '-')}" in str(refused.value) or f"({name}=" in str(refused.value)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: vicc.PrepareConfig("v", store="s", workers="four"), "PrepareConfig(workers='four'): expected a whole"),
        (lambda: vicc.PrepareConfig(3, store="s"), "PrepareConfig(videos=3): expected a path."),
        (lambda: vicc.PrepareConfig("", store="s"), "is a variable of the shell not set?"),
        (lambda: SlurmConfig(account=""), "--account '': expected something"),
        (lambda: vicc.PrepareConfig("v", store=Path("s3://bucket/s")), "give a URL as a text"),
        (lambda: vicc.PrepareConfig("v", store="s", groups="s3://b/groups.csv"), "a path on this machine"),
        (lambda: vicc.PrepareConfig("v", store="s", dry_run="yes"), "PrepareConfig(dry_run='yes'): expected true or f"),
        (lambda: vicc.PrepareConfig("v", store="s", workers=1.5), "expected a whole number or None"),
        (lambda: vicc.PrepareConfig("v", store="s", fps=10**400), "expected a number or None"),
        (lambda: vicc.PretrainConfig(store="s", run="r", precision=np.zeros(2)), "precision=a ndarray): expected auto"),
        (lambda: vicc.PretrainConfig(store="s", run="r", precision="bf15"), "Did you mean bf16?"),
        (lambda: vicc.PretrainConfig(store="s", run="r", log_to="tensorbord"), "Did you mean tensorboard?"),
        (lambda: vicc.PretrainConfig(store="s", run="r", slurm={"nodes": 2}), "expected a SlurmConfig"),
        (lambda: vicc.RetrieveConfig(run="r", store="s", encoder={"rgb"}), "several values, each a path"),
    ],
)
def test_a_value_of_another_kind_is_named_with_what_is_expected(make: Callable[[], Any], said: str) -> None:
    with pytest.raises(vicc.ViccError) as refused:
        make()
    assert said in str(refused.value)


def test_what_stands_for_the_same_thing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/somebody")
    config = vicc.RetrieveConfig(encoder="run/rgb-2", store="s3://bucket/store", workers=np.int64(2), out="~/r.json")
    assert config.encoder == [Path("run/rgb-2")], "one value is a list of one, not a list of letters"
    assert config.store == "s3://bucket/store"
    assert config.workers == 2
    assert type(config.workers) is int
    assert config.out == Path("/home/somebody/r.json"), "a ~ in quotes reaches vicc unexpanded"
    prepare = vicc.PrepareConfig(Path("v"), store="~/store", fps=25)
    assert (prepare.store, prepare.fps, type(prepare.fps)) == ("/home/somebody/store", 25.0, float)


@pytest.mark.parametrize(
    ("name", "call"),
    [
        ("prepare_videos", lambda: vicc.prepare_videos("videos", store="store")),
        ("prepare_videos", lambda: vicc.prepare_videos({"videos": "videos"})),
        ("prepare_videos", lambda: vicc.prepare_videos()),
        ("check_videos", lambda: vicc.check_videos("videos")),
        ("retrieve", lambda: vicc.retrieve(vicc.KnnConfig(run="r", store="s"))),
        ("knn", lambda: vicc.knn("run", "store")),
        ("probe", lambda: vicc.probe(run="run", store="store")),
        ("write_report", lambda: vicc.write_report("run")),
        ("pretrain", lambda: vicc.pretrain(vicc.PretrainConfig(run="r", store="s"))),
        ("pretrain", lambda: vicc.pretrain(vicc.PretrainConfig(run="r", store="s"), vicc.create_recipe("demo"))),
    ],
)
def test_a_function_called_in_another_way_says_how_it_is_called(name: str, call: Callable[[], Any]) -> None:
    with pytest.raises(vicc.ViccError, match=rf"^{name}: .*vicc\.{name}\(.*vicc\.\w+Config\(\.\.\.\)\)\.$"):
        call()


def test_a_recipe_takes_one_change_as_a_text_and_refuses_what_is_no_name() -> None:
    assert vicc.create_recipe("demo", changes="all.steps=2") == vicc.create_recipe("demo", changes=["all.steps=2"])
    with pytest.raises(vicc.ViccError, match="There is no recipe 3"):
        vicc.create_recipe(3)  # type: ignore[arg-type]


def test_pretrain_refuses_what_is_no_recipe_and_a_config_that_asks_for_another() -> None:
    config = vicc.PretrainConfig(run="r", store="s")
    with pytest.raises(vicc.ViccError, match=r"vicc\.create_recipe"):
        vicc.pretrain("demo", config)  # type: ignore[arg-type]
    recipe = vicc.create_recipe("demo")
    for wanted in ({"set": "all.steps=5"}, {"recipe": "vicc_ucf101"}, {"motion": "diff"}, {"views": "2x32"}):
        with pytest.raises(vicc.ViccError, match="asks for another recipe"):
            vicc.pretrain(recipe, vicc.PretrainConfig(run="r", store="s", **wanted))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", CONFIGS, ids=lambda kind: kind.__name__)
def test_the_sections_of_the_help_name_fields_once_and_no_section_is_long(kind: type[Settings]) -> None:
    named = [name for names in dict(sections_of(kind)).values() for name in names]
    assert len(named) == len(set(named))
    assert set(named) <= set(hints_of(kind))
    assert all(len(names) <= 12 for names in sections_of(kind).values())
