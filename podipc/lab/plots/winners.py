"""Which method wins at which size and rate."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from podipc import console
from podipc.lab import table
from podipc.lab.plots import data, style
from podipc.lab.plots.sheet import TICK, Sheet, inches, short
from podipc.lab.results import Results, Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

By = Literal["latency", "cpu"]
FEWEST = 1.0
"""Tensors a second at which the map begins."""
VISIBLE = 1.05
"""Between the rates of a field at least: a thinner one is a line that nobody sees."""


@dataclass(frozen=True)
class Field:
    """Between two rates, at one size, one method wins."""

    size: int
    method: str
    low: float
    """Tensors a second."""
    high: float
    clear: bool
    """By at least `table.CLEAR` times over the next that keeps up, or alone."""


def fields(
    results: Results, by: By = "latency", methods: Collection[str] | None = None
) -> list[Field]:
    """The whole map, by the definition of `crossover`; the floor is left out.

    Raises ValueError for a method that is not in the results, or a strange `by`.
    """
    if by not in ("latency", "cpu"):
        raise ValueError(f"by={by!r}: it is 'latency' or 'cpu'")
    kinds = data.kinds(results)
    costs = data.values(results, data.median if by == "latency" else _cpu_each, methods)
    limits = data.values(results, data.messages_per_s, methods)
    found = []
    for size in data.sizes(costs):
        low = FEWEST
        able = {
            m: (points[size], limits[m][size])
            for m, points in costs.items()
            if size in points and size in limits.get(m, {}) and kinds[m] != "floor"
        }
        while left := {m: v for m, v in able.items() if v[1] > low}:
            ranking = sorted(left, key=lambda m: left[m][0])
            cost, high = left[ranking[0]]
            clear = len(ranking) == 1 or left[ranking[1]][0] >= table.CLEAR * cost
            # It stays clear, or becomes so, as others fall behind: told for the lowest rate.
            found.append(Field(size, ranking[0], low, high, clear))
            low = high
    return found


def _cpu_each(row: Row) -> float | None:
    seconds = data.cpu_per_gb(row)
    return None if seconds is None else seconds * row.size


def crossover(
    results: Results,
    *,
    by: By = "latency",
    methods: Collection[str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Map of the method that wins at each size and rate.

    A method keeps up with a rate if the throughput measured for it at that size is at
    least so many tensors a second. Of those that keep up the winner is the one with
    the lowest median round trip (`by` = ``latency``), or with the least CPU time of both
    sides for a tensor (``cpu``). Only sizes that were measured are shown, and nothing is
    interpolated. Latency was measured one tensor at a time and CPU time at full speed,
    so that a queue that builds up near a method's limit is not in the map. A field has
    upright lines where the winner is less than 1.25 times ahead of the next, and slanted
    ones where it is a peer.

    Parameters
    ----------
    by
        What makes the winner.

    The other parameters, what is returned and what is raised are those of `latency`.
    """
    found = fields(results, by, methods)
    if not found:
        raise ValueError("the results have no throughput to draw a map from")
    what = "shortest median round trip" if by == "latency" else "least CPU time a tensor"
    caption = (
        f"Winner: the {what} among the methods whose measured throughput sustains the rate. "
        "Upright lines: less than 1.25 times ahead of the next; slanted ones: a peer."
    )
    texts = _title(found, by), data.caption(results, caption)
    kinds = data.kinds(results)
    sheet = Sheet(ax, size, theme)
    if _drawn(sheet, found, kinds, texts, key=False) and ax is None:
        # A field that is too small for its name: then the colours are named at the right.
        sheet = Sheet(None, size, theme)
        _drawn(sheet, found, kinds, texts, key=True)
    return sheet.figure


def _drawn(
    sheet: Sheet, found: list[Field], kinds: dict[str, str], texts: tuple[str, str], *, key: bool
) -> bool:
    """Draw it; whether a method is nowhere named."""
    from matplotlib.patches import Patch

    sizes = sorted({field.size for field in found})
    top = max(field.high for field in found) * 4
    _paint(sheet, found, kinds, sizes, top)
    sheet.count_axis("y")
    sheet.ax.set_ylim(FEWEST, top)
    sheet.ax.set_xlim(-0.5, len(sizes) - 0.5)
    sheet.ticks([(float(i), console.size(s)) for i, s in enumerate(sizes)])
    sheet.ax.grid(False)
    sheet.axis_labels("size of the tensor (B, KiB, MiB)", "tensors a second (1/s)")
    winners = list(dict.fromkeys(f.method for f in found if f.high > f.low * VISIBLE))
    if key:
        sheet.key([Patch(**_fill(m, kinds), label=short(m)) for m in winners])
    sheet.finish(*texts)
    return not _write(sheet, found, sizes, top) >= set(winners)


