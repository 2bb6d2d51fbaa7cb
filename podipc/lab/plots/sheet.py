"""A figure with its title above, its caption below, and names at the ends of its lines.

Everything is placed from measured extents of the text, so that nothing overlaps
whatever the size of the figure.
"""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

from podipc import console
from podipc.lab import spoken
from podipc.lab.plots import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.2, 4.6
"""Inches, unless the caller says otherwise or there is more to show."""
TALL = 3.0
"""Height of the axes at least, in inches, where that of the figure is not given."""
ROW = 0.158
"""Inches for a line of names."""
LONGEST = 18
"""Characters of a name in a figure; those of podipc are shorter."""
WIDER = 1.03
"""How much wider other programs may set the text of an SVG."""
MARGIN = 0.12
"""Inches between the edge and the text."""
TITLE, LABEL, TICK, CAPTION = 11.5, 9.0, 8.5, 7.5
"""Points."""
LEADER = {
    "arrowstyle": "-",
    "linewidth": 0.6,
    "alpha": 0.7,
    "shrinkA": 1,
    "shrinkB": 4,
    "relpos": (0, 0.5),
}
"""From the end of a line to its name."""
_UNIT = re.compile(r"(?<=\d) (?=(?:ns|µs|ms|s|[KMG]?i?B|[kMG]?B/s|CPUs)\b)")
"""Before a unit no line is broken."""
LINE = 1.3
"""Height of a line of text, in its points."""


