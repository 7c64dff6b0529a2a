"""Processor cores that this process may use, which in a container or a job are often fewer than the
machine has.
"""

import math
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MOUNT = Path("/sys/fs/cgroup")
_MEMBERSHIP = Path("/proc/self/cgroup")


def usable_cores(*, membership: Path = _MEMBERSHIP, mount: Path = _MOUNT) -> int:
    """Cores that this process may use, 1 or more: those it may run on (taskset, Slurm, `docker
    --cpuset-cpus`), and no more than its control groups give it time for (`docker --cpus`,
    Kubernetes' limits).

    A fraction of a core is left out: with a thread more than there is time for, all threads are
    made to wait together.

    Args:
        membership: the file in which Linux says which control groups this process is in.
        mount: the folder of the control groups, of version 1 or 2.
    """
    mine = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else total_cores()
    return max(1, min(mine, *(math.floor(quota) for quota in _quotas(membership, mount)), total_cores()))


def total_cores() -> int:
    """Cores of the machine."""
    return os.cpu_count() or 1


def cores_in_words() -> str:
    """`8 cores`, or `2 of 8 cores` where this process may use only some."""
    usable, total = usable_cores(), total_cores()
    return f"{total} core{'s' * (total != 1)}" if usable == total else f"{usable} of {total} cores"


def _quotas(membership: Path, mount: Path) -> Iterator[float]:
    """Processor time a second of this process's control groups and of those around them, in cores."""
    try:
        lines = membership.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        # 4:cpu,cpuacct:/docker/0123 of version 1, 0::/system.slice/x of version 2
        _, names, path = (*line.split(":", 2), "", "")[:3]
        if names and "cpu" not in names.split(","):
            continue
        for root in [mount / names, mount / "cpu"] if names else [mount]:
            # A container may see the path that the machine knows its group by, and the group itself
            # at the root.
            inner = root / path.strip("/")
            for folder in dict.fromkeys((inner, *inner.parents, root)):
                if folder.is_relative_to(root):
                    yield from _quota(folder)


def _quota(folder: Path) -> Iterator[float]:
    with suppress(OSError, ValueError, ZeroDivisionError):  # no such group, or "max": no bound
        quota, period = (folder / "cpu.max").read_text().split()
        yield int(quota) / int(period)
    with suppress(OSError, ValueError, ZeroDivisionError):
        quota = (folder / "cpu.cfs_quota_us").read_text()
        if int(quota) > 0:  # -1: no bound
            yield int(quota) / int((folder / "cpu.cfs_period_us").read_text())
