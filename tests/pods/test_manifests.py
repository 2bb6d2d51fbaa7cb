"""The manifests of k8s/ are valid, and what their containers run does what it says."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest
from support import PATIENCE, ROOT, unique_name

import podipc.pod

kubernetes_validate = pytest.importorskip(
    "kubernetes_validate", reason="kubernetes-validate is not installed"
)
yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")

MANIFESTS = sorted((ROOT / "k8s").glob("*/*.yaml"))
PODS = ROOT / "k8s/pods"
SHARED = PODS / "shared-memory-pod.yaml"

RUNTIMES = ["local", pytest.param("podman", marks=pytest.mark.podman)]
"""What runs every manifest."""

PROOFS = {
    "fifo": {
        "writer": r"wrote \d+ bytes twice, SHA-256 [0-9a-f]{64}",
        "reader": r"read \d+ bytes twice, by hand and over fifo://, SHA-256 [0-9a-f]{64}",
    },
    "localhost": {
        "server": r"served a client at 127\.0\.0\.1, and received \d+ bytes over tcp://.*",
        "client": r"connected with no ports: .* both see 127\.0\.0\.1.* failed with EADDRINUSE",
    },
    "no-ports": {
        "server": r"served 127\.0\.0\.1:7000",
        "client": r"100 tensors there and back on 127\.0\.0\.1; any other address: .*",
    },
    "pipeline": {
        "preprocess": r"\d{3,} files, each answered; \d+\.\d% or more right of each kind",
        "model": r"answered \d+ batches, learnt from \d{3,} files",
    },
    "semaphore": {
        "left": r"mutual exclusion: counted to \d+ without the semaphore, to 40000 with it\n"
        r"a holder that died: the wait timed out, its parent released, the lock works again",
        "right": r"the holder of the lock ended with signal 9",
    },
    "shared-memory-pod": {
        "producer": r"sent \d{3} tensors, \d+ bytes",
        "consumer": r"received \d{3} tensors: each whole, in order, .*",
    },
    "tensor-pod": {
        "producer": r"sent \d{3} tensors, \d+ bytes, and 96 MiB",
        "consumer": r"received \d{3} tensors: each whole, in order, .*\n"
        r"and one of 96 MiB, while /dev/shm has 6[0-4] MiB, \d+ of them free",
    },
}
"""All that each container of a manifest prints, if what the manifest shows is so."""


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


# In containers


@pytest.fixture(params=RUNTIMES)
def runtime(request):
    if request.param == "podman":
        if shutil.which("podman") is None:
            pytest.skip("podman is not installed")
        there = subprocess.run(["podman", "image", "exists", "localhost/podipc"], check=False)
        if there.returncode:
            pytest.skip("there is no image localhost/podipc; k8s/image/build.sh makes it")
    return request.param


@pytest.fixture(autouse=True)
def default_directory(podipc_dir, monkeypatch):
    """Containers have the environment of this process, but not its /dev/shm."""
    monkeypatch.delenv("PODIPC_DIR")


def changed(name, container="", what="", instead="", patience=60):
    """A manifest as a mapping, in which the code of one container says something else."""
    (pod,) = read(PODS / f"{name}.yaml")
    pod["metadata"]["name"] = unique_name(name).lower()
    for each in pod["spec"]["containers"]:
        code = each["args"][0]
        if each["name"] == container:
            assert what in code
            code = code.replace(what, instead)
        code = code.replace("timeout=60", f"timeout={patience}")
        each["args"][0] = code.replace("alarm(60)", f"alarm({patience})")
    return pod


ELSEWHERE = {"compare", "logging-sidecar", "service"}
"""Manifests that are run by the tests of what they are made of."""


def test_there_is_a_proof_of_every_manifest():
    assert sorted([*PROOFS, *ELSEWHERE]) == sorted(path.stem for path in PODS.glob("*.yaml"))


@pytest.mark.parametrize("name", PROOFS)
def test_it_runs_as_it_stands_and_prints_what_it_proves(name, runtime, tmp_path):
    # All but the name of the Pod, which another run on this machine may have.
    text = (PODS / f"{name}.yaml").read_text()
    file = tmp_path / f"{name}.yaml"
    file.write_text(text.replace(f"\n  name: {name}\n", f"\n  name: {unique_name(name)}\n", 1))
    assert file.read_text() != text
    ran = subprocess.run(
        [sys.executable, "-m", "podipc", "pod", "run", "--runtime", runtime, file],
        check=False,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    lines = [line.split("|", 1) for line in ran.stdout.splitlines()]
    for container, proof in PROOFS[name].items():
        said = "\n".join(line.strip() for who, line in lines if who.strip() == container)
        assert re.fullmatch(proof, said), ran.stdout


def test_no_volume_and_no_ports_where_they_say_so():
    for name in ("localhost", "semaphore", "tensor-pod"):
        (pod,) = read(PODS / f"{name}.yaml")
        assert "volumes" not in pod["spec"]
        assert not any("ports" in container for container in pod["spec"]["containers"])


# A change to one container, and what a container then says: the other one, where it is
# the other that is to notice.
FAILURES = [
    # Something is not as the manifest says.
    ("localhost", "client", '"127.0.0.1", 8080))', '"127.0.0.1", 0))', "client", "8080 was free"),
    ("localhost", "client", 'print("held"', 'print("no"', "server", "did not find what it should"),
    ("localhost", "client", "st_ino}", "st_ino + 1}", "server", "not the same network: here"),
    ("localhost", "server", "sorted(set(re", "sorted(str(re", "client", "not the same network: he"),
    ("localhost", "client", "os.__file__", "re.__file__", "server", "the tensor is not the file"),
    ("fifo", "writer", "pipe.write(payload)", "pipe.write(payload[1:])", "writer", "by hand: the"),
    ("fifo", "reader", "sha256(tensor)", "sha256(tensor[1:])", "writer", "fifo://: the reader got"),
    ("fifo", "writer", "(payload, numpy", "(payload[1:], numpy", "reader", "by hand and"),
    (
        "semaphore",
        "left",
        "with lock:\n        count",
        "if 1:\n        count",
        "right",
        "counted to",
    ),
    ("pipeline", "preprocess", "truth[first", "0 * truth[first", "preprocess", "kind only 0.0%"),
    ("pipeline", "preprocess", "+ 64]", "+ 63]", "preprocess", "answers for"),
    ("semaphore", "right", "-1 ", "-1; lock.release()", "left", "had not given it back"),
    ("semaphore", "right", "= 2 * TURNS\n    lock", "= 7\n    lock", "left", "the counter is 7"),
    ("tensor-pod", "producer", "in modules:", "in modules[1:]:", "consumer", "every sender of"),
    ("tensor-pod", "producer", "uint8), timeout", "uint8)[::-1], timeout", "consumer", "not all a"),
    ("tensor-pod", "producer", "range(96)", "range(95)", "consumer", "not what it should be"),
    ("tensor-pod", "consumer", '"/dev/shm"', '"/"', "consumer", "prove nothing"),
]


@pytest.mark.parametrize(
    ("name", "container", "what", "instead", "who", "said"),
    FAILURES,
    ids=[f"{row[0]}: {row[3]}".replace("\n", " ") for row in FAILURES],
)
def test_it_fails_where_it_does_not_hold(  # noqa: PLR0917
    name, container, what, instead, who, said
):
    with podipc.pod.up(changed(name, container, what, instead), "local", grace=0) as pod:
        assert pod[who].wait(PATIENCE) == 1, pod[who].logs()
        assert said in pod[who].logs()


@pytest.mark.parametrize(
    ("name", "container"), [(name, container) for name in PROOFS for container in PROOFS[name]]
)
def test_the_other_notices_who_has_died(name, container):
    manifest = changed(name, patience=1)
    for each in manifest["spec"]["containers"]:
        if each["name"] == container:
            each["args"][0] = "raise SystemExit(3)"
    with podipc.pod.up(manifest, "local", grace=0) as pod:
        assert pod.wait(PATIENCE) == "Failed"
        assert pod[container].returncode == 3
        (other,) = (c for c in pod.containers.values() if c.name != container)
        assert other.returncode == 1, other.logs()
