"""The two workers between which everything is measured, and the orders they are given.

Both get the same order at the same time. The one that asks is a child of this
process, in the same container; the one that answers is in the other container, at
the end of a control connection. Neither is the main process of its container, so that
what a method does to a worker, that process lives to tell, and starts another one.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Any

from podipc.lab import control
from podipc.lab.answering import ending
from podipc.lab.methods import PATIENCE, Method
from podipc.lab.wire import Ended, Garbled, Message, Silent, Wire

WAIT = 120.0
"""Seconds that one container waits for the other to come."""


class WorkerDied(RuntimeError):
    """A worker ended, or fell silent, in the middle of a measurement.

    Attributes
    ----------
    side
        ``producer`` or ``consumer``.
    what
        What it did: died, and how.
    """

    def __init__(self, side: str, what: str) -> None:
        super().__init__(f"container {side!r} {what}")
        self.side = side
        self.what = what


class Wrong(RuntimeError):
    """Tensors arrived, but not as they were sent."""


class Failed(RuntimeError):
    """A method could not do it; the text says why."""


class Side:
    """A worker at the other end of a wire."""

    def __init__(self, name: str, wire: Wire) -> None:
        self.name = name
        self._wire = wire

    def order(self, command: Message) -> None:
        """Give a command; `reply` has to be called for it. Raises `WorkerDied`."""
        try:
            self._wire.send(command)
        except Ended:
            raise self._died() from None

    def reply(self, until: float) -> Message:
        """What came of the command. Raises `WorkerDied`."""
        try:
            return self._wire.receive(until)
        except Silent:
            raise WorkerDied(self.name, "does not answer") from None
        except Garbled as error:
            raise WorkerDied(self.name, f"answered what is no answer: {error}") from None
        except Ended:
            raise self._died() from None

    def _died(self) -> WorkerDied:
        return WorkerDied(self.name, "died (it closed the control connection)")


class Child(Side):
    """The worker that asks, a process of its own; a context manager."""

    def __init__(self, name: str, memory: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "podipc.lab.worker"],
            env=os.environ
            | {
                "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
                "PODIPC_DIR": str(memory),
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        super().__init__(name, Wire(self._process.stdout.fileno(), self._process.stdin.fileno()))

    def close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Let it end by itself, unless there was an error."""
        process = self._process
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            if kind is None:
                process.wait(2)
        process.kill()
        process.wait()
        process.stdout.close()

    def _died(self) -> WorkerDied:
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        code = self._process.poll()
        if code is None:
            return WorkerDied(self.name, "closed its end, and lives")
        return WorkerDied(self.name, f"died ({ending(code)})")


