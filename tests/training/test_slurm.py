"""What is submitted to Slurm, what is refused, what a process makes of its variables. tests/slurm has a real one."""

import itertools
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from vicc.cli import main
from vicc.errors import ViccError
from vicc.training.configs import PretrainConfig, SlurmConfig
from vicc.training.pretrain import pretrain
from vicc.training.slurm import _PYTHON, StageJob, adopt_slurm_ranks, stop_signals_wait_for_the_loop
from vicc.training.stage import Recipe

ROOT = Path(__file__).parents[2]
TORCHRUN = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture(autouse=True)
def _no_job_of_our_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs the tests may do so within a job."""
    for name in list(os.environ):
        if name.startswith("SLURM") or name in TORCHRUN:
            monkeypatch.delenv(name)


@pytest.fixture
def words(store_path: Path, tmp_path: Path, tiny_changes: tuple[str, ...]) -> list[str]:
    """A command line that submits a tiny run."""
    pytest.importorskip("submitit", reason="needs the extra slurm")
    run = ["pretrain", "--recipe", "demo", "--store", str(store_path), "--run", str(tmp_path / "run")]
    slurm = ["--launcher", "slurm", "--nodes", "2", "--gpus-per-node", "2", "--time", "24:00:00"]
    return [*run, "--set", *tiny_changes, *slurm]


FakeSlurm = Callable[..., Path]


@pytest.fixture
def fake_slurm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSlurm:
    """Programs with Slurm's names that note how they were called in `calls`, and answer what the test wants."""
    folder, calls = tmp_path / "bin", tmp_path / "calls"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")

    def install(**answers: str) -> Path:
        for name in ("srun", "sbatch", "squeue", "scontrol", "scancel"):
            program = folder / name
            program.write_text(f'#!/bin/sh\necho "{name} $*" >> {calls}\n{answers.get(name, "")}\n')
            program.chmod(0o755)
        return calls

    return install


# A number for each job, from the number of jobs there have been.
COUNTING = "echo Submitted batch job $((100 + $(grep -c ^sbatch {calls})))"


@pytest.mark.parametrize(
    ("time", "minutes"),
    [
        ("90", 90),
        ("1:30", 2),
        ("24:00:00", 1440),
        ("00:00:20", 1),
        ("2-12", 3600),
        ("1-00:30", 1470),
        ("1-1:1:1", 1502),
    ],
)
def test_a_time_is_read_as_slurm_reads_it(time: str, minutes: int) -> None:
    assert SlurmConfig(time=time, signal_minutes=0.5).minutes == minutes


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"time": "tomorrow"}, "--time 'tomorrow': expected a time as Slurm writes it"),
        ({"time": "0"}, "--time 0: expected more than nothing"),
        ({"time": "4"}, "--signal-minutes 5: expected above 0, up to 1000, and less than --time 4"),
        ({"nodes": 0}, "--nodes 0: expected at least 1"),
        ({"gpus_per_node": 4, "tasks_per_node": 4}, "expected one of the two"),
        ({"sbatch": ["--gres=gpu:4"]}, "without the dashes"),
        ({"sbatch": ["time=10"]}, "there is a flag for it. Give --time in its place"),
        ({"sbatch": ["cpus-per-task=10"]}, "there is a flag for it. Give --cpus-per-task in its place"),
        ({"sbatch": ["array=1-3"]}, "array is what vicc sets itself"),
    ],
)
def test_settings_that_slurm_would_refuse_or_misread_are_refused(settings: dict[str, object], sentence: str) -> None:
    with pytest.raises(ViccError, match=sentence):
        SlurmConfig(**settings)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("settings", "launcher", "sentence"),
    [
        ({"nodes": 2, "time": "1-0"}, "here", "--nodes, --time without --launcher slurm"),
        ({"time": "1-0"}, "slurm", "expected --gpus-per-node N"),
        ({"gpus_per_node": 4}, "slurm", "expected the time limit of a job as well"),
    ],
)
def test_launcher_and_its_flags_go_together(settings: dict[str, object], launcher: str, sentence: str) -> None:
    with pytest.raises(ViccError, match=sentence):
        PretrainConfig(Path("run"), "store", launcher=launcher, slurm=SlurmConfig(**settings))  # type: ignore[arg-type]


