"""Training clips and features near motion: the same box for all streams, in any worker, and in evaluation."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from tests.conftest import write_frames
from tests.data import test_dataset
from vicc.data.dataset import ClipDataset, load_view, sample_rng
from vicc.data.frame_reader import FrameReader
from vicc.data.loader import ClipLoader, EpochBatches
from vicc.data.motion_boxes import clip_box, typical_sides
from vicc.data.records import Video
from vicc.data.store import Store
from vicc.device import choose_precision
from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder
from vicc.methods.features import Windows, _Clips, extract_features
from vicc.prepare.build import prepare_videos
from vicc.prepare.configs import PrepareConfig
from vicc.prepare.scan import open_frames
from vicc.transforms.augmentation import Augmentation, center_view, draw_view, evaluation_views
from vicc.transforms.motion_crop import Box, jittered, within
from vicc.video.flow import dequantize_flow

HEIGHT, WIDTH, SQUARE, FRAMES = 96, 144, 24, 12
MIDDLES = {"a": (28, 36), "b": (66, 108), "c": (28, 108)}
PLAIN = Augmentation(flip=0, jitter=0, grey=0, blur=0)
CPU = choose_precision("fp32", torch.device("cpu"))


def pictures(middle: tuple[int, int] | None) -> np.ndarray:
    """A textured square that moves to the right before a grey wall, half way at `middle`; None: it stays away."""
    square = np.random.default_rng(1).integers(0, 256, (SQUARE // 4, SQUARE // 4, 3)).astype(np.uint8)
    square = cv2.resize(square, (SQUARE, SQUARE), interpolation=cv2.INTER_CUBIC)
    frames = np.full((FRAMES, HEIGHT, WIDTH, 3), 128, np.uint8)
    for number, frame in enumerate(frames):
        if middle is not None:
            top, left = middle[0] - SQUARE // 2, middle[1] - SQUARE // 2 + 2 * number - FRAMES
            frame[top : top + SQUARE, left : left + SQUARE] = square
    return frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("squares")
    for name, middle in MIDDLES.items():
        write_frames(folder / f"{name}.mp4", pictures(middle))
    write_frames(folder / "still.mp4", pictures(None))
    return folder


@pytest.fixture(scope="module")
def readers(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, FrameReader]:
    """The same videos as a store with flow, as one without, and as files."""
    places = tmp_path_factory.mktemp("stores")
    prepare_videos(PrepareConfig(folder, places / "flow", short_side=HEIGHT, flow_bound=8, workers=1))
    prepare_videos(PrepareConfig(folder, places / "none", short_side=HEIGHT, flow="none", workers=1))
    return {
        "flow": Store(places / "flow"),
        "none": Store(places / "none"),
        "files": open_frames(None, folder, scan=places / "scan.json", cache_mb=10),
    }


@pytest.fixture(scope="module")
def store(readers: dict[str, FrameReader]) -> FrameReader:
    return readers["flow"]


def video_of(reader: FrameReader, name: str) -> Video:
    return next(video for video in reader.videos if video.id == f"{name}.mp4")


def make_dataset(reader: FrameReader, **changes: Any) -> ClipDataset:
    return test_dataset.make_dataset(reader, **{"augmentation": PLAIN, "crop": "motion", **changes})


# --- boxes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["flow", "none", "files"])
def test_boxes_are_where_the_square_is_at_the_clips_time_from_any_reader(
    readers: dict[str, FrameReader], kind: str
) -> None:
    reader = readers[kind]
    for name, (down, right) in MIDDLES.items():
        video = video_of(reader, name)
        for start in (0, 5):
            box = clip_box(reader, video, np.arange(start, start + 6))
            assert box is not None
            assert abs(box.top + box.side / 2 - down) < 6
            assert abs(box.left + box.side / 2 - (right + 2 * (start + 3) - FRAMES)) < 6
            assert box.side < 1.5 * SQUARE
    assert clip_box(reader, video_of(reader, "still"), np.arange(6)) is None


def test_the_padding_of_a_short_video_counts_once(store: FrameReader) -> None:
    video = video_of(store, "a")
    assert clip_box(store, video, np.array([0] * 20 + list(range(11)))) == clip_box(store, video, np.arange(11))


def test_frames_are_read_once_however_often_they_are_asked_for(store: FrameReader) -> None:
    asked: list[tuple[str, int]] = []

    class Counting(Store):
        def frames(self, video_id: str, stream: Any, frame_indices: Any) -> np.ndarray:
            asked.extend((stream, index) for index in frame_indices)
            return super().frames(video_id, stream, frame_indices)

    counting = Counting(store.path)
    _ = make_dataset(counting)[0, 0]
    assert len(asked) == len(set(asked))
    assert {stream for stream, _ in asked} == {"rgb", "flow"}
    asked.clear()
    config = EncoderConfig("flow", backbone="s3d-demo", clip_frames=6, size=24, crop="motion")
    extract_features(Encoder(config).eval(), counting, [counting.videos[0]], windows=Windows(2), precision=CPU)
    assert len(asked) == len(set(asked))


def test_rgb_is_read_for_flow_near_motion_only(store: FrameReader) -> None:
    assert make_dataset(store, streams=("flow",), crop="frame").stored_streams == {"flow"}
    assert make_dataset(store, streams=("flow",)).stored_streams == {"rgb", "flow"}
    assert make_dataset(store, streams=("diff",)).stored_streams == {"rgb"}


def test_typical_sides_leave_out_videos_in_which_nothing_moves(store: FrameReader) -> None:
    sides = typical_sides(store, store.videos, clip_frames=6, stride=1)
    assert len(sides) == 3
    assert all(HEIGHT // 3 <= side < 1.5 * SQUARE for side in sides)
    assert typical_sides(store, [video_of(store, "still")], clip_frames=6, stride=1) == []


# --- training --------------------------------------------------------------------------------------------------------


def test_crops_of_the_whole_frame_draw_the_numbers_that_they_always_drew(store: FrameReader) -> None:
    """Written down before there were boxes."""
    dataset = make_dataset(store, crop="frame", augmentation=Augmentation(same_clip=0.5))
    (views,) = dataset._draw(video_of(store, "a"), 3)
    found = [(view.clip, view.draw.top, view.draw.left, view.draw.height, view.draw.width) for view in views]
    assert found == [(0, 9, 44, 76, 89), (0, 2, 41, 94, 102)]


def test_views_near_motion_are_of_the_same_moments_as_views_of_the_frame(store: FrameReader) -> None:
    near, whole = (
        make_dataset(store, crop=crop, augmentation=Augmentation(same_clip=0.5)) for crop in ("motion", "frame")
    )
    for epoch in range(10):
        (first,), (second,) = (dataset._draw(video_of(store, "a"), epoch) for dataset in (near, whole))
        assert [view.clip for view in first] == [view.clip for view in second]


def test_views_are_cut_near_the_box_of_their_own_clip_the_same_in_both_streams(store: FrameReader) -> None:
    """Each view equals the store's frames cut by hand, with the box of its clip moved by the view's own numbers."""
    dataset = make_dataset(store)
    video = video_of(store, "b")
    place = dataset.videos.index(video)
    for epoch in range(3):
        clips = dataset[epoch, place].clips
        indices = dataset._clips(video.num_frames - 1, rng=sample_rng(7, epoch, video.id))
        for view in range(2):
            box = clip_box(store, video, indices[view])
            assert box is not None
            rng = sample_rng(7, epoch, video.id, view)
            box = jittered(box, height=video.height, width=video.width, rng=rng)
            draw = within(box, draw_view(PLAIN, height=box.side, width=box.side, rng=rng))
            for stream in ("rgb", "flow"):
                expected = load_view(store, video, stream, indices[view], draw, size=24, flow_center=False)  # type: ignore[arg-type]
                np.testing.assert_array_equal(clips[stream][view], expected)  # type: ignore[index]


def test_views_near_motion_show_the_square_and_views_of_the_frame_mostly_the_wall(store: FrameReader) -> None:
    shares: dict[str, list[float]] = {"frame": [], "motion": []}
    for crop, found in shares.items():
        dataset = make_dataset(store, crop=crop, videos=[video_of(store, name) for name in MIDDLES])
        for epoch in range(10):
            for place in range(3):
                clips = dataset[epoch, place].clips["rgb"].astype(int)
                found += [(np.abs(clips - 128).max(axis=-1) > 12).mean()]
    assert np.mean(shares["motion"]) > 0.4 > 3 * np.mean(shares["frame"])


def test_a_sample_near_motion_is_the_same_every_time_in_any_worker_and_other_for_another_seed(
    store: FrameReader,
) -> None:
    def batches(workers: int, seed: int = 7) -> list[torch.Tensor]:
        order = EpochBatches(4, 2, first_step=0, last_step=4, seed=0)
        return [batch.clips["rgb"] for batch in ClipLoader(make_dataset(store, seed=seed), order, workers=workers)]

    first = batches(0)
    assert all(map(torch.equal, first, batches(0)))
    assert all(map(torch.equal, first, batches(2)))
    assert not any(map(torch.equal, first, batches(0, seed=8)))


def test_small_views_are_cut_near_the_box_as_well(store: FrameReader) -> None:
    dataset = make_dataset(store, small_views=((3, 12),), small_streams=("rgb",))
    (full, small) = dataset._draw(video_of(store, "a"), 0, lambda clip: Box(20, 30, 40))
    assert (len(full), len(small)) == (2, 3)
    for view in (*full, *small):
        assert 20 - 9 <= view.draw.top <= view.draw.top + view.draw.height <= 60 + 9
        assert 30 - 9 <= view.draw.left <= view.draw.left + view.draw.width <= 70 + 9
    assert max(view.draw.height * view.draw.width for view in small) < 0.25 * 50**2


def test_a_clip_in_which_nothing_moves_is_cropped_as_ever(store: FrameReader) -> None:
    video = video_of(store, "still")
    near, whole = (make_dataset(store, crop=crop, videos=[video])[1, 0].clips for crop in ("motion", "frame"))
    assert all(np.array_equal(near[stream], whole[stream]) for stream in whole)


def test_a_clip_of_one_frame_has_a_box(readers: dict[str, FrameReader]) -> None:
    for kind, streams in (("flow", ("rgb", "flow")), ("none", ("rgb", "diff"))):
        dataset = make_dataset(readers[kind], clip_frames=1, streams=streams)
        clips = dataset[0, 0].clips
        assert {stream: found.shape[:3] for stream, found in clips.items()} == dict.fromkeys(streams, (2, 1, 24))
        assert (np.abs(clips["rgb"].astype(int) - 128).max(axis=-1) > 12).mean() > 0.2


# --- evaluation ------------------------------------------------------------------------------------------------------


def encoder(stream: str, **options: Any) -> Encoder:
    torch.manual_seed(0)
    return Encoder(EncoderConfig(stream, backbone="s3d-demo", clip_frames=6, size=32, **options)).eval()  # type: ignore[arg-type]


@pytest.mark.parametrize("stream", ["rgb", "flow", "diff"])
def test_what_moves_has_nearly_the_same_feature_wherever_it_is(store: FrameReader, stream: str) -> None:
    """Of the whole frame the places differ far more."""
    videos = [video_of(store, name) for name in MIDDLES]
    spread = {}
    for crop in ("frame", "motion"):
        torch.manual_seed(0)
        features = extract_features(encoder(stream, crop=crop), store, videos, windows=Windows(3), precision=CPU)
        spread[crop] = float((features - features.mean(0)).norm())
    assert spread["motion"] < 0.35 * spread["frame"]


@pytest.mark.parametrize(("stream", "crops"), [("rgb", "view"), ("flow", "ten"), ("diff", "five")])
def test_every_window_is_cut_at_its_own_box_without_jitter(store: FrameReader, stream: Any, crops: Any) -> None:
    network, video, windows = encoder(stream, crop="motion"), video_of(store, "a"), Windows(2, crops)
    found = []
    for indices in windows.frame_indices(network.config, video):
        box = clip_box(store, video, indices)
        assert box is not None
        for draw in evaluation_views(height=box.side, width=box.side, crops=crops):
            form = network.config.flow_form
            view = load_view(
                store, video, stream, indices, within(box, draw), size=32, flow_center=False, flow_form=form
            )
            clip = torch.from_numpy(view).permute(3, 0, 1, 2)[None]
            found.append(torch.nn.functional.normalize(network.features(clip), dim=1))
    ours = extract_features(network, store, [video], windows=windows, precision=CPU)
    torch.testing.assert_close(ours, torch.cat(found).mean(0, keepdim=True).detach(), rtol=1e-4, atol=1e-5)


def test_neither_workers_nor_other_videos_change_a_feature_near_motion(store: FrameReader) -> None:
    network = encoder("rgb", crop="motion")
    first = extract_features(network, store, store.videos, windows=Windows(1), precision=CPU)
    assert torch.equal(
        extract_features(network, store, store.videos, windows=Windows(1), precision=CPU, workers=2), first
    )
    alone = extract_features(network, store, store.videos[1:2], windows=Windows(1), precision=CPU)
    torch.testing.assert_close(alone, first[1:2], rtol=0, atol=1e-6)


def test_shuffled_windows_have_the_box_of_their_frames_in_order(readers: dict[str, FrameReader]) -> None:
    """The order of a window's frames is a control of what motion adds: the box must stay what it was."""
    reader, network = readers["none"], encoder("rgb", crop="motion")
    video = video_of(reader, "a")
    plain, shuffled = (
        _Clips(network.config, reader, [video], Windows(6, shuffle=shuffle))[0][1][0].permute(1, 2, 3, 0).numpy()
        for shuffle in (False, True)
    )
    assert not np.array_equal(plain, shuffled)
    assert sorted(frame.tobytes() for frame in plain) == sorted(frame.tobytes() for frame in shuffled)


