"""_core.pyi says of the module what is so, and the public interface type-checks."""

import ast
import os
import subprocess
import sys

import pytest
from support import ROOT

pytest.importorskip("mypy", reason="mypy is not installed")


def run(*command):
    return subprocess.run(
        [sys.executable, "-m", *command],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "MYPYPATH": str(ROOT), "PYTHONPATH": str(ROOT)},
    )


def test_stubtest(tmp_path):
    config = tmp_path / "mypy.ini"
    config.write_text(f"[mypy]\ncache_dir = {tmp_path}\n")
    ran = run(
        "mypy.stubtest",
        "--mypy-config-file",
        str(config),
        "--allowlist",
        "tests/typing/stubtest-allow.txt",
        "--ignore-unused-allowlist",
        "podipc._core",
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize("name", ["Segment", "Semaphore", "LoopbackListener", "LoopbackStream"])
def test_editors_show_what_it_is(name):
    """They read the stubs, and these classes have no other Python to read."""
    stubs = ast.parse((ROOT / "podipc/_core.pyi").read_text()).body
    (cls,) = [node for node in stubs if isinstance(node, ast.ClassDef) and node.name == name]
    public = [
        node
        for node in cls.body
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    ]
    assert public
    assert not [node.name for node in (cls, *public) if not ast.get_docstring(node)]


def test_uses_type_check(tmp_path):
    """tests/typing holds what a user writes: right uses pass, each wrong one is reported."""
    ran = run(
        "mypy",
        "--strict",
        "--warn-unused-ignores",
        "--cache-dir",
        str(tmp_path),
        "tests/typing/uses.py",
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
