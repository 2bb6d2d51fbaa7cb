"""Figures of whatever a notebook measures by itself, in the style of those of `Results`.

Labels that are names of methods look as they do everywhere; others get colours, dashes
and markers in order, the same for the same labels in the same order. Each figure says
above what it shows and below how it was measured, and where (`about`: a Pod that is up,
`Results`, or a text).

::

    chart.lines({"loan": (sizes, ns), "copy": (sizes, p50, p1, p99)}, x="size (KiB, MiB)",
                y="hand-off (µs, ms)", x_axis="bytes", y_axis="time",
                title="...", caption="Median of 50.", about=pod)
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Collection, Hashable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import ArrayLike

from podipc.lab.plots import style
from podipc.lab.plots.data import below
from podipc.lab.plots.sheet import LABEL, TALL, TICK, Sheet, inches, short

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from podipc.lab.where import Place

Axis = Literal["linear", "time", "rate", "count", "bytes"]
"""``time`` (nanoseconds), ``rate`` (bytes a second) and ``count`` are logarithmic with ticks in
units; ``bytes`` (along x only) is logarithmic with a tick a size."""

_ORDER = (
    style.Look(style.BLUE, "o", style.SOLID),
    style.Look(style.ORANGE, "s", style.DASHED),
    style.Look(style.TEAL, "^", style.SHORT),
    style.Look(style.MAGENTA, "D", style.DOTTED),
    style.Look(style.TAN, "v", style.SOLID),
    style.Look(style.VIOLET, "P", style.DASHED),
    style.Look(style.RED, "X", style.SHORT),
    style.Look(style.PERIWINKLE, "<", style.DOTTED),
)
"""Neighbours differ in colour, dash and marker."""
_DOTS = 400
"""Points of a cloud beyond which they are drawn smaller."""


def looks(labels: Iterable[str]) -> dict[str, style.Look]:
    """How each is drawn: methods as everywhere, others in order, with colours that are free."""
    names = list(dict.fromkeys(labels))
    found = {name: style.LOOKS[name] for name in names if name in style.LOOKS}
    taken = {look.colour for look in found.values()}
    spare = [look for look in _ORDER if look.colour not in taken] or list(_ORDER)
    others = [name for name in names if name not in found]
    for number, name in enumerate(others):
        look = spare[number % len(spare)]
        hollow = (number // len(spare)) % 2 == 1
        found[name] = style.Look(look.colour, look.marker, look.dash, hollow)
    return {name: found[name] for name in names}


def percentiles(
    times: Mapping[float, ArrayLike], low: float = 1, high: float = 99
) -> tuple[list[float], list[float], list[float], list[float]]:
    """What `lines` draws with a band, from samples by x: x, median, `low` and `high` percentile."""
    xs = sorted(times)
    found = [np.percentile(np.asarray(times[x], float), [50, low, high]) for x in xs]
    middle, lower, upper = ([float(p[i]) for p in found] for i in range(3))
    return xs, middle, lower, upper


def lines(
    series: Mapping[str, Sequence[ArrayLike]],
    *,
    x: str,
    y: str,
    title: str,
    caption: str = "",
    about: Place = "",
    x_axis: Axis = "linear",
    y_axis: Axis = "linear",
    marks: Mapping[float, str] | None = None,
    markers: bool = True,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Lines with their names at their ends; a linear y axis begins at 0.

    Parameters
    ----------
    series
        By label: x and y, and for a band also its lower and upper edge. NaN is a gap.
    x, y
        What the axes show, with the unit.
    title
        What was found; with figures that were measured, not typed.
    caption
        What is drawn and how it was measured: repetitions, percentiles, what is in the time.
    about
        Where it was measured, for the caption: a Pod that is up, `Results`, or a text.
    x_axis, y_axis
        See `Axis`.
    marks
        Something that happened: upright lines, by x, with a text.
    markers
        Whether each point has one; else some points have.

    The other parameters and what is returned are those of `podipc.lab.plots.latency`.

    Raises
    ------
    ImportError
        matplotlib is missing.
    ValueError
        Nothing to draw, or what belongs together has different lengths.
    """
    drawn = {label: _points(label, given) for label, given in series.items()}
    _something(drawn)
    sheet = Sheet(ax, size, theme, len(drawn) + 2)
    for label, look in looks(drawn).items():
        xs, ys, *band = drawn[label]
        if band:
            low, high = band
            sheet.ax.fill_between(xs, low, high, facecolor=look.colour, alpha=0.18, linewidth=0)
        sheet.ax.plot(
            xs,
            ys,
            color=look.colour,
            linestyle=look.dash,
            linewidth=1.6,
            marker=look.marker,
            markersize=5 if len(xs) < 60 else 4,
            markerfacecolor=look.face,
            markevery=1 if markers and len(xs) < 60 else max(1, len(xs) // 12),
            label=short(label),
        )
        there = np.flatnonzero(np.isfinite(ys))
        sheet.name(label, look.colour, xs[there[-1]], ys[there[-1]])
    every = np.concatenate([points[0] for points in drawn.values()])
    _scale(sheet, "x", x_axis, every)
    _scale(sheet, "y", y_axis, every)
    _mark(sheet, marks or {})
    sheet.axis_labels(x, y)
    return sheet.finish(title, below(caption, about))


def scatter(
    series: Mapping[str, Sequence[ArrayLike]],
    *,
    x: str,
    y: str,
    title: str,
    caption: str = "",
    about: Place = "",
    x_axis: Axis = "linear",
    y_axis: Axis = "linear",
    marks: Mapping[float, str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """A point a measurement: of each label, x and y. The parameters are those of `lines`."""
    drawn = {label: _points(label, given) for label, given in series.items()}
    _something(drawn)
    sheet = Sheet(ax, size, theme, len(drawn) + 2)
    handles = []
    for label, look in looks(drawn).items():
        xs, ys, *_ = drawn[label]
        (points,) = sheet.ax.plot(
            xs,
            ys,
            linestyle="",
            color=look.colour,
            marker=look.marker,
            markerfacecolor=look.face,
            markersize=5 if len(xs) <= _DOTS else 3,
            alpha=0.9 if len(xs) <= 60 else 0.5,
            label=short(label),
        )
        handles.append(points)
    every = np.concatenate([points[0] for points in drawn.values()])
    _scale(sheet, "x", x_axis, every)
    _scale(sheet, "y", y_axis, every)
    _mark(sheet, marks or {})
    sheet.key(handles)
    sheet.axis_labels(x, y)
    return sheet.finish(title, below(caption, about))


def cdf(
    times: Mapping[str, ArrayLike],
    *,
    title: str,
    x: str = "time (ns, µs, ms)",
    caption: str = "",
    about: Place = "",
    x_axis: Axis = "time",
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Empirical distribution: the share of the samples that took no longer than a time.

    Parameters
    ----------
    times
        Samples by label; nanoseconds, unless `x_axis` is another.

    The other parameters, what is returned and what is raised are those of `lines`.
    """
    drawn = {label: np.sort(np.asarray(given, float).ravel()) for label, given in times.items()}
    _something(drawn)
    if empty := [label for label, found in drawn.items() if not len(found)]:
        raise ValueError(f"{empty[0]!r} has no samples")
    ordered = sorted(drawn, key=lambda label: float(np.median(drawn[label])))
    look_of = looks(times)
    sheet = Sheet(ax, size, theme, len(drawn) + 3)
    handles = []
    for label in ordered:
        look, found = look_of[label], drawn[label]
        share = np.arange(1, len(found) + 1) / len(found) * 100
        (line,) = sheet.ax.plot(
            found,
            share,
            color=look.colour,
            linestyle=look.dash,
            linewidth=1.6,
            drawstyle="steps-post",
            marker=look.marker,
            markersize=5,
            markerfacecolor=look.face,
            markevery=sorted({_rank(found, 50), _rank(found, 99)}),
            label=short(label),
        )
        handles.append(line)
    sheet.key(handles)
    _scale(sheet, "x", x_axis, np.concatenate(list(drawn.values())))
    sheet.ax.set_ylim(-2, 102)
    sheet.ax.set_yticks(range(0, 101, 25))
    sheet.axis_labels(x, "share that took no longer (%)")
    said = "Empirical distribution; markers at the median and at p99; in the order of the medians."
    return sheet.finish(title, below(f"{caption} {said}".strip(), about))


def _rank(ordered: np.ndarray[Any, Any], q: float) -> int:
    """Of the first sample that is no less than `q` percent of all."""
    return max(0, int(np.ceil(len(ordered) * q / 100)) - 1)


def bars(
    values: Mapping[str, ArrayLike],
    *,
    x: str,
    title: str,
    text: Callable[[float], str] = "{:.3g}".format,
    caption: str = "",
    about: Place = "",
    x_axis: Axis = "linear",
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """A row a label, with its value at the right.

    On a logarithmic axis there is a marker in place of the bar, for a bar needs a zero.

    Parameters
    ----------
    values
        By label: a number, or samples, of which the bar is the median and each is a dot.
    x
        What the values are, with the unit.
    text
        The value as it is written; `podipc.lab.spoken.duration` for nanoseconds.

    The other parameters, what is returned and what is raised are those of `lines`.
    """
    drawn = {label: np.asarray(given, float).ravel() for label, given in values.items()}
    _something(drawn)
    if wrong := [label for label, found in drawn.items() if not np.isfinite(found).all()]:
        raise ValueError(f"{wrong[0]!r} has values that are not numbers: {drawn[wrong[0]]}")
    sheet = Sheet(ax, size, theme, 2 * len(drawn))
    for row, (label, look) in enumerate(looks(drawn).items()):
        found = drawn[label]
        middle = statistics.median(found.tolist())
        if x_axis == "linear":
            fill: dict[str, Any] = {"edgecolor": look.colour, "facecolor": look.face}
            sheet.ax.barh(row, middle, 0.62, hatch="////" if look.hollow else "", **fill)
        else:
            over: dict[str, Any] = {"linestyle": "", "zorder": 3}  # the strokes
            sheet.ax.plot(middle, row, color=look.colour, marker=look.marker, **over)
        if len(found) > 1:
            sheet.ax.plot(
                found, [row] * len(found), linestyle="", marker="|", color=sheet.theme.text
            )
        sheet.name(text(middle), look.colour, max(middle, *found), row, leader=False)
    sheet.method_axis(list(drawn), most=32)
    for tick in sheet.ax.get_yticklabels():
        tick.set_parse_math(False)
    every = np.concatenate(list(drawn.values()))
    _scale(sheet, "x", x_axis, every)
    if x_axis == "linear":
        sheet.ax.set_xlim(left=min(0.0, float(every.min())))
    sheet.axis_labels(x, "")
    return sheet.finish(title, below(caption, about))


def matrix(
    rows: Sequence[str],
    columns: Sequence[str],
    texts: Sequence[Sequence[str]],
    *,
    title: str,
    groups: Sequence[Sequence[Hashable]] | None = None,
    shades: Sequence[Sequence[float]] | None = None,
    x: str = "",
    y: str = "",
    caption: str = "",
    about: Place = "",
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """A table of fields, which have a text, and a colour or a shade.

    Parameters
    ----------
    rows, columns
        Their names; rows from the top.
    texts
        Of each row, what is written into its fields.
    groups
        Of each row, what its fields belong to: within a row equal ones have the same colour and
        inner edge; None is left empty. Names of methods have their colours.
    shades
        Of each field from 0 to 1, how strong its colour is; NaN is left empty.
    x, y
        What columns and rows are.

    The other parameters, what is returned and what is raised are those of `lines`.
    """
    for what, given in (("texts", texts), ("groups", groups), ("shades", shades)):
        if given is not None and [len(row) for row in given] != [len(columns)] * len(rows):
            raise ValueError(f"{what}: not {len(rows)} rows of {len(columns)}")
    _something(rows)
    _something(columns)
    sheet = Sheet(ax, size, theme, 2 * len(rows))
    for row in range(len(rows)):
        every = () if groups is None else dict.fromkeys(groups[row])
        fills = [group for group in every if group is not None]
        for column in range(len(columns)):
            colour, weight = sheet.theme.text, "normal"
            if groups is not None and groups[row][column] is not None:
                group = groups[row][column]
                known = style.LOOKS.get(group) if isinstance(group, str) else None
                fill = None if known is None else known.colour
                _field(sheet, row, column, fills.index(group), colour=fill)
                colour, weight = style.ON_COLOUR, "bold"
            elif shades is not None and np.isfinite(shades[row][column]):
                _field(sheet, row, column, 0, strength=float(shades[row][column]))
            sheet.ax.text(
                column,
                row,
                texts[row][column],
                ha="center",
                va="center",
                fontsize=TICK - 0.5,
                fontweight=weight,
                color=colour,
                parse_math=False,
                gid="cell",
            )
    sheet.method_axis(rows, most=32)
    for tick in sheet.ax.get_yticklabels():
        tick.set_parse_math(False)
    sheet.ax.set_xlim(-0.5, len(columns) - 0.5)
    sheet.ticks([(float(i), short(name)) for i, name in enumerate(columns)])
    sheet.ax.grid(False)
    sheet.axis_labels(x, y)
    return sheet.finish(title, below(caption, about))


def _field(
    sheet: Sheet,
    row: int,
    column: int,
    group: int,
    *,
    strength: float | None = None,
    colour: str | None = None,
) -> None:
    """Of a group: full, with an inner edge that differs from group to group; else pale."""
    colours = style.CONTAINER_COLOURS
    colour = colour or colours[group % len(colours)]
    alpha = 1.0 if strength is None else 0.05 + 0.35 * min(1.0, max(0.0, strength))
    sheet.ax.bar(column, 0.86, 0.94, bottom=row - 0.43, color=colour, alpha=alpha, linewidth=0)
    if group:
        sheet.ax.bar(
            column,
            0.74,
            0.9,
            bottom=row - 0.37,
            facecolor="none",
            edgecolor=style.ON_COLOUR,
            linewidth=1.2,
            linestyle=("-", "--", ":", "-.")[group % 4],
        )


def _points(label: str, given: Sequence[ArrayLike]) -> list[np.ndarray[Any, Any]]:
    if len(given) not in (2, 4):
        raise ValueError(f"{label!r} has {len(given)} parts: x and y, or x, y, lower and upper")
    found = [np.asarray(part, float).ravel() for part in given]
    if len({len(part) for part in found}) != 1:
        raise ValueError(f"{label!r}: parts of {', '.join(str(len(p)) for p in found)} points")
    if not np.isfinite(found[1]).any():
        raise ValueError(f"{label!r} has no points")
    return found


def _something(drawn: Collection[Any]) -> None:
    if not drawn:
        raise ValueError("there is nothing to draw")


def _scale(sheet: Sheet, axis: str, kind: str, values: np.ndarray[Any, Any]) -> None:
    scales = {"time": Sheet.time_axis, "rate": Sheet.rate_axis, "count": Sheet.count_axis}
    if kind in scales:
        scales[kind](sheet, axis)
    elif kind == "bytes" and axis == "x":
        sheet.size_axis(int(value) for value in values)
    elif kind != "linear":
        raise ValueError(f"{axis}_axis={kind!r}: it is linear, {', '.join(scales)}, or bytes for x")
    elif axis == "y" and sheet.ax.dataLim.y0 >= 0:
        sheet.ax.set_ylim(bottom=0.0)


def _mark(sheet: Sheet, marks: Mapping[float, str]) -> None:
    if marks and sheet.ax.get_yscale() == "linear":  # what is drawn ends below the texts
        bottom, top = sheet.ax.get_ylim()
        tallest = max(inches(text, LABEL - 1)[0] for text in marks.values()) / TALL
        sheet.ax.set_ylim(bottom, bottom + (top - bottom) / (1 - min(0.5, tallest)))
    for place, text in marks.items():
        sheet.ax.axvline(place, color=sheet.theme.muted, linestyle=style.SHORT, linewidth=1.0)
        sheet.ax.annotate(
            text,
            xy=(place, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(-3, -3),
            textcoords="offset points",
            rotation=90,
            ha="right",
            va="top",
            fontsize=LABEL - 1,
            color=sheet.theme.muted,
            parse_math=False,
        )
