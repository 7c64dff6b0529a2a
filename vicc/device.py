"""Which device computes, in which precision and in how many threads. A leaf anyone may import."""

import ctypes
import os
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Literal

import psutil
import torch

from vicc.cores import usable_cores
from vicc.errors import ViccError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
_SECONDS_TO_LOOK = 0.15  # at what other programs take of the cores; the system counts in hundredths
_WORTH_A_THREAD = 0.9  # of the time with one thread; what gains less only takes cores from others
_HALVES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def choose_device(name: str | None = None) -> torch.device:
    """The device of that name, or the best there is: CUDA, then Apple's MPS, then the CPU.

    Raises:
        ViccError: a device that this machine or this build of torch does not have.
    """
    if name is None:
        if torch.cuda.is_available():
            # One GPU for each process of a machine. Some clusters show a process its own alone.
            return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ViccError(
            f"--device {name} cannot be used ({reason}). Leave it out to take the best there is."
        ) from error
    return device


@dataclass(frozen=True)
class Precision:
    """How a model computes: in float32, in float64 (slow, for comparing numbers), or in a half of
    16 bits by autocast.

    fp16 needs its gradients scaled (`TrainingStep` does), or small ones become zero; bf16 has
    float32's range.

    All use channels-last memory: on CPUs it and bf16 alone give little, both together 2.4x to 3.2x
    on S3D.
    """

    name: Literal["fp32", "bf16", "fp16", "fp64"]
    device: torch.device

    def autocast(self) -> AbstractContextManager[object]:
        """Context for a forward pass."""
        half = _HALVES.get(self.name)
        return nullcontext() if half is None else torch.autocast(self.device.type, dtype=half)

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device, in the number format and memory layout that suit the
        precision.
        """
        if self.name == "fp64":
            module.double()
        # torch lists the 3D layout only for tensors, not in the annotation of Module.to.
        return module.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def choose_precision(name: PrecisionName, device: torch.device) -> Precision:
    """Resolve "auto": bf16 where the device computes it natively, else fp32.

    Raises:
        ViccError: bf16 asked for on a device that cannot compute it natively, or fp16 on one that
            is neither CUDA nor a CPU.
    """
    native = has_native_bf16(device)
    if name == "bf16" and not native:
        raise ViccError(f"--precision bf16: {device} does not compute bf16 natively. Use --precision fp32 (or auto).")
    if name == "fp16" and device.type not in ("cuda", "cpu"):
        raise ViccError(f"--precision fp16: gradients cannot be scaled on {device}. Use --precision fp32 (or auto).")
    if name == "auto":
        name = "bf16" if native else "fp32"
    return Precision(name, device)


def process_cores() -> int:
    """Cores that this process may use: its share of them where several processes of this machine
    train together.
    """
    return max(1, usable_cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))


def choose_threads(asked: int | Literal["auto"], device: torch.device) -> int:
    """Threads to compute with: as many as asked for; with "auto" what is best now, found in about a
    third of a second.

    More threads than free cores are worse than one: every operation waits for all of its threads,
    and one that has to wait for a core holds up the others. With two busy neighbours on two cores a
    step of the demo took 0.5 to 12 s with two threads and 0.33 s with one. So threads are as many
    as cores are free, if they also measure faster than one.

    Where OMP_NUM_THREADS is set, or an accelerator computes, "auto" leaves the number as torch has
    it.
    """
    if asked != "auto":
        return asked
    now = torch.get_num_threads()
    if device.type != "cpu" or os.environ.get("OMP_NUM_THREADS"):
        return now
    most = min(now, process_cores())
    if most > 1:
        most = max(1, min(most, int(free_cores() + 0.5)))
    if most == 1:
        return 1
    with computing_threads(most):
        _convolve()  # the first one starts the threads
        many = _convolve()
    with computing_threads(1):
        one = _convolve()
    return most if many < _WORTH_A_THREAD * one else 1


@contextmanager
def computing_threads(number: int) -> Iterator[None]:
    """Let torch compute in so many threads within the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def free_cores() -> float:
    """How many of the cores that this process may run on other programs leave free now; it only
    waits meanwhile.

    They may be more than `process_cores`: a container that may use two cores' time runs on any core
    of its machine. Of several processes that train together each gets its share.
    """
    shares = psutil.cpu_percent(interval=_SECONDS_TO_LOOK, percpu=True)
    if hasattr(os, "sched_getaffinity"):
        mine = os.sched_getaffinity(0)
        shares = [share for core, share in enumerate(shares) if core in mine]
    return (len(shares) - sum(shares) / 100) / int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def _convolve() -> float:
    """Seconds of small convolutions forward and back, as in a step of a small model: the middle of
    five tries.
    """
    clips = torch.ones(4, 16, 8, 16, 16).requires_grad_()
    weights = torch.ones(16, 16, 1, 3, 3).requires_grad_()
    seconds = []
    for _ in range(5):
        began = time.monotonic()
        result = clips
        for _ in range(4):
            result = torch.relu(torch.nn.functional.conv3d(result, weights, padding=(0, 1, 1)))
        result.mean().backward()
        seconds.append(time.monotonic() - began)
    return median(seconds)


