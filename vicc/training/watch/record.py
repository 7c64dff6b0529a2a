"""What the first process writes of a stage while it trains.

RUN/STAGE/log.jsonl      one line a step
RUN/STAGE/epochs.jsonl   one line an epoch: means, and what the evaluation found
RUN/STAGE/alarms.jsonl   every alarm that was said
RUN/STAGE/curves.png     the log as curves
RUN/STAGE/tensorboard/   the same numbers for TensorBoard
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vicc.files import atomic_write
from vicc.progress import say
from vicc.training.configs import SinkName
from vicc.training.engine import Row
from vicc.training.watch.alarms import ALARMS_FILE, SLOW_STEPS, Alarm, Alarms, Facts, why_not_finite
from vicc.training.watch.curves import CURVES_FILE, EVALUATED, write_curves
from vicc.training.watch.log import EPOCHS_FILE, StepLog, read_log
from vicc.training.watch.sinks import open_sinks

_SECONDS_BETWEEN_CURVES = 30.0
_DRAWING_SHARE = 100  # times as long as drawing took, until the next
_SECONDS_BETWEEN_FLUSHES = 10.0
_ROWS_KEPT = 2000
_ROWS_TOGETHER = 16  # of an earlier start, whose rows came in groups of unknown size
_NOT_AVERAGED = ("step", "epoch")
_NOT_OF_EPOCHS = (*_NOT_AVERAGED, "seconds", "waited")


class StageRecord:
    """Files of a stage's folder, as they would be without the stops: what lies behind `first_step`
    is dropped.

    Args:
        clips_per_step: of all processes.
        log_to: sinks beside the log.
    """

    def __init__(
        self, folder: Path, facts: Facts, *, first_step: int, clips_per_step: int, log_to: Sequence[SinkName]
    ) -> None:
        self._folder, self._stage, self._facts = folder, facts.stage, facts
        self._clips = clips_per_step
        self._log = StepLog(folder, first_step=first_step)
        self._epochs = StepLog(folder, first_step=first_step, name=EPOCHS_FILE)
        self._sinks = open_sinks(log_to, folder, facts.stage, first_step=first_step)
        self._alarms = Alarms(facts)
        self._history = History()
        self._evaluated = [row for row in read_log(folder, EPOCHS_FILE) if any(name in row for name in EVALUATED)]
        self._epoch: list[Row] = []
        self._last: list[Row] = []
        self._flushed_at = time.monotonic()
        self._draw_from = self._flushed_at + _SECONDS_BETWEEN_CURVES
        self._replay(first_step)

    def _replay(self, first_step: int) -> None:
        """Go through the steps of earlier starts again, whose alarms are known."""
        rows = read_log(self._folder)
        new = self._alarms.start()
        self._alarms.said += [
            Alarm(**row) for row in read_log(self._folder, ALARMS_FILE) if row["name"] == SLOW_STEPS and first_step
        ]
        for start in range(0, len(rows), _ROWS_TOGETHER):
            self._note(rows[start : start + _ROWS_TOGETHER])
        self._tell(new if first_step == 0 else [])

    def steps(self, rows: Sequence[Row]) -> None:
        """Some steps are done."""
        for row in rows:
            self._log.write(row)
        alarms, speed = self._note(rows)
        for row in rows:
            values = {name: value for name, value in row.items() if name not in _NOT_AVERAGED}
            extra = {"clips_per_second": speed, "epoch": row["epoch"]}
            if (chance := self._stage.settings.chance_loss(self._facts.length.batch_size)) is not None:
                extra["chance_loss"] = chance
            for sink in self._sinks:
                sink.write(row["step"], {**values, **extra})
        if alarms:
            self._tell(alarms)
        if time.monotonic() - self._flushed_at >= _SECONDS_BETWEEN_FLUSHES:
            self._flush()

    def _note(self, rows: Sequence[Row]) -> tuple[list[Alarm], float]:
        seconds = sum(row["waited"] + row["seconds"] for row in rows)
        speed = len(rows) * self._clips / max(1e-9, seconds)
        for row in rows:
            if self._epoch and self._epoch[-1]["epoch"] != row["epoch"]:
                self._epoch = []
            self._epoch.append(row)
            self._history.add({**row, "clips_per_second": speed})
        self._last = [*self._last, *rows][-50:]
        return self._alarms.steps(rows), speed

    def alarm(self, alarm: Alarm) -> None:
        """An alarm of what is no fact of the log, such as a busy machine; said once in a stage."""
        if not any(alarm.name == said.name for said in self._alarms.said):
            self._alarms.said.append(alarm)
            self._tell([alarm])

    def epoch(self, found: Mapping[str, float]) -> None:
        """An epoch is done, or the stage is in the middle of one; `found` is what was evaluated."""
        if not self._epoch:
            return
        last = self._epoch[-1]
        names = [name for name in last if name not in _NOT_OF_EPOCHS]
        rows = self._epoch
        means = {
            name: sum(row[name] for row in rows if name in row) / max(1, sum(name in row for row in rows))
            for name in names
        }
        seconds = sum(row["waited"] + row["seconds"] for row in rows)
        times = {
            "clips_per_second": round(len(rows) * self._clips / max(1e-9, seconds), 3),
            "waited_share": round(sum(row["waited"] for row in rows) / max(1e-9, seconds), 4),
            "seconds": round(seconds, 3),
        }
        row = {"step": last["step"], "epoch": last["epoch"], "steps": len(rows), **means, **found, **times}
        self._epochs.write(row)
        self._evaluated += [row] if found else []
        for sink in self._sinks:
            sink.write(last["step"], {f"epoch/{name}": value for name, value in {**means, **found, **times}.items()})
        self._epoch = []
        if time.monotonic() >= self._draw_from:
            self.draw()

    def draw(self) -> None:
        """Write the curves as they are now."""
        began = time.monotonic()
        if self._history.rows:
            write_curves(
                self._folder / CURVES_FILE,
                self._stage,
                self._history.rows,
                self._evaluated,
                batch_size=self._facts.length.batch_size,
                processes=self._facts.processes,
            )
        ended = time.monotonic()
        self._draw_from = ended + max(_SECONDS_BETWEEN_CURVES, _DRAWING_SHARE * (ended - began))

    def why_not_finite(self, precision: str) -> str:
        """What the last steps tell of a loss that is not finite."""
        return why_not_finite(self._last, self._stage, precision)

    def sync(self) -> None:
        """Bring the logs to the disk; a checkpoint must not be ahead of them."""
        self._log.sync()
        self._epochs.sync()

    def close(self) -> None:
        self._log.close()
        self._epochs.close()
        for sink in self._sinks:
            sink.close()

    def _flush(self) -> None:
        self._flushed_at = time.monotonic()
        for sink in self._sinks:
            sink.flush()

    def _tell(self, alarms: Sequence[Alarm]) -> None:
        for alarm in alarms:
            say(f"warning: {alarm.message}")
        if self._alarms.said:
            with atomic_write(self._folder / ALARMS_FILE) as file:
                for alarm in self._alarms.said:
                    file.write(json.dumps(alarm.__dict__) + "\n")


class History:
    """Rows of a log in bounded memory: when there are too many, each two that follow become one,
    their mean.
    """

    def __init__(self) -> None:
        self.rows: list[dict[str, Any]] = []
        self._together = 1
        self._waiting: list[Row] = []

    def add(self, row: Row) -> None:
        self._waiting.append(row)
        if len(self._waiting) < self._together:
            return
        self.rows.append(_mean(self._waiting))
        self._waiting = []
        if len(self.rows) >= 2 * _ROWS_KEPT:
            self.rows = [_mean(self.rows[place : place + 2]) for place in range(0, len(self.rows), 2)]
            self._together *= 2


def _mean(rows: Sequence[Row]) -> dict[str, Any]:
    """The mean of every number that all rows have; the place of the last."""
    last = rows[-1]
    return {
        name: last[name] if name in _NOT_AVERAGED else sum(row[name] for row in rows) / len(rows)
        for name in last
        if all(name in row for row in rows)
    }
