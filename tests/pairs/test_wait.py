"""`podipc wait`: for every kind of address, with a real receiver that starts later."""

import contextlib
import http.server
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, Child, eventually, free_port, took_at_most, unique_name

import podipc
from podipc.address import parse
from podipc.waiting import Watch, wait

Spawn = Callable[..., Child]
METHODS = ("shm", "shm-dir", "tcp", "unix", "fifo", "file", "http")
RECEIVE = """
import podipc
rx = podipc.receiver(args[0])
say("open")
hear()
try:
    x = rx.recv(timeout=20)
    say([int(x[0]), rx.stats()])
    del x
finally:
    rx.close()
"""


def address_of(method: str, tmp_path: Path) -> str:
    port = free_port()
    return {
        "shm": f"shm://{unique_name('wait')}",
        "shm-dir": f"shm://{tmp_path}/channel",
        "tcp": f"tcp://127.0.0.1:{port}",
        "unix": f"unix://{tmp_path}/{'long' * 18}.sock",
        "fifo": f"fifo://{tmp_path}/x.fifo",
        "file": f"file://{tmp_path}/frames",
        "http": f"http://127.0.0.1:{port}/frames",
    }[method]


@pytest.fixture
def waiting() -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    started: list[subprocess.Popen[str]] = []

    def start(*words: str, **env: str) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-m", "podipc", "wait", *words],
            env={**os.environ, "PYTHONPATH": str(ROOT), **env},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ended(process: "subprocess.Popen[str]", code: int) -> str:
    """What it said, where it says such things."""
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, (out, err)
    said, silent = (out, err) if code == 0 else (err, out)
    assert silent == ""
    return said


@pytest.mark.parametrize("method", METHODS)
def test_until_the_receiver_is_there(
    method: str, tmp_path: Path, spawn: Spawn, waiting: Callable[..., "subprocess.Popen[str]"]
) -> None:
    address = address_of(method, tmp_path)
    process = waiting(address, "--timeout", str(PATIENCE))
    time.sleep(0.3)
    assert process.poll() is None
    receiver = spawn(RECEIVE, address)
    receiver.expect("open")
    said = ended(process, 0)
    assert said.startswith(f"{address}: ")
    assert said.endswith(" s)\n")
    # It was not taken for a sender: what counts is the first who really is one.
    for _ in range(20):
        assert wait(parse(address), timeout=PATIENCE).there
    receiver.tell("receive")
    time.sleep(0.1)
    with podipc.sender(address) as tx:
        tx.send(podipc_array(7), timeout=PATIENCE)
    value, stats = receiver.hear()
    assert value == 7
    assert (stats["messages"], stats["peers_died"]) == (1, 0)
    receiver.end()


def podipc_array(value: int) -> object:
    import numpy as np

    return np.full(4, value)


@pytest.mark.parametrize("method", METHODS)
def test_a_receiver_that_was_killed_is_not_there(method: str, tmp_path: Path, spawn: Spawn) -> None:
    address = parse(address_of(method, tmp_path))
    receiver = spawn(RECEIVE, address.text)
    receiver.expect("open")
    assert wait(address, timeout=0).there
    receiver.kill()
    watch = Watch(address)
    # The kernel takes its time to close what it had.
    sight = eventually(lambda: next((s for s in [watch.look()] if not s.there), None), "seen dead")
    what = {
        "shm": "what 1 dead left",
        "shm-dir": "what 1 dead left",
        "file": "what 1 dead left",
        "unix": "was left by a receiver that is dead",
        "fifo": "nobody has",
    }
    assert what.get(method, "nobody listens at") in sight.text
    # The next one clears up, and is seen at once.
    again = spawn(RECEIVE, address.text)
    again.expect("open")
    assert wait(address, timeout=PATIENCE).there
    again.tell("receive")
    with podipc.sender(address.text) as tx:
        tx.send(podipc_array(8), timeout=PATIENCE)
    assert again.hear()[0] == 8
    again.end()


@pytest.mark.parametrize("method", METHODS)
def test_nobody_comes(method: str, tmp_path: Path) -> None:
    address = parse(address_of(method, tmp_path))
    before = sorted(tmp_path.rglob("*"))
    with took_at_most(2):
        sight = wait(address, timeout=0.2)
    assert not sight.there
    assert sight.text
    assert sorted(tmp_path.rglob("*")) == before


