"""A run trains on the split that was asked for, remembers it, and is not tested on what it has seen."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from vicc.data.splits import SPLITS_FOLDER, SplitTable, read_split_table, write_split_table
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation.configs import RetrieveConfig
from vicc.evaluation.result import Result
from vicc.evaluation.retrieve import retrieve
from vicc.training.configs import PretrainConfig
from vicc.training.pretrain import pretrain
from vicc.training.run import Run
from vicc.training.stage import Recipe


@pytest.fixture(scope="module")
def store(store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with two splits: `mine` tests each class's training folder, `official` its videos 0 and 1 in fold 1."""
    store = tmp_path_factory.mktemp("split") / "store"
    shutil.copytree(store_path, store)
    ids = [video.id for video in Store(store).videos]
    swapped = {name: ("test" if name.startswith("train") else "train",) for name in ids}
    write_split_table(store / SPLITS_FOLDER / "mine.csv", SplitTable(1, swapped))  # type: ignore[arg-type]
    return store


@pytest.fixture(scope="module")
def recipe(tiny_recipe: Recipe) -> Recipe:
    return replace(tiny_recipe, stages=(tiny_recipe.stages[0].replace(steps=1, warmup_steps=0),))


@pytest.fixture(scope="module")
def run(store: Path, recipe: Recipe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("run")
    pretrain(recipe, PretrainConfig(store=store, run=run, split="mine:1", workers=0))
    return run


def measured(store: Path, run: Path, **options: object) -> Result:
    return retrieve(RetrieveConfig(store=store, run=run, baselines=False, out=run / "out.json", **options))  # type: ignore[arg-type]


def test_a_run_records_its_split(store: Path, run: Path) -> None:
    description = json.loads((run / "recipe.json").read_text())
    assert (description["split"], description["videos"]) == ("mine:1", 6)
    assert read_split_table(run / "split.csv") == read_split_table(store / SPLITS_FOLDER / "mine.csv")


def test_a_run_goes_on_with_its_split_unasked_and_refuses_another(store: Path, recipe: Recipe, run: Path) -> None:
    assert pretrain(recipe, PretrainConfig(store=store, run=run, workers=0))[0].videos == 6
    with pytest.raises(ViccError, match=r'split was "mine:1", now "folders"\. Give the same .* --split'):
        pretrain(recipe, PretrainConfig(store=store, run=run, split="folders", workers=0))


def test_retrieval_takes_the_split_of_the_run(store: Path, run: Path) -> None:
    result = measured(store, run)
    assert (result.data.split, result.data.test, result.data.train) == ("mine:1", 12, 6)
    [row] = result.neighbours.values()
    assert all(entry.query.startswith("train") for entry in row)
    assert all(name.startswith("test") for entry in row for name in entry.videos)


def test_testing_on_training_videos_is_refused_unless_a_split_asks_for_it(
    store: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ViccError, match=r"was trained on \d+ of the \d+ test videos of the split grouped"):
        measured(store, run, test_share=0.5)
    capsys.readouterr()
    result = measured(store, run, split="folders")
    assert (result.data.split, result.data.test) == ("folders", 6)
    assert (
        "was trained on 6 of the 6 test videos of the split folders: their numbers say little"
        in capsys.readouterr().err
    )
    measured(store, run, split="mine")
    assert "was trained on" not in capsys.readouterr().err


def test_training_videos_are_known_in_a_store_that_has_grown_and_under_other_names(store: Path, run: Path) -> None:
    videos = Store(store).videos
    trained = sorted(video.id for video in videos if video.id.startswith("test/"))
    others = [
        replace(videos[0], id=f"new/{n}.mp4", source=replace(videos[0].source, blake2b=f"{n:032x}")) for n in range(99)
    ]
    assert sorted(Run(run).trained_on([*videos, *others])) == trained, "also where most of the videos are new"
    elsewhere = [replace(video, id=f"all/{video.id}") for video in videos]
    assert sorted(Run(run).trained_on(elsewhere)) == [f"all/{name}" for name in trained]
    same_names = [replace(other, id=video.id) for other, video in zip(others, videos, strict=False)]
    assert Run(run).trained_on([*same_names, *others]) == set(), "videos of another data set that are called alike"
    parts = [replace(video, id=f"{video.id}#00000.000-00001.000") for video in videos]
    assert len(Run(run).trained_on(parts)) == len(trained), "a part of a file that was trained on as a whole"
    assert Run.of(store) is None, "no run"


def test_an_encoder_by_itself_is_known_to_come_from_the_run(
    store: Path, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    [encoder] = run.glob("*/encoder")
    config = RetrieveConfig(store=store, encoder=[encoder], baselines=False, out=run / "out.json", split="folders")
    retrieve(config)
    told = f"warning: {run} was trained on 6 of the 6 test videos of the split folders: their numbers say little"
    assert told in capsys.readouterr().err
    retrieve(replace(config, split="mine:1"))
    assert "was trained on" not in capsys.readouterr().err


def test_a_store_of_other_videos_has_its_own_split(run: Path, unlabelled_store_path: Path) -> None:
    assert measured(unlabelled_store_path, run).data.split == "undivided"


def test_videos_that_came_later_are_left_out_and_counted(
    store: Path, run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grown = tmp_path / "run"
    shutil.copytree(run, grown)
    table = read_split_table(run / "split.csv")
    cells = {name: side for name, side in table.cells.items() if not name.endswith("left/0.mp4")}
    write_split_table(grown / "split.csv", SplitTable(1, cells))
    assert (measured(store, grown).data.test, measured(store, grown).data.train) == (11, 5)
    assert "2 of 18 videos are not in the split mine:1: they are left out" in capsys.readouterr().err


def test_official_is_what_a_run_trains_on_where_it_is_there(
    store: Path, recipe: Recipe, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "store"
    shutil.copytree(store, own)
    cells = {video.id: ("train" if "/0" in video.id else "test",) for video in Store(own).videos}
    write_split_table(own / SPLITS_FOLDER / "official.csv", SplitTable(1, cells))  # type: ignore[arg-type]
    plan = PretrainConfig(store=own, run=tmp_path / "run", dry_run=True)
    assert pretrain(recipe, plan)[0].videos == 6
    assert "training and test videos as in official:1, 6 and 12; --split changes it" in capsys.readouterr().err
    assert pretrain(recipe, replace(plan, split="folders"))[0].videos == 12


def test_flags_that_would_do_nothing_are_refused(store: Path, run: Path) -> None:
    with pytest.raises(
        ViccError, match=r"--test-share and --split-seed are for --split grouped, not for --split mine:1"
    ):
        measured(store, run, split="mine:1", test_share=0.2)


def test_a_split_with_too_few_training_videos_is_refused_by_name(store: Path, recipe: Recipe, tmp_path: Path) -> None:
    table = SplitTable(1, {Store(store).videos[0].id: ("train",)})
    write_split_table(tmp_path / "few.csv", table)
    with pytest.raises(ViccError, match=r"has 1 training videos in the split .*few\.csv:1; expected at least 2"):
        pretrain(recipe, PretrainConfig(store=store, run=tmp_path / "run", split=f"{tmp_path / 'few.csv'}:1"))