def _fill(method: str, kinds: dict[str, str]) -> dict[str, Any]:
    """How a field of the method is filled, and its place in the key."""
    return {
        "facecolor": style.look(method).colour,
        "edgecolor": f"{style.ON_COLOUR}66",
        "hatch": "//" * (kinds[method] == "peer"),
        "linewidth": 0,
    }


def _paint(
    sheet: Sheet, found: list[Field], kinds: dict[str, str], sizes: list[int], top: float
) -> None:
    for number, size in enumerate(sizes):
        column = [field for field in found if field.size == size]
        for field in column:
            fill = _fill(field.method, kinds)
            fill["hatch"] += "|" * (not field.clear)
            sheet.ax.bar(number, field.high - field.low, 1.0, bottom=field.low, **fill)
        sheet.ax.bar(
            number,
            top,
            1.0,
            bottom=column[-1].high,
            facecolor="none",
            edgecolor=sheet.theme.grid,
            hatch="///",
            linewidth=0,
        )


@dataclass(frozen=True)
class Run:
    """Neighbouring fields of the same method that are to bear its name once."""

    method: str
    first: int
    last: int
    fields: tuple[Field, ...]


def _runs(found: list[Field], sizes: list[int]) -> list[Run]:
    runs: list[Run] = []
    for field in sorted(found, key=lambda f: (f.method, f.size, f.low)):
        number = sizes.index(field.size)
        last = runs[-1] if runs else None
        touching = last is not None and (
            last.method == field.method
            and last.last == number - 1
            and min(last.fields[-1].high, field.high) > max(last.fields[-1].low, field.low)
        )
        if last is not None and touching:
            runs[-1] = Run(field.method, last.first, number, (*last.fields, field))
        else:
            runs.append(Run(field.method, number, number, (field,)))
    return runs


def _write(sheet: Sheet, found: list[Field], sizes: list[int], top: float) -> set[str]:
    """Names where they fit: across the columns of a run, or upright within one of them; which."""
    named = set()
    box = sheet.ax.get_position()
    width, height = sheet.figure.get_size_inches()
    column = box.width * width / len(sizes)
    decades = box.height * height / math.log10(top / FEWEST)
    for run in _runs(found, sizes):
        for points in (TICK + 1, TICK, 7.0, 6.0):
            if place := _fit(run, points, column, decades):
                x, y, upright = place
                sheet.ax.text(
                    x,
                    y,
                    short(run.method),
                    fontsize=points,
                    fontweight="bold",
                    color=style.ON_COLOUR,
                    rotation=90 if upright else 0,
                    ha="center",
                    va="center",
                    parse_math=False,
                    gid="name",
                )
                named.add(run.method)
                break
    sheet.ax.text(
        0.985,
        0.955,  # above every field, for the axis goes on to four times the highest rate
        "no method keeps up",
        transform=sheet.ax.transAxes,
        fontsize=TICK,
        color=sheet.theme.text,
        ha="right",
        va="center",
        gid="name",
        bbox={"facecolor": sheet.theme.background, "edgecolor": "none", "pad": 1.0},
    )
    return named


def _fit(
    run: Run, points: float, column: float, decades: float
) -> tuple[float, float, bool] | None:
    """Middle of a name in a run, and whether it stands upright; None where it does not fit."""
    wide, tall = inches(short(run.method), points, bold=True)
    wide, tall = wide + 0.08, tall + 0.06
    low, high = max(f.low for f in run.fields), min(f.high for f in run.fields)
    room = math.log10(high / low) * decades if high > low else 0.0
    if wide <= column * len(run.fields) and tall <= room:
        return (run.first + run.last) / 2, math.sqrt(low * high), False
    tallest = max(run.fields, key=lambda f: f.high / f.low)
    room = math.log10(tallest.high / tallest.low) * decades
    x, y = run.first + run.fields.index(tallest), math.sqrt(tallest.low * tallest.high)
    if wide <= column and tall <= room:
        return x, y, False
    if tall <= column and wide <= room:
        return x, y, True
    return None


def _title(found: list[Field], by: By) -> str:
    """Who wins at the lowest rate, which is where most rates are."""
    first: data.Values = {}
    for field in found:
        if field.low == FEWEST:
            first.setdefault(field.method, {})[field.size] = 0.0
    what = "Fastest" if by == "latency" else "Cheapest in CPU time"
    spans = data.leaders(first, {}, lowest=True)
    return f"{what} as long as it keeps up: {data.told(spans)}"
