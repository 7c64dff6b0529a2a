"""Clip to feature map. A backbone is an `nn.Module` from (B, C, T, H, W) to (B, num_features, t, h,
w).

>>> from vicc.backbones import create_backbone, list_backbones
>>> for name in list_backbones():
...     print(name)
mc3_18
mvit_v1_b
mvit_v2_s
r2plus1d-10
r2plus1d_18
r3d_18
s3d
s3d-demo
s3d-g
swin3d_b
swin3d_s
swin3d_t
>>> create_backbone("r2plus1d-10", in_channels=2).num_features
512
"""

from vicc.backbones.r2plus1d import R2Plus1D
from vicc.backbones.registry import Backbone, create_backbone, list_backbones, register_backbone, require_backbone
from vicc.backbones.s3d import S3D
from vicc.backbones.torchvision_models import MViT, VideoResNet, VideoSwin

__all__ = [
    "S3D",
    "Backbone",
    "MViT",
    "R2Plus1D",
    "VideoResNet",
    "VideoSwin",
    "create_backbone",
    "list_backbones",
    "register_backbone",
    "require_backbone",
]
