"""torchvision's video models, also where torchvision comes without its compiled operators.

A CPU build of torch beside the ordinary wheel of torchvision cannot load torchvision's compiled
operators, and then `import torchvision` itself fails: it adds shape rules to `torchvision::nms`
(and, in newer ones, `qnms`), which do not exist. vicc needs neither, so it declares them (without
an implementation) and imports again.
"""

import torch

_declared: torch.library.Library | None = None  # kept: its declarations go when it does

try:
    import torchvision
except RuntimeError as error:
    if "torchvision::nms" not in str(error):
        raise
    _declared = torch.library.Library("torchvision", "DEF")
    for _operator in ("nms", "qnms"):
        _declared.define(f"{_operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision  # noqa: F401

from torchvision.models import get_model, get_model_weights, list_models, video  # noqa: E402
from torchvision.models.video.s3d import S3D  # noqa: E402

__all__ = ["S3D", "get_model", "get_model_weights", "list_models", "video"]
