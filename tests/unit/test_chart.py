"""Figures of what a notebook measures by itself: drawn, labelled, and nothing overlaps."""

import numpy as np
import pytest
from test_plots import NARROW, check_layout, texts, written

matplotlib = pytest.importorskip("matplotlib", reason="the extra plot is not installed")

from podipc.lab import quick, spoken  # noqa: E402
from podipc.lab.plots import chart, style  # noqa: E402

PLACE = "runtime plain\u00a0· a machine, 2 CPUs"
SIZES = [1 << p for p in range(6, 27, 2)]
SAID = {"title": "One took 3 times as long as the other", "caption": "So.", "about": PLACE}


def draw_lines(size=None, **wishes):
    flat = [1000.0 + s % 7 for s in range(len(SIZES))]
    growing = np.array([1000 + s / 5 for s in SIZES])
    return chart.lines(
        {"loan": (SIZES, flat), "one copy": (SIZES, growing, growing / 2, growing * 3)},
        x="size (B, KiB, MiB)",
        y="hand-off (µs, ms)",
        x_axis="bytes",
        size=size,
        **{**SAID, "y_axis": "time", **wishes},
    )


def draw_scatter(size=None):
    clouds = {f"run {i}": (range(30), [j + i for j in range(30)]) for i in range(3)}
    return chart.scatter(clouds, x="time (s)", y="memory (MiB)", size=size, **SAID)


def draw_cdf(size=None):
    times = {"shm": np.geomspace(900, 9e4, 300), "polling": np.geomspace(1e5, 1e7, 50)}
    return chart.cdf(times, size=size, **SAID)


def draw_bars(size=None):
    values = {"spin": [900.0, 1000.0, 1300.0], "a futex": 5e4, "asking each millisecond": 9e5}
    return chart.bars(
        values, x="wake-up (µs)", text=spoken.duration, x_axis="time", size=size, **SAID
    )


def draw_matrix(size=None):
    return chart.matrix(
        ["net", "pid", "a volume of both"],
        ["producer", "consumer"],
        [["4026531840", "4026531840"], ["4026532201", "4026532202"], ["/shared", ""]],
        groups=[[1, 1], [1, 2], [1, None]],
        x="container (by name)",
        size=size,
        **SAID,
    )


DRAWN = [draw_lines, draw_scatter, draw_cdf, draw_bars, draw_matrix]


