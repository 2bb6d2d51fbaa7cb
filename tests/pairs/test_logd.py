"""``podipc logd``: what it takes, keeps and refuses, and how it ends."""

import http.client
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from logging_agents import LINE, agent_here, request, start_agents  # noqa: F401
from support import PATIENCE, ROOT, eventually, took_at_most

from podipc import web
from podipc.logs import agent

# --- the agent ----------------------------------------------------------------


def test_as_in_the_article(started):
    one = started(keep=False)
    assert one.post("My log message")[:2] == (200, "Log received")
    assert one.post("ERROR: two\nlines")[:2] == (200, "Log received")
    body = json.dumps({"message": "m", "level": "debug", "time": 0, "logger": "l", "n": 1})
    assert one.post(body, **{"Content-Type": "application/json"})[0] == 200
    assert one.request("GET", "/healthz")[:2] == (200, "ok")
    assert one.end() == 0
    said = one.output.read_text().splitlines()
    assert [LINE.fullmatch(line)[3] for line in said] == [
        *("My log message", "ERROR: two", "lines", "l: m n=1")
    ]
    assert [LINE.fullmatch(line)[2] for line in said] == ["INFO", "ERROR", "INFO", "DEBUG"]
    assert said[3].startswith("1970-01-01T00:00:00.000Z ")


def test_json_lines(started):
    one = started("--json")
    assert one.post("a \x1b \xe4".encode())[0] == 200
    for text in (one.output.read_text(), (one.directory / "pod.log").read_text()):
        line = json.loads(text)
        assert (line["message"], line["level"]) == ("a \x1b \xe4", "INFO")


@pytest.mark.parametrize("how", ["term", "int", "quit"])
def test_told_to_end(started, how):
    one = started("--quit")
    assert one.post("x")[0] == 200
    idle = socket.create_connection(("127.0.0.1", one.port), 30)
    if how == "quit":
        assert one.request("POST", "/quitquitquit")[:2] == (200, "Ending")
    else:
        one.send(signal.SIGTERM if how == "term" else signal.SIGINT)
    assert one.wait() == (130 if how == "int" else 0)
    idle.close()
    assert one.kept() == one.printed() == ["x"]


def test_quit_has_to_be_allowed(started):
    one = started()
    assert one.request("POST", "/quitquitquit")[0] == 404
    assert one.request("GET", "/healthz")[0] == 200


def test_what_is_taken_already(started):
    one = started(run=False)
    with socket.create_server(("127.0.0.1", one.port)):
        one.start(wait=False)
        assert one.wait() == 1
    assert "share its ports" in one.said()
    one.start()
    other = started(run=False)
    other.start(wait=False)
    assert other.wait() == 1
    assert "another agent keeps its lines there" in other.said()


def test_places_that_are_none(started, tmp_path):
    (tmp_path / "log").write_text("a file")
    one = started(run=False)
    one.start(wait=False)
    assert one.wait() == 1
    assert "is not a directory" in one.said()


def test_no_batch_twice(started):
    """Not even if the agent was killed between."""
    one = started()
    for _ in range(2):
        for _ in range(2):
            assert one.post("one", **{"Podipc-Client": "me", "Podipc-Sequence": "7"})[0] == 200
        one.end(signal.SIGKILL)
        one.start()
    assert one.post("two", **{"Podipc-Client": "me", "Podipc-Sequence": "8"})[0] == 200
    assert one.post("other", **{"Podipc-Client": "you", "Podipc-Sequence": "0"})[0] == 200
    assert one.kept() == one.printed() == ["one", "two", "other"]