def test_a_dry_run_shows_a_chain_of_jobs_and_leaves_nothing(
    words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where there is no Slurm."""
    monkeypatch.setenv("PATH", "")
    more = ["--cpus-per-task", "8", "--sbatch", "gres=gpu:a100:4", "exclusive", "--partition", "long"]
    assert main([*words, *more, "--dry-run", "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert [(job["stage"], job["after"], job["job"]) for job in jobs] == [
        ("rgb-1", None, None),
        ("flow-1", "rgb-1", None),
        ("rgb-2", "flow-1", None),
        ("flow-2", "rgb-2", None),
    ]
    assert "--dependency" not in jobs[0]["script"]
    options = set(jobs[1]["script"].splitlines())
    assert {
        "#SBATCH --dependency=afterok:JOB-OF-rgb-1",
        "#SBATCH --kill-on-invalid-dep=yes",
        "#SBATCH --requeue",
        "#SBATCH --signal=USR1@300",
        "#SBATCH --time=1440",
        "#SBATCH --nodes=2",
        "#SBATCH --ntasks-per-node=2",
        "#SBATCH --gpus-per-node=2",
        "#SBATCH --cpus-per-task=8",
        "#SBATCH --partition=long",
        "#SBATCH --gres=gpu:a100:4",
        "#SBATCH --exclusive",
        "#SBATCH --job-name=run-flow-1",
    } <= options
    assert "--cpus-per-task=8 " in jobs[1]["script"].splitlines()[-1]  # srun does not take it over from sbatch
    assert not (tmp_path / "run").exists()


def test_a_job_imports_the_modules_that_the_command_was_given(
    words: list[str], tmp_path: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They may bring the backbone that the job is to train."""
    (tmp_path / "own_for_jobs.py").touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr("vicc.plugins._IMPORTED", [])
    fake_slurm(sbatch=COUNTING.format(calls=fake_slurm()))
    assert main([*words, "--stages", "rgb-1", "--import", "own_for_jobs"]) == 0
    (pickled,) = (tmp_path / "run" / "slurm").glob("*_submitted.pkl")
    job = pickle.loads(pickled.read_bytes()).function  # noqa: S301 - what this test itself has written
    assert job.modules == ("own_for_jobs",)

    del sys.modules["own_for_jobs"]
    monkeypatch.setattr(sys, "argv", [])
    StageJob("rgb-1", "builtins:len", ("x",), ("vicc",), tmp_path, job.modules)()
    assert sys.modules.pop("own_for_jobs", None) is not None


def test_every_job_waits_for_the_one_before_and_is_submitted_once(
    words: list[str], tmp_path: Path, fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake_slurm()
    fake_slurm(sbatch=COUNTING.format(calls=calls), squeue="echo '102|run-flow-1|PENDING'; echo '101|another|RUNNING'")
    assert main([*words, "--json"]) == 0
    jobs = json.loads(capsys.readouterr().out)["jobs"]
    assert [job["job"] for job in jobs] == ["101", "102", "103", "104"]
    for before, job in itertools.pairwise(jobs):
        script = (tmp_path / "run" / "slurm" / f"{job['job']}_submission.sh").read_text()
        assert f"--dependency=afterok:{before['job']}\n" in script
        assert script == job["script"]

    assert main(words) == 2
    said = capsys.readouterr().err
    assert "are in Slurm's queue already: 102 (run-flow-1, pending)" in said
    assert "scancel 102" in said
    assert calls.read_text().count("sbatch") == 4


def test_a_job_submitted_from_within_a_job_is_one_of_its_own(
    words: list[str], tmp_path: Path, fake_slurm: FakeSlurm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The outer one's cores, ranks and machines would come with the environment. Which cluster it is must."""
    fake_slurm(sbatch=f"env > {tmp_path}/environment; echo Submitted batch job 9")
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("RANK", "5")
    monkeypatch.setenv("SLURM_CONF", "/etc/slurm/other.conf")
    assert main([*words, "--stages", "rgb-1", "--json"]) == 0
    names = {line.partition("=")[0] for line in (tmp_path / "environment").read_text().splitlines()}
    assert not names & {*STEP, "RANK"}
    assert {"SLURM_CONF", "PATH"} <= names
    assert os.environ["RANK"] == "5"


def test_jobs_that_slurm_has_forgotten_do_not_hinder(
    words: list[str], fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake_slurm()
    forgotten = "echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1"
    fake_slurm(sbatch=COUNTING.format(calls=calls), squeue=forgotten)
    assert main(words) == main(words) == 0
    assert "tail -F" in capsys.readouterr().out
    assert calls.read_text().count("sbatch") == 8


def test_a_refused_job_takes_back_those_before_it(
    words: list[str], fake_slurm: FakeSlurm, capfd: pytest.CaptureFixture[str]
) -> None:
    calls = fake_slurm()
    refuse = f"[ $(grep -c ^sbatch {calls}) = 3 ] && echo 'sbatch: error: too many jobs' >&2 && exit 1"
    fake_slurm(sbatch=f"{refuse}\n{COUNTING.format(calls=calls)}")
    assert main(words) == 2
    *notes, said = capfd.readouterr().err.splitlines()
    assert said.startswith("vicc: Slurm refused the job of stage rgb-2 (sbatch: error: too many jobs)")
    assert not [note for note in notes if not note.startswith("split folders")]
    assert calls.read_text().splitlines()[-1] == "scancel 101 102"


def test_finished_stages_are_not_submitted(
    words: list[str],
    store_path: Path,
    tmp_path: Path,
    tiny_recipe: Recipe,
    fake_slurm: FakeSlurm,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And what is begun here goes on there."""
    pretrain(tiny_recipe, PretrainConfig(store=store_path, run=tmp_path / "run", stages=["rgb-1", "flow-1"]))
    calls = fake_slurm()
    fake_slurm(sbatch=COUNTING.format(calls=calls))
    capsys.readouterr()
    assert main([*words, "--json"]) == 0
    assert [job["stage"] for job in json.loads(capsys.readouterr().out)["jobs"]] == ["rgb-2", "flow-2"]
    assert main([*words, "--stages", "rgb-1"]) == 0
    assert "nothing to submit" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("flag", "value", "sentence"),
    [
        ("--store", "nowhere", "nowhere"),
        ("--nodes", "3", "6 processes cannot share a batch of 4 videos evenly"),
    ],
)
def test_what_the_jobs_would_refuse_is_refused_before(
    flag: str, value: str, sentence: str, words: list[str], fake_slurm: FakeSlurm, capsys: pytest.CaptureFixture[str]
) -> None:
    calls = fake_slurm()
    words[words.index(flag) + 1] = value
    assert main(words) == 2
    assert sentence in capsys.readouterr().err
    assert not calls.exists()


def test_without_submitit_or_slurm_the_sentence_says_so(
    words: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", "")
    assert main(words) == 2
    assert "there is no srun here" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "submitit", None)
    assert main(words) == 2
    assert "pip install 'vicc[slurm]'" in capsys.readouterr().err


STEP = {
    "SLURM_JOB_ID": "4711",
    "SLURM_STEP_ID": "0",
    "SLURM_STEP_NUM_TASKS": "8",
    "SLURM_STEP_NODELIST": "localhost,n[01-03]",
    "SLURM_STEP_TASKS_PER_NODE": "1,4,2(x1),1",
    "SLURM_NODEID": "2",
    "SLURM_PROCID": "5",
    "SLURM_LOCALID": "1",
}


def torchrun_variables() -> dict[str, str]:
    return {name: os.environ[name] for name in TORCHRUN if name in os.environ}


@pytest.fixture
def in_step(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """As in the sixth of eight processes that srun has started. What a test sets in addition goes with it."""
    for name in TORCHRUN:
        monkeypatch.setenv(name, "")  # so that they are taken away at the end, whoever has set them
        monkeypatch.delenv(name)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)
    return monkeypatch


def test_processes_of_srun_find_each_other(in_step: pytest.MonkeyPatch) -> None:
    adopt_slurm_ranks()
    known = torchrun_variables()
    assert (known["RANK"], known["WORLD_SIZE"], known["LOCAL_RANK"]) == ("5", "8", "1")
    assert known["LOCAL_WORLD_SIZE"] == "2"
    assert known["MASTER_ADDR"] == "localhost"
    assert 1024 < int(known["MASTER_PORT"]) < 32768


def test_steps_and_jobs_side_by_side_meet_at_ports_of_their_own(in_step: pytest.MonkeyPatch) -> None:
    ports = set()
    for job, step in [(4711, 0), (4711, 1), (4712, 0), (4713, 0)]:
        in_step.setenv("SLURM_JOB_ID", str(job))
        in_step.setenv("SLURM_STEP_ID", str(step))
        in_step.delenv("RANK", raising=False)
        in_step.delenv("MASTER_PORT", raising=False)
        adopt_slurm_ranks()
        ports.add(os.environ["MASTER_PORT"])
    assert len(ports) == 4


@pytest.mark.parametrize(("node", "tasks"), [(0, "8"), (3, "8"), (4, "6"), (5, "1")])
def test_a_process_knows_how_many_share_its_machine(node: int, tasks: str, in_step: pytest.MonkeyPatch) -> None:
    in_step.setenv("SLURM_STEP_TASKS_PER_NODE", "8(x4),6,1")
    in_step.setenv("SLURM_NODEID", str(node))
    adopt_slurm_ranks()
    assert os.environ["LOCAL_WORLD_SIZE"] == tasks


@pytest.mark.parametrize(
    ("node_list", "first"),
    [
        ("n1", "n1"),
        ("n[1-2]", "n1"),
        ("gpu-a[003-012,020],gpu-b1", "gpu-a003"),
        ("rack[7,9]-node[01-16]", "rack7-node01"),
        ("a1,b[2-3]", "a1"),
    ],
)
def test_the_first_machine_is_where_they_meet(
    node_list: str, first: str, in_step: pytest.MonkeyPatch, fake_slurm: FakeSlurm
) -> None:
    """Slurm's name of it may be none of the network's; then Slurm is asked for its address."""
    fake_slurm(scontrol='[ "$1 $2" = "show node" ] && echo "   NodeAddr=addr-of-$3 NodeHostName=x"')
    in_step.setattr("vicc.training.slurm.socket.getaddrinfo", _no_such_name)
    in_step.setenv("SLURM_STEP_NODELIST", node_list)
    adopt_slurm_ranks()
    assert os.environ["MASTER_ADDR"] == f"addr-of-{first}"


def _no_such_name(*_: object) -> None:
    import socket

    raise socket.gaierror


def test_slurms_signals_do_not_end_a_process_that_has_no_handlers_yet() -> None:
    """By what is written before the name of the interpreter."""
    code = "import os, signal; [os.kill(os.getpid(), n) for n in (signal.SIGTERM, signal.SIGUSR1)]; print('alive')"
    done = subprocess.run(f'{_PYTHON} -c "{code}"', shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("SLURM_STEP_NUM_TASKS", "1"),
        ("SLURM_STEP_NUM_TASKS", None),  # the script of sbatch, which has SLURM_NTASKS and SLURM_PROCID
        ("SLURM_PTY_PORT", "40000"),  # a shell
        ("RANK", "0"),  # torchrun, started by srun
    ],
)
def test_a_process_that_is_alone_or_torchruns_stays_as_it_is(
    name: str, value: str | None, in_step: pytest.MonkeyPatch
) -> None:
    if value is None:
        in_step.delenv(name)
    else:
        in_step.setenv(name, value)
    before = torchrun_variables()
    adopt_slurm_ranks()
    assert torchrun_variables() == before


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_a_signal_before_the_loop_waits_for_it(number: signal.Signals, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    taken: list[int] = []
    with stop_signals_wait_for_the_loop():
        os.kill(os.getpid(), number)
        time.sleep(0.1)
        before = signal.signal(number, lambda number, frame: taken.append(number))  # as the loop does
        end = time.monotonic() + 10
        while not taken and time.monotonic() < end:
            time.sleep(0.05)
        signal.signal(number, before)
    assert taken == [number]


def test_a_signal_after_the_loop_is_gone_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or it would end a process whose stage is finished."""
    monkeypatch.setenv("SLURM_JOB_ID", "1")
    taken: list[int] = []
    before = signal.signal(signal.SIGUSR1, lambda number, frame: taken.append(number))
    try:
        with stop_signals_wait_for_the_loop():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.1)
        time.sleep(1.2)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert not taken


@pytest.mark.parametrize(
    ("rank", "state", "status", "requeued"),
    [
        ("0", "RUNNING", 0, True),
        ("0", "CANCELLED", 130, False),  # somebody wants it gone
        ("0", "COMPLETING", 130, False),  # Slurm puts it back itself
        ("1", "RUNNING", 0, False),  # the first process does it for all
    ],
)
def test_a_stopped_job_goes_back_to_the_queue_unless_it_is_ending_anyway(
    rank: str,
    state: str,
    status: int,
    requeued: bool,
    fake_slurm: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from vicc.training.engine import Stopped

    def stopped(*_: object) -> None:
        raise Stopped

    calls = fake_slurm(squeue=f"echo {state}")
    monkeypatch.setattr("vicc.training.pretrain.pretrain", stopped)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_PROCID", rank)
    with pytest.raises(SystemExit) as end:
        StageJob("rgb-1", "vicc.training.pretrain:pretrain", (), ("vicc",), tmp_path)()
    assert end.value.code == status
    assert ("scontrol requeue 17" in (calls.read_text() if calls.exists() else "")) == requeued


@pytest.mark.parametrize("answer", ["echo RUNNING", "exit 1"])
def test_a_job_that_hangs_goes_back_to_the_queue_three_times_and_ends_each_time(
    answer: str,
    fake_slurm: FakeSlurm,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """A mistake of the program would hang for ever; and a Slurm that does not answer must not keep the process."""
    from vicc.training.watch.watchdog import EXIT_HUNG, Watchdog

    ended: list[int] = []

    def hang(*_: object) -> None:
        with Watchdog(tmp_path / "rgb-1", minutes=0.1 / 60, end=ended.append):
            before, end = len(ended), time.monotonic() + 20
            while len(ended) == before and time.monotonic() < end:
                time.sleep(0.02)

    calls = fake_slurm(squeue=answer)
    monkeypatch.setattr("vicc.training.pretrain.pretrain", hang)
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_PROCID", "0")
    for restart in range(5):
        monkeypatch.setenv("SLURM_RESTART_COUNT", str(restart))
        StageJob("rgb-1", "vicc.training.pretrain:pretrain", (), ("vicc",), tmp_path)()
    assert ended == [EXIT_HUNG] * 5
    assert calls.read_text().count("scontrol requeue 17") == (3 if answer == "echo RUNNING" else 0)
    said = capsys.readouterr().err
    assert ("has hung 3 times before" if answer == "echo RUNNING" else "could not go back to the queue") in said


def test_the_batch_file_requeues_a_run_that_hangs_three_times(
    fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_slurm(srun="exit 75")
    for name, value in {"SLURM_JOB_ID": "17", "SLURM_CPUS_PER_TASK": "1", "RUN": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    for _ in range(5):
        assert subprocess.run(["bash", str(ROOT / "slurm" / "pretrain.sbatch")]).returncode == 75
    assert calls.read_text().count("scontrol requeue 17") == 3


def test_a_job_that_cannot_go_back_to_the_queue_fails_with_slurms_words(
    fake_slurm: FakeSlurm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vicc.training import slurm
    from vicc.training.engine import Stopped

    def stopped(*_: object) -> None:
        raise Stopped

    calls = fake_slurm(squeue="echo RUNNING", scontrol="echo 'Requested operation is presently disabled' >&2; exit 1")
    monkeypatch.setattr("vicc.training.pretrain.pretrain", stopped)
    monkeypatch.setattr(slurm, "_SECONDS_BEFORE_ANOTHER_TRY", (0.01, 0.01))
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_PROCID", "0")
    with pytest.raises(ViccError, match="scontrol requeue 17 failed: Requested operation is presently disabled"):
        StageJob("rgb-1", "vicc.training.pretrain:pretrain", (), ("vicc",), tmp_path)()
    assert calls.read_text().count("scontrol requeue") == 3


@pytest.mark.parametrize(
    "script", [*(ROOT / "slurm").iterdir(), ROOT / "tests/slurm/one_machine.sh"], ids=lambda path: path.name
)
def test_the_scripts_are_sound_bash(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)


@pytest.mark.parametrize("script", sorted((ROOT / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_sbatch_sees_all_that_is_meant_for_it(script: Path) -> None:
    """It stops reading at the first command."""
    text = script.read_text()
    first_command = re.search(r"^[^#\n]", text, re.MULTILINE)
    assert first_command is not None
    assert "#SBATCH" not in text[first_command.start() :]


@pytest.mark.parametrize("script", sorted((ROOT / "slurm").glob("*.sbatch")), ids=lambda path: path.name)
def test_the_commands_of_the_scripts_are_vicc_s(script: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every flag that a script gives to a command is one that the command has."""
    text = script.read_text().replace("\\\n", " ")
    lines = [line.split("vicc ", 1)[1].split() for line in text.splitlines() if "vicc " in line and line[0] != "#"]
    assert lines
    for words in lines:
        name = words[: 2 if words[0] == "store" else 1]
        assert main([*name, "--help"]) == 0
        known = capsys.readouterr().out
        assert all(word in known for word in words if word.startswith("--")), words
