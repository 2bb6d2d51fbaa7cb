"""Giving what `multiprocessing` made to a process that it did not start.

Two containers cannot inherit anything from one another. A queue is pickled here
as it would be for a child, and the descriptors it consists of go over a Unix
socket.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from multiprocessing import context, reduction
from multiprocessing.connection import Connection
from typing import Any

from podipc.lab.methods import PATIENCE, Place, Role


def retry(attempt: Callable[[], object]) -> None:
    """Try until the other side is there."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            attempt()
        except (FileNotFoundError, ConnectionRefusedError):
            if time.monotonic() > until:
                raise
            time.sleep(0.001)
        else:
            return


def meet(role: Role, place: Place, suffix: str) -> socket.socket:
    """A connected Unix socket between the two sides; messages keep their bounds."""
    return _meet(role, place, suffix, socket.SOCK_SEQPACKET)


def connect(role: Role, place: Place, suffix: str = "mp") -> Connection:
    """A `multiprocessing` connection between the two sides, over a Unix socket."""
    return Connection(_meet(role, place, suffix, socket.SOCK_STREAM).detach())


def _meet(role: Role, place: Place, suffix: str, kind: int) -> socket.socket:
    path = str(place.memory / f"{place.name}.{suffix}")
    s = socket.socket(socket.AF_UNIX, kind)
    if role == "ask":
        try:
            retry(lambda: s.connect(path))
        except BaseException:
            s.close()
            raise
        return s
    with s:
        s.bind(path)
        s.listen(1)
        s.settimeout(PATIENCE)
        try:
            return s.accept()[0]
        finally:
            os.unlink(path)


class _Handover:
    """Stands in for the child that `multiprocessing` would start: collects descriptors."""

    def __init__(self) -> None:
        self.fds: list[int] = []

    def duplicate_for_child(self, fd: int) -> int:
        self.fds.append(fd)
        return len(self.fds) - 1

    @staticmethod
    def DupFd(number: int) -> _Handed:
        return _Handed(number)


class _Handed:
    """A descriptor by its number among those handed over."""

    def __init__(self, number: int) -> None:
        self.number = number

    def detach(self) -> int:
        return _received[self.number]


_received: list[int] = []
"""While an object is being unpickled, the descriptors that came with it."""


def hand_over(role: Role, place: Place, make: Callable[[], Any]) -> Any:
    """What `make` makes on the side that answers, on both sides."""
    with meet(role, place, "fds") as s:
        if role == "ask":
            data, fds, _, _ = socket.recv_fds(s, 1 << 16, 16)
            _received[:] = fds
            return reduction.ForkingPickler.loads(data)
        made, child = make(), _Handover()
        child_of: Any = context.set_spawning_popen
        child_of(child)
        try:
            pickled = reduction.ForkingPickler.dumps(made)
        finally:
            child_of(None)
        socket.send_fds(s, [pickled], child.fds)
        return made
