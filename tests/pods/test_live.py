"""Code runs in containers and keeps its variables; containers say what they use and are."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import (
    PATIENCE,
    ROOT,
    eventually,
    said_by_ordinary_user,
    took_at_most,
    unique_name,
)

import podipc
from podipc.pod import up
from podipc.pod.errors import (
    CommandNotFound,
    ContainerDied,
    PodError,
    RemoteError,
    SessionDied,
    ValueStayed,
)
from podipc.pod.runtime import Container, Pod

RUNTIMES = ["local", pytest.param("podman", marks=pytest.mark.podman)]
"""All in which the tests run that depend on what the runtime does."""
IMAGE = "localhost/podipc:latest"
is_root = os.geteuid() == 0

Start = Callable[..., Pod]


everywhere = pytest.mark.parametrize("runtime", RUNTIMES, indirect=True)


@pytest.fixture
def runtime(request: pytest.FixtureRequest) -> str:
    name = str(getattr(request, "param", "local"))
    if name == "local":
        from podipc.pod.local import namespaces

        with namespaces.Pod() as pod:
            if not pod.isolation["mount"] or not pod.isolation["pid"]:
                pytest.skip("not possible here: " + "; ".join(pod.notes))
    return name


def document(*names: str, command: list[str] | None = None, **fields: Any) -> dict[str, Any]:
    """A Pod of containers that do nothing; `fields` are those of each of them."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": unique_name("live").replace("_", "-").lower()},
        "spec": {
            "restartPolicy": "Always",
            "terminationGracePeriodSeconds": 1,
            "volumes": [{"name": "v", "emptyDir": {"medium": "Memory", "sizeLimit": "4Mi"}}],
            "containers": [
                {
                    "name": name,
                    "image": IMAGE,
                    "command": command or ["sleep", "1000"],
                    "volumeMounts": [{"name": "v", "mountPath": f"/of-{name}"}],
                    **fields,
                }
                for name in names
            ],
        },
    }


@pytest.fixture
def start(runtime: str) -> Iterator[Start]:
    with contextlib.ExitStack() as stack:
        yield lambda *names, **fields: stack.enter_context(
            up(document(*(names or ("a",)), **fields), runtime, backoff=0.1)
        )


@pytest.fixture
def a(start: Start) -> Container:
    return start()["a"]


def processes(container: Container) -> list[str]:
    """The commands that run in a container, the one that looks apart."""
    code = (
        "import os\n"
        "for p in filter(str.isdigit, os.listdir('/proc')):\n"
        "  if int(p) != os.getpid(): print(open(f'/proc/{p}/cmdline').read().split('\\0')[0])"
    )
    from podipc.pod.runtime import PIPE

    with contextlib.closing(container.exec(["python3", "-c", code], stdout=PIPE)) as looks:
        assert looks.stdout
        said = looks.stdout.read().decode()
        looks.wait(PATIENCE)
    return sorted(said.split("\n")[:-1])


class Heard(list[tuple[str, str]]):
    """What a listener was told."""

    def __call__(self, stream: str, text: str) -> None:
        self.append((stream, text))

    def of(self, stream: str) -> str:
        return "".join(text for name, text in self if name == stream)


# Values


@everywhere
def test_variables_imports_and_functions_live_on(a: Container) -> None:
    first = a.run("import math\nx = 2\ndef f(y):\n    return math.sqrt(x * y)")
    assert first.fresh
    assert (first.value, first.text, first.error) == (None, "", None)
    second = a.run("f(8)")
    assert not second.fresh
    assert second.unwrap() == 4.0
    assert second.text == "4.0"
    assert a.run("__name__").unwrap() == "__main__"


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        -(1 << 80),
        0.1,
        float("inf"),
        "\u00e9 \ud800",
        [],
        (),
        {},
        [1, (2, [3.0, None]), {"k": ("v",), 4: {}}],
    ],
    ids=repr,
)
def test_json_values_go_there_and_come_back(a: Container, value: object) -> None:
    got = a.run("x", variables={"x": value}).unwrap()
    assert got == value
    assert type(got) is type(value)


