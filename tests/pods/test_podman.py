"""Real containers: what a Pod of the runtime podman shares, keeps apart, limits and leaves."""

import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, ROOT, eventually, took_at_most, unique_name

import podipc
from podipc.pod import notes_of, up, up_all
from podipc.pod.errors import CommandNotFound, ManifestError, PodError, UnknownPod
from podipc.pod.manifest import read
from podipc.pod.runtime import PIPE, STDOUT, Pod

pytestmark = pytest.mark.podman

IMAGE = "localhost/podipc:latest"
FOREVER = "trap 'echo ends; exit 0' TERM; echo runs; while :; do sleep 0.05; done"
MIB = 1 << 20


def podman(*words: str) -> str:
    def call() -> "subprocess.CompletedProcess[str] | None":
        # A list is refused while something of another Pod is being removed.
        done = subprocess.run(["podman", *words], check=False, capture_output=True, text=True)
        return done if done.returncode == 0 else None

    return str(eventually(call, f"podman {words}", 10).stdout)


@pytest.fixture(scope="module", autouse=True)
def there() -> None:
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    if os.geteuid() != 0:
        pytest.skip("not possible here: needs root")
    if subprocess.run(["podman", "image", "exists", IMAGE], check=False).returncode != 0:
        pytest.skip(f"podman has no image {IMAGE}: k8s/image/build.sh makes it")


def ours() -> dict[str, list[str]]:
    """What podman and the kernel have of the Pods of these tests."""
    pods = json.loads(podman("pod", "ps", "--format", "json") or "[]") or []
    names = [pod["Name"] for pod in pods if pod["Name"].startswith(PREFIX)]
    containers = podman("ps", "-a", "--format", "{{.Names}}").split()
    return {
        "pods": names,
        "containers": [name for name in containers if PREFIX in name],
        "volumes": [n for n in podman("volume", "ls", "-q").split() if PREFIX in n],
    }


def cgroups() -> set[str]:
    """The groups that belong to no Pod of podman any more."""
    everyone = podman("pod", "ps", "-q", "--no-trunc").split()
    found = Path("/sys/fs/cgroup").glob("*/libpod_parent/*")
    return {str(path) for path in found if path.is_dir() and path.name not in everyone}


PREFIX = unique_name("pod").rpartition("-")[0].rpartition("-")[0]
NOTHING: dict[str, list[str]] = {"pods": [], "containers": [], "volumes": []}


def container(name: str, command: list[str] | str, **fields: Any) -> dict[str, Any]:
    if isinstance(command, str):
        command = ["sh", "-c", command]
    return {"name": name, "image": IMAGE, "command": command, **fields}


def document(*containers: dict[str, Any], name: str = "", **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name or unique_name("pod").lower(), "labels": {"app": "x"}},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 20,
            "containers": list(containers),
            **spec,
        },
    }


class Maker:
    """Starts Pods of its own names; what still runs is closed, and nothing is left then."""

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()

    def up(self, *containers: dict[str, Any], backoff: float = 10.0, **spec: Any) -> Pod:
        made = up(document(*containers, **spec), "podman", backoff=backoff)
        return self._stack.enter_context(made)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def make() -> Iterator[Maker]:
    maker, before = Maker(), cgroups()
    yield maker
    maker.close()
    assert ours() == NOTHING
    eventually(lambda: not cgroups() - before, "no cgroup is left")


def say(pod: Pod, name: str, *command: str, code: int = 0) -> str:
    """What a program prints in a container."""
    program = pod[name].exec(command, stdout=PIPE, stderr=STDOUT)
    assert program.stdout
    said = program.stdout.read().decode()
    assert program.wait(PATIENCE) == code, said
    program.close()
    return said.strip()


# What is shared, and what is not


