"""``%pod``, ``%%container`` and ``%%containers`` in real kernels of Jupyter."""

from __future__ import annotations

import os
import queue
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, ROOT, eventually, took_at_most

jupyter_client = pytest.importorskip("jupyter_client", reason="jupyter_client is not installed")
pytest.importorskip("ipykernel", reason="ipykernel is not installed")

POD = ROOT / "k8s/pods/shared-memory-pod.yaml"
KEEPS_CHANNELS = True  # of ZeroMQ, for as long as this process lives
UP = f"%pod up {POD} --runtime local --grace 1"


class Kernel:
    """A kernel, and what its cells show."""

    def __init__(self) -> None:
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        del environment["PODIPC_DIR"]  # of the host; the Pod has its own /dev/shm
        self.place = tempfile.TemporaryDirectory(prefix="podipc-kernel-")
        self.manager = jupyter_client.KernelManager(
            kernel_name="python3", transport="ipc", ip=f"{self.place.name}/kernel"
        )
        self.manager.start_kernel(env=environment)
        self.client = self.manager.client()
        self.client.start_channels()
        try:
            self.client.wait_for_ready(2 * PATIENCE)
            self.run("%load_ext podipc.lab")
        except BaseException:
            self.end()
            raise

    def run(self, *lines: str) -> Shown:
        """Run a cell to its end."""
        return self.result(self.begin(*lines))

    def begin(self, *lines: str) -> str:
        """Begin a cell."""
        return str(self.client.execute("\n".join(lines)))

    def result(self, cell: str) -> Shown:
        """What a cell has shown, once it has ended."""
        shown = Shown()
        while True:
            message = self.client.get_iopub_msg(timeout=PATIENCE)
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["msg_type"], message["content"]
            if kind == "status" and content["execution_state"] == "idle":
                return shown
            shown.take(kind, content)

    def later(self, timeout: float) -> list[dict[str, Any]]:
        """What comes by itself, for some time."""
        found, deadline = [], time.monotonic() + timeout
        while (left := deadline - time.monotonic()) > 0:
            try:
                found.append(self.client.get_iopub_msg(timeout=left))
            except queue.Empty:
                break
        return found

    def end(self) -> None:
        """End it."""
        self.client.stop_channels()
        self.manager.shutdown_kernel(now=True)
        self.manager.cleanup_resources()
        self.place.cleanup()


class Shown:
    """The outputs of one cell."""

    def __init__(self) -> None:
        self.out = self.err = self.value = self.html = ""
        self.error = ""
        self.kind = ""

    def take(self, kind: str, content: dict[str, Any]) -> None:
        """One output."""
        if kind == "stream":
            if content["name"] == "stdout":
                self.out += content["text"]
            else:
                self.err += content["text"]
        elif kind in ("execute_result", "display_data"):
            self.value = content["data"].get("text/plain", "")
            self.html += content["data"].get("text/html", "")
        elif kind == "error":
            self.kind = content["ename"]
            self.error = "\n".join(content["traceback"])

    @property
    def complaint(self) -> str:
        """What is said of what went wrong, in whatever way."""
        return self.err + self.error


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.end()


@pytest.fixture
def pod(kernel: Kernel) -> Kernel:
    shown = kernel.run(UP)
    assert not shown.complaint
    return kernel


def test_a_day_in_a_notebook(kernel: Kernel) -> None:
    shown = kernel.run(UP)
    assert "Pod shared-memory-pod is up, runtime local" in shown.html
    assert "image: not used" in shown.html, "what the runtime does not have is said"
    shown = kernel.run("%%container producer", "import numpy as np", "x = np.arange(3)", "x + 1")
    assert shown.value == "array([1, 2, 3])"
    assert kernel.run("%%container producer", "print(x.sum())").out == "3\n", "variables live on"
    assert kernel.run("%%container consumer", "x").kind == "CellFailed", "of that container"
    assert kernel.run("%%container producer", "x;").value == ""

    shown = kernel.run("%pod status")
    for word in ("producer", "consumer", "running", "128 MiB", "shared: ", "/dev/shm"):
        assert word in shown.html
    assert "private: mnt, pid, uts" in shown.html
    assert kernel.run("pod.name").value == "'shared-memory-pod'"
    assert "net" in kernel.run("print(%pod facts)").complaint + kernel.run("%pod facts").value
    assert kernel.run("%pod down").out == "Pod shared-memory-pod is down\n"
    assert "no Pod is up" in kernel.run("%pod status").complaint


def test_what_goes_there_and_comes_back(pod: Kernel) -> None:
    pod.run("import numpy", "a = numpy.eye(2)", "b = {'k': [1, 2]}")
    assert not pod.run("%%container producer -i a,b -o c", "c = a * b['k'][1]").complaint
    assert pod.run("c.tolist()").value == "[[2.0, 0.0], [0.0, 2.0]]"
    assert "no variable 'nothing'" in pod.run("%%container producer -i nothing", "1").complaint
    assert "NameError" in pod.run("%%container producer -o nothing", "1").complaint
    assert pod.run("%%container producer", "object()").value.startswith("<object object at")


def test_both_at_once(pod: Kernel) -> None:
    shown = pod.run(
        "%%containers producer consumer -o here",
        "import os",
        "here = os.uname().nodename",
        "print(CONTAINER, 'is', here)",
        "here",
    )
    assert sorted(shown.out.splitlines()) == [
        "consumer | consumer is consumer",
        "producer | producer is producer",
    ]
    assert shown.value == "{'producer': 'producer', 'consumer': 'consumer'}"
    assert pod.run("here['producer']").value == "'producer'"
    # A tensor from one to the other: each waits for the other, so they do run at once.
    shown = pod.run(
        "%%containers producer consumer",
        "import numpy as np, podipc",
        "if CONTAINER == 'producer':",
        "    with podipc.sender('shm://frames') as tx:",
        "        tx.send(np.arange(10))",
        "else:",
        "    with podipc.receiver('shm://frames') as rx:",
        "        print(rx.recv(timeout=30).sum())",
    )
    assert shown.out == "consumer | 45\n"
    assert not shown.complaint


