"""How the driver in one container finds the worker in the other: a Unix socket in ``/dev/shm``.

The consumer listens, in a directory that only its user may enter, and takes one
driver. Whoever connects has to say first that it is one, in a line; who does not
is told apart and sent away. The connection is the life of the worker: when it
closes, the worker ends. When a worker has died, the same driver comes again, and
gets another one.
"""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import podipc
from podipc.lab.wire import Ended, Garbled, Message, Silent, Wire

PROTOCOL = 2
HELLO_SECONDS = 5.0
"""For the first line of either side."""
_SHORT = 1 << 16


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


class Door:
    """Where the driver finds this container; a context manager. For one thread.

    It is open for as long as the container serves, so that a driver whose worker has died
    comes in again, and one that cannot come in knows that the container is gone.
    """

    def __init__(self, memory: Path, say: Callable[[str], None]) -> None:
        self._memory = memory
        self._path = address(memory)
        self._say = say

    def __enter__(self) -> Door:
        prepare(self._memory)
        self._listener = _listen(self._path)
        return self

    def __exit__(self, *error: object) -> None:
        self._listener.close()
        self._path.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # with a driver it is in use, and the driver removes it
            self._memory.rmdir()

    def fileno(self) -> int:
        """Readable when somebody is there."""
        return self._listener.fileno()

    def wait(self, seconds: float) -> Visit:
        """The first driver that comes. Raises `ControlError`."""
        until = time.monotonic() + seconds
        while True:
            self._listener.settimeout(max(0.01, until - time.monotonic()))
            try:
                visit = self.take()
            except TimeoutError:
                raise ControlError(
                    f"no driver came to {self._path} within {seconds:g} s: is the container "
                    "'producer' up (podipc compare --as producer)?"
                ) from None
            if visit is not None:
                return visit

    def take(self) -> Visit | None:
        """Who stands there; None if it was no driver, and has been sent away."""
        connection, _ = self._listener.accept()
        connection.setblocking(True)
        visit = Visit(connection)
        if problem := visit.heard():
            self._say(f"{self._path}: sent somebody away who is no driver: {problem}")
            connection.close()
            return None
        return visit


class Visit:
    """A driver that has come, and waits to be greeted.

    Attributes
    ----------
    connection
        To it.
    driver
        What it calls itself, unlike every other.
    lost
        Whose worker has died, ``producer`` or ``consumer``, if it comes again for that.
    """

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self._wire = Wire(connection.fileno(), connection.fileno(), _SHORT)
        self.driver = ""
        self.lost: str | None = None

    def heard(self) -> str | None:
        """Why this is not a driver, or None."""
        try:
            hello = self._wire.receive(time.monotonic() + HELLO_SECONDS)
        except Silent:
            return f"it said nothing for {HELLO_SECONDS:g} s"
        except Ended:
            return "it closed at once"
        except Garbled as error:
            return str(error)
        self.driver, self.lost = str(hello.get("driver")), hello.get("lost")
        if problem := _unlike(hello):
            self.greet()  # so that it sees as well what is unlike
        return problem

    def greet(self, **more: Any) -> None:
        """Answer it. One that is gone meanwhile will be noticed by whoever serves it."""
        with contextlib.suppress(Ended):
            self._wire.send(_hello() | more)


def _unlike(hello: Message) -> str | None:
    if hello.get("podipc-compare") != PROTOCOL:
        return f"{str(hello)[:80]} is no greeting of this version ({_hello()})"
    return None


def connect(
    memory: Path, wait: float, driver: str, lost: str | None = None
) -> tuple[socket.socket, Message]:
    """Find the consumer, which may start later; also how it greets. Raises `ControlError`.

    `driver` and `lost` are as in `Visit`.
    """
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
        return connection, _greeted(connection, path, _hello() | {"driver": driver, "lost": lost})
    except BaseException:
        connection.close()
        raise


def _greeted(connection: socket.socket, path: Path, hello: Message) -> Message:
    wire = Wire(connection.fileno(), connection.fileno(), _SHORT)
    greeting: Message = {}
    try:
        with contextlib.suppress(Ended):  # what it said before it closed is still to be read
            wire.send(hello)
        # Somebody else may be in front, who says nothing.
        greeting = wire.receive(time.monotonic() + 4 * HELLO_SECONDS)
        problem = _unlike(greeting)
    except Silent:
        problem = f"it says nothing for {4 * HELLO_SECONDS:g} s"
    except Ended:
        problem = "it closed the connection"
    except Garbled as error:
        problem = str(error)
    if problem:
        raise ControlError(f"what answers at {path} is no consumer of this podipc: {problem}")
    if greeting.get("busy"):
        raise ControlError(f"the consumer at {path} serves another driver")
    return greeting
