"""_core.pyi says of the module what is so, and the public interface type-checks."""

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
