"""Notebook 06 in a real JupyterLab, in a real browser, as somebody would run it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from making import PLACE, SOURCES, environment, make
from support import PATIENCE, ROOT, eventually, free_port, unique_name

for name in ("jupyterlab", "jupytext", "ipykernel", "matplotlib"):
    pytest.importorskip(name, reason=f"{name} is not installed: the extra notebook")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

import nbformat  # noqa: E402

(SOURCE,) = (source for source in SOURCES if source.name.startswith("06"))
LONGEST = 180
"""Seconds in which all cells have been run, on a machine that does other things as well."""


def settings(place: Path) -> Path:
    """No question about news; every cell is there, not only those that can be seen."""
    chosen = {
        "apputils-extension/notification": {"fetchNews": "false"},
        "notebook-extension/tracker": {"windowingMode": "none"},
    }
    for name, values in chosen.items():
        path = place / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True)
        path.write_text(json.dumps(values))
    return place / "settings"


class Lab:
    """A JupyterLab on loopback whose files are a copy of the notebook, without its outputs."""

    def __init__(self, place: Path) -> None:
        self.token, self.mark = unique_name("token"), unique_name("mark")
        self.port = free_port()
        self.notebook = place / "notebooks" / f"{SOURCE.stem}.ipynb"
        self.notebook.parent.mkdir()
        shutil.copytree(ROOT / "k8s", place / "k8s")
        nbformat.write(make.read(SOURCE), self.notebook)
        words = [
            *(sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"),
            *("--ip=127.0.0.1", f"--port={self.port}", "--ServerApp.port_retries=0"),
            *(f"--IdentityProvider.token={self.token}", f"--ServerApp.root_dir={place}"),
            f"--LabApp.user_settings_dir={settings(place)}",
            # It would ask for them on the network.
            "--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate",
        ]
        env = environment(place, PODIPC_TEST_MARK=self.mark, HOME=str(place))
        self.log = place / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(words, env=env, stdout=log, stderr=log, cwd=place)

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self.port}/{path}?token={self.token}"

    def answers(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()[-5000:]
        try:
            with urllib.request.urlopen(self.url("api/status"), timeout=5) as reply:
                return "kernels" in json.load(reply)
        except OSError:
            return False

    def descendants(self) -> list[str]:
        """Commands of the processes that come from here, wherever they are now."""
        found = []
        for process in Path("/proc").glob("[0-9]*"):
            try:
                if f"PODIPC_TEST_MARK={self.mark}\0".encode() in (process / "environ").read_bytes():
                    command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
                    found.append(f"{process.name}: {command[:120]}")
            except OSError:
                continue
        return found

    def end(self) -> None:
        """As Ctrl-C twice: the kernels end, and then it does."""
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    made = Lab(tmp_path)
    try:
        eventually(made.answers, "JupyterLab answers")
        yield made
    finally:
        made.end()
    eventually(lambda: not made.descendants(), f"nothing is left of it: {made.descendants()}")


@pytest.fixture
def page(lab: Lab) -> Iterator[Any]:
    """The notebook in a browser, which can reach nothing but JupyterLab."""
    found = shutil.which("chromium") or shutil.which("google-chrome")
    if found is None:
        pytest.skip("chromium is not installed")
    args = ["--disable-dev-shm-usage", "--disable-gpu"]
    args += ["--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
    args += ["--no-sandbox"] if os.geteuid() == 0 else []
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=found, args=args)
        try:
            context = chromium.new_context(viewport={"width": 1280, "height": 900})
            tab = context.new_page()
            tab.set_default_timeout(PATIENCE * 1000)
            tab.goto(lab.url(f"lab/tree/notebooks/{lab.notebook.name}"))
            yield tab
            context.close()
        finally:
            chromium.close()


def run_all(page: Any) -> None:
    """By the menu."""
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()


def errors(page: Any) -> list[str]:
    """What cells say that went wrong."""
    shown = page.locator('.jp-OutputArea-output[data-mime-type*="error"]')
    found: list[str] = shown.all_inner_texts()
    return found


@pytest.mark.slow
def test_all_cells_in_a_browser(lab: Lab, page: Any) -> None:
    before = sorted(PLACE.iterdir())
    panel = page.locator(".jp-NotebookPanel")
    panel.locator(".jp-RenderedMarkdown h1").first.wait_for()
    panel.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').wait_for()
    figures = panel.locator(".jp-OutputArea-output img")
    assert figures.count() == 0, "it has no outputs yet"

    run_all(page)
    down = panel.get_by_text("Pod tensor-pod is down")
    eventually(lambda: errors(page) or down.count(), "the last cell has ended", LONGEST)
    assert errors(page) == []
    assert "measured" in panel.get_by_text("consumer has ended after").locator("..").inner_text()
    for figure in figures.all():
        figure.scroll_into_view_if_needed()
        assert figure.evaluate("image => image.complete && image.naturalWidth") > 600
        assert figure.bounding_box()["width"] > 300, "it can be seen"

    page.locator('.jp-NotebookPanel-toolbar [data-command="docmanager:save"]').click()

    def saved() -> Any:
        try:
            notebook = nbformat.read(lab.notebook, as_version=4)
        except nbformat.reader.NotJSONError:  # it is being written
            return None
        return notebook if notebook.cells[-1].outputs else None

    notebook = eventually(saved, "it is saved")
    assert make.problems(SOURCE, notebook) == []
    assert len(make.figures(notebook)) == figures.count() == 3
    assert sorted(PLACE.iterdir()) == before, "nothing is written into the checkout"
