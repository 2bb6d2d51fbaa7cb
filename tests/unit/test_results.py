"""Results are rows: saved, loaded, flattened; measured once, by the fixture, for real."""

import csv
import io
import json
import math

import numpy as np
import pytest

from podipc import lab
from podipc.lab import display, driver, page, plan
from podipc.lab.plots import data
from podipc.lab.results import COLUMNS, PERCENTILES, Repetition, Results, ResultsError, Row


@pytest.fixture(scope="module")
def measured():
    chosen = ["shm", "mp-pipe", "C:memcpy", "C:futex"]
    return lab.compare(chosen, [64, "64K"], repeat=2, rounds=20, quick=True)


def test_every_method_has_a_row_at_every_size(measured):
    at = [(row.method, row.size) for row in measured.rows]
    assert len(set(at)) == len(at)
    assert {a for a in at if not a[0].startswith("C:futex")} == {
        (name, size) for name in ("shm", "mp-pipe", "C:memcpy") for size in (64, 65536)
    }
    assert [row.size for row in measured.rows if row.method == "C:futex"] == [64]


def test_figures_are_in_order_and_positive(measured):
    for row in measured.rows:
        assert row.error is None
        assert len(row.repetitions) == measured.about["plan"]["repeated"]
        assert row.n == sum(r.n for r in row.repetitions) > 0
        assert len(row.times_ns) == len(PERCENTILES)
        assert row.times_ns == sorted(row.times_ns)
        assert 0 < row.times_ns[0] <= row.percentile(50) <= row.times_ns[-1]
        assert (row.cold_ns is None) == (row.kind == "floor")
        assert (row.bytes_per_s is None) == (row.method == "C:futex")
        assert row.checked_whole == row.checked_sampled == 0 or row.kind != "floor"


def test_json_round_trip(measured, tmp_path):
    path = tmp_path / "results.json"
    measured.save(path)
    assert Results.load(path) == Results(json.loads(json.dumps(measured.about)), measured.rows)


def test_about_names_machine_kernel_limits_versions_runtime(measured):
    about = measured.about
    assert about["host"]["kernel"]
    assert about["versions"]["numpy"]
    assert about["runtime"] == "local"
    assert set(about["containers"]) == {"producer", "consumer"}
    for container in about["containers"].values():
        assert set(container["limits"]) == {"memory", "cpus"}
    assert about["plan"]["sizes"] == [64, 65536]


def test_csv(measured):
    rows = list(csv.DictReader(io.StringIO(measured.to_csv())))
    assert [tuple(row) for row in rows] == [COLUMNS] * len(measured.rows)
    for text, row in zip(rows, measured.rows, strict=True):
        assert text["method"] == row.method
        assert int(text["size"]) == row.size
        assert float(text["p50_ns"]) == row.percentile(50)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[", "not JSON"),
        ("[]", "not saved by podipc"),
        ('{"format": "other"}', "not saved by podipc"),
        ('{"format": "podipc-results", "version": 99}', "version 99"),
        ('{"format": "podipc-results", "version": 1}', "rows"),
        ('{"format": "podipc-results", "version": 1, "about": {}, "rows": [{}]}', "row"),
    ],
)
def test_what_is_not_results(tmp_path, text, says):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=says) as caught:
        Results.load(path)
    assert str(path) in str(caught.value)


def test_medians_that_are_mostly_0_are_not_results(measured):
    found = json.loads(measured.to_json())
    once = found["rows"][0]["repetitions"][0]
    found["rows"][0]["repetitions"] = [once | {"n": n, "p50_ns": n} for n in (0, 0, 9)]
    with pytest.raises(ResultsError, match="a median, or theirs is 0"):
        Results.from_json(json.dumps(found))


def row_of(*times):
    """A row of one repetition with these times."""
    row = Row("shm", "podipc", 64)
    middle = sorted(times)[len(times) // 2]
    row.add(Repetition(9, len(times), middle, middle, 0, None, 0, 0), times)
    return row


def test_no_percentile_from_too_few_rounds():
    assert row_of(*range(1, 100)).percentile(99) is None
    assert row_of(*range(1, 101)).percentile(99) == pytest.approx(99, abs=1)
    assert row_of(*range(1, 101)).percentile(99.9) is None
    assert row_of(*range(1, 1001)).percentile(99.9) == pytest.approx(999, abs=1)


def test_p50_is_the_median_of_the_repetitions():
    row = Row("shm", "podipc", 64)
    pool = []
    for median, n in ((10, 3), (20, 3), (90, 300)):
        pool += [median] * n
        row.add(Repetition(0, n, median, median, 0, None, 0, 0), pool)
    assert row.percentile(50) == 20
    assert row.noise == (90 - 10) / 20


def test_progress_counts_what_there_is_to_do():
    class Table(driver._Table):
        def _turn(self, *turn):
            turns.append(turn)

    told, turns = [], []
    made = plan.make(["shm", "C:futex"], [64, 128, 256], repeat=2)
    Table(made, None).run(None, lambda done, total, text: told.append((done, total)), math.inf)
    assert told == [(done, 8) for done in range(9)]
    assert len(turns) == 8


def test_cpu_time_of_a_file_is_that_of_all_its_bytes(tmp_path):
    path = tmp_path / "two.npz"
    np.savez(path, a=np.zeros(1000, np.uint8), b=np.zeros(3000, np.uint8))
    found = lab.compare(["shm"], input=path, repeat=1, rounds=5, quick=True, runtime="plain")
    (all_of_it,) = (row for row in found.rows if row.tensor == "*")
    assert all_of_it.size == 4000
    (r,) = all_of_it.repetitions
    # Round trips and checks count each tensor once a pass, and so does the stream.
    assert r.sent < all_of_it.checked_sampled
    spent = (r.ask_cpu_ns + r.answer_cpu_ns) / (r.sent * 4000)
    assert data.cpu_per_gb(all_of_it) == pytest.approx(spent)
    names = ("a", "b", "all")
    assert display.html(found).count("not measured") == 0
    assert all(f">{name}</td>" in page.html(found, ()) for name in names)


def test_a_row_without_figures():
    row = Row("shm", "podipc", 64, error="it could not")
    assert row.percentile(50) is row.noise is row.cold_ns is row.bytes_per_s is None
    assert Results({}, [row]).tidy()[0]["error"] == "it could not"
