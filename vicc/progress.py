"""Progress on standard error: a bar with an ETA on a terminal, a line now and then in a log file."""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any, Protocol, cast

if TYPE_CHECKING:  # it takes a third of a second, and a wrong flag is answered without it
    from rich.console import Console


class Advance(Protocol):
    """Says that `count` more pieces of work are done, and what there is to say of them."""

    def __call__(self, count: int, note: str = "") -> None: ...


_SECONDS_BETWEEN_LINES = 15.0


def process_number() -> int:
    """Which of the processes that train together this is, from 0, as torchrun says it; free of
    torch.
    """
    return int(os.environ.get("RANK", "0"))


def complain(message: str) -> None:
    """Print a sentence on standard error from any process, with its number if there are several."""
    who = f" (process {process_number()})" if int(os.environ.get("WORLD_SIZE", "1")) > 1 else ""
    print(f"vicc{who}: {message}", file=cast(IO[str], _StandardError()), flush=True)


def say(message: str) -> None:
    """Print one line for people, on standard error, so that standard output stays for results.

    Of several processes that train together the first speaks for all.
    """
    if process_number() == 0:
        _console().print(message, markup=False, highlight=False, soft_wrap=True)


@contextmanager
def progress(description: str, *, total: int, start: int = 0, unit: str = "") -> Iterator[Advance]:
    """Show the progress of `total` pieces of work; yields `advance(count, note)`.

    Args:
        start: pieces done before, when work continues; they do not count for the ETA.
        unit: what is counted, for the log lines.
    """
    console = _console()
    if process_number() != 0:
        yield lambda count, note="": None
        return
    if not console.is_terminal:
        with _lines(console, description, total, start, unit) as advance:
            yield advance
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )
    from rich.table import Column

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("ETA"),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
    )
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(description, total=total, completed=start, note="")

        def advance_bar(count: int, note: str = "") -> None:
            bar.update(task, advance=count, note=note)

        yield advance_bar


@contextmanager
def _lines(console: "Console", description: str, total: int, start: int, unit: str) -> Iterator[Advance]:
    began = last = time.monotonic()
    done, latest_note = start, ""

    def line() -> None:
        seconds = time.monotonic() - began
        rate = (done - start) / seconds if seconds > 0 else 0.0
        eta = f", ETA {duration((total - done) / rate)}" if rate > 0 and done < total else ""
        text = f"{description}: {done}/{total} {unit}".rstrip() + f", {duration(seconds)}{eta}"
        console.print(text + (f", {latest_note}" if latest_note else ""), markup=False, highlight=False, soft_wrap=True)

    def advance(count: int, note: str = "") -> None:
        nonlocal done, last, latest_note
        done, latest_note = done + count, note
        if time.monotonic() - last >= _SECONDS_BETWEEN_LINES and done < total:
            last = time.monotonic()
            line()

    yield advance
    line()


def duration(seconds: float) -> str:
    """A time in the two units that say it best, for instance "42 s", "3 min 20 s", "5 h 12 min", "2
    d 4 h".
    """
    whole = round(seconds)
    for unit, name, smaller, smaller_name in ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= (2 if unit == 60 else 1) * unit:
            count, rest = divmod(whole, unit)
            return f"{count} {name}" + (f" {rest // smaller} {smaller_name}" if rest >= smaller else "")
    return f"{whole} s"


class _StandardError:
    """Standard error as it is now, where a disk that is full ends no training: what is said of it
    is lost, no more.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> None:
        self._unless_full(lambda: sys.stderr.write(text))

    def flush(self) -> None:
        self._unless_full(sys.stderr.flush)

    @staticmethod
    def _unless_full(act: Callable[[], object]) -> None:
        try:
            act()
        except BrokenPipeError:  # nobody reads: the program ends, as others do
            raise
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
                raise


def new_console(kind: "type[Console] | None" = None, *, file: IO[str] | None = None) -> "Console":
    """Where rich prints: on `file`, or on standard output; a `Console`, or one of a subclass of it.

    A terminal that says it has no columns is taken for one of 80, since in none rich prints nothing
    at all.
    """
    from rich.console import Console

    console = (kind or Console)(file=file)
    if console.width < 1:
        console.width = 80
    return console


def _console() -> "Console":
    return new_console(file=cast(IO[str], _StandardError()))
