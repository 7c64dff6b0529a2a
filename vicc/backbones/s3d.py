"""S3D: separable 3D Inception (Xie et al., ECCV 2018), from torchvision's blocks.

At full width and depth it is torchvision's `models.video.s3d(norm_layer=nn.BatchNorm3d).features`, key for key, which
is the backbone of the ViCC paper. S3D-G adds feature gating to every Inception block.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

from vicc.backbones.registry import register_backbone
from vicc.backbones.torchvision_video import SepInceptionBlock3D, TemporalSeparableConv

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


class FeatureGating(nn.Module):
    """Scale each channel by what the whole clip holds: average, linear, sigmoid (the paper's feature gating).

    Shape: (B, channels, t, h, w) -> the same.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        gates = torch.sigmoid(self.linear(x.mean(dim=(2, 3, 4))))
        return x * gates[:, :, None, None, None]


class GatedInceptionBlock(SepInceptionBlock3D):
    """An Inception block whose four branches are gated before they are joined.

    Args:
        widths: as a block of the tables above.
    """

    def __init__(self, in_channels: int, *widths: int, norm_layer: Callable[..., nn.Module]) -> None:
        super().__init__(in_channels, *widths, norm_layer=norm_layer)
        self.gates = nn.ModuleList(FeatureGating(channels) for channels in _branch_outputs(widths))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        branches = (self.branch0, self.branch1, self.branch2, self.branch3)
        return torch.cat([gate(branch(x)) for gate, branch in zip(self.gates, branches, strict=True)], dim=1)


class S3D(nn.Module):
    """S3D without its classifier.

    Args:
        in_channels: channels of a clip.
        width: factor on every layer's channels, rounded to multiples of 4.
        blocks: Inception blocks kept, 1 to 9 (all). Pooling layers go with the blocks they stand before.
        gating: feature gating in every Inception block (S3D-G).

    Shape: (B, in_channels, T, H, W) -> (B, num_features, T / 8, H / 32, W / 32) with all nine blocks.
    """

    def __init__(self, in_channels: int = 3, *, width: float = 1.0, blocks: int = 9, gating: bool = False) -> None:
        super().__init__()

        def scaled(channels: int) -> int:
            return max(4, 4 * round(channels * width / 4))

        norm = nn.BatchNorm3d
        block = GatedInceptionBlock if gating else SepInceptionBlock3D
        stem = scaled(64)
        layers: list[nn.Module] = [
            TemporalSeparableConv(in_channels, stem, 7, 2, 3, norm),
            nn.MaxPool3d(kernel_size=(1, 3, 3), stride=(1, 2, 2), padding=(0, 1, 1)),
            nn.Sequential(nn.Conv3d(stem, stem, 1, bias=False), norm(stem), nn.ReLU(inplace=True)),
            TemporalSeparableConv(stem, scaled(192), 3, 1, 1, norm),
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
            layers.append(block(channels, *widths, norm_layer=norm))
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
    """A quarter of the width, the first four blocks: 128 features; for small clips, in minutes on a laptop."""
    return S3D(in_channels, width=0.25, blocks=4)
