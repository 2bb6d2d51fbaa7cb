"""What of a Pod's namespaces the host does not permit, and which of its settings says so."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

_LACKING = {
    "pid": "no PID namespace: containers see the processes of the host, and are not PID 1",
    "mount": "no mount namespace: /dev/shm and /proc are those of the host",
    "net": "no network namespace: 127.0.0.1 and its ports are those of the host",
    "ipc": "no IPC namespace: System V IPC and message queues are those of the host",
    "uts": "no UTS namespace: the host name is that of the host",
    "proc": "no /proc of their own: containers see the processes of the host",
    "shm": "no /dev/shm of {shm_bytes} bytes: it is that of the host",
}


def notes(
    parts: Mapping[str, int], refused: tuple[str, int] | None, shm_bytes: int, isolate: bool
) -> list[str]:
    """One line for everything that is not as in a cluster; see `namespaces.Pod`.

    `parts` are the errors by part, 0 where it was made, `refused` the step that gave up.
    """
    plain = "plain processes of the host, nothing is isolated: "
    refusals = {part: error for part, error in parts.items() if error > 0}
    if not isolate:
        return [plain + "as asked for"]
    if any(error == 0 for error in parts.values()):
        return [
            f"{_LACKING[part].format(shm_bytes=shm_bytes)}: {_reason(part, error)}"
            for part, error in refusals.items()
        ]
    if refused is not None:
        what, error = refused
        return [f"{plain}{what}: {_reason('user', error)}"]
    # An ordinary user has nothing without the user namespace, which comes first.
    part, error = next(iter(refusals.items()))
    return [f"{plain}{part} namespaces are refused: {_reason(part, error)}"]


def _reason(part: str, error: int) -> str:
    """What the kernel said, and which of its settings is known to say that."""
    text = os.strerror(error)
    if error == errno.ENOSPC:
        return f"{text} (sysctl user.max_{part}_namespaces)"
    if error not in (errno.EPERM, errno.EACCES):
        return text
    if part == "user":
        for setting, allowed in (
            ("kernel.apparmor_restrict_unprivileged_userns", "0"),
            ("kernel.unprivileged_userns_clone", "1"),
        ):
            found = _read("/proc/sys/" + setting.replace(".", "/")).strip()
            if found not in ("", allowed):
                return f"{text} (sysctl {setting}={found}; root may set it to {allowed})"
    if "\nSeccomp:\t2" in _read("/proc/self/status"):
        return f"{text} (perhaps by the seccomp profile: it has to allow clone, unshare and mount)"
    return text


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""
