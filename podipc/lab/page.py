"""The page of a report: one file, with its figures in it, that asks nobody for anything.

The policy it declares allows its own style and its own script, by their digests, and
nothing else. Whatever comes from results is escaped.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import podipc
from podipc import console
from podipc.lab import display, spoken, table
from podipc.lab.change import Change, changes
from podipc.lab.plots import data, svg
from podipc.lab.results import Results, Row
from podipc.lab.spoken import duration, rate
from podipc.lab.where import part, sentence

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Shown:
    """One figure, as it is drawn for a wide and for a narrow window."""

    name: str
    question: str
    wide: svg.Drawing
    narrow: svg.Drawing


@dataclass(frozen=True)
class Cell:
    """Of the table: what is read, and what it is sorted by."""

    text: str
    value: float | str | None


Changes = dict[int, tuple[Change | None, Change | None]]
"""By number of the row: of the median, and of the throughput."""

FIRST = ("size", "method", "median")
COMPARED = ("median before", "change", "throughput before", "change of it")
MORE = ("p99", "p99.9", "first", "CPU s per GB", "× the fastest", "noise", "round trips")


def html(results: Results, figures: Sequence[Shown], against: Results | None = None) -> str:
    """The page."""
    rules: dict[str, str] = {}
    for shown in figures:
        rules |= shown.wide.rules | shown.narrow.rules
    style = (HERE / "page.css").read_text() + svg.css(rules)
    script = (HERE / "page.js").read_text()
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = "Two runs side by side" if against else "Moving tensors between two containers"
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="generator" content="podipc {podipc.__version__}">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>podipc: {title}</title>\n<style>{style}</style></head>\n<body>\n"
        f"<header><h1>{title}</h1>\n{_lead(results, against)}</header>\n<main>\n"
        f"{_findings(results, against)}"
        f"{''.join(map(_figure, figures))}"
        f"{_table(results, against)}"
        f"{_how(results, against)}"
        f"</main>\n<script>{script}</script>\n</body></html>\n"
    )


def _digest(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _paragraphs(texts: Iterable[str]) -> str:
    return "".join(f"<p>{escape(text)}</p>\n" for text in texts)


def _list(texts: Sequence[str]) -> str:
    return "<ul>\n" + "".join(f"<li>{escape(text)}</li>\n" for text in texts) + "</ul>\n"


def _lead(results: Results, against: Results | None) -> str:
    if against is None:
        return _paragraphs([sentence(results)])
    return _paragraphs([f"This run: {sentence(results)}", f"The other: {sentence(against)}"])


def _findings(results: Results, against: Results | None) -> str:
    said = table.crossovers(results)
    if against is not None:
        found = [changed for _, changed in changes(against, results) if changed is not None]
        beyond = [changed for changed in found if changed.exceeds_noise]
        said.insert(
            0,
            f"Of {len(found)} median round trips {sum(c.ratio < 1 for c in beyond)} became shorter "
            f"and {sum(c.ratio > 1 for c in beyond)} longer by more than the noise.",
        )
    said += table.sent(results)
    return f'<section id="findings"><h2>What was found</h2>\n{_list(said)}</section>\n'


def _figure(shown: Shown) -> str:
    return (
        f'<section id="{shown.name}"><h2>{escape(shown.question)}</h2>\n<figure>'
        f'<div class="wide">{shown.wide.element}</div>'
        f'<div class="narrow">{shown.narrow.element}</div></figure></section>\n'
    )


# The table


def _table(results: Results, against: Results | None) -> str:
    found: Changes = {}
    if against is not None:
        trips = [changed for _, changed in changes(against, results)]
        rates = [changed for _, changed in changes(against, results, "bytes_per_s")]
        found = dict(enumerate(zip(trips, rates, strict=True)))
    names = (*FIRST, *(COMPARED[:2] if against else ()), "throughput")
    names = (*names, *(COMPARED[2:] if against else ()), *MORE)
    heads = "".join(
        f'<th scope="col"{_sorted(name)}><button type="button">{name}</button></th>'
        for name in names
    )
    good = [
        (n, row)
        for n, row in enumerate(results.rows)
        if row.error is None and (row.times_ns or row.bytes_per_s is not None)
    ]
    good.sort(key=lambda pair: display.order(pair[1]))
    best, lines = display.fastest(results.rows), []
    for number, row in good:
        trip, stream = _compared(*found[number]) if found else ([], [])
        cells = [*_first(row), *trip, _rate(row.bytes_per_s), *stream, *_more(row, best)]
        lines.append("".join(_cell(n, c) for n, c in zip(names, cells, strict=True)))
    failed = table.failures(results.rows)
    missing = f"<h3>Not measured</h3>\n{_list(failed)}" if failed else ""
    return (
        '<section id="table"><h2>All figures</h2>\n'
        "<p>Activate a heading to sort by it, again for the other direction.</p>\n"
        '<div class="scroll" role="region" aria-label="Table of all figures" tabindex="0">\n'
        "<table><caption>A row a method and size</caption>\n"
        f"<thead><tr>{heads}</tr></thead>\n<tbody>\n"
        f"{''.join(f'<tr>{line}</tr>{chr(10)}' for line in lines)}"
        f"</tbody></table></div>\n{missing}</section>\n"
    )


def _sorted(name: str) -> str:
    return ' aria-sort="ascending"' if name == "size" else ""


def _cell(name: str, cell: Cell) -> str:
    value = "" if cell.value is None else f' data-value="{escape(str(cell.value))}"'
    if name == "method":
        return f'<th scope="row"{value}>{escape(cell.text)}</th>'
    return f"<td{value}>{escape(cell.text)}</td>"


def _first(row: Row) -> list[Cell]:
    name = console.size(row.size) if row.tensor is None else table.column(row)[1]
    return [Cell(name, row.size), Cell(row.method, row.method), _time(row.percentile(50))]


def _more(row: Row, best: display.Fastest) -> list[Cell]:
    cpu, ratio = data.cpu_per_gb(row), display.to_fastest(row, best)
    return [
        *(_time(row.percentile(q)) for q in (99, 99.9)),
        _time(row.cold_ns),
        _number(cpu, "{:,.0f}" if cpu is not None and cpu > 999.5 else "{:.3g}"),
        Cell(display.times(ratio), ratio),
        _number(row.noise, "{:.0%}"),
        _number(row.n, "{:,}"),
    ]


def _number(value: float | None, text: str) -> Cell:
    return Cell("", None) if value is None else Cell(text.format(value), value)


def _time(ns: float | None) -> Cell:
    return Cell("", None) if ns is None else Cell(duration(ns), ns)


def _rate(value: float | None) -> Cell:
    return Cell("", None) if value is None else Cell(rate(value), value)


def _compared(trip: Change | None, stream: Change | None) -> tuple[list[Cell], list[Cell]]:
    return (
        [_time(trip.before if trip else None), _change(trip)],
        [_rate(stream.before if stream else None), _change(stream)],
    )


def _change(changed: Change | None) -> Cell:
    if changed is None:
        return Cell("", None)
    return Cell(f"×{spoken.ratio(changed.ratio)}, {changed.verdict}", changed.ratio)


# How it was measured

METHOD = (
    "A round trip is a tensor from one container to the other and eight bytes back, over the same "
    "method. What the receiver checks is not part of its time.",
    "The first round trip of a link touches its memory for the first time; all others are warm.",
    "Throughput is that of many tensors one way, as fast as the receiver takes them.",
    "CPU seconds are those of all threads of both sides, user and system, for 10⁹ bytes of that.",
    "Noise is the spread of the medians of the repetitions, (highest - lowest) / median.",
)
TWO = (
    "A change exceeds the noise if no repetition of one run reaches any of the other, and if it is "
    "larger than the noise of both runs added up and larger than 10 %. A ratio is this run over "
    "the other: below 1 a round trip became shorter, above 1 a throughput became higher."
)


def _how(results: Results, against: Results | None) -> str:
    texts = [*METHOD, *([TWO] if against else [])]
    runs = {"": results} if against is None else {"This run: ": results, "The other: ": against}
    for name, run in runs.items():
        texts += [name + text for text in _place(run)]
        if versions := part(run.about, "versions"):
            said = ", ".join(f"{key} {value}" for key, value in versions.items())
            texts.append(f"{name}Versions: {said}.")
    return f'<section id="how"><h2>How it was measured</h2>\n{_list(texts)}</section>\n'


def _place(results: Results) -> list[str]:
    try:
        return table.where(results)
    except (LookupError, TypeError, ValueError, AttributeError):
        return [f"{sentence(results)}. The file does not say more."]