def test_namespaces_users_and_shared_memory(make: Maker) -> None:
    """One Pod for all that does not change it: making one takes a second."""
    pod = make.up(
        container("a", FOREVER, securityContext={"runAsUser": 1001}),
        container("b", FOREVER, securityContext={"runAsUser": 1002, "runAsGroup": 1003}),
        volumes=[{"name": "d", "emptyDir": {}}],
    )
    kinds = {"net": True, "ipc": True, "uts": True, "mnt": False, "pid": False}
    look = (
        f"for kind in {' '.join(kinds)}; do readlink /proc/self/ns/$kind; done; id -u; id -g;"
        "cat /proc/1/comm; ls /sys/class/net; stat -f -c '%b %S %T' /dev/shm;"
        "cat /dev/shm/x 2>/dev/null; echo here > /dev/shm/x"
    )
    a = say(pod, "a", "sh", "-c", look).splitlines()
    b = say(pod, "b", "sh", "-c", f"{look}-of-b").splitlines()
    for (kind, is_shared), one, other in zip(kinds.items(), a, b, strict=False):
        assert (one == other) == is_shared, kind
    assert (a[5:7], b[5:7]) == (["1001", "0"], ["1002", "1003"])
    assert a[7:9] == b[7:9] == ["sh", "lo"]
    # /dev/shm: one for both, 64 MiB as podman has it, open to every UID.
    blocks, size, kind = a[9].split()
    assert kind == "tmpfs"
    assert 0.95 * 64 * MIB <= int(blocks) * int(size) <= 64 * MIB
    assert (a[10:], b[10:]) == ([], ["here"])
    assert pod["a"].pid != pod["b"].pid
    for name in "ab":
        pid = pod[name].pid
        assert pid is not None
        assert Path(f"/proc/{pid}/comm").read_text() == "sh\n"


SEND = """
import numpy, podipc
with podipc.sender("shm://frames", mode=0o666) as tx:
    tx.send(numpy.full(96 << 20, 7, numpy.uint8), timeout=60)
""".strip()
TAKE = """
import podipc
with podipc.receiver("shm://frames", mode=0o666) as rx:
    x = rx.recv(timeout=60)
    print(x.nbytes, x.min(), x.max())
""".strip()


def test_tensors_between_two_users(make: Maker) -> None:
    pod = make.up(
        container(
            "a",
            ["python3", "-c", SEND],
            securityContext={"runAsUser": 1001},
        ),
        container(
            "b",
            ["python3", "-c", TAKE],
            securityContext={"runAsUser": 1002},
        ),
    )
    assert pod.wait(PATIENCE) == "Succeeded", pod.message + pod["a"].logs() + pod["b"].logs()
    assert pod["b"].logs() == f"{96 * MIB} 7 7\n"


def test_volumes(make: Maker) -> None:
    memory, disk = {"name": "m", "mountPath": "/m"}, {"name": "d", "mountPath": "/d"}
    pod = make.up(
        container("a", FOREVER, volumeMounts=[memory, disk], securityContext={"runAsUser": 1001}),
        container(
            "b",
            FOREVER,
            volumeMounts=[memory, {**disk, "readOnly": True}],
            securityContext={"runAsUser": 1002},
        ),
        volumes=[
            {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            {"name": "d", "emptyDir": {}},
        ],
        securityContext={"fsGroup": 2000},
    )
    look = "stat -f -c '%b %S %T' /m /d; stat -c '%a %u %g' /m /d; echo 1 > /m/x; echo 2 > /d/x"
    memory_is, disk_is, *owners = say(pod, "a", "sh", "-c", look).splitlines()
    blocks, size, kind = memory_is.split()
    assert kind == "tmpfs"
    assert int(blocks) * int(size) == 8 * MIB
    assert not disk_is.endswith("tmpfs")
    assert owners == ["2777 0 2000"] * 2
    groups, *said = say(
        *(pod, "b", "sh", "-c", "id -G; cat /m/x /d/x; echo 3 > /m/y; echo 3 > /d/y"), code=2
    ).splitlines()
    assert "2000" in groups.split()
    assert said[:2] == ["1", "2"]
    assert len(said) == 3
    assert "/d/y: Read-only" in said[2]


def test_a_config_map_as_files(make: Maker, tmp_path: Path) -> None:
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    config = {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "c"},
        "data": {"text": "of a text\n"},
        "binaryData": {"raw": "cmF3Cg=="},
    }
    look = "cat /c/text /c/raw /one; stat -c %a /c/text /c/raw; ls /c /some; cat /some/d/e"
    paths = {"c": "/c", "some": "/some"}
    mounts = [{"name": name, "mountPath": path} for name, path in paths.items()]
    mounts.append({"name": "c", "mountPath": "/one", "subPath": "text"})
    spec = document(
        container("a", f"{look}; touch /c/text /c/new /one; mkdir /some/x", volumeMounts=mounts),
        container(
            "b",
            "cat /c/text; stat -c '%u %g' /c/text",
            volumeMounts=mounts[:1],
            securityContext={"runAsUser": 1001},
        ),
        volumes=[
            {"name": "c", "configMap": {"name": "c", "defaultMode": 0o400}},
            {"name": "some", "configMap": {"name": "c", "items": [{"key": "raw", "path": "d/e"}]}},
            {"name": "unused", "secret": {"secretName": "s"}},
        ],
        securityContext={"runAsUser": 0, "fsGroup": 2000},
    )
    file = tmp_path / "pod.yaml"
    file.write_text(yaml.safe_dump_all([spec, config]))
    with up(file, "podman") as pod:
        pod.wait(PATIENCE)
        said = pod["a"].logs().splitlines()
        assert pod["b"].logs() == "of a text\n0 2000\n"
    assert said[:5] == ["of a text", "raw", "of a text", "440", "440"]
    assert said[5:12] == ["/c:", "raw", "text", "", "/some:", "d", "raw"]
    assert sum("Read-only file system" in line for line in said[12:]) == 4, said
    spec["spec"]["containers"][0]["volumeMounts"][2]["subPath"] = "no"
    file.write_text(yaml.safe_dump_all([spec, config]))
    with pytest.raises(ManifestError, match=r"Mounts\[2\]\.subPath: expected a file .*text, raw"):
        up(file, "podman")


