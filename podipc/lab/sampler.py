"""Memory of containers over time: asked for in a thread, while something else goes on.

Examples
--------
>>> with Sampler({name: c.stats for name, c in pod.containers.items()}) as sampler:
...     ...
>>> plots.memory(sampler)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, NamedTuple, Self

MOST = 100_000
"""Samples that are kept."""


class Sample(NamedTuple):
    """Memory of one container at one moment."""

    t: float
    """Seconds since the sampler began."""
    container: str
    bytes: int


class Sampler:
    """Ask every container for its memory, again and again, for as long as the block lasts.

    Parameters
    ----------
    ask
        By name of the container, a function without arguments that returns its bytes of
        memory, or something with an attribute ``memory`` that is that (`Container.stats`).
        They are called one after the other, in one thread that is not the caller's.
    interval
        Seconds from one round to the next. A round that takes longer delays the next.

    Attributes
    ----------
    samples
        What was found, in the order of time; complete once the block has ended.
    ended
        By name of the container, why it was not asked any further: what asking it raised.

    Raises
    ------
    ValueError
        Nobody to ask, or an interval that is not positive.
    """

    def __init__(self, ask: Mapping[str, Callable[[], Any]], interval: float = 0.1) -> None:
        if not ask:
            raise ValueError("there is no container to ask")
        if not interval > 0:
            raise ValueError(f"interval={interval!r}: a positive number of seconds is needed")
        self.samples: list[Sample] = []
        self.ended: dict[str, str] = {}
        self._ask = dict(ask)
        self._interval = interval
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="podipc-sampler", daemon=True)

    def __enter__(self) -> Self:
        self._began = time.monotonic()
        self._thread.start()
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        due = self._began
        while self._ask and len(self.samples) < MOST:
            for name in list(self._ask):
                self._one(name)
            due = max(due + self._interval, time.monotonic())
            if self._stop.wait(due - time.monotonic()):
                return

    def _one(self, name: str) -> None:
        try:
            found = self._ask[name]()
            value = int(_bytes(found))
        except Exception as error:  # whatever a runtime raises: that container is not there
            self.ended[name] = f"{type(error).__name__}: {error}"
            del self._ask[name]
        else:
            self.samples.append(Sample(time.monotonic() - self._began, name, value))


def _bytes(found: Any) -> Any:
    value = getattr(found, "memory", found)
    if value is None:
        raise LookupError("its memory is not known here")
    return value
