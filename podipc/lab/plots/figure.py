"""The figure class, in a module of its own, for it cannot be defined without matplotlib."""

from __future__ import annotations

import io

from matplotlib.figure import Figure
from PIL import Image  # which matplotlib needs as well

DPI = 144
"""Of what a notebook shows: sharp on most screens, and small enough to be kept in the file."""


class Shown(Figure):
    """A figure that a notebook shows without pyplot."""

    def _repr_png_(self) -> tuple[bytes, dict[str, int]]:
        out = io.BytesIO()
        self.savefig(out, format="png", dpi=DPI)
        drawn = Image.open(out)  # with a palette: a quarter of the bytes, and looks the same
        out = io.BytesIO()
        drawn.quantize(256, Image.Quantize.FASTOCTREE, dither=Image.Dither.NONE).save(
            out, "PNG", optimize=True
        )
        width, height = self.get_size_inches() * 96
        return out.getvalue(), {"width": round(width), "height": round(height)}