def test_limits_and_a_container_that_runs_out_of_memory(
    make: Maker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    limits = {"limits": {"memory": "64Mi", "cpu": "500m"}}
    greedy = ["python3", "-c", "print('begins', flush=True); x = bytearray(200 << 20)"]
    pod = make.up(
        container("a", FOREVER, resources=limits),
        container("greedy", greedy, resources=limits),
        container("killed", "kill -9 $$; exec sleep 1000"),
    )
    assert podipc_limit(say(pod, "a", "python3", "-c", LIMITS)) == (64 * MIB, 0.5)
    assert pod["greedy"].wait(PATIENCE) == -signal.SIGKILL
    assert pod["greedy"].reason == "OOMKilled"
    assert pod["greedy"].logs() == "begins\n"
    assert pod["a"].exec(greedy).wait(PATIENCE) == -signal.SIGKILL
    # The same exit code for another reason.
    pod["killed"].kill()
    assert pod["killed"].wait(PATIENCE) == -signal.SIGKILL
    assert pod["killed"].reason == "Error"
    pod["a"].send_signal(signal.SIGTERM)
    assert pod.wait(PATIENCE) == "Failed"
    assert "container 'greedy' ended with OOMKilled, signal 9" in pod.message
    assert not list(here.iterdir()), "conmon notes it in its working directory, which is not ours"


LIMITS = """
import pathlib
def text(*names):
    for name in names:
        path = pathlib.Path("/sys/fs/cgroup", name)
        if path.is_file():
            return path.read_text()
quota = text("cpu.max") or " ".join(
    text(f"cpu/cpu.cfs_{x}_us", f"cpu,cpuacct/cpu.cfs_{x}_us").strip() for x in ("quota", "period"))
print(text("memory.max", "memory/memory.limit_in_bytes").strip(), quota.strip())
"""


def podipc_limit(said: str) -> tuple[int, float]:
    memory, quota, period = map(int, said.split())
    return memory, quota / period


# How containers run


def test_order_of_init_containers_and_sidecars(make: Maker) -> None:
    """What podman 4 has no idea of: a sidecar that goes on, and ends last."""
    mounts = [{"name": "d", "mountPath": "/d"}]
    pod = make.up(
        container("main", "cat /d/*; test -e /d/2; exit 0", volumeMounts=mounts),
        initContainers=[
            container("first", "test ! -e /d/2 && echo one > /d/1", volumeMounts=mounts),
            container("side", FOREVER, volumeMounts=mounts, restartPolicy="Always"),
            container("second", "test -e /d/1 && echo two > /d/2", volumeMounts=mounts),
        ],
        volumes=[{"name": "d", "emptyDir": {}}],
    )
    assert pod.wait(PATIENCE) == "Succeeded", pod.message
    assert pod["main"].logs() == "one\ntwo\n"
    assert pod["side"].logs() == "runs\nends\n"
    assert [pod[name].returncode for name in ("first", "second", "main")] == [0, 0, 0]


def test_an_init_container_that_fails(make: Maker) -> None:
    with pytest.raises(PodError, match=r"spec\.initContainers\[0\]: container 'i' ended .* code 4"):
        make.up(container("a", FOREVER), initContainers=[container("i", "echo no; exit 4")])
    assert ours() == NOTHING


def test_restarts(make: Maker) -> None:
    pod = make.up(
        container("again", "echo run; exit 3"),
        container("once", "echo run"),
        container("stays", FOREVER),
        restartPolicy="OnFailure",
        backoff=0.05,
    )
    eventually(lambda: pod["again"].logs().startswith("run\nrun\nrun\n"), "the log of all runs")
    assert pod["again"].restarts >= 2
    assert pod["again"].returncode == 3
    assert pod["once"].wait(PATIENCE) == 0
    assert (pod["once"].restarts, pod["once"].reason) == (0, "Completed")
    before = pod["stays"].pid
    pod["stays"].kill()
    eventually(lambda: pod["stays"].restarts == 1 and pod["stays"].pid, "one container restarts")
    assert pod["stays"].pid != before
    eventually(lambda: pod["stays"].logs() == "runs\nruns\n", "it handles SIGTERM")
    pod["stays"].restart(PATIENCE)
    assert pod["stays"].restarts == 2
    expected = "runs\nruns\nends\nruns\n"
    eventually(lambda: pod["stays"].logs() == expected, "it was ended in order and runs again")


def test_the_pod_outlives_the_end_of_all_its_containers(make: Maker) -> None:
    """Podman would end it, and with it what waits in /dev/shm for the next run."""
    code = "cat /dev/shm/left; readlink /proc/self/ns/ipc /proc/self/ns/net | tee /dev/shm/left"
    pod = make.up(
        container("a", f"sleep 0.3; {code}; exit 1"), restartPolicy="OnFailure", backoff=0.5
    )
    said = eventually(lambda: (pod["a"].restarts >= 3 or None) and pod["a"].logs(), "four runs")
    spaces = {line for line in said.splitlines() if line.startswith(("ipc:", "net:"))}
    assert len(spaces) == 2, said
    assert said.count("No such file") == 1, said


def test_logs_are_whole(make: Maker) -> None:
    code = "import sys\nfor i in range(100000): print(i)\nsys.stdout.flush()\n"
    code += "sys.stderr.write('no newline')"
    pod = make.up(container("a", ["python3", "-c", code]))
    expected = "".join(f"{i}\n" for i in range(100000)) + "no newline"
    # Lines of the one stream and of the other are in the order of the writes.
    assert b"".join(pod["a"].follow()).decode() == expected
    assert pod["a"].logs() == expected


def test_exec(make: Maker) -> None:
    pod = make.up(
        container("a", FOREVER, env=[{"name": "WORD", "value": "hello"}], workingDir="/usr"),
        container("over", "exit 0"),
    )
    program = pod["a"].exec(
        ["sh", "-c", "echo $WORD $PWD; echo error >&2; cat; exit 7"],
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    assert program.stdin
    assert program.stdout
    assert program.stderr
    program.stdin.write(b"from here\n")
    program.stdin.close()
    assert program.stdout.read() == b"hello /usr\nfrom here\n"
    assert program.stderr.read() == b"error\n"
    assert program.wait(PATIENCE) == 7
    assert program.poll() == 7
    program.close()
    with pytest.raises(CommandNotFound, match="no program 'no-such' in its PATH, '/"):
        pod["a"].exec(["no-such"])
    with pytest.raises(CommandNotFound, match="there is no program '/usr/no'"):
        pod["a"].exec(["/usr/no"])
    pod["over"].wait(PATIENCE)
    with pytest.raises(podipc.Closed, match="'over' does not run: terminated"):
        pod["over"].exec(["true"])
    with pytest.raises(UnknownPod, match="it has a, over"):
        pod["c"]


def test_a_program_that_is_killed_does_not_go_on_in_the_container(make: Maker) -> None:
    pod = make.up(container("a", FOREVER))
    program = pod["a"].exec(["sh", "-c", "echo $$; exec sleep 12345"], stdout=PIPE)
    assert program.stdout
    inside = program.stdout.readline().decode().strip()
    assert say(pod, "a", "cat", f"/proc/{inside}/comm") == "sleep"
    with pytest.raises(podipc.Timeout):
        program.wait(0.01)
    program.kill()
    assert program.wait(PATIENCE) == -signal.SIGKILL
    assert "No such file" in say(pod, "a", "cat", f"/proc/{inside}/comm", code=1)
    program.close()
    handled = "trap 'exit 9' USR1; echo ready; while :; do sleep 0.05; done"
    program = pod["a"].exec(["sh", "-c", handled], stdout=PIPE)
    assert program.stdout
    assert program.stdout.readline() == b"ready\n"
    program.send_signal(signal.SIGUSR1)
    assert program.wait(PATIENCE) == 9
    program.close()


def test_the_grace_period(make: Maker) -> None:
    """Whoever handles SIGTERM has the time; who could not notice it is not waited for."""
    slow = "trap 'sleep 0.5; echo done; exit 0' TERM; echo runs; while :; do sleep 0.05; done"
    pod = make.up(container("a", slow), container("deaf", ["sleep", "1000"]))
    eventually(pod["a"].logs, "its handler is there")
    start = time.monotonic()
    pod.close()
    assert time.monotonic() - start < 15, "the grace period is 20 s"
    assert pod["a"].logs() == "runs\ndone\n"
    assert pod["a"].returncode == 0
    assert pod["deaf"].returncode == -signal.SIGKILL


# Bad input


@pytest.mark.parametrize(
    ("fields", "spec", "error", "text"),
    [
        (
            {"image": "localhost/podipc:none"},
            {},
            ManifestError,
            r"manifest: spec.containers\[1\].image: podman has no image 'localhost/podipc:none'; "
            r"build it: k8s/image/build.sh",
        ),
        (
            {"image": "docker.io/library/none:1"},
            {},
            ManifestError,
            r"\.image: podman has no image .*; get it: podman pull docker.io/library/none:1",
        ),
        (
            {"command": ["no-such-program"]},
            {},
            CommandNotFound,
            r"manifest: spec.containers\[1\].command: container 'b': image .* 'no-such-program'",
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"volumes": [{"name": "v", "configMap": {"name": "x"}}]},
            ManifestError,
            r"spec.volumes\[0\].configMap.name: expected the name of a ConfigMap in the same file",
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"volumes": [{"name": "v", "secret": {"secretName": "x"}}]},
            ManifestError,
            r"spec.volumes\[0\].secret: the runtime podman has emptyDir, hostPath and configMap",
        ),
        (
            {"volumeMounts": [{"name": "v", "mountPath": "/v"}]},
            {"volumes": [{"name": "v", "hostPath": {"path": "/no/such/place"}}]},
            ManifestError,
            r"spec.volumes\[0\].hostPath.path: there is no /no/such/place",
        ),
        (
            {"securityContext": {"runAsNonRoot": True, "runAsUser": 0}},
            {},
            ManifestError,
            r"spec.containers\[1\]: runAsNonRoot is true, but it would run as UID 0",
        ),
        (
            {"command": ["sh", "-c", "\necho x\n"]},
            {},
            ManifestError,
            r"spec.containers\[1\].command\[2\]: this podman cannot read a text of several lines",
        ),
        (
            {"envFrom": [{"secretRef": {"name": "x"}}]},
            {},
            ManifestError,
            r"spec.containers\[1\].envFrom\[0\].secretRef: the runtime podman has no Secrets",
        ),
    ],
)
def test_bad_input(
    make: Maker,
    fields: dict[str, Any],
    spec: dict[str, Any],
    error: type[PodError],
    text: str,
) -> None:
    with pytest.raises(error, match=text):
        make.up(container("a", FOREVER), {**container("b", FOREVER), **fields}, **spec)
    assert ours() == NOTHING


