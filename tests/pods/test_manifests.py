"""The manifests of k8s/ are valid, and what their containers run does what it says."""

import json
import os
import re
import subprocess
import sys

import pytest
from support import PATIENCE, ROOT

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate is not installed"
)
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

MANIFESTS = sorted((ROOT / "k8s").glob("*/*.yaml"))
SHARED = ROOT / "k8s/pods/shared-memory-pod.yaml"


def read(path):
    return list(yaml.safe_load_all(path.read_text()))


@pytest.fixture(params=MANIFESTS, ids=lambda path: path.name)
def pods(request):
    return [thing for thing in read(request.param) if thing["kind"] == "Pod"]


def test_there_are_manifests():
    assert SHARED in MANIFESTS


@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.name)
def test_valid(path):
    for thing in read(path):
        kubernetes_validate.validate(thing, "1.30", strict=True)


def test_validation_can_fail():
    (pod,) = read(SHARED)
    pod["spec"]["containers"][0]["volumeMount"] = []
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(pod, "1.30", strict=True)


def test_runs_where_the_cluster_is_strict(pods):
    """The profile "restricted" of Kubernetes' Pod Security Standards."""
    for pod in pods:
        spec = pod["spec"]
        assert spec["securityContext"]["runAsNonRoot"] is True
        assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        for container in spec["containers"]:
            allowed = container["securityContext"]
            assert allowed["allowPrivilegeEscalation"] is False
            assert allowed["capabilities"] == {"drop": ["ALL"]}
            # With a cpu quota a comparison would measure the quota.
            limited = {"memory"} if pod["metadata"]["name"] == "compare" else {"cpu", "memory"}
            assert container["resources"]["limits"].keys() == limited


def test_mounts_are_of_volumes_that_exist(pods):
    for pod in pods:
        volumes = {volume["name"] for volume in pod["spec"].get("volumes", ())}
        for container in pod["spec"]["containers"]:
            assert {mount["name"] for mount in container.get("volumeMounts", ())} <= volumes


def start(container, volume):
    """A container as a plain process; its volume is a directory."""
    command = [*container["command"], *container["args"]]
    assert command[0] == "python3"
    assert "/shared-mem" in command[-1]
    return subprocess.Popen(
        [sys.executable, *(word.replace("/shared-mem", str(volume)) for word in command[1:])],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


def run(containers, volume):
    """Exit status, output and errors of each, by name."""
    started = {}
    try:
        for container in containers:
            started[container["name"]] = start(container, volume)
        said = {name: process.communicate(timeout=PATIENCE) for name, process in started.items()}
    finally:
        for process in started.values():
            process.kill()
            process.wait()
    return {name: (started[name].returncode, *said[name]) for name in started}


@pytest.fixture
def containers():
    (pod,) = read(SHARED)
    return pod["spec"]["containers"]


@pytest.mark.parametrize("reverse", [False, True], ids=["in order", "consumer first"])
def test_shared_memory_pod(containers, tmp_path, reverse):
    ran = run(containers[::-1] if reverse else containers, tmp_path)
    assert [status for status, _, _ in ran.values()] == [0, 0], json.dumps(ran, indent=1)
    sent = re.fullmatch(r"sent (\d+) tensors, (\d+) bytes\n", ran["producer"][1])
    got = re.fullmatch(r"received (\d+) tensors: each whole, in order, .*\n", ran["consumer"][1])
    assert sent
    assert got
    assert int(sent[1]) == int(got[1]) > 100
    assert int(sent[2]) > 1e6


def test_shared_memory_pod_in_containers():
    """In namespaces of their own where this machine permits it."""
    ran = subprocess.run(
        [sys.executable, "-m", "podipc", "pod", "run", "--runtime", "local", SHARED],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert re.search(r"^producer \| sent \d+ tensors", ran.stdout, re.MULTILINE)
    assert re.search(r"^consumer \| received \d+ tensors: each whole", ran.stdout, re.MULTILINE)


@pytest.mark.parametrize(
    ("what", "instead"),
    [
        ("numpy.uint8)", "numpy.uint8)[::-1]"),
        ("in modules:", "in modules[1:]:"),
        ("in modules:", "in modules[::-1]:"),
    ],
    ids=["wrong bytes", "one less", "wrong order"],
)
def test_the_consumer_sees_what_is_wrong(containers, tmp_path, what, instead):
    code = containers[0]["args"][0]
    assert what in code
    containers[0]["args"][0] = code.replace(what, instead)
    ran = run(containers, tmp_path)
    assert ran["producer"][0] == 0, ran["producer"]
    assert ran["consumer"][0] == 1
    assert "not all as they should" in ran["consumer"][2]
