"""Figures are drawn, say what they show and where it was measured, and nothing overlaps."""

import copy
import itertools
import json
import sys
import xml.etree.ElementTree as ET

import numpy as np
import pytest
from support import ROOT

from podipc.lab import methods, plots, table
from podipc.lab.results import Repetition, Results, Row

matplotlib = pytest.importorskip("matplotlib", reason="the extra plot is not installed")

from podipc.lab.plots import data, style, svg  # noqa: E402
from podipc.lab.plots.sheet import Sheet, spread, wrap  # noqa: E402
from podipc.lab.plots.winners import FEWEST, fields  # noqa: E402

SINGLE = [name for name, kind in plots.KINDS.items() if not kind.needs_two]
NARROW = (3.9, None)


@pytest.fixture(scope="module")
def results():
    """Of a real run."""
    return Results.load(ROOT / "tests/data/run.json")


@pytest.fixture(scope="module")
def again():
    """The same, run again."""
    return Results.load(ROOT / "tests/data/again.json")


def texts(figure):
    """All that is written, with the box of it in pixels."""
    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    found = list(figure.texts)
    for ax in figure.axes:
        found += [*ax.texts, ax.xaxis.label, ax.yaxis.label]
        for axis in (ax.xaxis, ax.yaxis):
            low, high = sorted(axis.get_view_interval())
            # Others are there, too, and are not drawn.
            found += [t.label1 for t in axis.get_major_ticks() if low <= t.get_loc() <= high]
        if ax.get_legend():
            found += ax.get_legend().get_texts()
    for text in found:
        if text.get_text().strip() and text.get_visible():
            # Of an annotation without its leader.
            box = matplotlib.text.Text.get_window_extent(text, renderer)
            yield text, box


def check_layout(figure):
    """Everything is within the figure, and no text on another."""
    boxes = [(text.get_text(), box) for text, box in texts(figure)]
    width, height = figure.get_size_inches() * figure.dpi
    for what, box in boxes:
        inside = box.x0 >= 0 and box.y0 >= 0 and box.x1 <= width and box.y1 <= height
        assert inside, f"{what!r} at {box} leaves the figure"
    for (what, box), (other, there) in itertools.combinations(boxes, 2):
        wide = min(box.x1, there.x1) - max(box.x0, there.x0)
        tall = min(box.y1, there.y1) - max(box.y0, there.y0)
        # Boxes have room for ascenders and descenders above and below most letters.
        assert wide <= 1 or tall <= 3, f"{what!r} is on {other!r}"


def written(figure, gid):
    return " ".join(t.get_text() for t in figure.texts if t.get_gid() == gid).replace("\n", " ")


def check_says_all(figure, results):
    """A title, units at both axes, and below what it was measured on."""
    assert len(written(figure, "title")) > 10
    caption = written(figure, "caption").replace("\u00a0", " ")
    for part in (f"runtime {results.about['runtime']}", results.about["host"]["cpu"]):
        assert part in caption
    (ax,) = figure.axes
    assert "(" in ax.get_xlabel() or " per " in ax.get_xlabel()
    ticks = {t.get_text() for t in ax.get_yticklabels()}
    names = set(methods.every())
    assert "(" in ax.get_ylabel() or ticks <= names


@pytest.mark.parametrize("size", [None, NARROW], ids=["wide", "narrow"])
@pytest.mark.parametrize("name", SINGLE)
def test_every_figure(results, name, size):
    figure = plots.draw(name, results, size=size)
    check_layout(figure)
    check_says_all(figure, results)


@pytest.mark.parametrize("name", list(plots.KINDS))
def test_two_runs(results, again, name):
    figure = plots.draw(name, again, against=results, size=NARROW)
    check_layout(figure)
    if plots.KINDS[name].two:
        assert written(figure, "caption").count("runtime local") == 2


@pytest.mark.parametrize("chosen", [["tcp", "shm"], ["C:memcpy"]], ids=str)
@pytest.mark.parametrize("name", ["latency", "distribution"])
def test_few_methods(results, name, chosen):
    figure = plots.draw(name, results, methods=chosen)
    check_layout(figure)
    (ax,) = figure.axes
    assert {line.get_label() for line in ax.lines} == set(chosen)


@pytest.mark.parametrize("name", SINGLE)
def test_one_size(results, name):
    small = Results(results.about, [row for row in results.rows if row.size == 64])
    figure = plots.draw(name, small)
    check_layout(figure)
    check_says_all(figure, small)


