"""Waiting for what becomes of a Pod, and what its containers print: the same for all runtimes.

A thread of the runtime keeps the states, and says so to `Pod._changed`.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING

from podipc._core import Closed, PodipcError, Timeout
from podipc.pod import runtime
from podipc.pod.errors import PodError
from podipc.pod.log import Log

if TYPE_CHECKING:
    from podipc.pod import manifest as manifests

__all__ = ["Container", "Pod"]


class Container(runtime.Container):
    """A container whose runs are counted, and whose output is kept."""

    _pod: Pod

    def __init__(self, pod: Pod, spec: manifests.Container) -> None:
        super().__init__(pod, spec)
        self._pod = pod
        self._log = Log()
        self._runs = 0

    def logs(self) -> str:
        return self._log.read()[0].decode(errors="replace")

    def follow(self) -> Iterator[bytes]:
        position, last = 0, b""
        while (piece := self._log.follow(position)) is not None:
            data, after = piece
            lost = after - len(data) - position
            if position and lost > 0:
                begin = b"" if last.endswith(b"\n") else b"\n"
                yield begin + b"podipc: %d bytes were left out: read too slowly\n" % lost
            position, last = after, data
            if data:
                yield data

    def wait(self, timeout: float | None = None) -> int:
        with self._pod._changed:
            run = max(1, self._runs)
            done = self._pod._changed.wait_for(
                lambda: (
                    self._runs > run
                    or (self._runs == run and self.state != "running")
                    or self._pod.phase in runtime.OVER
                ),
                timeout,
            )
            if not done:
                raise Timeout(f"container {self.name!r} still runs after {timeout} s")
            if self.returncode is None:
                raise Closed(f"container {self.name!r} did not run: {self._pod.message}")
            return self.returncode

    def _may_restart(self) -> None:
        """Raise `Closed` unless it is one that can be started again."""
        pod = self._pod
        if self.is_init and not self.spec.sidecar:
            raise Closed(
                f"container {self.name!r} is an init container, which runs once, before the others"
            )
        if pod.phase != "Running":
            raise Closed(f"Pod {pod.name!r} does not run: {pod.phase} {pod.message}".strip())

    def _wait_for_run_after(self, run: int, timeout: float | None) -> None:
        pod = self._pod
        with pod._changed:
            pod._changed.wait_for(lambda: self._runs > run or pod.phase in runtime.OVER, timeout)
            if self._runs > run:
                return
            if pod.phase in runtime.OVER:
                raise Closed(f"container {self.name!r} was not started again: {pod.message}")
            raise Timeout(f"container {self.name!r} was not started again within {timeout} s")


class Pod(runtime.Pod):
    """A Pod whose states a thread keeps."""

    def __init__(self, spec: manifests.Pod, grace: float | None) -> None:
        super().__init__(spec, grace)
        self._error: PodipcError | None = None
        self._changed = threading.Condition(threading.RLock())

    def ready(self, timeout: float | None = None) -> None:
        with self._changed:
            if not self._changed.wait_for(lambda: self.phase != "Pending", timeout):
                waiting = [c.name for c in self.containers.values() if c.state != "terminated"]
                raise Timeout(f"Pod {self.name!r} is not up after {timeout} s; there is {waiting}")
            if self._error is not None:
                raise self._error
            if self.phase == "Failed" and not self._has_begun():
                raise PodError(self.message)

    def wait(self, timeout: float | None = None) -> str:
        with self._changed:
            if not self._changed.wait_for(lambda: self.phase in runtime.OVER, timeout):
                raise Timeout(f"Pod {self.name!r} still runs after {timeout} s")
            return self.phase

    def _has_begun(self) -> bool:
        """Whether one of the containers that are no init containers has run."""
        return any(
            isinstance(c, Container) and c._runs for c in self.containers.values() if not c.is_init
        )
