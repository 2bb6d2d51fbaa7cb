"""`podipc compare --output` and `podipc plot`, and the page they write, in a real browser."""

import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest
from support import PATIENCE, ROOT

from podipc import cli
from podipc.lab import plots, report
from podipc.lab.results import Results, Row

pytest.importorskip("matplotlib", reason="the extra plot is not installed")

RUN, AGAIN = (ROOT / "tests/data" / name for name in ("run.json", "again.json"))
FIGURES = {"latency", "throughput", "crossover", "distribution", "cold", "cpu"}


@pytest.fixture
def podipc(tmp_path):
    def run(*args, python=("-m", "podipc")):
        return subprocess.run(
            [sys.executable, *python, *map(str, args)],
            check=False,
            capture_output=True,
            text=True,
            timeout=2 * PATIENCE,
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    return run


def files_of(directory):
    return {path.name for path in directory.iterdir()}


def test_compare_writes_a_report(podipc, tmp_path):
    out = tmp_path / "some" / "where"
    quick = ("--sizes", "64,64K", "--rounds", "20", "--repeat", "1")
    ran = podipc("compare", "--methods", "shm,tcp", *quick, "--output", out)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.rstrip().endswith(f"Report: {out / 'index.html'}")
    drawn = {f"{name}{suffix}" for name in FIGURES for suffix in (".svg", ".png")}
    assert files_of(out) == {"index.html", "results.json", "results.csv", *drawn}
    results = Results.load(out / "results.json")
    assert Results.load(out / "results.csv") == results
    assert {row.method for row in results.rows} == {"shm", "tcp"}
    for name in FIGURES:
        assert "prefers-color-scheme" in (out / f"{name}.svg").read_text()
        ET.parse(out / f"{name}.svg")
        assert (out / f"{name}.png").read_bytes().startswith(b"\x89PNG")


def test_two_runs_and_then_one_in_the_same_place(podipc, tmp_path):
    ran = podipc("plot", RUN, AGAIN)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout == "podipc-report/index.html\n"
    out = tmp_path / "podipc-report"
    assert Results.load(out / "against.json") == Results.load(RUN)
    assert Results.load(out / "results.json") == Results.load(AGAIN)
    assert "changes.svg" in files_of(out)
    assert "within noise" in (out / "index.html").read_text()
    (out / "mine.txt").write_text("kept")
    assert podipc("plot", RUN).returncode == 0
    assert not files_of(out) & {"changes.svg", "changes.png", "against.json"}
    assert (out / "mine.txt").read_text() == "kept"
    assert "within noise" not in (out / "index.html").read_text()


def test_one_figure(podipc, tmp_path):
    args = ("--methods", "shm,tcp", "--output", "out.svg")
    ran = podipc("plot", RUN, "--figure", "latency", *args)
    assert (ran.returncode, ran.stdout) == (0, "out.svg\n"), ran.stderr
    text = (tmp_path / "out.svg").read_text()
    assert ">tcp<" in text
    assert ">http<" not in text
    assert podipc("plot", RUN, "--figure", "cpu", "--theme", "dark").returncode == 0
    assert "#0d1117" in (tmp_path / "cpu.svg").read_text()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("plot",), "the following arguments are required: RESULTS"),
        (("plot", "nowhere.json"), "nowhere.json: No such file"),
        (("plot", ROOT / "README.md"), "ends in .json, .csv, .parquet"),
        (("plot", RUN, RUN, RUN), "one or two files of results, not 3"),
        (("plot", RUN, "--output", "/dev/null"), "/dev/null is not a directory"),
        (("plot", RUN, "--output", "/dev/null/x"), "/dev/null is not a directory"),
        (("plot", RUN, "--methods", "shm"), "--methods goes with --figure"),
        (("plot", RUN, "--theme", "dark"), "--theme goes with --figure"),
        (("plot", RUN, "--width", "narrow"), "--width goes with --figure"),
        (("plot", RUN, "--figure", "pie"), "no figure 'pie'; there are "),
        (("plot", RUN, "--figure", "changes"), "shows two runs"),
        (("plot", RUN, "--figure", "cpu", "--methods", "x"), "no method 'x' in the results"),
        (("plot", RUN, "--figure", "cpu", "--output", "x.gif"), "saved as .svg, .png, .pdf"),
        (("compare", "--output", "/dev/null"), "/dev/null is not a directory"),
        (("compare", "--output", "/proc/x"), "/proc cannot be written to: "),
    ],
)
def test_wrong_wishes(capsys, args, says):
    try:
        code = cli.main([*map(str, args)])
    except SystemExit as end:  # of argparse
        code = end.code
    assert code == 2
    out, err = capsys.readouterr()
    assert says in err
    assert out == ""


