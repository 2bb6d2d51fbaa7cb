"""A Pod of a manifest in the embedded runtime: its containers, in Kubernetes' order.

Init containers run one after the other, sidecars among them go on; then all
containers start. What ends is started again as `restartPolicy` says. At the end the
containers get SIGTERM together, after the grace period SIGKILL, then the sidecars,
last first. One thread does all of that; it lives as long as the Pod.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import TracebackType
from typing import Self

from podipc._core import Closed, PodipcError, Timeout
from podipc.pod import local
from podipc.pod import manifest as manifests
from podipc.pod.errors import PodError, UnknownPod
from podipc.pod.log import Log
from podipc.pod.sandbox import Sandbox

__all__ = ["Container", "Pod"]

_BACKOFF_LIMIT = 300.0
_FORGIVEN = 600.0
"""Seconds after which an earlier crash does not count any more, as in Kubernetes."""

Watcher = Callable[[str, bytes], None]
"""Is told what a container prints, by name; called by the thread of the Pod."""


class Container:
    """One container of a `Pod`. Any thread may use it.

    Attributes
    ----------
    name
        Its name in the manifest.
    state
        ``waiting``, ``running``, ``terminated``, or ``backoff`` until it is started again.
    returncode
        Of its last run: the exit code, or minus the signal; None if there was none.
    reason
        Why it ended: ``Completed``, ``Error``, ``OOMKilled``; "" while it has not.
    restarts
        How often it has been started again.
    is_init
        Whether it is an init container, sidecars included.
    """

    def __init__(self, pod: Pod, spec: manifests.Container, *, init: bool) -> None:
        self.name = spec.name
        self.state = "waiting"
        self.returncode: int | None = None
        self.reason = ""
        self.restarts = 0
        self._pod = pod
        self._spec = spec
        self.is_init = init
        self._log = Log()
        self._process: local.Container | None = None
        self._pipe: int | None = None
        self._runs = 0
        self._failures = 0
        self._began = 0.0
        self._due: float | None = None
        self._again = False
        self._stopping: float | None = None
        self._oom = 0

    def __repr__(self) -> str:
        return f"<container {self.name!r} of Pod {self._pod.name!r}, {self.state}>"

    @property
    def pid(self) -> int | None:
        """Its main process as seen from here, while it runs."""
        process = self._process
        return process.pid if process is not None and self.state == "running" else None

    def logs(self) -> str:
        """What it has printed so far, errors as well, over all its runs; at most 10 MiB."""
        return self._log.read()[0].decode(errors="replace")

    def follow(self) -> Iterator[bytes]:
        """What it has printed and prints, in pieces, until it will print no more."""
        position = 0
        while (piece := self._log.follow(position)) is not None:
            data, position = piece
            if data:
                yield data

    def wait(self, timeout: float | None = None) -> int:
        """Wait until its present run has ended; the exit code, or minus the signal.

        Raises
        ------
        Timeout
            It still runs after `timeout` seconds.
        Closed
            It never ran: the Pod ended before.
        """
        with self._pod._changed:
            run = max(1, self._runs)
            done = self._pod._changed.wait_for(
                lambda: (
                    self._runs > run
                    or (self._runs == run and self.state != "running")
                    or self._pod.phase in ("Succeeded", "Failed")
                ),
                timeout,
            )
            if not done:
                raise Timeout(f"container {self.name!r} still runs after {timeout} s")
            if self.returncode is None:
                raise Closed(f"container {self.name!r} did not run: {self._pod.message}")
            return self.returncode

    def kill(self) -> None:
        """Send SIGKILL. Whether it is started again is for `restartPolicy` to say."""
        self.send_signal(9)

    def send_signal(self, number: int) -> None:
        """Send a signal to its main process, if that runs."""
        with self._pod._changed:
            if self._process is not None and self.state == "running":
                self._process.send_signal(number)

    def restart(self, timeout: float | None = None) -> None:
        """End it (SIGTERM, after the grace period SIGKILL) and start it again at once.

        Raises
        ------
        Timeout
            It does not run again within `timeout` seconds.
        Closed
            The Pod has ended.
        """
        pod = self._pod
        with pod._changed:
            if pod.phase != "Running":
                raise Closed(f"Pod {pod.name!r} does not run: {pod.phase} {pod.message}".strip())
            run = self._runs
            self._again = True
            self._stopping = time.monotonic() + pod.grace if self.state == "running" else None
            if self._stopping is not None and self._process is not None:
                self._process.terminate()
                if self._process.is_deaf():
                    self._process.kill()
        pod._wake()
        with pod._changed:
            pod._changed.wait_for(
                lambda: self._runs > run or pod.phase in ("Succeeded", "Failed"), timeout
            )
            if self._runs > run:
                return
            if pod.phase in ("Succeeded", "Failed"):
                raise Closed(f"container {self.name!r} was not started again: {pod.message}")
            raise Timeout(f"container {self.name!r} was not started again within {timeout} s")

    def exec(
        self,
        command: Sequence[str],
        *,
        stdin: local.Stream = local.DEVNULL,
        stdout: local.Stream = None,
        stderr: local.Stream = None,
    ) -> local.Container:
        """Start one more program in it, with its environment, user and limits.

        Raises
        ------
        Closed
            It does not run.
        CommandNotFound, SystemCallError
            As for `local.Pod.start`.
        """
        with self._pod._changed:
            process = self._process
            if process is None or self.state != "running":
                raise Closed(f"container {self.name!r} does not run: {self.state}")
            streams = (stdin, stdout, stderr)
            return self._pod._sandbox.exec(self._spec, process, command, streams)


class Pod:
    """The Pod of a manifest; a context manager whose block begins when all of it runs.

    Parameters
    ----------
    spec
        From `manifest.read`.
    watcher
        Is told what the containers print.
    grace
        Instead of ``terminationGracePeriodSeconds``.
    backoff
        Seconds before the second restart of a container; twice as many before the next.
    at_end
        More paths to remove when the Pod ends, however that happens.

    Attributes
    ----------
    phase
        ``Pending`` (init containers), ``Running``, ``Succeeded`` or ``Failed``.
    message
        Why it failed.
    notes
        One line for everything that the manifest asks for and there is not, with the reason.
    containers
        By name, init containers included.

    Raises
    ------
    ManifestError
        The manifest asks for what this runtime cannot do without.
    NotHere
        The host does not permit it.
    """

    def __init__(
        self,
        spec: manifests.Pod,
        *,
        watcher: Watcher | None = None,
        grace: float | None = None,
        backoff: float = 10.0,
        at_end: Sequence[str] = (),
    ) -> None:
        self.name = spec.name
        self.spec = spec
        self.grace = float(spec.grace) if grace is None else grace
        self.phase = "Pending"
        self.message = ""
        self.containers = {c.name: Container(self, c, init=c in spec.init) for c in spec.everyone()}
        self._watcher = watcher
        self._backoff = backoff
        self._error: PodipcError | None = None
        self._ending = False
        self._changed = threading.Condition(threading.RLock())
        self._init = [c for c in self.containers.values() if c.is_init]
        self._main = [c for c in self.containers.values() if not c.is_init]
        self._sandbox = Sandbox(spec, at_end)
        self.notes = self._sandbox.notes
        self._selector = selectors.DefaultSelector()
        self._wake_read, self._wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._selector.register(self._wake_read, selectors.EVENT_READ)
        self._thread = threading.Thread(
            target=self._run, name=f"podipc-pod-{self.name}", daemon=True
        )
        self._thread.start()

    def __getitem__(self, name: str) -> Container:
        try:
            return self.containers[name]
        except KeyError:
            there = ", ".join(self.containers)
            raise UnknownPod(
                f"Pod {self.name!r} has no container {name!r}; it has {there}"
            ) from None

    def __enter__(self) -> Self:
        try:
            self.ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def isolation(self) -> dict[str, bool]:
        """What was made, as in `local.Pod`."""
        return self._sandbox.pod.isolation

    def ready(self, timeout: float | None = None) -> None:
        """Wait until all containers have been started.

        Raises
        ------
        PodError
            A container could not be started, or an init container failed for good.
        Timeout
            Not within `timeout` seconds.
        """
        with self._changed:
            if not self._changed.wait_for(lambda: self.phase != "Pending", timeout):
                waiting = [c.name for c in self.containers.values() if c.state != "terminated"]
                raise Timeout(f"Pod {self.name!r} is not up after {timeout} s; there is {waiting}")
            if self._error is not None:
                raise self._error
            if self.phase == "Failed" and not any(c._runs for c in self._main):
                raise PodError(self.message)

    def wait(self, timeout: float | None = None) -> str:
        """Wait until all of it has ended: ``Succeeded`` or ``Failed``.

        Raises
        ------
        Timeout
            It still runs after `timeout` seconds.
        """
        with self._changed:
            over = ("Succeeded", "Failed")
            if not self._changed.wait_for(lambda: self.phase in over, timeout):
                raise Timeout(f"Pod {self.name!r} still runs after {timeout} s")
            return self.phase

    def close(self) -> None:
        """End all containers in order, then the Pod; nothing of it is left. Idempotent."""
        with self._changed:
            self._ending = True
        self._wake()
        self._thread.join()
        self._sandbox.close()

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
        # The Pod's own process and its volumes stay until close().
        local.stop_all([c._process for c in self.containers.values() if c._process], 0)
        for container in self.containers.values():
            self._reap(container)
            self._drain(container)
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
            if container.returncode and not container._spec.sidecar:
                return _ended(container)
        return f"Pod {self.name!r} was ended"

    def _step(self) -> bool:
        """Start what is to be started now; whether anything is still to be waited for."""
        for container in self.containers.values():
            self._reap(container)
        for container in self._init:
            if container._spec.sidecar:
                self._keep(container, "Always")
                if container._runs == 0:
                    return True
            elif container.returncode != 0 or container.state == "running":
                policy = "Never" if self.spec.restart == "Never" else "OnFailure"
                if not self._keep(container, policy):
                    self.message = _ended(container)
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
        oom = self._sandbox.kills(container._spec)
        read, write = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(read, False)
            process = self._sandbox.start(container._spec, write)
        except BaseException:
            os.close(read)
            raise
        finally:
            os.close(write)
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
            self._selector.register(process.fileno(), selectors.EVENT_READ)
            self._changed.notify_all()

    def _reap(self, container: Container) -> None:
        process = container._process
        if process is None or container.state != "running":
            return
        if process.returncode is None:
            with self._changed:
                with contextlib.suppress(KeyError, ValueError):
                    if _ready(process.fileno()):
                        self._selector.unregister(process.fileno())
                if process.poll() is None:
                    return
        self._drain(container, close=False)
        code = process.returncode
        if time.monotonic() - container._began > _FORGIVEN:
            container._failures = 0
        with self._changed:
            container.returncode = code
            oom = self._sandbox.kills(container._spec) > container._oom
            container.reason = "OOMKilled" if oom else "Error" if code else "Completed"
            container.state = "terminated"
            self._changed.notify_all()

    def _drain(self, container: Container, *, close: bool = True) -> None:
        """Take what a container has printed."""
        while container._pipe is not None:
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
            if self._watcher is not None:
                self._watcher(container.name, data)

    def _poll(self, until: float | None = None) -> None:
        moments = (m for c in self.containers.values() for m in (c._due, c._stopping))
        due = [moment for moment in moments if moment is not None]
        if until is not None:
            due = [until]
        timeout = max(0.0, min(due) - time.monotonic()) if due else None
        for key, _ in self._selector.select(timeout):
            if key.fd == self._wake_read:
                with contextlib.suppress(BlockingIOError):
                    os.read(self._wake_read, 4096)
            elif isinstance(key.data, Container):
                self._drain(key.data, close=False)

    def _wake(self) -> None:
        with self._changed:
            if self._wake_write >= 0:
                with contextlib.suppress(BlockingIOError):
                    os.write(self._wake_write, b".")

    def _end(self) -> None:
        """TERM to all containers, KILL after the grace period; then the sidecars, last first."""
        deadline = time.monotonic() + self.grace
        sidecars = [c for c in reversed(self._init) if c._spec.sidecar]
        others = [c for c in self.containers.values() if c not in sidecars]
        for group in [others, *([sidecar] for sidecar in sidecars)]:
            self._stop(group, deadline)

    def _stop(self, containers: Sequence[Container], deadline: float) -> None:
        running = [c for c in containers if c.state == "running" and c._process is not None]
        for container in running:
            assert container._process is not None
            container._process.terminate()
        deaf = [c for c in running if c._process is not None and c._process.is_deaf()]
        for container in deaf:
            container.kill()
        while any(c.state == "running" for c in running):
            if time.monotonic() >= deadline:
                for container in running:
                    container.kill()
                deadline = time.monotonic() + 1.0
            self._poll(deadline)
            for container in running:
                self._reap(container)


def _ended(container: Container) -> str:
    code = container.returncode
    how = f"ended with {container.reason or 'an error'}"
    how += f", exit code {code}" if code is not None and code >= 0 else f", signal {-(code or 0)}"
    last = container.logs().rstrip().rpartition("\n")[2]
    text = f"{container._pod.spec.source}: {container._spec.path}: container "
    return f"{text}{container.name!r} {how}" + (f"; it last said: {last[:500]}" if last else "")


def _ready(fd: int) -> bool:
    selector = selectors.PollSelector()
    selector.register(fd, selectors.EVENT_READ)
    return bool(selector.select(0))
