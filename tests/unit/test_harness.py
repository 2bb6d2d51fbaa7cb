"""The checks that conftest.py makes of every test can fail."""

import os
import subprocess
import sys

import pytest
from support import TESTS

BODIES = {
    "file": "import os, pathlib\npathlib.Path(os.environ['PODIPC_DIR'] + '.x').write_text('')",
    "shm": "import pathlib, support\npathlib.Path('/dev/shm/' + support.unique_name()).touch()",
    "process": "import subprocess\nsubprocess.Popen(['sleep', '30'])",
    "orphan": "import subprocess\nsubprocess.run(['sh', '-c', 'sleep 30 &'])",
    "memfd": "import os\nos.memfd_create('podipc-x')",
    "socket": "import socket\nsocket.socket().detach()",
}


def run_test(tmp_path, body, ci, needs=""):
    test = tmp_path / "test_it.py"
    lines = "\n".join("    " + line for line in body.splitlines())
    test.write_text(f"import pytest\ndef test_it({needs}):\n{lines}\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "conftest", "-p", "no:cacheprovider", str(test)],
        check=False,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={
            **os.environ,
            "PYTHONPATH": f"{TESTS.parent}:{TESTS}",
            "CI": "true" if ci else "",
            "PODIPC_TEST_GRACE": "0.3",
        },
    )


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_what_is_left_behind_is_seen(tmp_path, body):
    ran = run_test(tmp_path, body, ci=False)
    # The machine the test ran on must be as before: end the one sleep, remove the one file.
    for line in ran.stdout.splitlines():
        if line.startswith("left behind: process "):
            os.kill(int(line.split()[3]), 15)
        if line.startswith("left behind: /dev/shm/podipc-test-"):
            path = line.split()[2].rstrip(";")
            if os.path.exists(path):
                os.unlink(path)
    assert ran.returncode == 1, ran.stdout
    assert "left behind" in ran.stdout


@pytest.mark.parametrize(
    ("code", "then", "status"),
    [
        ("hear()", "", 0),
        ("say(1)", "child.hear()", 0),
        ("say(1); raise ValueError('unseen')", "child.hear()\nchild.process.wait(60)", 1),
        ("raise ValueError('unseen')", "child.process.wait(60)", 1),
        ("raise ValueError('unseen')", "child.end(1)", 0),
        ("raise ValueError('unseen')", "child.process.wait(60)\nchild.kill()", 1),
        ("hear()", "child.kill()", 0),
    ],
)
def test_how_a_child_ended(tmp_path, code, then, status):
    ran = run_test(tmp_path, f"child = spawn({code!r})\n{then}", ci=False, needs="spawn")
    assert ran.returncode == status, ran.stdout
    assert ("ValueError: unseen" in ran.stdout) == bool(status)


def test_a_clean_test_passes(tmp_path):
    ran = run_test(tmp_path, "pass", ci=True)
    assert ran.returncode == 0, ran.stdout


@pytest.mark.parametrize(
    ("reason", "ci", "status"),
    [
        ("no podman", True, 1),
        ("no podman", False, 0),
        ("not possible here: no podman", True, 0),
    ],
)
def test_skips_in_ci(tmp_path, reason, ci, status):
    ran = run_test(tmp_path, f"pytest.skip({reason!r})", ci)
    assert ran.returncode == status, ran.stdout
    assert ("should have been able to run it" in ran.stdout) == (status == 1)


def test_skip_of_a_module_in_ci(tmp_path):
    ran = run_test(tmp_path, "pass\npytest.importorskip('no_such_module_at_all')", ci=True)
    assert ran.returncode == 1, ran.stdout