@everywhere
def test_arrays_go_there_and_come_back(a: Container) -> None:
    arrays = [
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6).reshape(2, 3)),
        np.array(3, "u2"),
        np.zeros((0, 4), "c8"),
        np.arange(10, dtype=">i4")[::-2],
        np.array(["a", "bcd"]),
        np.array(["2026-01-01"], "M8[D]"),
        np.array([(1, 2.5)], [("x", "i4"), ("y", "f8")]),
    ]
    got = a.run("x, x[0] * 2", variables={"x": arrays}).unwrap()
    for sent, came in zip(arrays, got[0], strict=True):
        np.testing.assert_array_equal(sent, came)
        assert came.dtype == sent.dtype
        assert came.flags.writeable
    assert got[0][1].flags.f_contiguous
    np.testing.assert_array_equal(got[1], arrays[0] * 2)
    scalar = a.run("numpy.float32(2.5)", variables={}).error
    assert scalar is not None
    assert scalar.name == "NameError"
    scalar = a.run("import numpy\nnumpy.float32(2.5)").unwrap()
    assert type(scalar) is np.float32


def test_values_that_do_not_travel_are_shown(a: Container) -> None:
    result = a.run("class C:\n    def __repr__(self): return 'a C'\n[C()]")
    assert (result.value, result.text) == (None, "[a C]")
    assert "C" in result.reason
    assert result.check() is result
    with pytest.raises(ValueStayed, match=r"does not travel.*a C"):
        result.unwrap()
    import_numpy = "import numpy as np\n"
    objects = a.run(import_numpy + "np.array([1, None])")
    assert "dtype object" in objects.reason
    loop = a.run("x = []; x.append(x); x")
    assert "deeper" in loop.reason
    broken = a.run("class D:\n    def __repr__(self): raise ValueError('no')\nD()")
    assert "repr() failed: ValueError: no" in broken.text


def test_large_values_are_refused_with_the_bound(a: Container) -> None:
    large = a.run("import numpy as np\nnp.empty(300 << 20, 'u1')")
    assert "314572800 bytes" in large.reason
    text = a.run("'x' * (17 << 20)")
    assert "too large" in text.reason
    assert len(text.text) < 200_000
    assert a.run("1").unwrap() == 1


@pytest.mark.parametrize(
    ("name", "value", "error"),
    [
        ("x", object(), TypeError),
        ("x", np.array([None]), TypeError),
        ("not a name", 1, ValueError),
    ],
)
def test_variables_that_cannot_be_sent(
    a: Container, name: str, value: object, error: type[Exception]
) -> None:
    with pytest.raises(error, match=name):
        a.run("1", variables={name: value})
    assert a.run("1").unwrap() == 1


# Errors


def test_an_exception_has_its_traceback_with_source(a: Container) -> None:
    a.run("def f(x):\n    return 1 / x", name="<cell one>")
    result = a.run("y = 1\nf(0)")
    assert result.error is not None
    assert (result.error.name, result.error.message) == ("ZeroDivisionError", "division by zero")
    lines = result.error.traceback.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[1].startswith('  File "<a:1>", line 2, in <module>')
    assert lines[2] == "    f(0)"
    assert lines[3] == '  File "<cell one>", line 2, in f'
    assert lines[4] == "    return 1 / x"
    assert lines[-1] == "ZeroDivisionError: division by zero"
    with pytest.raises(RemoteError, match="in container 'a': ZeroDivisionError"):
        result.unwrap()
    assert a.run("y").unwrap() == 1


def test_wrong_code_has_no_effect(a: Container) -> None:
    result = a.run("z = 1\nz +")
    assert result.error is not None
    assert result.error.name == "SyntaxError"
    assert "z +" in result.error.traceback
    assert a.run("'z' in globals()").unwrap() is False


def test_sys_exit_ends_the_code_and_not_the_session(a: Container) -> None:
    result = a.run("x = 1\nimport sys\nsys.exit(3)")
    assert result.error is not None
    assert (result.error.name, result.error.message) == ("SystemExit", "3")
    assert a.run("x").unwrap() == 1


@pytest.mark.parametrize(
    ("code", "returncode", "says"),
    [
        ("os._exit(3)", 3, "exit code 3"),
        ("os.kill(os.getpid(), 9)", -9, "signal 9.*want of memory"),
        ("import ctypes; ctypes.string_at(0)", -11, "signal 11(.|\n)*Segmentation fault"),
    ],
)
def test_when_the_session_dies(a: Container, code: str, returncode: int, says: str) -> None:
    with pytest.raises(SessionDied, match=says) as caught:
        a.run(f"import os\nprint('before')\n{code}")
    assert not isinstance(caught.value, ContainerDied)
    assert caught.value.returncode in (returncode, 128 - returncode)
    assert caught.value.stdout == "before\n"
    after = a.run("'os' in globals()")
    assert after.fresh
    assert after.unwrap() is False


