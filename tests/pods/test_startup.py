"""Startup probes: what waits for a sidecar, and what happens to one that does not start."""

import os
import shutil
import sys
import time
from typing import Any

import pytest
from podmaker import FOREVER, Maker, container, host_traces, mount, run_as_user
from support import PATIENCE, eventually

import podipc
from podipc.pod import up
from podipc.pod.errors import PodError
from podipc.pod.local import notes

pytestmark = pytest.mark.usefixtures("isolation")

VOLUME: dict[str, Any] = {"volumes": [{"name": "v", "emptyDir": {}}]}
MOUNTS = [mount("v", "/v")]
LATE = "sleep 0.7; touch /v/ready; exec sleep 1000"
# Listens only when it is told to, and answers 503 before that.
SERVER = """
import http.server, os, pathlib, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        asked = self.path == "/ready?x=1" and self.headers["X-Probe"] == "yes"
        self.send_response(204 if asked and os.path.exists("/v/ready") else 503)
        self.end_headers()
server = http.server.HTTPServer(("127.0.0.1", 8080), Handler)
pathlib.Path("/v/listens").touch()
server.serve_forever()
"""


def sidecar(command: list[str] | str, **probe: Any) -> dict[str, Any]:
    fields: dict[str, Any] = {"volumeMounts": MOUNTS, "restartPolicy": "Always"}
    return container("side", command, startupProbe={"periodSeconds": 1, **probe}, **fields)


def after(script: str) -> dict[str, Any]:
    """An init container that comes after the sidecar."""
    return container("after", script, volumeMounts=MOUNTS)


def test_what_comes_next_waits_for_a_command(make: Maker) -> None:
    pod = make.up(
        container("main", "ls /v", volumeMounts=MOUNTS),
        initContainers=[
            sidecar(LATE, exec={"command": ["test", "-e", "/v/ready"]}),
            after("ls /v"),
        ],
        **VOLUME,
    )
    assert pod.wait(PATIENCE) == "Succeeded"
    assert [pod[name].logs() for name in ("after", "main")] == ["ready\n", "ready\n"]
    assert pod["side"].restarts == 0


def test_a_sidecar_without_a_probe_is_not_waited_for(make: Maker) -> None:
    side = sidecar(LATE)
    del side["startupProbe"]
    pod = make.up(container("main", "ls /v", volumeMounts=MOUNTS), initContainers=[side], **VOLUME)
    assert pod.wait(PATIENCE) == "Succeeded"
    assert pod["main"].logs() == ""


@pytest.mark.parametrize("port", [8080, "web"])
def test_what_comes_next_waits_for_an_answer_over_http(make: Maker, port: int | str) -> None:
    server = sidecar(
        [sys.executable, "-c", SERVER],
        failureThreshold=100,
        httpGet={
            "path": "/ready?x=1",
            "port": port,
            "httpHeaders": [{"name": "X-Probe", "value": "yes"}],
        },
    )
    server["ports"] = [{"name": "web", "containerPort": 8080}]
    pod = make.up(
        container("main", "true"),
        container("other", "true"),
        initContainers=[
            container(
                "helper",
                "until [ -e /v/listens ]; do sleep 0.05; done; touch /v/ready; exec sleep 1000",
                volumeMounts=MOUNTS,
                restartPolicy="Always",
            ),
            server,
            after("ls /v"),
        ],
        **VOLUME,
    )
    assert pod.wait(PATIENCE) == "Succeeded"
    assert pod["after"].logs().split() == ["listens", "ready"]


def test_what_comes_next_waits_for_a_port(make: Maker) -> None:
    pod = make.up(
        container("main", "ls /v", volumeMounts=MOUNTS),
        initContainers=[
            sidecar([sys.executable, "-c", SERVER], tcpSocket={"port": 8080}, failureThreshold=99)
        ],
        **VOLUME,
    )
    assert pod.wait(PATIENCE) == "Succeeded"
    assert pod["main"].logs() == "listens\n"


def test_it_is_made_in_the_network_of_the_pod_as_an_ordinary_user_too(make: Maker) -> None:
    # Root's Python may be where another user does not come.
    python = sys.executable if os.geteuid() else shutil.which("python3", path="/usr/bin:/bin")
    if python is None:
        pytest.skip("not possible here: there is no Python for another user")
    file = make.write(
        container("main", "ls /v", volumeMounts=MOUNTS),
        initContainers=[
            sidecar([python, "-c", SERVER], tcpSocket={"port": 8080}, failureThreshold=99)
        ],
        **VOLUME,
    )
    phase, message, _, logs, *_ = run_as_user(file, f"sys.executable = {python!r}")
    assert phase == "Succeeded", message
    assert logs["main"] == "listens\n"


