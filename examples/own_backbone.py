"""A backbone of one's own in one file: frames by 2D convolutions, their differences in time by a 1D one.

vicc pretrain --import own_backbone --set all.backbone=frames-then-time --store STORE --run RUN
"""

import torch
from torch import nn

from vicc import register_backbone


class FramesThenTime(nn.Module):
    """Clips (B, C, T, H, W) to feature maps (B, num_features, T', H', W').

    Args:
        in_channels: 3 for RGB and differences, 2 for flow.
    """

    num_features = 64

    def __init__(self, in_channels: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            (
                _block(in_channels, 16, (1, 7, 7), (1, 2, 2)),
                _block(16, 32, (1, 3, 3), (1, 2, 2)),
                _block(32, self.num_features, (3, 1, 1), (2, 1, 1)),
            )
        )

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        for block in self.blocks:
            clips = block(clips)
        return clips


def _block(inputs: int, outputs: int, kernel: tuple[int, int, int], stride: tuple[int, int, int]) -> nn.Sequential:
    padding = tuple(size // 2 for size in kernel)
    convolution = nn.Conv3d(inputs, outputs, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(outputs), nn.ReLU(inplace=True))


@register_backbone("frames-then-time")
def frames_then_time(in_channels: int = 3) -> FramesThenTime:
    """What `create_backbone("frames-then-time")` builds; `vicc.list_backbones()` has it now."""
    return FramesThenTime(in_channels)
