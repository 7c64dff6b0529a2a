"""Drawn videos of a jointed figure doing one of ten actions: the data set of ``vicc demo``, made in
seconds.

What tells the actions apart is how the limbs move. All else (clothes, place, size, view, speed,
camera, background, light, noise) is drawn independently of the action, so that colour says nothing
about it and a fixed place in the frame says little. Backgrounds are kept dark and of low contrast:
a small encoder then learns within minutes on two cores; with strong backgrounds it does not.
"""

import json
import math
import os
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TypeVar

import av
import cv2
import numpy as np

from vicc.errors import ViccError
from vicc.prepare.workers import CANNOT_START, new_pool, submit

FRAME_SIZE = 112  # pixels, both sides: a square view then shows the whole frame and no figure is cut off by the crop
FRAME_RATE = Fraction(10)  # frames per second
NUM_FRAMES = 36  # 3.6 s, so that two clips of 16 frames need not overlap
GENERATOR_VERSION = 1  # to be raised with any change that alters pixels: a folder of another version is refused

_TURN = 2 * math.pi
_SUBPIXEL_BITS = 4  # OpenCV draws at 1/16 pixel, without which slow limbs would move in jumps
_MARGIN = 64  # pixels of background beyond the frame on every side, for the camera to move over

Colour = tuple[float, float, float]
Angles = tuple[float, float]
_Part = TypeVar("_Part", float, Angles)


# --- how each action moves -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pose:
    """Joint angles in radians of one moment; pairs are (left, right). All zero: standing, arms
    hanging.

    A limb's direction is (swing, spread): swing forward from straight down, spread outward from the
    body.
    """

    hips: Angles = (0.06, -0.06)  # swing of the thighs
    knees: Angles = (0.06, 0.06)  # bend
    upper_arms: tuple[Angles, Angles] = ((0.05, 0.15), (-0.05, 0.15))
    forearms: tuple[Angles, Angles] = ((0.2, 0.12), (0.1, 0.12))
    lean: float = 0.0  # of the trunk, forward
    lift: float = 0.0  # of the whole body above the ground, in body heights
    spin: float = 0.0  # about the upright axis
    topple: float = 0.0  # about the feet: 0 upright, pi/2 lying


@dataclass(frozen=True)
class Manner:
    """How one person acts: ``reach`` scales the amplitude, ``phase`` is in cycles, ``side`` is the
    acting limb.
    """

    phase: float
    reach: float
    side: int


def _bump(phase: float, centre: float, width: float) -> float:
    """0 to 1 to 0, a raised cosine around ``centre`` of a cycle, ``width`` cycles to each side."""
    distance = abs((phase - centre + 0.5) % 1 - 0.5)
    return 0.5 * (1 + math.cos(math.pi * min(distance / width, 1)))


def _acting(side: int, acting: _Part, resting: _Part) -> tuple[_Part, _Part]:
    return (acting, resting) if side == 0 else (resting, acting)


def _walk(phase: float, manner: Manner) -> Pose:
    swing = 0.62 * manner.reach * math.sin(_TURN * phase)
    lifted = 0.55 * manner.reach * math.cos(_TURN * phase)
    return Pose(
        hips=(swing, -swing),
        knees=(0.08 + max(0, lifted), 0.08 + max(0, -lifted)),
        upper_arms=((-0.8 * swing, 0.12), (0.8 * swing, 0.12)),
        forearms=((0.2 - 0.8 * swing, 0.1), (0.2 + 0.8 * swing, 0.1)),
    )


def _run(phase: float, manner: Manner) -> Pose:
    swing = 0.9 * manner.reach * math.sin(_TURN * phase)
    lifted = 1.3 * manner.reach * math.cos(_TURN * phase)
    return Pose(
        hips=(0.15 + swing, 0.15 - swing),
        knees=(0.3 + max(0, lifted), 0.3 + max(0, -lifted)),
        upper_arms=((-swing, 0.15), (swing, 0.15)),
        forearms=((1.5 - swing, 0.0), (1.5 + swing, 0.0)),
        lean=0.25,
        lift=0.05 * abs(math.sin(_TURN * phase)),
    )