def test_a_name_that_podman_has(make: Maker) -> None:
    name = unique_name("pod").lower()
    identity = podman("pod", "create", "--name", name).strip()
    try:
        with pytest.raises(PodError, match=f"podman has a Pod '{name}' already.*pod rm -f {name}"):
            make.up(container("a", FOREVER), name=name)
        assert ours()["pods"] == [name], "it is not ours to remove"
    finally:
        podman("pod", "rm", "-f", name)
        for group in Path("/sys/fs/cgroup").glob(f"*/libpod_parent/{identity}"):
            group.rmdir()  # podman 4 leaves some


def test_a_container_that_ends_at_once(make: Maker) -> None:
    pod = make.up(container("a", "echo why; exit 5"))
    assert pod.wait(PATIENCE) == "Failed"
    assert re.search(
        r"spec.containers\[0\]: container 'a' ended with Error, exit code 5; it last said: why",
        pod.message,
    )


def test_without_podman(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    code = (
        "import podipc.pod as p, json, sys; from podipc.pod.podman import client;"
        "client.PATIENCE = float(sys.argv[2]); p.up(json.loads(sys.argv[1]), 'podman')"
    )
    env = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(ROOT)}
    document_ = json.dumps(document(container("a", "true")))
    for script, reason in (
        (None, "podman, which is not in PATH: apt-get install podman"),
        ("echo broken >&2; exit 1", "podman cannot run here: broken"),
        ("echo podman version 3.4.1", "needs podman 4.0 or later, not 3.4.1"),
        ("exec /bin/sleep 1000", "podman --version has given no answer within 2 s"),
    ):
        patience = "2" if script and "sleep" in script else str(PATIENCE)
        if script is not None:
            (tmp_path / "podman").write_text(f"#!/bin/sh\n{script}\n")
            (tmp_path / "podman").chmod(0o755)
        done = subprocess.run(
            [sys.executable, "-c", code, document_, patience],
            check=False,
            capture_output=True,
            text=True,
            env=env,
        )
        assert done.returncode == 1
        assert "NotHere: " in done.stderr
        assert reason in done.stderr