def cpu_bf16_loses_gradients(module: torch.nn.Module, example: torch.Tensor) -> list[str]:
    """Names of 3D convolutions in `module` whose bf16 gradient cannot be trusted on a CPU, for
    inputs like `example`.

    Where the input is shorter in time than the kernel, oneDNN's bf16 gradient of the weights reads
    memory it never wrote: seen with torch 2.13, kernel (3, 1, 1) and two frames, off by up to 1e37,
    now and then NaN.
    """
    found: list[str] = []
    handles = []
    for name, layer in module.named_modules():
        if isinstance(layer, torch.nn.Conv3d):

            def look(conv: torch.nn.Module, inputs: tuple[torch.Tensor, ...], name: str = name) -> None:
                if inputs[0].shape[2] < conv.kernel_size[0]:  # type: ignore[index]
                    found.append(name)

            handles.append(layer.register_forward_pre_hook(look))
    training = module.training
    try:
        with torch.no_grad():
            module.eval()(example)
    finally:
        module.train(training)
        for handle in handles:
            handle.remove()
    return found


def keep_freed_memory(device: torch.device) -> None:
    """Where a CPU computes, let this process keep the memory of tensors that are freed, for those
    that come next.

    The C library gives large pieces back to the system at once, and every page of the next one is
    then a page fault: a fifth of an S3D step on one core. Nothing happens where the C library is
    not glibc.
    """
    if device.type == "cpu":
        with suppress(AttributeError, OSError, TypeError):
            library = ctypes.CDLL(None)
            library.mallopt(_M_MMAP_THRESHOLD, 1 << 30)
            library.mallopt(_M_TRIM_THRESHOLD, -1)


def reset_peak_memory(device: torch.device) -> None:
    """Let `peak_memory` speak of what comes from now on; only Linux can do that for a CPU."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)  # what was freed and kept is not in use
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_memory(device: torch.device) -> int:
    """Most bytes in use at a time: of an accelerator by this process, else of this process itself."""
    if device.type == "cuda":
        return torch.cuda.max_memory_reserved(device)
    in_kib = _proc_value("/proc/self/status", "VmHWM:")
    if in_kib is not None:
        return in_kib << 10
    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes on macOS, in KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def current_memory() -> int:
    """Bytes that this process has now; where the system does not say, the most it has had."""
    in_kib = _proc_value("/proc/self/status", "VmRSS:")
    return peak_memory(torch.device("cpu")) if in_kib is None else in_kib << 10


def available_memory() -> int:
    """Bytes of memory that programs could still take, within the limit of a container or a job if
    there is one.
    """
    in_kib = _proc_value("/proc/meminfo", "MemAvailable:")
    free = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2 if in_kib is None else in_kib << 10
    group = Path("/sys/fs/cgroup")
    with suppress(OSError, ValueError):  # no such limit, or "max"
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        free = min(free, limit - used)
    return free


def _proc_value(path: str, name: str) -> int | None:
    """A number that Linux tells under a name; None elsewhere."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            if line.startswith(name):
                return int(line.split()[1])
    return None


def has_native_bf16(device: torch.device) -> bool:
    """Whether bf16 matrix products run in hardware; emulated ones are slower than fp32."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type != "cpu" or not torch.backends.cpu.get_cpu_capability().startswith("AVX512"):
        return False
    return any(
        check()
        for name in ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
        if (check := getattr(torch.cpu, name, None))
    )
