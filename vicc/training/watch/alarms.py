"""Rules that look at the log of a stage and say in plain words what goes wrong, why it may, and
what to try.

A rule is a function of facts: the same log gives the same alarms, whoever reads it. Thresholds are
such that the demo's stages that learn raise none, and its RGB-1, which does not learn on its own,
raises those it should (tests hold both).
"""

import math
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

from vicc.training.schedule import StageLength
from vicc.training.stage import Stage

ALARMS_FILE = "alarms.jsonl"
SLOW_STEPS = "slow_steps"
"""An alarm that no rule here raises, since it is of the machine: see
`vicc.training.watch.live.Slowness`.
"""
Row = Mapping[str, Any]

_WINDOW = 50  # steps; fewer in a short stage
_FIRST_STEPS = 50  # that say nothing yet
_LATE_SHARE, _LATE_STEPS = 0.75, 5000  # of a stage; from here on a loss at ln K is no slow start
_STARVED = 0.5  # share of the time; loading in the training process itself takes about 0.3 in the demo
_ROWS_PER_PROTOTYPE = 0.25  # the demo learns well with 0.32
_AT_CHANCE = 0.998  # of the chance loss; one demo stage is at 0.997 at half of its steps, and learns
_ALIKE = 1.15  # effective rank: a mean squared cosine of 0.87


@dataclass(frozen=True)
class Alarm:
    """Something to look at: `name` of the rule, the `step` at which it was seen, and `message` for
    people.
    """

    name: str
    step: int
    message: str


@dataclass(frozen=True)
class Facts:
    """What rules look at.

    Attributes:
        processes, workers: that train together; that load clips for each of them.
        step: steps done.
        first, recent: the mean of every number in the log over the first and the newest window;
            empty at the start.
        waited: share of the time of the newest window that was spent waiting for clips.
    """

    stage: Stage
    length: StageLength
    processes: int
    workers: int
    step: int = 0
    first: Row | None = None
    recent: Row | None = None
    waited: float = 0.0

    def late(self, share: float, steps: int) -> bool:
        """Whether so much of the stage is done, or so many steps since warm-up and the freeze of
        prototypes.
        """
        frozen = self.stage.settings.epochs_frozen() * self.length.steps_per_epoch
        begun = self.stage.schedule.warmup_steps + frozen
        return self.step >= min(share * self.length.steps, begun + steps)


