"""A container of a Pod in a cluster: what Kubernetes has for it, and what it has not."""

from __future__ import annotations

import contextlib
import signal
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from podipc._core import Closed
from podipc.pod import manifest as manifests
from podipc.pod import observed, runtime
from podipc.pod.errors import NotHere
from podipc.pod.kubernetes.cluster import Refused, gone
from podipc.pod.kubernetes.logs import Collector
from podipc.pod.kubernetes.program import Program

if TYPE_CHECKING:
    from podipc.pod.kubernetes.pod import Pod

LAST_WORDS = 5.0
"""Seconds in which the rest of what a container that has ended printed should come."""
# PID 1 gets from within its PID namespace what it handles, and neither SIGKILL nor SIGSTOP.
_SIGNAL = 'kill -"$1" 1 2>/dev/null'


class Container(observed.Container):
    """One container of a `Pod` in a cluster."""

    def __init__(self, pod: Pod, spec: manifests.Container) -> None:
        super().__init__(pod, spec)
        self._pod: Pod = pod
        self._collector: Collector | None = None

    def send_signal(self, number: int) -> None:
        """Send a signal to its main process by a ``kill`` within it, if that runs.

        Raises
        ------
        NotHere
            SIGKILL and SIGSTOP: in a cluster nobody can send them to PID 1 of a container.
        """
        if self.state != "running":
            return
        if number in (signal.SIGKILL, signal.SIGSTOP):
            raise NotHere(
                f"container {self.name!r}: Kubernetes has no call that sends a signal, and from "
                f"within a container its PID 1 gets no {signal.Signals(number).name}; "
                "send_signal(SIGTERM) reaches a program that handles it"
            )
        with contextlib.suppress(Closed):
            self._shell(_SIGNAL, number)

    def restart(self, timeout: float | None = None) -> None:
        """End it by SIGTERM, so that the cluster starts it again as `restartPolicy` says.

        Raises
        ------
        NotHere
            `restartPolicy` does not say so, or SIGTERM does not end it within the grace period.
        Timeout, Closed
            As the other runtimes.
        """
        pod = self._pod
        policy = "Always" if self.spec.sidecar else pod.spec.restart
        if policy != "Always":
            path = pod.spec.at("spec.restartPolicy")
            raise NotHere(
                f"{pod.spec.source}: {path}: expected Always, not {policy}, for "
                f"container {self.name!r} to be started again: Kubernetes has no call for it"
            )
        self._may_restart()
        run = self._runs
        began = time.monotonic()
        if self.state == "running":
            self._shell(_SIGNAL, signal.SIGTERM)
            self._wait_for_end_of(run, pod.grace if timeout is None else min(timeout, pod.grace))
        left = None if timeout is None else max(0.0, began + timeout - time.monotonic())
        self._wait_for_run_after(run, left)

    def _wait_for_end_of(self, run: int, patience: float) -> None:
        with self._pod._changed:
            if not self._pod._changed.wait_for(
                lambda: self._runs > run or self.state != "running", patience
            ):
                raise NotHere(
                    f"container {self.name!r}: SIGTERM did not end it within {patience:g} s, and "
                    "nothing else ends a PID 1 from within: handle SIGTERM (in Python: "
                    "signal.signal), or let an init such as tini be PID 1"
                )

    def exec(
        self,
        command: Sequence[str],
        *,
        stdin: runtime.Stream = runtime.DEVNULL,
        stdout: runtime.Stream = None,
        stderr: runtime.Stream = None,
    ) -> Program:
        if self.state != "running":
            raise Closed(f"container {self.name!r} does not run: {self.state}")
        try:
            return Program(
                self._pod._link, self.name, command, stdin=stdin, stdout=stdout, stderr=stderr
            )
        except Refused as error:
            if gone(error) or self.state != "running":
                raise Closed(f"container {self.name!r} does not run: {error}") from error
            raise

    def obituary(self) -> str:
        if self._collector is not None:
            self._collector.has(self._runs, LAST_WORDS)
        text = super().obituary()
        if self.reason == "OOMKilled":
            limit = f"is {self.spec.memory} bytes" if self.spec.memory else "is not set"
            text += f"; {self.spec.path}.resources.limits.memory {limit}"
        return text

    def _shell(self, script: str, number: int) -> int:
        words = ["sh", "-c", script, "sh", str(int(number))]
        program = self.exec(words, stdout=runtime.DEVNULL, stderr=runtime.DEVNULL)
        try:
            return program.wait(30.0)
        finally:
            program.close()