@pytest.mark.parametrize("command", [("plot", RUN), ("compare", "--quick")], ids=lambda c: c[0])
def test_files_of_somebody_else_are_left_alone(podipc, tmp_path, command):
    """And it is said before anything is measured."""
    (tmp_path / "index.html").write_text("<p>my home page</p>")
    (tmp_path / "results.json").symlink_to("/nowhere")
    ran = podipc(*command, "--output", tmp_path)
    assert ran.returncode == 2
    assert "index.html, results.json, not written by podipc" in ran.stderr
    assert files_of(tmp_path) == {"index.html", "results.json"}
    assert (tmp_path / "index.html").read_text() == "<p>my home page</p>"


@pytest.mark.parametrize("command", [("plot", RUN), ("compare", "--quick")], ids=lambda c: c[0])
def test_without_matplotlib(podipc, tmp_path, command):
    code = "import sys; sys.modules['matplotlib'] = None; from podipc import cli; "
    code += "sys.exit(cli.main())"
    ran = podipc(*command, "--output", tmp_path / "x", python=("-c", code))
    assert ran.returncode == 2
    assert "pip install 'podipc[plot]'" in ran.stderr
    assert not (tmp_path / "x").exists()


def test_help_fits(podipc):
    ran = podipc("plot", "--help")
    assert ran.returncode == 0
    assert max(map(len, ran.stdout.splitlines())) <= 80
    for name in plots.KINDS:
        assert name in ran.stdout


def test_results_without_figures(tmp_path):
    """All failed: a page that says so, and no figure."""
    failed = Results({"runtime": "local"}, [Row("shm", "podipc", 64, error="<no> room")])
    page = report.write(failed, tmp_path / "x").read_text()
    assert files_of(tmp_path / "x") == {"index.html", "results.json", "results.csv"}
    assert "Not measured: shm: &lt;no&gt; room" in page
    assert "The file does not say more" in page


# In a browser


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """Reports of one run and of two, with a method's name that is not kind."""
    place = tmp_path_factory.mktemp("reports")
    results = Results.load(RUN)
    for row in results.rows:
        if row.method == "tcp":
            row.method = '<img src="http://127.0.0.1/x">'
    results.rows.append(Row("shm", "podipc", 1 << 20, tensor="x", error="<b>no</b>"))
    return {
        "one": report.write(results, place / "one"),
        "two": report.write(Results.load(AGAIN), place / "two", Results.load(RUN)),
    }


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("chromium is not installed")
    with playwright.sync_playwright() as driver:
        args = ["--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"]
        chromium = driver.chromium.launch(executable_path=found, args=args)
        yield chromium
        chromium.close()


@contextlib.contextmanager
def opened(browser, path, width=1280, scheme="light"):
    """The page; at its end, whatever it asked for or complained of."""
    context = browser.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, offline=True
    )
    page = context.new_page()
    asked, said = [], []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("dialog", lambda dialog: said.append(dialog.message))
    page.goto(path.as_uri())
    yield page
    assert asked == [path.as_uri()]
    assert said == []
    context.close()


