"""Clip to feature map. A backbone is an `nn.Module` from (B, C, T, H, W) to (B, num_features, t, h, w).

>>> from vicc.backbones import create_backbone, list_backbones
>>> list_backbones()
['s3d', 's3d-demo']
"""

from vicc.backbones.registry import Backbone, create_backbone, list_backbones, register_backbone, require_backbone
from vicc.backbones.s3d import S3D

__all__ = ["S3D", "Backbone", "create_backbone", "list_backbones", "register_backbone", "require_backbone"]
