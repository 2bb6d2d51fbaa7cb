"""What is still to be delivered: lines in order, within bounds, and the batch under way."""

import threading
import time
from collections import deque
from dataclasses import dataclass, field
from typing import Final, Literal

from podipc.logs.records import is_report, report

BATCH_LINES: Final = 500
BATCH_BYTES: Final = 128 << 10


@dataclass(frozen=True)
class Batch:
    """Lines that are sent together, again and again if need be, under one number."""

    sequence: int
    lines: tuple[bytes, ...]


@dataclass
class Backlog:
    """Any thread may call any method.

    `capacity` is in lines and `max_bytes` in bytes, the batch under way included; `drop` says
    what goes when there is no room.
    """

    capacity: int
    max_bytes: int
    drop: Literal["newest", "oldest"]
    # Reentrant: a signal's handler may log, too.
    changed: threading.Condition = field(default_factory=threading.Condition)
    accepted: int = 0
    delivered: int = 0
    dropped: int = 0
    refused: int = 0
    stalled: bool = False
    """Somebody waited in vain, and nothing has moved since: nobody else waits as long."""
    batch: Batch | None = None
    _lines: "deque[bytes]" = field(default_factory=deque)
    _bytes: int = 0
    _sequence: int = 0
    _unreported: int = 0
    _gone: int = 0
    """Of those that were accepted: delivered, refused, or dropped."""

    @property
    def waiting(self) -> int:
        """Lines that are not delivered yet."""
        return len(self._lines) + (len(self.batch.lines) if self.batch else 0)

    @property
    def empty(self) -> bool:
        """Whether there is nothing to be sent."""
        return not self.waiting and not self._unreported

    def put(self, line: bytes, wait: float) -> bool:
        """Add a line, waiting so many seconds for room; False if some line was dropped for it."""
        with self.changed:
            if not self.fits(line) and wait and not self.stalled:
                self.stalled = not self.changed.wait_for(lambda: self.fits(line), wait)
            whole = self.fits(line)
            if not whole and self.drop == "oldest":
                self._make_room(line)
            if not self.fits(line):
                self._drop(1)
                return False
            if self._unreported and self.drop == "newest":
                self._lines.append(self._report())
            self._lines.append(line)
            self._bytes += len(line)
            self.accepted += 1
            self.changed.notify_all()
            return whole

    def fits(self, line: bytes) -> bool:
        """Whether there is room for it."""
        return self.waiting < self.capacity and self._bytes + len(line) <= self.max_bytes

    def _make_room(self, line: bytes) -> None:
        while self._lines and not self.fits(line):
            self._bytes -= len(self._lines.popleft())
            self._gone += 1
            self._drop(1)

    def _drop(self, count: int) -> None:
        self.dropped += count
        self._unreported += count

    def _report(self) -> bytes:
        """A line about what was dropped."""
        count, self._unreported = self._unreported, 0
        lines = "line" if count == 1 else "lines"
        return self._own(f"{count} {lines} dropped: no room while the agent did not take more")

    def _own(self, text: str) -> bytes:
        line = report("WARNING", text, time.time())
        self._bytes += len(line)
        self.accepted += 1
        return line

    def next(self) -> Batch | None:
        """The batch to send now: the same until it is `done` or `split`."""
        with self.changed:
            if self.batch is None:
                if self._unreported and (self.drop == "oldest" or not self._lines):
                    self._lines.appendleft(self._report())
                lines: list[bytes] = []
                size = 0
                # Not all of a small backlog: what is under way cannot make room any more.
                most = max(1, min(BATCH_LINES, self.capacity // 2))
                while self._lines and len(lines) < most:
                    size += len(self._lines[0])
                    if lines and size > min(BATCH_BYTES, self.max_bytes // 2):
                        break
                    lines.append(self._lines.popleft())
                if lines:
                    self._sequence += 1
                    self.batch = Batch(self._sequence, tuple(lines))
            return self.batch

    def done(self) -> None:
        """The batch was delivered."""
        with self.changed:
            if self.batch is not None:
                self.delivered += len(self.batch.lines)
                self._leave()

    def split(self, why: str) -> None:
        """The batch was refused for good: find the line that is the reason, and leave it out."""
        with self.changed:
            if self.batch is None:
                return
            lines = self.batch.lines
            if len(lines) == 1:
                self.refused += 1
                self._leave()
                self._sequence -= 1
                if not is_report(lines[0]):
                    text = f"a line of {len(lines[0])} bytes was refused by the agent: {why}"
                    self._lines.appendleft(self._own(text[:500]))
                return
            half = len(lines) // 2
            self._lines.extendleft(reversed(lines[half:]))
            self.batch = Batch(self.batch.sequence, lines[:half])

    def _leave(self) -> None:
        assert self.batch is not None
        self._bytes -= sum(map(len, self.batch.lines))
        self._gone += len(self.batch.lines)
        self.batch = None
        self.stalled = False
        self.changed.notify_all()

    def wait_for_work(self, ended: "threading.Event") -> bool:
        """Sleep until there is something to send; False if there is none and it has ended."""
        with self.changed:
            self.changed.wait_for(lambda: not self.empty or ended.is_set())
            return not self.empty

    def wait_until_gone(self, timeout: float) -> bool:
        """Wait until all that was accepted before is gone."""
        with self.changed:
            target = self.accepted + bool(self._unreported)
            return self.changed.wait_for(lambda: self._gone >= target, timeout)