class Remote(Side):
    """The worker that answers, in the other container; a context manager's end is `close`."""

    def __init__(self, name: str, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__(name, Wire(connection.fileno(), connection.fileno()))

    def close(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Tell it that all is done; without a word if there was an error."""
        if kind is None:
            with contextlib.suppress(WorkerDied):
                self.order({"do": "end"})
                self.reply(time.monotonic() + PATIENCE)
        self._connection.close()


class Pair:
    """Both, for as long as they are needed; a context manager.

    Parameters
    ----------
    memory, disk
        Directories that both containers mount: one of this pair alone on the tmpfs at
        ``/dev/shm``, and one on a disk. `memory` is removed at the end.
    wait
        Seconds that the consumer may take to come.
    input
        The file of real tensors, as the worker that asks finds it.
    corrupt, die
        As in `Plan`.

    Raises
    ------
    ControlError
        There is no consumer.
    WorkerDied
        A worker could not be started.
    """

    def __init__(
        self,
        memory: Path,
        disk: Path,
        *,
        wait: float = WAIT,
        input: Path | None = None,
        corrupt: int | None = None,
        die: str | None = None,
    ) -> None:
        self.name = memory.name
        self.memory = memory
        self.disk = disk
        self._wait = wait
        self._input = input
        self._corrupt = corrupt
        self._die = die
        self._driver = secrets.token_hex(8)
        self._stack = contextlib.ExitStack()
        self._turn = 0
        self._place = f"{self.name}-0"

    def __enter__(self) -> Pair:
        with self._stack as stack:
            stack.callback(sweep, self.memory)
            connection, greeting = control.connect(self.memory, self._wait, self._driver)
            self.consumer: dict[str, Any] = greeting.get("container") or {}
            self._workers = stack.enter_context(contextlib.ExitStack())
            self._start(connection)
            self._stack = stack.pop_all()
        return self

    def _start(self, connection: socket.socket) -> None:
        self._workers.callback(connection.close)
        self.ask = Child("producer", self.memory)
        self._workers.push(self.ask.close)
        self.answer = Remote("consumer", connection)
        self._workers.push(self.answer.close)
        self.cpus = _two([reply["cpus"] for reply in self.both({"do": "hello"})])

    def again(self, error: WorkerDied) -> str:
        """Two workers in the place of these, one of which has died: how it died.

        Raises the same error if the container of the consumer is gone as well.
        """
        try:
            connection, greeting = control.connect(self.memory, 0, self._driver, lost=error.side)
        except control.ControlError:
            raise error from None
        self._workers.__exit__(type(error), error, None)
        _remove(self.memory, f"*{self._place}*")
        _remove(self.memory.parent, f"*{self._place}*")
        self._start(connection)
        what = error.what
        if error.side == "consumer" and greeting.get("died"):
            what = f"died ({str(greeting['died'])[:40]})"
        return f"{what} in container {error.side!r}{_hint(what)}"

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, traceback)

    def both(self, ask: Message, answer: Message | None = None) -> list[Message]:
        """Give each a command and wait for both. Raises `Failed`, `Wrong`, `WorkerDied`."""
        self.answer.order(ask if answer is None else answer)
        self.ask.order(ask)
        until = time.monotonic() + 3 * PATIENCE
        replies = [self.ask.reply(until), self.answer.reply(until)]
        errors = [r["error"] for r in replies if "error" in r]
        if errors:
            raise Failed(_first(errors))
        if wrong := sum(r.get("wrong", 0) for r in replies):
            raise Wrong(f"{wrong} arrived wrong")
        return replies

    def timed(self, do: str, n: int, whole: bool = False) -> list[Message]:
        """A pass; both sides pinned."""
        command = {"do": do, "n": n, "whole": whole}
        return self.both(command | {"cpu": self.cpus[0]}, command | {"cpu": self.cpus[1]})

    def floor(self, mechanism: str, size: int, rounds: int, stream: bool = False) -> list[int]:
        """Nanoseconds of the raw floor, measured inside a container."""
        command = {"do": "floor", "mechanism": mechanism, "size": max(1, size), "rounds": rounds}
        self.ask.order(command | {"cpus": self.cpus, "stream": stream})
        reply = self.ask.reply(time.monotonic() + 3 * PATIENCE)
        if "error" in reply:
            raise Failed(reply["error"])
        ns: list[int] = reply["ns"]
        return ns

    @contextlib.contextmanager
    def open(self, method: Method, nbytes: int, tensors: Any = None) -> Iterator[None]:
        """Open a method on both sides."""
        self._turn += 1
        self._place = f"{self.name}-{self._turn}"
        ports = self.both({"do": "ports", "n": 2})[1]["ports"]
        place = {
            "name": self._place,
            "directory": str(self.disk),
            "memory": str(self.memory),
            "ports": ports,
            "nbytes": nbytes,
            "dtype": "<u8" if tensors is None else "|u1",
        }
        command = {"do": "open", "method": method.name, "place": place, "seed": self._turn}
        if tensors is not None:
            command["tensors"] = tensors
        dies = [self._die == f"{side}:{method.name}" for side in ("producer", "consumer")]
        ask = command | {"role": "ask", "corrupt": self._corrupt, "die": dies[0]}
        if self._input is not None:
            ask["input"] = str(self._input.resolve())
        try:
            self.both(ask, command | {"role": "answer", "die": dies[1]})
            yield
        except (Failed, Wrong):
            self.both({"do": "close"})
            raise
        self.both({"do": "close"})


def _hint(what: str) -> str:
    if f"signal {signal.SIGBUS:d}" in what:
        return "; /dev/shm may have been full (--shm-size)"
    if f"signal {signal.SIGKILL:d}" in what:
        return "; the container may have been out of memory"
    return ""


def _two(cpus: list[list[int]]) -> list[int | None]:
    """A cpu for each side, not the same one; [None, None] where there is only one."""
    pairs = ((a, b) for a in cpus[0] for b in cpus[1] if a != b)
    return list(next(pairs, (None, None)))


def sweep(memory: Path) -> None:
    """Remove the directory, and what a killed worker left beside it."""
    shutil.rmtree(memory, ignore_errors=True)
    _remove(memory.parent, f"*{memory.name}*")


def _remove(directory: Path, pattern: str) -> None:
    for left in directory.glob(pattern):
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            with contextlib.suppress(OSError):
                left.unlink()


def _first(errors: list[str]) -> str:
    """Of the errors of both sides, the one that explains the other."""
    silent = ("TimeoutError", "Timeout", "EOFError", "Closed", "Again", "PeerDied", "Empty")
    return min(errors, key=lambda e: e.startswith(silent))


@contextlib.contextmanager
def alone() -> Iterator[Pair]:
    """A pair of plain processes of this machine, without a Pod."""
    with contextlib.ExitStack() as stack:
        disk = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="podipc-")))
        memory = Path("/dev/shm") / disk.name
        stack.callback(sweep, memory)
        command = ["-P", "-m", "podipc", "compare", "--as", "consumer", "--memory", str(memory)]
        consumer = stack.enter_context(
            subprocess.Popen(
                [sys.executable, *command, "--events"],
                env=os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)},
                stdin=subprocess.DEVNULL,
            )
        )
        stack.callback(consumer.send_signal, signal.SIGTERM)
        with Pair(memory, disk) as pair:
            yield pair
        consumer.wait(PATIENCE)