def test_a_full_volume(started, tmp_path):
    """Nothing of a batch is there, the agent says so, and goes on when there is room."""
    if os.geteuid():
        pytest.skip("not possible here: only root may mount")
    place = tmp_path / "log"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", place], check=True)
    try:
        (place / "ballast").write_bytes(b"x" * 40_000)
        one = started("--max-body", "100K")
        assert one.post("first")[0] == 200
        code, text, fields = one.post("x" * 50_000)
        assert (code, fields["Retry-After"]) == (503, "1")
        assert "No space left" in text
        with pytest.raises(OSError, match="No space left"), (place / "more").open("wb", 0) as more:
            while True:
                more.write(b"x" * 4096)
        assert one.post("y" * 5_000)[0] == 503
        code, text, _ = one.request("GET", "/healthz")
        assert (code, "No space left" in text) == (503, True)
        assert one.kept() == one.printed() == ["first"]
        (place / "ballast").unlink()
        (place / "more").unlink()
        assert one.request("GET", "/healthz")[0] == 200
        assert one.post("second")[0] == 200
        assert one.kept() == one.printed() == ["first", "second"]
        assert one.end() == 0
    finally:
        if one.process.poll() is None:
            one.end(signal.SIGKILL)
        subprocess.run(["umount", place], check=True)


def test_the_output_is_gone(tmp_path):
    read, write = os.pipe()
    errors = tmp_path / "errors"
    with errors.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "podipc", "logd", "--port", "0"],
            stdout=write,
            stderr=file,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
    os.close(write)
    found = eventually(lambda: re.search(r":(\d+)/log", errors.read_text()), "it listens")
    os.close(read)
    assert request(int(found[1]), "POST", "/log", "x", **{"Content-Type": "text/plain"})[0] == 503
    assert process.wait(PATIENCE) == 1
    assert "the output cannot be written: Broken pipe" in errors.read_text()


# --- what a server must not fall for ------------------------------------------


@pytest.mark.parametrize(
    ("fields", "code"),
    [
        ({"Host": "evil.example"}, 403),
        ({"Host": "evil.example:8080"}, 403),
        ({"Host": "localhost"}, 403),
        ({"Host": "localhost:1"}, 403),
        ({"Host": ""}, 403),
        ({"Origin": "http://localhost"}, 403),
        ({"Origin": "null"}, 403),
        ({"Content-Type": "application/x-www-form-urlencoded"}, 415),
        ({"Content-Type": "text/plain; charset=utf-16"}, 415),
        ({"Content-Type": "application/json"}, 400),
        ({"Content-Length": "-1"}, 400),
        ({"Content-Length": "1e3"}, 400),
        ({"Content-Length": "99999999999999999999999"}, 400),
        ({"Content-Length": "10737418240"}, 413),
        ({"Transfer-Encoding": "chunked"}, 411),
        ({"Podipc-Client": "a b", "Podipc-Sequence": "1"}, 400),
        ({"Podipc-Client": "a"}, 400),
        ({"Podipc-Sequence": "1"}, 400),
        ({"Podipc-Client": "a", "Podipc-Sequence": "9999999999999999999"}, 400),
        ({"method": "PUT"}, 405),
        ({"method": "OPTIONS"}, 405),
        ({"method": "GET"}, 405),
        ({"method": "POST", "path": "/healthz"}, 405),
        ({"method": "GET", "path": "/healthz"}, 413),
        ({"path": "/"}, 404),
        ({"path": "/log/../x"}, 404),
        ({"path": "/quitquitquit"}, 404),
    ],
)
def test_refused(here, fields, code):
    got, text, head = here.post(**fields)
    assert (got, bool(text)) == (code, True)
    assert ("Allow" in head) == (code == 405)
    assert here.printed() == ""
    assert here.post("good")[0] == 200


def test_no_length_and_nothing(here):
    with socket.create_connection(("127.0.0.1", here.port), 30) as sock:
        sock.sendall(f"POST /log HTTP/1.1\r\nHost: localhost:{here.port}\r\n\r\n".encode())
        assert sock.recv(100).startswith(b"HTTP/1.1 411 ")
    assert here.post("")[0] == 400


@pytest.mark.parametrize("here", [{"hosts": ("logs.example", "a:5")}], indirect=True)
def test_allowed_hosts(here):
    for host in (f"LOGS.example:{here.port}", "a:5", f"[::1]:{here.port}"):
        assert here.post(Host=host)[0] == 200
    for host in ("logs.example", f"a:{here.port}"):
        assert here.post(Host=host)[0] == 403


