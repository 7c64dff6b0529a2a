"""Backbones and methods from outside: modules named by --import, and those of installed packages."""

import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest

from vicc import plugins
from vicc.backbones import create_backbone, list_backbones
from vicc.backbones import registry as backbones
from vicc.cli import main
from vicc.errors import ViccError
from vicc.files import write_json
from vicc.methods import list_methods
from vicc.methods import registry as methods
from vicc.plugins import import_modules, imported_modules, load_plugins
from vicc.training.run import Run
from vicc.training.stage import Stage
from vicc.transforms.augmentation import Augmentation

WriteModule = Callable[..., str]

OWN_BACKBONE = """
from pathlib import Path
import vicc
from vicc.backbones.s3d import s3d_demo

Path("imported").touch()

@vicc.register_backbone("{name}")
def own(*, in_channels):
    return s3d_demo(in_channels=in_channels)
"""
OWN_METHOD = """
from dataclasses import dataclass
from vicc.methods import MethodSettings, Task, register_method

@dataclass(frozen=True)
class OwnSettings(MethodSettings):
    margin: float = 0.5

@register_method("{name}", settings=OwnSettings)
class Own(Task):
    pass
"""


@pytest.fixture
def write_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WriteModule]:
    """Write a module into the current folder; what it registers is known in this test alone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(plugins, "_IMPORTED", [])
    known = {*list_backbones(), *list_methods()}
    before = set(sys.modules)

    def write(name: str, text: str) -> str:
        (tmp_path / f"{name}.py").write_text(text)
        return name

    load_plugins.cache_clear()
    yield write
    for name in set(sys.modules) - before:
        if Path(getattr(sys.modules[name], "__file__", None) or "/").is_relative_to(tmp_path):
            del sys.modules[name]
    for name in {*list_backbones(), *list_methods()} - known:
        for registered in (backbones._FACTORIES, methods._SETTINGS, methods._TASKS):
            registered.pop(name, None)
    load_plugins.cache_clear()


@pytest.fixture
def install(tmp_path: Path) -> Callable[[str], None]:
    """Make a package known to Python as if pip had installed it, with the module that its entry point names."""

    def make(module: str) -> None:
        folder = tmp_path / "own_package-1.0.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text("Metadata-Version: 2.1\nName: own-package\nVersion: 1.0\n")
        (folder / "entry_points.txt").write_text(f"[vicc.plugins]\nown = {module}\n")
        sys.path.insert(0, str(tmp_path))

    return make


# --- modules ---------------------------------------------------------------------------------------------------------


def test_a_module_of_the_current_folder_brings_its_backbone(write_module: WriteModule) -> None:
    import_modules([write_module("own_backbone", OWN_BACKBONE.format(name="own-net"))])
    assert "own-net" in list_backbones()
    assert create_backbone("own-net", in_channels=2).num_features > 0
    assert imported_modules() == ("own_backbone",)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("gone", None, "--import gone: there is no module gone, neither in the current folder"),
        ("gone.deep", None, "--import gone.deep: there is no module gone, neither"),
        ("own_net.py", "", "expected the name of a module, not of a file: --import own_net"),
        ("folder/own_net.py", None, "expected the name of a module, not of a file: --import folder.own_net"),
        ("./own_net.py", None, "expected the name of a module, not of a file: --import own_net."),
        ("/far/own_net.py", None, "not of a file: --import own_net, in the folder /far."),
        ("../own_net.py", None, "not of a file: --import own_net, in the folder .."),
        ("..", None, "not of a file, for instance own_method for own_method.py."),
        (".", None, "not of a file, for instance own_method for own_method.py."),
        ("wrong", "unknown + 1", "the module cannot be imported (NameError: name 'unknown' is not defined). --debug"),
        ("torn", "def f(:", "the module cannot be imported (SyntaxError: "),
        ("needs", "import not_installed_here", "(ModuleNotFoundError: No module named 'not_installed_here')"),
    ],
)
def test_a_module_that_cannot_be_imported_is_named_with_the_reason(
    name: str, text: str | None, said: str, write_module: WriteModule, capsys: pytest.CaptureFixture[str]
) -> None:
    if text is not None:
        write_module(name.removesuffix(".py"), text)
    assert main(["recipes", "--import", name]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert main(["recipes", "--debug", "--import", name]) == 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_command_knows_the_backbone_of_a_module_wherever_the_option_stands(
    write_module: WriteModule,
    store_path: Path,
    tmp_path: Path,
    tiny_changes: tuple[str, ...],
    capsys: pytest.CaptureFixture[str],
) -> None:
    write_module("own_backbone", OWN_BACKBONE.format(name="own-net"))
    words = ["pretrain", "--recipe", "demo", "--store", str(store_path), "--run", str(tmp_path / "run"), "--dry-run"]
    words += ["--set", *tiny_changes, "all.backbone=own-net"]
    assert main(words) == 2
    error = capsys.readouterr().err
    assert "There is no backbone 'own-net'" in error
    assert "--import MODULE" in error
    for more in (["--import", "own_backbone", *words], [*words, "--import=own_backbone", "--import", "own_backbone"]):
        assert main(more) == 0


def test_the_command_named_next_imports_the_module_too(
    write_module: WriteModule, capsys: pytest.CaptureFixture[str]
) -> None:
    write_module("own_backbone", OWN_BACKBONE.format(name="own-net"))
    assert main(["recipes", "--import", "own_backbone"]) == 0
    assert capsys.readouterr().out.endswith("\nnext: vicc --import own_backbone recipes show NAME\n")


@pytest.mark.parametrize(
    "words",
    [
        ["pretrain", "--help", "--import", "own_backbone"],
        ["--import", "own_backbone", "--help"],
        ["pretrain", "--import", "own_backbone", "--sede", "1"],
        ["retrieve", "--import", "own_backbone", "--run", "missing", "--store", "missing"],
    ],
)
def test_help_and_mistakes_are_answered_without_the_module(
    words: list[str], write_module: WriteModule, tmp_path: Path
) -> None:
    """It may import torch, which takes seconds."""
    write_module("own_backbone", OWN_BACKBONE.format(name="own-net"))
    assert main(words) == (0 if "--help" in words else 2)
    assert not (tmp_path / "imported").exists()


def test_the_option_needs_a_module_and_is_a_name_behind_two_dashes(
    store_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for words in (["recipes", "--import"], ["recipes", "--import", "--json"], ["recipes", "--import="]):
        assert main(words) == 2
        assert "--import: expected the name of a Python module after it" in capsys.readouterr().err
    assert main(["store", "drop", str(store_path), "--dry-run", "--", "--import"]) == 2
    assert "--import" in capsys.readouterr().err


def test_help_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert "\n  --import MODULE  " in capsys.readouterr().out
    assert main(["pretrain", "--help"]) == 0
    assert "--import MODULE" in " ".join(capsys.readouterr().out.split("\n\n")[-1].split())


# --- installed packages ----------------------------------------------------------------------------------------------


def test_a_backbone_of_an_installed_package_is_found_when_it_is_asked_for(
    write_module: WriteModule, install: Callable[[str], None], tmp_path: Path
) -> None:
    install(write_module("packaged", OWN_BACKBONE.format(name="packaged-net")))
    create_backbone("s3d-demo")
    assert not (tmp_path / "imported").exists(), "nothing is imported while all that is asked for is known"
    assert create_backbone("packaged-net", in_channels=3).num_features > 0
    with pytest.raises(ViccError, match=r"There is no backbone 'other'; known are .*packaged-net"):
        create_backbone("other")


def test_a_method_of_an_installed_package_is_found_when_a_stage_asks_for_it(
    write_module: WriteModule, install: Callable[[str], None]
) -> None:
    install(write_module("packaged", OWN_METHOD.format(name="packaged-method")))
    stage = Stage("rgb-1", "packaged-method", "rgb", steps=3, margin=0.25)
    assert stage.to_json()["margin"] == 0.25
    with pytest.raises(ViccError, match=r"There is no method 'packaged-methd'.*Did you mean packaged-method"):
        Stage("rgb-1", "packaged-methd", "rgb", steps=3)


def test_a_run_of_an_installed_method_is_read_without_any_import(
    write_module: WriteModule, install: Callable[[str], None], tmp_path: Path
) -> None:
    install(write_module("packaged", OWN_METHOD.format(name="packaged-method")))
    recipe = {
        "name": "own",
        "description": "",
        "stages": [
            {
                "name": "rgb-1",
                "method": "packaged-method",
                "stream": "rgb",
                "steps": 3,
                "margin": 0.25,
                "augmentation": asdict(Augmentation()),
            }
        ],
    }
    write_json(tmp_path / "run" / "recipe.json", {"recipe": recipe})
    assert Run(tmp_path / "run").stages[0].flat()["margin"] == 0.25


def test_an_installed_package_that_cannot_be_imported_is_named(
    write_module: WriteModule, install: Callable[[str], None]
) -> None:
    install(write_module("broken", "1 / 0"))
    with pytest.raises(ViccError, match=r"package own-package brings broken to vicc.*\(ZeroDivisionError: "):
        create_backbone("other")
