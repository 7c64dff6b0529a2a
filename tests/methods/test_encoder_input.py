"""What an encoder is given means what it takes it for, or is refused in a sentence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from vicc.batch import Stream
from vicc.data.dataset import load_view
from vicc.data.store import Store
from vicc.device import choose_precision
from vicc.errors import ViccError
from vicc.methods.classifier import FineTuned
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.features import extract_features
from vicc.transforms.augmentation import center_view
from vicc.video.flow import dequantize_flow, quantize_flow

CPU = choose_precision("fp32", torch.device("cpu"))


def encoder(stream: Stream = "rgb", **options: object) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(stream, backbone="s3d-demo", clip_frames=8, size=32, **options)).eval()  # type: ignore[arg-type]


FRAMES = np.random.default_rng(0).integers(0, 256, (9, 40, 48, 3), dtype=np.uint8)
FLOW = np.random.default_rng(1).normal(0, 3, (9, 40, 48, 2)).astype(np.float32)
CLIPS = torch.randint(0, 256, (2, 3, 8, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_arrays_and_tensors_are_the_same_to_an_encoder() -> None:
    rgb, flow = encoder(), encoder("flow")
    assert torch.equal(rgb.preprocess(torch.from_numpy(FRAMES)), rgb.preprocess(FRAMES))
    assert torch.equal(flow.preprocess(torch.from_numpy(FLOW)), flow.preprocess(FLOW))
    assert torch.equal(rgb.features(CLIPS.numpy()), rgb.features(CLIPS))
    with torch.no_grad():
        backwards = CLIPS.numpy()[::-1]  # an array of negative strides, which torch cannot take as it is
        assert torch.equal(rgb.features(backwards), rgb.features(CLIPS.flip(0)))


@pytest.mark.parametrize(
    ("frames", "told"),
    [
        (FRAMES / 255, "values are from 0 to 1: convert them with (255 * frames).round().astype(np.uint8)"),
        (FRAMES.astype(np.float32), "from 0 to 255: convert them with frames.round().astype(np.uint8)"),
        (FRAMES.astype(np.int64), "from 0 to 255: convert them with frames.round().astype(np.uint8)"),
        ((FRAMES - 127.0) / 58, "normalised already cannot be taken"),
        (FRAMES.transpose(0, 3, 1, 2), "Channels come last: frames.transpose(0, 2, 3, 1)"),
        (FRAMES.transpose(3, 0, 1, 2), "Channels come last: frames.transpose(1, 2, 3, 0)"),
        (FRAMES[None], "one video at a time"),
        (FRAMES[0], "A single frame is frames[None]"),
        (FRAMES[..., :1], "expected frames, uint8 (T, H, W, 3)"),
        (FRAMES[:0], "nothing to encode"),
        (FRAMES.tolist(), "got list; expected frames"),
        (FRAMES > 100, "got bool"),
    ],
)
def test_frames_that_would_be_taken_for_others_are_refused(frames: object, told: str) -> None:
    for given in (frames, torch.from_numpy(frames)) if isinstance(frames, np.ndarray) else (frames,):
        with pytest.raises(ViccError) as refused:
            encoder().preprocess(given)  # type: ignore[arg-type]
        assert told in str(refused.value)


@pytest.mark.parametrize(
    ("flow", "told"),
    [
        (quantize_flow(FLOW, bound=20), "dequantize_flow"),
        (quantize_flow(FLOW, bound=20).astype(np.float32), "as flow in the form of an image has"),
        (np.where(FLOW > 8, np.nan, FLOW), "not finite"),
        (1000 * FLOW, "pixels per frame, u before v"),
        (FLOW.transpose(0, 3, 1, 2), "Channels come last"),
        (FRAMES.astype(np.float32), "expected flow in pixels, floating (T, H, W, 2)"),
    ],
)
def test_flow_that_is_not_in_pixels_is_refused(flow: np.ndarray, told: str) -> None:
    with pytest.raises(ViccError) as refused:
        encoder("flow").preprocess(flow)
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("clips", "told"),
    [
        (CLIPS / 255, "Give (255 * clips).round() as uint8"),
        (CLIPS.float(), "from 0 to 255; floating-point clips are taken as normalised already, within 2.6 of 0"),
        (CLIPS.float() - 127, "within 2.6 of 0"),
        (torch.full(CLIPS.shape, torch.nan), "not all finite"),
        (CLIPS.long(), "as uint8, as preprocess does"),
        (CLIPS[0], "The batch axis is missing: clips[None]"),
        (CLIPS.permute(0, 2, 3, 4, 1), "clips.permute(0, 4, 1, 2, 3)"),
        (CLIPS.transpose(1, 2), "clips.permute(0, 2, 1, 3, 4)"),
        (CLIPS[:, :, :7], "Clips of another length than the 8 frames"),
        (CLIPS[..., :30], "encoder.preprocess(frames) makes such a clip"),
        (CLIPS[:, :2], "expected clips, uint8 (B, 3, 8, 32, 32)"),
        (CLIPS[:0], "expected clips"),
        (CLIPS.tolist(), "got list; expected clips"),
    ],
)
def test_clips_that_would_be_taken_for_others_are_refused(clips: object, told: str) -> None:
    with pytest.raises(ViccError) as refused:
        encoder().features(clips)  # type: ignore[arg-type]
    assert told in str(refused.value)


def test_clips_that_are_normalised_are_taken_and_give_what_uint8_gives() -> None:
    for stream, clips in (("rgb", CLIPS), ("flow", CLIPS[:, :2]), ("diff", CLIPS)):
        one = encoder(stream)  # type: ignore[arg-type]
        normalised = (clips.float() - one.mean) / one.std
        torch.testing.assert_close(one.features(normalised), one.features(clips), rtol=1e-4, atol=1e-5)
    published = encoder("flow", flow_channels="128vu")
    still = torch.full((1, 3, 8, 32, 32), 128.0)
    published.features((still - published.mean) / published.std)  # all of it lies in 0 to 1, as it should
    encoder().features(torch.zeros(1, 3, 8, 32, 32))  # the mean colour everywhere


def test_normalised_clips_of_another_precision_give_what_those_of_the_weights_give() -> None:
    clips = torch.randn(2, 3, 8, 32, 32, generator=torch.Generator().manual_seed(0)).half()
    rgb = encoder()
    expected = rgb.features(clips.float())
    assert torch.equal(rgb.features(clips), expected)
    assert torch.equal(rgb.features(clips.double()), expected)


def test_other_sizes_are_taken_where_they_are_asked_for_and_by_classifiers() -> None:
    one, larger = encoder(), F.interpolate(CLIPS.float(), (8, 48, 48)).to(torch.uint8)
    assert one.features(larger, any_size=True).shape == (2, one.num_features)
    classifier = FineTuned(one, 4).eval()
    assert classifier(larger).shape == (2, 4)
    with pytest.raises(ViccError, match="normalised already"):
        classifier(CLIPS / 255)


@pytest.mark.parametrize("stream", ["rgb", "flow", "diff"])
def test_both_ways_to_a_feature_agree_on_a_video_of_one_window(stream: Stream, store_path: Path) -> None:
    """extract_features looks at all frames but the last (flow has one fewer) and gives a mean of unit vectors."""
    store = Store(store_path)
    video = store.videos[0]
    torch.manual_seed(0)
    one = Encoder(EncoderConfig(stream, backbone="s3d-demo", clip_frames=video.num_frames - 1, size=32)).eval()
    frames = store.frames(video.id, "flow" if stream == "flow" else "rgb", range(video.num_frames - (stream != "diff")))
    if stream == "flow":
        frames = dequantize_flow(frames, bound=store.settings.flow_bound)
    with torch.no_grad():
        feature = F.normalize(one.features(one.preprocess(frames)), dim=1)
    torch.testing.assert_close(extract_features(one, store, [video], precision=CPU), feature, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("kind", ["rgb", "uv", "128vu"])
def test_preprocess_gives_what_retrieval_looks_at(kind: str, store_path: Path) -> None:
    store = Store(store_path)
    video, bound = store.videos[0], store.settings.flow_bound
    config = EncoderConfig("rgb", backbone="s3d-demo", clip_frames=6, size=24, stride=2)
    if kind != "rgb":
        config = replace(config, stream="flow", flow_channels=kind, flow_bound=bound, flow_center=kind == "uv")  # type: ignore[arg-type]
    frames = store.frames(video.id, config.stream, range(video.num_frames - 1))
    clip = Encoder(config).preprocess(frames if kind == "rgb" else dequantize_flow(frames, bound=bound))
    assert clip.shape == (1, config.in_channels, 6, 24, 24)
    assert clip.dtype == torch.uint8
    first = (video.num_frames - 1 - 11) // 2
    expected = load_view(
        store,
        video,
        config.stream,
        np.arange(first, first + 12, 2),
        center_view(height=video.height, width=video.width),
        size=24,
        flow_center=config.flow_center,
        flow_form=config.flow_form if kind != "rgb" else None,
    )
    np.testing.assert_array_equal(clip[0].permute(1, 2, 3, 0).numpy(), expected)


def test_flow_is_scaled_to_the_frames_the_published_encoders_know() -> None:
    config = EncoderConfig(
        "flow", backbone="s3d-demo", clip_frames=2, size=8, flow_channels="128vu", flow_short_side=240
    )
    flow = np.zeros((2, 120, 160, 2), np.float32)
    flow[..., 0] = 5.0  # 10 pixels of frames 240 high: half of the bound
    clip = Encoder(config).preprocess(flow)[0, :, 0, 0, 0].tolist()
    assert clip == [128, 128, 192]  # 127.5 + 127.5 / 2, in steps of the stored form


def test_a_short_video_is_padded_and_frames_of_another_kind_are_refused() -> None:
    encoder = Encoder(EncoderConfig("rgb", backbone="s3d-demo", clip_frames=4, size=8))
    frames = np.random.default_rng(0).integers(0, 256, (2, 9, 9, 3), dtype=np.uint8)
    clip = encoder.preprocess(frames)
    assert torch.equal(clip[:, :, 0], clip[:, :, 2])
    assert not torch.equal(clip[:, :, 0], clip[:, :, 3])
    for wrong in (frames / 255.0, frames[..., :2], frames[0]):
        with pytest.raises(ViccError, match=r"expected frames, uint8 \(T, H, W, 3\)"):
            encoder.preprocess(wrong)
    with pytest.raises(ViccError, match="nothing to encode"):
        encoder.preprocess(frames[:0])
