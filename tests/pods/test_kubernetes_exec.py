"""Programs in the containers of a cluster, over real WebSockets to `apiserver.py`."""

import contextlib
import os
import random
import signal
import sys
import threading

import pytest
from support import PATIENCE, eventually

pytest.importorskip("kubernetes", reason="the client of Kubernetes is not installed")
pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
pytest.importorskip("yaml", reason="PyYAML is not installed")

from pods.cluster import Cluster, pod

import podipc
from podipc.pod import up
from podipc.pod.errors import CommandNotFound, NotHere, PodError
from podipc.pod.kubernetes.program import V4, V5
from podipc.pod.local import namespaces
from podipc.pod.runtime import DEVNULL, PIPE, STDOUT

pytestmark = pytest.mark.xdist_group("kubernetes-exec")  # one cluster is enough

KEEPS_CHANNELS = True  # those of a Pod to its API server, over all tests


@pytest.fixture(scope="module", params=[[V5, V4], [V4]], ids=["v5", "v4"])
def cluster(request):
    """A server as of now, and one that is older than Kubernetes 1.30."""
    with namespaces.Pod() as here:
        if not here.isolation["mount"] or not here.isolation["pid"]:
            pytest.skip("not possible here: " + "; ".join(here.notes))
    with Cluster() as made:
        made.tell(protocols=request.param)
        yield made


@pytest.fixture(scope="module")
def made(cluster):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KUBECONFIG", cluster.kubeconfig)
        started = up(pod("exec sleep 1000"), "kubernetes")
    with started:
        yield started


@pytest.fixture
def a(made):
    return made["a"]


def run(container, *command, data=None, code=0):
    """What a program says to `data`."""
    program = container.exec(command, stdin=PIPE if data is not None else DEVNULL, stdout=PIPE)
    try:
        if data is not None:
            program.stdin.write(data)
            program.stdin.close()
        out = program.stdout.read()
        assert program.wait(PATIENCE) == code
        return out
    finally:
        program.close()


def test_output_and_exit_codes(a):
    assert run(a, "echo", "two  words", "$x") == b"two  words $x\n"
    assert run(a, "sh", "-c", "printf nothing; exit 3", code=3) == b"nothing"
    assert run(a, "sh", "-c", "kill -9 $$", code=-9) == b""
    assert run(a, "true") == b""
    assert b"\n" not in run(a, "sh", "-c", "printf '%s' \"$PPID\"")


@pytest.mark.parametrize("size", [0, 1, 12, 1 << 16, 3_000_001])
def test_the_end_of_standard_input_is_seen(a, size):
    """Of `cat`, which ends then; every byte comes back."""
    data = random.Random(size).randbytes(size)
    program = a.exec(["cat"], stdin=PIPE, stdout=PIPE)
    in_background(program.stdin, data)
    assert program.stdout.read() == data
    assert program.wait(PATIENCE) == 0
    program.close()


def in_background(stream, data):
    def write():
        stream.write(data)
        stream.close()

    threading.Thread(target=write, daemon=True).start()


def test_a_conversation(a):
    """A session as of Python: a line there, a line back, and so on."""
    code = "import sys\nfor line in sys.stdin: print(eval(line), flush=True)"
    program = a.exec([sys.executable, "-c", code], stdin=PIPE, stdout=PIPE)
    for i in range(20):
        program.stdin.write(b"%d * 2\n" % i)
        program.stdin.flush()
        assert program.stdout.readline() == b"%d\n" % (2 * i)
    assert program.poll() is None
    program.stdin.close()
    assert program.wait(PATIENCE) == 0
    program.close()


def test_a_session_that_keeps_its_variables(made, a):
    assert a.run("x = 41").error is None
    assert a.run("x + 1").value == 42
    assert a.stats()
    assert made.facts()


def test_a_program_that_does_not_read_its_input_ends(a):
    program = a.exec(["sh", "-c", "exit 4"], stdin=PIPE)
    assert program.wait(PATIENCE) == 4
    program.close()


def test_given_descriptors_and_merged_errors(a, tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"from a file\n")
    with file.open("rb") as source, (tmp_path / "out").open("wb") as target:
        program = a.exec(
            ["sh", "-c", "cat; echo wrong >&2"], stdin=source, stdout=target, stderr=STDOUT
        )
        assert program.wait(PATIENCE) == 0
        program.close()
    lines = (tmp_path / "out").read_bytes().splitlines()
    assert sorted(lines) == [b"from a file", b"wrong"]
    program = a.exec(["sh", "-c", "echo out; echo wrong >&2"], stdout=DEVNULL, stderr=PIPE)
    assert program.stdout is None
    assert program.stderr.read() == b"wrong\n"
    program.close()
    with pytest.raises(ValueError, match="STDOUT is for stderr only"):
        a.exec(["true"], stdout=STDOUT)


