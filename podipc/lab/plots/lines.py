"""Latency and throughput against size; with one size only, a row a method."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING

from podipc import console
from podipc.lab.methods import SIZELESS
from podipc.lab.plots import data, style
from podipc.lab.plots.sheet import Sheet
from podipc.lab.results import Results
from podipc.lab.spoken import duration, rate
from podipc.lab.where import part

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Quantity:
    """What a figure of this module shows."""

    of: data.Of
    text: Callable[[float], str]
    lowest: bool
    label: str
    best: str
    """How the best is called, as the title begins."""
    axis: Callable[[Sheet, str], None]
    band: tuple[data.Of, data.Of] | None
    caption: str


MOST_BANDS = 10
"""Methods beyond which bands would hide each other."""
BAND = " Band: p1 to p99 (of under 100 round trips: all of them)."

LATENCY = Quantity(
    of=data.median,
    text=duration,
    lowest=True,
    label="round trip (ns, µs, ms)",
    best="Shortest round trip",
    axis=Sheet.time_axis,
    band=(data.at_percentile(1), data.at_percentile(99)),
    caption="Line: median (p50) of a round trip, a tensor there and eight bytes back.",
)
THROUGHPUT = Quantity(
    of=lambda row: row.bytes_per_s,
    text=rate,
    lowest=False,
    label="throughput, one way (MB/s, GB/s)",
    best="Highest throughput",
    axis=Sheet.rate_axis,
    band=None,
    caption="Many tensors one way, as fast as the receiver takes them; median of the repetitions. "
    "1 GB is 10⁹ bytes.",
)
LOAN = " A loan is handed over without being copied."
FILLED = " Over a loan, what comes from a file is copied into it first, within the time."


def latency(
    results: Results,
    *,
    against: Results | None = None,
    methods: Collection[str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Round trip against size: the median as a line, p1 to p99 as a band; both axes logarithmic.

    Results of one size give one row a method: the median and the span from p1 to p99.

    Parameters
    ----------
    results
        What was measured.
    against
        Another run, drawn dashed, without a band.
    methods
        These only; else all that have figures.
    theme
        ``light``, ``dark``, or ``auto``: transparent, and legible on white and on black.
    size
        Width and height in inches; a height of None is made to fit.
    ax
        Draw into this; the rest of its figure is left alone.

    Returns
    -------
    matplotlib.figure.Figure
        The figure, which pyplot does not know and nobody has to close.

    Raises
    ------
    ImportError
        matplotlib is missing.
    ValueError
        A method that is not in the results, or nothing was measured.
    """
    return _draw(LATENCY, results, against, methods, theme, size, ax)


