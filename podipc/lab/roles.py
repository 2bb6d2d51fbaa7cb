"""What runs in the two containers of a comparison: ``podipc compare --as producer|consumer``.

The producer drives, measures and says what came of it: as text for whoever reads
the log, or, with ``--events``, as one JSON object a line for whoever started it.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any, Protocol

from podipc.console import FAILED, OK
from podipc.lab import answering, control, driver, table
from podipc.lab.inputs import InputError
from podipc.lab.pair import WorkerDied
from podipc.lab.plan import Plan
from podipc.lab.results import Results

MEMORY = Path("/dev/shm/podipc-compare")
DISK = Path("/compare")
"""Where the manifest mounts its volume on disk."""
OFTEN = 0.2
"""Seconds between two events of progress, so that telling it disturbs nothing."""


class Reporter(Protocol):
    """Says how it goes."""

    def progress(self, done: int, total: int, text: str) -> None:
        """So many turns of so many are done."""

    def results(self, results: Results) -> None:
        """All is measured."""

    def error(self, kind: str, side: str | None, text: str) -> None:
        """It could not be measured; `kind` is ``input``, ``control`` or ``died``."""


class Text:
    """For the log of a container."""

    def __init__(self) -> None:
        self._next = 0.0

    def progress(self, done: int, total: int, text: str) -> None:
        """A line every few seconds."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + 5
            print(f"{done}/{total}  {text}" if total else text, flush=True)

    def results(self, results: Results) -> None:
        """The tables."""
        table.show(results, sys.stdout)

    def error(self, kind: str, side: str | None, text: str) -> None:
        """One line on stderr."""
        print(f"podipc: {text}", file=sys.stderr, flush=True)


class Events:
    """For `outside`: a JSON object a line, rows one by one, so that no line is very long."""

    def __init__(self) -> None:
        self._next = 0.0

    def progress(self, done: int, total: int, text: str) -> None:
        """Not each of them."""
        now = time.monotonic()
        if now >= self._next:
            self._next = now + OFTEN
            self._say("progress", done=done, total=total, text=text)

    def results(self, results: Results) -> None:
        """What `Results.to_json` writes, in pieces."""
        head, rows = results.pieces()
        for row in rows:
            self._say("row", row=row)
        self._say("results", rows=len(rows), **head)

    def error(self, kind: str, side: str | None, text: str) -> None:
        """The last one."""
        self._say("error", kind=kind, side=side, text=text)

    def _say(self, event: str, **more: Any) -> None:
        # One write: what others print to the same log stays outside of the line.
        sys.stdout.write(json.dumps({"event": event} | more) + "\n")
        sys.stdout.flush()


def producer(plan: Plan, memory: Path, disk: Path, wait: float, *, events: bool) -> int:
    """Measure, and say what came of it; the exit code."""
    if events:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who started this
    reporter: Reporter = Events() if events else Text()
    reporter.progress(0, 0, "waiting for the consumer")
    try:
        results = driver.measure(plan, memory, disk, wait, reporter.progress)
    except InputError as error:
        reporter.error("input", None, str(error))
        return FAILED
    except control.ControlError as error:
        reporter.error("control", None, str(error))
        return FAILED
    except WorkerDied as error:
        reporter.error("died", error.side, str(error))
        return FAILED
    reporter.results(results)
    return verdict(results)


def verdict(results: Results) -> int:
    """0 if nothing arrived wrong, no method of podipc died, and something was measured."""
    bad = any(row.wrong or (row.died and row.kind == "podipc") for row in results.rows)
    return FAILED if bad or all(row.error is not None for row in results.rows) else OK


def consumer(memory: Path, wait: float, *, events: bool) -> int:
    """Serve one driver; the exit code."""

    def say(text: str) -> None:
        print(f"podipc: {text}", file=sys.stderr, flush=True)

    if events:
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.environ["PODIPC_DIR"] = str(memory)
    try:
        with control.Door(memory, say) as door:
            outcome = answering.serve(door, wait)
    except (control.ControlError, answering.Died) as error:
        say(str(error))
        return FAILED
    if outcome == "left":
        say("the driver went away before it was done")
    elif outcome == "done" and not events:
        print("done: the producer has the results")
    return OK if outcome == "done" else FAILED
