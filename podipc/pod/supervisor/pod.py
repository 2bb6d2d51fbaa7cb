"""When the containers of a supervised Pod are started, started again, and ended."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import threading
import time
from collections.abc import Sequence

from podipc._core import PodipcError
from podipc.pod import manifest as manifests
from podipc.pod import observed
from podipc.pod.errors import PodError
from podipc.pod.supervisor.container import Container
from podipc.pod.supervisor.sandbox import Sandbox

__all__ = ["Pod"]

_BACKOFF_LIMIT = 300.0
_FORGIVEN = 600.0
"""Seconds after which an earlier crash does not count any more, as in Kubernetes."""


class Pod(observed.Pod):
    """A Pod whose containers this process starts.

    Parameters
    ----------
    spec
        From `manifest.read`.
    sandbox
        Where its containers are started; closed with the Pod.
    grace
        Instead of ``terminationGracePeriodSeconds``.
    backoff
        Seconds before the second restart of a container; twice as many before the next.
    """

    def __init__(
        self,
        spec: manifests.Pod,
        sandbox: Sandbox,
        *,
        grace: float | None = None,
        backoff: float = 10.0,
    ) -> None:
        super().__init__(spec, grace)
        self.containers: dict[str, Container] = {
            c.name: Container(self, c) for c in spec.everyone()
        }
        self._backoff = backoff
        self._ending = self._impatient = False
        self._init = [c for c in self.containers.values() if c.is_init]
        self._main = [c for c in self.containers.values() if not c.is_init]
        self._sandbox = sandbox
        self.notes = sandbox.notes
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(
            target=self._run, name=f"podipc-pod-{self.name}", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        try:
            self.end_sessions()
            self._end_soon()
        except BaseException:
            # Ctrl-C: who does not want to wait for the grace period still wants nothing left.
            self._impatient = True
            self._end_soon()
            raise
        finally:
            self._sandbox.close()

    def _end_soon(self) -> None:
        """Let the thread end all containers, and wait for that."""
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._wake()
        # An interrupted join() takes the thread for ended, so that is not what waits.
        with self._changed:
            while not self._changed.wait_for(lambda: self._wake_write < 0, 1.0):
                if not self._thread.is_alive():
                    break
        self._thread.join()

    # What the thread does

    def _run(self) -> None:
        try:
            while not self._ending and self._step():
                self._poll()
            self._end()
        except PodipcError as error:
            self._error, self.message = error, str(error)
        except BaseException as error:
            self._error = PodError(f"Pod {self.name!r}: {error!r}")
            self.message = str(self._error)
            raise
        finally:
            self._finish()

    def _finish(self) -> None:
        try:
            self._finish_containers()
        finally:
            self._finish_states()

    def _finish_containers(self) -> None:
        # The Pod's own process and its volumes stay until close().
        running = [c._process for c in self.containers.values() if c._process]
        for process in running:
            process.send_signal(signal.SIGKILL)
        for process in running:
            process.wait()
        for container in self.containers.values():
            self._reap(container)
            self._drain(container)
            if container._prober is not None:
                container._prober.join()

    def _finish_states(self) -> None:
        for container in self.containers.values():
            container._log.end()
        with self._changed:
            for container in self.containers.values():
                container.state = "terminated" if container._runs else "waiting"
            good = self._error is None and not self.message
            self.phase = "Succeeded" if good and self._succeeded() else "Failed"
            if self.phase == "Failed" and not self.message:
                self.message = self._failure()
            self._changed.notify_all()
            self._selector.close()
            os.close(self._wake_read)
            os.close(self._wake_write)
            self._wake_write = -1

    def _succeeded(self) -> bool:
        return all(c.returncode == 0 for c in self._main)

    def _failure(self) -> str:
        for container in self.containers.values():
            if container.returncode and not container.spec.sidecar:
                return container.obituary()
        return f"Pod {self.name!r} was ended"

    def _step(self) -> bool:
        """Start what is to be started now; whether anything is still to be waited for."""
        for container in self.containers.values():
            self._reap(container)
        for container in self._init:
            if container.spec.sidecar:
                self._keep(container, "Always")
                if container._runs == 0 or not container._started:
                    return True
            elif container.returncode != 0 or container.state == "running":
                policy = "Never" if self.spec.restart == "Never" else "OnFailure"
                if not self._keep(container, policy):
                    self.message = container.obituary()
                    return False
                return True
        alive = [self._keep(container, self.spec.restart) for container in self._main]
        with self._changed:
            if self.phase == "Pending":
                self.phase = "Running"
                self._changed.notify_all()
        return any(alive)

    def _keep(self, container: Container, policy: str) -> bool:
        """Start a container if it is due; False if it has ended for good."""
        if container.state == "running":
            if container._stopping is not None and time.monotonic() >= container._stopping:
                container._stopping = None
                container.kill()
            return True
        if container._runs == 0:
            self._start(container)
            return True
        if container._again:
            self._start(container)
            return True
        if policy == "Never" or (policy == "OnFailure" and container.returncode == 0):
            return False
        now = time.monotonic()
        if container._due is None:
            wait = self._backoff * 2.0 ** (container._failures - 1) if container._failures else 0.0
            container._due = now + min(wait, _BACKOFF_LIMIT)
            container._failures += 1
            self._state(container, "backoff")
        if now >= container._due:
            self._start(container)
        return True

    def _state(self, container: Container, state: str) -> None:
        with self._changed:
            container.state = state
            self._changed.notify_all()

    def _start(self, container: Container) -> None:
        oom = self._sandbox.kills(container.spec)
        process, read = self._sandbox.start(container.spec)
        os.set_blocking(read, False)
        self._drain(container)
        with self._changed:
            container._process, container._pipe = process, read
            container._oom = oom
            container._runs += 1
            container.restarts = container._runs - 1
            container._due, container._again, container._stopping = None, False, None
            container._began = time.monotonic()
            container.reason = ""
            container.state = "running"
            self._selector.register(read, selectors.EVENT_READ, container)
            container._watched = process.fileno()
            self._selector.register(container._watched, selectors.EVENT_READ)
            self._changed.notify_all()
        probe = container.spec.startup
        if probe is not None and probe.kind != "grpc":
            container._prober = threading.Thread(
                target=container._probe,
                args=(probe, container._runs),
                name=f"podipc-probe-{container.name}",
                daemon=True,
            )
            container._prober.start()

    def _reap(self, container: Container) -> None:
        process = container._process
        if process is None or container.state != "running":
            return
        with self._changed:
            if process.poll() is None:
                return
            # It is closed by now; its number may soon be that of another.
            if container._watched is not None:
                self._selector.unregister(container._watched)
                container._watched = None
        self._drain(container, close=False)
        code = process.returncode
        if time.monotonic() - container._began > _FORGIVEN:
            container._failures = 0
        with self._changed:
            container.returncode = code
            oom = self._sandbox.kills(container.spec) > container._oom
            container.reason = "OOMKilled" if oom else "Error" if code else "Completed"
            container._stopping = None
            container.state = "terminated"
            self._changed.notify_all()

    def _drain(self, container: Container, *, close: bool = True, most: int = 1 << 30) -> None:
        """Take what a container has printed, at most so many pieces."""
        while container._pipe is not None and most > 0:
            most -= 1
            try:
                data = os.read(container._pipe, 65536)
            except BlockingIOError:
                if not close:
                    return
                data = b""
            if not data:
                self._selector.unregister(container._pipe)
                os.close(container._pipe)
                container._pipe = None
                return
            container._log.append(data)

    def _poll(self, until: float | None = None) -> None:
        moments = (m for c in self.containers.values() for m in (c._due, c._stopping))
        due = [moment for moment in moments if moment is not None]
        if until is not None:
            due = [until]
        # More than some weeks is an error of select(); whoever calls looks again.
        timeout = max(0.0, min(min(due) - time.monotonic(), 3600.0)) if due else None
        for key, _ in self._selector.select(timeout):
            if key.fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            elif isinstance(key.data, Container):
                # One that prints faster than it is read must not keep this from the others.
                self._drain(key.data, close=False, most=16)

    def _wake(self) -> None:
        with self._changed:
            if self._wake_write >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b".")

    def _end(self) -> None:
        """TERM to all containers, KILL after the grace period; then the sidecars, last first."""
        deadline = time.monotonic() + self.grace
        sidecars = [c for c in reversed(self._init) if c.spec.sidecar]
        others = [c for c in self.containers.values() if c not in sidecars]
        for group in [others, *([sidecar] for sidecar in sidecars)]:
            self._stop(group, deadline)

    def _stop(self, containers: Sequence[Container], deadline: float) -> None:
        running = [c for c in containers if c.state == "running" and c._process is not None]
        for container in running:
            assert container._process is not None
            container._process.send_signal(signal.SIGTERM)
        deaf = [c for c in running if c._process is not None and c._process.is_deaf()]
        for container in deaf:
            container.kill()
        while any(c.state == "running" for c in running):
            if self._impatient or time.monotonic() >= deadline:
                for container in running:
                    container.kill()
                deadline = time.monotonic() + 1.0
            self._poll(deadline)
            for container in running:
                self._reap(container)
