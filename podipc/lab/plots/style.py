"""How figures look: one colour, dash and marker a method, and themes for light and dark.

A method has the same look in every figure. The colour says what carries the bytes,
the dash who does it (solid: podipc, dashed: a peer, dotted: the floor), and the
marker tells apart what has the same colour. All colours are dark enough for white
and light enough for black, and were chosen to differ also for those who do not see
red or green.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ThemeName = Literal["light", "dark", "auto"]
Size = tuple[float, float | None]
"""Inches; a height of None is made to fit what is drawn."""
Dash = Any
"""Of a line, as matplotlib has it: a name, or an offset and lengths."""

SOLID: Dash = "-"
DASHED: Dash = (0, (5, 2))
SHORT: Dash = (0, (3, 1.5, 1, 1.5))
DOTTED: Dash = (0, (1, 1.6))

BLUE, ORANGE, PERIWINKLE, RED, TEAL = "#0d7dce", "#ef6a0f", "#7f88fe", "#db000c", "#027c82"
VIOLET, TAN, BROWN, MAGENTA, GREY = "#802bff", "#ac8a72", "#7e6549", "#e41da3", "#808080"


@dataclass(frozen=True)
class Look:
    """Of one method."""

    colour: str
    marker: str
    dash: Dash = SOLID
    hollow: bool = False

    @property
    def face(self) -> str:
        """What its marker is filled with."""
        return "none" if self.hollow else self.colour


LOOKS = {
    "shm": Look(BLUE, "o"),
    "shm-loan": Look(ORANGE, "s"),
    "shm-block": Look(PERIWINKLE, "D"),
    "shm-spin": Look(BLUE, "P", SHORT),
    "shm-semaphore": Look(PERIWINKLE, "X", SHORT),
    "tcp": Look(RED, "^"),
    "unix": Look(TEAL, "v"),
    "fifo": Look(VIOLET, "<"),
    "file": Look(TAN, ">"),
    "file-disk": Look(BROWN, "p"),
    "http": Look(MAGENTA, "h"),
    "iceoryx2": Look(BLUE, "o", DASHED, True),
    "iceoryx2-loan": Look(ORANGE, "s", DASHED, True),
    "zmq-ipc": Look(TEAL, "v", DASHED, True),
    "zmq-tcp": Look(RED, "^", DASHED, True),
    "mp-pipe": Look(VIOLET, "<", DASHED, True),
    "mp-queue": Look(MAGENTA, "h", DASHED, True),
    "mp-shm": Look(BROWN, "p", DASHED, True),
    "faster-fifo": Look(PERIWINKLE, "D", DASHED, True),
    "py-tcp": Look(RED, "P", SHORT, True),
    "py-unix": Look(TEAL, "P", SHORT, True),
    "py-fifo": Look(VIOLET, "P", SHORT, True),
    "C:cache-line": Look(BLUE, "1", DOTTED),
    "C:futex": Look(PERIWINKLE, "2", DOTTED),
    "C:memcpy": Look(GREY, "+", DOTTED),
    "C:tcp": Look(RED, "3", DOTTED),
    "C:unix": Look(TEAL, "4", DOTTED),
    "C:pipe": Look(VIOLET, "x", DOTTED),
}
_SPARE = (BLUE, ORANGE, RED, TEAL, VIOLET, TAN, MAGENTA, BROWN, PERIWINKLE)


def look(method: str) -> Look:
    """Of a method; one that is not known here gets a look by its name."""
    if method in LOOKS:
        return LOOKS[method]
    number = sum(method.encode())
    return Look(_SPARE[number % len(_SPARE)], "*", SHORT, True)


CONTAINER_COLOURS = (BLUE, ORANGE, TEAL, MAGENTA, TAN, VIOLET)
"""Of containers, in the order of their names, so that both have theirs in every figure."""


ON_COLOUR = "#fefefe"
"""Of text on the colour of a method, in every theme."""


@dataclass(frozen=True)
class Theme:
    """Colours of all that is not data."""

    text: str
    muted: str
    grid: str
    background: str
    """``none``: transparent."""
    toward: float
    """How far the colour of a label goes from that of its line towards that of the text."""

    def ink(self, colour: str) -> str:
        """A colour for text that belongs to what has `colour`."""
        pairs = zip(_rgb(colour), _rgb(self.text), strict=True)
        mixed = (round(a + (b - a) * self.toward) for a, b in pairs)
        return "#" + "".join(f"{part:02x}" for part in mixed)


THEMES: dict[str, Theme] = {
    "light": Theme("#1f2328", "#59636e", "#d5d9df", "#ffffff", 0.35),
    "dark": Theme("#e6edf3", "#9aa4af", "#39404a", "#0d1117", 0.45),
    # Legible on white and on black: 4.3 to 1 on both is the best there is.
    "auto": Theme("#757a82", "#757b83", "#80808059", "none", 0.0),
}


def theme_of(name: str) -> Theme:
    """By name. Raises ValueError."""
    if name not in THEMES:
        raise ValueError(f"no theme {name!r}; there are {', '.join(THEMES)}")
    return THEMES[name]


def counterparts() -> dict[str, str]:
    """For each colour of the light theme that differs there, the one of the dark theme."""
    light, dark = THEMES["light"], THEMES["dark"]
    parts = ("text", "muted", "grid", "background")
    found = {getattr(light, part): getattr(dark, part) for part in parts}
    colours = {look.colour for look in LOOKS.values()} | set(CONTAINER_COLOURS) | set(_SPARE)
    return found | {light.ink(c): dark.ink(c) for c in sorted(colours)}


def _rgb(colour: str) -> tuple[int, int, int]:
    return int(colour[1:3], 16), int(colour[3:5], 16), int(colour[5:7], 16)


def require() -> None:
    """Raise ImportError that says what to install, where matplotlib is missing."""
    try:
        import matplotlib  # noqa: F401
    except ImportError as error:
        raise ImportError(
            f"figures are drawn by matplotlib, which cannot be imported ({error}): "
            "pip install 'podipc[plot]'"
        ) from error


def new_figure(size: tuple[float, float], theme: Theme) -> Figure:
    """An empty figure that pyplot does not know of, so that nobody has to close it."""
    require()
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    from podipc.lab.plots.figure import Shown

    figure = Shown(figsize=size, dpi=100, facecolor=theme.background, edgecolor="none")
    FigureCanvasAgg(figure)
    return figure


def background_of(figure: Figure) -> str:
    """A colour, or ``none``."""
    from matplotlib.colors import to_hex, to_rgba

    colour = to_rgba(figure.get_facecolor())
    return to_hex(colour) if colour[3] else "none"
