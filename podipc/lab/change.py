"""How one run differs from another, and whether that is more than noise."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from podipc.lab.results import Repetition, Results, Row

Quantity = Literal["p50_ns", "bytes_per_s"]

MARGIN = 0.1
"""A smaller change is never called one: runs of the same code on one machine differ as much."""


@dataclass(frozen=True)
class Change:
    """From one row to another of the same method and size."""

    before: float
    after: float
    ratio: float
    """`after` / `before`."""
    noise: float
    """How far the repetitions of the two runs spread, (highest - lowest) / median, added up."""
    exceeds_noise: bool | None
    """None where there is only one repetition on either side: noise is not known then."""

    @property
    def verdict(self) -> str:
        """`higher`, `lower`, `within noise`, or `noise unknown`."""
        if self.exceeds_noise is None:
            return "noise unknown"
        return ("higher" if self.ratio > 1 else "lower") if self.exceeds_noise else "within noise"


def change(before: Row, after: Row, quantity: Quantity = "p50_ns") -> Change | None:
    """How a row differs from that of another run; None where either has no figure.

    The ratio is that of the medians over the repetitions, and the noise of a run is the
    spread of its repetitions, (highest - lowest) / median. A change exceeds the noise if
    no repetition of one run reaches any of the other, and if it is larger than the noise
    of both runs added up and larger than 10 %; how large it is says the ratio, or its
    inverse where that is above 1, minus 1. That cannot be told (None) unless both runs
    have two repetitions at least.

    Parameters
    ----------
    before, after
        Rows of two runs.
    quantity
        ``p50_ns``, the median round trip (lower is better), or ``bytes_per_s``, the
        throughput (higher is better).
    """
    old, new = _each(before, quantity), _each(after, quantity)
    if not old or not new:
        return None
    first, second = statistics.median(old), statistics.median(new)
    noise = (max(old) - min(old)) / first + (max(new) - min(new)) / second
    ratio = second / first
    exceeds: bool | None = None
    if len(old) > 1 and len(new) > 1:
        apart = min(new) > max(old) or max(new) < min(old)
        exceeds = apart and max(ratio, 1 / ratio) - 1 > max(noise, MARGIN)
    return Change(first, second, ratio, noise, exceeds)


def changes(
    before: Results, after: Results, quantity: Quantity = "p50_ns"
) -> Iterator[tuple[Row, Change | None]]:
    """Every row of `after`, with its change from the row of `before` that it answers to.

    That is the one of the same method, size and tensor. None where there is no such row,
    or no figure in either.
    """
    old = {(row.method, row.size, row.tensor): row for row in before.rows}
    for row in after.rows:
        was = old.get((row.method, row.size, row.tensor))
        yield row, None if was is None else change(was, row, quantity)


def _each(row: Row, quantity: Quantity) -> list[float]:
    """The figure of each repetition; empty where the row failed."""
    of: dict[str, Callable[[Repetition], float | None]] = {
        "p50_ns": lambda r: r.p50_ns if r.n else None,
        "bytes_per_s": lambda r: r.bytes_per_s,
    }
    if row.error is not None:
        return []
    return [value for r in row.repetitions if (value := of[quantity](r)) is not None and value > 0]
