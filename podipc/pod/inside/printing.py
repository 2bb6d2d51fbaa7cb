"""What goes out of a session: its answers, and what the code in it prints, in order.

Python code prints through `sys.stdout`, and it is known which run it belongs to. C code
and child processes write to descriptors 1 and 2, which are pipes: that is attributed to
the run of the foreground, or else to the latest of the background. Before Python code
prints, what is in the pipes is sent.
"""

from __future__ import annotations

import contextlib
import io
import os
import select
import signal
import sys
import threading
from typing import Any, List  # noqa: UP035

from podipc.pod.inside import wire

WINDOW = 4 << 20
"""Bytes of output of one run that may be under way, before it waits for them to be taken."""

_PARTIAL = 8192
_TICK_MS = 200


class Source:
    """What output belongs to: a run, or nothing that runs."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.over = False
        self.outstanding = 0
        # What is not a whole line yet.
        self.stream = 1
        self.partial = bytearray()
        # Held while its thread sends: an exception thrown into that must not tear a frame.
        self.gate = threading.RLock()


class Raw(io.RawIOBase):
    """What is below `sys.stdout` and `sys.stderr`."""

    def __init__(self, printer: Printer, stream: int) -> None:
        self._printer = printer
        self._stream = stream

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._printer.print(self._stream, view)
        return len(view)

    def flush(self) -> None:
        self._printer.flush()

    def close(self) -> None:
        """Stays open: later code prints as well."""


class Shield:
    """No signal that code handles interrupts the main thread within: a frame is sent whole."""

    def __init__(self) -> None:
        # All that are handled in practice. All there are would take longer than the sending.
        names = ("SIGINT", "SIGTERM", "SIGALRM", "SIGUSR1", "SIGUSR2", "SIGHUP", "SIGCHLD")
        self._all = [getattr(signal, name) for name in names]
        self._main = threading.main_thread().ident
        self._depth = 0
        self._before: Any = ()

    def __enter__(self) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth += 1
        if self._depth > 1:
            return
        try:
            self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self._all)
        except BaseException:
            # One that had come before: nothing is begun yet.
            self._depth -= 1
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._all)
            raise

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._depth == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


class Printer:
    """Sends frames to what standard output is when it is made, and takes that over."""

    def __init__(self) -> None:
        self._replies = os.dup(1)
        self.errors = os.dup(2)
        self._shield = Shield()
        self._sending = threading.RLock()
        self._taken = threading.Condition()
        self._nobody = Source(0)
        self._foreground: Source | None = None
        self._background: List[Source] = []  # noqa: UP006
        self._pipes: dict[int, int] = {}
        self._printed = select.poll()
        self._ended: List[int] = []  # noqa: UP006
        self._wake_read, self._wake_write = os.pipe()
        self._gone = False
        self.forked = False

    def begin(self) -> None:
        """Take over descriptors 0 to 2, `sys.stdout` and `sys.stderr`."""
        with open("/dev/null", "rb") as null:
            os.dup2(null.fileno(), 0)
        for stream in (1, 2):
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            os.dup2(writing, stream)
            os.close(writing)
            self._pipes[reading] = stream
            self._printed.register(reading, select.POLLIN)
        out, err = (
            io.TextIOWrapper(
                Raw(self, stream),  # type: ignore[type-var]
                "utf-8",
                "backslashreplace",
                newline="\n",
                write_through=True,
            )
            for stream in (1, 2)
        )
        sys.stdout = sys.__stdout__ = out  # type: ignore[assignment, misc]
        sys.stderr = sys.__stderr__ = err  # type: ignore[assignment, misc]
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  (it stays open)
        self._follow_threads()
        os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._pump, daemon=True).start()

    def end(self) -> None:
        """Nobody listens any more: nothing is sent, and nobody waits for that."""
        self._gone = True
        with self._taken:
            self._taken.notify_all()

    def add(self, source: Source, *, background: bool) -> None:
        """From here on it runs."""
        if background:
            self._background.append(source)
        else:
            self._foreground = source
        os.write(self._wake_write, b".")

    def finish(self, source: Source, message: dict[str, Any], parts: list[bytes]) -> None:
        """Send what is left of its output, then the message; it runs no more.

        Raises
        ------
        Unsendable
            The message is too large; its output has been sent.
        """
        with self._shield, self._sending:
            if not source.over:
                self._drain(everything=True)
                source.over = True
                self._flush(source)
                if source in self._background:
                    self._background.remove(source)
                with self._taken:
                    self._taken.notify_all()
            self.send(message, parts)

    def taken(self, number: int, size: int) -> None:
        """So many bytes of its output have arrived where they are wanted."""
        with self._taken:
            for source in (*self._running(), self._nobody):
                if source.number == number:
                    source.outstanding -= size
            self._taken.notify_all()

    def send(self, message: dict[str, Any], parts: Any = ()) -> None:
        """Send a frame. Raises Unsendable if it is too large; nothing has been sent then."""
        buffers = wire.frame(message, parts)
        with self._shield, self._sending:
            if self._gone or self.forked:
                return
            try:
                for buffer in buffers:
                    view = memoryview(buffer)
                    while view:
                        view = view[os.write(self._replies, view) :]
            except OSError:
                self._gone = True  # nobody listens any more; the reader will see it

    def print(self, stream: int, data: memoryview) -> None:
        """Python code has printed."""
        if self.forked:
            while data:
                data = data[os.write(stream, data) :]
            return
        for piece in wire.chunks(data):
            source = self._owner()
            if source.outstanding > WINDOW:
                self._wait_until_taken(source)
            with source.gate, self._sending:
                self._drain()
                self._append(source, stream, piece)

    def flush(self) -> None:
        """Send what is not a whole line either."""
        if self.forked:
            return
        source = self._owner()
        with source.gate, self._sending:
            self._drain()
            self._flush(source)

    def _follow_threads(self) -> None:
        """What a thread prints belongs to what has started it."""
        begin = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            thread.__dict__.setdefault("_podipc_source", self._owner())
            begin(thread)

        threading.Thread.start = start  # type: ignore[assignment, method-assign]

    def _forget(self) -> None:
        """In a fork of this process: it prints like any other child, and answers nobody."""
        self.forked = True
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (self._replies, self.errors):
            os.dup2(null, fd, inheritable=False)
        os.close(null)

    def _owner(self) -> Source:
        source = threading.current_thread().__dict__.get("_podipc_source")
        return source if isinstance(source, Source) and not source.over else self._anyone()

    def _anyone(self) -> Source:
        """Whom output belongs to that cannot be told apart."""
        running = self._running()
        return running[-1] if running else self._nobody

    def _running(self) -> list[Source]:
        foreground = self._foreground
        if foreground is not None and not foreground.over:
            return [*self._background, foreground]
        return list(self._background)

    def _wait_until_taken(self, source: Source) -> None:
        with self._taken:
            while source.outstanding > WINDOW and not source.over and not self._gone:
                self._taken.wait()

    def _drain(self, *, everything: bool = False) -> None:
        source = self._anyone()
        # What is too much stays in the pipes, and holds back who writes there.
        if source.outstanding > WINDOW and not everything:
            return
        for fd, _ in self._printed.poll(0):
            with self._shield, contextlib.suppress(BlockingIOError):
                data = os.read(fd, 1 << 16)
                if not data:  # code has closed it
                    self._printed.unregister(fd)
                    self._ended.append(fd)
                self._append(source, self._pipes[fd], data)

    def _append(self, source: Source, stream: int, data: bytes) -> None:
        if source.partial and source.stream != stream:
            self._flush(source)
        source.stream = stream
        source.partial += data
        if len(source.partial) >= _PARTIAL or b"\n" in data:
            self._flush(source)

    def _flush(self, source: Source) -> None:
        if source.partial:
            with self._shield:
                data, source.partial = bytes(source.partial), bytearray()
                with self._taken:
                    source.outstanding += len(data)
                self.send({"is": "output", "run": source.number, "stream": source.stream}, [data])

    def _pump(self) -> None:
        poller = select.poll()
        for fd in (*self._pipes, self._wake_read):
            poller.register(fd, select.POLLIN)
        while not self._gone:
            events = poller.poll(_TICK_MS if self._running() else None)
            if any(fd == self._wake_read for fd, _ in events):
                os.read(self._wake_read, 4096)
            self._wait_until_taken(self._anyone())
            with self._sending:
                self._drain()
                while self._ended:
                    poller.unregister(self._ended.pop())
                if not events:
                    for source in self._running():
                        self._flush(source)
