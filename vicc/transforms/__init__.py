"""Frames to a view: crop, flip and colour on whole clips, the same over the clip."""

from typing import TYPE_CHECKING

from vicc.public_names import lazy_names

if TYPE_CHECKING:
    from vicc.transforms.augmentation import (
        PRESETS,
        Augmentation,
        apply_to_flow,
        apply_to_rgb,
        center_view,
        draw_sample,
        draw_view,
        evaluation_views,
    )
    from vicc.transforms.difference import apply_to_diff
    from vicc.transforms.flow_form import FlowForm

_PLACES = {
    "Augmentation": "vicc.transforms.augmentation",
    "FlowForm": "vicc.transforms.flow_form",
    "PRESETS": "vicc.transforms.augmentation",
    "apply_to_diff": "vicc.transforms.difference",
    "apply_to_flow": "vicc.transforms.augmentation",
    "apply_to_rgb": "vicc.transforms.augmentation",
    "center_view": "vicc.transforms.augmentation",
    "draw_sample": "vicc.transforms.augmentation",
    "draw_view": "vicc.transforms.augmentation",
    "evaluation_views": "vicc.transforms.augmentation",
}

__all__ = [
    "PRESETS",
    "Augmentation",
    "FlowForm",
    "apply_to_diff",
    "apply_to_flow",
    "apply_to_rgb",
    "center_view",
    "draw_sample",
    "draw_view",
    "evaluation_views",
]

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
