"""Cores that may be used: the affinity of the process and the quotas of its control groups, whichever is less."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from vicc.cores import total_cores, usable_cores


@pytest.fixture
def eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine of eight cores, all of which the process may run on."""
    monkeypatch.setattr(os, "cpu_count", lambda: 8)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)))


def cores(folder: Path, membership: str, files: dict[str, str]) -> int:
    """Usable cores where Linux says `membership` and the groups have these files."""
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text)
    (folder / "cgroup").write_text(membership)
    return usable_cores(membership=folder / "cgroup", mount=folder / "groups")


@pytest.mark.usefixtures("eight")
@pytest.mark.parametrize(
    ("membership", "files", "expected"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "350000 100000\n"}, 3),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        ("0::/a/b\n", {"a/cpu.max": "300000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/the/name/outside\n", {"cpu.max": "200000 100000\n"}, 2),
        (
            "4:cpu,cpuacct:/docker/1\n1:name=systemd:/x\n",
            {"cpu,cpuacct/docker/1/cpu.cfs_quota_us": "400000\n", "cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n"},
            4,
        ),
        ("4:cpu,cpuacct:/docker/1\n", {"cpu/cpu.cfs_quota_us": "50000\n", "cpu/cpu.cfs_period_us": "25000\n"}, 2),
        ("4:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 8),
        ("no such form\n", {"cpu.max": "nonsense\n"}, 8),
    ],
)
def test_the_quota_of_control_groups_bounds_the_cores(
    tmp_path: Path, membership: str, files: dict[str, str], expected: int
) -> None:
    assert cores(tmp_path, membership, files) == expected


def test_without_control_groups_the_cores_are_those_that_the_process_may_run_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, eight: None
) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {1, 5, 7})
    assert (usable_cores(membership=tmp_path / "none", mount=tmp_path), total_cores()) == (3, 8)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="an affinity is a thing of Linux")
def test_a_process_bound_to_one_core_counts_one(tmp_path: Path) -> None:
    """And counting does not import torch, which would take the command line seconds."""
    program = (
        "import os, sys; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "from vicc.cores import usable_cores; print(usable_cores(), 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["1", "False"]
