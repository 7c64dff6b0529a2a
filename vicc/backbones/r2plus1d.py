"""R(2+1)D with one block a stage: every 3D convolution is one over space, then one over time (Tran
et al., CVPR 2018).

The R(2+1)D of the ViCC paper, under its published parameter names. torchvision's `r2plus1d_18` is
another network: it has two blocks a stage, a narrower stem and plain convolutions in the shortcuts.
"""

import torch
from torch import nn

from vicc.backbones.registry import register_backbone


class SpatioTemporalConv(nn.Module):
    """A convolution over time and space in two: over space, BatchNorm, ReLU, over time.

    It has as many middle channels as keep the number of weights of the 3D convolution (the paper's
    M_i).

    Args:
        kernel: size in time and in space; odd, and padded by half of it.
        stride: steps in time and in space.

    Shape: (B, in_channels, T, H, W) -> (B, out_channels, t, h, w).
    """

    def __init__(
        self, in_channels: int, out_channels: int, *, kernel: tuple[int, int], stride: tuple[int, int] = (1, 1)
    ) -> None:
        super().__init__()
        (kt, ks), (st, ss) = kernel, stride
        middle = kt * ks * ks * in_channels * out_channels // (ks * ks * in_channels + kt * out_channels)
        self.spatial_conv = nn.Conv3d(in_channels, middle, (1, ks, ks), (1, ss, ss), (0, ks // 2, ks // 2), bias=False)
        self.bn = nn.BatchNorm3d(middle)
        self.temporal_conv = nn.Conv3d(middle, out_channels, (kt, 1, 1), (st, 1, 1), (kt // 2, 0, 0), bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.temporal_conv(self.relu(self.bn(self.spatial_conv(x))))


class ResidualBlock(nn.Module):
    """Two convolutions of 3 x 3 x 3 and a shortcut, which is a convolution itself where the block
    strides.

    Shape: (B, in_channels, T, H, W) -> (B, out_channels, T / stride, H / stride, W / stride),
    rounded up.
    """

    def __init__(self, in_channels: int, out_channels: int, *, stride: int) -> None:
        super().__init__()
        self.downsampleconv: nn.Module = nn.Identity()
        self.downsamplebn: nn.Module = nn.Identity()
        if stride > 1:
            self.downsampleconv = SpatioTemporalConv(in_channels, out_channels, kernel=(1, 1), stride=(stride, stride))
            self.downsamplebn = nn.BatchNorm3d(out_channels)
        self.conv1 = SpatioTemporalConv(in_channels, out_channels, kernel=(3, 3), stride=(stride, stride))
        self.bn1 = nn.BatchNorm3d(out_channels)
        self.conv2 = SpatioTemporalConv(out_channels, out_channels, kernel=(3, 3))
        self.bn2 = nn.BatchNorm3d(out_channels)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        residual = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        return self.relu(self.downsamplebn(self.downsampleconv(x)) + residual)


class R2Plus1D(nn.Module):
    """R(2+1)D of ten layers, without its classifier.

    Shape: (B, in_channels, T, H, W) -> (B, 512, T / 8, H / 16, W / 16), rounded up.
    """

    num_features = 512

    def __init__(self, in_channels: int = 3) -> None:
        super().__init__()
        self.conv1 = SpatioTemporalConv(in_channels, 64, kernel=(3, 7), stride=(1, 2))
        self.bn1 = nn.BatchNorm3d(64)
        self.relu = nn.ReLU(inplace=True)
        self.conv2 = _stage(64, 64, stride=1)
        self.conv3 = _stage(64, 128, stride=2)
        self.conv4 = _stage(128, 256, stride=2)
        self.conv5 = _stage(256, 512, stride=2)

    @property
    def blocks(self) -> list[nn.Module]:
        """Parts that are called one after the other."""
        return [self.conv1, *self.conv2, *self.conv3, *self.conv4, *self.conv5]

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, C, T, H, W) to a feature map (B, 512, t, h, w)."""
        x = self.relu(self.bn1(self.conv1(clips)))
        return self.conv5(self.conv4(self.conv3(self.conv2(x))))


def _stage(in_channels: int, out_channels: int, *, stride: int) -> nn.Sequential:
    stage = nn.Sequential()
    stage.add_module("block1", ResidualBlock(in_channels, out_channels, stride=stride))
    return stage


@register_backbone("r2plus1d-10", aliases=("r21d",))
def r2plus1d_10(in_channels: int) -> R2Plus1D:
    """R(2+1)D as in the paper: 512 features, 14.4 M parameters."""
    return R2Plus1D(in_channels)
