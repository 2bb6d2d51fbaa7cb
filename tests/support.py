"""Real child processes for the tests: start, talk to, wait for, kill.

A child runs a function of ``peers.py`` or a piece of code. It talks in lines:
``say(value)`` there is ``child.hear()`` here, ``child.tell(value)`` here is
``hear()`` there. Every wait is bounded by `PATIENCE`, which is generous: it is
there to end a run that hangs, not to measure.
"""

import contextlib
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

TESTS = Path(__file__).parent
ROOT = TESTS.parent
PATIENCE = 60.0
SESSION = f"podipc-test-{os.getpid():07}"
"""Everything a test creates in a place that others use too has this in its name.

As many digits in every run: else that of one could be the beginning of another's.
"""

killed: list[int] = []
"""Every child that got a SIGKILL; what it leaves is for the next endpoint to clear."""

_numbers = iter(range(1, 1_000_000))


def unique_name(what: str = "x") -> str:
    """A name nobody else has: neither another test nor another run on this machine."""
    return f"{SESSION}-{next(_numbers)}-{what}"


def c_compiler() -> str:
    """The program; without it podipc could not have been built either."""
    found = shutil.which("gcc") or shutil.which("cc")
    assert found, "a C compiler is needed, as to build podipc"
    return found


def open_files() -> Iterator[str]:
    """What each descriptor of this process is open for."""
    for fd in os.listdir("/proc/self/fd"):
        try:
            yield os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # that of the listing
            continue


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on now."""
    import socket

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return int(s.getsockname()[1])


def eventually(condition: Callable[[], Any], what: str, patience: float = PATIENCE) -> Any:
    """The first true value of `condition`; AssertionError if there never is one."""
    deadline = time.monotonic() + patience
    while True:
        if value := condition():
            return value
        assert time.monotonic() < deadline, f"still not so after {patience} s: {what}"
        time.sleep(0.005)


@contextlib.contextmanager
def memory_limit(limit: int) -> Iterator[Path]:
    """A cgroup (v1 or v2) below ours with that limit: the file to write a PID to."""
    import pytest

    groups = dict(
        line.split(":", 2)[1:] for line in Path("/proc/self/cgroup").read_text().splitlines()
    )
    if "memory" in groups:
        parent = Path("/sys/fs/cgroup/memory" + groups["memory"])
        limit_file = "memory.limit_in_bytes"
    else:
        parent = Path("/sys/fs/cgroup" + groups.get("", "/"))
        limit_file = "memory.max"
    group = parent / f"podipc-test-{uuid.uuid4().hex}"
    try:
        group.mkdir()
    except OSError as e:
        pytest.skip(f"not possible here: no control group can be made ({e})")
    try:
        try:
            (group / limit_file).write_text(str(limit))
        except OSError as e:
            pytest.skip(f"not possible here: no memory limit can be set ({e})")
        yield group / "cgroup.procs"
    finally:
        eventually(lambda: not (group / "cgroup.procs").read_text(), "the group is empty", 10)
        group.rmdir()


@contextlib.contextmanager
def took_at_most(seconds: float) -> Iterator[None]:
    """The block ends in time. For promises about waits, with room for a busy machine."""
    start = time.monotonic()
    yield
    took = time.monotonic() - start
    assert took <= seconds, f"took {took:.3f} s, more than {seconds} s"


def send_signal(process: subprocess.Popen[Any], number: int) -> None:
    """Send it; a SIGSTOP has stopped every thread when this returns."""

    def states() -> set[str]:
        tasks = Path(f"/proc/{process.pid}/task").iterdir()
        return {(t / "stat").read_text().rpartition(")")[2].split()[0] for t in tasks}

    process.send_signal(number)
    if number == signal.SIGSTOP:
        eventually(lambda: states() <= {"T"}, "it is stopped")


class Failed(Exception):
    """An agent met an exception: its class by name, and its text."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(f"{name}: {text}")
        self.name = name
        self.text = text


