"""What was measured: rows, saved to and loaded from JSON, written as CSV.

A row is one method at one size (or with one tensor of a file). Times are in
nanoseconds, throughput is in bytes per second. Nothing here measures, and
nothing here draws.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

FORMAT = "podipc-results"
VERSION = 1

PERCENTILES: tuple[float, ...] = (*range(0, 100), 99.5, 99.9, 99.99, 100)
"""Of which the times are kept: enough for a distribution to be drawn from."""

ENOUGH = {50: 1, 99: 100, 99.9: 1000}
"""Rounds without which a percentile is only a guess."""


class ResultsError(ValueError):
    """The file is not one of saved results."""


@dataclass
class Repetition:
    """One time a method was opened, measured and closed."""

    cold_ns: int | None
    """The first round trip of the link, which touches the memory it needs for the first time."""
    n: int
    """Warm round trips."""
    p50_ns: float
    p99_ns: float
    sent: int
    """Tensors sent one way for the throughput; 0: not measured."""
    bytes_per_s: float | None
    ask_cpu_ns: int
    """CPU time of the sending side over these, all its threads."""
    answer_cpu_ns: int
    """CPU time of the receiving side."""


@dataclass
class Row:
    """One method at one size."""

    method: str
    kind: str
    """`podipc`, `peer`, or `floor`: plain C without a payload check."""
    size: int
    """Bytes of the tensor."""
    tensor: str | None = None
    """Its name, where it came from a file; `*` for all tensors of the file."""
    error: str | None = None
    """Why there are no figures, or None."""
    wrong: bool = False
    """Tensors did not arrive as they were sent."""
    repetitions: list[Repetition] = field(default_factory=list)
    times_ns: list[float] = field(default_factory=list)
    """Warm round trips at `PERCENTILES`, all repetitions together."""
    checked_whole: int = 0
    """Tensors of which the other side checked every byte."""
    checked_sampled: int = 0
    """Tensors that the other side checked in a few places."""

    @property
    def n(self) -> int:
        """Warm round trips."""
        return sum(r.n for r in self.repetitions)

    def percentile(self, q: float) -> float | None:
        """Nanoseconds within which `q` percent of the warm round trips were made.

        p50 is the median of the repetitions' medians. None where there were too
        few rounds to say.
        """
        if not self.times_ns or self.n < ENOUGH.get(q, 1):
            return None
        if q == 50:
            return statistics.median(r.p50_ns for r in self.repetitions)
        return float(np.interp(q, PERCENTILES, self.times_ns))

    @property
    def noise(self) -> float | None:
        """Spread of the repetitions' medians, (highest - lowest) / median."""
        if not self.times_ns:
            return None
        medians = [r.p50_ns for r in self.repetitions]
        return (max(medians) - min(medians)) / statistics.median(medians)

    @property
    def cold_ns(self) -> float | None:
        """Median of the first round trips."""
        found = [r.cold_ns for r in self.repetitions if r.cold_ns is not None]
        return statistics.median(found) if found else None

    @property
    def bytes_per_s(self) -> float | None:
        """Median throughput of the one-way streams."""
        found = [r.bytes_per_s for r in self.repetitions if r.bytes_per_s is not None]
        return statistics.median(found) if found else None

    def add(self, repetition: Repetition, pool: Sequence[int]) -> None:
        """Add a repetition; `pool` holds the times of all so far, these included."""
        self.repetitions.append(repetition)
        if pool:
            self.times_ns = np.percentile(pool, PERCENTILES).tolist()


COLUMNS = (
    "method",
    "kind",
    "size",
    "tensor",
    "n",
    "p50_ns",
    "p99_ns",
    "p99.9_ns",
    "min_ns",
    "max_ns",
    "noise",
    "cold_ns",
    "bytes_per_s",
    "repetitions",
    "checked_whole",
    "checked_sampled",
    "error",
)


@dataclass
class Results:
    """Rows, and what they were measured on."""

    about: dict[str, Any]
    rows: list[Row]

    def tidy(self) -> list[dict[str, Any]]:
        """One flat dictionary a row, with the keys of `COLUMNS`."""
        return [
            {
                "method": row.method,
                "kind": row.kind,
                "size": row.size,
                "tensor": row.tensor,
                "n": row.n,
                "p50_ns": row.percentile(50),
                "p99_ns": row.percentile(99),
                "p99.9_ns": row.percentile(99.9),
                "min_ns": row.percentile(0),
                "max_ns": row.percentile(100),
                "noise": row.noise,
                "cold_ns": row.cold_ns,
                "bytes_per_s": row.bytes_per_s,
                "repetitions": len(row.repetitions),
                "checked_whole": row.checked_whole,
                "checked_sampled": row.checked_sampled,
                "error": row.error,
            }
            for row in self.rows
        ]

    def to_json(self) -> str:
        """As text, one row a line."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "percentiles": PERCENTILES,
            "about": self.about,
        }
        rows = ",\n  ".join(json.dumps(dataclasses.asdict(row)) for row in self.rows)
        return json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n  {rows}\n ]\n}}\n'

    def save(self, path: Path) -> None:
        """Write as JSON."""
        path.write_text(self.to_json())

    @classmethod
    def from_json(cls, text: str) -> Results:
        """The reverse of `to_json`. Raises `ResultsError`."""
        try:
            found = json.loads(text)
        except ValueError as error:
            raise ResultsError(f"not JSON: {error}") from error
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ResultsError(f'not saved by podipc: "format" is not "{FORMAT}"')
        if found.get("version") != VERSION:
            raise ResultsError(
                f"saved in version {found.get('version')}; this podipc reads version {VERSION}"
            )
        try:
            rows = [
                Row(**(row | {"repetitions": [Repetition(**r) for r in row["repetitions"]]}))
                for row in found["rows"]
            ]
            return cls(found["about"], rows)
        except (KeyError, TypeError) as error:
            raise ResultsError(f"a row does not have the fields of one: {error}") from error

    @classmethod
    def load(cls, path: Path) -> Results:
        """Read what `save` wrote. Raises `ResultsError` or OSError."""
        try:
            return cls.from_json(path.read_text())
        except (ResultsError, UnicodeDecodeError) as error:
            raise ResultsError(f"{path}: {error}") from error

    def to_csv(self) -> str:
        """As CSV, one line a row, with a line of headings."""
        out = io.StringIO()
        writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.tidy())
        return out.getvalue()


def find(rows: Iterable[Row], method: str, size: int) -> Row | None:
    """The row of a method at a size."""
    return next((r for r in rows if r.method == method and r.size == size), None)
