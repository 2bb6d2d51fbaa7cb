"""Every call of the C core fails once, with every error that it may fail with; clocks jump.

Interrupted calls are made again, and what would block is waited for: nobody notices.
Anything else is a typed error, after which nothing is left, and everything works.
"""

import os
import subprocess

import pytest
from support import ROOT, c_compiler, free_port, unique_name

ERRORS = ["EINTR", "EAGAIN", "ENOMEM", "EMFILE", "ENOSPC"]
YEAR = 365 * 24 * 3600


@pytest.fixture(scope="module")
def shim(tmp_path_factory):
    built = tmp_path_factory.mktemp("shim") / "failing.so"
    # Its functions are declared as no header does, on purpose.
    flags = "-std=gnu11 -D_GNU_SOURCE -O1 -shared -fPIC -Wall -Wextra -Werror -fno-builtin"
    quiet = "-Wno-builtin-declaration-mismatch"
    source = ROOT / "tests" / "c" / "failing.c"
    subprocess.run([c_compiler(), *flags.split(), quiet, source, "-o", built], check=True)
    return built


@pytest.fixture
def run(spawn, shim):
    def run(code, *args):
        child = spawn(f"import failing\n{code}", *args, env={"LD_PRELOAD": str(shim)})
        heard = child.hear(300)
        child.end()
        return heard

    return run


@pytest.mark.parametrize("error", ERRORS)
@pytest.mark.parametrize(
    "what", ["shm", "broadcast", "tcp", "unix", "fifo", "file", "segment", "semaphore", "loopback"]
)
def test_every_call(run, what, error, podipc_dir):
    where = {
        "shm": f"shm://{podipc_dir.name}",
        "broadcast": f"shm://{podipc_dir.name}",
        "tcp": f"tcp://127.0.0.1:{free_port()}",
        "segment": unique_name(),
        "semaphore": unique_name(),
    }.get(what, f"{what}://{podipc_dir}-{what}")
    scenario = what if what in {"broadcast", "segment", "semaphore", "loopback"} else "exchange"
    # Most of a broadcast is that of any other channel of shared memory.
    step = 5 if what == "broadcast" and "PODIPC_EVERY_CALL" not in os.environ else 1
    code = "say(failing.every_call(getattr(failing, args[0]), *args[1:]))"
    count, wrong = run(code, scenario, where, error, step)
    assert not wrong, "\n".join([f"{len(wrong)} of {count}:", *wrong])
    if error in {"EINTR", "ENOMEM"}:
        assert count >= 3
    assert not os.path.exists(podipc_dir)


@pytest.mark.parametrize("jump", [YEAR, -YEAR])
def test_the_clock_jumps(run, jump):
    """A timeout is time that passes, whatever the wall clock says meanwhile."""
    took = run("say(failing.waits(*args))", jump, free_port())
    assert abs(took.pop("clock") - jump) < 3600, "the shim does not reach the clock"
    assert len(took) == 16
    for wait, seconds in took.items():
        assert seconds is not None, f"{wait} did not wait"
        assert 0.14 <= seconds <= 10, f"{wait} took {seconds} s"