def _jump(phase: float, manner: Manner) -> Pose:
    crouch, flight = _bump(phase, 0.2, 0.22) * manner.reach, _bump(phase, 0.6, 0.24) * manner.reach
    hip, knee, arm = 0.7 * crouch, 1.3 * crouch, (-0.6 * crouch + 2.7 * flight, 0.25)
    return Pose((hip, hip), (knee, knee), (arm, arm), (arm, arm), lean=0.3 * crouch, lift=0.3 * flight)


def _wave(phase: float, manner: Manner) -> Pose:
    swing = 0.75 * manner.reach * math.sin(_TURN * phase)
    upper_arms = _acting(manner.side, (0.2, 2.0 + 0.25 * swing), (0.0, 0.12))
    return Pose(upper_arms=upper_arms, forearms=_acting(manner.side, (0.2, 2.9 + swing), (0.1, 0.1)))


def _clap(phase: float, manner: Manner) -> Pose:
    opened = manner.reach * (0.5 + 0.5 * math.sin(_TURN * phase))
    upper, fore = (1.1, -0.15 + 0.9 * opened), (1.5, -0.45 + 1.2 * opened)
    return Pose(upper_arms=(upper, upper), forearms=(fore, fore))


def _kick(phase: float, manner: Manner) -> Pose:
    back, forth = _bump(phase, 0.22, 0.25), _bump(phase, 0.55, 0.25) * manner.reach
    hips = _acting(manner.side, -0.7 * back + 1.9 * forth, -0.05)
    return Pose(hips, _acting(manner.side, 0.1 + 1.2 * back, 0.08), lean=-0.3 * forth + 0.1 * back)


def _squat(phase: float, manner: Manner) -> Pose:
    depth = manner.reach * (0.5 - 0.5 * math.cos(_TURN * phase))
    hip, knee, arm = 1.35 * depth, 2.1 * depth, (1.4 * depth, 0.1)
    return Pose((hip, hip), (knee, knee), (arm, arm), (arm, arm), lean=0.5 * depth)


def _turn(phase: float, manner: Manner) -> Pose:
    step, arm = 0.2 * math.sin(_TURN * phase), (0.0, 1.3 * manner.reach)
    spin = _TURN * phase * (1 if manner.side == 0 else -1)
    return Pose((step, -step), (0.1 + max(0, step), 0.1 + max(0, -step)), (arm, arm), (arm, arm), spin=spin)


def _throw(phase: float, manner: Manner) -> Pose:
    cocked, release = _bump(phase, 0.3, 0.3), _bump(phase, 0.58, 0.18) * manner.reach
    upper = -0.2 + 2.9 * cocked * (1 - release) + 1.4 * release
    return Pose(
        hips=_acting(manner.side, -0.3 * release, 0.4 * release),
        knees=_acting(manner.side, 0.1 + 0.2 * release, 0.15),
        upper_arms=_acting(manner.side, (upper, 0.3), (0.5 * cocked, 0.3)),
        forearms=_acting(manner.side, (upper + 1.3 * cocked * (1 - release), 0.25), (0.8 * cocked, 0.3)),
        lean=-0.25 * cocked + 0.55 * release,
    )


def _fall(phase: float, manner: Manner) -> Pose:
    down, up = (min(max(share, 0.0), 1.0) for share in ((phase - 0.1) / 0.25, (phase - 0.6) / 0.3))
    lying = down * down * (3 - 2 * down) - up * up * (3 - 2 * up)
    arm = (1.2 * lying, 0.15 + 0.4 * lying)
    return Pose((0.45 * lying, 0.2 * lying), (0.6 * lying, 0.3 * lying), (arm, arm), (arm, arm), topple=1.45 * lying)


