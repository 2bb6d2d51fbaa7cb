"""When a process that serves has to end: a signal says so, or one of its threads."""

import contextlib
import os
import select
import signal
from types import TracebackType
from typing import Final, Self

_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Stop:
    """A context, in the main thread, in which SIGTERM and SIGINT end `wait`, and nothing else."""

    def __enter__(self) -> Self:
        self._read, self._write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        # Written to as the signal comes, whichever thread it finds, and before `wait` as well.
        self._wakeup = signal.set_wakeup_fd(self._write, warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, _nothing) for number in _SIGNALS}
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._wakeup)
        os.close(self._read)
        os.close(self._write)

    def set(self) -> None:
        """Let `wait` return. Any thread may call it."""
        with contextlib.suppress(BlockingIOError):
            os.write(self._write, b"\0")

    def wait(self) -> int:
        """Until a signal comes, which is returned, or `set` is called, which is 0."""
        while True:
            select.select([self._read], [], [])
            number = os.read(self._read, 1)[0]
            if number == 0 or number in _SIGNALS:
                return number


def _nothing(number: int, frame: object) -> None:
    """Python calls it after the signal was written to the pipe."""
