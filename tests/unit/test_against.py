"""Two runs side by side: ratios, what exceeds the noise, what only one has."""

import copy
import os
import re
import subprocess
import sys

import pytest
from support import ROOT

from podipc import lab
from podipc.lab import against
from podipc.lab.results import Repetition, Results, Row


@pytest.fixture(scope="module")
def measured():
    return lab.compare(["shm", "mp-pipe"], [64, "64K"], repeat=2, rounds=10, quick=True)


def row(method, size, *medians, **more):
    made = Row(method, "podipc", size, **more)
    for median in medians:
        made.add(Repetition(median, 1, median, median, 1, 1e9 / median, 0, 0), [median])
    return made


def test_lines(measured):
    slow = [row("shm", 64, 2000, 2010), row("tcp", 64, 500, 510), row("unix", 64, error="no")]
    fast = [row("shm", 64, 1000, 1005), row("unix", 64, 10, 11), row("shm", 128, 7, 7)]
    about = copy.deepcopy(measured.about)
    about["runtime"] = "podman"
    about["plan"]["repeated"] = 9
    text = against.lines(Results(measured.about, fast), Results(about, slow), "this", "x.json")
    assert max(map(len, text)) <= 80
    (line,) = [line.split() for line in text if line.startswith("shm")]
    (head,) = [line for line in text if "ratio" in line and "bytes/s" in line]
    (row_of_shm,) = [line for line in text if line.startswith("shm")]
    ends = [found.end() for found in re.finditer(r"\bA|B|ratio", head)]
    assert ends == [found.end() for found in re.finditer(r"[\w.]+(?= |\+|$)", row_of_shm)][2:]
    assert line == ["shm", "64", "1.00µs", "2.00µs", "2.00+", "998K", "499K", "2.00+"]
    said = " ".join(text)
    assert "Not the same in A / B: runtime local / podman; turns 2 / 9." in said
    assert "Of 2 figures A is faster in 2, slower in 0, within the noise in 0." in said
    assert "Only in A: shm at 128. Only in A: unix at 64." in said.replace("  ", " ")
    assert "Only in B: tcp at 64." in said


@pytest.mark.parametrize(
    ("ours", "theirs", "shown"),
    [
        ((100, 101), (200, 201), "2.00+"),
        ((200, 201), (100, 101), "0.50!"),
        ((100, 150), (110, 160), "1.08"),
        ((100,), (200,), "2.00?"),
        ((1000, 1001), (97000, 97001), "97+"),
        ((97000, 97001), (100, 101), "0.001!"),
    ],
)
def test_marks(measured, ours, theirs, shown):
    a, b = (Results(measured.about, [row("shm", 64, *medians)]) for medians in (ours, theirs))
    (line,) = [line for line in against.lines(a, b, "a", "b") if line.startswith("shm")]
    assert line.split()[4] == shown
    assert line.split()[7][-1] == shown[-1] or shown == "1.08"


def test_the_same_run_twice(measured):
    text = against.lines(measured, measured, "a", "b")
    assert "Not the same" not in " ".join(text)
    assert "Of 8 figures A is faster in 0, slower in 0, within the noise in 8." in text


def command(*args):
    return subprocess.run(
        [sys.executable, "-m", "podipc", "compare", *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
    )


@pytest.fixture
def saved(measured, tmp_path):
    measured.save(tmp_path / "a.json")
    return tmp_path / "a.json"


def test_from_and_against(saved):
    ran = command("--from", saved, "--against", saved)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("A: a.json. B: a.json.")
    ran = command("--from", saved)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("round trip, median (p50)")


def test_measured_against(saved):
    args = ("--methods", "shm", "--sizes", "64", "--rounds", "5", "--repeat", "1")
    ran = command(*args, "--against", saved)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("A: this run. B: a.json.")
    assert "Only in B: mp-pipe at 64, 64K." in ran.stdout


def test_wrong_tensors_of_a_saved_run_are_told(measured, tmp_path):
    bad = Row("shm", "podipc", 64, error="3 arrived wrong", wrong=True)
    Results(measured.about, [bad, *measured.rows[1:]]).save(tmp_path / "bad.json")
    ran = command("--from", tmp_path / "bad.json", "--against", tmp_path / "bad.json")
    assert ran.returncode == 1
    assert "shm, 64 bytes: 3 arrived wrong" in ran.stderr


@pytest.mark.parametrize("option", ["--from", "--against"])
@pytest.mark.parametrize(
    ("text", "says"),
    [
        (None, "No such file"),
        ("no JSON", "not JSON"),
        ('{"format": "podipc-results", "version": 1, "about": {}, "rows": []}', None),
        ('{"format": "podipc-results", "version": 1, "about": [3], "rows": [{"method": 3, '
         '"kind": 1, "size": "x", "repetitions": []}]}', None),
    ],
)  # fmt: skip
def test_files_that_are_no_results(saved, tmp_path, option, text, says):
    path = tmp_path / "x.json"
    if text is not None:
        path.write_text(text)
    ran = command(*(() if option == "--from" else ("--from", saved)), option, path)
    assert "Traceback" not in ran.stderr
    if says or option == "--from":
        assert ran.returncode == 2
        assert "x.json" in ran.stderr
        assert says is None or says in ran.stderr


def test_nothing_is_measured(saved):
    ran = command("--from", saved, "--quick")
    assert ran.returncode == 2
    assert "--from measures nothing: --quick has no effect" in ran.stderr


def test_a_full_disk_does_not_cost_the_run(saved):
    ran = command("--from", saved, "--json", "/dev/full")
    assert ran.returncode == 1
    assert "round trip, median" in ran.stdout
    assert "No space left" in ran.stderr


def test_no_empty_file_of_a_run_that_does_not_start(saved, tmp_path):
    there, new = tmp_path / "there.csv", tmp_path / "new.json"
    there.write_text("mine")
    ran = command("--from", tmp_path / "no.json", "--json", new, "--csv", there)
    assert ran.returncode == 2
    assert not new.exists()
    assert there.read_text() == "mine"


def test_output_is_for_one(saved):
    ran = command("--from", saved, "--against", saved, "--json", "-")
    assert ran.returncode == 2
    assert "--against prints tables" in ran.stderr


def test_parquet_without_pyarrow(saved, tmp_path, monkeypatch):
    path = tmp_path / "a.parquet"
    path.write_bytes(b"PAR1")
    (tmp_path / "pyarrow.py").write_text("raise ImportError('not here')")
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{ROOT}")
    ran = command("--from", path)
    assert ran.returncode == 2
    assert "pip install 'podipc[notebook]'" in ran.stderr
    assert "Traceback" not in ran.stderr