# Cycles per second at usual speed, and the pose at a phase in [0, 1) of the cycle. All are fast
# enough for a clip of 16 frames to hold a whole cycle: otherwise two clips of one video would not
# show the same thing.
_POSES: dict[str, tuple[float, Callable[[float, Manner], Pose]]] = {
    "walk": (1.0, _walk),
    "run": (1.7, _run),
    "jump": (1.0, _jump),
    "wave": (1.6, _wave),
    "clap": (1.5, _clap),
    "kick": (1.0, _kick),
    "squat": (0.85, _squat),
    "turn": (1.0, _turn),
    "throw": (1.0, _throw),
    "fall": (0.75, _fall),
}
ACTIONS: tuple[str, ...] = tuple(_POSES)


# --- what does not depend on the action ------------------------------------------------------------------------------


def _colour(rng: np.random.Generator, low: float, high: float) -> Colour:
    red, green, blue = rng.uniform(low, high, 3)
    return float(red), float(green), float(blue)


def _texture(rng: np.random.Generator, size: int) -> np.ndarray:
    """A cloudy pattern with mean 0 and deviation about 1, float32 (size, size, 3)."""
    pattern = np.zeros((size, size, 3), np.float32)
    for cells in (4, 9, 24, 60):
        grid = rng.normal(size=(cells, cells, 3)).astype(np.float32)
        pattern += rng.uniform(0.3, 1) * cv2.resize(grid, (size, size), interpolation=cv2.INTER_CUBIC)
    return (pattern - pattern.mean((0, 1))) / max(float(pattern.std()), 1e-6)


def _wander(rng: np.random.Generator, amplitude: float) -> np.ndarray:
    """A slow swing around 0, (NUM_FRAMES,): what wanders is no mark by which two clips of one video
    agree.
    """
    time_s = np.arange(NUM_FRAMES) / float(FRAME_RATE)
    return amplitude * np.sin(_TURN * (rng.uniform(0.2, 0.4) * time_s + rng.random()))


def _camera_path(rng: np.random.Generator) -> np.ndarray:
    """Where the camera looks: pan (none in 40 % of the clips), slow sway and shake, in pixels,
    (NUM_FRAMES, 2).
    """
    time = np.linspace(-1, 1, NUM_FRAMES)[:, None]
    pan = rng.uniform(-1, 1, 2) * (12, 5) * (rng.random() < 0.6)
    sway = np.stack([_wander(rng, rng.uniform(13, 23)), _wander(rng, rng.uniform(5, 11))], axis=1)
    shake = np.cumsum(rng.normal(0, rng.uniform(0, 0.3), (NUM_FRAMES, 2)), axis=0)
    path = pan * time + sway + shake - shake.mean(0)
    return np.clip(path, 2 - _MARGIN, _MARGIN - 2)


@dataclass(frozen=True)
class Scene:
    """Everything of a clip that says nothing about the action: pixels, radians, light in 0..255."""

    rng: np.random.Generator = field(repr=False)  # left over for the noise
    manner: Manner
    clock: np.ndarray  # time of the action at each frame in usual seconds, (NUM_FRAMES,)
    height: np.ndarray  # of the standing figure, (NUM_FRAMES,)
    centre: tuple[float, float]  # of the standing figure, x and y
    heading: np.ndarray  # 0 faces the camera, pi/2 the right edge, (NUM_FRAMES,)
    elevation: float  # of the camera above the horizontal
    fall_direction: float  # of a toppling body, from its front
    proportions: dict[str, float]  # lengths in body heights
    thickness: float  # of the limbs, in body heights
    clothes: dict[str, tuple[Colour, ...]]  # bands of colour along each limb
    camera: np.ndarray  # (NUM_FRAMES, 2)
    background: np.ndarray  # float32 (FRAME_SIZE + 2 * _MARGIN,) * 2 + (3,)
    haze: np.ndarray  # a second layer that slides over the background, same shape
    haze_velocity: tuple[float, float]  # pixels per frame
    ball: tuple[float, float, float, float, float] | None  # a passing object: x, y, velocity x, y per second, radius
    ball_colour: Colour
    gain: np.ndarray  # brightness of each frame, (NUM_FRAMES,)
    noise: float  # deviation


