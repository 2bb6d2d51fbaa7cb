"""What was measured: rows, saved to and loaded from JSON, CSV or Parquet.

A row is one method at one size (or with one tensor of a file). Times are in
nanoseconds, throughput is in bytes per second. Nothing here measures, and
nothing here draws.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

    from podipc.lab import saved

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
    """Tensors sent one way for the throughput, of `*` how often all of them; 0: not measured."""
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
    died: bool = False
    """A process that measured it died."""
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
"""Of the flat table."""
LARGEST = 256 << 20
"""Bytes of a file of results that are read."""


@dataclass(repr=False)
class Results:
    """Rows, and what they were measured on.

    A notebook shows them as a table. `podipc.lab.plots` draws them.
    """

    about: dict[str, Any]
    rows: list[Row]

    def __repr__(self) -> str:
        from podipc.lab import display

        return display.line(self)

    def _repr_html_(self) -> str:
        from podipc.lab import display

        return display.html(self)

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

    def to_pandas(self) -> pd.DataFrame:
        """The flat table, one line a row, with the columns of `COLUMNS`.

        What it was measured on is in its ``attrs``, a copy of `about`. Raises ImportError
        where pandas is missing.
        """
        try:
            import pandas as pd
        except ImportError as error:
            raise ImportError(
                f"pandas cannot be imported ({error}): pip install 'podipc[notebook]'"
            ) from error
        frame = pd.DataFrame(self.tidy(), columns=list(COLUMNS))
        frame.attrs.update(self.about)
        return frame

    def save(self, path: Path | str) -> None:
        """Write to a file: .json, .csv or .parquet, as its name ends; whole or not at all.

        All three can be loaded again, and nothing is lost. In CSV and Parquet the columns
        of the flat table are for others, and ``details`` is what `load` reads.

        Raises
        ------
        ResultsError
            The name ends otherwise.
        ImportError
            Parquet needs pyarrow.
        OSError
            The file cannot be written.
        """
        from podipc.lab import files

        path = Path(path)
        written, _ = _format(path)
        files.write(path, written(self))

    @classmethod
    def load(cls, path: Path | str) -> Results:
        """Read what `save` wrote. Raises `ResultsError`, ImportError or OSError."""
        path = Path(path)
        _, read = _format(path)
        with path.open("rb") as file:
            data = file.read(LARGEST + 1)
        try:
            if len(data) > LARGEST:
                raise ResultsError(f"larger than {LARGEST >> 20} MiB")
            return read(data)
        except (ResultsError, UnicodeDecodeError) as error:
            raise ResultsError(f"{path}: {error}") from error

    def pieces(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """What is saved: everything but the rows, and the rows."""
        head = {
            "format": FORMAT,
            "version": VERSION,
            "percentiles": PERCENTILES,
            "about": self.about,
        }
        return head, [dataclasses.asdict(row) for row in self.rows]

    def to_json(self) -> str:
        """As text, one row a line."""
        head, pieces = self.pieces()
        rows = ",\n  ".join(map(json.dumps, pieces))
        return json.dumps(head, indent=1)[:-2] + f',\n "rows": [\n  {rows}\n ]\n}}\n'

    @classmethod
    def from_json(cls, text: str) -> Results:
        """The reverse of `to_json`. Raises `ResultsError`."""
        try:
            found = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ResultsError(f"not JSON: {error}") from error
        return cls.from_object(found)

    @classmethod
    def from_object(cls, found: Any) -> Results:
        """As `from_json`, of what JSON has been read to. Raises `ResultsError`."""
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            raise ResultsError(f'not saved by podipc: "format" is not "{FORMAT}"')
        if found.get("version") != VERSION:
            raise ResultsError(
                f"saved in version {found.get('version')}; this podipc reads version {VERSION}"
            )
        try:
            rows, about = found["rows"], found["about"]
            if not isinstance(about, dict) or not isinstance(rows, list):
                raise TypeError('"about" or "rows" is of another type')
            return cls(about, [_row(row) for row in rows])
        except (KeyError, TypeError, ValueError) as error:
            raise ResultsError(f"a row does not have the fields of one: {error}") from error

    def to_csv(self) -> str:
        """The flat table as CSV, one line a row, with a line of headings."""
        from podipc.lab import saved

        return saved.table(COLUMNS, self.tidy())


# Reading checks everything, for a file may come from anywhere.


def _row(found: dict[str, Any]) -> Row:
    repetitions = [Repetition(**r) for r in found["repetitions"]]
    row = Row(**(found | {"repetitions": repetitions}))
    for r in repetitions:
        _numbers(r, ("n", "sent"), whole=True)
        _numbers(r, ("p50_ns", "p99_ns", "ask_cpu_ns", "answer_cpu_ns"))
        _numbers(r, ("cold_ns", "bytes_per_s"), or_none=True)
        if r.n and not r.p50_ns:
            raise ValueError("round trips with a median of 0 ns")
    _numbers(row, ("size", "checked_whole", "checked_sampled"), whole=True)
    for name in ("method", "kind"):
        if not isinstance(getattr(row, name), str):
            raise TypeError(f"{name} is not a text")
    for name in ("wrong", "died"):
        if not isinstance(getattr(row, name), bool):
            raise TypeError(f"{name} is neither true nor false")
    for name in ("tensor", "error"):
        if not isinstance(getattr(row, name), str | None):
            raise TypeError(f"{name} is not a text")
    if not isinstance(row.times_ns, list) or len(row.times_ns) not in (0, len(PERCENTILES)):
        raise ValueError(f"times_ns does not have {len(PERCENTILES)} times")
    if not all(_is_number(time) for time in row.times_ns):
        raise TypeError("times_ns has something that is not a time")
    if row.times_ns and not (repetitions and statistics.median(r.p50_ns for r in repetitions)):
        raise ValueError("there are times and no repetition with a median, or theirs is 0")
    return row


def _numbers(
    of: Row | Repetition, names: Iterable[str], *, whole: bool = False, or_none: bool = False
) -> None:
    for name in names:
        value = getattr(of, name)
        fits = _is_number(value) and not (whole and isinstance(value, float))
        if not fits and not (or_none and value is None):
            raise TypeError(f"{name} is not a number: {value!r:.40}")


def _is_number(value: object) -> bool:
    """Counts, times and rates: neither negative nor beyond 64 bits."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _format(path: Path) -> saved.Format:
    """How to write and how to read what the name of a file asks for."""
    from podipc.lab import saved

    try:
        return saved.FORMATS[path.suffix.lower()]
    except KeyError:
        there = ", ".join(saved.FORMATS)
        raise ResultsError(f"{path}: the name of saved results ends in {there}") from None


def find(rows: Iterable[Row], method: str, size: int) -> Row | None:
    """The row of a method at a size."""
    return next((r for r in rows if r.method == method and r.size == size), None)