@pytest.mark.parametrize("name", SINGLE)
def test_a_tensor_without_elements_has_its_place(results, name):
    """In a file of real tensors there may be one."""
    there = copy.deepcopy(results)
    for row in there.rows:
        row.size = 0 if row.size == 64 else row.size
    figure = plots.draw(name, there)
    check_layout(figure)
    (ax,) = figure.axes
    if name in ("latency", "throughput"):
        assert {"0 B", "4 KiB", "1 MiB"} <= {label.get_text() for label in ax.get_xticklabels()}
    for row in there.rows:
        row.size = 0
    if name not in ("crossover", "cpu"):  # in bytes there is nothing of it
        check_layout(plots.draw(name, there))


@pytest.mark.parametrize("name", SINGLE)
def test_what_was_not_measured_is_not_drawn(results, name):
    holes = copy.deepcopy(results)
    for row in holes.rows:
        if row.method == "http" or (row.method, row.size) == ("tcp", 4096):
            row.error, row.repetitions, row.times_ns = "it could not", [], []
    figure = plots.draw(name, holes)
    check_layout(figure)
    (ax,) = figure.axes
    assert "http" not in {text.get_text() for text, _ in texts(figure)}
    if name == "latency":
        (tcp,) = (line for line in ax.lines if line.get_label() == "tcp")
        assert np.isnan(tcp.get_ydata()).sum() == 1


def test_lines_are_what_was_measured(results):
    (ax,) = plots.latency(results).axes
    for line in ax.lines:
        rows = {r.size: r for r in results.rows if r.method == line.get_label()}
        if line.get_label() != "C:futex":  # it has no size
            assert dict(zip(*line.get_data(), strict=True)) == {
                size: row.percentile(50) for size, row in rows.items()
            }
    (ax,) = plots.throughput(results).axes
    (line,) = (line for line in ax.lines if line.get_label() == "shm")
    assert list(line.get_ydata()) == [r.bytes_per_s for r in results.rows if r.method == "shm"]


def test_a_winner_is_the_fastest_that_keeps_up(results):
    """The map against its definition, at many rates."""
    rows = [r for r in results.rows if r.kind != "floor"]
    for by in ("latency", "cpu"):
        found = fields(results, by)
        for size in {row.size for row in rows}:
            for rate in np.geomspace(FEWEST * 1.01, 1e8, 60):
                able = [r for r in rows if r.size == size and r.bytes_per_s >= rate * size]
                here = [f.method for f in found if f.size == size and f.low < rate <= f.high]
                cost = data.median if by == "latency" else data.cpu_per_gb
                assert here == ([min(able, key=cost).method] if able else [])


def test_the_key_of_the_map_looks_as_its_fields_and_names_what_can_be_seen(results):
    rows = []
    for method, kind, ns, per_s in (
        ("shm", "podipc", 1000, 1e6),
        ("shm-block", "podipc", 2000, 1.01e6),
        ("iceoryx2", "peer", 5000, 1.2e6),
    ):
        row = Row(method, kind, 64)
        row.add(Repetition(ns, 1, ns, ns, 1, 64 * per_s, 0, 0), [ns])
        rows.append(row)
    (ax,) = plots.crossover(Results(results.about, rows)).axes
    legend = ax.get_legend()
    key = {
        t.get_text(): p.get_hatch()
        for t, p in zip(legend.get_texts(), legend.get_patches(), strict=True)
    }
    assert key == {"shm": "", "iceoryx2": "//"}


def test_a_change_is_legible_without_a_background(results):
    slower = copy.deepcopy(results)
    for row in slower.rows:
        for r in row.repetitions:
            r.p50_ns *= 100
    (ax,) = plots.changes(slower, against=results).axes
    told = [t for t in ax.texts if t.get_text().startswith("▲")]
    assert told
    assert all(t.get_color() == style.ON_COLOUR for t in told)
    assert len(ax.patches) == len([t for t in ax.texts if t.get_gid() == "cell"]), "all framed"


def test_a_method_looks_the_same_everywhere(results):
    for name in ("latency", "throughput", "distribution"):
        (ax,) = plots.draw(name, results).axes
        for line in ax.lines:
            assert line.get_color() == style.look(line.get_label()).colour


def linear(colour):
    value = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def oklab(rgb):
    to_lms = [[0.4122, 0.5363, 0.0514], [0.2119, 0.6807, 0.1074], [0.0883, 0.2817, 0.6300]]
    to_lab = [[0.2105, 0.7936, -0.0041], [1.9780, -2.4286, 0.4506], [0.0259, 0.7828, -0.8087]]
    return np.array(to_lab) @ np.cbrt(np.clip(np.array(to_lms) @ rgb, 0, None))


