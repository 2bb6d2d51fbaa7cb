"""The embedded runtime: what is shared, what is not, and that nothing is left behind."""

import contextlib
import gc
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, ROOT, eventually, unique_name

import podipc
from podipc.pod.errors import CommandNotFound, InvalidName, NameTaken
from podipc.pod.local import namespaces
from podipc.pod.runtime import DEVNULL, PIPE, STDOUT

NAMESPACES = ("user", "pid", "mnt", "net", "ipc", "uts")
SHM = 64 << 20
PLAIN = "plain processes of the host, nothing is isolated: "


def host(namespace: str) -> str:
    return os.readlink(f"/proc/self/ns/{namespace}")


@pytest.fixture
def pod() -> Iterator[namespaces.Pod]:
    with namespaces.Pod("test") as made:
        if not all(made.isolation[part] for part in made.isolation if part != "user"):
            pytest.skip("not possible here: " + "; ".join(made.notes))
        yield made


def say(container: namespaces.Container) -> Any:
    """The next line of JSON that it prints."""
    assert container.stdout
    line = container.stdout.readline()
    assert line, f"{container!r} printed nothing"
    return json.loads(line)


def python(pod: namespaces.Pod, name: str, code: str, **options: Any) -> namespaces.Container:
    """A container that runs Python code, which may use say() and hear()."""
    prelude = """
        import json, os, signal, socket, sys
        def say(value): print(json.dumps(value), flush=True)
        def hear(): return sys.stdin.readline()
    """
    return pod.start(
        name,
        [sys.executable, "-IS", "-c", textwrap.dedent(prelude) + textwrap.dedent(code)],
        stdin=PIPE,
        stdout=PIPE,
        **options,
    )


def go_on(container: namespaces.Container) -> None:
    assert container.stdin
    container.stdin.write(b"\n")
    container.stdin.flush()


def processes_with(marker: str) -> list[int]:
    """PIDs of the processes with this text in their environment or command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if marker.encode() in text:
                    found.append(int(entry.name))
    return found


LOOK = f"""
    say({{
        "pid": os.getpid(),
        "ns": {{n: os.readlink(f"/proc/self/ns/{{n}}") for n in {NAMESPACES}}},
        "hostname": socket.gethostname(),
        "HOSTNAME": os.environ["HOSTNAME"],
        "processes": sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
        "sid": os.getsid(0),
        "fds": [fd for fd in range(100) if os.path.exists(f"/proc/self/fd/{{fd}}")],
    }})
    hear()