def _draw_proportions(rng: np.random.Generator) -> dict[str, float]:
    usual = {"thigh": 0.245, "shin": 0.245, "trunk": 0.3, "upper_arm": 0.17, "forearm": 0.17, "head": 0.07}
    usual |= {"hip": 0.055, "shoulder": 0.1}
    return {part: length * rng.uniform(0.88, 1.12) for part, length in usual.items()}


def _draw_clothes(rng: np.random.Generator) -> dict[str, tuple[Colour, ...]]:
    clothes: dict[str, tuple[Colour, ...]] = {"skin": (_colour(rng, 120, 245),)}
    for part in ("shirt", "sleeve", "trousers"):
        base, contrast = np.array(_colour(rng, 110, 250)), rng.uniform(0, 45)
        bands = np.clip(base + rng.normal(0, contrast, (4, 3)), 60, 255)
        clothes[part] = tuple((float(r), float(g), float(b)) for r, g, b in bands)
    return clothes


def _draw_scene(rng: np.random.Generator) -> Scene:
    canvas = FRAME_SIZE + 2 * _MARGIN
    height = rng.uniform(0.66, 0.9) * FRAME_SIZE
    time_s = np.arange(NUM_FRAMES) / float(FRAME_RATE)
    facing = rng.choice([-1, 1]) * rng.uniform(0.6, 1.2) + rng.choice([0, math.pi], p=[0.8, 0.2])
    ball = (*rng.uniform(0, FRAME_SIZE, 2), *rng.uniform(-25, 25, 2), rng.uniform(3, 8))
    return Scene(
        manner=Manner(phase=rng.random(), reach=rng.uniform(0.85, 1.15), side=int(rng.integers(2))),
        clock=np.cumsum(rng.uniform(0.85, 1.2) * (1 + _wander(rng, 0.15))) / float(FRAME_RATE),
        height=height * (1 + _wander(rng, 0.12)),
        centre=(rng.uniform(0.37, 0.63) * FRAME_SIZE, rng.uniform(0.46, 0.54) * FRAME_SIZE),
        heading=facing + _wander(rng, 0.4),
        elevation=rng.uniform(-0.05, 0.35),
        fall_direction=rng.uniform(-0.6, 0.6) + math.pi * (rng.random() < 0.2),
        proportions=_draw_proportions(rng),
        thickness=rng.uniform(0.038, 0.052),
        clothes=_draw_clothes(rng),
        camera=_camera_path(rng),
        background=np.array(_colour(rng, 30, 90), np.float32) + rng.uniform(6, 18) * _texture(rng, canvas),
        haze=rng.uniform(0, 8) * _texture(rng, canvas) * (rng.random() < 0.2),
        haze_velocity=tuple(rng.uniform(-1, 1, 2)),
        ball=ball if rng.random() < 0.25 else None,
        ball_colour=_colour(rng, 40, 240),
        gain=rng.uniform(0.75, 1.15) * (1 + rng.uniform(0, 0.12) * np.sin(_TURN * rng.uniform(0.1, 0.6) * time_s)),
        noise=rng.uniform(0.5, 2.5),
        rng=rng,
    )


# --- from a pose to points in the picture ----------------------------------------------------------------------------


def _direction(swing: float, spread: float = 0.0, outward: int = 1) -> np.ndarray:
    """Unit vector (forward, up, left) of a limb that hangs down when both angles are 0."""
    return np.array(
        [math.sin(swing) * math.cos(spread), -math.cos(swing) * math.cos(spread), outward * math.sin(spread)]
    )


