"""`vicc prepare --engine ray`: the engine that spreads the work over a Ray cluster.

Ray schedules, retries after a lost worker or node, and carries the results. What is ours is the
order, a bound on what is under way, and quiet.
"""

import io
import os
import signal
import socket
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager, redirect_stdout
from typing import Any

from vicc.errors import ViccError
from vicc.prepare.engines import Item, Result, in_order
from vicc.prepare.workers import start_worker
from vicc.progress import say
from vicc.version import __version__

MAX_RETRIES = 3  # of a task whose worker or node was lost
DIED = f"the decoder crashed or hung on this file, or memory was short, {MAX_RETRIES + 1} times"


def run_on_ray(
    work: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    died: Callable[[Item, str], Result],
    size_of: Callable[[Result], int],
    address: str | None,
    workers: int | None,
) -> Generator[tuple[Item, Result], None, None]:
    """The engine of a Ray cluster: an item is a task of one CPU, done again by Ray if its worker or
    node is lost.

    Ray runs one task a process at a time, so an item that ends its worker each time harms no other.

    Args:
        address: host:port of the cluster. None: the environment's RAY_ADDRESS, else a Ray of this
            machine's own.
        workers: tasks that may run at once. None: one for each CPU of the cluster, also of nodes
            that join later.

    Raises:
        ViccError: no Ray installed, no cluster at the address, or nodes with another vicc.
    """
    if not items:
        return
    address = address or os.environ.get("RAY_ADDRESS")
    with _connected(address, workers) as ray:
        task = ray.remote(_do).options(
            num_cpus=1, max_retries=MAX_RETRIES, scheduling_strategy="SPREAD", name="vicc prepare"
        )
        references: dict[Future[Result], Any] = {}

        def slots() -> int:
            if workers and address:
                return workers  # a Ray of our own has no more CPUs than that, so there tasks may queue
            return 2 * max(1, int(ray.cluster_resources().get("CPU", 0)))

        def start(item: Item) -> "Future[Result]":
            reference = task.remote(work, item, __version__)
            answer: Future[Result] = Future()
            references[answer] = reference
            # This takes the result out of Ray's object store as soon as it is there, so that the
            # store holds no more than what workers are just handing over; what waits for its turn
            # is counted by `in_order`.
            reference.future().add_done_callback(lambda raw: finish(item, raw, answer))
            return answer

        def finish(item: Item, raw: "Future[Result]", answer: "Future[Result]") -> None:
            references.pop(answer, None)
            try:
                answer.set_result(died(item, DIED) if crashed(raw) else raw.result())
            # This is a thread of Ray's: what goes wrong is raised where the answer is awaited.
            except Exception as error:  # noqa: BLE001
                answer.set_exception(_explain(ray, error))

        def crashed(raw: "Future[Result]") -> bool:
            return isinstance(raw.exception(), ray.exceptions.WorkerCrashedError)

        try:
            yield from in_order(start, deque(items), size_of=size_of, slots=slots)
        finally:
            for reference in list(references.values()):
                ray.cancel(reference, force=True)


def _do(work: Callable[[Item], Result], item: Item, version: str) -> Result:
    """What a task does, on its node."""
    if version != __version__:
        raise ViccError(
            f"The node {os.uname().nodename} has vicc {__version__}, this machine {version}: their stores could "
            "differ. Install the same version on every node."
        )
    start_worker()
    return work(item)


def _explain(ray: Any, error: Exception) -> Exception:
    if isinstance(error, ray.exceptions.RayTaskError):  # raised by the work
        return error.cause if isinstance(error.cause, ViccError) else error
    if not isinstance(error, ray.exceptions.RayError):
        return error
    return ViccError(
        f"The Ray cluster lost work that it could not do again ({_first_line(error)}). What is in the store is kept: "
        "give the same command again."
    )


@contextmanager
def _connected(address: str | None, workers: int | None) -> Iterator[Any]:
    """The module `ray`, connected to a cluster; one that the caller's program has connected to is
    used as it is.
    """
    try:
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # else a warning about a coming default
        import ray
    except ImportError:
        raise ViccError("--engine ray needs Ray, which is not installed: pip install 'vicc[ray]'.") from None
    # Ray prints messages about lost workers to standard output, from a thread of its own and
    # without an option to turn it off; there they would stand in the middle of the JSON document.
    with redirect_stdout(io.StringIO()):
        mine = not ray.is_initialized()
        if mine:
            _connect(ray, address, workers)
        try:
            nodes = sum(node["Alive"] for node in ray.nodes())
            say(f"Ray: {ray.cluster_resources().get('CPU', 0):.0f} CPUs on {nodes} node{'s' if nodes != 1 else ''}")
            yield ray
        finally:
            if mine:
                ray.shutdown()


def _connect(ray: Any, address: str | None, workers: int | None) -> None:
    if address:
        _require_listener(address)
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "error")  # else a warning a second while it tries
    # A Ray of this machine's own is given its size and no dashboard; a cluster has both already.
    own: dict[str, Any] = {} if address else {"num_cpus": workers, "include_dashboard": False}
    if not address:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing is reported to anyone
    handler = signal.getsignal(signal.SIGTERM)
    try:
        ray.init(address=address or "local", log_to_driver=False, logging_level="error", **own)
    except (ConnectionError, RuntimeError, ValueError, AssertionError) as error:
        raise ViccError(
            f"No connection to the Ray cluster at {address or 'this machine'} ({_first_line(error)}). Check that it "
            "runs there (ray status), with the same Ray, Python, RAY_AUTH_MODE and token as here."
        ) from error
    finally:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray has put its own there; ours says that the run can go on


def _require_listener(address: str) -> None:
    """Ray tries for five minutes to reach a cluster that is not there, and then ends the process."""
    host, _, port = address.rpartition(":")
    if address == "auto":
        return
    if "/" in address or not host or not port.isdigit():
        raise ViccError(f"--ray-address {address}: expected host:port of the cluster's head, for instance head:6379.")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise ViccError(
            f"No Ray cluster answers at {address} ({error}). Start one with ray start --head --port={port}, or give "
            "another --ray-address."
        ) from error


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
