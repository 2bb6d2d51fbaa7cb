"""`podipc doctor` in real containers: what it sees of each thing that goes wrong in a Pod."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, ROOT, eventually, unique_name

from podipc.pod import manifest
from podipc.pod.local.pod import Pod

PYTHON = sys.executable
DOCTOR = [PYTHON, "-m", "podipc", "doctor", "--json"]
MEET = [*DOCTOR, "--meet", "30"]
is_root = os.geteuid() == 0
needs_root = pytest.mark.skipif(not is_root, reason="not possible here: needs root")


@pytest.fixture(autouse=True)
def possible(monkeypatch: pytest.MonkeyPatch) -> None:
    from podipc.pod.local import namespaces

    # Other users may not be able to read the directory that this runs in.
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    # Its own /dev/shm is what a Pod's channels are in.
    monkeypatch.delenv("PODIPC_DIR")
    with namespaces.Pod() as pod:
        if not pod.isolation["mount"] or not pod.isolation["pid"]:
            pytest.skip("not possible here: " + "; ".join(pod.notes))


def container(name: str, command: list[str], **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "image", "command": command, **fields}


@contextlib.contextmanager
def pod_of(*containers: dict[str, Any], shm: int = 64 << 20, **spec: Any) -> Iterator[Pod]:
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": unique_name("doctor").lower()},
        "spec": {"restartPolicy": "Never", "containers": list(containers), **spec},
    }
    with Pod(manifest.read(document).pod(), shm_bytes=shm, grace=5) as pod:
        yield pod


def reports(*containers: dict[str, Any], **spec: Any) -> dict[str, tuple[int, Any]]:
    """What each of them says, and its exit code, once all have ended."""
    with pod_of(*containers, **spec) as pod:
        pod.wait(PATIENCE)
        found = {}
        for name, one in pod.containers.items():
            try:
                found[name] = (one.returncode or 0, json.loads(one.logs()))
            except ValueError:
                pytest.fail(f"{name} said {one.logs()}")
        return found


def of(report: Any, area: str) -> list[Any]:
    return [f for f in report["findings"] if f["area"] == area]


def level(report: Any, area: str) -> str:
    """The level of the last finding about it; "" if there is none."""
    return str(of(report, area)[-1]["level"]) if of(report, area) else ""


def test_two_meet_and_say_what_is_shared() -> None:
    mounts = [{"name": "data", "mountPath": "/shared-mem"}]
    elsewhere = [{"name": "data", "mountPath": "/work-data"}]
    found = reports(
        container("a", MEET, volumeMounts=mounts),
        container("b", MEET, volumeMounts=elsewhere),
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    for code, report in found.values():
        assert [level(report, x) for x in ("net", "ipc", "/dev/shm", "pid", "UID")] == ["ok"] * 5
        assert [f["level"] for f in of(report, "shm://")] == ["ok", "ok"]
        assert len(report["peers"]) == 1
        assert code == {"ok": 0, "warn": 1, "fail": 2}[report["worst"]]
        assert report["worst"] != "fail", report["findings"]
    texts = [of(report, "volumes")[0]["text"] for _, report in found.values()]
    assert "/shared-mem (/work-data there)" in texts[0]
    assert "/work-data (/shared-mem there)" in texts[1]
    hosts = [report["peers"][0]["hostname"] for _, report in found.values()]
    assert hosts == ["b", "a"]


def test_three_meet() -> None:
    found = reports(*(container(name, MEET) for name in "abc"))
    for name, (_, report) in found.items():
        others = {peer["hostname"] for peer in report["peers"]}
        # One who comes when the others have all they need may find one of them gone.
        assert others <= set("abc") - {name}
        assert others


@needs_root
def test_uids_differ() -> None:
    found = reports(
        container("a", MEET, securityContext={"runAsUser": 1001, "runAsGroup": 1001}),
        container("b", MEET, securityContext={"runAsUser": 1002, "runAsGroup": 1002}),
    )
    for code, report in found.values():
        assert code == 1
        (uid,) = of(report, "UID")
        assert uid["level"] == "warn"
        assert "no common group" in uid["text"]
        assert "0o666" in uid["change"]
        # They have met with mode=0o666 all the same.
        assert level(report, "shm://") == "ok"
    (a, b) = (report for _, report in found.values())
    assert (a["facts"]["uid"], a["peers"][0]["uid"]) == (1001, 1002)
    assert (b["facts"]["uid"], b["peers"][0]["uid"]) == (1002, 1001)


@needs_root
def test_uids_differ_in_one_group() -> None:
    found = reports(
        container("a", MEET, securityContext={"runAsUser": 1001}),
        container("b", MEET, securityContext={"runAsUser": 1002}),
        securityContext={"runAsGroup": 2000},
    )
    for _, report in found.values():
        (uid,) = of(report, "UID")
        assert "both are in the group 2000" in uid["text"]
        assert uid["change"].startswith("mode=0o660")


def test_a_volume_at_dev_shm_of_one_alone() -> None:
    own = [{"name": "own", "mountPath": "/dev/shm"}, {"name": "data", "mountPath": "/shared"}]
    found = reports(
        container("a", MEET, volumeMounts=own),
        container("b", MEET, volumeMounts=own[1:]),
        volumes=[
            {"name": "own", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            {"name": "data", "emptyDir": {}},
        ],
    )
    for code, report in found.values():
        assert code == 2
        assert level(report, "net") == "ok"
        assert level(report, "/dev/shm") == level(report, "shm://") == "fail"
        assert "shm:///shared/NAME" in of(report, "/dev/shm")[-1]["change"]


def test_they_meet_on_a_volume_instead() -> None:
    own = [{"name": "own", "mountPath": "/dev/shm"}]
    data = [{"name": "data", "mountPath": "/shared"}]
    meet = [*MEET, "shm:///shared/frames"]
    found = reports(
        container("a", meet, volumeMounts=own + data),
        container("b", meet, volumeMounts=data),
        volumes=[
            {"name": "own", "emptyDir": {"medium": "Memory", "sizeLimit": "8Mi"}},
            {"name": "data", "emptyDir": {}},
        ],
    )
    for _, report in found.values():
        assert level(report, "/dev/shm") == "fail"
        assert level(report, "shm://") == "ok"


def test_limits_and_a_tiny_dev_shm() -> None:
    limits = {"limits": {"memory": "72Mi", "cpu": "500m"}}
    with pod_of(container("a", DOCTOR, resources=limits), shm=64 << 10) as pod:
        pod.wait(PATIENCE)
        report, code, notes = json.loads(pod["a"].logs()), pod["a"].returncode, pod.notes
    assert code == 1, report["findings"]
    (shm,) = of(report, "/dev/shm")
    assert (shm["level"], shm["text"][:6]) == ("warn", "64 KiB")
    assert "medium: Memory" in shm["change"]
    assert level(report, "shm://") == "ok"
    if any("resources.limits" in note for note in notes):
        pytest.skip("not possible here: " + "; ".join(notes))
    (memory,) = of(report, "memory")
    assert "limit 72 MiB" in memory["text"]
    assert memory["text"].split("; ")[1].startswith("a sender holds up to 36 MiB")
    (cpu,) = of(report, "cpu")
    assert cpu["level"] == "warn"
    assert "quota 0.5" in cpu["text"]
    assert "resources.limits.cpu" in cpu["change"]


def test_what_is_there_to_see_of_others() -> None:
    """A dead channel, a living one, a zombie that PID 1 does not look after, few descriptors."""
    code = """
        import os, signal, subprocess, sys, time, podipc
        child = subprocess.Popen([sys.executable, "-c", "import podipc, time;"
            "rx = podipc.receiver('crashed'); print(flush=True); time.sleep(100)"], stdout=-1)
        child.stdout.readline()
        child.send_signal(signal.SIGKILL)
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        rx = podipc.receiver("alive")
        print("ready", flush=True)
        sys.stdin.read()
        time.sleep(100)
    """
    with pod_of(container("a", [PYTHON, "-c", textwrap.dedent(code)])) as pod:
        for piece in pod["a"].follow():
            if b"ready" in piece:
                break
        script = "ulimit -n 128; exec " + " ".join(DOCTOR)
        program = pod["a"].exec(["sh", "-c", script], stdout=subprocess.PIPE)
        assert program.stdout is not None
        said = program.stdout.read()
        assert program.wait(PATIENCE) == 1, said
        program.close()
        report = json.loads(said)
        pod["a"].kill()
    assert "1 endpoint of crashed was killed" in of(report, "leftovers")[0]["text"]
    assert "podipc rm --dead" in of(report, "leftovers")[0]["change"]
    assert "no senders, 1 receiver" in of(report, "alive")[0]["text"]
    assert level(report, "PID 1") == "warn"
    assert "1 zombie," in of(report, "PID 1")[0]["text"]
    assert level(report, "open files") == "warn"


@needs_root
@pytest.mark.parametrize("address", ["unix:///shared/x.sock", "fifo:///shared/x.fifo"])
def test_an_fs_group_in_real_containers(address: str) -> None:
    """What `podipc doctor --manifest` says of sockets and FIFOs at the top of a volume."""
    code = "import numpy, podipc; print('in'); {}({!r}, mode=0o660).{}"
    send = code.format("podipc.sender", address, "send(numpy.ones(3), timeout=20)")
    receive = code.format("podipc.receiver", address, "recv(timeout=20)")
    more: dict[str, Any] = {"volumeMounts": [{"name": "v", "mountPath": "/shared"}]}
    a, b = ({"runAsUser": uid, "runAsGroup": uid} for uid in (1001, 1002))
    with pod_of(
        container("a", [PYTHON, "-c", send], securityContext=a, **more),
        container("b", [PYTHON, "-c", receive], securityContext=b, **more),
        volumes=[{"name": "v", "emptyDir": {}}],
        securityContext={"fsGroup": 2000},
    ) as pod:
        assert pod.wait(PATIENCE) == "Succeeded", [c.logs() for c in pod.containers.values()]


@needs_root
def test_executable_memory_is_forbidden() -> None:
    """vm.memfd_noexec=2, which a PID namespace may set for itself."""
    forbid = "echo 2 >/proc/sys/vm/memfd_noexec || exit 77; exec " + " ".join(DOCTOR)
    with pod_of(container("a", ["sh", "-c", forbid])) as pod:
        pod.wait(PATIENCE)
        if pod["a"].returncode == 77:
            pytest.skip("not possible here: " + pod["a"].logs())
        report = json.loads(pod["a"].logs())
    (memfd,) = of(report, "memfd")
    assert (memfd["level"], "vm.memfd_noexec 2" in memfd["text"]) == ("ok", True), memfd
    assert level(report, "shm://") == level(report, "descriptors") == "ok"


def test_nobody_comes() -> None:
    found = reports(container("a", [*DOCTOR, "--meet", "0.2"]))
    code, report = found["a"]
    assert code == 1
    assert "nobody came in 0.2 s" in of(report, "meeting")[0]["text"]
    assert report["peers"] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_one_that_is_ended_leaves_nothing(number: int) -> None:
    """SIGKILL leaves a socket, which the next doctor removes."""
    with pod_of(container("a", [PYTHON, "-c", "import time; time.sleep(100)"])) as pod:
        first = pod["a"].exec(MEET)
        eventually(lambda: channels_in(pod) == ["podipc-doctor-meeting"], "it waits for others")
        first.send_signal(number)
        first.wait(PATIENCE)
        left = channels_in(pod)
        assert bool(left) == (number == signal.SIGKILL), left
        second = pod["a"].exec([*DOCTOR, "--meet", "0.3"], stdout=subprocess.PIPE)
        assert second.stdout is not None
        report = json.loads(second.stdout.read())
        second.wait(PATIENCE)
        second.close()
        assert report["peers"] == []
        assert level(report, "leftovers") == ("warn" if left else "ok")
        assert channels_in(pod) == []
        pod["a"].kill()


def channels_in(pod: Pod) -> list[str]:
    """The directories in its /dev/shm that something is in."""
    code = (
        "import os, json\n"
        "found = [os.path.basename(d) for d, _, files in os.walk('/dev/shm') if files]\n"
        "print(json.dumps(found))"
    )
    looks = pod["a"].exec([PYTHON, "-c", code], stdout=subprocess.PIPE)
    assert looks.stdout is not None
    found: list[str] = json.loads(looks.stdout.read())
    looks.wait(PATIENCE)
    looks.close()
    return found


def test_a_stranger_has_the_port() -> None:
    """One who listens there and says nothing of use; they meet on the next one.

    The same one pesters whoever listens there: with garbage, without end, with silence.
    """
    code = """
        import contextlib, itertools, socket, threading, time

        def pester():
            for words in itertools.cycle([b"", b"GET / HTTP/1.1\\r\\n", b"[" * 99999 + b"\\n"]):
                try:
                    with socket.create_connection(("127.0.0.1", 28468)) as c:
                        c.sendall(words)
                        time.sleep(0.1)
                except OSError:
                    time.sleep(0.01)

        s = socket.create_server(("127.0.0.1", 28467))
        threading.Thread(target=pester, daemon=True).start()
        while True:
            c, _ = s.accept()
            with contextlib.suppress(OSError):
                c.sendall(b"220 mail\\r\\n" + b"x" * 70000 + b"\\n")
            c.close()
    """
    stranger = container("s", [PYTHON, "-c", textwrap.dedent(code)], restartPolicy="Always")
    with pod_of(container("a", MEET), container("b", MEET), initContainers=[stranger]) as pod:
        for name in "ab":
            pod[name].wait(PATIENCE)
            report = json.loads(pod[name].logs())
            assert level(report, "net") == "ok", report["findings"]
        assert pod["s"].restarts == 0, pod["s"].logs()


def test_text_fits_a_terminal() -> None:
    with pod_of(container("a", [PYTHON, "-m", "podipc", "doctor", "tcp://127.0.0.1:5000"])) as pod:
        pod.wait(PATIENCE)
        lines = pod["a"].logs().splitlines()
    assert all(len(line) <= 80 for line in lines)
    assert any(line.startswith("ok    /dev/shm      64 MiB, ") for line in lines)
    assert any(line.startswith("warn  tcp           nobody listens") for line in lines)


AS_USER = """
import ctypes, json, os, sys
import encodings.idna, podipc.pod.local.pod, podipc.pod.manifest, podipc.pod
{become}
with podipc.pod.up(sys.argv[1], "local") as pod:
    pod.wait(60)
    print(json.dumps([pod.containers[name].logs() for name in "ab"]))
