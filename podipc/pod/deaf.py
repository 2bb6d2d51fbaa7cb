"""Which main process of a container does not hear SIGTERM: waiting for its end is of no use."""

from __future__ import annotations

import signal
from pathlib import Path


def is_deaf(pid: int) -> bool:
    """Whether SIGTERM, if sent to it just now, was dropped by the kernel.

    So it is with PID 1 of a PID namespace that neither handles nor blocks it.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    fields = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    if fields.get("NSpid", "").split()[-1:] != ["1"]:
        return False
    noticed = int(fields.get("SigCgt", "f" * 16), 16) | int(fields.get("SigBlk", "0"), 16)
    return not noticed >> (signal.SIGTERM - 1) & 1
