"""Where something can be written is known before it is made."""

import errno
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

import pytest
from filelock import FileLock

from tests.evaluation.made_results import made_file
from vicc.cli import main
from vicc.errors import ViccError
from vicc.evaluation import classify_features, retrieve
from vicc.evaluation.configs import KnnConfig, ProbeConfig, RetrieveConfig
from vicc.files import atomic_write, exclusive_folder, is_held, require_writable
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.training.checkpoint import save_encoder

Place = Callable[[Path], Path]


def below_a_file(folder: Path) -> Path:
    (folder / "file").touch()
    return folder / "file" / "deeper" / "out.json"


IMPOSSIBLE: dict[str, Place] = {
    "below a file": below_a_file,
    "a folder": lambda folder: folder,
    "a name that is too long": lambda folder: folder / ("x" * 300),
    "a place that holds no files": lambda folder: Path("/proc/nobody/out.json"),
}


@pytest.mark.parametrize("what", IMPOSSIBLE)
def test_a_place_that_cannot_be_written_is_refused_and_is_one_that_writing_refuses(what: str, tmp_path: Path) -> None:
    path = IMPOSSIBLE[what](tmp_path)
    with pytest.raises(ViccError) as refused:
        require_writable(path, instead="Give another --html")
    assert str(path) in str(refused.value)
    assert "Give another --html." in str(refused.value)
    with pytest.raises(OSError), atomic_write(path) as file:  # noqa: PT011 - of several kinds
        file.write("x")


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES])
def test_a_file_system_that_is_read_only_is_seen_by_trying(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> NoReturn:
        raise OSError(number, "no")

    monkeypatch.setattr(tempfile, "mkstemp", refuse)
    with pytest.raises(ViccError, match=r"out\.json cannot be written \(no\)"):
        require_writable(tmp_path / "out.json")


def test_nothing_is_left_behind_and_what_is_there_stays(tmp_path: Path) -> None:
    (tmp_path / "out.json").write_text("old")
    require_writable(tmp_path / "out.json")
    require_writable(tmp_path / "new" / "folder" / "out.json")
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert (tmp_path / "out.json").read_text() == "old"


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    folder = tmp_path / "encoder"
    save_encoder(folder, Encoder(EncoderConfig("rgb", backbone="s3d-demo", clip_frames=4, size=16)))
    return folder


@pytest.mark.parametrize("command", ["retrieve", "knn", "probe"])
def test_commands_that_compute_features_look_first(
    command: str, encoder: Path, store_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute(*arguments: object, **options: object) -> NoReturn:
        raise AssertionError("it computes before it looks")

    for module in (retrieve, classify_features):
        monkeypatch.setattr(module, "describe_all", compute)
    makes = {"retrieve": RetrieveConfig, "knn": KnnConfig, "probe": ProbeConfig}[command]
    run = {"retrieve": retrieve.retrieve, "knn": classify_features.knn, "probe": classify_features.probe}[command]
    out = below_a_file(tmp_path)
    with pytest.raises(ViccError, match=r"cannot be written.*--out"):
        run(makes(encoder=[encoder], store=store_path, out=out))  # type: ignore[operator]
    (encoder / "features").touch()  # so that none can be kept
    with pytest.raises(ViccError, match=r"features.*--no-cache"):
        run(makes(encoder=[encoder], store=store_path, out=tmp_path / "out.json"))  # type: ignore[operator]
    with pytest.raises(AssertionError):
        run(makes(encoder=[encoder], store=store_path, out=tmp_path / "o.json", cache=False))  # type: ignore[operator]


def test_every_other_command_that_writes_a_file_says_the_same(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out, one = below_a_file(tmp_path), made_file(tmp_path / "a.json")
    commands: list[list[object]] = [
        ["compare", one, one, "--out", out],
        ["table", one, "--out", out],
        ["fuse", one, one, "--out", out],
        ["runs", tmp_path, "--out", out.with_suffix(".png")],
        ["check", tmp_path, "--html", out.with_suffix(".html")],
        ["recipes", "show", "demo", "--plot", out.with_suffix(".png")],
        ["export", tmp_path, "--out", out],
        ["import", one, "--out", out],
    ]
    for words in commands:
        assert main([*map(str, words)]) == 2, words
        assert "cannot be written, since" in capsys.readouterr().err, words


def test_a_look_at_who_holds_a_folder_refuses_nobody_and_a_holder_does(tmp_path: Path) -> None:
    """The look takes the lock itself, for an instant."""
    lock = FileLock(tmp_path / ".lock", thread_local=False)
    lock.acquire()
    timer = threading.Timer(0.05, lock.release)
    timer.start()
    with exclusive_folder(tmp_path, what="store"):
        assert is_held(tmp_path)
        with pytest.raises(ViccError, match="in use by another process"), exclusive_folder(tmp_path, what="store"):
            pass
    timer.join()
    assert not is_held(tmp_path)
