"""Keeps the Pods of a file in the background: ``python -m podipc.pod.background.keeper MANIFEST``.

It says on its standard output, in one line of JSON, whether they are up; then it serves
the socket in each Pod's directory until it is told to end that Pod. When it dies, the
Pods go, and their directories as well.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from podipc._core import PodipcError
from podipc.pod import RUNTIMES
from podipc.pod.background import state
from podipc.pod.errors import PodError
from podipc.pod.group import Group
from podipc.pod.manifest import read
from podipc.pod.runtime import Pod

_PAUSE = 0.2
"""Seconds after which a connection that could not be taken is tried again."""


class Keeper:
    """Serves one Pod."""

    def __init__(self, pods: Group, pod: Pod, listener: socket.socket, since: float) -> None:
        self._pods = pods
        self._pod = pod
        self._listener = listener
        self._since = since
        self._done = threading.Event()

    def serve(self) -> None:
        """From now on."""
        threading.Thread(target=self._accept, daemon=True).start()

    def wait(self) -> None:
        """Until somebody asks for the end of the Pod."""
        self._done.wait()

    def _accept(self) -> None:
        while not self._done.is_set():
            try:
                connection, _ = self._listener.accept()
            except OSError:
                # For want of descriptors, say, which others may give back.
                if self._listener.fileno() < 0 or self._done.wait(_PAUSE):
                    return
                continue
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        fds: list[int] = []
        with connection:
            try:
                request = _request(connection, fds)
                if request is not None:
                    self._answer(connection, request, fds)
            except (PodipcError, ValueError) as error:
                _send(connection, {"error": str(error)})
            except (LookupError, TypeError) as error:
                _send(connection, {"error": f"not a request to a keeper: {error!r}"})
            except OSError:
                pass  # whoever asked has gone
            finally:
                for fd in fds:
                    os.close(fd)

    def _answer(self, connection: socket.socket, request: dict[str, Any], fds: list[int]) -> None:
        what = request["do"]
        if what == "status":
            _send(connection, self._status())
        elif what == "logs":
            container = self._pod[request["container"]]
            _send(connection, {})
            if request["follow"]:
                for piece in container.follow():
                    connection.sendall(piece)
            else:
                connection.sendall(container.logs().encode())
        elif what == "exec":
            self._exec(connection, request, fds)
        elif what == "down":
            self._pod.grace = self._pod.grace if request["grace"] is None else request["grace"]
            # Closed here, so that it is gone when the answer comes.
            self._pods.end(self._pod.name)
            _send(connection, {})
            self._done.set()
        else:
            raise PodError(f"the keeper of a Pod does not know {what!r}")

    def _exec(self, connection: socket.socket, request: dict[str, Any], fds: list[int]) -> None:
        container = self._pod[request["container"]]
        program = container.exec(request["command"], stdin=fds[0], stdout=fds[1], stderr=fds[2])
        _send(connection, {})
        # Whoever asked for it and goes takes it along.
        threading.Thread(target=_kill_at_end, args=(connection, program), daemon=True).start()
        _send(connection, {"code": program.wait()})

    def _status(self) -> dict[str, Any]:
        pod = self._pod
        return {
            "name": pod.name,
            "runtime": pod.runtime,
            "manifest": pod.spec.source,
            "phase": pod.phase,
            "message": pod.message,
            "pid": os.getpid(),
            "since": self._since,
            "notes": pod.notes,
            "containers": [
                {
                    "name": container.name,
                    "init": container.is_init,
                    "state": container.state,
                    "reason": container.reason,
                    "exit_code": container.returncode,
                    "restarts": container.restarts,
                    "pid": container.pid,
                }
                for container in pod.containers.values()
            ],
        }


def _kill_at_end(connection: socket.socket, program: Any) -> None:
    try:
        while connection.recv(1):
            pass
    except OSError:
        pass
    program.kill()


def _request(connection: socket.socket, fds: list[int]) -> dict[str, Any] | None:
    data = b""
    while not data.endswith(b"\n"):
        piece, received, _, _ = socket.recv_fds(connection, 65536, 3)
        for fd in received:
            os.set_inheritable(fd, False)
        fds.extend(received)
        data += piece
        if not piece or len(data) > 1 << 22:
            return None
    request: dict[str, Any] = json.loads(data)
    return request


def _send(connection: socket.socket, answer: dict[str, Any]) -> None:
    connection.sendall(json.dumps(answer).encode() + b"\n")


def _report(answer: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


def main(argv: Sequence[str] | None = None) -> int:
    """Keep one Pod."""
    parser = argparse.ArgumentParser(prog="podipc.pod.background.keeper")
    parser.add_argument("manifest")
    parser.add_argument("--runtime", choices=RUNTIMES, default="auto")
    parser.add_argument("--grace", type=float)
    for name in ("namespace", "context"):
        parser.add_argument(f"--{name}", default=argparse.SUPPRESS)
    options = parser.parse_args(argv)

    def end(number: int, frame: object) -> NoReturn:
        raise SystemExit(0)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    claimed: dict[str, tuple[Path, socket.socket]] = {}
    try:
        file = read(options.manifest)
        for spec in file.pods:
            claimed[spec.name] = state.claim(spec.name)
        at_end = {name: [str(directory)] for name, (directory, _) in claimed.items()}
        place = {name: vars(options)[name] for name in ("namespace", "context") if name in options}
        made = Group(file, options.runtime, grace=options.grace, at_end=at_end, **place)
        with made as pods:
            keepers = [
                Keeper(pods, pod, claimed[name][1], time.time()) for name, pod in pods.items()
            ]
            phases = {name: pod.phase for name, pod in pods.items()}
            _report(
                {
                    "name": ", ".join(pods),
                    "notes": pods.notes,
                    "phase": pods.phase,
                    "phases": phases,
                }
            )
            for keeper in keepers:
                keeper.serve()
            for keeper in keepers:
                keeper.wait()
    except PodipcError as error:
        _report({"error": str(error), "kind": type(error).__name__})
        return 1
    finally:
        for directory, listener in claimed.values():
            listener.close()
            _remove(directory)
    return 0


def _remove(directory: Path) -> None:
    if directory.is_dir():
        for path in directory.iterdir():
            path.unlink(missing_ok=True)
        directory.rmdir()


if __name__ == "__main__":
    raise SystemExit(main())
