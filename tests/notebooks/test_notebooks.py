"""Every notebook runs from its first cell to its last, and is committed as it was made."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from making import PLACE, SOURCES, environment, make
from support import ROOT

for name in ("nbclient", "jupytext", "ipykernel", "matplotlib"):
    pytest.importorskip(name, reason=f"{name} is not installed: the extra notebook")

import nbformat  # noqa: E402

from podipc.pod import choose  # noqa: E402
from podipc.pod.manifest import read  # noqa: E402

IN_PODMAN = [source for source in SOURCES if source.name.startswith(("01", "06"))]
LONGEST = 240
"""Seconds of two notebooks in quick mode on a machine that does other things as well; alone one
takes less than 60."""


def name_of(source: Path) -> str:
    return source.stem


def executed(sources: Sequence[Path], tmp_path: Path, runtime: str) -> list[Any]:
    """The notebooks, made at the same time in quick mode, in another place."""
    env = environment(tmp_path, PODIPC_RUNTIME=runtime)
    words = [sys.executable, PLACE / "make.py", "--quick", "--to", tmp_path]
    running = [
        subprocess.Popen([*words, source.stem], env=env, stderr=subprocess.PIPE, text=True)
        for source in sources
    ]
    try:
        errors = [process.communicate(timeout=LONGEST)[1] for process in running]
    finally:
        for process in running:
            if process.poll() is None:
                process.kill()  # its kernel sees that, and takes its Pod along
                process.communicate()
    assert [process.returncode for process in running] == [0] * len(running), "\n".join(errors)
    return [nbformat.read(tmp_path / f"{source.stem}.ipynb", as_version=4) for source in sources]


def shown(notebook: Any) -> str:
    """All text of its outputs."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            found.append(output.get("text", "") or data.get("text/markdown", ""))
            found.append(data.get("text/html", ""))
    return "\n".join(found)


@pytest.mark.slow
@pytest.mark.parametrize(
    "sources",
    [SOURCES[i : i + 2] for i in range(0, len(SOURCES), 2)],
    ids=lambda sources: "-".join(source.name[:2] for source in sources),
)
def test_they_run(sources: list[Path], tmp_path: Path) -> None:
    for source, notebook in zip(sources, executed(sources, tmp_path, "local"), strict=True):
        assert make.problems(source, notebook) == []
        assert "runtime local" in shown(notebook)


@pytest.mark.podman
@pytest.mark.slow
def test_they_run_in_containers_of_podman(tmp_path: Path) -> None:
    runtime, reason = choose(read(ROOT / "k8s/pods/tensor-pod.yaml").pods)
    if runtime != "podman":
        pytest.skip(reason)
    for source, notebook in zip(IN_PODMAN, executed(IN_PODMAN, tmp_path, "podman"), strict=True):
        assert make.problems(source, notebook) == []
        assert "runtime podman" in shown(notebook)


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_it_is_committed_as_it_was_made(source: Path) -> None:
    made = source.with_suffix(".ipynb")
    assert make.check(source, made) == []
    assert make.seconds(made, quick=False) > 0  # ValueError: made with --quick


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_it_has_what_every_notebook_has(source: Path) -> None:
    notebook = make.read(source)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    text = "\n".join(cell.source for cell in notebook.cells if cell.cell_type == "markdown")
    assert notebook.cells[0].source.startswith(f"# {source.name[:2]} "), "its number and title"
    for part in ("You will be able to", "Predict", "## In this notebook", "## Exercises"):
        assert part in text, part
    magics = [cell.source.strip() for cell in code if cell.source.startswith("%")]
    assert magics[-1] == "%pod down", "nothing runs on"
    solutions = [cell for cell in code if "solution" in cell.metadata.get("tags", ())]
    assert len(solutions) >= 2, "of two exercises; one may take cells of several containers"
    assert all(cell.metadata["jupyter"]["source_hidden"] for cell in solutions), "folded"
    for cell in code:
        assert len(cell.source.splitlines()) <= 45, cell.source[:200]


@pytest.mark.parametrize("source", SOURCES, ids=name_of)
def test_its_links_lead_somewhere(source: Path) -> None:
    """Those to files: whoever reads the notebook has the checkout."""
    cells = make.read(source).cells
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    code = "\n".join(cell.source for cell in cells if cell.cell_type == "code")
    links = re.findall(r"\]\(\s*([^)\s]+)\s*\)", text)
    files = [link for link in links if "://" not in link]
    for manifest in re.findall(r"k8s/pods/[\w.-]+", code):
        assert any(link.endswith(manifest) for link in files), f"{manifest} can be read"
    assert any(link.startswith("https://kubernetes.io/") for link in links)
    for link in files:
        assert (PLACE / link.partition("#")[0]).exists(), link


def test_there_are_notebooks() -> None:
    """A pattern that matches nothing would test nothing."""
    numbers = [source.name[:2] for source in SOURCES]
    assert len(set(numbers)) == len(numbers)
    assert {"01", "06"} <= set(numbers)
    made = {path.stem for path in PLACE.glob("*.ipynb")}
    assert made == {source.stem for source in SOURCES}, "each has its source"
