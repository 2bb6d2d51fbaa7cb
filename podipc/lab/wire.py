"""Lines of JSON over two descriptors: how the driver talks with the workers.

What comes is input: a line has a greatest length and has to be a JSON object.
"""

from __future__ import annotations

import json
import os
import select
import time
from typing import Any

LONGEST = 256 << 20
"""Bytes of a line: the times of a pass with tens of millions of round trips."""

Message = dict[str, Any]


class Silent(Exception):
    """Nothing came in time."""


class Ended(Exception):
    """The other side has closed, or is gone."""


class Garbled(Exception):
    """What came is no message; the text says what it is."""


class Wire:
    """One end. Does not own its descriptors. For one thread."""

    def __init__(self, reader: int, writer: int, longest: int = LONGEST) -> None:
        self.reader = reader
        self.writer = writer
        self.longest = longest
        self._buffer = bytearray()
        self._poller = select.poll()
        self._poller.register(reader, select.POLLIN)

    def send(self, message: Message) -> None:
        """Send one message. Raises `Ended`."""
        data = memoryview(json.dumps(message).encode() + b"\n")
        try:
            while data:
                data = data[os.write(self.writer, data) :]
        except OSError as error:
            raise Ended(str(error)) from None

    def receive(self, until: float | None = None) -> Message:
        """The next message, at the latest at `until` of `time.monotonic`.

        Raises `Silent`, `Ended`, `Garbled`.
        """
        start = 0
        while (end := self._buffer.find(b"\n", start)) < 0:
            start = len(self._buffer)
            if start > self.longest:
                raise Garbled(f"a line of more than {self.longest} bytes")
            wait = None if until is None else max(0, int((until - time.monotonic()) * 1000))
            if not self._poller.poll(wait):
                raise Silent
            try:
                data = os.read(self.reader, 1 << 20)
            except OSError as error:
                raise Ended(str(error)) from None
            if not data:
                raise Ended("it has closed")
            self._buffer += data
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        try:
            message = json.loads(line)
        except (ValueError, RecursionError):
            raise Garbled(f"{line[:80]!r} is not JSON") from None
        if not isinstance(message, dict):
            raise Garbled(f"{line[:80]!r} is not a JSON object")
        return message
