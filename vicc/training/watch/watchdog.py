"""A watch over training: when nothing moves any more, it says which process, step and video, and
ends the process.
"""

import faulthandler
import json
import os
import platform
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from vicc.distributed import Waiting, rank, world_size
from vicc.files import atomic_write
from vicc.progress import complain

EXIT_HUNG = 75
"""Exit status of a process that the watchdog ended: a failure that may pass, for whoever starts
processes anew.
"""

_BEAT_SECONDS = 10.0
_at_hang: list[Callable[[int], None]] = []


@contextmanager
def at_hang(call: Callable[[int], None]) -> Iterator[None]:
    """Within the block, let a watchdog call this with its step before it ends a process that hangs."""
    _at_hang.append(call)
    try:
        yield
    finally:
        _at_hang.remove(call)


class Watchdog:
    """Knows what this process does, writes it to a file that the other processes can read, and ends
    a hung process.

    RUN/STAGE/processes/0.json         what process 0 does, every ten seconds
    RUN/STAGE/processes/0.stacks.txt   where all its threads were when it was found to hang

    Args:
        folder: of the stage.
        minutes: without a step after which training hangs; 0 watches nothing.
        videos: names of the videos that this process is loading for a step.
        end: ends the process.
    """

    def __init__(
        self,
        folder: Path,
        *,
        minutes: float,
        videos: Callable[[int], Sequence[str]] = lambda step: (),
        end: Callable[[int], None] = os._exit,
    ) -> None:
        self.folder = folder / "processes"
        self.seconds = 60 * minutes
        self.videos = videos
        self.end = end
        self.doing, self.step = "starts", 0
        self._moves = 0
        self._beat_seconds = min(_BEAT_SECONDS, self.seconds / 4)
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> "Watchdog":
        if self.seconds:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()
        if self.seconds:
            self._thread.join()

    def at(self, doing: str, step: int) -> None:
        """Said by the loop whenever it goes on: what it does now, in which step."""
        self.doing, self.step, self._moves = doing, step, self._moves + 1

    def _watch(self) -> None:
        beats = idle = moves = 0
        self._beat(beats)
        while not self._closed.wait(self._beat_seconds):
            beats += 1
            self._beat(beats)
            # Beats are counted, not time: a program that is stopped (Ctrl-Z, a machine that sleeps)
            # has none.
            idle = idle + 1 if self._moves == moves else 1
            moves = self._moves
            if idle * self._beat_seconds > self.seconds:
                self._end()
                return

    def _beat(self, beats: int) -> None:
        state = {
            "process": rank(),
            "host": platform.node(),
            "pid": os.getpid(),
            "step": self.step,
            "doing": "waits for the others" if Waiting.exchanges else self.doing,
            "videos": list(self.videos(self.step)) if self.doing == "loads" else [],
            "beats": beats,
        }
        try:
            # Not `write_json`, which waits for the disk: these lines matter for seconds.
            with atomic_write(self.folder / f"{rank()}.json", sync=False) as file:
                json.dump(state, file)
        except OSError:
            return  # a disk that is full or gone is for the training to report

    def _end(self) -> None:
        stacks = self.folder / f"{rank()}.stacks.txt"
        try:
            with stacks.open("w") as file:
                faulthandler.dump_traceback(file, all_threads=True)
            where = f"Where all threads are stands in {stacks}."
        except OSError as error:  # on a full disk a process that hangs must end as well
            where = f"{stacks}, where all threads are, cannot be written ({error.strerror})."
        minutes = self.seconds / 60
        complain(
            f"No step was made for {minutes:.3g} minutes. {self._accuse()} {where} This process ends; the same command "
            "continues from the last checkpoint. Work that takes longer: --hang-minutes."
        )
        for call in _at_hang:
            call(self.step)
        self.end(EXIT_HUNG)

    def _accuse(self) -> str:
        """What is to be said of the processes that do not wait for others: they are what the others
        wait for.
        """
        before = self._read_beats()
        for beats in (-3, -2, -1) if world_size() > 1 else ():
            self._beat(beats)  # the others may be about to judge this process
            time.sleep(self._beat_seconds)
        now = self._read_beats()
        said = []
        for number in range(world_size()):
            state = now.get(number)
            if state is None:
                said.append(f"Process {number} has never been heard of.")
            elif number != rank() and state == before.get(number):
                said.append(
                    f"Process {number} (pid {state['pid']} on {state['host']}) is no longer heard of; it was in step "
                    f"{state['step']} ({_doing(state)})."
                )
            elif state["doing"] != "waits for the others":
                said.append(
                    f"Process {number} (pid {state['pid']} on {state['host']}) hangs in step {state['step']}: it "
                    f"{_doing(state)}."
                )
        return " ".join(said) or f"All {world_size()} processes wait for each other, in step {self.step}."

    def _read_beats(self) -> dict[int, dict[str, Any]]:
        beats = {}
        for number in range(world_size()):
            try:
                beats[number] = json.loads((self.folder / f"{number}.json").read_text())
            except (OSError, ValueError):
                continue
        return beats


def _doing(state: dict[str, Any]) -> str:
    if not state["videos"]:
        return str(state["doing"])
    names = ", ".join(state["videos"][:8]) + (", ..." if len(state["videos"]) > 8 else "")
    return f"{state['doing']} {names}"