def _log_ticks(low: float, high: float, subs: Iterable[int]) -> int:
    """How many of these times a power of ten are in sight."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    return sum(low <= sub * 10.0**decade <= high for decade in decades for sub in subs)


@dataclass(frozen=True)
class End:
    """A name to be written beside the end of a line."""

    text: str
    colour: str
    x: float
    y: float
    leader: bool


class Sheet:
    """One axes, with all that is written around it.

    With an `ax` of the caller's only what is inside of it is drawn, a title above it
    and a legend in place of the names: the rest of the figure is the caller's.
    """

    def __init__(
        self,
        ax: Axes | None,
        size: style.Size | None,
        theme: str,
        rows: int = 0,
    ) -> None:
        self.theme = style.theme_of(theme)
        self.own = ax is None
        if ax is None:
            width, self._height = size or (WIDTH, None)
            self._tall = max(TALL, 0.35 + rows * ROW)
            figure = style.new_figure((width, self._height or HEIGHT), self.theme)
            ax = figure.add_axes((0.1, 0.2, 0.6, 0.6))
        else:
            style.require()
        self.ax: Axes = ax
        self.figure = cast("Figure", ax.get_figure(root=True))
        self.ends: list[End] = []
        self._x_ticks: list[tuple[float, str]] = []
        self._key: list[Any] = []
        self._furnish()

    def _furnish(self) -> None:
        ax, theme = self.ax, self.theme
        ax.set_facecolor("none")
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(theme.grid)
        ax.tick_params(
            which="both", color=theme.grid, labelcolor=theme.text, labelsize=TICK, length=3
        )
        ax.tick_params(which="minor", length=0)
        ax.grid(True, which="major", color=theme.grid, linewidth=0.6)
        ax.set_axisbelow(True)

    # What is written

    def axis_labels(self, x: str, y: str) -> None:
        """What the axes show, with the unit."""
        for text in (self.ax.set_xlabel(x), self.ax.set_ylabel(y)):
            text.set(color=self.theme.text, fontsize=LABEL)

    def name(self, text: str, colour: str, x: float, y: float, *, leader: bool = True) -> None:
        """Write a name at the right, beside the end of a line at (x, y) of the data.

        A thin line leads to it, unless there is to be none.
        """
        self.ends.append(End(short(text), self.theme.ink(colour), x, y, leader))

    def key(self, handles: Sequence[Any]) -> None:
        """List lines at the right, where their ends cannot be named; in this order."""
        self._key = list(handles)

    def method_axis(self, names: Sequence[str], most: int = LONGEST) -> None:
        """Methods, or whatever else has a row, along y, the first at the top."""
        labels = [short(name, most) for name in names]
        self.ax.set_yticks(range(len(names)), labels, parse_math=False)
        self.ax.set_ylim(len(names) - 0.5, -0.5)
        self.ax.grid(False, axis="y")
        self.ax.tick_params(axis="y", length=0)

    def size_axis(self, sizes: Iterable[int]) -> None:
        """Bytes along x, a tick a size."""
        ordered = sorted(set(sizes))
        beyond = max(1.02, (ordered[-1] / max(1, ordered[0])) ** 0.025)
        if ordered[0] > 0:
            self.ax.set_xscale("log", base=2)
            self.ax.set_xlim(ordered[0] / beyond, ordered[-1] * beyond)
        else:  # a tensor without elements, which a logarithm has no place for
            least = min(ordered[1:], default=1)
            self.ax.set_xscale("symlog", base=2, linthresh=least)
            self.ax.set_xlim(-least * (beyond - 1), max(least, ordered[-1] * beyond))
        self.ticks([(float(s), console.size(s)) for s in ordered])

    def ticks(self, places: Sequence[tuple[float, str]]) -> None:
        """Along x, labelled as far as there is room."""
        self._x_ticks = list(places)

    def time_axis(self, axis: str) -> None:
        """Nanoseconds on a logarithmic axis, `x` or `y`."""
        self._log_axis(axis, spoken.time_tick)

    def rate_axis(self, axis: str) -> None:
        """Bytes a second on a logarithmic axis, `x` or `y`."""
        self._log_axis(axis, spoken.rate_tick)

    def count_axis(self, axis: str) -> None:
        """A number on a logarithmic axis, `x` or `y`."""
        self._log_axis(axis, spoken.count_tick)

    def _log_axis(self, axis: str, text: Callable[[float], str]) -> None:
        from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

        getattr(self.ax, f"set_{axis}scale")("log")
        of = self.ax.xaxis if axis == "x" else self.ax.yaxis
        low, high = getattr(self.ax, f"get_{axis}lim")()
        low, high = max(low, 1e-9), max(high, 1e-9)
        decades = math.log10(high / low)
        subs: tuple[int, ...] = (1, 2, 5) if decades < 1.2 else (1, 3) if decades < 2.2 else (1,)
        for more in ((1, 3), (1, 2, 5)):
            if _log_ticks(low, high, subs) < 3:
                subs = more
        most = int(self.figure.get_size_inches()[0] / 0.9) if axis == "x" else 12
        if _log_ticks(low, high, subs) < 3:  # of the powers of ten one is in sight, or none
            of.set_major_locator(MaxNLocator(max(2, most - 2), steps=[1, 2, 2.5, 5, 10]))
        else:
            of.set_major_locator(LogLocator(10, subs=subs, numticks=most))
        of.set_major_formatter(FuncFormatter(lambda value, _: text(value)))
        of.set_minor_formatter(NullFormatter())

    # Layout

    def finish(self, title: str, caption: str) -> Figure:
        """Place everything; the figure is then as it stays."""
        if not self.own:
            said = self.ax.set_title(title, loc="left", wrap=True, parse_math=False)
            said.set(color=self.theme.text, fontsize=LABEL)
            self._thin_ticks()
            self._legend()
            return self.figure
        title, caption = (_UNIT.sub("\u00a0", text) for text in (title, caption))
        width, height = self.figure.get_size_inches()
        room = width - 2 * MARGIN
        if self._height is None:
            above, below = self._needs(title, TITLE, room), self._needs(caption, CAPTION, room)
            height = above + 0.16 + self._tall + 0.5 + below + 0.1
            self.figure.set_size_inches(width, height)
        top = height - self._block(title, TITLE, room, height - MARGIN, above=True) - 0.16
        bottom = self._block(caption, CAPTION, room, MARGIN, above=False) + 0.1
        right = width - MARGIN - self._beside()
        left, base = MARGIN + 0.5, bottom + 0.5
        for _ in range(2):  # ticks depend on the room, and the room on the ticks
            self._place_axes(left, base, right, top)
            box = self._tight()
            left += MARGIN - box[0]
            base += bottom - box[1]
        self._place_axes(left, base, right, top)
        self._place_names()
        return self.figure

    def _beside(self) -> float:
        """How many inches are wanted at the right of the axes."""
        if self._key:
            legend = self._legend()
            assert legend is not None
            return float(legend.get_window_extent(self._renderer()).width) / self.figure.dpi + 0.1
        if not self.ends:
            return 0.25  # half of the last tick's label
        leader = 0.34 if any(end.leader for end in self.ends) else 0.14
        return WIDER * max(inches(end.text, LABEL)[0] for end in self.ends) + leader

    def _place_axes(self, left: float, base: float, right: float, top: float) -> None:
        width, height = self.figure.get_size_inches()
        wide, tall = max(0.2, right - left) / width, max(0.2, top - base) / height
        self.ax.set_position((left / width, base / height, wide, tall))
        self._thin_ticks()

    def _block(self, text: str, points: float, room: float, y: float, *, above: bool) -> float:
        """Write wrapped text from the left margin; how far from the edge it reaches."""
        width, height = self.figure.get_size_inches()
        bold = above
        lines = self._lines(text, points, room)
        self.figure.text(
            MARGIN / width,
            y / height,
            "\n".join(lines),
            fontsize=points,
            fontweight="bold" if bold else "normal",
            color=self.theme.text if above else self.theme.muted,
            va="top" if above else "bottom",
            linespacing=LINE,
            parse_math=False,
            gid="title" if above else "caption",
        )
        return MARGIN + len(lines) * points * LINE / 72

    def _lines(self, text: str, points: float, room: float) -> list[str]:
        return wrap(text, room, lambda part: WIDER * inches(part, points, points == TITLE)[0])

    def _needs(self, text: str, points: float, room: float) -> float:
        return MARGIN + len(self._lines(text, points, room)) * points * LINE / 72

    def _renderer(self) -> Any:
        canvas: Any = self.figure.canvas  # that of Agg
        return canvas.get_renderer()

    def _tight(self) -> tuple[float, float, float, float]:
        """What the axes with its ticks and labels covers, in inches."""
        box = self.ax.get_tightbbox(self._renderer())
        assert box is not None
        dpi = self.figure.dpi
        return box.x0 / dpi, box.y0 / dpi, box.x1 / dpi, box.y1 / dpi

    def _thin_ticks(self) -> None:
        """Label those places for which there is room, the first and the last among them."""
        if not self._x_ticks:
            return
        axes = self.ax.get_position().width * self.figure.get_size_inches()[0]
        to_axes = self.ax.transData + self.ax.transAxes.inverted()
        spans = []
        for value, text in self._x_ticks:
            at = to_axes.transform((value, self.ax.get_ylim()[0]))[0] * axes
            half = inches(text, TICK)[0] / 2 + 0.05
            spans.append((at - half, at + half))
        last = len(spans) - 1
        shown, edge = set(), -math.inf
        for number, (start, end) in enumerate(spans):
            if start >= edge and (number == last or end <= spans[last][0]):
                shown.add(number)
                edge = end
        self.ax.set_xticks(
            [value for value, _ in self._x_ticks],
            [text if i in shown else "" for i, (_, text) in enumerate(self._x_ticks)],
            parse_math=False,
        )
        self.ax.set_xticks([], minor=True)

    def _place_names(self) -> None:
        """Beside the ends of their lines, moved apart where they would overlap."""
        if not self.ends:
            return
        box = self.ax.get_position()
        width, height = self.figure.get_size_inches()
        wide, tall = box.width * width, box.height * height
        to_axes = self.ax.transData + self.ax.transAxes.inverted()
        at = [to_axes.transform((end.x, end.y)) for end in self.ends]
        order = sorted(range(len(at)), key=lambda i: at[i][1])
        points = min(LABEL, (tall + 0.3) * 72 / (1.16 * len(order)))
        gap = points * 1.16 / 72 / tall
        placed = spread([float(at[i][1]) for i in order], gap, -0.12 / tall, 1 + 0.12 / tall)
        for number, y in zip(order, placed, strict=True):
            end = self.ends[number]
            self.ax.annotate(
                end.text,
                xy=(end.x, end.y),
                xytext=(1 + (0.3 if end.leader else 0.1) / wide, y),
                textcoords="axes fraction",
                color=end.colour,
                fontsize=points,
                va="center",
                ha="left",
                annotation_clip=False,
                parse_math=False,
                gid="name",
                arrowprops=LEADER | {"color": end.colour} if end.leader else None,
            )

    def _legend(self) -> Any:
        """Right of the axes where they are ours, inside where they are the caller's."""
        handles = self._key or self.ax.get_legend_handles_labels()[0]
        if not handles:
            return None
        place: dict[str, Any] = {"ncols": 2, "fontsize": 7}
        if self.own:
            place = {
                "loc": "upper left",
                "bbox_to_anchor": (1.0, 1.02),
                "fontsize": TICK if self.figure.get_size_inches()[0] > 5 else 7,
                "borderpad": 0.2,
                "handlelength": 2.4,
            }
        colour = self.theme.text
        legend = self.ax.legend(handles=handles, frameon=False, labelcolor=colour, **place)
        for text in legend.get_texts():
            text.set_parse_math(False)
        return legend


