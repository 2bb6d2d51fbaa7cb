"""What figures take from results: values by method and size, and the caption."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from podipc import console
from podipc.lab.results import Results, Row
from podipc.lab.where import of, sentence

if TYPE_CHECKING:
    from podipc.lab.where import Place

Of = Callable[[Row], float | None]
Values = dict[str, dict[int, float]]
"""By method and size."""


def median(row: Row) -> float | None:
    """Nanoseconds."""
    return row.percentile(50)


def at_percentile(q: float) -> Of:
    """The time within which `q` percent of the round trips were made.

    Where there were too few to tell the tail, it is that of those that were made.
    """

    def of(row: Row) -> float | None:
        import numpy as np

        from podipc.lab.results import PERCENTILES

        return float(np.interp(q, PERCENTILES, row.times_ns)) if row.times_ns else None

    return of


def cpu_per_gb(row: Row, side: str = "both") -> float | None:
    """Seconds of CPU time to move 10⁹ bytes one way; of `ask`, `answer` or both sides."""
    found = []
    for r in row.repetitions:
        spent = {"ask": r.ask_cpu_ns, "answer": r.answer_cpu_ns}
        spent["both"] = sum(spent.values())
        if r.sent and row.size and spent["both"]:
            found.append(spent[side] / (r.sent * row.size))
    return statistics.median(found) if found else None


def messages_per_s(row: Row) -> float | None:
    """Tensors a second, one way, as fast as it goes."""
    return row.bytes_per_s / row.size if row.bytes_per_s is not None and row.size else None


def chosen(results: Results, methods: Collection[str] | None) -> list[str]:
    """Methods to be drawn, in the order of the results. Raises ValueError."""
    there = list(dict.fromkeys(row.method for row in results.rows))
    if methods is None:
        return there
    if isinstance(methods, str):
        methods = [methods]
    if strange := [name for name in methods if name not in there]:
        raise ValueError(f"no method {strange[0]!r} in the results; there are {', '.join(there)}")
    return [name for name in there if name in methods]


def values(results: Results, of: Of, methods: Collection[str] | None = None) -> Values:
    """By method and size. Tensors of the same size count once, with their median.

    All tensors of a file together (`*`) are taken where single ones have no value,
    as with throughput. Methods without any value are left out.
    """
    single: dict[str, dict[int, list[float]]] = {}
    together: dict[str, dict[int, list[float]]] = {}
    for row in results.rows:
        if row.error is None and (value := of(row)) is not None:
            into = together if row.tensor == "*" else single
            into.setdefault(row.method, {}).setdefault(row.size, []).append(value)
    found = together | single
    return {
        method: {s: statistics.median(v) for s, v in sorted(found[method].items())}
        for method in chosen(results, methods)
        if method in found
    }


def kinds(results: Results) -> dict[str, str]:
    """`podipc`, `peer` or `floor`, by method."""
    return {row.method: row.kind for row in results.rows}


def sizes(values: Values) -> list[int]:
    """All of them, in order."""
    return sorted({size for points in values.values() for size in points})


def common_size(values: Values, at: int | None, pick: Callable[[Sequence[int]], int]) -> int:
    """The size to look at: `at`, or of those that most methods have the one picked.

    Raises ValueError.
    """
    there = sizes(values)
    if not there:
        raise ValueError("the results have no figures of that kind")
    if at is not None:
        if at not in there:
            raise ValueError(f"nothing of {at} bytes in the results; there are {there}")
        return at
    count = {size: sum(size in points for points in values.values()) for size in there}
    most = max(count.values())
    return pick([size for size in there if count[size] == most])


def leaders(values: Values, kinds: dict[str, str], *, lowest: bool) -> list[tuple[str, int, int]]:
    """The best method from one size to another, the floor apart."""
    spans: list[tuple[str, int, int]] = []
    for s in sizes(values):
        here = {m: v[s] for m, v in values.items() if s in v and kinds.get(m) != "floor"}
        if not here:
            continue
        best = (min if lowest else max)(here, key=lambda m: here[m])
        if spans and spans[-1][0] == best:
            spans[-1] = (best, spans[-1][1], s)
        else:
            spans.append((best, s, s))
    return spans


def told(spans: Sequence[tuple[str, int, int]]) -> str:
    """In words: shm up to 4 KiB, shm-loan from 256 KiB; of many changes only the ends."""
    first, last = spans[0], spans[-1]
    if len(spans) == 1:
        return f"{first[0]} at every size"
    if len(spans) > 3:
        return f"{first[0]} at {console.size(first[1])}, {last[0]} at {console.size(last[2])}"
    parts = [f"{first[0]} {'at' if first[1] == first[2] else 'up to'} {console.size(first[2])}"]
    for method, low, high in spans[1:-1]:
        to = "" if low == high else f" to {console.size(high)}"
        parts.append(f"{method} at {console.size(low)}{to}")
    parts.append(f"{last[0]} {'at' if last[1] == last[2] else 'from'} {console.size(last[1])}")
    return ", ".join(parts)


def caption(results: Results, what: str, against: Results | None = None) -> str:
    """Below a figure: what is shown, then where it was measured."""
    if against is None:
        return f"{what}\n{sentence(results)}"
    return f"{what}\nSolid: {sentence(results)}\nDashed, hollow: {sentence(against)}"


def below(what: str, about: Place) -> str:
    """Below a figure of anything else: what is shown, then where it was measured."""
    return f"{what}\n{of(about)}".strip()
