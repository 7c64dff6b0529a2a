"""The package's one-way imports: every module imports only from below, and no files import each other in a circle."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import vicc
import vicc.data
import vicc.methods
import vicc.transforms

PACKAGE = Path(vicc.__file__).parent

# Bottom first. A part may import itself and what stands before it. Names on one line are of equal rank and may not
# import each other, but for the leaves of the first lines.
ORDER = (
    ("version", "errors", "cores", "words"),
    ("settings", "plugins", "public_names"),
    ("main_guard", "progress", "files", "batch", "distributed", "device", "retrieval"),
    ("places", "text_table"),
    ("video",),
    ("transforms",),
    ("data",),
    ("prepare",),
    ("backbones",),
    ("methods",),
    ("training",),
    ("published",),
    ("evaluation",),
    ("results",),
    ("recipes",),
    ("cli",),
    ("__init__", "__main__"),
)
RANK = {name: rank for rank, names in enumerate(ORDER) for name in names}
MODULES = sorted(PACKAGE.rglob("*.py"))
CONFIGS = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts) for path in MODULES if path.stem == "configs"
]


def part_of(path: Path) -> str:
    """`vicc/data/store.py` belongs to `data`, `vicc/training/watch/log.py` to `training`, `vicc/files.py` to itself."""
    first = path.relative_to(PACKAGE).parts[0]
    return first.removesuffix(".py")


def imported_names(path: Path) -> Iterator[str]:
    """Absolute dotted names of everything a module imports, inside functions and for types included."""
    package = ("vicc", *path.relative_to(PACKAGE).parent.parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            yield from (f"{module}.{alias.name}" for alias in node.names)


def module_name(path: Path) -> str:
    """`vicc/data/store.py` is vicc.data.store, `vicc/data/__init__.py` is vicc.data."""
    parts = path.relative_to(PACKAGE).with_suffix("").parts
    return ".".join(("vicc", *(parts[:-1] if parts[-1] == "__init__" else parts)))


def import_graph() -> dict[str, set[str]]:
    """The modules of the package that each of them imports."""
    names = {module_name(path): path for path in MODULES}
    graph: dict[str, set[str]] = {}
    for module, path in names.items():
        imported = set(imported_names(path))
        # `from vicc.data import store` imports a module, `from vicc.data.store import Store` a name of one.
        graph[module] = {name if name in names else name.rpartition(".")[0] for name in imported} & names.keys()
    return graph


def circles_of(graph: dict[str, set[str]]) -> set[frozenset[str]]:
    """The largest sets of modules each of which reaches all others of the set, and modules that import themselves."""
    reached: dict[str, set[str]] = {}
    for start in graph:
        seen: set[str] = set()
        waiting = [start]
        while waiting:
            new = graph[waiting.pop()] - seen
            seen |= new
            waiting += new
        reached[start] = seen
    return {
        frozenset(other for other in reached[module] if module in reached[other])
        for module in graph
        if module in reached[module]
    }


def imported_parts(path: Path) -> set[str]:
    names = (name.split(".") for name in imported_names(path))
    return {parts[1] if len(parts) > 1 else "__init__" for parts in names if parts[0] == "vicc"}


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_a_module_imports_only_from_its_own_part_and_from_below(path: Path) -> None:
    own = part_of(path)
    assert own in RANK, f"vicc/{own} has no place in ORDER: give it one"
    up = {
        part: RANK.get(part, "not a module")
        for part in imported_parts(path)
        if part != own and not (part in RANK and RANK[part] < RANK[own])
    }
    assert not up, f"{path.relative_to(PACKAGE)} (rank {RANK[own]}) imports {up}, which are not below it"


def test_no_files_import_each_other_in_a_circle() -> None:
    assert not circles_of(import_graph()), "move what they share into a module below them"


def test_circles_are_found_however_long_and_a_shared_import_is_none() -> None:
    """Otherwise the test above would hold nothing."""
    graph = {"a": {"b", "d"}, "b": {"c", "d"}, "c": {"a"}, "d": set(), "e": {"e"}, "f": {"a"}}
    assert circles_of(graph) == {frozenset("abc"), frozenset("e")}
    assert {"vicc.training.engine", "vicc.training.stage"} <= import_graph()["vicc.training.train_stage"]
    assert "vicc.data.store" in import_graph()["vicc"], "for types too"


def test_the_parser_sees_imports_inside_functions_and_relative_ones(tmp_path: Path) -> None:
    """Otherwise the test above would hold nothing."""
    assert "evaluation" in imported_parts(PACKAGE / "cli" / "measure.py")  # imported inside a function
    assert {"data", "methods"} <= imported_parts(PACKAGE / "training" / "pretrain.py")


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())
def test_only_the_command_line_knows_the_parser_of_flags(path: Path) -> None:
    assert "vicc.cli.flags" not in {name.rpartition(".")[0] for name in imported_names(path)} or part_of(path) == "cli"
    reads_words = path.relative_to(PACKAGE).as_posix() == "cli/flags.py"
    assert reads_words or "argparse" not in set(imported_names(path)), "vicc.cli.flags is the one"


NAMED = {"cv2": "opencv-contrib-python-headless", "mlflow": "mlflow-skinny"}  # where a library is called otherwise
BEHIND = {"s3fs"}  # what fsspec imports by itself


def declared_libraries() -> set[str]:
    """What pyproject.toml names for users, not for developers."""
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = [names for extra, names in project["optional-dependencies"].items() if extra != "dev"]
    return {re.split(r"[^A-Za-z0-9_.-]", name)[0] for names in (project["dependencies"], *extras) for name in names}


def test_a_library_is_imported_only_if_it_is_declared_and_declared_only_if_it_is_imported() -> None:
    """One that was given up must not come back unseen, as it is still installed where vicc is developed."""
    tops = {name.partition(".")[0] for path in MODULES for name in imported_names(path)}
    libraries = {NAMED.get(name, name) for name in tops - {"vicc", *sys.stdlib_module_names}}
    assert libraries == declared_libraries() - BEHIND


def modules_after(statement: str) -> set[str]:
    code = f"import sys; {statement}; print(*sorted(sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split())


METHODS = "vicc.methods.configs"  # which knows the forms of clips
LIGHT = ["import vicc", "import vicc.cli", f"import {', '.join(name for name in CONFIGS if name != METHODS)}"]


@pytest.mark.parametrize("statement", [*LIGHT, f"import {METHODS}", "import vicc.data.splits, vicc.errors"])
def test_a_light_import_does_not_import_torch(statement: str) -> None:
    assert "torch" not in modules_after(statement)


@pytest.mark.parametrize("statement", LIGHT)
def test_a_light_import_does_not_import_numpy_or_opencv(statement: str) -> None:
    assert not {"numpy", "cv2"} & modules_after(statement)


PACKAGES = (vicc, vicc.data, vicc.methods, vicc.transforms)
PUBLIC = [(package, name) for package in PACKAGES for name in package.__all__ if name != "__version__"]


@pytest.mark.parametrize(("package", "name"), PUBLIC, ids=lambda value: getattr(value, "__name__", value))
def test_every_public_name_is_there(package: ModuleType, name: str) -> None:
    try:
        value = getattr(package, name)
    except ModuleNotFoundError as error:
        pytest.fail(f"{package.__name__}.{name} is promised in __all__: {error}")
    assert getattr(value, "__name__", name) == name
    assert name in dir(package)


def test_a_public_list_costs_nothing_and_a_mistyped_name_of_it_gets_the_nearest() -> None:
    assert not {"torch", "numpy", "cv2"} & modules_after("import vicc, vicc.data, vicc.methods, vicc.transforms")
    code = "import vicc.methods; vicc.methods.Encodr"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "module 'vicc.methods' has no attribute 'Encodr'. Did you mean: 'Encoder'?" in result.stderr


@pytest.mark.parametrize(
    "package", [package for package in PACKAGES if package is not vicc], ids=lambda one: one.__name__
)
def test_no_module_has_the_name_of_a_public_thing_beside_it(package: ModuleType) -> None:
    """Once imported, the module would take its place."""
    stems = {path.stem for folder in package.__path__ for path in Path(folder).iterdir()}
    assert not set(package.__all__) & stems


@pytest.mark.parametrize("name", sorted(set(vicc.__all__) & {path.stem for path in PACKAGE.iterdir()}) or ["Store"])
def test_a_public_name_means_the_same_thing_the_second_time(name: str) -> None:
    """A part of the package of the same name would take its place once it has been imported."""
    code = f"import vicc; first = vicc.{name}; assert vicc.{name} is first, vicc.{name}"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr.splitlines()[-1]


def test_an_unknown_public_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = vicc.no_such_name
