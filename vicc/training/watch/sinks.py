"""Where numbers of a training go beside the log: TensorBoard, Weights & Biases, MLflow.

All take (step, names to values). After a resume no step stands there twice: what lies beyond the
checkpoint is dropped where that can be done, else it is not sent again, since it would be the same.
"""

import hashlib
import os
import socket
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol

from vicc.errors import ViccError
from vicc.files import read_json, write_json
from vicc.progress import say
from vicc.training.configs import SinkName
from vicc.training.stage import Stage

TENSORBOARD_FOLDER = "tensorboard"
_NEEDED = {"tensorboard": "tensorboard", "wandb": "wandb", "mlflow": "mlflow"}
_PROJECT = "vicc"
_MOST_WAITING = 200_000  # numbers that a server which is away has not got yet


class Sink(Protocol):
    """Takes the numbers of steps, in their order."""

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Numbers of one step."""

    def flush(self) -> None:
        """Make what was written visible to others."""

    def close(self) -> None:
        """There is nothing more to come."""


def require_sinks(names: Sequence[SinkName]) -> None:
    """Raises ViccError if a package is missing, before anything is trained."""
    for name in names:
        if find_spec(_NEEDED[name]) is None:
            raise ViccError(
                f"--log-to {name}: the package {_NEEDED[name]} is not installed. Install it with: pip install "
                f"'vicc[{name}]', or leave {name} out of --log-to."
            )


def open_sinks(names: Sequence[SinkName], folder: Path, stage: Stage, *, first_step: int) -> list[Sink]:
    """The sinks of a stage's folder, from step `first_step` on."""
    builders: dict[str, Callable[..., Sink]] = {"tensorboard": TensorBoard, "wandb": Wandb, "mlflow": Mlflow}
    return [builders[name](folder, stage, first_step=first_step) for name in names]


class TensorBoard:
    """One file of events for each start in STAGE/tensorboard. Written directly: a writer's thread
    would not survive the fork of a loader's workers.
    """

    def __init__(self, folder: Path, stage: Stage, *, first_step: int) -> None:
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog
        from tensorboard.compat.proto.summary_pb2 import Summary
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event, self._summary = Event, Summary
        place = folder / TENSORBOARD_FOLDER
        place.mkdir(parents=True, exist_ok=True)
        # Readers take the files of a folder in the order of these numbers.
        name = f"events.out.tfevents.{time.time_ns() // 1000}.{socket.gethostname()}.{os.getpid()}"
        self._file = (place / name).open("wb")
        self._records = RecordWriter(self._file)
        self._add(file_version="brain.Event:2")
        # Readers drop what earlier files hold from this step on.
        self._add(step=first_step, session_log=SessionLog(status=SessionLog.START))

    def write(self, step: int, values: Mapping[str, float]) -> None:
        parts = [self._summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._add(step=step, summary=self._summary(value=parts))

    def flush(self) -> None:
        self._file.flush()

    def close(self) -> None:
        self._file.close()

    def _add(self, **content: Any) -> None:
        self._records.write(self._event(wall_time=time.time(), **content).SerializeToString())


class Wandb:
    """One run of the project "vicc" a stage; where to and as whom, the variables of W&B say."""

    def __init__(self, folder: Path, stage: Stage, *, first_step: int) -> None:
        import wandb

        try:
            self._run = wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                id=_lasting_name(folder, "wandb"),
                resume="allow",
                name=_title(folder),
                dir=str(folder),
                config=stage.to_json(),
            )
        except wandb.errors.Error as error:
            raise ViccError(
                f"--log-to wandb: W&B cannot be used ({_brief(error)}). Give `wandb login`, set WANDB_MODE=offline, or "
                "leave wandb out of --log-to."
            ) from error
        self._next = int(self._run.step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        if step >= self._next:
            self._run.log(dict(values), step=step)

    def flush(self) -> None:
        """W&B sends by itself."""

    def close(self) -> None:
        self._run.finish()


class Mlflow:
    """One run of the experiment "vicc" a stage; where to, MLFLOW_TRACKING_URI says.

    A server that goes away does not end the training: what it has not got waits for it.
    """

    def __init__(self, folder: Path, stage: Stage, *, first_step: int) -> None:
        from mlflow.entities import Metric
        from mlflow.exceptions import MlflowException

        self._metric, self._error = Metric, MlflowException
        try:
            self._client, self._id = self._open(folder, stage)
        except MlflowException as error:
            raise ViccError(
                f"--log-to mlflow: MLflow cannot be used ({_brief(error)}). Set MLFLOW_TRACKING_URI to a server that "
                "is there, for instance http://localhost:5000, or leave mlflow out of --log-to."
            ) from error
        self._waiting: deque[Any] = deque(maxlen=_MOST_WAITING)
        # By name: a step has a row of its own, and the end of an epoch has one of the same step.
        self._last: dict[str, int] = {}
        self._complained = False

    @staticmethod
    def _open(folder: Path, stage: Stage) -> tuple[Any, str]:
        from mlflow.tracking import MlflowClient

        client = MlflowClient()
        name = os.environ.get("MLFLOW_EXPERIMENT_NAME", _PROJECT)
        experiment = client.get_experiment_by_name(name)
        number = experiment.experiment_id if experiment else client.create_experiment(name)
        own = _lasting_name(folder, "mlflow")
        found = client.search_runs([number], f"tags.vicc_id = '{own}'", max_results=1)
        if found:
            return client, found[0].info.run_id
        run = client.create_run(number, tags={"vicc_id": own, "mlflow.runName": _title(folder)}).info.run_id
        for key, value in stage.to_json().items():
            client.log_param(run, key, str(value)[:500])
        return client, run

    def write(self, step: int, values: Mapping[str, float]) -> None:
        now = int(time.time() * 1000)
        self._waiting.extend(self._metric(name, value, now, step) for name, value in values.items())

    def flush(self) -> None:
        try:
            while self._waiting:
                # The server takes a thousand at once.
                some = [self._waiting[place] for place in range(min(500, len(self._waiting)))]
                new = [metric for metric in some if metric.step > self._last_step(metric.key)]
                if new:
                    self._client.log_batch(self._id, metrics=new)
                for _ in some:
                    self._waiting.popleft()
        except self._error as error:
            if not self._complained:
                say(f"warning: MLflow does not take numbers now, training goes on ({_brief(error)})")
            self._complained = True

    def close(self) -> None:
        self.flush()
        if not self._waiting:
            self._client.set_terminated(self._id)

    def _last_step(self, name: str) -> int:
        """The last step that an earlier start has sent."""
        if name not in self._last:
            history = self._client.get_metric_history(self._id, name)
            self._last[name] = max((metric.step for metric in history), default=-1)
        return self._last[name]


def _brief(error: Exception) -> str:
    return " ".join(str(error).split())[:150]


def _lasting_name(folder: Path, sink: str) -> str:
    """A name for this stage of this run that later starts find again, and no other run has."""
    path = folder / f"{sink}.json"
    if not path.exists():
        made = hashlib.blake2b(f"{folder.resolve()}/{time.time_ns()}".encode(), digest_size=8).hexdigest()
        write_json(path, {"id": made})
    return str(read_json(path, what=f"{sink} id")["id"])


def _title(folder: Path) -> str:
    return f"{folder.resolve().parent.name}/{folder.name}"
