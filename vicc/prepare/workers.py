"""Processes that draw and decode beside the main one."""

import multiprocessing
import signal
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import ParamSpec, TypeVar

import cv2

from vicc.errors import ViccError

Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def new_pool(workers: int | None) -> ProcessPoolExecutor:
    """A pool of spawned processes, one for each core by default.

    Spawned, since a forked child of a process with running threads (torch, OpenCV) can hang. OpenCV gets one thread in
    each: one process a core scales 1.96x on two cores, threads 0.93x.
    """
    return ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=cv2.setNumThreads, initargs=(1,)
    )


def submit(
    pool: ProcessPoolExecutor,
    function: Callable[Arguments, Result],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> "Future[Result]":
    """Hand a call to the pool, whose workers do not see Ctrl-C: it is the main process's to handle.

    Workers start within this call and inherit the signal mask, so they are safe also while they are still importing.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return pool.submit(function, *arguments, **options)
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