# Machado, Oliveira, Fernandes 2009: deuteranopia, protanopia.
SEEN_AS = [
    np.eye(3),
    [[0.3673, 0.8607, -0.2280], [0.2801, 0.6725, 0.0474], [-0.0118, 0.0429, 0.9689]],
    [[0.1523, 1.0526, -0.2049], [0.1145, 0.7863, 0.0992], [-0.0039, -0.0481, 1.0520]],
]


def test_colours_differ_for_everybody():
    ours = [m.name for m in methods.ours().values() if not m.extra]
    for one, other in itertools.combinations(ours, 2):
        a, b = linear(style.look(one).colour), linear(style.look(other).colour)
        for seen in SEEN_AS:
            assert np.linalg.norm(oklab(seen @ a) - oklab(seen @ b)) > 0.06, (one, other)


def test_colours_stand_out_from_white_and_from_black():
    for name in methods.every():
        luminance = linear(style.look(name).colour) @ [0.2126, 0.7152, 0.0722]
        assert 1.05 / (luminance + 0.05) >= 3, name
        assert (luminance + 0.05) / (linear("#0d1117") @ [0.2126, 0.7152, 0.0722] + 0.05) >= 3, name


def test_every_method_has_a_look_of_its_own():
    assert set(style.LOOKS) == set(methods.every())
    assert len(set(style.LOOKS.values())) == len(style.LOOKS)
    assert style.look("something else") == style.look("something else")


@pytest.mark.parametrize("theme", ["light", "dark", "auto"])
def test_themes(results, theme):
    figure = plots.latency(results, theme=theme)
    assert style.background_of(figure) == style.THEMES[theme].background


def test_a_notebook_shows_it(results):
    image, size = plots.latency(results)._repr_png_()
    assert image.startswith(b"\x89PNG")
    assert size["width"] == 691  # 7.2 inches


def test_into_axes_of_somebody_else(results):
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    mine = Figure(figsize=(9, 5))
    FigureCanvasAgg(mine)
    left, right = mine.subplots(1, 2)
    for draw in (plots.latency, plots.crossover, plots.cold, plots.cpu, plots.distribution):
        left.clear()
        assert draw(results, ax=left) is mine
        mine.canvas.draw()
        assert left.get_title(loc="left")
    assert not right.has_data()
    assert not mine.texts


def test_pyplot_is_left_alone(results):
    plots.latency(results)
    if pyplot := sys.modules.get("matplotlib.pyplot"):
        assert not pyplot.get_fignums()


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda r: plots.latency(r, methods=["nothing"]), "no method 'nothing' in the results"),
        (lambda r: plots.latency(r, theme="blue"), "no theme 'blue'; there are light, dark, auto"),
        (lambda r: plots.distribution(r, at=65), "nothing of 65 bytes in the results"),
        (lambda r: plots.cpu(r, methods=["C:memcpy"]), "no figures of that kind"),
        (lambda r: plots.crossover(r, by="price"), "'latency' or 'cpu'"),
        (lambda r: plots.draw("pie", r), "no figure 'pie'; there are"),
        (lambda r: plots.draw("changes", r), "two runs"),
        (lambda r: plots.latency(Results({}, [])), "no figures of that kind"),
        (lambda r: plots.changes(r, against=Results({}, [])), "no method and size in common"),
        (lambda r: plots.save(plots.latency(r), "figure.gif"), "saved as .svg, .png, .pdf"),
        (lambda r: plots.timeline([]), "1 to 60 events; there are 0"),
        (lambda r: plots.timeline([("a", "b", 0, 1)] * 61), "1 to 60 events; there are 61"),
        (lambda r: plots.memory([]), "no samples"),
    ],
)
def test_wrong_wishes(results, call, says):
    with pytest.raises(ValueError, match=says):
        call(results)


def test_without_matplotlib(results, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"pip install 'podipc\[plot\]'"):
        plots.latency(results)


def test_results_that_say_nothing_of_the_machine(results):
    bare = Results({"host": "?", "versions": None}, results.rows)
    figure = plots.latency(bare)
    assert "runtime unknown" in written(figure, "caption").replace("\u00a0", " ")


# Saved