def test_an_idle_wait_costs_next_to_nothing(tmp_path: Path) -> None:
    """Looking as seldom as it does, it cannot burn a processor."""
    for method in ("shm", "tcp"):
        address = parse(address_of(method, tmp_path))
        began = time.process_time()
        wait(address, timeout=0.8)
        assert time.process_time() - began < 0.4, method


@pytest.mark.parametrize("method", ["shm", "file"])
def test_for_a_sender(method: str, tmp_path: Path) -> None:
    address = parse(address_of(method, tmp_path))
    with podipc.sender(address.text) as tx:
        assert not wait(address, timeout=0).there
        assert "1 sender, no receivers" in wait(address, timeout=0).text
        assert wait(address, "sender", timeout=0).there
        assert wait(address, "any", timeout=0).there
        assert tx.stats()["peers"] == tx.stats()["peers_died"] == 0
    assert not wait(address, "any", timeout=0).there


def test_a_sender_that_cannot_be_seen() -> None:
    with pytest.raises(ValueError, match="cannot be seen before it sends"):
        wait(parse("tcp://127.0.0.1:1"), "sender", timeout=0)


def test_a_receiver_does_not_spin_after_a_look_at_its_fifo(tmp_path: Path, spawn: Spawn) -> None:
    address = address_of("fifo", tmp_path)
    receiver = spawn(
        "rx = podipc.receiver(args[0])\nsay('open')\n"
        "began = time.process_time()\n"
        "try:\n    rx.recv(timeout=1.5)\nexcept podipc.Timeout:\n    pass\n"
        "say(time.process_time() - began)\nrx.close()",
        address,
    )
    receiver.expect("open")
    time.sleep(0.2)
    assert wait(parse(address), timeout=0).there
    assert receiver.hear() < 0.75
    receiver.end()


CODES = {"/healthz": 200, "/moved": 302, "/log": 405, "/broken": 500}


class Agent(http.server.BaseHTTPRequestHandler):
    """Neither podipc nor quick."""

    def do_GET(self) -> None:
        if self.path == "/slow":
            time.sleep(1.0)
        self.server.seen.append(self.headers["Host"])  # type: ignore[attr-defined]
        self.send_response(CODES.get(self.path, 404))
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"ok\n")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def agent() -> Iterator[http.server.ThreadingHTTPServer]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Agent) as server:
        server.seen = []  # type: ignore[attr-defined]
        server.complaints = []  # type: ignore[attr-defined]
        server.handle_error = lambda *a: server.complaints.append(a)  # type: ignore
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("path", "there", "text"),
    [
        ("/healthz", True, "answers with status 200"),
        ("/moved", True, "answers with status 302"),
        ("/log", True, "answers with status 405"),
        ("/log/healthz", False, "answers with status 404"),
        ("/broken", False, "answers with status 500"),
    ],
)
def test_an_agent_that_is_no_receiver(
    agent: http.server.ThreadingHTTPServer, path: str, there: bool, text: str
) -> None:
    port = agent.server_port
    sight = wait(parse(f"http://localhost:{port}{path}"), timeout=0)
    assert (sight.there, text in sight.text) == (there, True), sight
    assert agent.seen == [f"127.0.0.1:{port}"]  # type: ignore[attr-defined]
    assert agent.complaints == []  # type: ignore[attr-defined]


def test_an_agent_that_is_slow(agent: http.server.ThreadingHTTPServer) -> None:
    with took_at_most(0.9):
        sight = wait(parse(f"http://127.0.0.1:{agent.server_port}/slow"), timeout=0.2)
    assert "has not answered within" in sight.text


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"220 mail ready\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200", "does not speak HTTP"),
        (b"x" * 100_000, "does not speak HTTP"),
        (b"", "does not speak HTTP"),
        (b"HTTP/1.1 503 \r\n" + b"a: b\r\n" * 100_000, "status 503"),
    ],
)
def test_what_listens_is_something_else(answer: bytes, text: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:

        def serve() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(4096)
                with contextlib.suppress(OSError):
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        port = server.getsockname()[1]
        sight = Watch(parse(f"http://127.0.0.1:{port}/x")).look(5)
        thread.join(PATIENCE)
    assert not sight.there
    assert text in sight.text


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "127.0.0.2"])
def test_which_address_a_port_is_open_at(host: str) -> None:
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        sight = wait(parse(f"tcp://127.0.0.1:{port}"), timeout=0)
        assert sight.there == (host != "127.0.0.2")
        server.settimeout(0.05)
        with pytest.raises(TimeoutError):
            server.accept()  # nobody has come


