"""`podipc doctor --manifest`: each mistake is found, at its field, and nothing else is."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, ROOT

from podipc.doctor import Finding, addresses, budgets, manifests
from podipc.pod import manifest
from podipc.pod.errors import ManifestError

LIMITS = {"resources": {"limits": {"memory": "512Mi", "cpu": "2"}}}
SEND = "import podipc\nwith podipc.sender('shm://frames') as tx: ..."
RECEIVE = "import podipc\nwith podipc.receiver('shm://frames') as rx: ..."


def container(name: str, code: str = "", **fields: Any) -> dict[str, Any]:
    code = code or (SEND if name == "a" else RECEIVE)
    return {
        "name": name,
        "image": "localhost/podipc:latest",
        "command": ["python3", "-c"],
        "args": [code],
        **LIMITS,
        **fields,
    }


def mount(volume: str, path: str, **fields: Any) -> dict[str, Any]:
    return {"name": volume, "mountPath": path, **fields}


def at(path: str, code: str = "") -> tuple[str, str]:
    """A sender and a receiver of an address."""
    return (
        f"import podipc\ntx = podipc.sender('{path}')\n{code}",
        f"import podipc\nrx = podipc.receiver('{path}')\n{code}",
    )


def check(*containers: dict[str, Any], **spec: Any) -> list[Finding]:
    """What is not ok."""
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"containers": list(containers), **spec},
    }
    return [f for f in manifests.check(document) if f.level != "ok"]  # type: ignore[arg-type]


def one(found: list[Finding], level: str, path: str, text: str, change: str) -> None:
    """There is this finding and no other."""
    assert [(f.level, f.area) for f in found] == [(level, f"manifest: {path}")], found
    assert text in found[0].text
    assert change in found[0].change


def test_nothing_is_wrong() -> None:
    assert check(container("a"), container("b")) == []


def test_a_method_that_is_only_spoken_of_is_no_address() -> None:
    told = SEND + "\nprint('over fifo://, or fifo://.')"
    assert check(container("a", told), container("b")) == []
    one(
        check(container("a", f"{told}\n'fifo://x'"), container("b")),
        *("warn", "spec.containers[0].args[0]", "'fifo://x'", ""),
    )


@pytest.mark.parametrize(
    "fields",
    [
        {"command": ["podipc", "logd"], "args": []},
        {"args": ["import podipc; podipc.Semaphore.create('/x')"]},
    ],
    ids=["logd", "semaphore"],
)
def test_what_does_not_spin_may_have_one_processor(fields: dict[str, Any]) -> None:
    few = {"limits": {"memory": "512Mi", "cpu": "1"}}
    assert check(container("a"), container("b", **fields, resources=few)) == []


@pytest.mark.parametrize("file", sorted((ROOT / "k8s").rglob("pods/*.yaml")), ids=lambda p: p.name)
def test_manifests_of_this_repository(file: Path) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    assert [f for f in manifests.check(file) if f.level != "ok"] == []


SHARED = {"name": "shared", "emptyDir": {}}
FRAMES = at("file:///shared/frames")


def test_a_shared_volume() -> None:
    for address in (
        "file:///shared/frames",
        "unix:///shared/x.sock",
        "fifo:///shared/x.fifo",
        "shm:///shared/frames",
    ):
        a, b = at(address)
        mounts = [mount("shared", "/shared")]
        found = check(
            container("a", a, volumeMounts=mounts),
            container("b", b, volumeMounts=mounts),
            volumes=[SHARED],
        )
        assert found == [], address


def test_no_volume_at_the_path() -> None:
    found = check(
        container("a", FRAMES[0], volumeMounts=[mount("shared", "/shared")]),
        container("b", FRAMES[1], securityContext={"readOnlyRootFilesystem": True}),
        volumes=[SHARED],
    )
    areas = {f.area: f for f in found}
    alone = areas["manifest: spec.containers[1].args[0]"]
    assert alone.level == "fail"
    assert "b's own file system, which is read-only as well" in alone.text
    assert "mountPath: /shared}" in alone.change
    lonely = areas["manifest: spec.containers[0].volumeMounts[0]"]
    assert "only a mounts volume shared" in lonely.text
    assert len(found) == 2


def test_two_volumes_at_one_path() -> None:
    volumes = [SHARED, {"name": "other", "emptyDir": {}}]
    found = check(
        container("a", FRAMES[0], volumeMounts=[mount("shared", "/shared"), mount("other", "/o")]),
        container("b", FRAMES[1], volumeMounts=[mount("other", "/shared"), mount("shared", "/s")]),
        volumes=volumes,
    )
    one(found, "fail", "spec.containers[1].args[0]", "they do not meet", "the same volume")


def test_two_sub_paths_at_one_path() -> None:
    found = check(
        container("a", FRAMES[0], volumeMounts=[mount("shared", "/shared", subPath="x")]),
        container("b", FRAMES[1], volumeMounts=[mount("shared", "/shared", subPath="y")]),
        volumes=[SHARED],
    )
    one(found, "fail", "spec.containers[1].args[0]", "(at x/frames) in a", "subPath")


def test_a_volume_inside_a_volume() -> None:
    """The innermost mount counts."""
    mounts = [mount("shared", "/shared"), mount("inner", "/shared/frames")]
    found = check(
        container("a", FRAMES[0], volumeMounts=mounts),
        container("b", FRAMES[1], volumeMounts=mounts[:1]),
        volumes=[SHARED, {"name": "inner", "emptyDir": {}}],
    )
    assert {f.level for f in found} == {"fail"}
    assert any("only a mounts volume inner" in f.text for f in found)


def test_read_only() -> None:
    found = check(
        container("a", FRAMES[0], volumeMounts=[mount("shared", "/shared")]),
        container("b", FRAMES[1], volumeMounts=[mount("shared", "/shared", readOnly=True)]),
        volumes=[SHARED],
    )
    path = "spec.containers[1].volumeMounts[0].readOnly"
    one(found, "fail", path, "read-only", f"{path}: false")


def test_a_config_map_is_no_place_to_write() -> None:
    mounts = [mount("shared", "/shared")]
    found = check(
        container("a", FRAMES[0], volumeMounts=mounts),
        container("b", FRAMES[1], volumeMounts=mounts),
        volumes=[{"name": "shared", "configMap": {"name": "x"}}],
    )
    assert {(f.level, f.area) for f in found} == {("fail", "manifest: spec.volumes[0].configMap")}


SHM = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "64Mi"}}


def test_dev_shm_of_both() -> None:
    mounts = [mount("shm", "/dev/shm")]
    found = check(
        container("a", volumeMounts=mounts), container("b", volumeMounts=mounts), volumes=[SHM]
    )
    assert found == []


def test_dev_shm_of_one_alone() -> None:
    found = check(
        container("a", volumeMounts=[mount("shm", "/dev/shm")]), container("b"), volumes=[SHM]
    )
    # As seen from a, and as seen from b.
    assert [(f.level, f.area) for f in found] == [
        ("fail", "manifest: spec.containers[0].volumeMounts[0]"),
        ("fail", "manifest: spec.containers[1].volumeMounts"),
    ]
    assert "not shared any more" in found[1].text
    assert "spec.containers[1].volumeMounts: + {name: shm, mountPath: /dev/shm}" in found[1].change


def test_dev_shm_on_disk_and_read_only() -> None:
    volumes = [{"name": "shm", "emptyDir": {}}]
    found = check(
        container("a", volumeMounts=[mount("shm", "/dev/shm")]),
        container("b", volumeMounts=[mount("shm", "/dev/shm", readOnly=True)]),
        volumes=volumes,
    )
    found_at = {(f.level, f.area.removeprefix("manifest: ")) for f in found}
    assert ("warn", "spec.volumes[0].emptyDir") in found_at
    assert ("fail", "spec.containers[1].volumeMounts[0].readOnly") in found_at


@pytest.mark.parametrize(
    ("code", "level"),
    [
        ("s = podipc.Segment.create(96 << 20, 'big')", "fail"),
        ("s = podipc.Segment.create(48 * 1024 * 1024, name='big')", ""),
        ("s = podipc.Segment.create(48 << 20, name='big')", "warn"),
        ("s = podipc.Segment.create(n, 'x')", "warn"),
        ("s = podipc.Segment.create(4096, 'small')", ""),
        ("s = podipc.Segment.create(1 << 30)", ""),
        ("s = podipc.Segment.create(1 << 30, mode=0o666)", ""),
        ("s = podipc.Segment.create(1 << 30, '/shared/segment')", ""),
        ("s = SharedMemory(create=True, size=100_000_000)", "fail"),
        ("s = SharedMemory('x')", ""),
    ],
)
def test_segments_in_a_dev_shm_of_64_mib(code: str, level: str) -> None:
    found = check(container("a", f"{SEND}\n{code}"), container("b"))
    if not level:
        assert found == []
        return
    one(found, level, "spec.containers[0]", "64 MiB for all containers", "medium: Memory")
    mounts = [mount("shm", "/dev/shm")]
    large = {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "200Mi"}}
    more = {"volumeMounts": mounts}
    assert not check(
        container("a", f"{SEND}\n{code}", **more), container("b", **more), volumes=[large]
    )


def test_memory_volume_without_a_limit() -> None:
    mounts = [mount("m", "/m")]
    volumes = [{"name": "m", "emptyDir": {"medium": "Memory"}}]
    found = check(
        container("a", volumeMounts=mounts), container("b", volumeMounts=mounts), volumes=volumes
    )
    path = "spec.volumes[0].emptyDir"
    one(found, "warn", path, "without a sizeLimit", f"{path}.sizeLimit: 256Mi")


def test_memory_volumes_against_the_limit() -> None:
    sized = [
        {"name": name, "emptyDir": {"medium": "Memory", "sizeLimit": "300Mi"}} for name in "mn"
    ]
    path = "spec.containers[0].resources.limits.memory"
    both = [mount("m", "/m"), mount("n", "/n")]
    # Whoever only reads does not pay.
    reads = [mount("m", "/m", readOnly=True), mount("n", "/n", readOnly=True)]
    found = check(
        container("a", volumeMounts=both), container("b", volumeMounts=reads), volumes=sized
    )
    one(found, "warn", path, "(m, n) with 600 MiB", f"{path}: 1Gi")
    found = check(container("a", volumeMounts=both[:1]), container("b"), volumes=sized)
    one(found, "warn", path, "shm with up to 256 MiB together", f"{path}: 1Gi")


@pytest.mark.parametrize(
    ("limit", "code", "level", "text"),
    [
        ("64Mi", "", "warn", "Python with numpy takes 40 MiB"),
        ("128Mi", "", "", ""),
        ("256Mi", "max_bytes=300 << 20", "fail", "may hold 300 MiB (max_bytes)"),
        ("256Mi", "max_bytes = 240 * 1048576", "warn", "may hold 240 MiB"),
        ("256Mi", "max_bytes=200_000_000", "", ""),
        (None, "", "warn", "has no memory limit"),
        (None, "max_bytes=100_000_000", "", ""),
    ],
)
def test_memory_limits(limit: str | None, code: str, level: str, text: str) -> None:
    limits = {"cpu": "2"} | ({"memory": limit} if limit else {})
    a = container("a", f"{SEND} # {code}", resources={"limits": limits})
    found = check(a, container("b"))
    path = "spec.containers[0].resources.limits.memory"
    if level:
        one(found, level, path, text, f"{path}: ")
    else:
        assert found == []


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("shm://frames", "sleeps at once"),
        ("tcp://127.0.0.1:5000", "sleeps at once"),
        ("shm://frames?wait=spin", "uses up its quota"),
        ("shm://frames?wait=block", ""),
        ("http://127.0.0.1:5000/frames", ""),
    ],
)
def test_cpu_below_two(address: str, text: str) -> None:
    a, b = at(address)
    few = {"limits": {"memory": "512Mi", "cpu": "1500m"}}
    found = check(container("a", a, resources=few), container("b", b))
    path = "spec.containers[0].resources.limits.cpu"
    if text:
        one(found, "warn", path, text, f'{path}: "2"')
    else:
        assert found == []


def users(first: dict[str, Any], second: dict[str, Any], mode: str = "", **pod: Any) -> Any:
    a, b = at("shm://frames", mode)
    return check(
        container("a", a, securityContext=first),
        container("b", b, securityContext=second),
        securityContext=pod,
    )


USER = "spec.containers[1].securityContext.runAsUser"


def test_users() -> None:
    assert users({"runAsUser": 1001}, {"runAsUser": 1001}) == []
    assert users({}, {}, runAsUser=65532) == []
    found = users({"runAsUser": 1001, "runAsGroup": 1}, {"runAsUser": 1002, "runAsGroup": 2})
    one(found, "warn", USER, "a runs as UID 1001, b as UID 1002, without", "runAsGroup")
    found = users({"runAsUser": 1001}, {"runAsUser": 1002})
    one(found, "warn", USER, "without a common group", "runAsGroup")
    found = users({"runAsUser": 1001}, {})
    one(found, "warn", USER, "b as whom its image says", "runAsUser")
    found = users({"runAsUser": 1001}, {"runAsUser": 1002}, runAsGroup=2000)
    one(found, "warn", USER, "with a common group", "mode=0o660")
    assert users({"runAsUser": 1001}, {"runAsUser": 1002}, "mode=0o660", runAsGroup=2000) == []
    found = users({"runAsUser": 1, "runAsGroup": 1}, {"runAsUser": 2, "runAsGroup": 2}, fsGroup=7)
    one(found, "warn", USER, "fsGroup alone is not enough", "runAsGroup: one for both")
    assert users({"runAsUser": 1, "runAsGroup": 1}, {"runAsUser": 2}, "mode=0o666") == []
    # Both may be in the groups of both without having the same one.
    own = ({"runAsUser": 1, "runAsGroup": 1}, {"runAsUser": 2, "runAsGroup": 2})
    assert users(*own, "mode=0o660", supplementalGroups=[1, 2]) == []


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("unix:///shared/x.sock", "with a common group"),
        ("fifo:///shared/x.fifo", "with a common group"),
        ("shm://frames", "fsGroup alone is not enough"),
    ],
)
def test_what_an_fs_group_is_good_for(address: str, text: str) -> None:
    """See `test_an_fs_group_in_real_containers`."""
    more: dict[str, Any] = {"volumeMounts": [mount("shared", "/shared")]}
    a, b = at(address)
    found = check(
        container("a", a, securityContext={"runAsUser": 1, "runAsGroup": 1}, **more),
        container("b", b, securityContext={"runAsUser": 2, "runAsGroup": 2}, **more),
        volumes=[SHARED],
        securityContext={"fsGroup": 7},
    )
    one(found, "warn", USER, text, "mode=0o660")


def test_users_do_not_matter_to_sockets_of_loopback() -> None:
    a, b = at("tcp://127.0.0.1:5000")
    assert not check(
        container("a", a, securityContext={"runAsUser": 1}),
        container("b", b, securityContext={"runAsUser": 2}),
    )


def test_root_that_must_not_be() -> None:
    found = check(
        container("a", securityContext={"runAsUser": 0}),
        container("b", securityContext={"runAsUser": 0}),
        securityContext={"runAsNonRoot": True},
    )
    assert [f.level for f in found] == ["fail", "fail"]
    assert "must not be root" in found[0].text


def test_one_port_twice() -> None:
    ports = {"ports": [{"containerPort": 5000}]}
    found = check(container("a", **ports), container("b", **ports))
    path = "spec.containers[1].ports[0].containerPort"
    one(found, "warn", path, "a and b both have port 5000", path)
    _, receive = at("tcp://127.0.0.1:5000")
    found = check(container("a", receive), container("b", receive))
    one(found, "fail", "spec.containers[1].args[0]", "both listen", "another port")


def test_an_init_container_that_would_meet_others() -> None:
    found = check(container("b"), initContainers=[container("a")])
    path = "spec.initContainers[0]"
    one(found, "fail", f"{path}.args[0]", "they never meet", f"{path}.restartPolicy: Always")
    assert check(container("b"), initContainers=[container("a", restartPolicy="Always")]) == []
    waits = container("a", command=["podipc", "wait", "shm://frames"], args=[])
    assert [f.level for f in check(container("b"), initContainers=[waits])] == ["fail"]


def test_places() -> None:
    env = [{"name": "PODIPC_DIR", "value": "/shared/podipc"}]
    mounts = [mount("shared", "/shared")]
    more: dict[str, Any] = {"env": env, "volumeMounts": mounts}
    both = (container("a", **more), container("b", **more))
    assert check(*both, volumes=[SHARED]) == []
    found = check(both[0], container("b", volumeMounts=mounts), volumes=[SHARED])
    one(
        found, "warn", "spec.containers[0].env", "a: /shared/podipc, b: /dev/shm/podipc", "the same"
    )
    found = check(container("a", env=env), container("b", env=env))
    assert {f.level for f in found} == {"fail"}
    assert "own file system" in found[0].text


def test_of_the_node() -> None:
    found = check(container("a"), container("b"), hostNetwork=True)
    one(found, "warn", "spec.hostNetwork", "of the node", "spec.hostNetwork: false")
    mounts = [mount("h", "/shared")]
    found = check(
        container("a", FRAMES[0], volumeMounts=mounts),
        container("b", FRAMES[1], volumeMounts=mounts),
        volumes=[{"name": "h", "hostPath": {"path": "/srv"}}],
    )
    one(found, "warn", "spec.volumes[0].hostPath", "outlives the Pod", "spec.volumes[0].emptyDir")


@pytest.mark.parametrize(
    ("text", "wrong"),
    [
        ("shm://a/b", True),
        ("tcp://0.0.0.0:5000", True),
        ("tcp://127.0.0.1", True),
        ("http://example.com/x", False),
        ("https://example.com/x", False),
        ("file://relative/path", False),
        ("shm://{name}", False),
        ("shm://$(NAME)", False),
        ("shm://frames.", False),
    ],
)
def test_what_looks_like_an_address(text: str, wrong: bool) -> None:
    found = check(container("a", f"{SEND}\nprint('{text}')"), container("b"))
    assert [(f.level, f.area) for f in found] == (
        [("warn", "manifest: spec.containers[0].args[0]")] if wrong else []
    )


def test_containers_that_have_nothing_to_do_with_it() -> None:
    other = {"name": "c", "image": "nginx", "ports": [{"containerPort": 80}]}
    found = check(
        container("a", securityContext={"runAsUser": 7}),
        container("b", securityContext={"runAsUser": 7}),
        other,
    )
    assert found == []


@pytest.mark.parametrize(
    ("text", "amount"),
    [
        ("1_000", 1000),
        ("64 << 20", 64 << 20),
        ("2**30", 1 << 30),
        ("0x10", 16),
        ("3 * 1024", 3072),
        ("1 << 999", None),
        ("9 ** 99", None),
        ("64_", None),
        ("0x_", None),
        ("64__0", None),
        ("64_MB", None),
        ("n", None),
        ("", None),
    ],
)
def test_amounts(text: str, amount: int | None) -> None:
    assert budgets.amount(text) == amount


def run(*words: str) -> tuple[int, str, str]:
    done = subprocess.run(
        [sys.executable, "-m", "podipc", "doctor", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    return done.returncode, done.stdout, done.stderr


def test_command(tmp_path: Path) -> None:
    file = tmp_path / "pods.json"
    document: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "first"},
        "spec": {"containers": [container("a"), container("b")]},
    }
    file.write_text(json.dumps(document))
    code, out, err = run("--manifest", str(file))
    assert (code, err) == (0, "")
    said = " ".join(out.split())  # the lines are as long as the directory is
    assert "Pod first" in said
    assert "addresses: shm://frames" in said
    document["spec"]["hostNetwork"] = True
    file.write_text(json.dumps(document))
    code, out, _ = run("--manifest", str(file), "--json")
    assert code == 1
    report = json.loads(out)
    assert report["worst"] == "warn"
    (finding,) = report["findings"]
    assert finding["area"] == f"{file}: spec.hostNetwork"
    assert finding["change"] == "spec.hostNetwork: false"
    document["spec"]["initContainers"] = [container("c")]
    file.write_text(json.dumps(document))
    code, out, _ = run("--manifest", str(file))
    assert code == 2
    assert out.startswith("fail")


def test_several_pods(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    pod = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": [container("a")]}}
    text = "\n---\n".join(json.dumps({**pod, "metadata": {"name": name}}) for name in "xy")
    (tmp_path / "pods.yaml").write_text(text)
    found = manifests.check(tmp_path / "pods.yaml")
    assert [f.level for f in found] == ["ok", "ok"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--manifest", "/not/there.yaml"], "/not/there.yaml"),
        (["--manifest", "x.json", "--meet"], "checks a file"),
        (["--manifest", "x.json", "shm://x"], "checks a file"),
        (["--meet", "0"], "not a number of seconds"),
        (["--meet", "5", "tcp://127.0.0.1:1"], "doctors meet over shm"),
        (["foo://x"], "unknown scheme"),
    ],
)
def test_wrong_arguments(words: list[str], text: str) -> None:
    code, out, err = run(*words)
    assert (code, out) == (2, "")
    assert text in err


def test_a_manifest_that_kubernetes_would_not_take(tmp_path: Path) -> None:
    file = tmp_path / "pod.json"
    file.write_text('{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}}')
    with pytest.raises(ManifestError):
        manifests.check(file)
    code, out, err = run("--manifest", str(file))
    assert (code, out) == (2, "")
    assert "spec: is missing" in err


def seen(*commands: list[str]) -> set[tuple[str, str]]:
    """The addresses that are read in the containers of these commands."""
    containers = [
        container(f"c{i}", command=command, args=[]) for i, command in enumerate(commands)
    ]
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "pod"},
        "spec": {"containers": containers},
    }
    uses, _ = addresses.find(manifest.read(document).pod())
    return {(use.container.name, use.address.text) for use in uses}


@pytest.mark.parametrize(
    "code",
    [
        "import podipc\ntx = podipc.sender('frames')",
        'import podipc; rx = podipc.receiver( "frames", mode=0o666)',
        "import podipc as p\nrx = p.subscriber(address='frames', latest=True)",
        "from podipc import publisher\ntx = publisher(r'frames')",
        'python3 -c "import podipc; podipc.sender(\\"frames\\")"',
        'python3 -c "import podipc; podipc.sender(\\"shm://frames\\")"',
        "podipc wait frames",
        "podipc wait --timeout 5 -q 'frames' && exec python3 main.py",
    ],
)
def test_bare_names_are_read_where_podipc_is_called_with_them(code: str) -> None:
    assert seen(["sh", "-c", code]) == {("c0", "shm://frames")}


def test_a_bare_name_in_words_of_a_command() -> None:
    assert seen(["podipc", "wait", "--for", "any", "frames"]) == {("c0", "shm://frames")}


@pytest.mark.parametrize(
    "code",
    [
        "import podipc, mail\nmail.sender('frames')",
        "import podipc\nsender('frames')",
        "import podipc\npodipc.sender(f'frames{i}')",
        "import podipc\npodipc.sender(name)",
        "podipc wait $(ADDRESS)",
        "podipc wait $NAME",
        "podipc waits for nothing",
    ],
)
def test_what_is_no_bare_name_is_left_alone(code: str) -> None:
    assert seen(["sh", "-c", code]) == set()
    assert check(container("a", code), container("b", code)) == []


def test_a_bare_name_that_is_none() -> None:
    found = check(container("a", "import podipc\npodipc.sender('a/b')"), container("b"))
    one(found, "warn", "spec.containers[0].args[0]", "'a/b' is a relative path", "")


def test_bare_names_are_checked_as_others_are() -> None:
    waits = container("a", command=["podipc", "wait", "frames"], args=[])
    found = check(container("b"), initContainers=[waits])
    path = "spec.initContainers[0]"
    one(found, "fail", f"{path}.command", "they never meet", f"{path}.restartPolicy: Always")


def test_who_waits_for_a_receiver_is_none() -> None:
    send, receive = at("tcp://127.0.0.1:5000")
    waits = 'podipc wait tcp://127.0.0.1:5000 && exec python3 -c "' + send + '"'
    assert check(container("a", waits), container("b", receive)) == []


def test_an_init_container_may_meet_a_sidecar_that_started_before() -> None:
    waits = container("w", command=["podipc", "wait", "shm://frames"], args=[])
    sidecar = container("b", restartPolicy="Always")
    assert check(container("a"), initContainers=[sidecar, waits]) == []
    assert [f.level for f in check(container("a"), initContainers=[waits, sidecar])] == ["fail"]


def test_what_else_is_in_a_file_is_named_and_not_refused(tmp_path: Path) -> None:
    pytest.importorskip("yaml", reason="PyYAML is not installed")
    pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}}
    documents: list[dict[str, Any]] = [
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "key"}},
        {"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "way\x1b"}},
        {**pod, "spec": {"containers": [container("a"), container("b")]}},
        {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "front"}},
        {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "settings"}},
        {"apiVersion": "example.org/v1", "kind": "Pods"},
    ]
    file = tmp_path / "all.yaml"
    file.write_text("\n---\n".join(map(json.dumps, documents)))
    code, out, err = run("--manifest", str(file))
    assert (code, err) == (0, "")
    named = [line[20:] for line in out.splitlines() if line.startswith("ok    not read")]
    assert named == ["Service front", "ConfigMap settings", "Secret key", "Ingress way?", "Pods"]


def test_a_kind_that_is_a_slip_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "pod.json"
    file.write_text('{"apiVersion": "v1", "kind": "Pods", "metadata": {"name": "x"}}')
    code, out, err = run("--manifest", str(file))
    assert (code, out) == (2, "")
    assert "did you mean 'Pod'?" in err


def test_a_file_without_a_pod_says_what_there_is(tmp_path: Path) -> None:
    file = tmp_path / "secret.json"
    file.write_text('{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "x"}}')
    code, out, err = run("--manifest", str(file))
    assert (code, out) == (2, "")
    assert "expected a Pod; there is only Secret x" in err


@pytest.mark.parametrize(
    ("kind", "version", "around", "restart"),
    [
        ("Deployment", "apps/v1", "spec.template", "Always"),
        ("Job", "batch/v1", "spec.template", "Never"),
        ("CronJob", "batch/v1", "spec.jobTemplate.spec.template", "Never"),
    ],
)
def test_what_has_a_template(
    kind: str, version: str, around: str, restart: str, tmp_path: Path
) -> None:
    """The same is found, at the fields of the file."""
    a, b = at("file:///shared/frames")
    other = container("b", b, securityContext={"runAsUser": 7, "runAsGroup": 7})
    mine = container("a", a, securityContext={"runAsUser": 8, "runAsGroup": 8})
    spec = {"hostNetwork": True, "restartPolicy": restart, "containers": [mine, other]}
    labels = {"app": "x"}
    holder: dict[str, Any] = {"template": {"metadata": {"labels": labels}, "spec": spec}}
    if kind == "Deployment":
        holder |= {"replicas": 3, "selector": {"matchLabels": labels}}
    if kind == "CronJob":
        holder = {"schedule": "0 3 * * *", "jobTemplate": {"spec": holder}}
    document = {"apiVersion": version, "kind": kind, "metadata": {"name": "x"}, "spec": holder}
    file = tmp_path / "x.json"
    file.write_text(json.dumps(document))
    found = manifests.check(file)
    areas = [f.area.removeprefix(f"{file}: ") for f in found]
    assert f"{around}.spec.hostNetwork" in areas
    assert f"{around}.spec.containers[0].args[0]" in areas
    assert f"{around}.spec.containers[1].securityContext.runAsUser" in areas
    said = " ".join(f.change for f in found)
    assert said.count("spec.volumes: +") == said.count(f"{around}.spec.volumes: +") > 0
    assert said.count("spec.securityContext.") == said.count(f"{around}.spec.securityContext.") > 0
    del spec["hostNetwork"]
    spec["containers"] = [container("a"), container("b")]
    file.write_text(json.dumps(document))
    (ok,) = manifests.check(file)
    assert (ok.level, ok.area) == ("ok", f"{file}: {kind} x")
