"""`vicc bench data`: its figures are of this store, and add up."""

import json
from pathlib import Path

import pytest

from vicc.cli import main
from vicc.data.bench import bench_data
from vicc.data.configs import BenchConfig
from vicc.data.store import Store
from vicc.errors import ViccError
from vicc.prepare.build import prepare_videos
from vicc.prepare.configs import PrepareConfig


def test_the_figures_are_of_this_store_and_add_up(store_path: Path) -> None:
    result = bench_data(BenchConfig("data", store_path, clip_frames=8, size=32, seconds=0.2))
    assert result.videos == len(Store(store_path).videos)
    assert result.bytes_per_frame * result.frames == pytest.approx(
        sum(file.stat().st_size for file in store_path.glob("shard-*.lmdb"))
    )
    assert [row.streams for row in result.loading] == [("rgb",), ("flow",), ("rgb", "flow")]
    for row in result.loading:
        assert row.read + row.decode + row.augment == pytest.approx(1)
        assert min(row.read, row.decode, row.augment) >= 0
        assert row.decode > row.read  # decoding a frame costs more than reading its bytes
        median, smallest, largest = row.samples_per_second
        assert 0 < smallest <= median <= largest
    rgb, _, both = (row.samples_per_second[0] for row in result.loading)
    assert both < rgb  # two streams are more work than one
    assert result.flow_frames_per_second["dis"] > result.flow_frames_per_second["tvl1"] > 0
    assert min(result.clips_per_second_of_a_worker.values()) > 0


def test_the_command_prints_its_table_and_a_document(store_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["bench", "data", "--store", str(store_path), "--clip-frames", "4", "--size", "32", "--seconds", "0.1"]
    assert main([*words, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["store"] == str(store_path)
    assert main(words) == 0
    assert "loader worker" in capsys.readouterr().out


def test_a_store_without_flow_is_measured_with_diff(tmp_path: Path, video_folder: Path) -> None:
    prepare_videos(PrepareConfig(video_folder / "test", tmp_path / "store", flow="none", workers=1))
    result = bench_data(BenchConfig("data", tmp_path / "store", clip_frames=4, size=32, seconds=0.1))
    assert [row.streams for row in result.loading] == [("rgb",), ("diff",), ("rgb", "diff")]


def test_a_store_that_is_not_there_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match="No such store"):
        bench_data(BenchConfig("data", tmp_path / "none"))


@pytest.mark.parametrize("flags", [{"clip_frames": 0}, {"size": 1}, {"seconds": 0}])
def test_values_out_of_range_are_refused(flags: dict[str, float]) -> None:
    with pytest.raises(ViccError, match="expected"):
        BenchConfig("data", Path("store"), **flags)  # type: ignore[arg-type]
