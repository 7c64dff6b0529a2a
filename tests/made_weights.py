"""torchvision's files of weights, made by the tests: random numbers under its names, in a cache of torch.hub."""

import hashlib
import io
from pathlib import Path
from typing import Any

import pytest
import torch

from vicc.backbones.torchvision_video import get_model_weights


def save_weights(name: str, state: Any, torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a file of weights `name` where torch.hub keeps such files, and let torchvision name it by its checksum.

    No made file can have the checksum of the published one, so the name that torchvision knows is replaced.
    """
    content = io.BytesIO()
    torch.save(state, content)
    digest = hashlib.sha256(content.getvalue()).hexdigest()[:8]
    path = torch_home / "hub" / "checkpoints" / f"{name}-{digest}.pth"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.getvalue())
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    url = f"https://download.pytorch.org/models/{path.name}"
    monkeypatch.setattr(get_model_weights(name)["KINETICS400_V1"].value, "url", url)
    return path
