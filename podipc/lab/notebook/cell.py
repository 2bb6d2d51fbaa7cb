"""Run a cell in containers, and show what comes of it as of any other cell."""

from __future__ import annotations

import queue
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from podipc.lab.notebook.show import Raised
from podipc.pod.errors import PodError, RemoteError
from podipc.pod.result import Result
from podipc.pod.runtime import Container


class CellFailed(Raised):
    """A cell failed in a container; shown as the traceback there, without the lines here."""

    def __init__(self, container: str, text: str) -> None:
        super().__init__(text)
        self.container = container


class Shown:
    """A value that stayed in the container: its ``repr``."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __repr__(self) -> str:
        return self._text


def failure(container: str, error: BaseException) -> CellFailed:
    """The exception of a cell, from what `Container.run` raises or returns."""
    if isinstance(error, RemoteError):
        return CellFailed(container, f"In container {container!r}:\n{error.traceback.rstrip()}")
    return CellFailed(container, str(error))


def value(result: Result) -> Any:
    """What the cell's last expression is here."""
    if result.value is None and result.text:
        return Shown(result.text)
    return result.value


def run(
    container: Container, code: str, timeout: float | None, variables: Mapping[str, Any]
) -> Result:
    """Run a cell; its output streams to ours.

    Raises
    ------
    CellFailed
        An exception there, a container that has ended, no time left.
    KeyboardInterrupt
        The cell was interrupted, there as well.
    """
    try:
        result = container.run(code, timeout=timeout, variables=variables, on_output=_print)
    except PodError as error:
        raise failure(container.name, error) from None
    except TimeoutError as error:
        raise CellFailed(container.name, str(error)) from None
    if result.error is not None:
        raise failure(container.name, result.error) from None
    return result


def _print(stream: str, text: str) -> None:
    out = sys.stdout if stream == "stdout" else sys.stderr
    out.write(text)
    out.flush()


def run_in_all(
    containers: Sequence[Container],
    code: str,
    timeout: float | None,
    variables: Mapping[str, Any],
) -> dict[str, Result]:
    """Run a cell in several containers at the same time; what they print has their names before.

    Raises
    ------
    CellFailed
        What is told of each container in which it failed, once all have ended.
    KeyboardInterrupt
        Interrupted in all of them.
    """
    together = _Together(containers, code, timeout, variables)
    try:
        together.print_until_all_have_ended()
    except KeyboardInterrupt:
        for container in containers:
            container.interrupt()
        together.print_until_all_have_ended()
        raise
    if together.failures:
        told = [failure(name, failed) for name, failed in together.failures.items()]
        raise CellFailed(told[0].container, "\n\n".join(map(str, told))) from None
    return together.results


class _Together:
    """A thread for each container; the one that asked prints."""

    def __init__(
        self,
        containers: Sequence[Container],
        code: str,
        timeout: float | None,
        variables: Mapping[str, Any],
    ) -> None:
        self.results: dict[str, Result] = {}
        self.failures: dict[str, BaseException] = {}
        self._width = max(len(container.name) for container in containers)
        self._partial: dict[tuple[str, str], str] = {}
        self._pieces: queue.SimpleQueue[tuple[str, str, str] | None] = queue.SimpleQueue()
        self._left = len(containers)
        for container in containers:
            threading.Thread(
                target=self._run, args=(container, code, timeout, variables), daemon=True
            ).start()

    def _run(
        self,
        container: Container,
        code: str,
        timeout: float | None,
        variables: Mapping[str, Any],
    ) -> None:
        name = container.name

        def heard(stream: str, text: str) -> None:
            self._pieces.put((name, stream, text))

        try:
            own = {**variables, "CONTAINER": name}
            result = container.run(code, timeout=timeout, variables=own, on_output=heard)
            self.results[name] = result
            if result.error is not None:
                self.failures[name] = result.error
        except BaseException as error:  # it is raised where the cell was run
            self.failures[name] = error
        finally:
            self._pieces.put(None)

    def print_until_all_have_ended(self) -> None:
        """To be called again if it was interrupted."""
        while self._left:
            piece = self._pieces.get()
            if piece is None:
                self._left -= 1
                continue
            name, stream, text = piece
            *lines, rest = (self._partial.pop((name, stream), "") + text).split("\n")
            self._partial[name, stream] = rest
            for line in lines:
                self._line(name, stream, line)
        for (name, stream), rest in self._partial.items():
            if rest:
                self._line(name, stream, rest)
        self._partial.clear()

    def _line(self, name: str, stream: str, line: str) -> None:
        _print(stream, f"{name:{self._width}} | {line}\n")
