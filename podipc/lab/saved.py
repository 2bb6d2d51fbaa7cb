"""How results are saved: JSON, and flat tables (CSV, Parquet) that can be loaded again.

A flat table has a column more than what is in it for others: all of the row as JSON,
and in the first row what it was measured on. Only that column is read.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from podipc.lab.results import COLUMNS, FORMAT, LARGEST, VERSION, Results, ResultsError

DETAILS = "details"


def table(columns: Sequence[str], records: Iterable[dict[str, Any]]) -> str:
    """As CSV, with a line of headings."""
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return out.getvalue()


def _records(results: Results) -> list[dict[str, Any]]:
    if not results.rows:
        raise ResultsError("results without a row can be saved as .json only")
    records = []
    for number, (row, flat) in enumerate(zip(results.rows, results.tidy(), strict=True)):
        details: dict[str, Any] = {"row": dataclasses.asdict(row)}
        if number == 0:
            details |= {"format": FORMAT, "version": VERSION, "about": results.about}
        records.append({**flat, DETAILS: json.dumps(details)})
    return records


def _from_details(column: Sequence[object]) -> Results:
    try:
        found = [json.loads(str(text)) for text in column]
        plain = {key: found[0].get(key) for key in ("format", "version", "about")}
        return Results.from_object({**plain, "rows": [details["row"] for details in found]})
    except (ValueError, RecursionError, LookupError, TypeError, AttributeError) as error:
        if isinstance(error, ResultsError):
            raise
        raise ResultsError(f'the column "{DETAILS}" is not as podipc saves it: {error}') from error


def _to_csv(results: Results) -> bytes:
    return table((*COLUMNS, DETAILS), _records(results)).encode()


def _from_csv(data: bytes) -> Results:
    before = csv.field_size_limit(LARGEST)
    try:
        rows = list(csv.DictReader(io.StringIO(data.decode(), newline="")))
    except csv.Error as error:
        raise ResultsError(f"not CSV: {error}") from error
    finally:
        csv.field_size_limit(before)
    if not rows or DETAILS not in rows[0]:
        raise ResultsError(
            f'no column "{DETAILS}" with something in it: this table was not written by '
            "Results.save, and a flat one cannot be loaded again; load the JSON"
        )
    return _from_details([row[DETAILS] for row in rows])


def _parquet() -> Any:
    try:
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(
            f"Parquet needs pyarrow, which cannot be imported ({error}): "
            "pip install 'podipc[notebook]'"
        ) from error
    return pyarrow


def _to_parquet(results: Results) -> bytes:
    pyarrow = _parquet()
    types = dict.fromkeys(COLUMNS, pyarrow.float64())
    types |= dict.fromkeys(("method", "kind", "tensor", "error", DETAILS), pyarrow.string())
    counts = ("size", "n", "repetitions", "checked_whole", "checked_sampled")
    types |= dict.fromkeys(counts, pyarrow.int64())
    out = io.BytesIO()
    made = pyarrow.Table.from_pylist(_records(results), schema=pyarrow.schema(list(types.items())))
    pyarrow.parquet.write_table(made, out)
    return out.getvalue()


def _from_parquet(data: bytes) -> Results:
    pyarrow = _parquet()
    try:
        file = pyarrow.parquet.ParquetFile(io.BytesIO(data))
        if DETAILS not in file.schema_arrow.names:
            raise ResultsError(f'no column "{DETAILS}": not written by Results.save')
        # What a few compressed bytes say they unpack to.
        size = sum(file.metadata.row_group(i).total_byte_size for i in range(file.num_row_groups))
        if size > LARGEST:
            raise ResultsError(f"larger than {LARGEST >> 20} MiB when unpacked")
        column = file.read(columns=[DETAILS]).column(DETAILS).to_pylist()
    except (pyarrow.ArrowException, OSError) as error:
        raise ResultsError(f"not Parquet: {error}") from error
    return _from_details(column)


Format = tuple[Callable[[Results], bytes], Callable[[bytes], Results]]
FORMATS: dict[str, Format] = {
    ".json": (lambda results: results.to_json().encode(), lambda d: Results.from_json(d.decode())),
    ".csv": (_to_csv, _from_csv),
    ".parquet": (_to_parquet, _from_parquet),
}
"""How to write and how to read, by how the name of the file ends."""
