"""Pretraining as Slurm jobs: one a stage, each after the one before, each back in the queue before
its time is over.

RUN/slurm/jobs.json           the jobs that were submitted last
RUN/slurm/JOB_submission.sh   the script of a job
RUN/slurm/JOB_TASK_log.out    what a process of a job says; process 0 speaks for all
RUN/slurm/JOB_hang_START      says that the job hung after so many returns to the queue, and in which step

A job ends at its time limit, a stage may take longer. So some minutes before, Slurm sends SIGUSR1
to all processes of the job (sbatch --signal); the loop makes a checkpoint of it and stops, and
process 0 puts the job back into the queue, where it keeps its number and whatever waits for it. So
does a job that a watchdog ends because it hangs, which may be its machine's fault, but not for
ever.
"""

import io
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import partial
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from vicc.errors import ViccError
from vicc.files import exclusive_folder, read_json, write_json
from vicc.plugins import import_modules, imported_modules
from vicc.progress import complain, say
from vicc.training.configs import SlurmConfig, TrainingConfig

if TYPE_CHECKING:  # a job that is asked to stop at once must not be importing NumPy
    from vicc.training.stage import Recipe

Training = TypeVar("Training", bound=TrainingConfig)

SLURM_FOLDER, JOBS_FILE = "slurm", "jobs.json"
_TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
_EXIT_STOPPED = 130
_MOST_HANGS = 3  # of a job, after each of which it goes back to the queue: a mistake would come again
# Slurm's signals end a process that has no handlers yet, and with it the job. Until then they are
# ignored: what Slurm pre-empts it ends and requeues by itself when its patience is over.
_PYTHON = f'bash -c \'trap "" TERM USR1; exec "$0" "$@"\' {shlex.quote(sys.executable)}'
_SECONDS_BEFORE_ANOTHER_TRY = (5, 30, 90)  # a controller that restarts does not answer for a while


@dataclass(frozen=True)
class SubmittedStage:
    """A stage as a job.

    Attributes:
        name: what Slurm calls the job.
        job: Slurm's number of it; None if it was not submitted.
        after: the stage whose job must have succeeded before.
        log: what process 0 says.
        script: what sbatch was or would be given.
        steps: that the stage takes in all.
    """

    stage: str
    name: str
    job: str | None
    after: str | None
    log: str | None
    script: str
    steps: int


class PlannedStage(Protocol):
    """What a plan says of a stage."""

    @property
    def name(self) -> str: ...

    @property
    def finished(self) -> bool: ...

    @property
    def videos(self) -> int: ...

    @property
    def batch_size(self) -> int: ...


def planned_here(config: Training) -> Training:
    """The config of a plan made in this process, without the jobs' GPUs: what the jobs would refuse
    hours later is refused here and now.
    """
    return replace(config, dry_run=True, device="cpu")


def in_a_job(config: Training, **changes: Any) -> Training:
    """The config of the training that a job itself does."""
    return replace(config, launcher="here", slurm=SlurmConfig(), **changes)


def submit_stages(
    config: TrainingConfig,
    recipe: "Recipe",
    planned: Sequence[PlannedStage],
    *,
    wanted: Sequence[str],
    function: str,
    arguments: Callable[[str], tuple[Any, ...]],
) -> list[SubmittedStage]:
    """Submit a job for each stage wanted that is not finished, in the recipe's order; with
    config.dry_run, say what would be submitted.

    Args:
        planned: the recipe's stages as `planned_here` has them.
        wanted: their names.
        function: what the jobs call in every process, MODULE:NAME, and it trains.
        arguments: with what, for a stage; they must be picklable.

    Raises:
        ViccError: submitit or Slurm is missing, jobs of the run are queued or running, Slurm
            refuses a job (those before it are then cancelled).
    """
    try:
        import submitit
    except ImportError:
        raise ViccError("--launcher slurm needs submitit: pip install 'vicc[slurm]'") from None
    folder = (config.run / SLURM_FOLDER).absolute()
    todo = [stage.name for stage in planned if not stage.finished and stage.name in wanted]
    steps = _steps(config, recipe, planned, todo)
    if config.dry_run:
        return [_described(config, folder, stage, steps[stage], after, None) for after, stage in _chained(todo)]
    try:
        executor = submitit.SlurmExecutor(folder, python=_PYTHON)
    except RuntimeError:
        raise ViccError(
            "--launcher slurm: there is no srun here. Give the command on a machine of the cluster from which jobs are "
            "submitted, or add --dry-run to see what would be."
        ) from None
    submitted: list[SubmittedStage] = []
    with exclusive_folder(folder, what="folder of Slurm jobs"):
        _require_no_jobs(config.run, folder)
        for after, stage in _chained(todo):
            before = submitted[-1].job if submitted else None
            executor.parameters = _parameters(config, stage, before)
            call = StageJob(stage, function, arguments(stage), tuple(sys.argv), folder, imported_modules())
            job = _submit(executor, call, submitted)
            submitted.append(_described(config, folder, stage, steps[stage], after, before, job))
            write_json(folder / JOBS_FILE, [{"job": entry.job, "name": entry.name} for entry in submitted])
    return submitted


