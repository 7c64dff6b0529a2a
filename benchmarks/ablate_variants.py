"""The variants that `benchmarks/ablate.py` compares: recipes made from the demo's, each with a name and a sentence."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from vicc import Recipe, ViccError, create_recipe
from vicc.words import did_you_mean


@dataclass(frozen=True)
class Variant:
    """A recipe made from the demo's, or without `stages` a change to one.

    Attributes:
        stages: those of the demo that are trained; one that would start from another starts from random weights.
        budget: time of all stages together, in that of one; 0: as many as there are stages.
        cycles: how often the two cross-stream stages come.
        needs: of a change, the weight of a loss without which it would change nothing.
    """

    sentence: str
    changes: tuple[str, ...] = ()
    stages: tuple[str, ...] = ()
    budget: float = 0
    cycles: int = 1
    needs: str = ""


def _each(name: str, values: Sequence[object], sentence: str, changed: str, needs: str = "") -> dict[str, Variant]:
    """A change for each value of a field."""
    return {
        f"{name}-{value}": Variant(sentence.format(value), (f"all.{changed}={value}",), needs=needs) for value in values
    }


_FLOW, _TAUGHT, _ALL = ("flow-1",), ("flow-1", "rgb-2"), ("rgb-1", "flow-1", "rgb-2", "flow-2")
# At the demo's rate of 3e-3 the swapped loss of RGB-2 stays at ln K on real clips; no label was looked at.
_SLOWER = ("rgb-2.learning_rate=1e-3",)
_CONTRAST, _BOTH = ("all.swap_weight=0", "all.contrast_weight=1"), ("all.contrast_weight=1",)
_KEYS = ("all.queue_length=128", "all.temperature=0.07", "all.key_momentum=0.99")
_COCLR = ("flow-1.method=infonce", "rgb-2.method=coclr", *_KEYS, *_SLOWER)

VARIANTS = {
    # The objective.
    "swapped": Variant("the published swapped prediction, flow alone", (), _FLOW),
    "contrast": Variant("the contrast of views alone, flow", _CONTRAST, _FLOW),
    "both": Variant("swapped prediction and contrast, 1 : 1, flow", _BOTH, _FLOW),
    "infonce": Variant("InfoNCE with a queue of 128, flow", ("all.method=infonce", *_KEYS), _FLOW),
    "rgb-swapped": Variant("swapped prediction, RGB alone", (), ("rgb-1",)),
    "rgb-contrast": Variant("the contrast of views, RGB alone", _CONTRAST, ("rgb-1",)),
    "swapped-taught": Variant("swapped prediction: flow, then RGB from random weights, taught by it", _SLOWER, _TAUGHT),
    "contrast-taught": Variant("contrast: flow, then RGB from random weights, taught by it", _CONTRAST, _TAUGHT),
    "both-taught": Variant("both losses: flow, then RGB from random weights, taught by it", _BOTH, _TAUGHT),
    "coclr-taught": Variant("InfoNCE on flow, then CoCLR on RGB from random weights", _COCLR, _TAUGHT),
    # Which stages, and how often.
    "swapped-all": Variant("the four stages of ViCC", _SLOWER, _ALL),
    "contrast-all": Variant("the four stages with the contrast in place of the swapped prediction", _CONTRAST, _ALL),
    "coclr-all": Variant(
        "InfoNCE of both streams, then CoCLR", ("rgb-1.method=infonce", "flow-2.method=coclr", *_COCLR), _ALL
    ),
    "contrast-rgb-first": Variant("contrast-taught with RGB-1 before, in the same time", _CONTRAST, _ALL[:3], 2),
    "swapped-rgb-first": Variant("swapped-taught with RGB-1 before, in the same time", _SLOWER, _ALL[:3], 2),
    "swapped-cycles-2": Variant("swapped-all with two cycles of shorter stages", _SLOWER, _ALL, 4, 2),
    "contrast-cycles-2": Variant("contrast-all with two cycles of shorter stages", _CONTRAST, _ALL, 4, 2),
    "contrast-cycles-3": Variant("contrast-all with three cycles of shorter stages", _CONTRAST, _ALL, 4, 3),
    # Changes: the contrast's temperature and memory.
    **_each("temperature", (0.05, 0.2, 0.5), "contrast at T {}", "contrast_temperature", needs="contrast_weight"),
    **_each("memory", (64, 128, 512), "contrast with {} past keys", "contrast_memory", needs="contrast_weight"),
    # Prototypes, Sinkhorn, queue.
    **_each("prototypes", (10, 20, 100), "K = {}", "num_prototypes", needs="swap_weight"),
    **_each("epsilon", (0.03, 0.1), "Sinkhorn's epsilon {}", "epsilon", needs="swap_weight"),
    **_each("queue", (64, 128, 256), "a queue of {}", "queue_length", needs="swap_weight"),
    # The step.
    **_each("batch", (8, 32, 64), "batches of {}", "batch_size"),
    "one-gradient": Variant("the second view without gradient, as published", ("all.views_with_gradient=one",)),
    "larc": Variant(
        "LARC at the published rate for 16 videos",
        ("all.optimizer=larc", "all.learning_rate=0.05", "all.final_learning_rate=5e-5", "all.weight_decay=1e-6"),
    ),
    **_each("rate", ("3e-4", "1e-3", "1e-2"), "learning rate {}", "learning_rate"),
    # What a view is.
    "fixed-flow": Variant("the magnitude of flow is kept", ("all.flow_normalization=fixed",)),
    **_each("frames", (8, 32), "clips of {} frames", "clip_frames"),
    **_each("stride", (2, 3), "one of {} frames", "stride"),
    **_each("size", (32, 64, 96), "clips of {} pixels", "size"),
    "any-distance": Variant("views at any distance in time, in place of far apart", ("all.view_distance=any",)),
}


def build_recipe(name: str, changes: Sequence[str] = ()) -> tuple[Recipe, float]:
    """The recipe of a variant, and its time in that of one stage.

    Args:
        changes: to the demo's recipe, before those of the variant.

    Raises:
        ViccError: no such variant, a change where stages are expected or the other way round.
    """
    parts = name.split("+")
    for part in parts:
        if part not in VARIANTS:
            raise ViccError(f"--variants {name}: there is no {part!r}.{did_you_mean(part, VARIANTS)} --help shows all.")
    first, *others = (VARIANTS[part] for part in parts)
    if not first.stages or any(other.stages for other in others):
        raise ViccError(f"--variants {name}: expected one with stages, then changes, such as contrast+size-64.")
    stages = tuple(
        stage.replace(start_from=stage.start_from if stage.start_from in first.stages else None)
        for stage in create_recipe("demo").stages
        if stage.name in first.stages
    )
    sentence = ", ".join(part.sentence for part in (first, *others))
    asked = [change for part in (first, *others) for change in part.changes]
    recipe = Recipe(name, sentence, stages).with_changes([*changes, *asked])
    for other in others:
        if not any(stage.flat().get(other.needs, 1) for stage in recipe.stages):
            raise ViccError(f"--variants {name}: without {other.needs} {other.sentence!r} would change nothing.")
    for cycle in range(3, 2 + first.cycles):
        rgb, flow = recipe.stages[-2:]
        rgb = rgb.replace(name=f"rgb-{cycle}", start_from=rgb.name, teacher=flow.name)
        flow = flow.replace(name=f"flow-{cycle}", start_from=flow.name, teacher=rgb.name)
        recipe = replace(recipe, stages=(*recipe.stages, rgb, flow))
    return recipe, first.budget or len(recipe.stages)
