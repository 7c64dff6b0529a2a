"""Testing classifiers: the mean over windows and crops as a plain loop has it, and what cannot be tested."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from vicc.data.records import Video
from vicc.data.splits import Split, SplitTable, write_split_table
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.evaluation.configs import MeasuredClassifiers
from vicc.evaluation.measure_classifiers import measure_classifiers, result_path
from vicc.evaluation.result import read_result
from vicc.evaluation.video_values import read_video_values
from vicc.methods.classifier import FineTuned, LinearProbe
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.training.classifier_folder import CLASSIFIER_FILE, save_classifier

CLASSES = ["left", "right", "up"]
SIZE = 32
Make = Callable[..., Path]


def lively(stream: str, num_classes: int, *, probe: bool) -> LinearProbe | FineTuned:
    """Random weights whose BatchNorm has seen clips, or all clips would have nearly the same feature."""
    torch.manual_seed(7)
    config = EncoderConfig(stream, backbone="s3d-demo", embedding_dim=0, clip_frames=8, size=SIZE)  # type: ignore[arg-type]
    encoder = Encoder(config)
    for layer in encoder.modules():
        if isinstance(layer, torch.nn.BatchNorm3d):
            layer.momentum = None
    blobs = torch.nn.functional.interpolate(torch.rand(8, config.in_channels, 2, 4, 4), (8, SIZE, SIZE))
    encoder.features((255 * blobs).to(torch.uint8))
    module = LinearProbe(encoder, num_classes) if probe else FineTuned(encoder, num_classes)
    torch.nn.init.normal_(module.linear.weight, std=5.0 if probe else 1.0)
    return module.eval()


@pytest.fixture
def classifier(tmp_path: Path) -> Make:
    """`classifier("flow", CLASSES)` writes one that tells clips apart at random; returns its folder."""

    def make(
        stream: str, classes: list[str] = CLASSES, *, probe: bool = False, name: str = "", share: float = 1
    ) -> Path:
        folder = tmp_path / (name or stream)
        module = lively(stream, len(classes), probe=probe)
        save_classifier(folder, module, classes=classes, label_share=share, facts={})
        return folder

    return make


def config_of(store: Path, *places: Path, **options: object) -> MeasuredClassifiers:
    return MeasuredClassifiers(store=store, classifier=list(places), workers=0, **options)  # type: ignore[arg-type]


def plain_views(store: Store, video: Video, stream: str, numbers: list[int]) -> list[np.ndarray]:
    """Centre and corners of a window, then their mirror images, cut and resized by hand: (T, size, size, C) each."""
    frames = store.frames(video.id, stream, numbers)  # type: ignore[arg-type]
    height, width = frames.shape[1:3]
    side = round(min(height, width) * 224 / 240)
    places = [((height - side) // 2, (width - side) // 2)]
    places += [(top, left) for top in (0, height - side) for left in (0, width - side)]
    views = []
    for top, left in places:
        square = frames[:, top : top + side, left : left + side]
        views.append(np.stack([cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_LINEAR) for frame in square]))
    for view in views[:5]:
        mirrored = view[:, :, ::-1].copy()
        if stream == "flow":
            mirrored[..., 0] = np.minimum(256 - mirrored[..., 0].astype(int), 255)
        views.append(mirrored)
    return views


@pytest.mark.parametrize(("stream", "probe"), [("rgb", False), ("flow", True)])
def test_ten_crops_are_the_mean_probability_over_windows_and_crops_of_a_plain_loop(
    store_path: Path, classifier: Make, stream: str, probe: bool
) -> None:
    place = classifier(stream, probe=probe)
    result = measure_classifiers(config_of(store_path, place, crops="ten"))
    found = read_video_values(place / str(result.row(stream).outputs))
    assert found.facts["classes"] == CLASSES
    module = lively(stream, 3, probe=probe)
    store = Store(store_path)
    videos = {video.id: video for video in store.videos}
    for name in list(result.queries.ids)[::3]:
        each = []
        for first in range(0, videos[name].num_frames - 1 - 8 + 1, 3):  # 15 of 32 frames, of 8
            for view in plain_views(store, videos[name], stream, list(range(first, first + 8))):
                clip = torch.from_numpy(view).permute(3, 0, 1, 2)[None]
                with torch.no_grad():
                    each.append(module(clip).softmax(1)[0])
        torch.testing.assert_close(found.of([name])[0], torch.stack(each).mean(0), rtol=0, atol=2e-5)
    spread = found.values.max(0).values - found.values.min(0).values
    assert spread.max() > 4e-4, "videos differ by far more than the two computations may"


def test_a_result_says_what_it_is_and_is_the_same_again(store_path: Path, classifier: Make) -> None:
    config = config_of(store_path, classifier("flow"), classifier("rgb"))
    result = measure_classifiers(config)
    assert (result.protocol.name, result.protocol.version) == ("test-center", 1)
    assert (result.protocol.settings["classifier"], "label_share" in result.protocol.settings) == ("fine-tuned", False)
    assert [row.name for row in result.rows] == ["chance", "flow", "rgb"]
    assert result.rows[0].metrics["top-1"].value == pytest.approx(1 / 3)
    assert read_result(result_path(config)).rows == result.rows
    again = measure_classifiers(config)
    assert again.rows == result.rows
    ten = replace(config, crops="ten")
    assert result_path(ten).name == "test-ten-crop.json", "or it would overwrite the other"
    row = result.row("flow")
    probabilities = read_video_values(result_path(config).parent / str(row.outputs)).values
    assert row.predicted == probabilities.argmax(1).tolist()
    right = sum(CLASSES[place] == label for place, label in zip(row.predicted, result.queries.labels, strict=True))
    assert row.metrics["top-1"].value == pytest.approx(right / 6)


def test_an_imported_classifier_knows_the_classes_of_the_data_by_their_number(
    store_path: Path, classifier: Make, capsys: pytest.CaptureFixture[str]
) -> None:
    place, other = classifier("rgb"), classifier("rgb", [*CLASSES, "down"], name="four")
    known = measure_classifiers(config_of(store_path, place)).row("rgb")
    for folder in (place, other):
        (folder / CLASSIFIER_FILE).unlink()  # as published classifiers are imported
    assert measure_classifiers(config_of(store_path, place)).row("rgb").predicted == known.predicted
    assert "in alphabetical order" in capsys.readouterr().err
    with pytest.raises(ViccError, match=r"tells 4 classes apart and does not say which; .* have 3"):
        measure_classifiers(config_of(store_path, other))


def test_classes_that_a_classifier_does_not_know_are_named(store_path: Path, classifier: Make) -> None:
    config = config_of(store_path, classifier("rgb", ["left", "up"]))
    with pytest.raises(ViccError, match=r"1 classes have test videos, .* not know them: right\. Give --intersection"):
        measure_classifiers(config)
    result = measure_classifiers(replace(config, intersection=True))
    assert set(result.queries.labels) == {"left", "up"}
    assert (result.data.test, result.data.classes) == (4, ["left", "up"])
    strangers = config_of(store_path, classifier("rgb", ["one", "two"], name="strangers"), intersection=True)
    with pytest.raises(ViccError, match=r"3 classes .* left, right, up.* No test video is left"):
        measure_classifiers(strangers)


def test_classifiers_of_other_classes_do_not_stand_in_one_table(store_path: Path, classifier: Make) -> None:
    places = [classifier("rgb"), classifier("flow", [*CLASSES, "down"])]
    with pytest.raises(ViccError, match="not the same: down"):
        measure_classifiers(config_of(store_path, *places))


def test_a_probe_and_few_labels_are_protocols_of_their_own(store_path: Path, classifier: Make) -> None:
    tuned, probed = classifier("rgb"), classifier("flow", probe=True)
    few = classifier("rgb", name="few", share=0.1)
    for other, words in ((probed, "flow is linear probe"), (few, "few is fine-tuned with 10 % of the labels")):
        with pytest.raises(ViccError, match=f"{words}.*Measure one at a time"):
            measure_classifiers(config_of(store_path, tuned, other))
    assert measure_classifiers(config_of(store_path, few)).protocol.settings["label_share"] == 0.1


def test_a_store_without_flow_and_a_folder_without_a_classifier_are_refused(
    store_path: Path, classifier: Make, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(store_path, store)
    (store / "store.json").write_text((store / "store.json").read_text().replace('"flow": "dis"', '"flow": "none"'))
    with pytest.raises(ViccError, match=r"flow see flow, and the store .* without it"):
        measure_classifiers(config_of(store, classifier("flow")))
    with pytest.raises(ViccError, match=r"No classifier at .*vicc finetune"):
        measure_classifiers(config_of(store_path, store_path))
    with pytest.raises(ViccError, match="--classifier"):
        config_of(store_path)


def test_a_second_classifier_that_has_seen_test_videos_is_refused(
    store_path: Path, classifier: Make, tmp_path: Path
) -> None:
    """The run of the first is looked at where the split is chosen; here that of the second."""
    run = tmp_path / "run"
    shutil.copytree(classifier("flow"), run / "classifier" / "encoder")
    cells: dict[str, tuple[Split | None, ...]] = {video.id: ("train",) for video in Store(store_path).videos}
    write_split_table(run / "split.csv", SplitTable(1, cells))
    (run / "recipe.json").write_text('{"split": "all", "seed": 1}')
    with pytest.raises(ViccError, match=r"was trained on 6 of the 6 test videos.*Give classifiers of one split"):
        measure_classifiers(config_of(store_path, classifier("rgb"), run))
