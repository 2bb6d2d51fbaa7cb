"""What the README prints is what works."""

import builtins
import os
import re
import shlex
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import numpy as np
import pytest
from support import PATIENCE, ROOT

import podipc
from podipc import address

README = (ROOT / "README.md").read_text()


def blocks(language):
    return re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)


def run(*command, **kwargs):
    ran = subprocess.run(
        command,
        check=False,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        **kwargs,
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


@pytest.mark.parametrize("what", ["podipc compare", "pytest"])
def test_commands_are_one_line_each(what):
    """.ci/run takes these lines from the README and runs them."""
    (block,) = [
        block for block in blocks("sh") if block.startswith("python3 -m venv ") and what in block
    ]
    assert block.count("\n") == 1
    assert README.count(block) == 1
    run("sh", "-n", "-c", block)


@pytest.fixture
def example(tmp_path):
    (code,) = [block for block in blocks("python") if "sys.argv" in block]
    path = tmp_path / "example.py"
    path.write_text(code)
    return path


def test_code_in_containers():
    """As printed, at the root of a checkout."""
    (code,) = [block for block in blocks("python") if "podipc.pod" in block]
    said = run(sys.executable, "-c", code.replace('.yaml"', '.yaml", "local"'), cwd=ROOT)
    assert re.search(r"producer: [\d.]+ MiB of 128 MiB", said)
    assert re.search(r"net +127.0.0.1, ports +shared", said)


@pytest.mark.parametrize("order", [["producer", "consumer"], ["consumer", "producer"]])
def test_example(example, order):
    """As printed, in two processes."""
    sides = {}
    try:
        for name in order:
            sides[name] = subprocess.Popen(
                [sys.executable, example, name],
                stdout=subprocess.PIPE,
                text=True,
                env={**os.environ, "PYTHONPATH": str(ROOT)},
            )
            time.sleep(0.2)  # whichever is first is really first
        said = {name: side.communicate(timeout=PATIENCE)[0] for name, side in sides.items()}
    finally:
        for side in sides.values():
            side.kill()
            side.wait()
    assert {side.returncode for side in sides.values()} == {0}
    assert said["producer"] == ""
    assert said["consumer"] == "".join(f"(1080, 1920, 3) uint8 {i}.0\n" for i in range(4))


def test_example_is_short(example):
    lines = [line for line in example.read_text().splitlines() if line.strip()]
    assert len(lines) <= 15
    assert max(map(len, lines)) <= 100


def test_real_input(tmp_path):
    """The lines for scikit-learn's tensors, with the Python and the podipc of this test."""
    pytest.importorskip("sklearn", reason="scikit-learn is not installed")
    pytest.importorskip("PIL", reason="pillow is not installed")
    (block,) = [block for block in blocks("sh") if "--input" in block]
    install, save, compare = block.splitlines()
    assert shlex.split(install) == [".venv/bin/pip", "install", "scikit-learn", "pillow"]
    program, *arguments = shlex.split(save)
    assert program == ".venv/bin/python"
    run(sys.executable, *arguments, cwd=tmp_path)
    program, *arguments = shlex.split(compare)
    assert program == ".venv/bin/podipc"
    said = run(
        *(sys.executable, "-m", "podipc", *arguments, "--methods", "shm,unix", "--repeat", "1"),
        cwd=tmp_path,
    )
    assert "none was wrong" in said
    with np.load(tmp_path / "real.npz") as tensors:
        assert len(tensors.files) == 3
        for name in tensors.files:
            assert name in said


def test_every_method_is_in_the_table():
    for method in address.METHODS:
        assert f"`{method}://" in README
    for wait in address.WAITS:
        assert f"`{wait}`" in README


def test_table_of_exceptions():
    """Each with the built-in it says it is."""
    names = r"((?:`\w+`(?:, )?)+)"
    found = {}
    for row in re.findall(rf"^\| {names} \| {names} \|", README, re.MULTILINE):
        kinds, bases = (re.findall(r"\w+", cell) for cell in row)
        bases *= len(kinds) if len(bases) == 1 else 1
        found |= dict(zip(kinds, bases, strict=True))
    public = [getattr(podipc, name) for name in podipc.__all__]
    errors = [x for x in public if isinstance(x, type) and issubclass(x, podipc.PodipcError)]
    assert {kind.__name__ for kind in errors} - {"PodipcError"} == set(found)
    for name, base in found.items():
        assert issubclass(getattr(podipc, name), getattr(builtins, base)), name


def test_table_of_extras():
    """Each extra that can be installed, and no other."""
    (table,) = re.findall(r"^\| extra \|.*\n\|---.*\n((?:\|.*\n)+)", README, re.MULTILINE)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(
        extras["optional-dependencies"]
    )


def test_what_it_is_and_looks_like_comes_first():
    """The figure, then the two calls, before the reader has to scroll."""
    lines = README.splitlines()
    for what, before in (("<picture>", 15), ("## Use it", 20), ("tx.send(", 30), ("## Try it", 80)):
        assert any(what in line for line in lines[:before]), what


def test_links_lead_somewhere():
    for target in re.findall(r"(?:\]\(|src=\"|srcset=\")([^)#\"]+)", README):
        assert "://" in target or (ROOT / target).exists(), target


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_figure_is_of_a_real_run(theme):
    """As podipc plot writes it, with the machine below."""
    text = (ROOT / f"notebooks/figures/latency-{theme}.svg").read_text()
    assert "<!-- podipc " in text
    assert "runtime local" in text
    assert ("#0d1117" in text) == (theme == "dark")
    assert "@media" not in text


@pytest.mark.parametrize(
    "path", ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "k8s/README.md", "csrc/README.md"]
)
def test_commands_name_files_that_exist(path):
    text = (ROOT / path).read_text()
    for name in re.findall(r"(?<![\w/.])((?:tests|csrc|podipc|k8s|\.ci)/[\w./-]+)", text):
        assert (ROOT / name.rstrip(".")).exists() or (Path(path).parent / name).exists(), name
