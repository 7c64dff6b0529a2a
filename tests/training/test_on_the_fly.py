"""Training, retrieval and report without preparing, and without flow: what a store gives, a folder gives too."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation.configs import RetrieveConfig
from vicc.evaluation.retrieve import retrieve
from vicc.methods.configs import EncoderConfig
from vicc.prepare import scan as scan_module
from vicc.prepare.build import prepare_videos
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.estimate import estimate_prepare
from vicc.prepare.scan import SCAN_FILE
from vicc.recipes import create_recipe
from vicc.results.configs import ReportConfig
from vicc.results.page import write_report
from vicc.training.checkpoint import load_encoder, save_encoder
from vicc.training.configs import PretrainConfig
from vicc.training.engine import Stopped
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe


@pytest.fixture(scope="module")
def two_stages(tiny_recipe: Recipe) -> Recipe:
    """RGB, then flow."""
    return replace(tiny_recipe, stages=tiny_recipe.stages[:2])


@pytest.fixture(scope="module")
def run(two_stages: Recipe, video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on-the-fly") / "run"
    pretrain(two_stages, PretrainConfig(videos=video_folder, run=folder, workers=0))
    return folder


def never(*_: object) -> None:
    raise AssertionError("the files were read again")


def test_a_stopped_run_resumes_to_the_bit_and_reads_no_file_to_count_frames(
    run: Path, two_stages: Recipe, video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PretrainConfig(videos=video_folder, run=tmp_path / "stopped", workers=0)
    with pytest.raises(Stopped):
        pretrain(two_stages, config, should_stop=lambda stage, step: stage == "flow-1" and step == 2)
    monkeypatch.setattr(scan_module, "_scan_all", never)
    pretrain(two_stages, replace(config, workers=1))
    for stage in ("rgb-1", "flow-1"):
        ours, straight = (folder / stage / "encoder" / "model.safetensors" for folder in (config.run, run))
        assert ours.read_bytes() == straight.read_bytes()


def test_a_run_keeps_to_the_videos_it_was_started_on(
    run: Path, two_stages: Recipe, video_folder: Path, store_path: Path, tmp_path: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(video_folder, other)
    (other / "train" / "left" / "0.mp4").write_bytes((other / "train" / "right" / "0.mp4").read_bytes())
    for config in (PretrainConfig(videos=other, run=run), PretrainConfig(store=store_path, run=run)):
        with pytest.raises(ViccError, match=r"started with other settings: content was .*--videos"):
            pretrain(two_stages, config)
    assert json.loads((run / SCAN_FILE).read_text())["videos"] == str(video_folder.absolute())
    # The same files elsewhere are the same videos.
    shutil.copytree(video_folder, tmp_path / "moved")
    assert all(stage.finished for stage in pretrain(two_stages, PretrainConfig(videos=tmp_path / "moved", run=run)))


def test_the_difference_to_a_store_is_measured_and_said_once(
    two_stages: Recipe, video_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pretrain(two_stages, PretrainConfig(videos=video_folder, run=tmp_path, workers=0))
    said = capsys.readouterr().err
    assert said.count("decoding on the fly: ") == 1
    assert "samples/s a process from the files" in said
    assert f"with rgb and flow; make a store with: vicc prepare {video_folder} --store STORE" in said
    pretrain(two_stages, PretrainConfig(videos=video_folder, run=tmp_path, workers=0))
    assert "decoding on the fly" not in capsys.readouterr().err


def test_a_plan_reads_no_video_and_writes_nothing(
    two_stages: Recipe, video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "_scan_all", never)
    stages = pretrain(two_stages, PretrainConfig(videos=video_folder, run=tmp_path / "run", dry_run=True))
    assert [stage.videos for stage in stages] == [12, 12]
    assert not (tmp_path / "run").exists()


def test_a_folder_of_somebodys_work_is_refused_before_the_videos_are_read(
    two_stages: Recipe, video_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan_module, "_scan_all", never)
    (tmp_path / "thesis.tex").touch()
    with pytest.raises(ViccError, match="not empty and is not a run"):
        pretrain(two_stages, PretrainConfig(videos=video_folder, run=tmp_path))
    assert not (tmp_path / SCAN_FILE).exists()


def test_a_run_is_measured_and_shown_from_its_files(
    run: Path, video_folder: Path, store_path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(scan_module, "_scan_all", never)  # the run's own scan serves
    result = retrieve(RetrieveConfig(run=run, videos=video_folder))
    assert [row.name for row in result.rows if row.kind in ("trained", "fused")] == ["RGB-1", "Flow-1", "R+F"]
    assert result.data.place == str(video_folder)
    page = write_report(ReportConfig(run=run, videos=video_folder)).read_text(encoding="utf-8")
    assert f"vicc retrieve --run {run} --videos {video_folder}" in page
    assert "vicc prepare" not in page
    # The store holds the same videos, coded: hardly anything changes.
    coded = retrieve(RetrieveConfig(run=run, store=store_path, out=tmp_path / "r.json"))
    for ours, theirs in zip(result.rows, coded.rows, strict=True):
        assert abs(ours.metrics["R@1"].value - theirs.metrics["R@1"].value) <= 2 / 6


@pytest.mark.parametrize("kind", [PretrainConfig, RetrieveConfig, ReportConfig])
def test_store_or_videos_must_be_given_and_not_both(kind: type, tmp_path: Path) -> None:
    with pytest.raises(ViccError, match=r"Neither --store nor --videos"):
        kind(run=tmp_path)
    with pytest.raises(ViccError, match=r"Both --store and --videos"):
        kind(run=tmp_path, store=tmp_path, videos=tmp_path)


# --- without flow -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def without_flow(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    store = tmp_path_factory.mktemp("without-flow") / "store"
    prepare_videos(PrepareConfig(video_folder, store, flow="none", workers=1))
    return store


def test_a_store_without_flow_is_smaller_and_says_what_it_lacks(without_flow: Path, store_path: Path) -> None:
    store = Store(without_flow)
    assert store.frames(store.videos[0].id, "rgb", [3]).shape == (1, 40, 48, 3)
    with pytest.raises(ViccError, match=r"without flow \(--flow none\).*--motion diff"):
        store.frames(store.videos[0].id, "flow", [3])
    sizes = [sum(file.stat().st_blocks for file in path.glob("shard-*")) for path in (without_flow, store_path)]
    assert sizes[0] < sizes[1]


def test_flow_stages_are_refused_before_anything_is_written(
    without_flow: Path, tiny_recipe: Recipe, tmp_path: Path
) -> None:
    with pytest.raises(ViccError, match=r"stages flow-1, flow-2 see flow.*--motion diff"):
        pretrain(tiny_recipe, PretrainConfig(store=without_flow, run=tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_diff_goes_the_whole_road_without_flow(
    without_flow: Path, tiny_changes: tuple[str, ...], tmp_path: Path
) -> None:
    """Prepare, pretrain, retrieve, report; RGB is taught by diff and diff by RGB."""
    recipe = create_recipe("demo", motion="diff", changes=tiny_changes)
    run = tmp_path / "run"
    assert [stage.name for stage in pretrain(recipe, PretrainConfig(store=without_flow, run=run))] == [
        "rgb-1",
        "diff-1",
        "rgb-2",
        "diff-2",
    ]
    assert load_encoder(run / "diff-2").config.in_channels == 3
    result = retrieve(RetrieveConfig(run=run, store=without_flow))
    assert [row.name for row in result.rows] == [
        *("chance", "colour histogram", "untrained RGB", "untrained Diff"),
        *("RGB-1", "Diff-1", "RGB-2", "Diff-2", "R+D"),
    ]
    assert result.row("R+D").model["fused"] == ["RGB-2", "Diff-2"]
    page = write_report(ReportConfig(run=run, store=without_flow)).read_text(encoding="utf-8")
    assert "What R+D finds" in page
    assert "optical flow" not in page


def test_three_streams_are_fused_in_pairs_with_rgb(store_path: Path, tmp_path: Path) -> None:
    from vicc.methods.encoder import Encoder

    folders = []
    for stream in ("rgb", "flow", "diff"):
        folders.append(tmp_path / stream)
        config = EncoderConfig(stream, backbone="s3d-demo", clip_frames=8, size=32)  # type: ignore[arg-type]
        save_encoder(folders[-1], Encoder(config))
    result = retrieve(RetrieveConfig(encoder=folders, store=store_path, baselines=False))
    assert [row.name for row in result.rows] == [
        *("chance", "RGB (rgb)", "Flow (flow)", "Diff (diff)", "R+F", "R+D"),
    ]


def test_flow_encoders_are_refused_on_a_store_without_flow(without_flow: Path, tmp_path: Path) -> None:
    from vicc.methods.encoder import Encoder

    save_encoder(tmp_path / "flow", Encoder(EncoderConfig("flow", backbone="s3d-demo", clip_frames=8, size=32)))
    with pytest.raises(ViccError, match=r"see flow.*--flow none"):
        retrieve(RetrieveConfig(encoder=[tmp_path / "flow"], store=without_flow))


# --- the estimate -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", ["dis", "none"])
def test_the_estimate_is_near_what_preparing_then_makes(video_folder: Path, tmp_path: Path, flow: str) -> None:
    config = PrepareConfig(video_folder, tmp_path / "store", flow=flow, workers=2, dry_run=True)  # type: ignore[arg-type]
    estimate = estimate_prepare(config)
    assert estimate is not None
    assert not (tmp_path / "store").exists()
    assert (estimate.videos, estimate.workers) == (3, 2)
    assert estimate.loading.from_files > 0
    assert estimate.loading.from_store > 0
    assert 0 < estimate.seconds < 60
    prepare_videos(replace(config, dry_run=False))
    store = Store(tmp_path / "store")
    assert store.settings.flow == flow
    written = sum(file.stat().st_blocks * 512 for file in store.path.glob("shard-*.lmdb"))
    assert 0.3 * written < estimate.store_bytes < 1.2 * written  # LMDB fills whole pages
    assert estimate_prepare(config) is None  # all are there


def test_files_that_cannot_be_read_give_no_estimate(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").touch()
    assert estimate_prepare(PrepareConfig(tmp_path, tmp_path / "store", dry_run=True)) is None


# --- splits and parts -------------------------------------------------------------------------------------------------


def test_parts_of_files_and_splits_are_those_of_a_store(
    tiny_recipe: Recipe, video_folder: Path, tmp_path: Path
) -> None:
    """From a list with starts and ends, and a split file: same videos, same frames before coding, same division."""
    names = sorted(path.relative_to(video_folder).as_posix() for path in (video_folder / "train").rglob("*.mp4"))
    rows = [
        f"{video_folder / name},{name.split('/')[1]},{start},{end}"
        for name in names
        for start, end in ((0, 0.4), (0.4, 0.9))
    ]
    place = tmp_path / "list.csv"
    place.write_text("path,label,start,end\n" + "\n".join(rows))
    store = tmp_path / "store"
    prepare_videos(PrepareConfig(place, store, codec="jpeg", quality=100, workers=1))
    folder, stored = scan_module.scan_videos(place, workers=1), Store(store)
    facts = ("id", "num_frames", "height", "width", "source", "label", "group", "split")
    assert [[getattr(video, fact) for fact in facts] for video in folder.videos] == [
        [getattr(video, fact) for fact in facts] for video in stored.videos
    ]
    assert [video.num_frames for video in folder.videos[:2]] == [10, 13]
    for video in folder.videos[:4]:
        numbers = range(video.num_frames)
        ours, theirs = (reader.frames(video.id, "rgb", numbers).astype(int) for reader in (folder, stored))
        nearest = [int(np.argmin([abs(frame - other).mean() for other in theirs])) for frame in ours]
        assert nearest == list(numbers)
    split = tmp_path / "split.csv"
    split.write_text(
        "id,1\n" + "\n".join(f"{video.id},{'test' if n % 4 == 0 else 'train'}" for n, video in enumerate(folder.videos))
    )
    one = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    config = PretrainConfig(videos=place, run=tmp_path / "run", split=f"{split}:1", workers=0)
    assert pretrain(one, config)[0].videos == pretrain(one, replace(config, dry_run=True))[0].videos == 18
    result = retrieve(RetrieveConfig(run=config.run, videos=place, baselines=False))
    assert (result.data.test, result.data.train) == (6, 18)


def test_official_splits_found_beside_the_videos_are_kept_in_the_run(
    tiny_recipe: Recipe, video_folder: Path, tmp_path: Path
) -> None:
    """A folder with the layout of UCF101; the published training list says which videos train."""
    for number, path in enumerate(sorted((video_folder / "train" / "left").iterdir())):
        for label in ("Left", "Right"):
            target = tmp_path / "videos" / label / f"v_{label}_g{number + 1:02d}_c01.avi"
            target.parent.mkdir(parents=True, exist_ok=True)
            file = path if label == "Left" else video_folder / "train" / "right" / path.name
            shutil.copy(file, target)
    lists = tmp_path / "videos" / "ucfTrainTestlist"
    lists.mkdir()
    (lists / "classInd.txt").write_text("1 Left\n2 Right\n")
    for fold in (1, 2, 3):
        train = [f"{label}/v_{label}_g{g:02d}_c01.avi" for label in ("Left", "Right") for g in range(1, 5) if g != fold]
        test = [f"{label}/v_{label}_g{fold:02d}_c01.avi" for label in ("Left", "Right")]
        labels = {"Left": 1, "Right": 2}
        (lists / f"trainlist{fold:02d}.txt").write_text(
            "".join(f"{name} {labels[name.split('/')[0]]}\n" for name in train)
        )
        (lists / f"testlist{fold:02d}.txt").write_text("".join(f"{name}\n" for name in test))
    one = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    config = PretrainConfig(videos=tmp_path / "videos", run=tmp_path / "run", workers=0)
    assert pretrain(one, replace(config, dry_run=True))[0].videos == 6
    assert not config.run.exists()
    assert pretrain(one, config)[0].videos == 6
    assert (config.run / "splits" / "official.csv").exists()
    assert json.loads((config.run / "recipe.json").read_text())["split"] == "official:1"
    result = retrieve(RetrieveConfig(run=config.run, videos=tmp_path / "videos", baselines=False))
    assert {entry.query for entry in result.neighbours["RGB-1"]} == {
        f"{label}/v_{label}_g01_c01.avi" for label in ("Left", "Right")
    }