FAILURES: list[tuple[dict[str, Any], str]] = [
    ({"exec": {"command": ["sh", "-c", "echo not yet; exit 3"]}}, "not yet"),
    ({"exec": {"command": ["sh", "-c", "exit 3"]}}, "exit code 3"),
    ({"exec": {"command": ["no-such-program"]}}, "container 'a': there is no program 'no-"),
    ({"exec": {"command": ["sleep", "1000"]}}, "no result within 1 s"),
    ({"exec": {"command": ["sh", "-c", "head -c 9M /dev/zero; exit 3"]}}, "\0\0\0"),
    ({"tcpSocket": {"port": 9}}, "127.0.0.1:9: [Errno 111] Connection refused"),
    ({"httpGet": {"port": 9}}, "127.0.0.1:9: [Errno 111] Connection refused"),
]


@pytest.mark.parametrize(
    ("probe", "why"), FAILURES, ids=[why[:20].strip("\0") for _, why in FAILURES]
)
def test_one_that_does_not_start_is_ended(make: Maker, probe: dict[str, Any], why: str) -> None:
    fields = {"startupProbe": {"failureThreshold": 1, **probe}}
    pod = make.up(container("a", FOREVER, **fields), container("b", FOREVER))
    assert pod["a"].wait(PATIENCE) in (0, -9)
    said = pod["a"].logs()
    expected = "podipc: spec.containers[0].startupProbe: has failed 1 time, it is ended: "
    assert expected + why in said.replace("runs\n", "")
    assert pod["b"].state == "running"


def test_one_that_does_not_start_is_started_again(make: Maker) -> None:
    """As a sidecar, whatever restartPolicy the Pod has; and what comes next goes on waiting."""
    before = host_traces()
    file = make.write(
        container("main", "true"),
        initContainers=[
            sidecar(
                "echo $$ >> /v/runs; exec sleep 1000",
                exec={"command": ["sh", "-c", "[ $(wc -l < /v/runs) = 3 ]"]},
                failureThreshold=2,
            )
        ],
        **VOLUME,
    )
    with up(file, "local", backoff=0.1) as pod:
        assert pod.wait(PATIENCE) == "Succeeded"
        assert pod["side"].restarts == 2
        assert pod["side"].logs().count("has failed 2 times, it is ended") == 2
    assert host_traces() == before


def test_a_pod_whose_sidecar_never_starts_can_be_ended(make: Maker) -> None:
    before = host_traces()
    file = make.write(
        container("main", "true"),
        initContainers=[
            sidecar(["sleep", "1000"], exec={"command": ["sleep", "1000"]}, timeoutSeconds=500)
        ],
        **VOLUME,
    )
    pod = up(file, "local")
    eventually(lambda: pod["side"].state == "running", "it runs")
    with pytest.raises(podipc.Timeout, match="is not up after"):
        pod.ready(0.2)
    start = time.monotonic()
    pod.close()
    assert time.monotonic() - start < PATIENCE
    assert pod.phase == "Failed"
    with pytest.raises(PodError, match="was ended"):
        pod.ready()
    assert host_traces() == before


def test_a_container_that_ends_before_its_probe(make: Maker) -> None:
    pod = make.up(
        container(
            "a",
            "echo why; exit 3",
            startupProbe={"exec": {"command": ["true"]}, "initialDelaySeconds": 1000},
        )
    )
    assert pod.wait(PATIENCE) == "Failed"
    assert "ended with Error, exit code 3; it last said: why" in pod.message


def test_main_containers_are_not_waited_for(make: Maker) -> None:
    probe = {"exec": {"command": ["true"]}, "initialDelaySeconds": 1000}
    with up(make.write(container("a", FOREVER, startupProbe=probe)), "local") as pod:
        assert pod.phase == "Running"


@pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root")
def test_a_probe_runs_as_the_user_of_the_container(make: Maker) -> None:
    pod = make.up(
        container("main", "cat /v/ready", volumeMounts=MOUNTS),
        initContainers=[
            sidecar(["sleep", "1000"], exec={"command": ["sh", "-c", "id -u > /v/ready"]})
        ],
        securityContext={"runAsUser": 1234},
        **VOLUME,
    )
    assert pod.wait(PATIENCE) == "Succeeded"
    assert pod["main"].logs() == "1234\n"


def test_what_is_said_of_probes(make: Maker) -> None:
    pod = make.up(
        container("a", FOREVER, startupProbe={"grpc": {"port": 1}}),
        container("b", FOREVER, startupProbe={"tcpSocket": {"port": 1}, "failureThreshold": 99}),
        container("c", FOREVER, readinessProbe={"tcpSocket": {"port": 1}}),
    )
    said = notes.of(pod.spec)
    for start in (
        "spec.containers[0].startupProbe.grpc: not used, the container counts as started",
        "spec.containers[1].startupProbe.tcpSocket: made on 127.0.0.1 within the Pod; a cluster",
        "spec.containers[2].readinessProbe: not used, only startup probes are made here",
    ):
        assert any(note.startswith(start) for note in said), (start, said)


def test_an_idle_pod_is_up_without_its_programs(make: Maker) -> None:
    file = make.write(
        container("main", "true"),
        initContainers=[sidecar("true", exec={"command": ["false"]}, failureThreshold=1)],
        **VOLUME,
    )
    with up(file, "local", idle=True, grace=0) as pod:
        pod.ready(PATIENCE)
        assert [pod[name].state for name in ("side", "main")] == ["running"] * 2