def _steps(
    config: TrainingConfig, recipe: "Recipe", planned: Sequence[PlannedStage], todo: Sequence[str]
) -> dict[str, int]:
    """Steps of each stage on all processes of a job."""
    from vicc.training.schedule import stage_length

    return {
        stage.name: stage_length(
            stage if config.batch_size is None else stage.replace(batch_size=summary.batch_size),
            summary.videos,
            config.slurm.processes,
        ).steps
        for stage, summary in zip(recipe.stages, planned, strict=True)
        if stage.name in todo
    }


def _submit(executor: Any, job: "StageJob", before: list[SubmittedStage]) -> str:
    """Slurm's number of the new job; if it is refused, the jobs before it go as well."""
    from submitit.core.utils import FailedJobError

    try:
        # submitit would print what sbatch says, beside our sentence.
        with _outside_any_job(), redirect_stderr(io.StringIO()):
            return str(executor.submit(job).job_id)
    except FailedJobError as error:
        numbers = [entry.job for entry in before if entry.job]
        if numbers:
            _slurm("scancel", *numbers)
        raise ViccError(
            f"Slurm refused the job of stage {job.stage} ({' '.join(str(error).split())}). Nothing is left "
            f"submitted{f': {len(numbers)} jobs before it are cancelled' if numbers else ''}. Change what it asks for."
        ) from None


@dataclass(frozen=True)
class StageJob:
    """What every process of a job does: train a stage; if it was asked to stop on the way, go back
    to the queue.

    Args:
        stage: trained by `function`, MODULE:NAME, which is imported here alone: a signal that comes
            before counts.
        command: what the user gave, for the run's list of starts.
        folder: the run's folder of Slurm jobs.
        modules: of the user's own, imported before, see `vicc.plugins`.
    """

    stage: str
    function: str
    arguments: tuple[Any, ...]
    command: tuple[str, ...]
    folder: Path
    modules: tuple[str, ...] = ()

    def __call__(self) -> None:
        sys.argv = [*self.command]
        with stop_signals_wait_for_the_loop():
            from vicc.training.engine import Stopped
            from vicc.training.watch.watchdog import at_hang

            adopt_slurm_ranks()
            import_modules(self.modules)
            try:
                module, _, name = self.function.partition(":")
                with at_hang(partial(_requeue_hung, self.folder)):
                    getattr(import_module(module), name)(*self.arguments)
            except Stopped:
                # Past submitit, which would call this a success and note a result. No process but
                # the first ends with an error, or srun would kill the first while it still talks to
                # Slurm.
                raise SystemExit(_requeue() if os.environ["SLURM_PROCID"] == "0" else 0) from None


def _requeue() -> int:
    """Put this job back into the queue; returns the exit status.

    Not a job that is ending as it is: one that a user has cancelled must stay so, and one that
    makes place for another Slurm itself puts back.
    """
    job = os.environ["SLURM_JOB_ID"]
    state = _slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}", patient=True).strip()
    if state != "RUNNING":
        say(f"job {job} is {state or 'gone'}, so it does not go back to the queue by itself")
        return _EXIT_STOPPED
    say(f"job {job} goes back to the queue; it goes on from its checkpoint")
    _slurm("scontrol", "requeue", job, patient=True)
    return 0