"""


# What is shared and what is not


def test_what_is_shared_and_what_is_not(pod: namespaces.Pod) -> None:
    a, b = python(pod, "producer", LOOK), python(pod, "consumer", LOOK)
    seen_a, seen_b = say(a), say(b)
    for shared in ("net", "ipc", "user"):
        assert seen_a["ns"][shared] == seen_b["ns"][shared]
    for own in ("pid", "mnt", "uts"):
        assert len({seen_a["ns"][own], seen_b["ns"][own], host(own)}) == 3, own
    for not_the_hosts in ("net", "ipc"):
        assert seen_a["ns"][not_the_hosts] != host(not_the_hosts)
    assert (seen_a["ns"]["user"] != host("user")) == pod.isolation["user"]


def test_each_is_the_only_process_it_sees(pod: namespaces.Pod) -> None:
    for name in ("producer", "consumer"):
        seen = say(python(pod, name, LOOK))
        assert seen["pid"] == 1
        assert seen["processes"] == [1]
        assert seen["sid"] == 1, "no session, and so no terminal, of the host"
        assert seen["hostname"] == seen["HOSTNAME"] == name


def test_pid_is_that_of_the_host(pod: namespaces.Pod) -> None:
    marker = unique_name("marker")
    a = python(pod, "a", "hear()", env={"MARKER": marker})
    assert processes_with(marker) == [a.pid]


def test_only_passed_descriptors(pod: namespaces.Pod, tmp_path: Path) -> None:
    with (tmp_path / "file").open("w+b") as file, open(os.devnull, "rb") as other:
        os.set_inheritable(other.fileno(), True)
        a = python(pod, "a", LOOK, pass_fds=[file.fileno()])
        assert say(a)["fds"] == sorted([0, 1, 2, file.fileno()])


def test_shm_has_its_size_and_is_shared(pod: namespaces.Pod) -> None:
    name = unique_name("file")
    write = f"open('/dev/shm/{name}', 'w').write('hello'); say(1); hear()"
    a = python(pod, "a", write)
    say(a)
    b = python(pod, "b", f"say(open('/dev/shm/{name}').read())")
    assert say(b) == "hello"
    assert not Path("/dev/shm", name).exists()
    assert say(python(pod, "c", LOOK))["shm"] == SHM


def test_shm_is_full_at_its_size() -> None:
    with namespaces.Pod("test", shm_bytes=1 << 20) as pod:
        if not pod.isolation["shm"]:
            pytest.skip("not possible here: " + "; ".join(pod.notes))
        a = python(
            pod,
            "a",
            """
            try:
                open("/dev/shm/file", "wb").write(bytes(2 << 20))
            except OSError as error:
                say(error.errno)
            """,
        )
        assert say(a) == 28  # ENOSPC


def test_loopback_is_shared_within_and_closed_without(pod: namespaces.Pod) -> None:
    server = python(
        pod,
        "server",
        """
        listener = socket.create_server(("127.0.0.1", 0))
        say(listener.getsockname()[1])
        connection, _ = listener.accept()
        connection.sendall(b"from the other container")
        hear()
        """,
    )
    port = say(server)
    client = f"""
        say(socket.create_connection(("127.0.0.1", {port})).recv(100).decode())
        try:
            socket.create_server(("127.0.0.1", {port}))
        except OSError as error:
            say(error.errno)
    """
    b = python(pod, "client", client)
    assert say(b) == "from the other container"
    assert say(b) == 98  # EADDRINUSE: one port space
    import socket

    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_two_pods_have_nothing_in_common(pod: namespaces.Pod) -> None:
    with namespaces.Pod("other") as other:
        seen, seen_there = say(python(pod, "a", LOOK)), say(python(other, "a", LOOK))
    for own in ("pid", "mnt", "uts", "net", "ipc"):
        assert seen["ns"][own] != seen_there["ns"][own]


def host_mounts() -> list[str]:
    """The mounts of the host but for those that other tests may make meanwhile."""
    lines = Path("/proc/self/mounts").read_text().splitlines()
    others = ("/containers/", "/netns/", "podipc-test-")
    return [line for line in lines if not any(other in line for other in others)]


def test_mounts_stay_inside(pod: namespaces.Pod) -> None:
    before = host_mounts()
    a = python(pod, "a", "say([line.split()[3:6] for line in open('/proc/self/mountinfo')])")
    mounts = say(a)
    assert ["/", "/dev/shm"] in [mount[:2] for mount in mounts]
    assert host_mounts() == before


# Starting


def test_cpus_umask_directory_environment(pod: namespaces.Pod, tmp_path: Path) -> None:
    cpu = max(os.sched_getaffinity(0))
    a = python(
        pod,
        "a",
        "say([sorted(os.sched_getaffinity(0)), os.umask(0), os.getcwd(), os.environ['X']])",
        cpus={cpu},
        umask=0o077,
        cwd=tmp_path,
        env={"X": "y z"},
    )
    assert say(a) == [[cpu], 0o077, str(tmp_path), "y z"]
    b = python(pod, "b", "say([sorted(os.sched_getaffinity(0)), os.getcwd()])")
    assert say(b) == [sorted(os.sched_getaffinity(0)), os.getcwd()]


def test_signals_are_as_for_any_new_program(pod: namespaces.Pod) -> None:
    code = "say([l for l in open('/proc/self/status') if l[:6] in ('SigBlk', 'SigIgn')])"
    (_, blocked), (_, ignored) = (line.split() for line in say(python(pod, "a", code)))
    assert int(blocked, 16) == 0
    # Python itself ignores SIGPIPE and SIGXFSZ.
    assert int(ignored, 16) & ~(1 << signal.SIGPIPE - 1 | 1 << signal.SIGXFSZ - 1) == 0


def test_streams(pod: namespaces.Pod, tmp_path: Path) -> None:
    shell = ["sh", "-c", "cat; echo error >&2"]
    both = pod.start("both", shell, stdin=DEVNULL, stdout=PIPE, stderr=STDOUT)
    assert both.stdout
    assert both.stdout.read() == b"error\n"
    apart = pod.start("apart", shell, stdin=PIPE, stdout=PIPE, stderr=PIPE)
    assert apart.stdin
    assert apart.stdout
    assert apart.stderr
    apart.stdin.write(b"input")
    apart.stdin.close()
    assert (apart.stdout.read(), apart.stderr.read()) == (b"input", b"error\n")
    with (tmp_path / "out").open("wb") as out:
        pod.start("file", shell, stdin=DEVNULL, stdout=out, stderr=out.fileno()).wait(PATIENCE)
    assert (tmp_path / "out").read_bytes() == b"error\n"


def test_much_of_everything(pod: namespaces.Pod) -> None:
    argument, value = "a" * 100_000, "v" * 100_000
    a = pod.start(
        "a", ["sh", "-c", 'echo "${#1} ${#V}"', "sh", argument], env={"V": value}, stdout=PIPE
    )
    assert a.stdout
    assert a.stdout.read() == b"100000 100000\n"


# What can be wrong


def start_error(pod: namespaces.Pod, command: list[str], **options: Any) -> podipc.PodipcError:
    with pytest.raises(podipc.PodipcError) as caught:
        pod.start("failing", command, **options)
    assert "failing" in str(caught.value)
    return caught.value


@pytest.fixture(params=[True, False], ids=["isolated", "plain"])
def any_pod(request: pytest.FixtureRequest) -> Iterator[namespaces.Pod]:
    with namespaces.Pod("test", isolate=request.param) as made:
        yield made


def test_command_not_found(any_pod: namespaces.Pod) -> None:
    error = start_error(any_pod, ["no-such-program"], env={"PATH": "/nowhere:/sbin"})
    assert isinstance(error, CommandNotFound)
    assert isinstance(error, FileNotFoundError)
    assert "'no-such-program'" in str(error)
    assert "'/nowhere:/sbin'" in str(error)
    assert isinstance(start_error(any_pod, ["/nowhere/program"]), CommandNotFound)


def test_interpreter_not_found(any_pod: namespaces.Pod, tmp_path: Path) -> None:
    script = tmp_path / "script"
    script.write_text("#!/nowhere/interpreter\n")
    script.chmod(0o755)
    error = start_error(any_pod, [str(script)])
    assert isinstance(error, CommandNotFound)
    assert "is there, but not what is to run it" in str(error)


def test_not_executable(any_pod: namespaces.Pod) -> None:
    error = start_error(any_pod, ["/etc/passwd"])
    assert isinstance(error, podipc.NotPermitted)
    assert "'/etc/passwd'" in str(error)
    assert error.call == "execve"


def test_no_such_directory(any_pod: namespaces.Pod) -> None:
    error = start_error(any_pod, ["true"], cwd="/nowhere")
    assert isinstance(error, FileNotFoundError)
    assert "cannot enter '/nowhere'" in str(error)
    assert error.call == "chdir"


def test_no_such_cpu(any_pod: namespaces.Pod) -> None:
    error = start_error(any_pod, ["true"], cpus={0, 8000})
    assert isinstance(error, podipc.SystemCallError)
    assert error.call == "sched_setaffinity"
    with pytest.raises(ValueError, match="0 to 8191"):
        any_pod.start("failing", ["true"], cpus={8192})


def test_too_much_to_pass(any_pod: namespaces.Pod) -> None:
    assert "too long" in str(start_error(any_pod, ["true", "x" * (1 << 20)]))
    with contextlib.ExitStack() as stack:
        fds = [os.open(os.devnull, os.O_RDONLY) for _ in range(250)]
        for fd in fds:
            stack.callback(os.close, fd)
        assert "at most 240 descriptors" in str(start_error(any_pod, ["true"], pass_fds=fds))


def test_a_failed_start_leaves_the_pod_usable(any_pod: namespaces.Pod) -> None:
    descriptors = sorted(os.listdir("/proc/self/fd"))
    for _ in range(10):
        start_error(any_pod, ["no-such-program"], stdin=PIPE, stdout=PIPE)
    assert any_pod.start("failing", ["true"]).wait(PATIENCE) == 0
    assert sorted(os.listdir("/proc/self/fd")) == descriptors


@pytest.mark.parametrize("name", ["", "A", "a_b", "-a", "a-", "a" * 64, "a\0", "ä", "a\n"])
def test_invalid_names(any_pod: namespaces.Pod, name: str) -> None:
    with pytest.raises(InvalidName, match="at most 63"):
        any_pod.start(name, ["true"])
    with pytest.raises(InvalidName):
        namespaces.Pod(name)


def test_wrong_arguments(any_pod: namespaces.Pod) -> None:
    with pytest.raises(ValueError, match="empty"):
        any_pod.start("a", [])
    with pytest.raises(ValueError, match="null"):
        any_pod.start("a", ["true", "\0"])
    with pytest.raises(ValueError, match="stderr only"):
        any_pod.start("a", ["true"], stdout=STDOUT)
    with pytest.raises(ValueError, match="shm_bytes"):
        namespaces.Pod(shm_bytes=0)


def test_a_name_is_taken_while_it_runs(any_pod: namespaces.Pod) -> None:
    a = any_pod.start("a", ["sleep", "1000"])
    with pytest.raises(NameTaken, match="'a'"):
        any_pod.start("a", ["true"])
    a.kill()
    a.wait(PATIENCE)
    assert any_pod.start("a", ["true"]).wait(PATIENCE) == 0


def test_a_closed_pod_starts_nothing() -> None:
    pod = namespaces.Pod("test")
    pod.close()
    pod.close()
    with pytest.raises(podipc.Closed):
        pod.start("a", ["true"])


def test_a_forked_child_cannot_use_it_nor_end_it(any_pod: namespaces.Pod) -> None:
    a = any_pod.start("a", ["sleep", "1000"])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            any_pod.start("b", ["true"])
        except podipc.ForkedHandle:
            any_pod.close()
            code = 0
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert a.poll() is None


# Ending


def test_exit_codes(any_pod: namespaces.Pod) -> None:
    assert any_pod.start("a", ["sh", "-c", "exit 7"]).wait(PATIENCE) == 7
    a = any_pod.start("b", ["sleep", "1000"])
    assert a.poll() is None
    assert a.returncode is None
    with pytest.raises(podipc.Timeout, match="'b' still runs"):
        a.wait(0.01)
    with pytest.raises(podipc.SystemCallError, match="Invalid argument"):
        a.send_signal(1000)
    a.kill()
    assert a.wait(PATIENCE) == a.poll() == a.returncode == -signal.SIGKILL
    a.kill()
    a.terminate()


def test_pid_1_gets_only_the_signals_it_handles(pod: namespaces.Pod) -> None:
    deaf = pod.start("deaf", ["sleep", "1000"])
    deaf.terminate()
    with pytest.raises(podipc.Timeout):
        deaf.wait(0.2)
    hears = python(
        pod, "hears", "signal.signal(signal.SIGTERM, lambda *_: sys.exit(5)); say(1); hear()"
    )
    say(hears)
    hears.terminate()
    assert hears.wait(PATIENCE) == 5


def test_stop_waits_for_one_that_hears_and_for_no_other(pod: namespaces.Pod) -> None:
    code = """
        def end(*_):
            import time
            time.sleep(0.5)
            sys.exit(5)
        signal.signal(signal.SIGTERM, end)
        say(1)
        hear()
    """
    hears, deaf = python(pod, "hears", code), pod.start("deaf", ["sleep", "1000"])
    say(hears)
    namespaces.stop_all([hears, deaf], grace=PATIENCE)
    assert (hears.returncode, deaf.returncode) == (5, -signal.SIGKILL)


def test_stop_kills_after_the_grace(pod: namespaces.Pod) -> None:
    stubborn = python(
        pod, "a", "signal.signal(signal.SIGTERM, lambda *_: None); say(1)\nwhile True: hear()"
    )
    say(stubborn)
    assert stubborn.stop(grace=0.2) == -signal.SIGKILL


def test_a_plain_process_ends_by_term() -> None:
    with namespaces.Pod("test", isolate=False) as pod:
        assert pod.start("a", ["sleep", "1000"]).stop(PATIENCE) == -signal.SIGTERM


def test_all_of_a_container_ends_with_its_main_process(any_pod: namespaces.Pod) -> None:
    marker = unique_name("marker")
    a = any_pod.start(
        "a",
        ["sh", "-c", "sleep 1000 & sleep 1000 & echo; exec sleep 1000"],
        env={"MARKER": marker},
        stdout=PIPE,
    )
    assert a.stdout
    a.stdout.readline()
    eventually(lambda: len(processes_with(marker)) == 3, "three processes")
    a.kill()
    a.wait(PATIENCE)
    eventually(lambda: not processes_with(marker), "the others are gone as well")


def test_one_is_killed_and_started_again_while_the_other_goes_on(pod: namespaces.Pod) -> None:
    name = unique_name("file")
    count = "\nfor i in range(1000): say(i); hear()"
    other = python(pod, "other", f"open('/dev/shm/{name}', 'w').write('kept')" + count)
    assert say(other) == 0
    seen = []
    for _ in range(3):
        a = python(pod, "a", f"say(open('/dev/shm/{name}').read())" + textwrap.dedent(LOOK))
        assert say(a) == "kept"
        seen.append(say(a)["ns"])
        a.kill()
        assert a.wait(PATIENCE) == -signal.SIGKILL
        a.close()
        go_on(other)
        assert say(other) > 0
    assert len({ns["net"] for ns in seen}) == 1


def test_many_containers_one_after_the_other(any_pod: namespaces.Pod) -> None:
    descriptors = sorted(os.listdir("/proc/self/fd"))
    infra = f"/proc/{any_pod._infra.pid}/fd"
    before = len(os.listdir(infra))
    for i in range(300):
        assert any_pod.start("a", ["sh", "-c", f"exit {i % 256}"]).wait(PATIENCE) == i % 256
    assert sorted(os.listdir("/proc/self/fd")) == descriptors
    eventually(lambda: len(os.listdir(infra)) == before, "the infra process has let go of all")


def test_threads_start_containers_at_once(any_pod: namespaces.Pod) -> None:
    codes: dict[int, int] = {}

    def run(i: int) -> None:
        codes[i] = any_pod.start(f"c{i}", ["sh", "-c", f"exit {i}"]).wait(PATIENCE)

    threads = [threading.Thread(target=run, args=(i,)) for i in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert codes == {i: i for i in range(16)}


def test_infra_keeps_nothing_of_the_parents_memory(any_pod: namespaces.Pod) -> None:
    import mmap

    with mmap.mmap(-1, 64 << 20) as shared, namespaces.Pod("second", isolate=False) as second:
        shared[0] = 1
        private = bytearray(os.urandom(1 << 20) * 64)
        with namespaces.Pod("third", isolate=any_pod.isolation["pid"]) as third:
            for pod in (second, third):
                status = Path(f"/proc/{pod._infra.pid}/status").read_text()
                (size,) = (line.split()[1] for line in status.splitlines() if "VmRSS" in line)
                assert int(size) < 16 << 10, "KiB"
        assert len(private) == 64 << 20


def test_what_the_pod_dies_of_is_seen(any_pod: namespaces.Pod) -> None:
    a = any_pod.start("a", ["sleep", "1000"])
    os.kill(any_pod._infra.pid, signal.SIGKILL)
    assert a.wait(PATIENCE) == -signal.SIGKILL
    with pytest.raises(podipc.Closed, match="'b'"):
        any_pod.start("b", ["true"])


# The parent dies


PARENT = """
    import os, signal, sys, threading, time
    from podipc.pod.local import namespaces
    pod = namespaces.Pod("test", isolate=sys.argv[1] == "isolated")
    # Containers with children of their own, one of which left its session.
    for name in ("a", "b"):
        pod.start(name, ["sh", "-c", "sleep 1000 & setsid sleep 1000 & exec sleep 1000"])
    forked = 0
    {before}
    print(pod._infra.pid, forked, flush=True)
    {then}
