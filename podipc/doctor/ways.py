"""How two doctors find each other: a port of 127.0.0.1, and a channel of shared memory.

Each way works only where what it needs is shared, so that a message is the proof of it.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import time
from collections.abc import Callable, Collection, Iterator
from typing import Final, Protocol

import numpy as np

import podipc
from podipc import leftovers
from podipc._core import PodipcError
from podipc.doctor import facts
from podipc.doctor.message import MAX_BYTES, Message, decode

PORTS: Final = (28467, 28468, 28469)
"""The next one is for where a stranger has the one before."""
HELLO: Final = b"podipc-doctor\n"
CHANNEL: Final = "podipc-doctor-meeting"
SLOW: Final = 0.5
"""Seconds for all that is said in one connection."""
EVERY: Final = 0.2

Say = Callable[[str], bytes]
"""What to tell the others on a way, by its name."""


class Way(Protocol):
    """One of the ways. `error` is what has kept it from working, or ""."""

    name: str
    error: str

    def step(self, say: Say) -> list[Message]:
        """Tell, and give what was heard since. Takes a second at most."""

    def close(self) -> None:
        """Leave nothing."""


class Memory:
    """A channel in which everybody publishes, and hears all others."""

    name = "memory"

    def __init__(self, address: str) -> None:
        self.error = ""
        self.address = address
        self._stack = contextlib.ExitStack()
        self._open = False
        self._last = 0.0

    def step(self, say: Say) -> list[Message]:
        heard: list[Message] = []
        try:
            if not self._open:
                self._join()
            heard += self._hear()
            if time.monotonic() - self._last >= EVERY:
                self._last = time.monotonic()
                data = np.frombuffer(say(self.name), np.uint8)
                with contextlib.suppress(podipc.Timeout):  # somebody does not listen
                    self._tx.send(data, timeout=EVERY)
        except PodipcError as error:
            self.error = str(error)
        return heard

    def _join(self) -> None:
        with contextlib.ExitStack() as stack:
            self._rx = stack.enter_context(podipc.subscriber(self.address, mode=0o666))
            self._tx = stack.enter_context(podipc.publisher(self.address, mode=0o666))
            self._stack = stack.pop_all()
        self._open = True

    def _hear(self) -> list[Message]:
        heard = []
        for _ in range(64):
            try:
                array = self._rx.recv(timeout=0, copy=True)
            except podipc.Timeout:
                break
            except podipc.PeerDied:
                continue
            if array.dtype == np.uint8 and array.nbytes <= MAX_BYTES:
                message = decode(array.tobytes())
                heard += [message] if message else []
        return heard

    def close(self) -> None:
        self._stack.close()


class Loopback:
    """The first one listens on a port of 127.0.0.1, the others connect to it.

    The listener says who it is before anybody else says a word; then the one who has
    connected tells, and is told whatever the listener knows of all.
    """

    name = "loopback"

    def __init__(self, ports: Collection[int] = PORTS) -> None:
        self.error = ""
        self._ports = ports
        self._listener: socket.socket | None = None
        self._known: dict[str, bytes] = {}
        self._last = 0.0

    def step(self, say: Say) -> list[Message]:
        mine = say(self.name)
        try:
            if self._listener is not None:
                return list(self._serve(self._listener, mine))
            if time.monotonic() - self._last < EVERY:
                return []
            self._last = time.monotonic()
            return self._go_round(mine)
        except OSError as error:
            self.error = f"127.0.0.1: {error}"
            return []

    def _go_round(self, mine: bytes) -> list[Message]:
        """Listen on the first port that is free, or ask the doctor who does."""
        for port in self._ports:
            listener = socket.socket()
            try:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind(("127.0.0.1", port))
                listener.listen(16)
                self._listener = listener
                return []
            except OSError as error:
                listener.close()
                if error.errno != errno.EADDRINUSE:
                    raise
            with contextlib.suppress(OSError):
                heard = _ask(port, mine)
                if heard is not None:
                    return heard
        self.error = f"the ports {', '.join(map(str, self._ports))} are taken by others"
        return []

    def _serve(self, listener: socket.socket, mine: bytes) -> Iterator[Message]:
        until = time.monotonic() + SLOW
        while time.monotonic() < until and select.select([listener], [], [], 0)[0]:
            connection, _ = listener.accept()
            with connection, contextlib.suppress(OSError):
                deadline = time.monotonic() + SLOW
                connection.settimeout(SLOW)
                connection.sendall(HELLO, socket.MSG_NOSIGNAL)
                line = next(_lines(connection, deadline), b"")
                message = decode(line)
                if message is None:
                    continue
                self._known[message.who] = line
                others = [known for who, known in self._known.items() if who != message.who]
                answer = b"".join(known + b"\n" for known in [mine, *others[-16:]])
                connection.sendall(answer, socket.MSG_NOSIGNAL)
                yield message

    def close(self) -> None:
        if self._listener is not None:
            self._listener.close()


def _ask(port: int, mine: bytes) -> list[Message] | None:
    """What a doctor who listens there knows; None if it is a stranger."""
    with socket.create_connection(("127.0.0.1", port), SLOW) as connection:
        found = _lines(connection, time.monotonic() + 2 * SLOW)
        if next(found, b"") + b"\n" != HELLO:
            return None
        connection.sendall(mine + b"\n", socket.MSG_NOSIGNAL)
        return [message for line in found if (message := decode(line))]


def _lines(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    """Whole lines, bounded in length, number and time."""
    rest = b""
    for _ in range(1024):
        left = deadline - time.monotonic()
        if left <= 0:
            return
        connection.settimeout(left)
        try:
            piece = connection.recv(MAX_BYTES)
        except TimeoutError:
            return
        if not piece:
            return
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
        if len(rest) > MAX_BYTES:
            return


def both(directory: str | None) -> list[Way]:
    """The ways; with a directory the channel is beside that, else where channels are."""
    address = CHANNEL if directory is None else f"shm://{directory}.{CHANNEL}"
    return [Loopback(), Memory(address)]


def place(directory: str | None) -> str:
    """The nearest directory, at the channel or above it, that is there."""
    above = str(leftovers.place()) if directory is None else os.path.dirname(directory)
    while not os.path.isdir(above) and above != "/":
        above = os.path.dirname(above) or "/"
    return above


def identities(directory: str | None) -> list[str]:
    """Of `place` and of what is above it in its mount: if one is common, so is the place.

    Several, because the first doctor makes a directory that the second one then finds.
    """
    at = os.path.realpath(place(directory))
    mount = facts.mount_of(at)
    stop = mount["target"] if mount else at
    found = []
    while True:
        if pair := facts.identity(at):
            found.append(f"{pair[0]}:{pair[1]}")
        if at in (stop, "/"):
            return found
        at = os.path.dirname(at)
