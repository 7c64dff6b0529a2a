"""What all tests share: tiny real videos, a store prepared from them, a recipe of a few steps."""

import os
import signal
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")

# Other programs of the machine make an example late, not wrong.
settings.register_profile("loaded machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("loaded machine")

# What a module has in its name space if its tests start processes, which import torch anew: about five seconds each.
STARTS_PROCESSES = ("subprocess", "multiprocessing", "start", "forking", "Forked")

# Modules that take 7 to 90 seconds: they compute whole networks, decode many files in worker processes, or time things.
LONG_MODULES = (
    "backbones/test_backbones.py",
    "data/test_bench.py",
    "data/test_loading_limits.py",
    "data/test_video_folder.py",
    "methods/test_assignments.py",
    "methods/test_features.py",
    "methods/test_processes.py",
    "prepare/test_check.py",
    "prepare/test_segments.py",
    "published/test_importing.py",
    "training/test_step.py",
    "video/test_damaged.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the tests that `make test-fast` leaves out: of modules that start processes, train, or take long."""
    for item in items:
        module = getattr(item, "module", None)
        if any(hasattr(module, name) for name in STARTS_PROCESSES):
            item.add_marker(pytest.mark.processes)
        if hasattr(module, "pretrain") or "finished_run_path" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.trains)
        if item.path.as_posix().endswith(LONG_MODULES):
            item.add_marker(pytest.mark.long)


CLASSES = ("left", "right", "up")
VIDEO_FRAMES, VIDEO_SIZE = 24, (40, 48)  # (height, width)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """`main` sets handlers; the test process gets its own back."""
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR1)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors gain nothing from threads, and two test processes would fight for the cores."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    yield
    torch.set_num_threads(before)


def moving_frames(
    num_frames: int, size: tuple[int, int], *, seed: int, velocity: tuple[int, int] = (2, 1)
) -> np.ndarray:
    """A smooth colourful texture that moves by `velocity` = (right, down) pixels a frame: uint8 (T, H, W, 3), RGB."""
    height, width = size
    rng = np.random.default_rng(seed)
    margin_x, margin_y = (abs(step) * num_frames for step in velocity)
    canvas = rng.integers(0, 256, (height + 2 * margin_y, width + 2 * margin_x, 3)).astype(np.uint8)
    canvas = cv2.normalize(cv2.GaussianBlur(canvas, (0, 0), 2.0), None, 0, 255, cv2.NORM_MINMAX)
    frames = []
    for number in range(num_frames):
        left, top = margin_x - velocity[0] * number, margin_y - velocity[1] * number
        frames.append(canvas[top : top + height, left : left + width])
    return np.stack(frames)


def write_frames(
    path: Path,
    frames: np.ndarray,
    *,
    codec: str = "libx264",
    pixel_format: str = "yuv420p",
    rate: int = 25,
    rotation: int | None = None,
    options: dict[str, str] | None = None,
    container_options: dict[str, str] | None = None,
) -> Path:
    """Encode RGB frames, uint8 (T, H, W, 3), as a video file. `rotation` goes into the display matrix."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if options is None:
        options = {"crf": "12", "preset": "ultrafast"} if codec == "libx264" else {}
    with av.open(str(path), "w", container_options=container_options or {}) as container:
        stream = container.add_stream(codec, rate=Fraction(rate), options=options)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pixel_format
        stream.codec_context.thread_count = 1
        if rotation is not None:
            if not hasattr(stream, "set_display_rotation"):
                pytest.skip("this PyAV cannot write a display matrix")
            stream.set_display_rotation(rotation)
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(frame), format="rgb24")))
        container.mux(stream.encode(None))
    return path


def make_video(
    path: Path,
    *,
    num_frames: int = VIDEO_FRAMES,
    size: tuple[int, int] = VIDEO_SIZE,
    seed: int = 0,
    velocity: tuple[int, int] = (2, 1),
) -> Path:
    """Write a small h264 video of a moving texture; `size` is (height, width)."""
    return write_frames(path, moving_frames(num_frames, size, seed=seed, velocity=velocity))


@pytest.fixture(scope="session")
def write_video() -> Callable[..., Path]:
    """`write_video(path, num_frames=..., size=(height, width), seed=..., velocity=(right, down))` makes a real file."""
    return make_video


@pytest.fixture(scope="session")
def video_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """train/ with 12 and test/ with 6 tiny videos of three classes, told apart by the direction of the motion."""
    folder = tmp_path_factory.mktemp("videos")
    velocities = dict(zip(CLASSES, [(-2, 0), (2, 0), (0, -2)], strict=True))
    seed = 0
    for split, count in (("train", 4), ("test", 2)):
        for label in CLASSES:
            for number in range(count):
                seed += 1
                make_video(folder / split / label / f"{number}.mp4", seed=seed, velocity=velocities[label])
    return folder


@pytest.fixture(scope="session")
def store_path(video_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store prepared from `video_folder`. Read it only; a test that changes a store makes its own."""
    from vicc.prepare.build import prepare_videos
    from vicc.prepare.configs import PrepareConfig

    store = tmp_path_factory.mktemp("store") / "store"
    prepare_videos(PrepareConfig(video_folder, store, workers=2))
    return store


TINY_CHANGES = (
    "all.steps=4",
    "all.batch_size=4",
    "all.size=32",
    "all.clip_frames=8",
    "all.num_prototypes=6",
    "all.warmup_steps=1",
)


@pytest.fixture(scope="session")
def unlabelled_store_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store of five videos in a flat folder, without labels. Read it only."""
    from vicc.prepare.build import prepare_videos
    from vicc.prepare.configs import PrepareConfig

    folder = tmp_path_factory.mktemp("flat")
    for number in range(5):
        make_video(folder / "videos" / f"{number}.mp4", seed=number, velocity=(number - 2, 1))
    prepare_videos(PrepareConfig(folder / "videos", folder / "store", workers=1))
    return folder / "store"


@pytest.fixture(scope="session")
def tiny_recipe():  # type: ignore[no-untyped-def]
    """The demo recipe, four steps a stage on the smallest clips that mean anything."""
    from vicc.recipes import create_recipe

    return create_recipe("demo", changes=TINY_CHANGES)


@pytest.fixture(scope="session")
def finished_run_path(tiny_recipe, store_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:  # type: ignore[no-untyped-def]
    """A finished run of `tiny_recipe` on the store. Read it only; tests that measure it copy it."""
    from vicc.training.configs import PretrainConfig
    from vicc.training.pretrain import pretrain

    run = tmp_path_factory.mktemp("finished") / "run"
    pretrain(tiny_recipe, PretrainConfig(store=store_path, run=run))
    return run


@pytest.fixture(scope="session")
def tiny_changes() -> tuple[str, ...]:
    """What `--set` takes to turn the recipe "demo" into `tiny_recipe`."""
    return TINY_CHANGES


@pytest.fixture(scope="session")
def test_data() -> Path:
    """The folder of real videos."""
    place = os.environ.get("VICC_TEST_DATA")
    if not place:
        pytest.skip("needs real videos: VICC_TEST_DATA is not set")
    if not Path(place).is_dir():
        pytest.skip(f"needs real videos: VICC_TEST_DATA={place} is not a folder")
    return Path(place)