"""
FORK = """
forked = os.fork()
if not forked:
    os.execvp("sleep", ["sleep", "1000"])
"""
FORK_AND_KEEP = """
forked = os.fork()
if not forked:
    time.sleep(1000)
"""
OTHER_THREAD = """
thread = threading.Thread(target=lambda: pod.start("c", ["sleep", "1000"]))
thread.start()
thread.join()
"""


def parent(how: str, before: str, then: str, marker: str) -> subprocess.Popen[str]:
    code = textwrap.dedent(PARENT).format(before=before, then=then)
    return subprocess.Popen(
        [sys.executable, "-c", code, how],
        env={**os.environ, "PYTHONPATH": str(ROOT), "MARKER": marker},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


@pytest.mark.parametrize("how", ["isolated", "plain"])
@pytest.mark.parametrize(
    ("before", "then", "number"),
    [
        ("", "time.sleep(1000)", signal.SIGKILL),
        ("", "time.sleep(1000)", signal.SIGTERM),
        ("", "time.sleep(1000)", signal.SIGINT),
        ("", "with pod: time.sleep(1000)", signal.SIGINT),
        # A forked child lives on, with copies of the parent's descriptors.
        (FORK, "time.sleep(1000)", signal.SIGKILL),
        (FORK_AND_KEEP, "time.sleep(1000)", signal.SIGKILL),
        # The thread that started a container ends before the process does.
        (OTHER_THREAD, "time.sleep(1000)", signal.SIGKILL),
        ("", "os._exit(0)", None),
        ("", "os.execvp('true', ['true'])", None),
    ],
    ids=["KILL", "TERM", "INT", "INT-with", "fork-exec", "fork", "thread", "exit", "exec"],
)
def test_a_dying_parent_takes_all_of_the_pod_down(
    how: str, before: str, then: str, number: int | None
) -> None:
    marker = unique_name("marker")
    mounts = host_mounts()
    with parent(how, before, then, marker) as process:
        assert process.stdout
        infra, forked = map(int, process.stdout.readline().split())
        expected = 8 + bool(forked) + (before == OTHER_THREAD)
        if number is not None:
            eventually(lambda: len(processes_with(marker)) == expected, "all of it runs")
            assert infra in processes_with(marker)
            process.send_signal(number)
        process.wait(PATIENCE)
        eventually(lambda: set(processes_with(marker)) <= {forked}, "no process is left")
        eventually(lambda: zombie(infra), "nor the infra process")
        if forked:
            assert not zombie(forked)
            os.kill(forked, signal.SIGKILL)
    assert host_mounts() == mounts


def zombie(pid: int) -> bool:
    """Whether it has ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True


