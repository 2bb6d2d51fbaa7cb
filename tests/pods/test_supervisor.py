"""Restarts, signals and ends at the wrong moment, where this process starts the containers."""

import contextlib
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from podmaker import container, host_traces
from support import PATIENCE, eventually, took_at_most, unique_name

import podipc
from podipc.pod import up
from podipc.pod.runtime import DEVNULL, Pod

STUBBORN = "trap 'echo no' TERM; echo runs; while :; do sleep 0.05; done"
Start = Callable[..., Pod]


@pytest.fixture(params=["local", pytest.param("podman", marks=pytest.mark.podman)])
def start(request: pytest.FixtureRequest, isolation: None) -> Iterator[Start]:
    """Starts Pods; what still runs is closed."""
    with contextlib.ExitStack() as stack:

        def started(*containers: dict[str, Any], **spec: Any) -> Pod:
            image = {"image": "localhost/podipc:latest"}
            metadata = {"name": unique_name("supervised").replace("_", "-").lower()}
            spec = {"containers": [{**each, **image} for each in containers], **spec}
            for each in spec.get("initContainers", ()):
                each.update(image)
            spec.setdefault("terminationGracePeriodSeconds", 0)
            document = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
            return stack.enter_context(up(document, request.param, backoff=0.01))

        yield started


def test_an_init_container_is_not_started_again(start: Start) -> None:
    pod = start(
        container("a", STUBBORN),
        initContainers=[container("first", "true")],
    )
    with pytest.raises(podipc.Closed, match="'first' is an init container, which runs once"):
        pod["first"].restart(PATIENCE)
    assert (pod["first"].restarts, pod["first"].returncode) == (0, 0)


def test_exec_in_a_container_that_ends(start: Start) -> None:
    """It runs, or it is said that the container does not; whatever the moment."""
    pod = start(container("a", STUBBORN))
    a = pod["a"]
    for _ in range(10 if pod.runtime == "local" else 2):
        eventually(lambda: a.state == "running", "it runs again")
        a.kill()
        with (
            contextlib.suppress(podipc.Closed),
            contextlib.closing(a.exec(["true"], stdout=DEVNULL, stderr=DEVNULL)) as program,
        ):
            assert program.wait(PATIENCE) in (0, -signal.SIGKILL)
    pod.close()


def test_signals_while_a_program_ends(start: Start) -> None:
    """None is for another, whose descriptor has the same number meanwhile."""
    pod = start(container("a", STUBBORN), container("b", STUBBORN), restartPolicy="Never")
    over = threading.Event()
    running: list[Any] = []

    def send() -> None:
        while not over.is_set():
            for program in running[-1:]:
                program.kill()

    sender = threading.Thread(target=send)
    sender.start()
    try:
        for _ in range(60 if pod.runtime == "local" else 2):
            program = pod["a"].exec(["true"], stdout=DEVNULL, stderr=DEVNULL)
            running.append(program)
            assert program.wait(PATIENCE) in (0, -signal.SIGKILL)
            program.close()
    finally:
        over.set()
        sender.join()
    assert [c.state for c in pod.containers.values()] == ["running", "running"]


def test_an_interrupted_end_is_an_end_at_once(start: Start) -> None:
    before = host_traces()
    pod = start(container("a", STUBBORN), restartPolicy="Never", terminationGracePeriodSeconds=1000)
    eventually(lambda: "runs" in pod["a"].logs(), "it has its handler")

    def interrupt() -> None:
        eventually(lambda: "no" in pod["a"].logs(), "it does not end")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with took_at_most(PATIENCE), pytest.raises(KeyboardInterrupt):
        pod.close()
    assert pod["a"].returncode == -signal.SIGKILL
    assert pod.phase == "Failed"
    if pod.runtime == "podman":
        exists = subprocess.run(["podman", "pod", "exists", pod.name], check=False)
        assert exists.returncode == 1
    assert host_traces() == before
    pod.close()


def test_what_cannot_be_executed_is_not_said_to_be_missing(start: Start) -> None:
    pod = start(container("a", STUBBORN))
    for path in ("/etc", "/etc/passwd"):
        with pytest.raises(podipc.NotPermitted, match=f"'a': .*'{path}'"):
            pod["a"].exec([path], stdout=DEVNULL, stderr=DEVNULL)


def test_the_environment_knows_where_it_is(start: Start) -> None:
    pod = start(container("a", STUBBORN, workingDir="/tmp"))
    look = "import os, socket; [os.environ.get('HOSTNAME') == socket.gethostname(), os.getcwd()]"
    assert pod["a"].run(look).unwrap() == [True, "/tmp"]
    assert pod["a"].run("os.environ.get('PWD', os.getcwd())").unwrap() == "/tmp"


def test_a_very_long_grace_period(start: Start) -> None:
    ends = container("a", "trap 'echo ends; exit 0' TERM; echo runs; while :; do sleep 0.05; done")
    pod = start(ends, restartPolicy="Never", terminationGracePeriodSeconds=5_000_000)
    eventually(lambda: "runs" in pod["a"].logs(), "it runs")
    pod.close()
    assert pod["a"].logs() == "runs\nends\n"
