"""Our end of a session in a container: frames out and in, runs, questions. See `inside`."""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import IO, Any, cast

from podipc._core import Closed, PodipcError, Timeout
from podipc.deadline import Deadline
from podipc.pod.errors import PodError, RemoteError, SessionDied
from podipc.pod.inside import probe, sources, wire
from podipc.pod.live.output import STREAMS, Listener, Output
from podipc.pod.result import Result

_STDERR_KEPT = 64 << 10
_OPEN = 60.0
_ANSWER = 30.0
_END = 5.0
_ACKNOWLEDGE = 256 << 10
"""Bytes of output after which the other side is told that they were taken."""


@dataclass
class Run:
    """Code that has been sent."""

    number: int
    output: Output
    fresh: bool
    foreground: bool
    result: Result | None = None
    untold: int = 0


@dataclass
class _Question:
    data: Any = None
    text: str = ""
    done: bool = False


@dataclass
class Exit:
    """How the program of a session ended."""

    returncode: int | None
    stderr: str
    why: str = ""


@dataclass(frozen=True)
class Asked:
    """What is to be run."""

    code: str
    file: str
    variables: Mapping[str, Any] = field(default_factory=dict)
    background: bool = False
    listens: bool = False


class Session:
    """A Python that lives in a container; any thread may use it.

    Parameters
    ----------
    program
        What runs `inside.COMMAND`, with pipes.
    container
        The name of the container, for messages.
    explain
        Makes the exception out of how the program ended. Called by a thread of this class.
    timeout
        Seconds in which its Python has to come up.

    Attributes
    ----------
    dropped
        Bytes of output that came while no code ran, and that nobody has got.

    Raises
    ------
    PodipcError
        It did not come up: what `explain` says, or `Timeout`.
    """

    def __init__(
        self,
        program: Any,
        container: str,
        explain: Callable[[Exit], PodipcError],
        timeout: float | None = None,
    ) -> None:
        self._program = program
        self._container = container
        self._explain = explain
        self._changed = threading.Condition()
        self._runs: dict[int, Run] = {}
        self._questions: dict[int, _Question] = {}
        self._numbers = itertools.count(1)
        self._foreground: Run | None = None
        self._outgoing: queue.SimpleQueue[list[Any] | None] = queue.SimpleQueue()
        self._errors = bytearray()
        self._hello = False
        self._closing = False
        self._ran = False
        self._outside = probe.whereabouts()
        self.error: PodipcError | None = None
        self.dropped = 0
        self._threads = [
            threading.Thread(target=target, name=f"podipc-live-{container}", daemon=True)
            for target in (self._write, self._collect_errors, self._read)
        ]
        self._outgoing.put([sources()])
        for thread in self._threads:
            thread.start()
        try:
            patience = _OPEN if timeout is None else min(timeout, _OPEN)
            self._until(lambda: self._hello, patience, "Python did not come up in it")
        except BaseException:
            # Nothing runs in it that could be ended in order.
            self._kill()
            self.close()
            raise

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.error is not None

    def begin(self, asked: Asked, timeout: float | None = None) -> Run:
        """Send code; if it is not for the background, once nothing else runs there."""
        tree = None
        parts: list[bytes] = []
        if asked.variables:
            tree, parts = _packed(asked.variables)
        deadline = Deadline(timeout)
        with self._changed:
            if not asked.background:
                left = deadline.left_or_never()
                self._until(lambda: self._foreground is None, left, "other code runs")
            self._check()
            number = next(self._numbers)
            run = Run(
                number, Output(has_listener=asked.listens), not self._ran, not asked.background
            )
            message = {
                "do": "run",
                "id": number,
                "code": asked.code,
                "file": asked.file,
                "background": asked.background,
                "variables": tree,
            }
            self._send(message, parts)
            self._ran = True
            self._runs[number] = run
            if run.foreground:
                self._foreground = run
            return run

    def wait(self, run: Run, listener: Listener | None, timeout: float | None = None) -> Result:
        """Wait for the end of a run and tell its output meanwhile, in this thread.

        Raises
        ------
        Timeout
            It goes on after `timeout` seconds; it has not been interrupted.
        SessionDied
            The Python there has ended.
        """
        deadline = Deadline(timeout)
        while True:
            with self._changed:
                self._changed.wait_for(
                    lambda: (
                        run.result or self.error or (listener is not None and run.output.pending())
                    ),
                    deadline.left(),
                )
                pieces = run.output.take() if listener is not None else []
                result, error = run.result, self.error
            for stream, data in pieces:
                assert listener is not None
                run.output.tell(listener, stream, data)
                self._acknowledge(run, len(data))
            if result is None and error is None:
                if deadline.passed:
                    raise Timeout(
                        f"the code in container {self._container!r} still runs after {timeout} s"
                    )
            elif not pieces:
                if listener is not None:
                    for stream in STREAMS:
                        run.output.tell(listener, stream, b"", last=True)
                if result is not None:
                    return result
                assert error is not None
                raise _again(error, run)

    def abandon(self, run: Run) -> None:
        """Its output is for no listener any more; it must not wait for one."""
        with self._changed:
            size = run.output.forget_listener()
            if self.error is None:
                self._send({"do": "more", "id": run.number, "bytes": size + run.untold})
            run.untold = 0

    def text_of(self, run: Run, stream: int) -> str:
        """What a run has printed so far."""
        with self._changed:
            return run.output.text(stream)

    def interrupt(self, run: Run | None = None) -> None:
        """Raise KeyboardInterrupt in a run, by default in the one of the foreground."""
        with self._changed:
            run = run or self._foreground
            if run is not None and run.result is None and self.error is None:
                self._send({"do": "interrupt", "id": run.number})

    def ask(self, what: str, timeout: float = _ANSWER) -> dict[str, Any]:
        """What `probe` says there, also while code runs."""
        question = _Question()
        with self._changed:
            self._check()
            number = next(self._numbers)
            self._questions[number] = question
            self._send({"do": "ask", "id": number, "what": what, "outside": self._outside})
            try:
                self._until(lambda: question.done, timeout, f"no answer about its {what}")
            finally:
                del self._questions[number]
        if question.text or not isinstance(question.data, dict):
            raise PodError(
                f"container {self._container!r} cannot tell its {what}: {question.text[:1000]}"
            )
        return question.data

    def wait_for_end(self, timeout: float) -> None:
        """Wait until it has ended by itself, but not longer than `timeout` seconds."""
        with self._changed:
            self._changed.wait_for(lambda: self.error is not None, timeout)

    def close(self) -> None:
        """End it, and all processes that its code has started. Idempotent."""
        with self._changed:
            self._closing = True
        self._outgoing.put(None)
        if threading.current_thread() in self._threads:
            return
        self._threads[-1].join(_END)
        if self._threads[-1].is_alive():
            self._kill()
            self._threads[-1].join(_END)

    # What is said

    def _check(self) -> None:
        if self.error is not None:
            raise _again(self.error)

    def _until(self, condition: Callable[[], bool], timeout: float | None, what: str) -> None:
        with self._changed:
            self._changed.wait_for(lambda: condition() or self.error is not None, timeout)
            self._check()
            if not condition():
                after = "" if timeout is None else f", after {timeout:.3g} s"
                raise Timeout(f"container {self._container!r}: {what}{after}")

    def _send(self, message: dict[str, Any], parts: list[bytes] | None = None) -> None:
        self._outgoing.put(wire.frame(message, parts or []))

    def _acknowledge(self, run: Run, size: int) -> None:
        run.untold += size
        if run.untold >= _ACKNOWLEDGE:
            self._send({"do": "more", "id": run.number, "bytes": run.untold})
            run.untold = 0

    def _write(self) -> None:
        # In a thread of its own, so that Ctrl-C never tears a frame.
        file: IO[bytes] = self._program.stdin
        try:
            while (buffers := self._outgoing.get()) is not None:
                for buffer in buffers:
                    view = memoryview(buffer)
                    while view:
                        view = view[file.write(view) or 0 :]
                file.flush()
        except (OSError, ValueError):
            pass  # it has ended, which the reader notices
        finally:
            with contextlib.suppress(OSError, ValueError):
                file.close()

    # What is heard

    def _collect_errors(self) -> None:
        with contextlib.suppress(OSError, ValueError):
            file = self._program.stderr
            while data := getattr(file, "read1", file.read)(4096):
                self._errors += data
                del self._errors[:-_STDERR_KEPT]

    def _read(self) -> None:
        why = ""
        try:
            while (frame := wire.read(cast("Any", self._program.stdout))) is not None:
                with self._changed:
                    self._hear(*frame)
        except Exception as error:  # whatever is wrong with it: nothing more can be understood
            why = f"what it sent cannot be read: {error}"
        self._finish(why)

    def _hear(self, message: dict[str, Any], parts: list[bytearray]) -> None:
        what = message["is"]
        if what == "output":
            self._hear_output(int(message["run"]), int(message["stream"]), parts[0])
        elif what == "done":
            run = self._runs.pop(message["id"])
            run.result = _result(self._container, run, message, parts)
            if self._foreground is run:
                self._foreground = None
        elif what in ("answer", "refused"):
            question = self._questions.get(message["id"])
            if question is not None:
                question.data = message.get("data")
                question.text = str(message.get("text", ""))
                question.done = True
        elif what == "hello":
            self._hello = True
        else:
            raise wire.Malformed(f"a message {what!r:.100}")
        self._changed.notify_all()

    def _hear_output(self, number: int, stream: int, data: bytearray) -> None:
        run = self._runs.get(number)
        if run is None:
            self.dropped += len(data)
            if number == 0:
                self._send({"do": "more", "id": 0, "bytes": len(data)})
        elif run.output.append(stream, bytes(data)):
            self._acknowledge(run, len(data))

    def _kill(self) -> None:
        # In a cluster that may fail; the program ends with its container then.
        with contextlib.suppress(PodipcError, OSError):
            self._program.kill()

    def _finish(self, why: str) -> None:
        # Whatever goes wrong here, who waits has to hear of the end.
        error: PodipcError = PodError(f"the session in container {self._container!r} has ended")
        try:
            error = self._ending(why)
        except PodipcError as problem:
            error = problem
        finally:
            with self._changed:
                self.error = error
                self._foreground = None
                self._changed.notify_all()

    def _ending(self, why: str) -> PodipcError:
        """Wait for the end of the program; what that is for those who wait."""
        self._outgoing.put(None)
        if why:
            self._kill()
        try:
            code = self._program.wait(_END)
        except PodipcError:
            self._kill()
            code = None
            with contextlib.suppress(PodipcError):
                code = self._program.wait(_END)
        for thread in self._threads[:-1]:
            thread.join(_END)
        self._program.close()
        if self._closing:
            return Closed(f"the session in container {self._container!r} was ended")
        return self._explain(Exit(code, self._errors.decode(errors="replace").strip(), why))


