"""Startup probes: whether a container that runs has started as well.

They are made as by a kubelet: after a delay, every so many seconds, until one passes or so
many have failed. What exec runs, runs in the container. httpGet and tcpSocket are made from
within the Pod's network namespace, to its 127.0.0.1.
"""

from __future__ import annotations

import contextlib
import os
import select
import time
from collections.abc import Callable
from pathlib import Path

from podipc._core import PodipcError
from podipc.pod.manifest import Pod, Probe
from podipc.pod.runtime import Program
from podipc.pod.supervisor import knock

__all__ = ["NO_GRPC", "from_within", "notes_of", "watch"]

NO_GRPC = "the container counts as started once it runs; exec, httpGet and tcpSocket are made"
"""What is said of a probe that is not made."""

_KNOCK = Path(knock.__file__).read_text(encoding="utf-8")
_PATIENCE = 10.0
"""Seconds in which what was killed has to have ended."""

_SAID = 1024
"""Bytes that are kept of what a probe prints."""


def watch(
    probe: Probe, start: Callable[[int], Program], pause: Callable[[float], bool]
) -> str | None:
    """Probe until it has passed, or has failed for good.

    Parameters
    ----------
    start
        Starts the program of the probe, which writes to a descriptor.
    pause
        Waits for so many seconds; False if there is nothing to probe any more.

    Returns
    -------
    str or None
        "" if it has passed, otherwise why not; None if `pause` said so.
    """
    if not pause(probe.delay):
        return None
    for left in reversed(range(probe.failures)):
        began = time.monotonic()
        why = _once(probe, start, pause)
        if not why or not left:
            return why
        if not pause(max(0.0, began + probe.period - time.monotonic())):
            return None
    return None


def from_within(probe: Probe, python: str) -> list[str] | None:
    """A program that makes an httpGet or tcpSocket from within the Pod; None for another kind."""
    if probe.kind not in ("httpGet", "tcpSocket"):
        return None
    where = [probe.host or "127.0.0.1", str(probe.port), str(probe.timeout)]
    if probe.kind == "tcpSocket":
        return [python, "-IS", "-c", _KNOCK, "tcp", *where]
    headers = [word for pair in probe.headers for word in pair]
    return [python, "-IS", "-c", _KNOCK, "http", *where, probe.scheme, probe.url, *headers]


def notes_of(pod: Pod) -> list[str]:
    """One line for each probe that is made otherwise than in a cluster."""
    return [
        f"{probe.path}.{probe.kind}: made on {probe.host or '127.0.0.1'} within the Pod; "
        "a cluster asks the Pod's address, where a server of 127.0.0.1 is not heard"
        for probe in (container.startup for container in pod.everyone())
        if probe is not None and probe.kind in ("httpGet", "tcpSocket")
    ]


def _once(probe: Probe, start: Callable[[int], Program], pause: Callable[[float], bool]) -> str:
    try:
        read, write = os.pipe2(os.O_CLOEXEC)
        with open(read, "rb", buffering=0) as ours:
            os.set_blocking(read, False)
            with open(write, "wb", buffering=0):
                program = start(write)
            try:
                return _result(program, ours.fileno(), probe.timeout, pause)
            finally:
                program.close()
    except (PodipcError, OSError) as error:
        return str(error)


def _result(program: Program, read: int, seconds: float, pause: Callable[[float], bool]) -> str:
    """Why it did not succeed within that time, or ""."""
    deadline = time.monotonic() + seconds
    said = b""
    poller = select.poll()
    poller.register(read, select.POLLIN)
    while program.poll() is None:
        if time.monotonic() >= deadline or not pause(0):
            program.kill()
            program.wait(_PATIENCE)
            return f"no result within {seconds} s"
        if not poller.poll(10):
            continue
        piece = os.read(read, 65536)
        said = (said + piece)[:_SAID]
        if not piece:
            poller.unregister(read)
    with contextlib.suppress(BlockingIOError):
        said = (said + os.read(read, _SAID))[:_SAID]
    code = program.wait()
    if code == 0:
        return ""
    text = said.decode(errors="replace").strip()
    return text or (f"exit code {code}" if code > 0 else f"signal {-code}")