def _requeue_hung(folder: Path, step: int) -> None:
    """Put a job that hangs back into the queue, a few times; called by the watchdog of every
    process, before it ends the process and with it the job.
    """
    job, start = os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")
    before = len(list(folder.glob(f"{job}_hang_*")))
    try:
        state = _slurm("squeue", "--noheader", "--format=%T", f"--jobs={job}").strip()
        if state != "RUNNING":
            return
        # One process does it for all: the first, which may be another than process 0.
        with (folder / f"{job}_hang_{start}").open("x") as file:
            file.write(f"hung in step {step}\n")
        if before >= _MOST_HANGS:
            complain(f"job {job} has hung {before} times before, so it does not go back to the queue by itself")
            return
        complain(f"job {job} goes back to the queue, after hang {before + 1} of at most {_MOST_HANGS}")
        _slurm("scontrol", "requeue", job)
    except FileExistsError:
        return
    except (ViccError, OSError) as error:  # the process must end whatever Slurm answers
        complain(f"job {job} could not go back to the queue ({error})")


def adopt_slurm_ranks() -> None:
    """Set torchrun's variables in a process that srun has started beside others; elsewhere do
    nothing.

    Only srun sets SLURM_STEP_NUM_TASKS: in the script of sbatch itself, and in a shell of `srun
    --pty`, there is one process, whatever was asked for.
    """
    known = os.environ
    size = int(known.get("SLURM_STEP_NUM_TASKS", "1"))
    if size == 1 or "RANK" in known or "SLURM_PTY_PORT" in known:
        return
    job, step = int(known["SLURM_JOB_ID"]), int(known["SLURM_STEP_ID"])
    known["RANK"], known["WORLD_SIZE"], known["LOCAL_RANK"] = known["SLURM_PROCID"], str(size), known["SLURM_LOCALID"]
    known["LOCAL_WORLD_SIZE"] = _tasks_of_each_node(known["SLURM_STEP_TASKS_PER_NODE"])[int(known["SLURM_NODEID"])]
    known.setdefault("MASTER_ADDR", _address(_first_host(known["SLURM_STEP_NODELIST"])))
    # Below the ports that Linux gives to clients (from 32768), and another one for each job and
    # each step of it.
    known.setdefault("MASTER_PORT", str(12000 + (8 * job + step % 8) % 20000))


def _tasks_of_each_node(counts: str) -> list[str]:
    """Slurm's 4(x2),3 is 4, 4, 3."""
    parts = re.findall(r"([0-9]+)(?:\(x([0-9]+)\))?", counts)
    return [count for count, times in parts for _ in range(int(times or 1))]


def _first_host(node_list: str) -> str:
    """The first of the machines in Slurm's notation: n03 of n[03-05,9],m1."""
    first = re.match(r"(?:[^,\[]|\[[^\]]*\])+", node_list)
    assert first is not None  # Slurm names at least one
    return re.sub(r"\[([^\],-]+)[^\]]*\]", r"\1", first[0])


def _address(host: str) -> str:
    try:
        socket.getaddrinfo(host, None)
    except socket.gaierror:  # Slurm's name of a machine need not be the network's
        address = re.search(r"NodeAddr=(\S+)", _slurm("scontrol", "show", "node", host))
        return address[1] if address else host
    return host


@contextmanager
def stop_signals_wait_for_the_loop() -> Iterator[None]:
    """Under Slurm, SIGUSR1 and SIGTERM that come before or after the training loop wait until it
    begins, or for good.

    In the loop all processes agree on the step after which they stop. A process that ended alone,
    before, would leave the others waiting for it, and their error would be the job's end. Slurm's
    own patience ends with SIGKILL, which loses nothing here.
    """
    if "SLURM_JOB_ID" not in os.environ or threading.current_thread() is not threading.main_thread():
        yield
        return
    over = threading.Event()

    def send_again(number: int) -> None:
        if not over.wait(1.0):
            os.kill(os.getpid(), number)  # by now it may be the loop that takes it

    def wait(number: int, frame: FrameType | None) -> None:
        threading.Thread(target=send_again, args=(number,), daemon=True).start()

    before = {number: signal.signal(number, wait) for number in (signal.SIGUSR1, signal.SIGTERM)}
    try:
        yield
    finally:
        over.set()
        for number, handler in before.items():
            signal.signal(number, handler)


def _described(
    config: TrainingConfig,
    folder: Path,
    stage: str,
    steps: int,
    after: str | None,
    before: str | None,
    job: str | None = None,
) -> SubmittedStage:
    # What submitit's executor writes, without an executor, which wants srun to be there.
    from submitit.slurm.slurm import _make_sbatch_string

    command = f"{_PYTHON} -u -m submitit.core._submit {shlex.quote(str(folder))}"
    parameters = _parameters(config, stage, before or (after and f"JOB-OF-{after}"))
    script = _make_sbatch_string(command=command, folder=folder, **parameters)
    log = None if job is None else str(folder / f"{job}_0_log.out")
    return SubmittedStage(stage, _job_name(config, stage), job, after, log, script, steps)