@pytest.mark.parametrize("suffix", [".svg", ".png", ".pdf"])
def test_saved(results, tmp_path, suffix):
    path = tmp_path / f"figure{suffix}"
    plots.save(plots.crossover(results, theme="light"), path)
    start = {".svg": b"<?xml", ".png": b"\x89PNG", ".pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)
    assert b"podipc" in path.read_bytes()[:2048] or suffix == ".pdf"
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("name", SINGLE)
def test_svg_has_no_style_but_classes_and_its_references_lead_somewhere(results, name):
    drawn = svg.drawing(plots.draw(name, results, theme="light"), "it", "what it shows")
    root = ET.fromstring(drawn.element)
    assert root.get("role") == "img"
    assert root.get("aria-label") == "what it shows"
    every = list(root.iter())
    ids = [e.get("id") for e in every if e.get("id")]
    assert len(set(ids)) == len(ids)
    assert all(i.startswith("it-") for i in ids)
    assert not [e for e in every if e.get("style")]
    used = {e.get("class") for e in every} - {None}
    assert used == set(drawn.rules)
    for e in every:
        if href := e.get("href"):
            assert href[1:] in ids
    for text in [*drawn.rules.values(), *(e.get("clip-path", "") for e in every)]:
        if "url(" in text:
            assert text.partition("url(#")[2].partition(")")[0] in ids
    assert "runtime" in "".join(root.itertext())  # text, not outlines


def test_svg_is_dark_for_those_who_prefer_it(results, tmp_path):
    figure = plots.latency(results, theme="light")
    plots.save(figure, tmp_path / "follow.svg", follow=True)
    plots.save(figure, tmp_path / "fixed.svg")
    follow, fixed = ((tmp_path / f"{n}.svg").read_text() for n in ("follow", "fixed"))
    dark = follow.partition("@media (prefers-color-scheme: dark)")[2]
    assert style.THEMES["dark"].text in dark
    assert style.THEMES["light"].text not in dark.partition("</style>")[0]
    assert "@media" not in fixed
    assert style.THEMES["light"].background in fixed


@pytest.mark.parametrize("name", list(plots.KINDS))
def test_names_of_strangers_are_only_text(results, name):
    """Neither markup, nor formulas of matplotlib, nor so long that there is no room."""
    strange = copy.deepcopy(results)
    names = {"tcp": "<script>", "http": r"$\frac$", "shm": "x" * 150}
    for row in strange.rows:
        row.method = names.get(row.method, row.method)
    figure = plots.draw(name, strange, against=strange)
    check_layout(figure)
    drawn = svg.drawing(figure, "it", "<b>")
    assert "<script" not in drawn.element
    assert r"$\frac$" in "".join(ET.fromstring(drawn.element).itertext()) or name == "crossover"


# Layout


def test_spread():
    assert spread([0, 10, 20], 5, -100, 100) == [0, 10, 20]
    assert spread([10, 10, 10], 2, -100, 100) == [8, 10, 12]
    assert spread([0, 0, 100], 4, 0, 100) == [0, 4, 100]
    placed = spread([1, 2, 3, 50, 51, 99, 100], 10, 0, 100)
    assert all(b - a >= 10 - 1e-9 for a, b in itertools.pairwise(placed))
    assert placed[0] >= 0
    assert placed[-1] <= 100


@pytest.mark.parametrize("axis", ["x", "y"])
@pytest.mark.parametrize("times", [1.2, 2, 4.5, 5, 7, 9, 15, 20, 80, 300, 900, 5000])
def test_an_axis_has_three_labels_at_least(axis, times):
    for low in (1e3, 1.5e3, 2.7e3, 4.4e3, 7e3, 9.5e3):
        sheet = Sheet(None, None, "auto")
        getattr(sheet.ax, f"set_{axis}lim")(low, low * times)
        sheet.time_axis(axis)
        sheet.finish("title", "caption")
        of = getattr(sheet.ax, f"{axis}axis")
        labels = zip(of.get_majorticklocs(), of.get_majorticklabels(), strict=True)
        said = [text.get_text() for at, text in labels if low <= at <= low * times]
        assert len([text for text in said if text]) >= 3
        assert len(set(said)) == len(said)


def test_tensors_of_a_file_are_copied_into_a_loan(results):
    for name, says in ((None, "without being copied"), ("x.npy", "is copied into it first")):
        plan = results.about["plan"] | {"input": name}
        one = Results(results.about | {"plan": plan}, results.rows)
        said = " ".join(written(plots.throughput(one), "caption").split())
        assert says in said


def test_wrap():
    assert wrap("a bb ccc\nd", 4, len) == ["a bb", "ccc", "d"]
    assert wrap("abcdefghij x", 4, len) == ["abcd", "efgh", "ij x"]


def test_units_are_those_of_the_table(results):
    """A title says the same as the table in text."""
    one = Results(results.about, [r for r in results.rows if r.method == "shm" and r.size == 64])
    median = table.duration(one.rows[0].percentile(50))
    said = written(plots.latency(one), "title").replace("\u00a0", "").replace(" ", "")
    assert median in said
    assert json.loads(one.to_json())["rows"][0]["method"] == "shm"
