"""Processes that draw and decode beside the main one, and what is done when one of them dies."""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection, wait
from queue import SimpleQueue
from typing import Any, Generic, ParamSpec, TypeVar

import cv2

from vicc.cores import usable_cores
from vicc.errors import ViccError
from vicc.main_guard import MAIN_GUARD, refuse_without_guard
from vicc.progress import say

Arguments = ParamSpec("Arguments")
Item = TypeVar("Item")
Result = TypeVar("Result")

HUNG_AFTER_SECONDS = 120.0
"""A decoder that gives no new frame for this long is taken to hang. Minutes a frame are beyond any
real file.
"""

CANNOT_START = f"Worker processes cannot start. {MAIN_GUARD}; otherwise look at what the workers printed above."
_SLOW_START_SECONDS = 30.0

_in_worker = False


def start_worker() -> None:
    """Make this process one that decodes: one thread for OpenCV; ended by a decoder that hangs, and
    with its parent.

    The last is for a main process that was killed: workers of a pool would wait for ever, since
    each holds both ends of the queue that it reads from.
    """
    global _in_worker
    _in_worker = True
    cv2.setNumThreads(1)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    parent = multiprocessing.parent_process()
    if parent is not None:  # a worker of Ray's has none, and Ray sees to its end
        threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()


def _end_with(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


@contextmanager
def decoder_guard(seconds: float = HUNG_AFTER_SECONDS) -> Iterator[None]:
    """End this worker process if the block takes longer; outside of a worker, do nothing.

    By the default action of a timer's signal, which needs no Python: a decoder may hang while it
    holds the interpreter.
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
    """A pool of spawned processes, one for each usable core by default.

    Spawned, since a forked child of a process with running threads (torch, OpenCV) can hang. OpenCV
    gets one thread in each: one process a core scales 1.96x on two cores, threads 0.93x.

    Raises:
        ViccError: the system has no place for semaphores.
    """
    refuse_without_guard()
    try:
        return ProcessPoolExecutor(
            workers or usable_cores(), multiprocessing.get_context("spawn"), initializer=start_worker
        )
    except OSError as error:  # its semaphores are files there, on Linux
        raise ViccError(
            f"Worker processes cannot start ({error.strerror or error}). They need semaphores, which Linux keeps in "
            "/dev/shm: see that it is there and can be written to."
        ) from error


def submit(
    pool: ProcessPoolExecutor,
    function: Callable[Arguments, Result],
    *arguments: Arguments.args,
    **options: Arguments.kwargs,
) -> "Future[Result]":
    """Hand a call to the pool, whose workers do not see Ctrl-C: it is the main process's to handle.

    Workers start within this call and inherit the signal mask, so they are safe also while they are
    still importing.
    """
    with _ctrl_c_blocked():
        return pool.submit(function, *arguments, **options)


class Workers(Generic[Item, Result]):
    """Processes that call one function on items, each with a pipe of its own to the main process.

    `ProcessPoolExecutor` would do but for processes that end on their way: it ends all others too,
    and if one was just handing over a result, the pipe that they share holds half a message, for
    whose rest the main process waits for ever. Here a process that ends costs its own item and no
    other. The item is tried again; if that ends a process too, its result is `died(item, reason)`.

    Args:
        function: what is called; the processes must be able to import it.
        number: of processes. They start with their first item.
    """

    def __init__(self, function: Callable[[Item], Result], died: Callable[[Item, str], Result], *, number: int) -> None:
        refuse_without_guard()
        self._function, self._died = function, died
        self._waiting: SimpleQueue[tuple[Item, Future[Result]] | None] = SimpleQueue()
        self._processes: set[_Process] = set()
        self._lock = threading.Lock()
        self._stopped = False
        # A thread for each process, which only waits: so a process gets its next item while the
        # main thread writes.
        self._threads = [threading.Thread(target=self._serve, daemon=True) for _ in range(number)]
        # Ctrl-C is the main thread's to handle; threads and processes inherit that. Python starts
        # its tracker with the first process and then lets Ctrl-C through again, so that comes
        # before.
        resource_tracker.ensure_running()
        with _ctrl_c_blocked():
            for thread in self._threads:
                thread.start()

    def submit(self, item: Item) -> "Future[Result]":
        """Hand an item over. Its future raises what the function raised, or ViccError if no process
        can start.
        """
        future: Future[Result] = Future()
        self._waiting.put((item, future))
        return future

    def stop(self) -> None:
        """End all processes at once, in the middle of what they do."""
        with self._lock:
            self._stopped = True
            for process in self._processes:
                process.kill()
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join()
        for process in self._processes:
            process.join()

    def _serve(self) -> None:
        process: _Process | None = None
        while (task := self._waiting.get()) is not None and not self._stopped:
            item, future = task
            reason: str | None = None
            try:
                for _ in range(2):
                    process = process or self._start()
                    try:
                        answer = process.call(self._function, item)
                        break
                    except _DeadProcessError as error:
                        self._forget(process)
                        process, reason = None, str(error)
                else:
                    assert reason is not None
                    answer = self._died(item, reason)
            except Exception as error:  # noqa: BLE001
                future.set_exception(error)  # raised in the thread that waits for the result
            else:
                future.set_result(answer)

    def _start(self) -> "_Process":
        with self._lock:
            if self._stopped:
                raise ViccError("The workers have been stopped.")  # to nobody: whoever stops them waits no more
            process = _Process()
            self._processes.add(process)
        process.wait_until_ready()
        return process

    def _forget(self, process: "_Process") -> None:
        with self._lock:
            self._processes.discard(process)


class _DeadProcessError(Exception):
    """A process has ended instead of answering; the message says why."""


class _Process:
    """One spawned process that answers calls, one after the other."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, theirs = context.Pipe()
        self._process = context.Process(target=_answer, args=(theirs,), daemon=True)
        self._process.start()
        theirs.close()  # the process has its own; ours would keep the pipe open after its end
        self.kill, self.join = self._process.kill, self._process.join

    def wait_until_ready(self) -> None:
        try:
            if not self._pipe.poll(_SLOW_START_SECONDS):
                say("worker processes are slow to start; a script of your own is imported by each of them first")
            self._pipe.recv()
        except (EOFError, OSError):
            raise ViccError(CANNOT_START) from None

    def call(self, function: Callable[[Item], Result], item: Item) -> Result:
        try:
            self._pipe.send((function, item))
            succeeded, answer = self._pipe.recv()
        except (EOFError, OSError):  # no message, or half of one
            self._process.join()
            raise _DeadProcessError(_cause_of_death(self._process.exitcode)) from None
        if not succeeded:
            raise answer
        return answer


def _answer(pipe: "Connection[Any, Any]") -> None:
    """What a `_Process` does: say that it is ready, then answer every call."""
    start_worker()
    pipe.send("ready")
    while True:
        try:
            function, item = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            succeeded, answer = True, function(item)
        except Exception as error:  # noqa: BLE001
            error.add_note(f"In a worker: {traceback.format_exc()}")
            succeeded, answer = False, error
        pipe.send((succeeded, answer))


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
