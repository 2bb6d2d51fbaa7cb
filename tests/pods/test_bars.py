"""The benchmark behind the promises about speed runs; whether they are kept is not tested here."""

import json
import subprocess
import sys

from support import PATIENCE, ROOT


def bars(*args):
    return subprocess.run(
        [sys.executable, "-m", "podipc.lab.bars", *map(str, args)],
        check=False,
        capture_output=True,
        text=True,
        timeout=3 * PATIENCE,
        cwd=ROOT,
    )


def test_every_kind_of_figure(tmp_path):
    saved = tmp_path / "bars.json"
    groups = ("block", "loan", "copy", "unix", "idle", "import")
    ran = bars(*groups, "--repeat", 1, "--seconds", 0.01, "--json", saved)
    assert ran.returncode in (0, 1), ran.stderr
    assert ran.stderr == ""
    found = json.loads(saved.read_text())["bars"]
    assert {one["group"] for one in found} == set(groups)
    assert [one["error"] for one in found] == [None] * len(found)
    assert all(one["ratio"] > 0 for one in found)
    assert len(ran.stdout.splitlines()) == len(found) + 2


def test_an_unknown_group():
    ran = bars("latencies")
    assert ran.returncode == 2
    assert "no latencies; there are latency, block, " in ran.stderr
