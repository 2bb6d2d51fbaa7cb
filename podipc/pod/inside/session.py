"""Runs code in a container for whoever holds the other end of its stdin and stdout.

The main thread runs code, one after the other; the reader takes requests and answers
questions about the container meanwhile. Requests, each a frame (see `wire`):

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
import linecache
import os
import platform
import queue
import signal
import sys
import threading
import time
import traceback
import types
from typing import Any, BinaryIO, Callable, Dict, List, Tuple  # noqa: UP035

from podipc.pod.inside import printing, probe, processes, wire

MAX_TEXT = 100_000
"""Characters of a repr, and of a traceback."""

_GRACE = 2.0
_AGAIN = 0.05
_INTERRUPT = {signal.SIGINT}

Outcome = Tuple[Dict[str, Any], List[bytes]]  # noqa: UP006


class Run(printing.Source):
    """Code that was asked for."""

    def __init__(self, number: int, request: dict[str, Any], parts: list[bytearray]) -> None:
        super().__init__(number)
        self.code = str(request["code"])
        self.file = str(request["file"])
        self.variables = (request["variables"], parts)
        self.background = bool(request["background"])
        self.thread = threading.main_thread()
        # Of a run in the background: whether an exception may be thrown into its thread.
        self.exposed = False


class Session:
    """The whole of it; made and served by the main thread."""

    def __init__(self, requests: BinaryIO) -> None:
        self._requests = requests
        self._printer = printing.Printer()
        self._pid = os.getpid()
        self._state = threading.Lock()
        self._jobs: queue.SimpleQueue[Run | None] = queue.SimpleQueue()
        self._foreground: Run | None = None
        self._background: dict[int, Run] = {}
        self._groups: probe.Groups | None = None
        self._ended = threading.Event()
        self._met = threading.Event()
        module = types.ModuleType("__main__")
        self._names = module.__dict__
        sys.modules["__main__"] = module

    def serve(self) -> None:
        """Until stdin ends."""
        faulthandler.enable(file=self._printer.errors)
        signal.signal(signal.SIGINT, _ignore)
        # So that no thread but the main one ever gets it, and that only while code runs.
        signal.pthread_sigmask(signal.SIG_BLOCK, _INTERRUPT)
        with contextlib.suppress(OSError):  # it leads a session or a group already
            os.setsid()
        processes.adopt()
        self._printer.begin()
        os.register_at_fork(after_in_child=self._forget)
        atexit.register(self._end_children)
        self._printer.send({"is": "hello", "python": platform.python_version()})
        threading.Thread(target=self._read, daemon=True).start()
        while True:
            try:
                run = self._jobs.get()
            except BaseException:  # a signal handler of the user's, or interrupt_main()
                continue
            if run is None:
                break
            self._work(run)
        self._ended.set()
        # Should something hang at the exit.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.alarm(int(_GRACE) + 1)
        sys.exit(0)

    def _forget(self) -> None:
        # Not closed: the thread that reads it, and is not in this process, holds its lock.
        with open("/dev/null", "rb") as null:
            os.dup2(null.fileno(), self._requests.fileno(), inheritable=False)

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
            signal.signal(signal.SIGINT, self._meet)
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
                    _throw(run.thread, None)
            except KeyboardInterrupt:
                pass  # too late: the code has ended

    def _finish(self, run: Run, outcome: Outcome) -> None:
        if self._printer.forked:  # the code has forked, and this is the child
            os._exit(0)
        message, parts = outcome
        message.update({"is": "done", "id": run.number})
        try:
            self._printer.finish(run, message, parts)
        except wire.Unsendable as error:
            message.update(value=None, reason=f"the value is too large: {error}")
            self._printer.finish(run, message, [])

    def _outcome(self, run: Run) -> Outcome:
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
            if self._printer.forked:
                _leave(error)
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
            os.write(self._printer.errors, traceback.format_exc().encode())
        self._end()

    def _handle(self, request: dict[str, Any], parts: list[bytearray]) -> None:
        what, number = request["do"], int(request["id"])
        if what == "run":
            self._begin(Run(number, request, parts))
        elif what == "interrupt":
            self._interrupt(number)
        elif what == "more":
            self._printer.taken(number, int(request["bytes"]))
        elif what == "ask":
            try:
                data = self._answer(str(request["what"]), request.get("outside"))
            except Exception as error:
                self._printer.send({"is": "refused", "id": number, "text": repr(error)[:1000]})
            else:
                self._printer.send({"is": "answer", "id": number, "data": data})

    def _answer(self, what: str, outside: Any) -> dict[str, Any]:
        if self._groups is None:
            self._groups = probe.Groups(outside)
        answers: dict[str, Callable[[probe.Groups], dict[str, Any]]] = {
            "stats": probe.stats,
            "facts": probe.facts,
        }
        return answers[what](self._groups)

    def _begin(self, run: Run) -> None:
        self._printer.add(run, background=run.background)
        if run.background:
            run.thread = threading.Thread(
                target=self._work_beside, args=(run,), name=run.file, daemon=True
            )
            self._background[run.number] = run
            run.thread.__dict__["_podipc_source"] = run
            run.thread.start()
        else:
            with self._state:
                self._foreground = run
            self._jobs.put(run)

    def _interrupt(self, number: int) -> None:
        with self._state:
            run = self._foreground
        if run is not None and run.number == number:
            threading.Thread(target=self._insist, args=(run,), daemon=True).start()
            return
        run = self._background.get(number)
        if run is not None:
            with run.gate:
                if run.exposed:
                    _throw(run.thread, KeyboardInterrupt)

    def _insist(self, run: Run) -> None:
        # Again and again: a signal that comes just before a system call does not end that.
        self._met.clear()
        told: set[int] = set()
        while True:
            with self._state:
                if self._foreground is not run or self._met.is_set():
                    return
                if processes.ignores_interrupts():
                    # It waits in os.system(), which leaves the signal to the child, as a
                    # terminal would.
                    for pid in processes.started_by(run.thread) - told:
                        processes.kill(pid, signal.SIGINT)
                        told.add(pid)
                else:
                    signal.pthread_kill(run.thread.ident or 0, signal.SIGINT)
                    if signal.getsignal(signal.SIGINT) != self._meet:
                        return  # the code has a handler of its own
            self._met.wait(_AGAIN)

    def _meet(self, number: int, frame: object) -> None:
        self._met.set()
        raise KeyboardInterrupt

    # The end

    def _end(self) -> None:
        self._printer.end()
        self._jobs.put(None)
        for run in (self._foreground, *list(self._background.values())):
            if run is not None:
                self._interrupt(run.number)
        if self._ended.wait(_GRACE):
            time.sleep(_GRACE)  # it exits meanwhile
        self._end_children()
        os._exit(0)

    def _end_children(self) -> None:
        if os.getpid() == self._pid:
            processes.end_all()


def _leave(error: BaseException) -> None:
    """End a fork of the session as Python ends with that exception."""
    code: Any = 1
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    else:
        traceback.print_exception(type(error), error, error.__traceback__)
    os._exit(code & 0xFF)


def _ignore(number: int, frame: object) -> None:
    """An interrupt while no code runs."""


def _throw(thread: threading.Thread, error: type[BaseException] | None) -> None:
    """Into a thread, as soon as it runs Python code; None: what was thrown and not met."""
    import ctypes

    thrown = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident or 0), thrown)


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
