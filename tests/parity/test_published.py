"""The method against numbers of the published implementation, in float64, case by case.

A compact set of the numbers stands beside this file; where VICC_PARITY names the whole set, that is run instead.
"""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.parity.__main__ import main
from tests.parity.cases import KINDS, Case
from tests.parity.formula import gauss, unif, unit_rows, value
from tests.parity.published_numbers import Fixtures, compare, require_equal
from tests.parity.run import check_parity
from vicc.errors import ViccError

COMPACT = Path(__file__).parent / "fixtures"
FOLDER = Path(os.environ["VICC_PARITY"]) / "fixtures" if os.environ.get("VICC_PARITY") else COMPACT
DOCUMENT = Path(__file__).parents[2] / "docs" / "parity.md"
CASES = [found for kind in KINDS for found in kind(Fixtures(FOLDER))]


@pytest.fixture(scope="module", autouse=True)
def _all_threads() -> Iterator[None]:
    """Full-size networks in float64: the one place among the tests where a second core helps, unless another of
    xdist's processes computes there."""
    before = torch.get_num_threads()
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // processes))
    yield
    torch.set_num_threads(before)


@pytest.mark.parity
@pytest.mark.parametrize(("name", "case"), CASES, ids=[name for name, _ in CASES])
def test_case_is_within_the_published_bounds(name: str, case: Case) -> None:
    comparisons = list(case())
    assert comparisons
    assert not [comparison for comparison in comparisons if not comparison.passed]


def test_every_kind_of_case_is_there() -> None:
    """Or a wrong pattern of file names would leave a kind out unseen."""
    names = [name.split("/")[0].split(".")[0] for name, _ in CASES]
    expected = {"s3d", "r21d", "sinkhorn", "vicc", "vicc2", "nce", "lincls", "retrieval", "frames", "training"}
    assert set(names) == expected
    assert len(CASES) >= 45


def test_the_compact_set_is_a_part_of_the_whole() -> None:
    if FOLDER == COMPACT:
        pytest.skip("VICC_PARITY does not name the whole set of published numbers")
    for path in COMPACT.glob("*.npz"):
        ours, theirs = (Fixtures(folder).arrays(path.stem) for folder in (COMPACT, FOLDER))
        assert all(np.array_equal(array, theirs[key], equal_nan=True) for key, array in ours.items()), path.name
    for path in COMPACT.glob("*.json"):
        assert json.loads(path.read_text()) == json.loads((FOLDER / path.name).read_text()), path.name


def test_the_compact_set_is_small_and_says_where_it_comes_from() -> None:
    assert sum(path.stat().st_size for path in COMPACT.iterdir()) <= 4e6
    assert "commit 2e9f9ca" in (COMPACT / "README.md").read_text()


def test_the_document_shows_every_case_and_none_that_differs() -> None:
    text = DOCUMENT.read_text()
    compact = [name for kind in KINDS for name, _ in kind(Fixtures(COMPACT))]
    assert all(f"| {name} |" in text for name in compact)
    assert "**differs**" not in text


# --- the comparison itself can fail ----------------------------------------------------------------------------------


def test_formula_has_the_properties_it_promises() -> None:
    weight = value("encoder_q.0.Conv_1a.conv1.weight", (64, 3, 1, 7, 7)).double()
    assert weight.std().item() == pytest.approx((2 / (3 * 49)) ** 0.5, rel=0.02)
    assert not torch.equal(weight.float(), value("encoder_q.0.Conv_1a.conv2.weight", (64, 3, 1, 7, 7)))
    torch.testing.assert_close(value("prototypes.weight", (5, 7)).norm(dim=1), torch.ones(5))
    torch.testing.assert_close(value("queue", (7, 5)).norm(dim=0), torch.ones(5))
    assert value("a.bn1.bias", (4,), "init").eq(0).all()
    assert value("a.bn1.weight", (4,), "init").eq(1).all()
    assert value("queue_label", (4,)).tolist() == [-1] * 4
    assert gauss("tag", (1000,)).mean().abs() < 0.1
    assert 0 <= unif("tag", (1000,)).min() < unif("tag", (1000,)).max() < 1
    torch.testing.assert_close(unit_rows("tag", (3, 4)).norm(dim=1), torch.ones(3))


