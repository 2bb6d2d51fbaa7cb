"""The embedded runtime runs manifests: real containers, as root and as an ordinary user."""

import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from podmaker import (
    FOREVER,
    MEMORY,
    Maker,
    container,
    finished,
    host_traces,
    mount,
    run_as_user,
)
from support import PATIENCE, ROOT, eventually

import podipc
from podipc.pod import up
from podipc.pod.errors import CommandNotFound, ManifestError, PodError, UnknownPod
from podipc.pod.local import cgroups
from podipc.pod.runtime import PIPE

pytestmark = pytest.mark.usefixtures("isolation")

is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="not possible here: needs root")


# Volumes


def test_a_memory_volume_where_the_host_has_nothing(make: Maker) -> None:
    assert not Path("/shared-mem").exists()
    pod = make.up(
        container(
            "a",
            "echo hello > /shared-mem/file; stat -f -c %T /shared-mem; df -k /shared-mem",
            volumeMounts=[mount("v", "/shared-mem")],
        ),
        container(
            "b",
            "until cat /other/place/file; do sleep 0.05; done 2>/dev/null; echo x > /other/place/b",
            volumeMounts=[mount("v", "/other/place", readOnly=True)],
        ),
        volumes=[{"name": "v", "emptyDir": MEMORY}],
    )
    finished(pod)
    assert pod["a"].logs().split()[0] == "tmpfs"
    assert " 4096 " in pod["a"].logs()
    assert pod["b"].logs().startswith("hello\n")
    assert "Read-only file system" in pod["b"].logs()
    assert pod["a"].returncode == 0
    assert not Path("/shared-mem").exists()


def test_a_memory_volume_is_full_at_its_size(make: Maker) -> None:
    pod = make.up(
        container(
            "a",
            "head -c 8M /dev/zero > /v/file; stat -c %s /v/file",
            volumeMounts=[mount("v", "/v")],
        ),
        volumes=[{"name": "v", "emptyDir": MEMORY}],
    )
    finished(pod)
    assert "No space left" in pod["a"].logs()
    assert pod["a"].logs().splitlines()[-1] == str(4 << 20)


