"""Findings as text of 80 columns."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable, Iterable

from podipc.console import printable
from podipc.doctor.finding import FAIL, OK, WARN, Finding

WIDTH = 80
_LEVEL, _AREA = 6, 14
_COLOURS = {OK: "green", WARN: "yellow", FAIL: "bold red"}


def lines(finding: Finding) -> list[str]:
    """A line, wrapped; and what to change on lines of its own."""
    area = printable(finding.area)
    first = f"{finding.level:{_LEVEL}}{area:{_AREA}}"
    indent = " " * (_LEVEL + _AREA)
    if len(area) >= _AREA:
        indent = " " * _LEVEL
        found = _wrapped(area, f"{finding.level:{_LEVEL}}", indent)
        found += _wrapped(finding.text, indent, indent)
    else:
        found = _wrapped(finding.text, first, indent)
    if finding.change:
        found += _wrapped(finding.change, f"{indent}change: ", f"{indent}  ")
    return found


def _wrapped(text: str, first: str, rest: str) -> list[str]:
    """In lines; names that others have chosen cannot do anything to a terminal."""
    return textwrap.wrap(
        printable(text),
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_long_words=False,
        break_on_hyphens=False,
    ) or [first.rstrip()]


def show(findings: Iterable[Finding]) -> None:
    """Print each as it comes; the level in colour on a terminal, where rich is installed."""
    paint = _painter()
    for finding in findings:
        first, *rest = lines(finding)
        if paint is None:
            print(first)
        else:
            paint(finding.level, first[len(finding.level) :])
        for line in rest:
            print(line)
        sys.stdout.flush()


def _painter() -> Callable[[str, str], None] | None:
    if not sys.stdout.isatty():
        return None
    try:
        from rich.console import Console
        from rich.text import Text
    except ImportError:
        return None
    console = Console(soft_wrap=True, highlight=False)
    return lambda level, rest: console.print(Text.assemble((level, _COLOURS[level]), rest))
