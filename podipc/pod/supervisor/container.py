"""One container of a supervised Pod: what can be asked of it, and its startup probe."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from podipc._core import Closed
from podipc.pod import manifest as manifests
from podipc.pod import observed, runtime
from podipc.pod.manifest import Probe
from podipc.pod.supervisor import startup
from podipc.pod.supervisor.sandbox import Process, Streams

if TYPE_CHECKING:
    from podipc.pod.supervisor.pod import Pod

__all__ = ["Container"]


class Container(observed.Container):
    """One container of a `Pod`."""

    def __init__(self, pod: Pod, spec: manifests.Container) -> None:
        super().__init__(pod, spec)
        self._pod: Pod = pod
        self._process: Process | None = None
        self._pipe: int | None = None
        self._watched: int | None = None
        self._failures = 0
        self._began = 0.0
        self._due: float | None = None
        self._again = False
        self._stopping: float | None = None
        self._oom = 0
        self._started = spec.startup is None or spec.startup.kind == "grpc"
        self._prober: threading.Thread | None = None

    @property
    def pid(self) -> int | None:
        """Its main process as seen from here, while it runs."""
        process = self._process
        return process.pid if process is not None and self.state == "running" else None

    def send_signal(self, number: int) -> None:
        with self._pod._changed:
            if self._process is not None and self.state == "running":
                self._process.send_signal(number)

    def restart(self, timeout: float | None = None) -> None:
        pod = self._pod
        with pod._changed:
            self._may_restart()
            run = self._runs
            self._again = True
            self._terminate(pod.grace)
        pod._wake()
        self._wait_for_run_after(run, timeout)

    def exec(
        self,
        command: Sequence[str],
        *,
        stdin: runtime.Stream = runtime.DEVNULL,
        stdout: runtime.Stream = None,
        stderr: runtime.Stream = None,
    ) -> runtime.Program:
        return self._exec(self._pod._sandbox.exec, command, (stdin, stdout, stderr))

    def _exec(
        self,
        start: Callable[[manifests.Container, Process, Sequence[str], Streams], runtime.Program],
        command: Sequence[str],
        streams: Streams,
    ) -> runtime.Program:
        with self._pod._changed:
            process = self._process
            if process is None or self.state != "running":
                raise Closed(f"container {self.name!r} does not run: {self.state}")
            if self._pod._sandbox.exec_holds_state:
                return start(self.spec, process, command, streams)
        return start(self.spec, process, command, streams)

    def _terminate(self, grace: float) -> None:
        """Send SIGTERM; SIGKILL is due after the grace period, or at once if it was not heard."""
        if self._process is None or self.state != "running":
            return
        self._stopping = time.monotonic() + grace
        self._process.send_signal(signal.SIGTERM)
        if self._process.is_deaf():
            self._process.send_signal(signal.SIGKILL)

    def _probe(self, probe: Probe, run: int) -> None:
        """Find out whether it has started; end it if not. A thread of its own for each run."""
        pod = self._pod

        def over() -> bool:
            return pod._ending or self._runs != run or self.state != "running"

        def pause(seconds: float) -> bool:
            with pod._changed:
                return not pod._changed.wait_for(over, seconds)

        def start(output: int) -> runtime.Program:
            streams = (runtime.DEVNULL, output, runtime.STDOUT)
            command = startup.from_within(probe, pod._sandbox.python)
            if command is None:
                return self._exec(pod._sandbox.exec, probe.command, streams)
            return self._exec(pod._sandbox.exec_from_within, command, streams)

        why = startup.watch(probe, start, pause)
        with pod._changed:
            if why is None or over():
                return
            if why:
                times = f"{probe.failures} time{'s' * (probe.failures > 1)}"
                text = f"podipc: {probe.path}: has failed {times}, it is ended: {why}\n"
                self._log.append(text.encode())
                self._terminate(pod.grace if probe.grace is None else probe.grace)
            else:
                self._started = True
        pod._wake()