class Alarms:
    """Goes through the log of a stage and says every alarm once."""

    def __init__(self, facts: Facts) -> None:
        self._start = facts
        self.said: list[Alarm] = []
        self._size = max(5, min(_WINDOW, facts.length.steps // 6))
        self._window: deque[Row] = deque(maxlen=self._size)
        self._first: Row | None = None

    def start(self) -> list[Alarm]:
        """The alarms that the settings alone give."""
        return self._judge(_AT_START, self._start)

    def steps(self, rows: Sequence[Row]) -> list[Alarm]:
        """The alarms that some more steps give."""
        new = []
        for row in rows:
            self._window.append(row)
            done = row["step"] + 1
            # Half a window apart: means change slowly.
            if len(self._window) == self._size and done % max(1, self._size // 2) == 0:
                facts = self._facts(done)
                new += self._judge(_WHILE_TRAINING, facts) if done >= _FIRST_STEPS else []
        return new

    def _facts(self, step: int) -> Facts:
        recent = _means(self._window)
        self._first = self._first or recent
        return Facts(
            self._start.stage,
            self._start.length,
            self._start.processes,
            self._start.workers,
            step,
            self._first,
            recent,
            _share_waited(self._window),
        )

    def _judge(self, rules: "Mapping[str, Rule]", facts: Facts) -> list[Alarm]:
        new = []
        for name, rule in rules.items():
            if not any(alarm.name == name for alarm in self.said) and (message := rule(facts)):
                new.append(Alarm(name, facts.step, f"{facts.stage.name}: {message}"))
        self.said += new
        return new


Rule = Callable[[Facts], str | None]


def queue_never_fills(facts: Facts) -> str | None:
    """The queue takes part in no step, or in the last few only."""
    stage, length = facts.stage, facts.length
    rows, opens_at = stage.settings.queue_rows(), stage.settings.queue_opens()
    if not rows:
        return None
    batch = length.batch_size
    left, needed = length.steps - opens_at * length.steps_per_epoch, -(-rows // batch)
    if left <= 0:
        return (
            f"the queue opens at epoch {opens_at}, and the stage ends at epoch "
            f"{length.steps // length.steps_per_epoch}: it never takes part. {_try(stage, queue_from_epoch=0)}, or "
            f"{_set(stage, queue_length=0)} to go without."
        )
    if needed > 0.9 * left:
        return (
            f"the queue of {rows:,} rows needs {needed:,} steps of {batch} to fill, and after it opens "
            f"the stage has {left:,}: it hardly takes part. {_try(stage, queue_length=max(1, left // 4) * batch)}, or "
            "train longer."
        )
    return None


def batch_too_small(facts: Facts) -> str | None:
    """Sinkhorn has to spread so few rows over so many prototypes that most get none."""
    stage, length = facts.stage, facts.length
    heads = stage.settings.prototype_heads()
    if not heads:
        return None
    batch, most = length.batch_size, max(heads)
    rows = batch + stage.settings.queue_rows() // batch * batch
    if rows >= _ROWS_PER_PROTOTYPE * most:
        return None
    return (
        f"batches of {batch} are small for {most} prototypes"
        + (f", even with the queue's {rows - batch} rows" if rows > batch else "")
        + f": Sinkhorn spreads {rows} rows over them, and most get none. "
        f"{_try(stage, queue_length=-(-most // batch) * batch)}, a larger batch_size, or "
        f"{_set(stage, num_prototypes=max(2, 2 * rows))}."
    )


def few_prototypes(facts: Facts) -> str | None:
    """A collapse onto few prototypes."""
    stage, recent = facts.stage, facts.recent
    heads = stage.settings.prototype_heads()
    if recent is None or "prototypes_used" not in recent or not heads:
        return None
    most = min(heads[0], facts.length.batch_size // facts.processes)
    if most < 4:
        return None
    used = recent["prototypes_used"]
    if used > max(1.5, 0.15 * most):
        return None
    return (
        f"only {used:.1f} prototypes are some video's first choice, of at most {most}: videos are no longer "
        f"told apart. Likely causes: a learning rate too high, prototypes that move too early, or targets too sharp. "
        f"{_try(stage, learning_rate=_half(stage.schedule.learning_rate))}{_softer(stage)}."
    )


def _softer(stage: Stage) -> str:
    """Further things to try, of those that the method has."""
    values = stage.flat()
    found = []
    if "freeze_prototypes_epochs" in values:
        found.append(_set(stage, freeze_prototypes_epochs=1))
    if "epsilon" in values:
        found.append(_set(stage, epsilon=round(2 * values["epsilon"], 4)))
    return "".join(f", {'or ' * (change is found[-1])}{change}" for change in found)


def rank_falls(facts: Facts) -> str | None:
    """Embeddings of all videos become the same, the loss hardly below chance (at chance, the next
    rule applies).
    """
    stage, first, recent = facts.stage, facts.first, facts.recent
    if not recent or not first or "effective_rank" not in recent or not facts.late(_LATE_SHARE, _LATE_STEPS):
        return None
    before, now = first["effective_rank"], recent["effective_rank"]
    fell = now < _ALIKE and now - 1 < 0.25 * (before - 1)
    chance = stage.settings.chance_loss(facts.length.batch_size)
    if not fell or chance is None or not 0.97 * chance <= recent["loss"] < _AT_CHANCE * chance:
        return None
    return (
        f"embeddings of different videos have become alike: their effective rank fell from {before:.2f} to {now:.2f} "
        "(1: all the same). Likely causes: a learning rate too high, views of a video that have too little in common, "
        f"too small a batch. {_try(stage, learning_rate=_half(stage.schedule.learning_rate))}, "
        f"{_set(stage, view_distance='any')}, and look at views.png."
    )


def loss_at_chance(facts: Facts) -> str | None:
    """Late in the stage the loss is still what an encoder gets that tells nothing apart."""
    stage, recent = facts.stage, facts.recent
    chance = stage.settings.chance_loss(facts.length.batch_size)
    if chance is None or not recent or not facts.late(_LATE_SHARE, _LATE_STEPS) or recent["loss"] < _AT_CHANCE * chance:
        return None
    rank = recent.get("effective_rank", math.inf)
    alike = f" and embeddings of different videos are alike (effective rank {rank:.2f})" if rank < _ALIKE else ""
    alone = ", or a stream that alone has nothing easy to learn (a later stage is taught)"
    if stage.settings.classifies:
        alone = ", or labels that clips do not show"
    elif stage.teacher:
        alone = ""
    rates = " or ".join(f"{stage.schedule.learning_rate * factor:.2g}" for factor in (1 / 3, 3))
    return (
        f"after {facts.step:,} of {facts.length.steps:,} steps the loss is {recent['loss']:.3f}, still at "
        f"{stage.settings.chance_name} = {chance:.3f}, where nothing is told apart{alike}. Likely causes: a learning "
        f"rate too high or too low, too few steps, too strong an augmentation{alone}. "
        f"{_try(stage, learning_rate=rates)}, more steps, and look at views.png."
    )


def data_starvation(facts: Facts) -> str | None:
    """The model waits for clips more than it computes."""
    recent = facts.recent
    # In the first epoch every frame is decoded for the first time; later ones may come from memory.
    if not recent or facts.waited < _STARVED or (recent["epoch"] < 1 and facts.step < 500):
        return None
    more = "--workers 1 or more" if facts.workers == 0 else f"--workers {2 * facts.workers}"
    return (
        f"{100 * facts.waited:.0f} % of the time is spent waiting for clips: loading cannot keep up. Try {more}, a "
        "larger --cache-mb (a store that fits is decoded once), a store in place of --videos, or a faster disk; "
        "`vicc bench data` measures how fast loading can be."
    )


_AT_START: dict[str, Rule] = {"queue_never_fills": queue_never_fills, "batch_too_small": batch_too_small}
_WHILE_TRAINING: dict[str, Rule] = {
    "few_prototypes": few_prototypes,
    "rank_falls": rank_falls,
    "loss_at_chance": loss_at_chance,
    "data_starvation": data_starvation,
}


def why_not_finite(rows: Sequence[Row], stage: Stage, precision: str) -> str:
    """What the last steps before a loss that is not finite tell of its causes, and what to try; two
    sentences.

    Args:
        rows: the last rows of the log that are finite, oldest first; may be empty.
    """
    causes = []
    norms = [row["gradient_norm"] for row in rows if "gradient_norm" in row]
    if len(norms) > 4 and norms[-1] > 10 * fmean(norms[:-1]):
        causes.append(f"the gradient had grown to {norms[-1]:.3g}, {norms[-1] / fmean(norms[:-1]):.0f} times its mean")
    losses = [row["loss"] for row in rows]
    if len(losses) > 4 and losses[-1] > 1.2 * fmean(losses[:-1]):
        causes.append(f"the loss had risen to {losses[-1]:.3g}")
    if not rows or rows[-1]["step"] < 100:
        causes.append("it came within the first hundred steps, so the learning rate is the first suspect")
    told = "; ".join(causes) or "the steps before it look ordinary, which points to the precision or to one odd video"
    lower = "" if precision == "fp32" else ", or --precision fp32"
    # A step schedule has no warm-up.
    longer = f", a longer warm-up ({_set(stage, warmup_steps=max(100, 2 * stage.schedule.warmup_steps))})"
    return (
        f"What the log says: {told}. "
        f"{_try(stage, learning_rate=_half(stage.schedule.learning_rate))}"
        f"{longer * (stage.schedule.name == 'cosine')}{lower}."
    )


def _means(rows: Sequence[Row]) -> dict[str, float]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: fmean(row[name] for row in rows if name in row) for name in names}


def _share_waited(rows: Sequence[Row]) -> float:
    """The longest wait is left out: a worker that starts, a page that was not in memory."""
    waits = sorted(row["waited"] for row in rows)[:-1]
    busy = sum(row["seconds"] for row in rows)
    return sum(waits) / max(1e-9, sum(waits) + busy)


def _half(rate: float) -> float:
    return float(f"{rate / 2:.3g}")


def _set(stage: Stage, **values: Any) -> str:
    return f"--set {' '.join(f'{stage.name}.{name}={value}' for name, value in values.items())}"


def _try(stage: Stage, **values: Any) -> str:
    return f"Try {_set(stage, **values)}"
