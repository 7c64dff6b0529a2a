"""The log of a stage: one JSON line a step. After a resume it is what it would have been without
the stop.
"""

import json
import os
from pathlib import Path
from typing import Any

from vicc.errors import ViccError

LOG_FILE, EPOCHS_FILE = "log.jsonl", "epochs.jsonl"
_FIELDS_BEFORE = {"own_video_recall": "instance_recall"}  # names that earlier versions have written, and today's


class StepLog:
    """Appends steps to a file; steps at or after `first_step`, written after the last checkpoint,
    are dropped first.

    Args:
        folder: the stage's folder.
        first_step: the step with which the training goes on.
        name: of the file; its rows are those of steps, or of epochs under the step they ended with.
    """

    def __init__(self, folder: Path, *, first_step: int, name: str = LOG_FILE) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / name
        self._cut(first_step)
        self._file = self.path.open("a", encoding="utf-8")

    def write(self, row: dict[str, Any]) -> None:
        self._file.write(json.dumps(row) + "\n")

    def sync(self) -> None:
        """Bring what was written to the disk; called before a checkpoint, which must not be ahead
        of its log.
        """
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()

    def _cut(self, first_step: int) -> None:
        if not self.path.exists():
            return
        kept = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    if json.loads(line)["step"] >= first_step:
                        break
                except (ValueError, KeyError):
                    break  # a line cut short by a crash; what follows was never part of a checkpoint
                kept += len(line)
        os.truncate(self.path, kept)


def read_log(folder: Path, name: str = LOG_FILE) -> list[dict[str, Any]]:
    """The steps of a stage, or with `EPOCHS_FILE` its epochs, in order; empty before it began.

    Fields that an earlier version has written under another name have today's.

    Raises:
        ViccError: a line that is not JSON, other than an unfinished last one.
    """
    path = folder / name
    if not path.exists():
        return []
    lines = path.read_bytes().split(b"\n")  # decoded line by line, so that the damaged one is named
    rows = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            row = json.loads(line)
            rows.append({_FIELDS_BEFORE.get(field, field): value for field, value in row.items()})
        except (ValueError, AttributeError) as error:  # no JSON, or no object
            raise ViccError(f"Line {number} of {path} is not JSON: the log is damaged.") from error
    return rows
