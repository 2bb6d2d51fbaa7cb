"""A process that clears up when its parent dies in whatever way, SIGKILL included.

It has a session of its own and holds a socket to the parent. When the parent closes it,
or is no more, the guardian carries out what it was told to, last first: commands, and
paths to remove. The commands that make what is to be cleared run in it as well, so that
none is half done when it is time to clear up.

The other end of this file is a program of its own: it runs without any package, so that
it is there in a few milliseconds.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

_PATIENCE = 60.0
"""Seconds that each command at the end may take."""

_RUNS = 120.0
"""Seconds that a command may take that the parent waits for."""


class Completed(NamedTuple):
    """How a command ended: its exit code, or minus the signal, and what it printed."""

    code: int
    out: str
    err: str


class Guardian:
    """The parent's side. Any thread may use it.

    Raises
    ------
    OSError
        The process cannot be started.
    """

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            try:
                self._process = subprocess.Popen(
                    [
                        *(sys.executable, "-I", "-S", __file__),
                        *(str(theirs.fileno()), str(os.getpid())),
                    ],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    # Whoever waits for the end of our output is not to wait for it.
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                    start_new_session=True,
                )
            except BaseException:
                ours.close()
                raise
        self._socket = ours
        self._stream = ours.makefile("rb")
        self._lock = threading.Lock()
        self._asked = 0
        self._owner = os.getpid()

    def at_end(self, command: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        """Run a command at the end, before all that was asked for earlier."""
        self._send({"at_end": list(command), "env": dict(os.environ if env is None else env)})

    def remove_at_end(self, path: str) -> None:
        """Remove a file or a directory with all that is in it at the end."""
        self._send({"remove": path})

    def run(self, command: Sequence[str], text: str = "") -> Completed:
        """Run a command to its end, with `text` on its standard input.

        It goes on if the parent dies, and what is to be done at the end is done after it. One
        that takes more than two minutes is killed.

        Raises
        ------
        OSError
            The program cannot be started, or the guardian is no more.
        """
        with self._lock:
            answer = self._ask({"run": list(command), "input": text, "env": dict(os.environ)})
        if "errno" in answer:
            raise OSError(answer["errno"], os.strerror(answer["errno"]), command[0])
        return Completed(answer["code"], answer["out"], answer["err"])

    def close(self) -> list[str]:
        """Let it do now what is to be done at the end, and end; what failed, a line each.

        Idempotent. Of no effect in a process forked from the one that made it.
        """
        if self._owner != os.getpid():
            return []
        with self._lock:
            if self._socket.fileno() < 0:
                return []
            failed: list[str] = []
            try:
                failed = self._ask({"end": True})["failed"]
            except OSError as error:
                failed = [f"the guardian: {error}"]
            finally:
                # After a Ctrl-C as well: it does what it was told to, and that is waited for.
                self._stream.close()
                self._socket.close()
                self._process.wait()
            return failed

    def _send(self, message: dict[str, Any]) -> None:
        with self._lock:
            self._tell(message)

    def _tell(self, message: dict[str, Any]) -> None:
        self._socket.sendall(json.dumps(message).encode() + b"\n")

    def _ask(self, message: dict[str, Any]) -> dict[str, Any]:
        self._asked += 1
        self._tell({**message, "number": self._asked})
        # What was asked earlier and not waited for, because of a Ctrl-C, is answered first.
        while (answer := self._hear())["number"] != self._asked:
            pass
        return answer

    def _hear(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("the process that clears up after a Pod has been ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


# What runs in the process itself


class _Lines:
    """Lines from the parent, until it has closed the socket or is no more."""

    def __init__(self, connection: socket.socket, parent: int) -> None:
        self._connection = connection
        self._data = b""
        self._poller = select.poll()
        self._poller.register(connection, select.POLLIN)
        # A process forked from the parent holds the socket open after the parent's end, which
        # may have come already.
        try:
            self._poller.register(os.pidfd_open(parent), select.POLLIN)
            self._alive = os.getppid() == parent
        except ProcessLookupError:
            self._alive = False

    def __iter__(self) -> Iterator[bytes]:
        while True:
            *lines, self._data = self._data.split(b"\n")
            yield from lines
            # What it said before its end counts.
            ready = dict(self._poller.poll(None if self._alive else 0))
            if self._connection.fileno() not in ready:
                return
            piece = self._connection.recv(1 << 16)
            if not piece:
                return
            self._data += piece


def _serve(connection: socket.socket, parent: int) -> None:
    todo: list[dict[str, Any]] = []
    try:
        for line in _Lines(connection, parent):
            message = json.loads(line)
            if "run" in message:
                done = _run(message["run"], message["input"], message["env"], _RUNS)
                _answer(connection, message, done)
            elif "end" in message:
                failed = _finish(todo)
                todo.clear()
                _answer(connection, message, {"failed": failed})
                return
            else:
                todo.append(message)
    except OSError:
        pass  # the parent is no more
    finally:
        _finish(todo)


def _answer(connection: socket.socket, message: dict[str, Any], answer: dict[str, Any]) -> None:
    connection.sendall(json.dumps({**answer, "number": message["number"]}).encode() + b"\n")


def _run(command: list[str], text: str, env: dict[str, str], timeout: float) -> dict[str, Any]:
    try:
        done = subprocess.run(
            command,
            input=text,
            env=env,
            timeout=timeout,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    except OSError as error:
        return {"errno": error.errno, "code": 127, "out": "", "err": str(error)}
    except subprocess.TimeoutExpired as error:
        return {"code": -signal.SIGKILL, "out": "", "err": str(error)}
    return {"code": done.returncode, "out": done.stdout, "err": done.stderr}


def _finish(todo: list[dict[str, Any]]) -> list[str]:
    failed = []
    for message in reversed(todo):
        if "remove" in message:
            path = message["remove"]
            try:
                if os.path.isdir(path) and not os.path.islink(path):
                    shutil.rmtree(path)
                elif os.path.lexists(path):
                    os.unlink(path)
            except OSError as error:
                failed.append(f"{path}: {error.strerror}")
            continue
        done = _run(message["at_end"], "", message["env"], _PATIENCE)
        if done["code"] != 0:
            what = done["err"].strip() or f"exit code {done['code']}"
            failed.append(f"{message['at_end'][0]}: {what}")
    return failed


def main() -> None:
    """Serve the socket whose descriptor is the first argument; the second is our parent."""
    # Handled and not ignored: what it starts would inherit that.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: None)
    fd = int(sys.argv[1])
    os.set_inheritable(fd, False)
    os.chdir("/")
    _serve(socket.socket(fileno=fd), int(sys.argv[2]))


if __name__ == "__main__":
    main()
