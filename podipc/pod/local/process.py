"""A program that was started in a Pod: a container's main one, or one more in it."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import threading
import time
from collections.abc import Collection, Mapping
from typing import IO

from podipc._core import Timeout, pidfd_signal
from podipc.pod.deaf import is_deaf

_KILLED = -int(signal.SIGKILL)


class Container:
    """One container of a Pod, made by `namespaces.Pod.start`.

    One thread waits for it; any may send it signals meanwhile.

    Attributes
    ----------
    name
        Its name in the Pod; its host name as well.
    pid
        Its process, as seen from here; inside it is PID 1.
    returncode
        None while it runs; then its exit code, or minus the signal that ended it.
    stdin, stdout, stderr
        Binary files at our ends of the pipes, where ``PIPE`` was asked for, else None.
    """

    def __init__(
        self,
        name: str,
        pid: int,
        pidfd: int,
        status: int,
        pipes: Mapping[int, IO[bytes]],
    ) -> None:
        self.name = name
        self.pid = pid
        self.returncode: int | None = None
        self.stdin = pipes.get(0)
        self.stdout = pipes.get(1)
        self.stderr = pipes.get(2)
        self._pidfd = pidfd
        self._status = status
        # Held while a descriptor is used or closed: its number may be another's at once.
        self._using = threading.Lock()

    def __repr__(self) -> str:
        state = "running" if self.returncode is None else f"ended with {self.returncode}"
        return f"<container {self.name!r}, PID {self.pid}, {state}>"

    def fileno(self) -> int:
        """A descriptor that is readable once it has ended, for `select` and the like."""
        if self._status < 0:
            raise ValueError(f"container {self.name!r} has ended and been waited for")
        return self._status

    def poll(self) -> int | None:
        """The exit code, or None if it still runs. Does not wait."""
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; the exit code, as in `returncode`.

        Raises
        ------
        Timeout
            It still runs after `timeout` seconds; it goes on running.
        """
        code = self._wait(timeout)
        if code is None:
            raise Timeout(f"container {self.name!r} still runs after {timeout} s")
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to its main process; nothing happens if that has ended.

        As PID 1 it only gets signals that it handles, except SIGKILL and SIGSTOP.
        """
        # Whether it has ended is not looked at: it may be another thread that waits for that.
        with self._using:
            if self._pidfd >= 0:
                pidfd_signal(self._pidfd, number)

    def terminate(self) -> None:
        """Send SIGTERM, which PID 1 does not notice unless it handles it."""
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL. All processes of the container die with the main one."""
        self.send_signal(signal.SIGKILL)

    def stop(self, grace: float = 30.0) -> int:
        """Send SIGTERM, after `grace` seconds SIGKILL, as Kubernetes does; the exit code.

        Does not wait for a program that cannot notice SIGTERM.
        """
        stop_all([self], grace)
        return self.wait()

    def close(self) -> None:
        """Close our ends of its pipes. `namespaces.Pod.close` does it for those it started."""
        for pipe in (self.stdin, self.stdout, self.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def has_ended(self, timeout: float = 0) -> bool:
        """Whether it has ended, after at most `timeout` seconds; nothing is closed by that."""
        status = self._status
        return status < 0 or _readable(status, timeout)

    def _wait(self, timeout: float | None) -> int | None:
        status = self._status
        if status >= 0 and _readable(status, timeout):
            with self._using:
                if self._status >= 0:
                    self._take()
        return self.returncode

    def _take(self) -> None:
        """Take over how it has ended."""
        status = os.read(self._status, 4)
        # Without a status all of the Pod went at once.
        self.returncode = (
            os.waitstatus_to_exitcode(int.from_bytes(status, "little"))
            if len(status) == 4
            else _KILLED
        )
        os.close(self._status)
        os.close(self._pidfd)
        self._status = self._pidfd = -1

    def is_deaf(self) -> bool:
        """Whether SIGTERM, if sent just now, was dropped by the kernel."""
        return is_deaf(self.pid)


def stop_all(containers: Collection[Container], grace: float) -> None:
    """End containers together: SIGTERM, up to `grace` seconds for all, SIGKILL."""
    deadline = time.monotonic() + grace
    for container in containers:
        container.terminate()
    for container in containers:
        if not container.is_deaf():
            container._wait(max(0.0, deadline - time.monotonic()))
        container.kill()
    for container in containers:
        container.wait()


def _readable(fd: int, timeout: float | None) -> bool:
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else max(0, timeout) * 1000))