def _joints(pose: Pose, size: dict[str, float]) -> dict[str, np.ndarray]:
    """Joint positions around the pelvis, (forward, up, left) in body heights, each (3,)."""
    spine = -_direction(-pose.lean)
    joints = {"pelvis": np.zeros(3), "neck": size["trunk"] * spine}
    joints["head"] = joints["neck"] + (size["head"] + 0.035) * spine
    for side, outward in enumerate((1, -1)):
        left = np.array([0.0, 0.0, outward])
        hip, shoulder = size["hip"] * left, joints["neck"] + size["shoulder"] * left - 0.02 * spine
        knee = hip + size["thigh"] * _direction(pose.hips[side])
        elbow = shoulder + size["upper_arm"] * _direction(*pose.upper_arms[side], outward)
        joints |= {f"hip{side}": hip, f"knee{side}": knee, f"shoulder{side}": shoulder, f"elbow{side}": elbow}
        joints[f"foot{side}"] = knee + size["shin"] * _direction(pose.hips[side] - pose.knees[side])
        joints[f"hand{side}"] = elbow + size["forearm"] * _direction(*pose.forearms[side], outward)
    return joints


def _about_up(points: np.ndarray, angle: float) -> np.ndarray:
    cos, sin = math.cos(angle), math.sin(angle)
    return points @ np.array([[cos, 0, -sin], [0, 1, 0], [sin, 0, cos]])


def _stand(points: np.ndarray, pose: Pose, fall_direction: float) -> np.ndarray:
    """Puts the body (J, 3) on the ground at height 0, toppled about its feet, lifted and spun as
    the pose says.
    """
    if pose.topple:
        cos, sin = math.cos(pose.topple), math.sin(pose.topple)
        points = _about_up(points, fall_direction) @ np.array([[cos, -sin, 0], [sin, cos, 0], [0, 0, 1]])
        points = _about_up(points, -fall_direction)
    points = points - [0, points[:, 1].min() - pose.lift, 0]
    return _about_up(points, pose.spin)


def _project(points: np.ndarray, scene: Scene, frame: int) -> np.ndarray:
    """Body points (J, 3) to (x, y, depth, scale) (J, 4): pixels, depth towards the camera in body
    heights.
    """
    turned = _about_up(points - [0, 0.5, 0], scene.heading[frame])
    towards, up, across = turned.T
    cos, sin = math.cos(scene.elevation), math.sin(scene.elevation)
    depth, rise = towards * cos + up * sin, up * cos - towards * sin
    scale = scene.height[frame] * (1 + 0.15 * depth)
    offset = scene.camera[frame]
    x = scene.centre[0] - offset[0] + across * scale
    y = scene.centre[1] - offset[1] - rise * scale
    return np.stack([x, y, depth, scale], axis=1)


# --- drawing ---------------------------------------------------------------------------------------------------------

# joint, joint, cloth, radius at either end as a multiple of the limbs' thickness
_BONES = (
    *((f"hip{s}", f"knee{s}", "trousers", 1.25, 0.95) for s in (0, 1)),
    *((f"knee{s}", f"foot{s}", "trousers", 0.95, 0.75) for s in (0, 1)),
    *((f"shoulder{s}", f"elbow{s}", "sleeve", 0.95, 0.8) for s in (0, 1)),
    *((f"elbow{s}", f"hand{s}", "sleeve", 0.8, 0.7) for s in (0, 1)),
    ("pelvis", "neck", "shirt", 1.9, 2.2),
)


def _fixed(value: float) -> int:
    return round(float(value) * (1 << _SUBPIXEL_BITS))


def _disc(image: np.ndarray, centre: np.ndarray, radius: float, colour: Colour) -> None:
    point = (_fixed(centre[0]), _fixed(centre[1]))
    cv2.circle(image, point, _fixed(radius), colour, cv2.FILLED, cv2.LINE_AA, _SUBPIXEL_BITS)