def test_an_unclosed_pod_is_closed_and_warned_of() -> None:
    pod = namespaces.Pod("test")
    a = pod.start("a", ["sleep", "1000"])
    with pytest.warns(ResourceWarning, match="'test' was not closed"):
        del pod
    assert a.wait(PATIENCE) == -signal.SIGKILL


def test_ctrl_c_ends_a_wait(pod: namespaces.Pod) -> None:
    a = pod.start("a", ["sleep", "1000"])
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        a.wait(PATIENCE)
    timer.join()
    assert a.poll() is None


# Who may do what


def test_plain_processes_on_request() -> None:
    with namespaces.Pod("test", isolate=False) as pod:
        assert not any(pod.isolation.values())
        assert pod.notes == ["plain processes of the host, nothing is isolated: as asked for"]
        seen = say(python(pod, "a", LOOK, env={"HOSTNAME": ""}))
        assert seen["ns"] == {n: host(n) for n in NAMESPACES}
        assert seen["pid"] == pod.containers["a"].pid


@pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root")
def test_root_chooses_who_a_container_runs_as(any_pod: namespaces.Pod) -> None:
    def who(name: str, **ids: Any) -> str:
        container = any_pod.start(
            name, ["sh", "-c", 'echo "$(id -u) $(id -g) $(id -G)"'], stdout=PIPE, **ids
        )
        assert container.stdout
        return container.stdout.read().decode().strip()

    assert who("a", uid=1001, gid=1002, groups=[2000, 2001]) == "1001 1002 1002 2000 2001"
    assert who("b", uid=1001) == "1001 0 0"
    assert who("c", gid=1002) == "0 1002 1002"
    assert any_pod.notes == [] or not any_pod.isolation["pid"]
    if any_pod.isolation["pid"]:
        shared = unique_name("file")
        any_pod.start("d", ["touch", f"/dev/shm/{shared}"], uid=1001, gid=1001).wait(PATIENCE)
        stat = any_pod.start("e", ["stat", "-c", "%u", f"/dev/shm/{shared}"], stdout=PIPE)
        assert stat.stdout
        assert stat.stdout.read() == b"1001\n"