def test_tracebacks(pod: Kernel) -> None:
    shown = pod.run("%%container producer", "def f():", "    return 1 / 0", "f()")
    assert shown.kind == "CellFailed"
    assert "In container 'producer':" in shown.error
    assert "ZeroDivisionError: division by zero" in shown.error
    assert "    return 1 / 0" in shown.error, "with the line"
    assert "podipc/lab" not in shown.error, "and without ours"
    shown = pod.run("%%containers producer consumer", "if CONTAINER == 'consumer': 1 / 0")
    assert "In container 'consumer':" in shown.error
    shown = pod.run("%%containers producer consumer", "{}[CONTAINER]")
    for name in ("producer", "consumer"):
        assert f"In container '{name}':" in shown.error, "what went wrong in both is told of both"
        assert f"KeyError: '{name}'" in shown.error


def test_in_the_background(pod: Kernel) -> None:
    cell = pod.begin(
        "%%container producer --background",
        "import time",
        "for i in range(1000):",
        "    print('number', i)",
        "    time.sleep(0.05)",
    )
    with took_at_most(PATIENCE):
        assert not pod.result(cell).complaint
    assert pod.run("%%container producer", "2 + 2").value == "4", "others run meanwhile"

    def streams() -> bool:
        return any(
            message["msg_type"] == "update_display_data"
            and "number 3" in message["content"]["data"]["text/html"]
            for message in pod.later(0.5)
        )

    eventually(streams, "its output is added under its cell")
    assert int(pod.run("%%container producer", "i").value) >= 3, "it shares its variables"


def test_wrong_words(kernel: Kernel) -> None:
    assert "no Pod is up" in kernel.run("%%container producer", "1").complaint
    assert "cannot be read: No such file" in kernel.run("%pod up nothing.yaml").complaint
    assert "invalid choice: 'docker'" in kernel.run(f"{UP} --runtime docker").complaint
    assert "invalid choice: 'upp'" in kernel.run("%pod upp").complaint
    kernel.run(UP)
    assert "is up already (local); %pod down ends it" in kernel.run(UP).complaint
    shown = kernel.run("%%container produser", "1")
    assert "no container 'produser'; it has producer, consumer" in shown.complaint
    assert "did you mean 'producer'?" in shown.complaint
    assert "the following arguments are required" in kernel.run("%%container", "1").complaint


def test_a_container_that_has_died(pod: Kernel) -> None:
    assert not pod.run("%%container producer", "x = 1").complaint
    shown = pod.run("%%container producer", "import os, time", "os.kill(1, 15)", "time.sleep(60)")
    assert shown.kind == "CellFailed"
    assert "container 'producer' ended with Completed, exit code 0" in shown.error
    shown = pod.run("%%container producer", "x")
    assert "container 'producer' ended" in shown.error, "and it is said again"
    assert not pod.run("%pod restart producer").complaint
    shown = pod.run("%%container producer", "'x' in globals()")
    assert shown.value == "False"
    assert "the variables of earlier cells are gone" in shown.out


def test_a_cell_that_never_ends(pod: Kernel) -> None:
    for code in ("import time; print('begins'); time.sleep(1000)", "print('begins')\nwhile 1: 0"):
        for magic in ("%%container producer", "%%containers producer consumer"):
            cell = pod.begin(magic, code)
            time.sleep(0.5)
            pod.manager.interrupt_kernel()
            with took_at_most(10):
                shown = pod.result(cell)
            assert shown.kind == "KeyboardInterrupt", shown.complaint
            assert pod.run("%%container producer", "1 + 1").value == "2", "and it is ended there"


@pytest.mark.parametrize("how", ["restart", "kill"])
def test_a_kernel_that_goes_takes_its_pod_along(pod: Kernel, how: str) -> None:
    pid = int(pod.run("pod['producer'].pid").value)
    if how == "restart":
        pod.manager.restart_kernel(now=False)
    else:
        kernel = int(pod.run("import os; os.getpid()").value)
        os.kill(kernel, signal.SIGKILL)
    eventually(lambda: not Path(f"/proc/{pid}").exists(), "the container is gone")


def test_two_notebooks(pod: Kernel) -> None:
    other = Kernel()
    try:
        assert not other.run(UP).complaint
        pod.run("%%container producer", "x = 1")
        assert "NameError" in other.run("%%container producer", "x").complaint
        assert other.run("%pod down").out
        assert pod.run("%%container producer", "x").value == "1"
    finally:
        other.end()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("%%container pro", ["producer"]),
        ("%%containers producer con", ["consumer"]),
        ("%pod st", ["status"]),
        ("%pod logs c", ["consumer"]),
    ],
)
def test_completion(pod: Kernel, line: str, expected: list[str]) -> None:
    reply = pod.client.complete(line, reply=True, timeout=PATIENCE)
    assert reply["content"]["matches"] == expected


def test_unload(pod: Kernel) -> None:
    pid = int(pod.run("pod['producer'].pid").value)
    pod.run("%unload_ext podipc.lab")
    assert not Path(f"/proc/{pid}").exists()
    assert "not found" in pod.run("%%container producer", "1").complaint
