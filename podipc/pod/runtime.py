"""What every runtime offers: a `Pod`, its `Container`, and a `Program` started in one.

``local``, ``podman`` and ``kubernetes`` differ in what makes the containers and in
nothing that is seen from here. What can be said of a container by asking from within
(`Container.run`, `Container.stats`, `Pod.facts`) is written once, for all of them.
"""

from __future__ import annotations

import abc
import signal
from collections.abc import Iterator, Mapping, Sequence
from subprocess import DEVNULL, PIPE, STDOUT
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Protocol, Self, TypeAlias

from podipc.pod import manifest as manifests
from podipc.pod.errors import UnknownPod
from podipc.pod.live import Live, Running
from podipc.pod.live.output import Listener
from podipc.pod.result import Result

if TYPE_CHECKING:
    from podipc.pod.facts import Facts, Stats

__all__ = ["DEVNULL", "PIPE", "STDOUT", "Container", "Pod", "Program", "Stream"]

Stream: TypeAlias = int | IO[Any] | None
"""As for `subprocess.Popen`: a descriptor, a file, ``PIPE``, ``DEVNULL``, None for our own."""

OVER = ("Succeeded", "Failed")
"""The phases of a Pod in which nothing runs any more."""


class Program(Protocol):
    """A program that runs in a container besides its main process. One thread at a time.

    Attributes
    ----------
    returncode
        None while it runs; then its exit code, or minus the signal that ended it.
    stdin, stdout, stderr
        Binary files at our ends of the pipes, where ``PIPE`` was asked for, else None.
    """

    returncode: int | None
    stdin: IO[bytes] | None
    stdout: IO[bytes] | None
    stderr: IO[bytes] | None

    def poll(self) -> int | None:
        """The exit code, or None if it still runs. Does not wait."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait until it has ended; the exit code. Raises `Timeout` after `timeout` seconds."""

    def send_signal(self, number: int) -> None:
        """Send it a signal; nothing happens if it has ended."""

    def kill(self) -> None:
        """Send it SIGKILL."""

    def close(self) -> None:
        """Close our ends of its pipes."""


