"""S3D: separable 3D Inception (Xie et al., ECCV 2018).

At full width and depth it is torchvision's `models.video.s3d(norm_layer=nn.BatchNorm3d).features`,
key for key and bit for bit, which is the backbone of the ViCC paper. The blocks stand here, since
to import torchvision takes longer than torch itself. S3D-G adds feature gating to every Inception
block.
"""

from collections.abc import Sequence

import torch
from torch import nn

from vicc.backbones.registry import register_backbone

# Output channels of one Inception block, torchvision's argument order:
# branch 1 | branch 2: 1x1x1, 3x3x3 | branch 3: 1x1x1, 3x3x3 | branch 4 (after pooling)
_BLOCKS_3 = ((64, 96, 128, 16, 32, 32), (128, 128, 192, 32, 96, 64))
_BLOCKS_4 = (
    (192, 96, 208, 16, 48, 64),
    (160, 112, 224, 24, 64, 64),
    (128, 128, 256, 24, 64, 64),
    (112, 144, 288, 32, 64, 64),
    (256, 160, 320, 32, 128, 128),
)
_BLOCKS_5 = ((256, 160, 320, 32, 128, 128), (384, 192, 384, 48, 128, 128))


def _branch_outputs(widths: Sequence[int]) -> tuple[int, int, int, int]:
    """Of a block of the tables above, the channels that each branch gives."""
    return widths[0], widths[2], widths[4], widths[5]


def _convolution(
    in_channels: int,
    out_channels: int,
    kernel: tuple[int, int, int] = (1, 1, 1),
    stride: tuple[int, int, int] = (1, 1, 1),
    padding: tuple[int, int, int] = (0, 0, 0),
) -> nn.Sequential:
    """Convolution, BatchNorm, ReLU."""
    convolution = nn.Conv3d(in_channels, out_channels, kernel, stride, padding, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm3d(out_channels), nn.ReLU(inplace=True))


class SeparableConvolution(nn.Sequential):
    """A convolution over space, then one over time, each with BatchNorm and ReLU.

    Args:
        kernel, stride, padding: the same in time and in space.

    Shape: (B, in_channels, T, H, W) -> (B, out_channels, t, h, w).
    """

    def __init__(self, in_channels: int, out_channels: int, *, kernel: int, stride: int, padding: int) -> None:
        super().__init__(
            _convolution(in_channels, out_channels, (1, kernel, kernel), (1, stride, stride), (0, padding, padding)),
            _convolution(out_channels, out_channels, (kernel, 1, 1), (stride, 1, 1), (padding, 0, 0)),
        )


class InceptionBlock(nn.Module):
    """Four branches side by side, their channels joined.

    Args:
        widths: as a block of the tables above.

    Shape: (B, in_channels, T, H, W) -> (B, sum of the branches' channels, T, H, W).
    """

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__()
        first, middle_1, second, middle_2, third, fourth = widths
        self.branch0 = _convolution(in_channels, first)
        self.branch1 = self._narrowed(in_channels, middle_1, second)
        self.branch2 = self._narrowed(in_channels, middle_2, third)
        pool = nn.MaxPool3d(kernel_size=(3, 3, 3), stride=1, padding=1)
        self.branch3 = nn.Sequential(pool, _convolution(in_channels, fourth))

    @staticmethod
    def _narrowed(in_channels: int, middle: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            _convolution(in_channels, middle), SeparableConvolution(middle, out_channels, kernel=3, stride=1, padding=1)
        )

    def branches(self, x: torch.Tensor) -> list[torch.Tensor]:
        """What each branch gives."""
        return [branch(x) for branch in (self.branch0, self.branch1, self.branch2, self.branch3)]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat(self.branches(x), dim=1)


class FeatureGating(nn.Module):
    """Scale each channel by what the whole clip holds: average, linear, sigmoid (the paper's
    feature gating).

    Shape: (B, channels, t, h, w) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = torch.sigmoid(self.linear(x.mean(dim=(2, 3, 4))))
        return x * gates[:, :, None, None, None]


class GatedInceptionBlock(InceptionBlock):
    """An Inception block whose four branches are gated before they are joined."""

    def __init__(self, in_channels: int, widths: Sequence[int]) -> None:
        super().__init__(in_channels, widths)
        self.gates = nn.ModuleList(FeatureGating(channels) for channels in _branch_outputs(widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([gate(branch) for gate, branch in zip(self.gates, self.branches(x), strict=True)], dim=1)


class S3D(nn.Module):
    """S3D without its classifier.

    Args:
        in_channels: channels of a clip.
        width: factor on every layer's channels, rounded to multiples of 4.
        blocks: Inception blocks kept, 1 to 9 (all). Pooling layers go with the blocks they stand
            before.
        gating: feature gating in every Inception block (S3D-G).

    Shape: (B, in_channels, T, H, W) -> (B, num_features, T / 8, H / 32, W / 32) with all nine
    blocks.
    """

    def __init__(self, in_channels: int = 3, *, width: float = 1.0, blocks: int = 9, gating: bool = False) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(4, 4 * round(channels * width / 4))

        block = GatedInceptionBlock if gating else InceptionBlock
        stem = scaled(64)
        layers: list[nn.Module] = [
            SeparableConvolution(in_channels, stem, kernel=7, stride=2, padding=3),
            nn.MaxPool3d(kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            _convolution(stem, stem),
            SeparableConvolution(stem, scaled(192), kernel=3, stride=1, padding=1),
        ]
        channels = scaled(192)
        pools = {
            0: nn.MaxPool3d(kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            len(_BLOCKS_3): nn.MaxPool3d(kernel_size=(3, 3, 3), stride=(2, 2, 2), padding=(1, 1, 1)),
            len(_BLOCKS_3 + _BLOCKS_4): nn.MaxPool3d(kernel_size=(2, 2, 2), stride=(2, 2, 2)),
        }
        for number, plan in enumerate((*_BLOCKS_3, *_BLOCKS_4, *_BLOCKS_5)[:blocks]):
            if number in pools:
                layers.append(pools[number])
            widths = [scaled(channel) for channel in plan]
            layers.append(block(channels, widths))
            channels = sum(_branch_outputs(widths))
        self.features = nn.Sequential(*layers)
        self.num_features = channels

    @property
    def blocks(self) -> list[nn.Module]:
        """Parts that are called one after the other."""
        return list(self.features)

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, C, T, H, W) to a feature map (B, num_features, t, h, w)."""
        return self.features(clips)


@register_backbone("s3d")
def s3d(in_channels: int) -> S3D:
    """S3D as in the paper: 1024 features, 7.9 M parameters; clips of 32 frames at 128 pixels."""
    return S3D(in_channels)


@register_backbone("s3d-g")
def s3d_g(in_channels: int) -> S3D:
    """S3D with feature gating: 1024 features, 9.1 M parameters."""
    return S3D(in_channels, gating=True)


@register_backbone("s3d-demo")
def s3d_demo(in_channels: int) -> S3D:
    """A quarter of the width, the first four blocks: 128 features; for small clips, in minutes on a
    laptop.
    """
    return S3D(in_channels, width=0.25, blocks=4)
