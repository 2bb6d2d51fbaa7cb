"""Figures as SVG that is light or dark as its reader wants it, with real text.

matplotlib writes a style attribute at each element. Here they become classes, whose
rules are written once; those with a colour of the light theme have a second rule for
readers who prefer dark. A page may so forbid every style but its own.
"""

from __future__ import annotations

import hashlib
import io
import re
import xml.etree.ElementTree as ET
from dataclasses import dataclass
from typing import TYPE_CHECKING

import podipc
from podipc.lab.plots import style

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
FONTS = "'DejaVu Sans', Verdana, Geneva, Helvetica, Arial, sans-serif"
_REFERENCE = re.compile(r"url\(#([^)]*)\)")


@dataclass(frozen=True)
class Drawing:
    """One figure as an element, and the rules it needs."""

    element: str
    rules: dict[str, str]
    """By class."""


def drawing(figure: Figure, name: str, text: str, background: str = "none") -> Drawing:
    """Of a figure.

    Parameters
    ----------
    name
        Begins every id, so that several drawings may be on one page.
    text
        What the figure shows, for those who do not see it.
    background
        A colour; ``none`` where it is to be that of the page.
    """
    import matplotlib

    out = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": name}):
        figure.savefig(out, format="svg", facecolor=background, metadata={"Date": None})
    ET.register_namespace("", SVG)
    ET.register_namespace("xlink", XLINK)
    root = ET.fromstring(out.getvalue())  # what matplotlib has just written
    for child in list(root):
        if child.tag == f"{{{SVG}}}metadata" or child.find(f"{{{SVG}}}style") is not None:
            root.remove(child)
    rules: dict[str, str] = {}
    needed = set(_REFERENCE.findall(out.getvalue().decode()))
    needed |= {e.get(f"{{{XLINK}}}href", "")[1:] for e in root.iter()}
    for element in root.iter():
        if element.get("id") not in needed:
            element.attrib.pop("id", None)
        _attributes(element, name, rules)
    root.set("role", "img")
    root.set("aria-label", text)
    for part in ("width", "height"):
        root.set(part, f"{float(root.get(part, '0').removesuffix('pt')) / 0.75:.0f}")
    return Drawing(ET.tostring(root, encoding="unicode"), rules)


def css(rules: dict[str, str], follow: bool = True) -> str:
    """A style sheet of rules; those of the light theme are to `follow` what readers prefer."""
    dark = style.counterparts()
    plain, other = [], []
    for name, rule in sorted(rules.items()):
        plain.append(f".{name}{{{rule}}}")
        changed = [
            f"{key}:{dark[value]}"
            for key, _, value in (part.partition(":") for part in rule.split(";"))
            if value in dark
        ]
        if changed:
            other.append(f".{name}{{{';'.join(changed)}}}")
    head = f"svg text{{font-family:{FONTS};text-rendering:geometricPrecision}}\n"
    head += "svg *{stroke-linejoin:round;stroke-linecap:butt}\n"
    if follow:
        plain += ["@media (prefers-color-scheme: dark){", *other, "}"]
    return head + "\n".join([*plain, ""])


def document(drawn: Drawing, follow: bool) -> str:
    """A file of its own."""
    head, end, rest = drawn.element.partition(">")
    return (
        f'<?xml version="1.0" encoding="utf-8"?>\n<!-- podipc {podipc.__version__} -->\n'
        f"{head}{end}<style>{css(drawn.rules, follow)}</style>{rest}\n"
    )


def _attributes(element: ET.Element, name: str, rules: dict[str, str]) -> None:
    """Ids get the name of the drawing, and styles become classes."""
    for key, value in list(element.attrib.items()):
        if key == "id":
            element.set(key, f"{name}-{value}")
        elif key == f"{{{XLINK}}}href":
            del element.attrib[key]
            element.set("href", f"#{name}-{value[1:]}")
        elif key != "style":
            element.set(key, _REFERENCE.sub(rf"url(#{name}-\1)", value))
    parts = [part.strip() for part in element.attrib.pop("style", "").split(";")]
    pairs = [
        (key.strip(), value.strip())
        for key, _, value in (part.partition(":") for part in parts if part)
        if key.strip() != "font-family"
    ]
    if not pairs:
        return
    rule = ";".join(f"{key}:{value}" for key, value in pairs)
    rule = _REFERENCE.sub(rf"url(#{name}-\1)", rule)
    chosen = "f" + hashlib.sha256(rule.encode()).hexdigest()[:7]
    rules[chosen] = rule
    element.set("class", chosen)