def test_auto_and_notes() -> None:
    spec = read(document(container("a", "true"))).pod()
    assert notes_of(spec, "auto") == ["runtime: podman, because podman is here and has every image"]
    absent = document({**container("a", "true"), "image": "localhost/none"})
    assert notes_of(read(absent).pod(), "auto")[0] == (
        "runtime: local, because with podman: spec.containers[0].image: podman has no image "
        "'localhost/none'; build it: podman build -t localhost/none DIRECTORY"
    )
    probe = {"exec": {"command": ["true"]}}
    rich = document(
        container(
            "a",
            "true",
            ports=[{"containerPort": 80, "hostPort": 80}],
            livenessProbe=probe,
            readinessProbe=probe,
            startupProbe=probe,
            lifecycle={"preStop": probe},
            imagePullPolicy="Always",
            securityContext={
                "readOnlyRootFilesystem": True,
                "seccompProfile": {"type": "Unconfined"},
            },
            resources={"requests": {"cpu": "1"}},
        ),
        hostNetwork=True,
        restartPolicy="Always",
        volumes=[{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}],
    )
    fields = [note.partition(":")[0] for note in notes_of(read(rich).pod(), "podman")]
    at = "spec.containers[0]"
    assert fields == [
        "ports",
        "spec.hostNetwork",
        *(f"{at}.{name}" for name in rich["spec"]["containers"][0] if name in PROBES),
        f"{at}.securityContext.seccompProfile",
        f"{at}.resources.requests.cpu",
        "spec.volumes[0].emptyDir.sizeLimit",
        "spec.restartPolicy",
    ]


