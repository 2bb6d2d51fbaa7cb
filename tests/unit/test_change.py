"""Whether a difference of two runs is more than noise."""

import pytest
from support import ROOT

from podipc.lab.change import change, changes
from podipc.lab.results import Repetition, Results, Row


def row(*medians, rates=()):
    made = Row("shm", "podipc", 64)
    for number, p50 in enumerate(medians):
        rate = rates[number] if rates else None
        made.add(Repetition(None, 1, p50, p50, 0, rate, 0, 0), [p50])
    return made


@pytest.mark.parametrize(
    ("before", "after", "ratio", "exceeds"),
    [
        ((100, 101, 102), (200, 202, 204), 2, True),
        ((200, 202, 204), (100, 101, 102), 0.5, True),
        ((100, 101, 102), (105, 106, 107), 106 / 101, False),  # apart, yet under 10 %
        ((100, 150, 200), (190, 300, 400), 2, False),  # one repetition reaches the other run
        ((100, 150, 200), (201, 240, 300), 1.6, False),  # apart, yet within the spreads
        ((100, 101), (200, 202), 2, True),
        ((100,), (200, 202), 2.01, None),
        ((100, 101), (200,), 200 / 100.5, None),
    ],
)
def test_round_trips(before, after, ratio, exceeds):
    found = change(row(*before), row(*after))
    assert found.ratio == pytest.approx(ratio, rel=0.01)
    assert found.exceeds_noise is exceeds
    back = change(row(*after), row(*before))
    assert back.ratio == pytest.approx(1 / found.ratio)
    assert back.exceeds_noise is exceeds


def test_throughput():
    found = change(row(1, 1, rates=(1e9, 1e9)), row(1, 1, rates=(2e9, 2e9)), "bytes_per_s")
    assert (found.ratio, found.exceeds_noise, found.verdict) == (2, True, "higher")


def test_without_figures():
    failed = Row("shm", "podipc", 64, error="it could not")
    assert change(failed, row(1, 1)) is None
    assert change(row(1, 1), failed) is None
    assert change(row(1, 1), row(1, 1), "bytes_per_s") is None


def test_a_run_has_not_changed_from_itself():
    results = Results.load(ROOT / "tests/data/run.json")
    found = [changed for _, changed in changes(results, results)]
    assert len(found) == len(results.rows)
    assert all(c.ratio == 1 and c.exceeds_noise is False for c in found)


def test_rows_that_only_one_run_has():
    results = Results.load(ROOT / "tests/data/run.json")
    other = Results(results.about, results.rows[1:])
    found = [changed for _, changed in changes(other, results)]
    assert found[0] is None
    assert None not in found[1:]
