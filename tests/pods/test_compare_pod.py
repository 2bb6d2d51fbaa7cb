"""The Pod of `podipc compare`: the manifest as it stands, and Pods that are not like it."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from support import PATIENCE, ROOT

import podipc
from podipc import lab
from podipc.lab import inputs, outside, plan
from podipc.pod.errors import ManifestError

MANIFEST = ROOT / "k8s/pods/compare.yaml"
COPY = ROOT / "podipc/lab/compare.json"
SMALL = {"sizes": [64], "repeat": 1, "rounds": 5, "quick": True}


def test_the_copy_in_the_package_is_the_manifest():
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert json.loads(COPY.read_text()) == yaml.safe_load(MANIFEST.read_text())


def test_the_manifest_as_it_stands():
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    ran = subprocess.run(
        [sys.executable, "-m", "podipc", "pod", "run", MANIFEST],
        check=False,
        capture_output=True,
        text=True,
        timeout=2 * PATIENCE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    said = [line.partition(" | ")[2] for line in ran.stdout.splitlines() if "producer |" in line]
    assert "round trip, median (p50)" in said
    for method in ("shm", "tcp", "unix", "fifo", "file", "file-disk", "http"):
        assert any(line.startswith(f"{method} ") for line in said), method
    assert "none was wrong" in " ".join(said)
    assert "consumer | done: the producer has the results\n" in ran.stdout


@pytest.fixture
def other(tmp_path):
    """The manifest, with another program in one of the containers."""

    def write(name, code, *args):
        document = json.loads(COPY.read_text())
        container = next(c for c in document["spec"]["containers"] if c["name"] == name)
        container["command"] = code if isinstance(code, list) else ["python3", "-c", code]
        container["args"] = list(args)
        path = tmp_path / "pod.json"
        path.write_text(json.dumps(document))
        return path

    return write


EMPTY = {"event": "results", "rows": 0, "format": "podipc-results", "version": 1, "about": {}}


@pytest.mark.parametrize(
    ("name", "code", "says"),
    [
        (
            "consumer",
            "print('no podipc here'); raise SystemExit(3)",
            r"container 'consumer' died \(exit code 3\); the end of .*\nno podipc here",
        ),
        ("producer", "print('good day')", "'producer' ended without results; .*\ngood day"),
        ("producer", "raise SystemExit(4)", r"'producer' died \(exit code 4\); it printed nothing"),
        ("producer", f"print({json.dumps(EMPTY | {'rows': 7})!r})", "of 7 rows 0 came"),
        ("producer", f"print({json.dumps(EMPTY)!r})", "do not say what they are of"),
        ("producer", f"print({json.dumps(EMPTY | {'format': 1})!r})", "another version"),
    ],
)
def test_a_container_that_does_something_else(other, name, code, says):
    with pytest.raises(outside.ComparisonFailed, match=f"(?s){says}"):
        lab.compare(["shm"], **SMALL, runtime="local", manifest=other(name, code))


def test_a_program_that_is_not_there(other):
    manifest = other("consumer", ["no-such-program"])
    says = r"pod.json: spec.containers\[1\].command: .*'no-such-program'"
    with pytest.raises(podipc.PodipcError, match=says):
        lab.compare(["shm"], **SMALL, runtime="local", manifest=manifest)


def test_a_manifest_without_the_containers(tmp_path):
    document = json.loads(COPY.read_text())
    document["spec"]["containers"][0]["name"] = "sender"
    (tmp_path / "pod.json").write_text(json.dumps(document))
    with pytest.raises(ManifestError, match=r"not sender, consumer: producer is missing"):
        lab.compare(["shm"], **SMALL, manifest=tmp_path / "pod.json")


def test_results_say_what_they_are_of():
    calls = []
    results = lab.compare(
        ["shm", "file", "file-disk"],
        **SMALL,
        runtime="local",
        progress=lambda *said: calls.append(said),
    )
    about = results.about
    assert about["runtime"] == "local"
    assert about["manifest"]["name"].startswith("compare-")
    assert any(note.startswith("image: ") for note in about["manifest"]["notes"])
    assert about["places"]["memory"]["filesystem"] == "tmpfs"
    if about["places"]["disk"]["filesystem"] in ("tmpfs", "ramfs"):
        assert any("for file-disk" in note for note in about["notes"])
    kinds = about["namespaces"]
    assert kinds["pid"] == kinds["mnt"] == "own"
    assert kinds["net"] == kinds["ipc"] == kinds["shm"] == "shared"
    assert calls[0] == (0, 0, "starting two containers")
    assert [row.error for row in results.rows] == [None] * 3


def test_a_disk_that_is_memory_is_said(tmp_path):
    document = json.loads(COPY.read_text())
    document["spec"]["volumes"][0]["emptyDir"] = {"medium": "Memory", "sizeLimit": "64Mi"}
    (tmp_path / "pod.json").write_text(json.dumps(document))
    results = lab.compare(["file-disk"], **SMALL, runtime="local", manifest=tmp_path / "pod.json")
    assert "/compare, for file-disk, is on tmpfs, not on a disk" in results.about["notes"]


def adapted(runtime="podman", **what):
    wanted = plan.make(["shm"], **what)
    document = outside._adapted(outside._document(None), wanted, runtime)
    return outside._spec(document)


def test_memory_limits_leave_room_for_the_biggest():
    limits = [{c.memory for c in adapted(sizes=[s]).containers} for s in ("64M", "4G")]
    assert limits == [{4 << 30}, {(1 << 30) + (32 << 30)}]


def test_more_of_dev_shm_is_a_volume():
    document = outside._document(None)
    for _ in range(2):  # what is there already is left alone
        outside._mount_shm(document, 1 << 30)
    spec = outside._spec(document)
    (volume,) = [v for v in spec.volumes if v.memory]
    assert volume.size == 1 << 30
    for container in spec.containers:
        assert [m.volume for m in container.mounts if m.target == "/dev/shm"] == [volume.name]


def test_input_is_a_volume(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.arange(10))
    spec = adapted(input=path)
    producer, consumer = spec.containers
    (volume,) = [v for v in spec.volumes if v.kind == "hostPath"]
    assert (volume.host_path, volume.host_type) == (str(path), "File")
    assert [m.target for m in producer.mounts if m.volume == volume.name and m.read_only] == [
        "/podipc-input/x.npy"
    ]
    assert volume.name not in [m.volume for m in consumer.mounts]
    with pytest.raises(inputs.InputError, match=r"not in the cluster.*args: \[--input, PATH\]"):
        adapted("kubernetes", input=path)


def test_memory_limits_are_raised_in_our_manifest_only(tmp_path):
    def limits(document, made):
        spec = outside._spec(outside._adapted(document, made, "podman"))
        return {container.memory for container in spec.containers}

    path = tmp_path / "x.npz"
    np.savez_compressed(path, x=np.zeros(1 << 26, np.uint8))
    assert path.stat().st_size < 1 << 20
    ours = outside._document(None)
    for made in (plan.make(["shm"], ["64M"]), plan.make(["shm"], input=path)):
        assert min(limits(ours, made)) >= (1 << 30) + (8 << 26)
    theirs = json.loads(COPY.read_text())
    for container in theirs["spec"]["containers"]:
        for kind in ("requests", "limits"):
            container["resources"][kind]["memory"] = "64Mi"
    (tmp_path / "pod.json").write_text(json.dumps(theirs))
    document = outside._document(tmp_path / "pod.json")
    assert limits(document, plan.make(["shm"], ["64M"])) == {64 << 20}


def test_input_of_the_manifest_is_kept(other):
    producer = ["python3", "-P", "-m", "podipc", "compare", "--as", "producer"]
    document = outside._document(other("producer", producer, "--input", "/data/x.npy"))
    spec = outside._spec(outside._adapted(document, plan.make(["shm"]), "podman"))
    assert "--sizes" not in spec.containers[0].args
    assert spec.containers[0].args[:2] == ("--input", "/data/x.npy")


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ({"methods": ["shmm"]}, "did you mean 'shm'"),
        ({"methods": []}, "no methods; there are shm"),
        ({"methods": "shm,shmm"}, "no method 'shmm' "),
        ({"sizes": []}, "no sizes; write bytes, or 4K"),
        ({"sizes": ["7"]}, "multiple of 8 bytes"),
        ({"sizes": "64,7"}, "'7': a size is a multiple of 8 bytes"),
        ({"repeat": 0}, "repeat=0: a whole number from 1 is needed"),
        ({"rounds": -1}, "rounds=-1: a whole number from 1 is needed"),
        ({"runtime": "docker"}, "there is no runtime 'docker'; there is local"),
        ({"input": "/nowhere.npy"}, "/nowhere.npy: No such file"),
        ({"input": "x.npy", "sizes": [64]}, "sizes are for synthetic tensors"),
    ],
)
def test_what_cannot_be_measured(what, says):
    with pytest.raises(ValueError, match=says):
        lab.compare(**what)


def test_a_bar(capsys):
    pytest.importorskip("tqdm", reason="tqdm is not installed")
    lab.compare(["shm"], **SMALL, progress=True)
    assert "turn" in capsys.readouterr().err


def test_where_containers_are_not_permitted():
    """Plain processes then, and that is said; unless containers were asked for."""
    forbid = "for kind in mnt user; do echo 0 > /proc/sys/user/max_${kind}_namespaces; done; "
    command = f"{forbid} exec {sys.executable} -m podipc compare --methods shm --sizes 64 "
    runs = []
    for more in ("--repeat 1 --json -", "--runtime local"):
        ran = subprocess.run(
            ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c", command + more],
            check=False,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        if "unshare failed" in ran.stderr:
            pytest.skip(f"not possible here: {ran.stderr.strip()}")
        runs.append(ran)
    assert runs[0].returncode == 0, runs[0].stderr
    about = json.loads(runs[0].stdout)["about"]
    assert about["runtime"] == "plain"
    assert about["notes"][0].startswith("not in containers: ")
    assert not any(about["isolation"].values())
    assert runs[1].returncode == 1
    assert "need mount namespaces" in runs[1].stderr


@pytest.mark.podman
@pytest.mark.skipif("podman" not in plan.RUNTIMES, reason="not possible here: no runtime podman")
def test_in_real_containers(tmp_path):
    image = "localhost/podipc:latest"
    if shutil.which("podman") is None:
        pytest.skip("podman is not installed")
    if subprocess.run(["podman", "image", "exists", image], check=False).returncode != 0:
        pytest.skip(f"podman has no image {image}")
    np.save(tmp_path / "x.npy", np.arange(1000))
    (tmp_path / "x.npy").chmod(0o644)
    results = lab.compare(
        ["shm", "file-disk", "mp-shm"], runtime="podman", input=tmp_path / "x.npy", repeat=1
    )
    assert [row.error for row in results.rows] == [None] * 3
    about = results.about
    assert about["runtime"] == "podman"
    assert about["namespaces"]["pid"] == about["namespaces"]["mnt"] == "own"
    assert about["namespaces"]["net"] == about["namespaces"]["shm"] == "shared"
    for container in about["containers"].values():
        assert container["uid"] == 65532
        assert container["limits"]["memory"] == 4 << 30
        assert container["shm"]["size"] > 900 << 20