def _limb(image: np.ndarray, start: np.ndarray, end: np.ndarray, radii: Angles, bands: tuple[Colour, ...]) -> None:
    """A tapered limb with round ends in bands of colour; without a pattern flow could not see it
    move along itself.
    """
    along = end - start
    normal = np.array([-along[1], along[0]]) / max(float(np.hypot(*along)), 1e-3)
    _disc(image, start, radii[0], bands[0])
    _disc(image, end, radii[1], bands[-1])
    for number, colour in enumerate(bands):
        corners = []
        for part, sign in ((number, 1), (number + 1, 1), (number + 1, -1), (number, -1)):
            share = part / len(bands)
            width = radii[0] + (radii[1] - radii[0]) * share
            corners.append([_fixed(v) for v in start + along * share + sign * width * normal])
        cv2.fillConvexPoly(image, np.array(corners, np.int32), colour, cv2.LINE_AA, _SUBPIXEL_BITS)


def _draw_figure(image: np.ndarray, scene: Scene, action: str, frame: int) -> None:
    rate, pose_at = _POSES[action]
    pose = pose_at((rate * scene.clock[frame] + scene.manner.phase) % 1, scene.manner)
    joints = _joints(pose, scene.proportions)
    projected = _project(_stand(np.stack(list(joints.values())), pose, scene.fall_direction), scene, frame)
    points = dict(zip(joints, projected, strict=True))
    depth = {bone: points[bone[0]][2] + points[bone[1]][2] for bone in _BONES}
    for bone in sorted(_BONES, key=depth.__getitem__):  # the far ones first
        start, end, cloth, *widths = bone
        radii = tuple(w * scene.thickness * points[j][3] for w, j in zip(widths, (start, end), strict=True))
        _limb(image, points[start][:2], points[end][:2], radii, scene.clothes[cloth])
    _disc(image, points["head"][:2], scene.proportions["head"] * points["head"][3], scene.clothes["skin"][0])


def _window(layer: np.ndarray, x: float, y: float) -> np.ndarray:
    """The part of a background layer the camera sees at an offset of (x, y) pixels, which may be a
    fraction.
    """
    shift = np.array([[1, 0, -_MARGIN - x], [0, 1, -_MARGIN - y]], np.float32)
    return cv2.warpAffine(layer, shift, (FRAME_SIZE, FRAME_SIZE), borderMode=cv2.BORDER_REFLECT)


def _draw_surroundings(scene: Scene, frame: int) -> np.ndarray:
    """Background and passing object, float32 (H, W, 3)."""
    camera = scene.camera[frame]
    image = _window(scene.background, *camera)
    if scene.haze.any():
        image += _window(scene.haze, *(camera + (frame - NUM_FRAMES / 2) * np.array(scene.haze_velocity)))
    if scene.ball is not None:
        x, y, velocity_x, velocity_y, radius = scene.ball
        time_s = frame / float(FRAME_RATE)
        place = np.array([x + velocity_x * time_s, y + velocity_y * time_s]) % (FRAME_SIZE + 2 * radius)
        _disc(image, place - radius - camera, radius, scene.ball_colour)
    return image


def draw_demo_clip(action: str, *, seed: int | np.random.SeedSequence) -> np.ndarray:
    """Draws one clip of ``action``, one of ``ACTIONS``: uint8 RGB (NUM_FRAMES, FRAME_SIZE,
    FRAME_SIZE, 3).
    """
    if action not in ACTIONS:
        raise ViccError(f"No demo action is called '{action}'. Choose one of {', '.join(ACTIONS)}.")
    scene = _draw_scene(np.random.default_rng(seed))
    clip = np.empty((NUM_FRAMES, FRAME_SIZE, FRAME_SIZE, 3), np.uint8)
    for frame in range(NUM_FRAMES):
        image = np.clip(_draw_surroundings(scene, frame), 0, 255).astype(np.uint8)
        _draw_figure(image, scene, action, frame)
        noise = scene.noise * scene.rng.standard_normal(image.shape, np.float32)
        clip[frame] = np.clip(image * scene.gain[frame] + noise, 0, 255)
    return clip