class Child:
    """A Python process that runs ``peers.FUNCTION(*args)`` or `code`."""

    def __init__(
        self,
        what: str | Callable[..., object],
        *args: object,
        env: dict[str, str] | None = None,
        uid: int | None = None,
        gid: int | None = None,
        wrapper: tuple[str, ...] = (),
    ) -> None:
        if callable(what):
            run = f"import peers\npeers.{what.__name__}(*json.loads(sys.argv[1]))"
        else:
            run = f"import podipc\nfrom podipc import *\nargs = json.loads(sys.argv[1])\n{what}"
        prelude = (
            f"import sys, json, os, time\nsys.path[:0] = [{str(ROOT)!r}, {str(TESTS)!r}]\n"
            "import numpy as np\nfrom support import say, hear, become\n"
        )
        if uid is not None:
            prelude += f"become({uid}, {uid if gid is None else gid})\n"
        self._checked = False  # how it ended
        self._expected = 0
        self._errors = tempfile.TemporaryFile("w+")  # noqa: SIM115  (closed by __exit__)
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-X", "faulthandler", "-c", prelude + run, json.dumps(args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env={**os.environ, **(env or {})},
        )
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout
        for line in self.process.stdout:
            self._lines.put(line)
        self._lines.put(None)

    @property
    def pid(self) -> int:
        return self.process.pid

    def errors(self) -> str:
        """What it wrote to stderr so far."""
        self._errors.seek(0)
        return self._errors.read()

    def hear(self, patience: float = PATIENCE) -> Any:
        """The next value it says."""
        try:
            line = self._lines.get(timeout=patience)
        except queue.Empty:
            raise AssertionError(
                f"the child said nothing for {patience} s\n{self.errors()}"
            ) from None
        if line is None:
            self.process.wait(PATIENCE)
            self._checked = True
            raise AssertionError(
                f"the child ended with {self.process.returncode} without a word\n{self.errors()}"
            )
        try:
            return json.loads(line)
        except ValueError:
            raise AssertionError(f"the child printed {line!r}\n{self.errors()}") from None

    def expect(self, value: object, patience: float = PATIENCE) -> None:
        """The next value it says is this one."""
        heard = self.hear(patience)
        assert heard == value, f"the child said {heard!r}, not {value!r}\n{self.errors()}"

    def silent(self, seconds: float) -> bool:
        """Whether it says nothing for that long. A value that it says is lost."""
        try:
            self._lines.get(timeout=seconds)
        except queue.Empty:
            return True
        return False

    def tell(self, value: object) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(value) + "\n")
        self.process.stdin.flush()

    def start(self, *words: object) -> None:
        """Tell an agent what to do; its answer is still to be heard."""
        self.tell(words)

    def answer(self, patience: float = PATIENCE) -> Any:
        """What an agent answers; `Failed` if it met an exception."""
        answer = self.hear(patience)
        if "error" in answer:
            raise Failed(answer["error"], answer["text"])
        return answer["ok"]

    def do(self, *words: object) -> Any:
        """Tell an agent what to do and wait for its answer."""
        self.start(*words)
        return self.answer()

    def signal(self, number: int) -> None:
        """Send it; a SIGSTOP has stopped every thread when this returns."""
        if number == signal.SIGKILL:
            self._expected = -number
        send_signal(self.process, number)

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone; it has not ended before."""
        self._kill()
        self._check(-signal.SIGKILL)

    def _kill(self) -> None:
        killed.append(self.pid)
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE)

    def _check(self, status: int) -> None:
        self._checked = True
        assert self.process.returncode == status, (
            f"the child ended with {self.process.returncode}, not {status}\n{self.errors()}"
        )

    def check_end(self) -> None:
        """If it has ended, and nobody has looked how: in order, or by our SIGKILL."""
        if self.process.poll() is not None and not self._checked:
            self._check(self._expected)

    def end(self, status: int = 0) -> None:
        """It ends by itself, with that exit status."""
        assert self.process.stdin
        with contextlib.suppress(BrokenPipeError):
            self.process.stdin.close()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the child does not end\n{self.errors()}") from None
        self._check(status)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self.process.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)
            self._kill()
        self._reader.join(PATIENCE)
        for stream in (self.process.stdin, self.process.stdout, self._errors):
            if stream:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


def become(uid: int, gid: int) -> None:
    """In a child of root: another user, who may not even read where Python is installed."""
    import ctypes

    import podipc.tensors  # noqa: F401

    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)
    # As after an exec: otherwise /proc/self would belong to root.
    pr_set_dumpable = 4
    ctypes.CDLL(None).prctl(pr_set_dumpable, 1, 0, 0, 0)


_BECOME = """
def become():
    import ctypes, os
    os.chdir("/")
    if os.geteuid() == 0:
        os.setgroups([]); os.setresgid(1001, 1001, 1001); os.setresuid(1001, 1001, 1001)
        ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)
"""


@contextlib.contextmanager
def ordinary_user(code: str, manifest: str) -> Iterator[subprocess.Popen[str]]:
    """A child with `code`, which calls ``become()`` after its imports; argv[1] is the manifest."""
    # Where another user may read it.
    file = Path("/dev/shm", unique_name("pod.json"))
    file.write_text(manifest)
    file.chmod(0o644)
    try:
        with subprocess.Popen(
            [sys.executable, "-c", _BECOME + code, str(file)],
            env={**os.environ, "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                yield process
            finally:
                process.kill()
    finally:
        file.unlink()


def said_by_ordinary_user(code: str, manifest: str) -> str:
    """What `code` prints; see `ordinary_user`."""
    import pytest

    with ordinary_user(code, manifest) as process:
        out, err = process.communicate(timeout=PATIENCE)
    if "user namespaces are refused" in err:
        pytest.skip("not possible here: " + err.splitlines()[-1])
    assert process.returncode == 0, err
    return out


def say(value: object) -> None:
    """In a child: a line for the test."""
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


def hear() -> Any:
    """In a child: the next value the test tells; ends the child when the test is gone."""
    line = sys.stdin.readline()
    if not line:
        raise SystemExit(0)
    return json.loads(line)
