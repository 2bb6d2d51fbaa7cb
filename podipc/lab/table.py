"""Results as text: one table a quantity, methods down and sizes across, and crossovers in words.

Plain text fits 80 columns. Where `rich` is installed and the output is a
terminal, the same lines are coloured; there is only one way they are laid out.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

import numpy as np

from podipc.console import printable, size
from podipc.lab.results import Results, Row
from podipc.lab.where import part

if TYPE_CHECKING:
    from rich.text import Text

WIDTH = 80
CELL = 7
MARK = "*"


def duration(ns: float) -> str:
    """At most six characters: 870ns, 1.23µs, 45.6ms."""
    for unit, scale in (("ns", 1.0), ("µs", 1e3), ("ms", 1e6), ("s", 1e9)):
        value = ns / scale
        if value < 999.5 or unit == "s":
            break
    digits = 0 if value >= 99.5 or unit == "ns" else 1 if value >= 9.95 else 2
    return f"{value:.{digits}f}{unit}"


def rate(bytes_per_s: float) -> str:
    """At most six characters: 870K, 1.23M, 45.6G, in bytes a second, powers of ten."""
    for unit, scale in (("K", 1e3), ("M", 1e6), ("G", 1e9), ("T", 1e12)):
        value = bytes_per_s / scale
        if value < 999.5 or unit == "T":
            break
    digits = 0 if value >= 99.5 else 1 if value >= 9.95 else 2
    return f"{value:.{digits}f}{unit}"


def times(ratio: float) -> str:
    """How many times, to two digits: 1.3, 14, 230."""
    return f"{ratio:.1f}" if ratio < 9.95 else f"{float(f'{ratio:.2g}'):.0f}"


@dataclass(frozen=True)
class Quantity:
    """One table."""

    title: str
    of: Callable[[Row], float | None]
    text: Callable[[float], str]
    lower_is_better: bool = True


QUANTITIES = (
    Quantity("round trip, median (p50)", lambda r: r.percentile(50), duration),
    Quantity("round trip, p99", lambda r: r.percentile(99), duration),
    Quantity("round trip, p99.9", lambda r: r.percentile(99.9), duration),
    Quantity(
        "first round trip (cold: memory touched for the first time)", lambda r: r.cold_ns, duration
    ),
    Quantity("throughput, one way, bytes per second", lambda r: r.bytes_per_s, rate, False),
)


def column(row: Row) -> tuple[int, str]:
    """What a column of the tables stands for, in the order of the columns."""
    if row.tensor is None:
        return row.size, size(row.size).replace("iB", "").replace(" ", "").removesuffix("B")
    return row.size, "all" if row.tensor == "*" else row.tensor


def lines(results: Results) -> list[str]:
    """The whole report: tables, crossovers, what could not be measured, where it was measured."""
    out: list[str] = []
    columns = list(dict.fromkeys(column(r) for r in results.rows))
    label = max([10, *(len(r.method) for r in results.rows)])
    room = max(1, (WIDTH - label) // (CELL + 1))
    for quantity in QUANTITIES:
        block: list[str] = []
        for start in range(0, len(columns), room):
            block += _block(results.rows, quantity, columns[start : start + room], label)
        if block:
            out += ["", quantity.title, *block]
    if any(MARK in line for line in out):
        out += [
            "",
            f"{MARK} fastest of a column (floor apart);  - too few rounds to say, or not measured",
        ]
    for paragraphs in (crossovers(results), failures(results.rows), [*sent(results)]):
        if paragraphs:
            out += ["", *wrap(paragraphs)]
    return [*out[1:], "", *wrap(where(results))]


def _block(
    rows: Sequence[Row], quantity: Quantity, columns: Sequence[tuple[int, str]], label: int
) -> list[str]:
    cells: dict[tuple[str, tuple[int, str]], float] = {}
    for row in rows:
        value = quantity.of(row)
        if value is not None and row.error is None and column(row) in columns:
            cells[row.method, column(row)] = value
    if not cells:
        return []
    methods = list(dict.fromkeys(row.method for row in rows))
    floors = {row.method for row in rows if row.kind == "floor"}
    best = {}
    for c in columns:
        here = [(v, m) for (m, at), v in cells.items() if at == c and m not in floors]
        if len(here) > 1:
            best[c] = (min if quantity.lower_is_better else max)(here)[1]
    head = "".join(f"{short(text):>{CELL + 1}}" for _, text in columns)
    block = [" " * label + head]
    for method in methods:
        if not any(m == method for m, _ in cells):
            continue
        text = ""
        for c in columns:
            value = cells.get((method, c))
            shown = "-" if value is None else quantity.text(value)
            text += f"{shown:>{CELL}}" + (MARK if best.get(c) == method else " ")
        block.append((f"{method:<{label}}" + text).rstrip())
    return block


def short(text: str) -> str:
    """A name that fits into a cell."""
    return text if len(text) <= CELL else f"{text[:4]}…{text[-2:]}"


CLEAR = 1.25
"""A ratio below which two methods count as equally fast."""
MOST = 5
"""Changes of place that are told, the clearest first."""

Medians = dict[str, dict[int, list[float]]]
"""By method and size: the median round trip of each repetition."""


def crossovers(results: Results) -> list[str]:
    """Who is fastest where and by how much, and which methods change places on the way."""
    medians: Medians = {}
    for row in results.rows:
        if row.tensor is None and row.kind != "floor" and row.error is None and row.times_ns:
            each = [r.p50_ns for r in row.repetitions]
            medians.setdefault(row.method, {})[row.size] = each
    if len(medians) < 2:
        return []
    changes = [
        change for a, b in itertools.combinations(medians, 2) for change in _changes(medians, a, b)
    ]
    changes.sort(reverse=True)
    return [
        _winners(medians),
        *_against(next(iter(medians)), medians),
        *(text for _, text in changes[:MOST]),
    ]


def _ratio(a: Sequence[float], b: Sequence[float]) -> float:
    """How many times faster the first is."""
    return statistics.median(b) / statistics.median(a)


def _faster(a: Sequence[float], b: Sequence[float]) -> bool:
    """Whether the first is faster beyond doubt: by enough, and in every repetition."""
    return _ratio(a, b) >= CLEAR and max(a) < min(b)


def _winners(medians: Medians) -> str:
    """Fastest round trip: shm from 64 B to 4 KiB (14 times faster than tcp, the next) ..."""
    spans: list[tuple[str, list[int]]] = []
    for s in sorted(set().union(*medians.values())):
        here = [(statistics.median(at[s]), method) for method, at in medians.items() if s in at]
        winner = min(here)[1]
        if not spans or spans[-1][0] != winner:
            spans.append((winner, []))
        spans[-1][1].append(s)
    parts = []
    for winner, at in spans:
        behind = {
            method: [_ratio(medians[winner][s], there[s]) for s in at if s in there]
            for method, there in medians.items()
            if method != winner
        }
        following = min(
            (m for m in behind if behind[m]), key=lambda m: min(behind[m]), default=None
        )
        by = ""
        if following:
            clear = all(
                _faster(medians[winner][s], medians[following][s])
                for s in at
                if s in medians[following]
            )
            by = f"{_ratios(behind[following])} faster than" if clear else "not clearly ahead of"
            by = f" ({by} {following})"
        parts.append(f"{winner} {_span(at)}{by}")
    return "Fastest round trip: " + "; ".join(parts) + "."


def _against(first: str, medians: Medians) -> Iterable[str]:
    """Of the first method with each other: from 256 KiB on it is 14 times faster than tcp."""
    ours = medians[first]
    groups: dict[int, list[str]] = {}
    for method, there in medians.items():
        ratios: dict[int, float] = {}
        for s in sorted(ours, reverse=True):
            if s in there and not _faster(ours[s], there[s]):
                break
            if s in there:
                ratios[s] = _ratio(ours[s], there[s])
        if ratios:
            text = f"{_ratios(ratios.values())} faster than {method}"
            groups.setdefault(min(ratios), []).append(text)
    for start, texts in sorted(groups.items()):
        where = "At all sizes" if start == min(ours) else f"From {size(start)} on"
        yield f"{where} {first} is {', '.join(texts)}."


def _changes(medians: Medians, a: str, b: str) -> Iterable[tuple[float, str]]:
    """Up to 4 KiB x is faster than y; from 64 KiB on y is faster. With how clear it is.

    Sizes are told together only as far as each of them is sure.
    """
    common = sorted(set(medians[a]) & set(medians[b]))
    runs: list[tuple[str, str, dict[int, float]]] = []  # who is faster than whom, and how much
    touching = False
    for s in common:
        one, other = medians[a][s], medians[b][s]
        if not (_faster(one, other) or _faster(other, one)):
            touching = False
            continue
        first, last = (a, b) if _faster(one, other) else (b, a)
        if not touching or runs[-1][0] != first:
            runs.append((first, last, {}))
        runs[-1][2][s] = _ratio(medians[first][s], medians[last][s])
        touching = True
    for (early, _, before), (late, _, after) in itertools.pairwise(runs):
        if early == late:
            continue
        where = _span([*before]) if min(before) > common[0] else f"up to {size(max(before))}"
        there = _span([*after]) if max(after) < common[-1] else f"from {size(min(after))} on"
        yield (
            min(before[max(before)], after[min(after)]),
            f"{where[0].upper()}{where[1:]} {early} is faster than {late}; {there} {late} is "
            f"{_ratios(after.values())} faster.",
        )


def _span(sizes: Sequence[int]) -> str:
    first, last = size(sizes[0]), size(sizes[-1])
    return f"at {first}" if len(sizes) == 1 else f"from {first} to {last}"


def _ratios(ratios: Collection[float]) -> str:
    low, high = times(min(ratios)), times(max(ratios))
    return f"{low} times" if low == high else f"{low} to {high} times"


def failures(rows: Sequence[Row]) -> list[str]:
    """What was not measured, each reason once."""
    why: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        if row.error is not None:
            why.setdefault((row.method, row.error), []).append(row)
    out: list[str] = []
    for (method, error), failed in why.items():
        everywhere = len(failed) == sum(row.method == method for row in rows)
        at = "" if everywhere else " at " + ", ".join(column(r)[1] for r in failed)
        out.append(f"Not measured: {method}{at}: {error}")
    return out


def sent(results: Results) -> Iterable[str]:
    """What was sent, and what became of it."""
    plan = part(results.about, "plan")
    if tensors := plan.get("tensors"):
        names = [
            f"{t['name']} ({_dtype(t['dtype'])} {'x'.join(map(str, t['shape'])) or 'scalar'}, "
            f"{size(t['nbytes'])})"
            for t in tensors
        ]
        more = f" and {len(names) - 8} more" if len(names) > 8 else ""
        yield f"Sent from {plan['input']}: {', '.join(names[:8])}{more}."
    rows = [row for row in results.rows if row.kind != "floor" and row.tensor != "*"]
    whole, sampled = sum(r.checked_whole for r in rows), sum(r.checked_sampled for r in rows)
    wrong = [row for row in rows if row.wrong]
    how = "by digest" if tensors else "in every byte"
    yield (
        f"Checked at the other side: {whole:,} tensors {how}, {sampled:,} while timed, in four "
        f"places each; {'SOME ARRIVED WRONG' if wrong else 'none was wrong'}."
    )


def _dtype(descr: object) -> str:
    return np.dtype(descr).name if isinstance(descr, str) else "structured"


def where(results: Results) -> list[str]:
    """What it was measured on, in sentences."""
    about = results.about
    host, versions, plan = about["host"], about["versions"], about["plan"]
    limits = about["containers"]["producer"]["limits"]
    memory = f"memory limit {size(limits['memory'])}" if limits["memory"] else "no memory limit"
    cpus = f"quota of {limits['cpus']:g} CPUs" if limits["cpus"] else "no cpu quota"
    pinned = about["pinned"]
    pin = (
        f"pinned to CPUs {pinned[0]} and {pinned[1]}"
        if pinned[0] is not None
        else "NOT pinned: there is one CPU only, so nothing can spin"
    )
    made = [part for part, there in about["isolation"].items() if there]
    if made:
        own = [part for part in made if part in ("pid", "mount", "uts")]
        shared = [part for part in made if part in ("net", "ipc", "shm")]
        kind = f"Two containers: own {', '.join(own)}; shared {', '.join(shared)}"
    else:
        kind = "Two plain processes, nothing isolated"
    if about["runtime"]:
        version = about.get("runtime_version")
        kind += f" (runtime {about['runtime']}{f' {version}' if version else ''})"
    first = f"{kind}; {pin}; {memory}, {cpus}."
    return [
        first,
        *(note[0].upper() + note[1:].rstrip(".") + "." for note in about["notes"]),
        f"{host['cpu']}, {host['cpus']} CPUs, Linux {host['kernel']} {host['arch']}, "
        f"Python {versions['python']}, numpy {versions.get('numpy')}.",
        f"Methods took turns, {_count(plan['repeated'])}, {about['seconds']:.0f} s in all; "
        f"load average at the start {host['load']:.1f}.",
    ]


def _count(n: int) -> str:
    return "once" if n == 1 else f"{n} times over"


def wrap(paragraphs: Iterable[str]) -> list[str]:
    """Paragraphs as lines that fit."""
    import textwrap

    out: list[str] = []
    for text in paragraphs:
        out += textwrap.wrap(text, WIDTH, break_long_words=False, break_on_hyphens=False)
    return out


def show(results: Results, out: TextIO) -> None:
    """Print the report."""
    # Names and reasons come from a file, or from containers.
    text = [printable(line) for line in lines(results)]
    if out.isatty():
        try:
            from rich.console import Console
            from rich.text import Text as Line
        except ImportError:
            pass
        else:
            console = Console(file=out, highlight=False)
            for line in text:
                console.print(_styled(Line(line)), soft_wrap=True)
            return
    for line in text:
        print(line, file=out)


def _styled(text: Text) -> Text:
    if any(text.plain == q.title for q in QUANTITIES):
        text.stylize("bold")
    else:
        text.highlight_regex(r"\S+\*(?=\s|$)", "bold green")
        text.highlight_regex(r"^Not measured: .*", "yellow")
    return text
