"""Processes that draw and decode beside the main one, and what is done when one of them dies."""

import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection
from typing import Any, ParamSpec, TypeVar

import cv2

from vicc.errors import ViccError

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")

HUNG_AFTER_SECONDS = 120.0
"""A decoder that gives no new frame for this long is taken to hang. Minutes a frame are beyond any real file."""

_in_worker = False


def _start_worker() -> None:
    global _in_worker
    _in_worker = True
    cv2.setNumThreads(1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


@contextmanager
def decoder_guard(seconds: float = HUNG_AFTER_SECONDS) -> Iterator[None]:
    """End this worker process if the block takes longer; outside of a worker, do nothing.

    By the default action of a timer's signal, which needs no Python: a decoder may hang while it holds the interpreter.
    """
    if not _in_worker:
        yield
        return
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def new_pool(workers: int | None) -> ProcessPoolExecutor:
    """A pool of spawned processes, one for each core by default.

    Spawned, since a forked child of a process with running threads (torch, OpenCV) can hang. OpenCV gets one thread in
    each: one process a core scales 1.96x on two cores, threads 0.93x.
    """
    return ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), initializer=_start_worker)


def submit(
    pool: ProcessPoolExecutor,
    function: Callable[Arguments, Result],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> "Future[Result]":
    """Hand a call to the pool, whose workers do not see Ctrl-C: it is the main process's to handle.

    Workers start within this call and inherit the signal mask, so they are safe also while they are still importing.
    """
    with _ctrl_c_blocked():
        return pool.submit(function, *arguments, **options)


def in_order(
    items: Sequence[Item], function: Callable[[Item], Result], died: Callable[[Item, str], Result], *, workers: int
) -> Iterator[tuple[Item, Result]]:
    """Call `function` for every item in parallel and yield the results in the order of the items.

    A decoder that crashes or hangs takes its whole pool with it: the items then under way are tried again, each in a
    process of its own, and for one whose process dies again there is `died(item, reason)` in place of a result.
    """
    waiting = deque(items)
    while waiting:
        running: deque[tuple[Item, Future[Result]]] = deque()
        pool = new_pool(workers)
        try:
            while waiting or running:
                while waiting and len(running) < 3 * workers:
                    # Off the list only once handed over: a broken pool takes nothing.
                    running.append((waiting[0], submit(pool, function, waiting[0])))
                    waiting.popleft()
                item, future = running[0]
                result = future.result()
                running.popleft()
                yield item, result
        except BrokenProcessPool:
            for item, future in running:
                finished = future.done() and future.exception() is None
                yield item, future.result() if finished else _alone(item, function, died)
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _alone(item: Item, function: Callable[[Item], Result], died: Callable[[Item, str], Result]) -> Result:
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_answer, args=(sender, function, item))
    with _ctrl_c_blocked():
        process.start()
    sender.close()  # the process has its own; ours would keep the pipe open after its end
    try:
        succeeded, answer = receiver.recv()
    except EOFError:
        process.join()
        require_workers()  # before a file is blamed
        return died(item, _cause_of_death(process.exitcode))
    except BaseException:
        process.kill()
        raise
    finally:
        receiver.close()
    process.join()
    if not succeeded:
        raise answer
    return answer


def _answer(sender: "Connection[Any, Any]", function: Callable[[Item], Any], item: Item) -> None:
    _start_worker()
    try:
        sender.send((True, function(item)))
    except Exception as error:  # noqa: BLE001
        sender.send((False, error))  # to be raised by the process that asked


def _cause_of_death(exit_code: int | None) -> str:
    if exit_code == -signal.SIGALRM:
        return f"decoding hung: no new frame for {HUNG_AFTER_SECONDS:.0f} s"
    if exit_code == -signal.SIGKILL:
        return "the decoder was killed on this file, most often because memory was short"
    return "the decoder crashed on this file"


@contextmanager
def _ctrl_c_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def require_workers() -> None:
    """Make sure that a worker can start and do nothing; what breaks a pool then is the work, not the pool.

    Raises:
        ViccError: none can start. The usual reason is a script that calls vicc outside of a main guard: each worker
            imports the script, and so would call vicc again.
    """
    try:
        with new_pool(1) as pool:
            submit(pool, int).result()
    except BrokenProcessPool as error:
        raise ViccError(
            "Worker processes cannot start. In a script of your own, put the calls under if __name__ == '__main__':, "
            "since each worker imports the script; otherwise look at what the workers printed above."
        ) from error