def test_a_volume_on_disk_is_shared_and_gone_at_the_end(make: Maker) -> None:
    before = host_traces()
    deep = "/v/" + "/".join(["d"] * 200)
    pod = make.up(
        container(
            "a",
            f"mkdir -p {deep}; echo 1 > {deep}/f; mkdir /v/shut; echo 2 > /v/shut/f; "
            "chmod 0 /v/shut; ln -s / /v/link; mkfifo /v/fifo; echo done > /v/done",
            volumeMounts=[mount("v", "/v")],
        ),
        container(
            "b",
            f"until [ -e /w/done ]; do sleep 0.05; done; cat /w{deep[2:]}/f; stat -f -c %T /w",
            volumeMounts=[mount("v", "/w")],
        ),
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    finished(pod)
    assert pod["b"].logs().split()[0] == "1"
    assert host_traces()["scratch"] != before["scratch"]
    pod.close()
    assert host_traces() == before


def test_mount_points_in_directories_of_the_host(make: Maker, tmp_path: Path) -> None:
    """Nothing of the host's is hidden or made, wherever the volume is."""
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").write_text("of the host")
    (tmp_path / "link").symlink_to("there")
    look = f"cat {tmp_path}/there/file {tmp_path}/link/file; cd {tmp_path}; ls -d *; "
    look += f"echo > {tmp_path}/new/deep/mark; ls /etc/passwd /var/x /usr/bin/env"
    pod = make.up(
        container(
            "a",
            look,
            volumeMounts=[mount("v", f"{tmp_path}/new/deep"), mount("w", "/var/x")],
        ),
        volumes=[{"name": "v", "emptyDir": MEMORY}, {"name": "w", "emptyDir": {}}],
    )
    finished(pod)
    said = pod["a"].logs()
    assert pod["a"].returncode == 0, said
    assert said.startswith("of the hostof the host")
    for word in ("there", "link", "new", "/etc/passwd", "/usr/bin/env"):
        assert word in said.split() or word in said.split("host")[-1].split()
    assert sorted(p.name for p in tmp_path.iterdir() if not p.suffix) == ["link", "there"]
    assert not Path("/var/x").exists()


def test_a_volume_over_a_directory_of_the_host(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "file").write_text("of the host")
    pod = make.up(
        container(
            "a",
            f"ls -A {tmp_path}/data; echo > {tmp_path}/data/mine",
            volumeMounts=[mount("v", f"{tmp_path}/data")],
        ),
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    assert finished(pod)["a"].logs() == ""
    assert os.listdir(tmp_path / "data") == ["file"]


def test_sub_paths_and_volumes_in_volumes(make: Maker) -> None:
    pod = make.up(
        container(
            "a",
            "echo 1 > /v/a/f; echo 2 > /v/b/f; echo 3 > /v/sub/g; ls /v",
            volumeMounts=[
                mount("w", "/v/sub"),
                mount("v", "/v"),
                mount("v", "/v/a", subPath="one/two"),
                mount("v", "/v/b", subPath="three"),
            ],
        ),
        container(
            "b",
            "until [ -e /w/g ]; do sleep 0.05; done; cat /all/one/two/f /all/three/f /w/g; "
            "cat /single",
            volumeMounts=[
                mount("v", "/all"),
                mount("w", "/w"),
                mount("v", "/single", subPath="file"),
            ],
        ),
        initContainers=[container("i", "echo single > /v/file", volumeMounts=[mount("v", "/v")])],
        volumes=[{"name": "v", "emptyDir": {}}, {"name": "w", "emptyDir": MEMORY}],
    )
    finished(pod)
    assert pod["a"].returncode == 0, pod["a"].logs()
    assert pod["b"].logs().split() == ["1", "2", "3", "single"]


def test_dev_shm(make: Maker) -> None:
    """64 MiB shared by all of the Pod, unless a volume is mounted there."""
    size = "echo x > /dev/shm/$(hostname); df -k /dev/shm | tail -1; sleep 1; ls /dev/shm"
    pod = make.up(
        container("a", size),
        container("b", size),
        container("c", size, volumeMounts=[mount("v", "/dev/shm")]),
        volumes=[{"name": "v", "emptyDir": MEMORY}],
    )
    finished(pod)
    for name, kib in (("a", 64 << 10), ("b", 64 << 10), ("c", 4 << 10)):
        line = pod[name].logs().splitlines()[0]
        assert line.split()[1] == str(kib), line
    assert pod["a"].logs().split()[-2:] == ["a", "b"]
    assert pod["c"].logs().split()[-1] == "c"


def test_a_path_of_the_host(make: Maker, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    pod = make.up(
        container(
            "a",
            "echo 1 > /w/f; echo 2 > /r/g",
            volumeMounts=[mount("v", "/w"), mount("v", "/r", readOnly=True)],
        ),
        volumes=[{"name": "v", "hostPath": {"path": str(tmp_path / "data")}}],
    )
    finished(pod)
    assert (tmp_path / "data" / "f").read_text() == "1\n"
    assert "Read-only" in pod["a"].logs()
    assert not (tmp_path / "data" / "g").exists()


def write_with(make: Maker, config: dict[str, Any], *containers: Any, **spec: Any) -> Path:
    """A file with a Pod and a ConfigMap."""
    yaml = pytest.importorskip("yaml", reason="PyYAML is not installed")
    pod = json.loads(make.write(*containers, **spec).read_text())
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, **config}
    file = make.directory / "pod.yaml"
    file.write_text(yaml.safe_dump_all([config, pod]))
    return file


def test_a_config_map_as_files_and_variables(make: Maker) -> None:
    before = host_traces()
    look = "cat /c/text /c/raw /one; stat -c %a /c/text /c/raw; ls /c /some; cat /some/d/e; echo $A"
    file = write_with(
        make,
        {"data": {"text": "of a text\n"}, "binaryData": {"raw": "cmF3Cg=="}},
        container(
            "a",
            f"{look}; touch /c/text /c/new; mkdir /some/new",
            env=[{"name": "A", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "text"}}}],
            volumeMounts=[
                mount("c", "/c"),
                mount("c", "/one", subPath="text"),
                mount("some", "/some"),
            ],
        ),
        volumes=[
            {"name": "c", "configMap": {"name": "c", "defaultMode": 0o440}},
            {"name": "some", "configMap": {"name": "c", "items": [{"key": "raw", "path": "d/e"}]}},
        ],
    )
    with up(file, "local") as pod:
        finished(pod)
        said = pod["a"].logs().splitlines()
    assert said[:5] == ["of a text", "raw", "of a text", "440", "440"]
    assert said[5:11] == ["/c:", "raw", "text", "", "/some:", "d"]
    assert said[11:13] == ["raw", "of a text"]
    assert sum("Read-only file system" in line for line in said[13:]) == 3
    assert host_traces() == before


