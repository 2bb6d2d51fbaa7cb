"""Processes that code in a session has started: to interrupt them, and to leave none."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time

_PR_SET_CHILD_SUBREAPER = 36
_REAP = 1.0


def kill(pid: int, number: int) -> None:
    """Send a signal to a process that may have ended."""
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def ignores_interrupts() -> bool:
    """Whether SIGINT has no effect on this process, as while it waits in ``os.system``."""
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("SigIgn:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    return False


def started_by(thread: threading.Thread) -> set[int]:
    """The processes that a thread of this process has started, and all that descend from them."""
    with open(f"/proc/self/task/{thread.native_id}/children") as file:
        return _descendants(set(map(int, file.read().split())))


def adopt() -> None:
    """Become the parent of what descendants leave behind, so that it is found at the end."""
    with contextlib.suppress(ImportError, OSError, AttributeError):
        import ctypes

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_all() -> None:
    """End what descends from this process, and what was left in the session that it leads."""
    for number, seconds in ((signal.SIGTERM, 0.3), (signal.SIGKILL, 0.0)):
        deadline = time.monotonic() + seconds
        while pids := _left():
            for pid in pids:
                kill(pid, number)
            if time.monotonic() >= deadline:
                break
            time.sleep(0.02)
    # PID 1 of a container is often a program that waits for no children.
    deadline = time.monotonic() + _REAP
    with contextlib.suppress(ChildProcessError):
        while time.monotonic() < deadline:
            if os.waitpid(-1, os.WNOHANG)[0] == 0:
                time.sleep(0.005)


def _left() -> set[int]:
    own = os.getpid()
    found = _descendants({own})
    if os.getsid(0) == own:
        found |= {pid for pid, (_, leader) in _living().items() if leader == own}
    return found - {own}


def _descendants(roots: set[int]) -> set[int]:
    processes = _living()
    found: set[int] = set()
    more = roots & set(processes)
    while more:
        found |= more
        more = {pid for pid, (parent, _) in processes.items() if parent in found} - found
    return found


def _living() -> dict[int, tuple[int, int]]:
    """Parent and session of each process that has not ended."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                found[int(name)] = int(fields[1]), int(fields[3])
    return found
