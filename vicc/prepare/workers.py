"""Processes that draw and decode beside the main one, and what is done when one of them dies."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from typing import Any, ParamSpec, TypeVar

import cv2

from vicc.errors import ViccError

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")

HUNG_AFTER_SECONDS = 120.0
"""A decoder that gives no new frame for this long is taken to hang. Minutes a frame are beyond any real file."""

_in_worker = False


def start_worker() -> None:
    """Make this process one that decodes: one thread for OpenCV, and a decoder that hangs may end it."""
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


class WorkerPool(ProcessPoolExecutor):
    """A pool of spawned processes that end with this one, however it ends.

    The executor's own workers wait for ever when the main process was killed, for each of them holds the other end of
    the queue that they read from. Ours also hold one end of a pipe, the leash, whose other end nobody else has.
    """

    def __init__(self, workers: int | None) -> None:
        held_by_workers, self._leash = multiprocessing.Pipe(duplex=False)
        super().__init__(
            workers, multiprocessing.get_context("spawn"), initializer=_start_pooled, initargs=(held_by_workers,)
        )

    def end_now(self) -> None:
        """End all workers in the middle of what they do; without it a shutdown waits for the calls under way."""
        self._leash.close()


def _start_pooled(leash: "Connection[Any, Any]") -> None:
    start_worker()
    _end_with(leash)


def _end_with(leash: "Connection[Any, Any]") -> None:
    """End this process as soon as the other end of the pipe is closed; nothing is ever sent from there."""

    def watch() -> None:
        wait([leash])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def new_pool(workers: int | None) -> WorkerPool:
    """A pool of spawned processes, one for each core by default.

    Spawned, since a forked child of a process with running threads (torch, OpenCV) can hang. OpenCV gets one thread in
    each: one process a core scales 1.96x on two cores, threads 0.93x.
    """
    return WorkerPool(workers)


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


def alone(function: Callable[[Item], Result], item: Item, died: Callable[[Item, str], Result]) -> Result:
    """Call `function` in a process of its own; if that dies, the result is `died(item, reason)`."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe()
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
    start_worker()
    _end_with(sender)
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