@needs_root
def test_a_config_map_for_a_group(make: Maker) -> None:
    file = write_with(
        make,
        {"data": {"text": "of a text\n"}},
        container("a", "cat /c/text; stat -c '%u %g %a' /c/text", volumeMounts=[mount("c", "/c")]),
        volumes=[{"name": "c", "configMap": {"name": "c", "defaultMode": 0o400}}],
        securityContext={"runAsUser": 1001, "fsGroup": 2000},
    )
    with up(file, "local") as pod:
        assert finished(pod)["a"].logs().splitlines() == ["of a text", "0 2000 440"]


# What containers are


def test_command_environment_directory(make: Maker) -> None:
    pod = make.up(
        container(
            "a",
            ["sh", "-c"],
            args=["echo $0 $A $B; pwd; hostname", "$(A)-$(N)-$$(A)"],
            env=[
                {"name": "A", "value": "1"},
                {"name": "B", "value": "b$(A)"},
                {"name": "N", "valueFrom": {"fieldRef": {"fieldPath": "metadata.namespace"}}},
            ],
            workingDir="/not/on/the/host",
        )
    )
    finished(pod)
    assert pod["a"].logs().split() == ["1-default-$(A)", "1", "b1", "/not/on/the/host", "a"]
    assert not Path("/not").exists()