def test_a_port_that_is_open_for_both_families() -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("not possible here: no IPv6")
    try:
        server = socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True)
    except OSError as error:
        pytest.skip(f"not possible here: {error}")
    with server:
        port = server.getsockname()[1]
        assert wait(parse(f"tcp://127.0.0.1:{port}"), timeout=0).there


@pytest.mark.parametrize("method", ["unix", "fifo"])
def test_something_else_has_that_name(method: str, tmp_path: Path) -> None:
    path = tmp_path / "x"
    path.write_text("mine")
    sight = wait(parse(f"{method}://{path}"), timeout=0)
    assert not sight.there
    assert "is no " in sight.text
    assert path.read_text() == "mine"
    path.unlink()
    path.symlink_to("/dev/null")
    assert not wait(parse(f"{method}://{path}"), timeout=0).there


def test_a_volume_that_is_not_mounted() -> None:
    sight = wait(parse("file:///not-mounted/frames"), timeout=0)
    assert "is the volume mounted here?" in sight.text


@pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root")
@pytest.mark.parametrize("method", ["shm-dir", "unix", "fifo", "file"])
def test_another_user(method: str, tmp_path: Path, spawn: Spawn) -> None:
    place = Path(os.environ["PODIPC_DIR"]).parent / "volume"
    place.mkdir()
    place.chmod(0o777)
    address = address_of(method, place)
    receiver = spawn(
        "rx = podipc.receiver(args[0])\nsay('open')\nhear()\nrx.close()", address, uid=1001
    )
    receiver.expect("open")
    other = spawn(
        "from podipc.address import parse\nfrom podipc.waiting import wait\n"
        "from support import become\nbecome(1002, 1002)\n"
        "s = wait(parse(args[0]), timeout=0)\nsay([s.there, s.text])",
        address,
    )
    there, text = other.hear()
    assert not there
    assert "1001" in text
    assert "mode=0o666" in text
    other.end()
    receiver.tell("close")
    receiver.end()
    for left in place.iterdir():
        left.rmdir()
    place.rmdir()


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["foo://x"], "unknown scheme"),
        (["/shared/x"], "a path without a method"),
        (["x", "--timeout", "-1"], "not a number of seconds"),
        (["x", "--timeout", "nan"], "not a number of seconds"),
        (["x", "--for", "nobody"], "invalid choice"),
        (["unix:///tmp/x", "--for", "sender"], "cannot be seen before it sends"),
        ([], "ADDRESS"),
        (["x"], "relative path"),
    ],
)
def test_wrong_arguments(
    words: list[str], text: str, waiting: Callable[..., "subprocess.Popen[str]"]
) -> None:
    env = {"PODIPC_DIR": "here"} if text == "relative path" else {}
    assert text in ended(waiting(*words, **env), 2)


def test_what_the_command_says(waiting: Callable[..., "subprocess.Popen[str]"]) -> None:
    said = ended(waiting("frames", "--timeout", "0"), 1)
    assert said.startswith("podipc wait: shm://frames: waited 0.")
    assert "for a receiver; there is no channel at all in" in said
    with podipc.receiver("other"):
        said = ended(waiting("frames", "--timeout", "0", "--for", "any"), 1)
        assert "for anybody; there is no" in said
        assert "there is other" in said
        assert ended(waiting("other", "-q"), 0) == ""


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_it_is_interrupted(
    number: int, code: int, waiting: Callable[..., "subprocess.Popen[str]"]
) -> None:
    process = waiting("frames", "--timeout", "inf")
    eventually(lambda: handles(process.pid, signal.SIGTERM), "its handlers are there")
    process.send_signal(number)
    with took_at_most(5):
        ended(process, code)


def handles(pid: int, number: int) -> bool:
    status = Path(f"/proc/{pid}/status").read_text()
    caught = int(status.partition("SigCgt:\t")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)
