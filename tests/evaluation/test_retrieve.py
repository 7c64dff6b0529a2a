"""The command as a function, on a tiny run: which rows, which neighbours, and that nothing depends on chance."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from vicc.cli import main
from vicc.data.store import Store
from vicc.device import choose_precision
from vicc.errors import ViccError
from vicc.evaluation.configs import RetrieveConfig
from vicc.evaluation.encoders import RowFeatures
from vicc.evaluation.feature_cache import FeatureCache
from vicc.evaluation.result import Queries, read_result
from vicc.evaluation.retrieve import retrieval_row, retrieve
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.features import Windows, calibrate_batchnorm, extract_features
from vicc.training.checkpoint import load_encoder
from vicc.training.configs import PretrainConfig
from vicc.training.engine import Stopped
from vicc.training.pretrain import pretrain
from vicc.training.stage import Recipe

CPU = choose_precision("fp32", torch.device("cpu"))


@pytest.fixture(scope="module")
def run(finished_run_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(finished_run_path, tmp_path_factory.mktemp("copy") / "run"))


def test_rows_stand_from_chance_to_fused_and_values_rise_with_k(run: Path, store_path: Path) -> None:
    result = retrieve(RetrieveConfig(run=run, store=store_path))
    assert [row.name for row in result.rows] == [
        *(
            "chance",
            "colour histogram",
            "motion histogram",
            "mean flow magnitude",
            "camera-compensated flow magnitude",
            "untrained RGB",
            "untrained Flow",
        ),
        *("RGB-1", "Flow-1", "RGB-2", "Flow-2", "R+F"),
    ]
    for row in result.rows:
        values = [row.metrics[f"R@{k}"].value for k in (1, 5)]
        assert values == sorted(values)
        assert all(0 <= found.value <= 1 for found in row.metrics.values())
        if row.kind != "chance":
            assert all(found.low <= found.value <= found.high for found in row.metrics.values())  # type: ignore[operator]
    assert result.metrics == ["R@1", "R@5", "mAP"], "ten of twelve videos, four of each class, always hold the class"
    assert list(result.not_measured) == ["R@10", "R@20", "R@50"]
    assert read_result(run / "retrieval.json") == result


def test_features_of_renamed_baselines_are_kept_where_an_earlier_version_kept_them(run: Path, store_path: Path) -> None:
    retrieve(RetrieveConfig(run=run, store=store_path))
    cache = FeatureCache(run / "features", Store(store_path))
    for name in ("colour histogram", "mean absolute flow", "absolute flow, camera removed"):
        folder = cache.path({"version": 1, "baseline": name})
        assert folder is not None
        assert folder.is_dir(), name


def test_twice_gives_the_same_to_the_bit(run: Path, store_path: Path) -> None:
    first, again = (retrieve(RetrieveConfig(run=run, store=store_path, cache=False, workers=w)) for w in (0, 2))
    assert (again.rows, again.neighbours) == (first.rows, first.neighbours)


def test_recall_agrees_with_the_neighbours_that_are_given(run: Path, store_path: Path) -> None:
    result = retrieve(RetrieveConfig(run=run, store=store_path, baselines=False))
    label = {video.id: video.label for video in Store(store_path).videos}
    split = {video.id: video.split for video in Store(store_path).videos}
    for row in result.rows[1:]:
        entries = result.neighbours[row.name]
        right = [label[entry.videos[0]] == label[entry.query] for entry in entries]
        assert row.metrics["R@1"].value == pytest.approx(sum(right) / len(right))
        assert all(split[entry.query] == "test" for entry in entries)
        assert all(split[name] != "test" for entry in entries for name in entry.videos)


def test_the_shuffled_control_differs_and_keeps_the_result(run: Path, store_path: Path) -> None:
    plain = retrieve(RetrieveConfig(run=run, store=store_path, baselines=False))
    shuffled = retrieve(RetrieveConfig(run=run, store=store_path, baselines=False, shuffle_frames=True))
    assert shuffled.neighbours["Flow-1"] != plain.neighbours["Flow-1"]
    assert read_result(run / "retrieval.json").neighbours == plain.neighbours
    assert (run / "retrieval-shuffled.json").exists()


def test_unlabelled_videos_get_neighbours_among_all_others_but_no_table(
    tiny_recipe: Recipe, unlabelled_store_path: Path, tmp_path: Path
) -> None:
    one_stage = replace(tiny_recipe, stages=tiny_recipe.stages[:1])
    pretrain(one_stage, PretrainConfig(store=unlabelled_store_path, run=tmp_path))
    result = retrieve(RetrieveConfig(run=tmp_path, store=unlabelled_store_path))
    assert not result.labelled
    assert result.rows == []
    ids = {video.id for video in Store(unlabelled_store_path).videos}
    for entry in result.neighbours["RGB-1"]:
        assert set(entry.videos) == ids - {entry.query}


def test_one_video_gets_its_neighbours_whichever_side_it_is_on(run: Path, store_path: Path) -> None:
    config = RetrieveConfig(run=run, store=store_path, baselines=False)
    plain = retrieve(config)
    videos = Store(store_path).videos
    tested, trained = (next(video.id for video in videos if video.split == side) for side in ("test", "train"))
    of_tested = retrieve(replace(config, query=tested)).neighbours
    for row, entries in plain.neighbours.items():
        assert of_tested[row][-1] in entries, "a test video's are those that are measured"
        assert of_tested[row][-1].query == tested
    result = retrieve(replace(config, query=trained))
    gallery = {video.id for video in videos if video.split == "train"}
    for row, entries in result.neighbours.items():
        assert entries[:-1] == plain.neighbours[row]
        assert set(entries[-1].videos) == gallery - {trained}, "a training video does not find itself"
        assert entries[-1].distances == sorted(entries[-1].distances)
    assert read_result(run / "retrieval.json").neighbours == plain.neighbours, "what is written is the same"


def test_a_video_that_is_not_there_is_refused_with_the_nearest_ids(run: Path, store_path: Path) -> None:
    for query, near in (("left/0.mp4", "train/left/0.mp4"), ("tset/left/1.mp4", "test/left/1.mp4")):
        with pytest.raises(ViccError, match=f"no such video .* nearest are: .*{near}"):
            retrieve(RetrieveConfig(run=run, store=store_path, query=query))


def test_the_neighbours_of_every_video_are_those_of_the_whole_result_without_labels(
    run: Path, unlabelled_store_path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = RetrieveConfig(run=run, store=unlabelled_store_path, out=tmp_path / "out.json")
    plain = retrieve(config)
    assert capsys.readouterr().err.count("no labels: no table, but each of the 5 videos searches all others") == 1
    assert plain.protocol.settings["searched"] == "by every video all others"
    entry = plain.neighbours["R+F"][2]
    assert retrieve(replace(config, query=entry.query)).neighbours["R+F"][-1] == entry
    words = ["retrieve", "--run", run, "--store", unlabelled_store_path, "--out", tmp_path / "out.json"]
    assert main([*map(str, words)]) == 0
    said = capsys.readouterr().out
    for entry in plain.neighbours["R+F"]:
        assert f"nearest to {entry.query}" in said
        assert all(f"{1 - distance:.3f}" in said for distance in entry.distances)
    assert main([*map(str, words), "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [entry["query"] for entry in document["neighbours"]["R+F"]] == plain.queries.ids[:5]


def test_what_a_query_is_taken_for_is_the_class_at_the_first_rank_also_among_equally_near_videos() -> None:
    features = torch.ones(6, 4)
    queries = Queries(list("abcdef"), ["x", "y"] * 3, list("abcdef"))
    row = retrieval_row(
        RowFeatures("same", "trained", features, features), queries, {n: "xy"[n > "c"] for n in "abcdef"}
    )
    assert [rank == 1 for rank in row.ranks or []] == [place == 0 for place in [0, 1] * 3]
    assert row.predicted == [0] * 6


def test_a_run_without_a_finished_stage_is_refused_in_words(
    tiny_recipe: Recipe, store_path: Path, tmp_path: Path
) -> None:
    with pytest.raises(ViccError, match="not a run"):
        retrieve(RetrieveConfig(run=tmp_path, store=store_path))
    with pytest.raises(Stopped):
        pretrain(
            tiny_recipe, PretrainConfig(store=store_path, run=tmp_path / "r"), should_stop=lambda stage, step: True
        )
    with pytest.raises(ViccError, match="No stage"):
        retrieve(RetrieveConfig(run=tmp_path / "r", store=store_path))


def test_features_of_a_video_are_the_mean_over_its_windows_of_unit_vectors(run: Path, store_path: Path) -> None:
    encoder, store = load_encoder(run / "rgb-1" / "encoder"), Store(store_path)
    video = store.videos[0]
    clip = encoder.config.clip_frames
    step = 5
    frames = torch.from_numpy(store.frames(video.id, "rgb", range(video.num_frames - 1)))
    features = extract_features(encoder, store, [video], precision=CPU, windows=Windows(step))[0]
    starts = range(0, video.num_frames - 1 - clip + 1, step)
    # Windows of other videos in the same pass must not matter, nor the place in the list.
    again = extract_features(encoder, store, store.videos[::-1], precision=CPU, windows=Windows(step))[-1]
    torch.testing.assert_close(features, again, rtol=1e-4, atol=1e-5)
    assert len(frames[starts[-1] : starts[-1] + clip]) == clip
    assert len(starts) > 1
    assert features.norm() < 1
    one_window = extract_features(encoder, store, [video], precision=CPU, windows=Windows(1000))[0]
    torch.testing.assert_close(one_window.norm(), torch.tensor(1.0))


def test_batchnorm_calibration_separates_clips_that_an_untrained_encoder_confuses(store_path: Path) -> None:
    torch.manual_seed(0)
    store = Store(store_path)
    encoder = Encoder(EncoderConfig("rgb", backbone="s3d", clip_frames=8, size=32))
    weights = {name: weight.clone() for name, weight in encoder.named_parameters()}

    def spread() -> float:
        features = extract_features(encoder, store, store.videos[:6], precision=CPU)
        return float((features - features.mean(0)).norm() / features.norm())

    before = spread()
    calibrate_batchnorm(encoder, store, store.videos, precision=CPU)
    assert spread() > 3 * before
    assert not encoder.training
    assert all(torch.equal(weights[name], weight) for name, weight in encoder.named_parameters())


def test_a_run_or_encoders_must_be_given_and_not_both(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match="Neither --run nor --encoder"):
        RetrieveConfig(store=tmp_path)
    with pytest.raises(ViccError, match="Both --run and --encoder"):
        RetrieveConfig(store=tmp_path, run=tmp_path, encoder=[tmp_path])
