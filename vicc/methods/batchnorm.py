"""BatchNorm over several processes: statistics of all of them (sync), or batches mixed among them
(shuffled).

When every process normalises its own batch, the statistics tell which videos were in it, and a
contrast between views can be solved by that leak. Both ways close it (He et al., MoCo, CVPR 2020,
section 3.3).
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval

from vicc.distributed import all_gather, from_first, mean_with_gradient, rank, world_size
from vicc.methods.encoder import Encoder


class _Joint(_BatchNorm):
    """BatchNorm with the statistics of all processes, on any device; torch's own works on
    accelerators only.
    """

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        if not self.training or world_size() == 1:
            return super().forward(input)
        axes = [axis for axis in range(input.dim()) if axis != 1]
        # Mean and mean square together: one exchange a layer. Its gradient is exchanged in the same
        # way. In the weights' precision: a mean square in bf16 has lost the variance.
        wide = input.to(self.weight.dtype)
        moments = torch.stack((wide.mean(axes), wide.square().mean(axes)))
        mean, square = mean_with_gradient(moments)
        variance = square - mean.square()
        if self.num_batches_tracked is not None:
            count = input.numel() / input.shape[1] * world_size()
            self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        scale = self.weight * (variance + self.eps).rsqrt()
        shift = self.bias - mean * scale
        shape = [1, -1] + [1] * (input.dim() - 2)
        return (wide * scale.view(shape) + shift.view(shape)).to(input.dtype)

    def _track(self, mean: torch.Tensor, variance: torch.Tensor) -> None:
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        momentum = self.momentum if self.momentum is not None else 1 / float(self.num_batches_tracked)
        self.running_mean.lerp_(mean, momentum)
        self.running_var.lerp_(variance, momentum)


class JointBatchNorm3d(_Joint, nn.BatchNorm3d):
    """For clips, (B, C, T, H, W)."""


class JointBatchNorm1d(_Joint, nn.BatchNorm1d):
    """For features, (B, C)."""


_JOINT: dict[type[nn.Module], type[_Joint]] = {nn.BatchNorm3d: JointBatchNorm3d, nn.BatchNorm1d: JointBatchNorm1d}


@contextmanager
def standing_statistics(module: nn.Module) -> Iterator[None]:
    """Let BatchNorm normalise as it does, with the batch in training mode, but leave its running
    statistics.

    For clips that are encoded a second time: what they say of the data was counted the first time.
    """
    layers = [layer for layer in module.modules() if isinstance(layer, _BatchNorm)]
    before = [(layer.momentum, layer.num_batches_tracked) for layer in layers]
    for layer in layers:
        # Not track_running_stats=False: the graph would be another one, which activation
        # checkpointing refuses.
        layer.momentum, layer.num_batches_tracked = 0.0, None
    try:
        yield
    finally:
        for layer, (momentum, count) in zip(layers, before, strict=True):
            layer.momentum, layer.num_batches_tracked = momentum, count


def synchronize_batchnorm(module: nn.Module, device: torch.device) -> nn.Module:
    """Let every BatchNorm of `module` use the statistics of all processes; keys of the state dict
    stay as they are.
    """
    if device.type != "cpu":
        return nn.SyncBatchNorm.convert_sync_batchnorm(module)
    for child in module.modules():
        if type(child) in _JOINT:
            child.__class__ = _JOINT[type(child)]
    return module


@torch.no_grad()
def encode_shuffled(encoder: Encoder, clips: torch.Tensor) -> torch.Tensor:
    """Embeddings (B, D) of clips (B, C, T, H, W), each encoded among the clips of other processes;
    no gradient.

    In one process the order within a batch changes nothing, so it is left as it is.
    """
    if world_size() == 1:
        return encoder(clips)
    batch = clips.shape[0]
    everywhere = all_gather(clips)
    order = from_first(torch.randperm(len(everywhere), device=clips.device))
    mine = slice(rank() * batch, (rank() + 1) * batch)
    embeddings = all_gather(encoder(everywhere[order[mine]]))
    return embeddings[order.argsort()[mine]]


def fold_batchnorm(module: nn.Module) -> nn.Module:
    """A copy of a module in eval mode in which each BatchNorm right behind a convolution has become
    part of it.

    Only within `nn.Sequential`, where one follows the other for certain. The numbers are those of
    the module but for rounding; it can no longer be trained.
    """
    module = deepcopy(module)
    sequences = [child for child in module.modules() if type(child).forward is nn.Sequential.forward]
    for sequence in sequences:
        for (first, conv), (second, norm) in pairwise(list(sequence.named_children())):
            if isinstance(conv, nn.Conv3d) and isinstance(norm, nn.BatchNorm3d | nn.SyncBatchNorm):
                setattr(sequence, first, fuse_conv_bn_eval(conv, norm))
                setattr(sequence, second, nn.Identity())
    return module
