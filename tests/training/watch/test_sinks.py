"""What a sink holds after a run that was stopped and resumed: every step once."""

import json
import sys
from pathlib import Path

import pytest

from vicc.errors import ViccError
from vicc.recipes import create_recipe
from vicc.training.watch import sinks
from vicc.training.watch.sinks import TENSORBOARD_FOLDER, Mlflow, TensorBoard, open_sinks, require_sinks

STAGE = create_recipe("demo").stages[0]


def scalars(folder: Path, name: str) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(folder / TENSORBOARD_FOLDER), size_guidance={"scalars": 0})
    events.Reload()
    return [(event.step, event.value) for event in events.Scalars(name)]


def test_tensorboard_reads_what_was_written(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, STAGE, first_step=0)
    for step in range(3):
        sink.write(step, {"loss": 4.0 - step, "learning_rate": 0.5})
    sink.close()
    assert scalars(tmp_path, "loss") == [(0, 4.0), (1, 3.0), (2, 2.0)]
    assert scalars(tmp_path, "learning_rate") == [(0, 0.5), (1, 0.5), (2, 0.5)]


def test_steps_beyond_the_checkpoint_are_not_there_twice_in_tensorboard(tmp_path: Path) -> None:
    """Killed after step 4, with a checkpoint after two steps: steps 2 to 4 come again."""
    for first, last in ((0, 5), (2, 7)):
        sink = TensorBoard(tmp_path, STAGE, first_step=first)
        for step in range(first, last):
            sink.write(step, {"loss": 10.0 * first + step})
        sink.close()
    assert scalars(tmp_path, "loss") == [(0, 0.0), (1, 1.0), *((step, 20.0 + step) for step in range(2, 7))]


def test_what_is_flushed_can_be_read_while_training_goes_on(tmp_path: Path) -> None:
    sink = TensorBoard(tmp_path, STAGE, first_step=0)
    sink.write(0, {"loss": 1.0})
    sink.flush()
    assert scalars(tmp_path, "loss") == [(0, 1.0)]
    sink.close()


def test_a_missing_package_is_named_with_the_command_that_installs_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sinks, "find_spec", lambda name: None)
    with pytest.raises(ViccError, match=r"--log-to wandb.*pip install 'vicc\[wandb\]'"):
        require_sinks(["wandb"])
    require_sinks([])


def test_no_sink_is_imported_that_was_not_asked_for(tmp_path: Path) -> None:
    before = set(sys.modules)
    assert open_sinks([], tmp_path, STAGE, first_step=0) == []
    assert not {"wandb", "mlflow", "tensorboard"} & (set(sys.modules) - before)


def test_mlflow_holds_every_step_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    for first, last in ((0, 5), (2, 7)):
        (sink,) = open_sinks(["mlflow"], tmp_path, STAGE, first_step=first)
        for step in range(first, last):
            sink.write(step, {"loss": float(step)})
            if step == 3:
                sink.write(step, {"epoch/loss": 1.5})
        sink.close()
    client = MlflowClient()
    (run,) = client.search_runs([client.get_experiment_by_name("vicc").experiment_id])
    history = client.get_metric_history(run.info.run_id, "loss")
    assert [(metric.step, metric.value) for metric in history] == [(step, float(step)) for step in range(7)]
    assert len(client.get_metric_history(run.info.run_id, "epoch/loss")) == 1
    assert run.data.params["num_prototypes"] == "(50,)"


def test_an_mlflow_that_cannot_be_used_is_refused_at_the_start_and_endured_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("mlflow")
    from mlflow.exceptions import MlflowException

    monkeypatch.setenv("MLFLOW_TRACKING_URI", "nothing://nowhere")
    with pytest.raises(ViccError, match="MLFLOW_TRACKING_URI"):
        open_sinks(["mlflow"], tmp_path, STAGE, first_step=0)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    sink = Mlflow(tmp_path, STAGE, first_step=0)
    whole = sink._client.log_batch

    def broken(*_: object, **__: object) -> None:
        raise MlflowException("the server is away")

    monkeypatch.setattr(sink._client, "log_batch", broken)
    for step in range(3):
        sink.write(step, {"loss": 1.0})
        sink.flush()
    assert capsys.readouterr().err.count("the server is away") == 1
    monkeypatch.setattr(sink._client, "log_batch", whole)
    sink.close()
    assert len(sink._client.get_metric_history(sink._id, "loss")) == 3


def test_wandb_goes_on_with_the_same_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for first in (0, 2):
        (sink,) = open_sinks(["wandb"], tmp_path, STAGE, first_step=first)
        sink.write(first, {"loss": 1.0})
        sink.close()
    name = json.loads((tmp_path / "wandb.json").read_text())["id"]
    runs = [path.name for path in (tmp_path / "wandb").glob("offline-run-*")]
    assert runs
    assert all(run.endswith(name) for run in runs)
