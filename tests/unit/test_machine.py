"""What is kept with every result about the machine it was measured on."""

import json
import os
import platform
import subprocess
import sys

from support import ROOT

from podipc import _core
from podipc.lab import machine


def test_it_fits_into_json_and_has_stable_keys() -> None:
    found = machine.describe()
    assert json.loads(json.dumps(found)) == found
    assert set(found) == {"host", "container", "versions"}
    assert set(found["host"]) == {
        *("cpu", "arch", "cpus", "memory", "page_size", "kernel", "byte_order", "load"),
        *("governor", "thp", "thp_shmem", "virtual"),
    }
    assert set(found["container"]) == {
        *("pid", "uid", "hostname", "cpus", "limits", "shm", "namespaces"),
    }
    assert set(found["container"]["limits"]) == {"memory", "cpus"}
    assert {"python", "libc", "numpy"} <= set(found["versions"])


def test_it_is_true_of_this_process() -> None:
    found = machine.describe()
    pages = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    assert found["host"]["memory"] == pages
    assert found["host"]["kernel"] == os.uname().release
    assert found["versions"]["python"] == platform.python_version()
    assert found["container"]["cpus"] == sorted(os.sched_getaffinity(0))
    assert found["container"]["namespaces"]["net"] == os.readlink("/proc/self/ns/net")
    shm = os.statvfs("/dev/shm")
    assert found["container"]["shm"]["size"] == shm.f_blocks * shm.f_frsize


def test_limits_are_those_of_the_core() -> None:
    found, core = machine.limits(), _core.limits()
    assert core["memory_available"] > 0
    assert 0 < core["cpus"] <= len(os.sched_getaffinity(0))
    assert found["memory"] in (None, core["memory"])
    assert found["cpus"] in (None, core["cpus"])
    if found["memory"] is None:
        assert core["memory"] == os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def test_affinity_is_no_quota() -> None:
    code = "import json, os; from podipc.lab import machine\n"
    code += "os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})\n"
    code += "print(json.dumps(machine.container()))"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["cpus"] == [max(os.sched_getaffinity(0))]
    quota = machine.limits()["cpus"]
    assert found["limits"]["cpus"] == (quota if quota is not None and quota < 1 else None)
