"""What happened when, in several containers: recorded inside of them, put together outside.

Times are of CLOCK_MONOTONIC, which all containers of one machine share unless one of
them has a time namespace of its own. Nothing but the standard library is imported.

Examples
--------
>>> clock = timeline.Recorder("producer")
>>> with clock.span("send"):
...     tx.send(array)
>>> print(clock.to_json())
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterable, Iterator
from typing import NamedTuple

MOST = 100_000
"""Events that a recorder keeps, and that are taken from a text."""
LONGEST = 200
"""Characters of a name."""


class TimelineError(ValueError):
    """The text is not one of recorded events."""


class Event(NamedTuple):
    """Something that took a while in a container."""

    container: str
    label: str
    start_ns: int
    """CLOCK_MONOTONIC."""
    end_ns: int


class Recorder:
    """Records what one container does. Any number of threads may use it.

    Parameters
    ----------
    container
        Its name, which the events carry.

    Attributes
    ----------
    events
        What was recorded, in the order in which it ended.
    dropped
        How many were not kept, because there were 100,000 already.
    """

    def __init__(self, container: str) -> None:
        self.container = container
        self.events: list[Event] = []
        self.dropped = 0

    @contextlib.contextmanager
    def span(self, label: str) -> Iterator[None]:
        """Record how long the block takes, also if it raises."""
        start = time.monotonic_ns()
        try:
            yield
        finally:
            self.add(label, start, time.monotonic_ns())

    def add(self, label: str, start_ns: int, end_ns: int) -> None:
        """Record what was timed elsewhere, with `time.monotonic_ns`."""
        if len(self.events) < MOST:
            self.events.append(Event(self.container, label, start_ns, end_ns))
        else:
            self.dropped += 1

    def to_json(self) -> str:
        """As text, for `from_json` in another process."""
        return json.dumps(self.events)


def from_json(*texts: str) -> list[Event]:
    """Events of one or several recorders, by when they started. Raises `TimelineError`."""
    events: list[Event] = []
    for text in texts:
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise TimelineError(f"not JSON: {error}") from error
        if not isinstance(found, list) or len(found) > MOST:
            raise TimelineError(f"not a list of at most {MOST} events")
        events += (_event(number, item) for number, item in enumerate(found))
    return in_order(events)


def _event(number: int, item: object) -> Event:
    match item:
        case [str(container), str(label), int(start), int(end)] if (
            len(container) <= LONGEST and len(label) <= LONGEST and 0 <= start <= end < 1 << 63
        ):
            return Event(container, label, start, end)
    raise TimelineError(
        f"event {number} is not [container, label, start_ns, end_ns], with names of at most "
        f"{LONGEST} characters and an end that is not before the start"
    )


def in_order(events: Iterable[Event]) -> list[Event]:
    """By when they started; of two that start together the longer first."""
    return sorted(events, key=lambda event: (event.start_ns, -event.end_ns))
