"""Joint BatchNorm in the precisions that training runs in."""

import pytest
import torch
from torch import nn

from vicc.methods import batchnorm
from vicc.methods.batchnorm import synchronize_batchnorm


@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.BatchNorm1d(3), (64, 3)), (nn.BatchNorm3d(3), (4, 3, 2, 5, 5))], ids=["1d", "3d"]
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_two_processes_with_the_same_batch_normalise_it_as_one_does(
    layer: nn.Module, shape: tuple[int, ...], dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What autocast hands over may be of 16 bits; statistics stay those of float32."""
    torch.manual_seed(0)
    clips = (5 + torch.randn(shape)).to(dtype)
    plain, joint = type(layer)(3), type(layer)(3)
    expected = plain(clips.float())
    synchronize_batchnorm(joint, torch.device("cpu"))
    monkeypatch.setattr(batchnorm, "world_size", lambda: 2)
    monkeypatch.setattr(batchnorm, "mean_with_gradient", lambda moments: moments)
    found = joint(clips)
    assert found.dtype == dtype
    torch.testing.assert_close(found.float(), expected, rtol=1e-2, atol=2e-2 if dtype == torch.bfloat16 else 1e-4)
    torch.testing.assert_close(joint.running_mean, plain.running_mean, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(joint.running_var, plain.running_var, rtol=2e-2, atol=1e-3)  # of n - 1 or 2 n - 1
