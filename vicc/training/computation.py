"""How a run computes: what decides its bits beside recipe, seed and videos. Recorded at its first
start, then kept.

RUN/computation.json    device kind, precision, threads, accumulate, compile; and with which torch and processor

A resume by the same command must end bit-equal, so where a flag is left to itself ("auto"), the
run's own value is taken, and one that is given otherwise is refused unless --allow-elastic.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import torch

from vicc.device import Precision, choose_device, choose_precision, choose_threads, computing_threads, process_cores
from vicc.distributed import on_first
from vicc.errors import ViccError
from vicc.files import read_json
from vicc.progress import say
from vicc.training.configs import TrainingConfig

COMPUTATION_FILE = "computation.json"


@dataclass(frozen=True)
class Computation:
    """What decides the bits of a training beside what it learns.

    Attributes:
        device: kind of device, "cpu", "cuda" or "mps".
        precision: of the run; a stage whose clips are too short for bf16 on a CPU takes fp32 all
            the same.
        threads: of each process; None where an accelerator computes.
        accumulate, compile: the flags.
        torch, processor: the version, and the kind of processor that its kernels are chosen by.
            These two may change with a machine, which is said, not refused.
    """

    device: str
    precision: Literal["fp32", "bf16", "fp16", "fp64"]
    threads: int | None
    accumulate: int
    compile: bool
    torch: str
    processor: str


def recorded_computation(run: Path) -> Computation | None:
    """How a run has computed until now; None for one that has not begun, or is from before this was
    recorded.
    """
    path = run / COMPUTATION_FILE
    if not path.exists():
        return None
    content = read_json(path, what="description of the computation")
    try:
        return Computation(**content)
    except TypeError as error:
        raise ViccError(f"{path} was written by another version of vicc, or damaged: {error}.") from None


def choose_run_device(config: TrainingConfig) -> torch.device:
    """The device that the flag names; left out, the kind of device that the run has begun with,
    else the best.

    Raises:
        ViccError: a device that is not there.
    """
    before = recorded_computation(config.run)
    if config.device is not None or before is None:
        return choose_device(config.device)
    best = choose_device()
    if best.type == before.device:
        return best
    if before.device == "cpu" and not config.allow_elastic:
        _say_kept("on the CPU", f"on {best.type}", f"--device {best.type}")
        return choose_device("cpu")
    if config.allow_elastic:
        return best
    raise ViccError(
        f"The run {config.run} has computed on {before.device}, and there is none here. Resume where there is one, or "
        f"give --device {best.type} --allow-elastic to go on here; the result is then not that of an undisturbed run."
    )


def choose_computation(config: TrainingConfig, device: torch.device) -> tuple[Precision, Computation]:
    """What is computed with: the flags; where they leave it open, the run's own, else what is best
    here. All processes call it.

    Raises:
        ViccError: flags that would change how a run computes, a precision that this device cannot
            compute in.
    """
    # Jobs run elsewhere, and look at their machines themselves.
    before = on_first(lambda: recorded_computation(config.run)) if config.launcher == "here" else None
    precision = choose_precision(_asked_precision(config, device, before), device)
    ours = Computation(
        device=device.type,
        precision=precision.name,
        # Of several processes the first one's, or a resume would depend on which machine is which.
        threads=on_first(lambda: _threads(config, device, before)),
        accumulate=config.accumulate,
        compile=config.compile,
        torch=str(torch.__version__),
        processor=_processor(device),
    )
    if before is not None:
        _compare(before, ours, config)
    return precision, ours


def _asked_precision(
    config: TrainingConfig, device: torch.device, before: Computation | None
) -> Literal["auto", "fp32", "bf16", "fp16", "fp64"]:
    """The precision of the flag; of the run where that is auto."""
    if config.precision != "auto" or before is None or (config.allow_elastic and before.device != device.type):
        return config.precision
    best = choose_precision("auto", device).name
    if before.precision == best:
        return best
    try:
        choose_precision(before.precision, device)
    except ViccError:
        if config.allow_elastic:
            return best
        raise ViccError(
            f"The run {config.run} has computed in {before.precision}, which {device} does not compute natively. "
            f"Resume on a machine that does, or give --precision {best} --allow-elastic to go on here; the result is "
            "then not that of an undisturbed run."
        ) from None
    _say_kept(f"in {before.precision}", f"in {best}", f"--precision {best}")
    return before.precision


def _threads(config: TrainingConfig, device: torch.device, before: Computation | None) -> int | None:
    if device.type != "cpu":
        return None
    if config.threads != "auto" or before is None or before.threads is None:
        return choose_threads(config.threads, device)
    if before.threads > process_cores():
        say(
            f"computes in {before.threads} threads, as the run has begun, on {process_cores()} cores, which is slow; "
            f"to change that: --threads {process_cores()} --allow-elastic"
        )
    elif os.environ.get("OMP_NUM_THREADS") and torch.get_num_threads() != before.threads:
        _say_kept(f"in {before.threads} threads", "in those of OMP_NUM_THREADS", f"--threads {torch.get_num_threads()}")
    return before.threads


def _say_kept(begun: str, best: str, flag: str) -> None:
    say(f"goes on {begun}, as the run has begun, not {best}; to change that: {flag} --allow-elastic")


def _compare(before: Computation, ours: Computation, config: TrainingConfig) -> None:
    """Refuse what a flag changes, or say it where that is allowed; say what the machine changes."""
    flags = {
        name: _in_words(before, name, ours) for name in ("device", "precision", "threads", "accumulate", "compile")
    }
    if before.device != ours.device:
        del flags["threads"]  # an accelerator has none
    changed = [words for words in flags.values() if words]
    if changed and not config.allow_elastic:
        back = " ".join(_flag(before, name) for name, words in flags.items() if words)
        raise ViccError(
            f"The run {config.run} was started with other settings: {'; '.join(changed)}. "
            f"Give {back}, or another --run folder, or --allow-elastic to go on "
            "all the same, with a result that is not that of an undisturbed run."
        )
    changed += filter(None, (_in_words(before, name, ours) for name in ("torch", "processor")))
    if changed:
        say(f"{'; '.join(changed)}: not bit-equal to an undisturbed run from here on")


def _in_words(before: Computation, name: str, ours: Computation) -> str:
    was, now = getattr(before, name), getattr(ours, name)
    return "" if was == now else f"{name} was {was}, now {now}"


def _flag(before: Computation, name: str) -> str:
    """What to give for the run's own value."""
    value: Any = getattr(before, name)
    if name == "compile":
        return "--compile" if value else "no --compile"
    return f"--{name} {value}"


def _processor(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return torch.backends.cpu.get_cpu_capability() if device.type == "cpu" else device.type


@contextmanager
def computing(computation: Computation) -> Iterator[None]:
    """Compute as the run does within the block: in its number of threads."""
    if computation.threads is None:
        yield
        return
    opencv = cv2.getNumThreads()
    with computing_threads(computation.threads):
        cv2.setNumThreads(computation.threads)
        try:
            yield
        finally:
            cv2.setNumThreads(opencv)
