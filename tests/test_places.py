"""What is at a path, and the one sentence for what is not."""

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from vicc import places
from vicc.errors import ViccError
from vicc.evaluation.configs import RetrieveConfig


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a store, a run with one finished stage, an imported classifier, videos, a file, an empty folder."""
    for file in (
        "store/store.json",
        "run/recipe.json",
        "run/rgb-1/encoder/config.json",
        "classifier/head.safetensors",
        "classifier/config.json",
        "videos/a.mp4",
        "runs/first/retrieval.json",
        "clip.mp4",
    ):
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def refusal(require: Callable[[Path], None], place: str) -> str:
    with pytest.raises(ViccError) as refused:
        require(Path(place))
    return str(refused.value)


@pytest.mark.parametrize(
    ("place", "what"),
    [
        ("store", "a store"),
        ("run", "a run"),
        ("run/rgb-1", "a stage of a run"),
        ("run/rgb-1/encoder", "an encoder"),
        ("classifier", "a classifier"),
        ("videos", "a folder"),
        ("empty", "an empty folder"),
        ("clip.mp4", "a file"),
        ("nothing", ""),
    ],
)
def test_a_place_is_known_by_what_is_in_it(here: Path, place: str, what: str) -> None:
    assert places.what_is_at(here / place) == what


@pytest.mark.parametrize(
    ("require", "place", "said"),
    [
        (places.require_store, "stoer", "No such store: stoer. Did you mean store?"),
        (places.require_store, "run", "run is not a store (it has no store.json); it is a run (--run run)."),
        (places.require_store, "clip.mp4", "clip.mp4 is not a store (it has no store.json); it is a file."),
        (places.require_store, "empty", "it is an empty folder. Make one with: vicc prepare"),
        (places.require_store, "sub/store", "No such store: sub/store. There is no folder sub."),
        (places.require_store, "runss/store", "There is no folder runss; did you mean runs?"),
        (places.require_run, "store", "store is not a run (it has no recipe.json); it is a store (--store store)."),
        (places.require_run, "runn", "No such run: runn. Did you mean run?"),
        (places.require_encoder, "run", "its stages have: run/rgb-1."),
        (
            places.require_encoder,
            "run/rgb1",
            "No encoder at run/rgb1: there is no such folder. Did you mean",
        ),
        (places.require_encoder, "store", "it is a store (--store store)."),
        (places.require_classifier, "run", "No classifier at run; it is a run"),
        (places.require_videos, "video", "No such folder: video. Did you mean videos?"),
        (places.require_videos, "empty", "No videos in empty: the folder is empty."),
        (places.require_videos, "store", "store is a store, not a folder of videos: --store store?"),
        (places.require_videos, "run", "run is a run, not a folder of videos: --run run?"),
        (places.require_videos_or_store, "vidoes", "No such file or folder: vidoes. Did you mean videos?"),
        (places.require_folder, "clip.mp4", "clip.mp4 is not a folder; it is a file."),
        (
            lambda path: places.require_result(str(path)),
            "runs/frist:RGB-2",
            "no such file or run. Did you mean runs/first?",
        ),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    here: Path, require: Callable[[Path], None], place: str, said: str
) -> None:
    assert said in refusal(require, place)


@pytest.mark.usefixtures("here")
def test_what_is_there_is_accepted_and_a_url_is_left_to_what_opens_it() -> None:
    places.require_store("store")
    places.require_store("s3://bucket/store")
    places.require_run("run")
    places.require_encoder("run/rgb-1")
    places.require_classifier("classifier")
    places.require_videos_or_store("store")
    places.require_videos("clip.mp4")
    for result in ("runs/first", "runs/first:RGB-2", "runs/*:RGB-2", "runs/first/retrieval.json:CoCLR RGB-2"):
        places.require_result(result)
    places.check_places(RetrieveConfig(run="run", store="s3://bucket/store"))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("videos", "videos is a folder; expected a file to write. Give another --out."),
        ("clip.mp4/r.json", "clip.mp4/r.json cannot be written"),
        ("empty/r.json", "empty/r.json cannot be written (Read-only file system)"),
    ],
)
def test_a_file_that_cannot_be_written_is_found_out_before_the_work(
    here: Path, monkeypatch: pytest.MonkeyPatch, out: str, said: str
) -> None:
    """A read-only folder is pretended, since the tests may run as a user who may write everywhere."""
    real = tempfile.mkstemp

    def make(**options: Any) -> tuple[int, str]:
        if Path(options["dir"]).name == "empty":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return real(**options)

    monkeypatch.setattr(tempfile, "mkstemp", make)
    with pytest.raises(ViccError) as refused:
        places.check_places(RetrieveConfig(run="run", store="store", out=out))  # type: ignore[arg-type]
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("place", "advice"),
    [
        ("videos", "vicc prepare videos --store STORE"),
        ("clip.mp4", "vicc prepare clip.mp4 --store STORE"),
        ("run", "vicc prepare VIDEOS --store STORE"),
        ("empty", "vicc prepare VIDEOS --store empty"),
    ],
)
def test_advice_on_what_is_not_a_store_names_a_place_where_one_can_be_made(here: Path, place: str, advice: str) -> None:
    assert refusal(places.require_store, place).endswith(f"with: {advice}")
