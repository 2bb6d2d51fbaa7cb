"""Code that runs in a container, in a session that keeps its variables; for all runtimes.

Nothing is needed of a runtime but `Container.exec`, nothing of the image but a python3.
"""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Mapping
from subprocess import PIPE
from typing import TYPE_CHECKING, Any

from podipc._core import Closed, PodipcError, Timeout
from podipc.deadline import Deadline
from podipc.pod import inside
from podipc.pod.errors import CommandNotFound, ContainerDied, PodError, SessionDied
from podipc.pod.live.output import Listener
from podipc.pod.live.session import Asked, Exit, Run, Session
from podipc.pod.result import Result

if TYPE_CHECKING:
    from podipc.pod.runtime import Container

__all__ = ["Live", "Running"]

_NEVER = Deadline(None)
_SETTLE = 5.0
"""Seconds that code gets to end after an interrupt."""
_NOTICE = 2.0
"""Seconds in which a runtime notices that a container has ended."""
_KILLED = (-9, 137, 255, None)


class Running:
    """Code that runs in the background of a session; made by `Container.background`.

    Any thread may use it. Several may run at a time, and share their variables with what
    `Container.run` runs. A thread in the container runs it: the interpreter is one for all.
    """

    def __init__(self, session: Session, run: Run, container: str, listener: Listener | None):
        self._session = session
        self._run = run
        self._container = container
        if listener is not None:
            threading.Thread(
                target=self._tell, args=(listener,), name=f"podipc-tell-{container}", daemon=True
            ).start()

    def __repr__(self) -> str:
        state = "done" if self.done else "running"
        return f"<code in the background of container {self._container!r}, {state}>"

    @property
    def done(self) -> bool:
        """Whether it has ended, or its session has."""
        return self._run.result is not None or self._session.is_over

    @property
    def stdout(self) -> str:
        """What it has printed so far."""
        return self._session.text_of(self._run, 1)

    @property
    def stderr(self) -> str:
        """What it has printed so far, of errors."""
        return self._session.text_of(self._run, 2)

    def wait(self, timeout: float | None = None) -> Result:
        """Wait until it has ended.

        Raises
        ------
        Timeout
            It goes on after `timeout` seconds.
        SessionDied, ContainerDied
            It will never end: what it ran in has.
        """
        return self._session.wait(self._run, None, timeout)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in it, as soon as it executes Python code.

        A system call that blocks, or a long computation in C, is not ended by this: Python
        has no way to do so in a thread.
        """
        self._session.interrupt(self._run)

    def _tell(self, listener: Listener) -> None:
        try:
            self._session.wait(self._run, listener)
        except PodipcError:
            pass  # for whoever waits
        finally:
            self._session.abandon(self._run)


class Live:
    """The session of one container: opened when it is needed, again after a restart."""

    def __init__(self, container: Container) -> None:
        self._container = container
        self._opening = threading.Lock()
        self._session: Session | None = None
        self._restarts = 0
        self._cells = itertools.count(1)

    def run(
        self,
        code: str,
        timeout: float | None,
        variables: Mapping[str, Any] | None,
        listener: Listener | None,
        name: str | None,
    ) -> Result:
        """As `Container.run`."""
        deadline = Deadline(timeout)
        session = self._open(deadline)
        asked = self._asked(code, variables, listener, name, background=False)
        run = session.begin(asked, deadline.left_or_never())
        try:
            return session.wait(run, listener, deadline.left_or_never())
        except Timeout:
            raise self._timed_out(session, run, listener, timeout) from None
        except PodipcError:
            raise
        except BaseException:  # Ctrl-C, or what the listener raised
            session.interrupt(run)
            session.abandon(run)
            with contextlib.suppress(PodipcError):  # the next run will meet it
                session.wait(run, None, _SETTLE)
            raise

    def background(
        self,
        code: str,
        variables: Mapping[str, Any] | None,
        listener: Listener | None,
        name: str | None,
    ) -> Running:
        """As `Container.background`."""
        session = self._open()
        run = session.begin(self._asked(code, variables, listener, name, background=True))
        return Running(session, run, self._container.name, listener)

    def interrupt(self) -> None:
        """As `Container.interrupt`."""
        session = self._session
        if session is not None:
            session.interrupt()

    def ask(self, what: str) -> dict[str, Any]:
        """What the container says of itself."""
        return self._open().ask(what)

    def close(self) -> None:
        """End the session, if there is one."""
        # One that does not come up is not waited for: it ends with the container.
        if self._opening.acquire(timeout=_SETTLE):
            try:
                session, self._session = self._session, None
            finally:
                self._opening.release()
            if session is not None:
                session.close()

    def _asked(
        self,
        code: str,
        variables: Mapping[str, Any] | None,
        listener: Listener | None,
        name: str | None,
        *,
        background: bool,
    ) -> Asked:
        if name is None:
            name = f"<{self._container.name}:{next(self._cells)}>"
        return Asked(code, name, variables or {}, background, listener is not None)

    def _open(self, deadline: Deadline = _NEVER) -> Session:
        container = self._container
        if not self._opening.acquire(timeout=deadline.left()):
            raise Timeout(f"container {container.name!r}: Python did not come up in it in time")
        try:
            session = self._session
            if session is not None and container.restarts != self._restarts:
                # What it ran in is gone, and that is about to be heard.
                session.wait_for_end(_NOTICE)
                session.close()
            if session is not None and not session.is_over:
                return session
            self._session = None
            restarts = self._restarts = container.restarts
            self._session = Session(
                self._start(),
                container.name,
                lambda how: self._explain(how, restarts),
                deadline.left(),
            )
            return self._session
        finally:
            self._opening.release()

    def _start(self) -> Any:
        container = self._container
        try:
            return container.exec(inside.COMMAND, stdin=PIPE, stdout=PIPE, stderr=PIPE)
        except CommandNotFound as error:
            raise self._no_python(str(error)) from None
        except Closed as error:
            if container.state in ("terminated", "backoff") and container.returncode is not None:
                raise self._obituary() from None
            raise error

    def _no_python(self, text: str) -> CommandNotFound:
        return CommandNotFound(
            f"container {self._container.name!r} has no python3, which runs the code; take an "
            f"image that has one ({text})"
        )

    def _obituary(self) -> ContainerDied:
        container = self._container
        text = container.obituary()
        lines = container.logs().rstrip().splitlines()[-6:-1]
        if lines:
            text += "\nbefore that:\n" + "\n".join(f"    {line[:500]}" for line in lines)
        return ContainerDied(text, container.returncode)

    def _explain(self, how: Exit, restarts: int) -> PodipcError:
        """Why a session has ended by itself."""
        container = self._container
        code = how.returncode
        deadline = time.monotonic() + (_NOTICE if code in _KILLED else _NOTICE / 8)
        while time.monotonic() < deadline:
            if container.state != "running" or container.restarts != restarts:
                return self._obituary()
            time.sleep(0.02)
        if code in (126, 127):
            return self._no_python(how.stderr[-500:])
        where = f"the Python of container {container.name!r}"
        if how.why:
            return PodError(f"{where} was ended: {how.why}")
        if code is None:
            ending = "has ended"
        elif code < 0 or code > 128:
            ending = f"was ended by signal {-code if code < 0 else code - 128}"
        else:
            ending = f"has ended with exit code {code}"
        text = f"{where} {ending}; its variables are gone, and the next run begins a fresh one"
        if code in (-9, 137):
            text += ". If nobody sent that signal, it was the kernel, for want of memory"
        if how.stderr:
            text += f"\n{how.stderr[-2000:]}"
        return SessionDied(text, code)

    def _timed_out(
        self, session: Session, run: Run, listener: Listener | None, timeout: float | None
    ) -> PodipcError:
        session.interrupt(run)
        text = f"the code in container {self._container.name!r} has not ended within {timeout} s"
        try:
            result = session.wait(run, listener, _SETTLE)
        except Timeout:
            session.abandon(run)
            return Timeout(
                f"{text}, and has not heeded the interrupt; end_session() ends it, with all "
                "variables"
            )
        except PodipcError as error:
            return error
        if result.error is None or result.error.name != "KeyboardInterrupt":
            return Timeout(f"{text}; it ended when it was interrupted")
        return Timeout(f"{text}; it was interrupted here:\n{result.error.traceback}")
