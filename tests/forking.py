"""Start Python programs from a process that has loaded torch already: milliseconds in place of ten seconds of imports.

`Forked` is a `subprocess.Popen`: the process has its own environment, folder, files and session, gets signals, and
ends with its own status. It differs from a fresh one in nothing but modules that are loaded before its program begins.
What a fresh interpreter loads, and how long that takes, is tested with fresh interpreters. Where there is no Linux,
`Forked` starts one too.
"""

import array
import atexit
import ctypes
import gc
import io
import json
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
# What trainings and measurements load; torch's optimizers load torch._dynamo when the first of them is made.
LOADED = ("torch._dynamo", "torch.distributed.nn", "vicc.training.pretrain", "vicc.evaluation.classify_features")
PR_SET_CHILD_SUBREAPER = 36
MESSAGE_BYTES = 1 << 20


class Forked(subprocess.Popen[str]):
    """A Python program, its words as after `python`: -m MODULE, -c CODE or FILE, and arguments.

    Args:
        largest_file: bytes beyond which no file of the process can grow: a write beyond fails, as on a full disk.
        options: those of `Popen`; of the less usual ones only `start_new_session` is known.
    """

    def __init__(self, words: Sequence[object], *, largest_file: int | None = None, **options: Any) -> None:
        self._limits = {"session": bool(options.get("start_new_session")), "largest_file": largest_file}
        super().__init__([sys.executable, *map(str, words)], text=True, **options)

    def _execute_child(self, args: Any, *others: Any) -> None:  # type: ignore[override]
        if not sys.platform.startswith("linux"):
            super()._execute_child(args, *others)  # type: ignore[misc]
            return
        _, _, _, passed, folder, environment, *_ = others
        p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite = others[9:15]
        assert not passed, "no files but the three standard ones are handed on"
        request = {
            "words": args[1:],
            "folder": os.fspath(folder or os.getcwd()),
            "environment": dict(os.environ if environment is None else environment),
            **self._limits,
        }
        ours = (0 if p2cread == -1 else p2cread, 1 if c2pwrite == -1 else c2pwrite, 2 if errwrite == -1 else errwrite)
        self.pid = _server().fork(request, ours)
        self._child_created = True
        self._close_pipe_fds(p2cread, p2cwrite, c2pread, c2pwrite, errread, errwrite)  # type: ignore[attr-defined]


def run(words: Sequence[object], **options: Any) -> "subprocess.CompletedProcess[str]":
    """As `subprocess.run` with `capture_output`, of a Python program that is forked."""
    seconds, check = options.pop("timeout", 300), options.pop("check", False)
    with Forked(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **options) as process:
        try:
            out, error = process.communicate(timeout=seconds)
        except BaseException:
            process.kill()
            raise
    if check and process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args, out, error)
    return subprocess.CompletedProcess(process.args, process.returncode, out, error)


class _Server:
    """The loaded process, as the one that asks sees it."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # One thread until a program sets its own number: a process of several threads must not fork.
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "tests.forking", str(theirs.fileno())]
        self._process = subprocess.Popen(command, pass_fds=[theirs.fileno()], cwd=ROOT, env=environment)
        theirs.close()
        atexit.register(self.end)

    def fork(self, request: Mapping[str, Any], files: tuple[int, int, int]) -> int:
        """The process number of a new child of this process that runs what is asked for."""
        # The server's child forks once more and ends; its child, without a parent, then becomes ours.
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        try:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))]
            self._socket.sendmsg([json.dumps(request).encode()], rights)
            answer = self._socket.recv(64)
        finally:
            ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
        if not answer:
            raise RuntimeError(f"The process to fork from ended with status {self._process.wait()}.")
        return int(answer)

    def end(self) -> None:
        self._socket.close()
        self._process.wait()


_started: dict[int, _Server] = {}


def _server() -> _Server:
    """That of this process, started at the first call."""
    if os.getpid() not in _started:
        _started[os.getpid()] = _Server()
    return _started[os.getpid()]


def _serve(connection: socket.socket) -> dict[str, Any]:
    """Fork for every request; returns in the children, with the request."""
    while True:
        message, rights, _, _ = connection.recvmsg(MESSAGE_BYTES, socket.CMSG_SPACE(3 * 4))
        if not message:
            os._exit(0)
        files = array.array("i", rights[0][2])
        told, tell = os.pipe()
        between = os.fork()
        if not between:
            parent, child = os.getpid(), os.fork()
            if child:
                os.write(tell, str(child).encode())
                os._exit(0)
            connection.detach()  # its number goes to some file of the program
            for number, file in enumerate(files):
                os.dup2(file, number)
            os.closerange(3, 256)
            while os.getppid() == parent:
                time.sleep(0.001)  # or it would still be the child of a process that is about to end
            request: dict[str, Any] = json.loads(message)
            return request
        os.waitpid(between, 0)  # by now the child has another parent
        connection.send(os.read(told, 64))
        for file in (*files, told, tell):
            os.close(file)


def _become(request: Mapping[str, Any], loaded_path: Sequence[str]) -> None:
    """Take over the environment, folder, session and files of the process that is asked for."""
    import torch

    if request["session"]:
        os.setsid()
    if request["largest_file"] is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (request["largest_file"],) * 2)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0))))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    first, *own = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:] = [*filter(None, (first, *own)), *loaded_path]
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 - for as long as the process lives
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = io.TextIOWrapper(open(2, "wb", 0, closefd=False), "utf-8", "backslashreplace", write_through=True)  # noqa: SIM115


def _main() -> None:
    connection = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the tests, which then close the connection
    loaded_path = [place for place in sys.path if Path(place or ".").resolve() != ROOT]
    for name in LOADED:
        import_module(name)
    gc.freeze()  # what is loaded here is no garbage in any child
    assert len(os.listdir("/proc/self/task")) == 1, "a process of several threads must not fork"
    request = _serve(connection)
    _become(request, loaded_path)
    kind, *arguments = request["words"]
    if kind == "-m":
        sys.path.insert(0, os.getcwd())
        sys.argv = arguments
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
    elif kind == "-c":
        sys.path.insert(0, "")
        sys.argv = ["-c", *arguments[1:]]
        exec(compile(arguments[0], "<string>", "exec"), {"__name__": "__main__"})  # noqa: S102 - as python -c does
    else:
        sys.path.insert(0, str(Path(kind).resolve().parent))
        sys.argv = [kind, *arguments]
        runpy.run_path(kind, run_name="__main__")


if __name__ == "__main__":
    _main()
