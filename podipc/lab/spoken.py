"""Times, rates and counts as people read them, with a space before the unit."""

from __future__ import annotations

from podipc.lab import table


def duration(ns: float) -> str:
    """870 ns, 1.23 µs."""
    return _spaced(table.duration(ns))


def rate(bytes_per_s: float) -> str:
    """870 kB/s, 1.23 GB/s. Powers of ten."""
    return _spaced(table.rate(bytes_per_s)).replace("K", "k") + "B/s"


def ratio(value: float) -> str:
    """Of two runs: 0.0042, 0.55, 1.23, 97, 1,234; never 0.00 for what is only small."""
    if value < 0.095:
        return f"{value:.2g}"
    return f"{value:.2f}" if value < 9.95 else f"{value:,.0f}"


def time_tick(ns: float) -> str:
    """10 µs, 1 ms; for the ticks of an axis."""
    for unit, scale in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6)):
        if ns < scale * 999.5:
            return f"{ns / scale:g} {unit}"
    return f"{ns / 1e9:g} s"


def rate_tick(bytes_per_s: float) -> str:
    """100 MB/s, 1 GB/s; for the ticks of an axis."""
    for unit, scale in (("B/s", 1.0), ("kB/s", 1e3), ("MB/s", 1e6), ("GB/s", 1e9)):
        if bytes_per_s < scale * 999.5:
            return f"{bytes_per_s / scale:g} {unit}"
    return f"{bytes_per_s / 1e12:g} TB/s"


def count_tick(value: float) -> str:
    """10, 1 k, 100 k, 1 M; for the ticks of an axis."""
    for unit, scale in (("", 1.0), (" k", 1e3), (" M", 1e6)):
        if value < scale * 999.5:
            return f"{value / scale:g}{unit}"
    return f"{value / 1e9:g} G"


def _spaced(text: str) -> str:
    number = text.rstrip("nµmsKMGT")
    return f"{number} {text[len(number) :]}"