class Container(abc.ABC):
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

    name: str
    state: str
    returncode: int | None
    reason: str
    restarts: int
    is_init: bool

    def __init__(self, pod: Pod, spec: manifests.Container) -> None:
        self.name = spec.name
        self.state = "waiting"
        self.returncode = None
        self.reason = ""
        self.restarts = 0
        self.is_init = spec in pod.spec.init
        self.spec = spec
        self._pod = pod
        self._live = Live(self)

    def __repr__(self) -> str:
        return f"<container {self.name!r} of Pod {self._pod.name!r}, {self.state}>"

    @property
    def pid(self) -> int | None:
        """Its main process as seen from here, while it runs; None where that cannot be seen."""
        return None

    @abc.abstractmethod
    def logs(self) -> str:
        """What it has printed so far, errors as well; at most the last 10 MiB of it."""

    @abc.abstractmethod
    def follow(self) -> Iterator[bytes]:
        """What it has printed and prints, in pieces, until it will print no more.

        Of who reads so slowly that the log has dropped what comes next, a line says how much.
        """

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> int:
        """Wait until its present run has ended; the exit code, or minus the signal.

        Raises
        ------
        Timeout
            It still runs after `timeout` seconds.
        Closed
            It never ran: the Pod ended before.
        """

    @abc.abstractmethod
    def send_signal(self, number: int) -> None:
        """Send a signal to its main process, if that runs.

        As PID 1 it only gets signals that it handles, except SIGKILL and SIGSTOP.

        Raises
        ------
        NotHere
            In a cluster: SIGKILL and SIGSTOP, for which it has no call.
        """

    def kill(self) -> None:
        """Send SIGKILL. Whether it is started again is for `restartPolicy` to say.

        Raises
        ------
        NotHere
            In a cluster: see `send_signal`.
        """
        self.send_signal(signal.SIGKILL)

    @abc.abstractmethod
    def restart(self, timeout: float | None = None) -> None:
        """End it (SIGTERM, after the grace period SIGKILL) and start it again at once.

        Raises
        ------
        Timeout
            It does not run again within `timeout` seconds.
        Closed
            The Pod does not run, or it is an init container that is no sidecar: these run once.
        NotHere
            In a cluster, which has no call for it, SIGTERM does not end it, or `restartPolicy`
            does not start it again.
        """

    @abc.abstractmethod
    def exec(
        self,
        command: Sequence[str],
        *,
        stdin: Stream = DEVNULL,
        stdout: Stream = None,
        stderr: Stream = None,
    ) -> Program:
        """Start one more program in it, with its environment, user and limits.

        Raises
        ------
        Closed
            It does not run.
        CommandNotFound
            It has no such program.
        NotPermitted
            There is something of that name that cannot be executed; in a cluster that is
            CommandNotFound or SystemCallError, as the container engine puts it.
        SystemCallError
            Anything else that was refused.
        """

    def run(
        self,
        code: str,
        *,
        timeout: float | None = None,
        variables: Mapping[str, Any] | None = None,
        on_output: Listener | None = None,
        name: str | None = None,
    ) -> Result:
        """Execute Python code in it, in a session that keeps its variables.

        One after the other: while other code runs, this waits for its turn. Ctrl-C here
        interrupts the code there, and is then raised here. Whatever the code prints is
        attributed to it, and so is what its threads print, also what C code and child
        processes write to descriptors 1 and 2.

        Parameters
        ----------
        code
            What to execute. If it ends with an expression, that is the value.
        timeout
            Seconds after which it is interrupted, with KeyboardInterrupt; opening the session
            and waiting for its turn are counted. Code that does not heed that, such as a long
            computation in C, is given up after 5 seconds more, and goes on.
        variables
            Set before it runs: JSON values, tuples, arrays without objects in them.
        on_output
            Called by this thread with ``stdout`` or ``stderr`` and a text, as it is printed.
        name
            Of the code in tracebacks; default ``<CONTAINER:NUMBER>``.

        Returns
        -------
        Result
            Output, value or exception. An exception of the code is not raised here:
            `Result.unwrap` does.

        Raises
        ------
        Timeout
            It has not ended in time. The session goes on, with its variables.
        ContainerDied
            The container has ended before or meanwhile.
        SessionDied
            The Python in the container has ended meanwhile; the next run begins a new one.
        CommandNotFound
            The container has no ``python3``.
        Closed
            The container has not begun yet, or `end_session` was called meanwhile.
        TypeError, ValueError
            A variable cannot be sent.
        """
        return self._live.run(code, timeout, variables, on_output, name)

    def background(
        self,
        code: str,
        *,
        variables: Mapping[str, Any] | None = None,
        on_output: Listener | None = None,
        name: str | None = None,
    ) -> Running:
        """Begin to execute code beside what `run` executes, with the same variables.

        As `run`, but a thread there executes it and a thread here calls `on_output`. What C
        code and child processes print is attributed to the code of `run`, if there is any.
        """
        return self._live.background(code, variables, on_output, name)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in what `run` executes, if anything; any thread may do so."""
        self._live.interrupt()

    def end_session(self) -> None:
        """End the session, what runs in it and the processes it has started.

        Its variables are gone; the next run begins a new one. Nothing happens without one.
        """
        self._live.close()

    def stats(self) -> Stats:
        """Memory and cpu time it uses, also while code runs. Opens a session.

        Raises
        ------
        ContainerDied, SessionDied, CommandNotFound, Timeout
            As for `run`.
        """
        from podipc.pod.facts import Stats

        return Stats.of(self.name, self._live.ask("stats"))

    def obituary(self) -> str:
        """Where in the manifest it is, how it ended, and what it said last; for messages."""
        code = self.returncode
        how = f"ended with {self.reason or 'an error'}"
        how += (
            f", exit code {code}" if code is not None and code >= 0 else f", signal {-(code or 0)}"
        )
        last = self.logs().rstrip().rpartition("\n")[2]
        text = f"{self._pod.spec.source}: {self.spec.path}: container {self.name!r} {how}"
        return text + (f"; it last said: {last[:500]}" if last else "")


class Pod(abc.ABC):
    """A Pod that runs; a context manager whose block begins when all of it has been started.

    When the block ends, or this process dies in whatever way, nothing of it is left.

    Attributes
    ----------
    runtime
        ``local``, ``podman`` or ``kubernetes``.
    version
        That of the engine or the cluster; "" for ``local``, which is podipc itself.
    name
        That of the manifest.
    spec
        The manifest.
    phase
        ``Pending`` (init containers), ``Running``, ``Succeeded`` or ``Failed``.
    message
        Why it failed.
    notes
        One line for everything that the manifest asks for and there is not, with the reason.
    containers
        By name, init containers included.
    grace
        Seconds between SIGTERM and SIGKILL.
    """

    runtime: str
    version: str = ""
    phase: str
    message: str
    notes: list[str]
    containers: Mapping[str, Container]
    grace: float

    def __init__(self, spec: manifests.Pod, grace: float | None) -> None:
        self.name = spec.name
        self.spec = spec
        self.grace = float(spec.grace) if grace is None else grace
        self.phase = "Pending"
        self.message = ""

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

    def __repr__(self) -> str:
        return f"<Pod {self.name!r}, runtime {self.runtime}, {self.phase}>"

    @abc.abstractmethod
    def ready(self, timeout: float | None = None) -> None:
        """Wait until all containers have been started.

        Raises
        ------
        PodError
            A container could not be started, or an init container failed for good.
        Timeout
            Not within `timeout` seconds.
        """

    @abc.abstractmethod
    def wait(self, timeout: float | None = None) -> str:
        """Wait until all of it has ended: ``Succeeded`` or ``Failed``.

        Raises
        ------
        Timeout
            It still runs after `timeout` seconds.
        """

    def facts(self) -> Facts:
        """What its running containers are and share, as seen from inside each of them.

        Raises
        ------
        ContainerDied, SessionDied, CommandNotFound, Timeout
            As for `Container.run`.
        """
        from podipc.pod.facts import Facts

        running = [c for c in self.containers.values() if c.state == "running"]
        return Facts.of(self.spec, {c.name: c._live.ask("facts") for c in running})

    def end_sessions(self) -> None:
        """End what `Container.run` began; it ends with the containers anyway."""
        for container in self.containers.values():
            container.end_session()

    @abc.abstractmethod
    def close(self) -> None:
        """End all containers in order, then the Pod; nothing of it is left. Idempotent.

        Interrupted by Ctrl-C, it no longer waits for the grace period: what still runs is
        killed, and then KeyboardInterrupt raised.
        """
