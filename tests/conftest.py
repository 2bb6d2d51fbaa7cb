"""What holds for every test: a place of its own, nothing left behind, no quiet skip."""

import contextlib
import ctypes
import gc
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import support
from support import SESSION, Child, unique_name

# Examples share the place of their test, and no example is too slow on a busy machine.
hypothesis.settings.register_profile(
    "podipc",
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=[
        hypothesis.HealthCheck.function_scoped_fixture,
        hypothesis.HealthCheck.too_slow,
    ],
)
hypothesis.settings.load_profile("podipc")

# A shell's background job ignores SIGINT, and so would every child: then no test could send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

SHM = Path("/dev/shm")
POSSIBLE_SKIP = "not possible here:"
_PR_SET_CHILD_SUBREAPER = 36


def pytest_configure(config: pytest.Config) -> None:
    # Orphans of a child then come to this process, where the leak check sees them.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    config.pluginmanager.register(_NoQuietSkips(), "podipc-no-quiet-skips")


class _NoQuietSkips:
    """In CI a skip is a failure, unless its reason says that CI cannot have it."""

    def __init__(self) -> None:
        self.quiet: list[str] = []

    def _look_at(self, report: pytest.TestReport | pytest.CollectReport) -> None:
        if os.environ.get("CI") != "true" or not report.skipped or hasattr(report, "wasxfail"):
            return
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        reason = reason.removeprefix("Skipped: ")
        if not reason.startswith(POSSIBLE_SKIP):
            self.quiet.append(f"{report.nodeid}: {reason}")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self._look_at(report)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        self._look_at(report)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session, exitstatus: int) -> None:
        if self.quiet and exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        if not self.quiet:
            return
        terminalreporter.section("skipped, but CI should have been able to run it", red=True)
        for line in self.quiet:
            terminalreporter.line(line)
        terminalreporter.line(f"(a reason that starts with {POSSIBLE_SKIP!r} is accepted)")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


_PASSED = pytest.StashKey[bool]()


def _entries() -> set[str]:
    """What is in /dev/shm of ours; all of it where nobody else is at work here."""
    alone = os.environ.get("CI") == "true" and "PYTEST_XDIST_WORKER" not in os.environ
    # Podman keeps its locks there.
    names = [name for name in os.listdir(SHM) if not name.startswith("libpod_")]
    return {name for name in names if SESSION in name or alone}


def _children() -> dict[int, str]:
    """PID and command of every living child; those that have ended are reaped."""
    living = {}
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text().split()
        except OSError:
            continue
        for pid in pids:
            try:
                command = Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if state == "Z":
                os.waitpid(int(pid), os.WNOHANG)
            else:
                living[int(pid)] = command[:200]
    return living


def _kernel_objects() -> list[str]:
    """What podipc opens: memfds, sockets, inotify and the like, open or mapped."""
    found = []
    for target in support.open_files():
        if target.startswith(("/memfd:", "socket:", "anon_inode:")) or SESSION in target:
            found.append(target.partition("[")[0].partition(":[")[0])
    for line in Path("/proc/self/maps").read_text().splitlines():
        path = line.split(maxsplit=5)[5:]
        if path and ("memfd:podipc" in path[0] or SESSION in path[0]):
            found.append(f"mapping of {path[0]}")
    return sorted(found)


@pytest.fixture(autouse=True)
def podipc_dir(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A rendezvous directory of its own, and the check that the test leaves nothing."""
    entries, children = _entries(), _children()
    # A module may keep channels and children over its tests, which then grow.
    kept = getattr(request.module, "KEEPS_CHANNELS", False)
    objects = None if kept else _kernel_objects()
    base = SHM / unique_name("dir")
    base.mkdir(mode=0o755)
    monkeypatch.setenv("PODIPC_DIR", str(base / "channels"))
    before = len(support.killed)
    yield base / "channels"
    # Closed handles are freed only when nobody refers to them any more.
    request.node.funcargs.clear()
    if len(support.killed) > before:
        _sweep(base / "channels")
    left = _left_behind(base, entries, children, objects)
    # What a peer leaves goes when its control thread or the kernel gets round to it.
    deadline = time.monotonic() + float(os.environ.get("PODIPC_TEST_GRACE", "5"))
    while left and time.monotonic() < deadline:
        gc.collect()
        time.sleep(0.02)
        left = _left_behind(base, entries, children, objects)
    shutil.rmtree(base, ignore_errors=True)
    if left and request.node.stash.get(_PASSED, False):
        pytest.fail("left behind: " + "; ".join(left), pytrace=False)


def _sweep(place: Path) -> None:
    """Who was killed could not clear up; the next endpoint of that channel does it."""
    import podipc

    for socket in list(place.glob("*/*")):
        if socket.parent.is_dir():
            podipc.receiver(socket.parent.name).close()


def _left_behind(
    base: Path, entries: set[str], children: dict[int, str], objects: list[str] | None
) -> list[str]:
    left = [f"/dev/shm/{name}" for name in _entries() - entries - {base.name}]
    # Of another UID's empty directory only that UID could clear /dev/shm.
    try:
        left += [
            str(path)
            for path in base.rglob("*")
            if path.is_file() or path.is_socket() or path.stat().st_uid == os.geteuid()
        ]
    except FileNotFoundError:  # it has just gone: look again
        left.append(f"{base}, which changed while it was looked at")
    if objects is None:
        return left
    left += [f"process {pid} ({cmd})" for pid, cmd in _children().items() if pid not in children]
    now = _kernel_objects()
    for known in objects:
        if known in now:
            now.remove(known)
    return left + now


@pytest.fixture
def spawn() -> Iterator[Callable[..., Child]]:
    """Start children (see `support.Child`); what still runs at the end is killed.

    What has ended by itself, unseen by the test, has ended in order.
    """
    started: list[Child] = []

    def start(*args: object, **kwargs: object) -> Child:
        child = Child(*args, **kwargs)  # type: ignore[arg-type]
        started.append(child)
        return child

    yield start
    with contextlib.ExitStack() as stack:
        for child in started:
            stack.push(child)
        # All before the first is killed, of which another may die.
        for child in started:
            child.check_end()
