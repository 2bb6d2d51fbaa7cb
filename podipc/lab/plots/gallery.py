"""All figures of results, by name; and saving one to a file."""

from __future__ import annotations

import io
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import podipc
from podipc.lab import files
from podipc.lab.plots import style, svg
from podipc.lab.plots.cputime import cpu
from podipc.lab.plots.lines import latency, throughput
from podipc.lab.plots.sidebyside import changes
from podipc.lab.plots.spread import cold, distribution
from podipc.lab.plots.winners import crossover
from podipc.lab.results import Results

if TYPE_CHECKING:
    from matplotlib.figure import Figure

FORMATS = (".svg", ".png", ".pdf")
PNG_DPI = 192


@dataclass(frozen=True)
class Kind:
    """One of the figures that can be drawn from results alone."""

    name: str
    question: str
    """What it answers."""
    draw: Callable[..., Figure]
    two: bool = True
    """It can show a second run."""
    needs_two: bool = False


KINDS = {
    kind.name: kind
    for kind in (
        Kind("changes", "What changed?", changes, needs_two=True),
        Kind("latency", "How long is a round trip?", latency),
        Kind("throughput", "How much goes one way?", throughput),
        Kind("crossover", "Which method, at which size and rate?", crossover, two=False),
        Kind("distribution", "How even are the round trips?", distribution),
        Kind("cold", "What does the first one cost?", cold),
        Kind("cpu", "How much CPU time does a gigabyte take?", cpu),
    )
}


def draw(
    name: str,
    results: Results,
    *,
    against: Results | None = None,
    methods: Collection[str] | None = None,
    theme: style.ThemeName = "auto",
    size: style.Size | None = None,
) -> Figure:
    """The figure of that name. Raises ValueError where the results do not have what it shows."""
    if name not in KINDS:
        raise ValueError(f"no figure {name!r}; there are {', '.join(KINDS)}")
    kind = KINDS[name]
    more: dict[str, Any] = {"methods": methods, "theme": theme, "size": size}
    if kind.needs_two and against is None:
        raise ValueError(f"the figure {name!r} shows two runs, and there is one")
    if kind.two:
        more["against"] = against
    return kind.draw(results, **more)


def drawable(results: Results, against: Results | None = None) -> Iterator[tuple[Kind, Figure]]:
    """Those figures for which the results have what they show, in the light theme."""
    for kind in KINDS.values():
        if against is None and kind.needs_two:
            continue
        try:
            figure = draw(kind.name, results, against=against, theme="light")
        except ValueError:  # nothing of that kind was measured
            continue
        yield kind, figure


def title_of(figure: Figure) -> str:
    """What is written above it."""
    return " ".join(t.get_text() for t in figure.texts if t.get_gid() == "title").replace("\n", " ")


def save(figure: Figure, path: Path | str, *, follow: bool = False) -> None:
    """Write a figure, as its suffix says: .svg, .png or .pdf; whole or not at all.

    Parameters
    ----------
    figure
        One of this package.
    path
        Where to.
    follow
        Of an SVG in the light theme: leave the background out, and be dark for readers who
        prefer that.

    Raises
    ------
    ValueError
        Another suffix.
    OSError
        It cannot be written.
    """
    path = Path(path)
    if path.suffix not in FORMATS:
        raise ValueError(f"{path}: a figure is saved as {', '.join(FORMATS)}")
    if path.suffix == ".svg":
        background = "none" if follow else style.background_of(figure)
        drawn = svg.drawing(figure, path.stem, title_of(figure), background)
        files.write(path, svg.document(drawn, follow).encode())
        return
    out = io.BytesIO()
    named = {"Software": f"podipc {podipc.__version__}"}
    if path.suffix == ".pdf":
        named = {"Creator": named["Software"]}
    figure.savefig(out, format=path.suffix[1:], dpi=PNG_DPI, metadata=named)
    files.write(path, out.getvalue())