def _parameters(config: TrainingConfig, stage: str, job_before: str | None) -> dict[str, Any]:
    """What submitit calls the options of a job."""
    ours = config.slurm
    wanted = {
        "job_name": _job_name(config, stage),
        "time": ours.minutes,
        "nodes": ours.nodes,
        "ntasks_per_node": ours.processes_per_node,
        "gpus_per_node": ours.gpus_per_node,
        "cpus_per_task": ours.cpus_per_task,
        "mem": ours.mem,
        "partition": ours.partition,
        "account": ours.account,
        "qos": ours.qos,
        "constraint": ours.constraint,
        "dependency": None if job_before is None else f"afterok:{job_before}",
        "stderr_to_stdout": True,
        # One process that fails ends all, which would wait for it. srun must be given the cores,
        # too (Slurm 22.05).
        "srun_args": ["--kill-on-bad-exit=1"]
        + ([] if ours.cpus_per_task is None else [f"--cpus-per-task={ours.cpus_per_task}"]),
    }
    options: dict[str, str | bool] = {
        "signal": f"USR1@{max(1, round(60 * ours.signal_minutes))}",
        "requeue": True,
        "kill-on-invalid-dep": "yes",
    }
    for option in ours.sbatch:
        key, equals, value = option.partition("=")
        options[key] = value if equals else True
    # No key of accounting, in place of submitit's own.
    return {k: v for k, v in wanted.items() if v is not None} | {"additional_parameters": options, "wckey": None}


def _job_name(config: TrainingConfig, stage: str) -> str:
    return f"{config.run.absolute().name}-{stage}"


def _chained(stages: Sequence[str]) -> list[tuple[str | None, str]]:
    """Every stage with the one before it."""
    return list(zip([None, *stages], stages, strict=False))


def _require_no_jobs(run: Path, folder: Path) -> None:
    path = folder / JOBS_FILE
    if not path.exists():
        return
    # By name as well: a number may be another's in another cluster.
    known = {(entry["job"], entry["name"]) for entry in read_json(path, what="list of Slurm jobs")}
    said = _slurm("squeue", "--noheader", "--format=%i|%j|%T", f"--jobs={','.join(sorted(job for job, _ in known))}")
    rows = [line.split("|") for line in said.splitlines()]
    active = [f"{job} ({name}, {state.lower()})" for job, name, state in rows if (job, name) in known]
    if active:
        numbers = " ".join(row[0] for row in rows if (row[0], row[1]) in known)
        raise ViccError(
            f"Jobs of the run {run} are in Slurm's queue already: {', '.join(active)}. Wait for them, or cancel them "
            f"with: scancel {numbers}"
        )


@contextmanager
def _outside_any_job() -> Iterator[None]:
    """Hide the variables of a job that this process itself may be in, which the new one would take
    for its own.
    """
    hidden = {
        name: os.environ.pop(name)
        for name in list(os.environ)
        if name in _TORCHRUN or (name.startswith(("SLURM_", "SLURMD_", "SRUN_")) and name != "SLURM_CONF")
    }
    try:
        yield
    finally:
        os.environ.update(hidden)


def _slurm(*words: str, patient: bool = False) -> str:
    """What one of Slurm's programs answers; patient: asked again for two minutes if it fails."""
    for seconds in (*(_SECONDS_BEFORE_ANOTHER_TRY if patient else ()), None):
        try:
            done = subprocess.run(words, capture_output=True, text=True, timeout=120)
            reason = done.stderr.strip()
        except FileNotFoundError:
            raise ViccError(
                f"There is no {words[0]} on {socket.gethostname()}: is it a machine of the cluster?"
            ) from None
        except subprocess.TimeoutExpired:
            reason = "no answer in two minutes"
        else:
            if done.returncode == 0:
                return done.stdout
            if "Invalid job id" in reason:  # Slurm forgets jobs some minutes after their end
                return ""
        if seconds is not None:
            time.sleep(seconds)
    raise ViccError(f"{' '.join(words)} failed: {' '.join(reason.split())}")