# Everything is imported before the privileges go: the interpreter may be where
# only root can read. Without the prctl, /proc/self would stay root's.
AS_USER = """
    import ctypes, json, os, sys
    from podipc.pod.local import namespaces
    import encodings.idna
    {before}
    with namespaces.Pod("test") as pod:
        look = "echo $$ $(hostname) $(id -u) $(readlink /proc/self/ns/net) "
        look += "$(df -k /dev/shm | tail -1)"
        lines = []
        for name, uid in (("a", None), ("b", 0)):
            container = pod.start(
                name, ["/bin/sh", "-c", look], stdout=namespaces.PIPE, cwd="/", uid=uid,
                env={{"PATH": "/usr/bin:/bin"}},
            )
            lines.append(container.stdout.read().decode().split())
            container.wait(60)
        print(json.dumps([pod.isolation, pod.notes, lines]))
"""
BECOME_1001 = """
    os.chdir("/")
    os.setgroups([]); os.setresgid(1001, 1001, 1001); os.setresuid(1001, 1001, 1001)
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""


def as_user(before: str = "", wrapper: tuple[str, ...] = ()) -> tuple[Any, list[str], list[Any]]:
    code = textwrap.dedent(AS_USER).format(before=textwrap.dedent(before))
    done = subprocess.run(
        [*wrapper, sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    isolation, notes, lines = json.loads(done.stdout)
    return isolation, notes, lines


def test_as_an_ordinary_user() -> None:
    uid = "1001" if os.geteuid() == 0 else str(os.geteuid())
    isolation, notes, lines = as_user(BECOME_1001 if os.geteuid() == 0 else "")
    if not isolation["user"]:
        assert notes
        pytest.skip("not possible here: " + "; ".join(notes))
    assert all(isolation.values())
    for name, line in zip("ab", lines, strict=True):
        assert line[:3] == ["1", name, uid]
        assert line[3] != host("net")
        assert line[5] == str(SHM >> 10)
    assert lines[0][3] == lines[1][3]
    assert notes == [
        f"container 'b' runs as UID {uid}, GID {uid}, not as UID 0, GID {uid}: "
        "an ordinary user cannot become another; run as root"
    ]


# Limits on namespaces belong to a user namespace: a program in one of its own
# can be given a host that refuses.
REFUSE = """
    import ctypes, os, sys
    libc = ctypes.CDLL(None, use_errno=True)
    uid, gid = os.geteuid(), os.getegid()
    if libc.unshare(0x10000000):
        sys.exit(77)
    open("/proc/self/setgroups", "w").write("deny")
    open("/proc/self/uid_map", "w").write(f"{sys.argv[1]} {uid} 1")
    open("/proc/self/gid_map", "w").write(f"{sys.argv[1]} {gid} 1")
    for kind in sys.argv[2].split(","):
        open(f"/proc/sys/user/max_{kind}_namespaces", "w").write("0")
    os.execv(sys.argv[3], sys.argv[3:])