@pytest.mark.parametrize("size", [None, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("draw", DRAWN, ids=lambda f: f.__name__)
def test_every_figure(draw, size):
    figure = draw(size)
    check_layout(figure)
    assert written(figure, "title") == SAID["title"]
    caption = written(figure, "caption").replace("\u00a0", " ")
    assert "So." in caption
    assert "runtime plain · a machine, 2 CPUs" in caption
    image, _ = figure._repr_png_()
    assert image.startswith(b"\x89PNG")


def test_lines_are_what_was_given():
    (ax,) = draw_lines().axes
    loan, copy = ax.lines
    assert list(loan.get_xdata()) == SIZES
    assert list(copy.get_ydata()) == [1000 + s / 5 for s in SIZES]
    assert len(ax.collections) == 1, "one has a band"
    assert {t.get_text() for t in ax.texts} == {"loan", "one copy"}


def test_a_gap_and_something_that_happened():
    y = [1, 2, float("nan"), 2, 1]
    figure = chart.lines(
        {"queue": (range(5), y)}, x="s", y="(1)", marks={2.0: "agent restarted"}, **SAID
    )
    check_layout(figure)
    (ax,) = figure.axes
    assert np.isnan(ax.lines[0].get_ydata()).sum() == 1
    assert ax.get_ylim()[0] == 0, "from zero"
    assert "agent restarted" in [t.get_text() for t, _ in texts(figure)]


def test_what_is_drawn_ends_below_the_texts_of_marks():
    figure = chart.lines(
        {"producer": (range(5), [20, 60, 118, 118, 118])},
        x="time (s)",
        y="memory (MiB)",
        marks={0.0: "kept as received", 3.0: "kept as copies"},
        **SAID,
    )
    (ax,) = figure.axes
    _, top = ax.transData.transform((0, 118))
    marks = [box for text, box in texts(figure) if text.get_text().startswith("kept")]
    assert len(marks) == 2
    assert all(box.y0 > top for box in marks)


@pytest.mark.parametrize("size", [None, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize(
    ("low", "high"), [(0.7e6, 1.9e6), (0.95e6, 1.3e6), (1e6, 4.7e6), (995e3, 1e6), (2.2e6, 3e6)]
)
def test_an_axis_of_less_than_a_decade_can_be_read(low, high, size):
    figure = chart.cdf({"a": np.geomspace(low, high, 100)}, size=size, **SAID)
    check_layout(figure)
    (ax,) = figure.axes
    left, right = ax.get_xlim()
    shown = [
        label
        for at, label in zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
        if left <= at <= right
    ]
    assert len({label.get_text() for label in shown}) >= 2


def test_a_distribution_is_that_of_the_samples():
    (ax,) = chart.cdf({"a": [4, 1, 3, 2]}, **SAID).axes
    (line,) = ax.lines
    assert list(line.get_xdata()) == [1, 2, 3, 4]
    assert list(line.get_ydata()) == [25, 50, 75, 100]
    marked = [line.get_xdata()[i] for i in line.get_markevery()]
    assert marked == [2, 4], "the median and p99"


def test_a_bar_is_the_median_and_says_it():
    figure = chart.bars({"a": [1, 9, 2], "b": 4}, x="CPU time (s)", **SAID)
    (ax,) = figure.axes
    assert [bar.get_width() for bar in ax.patches] == [2, 4]
    assert {t.get_text() for t in ax.texts} == {"2", "4"}
    assert [list(line.get_xdata()) for line in ax.lines] == [[1, 9, 2]], "each sample is seen"


def test_fields_of_the_same_group_look_the_same():
    (ax,) = draw_matrix().axes
    full = [p for p in ax.patches if p.get_alpha() == 1]
    colours = [p.get_facecolor() for p in full]
    assert colours[0] == colours[1]
    assert colours[2] != colours[3]
    (inner,) = (p for p in ax.patches if p not in full)
    assert inner.get_linestyle() == "--", "not by colour alone"
    assert inner.get_center()[0] == full[3].get_center()[0]
    assert len(full) == 5, "what is in no group is empty"


def test_methods_have_their_colours():
    names = [["tcp", "shm"], ["shm", "a stranger"]]
    from matplotlib.colors import to_rgba

    (ax,) = chart.matrix("ab", "cd", names, groups=names, **SAID).axes
    full = [p.get_facecolor() for p in ax.patches if p.get_alpha() == 1]
    assert full[:3] == [to_rgba(style.look(name).colour) for name in ("tcp", "shm", "shm")]
    assert len(full) == 4


def test_shades():
    shades = [[0.0, 1.0], [0.5, float("nan")]]
    figure = chart.matrix("ab", "cd", [["0", "1"], ["0.5", ""]], shades=shades, **SAID)
    (ax,) = figure.axes
    alphas = [round(p.get_alpha(), 2) for p in ax.patches]
    assert alphas == [0.05, 0.4, 0.22]


def test_looks():
    looks = chart.looks(["a", "shm", "b", "tcp"])
    assert looks["shm"] == style.look("shm")
    assert looks["tcp"] == style.look("tcp")
    assert len({look.colour for look in looks.values()}) == 4
    many = chart.looks([f"n{i}" for i in range(16)])
    assert len(set(many.values())) == 16, "and still each its own"


def test_percentiles():
    xs, middle, low, high = chart.percentiles({8: range(101), 2: [5]})
    assert (xs, middle, low, high) == ([2, 8], [5, 50], [5, 1], [5, 99])


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: chart.lines({}, x="", y="", **SAID), "nothing to draw"),
        (lambda: chart.cdf({}, **SAID), "nothing to draw"),
        (lambda: chart.cdf({"a": []}, **SAID), "'a' has no samples"),
        (lambda: chart.bars({"a": [float("nan")]}, x="", **SAID), "'a' has values that are not"),
        (lambda: chart.lines({"a": ([1, 2], [1])}, x="", y="", **SAID), "'a': parts of 2, 1 po"),
        (lambda: chart.lines({"a": ([], [])}, x="", y="", **SAID), "'a' has no points"),
        (lambda: chart.scatter({"a": ([1],)}, x="", y="", **SAID), "'a' has 1 parts"),
        (lambda: chart.matrix(["a"], ["b"], [["1", "2"]], **SAID), "texts: not 1 rows of 1"),
        (lambda: chart.matrix([], [], [], **SAID), "nothing to draw"),
        (lambda: draw_lines(y_axis="bytes"), "y_axis='bytes': it is linear, time, rate, count"),
        (lambda: draw_lines(theme="blue"), "no theme 'blue'"),
    ],
)
def test_wrong_wishes(call, says):
    with pytest.raises(ValueError, match=says):
        call()


@pytest.mark.parametrize(
    ("value", "expected"), [(None, False), ("", False), ("0", False), ("1", True)]
)
def test_quick(monkeypatch, value, expected):
    monkeypatch.delenv("PODIPC_QUICK", raising=False)
    if value is not None:
        monkeypatch.setenv("PODIPC_QUICK", value)
    assert quick() is expected


def test_a_median_is_not_covered_by_its_samples():
    figure = chart.bars({"a": [1, 2, 2, 2, 3]}, x="s", title="a", x_axis="time")
    median, samples = sorted(figure.axes[0].lines, key=lambda line: len(line.get_xdata()))
    assert len(samples.get_xdata()) == 5
    assert median.get_zorder() > samples.get_zorder()
