import json
import subprocess
from pathlib import Path

import pytest

from vicc.training.configs import PretrainConfig
from vicc.training.environment import ENVIRONMENT_FILE, environment, git_state, note_environment

CONFIG = PretrainConfig(run=Path("run"), store="s3://me:hunter2@bucket/store")


def test_secrets_are_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "hunter2")
    monkeypatch.setenv("TORCH_AUTH_TOKEN", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
    monkeypatch.setenv("VICC_CACHE", "https://me:hunter2@host/cache")
    monkeypatch.setenv("SOMETHING_ELSE", "hunter2")
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    found = environment(CONFIG)
    assert "hunter2" not in json.dumps(found)
    assert found["variables"]["OMP_NUM_THREADS"] == "3"
    assert found["variables"]["VICC_CACHE"] == "https://***@host/cache"
    assert found["settings"]["store"] == "s3://***@bucket/store"


def test_it_says_what_the_numbers_depend_on() -> None:
    found = environment(CONFIG)
    assert found["settings"]["seed"] == 31
    assert any(line.startswith("torch==") for line in found["packages"])
    assert found["memory_gib"] > 0
    assert found["processor"]


def test_every_start_has_an_entry(tmp_path: Path) -> None:
    for number in range(3):
        note_environment(tmp_path, CONFIG, {"time": str(number)})
    starts = json.loads((tmp_path / ENVIRONMENT_FILE).read_text())
    assert [start["time"] for start in starts] == ["0", "1", "2"]
    assert all("packages" in start for start in starts)


def test_git_says_commit_and_changes_and_nothing_where_there_is_no_repository(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    file = tmp_path / "code.py"
    file.write_text("1")

    def git(*words: str) -> str:
        identity = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(tmp_path), *identity, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    git("init", "--initial-branch=trunk")
    git("add", ".")
    git("commit", "--message=first")
    state = {"commit": git("rev-parse", "HEAD"), "branch": "trunk", "dirty": False}
    assert git_state(tmp_path) == state
    file.write_text("2")
    assert git_state(tmp_path) == {**state, "dirty": True}