"""


def refusing(kinds: str, uid: int) -> tuple[str, ...]:
    wrapper = (sys.executable, "-c", textwrap.dedent(REFUSE), str(uid), kinds)
    if subprocess.run([*wrapper, "/bin/true"], check=False).returncode == 77:
        pytest.skip("not possible here: no user namespaces, as whose root to refuse others")
    return wrapper


def test_user_namespaces_refused() -> None:
    isolation, notes, lines = as_user(wrapper=refusing("user", uid=1001))
    assert not any(isolation.values())
    assert notes[0].startswith(PLAIN + "user namespaces are refused: No space left on device")
    assert "user.max_user_namespaces" in notes[0]
    assert len(notes) == 2, "the other is about the UID"
    assert lines[0][1] == os.uname().nodename
    assert lines[0][3] == host("net")


def test_one_kind_refused() -> None:
    for uid in (0, 1001):
        isolation, notes, lines = as_user(wrapper=refusing("net", uid))
        expected = {part: part != "net" for part in isolation} | {"user": uid == 1001}
        assert isolation == expected
        assert notes[0].startswith("no network namespace: 127.0.0.1 and its ports are those of")
        assert "user.max_net_namespaces" in notes[0]
        assert lines[0][0] == "1"
        assert lines[0][3] == host("net")


def test_pid_namespaces_refused() -> None:
    for uid in (0, 1001):
        isolation, notes, lines = as_user(wrapper=refusing("pid", uid))
        made = {"mount", "net", "ipc", "uts", "shm"} | ({"user"} if uid == 1001 else set())
        assert {part for part, done in isolation.items() if done} == made
        assert notes[0].startswith("no PID namespace")
        assert lines[0][0] != "1"
        assert lines[0][3] != host("net")


@pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root")
def test_a_user_namespace_that_cannot_be_used_is_left_again() -> None:
    """The mapping is refused where /proc/self is not one's own, as after a change of user."""
    isolation, notes, lines = as_user(BECOME_1001.replace("prctl(4, 1", "prctl(4, 0"))
    assert not any(isolation.values())
    what = "setgroups could not be given up in the user namespace: Permission denied"
    assert notes[0] == PLAIN + what
    assert lines[0][2:4] == ["1001", host("net")]