def test_a_session_that_sends_something_else_is_ended(a: Container) -> None:
    with pytest.raises(PodError, match="cannot be read"):
        a.run(
            "import os, time\n"
            "for fd in range(3, 20):\n"
            "  try: os.write(fd, b'x' * 100)\n"
            "  except OSError: pass\n"
            "time.sleep(1000)"
        )
    assert a.run("1").fresh
    assert len(processes(a)) == 2


@everywhere
def test_when_the_container_dies(start: Start) -> None:
    pod = start(command=["sh", "-c", "echo one; echo last words; sleep 1000"])
    a = pod["a"]
    a.run("x = 1")
    timer = threading.Timer(0.3, a.kill)
    timer.start()
    with pytest.raises(ContainerDied, match=r"signal 9.*last words(.|\n)*one") as caught:
        a.run("import time\ntime.sleep(1000)")
    timer.join()
    assert caught.value.returncode in (-9, 137)
    eventually(lambda: a.state == "running", "it was started again")
    result = a.run("'x' in globals()")
    assert result.fresh
    assert result.unwrap() is False


def test_closed_descriptors_cost_nothing(a: Container) -> None:
    code = """
import os, time
os.close(1)
os.close(2)
before = time.process_time()
time.sleep(1)
print("still")
time.process_time() - before
"""
    result = a.run(code)
    assert result.stdout == "still\n"
    assert result.unwrap() < 0.3


