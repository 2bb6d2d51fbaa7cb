"""The C tests: built under sanitizers and run, each as one test here."""

import subprocess

import pytest
from support import ROOT, c_compiler

C_TESTS = ROOT / "tests" / "c"
NAMES = sorted(p.stem.removeprefix("test_") for p in C_TESTS.glob("test_*.c"))


def test_there_are_some():
    assert "ring" in NAMES
    assert "shm" in NAMES


@pytest.mark.slow
def test_all_pass(tmp_path):
    c_compiler()
    run = subprocess.run(
        [C_TESTS / "run.sh"], check=False, capture_output=True, text=True, cwd=tmp_path, timeout=900
    )
    assert run.returncode == 0, run.stdout + run.stderr
    for name in NAMES:
        assert f"== {name} (" in run.stdout
    verdicts = [line for line in run.stdout.splitlines() if line.endswith(" failed")]
    assert len(verdicts) >= len(NAMES)
    assert all(line.endswith(" passed, 0 failed") for line in verdicts)
