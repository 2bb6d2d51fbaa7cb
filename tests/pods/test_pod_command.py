"""``podipc pod`` on the command line, with Pods that run."""

import functools
import json
import os
import resource
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from podmaker import alive, host_traces
from support import PATIENCE, ROOT, eventually, unique_name

LOOP = "trap 'echo ends; exit 0' TERM; echo runs; while :; do sleep 0.05; done"


class Line:
    """A command line with a runtime directory of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.pods = directory / "podipc-pods"
        self.env = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(directory)}

    def kept(self) -> list[Path]:
        """The directories of Pods in the background."""
        return [path for path in self.pods.iterdir() if path.is_dir()]

    def start(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "podipc", "pod", *words],
            env=self.env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, code: int = 0) -> tuple[str, str]:
        with self.start(*words) as process:
            out, err = process.communicate(timeout=PATIENCE)
        assert process.returncode == code, (out, err)
        return out, err

    def write(self, *containers: tuple[str, str], name: str = "", **spec: Any) -> str:
        name = name or unique_name("pod").lower()
        document = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name},
            "spec": {
                "restartPolicy": "Never",
                "terminationGracePeriodSeconds": 10,
                "containers": [
                    {
                        "name": container,
                        "image": "image",
                        "command": ["sh", "-c", script],
                        "env": [{"name": "POD", "value": name}],
                        "volumeMounts": [{"name": "v", "mountPath": "/v"}],
                    }
                    for container, script in containers
                ],
                "volumes": [{"name": "v", "emptyDir": {}}],
                **spec,
            },
        }
        file = self.directory / f"{name}.json"
        file.write_text(json.dumps(document))
        return str(file)


@pytest.fixture
def line(isolation: None) -> Iterator[Line]:
    made = Line(Path(tempfile.mkdtemp(prefix="podipc-line-")))
    yield made
    for pod in json.loads(made.run("list", "--json")[0]):
        made.run("down", pod["name"], "--grace", "0")
    shutil.rmtree(made.directory)


def test_run_shows_what_is_printed_and_how_it_ends(line: Line) -> None:
    file = line.write(("first", "echo one; printf two"), ("b", "echo three >&2"))
    out, err = line.run("run", file)
    assert sorted(out.splitlines()) == ["b     | three", "first | one", "first | two"]
    assert "podipc: note: image: not used, the programs are those of this machine" in err
    assert line.run("run", "-q", file)[1] == ""
    file = line.write(("a", "echo why; exit 3"))
    out, err = line.run("run", file, code=1)
    assert out == "a | why\n"
    assert "spec.containers[0]: container 'a' ended with Error, exit code 3" in err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_run_is_interrupted(line: Line, number: int, code: int) -> None:
    before = host_traces()
    with line.start("run", line.write(("a", LOOP))) as process:
        assert process.stdout
        assert process.stdout.readline() == "a | runs\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=PATIENCE)
    assert out == "a | ends\n", "the container was told to end, and what it said is shown"
    assert process.returncode == code, err
    assert host_traces() == before


def test_run_whose_output_nobody_reads(line: Line) -> None:
    with line.start("run", line.write(("a", "while :; do echo x; done"))) as process:
        assert process.stdout
        process.stdout.readline()
        process.stdout.close()
        assert process.wait(PATIENCE) == 1
        process.stdout = None


def test_bad_input(line: Line) -> None:
    assert (
        "/nowhere.yaml: cannot be read: No such file" in line.run("run", "/nowhere.yaml", code=2)[1]
    )
    file = line.write(("a", "true"), restartPolicy="never")
    for action in ("run", "up", "render"):
        err = line.run(action, file, code=2)[1]
        assert f"podipc: {file}: spec.restartPolicy: expected" in err
        assert "Traceback" not in err
    assert "--runtime" in line.run("run", "--runtime", "docker", file, code=2)[1]
    assert "seconds" in line.run("run", "--grace", "-1", file, code=2)[1]
    file = line.write(("a", LOOP), ("b", "true"))
    document = json.loads(Path(file).read_text())
    document["spec"]["containers"][1]["command"] = ["no-such-program"]
    Path(file).write_text(json.dumps(document))
    for action in ("run", "up"):
        err = line.run(action, file, code=1)[1]
        assert f"{file}: spec.containers[1].command: container 'b': there is no program" in err
    assert line.run("list")[0] == ""
    for words in (["down", "none"], ["logs", "none"], ["exec", "none", "true"]):
        assert "no Pod 'none' runs here; there is none" in line.run(*words, code=1)[1]


BAD: list[tuple[str, Any, int, str, str]] = [
    # Field, value (None removes it), exit code, path of the field that is said, what was expected.
    ("metadata/name", None, 2, "metadata.name", "is missing; expected the name of the Pod"),
    ("spec/containers", None, 2, "spec.containers", "is missing; expected a list of at least one"),
    ("spec/containers/1/image", None, 2, "spec.containers[1].image", "is missing; expected the na"),
    ("kind", "Widget", 2, "kind", "CronJob, Service or ConfigMap, not 'Widget'"),
    ("spec/containers/1/name", "a", 2, "spec.containers[1].name", "expected a name that no other"),
    (
        "spec/containers/1/volumeMounts/0/name",
        "w",
        2,
        "spec.containers[1].volumeMounts[0].name",
        "expected the name of a volume in spec.volumes (v), not 'w'",
    ),
    (
        "spec/containers/1/command",
        ["no-such-program"],
        1,
        "spec.containers[1].command",
        "container 'b': there is no program 'no-such-program' in its PATH",
    ),
    (
        "spec/containers/1/command",
        ["/etc/passwd"],
        1,
        "spec.containers[1].command",
        "cannot execute '/etc/passwd' (execve): Permission denied",
    ),
    ("spec/containers/1/command", None, 2, "spec.containers[1].command", "is missing; the local"),
    (
        "spec/containers/1/command/2",
        "echo why; exit 3",
        1,
        "spec.containers[1]",
        "container 'b' ended with Error, exit code 3; it last said: why",
    ),
    (
        "spec/initContainers",
        [{"name": "i", "image": "i", "command": ["sh", "-c", "echo why; exit 3"]}],
        1,
        "spec.initContainers[0]",
        "container 'i' ended with Error, exit code 3; it last said: why",
    ),
    (
        "spec/volumes/0/emptyDir",
        {"sizeLimit": "x"},
        2,
        "spec.volumes[0].emptyDir.sizeLimit",
        "expe",
    ),
]


@pytest.mark.parametrize(
    ("field", "value", "code", "path", "text"), BAD, ids=[f"{row[3]}: {row[4][:20]}" for row in BAD]
)
def test_what_is_wrong_is_said_and_nothing_is_left(  # noqa: PLR0917
    line: Line, field: str, value: Any, code: int, path: str, text: str
) -> None:
    before = host_traces()
    file = line.write(("a", "echo runs"), ("b", "echo of b"))
    document = json.loads(Path(file).read_text())
    document["spec"]["containers"][0]["resources"] = {"limits": {"memory": "64Mi", "cpu": 1}}
    *above, last = (int(word) if word.isdigit() else word for word in field.split("/"))
    at = functools.reduce(lambda part, word: part[word], above, document)
    if value is None:
        del at[last]
    else:
        at[last] = value
    Path(file).write_text(json.dumps(document))
    err = line.run("run", "-q", file, code=code)[1]
    assert err.startswith(f"podipc: {file}: {path}: "), err
    assert text in err
    assert err.count("\n") == 1, "one line, no traceback"
    assert host_traces() == before


def test_up_exec_logs_list_down(line: Line) -> None:
    before = host_traces()
    file = line.write(("a", LOOP), ("b", "echo of b; exec sleep 1000"))
    name = Path(file).stem
    out, err = line.run("up", file)
    assert out == f"Pod {name} is up\n"
    assert "note: image" in err
    assert stat.S_IMODE(line.pods.stat().st_mode) == 0o700
    assert f"a Pod '{name}' is there already" in line.run("up", file, code=1)[1]

    (pod,) = json.loads(line.run("list", "--json")[0])
    assert (pod["name"], pod["phase"], pod["runtime"]) == (name, "Running", "local")
    assert [c["name"] for c in pod["containers"]] == ["a", "b"]
    assert all(c["state"] == "running" and c["pid"] for c in pod["containers"])
    assert name in line.run("list")[0]

    assert line.run("exec", name, "hostname")[0] == "a\n"
    assert (
        line.run("exec", file, "-c", "b", "--", "sh", "-c", "hostname; exit 7", code=7)[0] == "b\n"
    )
    assert line.run("exec", name, "--", "sh", "-c", "kill -9 $$", code=137)[0] == ""
    assert "no program 'none'" in line.run("exec", name, "none", code=1)[1]
    err = line.run("exec", name, "b", "--", "ls", "-l", code=1)[1]
    assert f"'b' is a container: podipc pod exec {name} -c b -- ls -l" in err
    assert "no container 'c'; it has a, b" in line.run("exec", name, "-c", "c", "true", code=1)[1]
    assert line.run("logs", name)[0] == "a | runs\nb | of b\n"
    assert line.run("logs", file, "-c", "b")[0] == "of b\n"

    with line.start("logs", "-f", name) as following:
        assert following.stdout
        assert {following.stdout.readline() for _ in "ab"} == {"a | runs\n", "b | of b\n"}
        assert host_traces() != before
        assert line.run("down", name)[0] == f"Pod {name} is down\n"
        assert following.communicate(timeout=PATIENCE)[0] == "a | ends\n"
    assert line.kept() == []
    assert host_traces() == before
    eventually(lambda: not alive(pod["pid"]), "the keeper has ended")


def test_a_pod_in_the_background_that_has_ended_keeps_its_logs(line: Line) -> None:
    file = line.write(("a", "echo result; exit 3"))
    name = Path(file).stem
    line.run("up", "--json", file)
    status = eventually(
        lambda: [p for p in json.loads(line.run("list", "--json")[0]) if p["phase"] == "Failed"],
        "it has ended",
    )
    assert status[0]["containers"][0]["exit_code"] == 3
    assert line.run("logs", name, "-c", "a")[0] == "result\n"
    assert "does not run" in line.run("exec", name, "true", code=1)[1]
    line.run("down", name)


def test_exec_that_is_interrupted_ends_its_program(line: Line) -> None:
    file = line.write(("a", LOOP))
    line.run("up", file)
    with line.start("exec", file, "--", "sh", "-c", "touch /v/here; exec sleep 1000") as process:
        look = ["exec", file, "--", "sh", "-c", "ls /v; ls /proc | grep -c '^[0-9]'"]
        eventually(lambda: "here" in line.run(*look)[0], "it runs")
        process.kill()
        process.communicate(timeout=PATIENCE)
    sleeping = ["exec", file, "--", "sh", "-c", "cat /proc/[0-9]*/cmdline | tr '\\0' ' '"]
    eventually(lambda: "sleep 1000" not in line.run(*sleeping)[0], "its program is gone")
    line.run("down", file)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_keeper_that_dies_leaves_nothing(line: Line, number: int) -> None:
    before = host_traces()
    file = line.write(("a", "echo > /v/f; echo runs; exec sleep 1000"))
    line.run("up", file)
    (pod,) = json.loads(line.run("list", "--json")[0])
    assert host_traces() != before
    os.kill(pod["pid"], number)
    eventually(lambda: not alive(pod["containers"][0]["pid"]), "the container is gone")
    eventually(lambda: host_traces() == before, "the volume is gone")
    eventually(lambda: not line.kept(), "its directory is gone")
    assert line.run("list", "--json")[0] == "[]\n"
    line.run("up", file)
    line.run("down", file)


def test_what_a_dead_pod_left_is_cleared(line: Line) -> None:
    file = line.write(("a", LOOP))
    left = line.pods / f"{Path(file).stem}@1"
    line.pods.mkdir(mode=0o700)
    left.mkdir()
    (left / "socket").touch()
    (left / "name").write_text(Path(file).stem)
    assert "runs here; there is none" in line.run("logs", Path(file).stem, code=1)[1]
    assert not left.exists()
    left.mkdir()
    line.run("up", file)
    line.run("down", file)


def test_what_clears_up_late_does_not_meet_the_next_of_that_name(line: Line) -> None:
    file = line.write(("a", LOOP))
    line.run("up", file)
    (first,) = line.kept()
    line.run("down", file)
    line.run("up", file)
    (second,) = line.kept()
    assert first != second
    line.run("down", file)


def test_what_is_no_request_is_refused(line: Line) -> None:
    file = line.write(("a", LOOP))
    line.run("up", file)
    (directory,) = line.kept()
    for request in (b"[1]", b"{}", b"{", b'"x"', b'{"do": "exec", "container": "a"}', b"1" * 100):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(PATIENCE)
            connection.connect(str(directory / "socket"))
            connection.sendall(request + b"\n")
            assert "error" in json.loads(connection.makefile().readline()), request
    line.run("down", file)


def test_a_keeper_that_is_stopped_is_not_waited_for(line: Line) -> None:
    file = line.write(("a", LOOP))
    name = Path(file).stem
    line.run("up", file)
    (pod,) = json.loads(line.run("list", "--json")[0])
    os.kill(pod["pid"], signal.SIGSTOP)
    try:
        assert f"the keeper of Pod '{name}' does not answer" in line.run("list")[1]
    finally:
        os.kill(pod["pid"], signal.SIGCONT)
    line.run("down", file)


def test_a_keeper_without_descriptors_goes_on_when_it_has_some(line: Line) -> None:
    file = line.write(("a", LOOP))
    line.run("up", file)
    (pod,) = json.loads(line.run("list", "--json")[0])
    limits = resource.prlimit(pod["pid"], resource.RLIMIT_NOFILE)
    resource.prlimit(pod["pid"], resource.RLIMIT_NOFILE, (3, limits[1]))
    with line.start("logs", file) as process:
        time.sleep(1)
        resource.prlimit(pod["pid"], resource.RLIMIT_NOFILE, limits)
        assert process.communicate(timeout=PATIENCE)[0] == "a | runs\n"
    assert process.returncode == 0
    line.run("down", file)


def test_a_directory_of_others_is_refused(line: Line) -> None:
    line.pods.mkdir()
    line.pods.chmod(0o777)
    assert "with mode 0700" in line.run("up", line.write(("a", "true")), code=1)[1]
    line.pods.chmod(0o700)


def test_two_at_once_take_one_name(line: Line) -> None:
    file = line.write(("a", LOOP))
    both = [line.start("up", file) for _ in range(2)]
    for process in both:
        process.communicate(timeout=PATIENCE)
    assert sorted(process.returncode for process in both) == [0, 1]
    line.run("down", file)


def test_a_long_name(line: Line) -> None:
    name = ".".join(["a" * 50] * 4)
    file = line.write(("a", LOOP), name=name)
    line.run("up", file)
    assert line.run("exec", name, "hostname")[0] == "a\n"
    line.run("down", name)


def test_render(line: Line) -> None:
    file = line.write(("a", "true"))
    out, err = line.run("render", file)
    assert json.loads(out) == json.loads(Path(file).read_text())
    assert "note: image" in err


def test_help_has_examples_and_exit_codes(line: Line) -> None:
    out = line.run("--help")[0]
    assert "podipc pod up pod.yaml" in out
    assert "exit codes:" in out
    for action in ("run", "up", "exec", "logs", "down", "list", "render"):
        assert "exit codes:" in line.run(action, "--help")[0]
