"""How round trips are distributed, and the first against those that follow."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING

from podipc import console
from podipc.lab import table
from podipc.lab.plots import data, style
from podipc.lab.plots.sheet import Sheet, short
from podipc.lab.results import PERCENTILES, Results, Row
from podipc.lab.spoken import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def distribution(
    results: Results,
    *,
    at: int | None = None,
    against: Results | None = None,
    methods: Collection[str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Empirical distribution of warm round trips: the share that took no longer than a time.

    Drawn from the percentiles that results keep (each whole one, 99.5, 99.9 and 99.99),
    with a marker at the median and at p99.

    Parameters
    ----------
    at
        Size of the tensor in bytes; the smallest that most methods have, if it is not given.

    The other parameters, what is returned and what is raised are those of `latency`.
    """
    values = data.values(results, data.median, methods)
    at = data.common_size(values, at, min)
    ordered = sorted((m for m in values if at in values[m]), key=lambda m: values[m][at])
    sheet = Sheet(ax, size, theme, len(ordered) + 3)
    handles = []
    for method in ordered:
        look = style.look(method)
        (line,) = sheet.ax.plot(
            _row(results, method, at).times_ns,
            PERCENTILES,
            color=look.colour,
            linestyle=look.dash,
            linewidth=1.6,
            marker=look.marker,
            markersize=5,
            markerfacecolor=look.face,
            markevery=[PERCENTILES.index(50), PERCENTILES.index(99)],
            label=short(method),
        )
        handles.append(line)
        if against is not None and (other := _find(against, method, at)) is not None:
            sheet.ax.plot(
                other.times_ns, PERCENTILES, color=look.colour, linestyle=style.DASHED, alpha=0.8
            )
    sheet.key(handles)
    sheet.time_axis("x")
    sheet.ax.set_ylim(-2, 102)
    sheet.ax.set_yticks(range(0, 101, 25))
    sheet.axis_labels("round trip (ns, µs, ms)", "share that took no longer (%)")
    caption = (
        "Empirical distribution of warm round trips, all repetitions; markers at the median and "
        "at p99; in the order of the medians."
    )
    kinds = data.kinds(results)
    first = next((m for m in ordered if kinds[m] != "floor"), ordered[0])
    best = _row(results, first, at)
    tail = "half" if best.n < 100 else "99 of 100"
    span = duration(data.at_percentile(50 if best.n < 100 else 99)(best) or 0.0)
    title = f"Round trips at {console.size(at)}: {tail} over {first} took at most {span}"
    return sheet.finish(title, data.caption(results, caption, against))


def cold(
    results: Results,
    *,
    at: int | None = None,
    against: Results | None = None,
    methods: Collection[str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """First round trip of a link, which touches its memory for the first time, and the median.

    Parameters
    ----------
    at
        Size of the tensor in bytes; the biggest that most methods have, if it is not given.

    The other parameters, what is returned and what is raised are those of `latency`.
    """
    first = data.values(results, lambda row: row.cold_ns, methods)
    at = data.common_size(first, at, max)
    warm = data.values(results, data.median, methods)
    ordered = sorted(
        (m for m in first if at in first[m] and at in warm.get(m, {})), key=lambda m: warm[m][at]
    )
    sheet = Sheet(ax, size, theme, 2 * len(ordered))
    for row, method in enumerate(ordered):
        look = style.look(method)
        ends = first[method][at], warm[method][at]
        _pair(sheet, look, row - 0.15 * (against is not None), ends)
        ratio = first[method][at] / warm[method][at]
        sheet.name(f"{table.times(ratio)}×", look.colour, warm[method][at], row, leader=False)
        if against is not None and (other := _find(against, method, at)) is not None:
            was, then = other.cold_ns, data.median(other)
            if was is not None and then is not None:
                _pair(sheet, look, row + 0.2, (was, then), dash=style.DASHED)
    sheet.method_axis(ordered)
    sheet.time_axis("x")
    sheet.axis_labels(f"round trip at {console.size(at)} (ns, µs, ms)", "")
    worst = max(ordered, key=lambda m: first[m][at] / warm[m][at])
    ratio = first[worst][at] / warm[worst][at]
    caption = (
        "Hollow: the first round trip of a link, median of the repetitions. Filled: the median of "
        "those that follow. At the right: how many times as long the first one took."
    )
    title = (
        f"The first round trip at {console.size(at)} takes up to {table.times(ratio)} times as "
        f"long ({worst})"
    )
    return sheet.finish(title, data.caption(results, caption, against))


def _pair(
    sheet: Sheet, look: style.Look, y: float, ends: tuple[float, float], dash: style.Dash = "-"
) -> None:
    colour, (first, warm) = look.colour, ends
    sheet.ax.plot([warm, first], [y, y], color=colour, linestyle=dash, linewidth=1.4, alpha=0.6)
    sheet.ax.plot(first, y, color=colour, marker=look.marker, markerfacecolor="none", linestyle="")
    sheet.ax.plot(warm, y, color=colour, marker=look.marker, linestyle="")


def _find(results: Results, method: str, at: int) -> Row | None:
    """With figures; the first of several tensors of that size."""
    return next(
        (
            row
            for row in results.rows
            if row.method == method and row.size == at and row.error is None and row.times_ns
        ),
        None,
    )


def _row(results: Results, method: str, at: int) -> Row:
    found = _find(results, method, at)
    assert found is not None
    return found
