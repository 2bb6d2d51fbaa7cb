"""notebooks/make.py: what it makes, and what it finds wrong with a notebook."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from making import PLACE, environment, make
from support import PATIENCE

for name in ("nbclient", "jupytext", "ipykernel", "matplotlib"):
    pytest.importorskip(name, reason=f"{name} is not installed: the extra notebook")

import nbformat  # noqa: E402

GOOD = """\
# %% [markdown]
# # 10 A small one

# %%
import os
from podipc.lab.plots import chart
quick = os.environ["PODIPC_QUICK"]

# %%
chart.bars({"a": [1, 2]}, x="s", title="a")

# %%
chart.bars({"b": [1, 2]}, x="s", title="b")

# %% tags=["solution"]
print("quick", quick)
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of notebooks with one that is as it should be."""
    place = tmp_path_factory.mktemp("notebooks")
    for file in ("make.py", "jupytext.toml"):
        shutil.copy(PLACE / file, place)
    (place / "10_small.py").write_text(GOOD)
    done = run(place, "10", "--quick", "--to", str(place))
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("10_small.ipynb: ")
    return place


@pytest.fixture
def place(made: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(made, tmp_path / "notebooks"))


def run(place: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, place / "make.py", *words],
        env=environment(place.parent),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def test_what_is_made(place: Path) -> None:
    notebook = nbformat.read(place / "10_small.ipynb", as_version=4)
    nbformat.validate(notebook)
    first, imports, figure, _, solution = notebook.cells
    assert first.source == "# 10 A small one"
    assert imports.execution_count == 1
    assert "image/png" in figure.outputs[0].data
    assert solution.outputs[0].text == "quick 1\n"
    assert solution.metadata.jupyter.source_hidden
    assert solution.metadata.jupyter.outputs_hidden
    before = (place / "10_small.ipynb").read_bytes()
    done = run(place, "--check")
    assert (done.returncode, done.stderr) == (0, "")
    assert (place / "10_small.ipynb").read_bytes() == before


def without_figures(notebook: Any) -> None:
    for cell in notebook.cells[2:4]:
        del cell.outputs[0].data["image/png"]


def without_one_figure(notebook: Any) -> None:
    del notebook.cells[3].outputs[0].data["image/png"]


def with_an_error(notebook: Any) -> None:
    error = nbformat.v4.new_output("error", ename="E", evalue="x", traceback=[])
    notebook.cells[1].outputs.append(error)


def with_another_cell(notebook: Any) -> None:
    cell = nbformat.v4.new_code_cell("1 + 1", id="10-9", execution_count=5)
    notebook.cells.append(cell)


def not_in_order(notebook: Any) -> None:
    notebook.cells[2].execution_count = 7


def too_large(notebook: Any) -> None:
    notebook.cells[4].outputs[0].text = "x" * 1_000_000


@pytest.mark.parametrize(
    ("tamper", "says"),
    [
        (without_figures, "has no figure"),
        (without_one_figure, "code cell 3 draws a figure and has none"),
        (with_an_error, "has an error among its outputs"),
        (with_another_cell, "is not made from 10_small.py: run notebooks/make.py 10"),
        (not_in_order, "code cell 2 was not executed in order"),
        (too_large, "bytes, more than 1000000"),
    ],
)
def test_what_is_wrong_is_found(place: Path, tamper: Callable[[Any], None], says: str) -> None:
    path = place / "10_small.ipynb"
    notebook = nbformat.read(path, as_version=4)
    tamper(notebook)
    nbformat.write(notebook, path)
    (problem,) = make.check(place / "10_small.py", path)
    assert says in problem


@pytest.mark.parametrize(
    ("was", "is_now"),
    [
        ('print("quick"', 'print("QUICK"'),
        ("A small one", "Another one"),
        (' tags=["solution"]', ""),
        ("[markdown]", "[raw]"),
    ],
)
def test_a_source_that_has_changed(place: Path, was: str, is_now: str) -> None:
    assert was in GOOD
    (place / "10_small.py").write_text(GOOD.replace(was, is_now))
    (problem,) = make.check(place / "10_small.py", place / "10_small.ipynb")
    assert "is not made from 10_small.py" in problem


def test_one_that_is_not_there(place: Path) -> None:
    (place / "11_other.py").write_text(GOOD)
    done = run(place, "--check")
    assert done.returncode == 1
    assert "11_other.ipynb: is not there: run notebooks/make.py 11" in done.stderr


def test_a_cell_that_fails_leaves_what_was_made_before(place: Path) -> None:
    before = (place / "10_small.ipynb").read_bytes()
    (place / "10_small.py").write_text(GOOD.replace("[1, 2]", "[1, 2 / 0]"))
    done = run(place, "10")
    assert done.returncode == 1
    assert "ZeroDivisionError" in done.stderr
    assert (place / "10_small.ipynb").read_bytes() == before


def test_a_quick_one_is_not_put_beside_its_source(place: Path) -> None:
    before = (place / "10_small.ipynb").read_bytes()
    done = run(place, "10", "--quick")
    assert done.returncode == 2
    assert "--quick needs --to DIR" in done.stderr
    assert (place / "10_small.ipynb").read_bytes() == before


def test_no_such_notebook(place: Path) -> None:
    done = run(place, "12")
    assert done.returncode == 2
    assert "no notebook begins with '12'; there are 10_small" in done.stderr
