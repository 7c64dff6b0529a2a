"""A thin S3D stands for S3D, under the same names, but for the tests that are marked parity."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.published.made_files import published_state, save
from vicc.backbones import S3D, registry
from vicc.published.importing import import_published

FULL = registry._FACTORIES["s3d"]


@pytest.fixture(scope="module", autouse=True)
def thin() -> Iterator[None]:
    """A sixteenth of S3D's width: 0.03 M parameters in place of 7.9 M, the same names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(registry._FACTORIES, "s3d", lambda in_channels: S3D(in_channels, width=1 / 16))
        yield


@pytest.fixture
def full_size(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(registry._FACTORIES, "s3d", FULL)


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A single-stream ViCC file. Read it only."""
    return save(tmp_path_factory.mktemp("published") / "vicc.pth.tar", published_state("vicc"))


@pytest.fixture(scope="module")
def imported(single: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`single`, imported as flow. Read it only."""
    folder = tmp_path_factory.mktemp("imported") / "vicc-flow"
    import_published(single, folder, stream="flow")
    return folder
