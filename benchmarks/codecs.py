"""How to store frames: bytes, fidelity and speed of several encodings, on the frames of a folder of videos.

    python benchmarks/codecs.py --videos VIDEOS [--json FILE]

Frames are shrunk to a short side of 128 and flow (DIS) is computed from them, as `vicc prepare` does. A clip is 32
neighbouring frames at a random place. Times are CPU time of this process, medians over rounds in which all encodings
take turns. With simplejpeg installed it is measured as well. The last table cuts random 128 x 128 views of the default
augmentation out of stored frames and compares them with the same views of the video's own frames.
"""

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from vicc.data.frame_pack import Codec, FrameEncoder, StoredStream, decode_frames
from vicc.data.video_files import discover_videos
from vicc.transforms.augmentation import PRESETS, apply_to_rgb, draw_view
from vicc.video.decode import VideoReader, shrink
from vicc.video.flow import create_flow, quantize_flow

BOUND = 20.0
CLIP = 32


@dataclass(frozen=True)
class Encoding:
    """`encode` makes something of a video's frames, `decode` gives some of them back, `size` says its bytes."""

    name: str
    encode: Callable[[np.ndarray], Any]
    decode: Callable[[Any, Sequence[int]], np.ndarray]
    size: Callable[[Any], int]


def ours(stream: StoredStream, codec: Codec, quality: int) -> Encoding:
    def encode(frames: np.ndarray) -> bytes:
        encoder = FrameEncoder(stream, codec=codec, quality=quality)
        for frame in frames:
            encoder.add(frame)
        return encoder.to_bytes()

    return Encoding(f"{codec} {quality}", encode, decode_frames, len)


def images(stream: StoredStream, suffix: str, flags: Sequence[int], name: str) -> Encoding:
    """One image a frame, by OpenCV; flow as u beside v."""

    def encode(frames: np.ndarray) -> list[bytes]:
        if stream == "flow":
            frames = np.concatenate((frames[..., 0], frames[..., 1]), axis=2)
        return [
            cv2.imencode(suffix, frame[..., ::-1] if stream == "rgb" else frame, flags)[1].tobytes() for frame in frames
        ]

    def decode(encoded: list[bytes], numbers: Sequence[int]) -> np.ndarray:
        flag = cv2.IMREAD_COLOR_RGB if stream == "rgb" else cv2.IMREAD_GRAYSCALE
        frames = np.stack([cv2.imdecode(np.frombuffer(encoded[number], np.uint8), flag) for number in numbers])
        return frames if stream == "rgb" else np.stack(np.split(frames, 2, axis=2), axis=-1)

    return Encoding(name, encode, decode, lambda encoded: sum(map(len, encoded)))


def simplejpeg(quality: int) -> list[Encoding]:
    try:
        import simplejpeg as library
    except ImportError:
        return []
    return [
        Encoding(
            f"simplejpeg {quality}",
            lambda frames: [library.encode_jpeg(np.ascontiguousarray(frame), quality) for frame in frames],
            lambda encoded, numbers: np.stack([library.decode_jpeg(encoded[number]) for number in numbers]),
            lambda encoded: sum(map(len, encoded)),
        )
    ]