def test_a_session_that_cannot_be_killed_is_over_for_who_waits(
    a: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    a.run("pass").unwrap()
    session = a._live._session
    assert session is not None

    def refuse() -> None:
        raise podipc.NotPermitted("not for you")

    monkeypatch.setattr(session._program, "kill", refuse)
    code = (
        "import os\n"
        "for fd in range(3, 20):\n"
        "  try: os.write(fd, b'x' * 100)\n"
        "  except OSError: pass"
    )
    with took_at_most(PATIENCE), pytest.raises(PodError, match="cannot be read"):
        a.run(code, timeout=PATIENCE)


@everywhere
def test_a_restarted_container_has_a_fresh_session(a: Container) -> None:
    a.run("x = 1")
    running = a.background("import time\ntime.sleep(1000)")
    a.restart(PATIENCE)
    result = a.run("'x' in globals()")
    assert result.fresh
    assert result.unwrap() is False
    with pytest.raises(SessionDied):
        running.wait(PATIENCE)


@everywhere
def test_a_container_that_has_ended_says_how(start: Start, runtime: str) -> None:
    manifest = document("a", "b", command=["sleep", "1000"])
    manifest["spec"]["restartPolicy"] = "Never"
    manifest["spec"]["containers"][0]["command"] = ["sh", "-c", "echo bye; exit 3"]
    with up(manifest, runtime) as pod:
        pod["a"].wait(PATIENCE)
        with pytest.raises(ContainerDied, match=r"exit code 3.*bye") as caught:
            pod["a"].run("1")
        assert caught.value.returncode == 3
        assert pod["b"].run("1").unwrap() == 1
        assert list(pod.facts().containers) == ["b"]


@everywhere
def test_no_python_in_the_container(start: Start, runtime: str) -> None:
    env = [{"name": "PATH", "value": "/nowhere"}]
    a = start(command=["/bin/sleep", "1000"], env=env)["a"]
    with pytest.raises(CommandNotFound, match="'a' has no python3"):
        a.run("1")


# Output


def test_a_python_that_does_not_come_up_is_not_waited_for_longer(
    start: Start, tmp_path: Path
) -> None:
    (tmp_path / "python3").write_text("#!/bin/sh\nexec sleep 1000\n")
    (tmp_path / "python3").chmod(0o755)
    path = {"name": "PATH", "value": f"{tmp_path}:{os.environ['PATH']}"}
    a = start(env=[path])["a"]
    with took_at_most(20), pytest.raises(podipc.Timeout, match="Python did not come up in it"):
        a.run("1", timeout=0.3)


@everywhere
def test_output_in_order_and_kept_apart(a: Container) -> None:
    heard = Heard()
    result = a.run(
        "import os, subprocess, sys\n"
        "print('1 python')\n"
        "os.write(1, b'2 descriptor\\n')\n"
        "print('3 error', file=sys.stderr)\n"
        "subprocess.run(['echo', '4 child'])\n"
        "print('5 end', end='')\n"
        "os.system('echo 6 shell >&2')\n"
        "sys.stdout.buffer.write('7 \u00e9\\n'.encode())",
        on_output=heard,
    )
    assert result.stdout == "1 python\n2 descriptor\n4 child\n5 end7 \u00e9\n"
    assert result.stderr == "3 error\n6 shell\n"
    assert heard.of("stdout") == result.stdout
    assert heard.of("stderr") == result.stderr
    assert re.findall(r"\d", "".join(text for _, text in heard)) == list("1234567")


def test_output_streams_while_the_code_runs(a: Container) -> None:
    a.run("import threading, time\ngo = threading.Event()")
    seen = threading.Event()

    def listen(stream: str, text: str) -> None:
        if "half a li" in text:
            seen.set()

    def release() -> None:
        assert seen.wait(PATIENCE)
        a.background("go.set()")

    thread = threading.Thread(target=release)
    thread.start()
    assert a.run("print('half a li', end='')\ngo.wait()", on_output=listen).unwrap() is True
    thread.join()


def test_much_output_is_bounded_and_counted(a: Container) -> None:
    line = 1 << 20
    lengths: list[int] = []
    result = a.run(
        f"for i in range(100): print(chr(97 + i % 26) * {line - 1})",
        on_output=lambda stream, text: lengths.append(len(text)),
    )
    assert sum(lengths) == 100 * line
    assert len(result.stdout) + result.dropped == 100 * line
    assert len(result.stdout) == 10 * line
    assert result.stdout.endswith("v" * (line - 1) + "\n")


def test_a_slow_listener_holds_the_code_back_and_not_the_questions(a: Container) -> None:
    ahead: list[float] = []

    def listen(stream: str, text: str) -> None:
        if not ahead:
            time.sleep(0.3)
            ahead.append(a.stats().cpu or 0)

    a.run("import sys", on_output=listen)
    result = a.run("for i in range(30): print('x' * 999_999)", on_output=listen)
    assert result.error is None
    assert ahead
    assert result.dropped + len(result.stdout) == 30_000_000


def test_a_listener_that_raises_interrupts_the_code(a: Container) -> None:
    def listen(stream: str, text: str) -> None:
        raise ValueError("enough")

    with pytest.raises(ValueError, match="enough"):
        a.run("while True: print('x' * 100_000)", on_output=listen)
    assert a.run("1", timeout=PATIENCE).unwrap() == 1


def test_output_of_threads_after_the_code_has_ended(a: Container) -> None:
    a.run(
        "import threading\ngo = threading.Event(); done = threading.Event()\n"
        "def late():\n    go.wait(); print('late'); done.set()\n"
        "threading.Thread(target=late).start()"
    )
    # It belongs to whoever runs when it comes.
    assert a.run("go.set(); done.wait()").stdout == "late\n"
    a.run(
        "import time\ngone = threading.Event()\n"
        "def later():\n    gone.wait(); time.sleep(0.2); print('unheard'); "
        "gone.clear()\nthreading.Thread(target=later).start(); gone.set()"
    )
    session = a._live._session
    assert session is not None
    eventually(lambda: session.dropped == len("unheard\n"), "it is counted")


def test_forked_children_print_like_any_child(a: Container) -> None:
    result = a.run(
        "import os, sys\nprint('parent')\npid = os.fork()\n"
        "if pid == 0:\n    print('child'); sys.exit(5)\n"
        "os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])"
    )
    assert result.unwrap() == 5
    assert result.stdout == "parent\nchild\n"
    other = a.run(
        "import multiprocessing as m\n"
        "with m.get_context('fork').Pool(2) as pool: x = pool.map(abs, [-1, -2])\nx"
    )
    assert other.unwrap() == [1, 2]


# Interrupts

ENDLESS = {
    "sleep": "time.sleep(1000)",
    "busy": "while True: pass",
    "lock": "threading.Lock().acquire() and threading.Event().wait()",
    "pipe": "os.read(os.pipe()[0], 1)",
    "child": "subprocess.run(['sleep', '1000'])",
    "shell": "os.system('sleep 1000; true')\ntime.sleep(1000)",
    "printing": "while True: print('x' * 1000)",
    "event loop": "asyncio.run(asyncio.sleep(1000))",
}
IMPORTS = "import asyncio, os, subprocess, threading, time\nx = 1\n"


@pytest.mark.parametrize("what", ENDLESS)
def test_interrupt(a: Container, what: str) -> None:
    heard = Heard()
    timer = threading.Timer(0.4, a.interrupt)
    a.run(IMPORTS)
    timer.start()
    with took_at_most(10):
        result = a.run(f"print('begins')\n{ENDLESS[what]}", on_output=heard)
    timer.join()
    assert result.error is not None
    assert result.error.name == "KeyboardInterrupt", result.error
    assert result.stdout.startswith("begins\n") or result.dropped
    assert a.run("x").unwrap() == 1
    assert processes(a).count("sleep") == 1


def test_an_interrupt_while_nothing_runs_is_not_for_what_runs_next(a: Container) -> None:
    a.interrupt()
    a.run("x = 1")
    for _ in range(200):
        a.interrupt()
        assert a.run("x").unwrap() == 1


@everywhere
def test_timeout_interrupts_and_says_where(a: Container) -> None:
    a.run("1")
    with pytest.raises(podipc.Timeout, match=r"0\.2 s; it was interrupted here(.|\n)*line 3"):
        a.run("x = 1\nimport time\ntime.sleep(1000)", timeout=0.2)
    assert a.run("x").unwrap() == 1


def test_timeout_of_code_that_prints_without_end(a: Container) -> None:
    heard = Heard()
    with pytest.raises(podipc.Timeout, match="interrupted"):
        a.run("while True: print('x' * 1000)", timeout=0.3, on_output=heard)
    assert heard
    assert a.run("1", timeout=PATIENCE).unwrap() == 1


def test_code_that_swallows_interrupts_ends_with_the_session(
    a: Container, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("podipc.pod.live._SETTLE", 0.3)
    a.run("import time")
    with pytest.raises(podipc.Timeout, match=r"end_session\(\)"):
        a.run(
            "while True:\n  try: time.sleep(1000)\n  except KeyboardInterrupt: pass",
            timeout=1,
        )
    with pytest.raises(podipc.Timeout, match="other code runs"):
        a.run("1", timeout=0.1)
    a.end_session()
    assert a.run("1").fresh


CTRL_C = """
import os, signal, sys, threading, podipc.pod
with podipc.pod.up(sys.argv[1], {runtime!r}) as pod:
    a = pod["a"]
    a.run("x = 1")
    threading.Timer(0.4, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        a.run("import time\\ntry: time.sleep(1000)\\nexcept BaseException as e: x = repr(e); raise")
    except KeyboardInterrupt:
        print("interrupted", a.run("x").unwrap())
"""


def test_ctrl_c_here_interrupts_there(runtime: str, tmp_path: Path) -> None:
    ran = child(CTRL_C.format(runtime=runtime), tmp_path)
    assert ran.communicate(timeout=PATIENCE)[0] == "interrupted KeyboardInterrupt()\n"


def child(code: str, folder: Path) -> "subprocess.Popen[str]":
    file = folder / "pod.json"
    file.write_text(json.dumps(document("a")))
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code), str(file)],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        text=True,
    )


