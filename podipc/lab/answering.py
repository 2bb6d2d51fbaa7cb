"""The consumer of a comparison: a worker for the driver, and another one when that has died.

The worker is a process of its own, so that what a method does to it, this one lives to tell.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import subprocess
import sys
from typing import Literal

from podipc.lab import machine
from podipc.lab.control import Door, Visit
from podipc.lab.worker import DONE, ENDINGS, LEFT

Outcome = Literal["done", "left", "garbled"]

AGAIN = 5.0
"""Seconds that the driver has to come again when a worker has died."""
_DYING = 5.0
"""Seconds for a process whose connection has closed to be gone."""


class Died(Exception):
    """A worker has ended by itself, and the driver did not come for another; the text says how."""


class Worker:
    """The worker in this container, at the end of a connection; a context manager."""

    def __init__(self, connection: socket.socket) -> None:
        with connection:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "podipc.lab.worker", str(connection.fileno())],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                stdin=subprocess.PIPE,  # it ends when this closes
                pass_fds=[connection.fileno()],
            )
        self._descriptor = os.pidfd_open(self._process.pid)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._descriptor)
        assert self._process.stdin is not None
        self._process.stdin.close()

    def fileno(self) -> int:
        """Readable when it has ended."""
        return self._descriptor

    def code(self, patience: float = 0) -> int | None:
        """How it has ended; None if it has not."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            return self._process.wait(patience)
        return None


def serve(door: Door, wait: float) -> Outcome:
    """Serve the first driver that comes, to its end.

    Raises `ControlError` if none comes, and `Died`.
    """
    visit = door.wait(wait)
    driver, about = visit.driver, machine.container()
    visit.greet(container=about)
    while True:
        with Worker(visit.connection) as worker:
            again = _until(worker, door, driver)
            if again is None:
                code = worker.code()
                if code in ENDINGS:
                    return "done" if code == DONE else "left" if code == LEFT else "garbled"
                again = _come(door, driver, ending(code or 0))
            # The other one's worker has died: this one may wait for it in vain.
            code = worker.code(_DYING if again.lost == "consumer" else 0)
        visit = again
        died = None if code is None or code in ENDINGS else ending(code)
        visit.greet(container=about, died=died)


def _until(worker: Worker, door: Door, driver: str) -> Visit | None:
    """Until the worker has ended, or its driver comes again."""
    poller = select.poll()
    for one in (worker, door):
        poller.register(one, select.POLLIN)
    while True:
        ready = {descriptor for descriptor, _ in poller.poll()}
        if door.fileno() in ready and (visit := _visit(door, driver)):
            return visit
        if worker.fileno() in ready:
            return None


def _visit(door: Door, driver: str) -> Visit | None:
    """The driver, if it is that one; others are told that this container is taken."""
    with contextlib.suppress(TimeoutError):
        visit = door.take()
        if visit is None or visit.driver == driver:
            return visit
        visit.greet(busy=True)
        visit.connection.close()
    return None


def _come(door: Door, driver: str, how: str) -> Visit:
    poller = select.poll()
    poller.register(door, select.POLLIN)
    while poller.poll(AGAIN * 1000):
        if visit := _visit(door, driver):
            return visit
    raise Died(f"the worker died ({how}), and the driver did not come for another")


def ending(code: int) -> str:
    """Exit code 1, signal 9."""
    return f"exit code {code}" if code >= 0 else f"signal {-code}"
