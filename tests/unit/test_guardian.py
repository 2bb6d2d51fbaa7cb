"""The process that clears up after its parent, however that ends."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, eventually

from podipc.pod.guardian import Guardian

PARENT = """
import os, sys, time
from podipc.pod.guardian import Guardian
guardian = Guardian()
guardian.remove_at_end(sys.argv[1])
guardian.at_end(["sh", "-c", f"test -e {sys.argv[1]} && touch {sys.argv[1]}.seen"])
other = os.fork() if sys.argv[2] == "fork" else 1
if other == 0:
    time.sleep(1000)
print(other, flush=True)
if sys.argv[2] == "busy":
    guardian.run(["sh", "-c", f"sleep 0.5; echo more > {sys.argv[1]}/made"])
time.sleep(1000)
"""


@pytest.mark.parametrize("how", ["idle", "fork", "busy"])
def test_a_parent_that_is_killed(tmp_path: Path, how: str) -> None:
    directory = tmp_path / "directory"
    directory.mkdir()
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(directory), how],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout
        # A process that holds the socket of its parent, if that is not 1.
        other = int(parent.stdout.readline())
        parent.kill()
        parent.wait(PATIENCE)
        try:
            eventually(lambda: not directory.exists(), "the directory is removed")
        finally:
            if other != 1:
                os.kill(other, signal.SIGKILL)
    # The last that was asked for came first, and what ran then had ended.
    assert Path(f"{directory}.seen").exists()


def test_in_order(tmp_path: Path) -> None:
    guardian = Guardian()
    file = tmp_path / "file"
    file.write_text("x")
    guardian.remove_at_end(str(file))
    guardian.at_end(["sh", "-c", "echo broken >&2; exit 3"])
    guardian.at_end(["no-such-program"])
    done = guardian.run(["sh", "-c", "cat; echo error >&2; exit 4"], "given")
    assert done == (4, "given", "error\n")
    with pytest.raises(OSError, match="No such file or directory: 'no-such-program'"):
        guardian.run(["no-such-program"])
    assert file.exists()
    first, second = guardian.close()
    assert first.startswith("no-such-program: ")
    assert second == "sh: broken"
    assert not file.exists()
    assert guardian.close() == []


def test_a_guardian_that_is_killed() -> None:
    guardian = Guardian()
    os.kill(guardian._process.pid, signal.SIGKILL)
    with pytest.raises(OSError, match=r"clears up after a Pod has been ended|Broken pipe|reset"):
        guardian.run(["true"])
    (problem,) = guardian.close()
    assert problem.startswith("the guardian: ")


def test_signals_from_a_terminal_do_not_end_it(tmp_path: Path) -> None:
    guardian = Guardian()
    assert guardian.run(["true"]).code == 0
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        os.kill(guardian._process.pid, number)
    ignored = guardian.run(["grep", "SigIgn", "/proc/self/status"]).out.split()[1]
    assert not int(ignored, 16) & (1 << signal.SIGTERM - 1), "what it starts can be ended"
    assert guardian.close() == []


def test_an_answer_that_was_not_waited_for() -> None:
    """Ctrl-C while something runs: what is asked next gets its own answer."""
    guardian = Guardian()
    threading.Timer(0.3, os.kill, [os.getpid(), signal.SIGINT]).start()
    with pytest.raises(KeyboardInterrupt):
        guardian.run(["sh", "-c", "sleep 1; echo late"])
    assert guardian.run(["echo", "mine"]).out == "mine\n"
    assert guardian.close() == []
