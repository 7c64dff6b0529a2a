"""Learning rate as a pure function of the step, so that a resume needs nothing but the step."""

import math


def cosine_learning_rate(step: int, *, total_steps: int, base: float, final: float, warmup_steps: int = 0) -> float:
    """Learning rate of step `step`, counted from 0: linear from near 0 to `base`, then half a cosine towards `final`.

    The published schedule has no warm-up and reaches `final` one step after the last.
    """
    if step < warmup_steps:
        return base * (step + 1) / warmup_steps
    done = (step - warmup_steps) / max(1, total_steps - warmup_steps)
    return final + 0.5 * (base - final) * (1 + math.cos(math.pi * done))
