"""Processes that find the libraries loaded: their import is paid once per session.

One process imports them and forks for every program that is asked for. A fork is a process like any
other: it has its streams, its folder and its environment, it can be killed, and Python ends in it
as elsewhere. What is about how Python starts, or about what is imported, takes a process of its own
(`subprocess`).
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parent.parent
LOADED = ("torch", "diffusers", "diffusers.pipelines.dit.pipeline_dit", "app", "core.cli")
LOADED += ("core.models.checkpoints", "core.runs.store", "core.sweep.engine", "core.tuner.search")
APP = "import sys, app; sys.exit(app.script())"  # as app.py ends

_server: socket.socket | None = None  # of this session, once there is one


# ------------------------------------------------------------ in the tests' process


class Forked:
    """A running fork, with the names of `subprocess.Popen`; standard error is read at its end."""

    def __init__(self, code: str, *arguments: str | Path, cwd: Path = ROOT, out: int | None = None):
        """Run Python code with sys.argv[1:]; out: where standard output goes, a pipe otherwise."""
        read, write = (None, os.dup(out)) if out is not None else os.pipe()
        self.stdout: IO[str] | None = None if read is None else os.fdopen(read)
        self.errors = tempfile.TemporaryFile("w+")
        self.told, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        asked = [code, [*map(str, arguments)], str(cwd), dict(os.environ)]
        fds = [write, self.errors.fileno(), theirs.fileno()]
        socket.send_fds(server(), [json.dumps(asked).encode()], fds)
        os.close(write)
        theirs.close()
        self.pid, self.returncode = int(self.told.recv(64)), None

    def kill(self) -> None:
        """Kill it (SIGKILL), if it has not ended."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    def poll(self) -> int | None:
        """Return the exit code (minus the signal), or None while it runs."""
        try:
            return self.wait(socket.MSG_DONTWAIT)
        except BlockingIOError:
            return None

    def wait(self, flags: int = 0) -> int:
        """Wait for its end -> exit code, or minus the signal."""
        if self.returncode is None:
            self.returncode = os.waitstatus_to_exitcode(int(self.told.recv(64, flags)))
            self.told.close()
        return self.returncode

    def communicate(self, timeout: float = 300) -> tuple[str, str]:
        """Wait for its end -> what is left of standard output, standard error.

        timeout: seconds, after which it is killed.
        """
        out, late = "", threading.Timer(timeout, self.kill)
        late.start()
        if self.stdout is not None:
            with self.stdout:
                out = self.stdout.read()
        self.wait()
        late.cancel()
        with self.errors:
            self.errors.seek(0)
            return out, self.errors.read()


def completed(process: Forked) -> subprocess.CompletedProcess[str]:
    """Return what became of a fork, as `subprocess.run` does."""
    out, err = process.communicate()
    return subprocess.CompletedProcess(["fork"], process.returncode, out, err)


def server() -> socket.socket:
    """Return the connection to the process that forks; it ends with this one."""
    global _server
    if _server is None:
        _server, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for side in (_server, theirs):
            side.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        import torch

        buffered = {k: v for k, v in os.environ.items() if k != "PYTHONUNBUFFERED"}
        paths = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
        threads = {"OMP_NUM_THREADS": str(torch.get_num_threads())}  # sums depend on them
        process = subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,  # as a program's is, for its buffer; nothing is written
            env=buffered | paths | threads,
        )
        theirs.close()
        atexit.register(end, process)
    return _server


def end(process: subprocess.Popen) -> None:
    """End the process that forks."""
    if _server is not None:
        _server.close()
    process.communicate()


# ------------------------------------------------------------ in the process that forks


def next_program(asking: socket.socket) -> tuple[str, list[str]]:
    """Fork for every program -> its code and arguments, in the fork; it ends with the tests."""
    while True:
        data, fds, *_ = socket.recv_fds(asking, 1 << 20, 3)
        if not data:
            sys.exit()
        if os.fork() == 0:
            asking.close()
            return begun(*json.loads(data), *fds)
        for fd in fds:
            os.close(fd)
        while waited():
            pass


def waited() -> bool:
    """Say whether a child had ended."""
    try:
        return os.waitpid(-1, os.WNOHANG)[0] > 0
    except ChildProcessError:
        return False


def begun(
    code: str,
    arguments: list[str],
    folder: str,
    environment: dict[str, str],
    out: int,
    errors: int,
    told: int,
) -> tuple[str, list[str]]:
    """Fork once more: this process waits for the program and tells pid and end, and is no more."""
    program = os.fork()
    if program:
        os.close(out)
        os.write(told, str(program).encode())
        os.write(told, str(os.waitpid(program, 0)[1]).encode())
        os._exit(0)
    os.close(told)
    for ours, stream in ((out, 1), (errors, 2)):
        os.dup2(ours, stream)
        os.close(ours)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    return code, ["-c", *arguments]


if __name__ == "__main__":
    for name in LOADED:
        importlib.import_module(name)
    gc.freeze()
    text, sys.argv[:] = next_program(socket.socket(fileno=int(sys.argv[1])))
    exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})
