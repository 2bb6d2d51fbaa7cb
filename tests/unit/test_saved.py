"""Results saved in three formats and loaded again, and as a notebook shows them."""

import csv
import dataclasses
import html.parser
import os
import stat
import sys

import pytest
from support import ROOT

from podipc.lab import display, files
from podipc.lab.results import COLUMNS, Repetition, Results, ResultsError, Row

SUFFIXES = [".json", ".csv", ".parquet"]


@pytest.fixture(scope="module")
def results():
    return Results.load(ROOT / "tests/data/run.json")


def needs(suffix):
    if suffix == ".parquet":
        pytest.importorskip("pyarrow", reason="pyarrow is not installed")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_nothing_is_lost(results, tmp_path, suffix):
    needs(suffix)
    failed = Row("tcp", "podipc", 64, tensor='"a",\n;b', error="it could not, é\n")
    everything = Results(results.about, [*results.rows, failed])
    path = tmp_path / f"x{suffix}"
    everything.save(path)
    assert Results.load(path) == everything
    assert Results.load(str(path)) == everything


def test_flat_columns_are_for_others(results, tmp_path):
    results.save(tmp_path / "x.csv")
    with (tmp_path / "x.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == (*COLUMNS, "details")
    assert float(rows[0]["p50_ns"]) == results.rows[0].percentile(50)


def test_parquet_has_types(results, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    results.save(tmp_path / "x.parquet")
    found = parquet.read_table(tmp_path / "x.parquet").to_pydict()
    assert found["p50_ns"] == [row.percentile(50) for row in results.rows]
    assert found["size"] == [row.size for row in results.rows]


def test_pandas(results):
    pytest.importorskip("pandas", reason="pandas is not installed")
    frame = results.to_pandas()
    assert list(frame.columns) == list(COLUMNS)
    assert list(frame["p50_ns"]) == [row.percentile(50) for row in results.rows]
    assert frame.attrs["runtime"] == results.about["runtime"]
    assert list(Results({}, []).to_pandas().columns) == list(COLUMNS)


@pytest.mark.parametrize(
    ("module", "call"),
    [
        ("pandas", lambda r, p: r.to_pandas()),
        ("pyarrow", lambda r, p: r.save(p / "x.parquet")),
    ],
)
def test_what_is_missing_is_named(results, tmp_path, monkeypatch, module, call):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=r"pip install 'podipc\[notebook\]'"):
        call(results, tmp_path)


@pytest.mark.parametrize("name", ["x.xlsx", "x", "json"])
def test_other_names(results, tmp_path, name):
    with pytest.raises(ResultsError, match=r"ends in \.json, \.csv, \.parquet"):
        results.save(tmp_path / name)
    with pytest.raises(ResultsError, match=r"ends in \.json, \.csv, \.parquet"):
        Results.load(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("x.csv", b"", "no column"),
        ("x.csv", b"\xff\xfe", "x.csv: "),
        ("x.csv", b"method,size\nshm,64\n", "a flat one cannot be loaded again"),
        ("x.csv", b"details\nx\n", "not as podipc saves it"),
        ("x.csv", b"details\n[]\n", "not as podipc saves it"),
        ("x.csv", b"details\n{}\n", "not as podipc saves it"),
        ("x.csv", b'details\n"{""format"": 1, ""row"": {}}"\n', "not saved by podipc"),
        ("x.json", b"[" * 100_000, "not JSON"),
        ("x.json", b'{"format":"podipc-results","version":1,"about":[],"rows":[]}', "another type"),
        ("x.json", b'{"format":"podipc-results","version":1,"about":{},"rows":{}}', "another type"),
        ("x.parquet", b"", "not Parquet"),
        ("x.parquet", b"PAR1" * 100, "not Parquet"),
    ],
)
def test_what_is_not_results(tmp_path, name, content, says):
    needs(os.path.splitext(name)[1])
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ResultsError, match=says) as caught:
        Results.load(path)
    assert str(path) in str(caught.value)


