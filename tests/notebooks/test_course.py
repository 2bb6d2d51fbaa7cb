"""notebooks/README.md: every notebook is there, in order, with its picture and its time."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from making import PLACE, SOURCES, make
from support import ROOT

for name in ("jupytext", "nbformat", "PIL"):
    pytest.importorskip(name, reason=f"{name} is not installed: the extra notebook")

import nbformat  # noqa: E402

PAGE = PLACE / "README.md"
ROWS = [line for line in PAGE.read_text().splitlines() if line.startswith("| <a")]
STEMS = [source.stem for source in SOURCES]


def test_a_row_a_notebook_in_order() -> None:
    linked = [re.findall(r"(?:href=\"|\()(\d\d_\w+)\.ipynb", row) for row in ROWS]
    assert linked == [[stem, stem] for stem in STEMS]
    assert len(make.ROW.findall(PAGE.read_text())) == len(STEMS)


@pytest.mark.parametrize("source", SOURCES, ids=lambda path: path.stem)
def test_its_title_its_picture_and_its_time(source: Path) -> None:
    (row,) = [row for row in ROWS if f"({source.stem}.ipynb)" in row]
    notebook = make.read(source)
    (title,) = re.findall(r"^# (\d\d .+)$", notebook.cells[0].source, re.MULTILINE)
    assert f"| [{title}]({source.stem}.ipynb) |" in row
    picture = PLACE / "figures" / f"{source.stem}.png"
    assert f'src="figures/{picture.name}"' in row
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size < 50_000
    made = nbformat.read(PLACE / f"{source.stem}.ipynb", as_version=4).metadata.get("podipc")
    time = "not measured" if made is None else rf"{made['seconds']} s, quick \d+ s"
    assert re.search(rf"\| {time} \|$", row), "run make.py --page"


def test_links_lead_somewhere() -> None:
    text = PAGE.read_text()
    links = re.findall(r"\]\(([^)\s]+)\)|(?:href|src)=\"([^\"]+)\"", text)
    paths = [urlsplit(a or b).path for a, b in links if not (a or b).startswith("https:")]
    assert len(paths) > 3 * len(SOURCES)
    assert [path for path in paths if not (PLACE / path).exists()] == []


def test_its_commands_name_what_is_there() -> None:
    text = PAGE.read_text()
    named = re.findall(r"(?<![\w/])(k8s/[\w./]+[\w]|notebooks/[\w.]+\w)", text)
    assert named
    assert [path for path in named if not (ROOT / path).exists()] == []


@pytest.fixture
def course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page with one notebook, full and quick."""
    monkeypatch.setattr(make, "HERE", tmp_path)
    (tmp_path / "README.md").write_text("| [01 A](01_a.ipynb) | what | not measured |\n")
    (tmp_path / "quick").mkdir()
    for folder, seconds, quick in ((tmp_path, 61, False), (tmp_path / "quick", 7, True)):
        made: Any = nbformat.v4.new_notebook()
        made.metadata["podipc"] = {"seconds": seconds, "quick": quick}
        nbformat.write(made, folder / "01_a.ipynb")
    return tmp_path


def test_times_are_those_of_the_notebooks(course: Path) -> None:
    assert make.write_times(course / "quick") == 0
    row = "| [01 A](01_a.ipynb) | what | 61 s, quick 7 s |\n"
    assert (course / "README.md").read_text() == row


def test_a_time_of_the_wrong_mode_is_none(course: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert make.write_times(course) == 1, "both full"
    assert "was not made with --quick" in capsys.readouterr().err
    shutil.rmtree(course / "quick")
    assert make.write_times(course / "quick") == 1
    assert "No such file" in capsys.readouterr().err
    assert "| not measured |" in (course / "README.md").read_text()
