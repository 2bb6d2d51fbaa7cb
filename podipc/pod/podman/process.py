"""One run of a container of podman: its main process, and the one that watches it.

Podman has a small program, conmon, watch each container. When the container has ended,
conmon becomes the podman that clears up after it; when that has ended, podman knows the
exit code. Both are held by descriptor before the container's program begins, so no other
process can be taken for them, and nothing is polled.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import threading
from pathlib import Path

from podipc._core import Timeout
from podipc.pod.deaf import is_deaf
from podipc.pod.podman import client


class Process:
    """One run of a container that has been initialised and not started.

    Parameters
    ----------
    identity
        The container's ID.
    pid, monitor
        Its main process, and conmon.

    Attributes
    ----------
    ran_out_of_memory
        Whether the kernel killed something in it for want of memory; known at its end.
    """

    def __init__(self, identity: str, pid: int, monitor: int) -> None:
        self.identity = identity
        self.pid = pid
        self.returncode: int | None = None
        self.ran_out_of_memory = False
        # Held while a descriptor is used or closed: its number may be another's at once.
        self._using = threading.Lock()
        self._main = os.pidfd_open(pid)
        try:
            self._monitor = os.pidfd_open(monitor)
        except BaseException:
            os.close(self._main)
            raise
        self._events = _watch_memory(pid)

    def fileno(self) -> int:
        """A descriptor that becomes readable when it has ended; -1 once that is known."""
        return self._monitor

    def poll(self) -> int | None:
        return self._wait(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._wait(timeout)
        if code is None:
            raise Timeout(f"container {self.identity[:12]} still runs after {timeout} s")
        return code

    def send_signal(self, number: int) -> None:
        with self._using, contextlib.suppress(ProcessLookupError):
            if self._main >= 0:
                signal.pidfd_send_signal(self._main, number)

    def is_deaf(self) -> bool:
        """Whether SIGTERM, if sent just now, was dropped by the kernel."""
        return is_deaf(self.pid)

    def has_ended(self) -> bool:
        """Whether its main process has; podman may not know yet."""
        with self._using:
            return self._main < 0 or readable(self._main, 0)

    def _wait(self, timeout: float | None) -> int | None:
        if self.returncode is not None or not readable(self._monitor, timeout):
            return self.returncode
        self.returncode = self._ended()
        with self._using:
            os.close(self._main)
            os.close(self._monitor)
            self._main = self._monitor = -1
        return self.returncode

    def _ended(self) -> int:
        """The exit code, as podman has it."""
        killed = False
        if self._events is not None:
            # One is for the end of the group itself.
            with contextlib.suppress(BlockingIOError):
                killed = os.eventfd_read(self._events) > 1
            os.close(self._events)
            self._events = None
        done = client.call(["container", "inspect", self.identity])
        if done.returncode != 0:
            # Somebody has removed it.
            return -int(signal.SIGKILL)
        state = json.loads(done.stdout)[0]["State"]
        self.ran_out_of_memory = killed or bool(state.get("OOMKilled"))
        return exit_code(int(state["ExitCode"]))


def readable(fd: int, timeout: float | None) -> bool:
    """Whether a descriptor can be read, after at most `timeout` seconds."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(None if timeout is None else max(0.0, timeout) * 1000))


def exit_code(code: int) -> int:
    """The exit code, or minus the signal, for which podman says 128 more."""
    return 128 - code if 128 < code <= 128 + signal.NSIG else code


def _watch_memory(pid: int) -> int | None:
    """A descriptor that counts how often the container runs out of memory; cgroups v1 only.

    Podman does not see it where both versions of cgroups are mounted.
    """
    try:
        lines = Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        group = next(g for _, names, g in (x.split(":", 2) for x in lines) if names == "memory")
        place = f"/sys/fs/cgroup/memory{group}"
        control = os.open(f"{place}/memory.oom_control", os.O_RDONLY | os.O_CLOEXEC)
    except (OSError, StopIteration):
        return None
    events = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
    try:
        listen = os.open(f"{place}/cgroup.event_control", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(listen, f"{events} {control}".encode())
        finally:
            os.close(listen)
    except OSError:
        os.close(events)
        return None
    finally:
        os.close(control)
    return events
