"""Containers of video files: which are opened, what is refused of them, and what they declare."""

import resource
import struct
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from tests.video.test_decode import numbered_frames, write_gif
from vicc.video.container import VIDEO_SUFFIXES, VideoError
from vicc.video.decode import VideoReader


def test_a_sound_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        stream = container.add_stream("aac", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        list(VideoReader(path))


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.mp4", "ffconcat version 1.0\nfile 'secret.mp4'\n"),
        ("list.ts", "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nsecret.mp4\n#EXT-X-ENDLIST\n"),
    ],
)
def test_a_playlist_in_disguise_does_not_open_other_files(
    tmp_path: Path, write_video: Callable[..., Path], name: str, text: str
) -> None:
    write_video(tmp_path / "secret.mp4")
    (tmp_path / name).write_text(text)
    with pytest.raises(VideoError):
        list(VideoReader(tmp_path / name))


def test_a_colon_in_a_name_is_not_taken_for_a_protocol(
    tmp_path: Path, write_video: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    write_video(tmp_path / "take:1.mp4", num_frames=3)
    monkeypatch.chdir(tmp_path)
    assert len(list(VideoReader(Path("take:1.mp4")))) == 3


def test_a_cover_picture_is_no_video(tmp_path: Path) -> None:
    path = tmp_path / "a.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=8000, layout="mono")
        cover = container.add_stream("mjpeg", rate=1)
        cover.height, cover.width, cover.pix_fmt = 32, 48, "yuvj420p"
        cover.disposition = Disposition.attached_pic
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 4096), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 8000
        container.mux(sound.encode(frame))
        container.mux(cover.encode(av.VideoFrame.from_ndarray(numbered_frames(1)[0], format="rgb24")))
        for stream in (sound, cover):
            container.mux(stream.encode(None))
    with pytest.raises(VideoError, match="no video stream"):
        list(VideoReader(path))


@pytest.mark.parametrize("side", [16_000, 65_535])
def test_an_absurd_size_is_refused_before_memory_is_taken(tmp_path: Path, side: int) -> None:
    path = write_gif(tmp_path / "a.gif", 3)
    data = bytearray(path.read_bytes())
    data[6:10] = struct.pack("<HH", side, side)
    path.write_bytes(data)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(VideoError, match=r"16000 x 16000 pixels|size") if side == 16_000 else pytest.raises(VideoError):
        list(VideoReader(path))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000  # KiB; one such frame takes 1 GB


def test_suffixes_are_lower_case_with_a_dot() -> None:
    assert all(suffix.startswith(".") and suffix == suffix.lower() for suffix in VIDEO_SUFFIXES)


@pytest.mark.parametrize(
    ("suffix", "codec", "container"),
    [
        ("vob", "mpeg2video", "vob"),
        ("asf", "wmv2", "asf"),
        ("3g2", "libx264", "3g2"),
        ("m2v", "mpeg2video", "mpeg2video"),
        ("divx", "mpeg4", "avi"),
        ("mxf", "mpeg2video", "mxf"),
        ("qt", "libx264", "mov"),
        ("dav", "libx264", "h264"),
        ("h264", "libx264", "h264"),
        ("rmvb", "rv20", "rm"),
        ("y4m", "rawvideo", "yuv4mpegpipe"),
        ("wtv", "mpeg2video", "wtv"),
    ],
)
def test_files_of_less_usual_suffixes_are_videos_and_decode(
    tmp_path: Path, suffix: str, codec: str, container: str
) -> None:
    path = tmp_path / f"a.{suffix}"
    with av.open(str(path), "w", format=container) as file:
        stream = file.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for number in range(10):
            frame = np.full((48, 64, 3), 20 * number, np.uint8)
            file.mux(stream.encode(av.VideoFrame.from_ndarray(frame, "rgb24")))
        file.mux(stream.encode())
    assert path.suffix in VIDEO_SUFFIXES
    assert len(list(VideoReader(path, short_side=48))) == 10
