"""torchvision's video models under torchvision's names, each up to its last feature map and with
random weights.

Parameters keep torchvision's names, so its weights fit once the classifier's are left out.
torchvision is imported when one of them is built: that takes longer than torch itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import nn

from vicc.backbones.registry import register_backbone

if TYPE_CHECKING:
    from torchvision.models import video


class VideoResNet(nn.Module):
    """R3D, MC3 and R(2+1)D with 18 layers (Tran et al., CVPR 2018).

    Args:
        model: torchvision's `VideoResNet`, whose layers it takes over.

    Shape: (B, in_channels, T, H, W) -> (B, 512, t, H / 16, W / 16), rounded up; t is T / 8, with
    MC3 T.
    """

    def __init__(self, model: video.VideoResNet, in_channels: int = 3) -> None:
        super().__init__()
        self.num_features: int = model.fc.in_features
        self.stem = model.stem
        if in_channels != 3:
            self.stem[0] = _for_channels(self.stem[0], in_channels)
            nn.init.kaiming_normal_(self.stem[0].weight, mode="fan_out", nonlinearity="relu")  # as the other layers
        self.layer1, self.layer2, self.layer3, self.layer4 = model.layer1, model.layer2, model.layer3, model.layer4

    @property
    def blocks(self) -> list[nn.Module]:
        """Parts that are called one after the other."""
        return [self.stem, *self.layer1, *self.layer2, *self.layer3, *self.layer4]

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, C, T, H, W) to a feature map (B, num_features, t, h, w)."""
        return self.layer4(self.layer3(self.layer2(self.layer1(self.stem(clips)))))


class VideoSwin(nn.Module):
    """Video Swin Transformer (Liu et al., CVPR 2022).

    Args:
        model: torchvision's `SwinTransformer3d`, whose layers it takes over.

    Shape: (B, in_channels, T, H, W) -> (B, num_features, T / 2, H / 32, W / 32), rounded up.
    """

    def __init__(self, model: video.SwinTransformer3d, in_channels: int = 3) -> None:
        super().__init__()
        self.num_features: int = model.num_features
        self.patch_embed = model.patch_embed
        if in_channels != 3:
            self.patch_embed.proj = _for_channels(self.patch_embed.proj, in_channels)
        self.features = model.features
        self.norm = model.norm

    @property
    def blocks(self) -> list[nn.Module]:
        """Parts that are called one after the other."""
        stages = (stage if isinstance(stage, nn.Sequential) else [stage] for stage in self.features)
        return [block for stage in stages for block in stage]

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, C, T, H, W) to a feature map (B, num_features, t, h, w)."""
        return self.norm(self.features(self.patch_embed(clips))).permute(0, 4, 1, 2, 3)


class MViT(nn.Module):
    """Multiscale Vision Transformer, v1 (Fan et al., ICCV 2021) and v2 (Li et al., CVPR 2022).

    The class token takes part in attention but is no part of the feature map. Positions stretch to
    clips of any size:
    relative ones (v2) within torchvision's attention, absolute ones (v1, made for 16 x 224 x 224)
    here.

    Args:
        model: torchvision's `MViT`, whose layers it takes over.

    Shape: (B, in_channels, T, H, W) -> (B, num_features, T / 2, H / 32, W / 32), rounded up.
    """

    def __init__(self, model: video.MViT, in_channels: int = 3) -> None:
        super().__init__()
        self.num_features: int = model.norm.normalized_shape[0]
        self.conv_proj = model.conv_proj if in_channels == 3 else _for_channels(model.conv_proj, in_channels)
        self.pos_encoding = model.pos_encoding
        self.blocks = model.blocks
        self.norm = model.norm

    def forward(self, clips: torch.Tensor) -> torch.Tensor:
        """Clips (B, C, T, H, W) to a feature map (B, num_features, t, h, w)."""
        patches = self.conv_proj(clips)
        size = patches.shape[2:]
        tokens = patches.flatten(2).transpose(1, 2)
        class_token = self.pos_encoding.class_token.expand(len(tokens), 1, -1)
        if self.pos_encoding.spatial_pos is not None:
            tokens = tokens + self._positions(size)
            class_token = class_token + self.pos_encoding.class_pos
        tokens = torch.cat((class_token, tokens), dim=1)
        for block in self.blocks:
            tokens, size = block(tokens, size)
        return self.norm(tokens)[:, 1:].transpose(1, 2).unflatten(2, size)

    def _positions(self, size: torch.Size) -> torch.Tensor:
        """v1's learned positions, stretched linearly to a grid of t x h x w patches: (t * h * w,
        channels).
        """
        t, h, w = size
        space = self.pos_encoding.spatial_pos.unflatten(0, self.pos_encoding.spatial_size).permute(2, 0, 1)[None]
        if space.shape[2:] != (h, w):
            space = F.interpolate(space, size=(h, w), mode="bilinear")
        time = self.pos_encoding.temporal_pos.t()[None]
        if time.shape[2] != t:
            time = F.interpolate(time, size=t, mode="linear")
        return (time[0, :, :, None, None] + space[0, :, None]).flatten(1).t()


def _for_channels(conv: nn.Conv3d, in_channels: int) -> nn.Conv3d:
    """The same layer with fresh weights, for another number of input channels."""
    return nn.Conv3d(
        in_channels,
        conv.out_channels,
        conv.kernel_size,  # type: ignore[arg-type]
        conv.stride,  # type: ignore[arg-type]
        conv.padding,  # type: ignore[arg-type]
        bias=conv.bias is not None,
    )


def _register(name: str, family: type[VideoResNet | VideoSwin | MViT]) -> None:
    @register_backbone(name)
    def build(in_channels: int) -> nn.Module:
        from vicc.backbones.torchvision_video import get_model

        return family(get_model(name, weights=None), in_channels)


for _family, _names in (
    (VideoResNet, ("r3d_18", "mc3_18", "r2plus1d_18")),
    (VideoSwin, ("swin3d_t", "swin3d_s", "swin3d_b")),
    (MViT, ("mvit_v1_b", "mvit_v2_s")),
):
    for _name in _names:
        _register(_name, _family)