ENCODINGS: dict[StoredStream, list[Encoding]] = {
    "rgb": [
        *(ours("rgb", "h264", quality) for quality in (17, 20, 23, 26)),
        *(ours("rgb", "jpeg", quality) for quality in (75, 90, 95)),
        *simplejpeg(90),
        images("rgb", ".webp", (cv2.IMWRITE_WEBP_QUALITY, 80), "webp 80"),
    ],
    "flow": [
        *(ours("flow", "h264", quality) for quality in (0, 4, 8, 12, 20)),
        *(ours("flow", "jpeg", quality) for quality in (75, 90, 95)),
        images("flow", ".png", (cv2.IMWRITE_PNG_COMPRESSION, 3), "png"),
        images("flow", ".webp", (cv2.IMWRITE_WEBP_QUALITY, 101), "webp lossless"),
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=Path, required=True)
    parser.add_argument("--count", type=int, default=12, help="videos, evenly spread over the folder")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    files = discover_videos(options.videos)
    paths = [file.path for file in files[:: max(1, len(files) // options.count)][: options.count]]
    streams, exact_flow = load(paths)
    document = {}
    for stream, videos in streams.items():
        rows = measure(ENCODINGS[stream], videos, exact_flow if stream == "flow" else None, options.rounds)
        document[stream] = rows
        last = "error, px: mean, largest" if stream == "flow" else "PSNR, dB"
        print(f"\n| {stream} | bytes a frame | {last} | encode, frames/s | decode, clips/s |\n|---|---|---|---|---|")
        for row in rows:
            name, size, error, encode, decode = row.values()
            print(f"| {name} | {size:,.0f} | {error} | {encode:,.0f} | {decode:,.0f} |")
    print("\n| stored as | PSNR of 128 x 128 views, dB |\n|---|---|")
    for name, psnr in views(paths).items():
        print(f"| {name} | {psnr:.1f} |")
    if options.json:
        options.json.write_text(json.dumps(document, indent=1))


def load(paths: Iterable[Path]) -> tuple[dict[StoredStream, list[np.ndarray]], list[np.ndarray]]:
    """Stored-size frames and quantised flow of some videos, at most 120 frames each, and the flow before it."""
    rgb, exact = [], []
    dis = create_flow("dis")
    for path in paths:
        frames = np.stack(list(itertools.islice(VideoReader(path, short_side=128), 120)))
        grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in frames]
        rgb.append(frames)
        exact.append(np.stack([dis(first, second) for first, second in itertools.pairwise(grey)]))
    return {"rgb": rgb, "flow": [quantize_flow(flow, bound=BOUND) for flow in exact]}, exact


def measure(
    encodings: Sequence[Encoding], videos: list[np.ndarray], exact: list[np.ndarray] | None, rounds: int
) -> list[dict[str, Any]]:
    rows, packs = [], []
    num = sum(map(len, videos))
    for encoding in encodings:
        begin = time.process_time()
        packs.append([encoding.encode(frames) for frames in videos])
        encode = num / (time.process_time() - begin)
        decoded = [encoding.decode(pack, range(len(frames))) for pack, frames in zip(packs[-1], videos, strict=True)]
        if exact is None:
            error = f"{psnr(decoded, videos):.1f}"
        else:
            # Beyond the bound flow is clipped, which is no encoding's fault.
            off = [
                np.abs((frames.astype(np.float32) - 128) * (BOUND / 127) - np.clip(flow, -BOUND, BOUND))
                for frames, flow in zip(decoded, exact, strict=True)
            ]
            error = f"{np.mean([part.mean() for part in off]):.3f}, {max(part.max() for part in off):.2f}"
        size = sum(map(encoding.size, packs[-1])) / num
        rows.append({"name": encoding.name, "bytes": size, "error": error, "encode": encode, "decode": 0.0})
    rates: list[list[float]] = [[] for _ in encodings]
    long = [number for number, frames in enumerate(videos) if len(frames) > CLIP]
    for _ in range(rounds):
        for number, encoding in enumerate(encodings):
            rng = np.random.default_rng(0)
            begin = time.process_time()
            for _ in range(40):
                video = int(rng.choice(long))
                start = int(rng.integers(len(videos[video]) - CLIP))
                encoding.decode(packs[number][video], range(start, start + CLIP))
            rates[number].append(40 / (time.process_time() - begin))
    return [{**row, "decode": statistics.median(rate)} for row, rate in zip(rows, rates, strict=True)]


def psnr(decoded: Sequence[np.ndarray], frames: Sequence[np.ndarray]) -> float:
    pairs = zip(decoded, frames, strict=True)
    squares = np.mean([np.square(first.astype(np.float32) - second).mean() for first, second in pairs])
    return float(10 * np.log10(255**2 / squares))


def views(paths: Sequence[Path]) -> dict[str, float]:
    """PSNR of views of stored frames against the same views of the files' own frames, over random crops."""
    choices: list[tuple[int, Codec | None, int]] = [
        (128, None, 0), (128, "h264", 20), (128, "h264", 23), (128, "jpeg", 90), (144, "h264", 20), (160, "h264", 20),
    ]  # fmt: skip
    squares: dict[str, list[float]] = {}
    for path in paths:
        native = np.stack(list(itertools.islice(VideoReader(path), 24)))
        for side, codec, quality in choices:
            stored = np.stack([shrink(frame, side) for frame in native])
            name = f"short side {side}, {f'{codec} {quality}' if codec else 'not encoded'}"
            if codec:
                encoding = ours("rgb", codec, quality)
                stored = encoding.decode(encoding.encode(stored), range(len(stored)))
            for seed in range(8):
                cut = [
                    apply_to_rgb(frames, draw_view(
                        PRESETS["default"], height=frames.shape[1], width=frames.shape[2],
                        rng=np.random.default_rng(seed), strong=False,
                    ), size=128)
                    for frames in (native, stored)
                ]  # fmt: skip
                squares.setdefault(name, []).append(float(np.square(cut[0].astype(np.float32) - cut[1]).mean()))
    return {name: float(10 * np.log10(255**2 / np.mean(values))) for name, values in squares.items()}


if __name__ == "__main__":
    main()
