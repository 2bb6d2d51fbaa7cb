"""Whoever holds a Pod dies, at any moment: no process, mount, namespace, cgroup or file is left."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from podmaker import MEMORY, Maker, alive, container, host_traces, mount
from support import PATIENCE, ROOT, eventually, ordinary_user

from podipc.pod import up
from podipc.pod.local import cgroups

pytestmark = pytest.mark.usefixtures("isolation")

NAMESPACES = ("pid", "mnt", "net", "ipc", "uts")


def busy(make: Maker) -> Path:
    """A manifest whose Pod has something of everything, and a process that nobody waits for."""
    return make.write(
        container(
            "a",
            "setsid sleep 1000 & echo > /d/f; echo > /m/f; mkdir /d/done; exec sleep 1000",
            volumeMounts=[mount("d", "/d"), mount("m", "/m")],
            resources={"limits": {"memory": "100Mi", "cpu": 1}},
        ),
        container("b", ["sleep", "1000"]),
        initContainers=[
            container("i", "true"),
            container(
                "s",
                ["sleep", "1000"],
                restartPolicy="Always",
                startupProbe={"exec": {"command": ["true"]}},
            ),
        ],
        volumes=[{"name": "d", "emptyDir": {}}, {"name": "m", "emptyDir": MEMORY}],
    )


PARENT = """
import json, os, sys, time
import podipc.pod
with podipc.pod.up(sys.argv[1], "local") as pod:
    print(json.dumps({"pids": [c.pid for c in pod.containers.values() if c.pid],
                      "scratch": pod._sandbox.scratch}), flush=True)
    time.sleep(1000)
"""


AS_USER = "import encodings.idna, podipc.pod.local.pod, podipc.pod.manifest; become()\n" + PARENT


def start(code: str, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, words)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Seen:
    """A Pod of another process while it runs, as far as that can be seen from here."""

    def __init__(self, parent: subprocess.Popen[str]) -> None:
        assert parent.stdout
        assert parent.stderr
        line = parent.stdout.readline()
        assert line, parent.stderr.read()
        told = json.loads(line)
        self.pids: list[int] = told["pids"]
        self.scratch = Path(told["scratch"])
        eventually((self.scratch / "d" / "done").exists, "the container has written")
        assert len(self.pids) == 3
        self.namespaces = {name: _namespace(self.pids[0], name) for name in NAMESPACES}
        assert all(self.namespaces.values())

    def left(self) -> list[str]:
        """What is left of it."""
        found = [f"process {pid}" for pid in self.pids if alive(pid)]
        if self.scratch.exists():
            found.append(str(self.scratch))
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                for name, namespace in self.namespaces.items():
                    if _namespace(int(entry.name), name) == namespace:
                        found.append(f"{name} namespace of {entry.name}")
        return found


def _namespace(pid: int, name: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/ns/{name}")
    except OSError:
        return ""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_dying_parent_leaves_nothing(make: Maker, number: int) -> None:
    before = host_traces()
    with start(PARENT, busy(make)) as parent:
        seen = Seen(parent)
        now = host_traces()
        assert now["scratch"] != before["scratch"]
        assert now["processes"] != before["processes"]
        if cgroups.controllers()["memory"].parent:
            assert now["cgroups"] != before["cgroups"]
        parent.send_signal(number)
        parent.communicate(timeout=PATIENCE)
    eventually(lambda: not seen.left(), "nothing is left of it")
    eventually(lambda: host_traces() == before, "nor anywhere else")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_dying_ordinary_user_leaves_nothing(make: Maker, number: int) -> None:
    before = host_traces()
    with ordinary_user(AS_USER, busy(make).read_text()) as parent:
        seen = Seen(parent)
        assert host_traces()["scratch"] != before["scratch"]
        parent.send_signal(number)
        parent.communicate(timeout=PATIENCE)
    eventually(lambda: not seen.left(), "nothing is left of it")
    eventually(lambda: host_traces() == before, "nor anywhere else")


def test_of_two_pods_one_goes(make: Maker) -> None:
    before = host_traces()
    with start(PARENT, busy(make)) as one, start(PARENT, busy(make)) as other:
        seen, stays = Seen(one), Seen(other)
        assert set(seen.namespaces.values()).isdisjoint(stays.namespaces.values())
        one.kill()
        one.communicate(timeout=PATIENCE)
        eventually(lambda: not seen.left(), "nothing is left of it")
        assert all(alive(pid) for pid in stays.pids)
        assert (stays.scratch / "d" / "f").exists()
        other.kill()
        other.communicate(timeout=PATIENCE)
    eventually(lambda: not stays.left(), "nothing is left of the other")
    eventually(lambda: host_traces() == before, "nor anywhere else")


TWO = """
import sys, time
import podipc.pod
with podipc.pod.up(sys.argv[1], "local"), podipc.pod.up(sys.argv[2], "local"):
    print("up", flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_two_pods_of_one_parent_go_with_it(make: Maker, number: int) -> None:
    before = host_traces()
    with start(TWO, busy(make), busy(make)) as parent:
        assert parent.stdout
        assert parent.stdout.readline() == "up\n"
        assert len(host_traces()["scratch"]) == len(before["scratch"]) + 2
        parent.send_signal(number)
        parent.communicate(timeout=PATIENCE)
    eventually(lambda: host_traces() == before, "nothing is left of either")


# Kills itself at the so many-th call that the runtime makes, in any of its threads.
DIES = """
import os, signal, sys, threading
import podipc.pod, podipc.pod.local, podipc.pod.manifest
last, lock, count = int(sys.argv[2]), threading.Lock(), 0
def profile(frame, event, argument):
    global count
    if event in ("call", "c_call") and "/podipc/pod/" in frame.f_code.co_filename:
        with lock:
            count += 1
            if count == last:
                os.kill(os.getpid(), signal.SIGKILL)
threading.setprofile(profile)
sys.setprofile(profile)
with podipc.pod.up(sys.argv[1], "local") as pod:
    sys.setprofile(None)
    print(count, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_parent_that_is_killed_while_the_pod_starts_leaves_nothing(make: Maker) -> None:
    """At sixteen moments, from the first call to when all containers run."""
    before = host_traces()
    file = busy(make)
    with start(DIES, file, 0) as parent:
        out, err = parent.communicate(timeout=PATIENCE)
    assert out, err
    calls = int(out)
    assert calls > 100
    for moment in range(16):
        with start(DIES, file, 1 + moment * calls // 16) as parent:
            out, err = parent.communicate(timeout=PATIENCE)
        assert parent.returncode == -signal.SIGKILL, err
        eventually(lambda: host_traces() == before, f"nothing is left, moment {moment}")


def test_ctrl_c_while_it_starts(make: Maker) -> None:
    before = host_traces()
    file = make.write(
        container("a", "true"),
        initContainers=[container("i", ["sleep", "1000"])],
    )
    timer = threading.Timer(0.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt), up(file, "local"):
        pass
    timer.join()
    assert host_traces() == before