def test_a_still_video_has_the_feature_of_the_whole_frame(store: FrameReader) -> None:
    videos = [video_of(store, "still")]
    near, whole = (
        extract_features(encoder("rgb", crop=crop), store, videos, precision=CPU) for crop in ("motion", "frame")
    )
    assert torch.equal(near, whole)


@pytest.mark.parametrize("stream", ["rgb", "flow", "diff"])
def test_preprocess_gives_the_clip_that_evaluation_looks_at(store: FrameReader, stream: Any) -> None:
    network, video = encoder(stream, crop="motion", flow_bound=8.0), video_of(store, "b")
    frames = store.frames(video.id, "rgb", range(FRAMES))
    given: dict[str, Any] = {"frames": frames}
    if stream == "flow":
        flow = dequantize_flow(store.frames(video.id, "flow", range(FRAMES - 1)), bound=8.0)
        given = {"frames": flow, "rgb": frames}
    first = (FRAMES - (stream != "rgb") - 6) // 2  # RGB alone has one frame more, and another middle
    indices = np.arange(first, first + 6)
    box = clip_box(store, video, indices)
    assert box is not None
    draw = within(box, center_view(height=box.side, width=box.side))
    expected = load_view(store, video, stream, indices, draw, size=32, flow_center=False)
    np.testing.assert_array_equal(network.preprocess(**given)[0].permute(1, 2, 3, 0).numpy(), expected)


def test_preprocess_of_a_single_frame_is_its_centre() -> None:
    frame = pictures((48, 72))[:1]
    near, whole = (encoder("rgb", crop=crop).preprocess(frame) for crop in ("motion", "frame"))
    assert torch.equal(near, whole)


def test_preprocess_of_flow_near_motion_wants_the_frames_and_no_other_encoder_takes_them() -> None:
    frames, flow = pictures((48, 72)), np.zeros((FRAMES - 1, HEIGHT, WIDTH, 2), np.float32)
    with pytest.raises(ViccError, match=r"looks for in RGB; give the frames .* as rgb="):
        encoder("flow", crop="motion").preprocess(flow)
    with pytest.raises(ViccError, match=r"one frame more than flow, \(12, 96, 144, 3\)"):
        encoder("flow", crop="motion").preprocess(flow, rgb=frames[1:])
    for stream, given in (("rgb", frames), ("flow", flow)):
        with pytest.raises(ViccError, match="takes no rgb="):
            encoder(stream).preprocess(given, rgb=frames)
