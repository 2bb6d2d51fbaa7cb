"""Two runs side by side in plain text: what has changed, and whether by more than the noise.

A ratio says how many times faster the first run is: above 1 it is the better one, in
round trips as in throughput. What counts as a change says `podipc.lab.change`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from podipc import console
from podipc.lab import spoken, table
from podipc.lab.change import Change, change
from podipc.lab.results import Results, Row

FASTER, SLOWER, SAME, UNKNOWN = "+", "!", " ", "?"
LEGEND = (
    f"{FASTER} faster and {SLOWER} slower, by more than the noise of both runs; {UNKNOWN} one "
    "repetition, so the noise is not known; no mark: within the noise."
)


@dataclass(frozen=True)
class Cell:
    """One figure in both runs."""

    ours: float
    theirs: float
    ratio: float
    """How many times faster ours is."""
    mark: str


Key = tuple[str, int, str | None]


def lines(results: Results, other: Results, name: str, other_name: str) -> list[str]:
    """Both runs in 80 columns: what they differ in, then every figure that both have."""
    ours, theirs = _by_key(results), _by_key(other)
    common = [key for key in ours if key in theirs]
    width = max([10, *(len(method) for method, _, _ in common)])
    out = table.wrap([f"A: {name}. B: {other_name}. A ratio above 1: A is faster."])
    out += table.wrap(_differences(results.about, other.about))
    head = f"{'p50, A':>8}{'B':>8}{'ratio':>8}  {'bytes/s, A':>12}{'B':>8}{'ratio':>8}"
    out += ["", f"{'':{width + 8}}{head}"]
    last = None
    for key in common:
        cells = _cells(ours[key], theirs[key])
        if cells is None:
            continue
        shown = key[0] if key[0] != last else ""
        last = key[0]
        out.append(f"{shown:{width}}{table.short(table.column(ours[key])[1]):>8}{cells}".rstrip())
    out += ["", *table.wrap([LEGEND]), *table.wrap(_summary(ours, theirs, common))]
    return out + table.wrap([*_only(ours, theirs, "A"), *_only(theirs, ours, "B")])


def _by_key(results: Results) -> dict[Key, Row]:
    rows = {(row.method, row.size, row.tensor): row for row in results.rows}
    methods = list(dict.fromkeys(row.method for row in results.rows))
    return dict(sorted(rows.items(), key=lambda pair: methods.index(pair[0][0])))


def _changes(a: Row, b: Row) -> tuple[Cell | None, Cell | None]:
    """Of the round trip and of the throughput."""
    if a.error is not None or b.error is not None:
        return None, None
    return _cell(change(b, a, "p50_ns"), -1), _cell(change(b, a, "bytes_per_s"), 1)


def _cell(found: Change | None, better: int) -> Cell | None:
    """`better` is 1 if more is better, -1 if less is."""
    if found is None:
        return None
    ratio, exceeds = found.ratio**better, found.exceeds_noise
    mark = UNKNOWN if exceeds is None else SAME if not exceeds else FASTER if ratio > 1 else SLOWER
    return Cell(found.after, found.before, ratio, mark)


def _cells(a: Row, b: Row) -> str | None:
    trip, stream = _changes(a, b)
    if trip is None and stream is None:
        return None
    return _three(trip, table.duration) + "   " + _three(stream, table.rate, 10)


def _three(found: Cell | None, text: Callable[[float], str], first: int = 8) -> str:
    if found is None:
        return f"{'-':>{first}}{'-':>8}{'-':>8} "
    times = spoken.ratio(found.ratio)
    return f"{text(found.ours):>{first}}{text(found.theirs):>8}{times:>8}{found.mark}"


def _summary(ours: dict[Key, Row], theirs: dict[Key, Row], common: Iterable[Key]) -> list[str]:
    found = [c for key in common for c in _changes(ours[key], theirs[key]) if c is not None]
    if not found:
        return ["There is nothing that was measured in both."]
    marks = [c.mark for c in found]
    return [
        f"Of {len(found)} figures A is faster in {marks.count(FASTER)}, slower in "
        f"{marks.count(SLOWER)}, within the noise in {marks.count(SAME)}."
    ]


def _only(these: dict[Key, Row], those: dict[Key, Row], name: str) -> list[str]:
    """What one of the runs alone has figures of."""
    alone: dict[str, list[str]] = {}
    for key, row in these.items():
        other = those.get(key)
        if row.error is None and (other is None or other.error is not None):
            alone.setdefault(row.method, []).append(table.column(row)[1])
    return [f"Only in {name}: {method} at {', '.join(at)}." for method, at in alone.items()]


_COMPARED: dict[str, tuple[str, ...]] = {
    "runtime": ("runtime",),
    "version of it": ("runtime_version",),
    "cpu": ("host", "cpu"),
    "CPUs": ("host", "cpus"),
    "kernel": ("host", "kernel"),
    "podipc": ("versions", "podipc"),
    "Python": ("versions", "python"),
    "numpy": ("versions", "numpy"),
    "libc": ("versions", "libc"),
    "memory limit": ("containers", "producer", "limits", "memory"),
    "cpu quota": ("containers", "producer", "limits", "cpus"),
    "pinned to": ("pinned",),
    "/dev/shm": ("containers", "producer", "shm", "size"),
    "files in memory on": ("places", "memory", "filesystem"),
    "files on disk on": ("places", "disk", "filesystem"),
    "turns": ("plan", "repeated"),
    "round trips a turn, at most": ("plan", "rounds"),
    "seconds a pass": ("plan", "seconds"),
    "input": ("plan", "input"),
}
_BYTES = ("memory limit", "/dev/shm")


def _differences(ours: Any, theirs: Any) -> list[str]:
    """What was not the same in both, A first."""
    found = []
    for name, path in _COMPARED.items():
        a, b = _at(ours, path), _at(theirs, path)
        if a != b:
            found.append(f"{name} {_shown(name, a)} / {_shown(name, b)}")
    return [f"Not the same in A / B: {'; '.join(found)}."] if found else []


def _at(about: Any, path: Sequence[str]) -> Any:
    for key in path:
        about = about.get(key) if isinstance(about, dict) else None
    return about


def _shown(name: str, value: Any) -> str:
    if value is None:
        return "-"
    if name in _BYTES and isinstance(value, int):
        return console.size(value)
    if isinstance(value, list):
        return " and ".join(map(str, value))
    return str(value)
