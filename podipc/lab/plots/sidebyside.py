"""What two runs differ in: methods down, sizes across."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import TYPE_CHECKING

from podipc import console
from podipc.lab import change, spoken, table
from podipc.lab.plots import data, style
from podipc.lab.plots.sheet import TICK, Sheet, short
from podipc.lab.results import Results
from podipc.lab.where import sentence

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LONGER, SHORTER = style.ORANGE, style.BLUE
Cells = dict[tuple[int, int], change.Change]
"""By row and column."""


def changes(
    results: Results,
    *,
    against: Results,
    methods: Collection[str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
    ax: Axes | None = None,
) -> Figure:
    """Median round trip of `results` over that of `against`, for each method and size.

    A cell is coloured where the change exceeds the noise, as `podipc.lab.change.change`
    defines it.

    The parameters, what is returned and what is raised are those of `latency`.
    """
    names = data.chosen(results, methods)
    columns: list[tuple[int, str]] = []
    found: dict[tuple[str, tuple[int, str]], change.Change] = {}
    for row, changed in change.changes(against, results):
        if changed is not None and row.method in names:
            found[row.method, table.column(row)] = changed
            columns.append(table.column(row))
    if not found:
        raise ValueError("the two runs have no method and size in common")
    columns = sorted(set(columns))
    names = [name for name in names if any(method == name for method, _ in found)]
    cells = {(names.index(m), columns.index(c)): there for (m, c), there in found.items()}
    sheet = Sheet(ax, size, theme, 2 * len(names))
    for place, changed in cells.items():
        _cell(sheet, place, changed)
    sheet.method_axis(names)
    sheet.ax.set_xlim(-0.5, len(columns) - 0.5)
    labels = [short(text) if _named(results) else console.size(s) for s, text in columns]
    sheet.ticks([(float(i), text) for i, text in enumerate(labels)])
    sheet.ax.grid(False)
    sheet.axis_labels("tensor" if _named(results) else "size of the tensor (B, KiB, MiB)", "")
    caption = (
        "Median round trip of this run over that of the other (×). Coloured, with an arrow: "
        "beyond the noise (no repetition of one run reaches any of the other, and the change is "
        "larger than the spreads of both added up, and than 10 %).\n"
        f"This run: {sentence(results)}\nThe other: {sentence(against)}"
    )
    return sheet.finish(_title(list(cells.values())), caption)


def _named(results: Results) -> bool:
    return any(row.tensor is not None for row in results.rows)


def _cell(sheet: Sheet, place: tuple[int, int], changed: change.Change) -> None:
    row, column = place
    text = f"×{spoken.ratio(changed.ratio)}"
    colour, weight = sheet.theme.muted, "normal"
    if changed.exceeds_noise:
        strength = 0.25 + 0.6 * min(1.0, abs(math.log2(changed.ratio)) / 2)
        colour = sheet.theme.text
        if sheet.theme.background == "none":  # no pale colour is legible on white and on black
            strength, colour, weight = 1.0, style.ON_COLOUR, "bold"
        fill = LONGER if changed.ratio > 1 else SHORTER
        sheet.ax.bar(column, 0.9, 0.94, bottom=row - 0.45, color=fill, alpha=strength, linewidth=0)
        text = ("▲ " if changed.ratio > 1 else "▼ ") + text
    else:  # an empty field, so that the figure is a table also where nothing has changed
        sheet.ax.bar(
            column,
            0.9,
            0.94,
            bottom=row - 0.45,
            facecolor="none",
            edgecolor=sheet.theme.grid,
            linewidth=0.8,
        )
        text += " ?" * (changed.exceeds_noise is None)
    sheet.ax.text(
        column,
        row,
        text,
        ha="center",
        va="center",
        fontsize=TICK - 0.5,
        fontweight=weight,
        color=colour,
        gid="cell",
    )


def _title(cells: list[change.Change]) -> str:
    slower = sum(c.exceeds_noise is True and c.ratio > 1 for c in cells)
    faster = sum(c.exceeds_noise is True and c.ratio < 1 for c in cells)
    unknown = sum(c.exceeds_noise is None for c in cells)
    title = f"Of {len(cells)} medians {faster} became shorter and {slower} longer beyond the noise"
    return title + (f"; of {unknown} the noise is not known" if unknown else "")
