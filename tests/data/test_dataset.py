"""Samples depend on (seed, epoch, video, view) and on nothing else, and batches are where they should be."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from vicc.data.dataset import ClipDataset, load_view, sample_rng
from vicc.data.frame_reader import FrameReader
from vicc.data.loader import collate
from vicc.data.store import Store
from vicc.device import choose_precision
from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.cross_stream import CrossStream
from vicc.methods.encoder import Encoder
from vicc.methods.features import extract_features
from vicc.training.build import build_dataset, encoder_config
from vicc.training.stage import Stage
from vicc.transforms.augmentation import PRESETS, Augmentation, center_view, draw_view
from vicc.transforms.flow_form import FlowForm
from vicc.video.flow import create_flow, dequantize_flow

PLAIN = Augmentation(crop_area=(1, 1), crop_ratio=(1.2, 1.2), flip=0, jitter=0, grey=0, blur=0)


@pytest.fixture
def store(store_path: Path) -> Iterator[Store]:
    store = Store(store_path)
    yield store
    store.close()


def make_dataset(store: FrameReader, **changes: Any) -> ClipDataset:
    options: dict[str, Any] = {
        "streams": ("rgb", "flow"),
        "num_views": 2,
        "clip_frames": 6,
        "stride": 1,
        "size": 24,
        "distance": "any",
        "augmentation": Augmentation(flow_gain=0.3, flow_offset=0.5),
        "seed": 7,
    }
    return ClipDataset(store, changes.pop("videos", store.videos), **{**options, **changes})


def same(first: dict[Any, np.ndarray], second: dict[Any, np.ndarray]) -> bool:
    return first.keys() == second.keys() and all(np.array_equal(first[key], second[key]) for key in first)


def test_a_sample_has_the_shape_asked_for(store: Store) -> None:
    sample = make_dataset(store, num_views=3)[0, 5]
    assert sample.index == 5
    assert {stream: (clip.shape, clip.dtype) for stream, clip in sample.clips.items()} == {
        "rgb": ((3, 6, 24, 24, 3), np.uint8),
        "flow": ((3, 6, 24, 24, 2), np.uint8),
    }


def test_a_sample_is_the_same_every_time_and_for_every_dataset_object(store: Store) -> None:
    dataset = make_dataset(store)
    first = dataset[3, 4].clips
    dataset[3, 5], dataset[0, 4]
    assert same(dataset[3, 4].clips, first)
    assert same(make_dataset(store)[3, 4].clips, first)


def test_a_sample_depends_on_the_videos_id_not_on_its_place(store: Store) -> None:
    expected = make_dataset(store)[2, 4].clips
    assert same(make_dataset(store, videos=store.videos[4:])[2, 0].clips, expected)


def test_another_seed_or_epoch_or_video_or_view_gives_another_sample(store: Store) -> None:
    first = make_dataset(store)[0, 0].clips
    for other in (
        make_dataset(store, seed=8)[0, 0].clips,
        make_dataset(store)[1, 0].clips,
        make_dataset(store)[0, 1].clips,
    ):
        assert not np.array_equal(other["rgb"], first["rgb"])
        assert not np.array_equal(other["flow"], first["flow"])
    assert not np.array_equal(first["rgb"][0], first["rgb"][1])


def test_streams_of_random_numbers_differ_in_every_part_of_their_name() -> None:
    names = [(1, 0, "a", None), (0, 1, "a", None), (0, 0, "b", None), (0, 0, "a", None), (0, 0, "a", 0), (0, 0, "a", 1)]
    assert len({sample_rng(*name).integers(1 << 62) for name in names}) == len(names)
    assert sample_rng(3, 4, "a", 1).integers(1 << 62) == sample_rng(3, 4, "a", 1).integers(1 << 62)


def test_names_that_are_not_unicode_have_a_stream_too() -> None:
    assert sample_rng(0, 0, "caf\udce9.mp4").random() < 1


@pytest.mark.parametrize("flip", [0.0, 1.0])
def test_both_streams_show_the_same_moments_through_the_same_crop(store: Store, flip: float) -> None:
    """The flow of a view explains how its own RGB frames follow each other, and none of the others do so as well."""
    augmentation = Augmentation(crop_area=(0.5, 0.7), flip=flip, jitter=0, grey=0, blur=0)
    dataset = make_dataset(store, augmentation=augmentation, size=40, num_views=2, clip_frames=4)
    for place in range(0, 18, 3):
        video = store.videos[place]
        clips = dataset[0, place].clips
        # Every tiny video moves at one constant velocity; a flip turns u round.
        velocity = {"left": (-2, 0), "right": (2, 0), "up": (0, -2)}[str(video.label)]
        expected = np.array(velocity) * (-1 if flip else 1, 1)
        flow = dequantize_flow(clips["flow"], bound=store.settings.flow_bound)
        np.testing.assert_allclose(np.median(flow, axis=(1, 2, 3)), [expected] * 2, atol=0.35)


def test_flow_and_rgb_of_a_view_are_cut_out_of_the_same_place_and_time(store: Store) -> None:
    """Without colour changes a view equals the store's frames cut by hand with the view's own numbers and draw."""
    dataset = make_dataset(store, augmentation=Augmentation(jitter=0, grey=0, blur=0))
    clips = dataset[0, 2].clips
    video = store.videos[2]
    for view in range(2):
        rng = sample_rng(7, 0, video.id, view)
        draw = draw_view(dataset.augmentation, height=video.height, width=video.width, rng=rng)
        starts = []
        for stream in ("rgb", "flow"):
            numbers = np.arange(video.num_frames - 1)
            whole = load_view(store, video, stream, numbers, draw, size=24, flow_center=False)  # type: ignore[arg-type]
            windows = {start: whole[start : start + 6] for start in range(len(whole) - 5)}
            cut = clips[stream][view]  # type: ignore[index]
            starts.append({start for start, window in windows.items() if np.array_equal(window, cut)})
        assert len(starts[0]) == 1
        assert starts[0] <= starts[1]  # the motion is steady, so that flow may fit elsewhere too


def test_flow_frame_i_is_the_motion_from_rgb_frame_i_to_the_next(store: Store) -> None:
    video = next(video for video in store.videos if video.label == "right")
    rgb = store.frames(video.id, "rgb", range(6))
    flow = dequantize_flow(store.frames(video.id, "flow", range(5)), bound=store.settings.flow_bound)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
    for number in range(5):
        again = create_flow("dis")(grey[number], grey[number + 1])
        assert np.abs(again - flow[number])[8:-8, 8:-8].mean() < 0.3


def test_a_video_shorter_than_a_clip_is_padded(store: Store) -> None:
    clips = make_dataset(store, clip_frames=40, augmentation=PLAIN)[0, 0].clips
    assert clips["rgb"].shape[1] == 40
    padding = 40 - (store.videos[0].num_frames - 1)
    assert (clips["rgb"][:, : padding + 1] == clips["rgb"][:, :1]).all()
    assert not (clips["rgb"][:, padding + 1] == clips["rgb"][:, 0]).all()


def test_frames_that_cannot_be_read_name_the_video(store: Store) -> None:
    wrong = dataclasses.replace(store.videos[0], num_frames=500)
    dataset = make_dataset(store, videos=[wrong], clip_frames=300)
    with pytest.raises(ViccError, match=wrong.id):
        _ = dataset[0, 0]


def test_the_evaluation_view_is_the_whole_centre(store: Store) -> None:
    video = store.videos[0]
    view = load_view(
        store, video, "rgb", np.arange(3), center_view(height=video.height, width=video.width), size=24,
        flow_center=False,
    )  # fmt: skip
    assert view.shape == (3, 24, 24, 3)


# --- labels, recordings ----------------------------------------------------------------------------------------------


def test_labels_are_numbered_in_the_order_of_their_names(store: Store) -> None:
    batch = collate([make_dataset(store)[0, place] for place in range(len(store.videos))])
    assert batch.label is not None
    assert batch.label.dtype == torch.int64
    names = sorted({str(video.label) for video in store.videos})
    assert [names[number] for number in batch.label] == [video.label for video in store.videos]


def test_one_video_without_a_label_and_no_video_has_a_number(store: Store) -> None:
    videos = [*store.videos[:3], dataclasses.replace(store.videos[3], label=None)]
    assert collate([make_dataset(store, videos=videos)[0, place] for place in (0, 1)]).label is None


def test_videos_of_one_group_share_a_recording_and_every_other_is_its_own(store: Store) -> None:
    first, second, third, fourth, fifth = store.videos[:5]
    videos = [
        dataclasses.replace(first, group="b"),
        second,
        dataclasses.replace(third, group="b"),
        dataclasses.replace(fourth, group="a"),
        # A group that is called as another video is: still not that video.
        dataclasses.replace(fifth, group=second.id),
    ]
    batch = collate([make_dataset(store, videos=videos)[0, place] for place in range(5)])
    assert batch.recording is not None
    assert batch.recording.dtype == torch.int64
    numbers = batch.recording.tolist()
    assert numbers[0] == numbers[2]
    assert len(set(numbers)) == 4


# --- same clip, small views ------------------------------------------------------------------------------------------


def moments(frames: np.ndarray) -> list[int]:
    """Which moment each view shows, for videos whose every frame has one colour of its own."""
    return [int(view[0, 0, 0, 0]) for view in frames]


class _Numbered:
    """A store whose frames show their own number, and which counts how often it is asked."""

    def __init__(self, store: Store) -> None:
        self.settings = store.settings
        self.videos = store.videos
        self.reads = 0

    def frames(self, video_id: str, stream: str, numbers: list[int]) -> np.ndarray:
        self.reads += 1
        channels = 3 if stream == "rgb" else 2
        return np.tile(np.array(numbers, np.uint8)[:, None, None, None], (1, 40, 48, channels))


@pytest.mark.parametrize("streams", [("rgb",), ("rgb", "flow")])
def test_views_of_one_clip_show_the_same_moment_and_it_is_read_once(store: Store, streams: Any) -> None:
    plain = dataclasses.replace(PLAIN, same_clip=0.5)
    numbered = _Numbered(store)
    dataset = make_dataset(numbered, streams=streams, augmentation=plain)  # type: ignore[arg-type]
    same_moment = 0
    for epoch in range(20):
        for place in range(len(dataset)):
            before = numbered.reads
            first, second = moments(dataset[epoch, place].clips["flow" if "flow" in streams else "rgb"])
            once = numbered.reads - before == len(streams)
            assert first == second or not once
            same_moment += once
    assert abs(same_moment / 360 - 0.5) < 0.08


def test_views_of_one_clip_have_crops_of_their_own_and_the_choice_is_the_samples_alone(store: Store) -> None:
    options: dict[str, Any] = {"augmentation": dataclasses.replace(PRESETS["published"], same_clip=1.0)}
    options["flow_form"] = FlowForm("128vu")
    clips = make_dataset(store, **options)[0, 0].clips
    assert not np.array_equal(clips["rgb"][0], clips["rgb"][1])
    assert same(
        make_dataset(store, videos=store.videos[2:], **options)[0, 0].clips, make_dataset(store, **options)[0, 2].clips
    )


def test_whether_views_share_a_clip_says_nothing_of_their_crops(store: Store) -> None:
    dataset = make_dataset(store, augmentation=Augmentation(same_clip=0.5))
    areas: dict[bool, list[int]] = {True: [], False: []}
    for epoch in range(400):
        ((first, second),) = dataset._draw(store.videos[0], epoch)
        areas[first.clip == second.clip].append(first.draw.height * first.draw.width)
    same_clip, apart = (np.mean(values) / (40 * 48) for values in areas.values())
    assert abs(same_clip - apart) < 0.07  # three standard deviations


SMALL: dict[str, Any] = {"small_views": ((3, 16), (1, 10)), "small_streams": ("rgb",)}


def test_small_views_come_in_their_groups_and_streams(store: Store) -> None:
    batch = collate([make_dataset(store, **SMALL)[0, place] for place in (0, 1)])
    assert [{stream: clips.shape for stream, clips in group.items()} for group in batch.small_clips] == [
        {"rgb": (2, 3, 3, 6, 16, 16)},
        {"rgb": (2, 1, 3, 6, 10, 10)},
    ]
    assert batch.small_clips[0]["rgb"][0].is_contiguous(memory_format=torch.channels_last_3d)


def test_small_views_leave_the_full_ones_as_they_are(store: Store) -> None:
    assert same(make_dataset(store, **SMALL)[2, 3].clips, make_dataset(store)[2, 3].clips)


def test_small_views_take_the_moments_of_the_full_ones_in_turn(store: Store) -> None:
    weak = Augmentation(strong=0)
    dataset = make_dataset(_Numbered(store), augmentation=weak, **SMALL)  # type: ignore[arg-type]
    for place in range(6):
        sample = dataset[0, place]
        first, second = moments(sample.clips["rgb"])
        shown = [moments(group["rgb"]) for group in sample.small_clips]
        assert shown == [[first, second, first], [second]]


def test_small_views_cut_small_parts_out(store: Store) -> None:
    dataset = make_dataset(store, augmentation=dataclasses.replace(PLAIN, small_crop_area=(0.05, 0.1)), **SMALL)
    ramp = np.broadcast_to(np.linspace(0, 255, 48).astype(np.uint8)[:, None], (6, 40, 48, 3))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store, "frames", lambda *_: ramp)
        sample = dataset[0, 0]
    assert np.ptp(sample.clips["rgb"]) > 240
    assert all(np.ptp(view) < 255 / 2 for group in sample.small_clips for view in group["rgb"])


def test_small_views_are_all_different(store: Store) -> None:
    (views, _) = (group["rgb"] for group in make_dataset(store, **SMALL)[0, 0].small_clips)
    assert len({view.tobytes() for view in views}) == 3


# --- the form of flow ------------------------------------------------------------------------------------------------


def test_flow_is_loaded_in_the_form_of_its_encoder_counted_in_the_pixels_it_asks_for(store: Store) -> None:
    """The tiny videos are 40 pixels high and move by two: in pixels of 240 that is twelve."""
    form = FlowForm("128vu", 20.0, 240)
    clips = make_dataset(store, augmentation=PLAIN, flow_form=form)[0, 0].clips["flow"]
    assert clips.shape == (2, 6, 24, 24, 3)
    assert (clips[..., 0] == 128).all()
    assert store.videos[0].label == "left"
    u, v = ((np.median(clips[..., channel]) - 127.5) / 127.5 * 20 for channel in (2, 1))
    assert abs(u + 12) < 1.5
    assert abs(v) < 1


def test_centring_comes_before_the_form(store: Store) -> None:
    centred = dataclasses.replace(PLAIN, flow_center=True)
    clips = make_dataset(store, augmentation=centred, flow_form=FlowForm("128vu", 20.0, 240))[0, 0].clips["flow"]
    assert (np.median(clips, axis=(1, 2, 3)) == 128).all()


def test_the_strong_view_of_published_flow_has_its_colours_changed_and_the_weak_one_has_not(store: Store) -> None:
    """The first channel is 128 everywhere until colours change."""
    bright = dataclasses.replace(PRESETS["published"], same_clip=1.0, jitter=1, grey=0, contrast=0, saturation=0, hue=0)
    dataset = make_dataset(store, augmentation=bright, flow_form=FlowForm("128vu"))
    for place in range(6):
        levels = dataset[0, place].clips["flow"][..., 0].mean(axis=(1, 2, 3))
        assert sorted(levels == 128) == [False, True]


def test_colours_for_flow_that_is_no_image_are_refused(store: Store) -> None:
    with pytest.raises(ViccError, match=r"flow_as_image .* flow_channels=128vu"):
        make_dataset(store, augmentation=PRESETS["published"])
    make_dataset(store, augmentation=PRESETS["published"], streams=("rgb",))


@pytest.mark.parametrize(("stream", "teacher"), [("rgb", "flow"), ("flow", "rgb")])
def test_a_stage_loads_flow_as_whichever_encoder_sees_it_and_small_views_for_the_trained_one(
    store: Store, stream: Any, teacher: Any
) -> None:
    stage = Stage(
        "rgb-2", "cross_stream", stream, teacher="flow-1", backbone="s3d-demo", steps=1, size=32, clip_frames=8,
        small_views="2x16", flow_channels="128vu", flow_short_side=240, num_prototypes=(5,),
        augmentation=PRESETS["published"],
    )  # fmt: skip
    config = encoder_config(stage, flow_bound=store.settings.flow_bound)
    task = CrossStream(Encoder(config), Encoder(dataclasses.replace(config, stream=teacher)), num_prototypes=5)
    dataset = build_dataset(stage, task, store, store.videos, seed=0)
    assert dataset.flow_form == FlowForm("128vu", 20.0, 240)
    batch = collate([dataset[0, place] for place in (0, 1, 2)])
    assert {name: clips.shape[:3] for name, clips in batch.clips.items()} == {"rgb": (3, 2, 3), "flow": (3, 2, 3)}
    assert [list(group) for group in batch.small_clips] == [[stream]]
    assert torch.isfinite(task(batch, 0)["loss"])


def test_evaluation_feeds_an_encoder_the_same_flow_as_training(store: Store) -> None:
    """Features of a video of one window are those of the clip that a dataset without randomness gives."""
    config = EncoderConfig(
        "flow", backbone="s3d-demo", clip_frames=23, size=32, flow_channels="128vu", flow_short_side=240
    )
    encoder = Encoder(config).eval()
    whole = dataclasses.replace(PLAIN, crop_area=(1, 1), crop_ratio=(1.2, 1.2))
    dataset = make_dataset(
        store, streams=("flow",), size=32, clip_frames=23, num_views=1, augmentation=whole, flow_form=config.flow_form
    )
    with torch.no_grad():
        expected = encoder.features(collate([dataset[0, 0]]).clips["flow"][:, 0])
    ours = extract_features(encoder, store, store.videos[:1], precision=choose_precision("fp32", torch.device("cpu")))
    torch.testing.assert_close(ours, torch.nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=1e-4)


# --- diff ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("clip_frames", "stride"), [(6, 1), (5, 3), (40, 1)])
def test_diff_of_a_view_is_the_difference_of_its_rgb_frames(store: Store, clip_frames: int, stride: int) -> None:
    """With consecutive frames it can be seen in the RGB view itself; in any other clip, frame i + 1 is read too."""
    dataset = make_dataset(
        store, streams=("rgb", "diff"), augmentation=Augmentation(grey=0), clip_frames=clip_frames, stride=stride
    )
    for place in (0, 7):
        clips = dataset[0, place].clips
        assert clips["diff"].shape == clips["rgb"].shape == (2, clip_frames, 24, 24, 3)
        if stride == 1:
            rgb, diff = clips["rgb"].astype(int), clips["diff"].astype(int)
            seen = np.clip(128 + rgb[:, 1:] - rgb[:, :-1], 0, 255)
            moved = (rgb[:, 1:] != rgb[:, :-1]).any(axis=(2, 3, 4))  # not where a short video repeats its first frame
            assert moved.sum() >= 2 * min(clip_frames - 1, 22)
            # Contrast is around the mean of the clip, which for diff has one frame more.
            assert np.abs(seen - diff[:, :-1])[moved].max() <= 2


def test_an_encoder_of_diff_trains_and_is_measured_without_any_flow(store: Store) -> None:
    """Features of a video of one window are those of the clip that a dataset without randomness gives."""
    config = EncoderConfig("diff", backbone="s3d-demo", clip_frames=23, size=32, flow_normalization="clip")
    encoder = Encoder(config).eval()
    whole = dataclasses.replace(PLAIN, crop_area=(1, 1), crop_ratio=(1.2, 1.2))
    dataset = make_dataset(store, streams=("diff",), size=32, clip_frames=23, num_views=1, augmentation=whole)
    clip = collate([dataset[0, 0]]).clips["diff"][:, 0]
    with torch.no_grad():
        expected = encoder.features(clip)
    video = store.videos[0]
    ours = extract_features(encoder, store, [video], precision=choose_precision("fp32", torch.device("cpu")))
    torch.testing.assert_close(ours, torch.nn.functional.normalize(expected, dim=1), atol=1e-5, rtol=1e-4)
    frames = store.frames(video.id, "rgb", range(video.num_frames))
    assert torch.equal(encoder.preprocess(frames), clip)


def test_a_diff_encoder_wants_two_frames() -> None:
    encoder = Encoder(EncoderConfig("diff", backbone="s3d-demo", clip_frames=4, size=32))
    assert encoder.preprocess(np.zeros((2, 40, 40, 3), np.uint8)).unique().tolist() == [128]
    with pytest.raises(ViccError, match="at least two"):
        encoder.preprocess(np.zeros((1, 40, 40, 3), np.uint8))