"""
BECOME = """
os.chdir("/")
os.setgroups([]); os.setresgid(1001, 1001, 1001); os.setresuid(1001, 1001, 1001)
ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""


def python_of_all(env: dict[str, str]) -> str:
    """A Python that an ordinary user can run with podipc; this one may be root's alone."""
    import numpy

    env["PYTHONPATH"] = f"{ROOT}:{Path(numpy.__file__).parent.parent}"
    become = {"user": 1001, "group": 1001, "extra_groups": []} if is_root else {}
    tried = ""
    for python in (PYTHON, "/usr/bin/python3"):
        command = [python, "-c", "import podipc"]
        try:
            subprocess.run(command, check=True, capture_output=True, env=env, cwd="/", **become)
        except (OSError, subprocess.CalledProcessError) as error:
            tried += f"; {error}"
            continue
        return python
    pytest.skip(f"not possible here: no Python that UID 1001 can run with podipc{tried}")


def test_as_an_ordinary_user() -> None:
    env = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    meet = [python_of_all(env), *MEET[1:]]
    document = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": unique_name("doctor").lower()},
        "spec": {
            "restartPolicy": "Never",
            "containers": [container("a", meet), container("b", meet)],
        },
    }
    readable = Path("/dev/shm", unique_name("doctor.json"))
    readable.write_text(json.dumps(document))
    readable.chmod(0o644)
    try:
        done = subprocess.run(
            [PYTHON, "-c", AS_USER.format(become=BECOME if is_root else ""), str(readable)],
            env=env,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    finally:
        readable.unlink()
    if "user namespaces are refused" in done.stderr:
        pytest.skip("not possible here: " + done.stderr.splitlines()[-1])
    assert done.returncode == 0, done.stderr
    for text in json.loads(done.stdout):
        report = json.loads(text)
        assert report["facts"]["uid"] == (1001 if is_root else os.geteuid())
        assert [level(report, x) for x in ("net", "/dev/shm", "shm://")] == ["ok"] * 3
