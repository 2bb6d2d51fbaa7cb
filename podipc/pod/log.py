"""What a container has printed."""

from __future__ import annotations

import threading

LIMIT = 10 << 20
"""Bytes that are kept, as in a cluster; the oldest go first."""


class Log:
    """The output of a container, over its restarts. Any thread may use it."""

    def __init__(self, limit: int = LIMIT) -> None:
        self._limit = limit
        self._data = bytearray()
        self._dropped = 0
        self._ended = False
        self._changed = threading.Condition()

    def append(self, data: bytes) -> None:
        """Add output, and drop the oldest lines if there is too much."""
        with self._changed:
            self._data += data
            surplus = len(self._data) - self._limit
            if surplus > 0:
                cut = self._data.find(b"\n", surplus) + 1 or surplus
                del self._data[:cut]
                self._dropped += cut
            self._changed.notify_all()

    def end(self) -> None:
        """Nothing more will come."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def read(self, position: int = 0) -> tuple[bytes, int]:
        """What there is from a position on, and the position behind it."""
        with self._changed:
            start = max(0, position - self._dropped)
            return bytes(self._data[start:]), self._dropped + len(self._data)

    def follow(self, position: int, timeout: float | None = None) -> tuple[bytes, int] | None:
        """As `read`, once there is something; None if nothing more will come."""
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or self._dropped + len(self._data) > position, timeout
            )
            if self._ended and self._dropped + len(self._data) <= position:
                return None
            start = max(0, position - self._dropped)
            return bytes(self._data[start:]), self._dropped + len(self._data)
