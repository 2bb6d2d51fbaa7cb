"""What the containers of a comparison print: events of the producer, and all other lines."""

from __future__ import annotations

import contextlib
import json
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from podipc._core import PodipcError
from podipc.console import printable
from podipc.lab.answering import ending
from podipc.lab.wire import LONGEST
from podipc.pod import runtime

Event = dict[str, Any]
_MARK = b'{"event": '
_LAST = 12
"""Lines that are kept of what is no event."""
_LOOK = 0.5
"""Seconds between two looks at how the containers are."""
_PATIENCE = 2.0
"""Seconds for the producer to say what it noticed of the death of the consumer."""


class Listener:
    """Follows the logs of both containers of a Pod, from its start."""

    def __init__(self, pod: runtime.Pod) -> None:
        self._pod = pod
        self._pieces: queue.SimpleQueue[tuple[str, bytes | None]] = queue.SimpleQueue()
        self._buffers = {"producer": bytearray(), "consumer": bytearray()}
        self._lines: dict[str, deque[str]] = {name: deque(maxlen=_LAST) for name in self._buffers}
        self._over = False
        for name in self._buffers:
            threading.Thread(target=self._follow, args=(name,), daemon=True).start()

    def _follow(self, name: str) -> None:
        try:
            for piece in self._pod[name].follow():
                self._pieces.put((name, piece))
        except (PodipcError, OSError) as error:
            self._pieces.put((name, f"its log cannot be read: {error}\n".encode()))
        finally:
            self._pieces.put((name, None))

    def events(self) -> Iterator[Event]:
        """Those of the producer, until it will print no more, or the consumer has died."""
        died = None
        while not self._over and (died is None or time.monotonic() - died < _PATIENCE):
            try:
                yield from self._take(_LOOK)
            except queue.Empty:
                if died is None and self._pod["consumer"].returncode:
                    died = time.monotonic()
                # Its log may go on for as long as the Pod does.
                self._over = self._over or self._pod["producer"].state == "terminated"

    def _take(self, timeout: float) -> list[Event]:
        """The events in the next piece; its other lines are kept. Raises `queue.Empty`."""
        name, piece = self._pieces.get(timeout=timeout)
        buffer = self._buffers[name]
        if piece is None:
            self._over = self._over or name == "producer"
            piece = b"\n"
        buffer += piece
        if b"\n" not in piece:
            del buffer[:-LONGEST]
            return []
        *lines, rest = bytes(buffer).split(b"\n")
        buffer[:] = rest
        found = []
        for line in lines:
            before, mark, after = line.partition(_MARK)
            event = _read(mark + after) if name == "producer" and mark else None
            if event is not None:
                found.append(event)
            text = (line if event is None else before).decode(errors="replace").strip()
            if text:
                self._lines[name].append(printable(text[:2000].expandtabs()))
        return found

    def say_rest(self) -> None:
        """Pass on what was printed besides the events."""
        for name, lines in self._lines.items():
            for line in lines:
                print(f"{name} | {line}", file=sys.stderr)

    def obituary(self, event: Event | None) -> str:
        """Which container died, how, and what it said last; `event` is what the producer says."""
        text = None if event is None else printable(str(event.get("text")))
        kind = None if event is None else event.get("kind")
        side = "producer" if event is None and self._over else "consumer"
        if kind == "died" and event is not None and event.get("side") == "producer":
            # Its worker; the container itself is still there to say so.
            side, code = "producer", None
        else:
            code = self._code(side)
        self._rest()
        if code:
            how = ending(code)
            if self._pod[side].reason == "OOMKilled":
                how += ", out of memory: raise resources.limits.memory in the manifest"
            died = f"container {side!r} died ({how})"
            text = f"{text}; {died}" if kind == "control" else died
        text = text or f"container {side!r} ended without results"
        lines = self._lines[side]
        if not lines:
            return f"{text}; it printed nothing"
        return f"{text}; the end of what it printed:\n" + "\n".join(lines)

    def _code(self, side: str) -> int | None:
        """How a container ended: whoever noticed may have done so before the runtime did."""
        with contextlib.suppress(PodipcError):
            self._pod[side].wait(_PATIENCE)
        return self._pod[side].returncode

    def _rest(self) -> None:
        """Take what has come meanwhile."""
        with contextlib.suppress(queue.Empty):
            while True:
                self._take(0.2)


def _read(line: bytes) -> Event | None:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
