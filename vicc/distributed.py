"""One process or many: joining them, and the few exchanges vicc needs, which do nothing in a single
process.

Processes are started by torchrun, or by anything that sets its variables: RANK, WORLD_SIZE,
LOCAL_RANK, MASTER_ADDR and MASTER_PORT.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
import torch.distributed.nn
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from vicc.errors import ViccError

Result = TypeVar("Result")

_BUCKET_BYTES = 64 << 20


@contextmanager
def processes(device: torch.device) -> Iterator[None]:
    """Join the processes that the environment speaks of, for as long as the block lasts; nothing if
    it speaks of one.

    Raises:
        ViccError: a variable is missing, or the others did not come within ten minutes.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) <= 1 or dist.is_initialized():
        yield
        return
    missing = [name for name in ("RANK", "MASTER_ADDR", "MASTER_PORT") if name not in os.environ]
    if missing:
        raise ViccError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']}, so this is one of several processes, but {', '.join(missing)} "
            "is not set. Start with: torchrun --nproc-per-node N -m -- vicc pretrain ..."
        )
    if device.type == "cuda":
        torch.cuda.set_device(device)
    try:
        # gloo beside nccl: what processes agree on is exchanged between CPUs, so that no
        # accelerator waits for it.
        backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
        patience = timedelta(minutes=10)
        store, number, count = next(rendezvous("env://", timeout=patience))
        dist.init_process_group(backend, store=_fresh(store), rank=number, world_size=count, timeout=patience)
    except (RuntimeError, ValueError) as error:
        raise ViccError(
            f"Process {os.environ['RANK']} of {os.environ['WORLD_SIZE']} could not join the others at "
            f"{os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']} ({' '.join(str(error).split())[:150]})."
        ) from error
    try:
        yield
    finally:
        dist.destroy_process_group()


def _fresh(store: Store) -> Store:
    """The store in which processes find each other, without what those before a restart have left
    in it.

    On one machine torchrun keeps its store when it starts processes anew, and the first to arrive
    would go to the address of one that is dead. On several machines it makes a new store, and
    counts restarts by machine.
    """
    if os.environ.get("GROUP_WORLD_SIZE") != "1":
        return store
    return PrefixStore(f"start {os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}", store)


class _Alone:
    """Whether this process acts by itself for now."""

    now = False


@contextmanager
def alone() -> Iterator[None]:
    """Within the block nothing is exchanged: this process takes itself for the only one."""
    _Alone.now = True
    try:
        yield
    finally:
        _Alone.now = False


def world_size() -> int:
    """Number of processes that train together."""
    if _Alone.now:
        return 1
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Number of this process among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def is_first() -> bool:
    """Whether this process is the one that writes and speaks for all."""
    return rank() == 0


class Waiting:
    """How many exchanges this process is in the middle of, where it waits for the others; for the
    watchdog to read.
    """

    exchanges = 0


@contextmanager
def exchange() -> Iterator[None]:
    """Around everything that waits for other processes.

    Raises:
        ViccError: the connection to another process broke, see `lost_processes_named`.
    """
    Waiting.exchanges += 1
    try:
        with lost_processes_named():
            yield
    finally:
        Waiting.exchanges -= 1


@contextmanager
def lost_processes_named() -> Iterator[None]:
    """Say in a sentence that another process is gone.

    Raises:
        ViccError: the connection to another process broke within the block: it has ended, or its
            machine has.
    """
    try:
        yield
    except RuntimeError as error:
        if world_size() == 1 or not is_broken_connection(error):
            raise
        sign = re.search(r"Connection (closed|reset) by peer( \S+)?|Broken pipe", str(error))
        reason = sign.group() if sign else " ".join(str(error).split())[:120]
        raise ViccError(
            f"Process {rank()} has lost another one of the {world_size()} ({reason.rstrip('.')}). "
            "It was killed, or its machine was; its own output may say why. The same command continues from the last "
            "checkpoint."
        ) from error


def is_broken_connection(error: BaseException) -> bool:
    """Whether torch means by this error that another process is gone; it has no type for that."""
    text = str(error)
    return isinstance(error, dist.DistBackendError | dist.DistNetworkError) or any(
        sign in text for sign in ("Connection closed by peer", "Connection reset by peer", "Broken pipe", "[Rank")
    )


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """Sum of `tensor` over all processes, in place; no gradient."""
    if world_size() > 1:
        with exchange():
            dist.all_reduce(tensor, op=dist.ReduceOp.SUM)
    return tensor