PROBES = ("livenessProbe", "readinessProbe", "lifecycle", "imagePullPolicy")


def test_startup_probes(make: Maker) -> None:
    """They are made by podipc: what comes after a sidecar waits for its probe."""
    server = "python3 -m http.server 8080 --bind 127.0.0.1 --directory /dev/shm"
    by_http = {"httpGet": {"port": 8080, "path": "/ready"}, "periodSeconds": 1}
    pod = make.up(
        container("main", "ls /dev/shm"),
        initContainers=[
            container(
                "server",
                f"touch /dev/shm/ready; sleep 0.5; exec {server}",
                restartPolicy="Always",
                startupProbe={**by_http, "failureThreshold": 60},
            ),
            container(
                "other",
                "sleep 0.5; touch /dev/shm/both; exec sleep 1000",
                restartPolicy="Always",
                startupProbe={
                    "exec": {"command": ["test", "-e", "/dev/shm/both"]},
                    "periodSeconds": 1,
                    "failureThreshold": 60,
                },
            ),
        ],
    )
    assert pod.wait(PATIENCE) == "Succeeded"
    assert pod["main"].logs().split() == ["both", "ready"]


# Deaths of the parent

PARENT = """
import json, sys, time
import podipc.pod
with podipc.pod.up(json.loads(sys.argv[1]), "podman") as pod:
    print(pod["a"].pid, flush=True)
    time.sleep(1000)
"""


@pytest.mark.parametrize("when", ["while it runs", "while it is made"])
def test_a_parent_that_is_killed(when: str, tmp_path: Path) -> None:
    mounts = {"volumeMounts": [{"name": "m", "mountPath": "/m"}, {"name": "d", "mountPath": "/d"}]}
    made = document(
        container("a", FOREVER, **mounts),
        volumes=[{"name": "m", "emptyDir": {"medium": "Memory"}}, {"name": "d", "emptyDir": {}}],
    )
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, json.dumps(made)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as parent:
        assert parent.stdout
        if when == "while it runs":
            pid = int(parent.stdout.readline())
        else:
            eventually(lambda: ours()["volumes"], "it is at it")
        parent.kill()
        parent.wait(PATIENCE)
    eventually(lambda: ours() == NOTHING, "nothing is left in podman")
    eventually(lambda: not guardians(), "the guardian has ended")
    if when == "while it runs":
        assert not Path(f"/proc/{pid}").exists()


