"""A cell that goes on in a container while others run: its output streams under itself."""

from __future__ import annotations

import html
import threading
import time
from collections.abc import Mapping
from typing import Any

from podipc.lab.notebook.cell import failure, value
from podipc.lab.notebook.show import show
from podipc.pod.errors import PodError
from podipc.pod.result import Result
from podipc.pod.runtime import Container

_LINES = 200
_EVERY = 0.1
"""Seconds between two updates of what is shown."""


class Background:
    """A cell in the background; `%%container --background` returns it.

    ``done``, ``wait(timeout)`` (its value, or `CellFailed`), ``interrupt()``.
    """

    def __init__(self, container: Container, code: str, variables: Mapping[str, Any]) -> None:
        self.container = container.name
        self._said: list[str] = []
        self._changed = threading.Event()
        self._lock = threading.Lock()
        self._outcome: Result | BaseException | None = None
        self._running = container.background(code, variables=variables, on_output=self._hear)
        self._handle = show(self)
        threading.Thread(target=self._end, daemon=True).start()
        threading.Thread(target=self._show, daemon=True).start()

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        return self._outcome is not None

    def wait(self, timeout: float | None = None) -> Any:
        """Wait until it has ended; the value of its last expression.

        Raises
        ------
        Timeout
            It goes on after `timeout` seconds.
        CellFailed
            It raised an exception, or its container has ended.
        """
        try:
            result = self._running.wait(timeout)
        except PodError as error:
            raise failure(self.container, error) from None
        if result.error is not None:
            raise failure(self.container, result.error)
        return value(result)

    def interrupt(self) -> None:
        """Raise KeyboardInterrupt in it as soon as it executes Python code."""
        self._running.interrupt()

    def _hear(self, stream: str, text: str) -> None:
        with self._lock:
            self._said = "".join([*self._said, text]).splitlines(keepends=True)[-_LINES:]
        self._changed.set()

    def _end(self) -> None:
        try:
            self._outcome = self._running.wait()
        except BaseException as error:  # shown
            self._outcome = error
        self._changed.set()

    def _show(self) -> None:
        while not self.done:
            self._changed.wait()
            self._changed.clear()
            self._handle.update(self)
            time.sleep(_EVERY)
        self._handle.update(self)

    def _state(self) -> str:
        outcome = self._outcome
        if outcome is None:
            return "runs in the background"
        if isinstance(outcome, BaseException):
            return "has ended with its container" if isinstance(outcome, PodError) else "has ended"
        if outcome.error is not None:
            return f"has ended with {outcome.error.name} after {outcome.seconds:.1f} s"
        return f"has ended after {outcome.seconds:.1f} s"

    def _text(self) -> str:
        with self._lock:
            text = "".join(self._said)
        outcome = self._outcome
        if isinstance(outcome, BaseException):
            text += str(outcome)
        elif outcome is not None and outcome.error is not None:
            text += outcome.error.traceback
        return text

    def __repr__(self) -> str:
        return f"[{self.container} {self._state()}]\n{self._text()}".rstrip()

    def _repr_html_(self) -> str:
        state = html.escape(f"{self.container} {self._state()}")
        return (
            f'<div style="opacity:.7;font-size:90%">{"■" if self.done else "▶"} {state}</div>'
            f'<pre style="margin:0;max-height:24em;overflow:auto">{html.escape(self._text())}</pre>'
        )