# What Docker's default profile does for a container without CAP_SYS_ADMIN.
SECCOMP = """
    import ctypes, os, struct, sys
    clone, unshare = {"x86_64": (56, 272), "aarch64": (220, 97)}.get(os.uname().machine, (0, 0))
    if not clone:
        sys.exit(77)
    LOAD, EQUAL, ANY, RETURN = 0x20, 0x15, 0x45, 0x06
    EPERM, ALLOW, NEW = 0x00050001, 0x7FFF0000, 0x7E020000
    program = [
        (LOAD, 0, 0, 0), (EQUAL, 4, 0, unshare), (EQUAL, 0, 2, clone), (LOAD, 0, 0, 16),
        (ANY, 1, 0, NEW), (RETURN, 0, 0, ALLOW), (RETURN, 0, 0, EPERM),
    ]
    code = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *row) for row in program))
    head = struct.pack("HxxxxxxQ", len(program), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(38, 1, 0, 0, 0) or libc.prctl(22, 2, head, 0, 0):
        sys.exit(77)
    os.execv(sys.argv[1], sys.argv[1:])
"""


def test_seccomp_refuses() -> None:
    wrapper = (sys.executable, "-c", textwrap.dedent(SECCOMP))
    if subprocess.run([*wrapper, "/bin/true"], check=False).returncode == 77:
        pytest.skip("not possible here: no seccomp filter")
    isolation, notes, lines = as_user(wrapper=wrapper)
    assert not any(isolation.values())
    assert notes[0].startswith(PLAIN)
    assert "perhaps by the seccomp profile" in notes[0]
    assert lines[0][3] == host("net")


def test_start_up_is_quick_enough_to_notice_if_it_were_not() -> None:
    """No speed is asserted but one that only a hidden wait could miss."""
    start = time.monotonic()
    with namespaces.Pod("test") as pod:
        pod.start("a", ["sleep", "1000"])
        pod.start("b", ["sleep", "1000"])
    assert time.monotonic() - start < 10


def test_a_pod_that_could_not_be_made_has_nothing_to_close(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(namespaces, "Infra", interrupted)
    with pytest.raises(KeyboardInterrupt):
        namespaces.Pod("a")
    gc.collect()  # what its finaliser raises is a warning, and so an error
