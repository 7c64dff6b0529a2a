"""Clips to a loss. A method ("task") is an `nn.Module`; `vicc.methods.task.Task` is its interface."""

from typing import TYPE_CHECKING

from vicc.public_names import lazy_names

if TYPE_CHECKING:
    from vicc.methods.assignments import sinkhorn
    from vicc.methods.coclr import CoCLR
    from vicc.methods.configs import EncoderConfig, MethodSettings
    from vicc.methods.cross_stream import CrossStream
    from vicc.methods.encoder import Encoder
    from vicc.methods.infonce import InfoNCE
    from vicc.methods.loss import assign_views, swapped_prediction_loss
    from vicc.methods.prototypes import Prototypes
    from vicc.methods.registry import build_method, list_methods, register_method
    from vicc.methods.single_stream import SingleStream
    from vicc.methods.task import Task
    from vicc.methods.ubernce import UberNCE

_PLACES = {
    "CoCLR": "vicc.methods.coclr",
    "CrossStream": "vicc.methods.cross_stream",
    "Encoder": "vicc.methods.encoder",
    "EncoderConfig": "vicc.methods.configs",
    "InfoNCE": "vicc.methods.infonce",
    "MethodSettings": "vicc.methods.configs",
    "Prototypes": "vicc.methods.prototypes",
    "SingleStream": "vicc.methods.single_stream",
    "Task": "vicc.methods.task",
    "UberNCE": "vicc.methods.ubernce",
    "assign_views": "vicc.methods.loss",
    "build_method": "vicc.methods.registry",
    "list_methods": "vicc.methods.registry",
    "register_method": "vicc.methods.registry",
    "sinkhorn": "vicc.methods.assignments",
    "swapped_prediction_loss": "vicc.methods.loss",
}

__all__ = [
    "CoCLR",
    "CrossStream",
    "Encoder",
    "EncoderConfig",
    "InfoNCE",
    "MethodSettings",
    "Prototypes",
    "SingleStream",
    "Task",
    "UberNCE",
    "assign_views",
    "build_method",
    "list_methods",
    "register_method",
    "sinkhorn",
    "swapped_prediction_loss",
]

__getattr__, __dir__ = lazy_names(__name__, _PLACES)