# --- files -----------------------------------------------------------------------------------------------------------


def write_demo_videos(
    folder: Path,
    *,
    num_train: int = 300,
    num_test: int = 100,
    seed: int = 0,
    num_workers: int | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> int:
    """Writes h264 files ``folder/train/<action>/<action>_0000.mp4`` and ``folder/test/...``,
    equally many per action.

    The pixels depend on ``seed`` alone, not on the number of workers (None: one per core); files
    that are already there are kept, so that a stopped call goes on. ``on_progress`` is called with
    (files done, files in all).

    Returns the number of files written by this call.

    Raises:
        ViccError: a count is no multiple of the number of actions, or the folder holds other demo
            videos.
    """
    for name, count in (("num_train", num_train), ("num_test", num_test)):
        if count < 0 or count % len(ACTIONS):
            raise ViccError(f"{name} is {count}, but must be a multiple of {len(ACTIONS)}, the number of actions.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    _claim(folder, {"generator_version": GENERATOR_VERSION, "seed": seed, "num_train": num_train, "num_test": num_test})
    jobs = list(_jobs(folder, seed, num_train, num_test))
    todo = [job for job in jobs if not job[0].exists()]
    done = len(jobs) - len(todo)
    with new_pool(num_workers) as pool:
        try:
            for number, future in enumerate([submit(pool, _write_job, job) for job in todo], start=done + 1):
                future.result()
                if on_progress is not None:
                    on_progress(number, len(jobs))
        except BrokenProcessPool:
            raise ViccError(CANNOT_START) from None
        except BaseException:
            pool.shutdown(cancel_futures=True)  # stopped: what is being drawn is finished, nothing more is begun
            raise
    return len(todo)


def _claim(folder: Path, settings: dict[str, int]) -> None:
    """Notes in ``demo.json`` what the folder holds, and refuses a folder that holds something else."""
    note = folder / "demo.json"
    if not note.exists():
        _replace(note, lambda part: part.write_text(json.dumps(settings, indent=1) + "\n"))
    elif (found := json.loads(note.read_text())) != settings:
        raise ViccError(f"{folder} holds demo videos of {found}, but {settings} were asked for. Choose another folder.")


def _jobs(folder: Path, seed: int, num_train: int, num_test: int) -> Iterator[tuple[Path, str, tuple[int, ...]]]:
    for split_number, (split, count) in enumerate((("train", num_train), ("test", num_test))):
        for action_number, action in enumerate(ACTIONS):
            for index in range(count // len(ACTIONS)):
                path = folder / split / action / f"{action}_{index:04d}.mp4"
                yield path, action, (seed, split_number, action_number, index)


def _write_job(job: tuple[Path, str, tuple[int, ...]]) -> None:
    path, action, entropy = job
    path.parent.mkdir(parents=True, exist_ok=True)
    clip = draw_demo_clip(action, seed=np.random.SeedSequence(entropy))
    _replace(path, lambda part: _encode(part, clip))


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes beside ``path`` and renames, so that a file that exists is whole."""
    part = path.with_name(f".{os.getpid()}.{path.name}")  # keeps the suffix, by which PyAV knows the container
    try:
        write(part)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def _encode(path: Path, clip: np.ndarray) -> None:
    # One thread, as the workers are the parallelism. mbtree=0: with it, the same 112x112 frames
    # gave other bytes from call to call (PyAV 18 on an AVX-512 machine; not at 128x128, not with
    # x264's asm=0).
    options = {"crf": "18", "preset": "veryfast", "threads": "1", "x264-params": "mbtree=0"}
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=FRAME_RATE, options=options)
        stream.height, stream.width = clip.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for image in clip:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, "rgb24")))
        container.mux(stream.encode(None))