def throughput(
    results: Results,
    *,
    against: Results | None = None,
    methods: Collection[str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Bytes a second one way against size, both axes logarithmic. As `latency` otherwise."""
    return _draw(THROUGHPUT, results, against, methods, theme, size, ax)


def _draw(  # noqa: PLR0917  (those of the two functions above, passed on)
    quantity: Quantity,
    results: Results,
    against: Results | None,
    methods: Collection[str] | None,
    theme: str,
    size: style.Size | None,
    ax: Axes | None,
) -> Figure:
    values = data.values(results, quantity.of, methods)
    data.common_size(values, None, min)  # ValueError where there is nothing to draw
    others = {}
    if against is not None:
        known = None if methods is None else [m for m in data.chosen(against, None) if m in methods]
        others = data.values(against, quantity.of, known)
    sizes = sorted({*data.sizes(values), *data.sizes(others)})
    names = list(values | others)
    sheet = Sheet(ax, size, theme, len(names) + 2)
    if len(sizes) == 1:
        _rows(sheet, quantity, results, values, others)
    else:
        _lines(sheet, quantity, results, values, others)
    banded = quantity.band and (len(sizes) == 1 or _banded(results, values))
    caption = quantity.caption + (BAND if banded else "")
    if quantity is THROUGHPUT:
        caption += FILLED if part(results.about, "plan").get("input") else LOAN
    title = _title(quantity, results, values)
    return sheet.finish(title, data.caption(results, caption, against))


def _lines(
    sheet: Sheet,
    quantity: Quantity,
    results: Results,
    values: data.Values,
    others: data.Values,
) -> None:
    sizes = sorted({*data.sizes(values), *data.sizes(others)})
    banded = _banded(results, values)
    if quantity.band:
        low = data.values(results, quantity.band[0])
        high = data.values(results, quantity.band[1])
    for method, points in values.items():
        look = style.look(method)
        if len(points) == 1 and method.removeprefix("C:") in SIZELESS:
            _level(sheet, method, next(iter(points.values())), sizes)
            continue
        if quantity.band and len(points) > 1 and method in banded:
            sheet.ax.fill_between(
                list(points),
                [low[method][s] for s in points],
                [high[method][s] for s in points],
                facecolor=look.colour,
                alpha=0.18 if len(banded) <= 4 else 0.08,
                linewidth=0,
            )
        _line(sheet, method, points, sizes, look.dash, hollow=look.hollow)
    for method, points in others.items():
        name = method not in values
        _line(sheet, method, points, sizes, style.DASHED, hollow=True, name=name, alpha=0.8)
    sheet.size_axis(sizes)
    quantity.axis(sheet, "y")
    sheet.axis_labels("size of the tensor (B, KiB, MiB)", quantity.label)


def _banded(results: Results, values: data.Values) -> list[str]:
    """Which methods have a band: all but the floor, or none if there are too many."""
    kinds = data.kinds(results)
    found = [method for method in values if kinds[method] != "floor"]
    return found if len(found) <= MOST_BANDS else []


def _line(
    sheet: Sheet,
    method: str,
    points: dict[int, float],
    sizes: list[int],
    dash: style.Dash,
    *,
    hollow: bool,
    name: bool = True,
    alpha: float = 1.0,
) -> None:
    """A gap where a size within its range was not measured."""
    look = style.look(method)
    inside = [s for s in sizes if min(points) <= s <= max(points)]
    sheet.ax.plot(
        inside,
        [points.get(s, float("nan")) for s in inside],
        color=look.colour,
        linestyle=dash,
        linewidth=1.6,
        marker=look.marker,
        markersize=5,
        markerfacecolor="none" if hollow else look.colour,
        alpha=alpha,
        label=method if name else None,
    )
    if name:
        sheet.name(method, look.colour, inside[-1], points[inside[-1]])


def _level(sheet: Sheet, method: str, value: float, sizes: list[int]) -> None:
    """What carries no bytes is the same at every size."""
    look = style.look(method)
    ends = [sizes[0], sizes[-1]]
    sheet.ax.plot(
        ends, [value] * 2, color=look.colour, linestyle=look.dash, linewidth=1.2, label=method
    )
    sheet.name(method, look.colour, ends[-1], value)


def _rows(
    sheet: Sheet,
    quantity: Quantity,
    results: Results,
    values: data.Values,
    others: data.Values,
) -> None:
    (size,) = {*data.sizes(values), *data.sizes(others)}
    best_first = sorted(
        values | others,
        key=lambda m: (values.get(m) or others[m])[size],
        reverse=not quantity.lowest,
    )
    for row, method in enumerate(best_first):
        look = style.look(method)
        if quantity.band and method in values:
            ends = [data.values(results, of)[method][size] for of in quantity.band]
            sheet.ax.plot(ends, [row] * 2, color=look.colour, linewidth=6, alpha=0.25)
        if method in others:
            sheet.ax.plot(
                others[method][size], row, color=look.colour, marker=look.marker, fillstyle="none"
            )
        if method in values:
            value = values[method][size]
            sheet.ax.plot(
                value, row, color=look.colour, marker=look.marker, markerfacecolor=look.face
            )
            sheet.name(quantity.text(value), look.colour, value, row, leader=False)
    sheet.method_axis(best_first)
    quantity.axis(sheet, "x")
    sheet.axis_labels(f"{quantity.label}, at {console.size(size)}", "")


def _title(quantity: Quantity, results: Results, values: data.Values) -> str:
    kinds = data.kinds(results)
    others = {m: v for m, v in values.items() if kinds[m] != "floor"}
    measured = others or values
    sizes = data.sizes(measured)
    # Where there is nothing but the floor, the best of the floor.
    shown = kinds if others else {}
    spans = data.leaders(values, shown, lowest=quantity.lowest)
    if len(measured) == 1:
        ((method, points),) = measured.items()
        both = min(points), max(points)
        ends = [f"{quantity.text(points[s])} at {console.size(s)}" for s in both]
        what = "Round trip" if quantity.lowest else "Throughput"
        return f"{what} over {method}: " + " to ".join(dict.fromkeys(ends))
    if len(sizes) == 1 and spans:
        ((method, size, _),) = spans
        return (
            f"{quantity.best} at {console.size(size)}: {method}, "
            f"{quantity.text(values[method][size])}"
        )
    return f"{quantity.best}: {data.told(spans)}"
