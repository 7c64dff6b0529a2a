"""The drawn videos: deterministic, whole, and such that nothing but motion tells the actions apart."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from vicc.errors import ViccError
from vicc.prepare.demo_videos import ACTIONS, FRAME_SIZE, NUM_FRAMES, draw_demo_clip, write_demo_videos
from vicc.video.decode import VideoReader


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.mp4"))}


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    assert write_demo_videos(folder, num_train=10, num_test=10, seed=3, num_workers=2) == 20
    return folder


def test_a_clip_has_its_documented_shape_and_belongs_to_its_seed() -> None:
    clip = draw_demo_clip("walk", seed=1)
    assert clip.shape == (NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3)
    assert clip.dtype == np.uint8
    assert np.array_equal(clip, draw_demo_clip("walk", seed=1))
    assert not np.array_equal(clip, draw_demo_clip("walk", seed=2))


def test_all_ten_actions_are_drawn_into_both_splits_and_can_be_read(written: Path) -> None:
    assert len(ACTIONS) == 10
    for split in ("train", "test"):
        for action in ACTIONS:
            frames = list(VideoReader(written / split / action / f"{action}_0000.mp4"))
            assert len(frames) == NUM_FRAMES


def test_files_do_not_depend_on_the_number_of_workers(written: Path, tmp_path: Path) -> None:
    write_demo_videos(tmp_path, num_train=10, num_test=10, seed=3, num_workers=1)
    assert contents(tmp_path) == contents(written)


def test_training_and_test_videos_are_different_draws(written: Path) -> None:
    files = contents(written)
    assert len(set(files.values())) == len(files)


def test_a_second_call_makes_only_what_is_missing(written: Path) -> None:
    before = contents(written)
    (written / "train" / "jump" / "jump_0000.mp4").unlink()
    assert write_demo_videos(written, num_train=10, num_test=10, seed=3, num_workers=1) == 1
    assert contents(written) == before
    assert not [path for path in written.rglob(".*") if path.is_file()]


def test_a_folder_of_another_seed_is_refused(written: Path) -> None:
    with pytest.raises(ViccError, match="Choose another folder"):
        write_demo_videos(written, num_train=10, num_test=10, seed=4)
    assert json.loads((written / "demo.json").read_text())["seed"] == 3


def test_counts_that_ten_actions_cannot_share_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match="multiple of 10"):
        write_demo_videos(tmp_path, num_train=15, num_test=10)
    with pytest.raises(ViccError, match="walk"):
        draw_demo_clip("sleep", seed=0)


@pytest.mark.slow
def test_colour_does_not_tell_the_action_and_motion_does() -> None:
    """Leave-one-out nearest neighbour, eight clips an action: colour is near chance, the place of change above it."""
    labels, colours, energies = [], [], []
    for number, action in enumerate(ACTIONS):
        for draw in range(8):
            clip = draw_demo_clip(action, seed=np.random.SeedSequence((77, number, draw)))[:, ::2, ::2]
            labels.append(action)
            colours.append(clip.reshape(-1, 3).mean(0).tolist() + clip.reshape(-1, 3).std(0).tolist())
            grey = np.stack([cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in clip]).astype(np.float32)
            change = np.abs(np.diff(grey, axis=0)).mean(0)
            energies.append(cv2.resize(change, (14, 14), interpolation=cv2.INTER_AREA).ravel())

    def accuracy(features: np.ndarray) -> float:
        features = (features - features.mean(0)) / (features.std(0) + 1e-6)
        distances = np.linalg.norm(features[:, None] - features[None], axis=2) + 1e9 * np.eye(len(features))
        return float(np.mean([labels[row] == labels[best] for row, best in enumerate(distances.argmin(1))]))

    colour, motion = accuracy(np.array(colours)), accuracy(np.stack(energies))
    assert colour < 0.25
    assert motion > colour + 0.05
