"""Runs code in a container for whoever holds the other end of its stdin and stdout.

Three threads: the main one runs code, one after the other; the reader takes requests
and answers questions about the container meanwhile; the pump takes what C code and child
processes print. Requests, each a frame (see `wire`):

``run`` (id, code, file, background, variables), ``interrupt`` (id), ``more`` (id, bytes:
so much output has been taken), ``ask`` (id, what, outside).

What goes back: ``hello``, ``output`` (run, stream), ``done`` (id, and the outcome),
``answer`` (id, data), ``refused`` (id, text). It ends when its stdin does.
"""

from __future__ import annotations

import ast
import atexit
import contextlib
import faulthandler
import io
import linecache
import os
import platform
import queue
import select
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any, BinaryIO, Callable  # noqa: UP035

from podipc.pod.inside import probe, wire

WINDOW = 4 << 20
"""Bytes of output of one run that may be under way, before it waits for them to be taken."""
MAX_TEXT = 100_000
"""Characters of a repr, and of a traceback."""

_PARTIAL = 8192
_TICK_MS = 200
_GRACE = 2.0
_INTERRUPT = {signal.SIGINT}


class Run:
    """Code that was asked for."""

    def __init__(self, number: int, request: dict[str, Any], parts: list[bytearray]) -> None:
        self.number = number
        self.code = str(request.get("code", ""))
        self.file = str(request.get("file", "<podipc>"))
        self.variables = (request.get("variables"), parts)
        self.background = bool(request.get("background"))
        self.over = False
        self.outstanding = 0
        # Output that is not a whole line yet.
        self.stream = 1
        self.partial = bytearray()
        # Held while its thread sends: an exception thrown into that must not tear a frame.
        self.gate = threading.RLock()
        self.exposed = False


class Raw(io.RawIOBase):
    """What is below `sys.stdout` and `sys.stderr`."""

    def __init__(self, session: Session, stream: int) -> None:
        self._session = session
        self._stream = stream

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._session.print(self._stream, view)
        return len(view)

    def flush(self) -> None:
        self._session.flush()

    def close(self) -> None:
        """Stays open: later code prints as well."""


class Shield:
    """No signal interrupts the main thread within: a frame that is begun gets sent whole."""

    def __init__(self) -> None:
        self._all = signal.valid_signals()
        self._main = threading.main_thread().ident
        self._depth = 0
        self._before: Any = ()

    def __enter__(self) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth += 1
        if self._depth > 1:
            return
        try:
            self._before = signal.pthread_sigmask(signal.SIG_BLOCK, self._all)
        except BaseException:
            # One that had come before: nothing is begun yet.
            self._depth -= 1
            signal.pthread_sigmask(signal.SIG_UNBLOCK, self._all)
            raise

    def __exit__(self, *_: object) -> None:
        if threading.get_ident() != self._main:
            return
        self._depth -= 1
        if self._depth == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, self._before)


