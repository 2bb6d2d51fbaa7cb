"""What happened in containers over time: a Gantt chart of an exchange, and memory."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from podipc import console
from podipc.lab.plots import style
from podipc.lab.plots.data import below
from podipc.lab.plots.sheet import Sheet
from podipc.lab.sampler import Sample, Sampler
from podipc.lab.spoken import duration
from podipc.lab.timeline import Event, in_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from podipc.lab.where import Place

MOST_EVENTS = 60
"""Rows of a timeline that can still be read."""


def timeline(
    events: Iterable[Event | tuple[str, str, int, int]],
    *,
    about: Place = "",
    title: str | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Gantt chart of one exchange across containers: a row an event, in the order of their starts.

    Parameters
    ----------
    events
        Tuples of container, label, start and end in nanoseconds of CLOCK_MONOTONIC, as
        `podipc.lab.timeline.Recorder` makes them; at most 60.
    about
        Runtime and machine for the caption: a Pod that is up, results of the same place, or a
        text.
    title
        In place of the one that says how long it took.

    The other parameters and what is returned are those of `latency`.

    Raises
    ------
    ImportError
        matplotlib is missing.
    ValueError
        No events, or too many.
    """
    ordered = in_order(Event(*event) for event in events)
    if not 1 <= len(ordered) <= MOST_EVENTS:
        raise ValueError(f"a timeline shows 1 to {MOST_EVENTS} events; there are {len(ordered)}")
    containers = sorted({event.container for event in ordered})
    sheet = Sheet(ax, size, theme, 2 * len(ordered))
    zero = ordered[0].start_ns
    end = max(event.end_ns for event in ordered)
    unit, scale = _unit(end - zero)
    least = (end - zero) / scale / 400
    for row, event in enumerate(ordered):
        place = containers.index(event.container)
        colour = style.CONTAINER_COLOURS[place % len(style.CONTAINER_COLOURS)]
        start, long = (event.start_ns - zero) / scale, (event.end_ns - event.start_ns) / scale
        sheet.ax.barh(
            row,
            max(long, least),
            0.62,
            left=start,
            facecolor=colour if place % 2 == 0 else "none",
            edgecolor=colour,
            hatch="" if place % 2 == 0 else "////",
        )
        took = duration(event.end_ns - event.start_ns)
        sheet.name(took, colour, start + long, row, leader=False)
    sheet.method_axis([f"{event.container}: {event.label}" for event in ordered], most=32)
    for tick, event in zip(sheet.ax.get_yticklabels(), ordered, strict=True):
        place = containers.index(event.container)
        colour = style.CONTAINER_COLOURS[place % len(style.CONTAINER_COLOURS)]
        tick.set_color(sheet.theme.ink(colour))
        tick.set_parse_math(False)
    sheet.axis_labels(f"time since the first event ({unit})", "")
    caption = "CLOCK_MONOTONIC, which the containers of a machine share. At the right: how long."
    said = title or f"{duration(end - zero)} from the first event to the last"
    return sheet.finish(said, below(caption, about))


def memory(
    samples: Sampler | Iterable[Sample | tuple[float, str, int]],
    *,
    about: Place = "",
    title: str | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Memory of each container over time, a line a container.

    Parameters
    ----------
    samples
        A `podipc.lab.sampler.Sampler`, or tuples of seconds, container and bytes.

    The other parameters, what is returned and what is raised are those of `timeline`.
    """
    if isinstance(samples, Sampler):
        samples = samples.samples
    by_container: dict[str, list[tuple[float, float]]] = {}
    for t, container, nbytes in samples:
        by_container.setdefault(container, []).append((t, nbytes / (1 << 20)))
    if not by_container:
        raise ValueError("there are no samples to draw")
    sheet = Sheet(ax, size, theme, len(by_container))
    peaks = {}
    for number, (container, points) in enumerate(sorted(by_container.items())):
        colour = style.CONTAINER_COLOURS[number % len(style.CONTAINER_COLOURS)]
        sheet.ax.plot(
            [t for t, _ in points],
            [mib for _, mib in points],
            color=colour,
            linewidth=1.6,
            linestyle=(style.SOLID, style.DASHED, style.DOTTED, style.SHORT)[number % 4],
            marker="osD^v<"[number % 6],
            markersize=4,
            markevery=max(1, len(points) // 12),
            label=container,
        )
        sheet.name(container, colour, *points[-1])
        peaks[container] = max(mib for _, mib in points)
    sheet.ax.set_ylim(bottom=0)
    sheet.axis_labels("time (s)", "memory of the container (MiB)")
    most = max(peaks, key=lambda name: peaks[name])
    said = (
        title or f"Memory by container: at most {console.size(peaks[most] * (1 << 20))}, in {most}"
    )
    return sheet.finish(said, below("As the containers' cgroups or processes account it.", about))


def _unit(ns: float) -> tuple[str, float]:
    for unit, scale in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if ns < scale * 2000:
            return unit, scale
    return "s", 1e9