# Several at a time


@everywhere
def test_background_and_foreground_share_variables(a: Container) -> None:
    heard = Heard()
    a.run("import time\nn = 0\ngoes_on = True")
    producer = a.background(
        "while goes_on:\n    n += 1; print('producer', n); time.sleep(0.01)\n'made', n",
        on_output=heard,
    )
    other = a.background("while goes_on: time.sleep(0.01)\nprint('other')")
    foreground = a.run("while n < 5: time.sleep(0.01)\nprint('consumer')\nn")
    assert foreground.unwrap() >= 5
    assert foreground.stdout == "consumer\n"
    assert not producer.done
    with pytest.raises(podipc.Timeout):
        producer.wait(0.05)
    a.run("goes_on = False")
    result = producer.wait(PATIENCE)
    made, number = result.unwrap()
    assert made == "made"
    assert result.stdout == "".join(f"producer {i + 1}\n" for i in range(number))
    assert producer.done
    assert other.wait(PATIENCE).stdout == "other\n"
    assert other.stdout == "other\n"
    eventually(lambda: heard.of("stdout") == result.stdout, "the listener has had it all")


def test_what_threads_of_the_background_print_is_its_own(a: Container) -> None:
    a.run("import threading\ngo = threading.Event(); end = threading.Event()")
    running = a.background(
        "from concurrent.futures import ThreadPoolExecutor\n"
        "def work(i): go.wait(); print('worker\\n', end='')\n"
        "with ThreadPoolExecutor(3) as pool: list(pool.map(work, range(3)))\nend.set()"
    )
    assert a.run("print('x'); go.set(); end.wait()").stdout == "x\n"
    assert running.wait(PATIENCE).stdout == "worker\n" * 3