def _packed(variables: Mapping[str, Any]) -> tuple[Any, list[bytes]]:
    for name in variables:
        if not isinstance(name, str) or not name.isidentifier():
            raise ValueError(f"variables are set by name, and {name!r} is none")
    tree: list[Any] = []
    every: list[bytes] = []
    for name, value in variables.items():
        try:
            packed, parts = wire.pack(value)
        except wire.Unsendable as error:
            raise TypeError(f"the variable {name!r} cannot be sent: {error}") from None
        tree.append([name, _moved(packed, len(every))])
        every += parts
    return {"d": tree}, every


def _moved(tree: Any, by: int) -> Any:
    """The same value, with its parts behind `by` others."""
    if isinstance(tree, list):
        return [_moved(item, by) for item in tree]
    if isinstance(tree, dict):
        return {k: v + by if k in ("a", "s") else _moved(v, by) for k, v in tree.items()}
    return tree


def _result(container: str, run: Run, message: dict[str, Any], parts: list[bytearray]) -> Result:
    error, reason = message.get("error"), str(message.get("reason", ""))
    value = None
    try:
        value = wire.unpack(message.get("value"), parts)
    except (wire.Malformed, wire.Unsendable) as wrong:
        reason = f"the value cannot be read: {wrong}"
    failure = None
    if isinstance(error, dict):
        texts = (str(error.get(key, "")) for key in ("name", "message", "traceback"))
        failure = RemoteError(container, *texts)
    return Result(
        stdout=run.output.text(1),
        stderr=run.output.text(2),
        value=value,
        text=str(message.get("text", "")),
        error=failure,
        fresh=run.fresh,
        seconds=float(message.get("seconds", 0.0)),
        reason=reason,
        dropped=run.output.dropped,
    )


def _again(error: PodipcError, run: Run | None = None) -> PodipcError:
    """The same exception with the output of a run; several may raise it at a time."""
    if isinstance(error, SessionDied):
        output = (run.output.text(1), run.output.text(2)) if run is not None else ("", "")
        return type(error)(str(error), error.returncode, *output)
    return type(error)(str(error))