def guardians() -> list[str]:
    own = str(ROOT / "podipc/pod/guardian.py")
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            words = path.read_bytes().decode(errors="replace").split("\0")
            environ = path.with_name("environ").read_bytes()
            if own in words and f"PYTEST_CURRENT_TEST={MARK}".encode() in environ:
                found.append(path.parent.name)
    return found


MARK = "tests/pods/test_podman.py::test_a_parent_that_is_killed"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_is_interrupted(tmp_path: Path, number: int, code: int) -> None:
    file = tmp_path / "pod.json"
    file.write_text(json.dumps(document(container("a", FOREVER))))
    with subprocess.Popen(
        [sys.executable, "-m", "podipc", "pod", "run", "--runtime", "podman", str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    ) as process:
        assert process.stdout
        assert process.stdout.readline() == "a | runs\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert (out, process.returncode) == ("a | ends\n", code), err
    assert ours() == NOTHING


# The command line, and several Pods


class Line:
    """The command line with a runtime directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(directory)}

    def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        done = subprocess.run(
            [sys.executable, "-m", "podipc", "pod", *words],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=self.env,
        )
        assert done.returncode == code, (done.stdout, done.stderr)
        return done.stdout, done.stderr


def test_the_command_line(tmp_path: Path) -> None:
    line = Line(tmp_path)
    made = document(container("a", FOREVER), container("b", "echo of b; sleep 1000"))
    name = made["metadata"]["name"]
    file = tmp_path / "pod.json"
    file.write_text(json.dumps(made))
    assert line.run("up", "--runtime", "podman", str(file))[0] == f"Pod {name} is up\n"
    try:
        (pod,) = json.loads(line.run("list", "--json")[0])
        assert (pod["name"], pod["runtime"], pod["phase"]) == (name, "podman", "Running")
        assert line.run("exec", name, "-c", "b", "--", "sh", "-c", "hostname; exit 7", code=7)[0]
        assert "runs\n" in line.run("logs", name, "-c", "a")[0]
        assert sorted(line.run("logs", str(file))[0].splitlines()) == ["a | runs", "b | of b"]
    finally:
        assert line.run("down", str(file), "--grace", "0")[0] == f"Pod {name} is down\n"
    assert line.run("list")[0] == ""
    assert ours() == NOTHING


def networks_now() -> set[str]:
    """All there are, those of tests that run beside this one as well."""
    return set(podman("network", "ls", "-q").split())


def test_two_pods_of_a_manifest(tmp_path: Path) -> None:
    networks = networks_now()
    file = str(ROOT / "k8s/pods/service.yaml")
    out, _ = Line(tmp_path).run("run", "--runtime", "podman", file)
    for who, text in (
        ("client/client", "127.0.0.1 refused; tensors is"),
        ("server/server", "a client from"),
    ):
        assert re.search(rf"^{who} +\| {re.escape(text)}", out, re.MULTILINE), out
    eventually(lambda: networks_now() <= networks, "the network is gone")


def test_two_pods_in_the_background(tmp_path: Path) -> None:
    line = Line(tmp_path)
    names = [unique_name("pod").lower() for _ in range(2)]
    pods = [document(container("c", FOREVER), name=name) for name in names]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "web"},
        "spec": {"selector": {"app": "x"}, "ports": [{"port": 80, "targetPort": 8080}]},
    }
    pods[1]["metadata"]["labels"] = {}
    file = tmp_path / "pods.yaml"
    file.write_text("\n---\n".join(map(json.dumps, [*pods, service])))
    networks = networks_now()
    _, err = line.run("up", str(file))
    assert "Service web: spec.ports[0].targetPort: not used" in err
    try:
        others = (names[0], "web", "web.default.svc.cluster.local")
        look = f"for name in {' '.join(others)}; do getent hosts $name || exit; done"
        found = line.run("exec", names[1], "--", "sh", "-c", look)[0].splitlines()
        assert [address.startswith("10.") for address in found] == [True] * 3, found
        out = line.run("logs", str(file))[0]
        assert sorted(out.splitlines()) == sorted(f"{name}/c | runs" for name in names)
        err = line.run("logs", str(file), "-c", "none", code=1)[1]
        assert f"no Pod of {file} has a container 'none'" in err
        assert "expected one Pod, not 2" in line.run("exec", str(file), "true", code=2)[1]
        line.run("down", names[0], "--grace", "0")
        assert [pod["name"] for pod in json.loads(line.run("list", "--json")[0])] == [names[1]]
    finally:
        out, err = line.run("down", str(file), "--grace", "0", code=1)
    assert f"no Pod '{names[0]}' runs here" in err
    assert out == f"Pod {names[1]} is down\n"
    assert ours() == NOTHING
    eventually(lambda: networks_now() <= networks, "the network is gone")


def test_a_server_ends_with_its_clients(tmp_path: Path) -> None:
    server, client = (
        document(container("c", FOREVER), restartPolicy="Always"),
        document(container("c", "echo asks; exit 0")),
    )
    file = tmp_path / "pods.yaml"
    file.write_text("\n---\n".join(map(json.dumps, [server, client])))
    out, _ = Line(tmp_path).run("run", str(file))
    name = server["metadata"]["name"]
    assert [line for line in out.splitlines() if line.startswith(name)][-1] == f"{name}/c | ends"
    client["spec"]["containers"][0]["command"] = ["no-such-program"]
    file.write_text("\n---\n".join(map(json.dumps, [server, client])))
    _, err = Line(tmp_path).run("run", str(file), code=1)
    assert "no program 'no-such-program'" in err
    assert ours() == NOTHING


def test_up_all_where_there_is_no_network_between_pods(tmp_path: Path) -> None:
    file = ROOT / "k8s/pods/service.yaml"
    with pytest.raises(ManifestError, match=r"not 2 \(server, client\): .* use the runtime podman"):
        up_all(file, "local")


def test_up_all_from_python() -> None:
    with up_all(ROOT / "k8s/pods/service.yaml", "podman") as pods:
        assert list(pods) == ["server", "client"]
        assert pods.wait(PATIENCE) == "Succeeded", pods.message
        assert pods["client"]["client"].logs().startswith("127.0.0.1 refused")
        with pytest.raises(UnknownPod, match="there is server, client"):
            pods["nobody"]
        assert "nobody" not in pods
        assert "client" in pods
        assert (pods.get("nobody"), pods.get("client")) == (None, pods["client"])


def test_up_all_idle(tmp_path: Path) -> None:
    """The Pods of a file without their programs: the same code asks by name, and at localhost."""
    text = (ROOT / "k8s/pods/service.yaml").read_text()
    names = {name: unique_name(name).lower() for name in ("server", "client")}
    for name, own in names.items():
        text = text.replace(f"\n  name: {name}\n", f"\n  name: {own}\n")
    file = tmp_path / "service.yaml"
    file.write_text(text)
    connect = "import socket; socket.create_connection((host, 7000), 10).recv(9).decode()"
    with up_all(file, "podman", idle=True, grace=1) as pods:
        server, client = (pods[own][name] for name, own in names.items())
        serving = server.background("""
import socket
with socket.create_server(("0.0.0.0", 7000)) as listener:
    listener.accept()[0].sendall(b"hello")
""")

        def hello() -> str | None:
            asked = client.run(connect, variables={"host": "tensors"})
            return None if asked.error else str(asked.value)

        assert eventually(hello, "somebody listens") == "hello"
        serving.wait(PATIENCE).check()
        refused = client.run(connect, variables={"host": "127.0.0.1"})
        assert refused.error is not None
        assert "Connection refused" in str(refused.error)


def test_threads_at_once(make: Maker) -> None:
    """Programs, signals and questions from several threads."""
    pod = make.up(container("a", FOREVER), container("b", FOREVER))
    failed: list[BaseException] = []

    def ask(name: str) -> None:
        try:
            for _ in range(3):
                assert say(pod, name, "hostname") == pod.name[:63]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=ask, args=(name,)) for name in "aabb"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert not failed


def test_an_interrupted_end_of_several_pods(tmp_path: Path) -> None:
    deaf = "trap 'echo no' TERM; echo runs; while :; do sleep 0.05; done"
    file = tmp_path / "pods.yaml"
    documents = [document(container("c", deaf), terminationGracePeriodSeconds=1000) for _ in "ab"]
    file.write_text("\n---\n".join(map(json.dumps, documents)))
    pods = up_all(file, "podman")
    pods.ready(PATIENCE)
    first, last = pods.values()
    for pod in (first, last):
        eventually(lambda pod=pod: "runs" in pod["c"].logs(), "it has its handler")

    def interrupt() -> None:
        eventually(lambda: "no" in last["c"].logs(), "it does not end")
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt).start()
    with took_at_most(PATIENCE), pytest.raises(KeyboardInterrupt):
        pods.close()
    assert [pod["c"].returncode for pod in (first, last)] == [-signal.SIGKILL] * 2
    assert ours() == NOTHING