@needs_root
def test_users_and_groups(make: Maker) -> None:
    who = "echo $(id -u) $(id -g) $(id -G); touch /v/$(hostname); stat -c '%u %g %a' /v"
    volumes = [mount("v", "/v")]
    pod = make.up(
        container("a", who, volumeMounts=volumes),
        container("b", who, volumeMounts=volumes, securityContext={"runAsUser": 1003}),
        container(
            "c", who + "; ls -ln /v", volumeMounts=volumes, securityContext={"runAsGroup": 1004}
        ),
        securityContext={
            "runAsUser": 1001,
            "runAsGroup": 1002,
            "fsGroup": 2000,
            "supplementalGroups": [2001],
        },
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    finished(pod)
    lines = {name: pod[name].logs().splitlines() for name in "abc"}
    assert lines["a"][:2] == ["1001 1002 1002 2000 2001", "0 2000 2777"]
    assert lines["b"][0] == "1003 1002 1002 2000 2001"
    assert lines["c"][0] == "1001 1004 1004 2000 2001"
    assert [c.returncode for c in pod.containers.values()] == [0, 0, 0]


@needs_root
def test_another_user_reaches_python_wherever_it_is(make: Maker, tmp_path: Path) -> None:
    """As in an image that podipc is installed in, also if that is in root's home here."""
    tmp_path.chmod(0o700)
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        pod = make.up(
            container(
                "a",
                "pwd; exec python -c 'import sys, podipc; print(sys.executable)'",
                securityContext={"runAsUser": 65532, "runAsGroup": 65532},
                env=[{"name": "PYTHONPATH", "value": str(ROOT)}],
            )
        )
        finished(pod)
    finally:
        os.chdir(here)
    assert pod["a"].logs().split() == ["/", str(Path(sys.executable).with_name("python"))]


def test_run_as_non_root(make: Maker) -> None:
    file = make.write(container("a", "id -u"), securityContext={"runAsNonRoot": True})
    if is_root:
        with pytest.raises(ManifestError, match=r"containers\[0\]: runAsNonRoot is true"):
            up(file, "local")
    else:
        make.up(container("a", "id -u"), securityContext={"runAsNonRoot": True})


def limited(name: str) -> None:
    controller = cgroups.controllers()[name]
    if controller.parent is None:
        pytest.skip(f"not possible here: {controller.reason}")


def test_memory_limit(make: Maker) -> None:
    limited("memory")
    code = "import podipc, sys; x = bytearray(200 << 20)"
    pod = make.up(
        container(
            "a",
            [sys.executable, "-c", code],
            resources={"limits": {"memory": "100Mi"}},
            env=[{"name": "PYTHONPATH", "value": str(ROOT)}],
        ),
        container("b", ["sleep", "1"]),
    )
    before = host_traces()["cgroups"]
    assert before
    finished(pod)
    assert (pod["a"].returncode, pod["a"].reason) == (-signal.SIGKILL, "OOMKilled")
    assert pod["b"].returncode == 0
    assert "OOMKilled" in pod.message
    pod.close()
    assert not set(before) & set(host_traces()["cgroups"])


def test_cpu_limit(make: Maker) -> None:
    limited("cpu")
    code = "import time\nt = time.monotonic()\nwhile time.monotonic() < t + 1: pass\n"
    code += "print(time.process_time())"
    pod = make.up(
        container("a", [sys.executable, "-c", code], resources={"limits": {"cpu": "100m"}})
    )
    finished(pod)
    assert float(pod["a"].logs()) < 0.5


def test_a_limit_that_cannot_be_set_is_said(make: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    refused = cgroups.Controller(2, None, "it is full moon")
    monkeypatch.setattr(cgroups, "controllers", lambda: {"memory": refused, "cpu": refused})
    pod = make.up(container("a", "true", resources={"limits": {"memory": "100Mi", "cpu": 1}}))
    for what in ("memory", "cpu"):
        note = f"spec.containers[0].resources.limits.{what}: not enforced, it is full moon"
        assert note in pod.notes


def test_of_version_2_both_limits_are_set_in_one_group(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "a/b/c"
    own.mkdir(parents=True)
    for group, names in ((own, ""), (own.parent, "cpu"), (own.parent.parent, "cpu memory")):
        (group / "cgroup.subtree_control").write_text(names)
        (group / "cgroup.procs").touch()
    monkeypatch.setattr(cgroups, "_mounts", lambda: {"": (tmp_path, "/")})
    monkeypatch.setattr(cgroups, "_own", lambda *_: own)
    found = cgroups.controllers()
    assert {name: c.parent for name, c in found.items()} == dict.fromkeys(
        ("memory", "cpu"), tmp_path / "a"
    )


# Order, restarts, ends


def test_init_containers_and_sidecars_in_order(make: Maker) -> None:
    volumes = [mount("v", "/v")]
    trap = "trap 'echo {0} ends >> /v/log; exit 0' TERM; echo {0} >> /v/log; "
    trap += "while :; do sleep 0.02; done"
    pod = make.up(
        container(
            "main",
            "until grep -q two /v/log; do sleep 0.05; done; echo main >> /v/log; cat /v/log",
            volumeMounts=volumes,
        ),
        initContainers=[
            container("first", "sleep 0.3; echo first >> /v/log", volumeMounts=volumes),
            container("one", trap.format("one"), volumeMounts=volumes, restartPolicy="Always"),
            container(
                "second",
                "until grep -q one /v/log; do sleep 0.05; done; echo second >> /v/log",
                volumeMounts=volumes,
            ),
            container("two", trap.format("two"), volumeMounts=volumes, restartPolicy="Always"),
        ],
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    assert pod.wait(PATIENCE) == "Succeeded"
    assert pod["main"].logs().split() == ["first", "one", "second", "two", "main"]
    # The sidecars ended after the main container, the last first.
    log = Path(pod._sandbox.scratch, "v", "log").read_text()
    assert log.splitlines()[-2:] == ["two ends", "one ends"]


def test_a_sidecar_is_started_again(make: Maker) -> None:
    pod = make.up(
        container("main", FOREVER),
        initContainers=[container("side", ["sleep", "1000"], restartPolicy="Always")],
    )
    pod["side"].kill()
    eventually(lambda: pod["side"].restarts == 1 and pod["side"].state == "running", "again")
    assert pod["main"].state == "running"


def test_an_init_container_that_fails(make: Maker) -> None:
    file = make.write(
        container("main", "true"),
        initContainers=[container("prepare", "echo no such luck; exit 3")],
    )
    with pytest.raises(PodError) as caught, up(file, "local"):
        pass
    assert str(caught.value) == (
        f"{file}: spec.initContainers[0]: container 'prepare' ended with Error, exit code 3; "
        "it last said: no such luck"
    )


def test_an_init_container_is_tried_again(make: Maker) -> None:
    pod = make.up(
        container("main", "true"),
        initContainers=[
            container(
                "i", "[ -e /v/x ] || { touch /v/x; exit 1; }", volumeMounts=[mount("v", "/v")]
            )
        ],
        volumes=[{"name": "v", "emptyDir": {}}],
        restartPolicy="OnFailure",
    )
    assert pod.wait(PATIENCE) == "Succeeded"
    assert pod["i"].restarts == 1


@pytest.mark.parametrize(
    ("policy", "code", "again"),
    [("Never", 1, False), ("OnFailure", 0, False), ("OnFailure", 1, True), ("Always", 0, True)],
)
def test_restart_policy(make: Maker, policy: str, code: int, again: bool) -> None:
    pod = make.up(container("a", f"sleep 0.1; exit {code}"), restartPolicy=policy, backoff=0.1)
    if again:
        eventually(lambda: pod["a"].restarts >= 3, "it is started again and again")
        assert pod.phase == "Running"
    else:
        assert pod.wait(PATIENCE) == ("Failed" if code else "Succeeded")
        assert pod["a"].restarts == 0


def test_backoff_grows(make: Maker) -> None:
    pod = make.up(container("a", "exit 1"), restartPolicy="Always", backoff=1000)
    eventually(lambda: pod["a"].restarts == 1 and pod["a"].state == "backoff", "it waits")
    pod["a"].restart(PATIENCE)
    assert pod["a"].restarts == 2


def test_kill_wait_restart_logs(make: Maker) -> None:
    pod = make.up(container("a", FOREVER), container("b", FOREVER))
    a = pod["a"]
    eventually(lambda: a.logs() == "runs\n", "it runs")
    with pytest.raises(podipc.Timeout, match="'a' still runs"):
        a.wait(0.05)
    pid = a.pid
    a.restart(PATIENCE)
    eventually(lambda: a.logs() == "runs\nends\nruns\n", "it ended in order and runs again")
    assert a.restarts == 1
    assert a.pid != pid
    a.kill()
    assert a.wait(PATIENCE) == -signal.SIGKILL
    assert (a.state, a.pid, pod["b"].state) == ("terminated", None, "running")
    with pytest.raises(podipc.Closed):
        a.exec(["true"])
    a.restart(PATIENCE)
    assert a.state == "running"
    with pytest.raises(UnknownPod, match="no container 'c'; it has a, b"):
        pod["c"]
    pod.close()
    assert pod["b"].logs() == "runs\nends\n"
    assert b"".join(pod["b"].follow()) == b"runs\nends\n"
    with pytest.raises(podipc.Closed):
        a.restart()


def test_a_stubborn_container_is_killed_when_restarted(make: Maker) -> None:
    stubborn = "trap 'echo no' TERM; echo runs; while :; do sleep 0.05; done"
    pod = make.up(container("a", stubborn), terminationGracePeriodSeconds=1)
    eventually(lambda: "runs" in pod["a"].logs(), "it runs")
    pod["a"].restart(PATIENCE)
    assert pod["a"].state == "running"
    pod.close()
    assert pod["a"].returncode == -signal.SIGKILL


def test_exec(make: Maker) -> None:
    pod = make.up(
        container(
            "a",
            FOREVER,
            env=[{"name": "A", "value": "of the manifest"}],
            volumeMounts=[mount("v", "/v")],
            workingDir="/v",
        ),
        volumes=[{"name": "v", "emptyDir": MEMORY}],
    )

    look = "echo $A; pwd; hostname; cat /proc/1/comm; readlink /proc/self/ns/*; exit 7"
    program = pod["a"].exec(["sh", "-c", look], stdout=PIPE)
    assert program.stdout
    said = program.stdout.read().decode().splitlines()
    program.stdout.close()
    assert program.wait(PATIENCE) == 7
    assert said[:4] == ["of the manifest", "/v", "a", "sh"]
    for name in ("mnt", "net", "ipc", "uts"):
        assert os.readlink(f"/proc/{pod['a'].pid}/ns/{name}") in said[4:]
    with pytest.raises(CommandNotFound, match="no-such-program"):
        pod["a"].exec(["no-such-program"])
    program = pod["a"].exec(["sleep", "1000"])
    pod["a"].kill()
    assert program.wait(PATIENCE) == -signal.SIGKILL


def test_much_output(make: Maker) -> None:
    pod = make.up(
        container("a", "head -c 30M /dev/zero | tr '\\0' 'x' | fold -w 1023; echo; echo end")
    )
    finished(pod)
    said = pod["a"].logs()
    assert said.endswith("\nend\n")
    assert 9 << 20 < len(said) <= 10 << 20
    assert said.startswith("x" * 1023 + "\n")


# What is wrong


def test_command_not_found(make: Maker) -> None:
    before = host_traces()
    file = make.write(
        container("a", FOREVER, volumeMounts=[mount("v", "/v")]),
        container("b", ["no-such-program"]),
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    with pytest.raises(CommandNotFound) as caught, up(file, "local"):
        pass
    text = str(caught.value)
    assert text.startswith(f"{file}: spec.containers[1].command: container 'b': there is no prog")
    assert "'no-such-program'" in text
    assert host_traces() == before


@pytest.mark.parametrize(
    ("fields", "spec", "text"),
    [
        ({"command": []}, {}, "spec.containers[0].command: is missing; the local runtime has no"),
        (
            {"volumeMounts": [mount("v", "/v")]},
            {"volumes": [{"name": "v", "configMap": {"name": "x"}}]},
            "spec.volumes[0].configMap.name: expected the name of a ConfigMap in the same file",
        ),
        (
            {"volumeMounts": [mount("v", "/v")]},
            {"volumes": [{"name": "v", "secret": {"secretName": "x"}}]},
            "spec.volumes[0].secret: the local runtime has emptyDir, hostPath and configMap",
        ),
        (
            {"volumeMounts": [mount("v", "/v")]},
            {"volumes": [{"name": "v", "hostPath": {"path": "/nowhere/x"}}]},
            "spec.volumes[0].hostPath.path: /nowhere/x: No such file or directory; type: Dir",
        ),
        (
            {"volumeMounts": [mount("v", "/v")]},
            {"volumes": [{"name": "v", "hostPath": {"path": "/etc", "type": "File"}}]},
            "spec.volumes[0].hostPath.type: /etc is there, but is no File",
        ),
        (
            {"volumeMounts": [mount("v", "/etc/passwd")]},
            {"volumes": [{"name": "v", "emptyDir": {}}]},
            "spec.containers[0].volumeMounts[0]: cannot be mounted at /etc/passwd, which is a fi",
        ),
        (
            {"volumeMounts": [mount("v", "/etc/passwd/x/y")]},
            {"volumes": [{"name": "v", "emptyDir": {}}]},
            "spec.containers[0].volumeMounts[0]: /etc/passwd/x/y cannot be made: /etc/passwd is",
        ),
    ],
)
def test_what_this_runtime_cannot(
    make: Maker, fields: dict[str, Any], spec: dict[str, Any], text: str
) -> None:
    before = host_traces()
    file = make.write({**container("a", "true"), **fields}, **spec)
    with pytest.raises(ManifestError) as caught, up(file, "local"):
        pass
    assert str(caught.value).startswith(f"{file}: {text}")
    assert host_traces() == before


def test_no_such_runtime(make: Maker) -> None:
    with pytest.raises(ValueError, match="no runtime 'docker'; there is auto, local"):
        up(make.write(container("a", "true")), runtime="docker")


def test_it_fails_in_the_end(make: Maker) -> None:
    pod = make.up(container("a", "echo why; exit 3"), container("b", "true"))
    assert pod.wait(PATIENCE) == "Failed"
    assert "container 'a' ended with Error, exit code 3; it last said: why" in pod.message


# An ordinary user


def test_as_an_ordinary_user(make: Maker) -> None:
    file = make.write(
        container(
            "a",
            "touch /shared-mem/x; mkdir -p /d/e; chmod 0 /d/e; id -u; df -k /shared-mem; exit 0",
            volumeMounts=[mount("m", "/shared-mem"), mount("d", "/d")],
            securityContext={"runAsUser": 1234},
        ),
        container(
            "b", "touch /r/x; df -k /dev/shm", volumeMounts=[mount("m", "/r", readOnly=True)]
        ),
        volumes=[{"name": "m", "emptyDir": MEMORY}, {"name": "d", "emptyDir": {}}],
        securityContext={"fsGroup": 2000, "supplementalGroups": [2001]},
    )
    phase, message, said, logs, isolation, scratch = run_as_user(file)
    assert isolation["user"]
    uid = 1001 if is_root else os.geteuid()
    assert logs["a"].split()[0] == str(uid)
    assert " 4096 " in logs["a"]
    assert "Read-only" in logs["b"]
    assert " 65536 " in logs["b"]
    assert phase == "Succeeded", message
    assert any("not as UID 1234" in note for note in said)
    for field in ("fsGroup: volumes keep", "supplementalGroups: not given"):
        assert any(note.startswith(f"spec.securityContext.{field}") for note in said)
    assert not Path(scratch).exists()


def test_start_up_is_quick_enough_to_be_used_interactively(make: Maker) -> None:
    """The promise is 100 ms; a busy machine gets room here."""
    file = make.write(
        container("a", FOREVER, volumeMounts=[mount("v", "/v")]),
        container("b", FOREVER, volumeMounts=[mount("v", "/v")]),
        volumes=[{"name": "v", "emptyDir": MEMORY}],
    )
    took = []
    for _ in range(5):
        start = time.monotonic()
        with up(file, "local"):
            took.append(time.monotonic() - start)
    assert min(took) < 2


def test_who_follows_too_slowly_is_told_what_was_left_out(make: Maker) -> None:
    script = "echo begin; sleep 0.5; yes 123456789 | head -c 30000000; echo end"
    pod = make.up(container("a", script))
    following = pod["a"].follow()
    assert next(following).startswith(b"begin\n")
    finished(pod)
    told, *rest = following
    said = re.match(rb"\n?podipc: (\d+) bytes were left out", told)
    assert said is not None
    assert int(said[1]) >= 19_000_000
    assert b"".join(rest).endswith(b"end\n")
