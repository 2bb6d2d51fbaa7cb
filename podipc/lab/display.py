"""Results in a notebook: a table in HTML, and one line of text."""

from __future__ import annotations

import html as escaping
from collections.abc import Iterable, Sequence

from podipc import console
from podipc.lab import spoken, table
from podipc.lab.results import Results, Row
from podipc.lab.where import sentence

HEADS = ("size", "method", "median", "p99", "throughput", "× the fastest")
# Neither a background nor a colour of text: those of the notebook are right, light or dark.
_RULE = "border-bottom:1px solid rgba(128,128,128,.35)"
_NUMBER = "text-align:right;padding:.2em .8em;font-variant-numeric:tabular-nums"
_TEXT = "text-align:left;padding:.2em .8em"

Fastest = dict[tuple[int, str], float]
"""The lowest median by column of the tables, the floor apart."""


def line(results: Results) -> str:
    """What is in them, in one line."""
    methods = len({row.method for row in results.rows})
    columns = len({table.column(row) for row in results.rows})
    failed = sum(row.error is not None for row in results.rows)
    without = f", {failed} of {len(results.rows)} rows without figures" if failed else ""
    counts = f"{_count(methods, 'method')} at {_count(columns, 'size')}"
    return f"<Results: {counts}{without}; {sentence(results)}>"


def _count(n: int, what: str) -> str:
    return f"{n} {what}" + "s" * (n != 1)


def html(results: Results) -> str:
    """A table sorted by size and median, and below it where it was measured."""
    rows = sorted(results.rows, key=order)
    best = fastest(rows)
    body = []
    for number, row in enumerate(rows):
        first = number == 0 or table.column(rows[number - 1]) != table.column(row)
        body.append(_line(row, cells(row, best), first))
    head = "".join(
        f'<th scope="col" style="{_TEXT if name == "method" else _NUMBER};{_RULE}">{name}</th>'
        for name in HEADS
    )
    below = [sentence(results), *table.sent(results)]
    notes = "".join(f"<br>{escaping.escape(text)}" for text in below)[4:]
    return (
        f'<table style="border-collapse:collapse"><thead><tr>{head}</tr></thead>'
        f'<tbody>{"".join(body)}</tbody></table><p style="opacity:.75;font-size:.9em">{notes}</p>'
    )


def cells(row: Row, best: Fastest) -> tuple[str, ...]:
    """What the table says of a row, in the order of `HEADS`."""
    name = console.size(row.size) if row.tensor is None else table.column(row)[1]
    median, p99, rate = row.percentile(50), row.percentile(99), row.bytes_per_s
    if row.error is not None or (median is None and rate is None):
        return name, row.method, "", "", "", row.error or "not measured"
    return (
        name,
        row.method,
        "" if median is None else spoken.duration(median),
        "" if p99 is None else spoken.duration(p99),
        "" if rate is None else spoken.rate(rate),
        times(to_fastest(row, best)),
    )


def times(ratio: float | None) -> str:
    """How many times: 1.23, 230, 1,200."""
    if ratio is None:
        return ""
    return f"{ratio:,.0f}" if ratio > 99.5 else f"{ratio:.2f}"


def fastest(rows: Iterable[Row]) -> Fastest:
    """At each size, or of each tensor."""
    found: Fastest = {}
    for row in rows:
        median = row.percentile(50)
        if row.kind != "floor" and row.error is None and median is not None:
            at = table.column(row)
            found[at] = min(median, found.get(at, median))
    return found


def to_fastest(row: Row, best: Fastest) -> float | None:
    """Its median over the lowest; None where there is none."""
    median, least = row.percentile(50), best.get(table.column(row))
    return median / least if median is not None and row.error is None and least else None


def order(row: Row) -> tuple[int, str, float]:
    """By what the table is sorted: the size, the tensor, the median."""
    median = row.percentile(50) if row.error is None else None
    return (*table.column(row), float("inf") if median is None else median)


def _line(row: Row, texts: Sequence[str], first: bool) -> str:
    rule = ";border-top:1px solid rgba(128,128,128,.35)" if first else ""
    if row.error is not None:
        size, method, *_, error = map(escaping.escape, texts)
        return (
            f'<tr><td style="{_NUMBER}{rule}">{size}</td><td style="{_TEXT}{rule}">{method}</td>'
            f'<td colspan="4" style="{_TEXT}{rule};opacity:.75">{error}</td></tr>'
        )
    cells = "".join(
        f'<td style="{_TEXT if name == "method" else _NUMBER}{rule}">{escaping.escape(text)}</td>'
        for name, text in zip(HEADS, texts, strict=True)
    )
    weight = ' style="font-weight:bold"' if texts[-1] == "1.00" else ""
    return f"<tr{weight}>{cells}</tr>"
