"""Engines: run one function over many items in parallel, hand the results back in order, outlive
broken processes.

An engine knows nothing of videos: see `Engine`. Results come in the order of the items, so that
equal runs write equal stores, whatever finished first. Here: processes of this machine.
`ray_engine` spreads the same work over a Ray cluster.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from typing import Protocol, TypeVar

from vicc.prepare.workers import Workers

Item = TypeVar("Item")
Result = TypeVar("Result")

# Results that wait for an earlier item, in bytes. The bound is on bytes, for one on their number
# lets all workers wait for one long video: with six results in the window, five clips of a second
# after a film of an hour were all there was.
HELD_BYTES = 256 << 20


class Engine(Protocol):
    """Runs `work` on every item and yields (item, result) in the order of the items.

    Args:
        died: makes the result of an item whose process ended, and ended again when the item was
            tried again, out of the item and the reason.
        size_of: bytes of a result, for the bound on results that are held back.
    """

    def __call__(
        self,
        work: Callable[[Item], Result],
        items: Sequence[Item],
        *,
        died: Callable[[Item, str], Result],
        size_of: Callable[[Result], int],
    ) -> Generator[tuple[Item, Result], None, None]: ...


def run_locally(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    died: Callable[[Item, str], Result],
    size_of: Callable[[Result], int] = lambda result: 0,
    workers: int,
) -> Generator[tuple[Item, Result], None, None]:
    """The engine of one machine: `workers` spawned processes.

    Without `size_of`, results count as too small to matter.
    """
    pool = Workers(work, died, number=workers)
    try:
        yield from in_order(pool.submit, deque(items), size_of=size_of, slots=lambda: 2 * workers)
    finally:
        pool.stop()  # also when the caller is stopped: a film of an hour is not waited for


def in_order(
    start: Callable[[Item], "Future[Result]"],
    waiting: deque[Item],
    *,
    size_of: Callable[[Result], int],
    slots: Callable[[], int],
) -> Iterator[tuple[Item, Result]]:
    """Start items as workers become free and yield their results in order.

    Args:
        start: hands one item to a worker.
        waiting: items; emptied from the left.
        slots: items that may be under way: those in the workers, and enough behind them that none
            waits.
    """
    started: deque[tuple[Item, Future[Result]]] = deque()
    running: set[Future[Result]] = set()
    held = 0
    while waiting or started:
        while waiting and len(running) < slots() and held < HELD_BYTES:
            item = waiting.popleft()
            future = start(item)
            started.append((item, future))
            running.add(future)
        finished, running = wait(running, return_when=FIRST_COMPLETED)
        held += sum(size_of(future.result()) for future in finished)
        while started and started[0][1] not in running:
            item, future = started.popleft()
            result = future.result()
            held -= size_of(result)
            yield item, result
