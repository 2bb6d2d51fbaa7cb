"""What moving a gigabyte costs in CPU time, on both sides."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

from podipc import console
from podipc.lab import table
from podipc.lab.plots import data, style
from podipc.lab.plots.sheet import Sheet
from podipc.lab.results import Results, Row
from podipc.lab.spoken import duration

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def _asking(row: Row) -> float | None:
    return data.cpu_per_gb(row, "ask")


def _answering(row: Row) -> float | None:
    return data.cpu_per_gb(row, "answer")


def cpu(
    results: Results,
    *,
    at: int | None = None,
    against: Results | None = None,
    methods: Collection[str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Seconds of CPU time to move one GB (10⁹ bytes) one way, sending and receiving side.

    All threads of both sides, user and system time, while tensors are streamed as fast
    as they go; the receiver looks at four places of each. At a lower rate a method that
    spins while it waits needs more. The floor is left out: its CPU time is not measured.

    Parameters
    ----------
    at
        Size of the tensor in bytes; the biggest that most methods have, if it is not given.

    The other parameters, what is returned and what is raised are those of `latency`.
    """
    both = data.values(results, data.cpu_per_gb, methods)
    at = data.common_size(both, at, max)
    ordered = sorted((m for m in both if at in both[m]), key=lambda m: both[m][at])
    sides = (data.values(results, _asking), data.values(results, _answering))
    others = {} if against is None else data.values(against, data.cpu_per_gb)
    sheet = Sheet(ax, size, theme, 2 * len(ordered))
    tall = 0.62 if against is None else 0.4
    for row, method in enumerate(ordered):
        look = style.look(method)
        y = row if against is None else row - 0.18
        send, take = (side[method][at] for side in sides)
        sheet.ax.barh(y, send, tall, color=look.colour)
        edge: dict[str, Any] = {"edgecolor": look.colour}
        sheet.ax.barh(y, take, tall, left=send, facecolor="none", hatch="////", **edge)
        if (was := others.get(method, {}).get(at)) is not None:
            sheet.ax.barh(row + 0.25, was, 0.3, fill=False, linestyle="--", **edge)
        sheet.name(_seconds(both[method][at]), look.colour, both[method][at], row, leader=False)
    sheet.method_axis(ordered)
    sheet.ax.set_xlim(left=0)
    sheet.axis_labels(f"CPU seconds per GB (10⁹ bytes), in tensors of {console.size(at)}", "")
    caption = "Solid: the sending side; hatched: the receiving side; all threads, while streaming."
    return sheet.finish(_title(both, ordered, at), data.caption(results, caption, against))


def _seconds(value: float) -> str:
    return duration(value * 1e9)


def _title(both: data.Values, ordered: list[str], at: int) -> str:
    least, most = ordered[0], ordered[-1]
    title = f"CPU time for one GB in tensors of {console.size(at)}: {_seconds(both[least][at])} "
    title += f"over {least}"
    if most != least:
        title += f", {table.times(both[most][at] / both[least][at])} times that over {most}"
    return title
