"""Windows and crops of videos through a network: the fast way equals a plain loop, however the work is shared."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vicc.batch import Stream
from vicc.data.dataset import load_view
from vicc.data.records import Video
from vicc.data.sampling import sliding_windows
from vicc.data.store import Store
from vicc.device import choose_precision
from vicc.errors import ViccError
from vicc.methods import features as features_module
from vicc.methods.batchnorm import fold_batchnorm
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.features import Windows, describe_videos, extract_features, for_inference
from vicc.transforms.augmentation import Crops, evaluation_views

CPU = choose_precision("fp32", torch.device("cpu"))


def trained(stream: Stream, backbone: str = "s3d-demo", **options: object) -> Encoder:
    """An encoder whose BatchNorm has statistics worth folding."""
    torch.manual_seed(0)
    encoder = Encoder(EncoderConfig(stream, backbone=backbone, clip_frames=8, size=32, **options))  # type: ignore[arg-type]
    for _ in range(3):
        encoder.features(torch.randint(0, 256, (4, encoder.config.in_channels, 8, 32, 32), dtype=torch.uint8))
    for norm in encoder.modules():
        if isinstance(norm, torch.nn.BatchNorm3d):
            torch.nn.init.uniform_(norm.weight, 0.5, 1.5)
            torch.nn.init.uniform_(norm.bias, -0.5, 0.5)
    return encoder.eval()


def plain(encoder: Encoder, store: Store, videos: list[Video], windows: Windows) -> torch.Tensor:
    """One window and one crop at a time, with the network as it was trained."""
    config, rows = encoder.config, []
    for video in videos:
        found = []
        numbers = sliding_windows(video.num_frames - 1, clip_frames=8, stride=1, step=windows.step or 3)
        for window in numbers:
            for draw in evaluation_views(
                height=video.height,
                width=video.width,
                crops=windows.crops,
                flow_as_image=config.flow_channels == "128vu",
            ):
                view = load_view(
                    store,
                    video,
                    config.stream,
                    window,
                    draw,
                    size=32,
                    flow_center=config.flow_center,
                    flow_form=config.flow_form if config.stream == "flow" else None,
                )
                clip = torch.from_numpy(view).permute(3, 0, 1, 2)[None]
                found.append(F.normalize(encoder.features(clip), dim=1))
        rows.append(torch.cat(found).mean(0))
    return torch.stack(rows).detach()


@pytest.mark.parametrize(
    ("stream", "crops"),
    [("rgb", "view"), ("flow", "view"), ("diff", "view"), ("rgb", "five"), ("flow", "ten"), ("diff", "center")],
)
def test_features_equal_a_plain_loop(stream: Stream, crops: Crops, store_path: Path) -> None:
    encoder, store, windows = trained(stream), Store(store_path), Windows(5, crops)
    videos = store.videos[:5]
    ours = extract_features(encoder, store, videos, windows=windows, precision=CPU)
    torch.testing.assert_close(ours, plain(encoder, store, videos, windows), rtol=1e-4, atol=1e-5)


def test_what_is_no_encoder_or_no_video_is_refused_in_a_sentence(store_path: Path) -> None:
    encoder, store = trained("rgb"), Store(store_path)
    with pytest.raises(ViccError, match="where an encoder is expected"):
        extract_features("run/rgb-2", store, store.videos)  # type: ignore[arg-type]
    with pytest.raises(ViccError, match="No videos are given"):
        extract_features(encoder, store, [])
    with pytest.raises(ViccError, match="among the videos"):
        extract_features(encoder, store, [store.videos[0], "clip.mp4"])  # type: ignore[list-item]


def test_neither_workers_nor_the_size_of_passes_change_a_feature(
    store_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoder, store = trained("flow"), Store(store_path)
    first = extract_features(encoder, store, store.videos, precision=CPU)
    assert torch.equal(extract_features(encoder, store, store.videos, precision=CPU, workers=2), first)
    monkeypatch.setattr(features_module, "_CLIPS_A_PASS", 5)
    other = extract_features(encoder, store, store.videos, precision=CPU)
    torch.testing.assert_close(other, first, rtol=0, atol=1e-6)


def test_the_window_of_the_published_gallery_is_one_and_always_the_same(store_path: Path) -> None:
    store, config = Store(store_path), EncoderConfig("rgb", clip_frames=8)
    windows = Windows(one=True)
    starts = []
    for video in store.videos:
        [numbers] = windows.frame_indices(config, video)
        np.testing.assert_array_equal(numbers, windows.frame_indices(config, video)[0])
        np.testing.assert_array_equal(np.diff(numbers), 1)
        assert 0 <= numbers[0] <= video.num_frames - 1 - 8
        starts.append(numbers[0])
    assert len(set(starts)) > 3, "which one depends on the video"


def test_windows_begin_every_15_frames_of_a_clip_of_32_as_published() -> None:
    assert Windows().step_of(EncoderConfig("rgb")) == 15
    assert Windows().step_of(EncoderConfig("rgb", clip_frames=16)) == 7
    assert Windows().step_of(EncoderConfig("rgb", clip_frames=1)) == 1
    assert Windows(4).step_of(EncoderConfig("rgb")) == 4


@pytest.mark.parametrize("backbone", ["s3d", "s3d-g", "r2plus1d-10", "r2plus1d_18"])
def test_folding_batchnorm_changes_rounding_alone(backbone: str) -> None:
    encoder = trained("rgb", backbone).double()
    clips = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8)
    before = {name: weight.clone() for name, weight in encoder.state_dict().items()}
    folded = fold_batchnorm(encoder)
    torch.testing.assert_close(folded.features(clips), encoder.features(clips), rtol=1e-9, atol=1e-9)  # type: ignore[operator]
    assert all(torch.equal(before[name], weight) for name, weight in encoder.state_dict().items())
    if backbone.startswith("s3d"):
        assert not any(isinstance(layer, torch.nn.BatchNorm3d) for layer in folded.modules())


def test_values_of_any_width_are_averaged_over_a_video(store_path: Path) -> None:
    store, encoder = Store(store_path), trained("rgb")

    def ones(clips: torch.Tensor) -> torch.Tensor:
        return torch.ones(len(clips), 3)

    found = describe_videos(ones, encoder.config, store, store.videos[:5], Windows(2), precision=CPU)
    assert torch.equal(found, torch.ones(5, 3))
    assert not for_inference(encoder, CPU).training