def test_parquet_of_somebody_else(tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed")
    import pyarrow

    parquet.write_table(pyarrow.table({"x": [1]}), tmp_path / "x.parquet")
    with pytest.raises(ResultsError, match="not written by"):
        Results.load(tmp_path / "x.parquet")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("size", "64"),
        ("size", -1),
        ("size", True),
        ("method", 7),
        ("tensor", 7),
        ("error", 7),
        ("times_ns", [1.0]),
        ("times_ns", "x"),
        ("times_ns", [float("nan")] * 104),
        ("repetitions", []),
        ("repetitions", [{}]),
        ("repetitions", [dataclasses.asdict(Repetition(1, 5, 0, 9, 0, None, 0, 0))]),
    ],
)
def test_a_row_is_checked(results, field, value):
    found = {"format": "podipc-results", "version": 1, "about": {}}
    found["rows"] = [dataclasses.asdict(results.rows[0]) | {field: value}]
    with pytest.raises(ResultsError, match="does not have the fields of one"):
        Results.from_object(found)


def test_results_without_a_row(tmp_path):
    empty = Results({"runtime": "local"}, [])
    empty.save(tmp_path / "x.json")
    assert Results.load(tmp_path / "x.json") == empty
    with pytest.raises(ResultsError, match=r"\.json only"):
        empty.save(tmp_path / "x.csv")


# Files


def test_a_file_is_replaced_whole(tmp_path):
    path = tmp_path / "x"
    path.write_text("old")
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(path)
    files.write(link, b"new")
    assert path.read_bytes() == b"new"
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert {p.name for p in tmp_path.iterdir()} == {"x", "link"}


def test_what_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(OSError, match="nowhere") as refused:
        files.write(tmp_path / "nowhere" / "x", b"")
    assert refused.value.filename == str(tmp_path / "nowhere" / "x"), "and not that of the part"
    (tmp_path / "x").mkdir()
    with pytest.raises(OSError, match="x"):
        files.write(tmp_path / "x", b"")
    assert [p.name for p in tmp_path.iterdir()] == ["x"]


# As it is shown


class Reader(html.parser.HTMLParser):
    """The cells of each row."""

    def __init__(self, text):
        super().__init__()
        self.rows, self.tags = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data):
        if self.rows and self.rows[-1]:
            self.rows[-1][-1] += data


def test_html_is_sorted_and_says_where(results):
    text = results._repr_html_()
    head, *rows = Reader(text).rows
    assert tuple(head) == display.HEADS
    assert len(rows) == len(results.rows)
    first = [row.method for row in results.rows if row.size == 64]
    ordered = sorted((r for r in results.rows if r.size == 64), key=lambda row: row.percentile(50))
    assert [row[1] for row in rows[: len(first)]] == [row.method for row in ordered]
    fastest = next(r.method for r in ordered if r.kind != "floor")
    assert next(row[-1] for row in rows if row[1] == fastest) == "1.00"
    assert results.about["host"]["kernel"] in text
    assert "runtime local" in text
    assert "none was wrong" in text


def test_html_has_no_colour_of_its_own(results):
    """Those of the notebook are right in the light and in the dark."""
    text = results._repr_html_()
    assert "background" not in text
    assert "color:" not in text.replace("rgba(128,128,128", "")


def test_html_is_escaped():
    row = Row("<script>", "podipc", 64, error="<b>no</b>")
    text = Results({"host": {"cpu": "<i>"}}, [row])._repr_html_()
    assert {"script", "b", "i"}.isdisjoint(Reader(text).tags)
    assert "&lt;b&gt;no&lt;/b&gt;" in text


def test_repr_is_one_line(results):
    assert "\n" not in repr(results)
    assert f"{len({r.method for r in results.rows})} methods at 3 sizes" in repr(results)
    failed = Results({}, [Row("tcp", "podipc", 64, error="no")])
    assert "1 of 1 rows without figures" in repr(failed)
