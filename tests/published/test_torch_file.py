"""Files that torch wrote are read without running anything; what is no such file is refused in words."""

import os
import pickle
import re
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.published.made_files import refused, save
from vicc.errors import ViccError
from vicc.published.importing import _number, _whole_number, import_published
from vicc.published.torch_file import load_checkpoint


@pytest.mark.parametrize("old_format", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.0001, 0.01, 0.5, 0.99, 0.99999])
def test_a_file_cut_short_anywhere_is_refused(tmp_path: Path, share: float, old_format: bool) -> None:
    path = save(tmp_path / "a", {"encoder_q.0": torch.randn(100_000)}, old_format=old_format)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    refused(path, tmp_path / "folder", "cut short" if share else "an empty file")


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"not an archive, nor anything else\n" * 100)
    refused(tmp_path / "a", tmp_path / "folder", "not written by torch.save")
    with zipfile.ZipFile(tmp_path / "b", "w") as archive:
        archive.writestr("hello.txt", "hello")
    refused(tmp_path / "b", tmp_path / "folder", "damaged")
    refused(tmp_path / "nothing", tmp_path / "folder", "no such file")


def test_a_file_that_unpacks_to_more_than_it_is_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "a", {"encoder_q.0": torch.zeros(100_000)})
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "b", "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    refused(tmp_path / "b", tmp_path / "folder", "unpack to more")


class RunsCode:
    """A pickle that makes a folder when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("kind", ["zip", "old format", "pickle"])
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path: Path, kind: str) -> None:
    made, path = tmp_path / "made", tmp_path / "a"
    content = {"state_dict": {"encoder_q.0": torch.zeros(3)}, "optimizer": RunsCode(made)}
    if kind == "pickle":
        path.write_bytes(pickle.dumps(RunsCode(made)))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=kind == "zip")
    said = refused(path, tmp_path / "folder", "run code when loaded")
    assert "executed" in said
    assert not made.exists()


class Call:
    """A pickle that calls something, with any arguments."""

    def __init__(self, function: object, *arguments: object) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        return self.call


@pytest.mark.parametrize(
    ("value", "epoch"),
    [
        (np.int64(300), 300),
        (np.uint8(7), 7),
        (np.float32(12.0), 12),
        (np.float64(1.5), None),
        (np.array(300), 300),
        (np.array([[5]], ">i4"), 5),
        (torch.tensor(9), 9),
        (np.arange(3), None),
        (np.str_("300"), None),
        (np.array([1, None]), None),
        (np.datetime64("2020-01-01"), None),
    ],
    ids=repr,
)
@pytest.mark.parametrize("old_format", [False, True])
def test_numpy_numbers_are_read_as_what_they_are_and_the_weights_with_them(
    tmp_path: Path, value: object, epoch: int | None, old_format: bool
) -> None:
    path = save(tmp_path / "a", {"encoder_q.0": torch.ones(2)}, epoch=value, lr=np.float64(0.1), old_format=old_format)
    checkpoint = load_checkpoint(path)
    assert _whole_number(checkpoint, "epoch") == epoch
    assert _number(checkpoint["lr"]) == 0.1
    assert torch.equal(checkpoint["state_dict"]["encoder_q.0"], torch.ones(2))


@pytest.mark.parametrize("core", ["core", "_core"])
def test_numbers_of_numpy_1_and_of_numpy_2_are_read(tmp_path: Path, core: str) -> None:
    """Each has another name for the module, and a file does not say which NumPy wrote it."""
    path, written = tmp_path / "a", tmp_path / "written"
    save(written, {"encoder_q.0": torch.zeros(1)}, epoch=np.int64(300))
    with zipfile.ZipFile(written) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                found = re.sub(rb"numpy\._?core", f"numpy.{core}".encode(), data)
                assert f"numpy.{core}.multiarray".encode() in found
                data = found
            target.writestr(entry.filename, data)
    assert load_checkpoint(path)["epoch"] == 300


@pytest.mark.parametrize("at", ["instead of it", "in an array", "as a kind of array", "as an argument"])
def test_what_would_run_code_is_named_also_within_numpys_values(tmp_path: Path, at: str) -> None:
    made = tmp_path / "made"
    bad = RunsCode(made)
    reconstruct = np.array(1).__reduce__()[0]
    values = {
        "instead of it": bad,
        "in an array": np.array([bad, None], dtype=object),
        "as a kind of array": Call(reconstruct, bad, (0,), b"b"),
        "as an argument": Call(reconstruct, np.ndarray, (0,), bad),
    }
    path = save(tmp_path / "a", {"encoder_q.0": torch.zeros(1)}, epoch=values[at])
    assert "posix.mkdir" in refused(path, tmp_path / "folder", "run code when loaded")
    assert not made.exists()


def test_what_is_refused_is_named_by_its_own_name(tmp_path: Path) -> None:
    for args, name in ((types.SimpleNamespace(lr=0.1), "types.SimpleNamespace"), (Path("x"), "pathlib.P")):
        said = refused(save(tmp_path / "a", {}, args=args), tmp_path / "folder", "run code when loaded")
        assert f"it holds {name}" in said


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_a_file_of_a_newer_pickle_protocol_is_not_called_damaged(tmp_path: Path) -> None:
    torch.save({"state_dict": {"encoder_q.0": torch.zeros(3)}}, tmp_path / "a", pickle_protocol=4)
    refused(tmp_path / "a", tmp_path / "folder", "pickle_protocol above 2")


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
def test_bytes_changed_at_random_never_end_in_anything_but_a_sentence(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for old_format in (False, True):
        path = save(tmp_path / "a", {"encoder_q.0": torch.arange(64.0)}, best=np.float64(1), old_format=old_format)
        whole = np.frombuffer(path.read_bytes(), np.uint8)
        for trial in range(150):
            data = whole.copy()
            places = rng.integers(0, len(data), 1 + trial % 4)
            data[places] = rng.integers(0, 256, len(places))
            path.write_bytes(data.tobytes())
            with pytest.raises(ViccError):
                import_published(path, tmp_path / "folder", stream="rgb")
