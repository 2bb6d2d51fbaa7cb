"""What code in a container prints, on its way to whoever wants it."""

from __future__ import annotations

import codecs
from collections import deque
from collections.abc import Callable
from typing import TypeAlias

LIMIT = 10 << 20
"""Bytes that are kept of each of stdout and stderr; the oldest go first."""

_MOST_WAITING = 64 << 20
"""Bytes that may wait for a listener. A session holds its code back long before."""

STREAMS = {1: "stdout", 2: "stderr"}

Listener: TypeAlias = Callable[[str, str], object]
"""Called with ``stdout`` or ``stderr`` and a piece of text, in the order of printing."""


class Output:
    """The output of one run. Not thread safe by itself."""

    def __init__(self, *, has_listener: bool) -> None:
        self._kept = {stream: bytearray() for stream in STREAMS}
        self._has_listener = has_listener
        self._pieces: deque[tuple[int, bytes]] = deque()
        self._decoders = {
            stream: codecs.getincrementaldecoder("utf-8")("replace") for stream in STREAMS
        }
        self._waiting = 0
        self._dropped = 0

    def append(self, stream: int, data: bytes) -> bool:
        """Keep a piece; whether it is taken with that, because nobody listens."""
        kept = self._kept[stream]
        kept += data
        if len(kept) > LIMIT + (1 << 20):
            surplus = len(kept) - LIMIT
            self._dropped += surplus
            del kept[:surplus]
        if self._has_listener:
            self._pieces.append((stream, data))
            self._waiting += len(data)
            if self._waiting > _MOST_WAITING:
                raise ValueError(f"{self._waiting} bytes of output, faster than they are taken")
        return not self._has_listener

    @property
    def dropped(self) -> int:
        """Bytes that are kept no more."""
        return self._dropped + sum(max(0, len(kept) - LIMIT) for kept in self._kept.values())

    def pending(self) -> bool:
        """Whether the listener has not had all of it."""
        return bool(self._pieces)

    def take(self) -> list[tuple[int, bytes]]:
        """What the listener has not had; pieces of one stream in a row are one."""
        joined: list[tuple[int, list[bytes]]] = []
        while self._pieces:
            stream, data = self._pieces.popleft()
            self._waiting -= len(data)
            if joined and joined[-1][0] == stream:
                joined[-1][1].append(data)
            else:
                joined.append((stream, [data]))
        return [(stream, b"".join(pieces)) for stream, pieces in joined]

    def forget_listener(self) -> int:
        """Nobody listens from here on; how many bytes nobody has got."""
        size, self._waiting = self._waiting, 0
        self._pieces.clear()
        self._has_listener = False
        return size

    def tell(self, listener: Listener, stream: int, data: bytes, *, last: bool = False) -> None:
        """Call the listener; half a character waits for its other half."""
        if text := self._decoders[stream].decode(data, last):
            listener(STREAMS[stream], text)

    def text(self, stream: int) -> str:
        """What is kept of a stream."""
        return self._kept[stream][-LIMIT:].decode(errors="replace")