def test_ten_gigabytes(here):
    """Refused by its head: nothing of it is read into memory, and nothing sent is waited for."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    head = (
        f"POST /log HTTP/1.1\r\nHost: localhost:{here.port}\r\nContent-Type: text/plain\r\n"
        f"Content-Length: {10 << 30}\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", here.port), 30) as sock, took_at_most(30):
        sock.sendall(head.encode())
        assert b" 413 " in sock.recv(100)
        with pytest.raises(ConnectionError):
            while True:
                sock.sendall(b"x" * 65536)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10


def test_a_huge_line(here):
    said = []
    reader = threading.Thread(target=lambda: said.append(here.line()))
    reader.start()
    assert here.post("x" * (1 << 20))[0] == 200
    reader.join(PATIENCE)
    assert said[0].count(b"x") == 1 << 20
    assert here.post("x" * (1 << 20) + "x")[0] == 413
    assert here.post("\n" * 10_001)[0] == 413
    assert here.printed() == ""


def test_slow(here, monkeypatch):
    monkeypatch.setattr(web, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(web, "BODY_SECONDS", 0.3)
    head = (
        f"POST /log HTTP/1.1\r\nHost: localhost:{here.port}\r\nContent-Type: text/plain\r\n"
        "Content-Length: 1000\r\n\r\n"
    )
    for text in (head[:5], head[:30], head):
        with socket.create_connection(("127.0.0.1", here.port), 30) as sock, took_at_most(10):
            sock.sendall(text.encode())
            sock.setblocking(False)
            answer = b""
            while not answer:  # a byte now and then does not keep it
                time.sleep(0.05)
                try:
                    sock.send(b"x")
                    answer = sock.recv(1000)
                except BlockingIOError:
                    pass
            assert answer.startswith(b"HTTP/1.1 408 ")
    assert here.post("good")[0] == 200
    assert "x" * 5 not in here.printed()


def test_characters(here):
    assert here.post(b"a\x1b[2J\0\r\nforged\xff\xe2\x80\xa8end")[0] == 200
    said = here.printed().splitlines()
    assert [LINE.fullmatch(line)[3] for line in said] == [
        "a\\x1b[2J\\x00",
        "forged\\xff\\u2028end",
    ]


def test_an_output_that_is_not_read(here, monkeypatch):
    """503 within its time, and everything that was answered is there when it is read again."""
    monkeypatch.setattr(agent, "WAIT_SECONDS", 0.2)
    answers = []
    first = threading.Thread(target=lambda: answers.append(here.post("a" * 100_000)[0]))
    first.start()
    eventually(lambda: here.sink._since is not None, "it is written")
    with took_at_most(10):
        code, text, fields = here.post("b")
    assert (code, fields["Retry-After"]) == (503, "1")
    assert "not read" in text
    said = here.line()
    first.join()
    assert answers == [200]
    assert here.post("c")[0] == 200
    said += here.line()
    assert [line[-1:] for line in said.split(b"\n")] == [b"a", b"c", b""]


@pytest.mark.parametrize("here", [{"queue": 2000, "max_body": 2000}], indirect=True)
def test_too_much_waits(here):
    head = (
        f"POST /log HTTP/1.1\r\nHost: localhost:{here.port}\r\nContent-Type: text/plain\r\n"
        "Content-Length: 1999\r\n\r\n"
    )
    with socket.create_connection(("127.0.0.1", here.port), 30) as sock:
        sock.sendall(head.encode())
        eventually(lambda: here.agent._server._claimed, "its head was read")
        code, text, _ = here.post("xx")
        assert (code, "wait to be written" in text) == (503, True)
    eventually(lambda: not here.agent._server._claimed, "it was given up")
    assert here.post("xx")[0] == 200


def test_many_connections(here):
    sockets = []
    try:
        for _ in range(agent.Server.max_connections + 10):
            sockets.append(socket.create_connection(("127.0.0.1", here.port), 30))
        assert sockets[-1].recv(100).startswith(b"HTTP/1.1 503 ")
    finally:
        for sock in sockets:
            sock.close()

    def works():
        try:
            return here.post()[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    eventually(works, "it serves again")