def test_differences_are_measured_against_the_largest_published_value() -> None:
    comparison = compare("case", "quantity", np.array([1.0, 200.0]), np.array([1.5, 200.0]), bound=1e-3)
    assert comparison.deviation == pytest.approx(0.5 / 200)
    assert not comparison.passed
    assert compare("case", "quantity", [1.0], [1.0 + 1e-9], bound=1e-8).passed


@pytest.mark.parametrize("ours", [[np.nan, 1.0], [1.0]])
def test_what_is_no_number_or_of_another_shape_never_passes(ours: list[float]) -> None:
    assert not compare("case", "quantity", ours, [1.0, 1.0], bound=1e9).passed
    assert not require_equal("case", "quantity", ours, [1.0, 1.0]).passed


def frames_only(folder: Path) -> Path:
    folder.mkdir()
    content = json.loads((COMPACT / "frame_sampler.json").read_text())
    (folder / "frame_sampler.json").write_text(json.dumps({"test": content["test"][:20]}))
    return folder


def test_the_command_prints_a_table_and_ends_with_zero(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = frames_only(tmp_path / "numbers")
    written = tmp_path / "table.md"
    assert main(["--fixtures", str(folder), "--markdown", str(written)]) == 0
    printed = capsys.readouterr().out
    assert "frames/test" in printed
    assert "0 beyond their bound" in printed
    assert "not in" in printed, "kinds that are absent are named"
    assert "| frames/test | 20 |" in written.read_text()


def test_one_wrong_number_makes_the_command_fail(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = frames_only(tmp_path / "numbers")
    content = json.loads((folder / "frame_sampler.json").read_text())
    content["test"][7]["idx"][3] += 1
    (folder / "frame_sampler.json").write_text(json.dumps(content))
    assert main(["--fixtures", str(folder)]) == 1
    assert "1 beyond their bound" in capsys.readouterr().out


def test_cases_and_variants_of_other_names_are_run(tmp_path: Path) -> None:
    """Whatever the descriptions name, not a list in the code."""
    shutil.copy(COMPACT / "sinkhorn.npz", tmp_path / "sinkhorn_other.npz")
    about = {"unif": {"iterations": 3, "n_inf_in": 0}, "inf1": {"iterations": 3, "n_inf_in": 1}}
    (tmp_path / "sinkhorn_other_meta.json").write_text(json.dumps(about))
    report = check_parity(tmp_path)
    assert [result.case for result in report.cases()] == ["sinkhorn_other/unif", "sinkhorn_other/inf1"]
    assert report.passed
    about["unif"]["iterations"] = 2
    (tmp_path / "sinkhorn_other_meta.json").write_text(json.dumps(about))
    assert not check_parity(tmp_path).passed


def test_a_case_that_cannot_be_run_fails_and_the_others_go_on(tmp_path: Path) -> None:
    folder = frames_only(tmp_path / "numbers")
    np.savez(folder / "sinkhorn.npz", **{"in/a": np.ones((3, 2), np.float32)})
    (folder / "sinkhorn_meta.json").write_text(json.dumps({"a": {"iterations": 3, "n_inf_in": 0}}))
    results = {result.case: result for result in check_parity(folder).cases()}
    assert not results["sinkhorn/a"].passed
    assert "out/a" in results["sinkhorn/a"].worst.note
    assert results["frames/test"].passed


def test_only_chooses_cases_by_pattern(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match=r"matches nothing\*"):
        check_parity(frames_only(tmp_path / "numbers"), only="nothing*")


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 cut short"])
def test_a_damaged_file_is_one_sentence(tmp_path: Path, content: bytes, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "s3d.f64.npz").write_bytes(content)
    assert main(["--fixtures", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "s3d.f64.npz cannot be read" in error
    assert error.count("\n") == 1


def test_arrays_that_would_execute_code_are_refused(tmp_path: Path) -> None:
    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.mkdir, (str(tmp_path / "executed"),)

    np.savez(tmp_path / "s3d.f64.npz", eval_a=np.array([Trap()], dtype=object))
    with pytest.raises(ViccError, match="plain arrays"):
        check_parity(tmp_path)
    assert not (tmp_path / "executed").exists()


def test_a_folder_without_numbers_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ViccError, match="holds no case"):
        check_parity(tmp_path)
    with pytest.raises(ViccError, match="no folder"):
        check_parity(tmp_path / "absent")