@functools.lru_cache(8192)
def inches(text: str, points: float, bold: bool = False) -> tuple[float, float]:
    """Width and height of a text in matplotlib's own font."""
    from matplotlib.backends import backend_agg
    from matplotlib.font_manager import FontProperties

    prop = FontProperties(size=points, weight="bold" if bold else "normal")
    agg: Any = backend_agg  # a part of it that has no types
    renderer = agg.RendererAgg(8, 8, 144)
    width, height, _ = renderer.get_text_width_height_descent(text, prop, False)
    return width / 144, height / 144


def wrap(text: str, room: float, measure: Callable[[str], float]) -> list[str]:
    """Break text into lines that are no wider than `room`, a paragraph a line at least."""
    lines: list[str] = []
    space = measure("a b") - measure("ab")
    for paragraph in text.split("\n"):
        line: list[str] = []
        width = 0.0
        for part in (p for word in paragraph.split(" ") for p in _cut(word, room, measure)):
            wide = measure(part)
            if line and width + space + wide > room:
                lines.append(" ".join(line))
                line, width = [], 0.0
            width += wide + (space if line else 0.0)
            line.append(part)
        lines.append(" ".join(line))
    return lines


def _cut(word: str, room: float, measure: Callable[[str], float]) -> Iterator[str]:
    """A word in pieces that fit."""
    while len(word) > 1 and measure(word) > room:
        most = max(1, int(len(word) * room / measure(word)))
        yield word[:most]
        word = word[most:]
    yield word


def short(text: str, most: int = LONGEST) -> str:
    """A name of somebody else's, so that it leaves room for the figure."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def spread(wanted: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Positions in the same order, `gap` apart, each as near to the one wanted as may be."""
    groups: list[tuple[float, int]] = []  # sum of where the first of it wants to be, members
    for number, value in enumerate(wanted):
        total, members = value - number * gap, 1
        while groups and groups[-1][0] / groups[-1][1] >= total / members:
            before = groups.pop()
            total, members = total + before[0], members + before[1]
        groups.append((total, members))
    starts = [total / members for total, members in groups for _ in range(members)]
    top = high - (len(wanted) - 1) * gap
    return [min(max(start, low), max(top, low)) + i * gap for i, start in enumerate(starts)]