class Session:
    """The whole of it; made and served by the main thread."""

    def __init__(self, requests: BinaryIO) -> None:
        self._requests = requests
        self._replies = os.dup(1)
        self._errors = os.dup(2)
        self._pid = os.getpid()
        self._main = threading.main_thread()
        self._shield = Shield()
        self._sending = threading.RLock()
        self._state = threading.Lock()
        self._taken = threading.Condition()
        self._jobs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._nobody = Run(0, {}, [])
        self._foreground: Run | None = None
        self._background: dict[int, tuple[Run, threading.Thread]] = {}
        self._groups: probe.Groups | None = None
        self._gone = False
        self._ended = threading.Event()
        self._forked = False
        module = types.ModuleType("__main__")
        self._names = module.__dict__
        self._pipes: dict[int, int] = {}
        self._wake_read, self._wake_write = os.pipe()
        sys.modules["__main__"] = module

    # Setting up

    def serve(self) -> None:
        """Until stdin ends."""
        faulthandler.enable(file=self._errors)
        signal.signal(signal.SIGINT, _ignore)
        # So that no thread but the main one ever gets it, and that only while code runs.
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
        with contextlib.suppress(OSError):  # it leads a session or a group already
            os.setsid()
        self._redirect()
        self._follow_threads()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._kill_children)
        self._send({"is": "hello", "python": platform.python_version(), "pid": self._pid})
        for target in (self._read, self._pump):
            threading.Thread(target=target, daemon=True).start()
        while True:
            try:
                run = self._jobs.get()
            except BaseException:  # a signal handler of the user's, or interrupt_main()
                continue
            if run is None:
                break
            self._work(run)
            if self._forked:
                os._exit(0)
        self._ended.set()
        # Should something hang at the exit.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(_GRACE) + 1)
        sys.exit(0)

    def _redirect(self) -> None:
        with open("/dev/null", "rb") as null:
            os.dup2(null.fileno(), 0)
        for stream in (1, 2):
            reading, writing = os.pipe()
            os.set_blocking(reading, False)
            os.dup2(writing, stream)
            os.close(writing)
            self._pipes[stream] = reading
        out, err = (
            io.TextIOWrapper(
                Raw(self, stream),  # type: ignore[type-var]
                "utf-8",
                "backslashreplace",
                newline="\n",
                write_through=True,
            )
            for stream in (1, 2)
        )
        sys.stdout = sys.__stdout__ = out  # type: ignore[assignment, misc]
        sys.stderr = sys.__stderr__ = err  # type: ignore[assignment, misc]
        sys.stdin = open(0, closefd=False)  # noqa: SIM115  (it stays open)

    def _follow_threads(self) -> None:
        """What a thread prints belongs to the run that started it."""
        begin = threading.Thread.start

        def start(thread: threading.Thread) -> None:
            thread.__dict__["_podipc_run"] = self._owner()
            begin(thread)

        threading.Thread.start = start  # type: ignore[assignment, method-assign]

    def _forget(self) -> None:
        """In a fork of this process: it prints like any other child, and asks nobody."""
        self._forked = True
        null = os.open("/dev/null", os.O_RDWR)
        for fd in (self._replies, self._errors, self._requests.fileno()):
            os.dup2(null, fd, inheritable=False)
        os.close(null)

    # Output

    def _owner(self) -> Run:
        run = threading.current_thread().__dict__.get("_podipc_run")
        return run if isinstance(run, Run) and not run.over else self._anyone()

    def _anyone(self) -> Run:
        """Whom output belongs to that cannot be told apart."""
        foreground = self._foreground
        if foreground is not None and not foreground.over:
            return foreground
        for run, _ in reversed(list(self._background.values())):
            if not run.over:
                return run
        return self._nobody

    def print(self, stream: int, data: memoryview) -> None:
        """Python code has printed."""
        if self._forked:
            while data:
                data = data[os.write(stream, data) :]
            return
        for piece in wire.chunks(data):
            run = self._owner()
            self._wait_until_taken(run)
            with self._shield, run.gate, self._sending:
                self._drain()
                self._append(run, stream, piece)

    def flush(self) -> None:
        """Send what is not a whole line either."""
        if self._forked:
            return
        run = self._owner()
        with self._shield, run.gate, self._sending:
            self._drain()
            self._flush(run)

    def _wait_until_taken(self, run: Run) -> None:
        with self._taken:
            while run.outstanding > WINDOW and not run.over and not self._gone:
                self._taken.wait()

    def _drain(self) -> None:
        """What C code and child processes have printed up to now comes first."""
        ready = select.select(list(self._pipes.values()), (), (), 0)[0]
        for stream, fd in self._pipes.items():
            if fd in ready:
                with contextlib.suppress(BlockingIOError):
                    self._append(self._anyone(), stream, os.read(fd, 1 << 16))

    def _append(self, run: Run, stream: int, data: bytes) -> None:
        if run.partial and run.stream != stream:
            self._flush(run)
        run.stream = stream
        run.partial += data
        if len(run.partial) >= _PARTIAL or b"\n" in data:
            self._flush(run)

    def _flush(self, run: Run) -> None:
        data, run.partial = bytes(run.partial), bytearray()
        if data:
            with self._taken:
                run.outstanding += len(data)
            self._send({"is": "output", "run": run.number, "stream": run.stream}, [data])

    def _pump(self) -> None:
        poller = select.poll()
        for fd in (*self._pipes.values(), self._wake_read):
            poller.register(fd, select.POLLIN)
        while not self._gone:
            run = self._anyone()
            events = poller.poll(None if run is self._nobody else _TICK_MS)
            if any(fd == self._wake_read for fd, _ in events):
                os.read(self._wake_read, 4096)
            self._wait_until_taken(self._anyone())
            with self._sending:
                self._drain()
                if not events:
                    for run in self._running():
                        self._flush(run)

    def _running(self) -> list[Run]:
        runs = [run for run, _ in list(self._background.values())]
        foreground = self._foreground
        return [*runs, foreground] if foreground is not None else runs

    def _send(self, message: dict[str, Any], parts: Any = ()) -> None:
        """Raises Unsendable if it is too large; nothing has been sent then."""
        buffers = wire.frame(message, parts)
        with self._shield, self._sending:
            if self._gone or self._forked:
                return
            try:
                for buffer in buffers:
                    view = memoryview(buffer)
                    while view:
                        view = view[os.write(self._replies, view) :]
            except OSError:
                self._gone = True  # nobody listens any more; the reader will see it

    # Running code

    def _work(self, run: Run) -> None:
        outcome = self._outcome(run)
        with self._state:
            self._foreground = None
            # An interrupt that came too late is not for the next run.
            while signal.sigtimedwait(_INTERRUPT, 0) is not None:
                pass
        self._finish(run, outcome)

    def _work_beside(self, run: Run) -> None:
        self._finish(run, self._outcome(run))
        self._background.pop(run.number, None)

    def _expose(self, run: Run) -> None:
        """From here on an interrupt reaches the code."""
        if run.background:
            run.exposed = True
        else:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _INTERRUPT)

    def _cover(self, run: Run) -> None:
        """No interrupt from here on. One that has come already may be raised here."""
        if not run.background:
            signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
            signal.signal(signal.SIGINT, _ignore)
            return
        while run.exposed:
            try:
                with run.gate:
                    run.exposed = False
                    _throw(threading.get_ident(), None)
            except KeyboardInterrupt:
                pass  # too late: the code has ended

    def _finish(self, run: Run, outcome: tuple[dict[str, Any], list[bytes]]) -> None:
        if self._forked:
            os._exit(0)
        with self._shield, self._sending:
            self._drain()
            run.over = True
            self._flush(run)
            with self._taken:
                self._taken.notify_all()
            message, parts = outcome
            message.update({"is": "done", "id": run.number})
            try:
                self._send(message, parts)
            except wire.Unsendable as error:
                message.update(value=None, reason=f"the value is too large: {error}")
                self._send(message)

    def _outcome(self, run: Run) -> tuple[dict[str, Any], list[bytes]]:
        began = time.monotonic()
        message: dict[str, Any] = {"value": None, "text": "", "reason": "", "error": None}
        parts: list[bytes] = []
        try:
            try:
                self._expose(run)
                value = self._evaluate(run)
                if value is not None:
                    message["text"] = _text(value)
                    try:
                        message["value"], parts = wire.pack(value)
                    except wire.Unsendable as error:
                        message["reason"] = str(error)
            finally:
                self._cover(run)
        except BaseException as error:
            message, parts = self._failure(run, error), []
        message["seconds"] = time.monotonic() - began
        return message, parts

    def _evaluate(self, run: Run) -> Any:
        lines = [line + "\n" for line in run.code.split("\n")]
        linecache.cache[run.file] = (len(run.code), None, lines, run.file)
        tree, parts = run.variables
        if tree is not None:
            self._names.update(wire.unpack(tree, parts))
        run.variables = (None, [])
        module = ast.parse(run.code, run.file)
        last = None
        if module.body and isinstance(module.body[-1], ast.Expr):
            last = ast.Expression(module.body.pop().value)  # type: ignore[attr-defined]
        body = compile(module, run.file, "exec", dont_inherit=True)
        # Both compiled before either runs: wrong code has no effect at all.
        tail = compile(last, run.file, "eval", dont_inherit=True) if last is not None else None
        exec(body, self._names)
        return eval(tail, self._names) if tail is not None else None

    def _failure(self, run: Run, error: BaseException) -> dict[str, Any]:
        frames = error.__traceback__
        while frames is not None and frames.tb_frame.f_code.co_filename != run.file:
            frames = frames.tb_next
        try:
            text = "".join(traceback.format_exception(type(error), error, frames))
        except BaseException as second:  # a class of the user's that cannot be printed
            text = f"{type(error).__name__}: <the traceback failed: {type(second).__name__}>\n"
        try:
            says = str(error)
        except BaseException as second:
            says = f"<str() failed: {type(second).__name__}>"
        name = type(error).__name__
        details = {"name": name, "message": _short(says), "traceback": _short(text)}
        return {"value": None, "text": "", "reason": "", "error": details, "seconds": 0.0}

    # Requests

    def _read(self) -> None:
        try:
            while True:
                request = wire.read(self._requests)
                if request is None:
                    break
                self._handle(*request)
        except BaseException:
            os.write(self._errors, traceback.format_exc().encode())
        self._end()

    def _handle(self, request: dict[str, Any], parts: list[bytearray]) -> None:
        what, number = request["do"], int(request["id"])
        if what == "run":
            self._begin(Run(number, request, parts))
        elif what == "interrupt":
            self._interrupt(number)
        elif what == "more":
            with self._taken:
                for run in (*self._running(), self._nobody):
                    if run.number == number:
                        run.outstanding -= int(request["bytes"])
                self._taken.notify_all()
        elif what == "ask":
            try:
                data = self._answer(str(request["what"]), request.get("outside"))
            except Exception as error:
                self._send({"is": "refused", "id": number, "text": repr(error)[:1000]})
            else:
                self._send({"is": "answer", "id": number, "data": data})

    def _answer(self, what: str, outside: Any) -> dict[str, Any]:
        if self._groups is None:
            self._groups = probe.Groups(outside)
        answers: dict[str, Callable[[probe.Groups], dict[str, Any]]] = {
            "stats": probe.stats,
            "facts": probe.facts,
        }
        return answers[what](self._groups)

    def _begin(self, run: Run) -> None:
        if run.background:
            thread = threading.Thread(
                target=self._work_beside, args=(run,), name=run.file, daemon=True
            )
            self._background[run.number] = run, thread
            thread.__dict__["_podipc_run"] = run
            _plain_start(thread)
        else:
            with self._state:
                self._foreground = run
            self._jobs.put(run)
        os.write(self._wake_write, b".")

    def _interrupt(self, number: int) -> None:
        with self._state:
            run = self._foreground
            if run is not None and run.number == number:
                self._interrupt_main(run)
                return
        run, thread = self._background.get(number, (None, None))
        if run is not None and thread is not None:
            with run.gate:
                if run.exposed and thread.ident is not None:
                    _throw(thread.ident, KeyboardInterrupt)

    def _interrupt_main(self, run: Run) -> None:
        if not _ignores_interrupts():
            signal.pthread_kill(self._main.ident or 0, signal.SIGINT)
            return
        # It waits in os.system(), which leaves the signal to the child, as a terminal would.
        for pid in _descendants(_children(self._main)):
            _kill(pid, signal.SIGINT)
        threading.Thread(target=self._insist, args=(run,), daemon=True).start()

    def _insist(self, run: Run) -> None:
        while not run.over:
            with self._state:
                if self._foreground is not run:
                    return
                if not _ignores_interrupts():
                    signal.pthread_kill(self._main.ident or 0, signal.SIGINT)
                    return
            time.sleep(0.02)

    # The end

    def _end(self) -> None:
        self._gone = True
        with self._taken:
            self._taken.notify_all()
        self._jobs.put(None)
        for run in self._running():
            self._interrupt(run.number)
        if self._ended.wait(_GRACE):
            time.sleep(_GRACE)
        self._kill_children()
        os._exit(0)

    def _kill_children(self) -> None:
        if self._forked or os.getpid() != self._pid:
            return
        for number, seconds in ((signal.SIGTERM, 0.3), (signal.SIGKILL, 0.0)):
            deadline = time.monotonic() + seconds
            while pids := _left_by(self._pid):
                for pid in pids:
                    _kill(pid, number)
                if time.monotonic() >= deadline:
                    break
                time.sleep(0.02)