def all_reduce_max(tensor: torch.Tensor) -> torch.Tensor:
    """Largest value of `tensor` over all processes, elementwise, in place; no gradient."""
    if world_size() > 1:
        with exchange():
            dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return tensor


def mean_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """Mean of `tensor` over all processes; its gradient is exchanged in the same way."""
    if world_size() == 1:
        return tensor
    with exchange():
        return torch.distributed.nn.functional.all_reduce(tensor) / world_size()


def all_gather(tensor: torch.Tensor) -> torch.Tensor:
    """The tensors of all processes, equal in shape, joined along the first axis in the order of
    ranks; no gradient.
    """
    if world_size() == 1:
        return tensor
    parts = [torch.empty_like(tensor, memory_format=torch.contiguous_format) for _ in range(world_size())]
    with exchange():
        dist.all_gather(parts, tensor.contiguous())
    return torch.cat(parts)


class _AllGather(torch.autograd.Function):
    """`all_gather`; backward sums what all processes ask of a row."""

    @staticmethod
    def forward(ctx: Any, tensor: torch.Tensor) -> torch.Tensor:
        return all_gather(tensor)

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        # A copy of its own: what autograd hands over may be in use elsewhere.
        everywhere = all_reduce_sum(gradient.clone(memory_format=torch.contiguous_format))
        return everywhere.chunk(world_size())[rank()]


def all_gather_with_gradient(tensor: torch.Tensor) -> torch.Tensor:
    """`all_gather` with a gradient: the sum, over processes, of those of their losses.

    Averaged over processes as `average_gradients` does, gradients of the weights are then those of
    the mean of all losses.
    """
    return tensor if world_size() == 1 else _AllGather.apply(tensor)


def from_first(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor of process 0, on every process; overwrites `tensor`."""
    if world_size() > 1:
        with exchange():
            dist.broadcast(tensor, src=0)
    return tensor


def average_gradients(weights: Iterable[torch.Tensor]) -> None:
    """Replace every gradient by its mean over all processes, in buckets that are the same at every
    step.

    DistributedDataParallel divides gradients into buckets anew after its first step. With more than
    two processes the order of a sum depends on the place in a bucket, so the first step after a
    resume would not be bit-equal.
    """
    if world_size() == 1:
        return
    bucket: list[torch.Tensor] = []
    for weight in weights:
        if weight.grad is None:
            continue
        full = bucket and sum(grad.nbytes for grad in bucket) + weight.grad.nbytes > _BUCKET_BYTES
        if full or (bucket and bucket[0].dtype != weight.grad.dtype):
            _average(bucket)
            bucket = []
        bucket.append(weight.grad)
    _average(bucket)


def _average(tensors: list[torch.Tensor]) -> None:
    if not tensors:
        return
    flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
    all_reduce_sum(flat).div_(world_size())
    pieces = flat.split([tensor.numel() for tensor in tensors])
    torch._foreach_copy_(tensors, [piece.view(tensor.shape) for piece, tensor in zip(pieces, tensors, strict=True)])


def any_process(flags: list[bool]) -> list[bool]:
    """Of each flag, whether any process has it set; exchanged between CPUs."""
    if world_size() == 1:
        return flags
    return [bool(value) for value in all_reduce_max(torch.tensor(flags, dtype=torch.uint8)).tolist()]


def mean_of_all(values: torch.Tensor) -> torch.Tensor:
    """Mean of CPU values over all processes; no gradient."""
    return all_reduce_sum(values.clone()) / world_size()


def gathered(value: Any) -> list[Any] | None:
    """The values of all processes, in the order of ranks, on process 0; None elsewhere. Values must
    be picklable.
    """
    if world_size() == 1:
        return [value]
    values: list[Any] | None = [None] * world_size() if is_first() else None
    with exchange():
        dist.gather_object(value, values)
    return values


def first_then_others(work: Callable[[], Result]) -> Result:
    """Do `work` in process 0, which may have to download or write something, then in the others,
    which find it done.

    Raises:
        ViccError, OSError: what `work` raised, in process 0 in every process.
    """
    done: list[Result] = []
    on_first(lambda: done.append(work()))
    return done[0] if done else work()


def on_first(work: Callable[[], Result]) -> Result:
    """Do `work` in process 0 alone and give its result, or its error, to all. The result must be
    picklable.

    Raises:
        ViccError, OSError: what `work` raised in process 0, in every process.
    """
    if world_size() == 1:
        return work()
    outcome: list[Any] = [None, None]
    if is_first():
        try:
            outcome[0] = work()
        except (ViccError, OSError) as error:
            outcome[1] = error
    with exchange():
        dist.broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