@pytest.mark.parametrize("width", [360, 390, 1280])
@pytest.mark.parametrize("which", ["one", "two"])
def test_nothing_is_wider_than_the_window(browser, written, which, width):
    with opened(browser, written[which], width) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == width
        shown = page.locator("figure svg").filter(visible=True)
        assert shown.count() == len(FIGURES) + (which == "two")
        for svg in shown.all():
            box = svg.bounding_box()
            assert box["x"] >= 0
            assert box["x"] + box["width"] <= width
            assert svg.get_attribute("aria-label")
            # Text is as large as it is meant to be read, and none is cut off.
            sizes = svg.evaluate(
                "s => [...s.querySelectorAll('text')].map(t => t.getBoundingClientRect())"
                ".map(b => [b.left, b.right, b.height])"
            )
            assert min(height for *_, height in sizes) >= 7
            assert max(right for _, right, _ in sizes) <= box["x"] + box["width"]
            assert min(left for left, *_ in sizes) >= box["x"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser, written, scheme):
    with opened(browser, written["one"], scheme=scheme) as page:
        ground, text, title = page.evaluate(
            "[[document.body, 'backgroundColor'], [document.body, 'color'],"
            "[document.querySelector('figure svg text'), 'fill']]"
            ".map(([element, part]) => getComputedStyle(element)[part])"
        )
    bright = [sum(map(int, re.findall(r"\d+", colour)[:3])) for colour in (ground, text, title)]
    assert (bright[0] > 600) == (scheme == "light")
    assert (bright[1] < 200) == (bright[2] < 200) == (scheme == "light")


def column(page, number):
    return page.locator("tbody tr").evaluate_all(
        f"rows => rows.map(row => row.cells[{number}].dataset.value ?? null)"
    )


@pytest.mark.parametrize("keyboard", [False, True])
def test_the_table_can_be_sorted(browser, written, keyboard):
    results = Results.load(written["one"].parent / "results.json")
    with opened(browser, written["one"]) as page:
        heads = page.locator("thead th")
        names = heads.all_inner_texts()
        assert heads.first.get_attribute("aria-sort") == "ascending"
        for name in ("median", "throughput", "method"):
            number = next(i for i, n in enumerate(names) if n.startswith(name))
            button = heads.nth(number).locator("button")
            for up in (True, False):
                if keyboard:
                    button.focus()
                    page.keyboard.press("Enter")
                else:
                    button.click()
                direction = "ascending" if up else "descending"
                assert heads.nth(number).get_attribute("aria-sort") == direction
                assert page.locator("[aria-sort]").count() == 1
                values = column(page, number)
                there = [v if name == "method" else float(v) for v in values if v is not None]
                assert there == sorted(there, reverse=not up) or name == "method"
                # What has no value is last, whatever the direction.
                assert None not in values[: len(there)]
        assert len(values) == sum(row.error is None for row in results.rows)


def test_what_results_say_is_text(browser, written):
    with opened(browser, written["one"]) as page:
        assert page.locator("img").count() == 0
        assert page.locator("b").count() == 0
        assert "<b>no</b>" in page.locator("#table").inner_text()


def test_the_policy_forbids_all_else(browser, written):
    with opened(browser, written["one"]) as page:
        policy = page.locator("meta[http-equiv]").get_attribute("content")
        assert policy.startswith("default-src 'none'")
        assert "unsafe" not in policy
    # It is in force: another script, another style or an image is refused.
    said = []
    page = browser.new_page()
    page.on("console", lambda message: said.append(message.text))
    page.goto(written["one"].as_uri())
    page.evaluate("document.body.insertAdjacentHTML('beforeend', '<p style=\"color:red\">x</p>')")
    page.close()
    assert any("Content Security Policy" in text for text in said)


def test_the_machine_is_named(browser, written):
    about = json.loads(RUN.read_text())["about"]
    with opened(browser, written["two"]) as page:
        text = page.locator("body").inner_text()
    for part in (about["host"]["cpu"], about["host"]["kernel"], "runtime local", "none was wrong"):
        assert part in text
    assert text.count("The other:") >= 2