def test_interrupt_of_the_background(a: Container) -> None:
    running = a.background("import time\nx = 0\nwhile True: x += 1; time.sleep(0.001); print(x)")
    eventually(lambda: running.stdout, "it runs")
    running.interrupt()
    result = running.wait(PATIENCE)
    assert result.error is not None
    assert result.error.name == "KeyboardInterrupt"
    running.interrupt()
    lines = result.stdout.splitlines()
    assert lines == [str(i + 1) for i in range(len(lines))]


def test_threads_here_take_turns(a: Container) -> None:
    a.run("import time\nbusy = False")
    code = "assert not busy; busy = True; time.sleep(0.02); busy = False; print(i)"
    results: list[Any] = []

    def run(i: int) -> None:
        results.append((i, a.run(code, variables={"i": i})))

    threads = [threading.Thread(target=run, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(PATIENCE)
    assert sorted(i for i, _ in results) == list(range(8))
    for _, result in results:
        assert result.error is None
        assert len(result.stdout.split()) == 1


# What a container says of itself


@everywhere
def test_stats_follow_what_the_container_does(start: Start) -> None:
    pod = start("a", "b")
    a, b = pod["a"], pod["b"]
    a.run("1")
    before, other = a.stats(), b.stats()
    assert before.memory is not None
    assert before.cpu is not None
    assert before.memory_limit is None or before.memory_of == "cgroup"
    a.run("held = bytearray(b'x') * (50 << 20)")
    burning = a.background("import time\nend = time.process_time() + 0.5\n"
                           "while time.process_time() < end: pass")  # fmt: skip
    burning.wait(PATIENCE)
    after, other_after = a.stats(), b.stats()
    # A cgroup is charged in batches of pages for each CPU, and what `before` counted may be gone.
    assert 45 << 20 <= (after.memory or 0) - before.memory < 90 << 20
    assert 0.4 <= (after.cpu or 0) - before.cpu < 5
    assert abs((other_after.memory or 0) - (other.memory or 0)) < 20 << 20
    assert (other_after.cpu or 0) - (other.cpu or 0) < 0.4
    assert after.time > before.time
    assert (after.processes or 0) >= 2
    assert "a: " in str(after)


def test_stats_while_code_runs(a: Container) -> None:
    a.run("import time")
    running = a.background("while True: time.sleep(0.01)")
    times = [a.stats().time for _ in range(20)]
    assert times == sorted(times)
    running.interrupt()
    running.wait(PATIENCE)


@everywhere
@pytest.mark.skipif(not is_root, reason="not possible here: needs root")
def test_stats_of_a_container_with_limits(start: Start) -> None:
    a = start(resources={"limits": {"memory": "300Mi", "cpu": "700m"}})["a"]
    stats = a.stats()
    facts = a._pod.facts().containers["a"]
    if "not enforced" in " ".join(a._pod.notes):
        pytest.skip("not possible here: " + "; ".join(a._pod.notes))
    assert stats.memory_limit == 300 << 20
    assert stats.cpu_limit == 0.7
    assert (facts.memory, facts.cpus) == (300 << 20, 0.7)
    assert stats.memory_of == "cgroup"
    a.run("held = bytearray(b'x') * (50 << 20)")
    after = a.stats()
    assert 50 << 20 <= (after.memory or 0) < 200 << 20
    assert 50 << 20 <= (after.memory_charged or 0) <= 300 << 20
    assert after.memory_peak is None or after.memory_peak >= 50 << 20


@everywhere
def test_facts_say_what_is_shared(start: Start) -> None:
    pod = start("a", "b")
    facts = pod.facts()
    shared = facts.shared()
    for name in ("net", "ipc"):
        assert shared.namespaces[name] is True
        assert name in shared.matrix["a", "b"]
    for name in ("mnt", "pid"):
        assert shared.namespaces[name] is False
        assert name not in shared.matrix["a", "b"]
        assert name in shared.matrix["a", "a"]
    assert shared.shm is True
    assert [("a", "/of-a"), ("b", "/of-b")] in shared.volumes
    a = facts.containers["a"]
    assert "127.0.0.1" in a.addresses
    assert a.shm is not None
    assert a.shm.fstype == "tmpfs"
    assert a.python.count(".") >= 1
    assert a.main.startswith("sleep")
    assert a.umask is not None
    text = str(facts)
    assert max(map(len, text.splitlines())) <= 80
    for word in ("ipc", "private", "shared", "/of-b", "UID"):
        assert word in text
    assert json.loads(facts.to_json())["shared"]["namespaces"]["net"] is True


# The end


@everywhere
def test_nothing_is_left_when_the_session_ends(a: Container) -> None:
    before = processes(a)
    a.run("import subprocess\np = [subprocess.Popen(['sleep', '999']) for _ in range(2)]")
    a.run("subprocess.run(['sh', '-c', 'trap \"\" TERM; setsid sleep 998 & exit'])")
    a.run("import atexit, pathlib\natexit.register(lambda: pathlib.Path('/of-a/bye').touch())")
    assert processes(a) != before
    a.end_session()
    assert processes(a) == before
    assert a.run("__import__('os').listdir('/of-a')").unwrap() == ["bye"]
    a.end_session()
    a.end_session()


def test_a_session_ends_while_code_runs(a: Container) -> None:
    before = processes(a)
    running = a.background("import time\nwhile True: time.sleep(0.1)")
    began = threading.Event()
    caught: list[BaseException] = []

    def run() -> None:
        try:
            a.run("print()\nwhile True: pass", on_output=lambda stream, text: began.set())
        except podipc.PodipcError as error:
            caught.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert began.wait(PATIENCE)
    a.end_session()
    thread.join(PATIENCE)
    assert [type(error) for error in caught] == [podipc.Closed]
    with pytest.raises(podipc.Closed):
        running.wait(PATIENCE)
    assert processes(a) == before


KILLED = """
import os, signal, sys, podipc.pod
with podipc.pod.up(sys.argv[1], {runtime!r}) as pod:
    a = pod["a"]
    a.background("while True: pass")
    print(a.run("import os; os.stat('/proc/self/ns/pid').st_ino").unwrap(), flush=True)
    a.run("while True: pass")
"""


def of_namespace(number: int) -> list[str]:
    """The PIDs of the host in a PID namespace."""
    found = []
    for path in Path("/proc").glob("[0-9]*/ns/pid"):
        with contextlib.suppress(OSError):
            if path.stat().st_ino == number:
                found.append(path.parts[2])
    return found


@everywhere
def test_nothing_is_left_when_we_are_killed(runtime: str, tmp_path: Path) -> None:
    process = child(KILLED.format(runtime=runtime), tmp_path)
    assert process.stdout
    with process:
        number = int(process.stdout.readline())
        assert len(of_namespace(number)) >= 2
        process.send_signal(signal.SIGKILL)
        process.wait(PATIENCE)
    eventually(lambda: not of_namespace(number), "all of the container is gone")


# An ordinary user

AS_USER = """
import os, sys
import encodings.idna, podipc.pod.local.pod, podipc.pod.manifest, podipc.pod.facts_table
become()
with podipc.pod.up(sys.argv[1], "local") as pod:
    a = pod["a"]
    assert a.run("import os; os.getuid()").unwrap() == os.getuid()
    assert a.run("x * 2", variables={"x": [0, (1,)]}).unwrap() == [0, (1,)] * 2
    try:
        a.run("while True: pass", timeout=0.3)
    except podipc.Timeout:
        print(a.stats().memory_of, pod.facts().shared().namespaces["user"])
"""


def test_as_an_ordinary_user() -> None:
    assert said_by_ordinary_user(AS_USER, json.dumps(document("a"))) == "processes True\n"
