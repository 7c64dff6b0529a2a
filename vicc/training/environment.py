"""RUN/environment.json: for every start of a run all that could make it come out otherwise. Never a
secret.
"""

import os
import platform
import re
import socket
import subprocess
from dataclasses import asdict
from functools import cache
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import psutil
import torch

from vicc.cores import total_cores, usable_cores
from vicc.files import read_json, write_json
from vicc.training.configs import TrainingConfig

ENVIRONMENT_FILE = "environment.json"
_VARIABLES = re.compile(
    r"(OMP|MKL|KMP|GOMP|ATEN|NCCL|GLOO|CUDA|CUBLAS|CUDNN|HIP|ROCR|PYTORCH|TORCH|TORCHINDUCTOR|TORCHELASTIC|VICC)_\w+"
    r"|(LOCAL_)?(RANK|WORLD_SIZE)|MASTER_(ADDR|PORT)|LD_PRELOAD|CONDA_DEFAULT_ENV|VIRTUAL_ENV"
    r"|SLURM_(JOB_ID|JOB_NAME|JOB_PARTITION|NNODES|NTASKS|NODELIST|RESTART_COUNT|ARRAY_TASK_ID|GPUS_PER_NODE)"
)
_SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
_PASSWORD_OF_URL = re.compile(r"(?<=://)[^/@\s]+@")
_GIT_SECONDS = 10


def note_environment(run: Path, config: TrainingConfig, start: dict[str, Any]) -> None:
    """Add this start, a row of runs.jsonl, to the run's environment.json with all there is to say
    of it.
    """
    path = run / ENVIRONMENT_FILE
    earlier = read_json(path, what="list of starts") if path.exists() else []
    write_json(path, [*earlier, {**start, **environment(config)}])


def environment(config: TrainingConfig) -> dict[str, Any]:
    """Settings, packages, the state of the folder's git repository, the machine, and the variables
    that matter.
    """
    return {
        "settings": {name: _plain(value) for name, value in asdict(config).items()},
        "packages": list(_packages()),
        "git": git_state(Path.cwd()),
        "folder": str(Path.cwd()),
        "host": socket.gethostname(),
        "processor": _processor(),
        "cores": {"usable": usable_cores(), "total": total_cores()},
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "accelerators": [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())],
        "cuda": torch.version.cuda,
        "variables": {
            name: _without_password(value)
            for name, value in sorted(os.environ.items())
            if _VARIABLES.fullmatch(name) and not _SECRET.search(name)
        },
    }


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit, branch, and whether files differ from it (those that git does not know are not
    counted); None where there is no repository, or no git.
    """

    def ask(*words: str) -> str:
        # No locks and no hooks: it is only looked at.
        command = ["git", "--no-optional-locks", "-C", str(folder), *words]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_GIT_SECONDS, check=True)
        return done.stdout.strip()

    try:
        return {
            "commit": ask("rev-parse", "HEAD"),
            "branch": ask("rev-parse", "--abbrev-ref", "HEAD"),
            "dirty": bool(ask("status", "--porcelain", "--untracked-files=no")),
        }
    except (OSError, subprocess.SubprocessError):
        return None


@cache
def _packages() -> tuple[str, ...]:
    """All that is installed, as pip freeze would list it; read once, it takes longer than a step."""
    return tuple(sorted({f"{package.name}=={package.version}" for package in distributions()}, key=str.lower))


def _processor() -> str:
    """The processor's name; Linux alone hides it in a file."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor()
    match = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)
    return match[1] if match else platform.processor()


def _without_password(value: str) -> str:
    return _PASSWORD_OF_URL.sub("***@", value)


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple):
        return [_plain(part) for part in value]
    if isinstance(value, str | Path):
        return _without_password(str(value))
    return value
