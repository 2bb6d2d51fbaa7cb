"""How far a measurement has come, on a terminal; nothing where there is none."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator

from podipc.lab.driver import Progress


def _silent(done: int, total: int, text: str) -> None:
    """No display."""


@contextlib.contextmanager
def display(wanted: bool = True) -> Iterator[Progress]:
    """A display on stderr: with rich where it is installed, else one line that is rewritten."""
    if not wanted or not sys.stderr.isatty():
        yield _silent
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as Bar
    except ImportError:
        with _line() as line:
            yield line
        return
    columns = (
        BarColumn(30),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("{task.description}"),
    )
    with Bar(*columns, console=Console(stderr=True), transient=True, refresh_per_second=4) as bar:
        task = bar.add_task("starting two containers", total=None)
        yield lambda done, total, text: bar.update(
            task, completed=done, total=total or None, description=text
        )


@contextlib.contextmanager
def _line() -> Iterator[Progress]:
    last = 0.0

    def update(done: int, total: int, text: str) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last >= 0.25:
            last = now
            sys.stderr.write(f"\r\x1b[K{done}/{total}  {text}"[:100])
            sys.stderr.flush()

    try:
        yield update
    finally:
        sys.stderr.write("\r\x1b[K")
        sys.stderr.flush()
