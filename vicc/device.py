"""Which device computes, and in which precision. A leaf anyone may import."""

import ctypes
import os
import resource
import sys
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from vicc.errors import ViccError

PrecisionName = Literal["auto", "fp32", "bf16", "fp16", "fp64"]
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # of glibc's mallopt
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
    """How a model computes: in float32, in float64 (slow, for comparing numbers), or in a half of 16 bits by autocast.

    fp16 needs its gradients scaled (`TrainingStep` does), or small ones become zero; bf16 has float32's range.

    All use channels-last memory: on CPUs it and bf16 alone give little, both together 2.4x to 3.2x on S3D.
    """

    name: Literal["fp32", "bf16", "fp16", "fp64"]
    device: torch.device

    def autocast(self) -> AbstractContextManager[object]:
        """Context for a forward pass."""
        half = _HALVES.get(self.name)
        return nullcontext() if half is None else torch.autocast(self.device.type, dtype=half)

    def place(self, module: torch.nn.Module) -> torch.nn.Module:
        """Move a module to the device, in the number format and memory layout that suit the precision."""
        if self.name == "fp64":
            module.double()
        # torch lists the 3D layout only for tensors, not in the annotation of Module.to.
        return module.to(self.device, memory_format=torch.channels_last_3d)  # type: ignore[call-overload]


def choose_precision(name: PrecisionName, device: torch.device) -> Precision:
    """Resolve "auto": bf16 where the device computes it natively, else fp32.

    Raises:
        ViccError: bf16 asked for on a device that cannot compute it natively, or fp16 on one that is neither CUDA nor
            a CPU.
    """
    native = has_native_bf16(device)
    if name == "bf16" and not native:
        raise ViccError(f"--precision bf16: {device} does not compute bf16 natively. Use --precision fp32 (or auto).")
    if name == "fp16" and device.type not in ("cuda", "cpu"):
        raise ViccError(f"--precision fp16: gradients cannot be scaled on {device}. Use --precision fp32 (or auto).")
    if name == "auto":
        name = "bf16" if native else "fp32"
    return Precision(name, device)


def cpu_bf16_loses_gradients(module: torch.nn.Module, example: torch.Tensor) -> list[str]:
    """Names of 3D convolutions in `module` whose bf16 gradient cannot be trusted on a CPU, for inputs like `example`.

    Where the input is shorter in time than the kernel, oneDNN's bf16 gradient of the weights reads memory it never
    wrote: seen with torch 2.13, kernel (3, 1, 1) and two frames, off by up to 1e37, now and then NaN.
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
    """Where a CPU computes, let this process keep the memory of tensors that are freed, for those that come next.

    The C library gives large pieces back to the system at once, and every page of the next one is then a page fault: a
    fifth of an S3D step on one core. Nothing happens where the C library is not glibc.
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
    """Bytes of memory that programs could still take, within the limit of a container or a job if there is one."""
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
