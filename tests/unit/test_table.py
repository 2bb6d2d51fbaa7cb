"""The report: 80 columns, the fastest marked, crossovers in words."""

import io

import pytest

from podipc.lab import compare, table
from podipc.lab.results import Repetition, Results, Row


@pytest.fixture(scope="module")
def measured():
    sizes = [64 << n for n in range(12)]
    return compare(["shm", "mp-pipe", "C:memcpy"], sizes, repeat=1, rounds=5, quick=True)


def results(measured, rows):
    return Results(measured.about, rows)


def row(method, size, p50, *, kind="podipc", **more):
    made = Row(method, kind, size, **more)
    made.add(Repetition(p50, 1, p50, p50, 1, size / p50 * 1e9, 0, 0), [p50])
    return made


def test_80_columns(measured):
    text = table.lines(measured)
    assert max(map(len, text)) <= 80
    assert text[0]


def test_every_figure_is_there(measured):
    text = "\n".join(table.lines(measured))
    for one in measured.rows:
        assert table.duration(one.percentile(50)) in text
        assert table.rate(one.bytes_per_s) in text


def test_too_many_sizes_for_one_block_make_two(measured):
    text = table.lines(measured)
    start = text.index("round trip, median (p50)")
    block = text[start + 1 : text.index("", start)]
    heads = [line for line in block if line.startswith(" ")]
    assert len(heads) == 2
    assert " ".join(heads).split() == [
        *("64", "128", "256", "512", "1K", "2K", "4K", "8K", "16K", "32K", "64K", "128K")
    ]


def marked(text, title):
    start = text.index(title)
    return [
        (line.split()[0], word)
        for line in text[start + 2 : text.index("", start)]
        for word in line.split()[1:]
        if word.endswith("*")
    ]


def test_the_fastest_is_marked_but_never_the_floor(measured):
    rows = [
        row("shm", 64, 2000),
        row("shm", 1024, 9000),
        row("tcp", 64, 3000),
        row("tcp", 1024, 4000),
        row("C:tcp", 64, 100, kind="floor"),
        row("C:tcp", 1024, 100, kind="floor"),
    ]
    text = table.lines(results(measured, rows))
    expected = [("shm", "2.00µs*"), ("tcp", "4.00µs*")]
    assert marked(text, "round trip, median (p50)") == expected
    assert [m for m, _ in marked(text, "throughput, one way, bytes per second")] == ["shm", "tcp"]


def test_crossovers_in_words(measured):
    rows = [row("shm", s, 1000) for s in (64, 4096, 1 << 20)]
    rows += [row("tcp", s, t) for s, t in ((64, 40_000), (4096, 20_000), (1 << 20, 14_000))]
    rows += [row("file", s, t) for s, t in ((64, 90_000), (4096, 50_000), (1 << 20, 7_000))]
    said = table.crossovers(results(measured, rows))
    assert said == [
        "Fastest round trip: shm from 64 B to 1 MiB (7.0 to 90 times faster than file).",
        "At all sizes shm is 14 to 40 times faster than tcp, 7.0 to 90 times faster than file.",
        "Up to 4 KiB tcp is faster than file; from 1 MiB on file is 2.0 times faster.",
    ]


def test_nothing_is_said_of_what_is_not_clear(measured):
    rows = [row("shm", 64, 1000), row("shm", 128, 1100), row("tcp", 64, 1100)]
    rows += [row("tcp", 128, 1000)]
    said = table.crossovers(results(measured, rows))
    assert len(said) == 1
    assert said[0].startswith("Fastest round trip: shm at 64 B (not clearly ahead of tcp); tcp at")


def test_a_change_of_places_is_told_of_no_size_where_it_is_not_sure(measured):
    sizes = (64, 4096, 1 << 19, 1 << 22, 1 << 24)
    rows = [row("shm", s, 1000) for s in sizes]
    rows += [row("tcp", s, t) for s, t in zip(sizes, (1100, 2000, 300, 700, 950), strict=True)]
    said = table.crossovers(results(measured, rows))
    assert said[-1] == (
        "At 4 KiB shm is faster than tcp; from 512 KiB to 4 MiB tcp is 1.4 to 3.3 times faster."
    )


def test_what_one_repetition_denies_is_not_said(measured):
    rows = [row("shm", 64, 1000), row("tcp", 64, 5000)]
    assert len(table.crossovers(results(measured, rows))) == 2
    for one, p50 in zip(rows * 2, (1000, 900, 1000, 5000), strict=True):
        one.add(Repetition(p50, 1, p50, p50, 1, None, 0, 0), [p50])
    assert len(table.crossovers(results(measured, rows))) == 1


def test_what_failed_is_told_once_with_its_sizes(measured):
    rows = [row("shm", 64, 1000), Row("shm", "podipc", 128, error="no room"), row("tcp", 64, 5000)]
    rows += [Row("zmq", "peer", s, error="not installed: " + "x " * 60) for s in (64, 128)]
    text = table.lines(results(measured, rows))
    assert "Not measured: shm at 128: no room" in text
    assert sum(line.startswith("Not measured: zmq: not installed") for line in text) == 1
    assert max(map(len, text)) <= 80


def test_wrong_tensors_are_not_passed_over(measured):
    bad = Row("shm", "podipc", 64, error="3 arrived wrong", wrong=True)
    assert "SOME ARRIVED WRONG" in " ".join(table.lines(results(measured, [bad])))


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0.4, "0ns"),
        (999.4, "999ns"),
        (999.6, "1.00µs"),
        (9949, "9.95µs"),
        (9951, "10.0µs"),
        (123_456, "123µs"),
        (999_600, "1.00ms"),
        (1.5e9, "1.50s"),
        (123e9, "123s"),
    ],
)
def test_durations(ns, text):
    assert table.duration(ns) == text


@pytest.mark.parametrize(
    ("rate", "text"),
    [(0, "0.00K"), (870_000, "870K"), (999_600, "1.00M"), (45.6e9, "45.6G"), (2e12, "2.00T")],
)
def test_rates(rate, text):
    assert table.rate(rate) == text


@pytest.mark.parametrize(("ratio", "text"), [(1.26, "1.3"), (14.4, "14"), (234, "230")])
def test_times(ratio, text):
    assert table.times(ratio) == text


def test_not_a_terminal_gets_plain_lines(measured):
    out = io.StringIO()
    table.show(measured, out)
    assert out.getvalue().splitlines() == table.lines(measured)
