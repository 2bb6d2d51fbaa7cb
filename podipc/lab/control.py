"""How the driver in one container finds the worker in the other: a Unix socket in ``/dev/shm``.

The consumer listens, in a directory that only its user may enter, and takes one
driver. Whoever connects has to say first that it is one, in a line; who does not
is told apart and sent away. The connection is the life of both: when it closes,
the worker ends.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path

import podipc
from podipc.lab.wire import Ended, Garbled, Message, Silent, Wire

PROTOCOL = 1
HELLO_SECONDS = 5.0
"""For the first line of either side."""
_SHORT = 1 << 12


class ControlError(RuntimeError):
    """The two containers did not find each other; the text says why."""


def address(memory: Path) -> Path:
    """The socket in the directory that both containers know."""
    return memory / "control"


def _hello() -> Message:
    return {"podipc-compare": PROTOCOL, "podipc": podipc.__version__}


def prepare(memory: Path) -> None:
    """Make the directory, or find that it is ours. Raises `ControlError`."""
    try:
        memory.mkdir(mode=0o700, parents=True, exist_ok=True)
        found = memory.lstat()
    except OSError as error:
        raise ControlError(f"{memory}: cannot be made: {error.strerror}") from error
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
        raise ControlError(
            f"{memory}: is there, and is not a directory of UID {os.geteuid()} but of UID "
            f"{found.st_uid}: run both containers with one runAsUser"
        )


def _listen(path: Path) -> socket.socket:
    listener = socket.socket(socket.AF_UNIX)
    try:
        with socket.socket(socket.AF_UNIX) as probe:
            if path.exists() and probe.connect_ex(str(path)) == 0:
                raise ControlError(f"{path}: another consumer listens there already")
        # Who listened there before is gone.
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        listener.listen(8)
    except OSError as error:
        listener.close()
        raise ControlError(f"{path}: {error.strerror or error}") from error
    except ControlError:
        listener.close()
        raise
    return listener


def accept(memory: Path, wait: float, say: Callable[[str], None]) -> socket.socket:
    """Wait for the driver; a connection that has said what it should. Raises `ControlError`."""
    prepare(memory)
    path = address(memory)
    until = time.monotonic() + wait
    with _listen(path) as listener, contextlib.ExitStack() as stack:
        # With a driver the directory is in use, and the driver removes it.
        stack.callback(_remove_if_empty, memory)
        try:
            while True:
                listener.settimeout(max(0.01, until - time.monotonic()))
                try:
                    connection, _ = listener.accept()
                except TimeoutError:
                    raise ControlError(
                        f"no driver came to {path} within {wait:g} s: is the container "
                        "'producer' up (podipc compare --as producer)?"
                    ) from None
                connection.setblocking(True)
                if problem := _refused(connection):
                    say(f"{path}: sent somebody away who is no driver: {problem}")
                    connection.close()
                    continue
                stack.pop_all()
                return connection
        finally:
            path.unlink(missing_ok=True)


def _remove_if_empty(memory: Path) -> None:
    with contextlib.suppress(OSError):
        memory.rmdir()


def _refused(connection: socket.socket) -> str | None:
    """Why this is not a driver, or None; then it has been greeted."""
    wire = Wire(connection.fileno(), connection.fileno(), _SHORT)
    try:
        hello = wire.receive(time.monotonic() + HELLO_SECONDS)
        wire.send(_hello())
    except Silent:
        return f"it said nothing for {HELLO_SECONDS:g} s"
    except Ended:
        return "it closed at once"
    except Garbled as error:
        return str(error)
    return _unlike(hello)


def _unlike(hello: Message) -> str | None:
    if hello.get("podipc-compare") != PROTOCOL:
        return f"{str(hello)[:80]} is no greeting of this version ({_hello()})"
    return None


def connect(memory: Path, wait: float) -> socket.socket:
    """Find the consumer, which may start later. Raises `ControlError`."""
    prepare(memory)
    path = address(memory)
    until = time.monotonic() + wait
    connection = socket.socket(socket.AF_UNIX)
    try:
        while (number := connection.connect_ex(str(path))) != 0:
            if time.monotonic() > until:
                raise ControlError(
                    f"the consumer did not come to {path} within {wait:g} s "
                    f"({os.strerror(number)}): is the container 'consumer' up (podipc compare "
                    "--as consumer), and do both see one /dev/shm?"
                )
            time.sleep(0.005)
        _greet(connection, path)
    except BaseException:
        connection.close()
        raise
    return connection


def _greet(connection: socket.socket, path: Path) -> None:
    wire = Wire(connection.fileno(), connection.fileno(), _SHORT)
    try:
        with contextlib.suppress(Ended):  # what it said before it closed is still to be read
            wire.send(_hello())
        # Somebody else may be in front, who says nothing.
        problem = _unlike(wire.receive(time.monotonic() + 4 * HELLO_SECONDS))
    except Silent:
        problem = f"it says nothing for {4 * HELLO_SECONDS:g} s; does it serve another driver?"
    except Ended:
        problem = "it closed the connection"
    except Garbled as error:
        problem = str(error)
    if problem:
        raise ControlError(f"what answers at {path} is no consumer of this podipc: {problem}")