_plain_start = threading.Thread.start


def _ignore(number: int, frame: object) -> None:
    """An interrupt while no code runs."""


def _throw(ident: int, error: type[BaseException] | None) -> None:
    """Into a thread, as soon as it runs Python code; None: what was thrown and not met."""
    import ctypes

    thrown = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(ident), thrown)


def _kill(pid: int, number: int) -> None:
    with contextlib.suppress(OSError):
        os.kill(pid, number)


def _ignores_interrupts() -> bool:
    with open("/proc/self/status") as file:
        for line in file:
            if line.startswith("SigIgn:"):
                return bool(int(line.split()[1], 16) >> (signal.SIGINT - 1) & 1)
    return False


def _children(thread: threading.Thread) -> set[int]:
    """The processes that a thread of this one has started."""
    with open(f"/proc/self/task/{thread.native_id}/children") as file:
        return set(map(int, file.read().split()))


def _processes() -> dict[int, tuple[int, int]]:
    """Parent and session of each living process."""
    found = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", "rb") as file:
                    fields = file.read().rpartition(b")")[2].split()
            except OSError:
                continue
            if fields[0] not in (b"Z", b"X"):
                found[int(name)] = int(fields[1]), int(fields[3])
    return found


def _descendants(roots: set[int]) -> set[int]:
    """They, and all that descend from them."""
    processes = _processes()
    found: set[int] = set()
    more = roots & set(processes)
    while more:
        found |= more
        more = {pid for pid, (parent, _) in processes.items() if parent in found} - found
    return found


def _left_by(pid: int) -> set[int]:
    """What descends from this process, and what was left in the session that it leads."""
    found = _descendants({pid})
    if os.getsid(0) == pid:
        found |= {other for other, (_, leader) in _processes().items() if leader == pid}
    return found - {pid}


def _text(value: object) -> str:
    try:
        return _short(repr(value))
    except Exception as error:
        return f"<{type(value).__name__}, whose repr() failed: {type(error).__name__}: {error}>"


def _short(text: str) -> str:
    if len(text) <= MAX_TEXT:
        return text
    half = MAX_TEXT // 2
    return f"{text[:half]}\n... {len(text) - 2 * half} characters left out ...\n{text[-half:]}"


def serve(requests: BinaryIO) -> None:
    """Serve whoever writes `requests`, on standard output; until they end."""
    Session(requests).serve()