def test_signals(a):
    script = "trap 'echo caught; exit 5' TERM; echo ready; while :; do sleep 0.02; done"
    program = a.exec(["sh", "-c", script], stdin=PIPE, stdout=PIPE)
    assert program.stdout.readline() == b"ready\n"
    with pytest.raises(podipc.Timeout):
        program.wait(0.01)
    program.send_signal(signal.SIGTERM)
    assert program.stdout.read() == b"caught\n"
    assert program.wait(PATIENCE) == 5
    program.send_signal(signal.SIGTERM)
    program.close()
    program = a.exec(["sleep", "1000"], stdin=PIPE)
    program.kill()
    assert program.wait(PATIENCE) == -9
    program.close()


def test_no_such_program(a):
    with pytest.raises(CommandNotFound, match="container 'a': there is no program 'none'"):
        a.exec(["none"])
    with pytest.raises(CommandNotFound):
        a.exec(["none"], stdin=PIPE)


def test_an_image_without_a_shell(a, cluster):
    cluster.tell(shellless=["a"])
    try:
        assert run(a, "echo", "x") == b"x\n"
        program = a.exec(["sleep", "0.3"])
        with pytest.raises(NotHere, match="has no sh, without which no signal can be sent"):
            program.kill()
        assert program.wait(PATIENCE) == 0
        program.close()
        program = a.exec(["none"])
        with pytest.raises(CommandNotFound, match=r"'none': .* not found"):
            program.wait(PATIENCE)
        program.close()
        if a._pod._link._protocol == V5:
            assert run(a, "cat", data=b"x") == b"x"
        else:
            with pytest.raises(NotHere, match=r"older than Kubernetes 1\.30"):
                a.exec(["cat"], stdin=PIPE)
    finally:
        cluster.tell(shellless=[])


def test_whoever_reads_no_more_is_no_problem(a):
    program = a.exec(
        ["sh", "-c", "i=0; while [ $i -lt 2000 ]; do echo $i; i=$((i+1)); done"], stdout=PIPE
    )
    program.stdout.readline()
    program.stdout.close()
    assert program.wait(PATIENCE) == 0
    program.close()


def test_the_connection_is_lost(a, cluster):
    look = ["sh", "-c", "ls /proc | grep -c '^[0-9]'"]
    before = int(run(a, *look))
    program = a.exec(["cat"], stdin=PIPE, stdout=PIPE)
    cluster.tell(cut=True)
    assert program.stdout.read() == b""
    with pytest.raises(PodError, match="the connection was lost; how it ended is not known"):
        program.wait(PATIENCE)
    program.close()
    eventually(lambda: int(run(a, *look)) <= before, "its input has ended, and so has the program")


def test_the_pod_ends(cluster, monkeypatch):
    monkeypatch.setenv("KUBECONFIG", cluster.kubeconfig)
    with up(pod("exec sleep 1000", terminationGracePeriodSeconds=0), "kubernetes") as other:
        program = other["a"].exec(["cat"], stdin=PIPE, stdout=PIPE)
    assert program.stdout.read() == b""
    # Whether the end of the program or that of the connection comes first is chance.
    with contextlib.suppress(PodError):
        assert program.wait(PATIENCE) == -9
    program.close()
    with pytest.raises(podipc.Closed):
        other["a"].exec(["true"])


def test_forbidden(a, cluster):
    cluster.tell(**{"GET pods": 'pods "x" is forbidden: User cannot get resource "pods/exec"'})
    try:
        with pytest.raises(NotHere, match="pods/exec"):
            a.exec(["true"])
    finally:
        cluster.tell(**{"GET pods": ""})


def test_our_own_output(cluster, made, capfd):
    program = made["a"].exec(["sh", "-c", "echo out; echo wrong >&2"])
    assert program.wait(PATIENCE) == 0
    program.close()
    assert capfd.readouterr() == ("out\n", "wrong\n")


def test_no_descriptor_is_left(a):
    run(a, "true")
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(10):
        run(a, "cat", data=b"x")
        with pytest.raises(CommandNotFound):
            a.exec(["none"], stdin=PIPE)
    # A connection for the log may have come meanwhile, but nothing for each program.
    assert len(os.listdir("/proc/self/fd")) <= before + 3
