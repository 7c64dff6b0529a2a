"""How the published code lays out its checkpoints (.pth.tar), and where each part stands in an
encoder folder of vicc.

encoder_q.0.<backbone>, .2, .4    -> FOLDER/model.safetensors, the trained encoder (also backbone.<backbone>)
second.*, sampler.*               -> FOLDER/teacher/, the frozen encoder of the other stream
encoder_k.*                       -> FOLDER/key_encoder/, the momentum encoder
prototypes.weight                 -> FOLDER/prototypes.safetensors
queue, queue_ptr, ...             -> FOLDER/queue.safetensors
final_bn.*, final_fc.*            -> FOLDER/head.safetensors, under the names of `vicc.methods.classifier`
"""

from dataclasses import dataclass, field

import torch

from vicc.errors import ViccError
from vicc.methods.configs import EncoderConfig
from vicc.methods.encoder import Encoder

IMPORT_FILE = "published.json"
"""In an imported folder: what was read, from where, and what a way back needs."""

# Where torchvision's S3D counts its layers, the published network names them, each twice: a layer
# belongs to the network and to one of its five blocks.
_S3D_LAYERS = {
    "0": ("Conv_1a", "block1.0"),
    "2": ("Conv_2b", "block2.1"),
    "3": ("Conv_2c", "block2.2"),
    "5": ("Mixed_3b", "block3.1"),
    "6": ("Mixed_3c", "block3.2"),
    "8": ("Mixed_4b", "block4.1"),
    "9": ("Mixed_4c", "block4.2"),
    "10": ("Mixed_4d", "block4.3"),
    "11": ("Mixed_4e", "block4.4"),
    "12": ("Mixed_4f", "block4.5"),
    "14": ("Mixed_5b", "block5.1"),
    "15": ("Mixed_5c", "block5.2"),
}
_HEAD = {"projection_head.0": "2", "projection_head.2": "4"}
# Backbones with a published layout, and the published name of their first weight.
FIRST_WEIGHT = {"s3d": "Conv_1a.conv1.weight", "r2plus1d-10": "conv1.spatial_conv.weight"}


@dataclass(frozen=True)
class Layout:
    """A method's checkpoint: its encoders by prefix, each with the folder it goes to, and what lies
    beside them.
    """

    title: str
    encoders: dict[str, str]
    beside: tuple[str, ...]
    score: str
    """Under which name the file keeps the best value of what it was judged by."""


_QUERY, _QUEUE = {"encoder_q": ""}, ("queue", "queue_ptr")
_FINAL_BN = tuple(f"final_bn.{name}" for name in ("weight", "bias", "running_mean", "running_var"))
LAYOUTS = {
    "single_stream": Layout("ViCC, single-stream", _QUERY, ("prototypes.weight",), "best_loss"),
    "cross_stream": Layout("ViCC, cross-stream", {**_QUERY, "second": "teacher"}, ("prototypes.weight",), "best_loss"),
    "infonce": Layout("InfoNCE", {**_QUERY, "encoder_k": "key_encoder"}, _QUEUE, "best_acc"),
    "ubernce": Layout("UberNCE", {**_QUERY, "encoder_k": "key_encoder"}, (*_QUEUE, "queue_label"), "best_acc"),
    "coclr": Layout(
        "CoCLR",
        {**_QUERY, "encoder_k": "key_encoder", "sampler": "teacher"},
        (*_QUEUE, "queue_second", "queue_vname", "queue_label"),
        "best_acc",
    ),
    "linear_probe": Layout(
        "linear probe",
        {"backbone": ""},
        (*_FINAL_BN, "final_bn.num_batches_tracked", "final_fc.0.weight", "final_fc.0.bias"),
        "best_acc",
    ),
    "fine_tuned": Layout(
        "fine-tuned classifier", {"backbone": ""}, ("final_fc.1.weight", "final_fc.1.bias"), "best_acc"
    ),
    "encoder": Layout("an encoder alone", _QUERY, (), "best_loss"),
}

# Of everything beside encoders: the file it goes to, its name there, its shape. A letter is a size:
# D of embeddings, F of features, K prototypes, N of the queue, C classes.
BESIDE: dict[str, tuple[str, str, tuple[str | int, ...]]] = {
    "prototypes.weight": ("prototypes", "weight", ("K", "D")),
    "queue": ("queue", "queue", ("D", "N")),
    "queue_ptr": ("queue", "queue_ptr", (1,)),
    "queue_second": ("queue", "queue_second", ("D", "N")),
    "queue_label": ("queue", "queue_label", ("N",)),
    "queue_vname": ("queue", "queue_vname", ("N",)),
    **{name: ("head", name.replace("final_bn", "batchnorm"), ("F",)) for name in _FINAL_BN},
    "final_bn.num_batches_tracked": ("head", "batchnorm.num_batches_tracked", ()),
    **{f"final_fc.{place}.weight": ("head", "linear.weight", ("C", "F")) for place in (0, 1)},
    **{f"final_fc.{place}.bias": ("head", "linear.bias", ("C",)) for place in (0, 1)},
}
WHOLE_NUMBERS = ("num_batches_tracked", "queue_ptr", "queue_label", "queue_vname")


@dataclass
class Contents:
    """A state dict under our names. Encoders and configs by folder ("" is the trained one), the
    rest by file.
    """

    method: str
    configs: dict[str, EncoderConfig] = field(default_factory=dict)
    encoders: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    beside: dict[str, dict[str, torch.Tensor]] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)
    """The unknown ones, and those of parts that are not whole."""


def published_names(name: str, backbone: str) -> tuple[str, ...]:
    """The published names, one or two, of a tensor of `Encoder`, without the prefix that says which
    encoder.

    >>> published_names("backbone.features.0.1.0.weight", "s3d")
    ('0.Conv_1a.conv2.weight', '0.block1.0.conv2.weight')
    >>> published_names("projection_head.2.bias", "s3d")
    ('4.bias',)

    Raises:
        ViccError: a backbone that was never published.
    """
    if backbone not in FIRST_WEIGHT:
        raise ViccError(
            f"The backbone {backbone} has no published layout; those of {' and '.join(FIRST_WEIGHT)} have one."
        )
    module, leaf = name.rsplit(".", 1)
    if module in _HEAD:
        return (f"{_HEAD[module]}.{leaf}",)
    if backbone != "s3d":
        return (f"0.{name.removeprefix('backbone.')}",)
    layer, *path = module.removeprefix("backbone.features.").split(".")
    inner = ""
    if path[0].startswith("branch"):
        # A branch is a list of units; torchvision's of one unit is that unit itself.
        branch, *path = path
        inner = f"{branch}.{path.pop(0) if len(path) > 1 else 0}."
    # A unit is convolution and BatchNorm; a separable one is two of these, over space and over
    # time.
    *half, part = path
    inner += ("conv", "bn")[int(part)] + (str(int(half[0]) + 1) if half else "")
    return tuple(f"0.{published}.{inner}.{leaf}" for published in _S3D_LAYERS[layer])


def encoder_names(prefix: str, config: EncoderConfig) -> dict[str, tuple[torch.Tensor, list[str]]]:
    """By our name, a tensor without data that has its shape and dtype, and its published names in
    full.
    """
    with torch.device("meta"):
        state = Encoder(config).state_dict()
    names = {}
    for name, tensor in state.items():
        published = published_names(name, config.backbone)
        if prefix == "backbone":
            published = tuple(inner.removeprefix("0.") for inner in published)
        names[name] = (tensor, [f"{prefix}.{inner}" for inner in published])
    return names
