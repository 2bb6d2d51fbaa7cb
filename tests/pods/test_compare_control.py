"""The two sides of a comparison find each other, and nobody else gets in between."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import PATIENCE, ROOT, eventually, unique_name

from podipc.lab import control
from podipc.lab.pair import Pair, WorkerDied
from podipc.lab.wire import Ended, Garbled, Silent, Wire

GREETING = {"podipc-compare": control.PROTOCOL, "podipc": "any", "driver": "x", "lost": None}


@pytest.fixture
def memory():
    place = Path("/dev/shm") / unique_name("compare")
    yield place
    for left in place.glob("*"):
        left.unlink()
    if place.is_dir():
        place.rmdir()


@pytest.fixture
def start(memory):
    """Start one side; what still runs at the end is killed."""
    started = []

    def side(role, *args):
        command = [sys.executable, "-m", "podipc", "compare", "--as", role, "--memory", memory]
        process = subprocess.Popen(
            [*map(str, [*command, *args])],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        started.append(process)
        return process

    yield side
    for process in started:
        process.kill()
        process.communicate()


def reached(memory):
    """A connection to the control socket, once somebody listens."""
    connection = socket.socket(socket.AF_UNIX)
    path = str(control.address(memory))
    eventually(lambda: connection.connect_ex(path) == 0, "somebody listens")
    connection.settimeout(PATIENCE)
    return connection


def ended(process, code):
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == code, out + err
    assert "Traceback" not in err
    return err


@pytest.mark.parametrize(
    "said",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b'{"podipc-compare": 99}\n',
        b"[1, 2]\n",
        b"[" * 4000 + b"\n",
        b"x" * 100_000,
        b"",
    ],
    ids=["http", "version", "list", "deep", "long", "nothing"],
)
def test_who_is_no_driver_is_sent_away(memory, start, tmp_path, said):
    consumer = start("consumer")
    with reached(memory) as stranger:
        try:
            stranger.sendall(said)
            stranger.shutdown(socket.SHUT_WR)
            while stranger.recv(4096):
                pass
        except ConnectionError:
            pass  # it had heard enough
    with Pair(memory, tmp_path) as pair:
        assert pair.consumer["uid"] == os.getuid()
    assert "sent somebody away who is no driver: " in ended(consumer, 0)
    assert not memory.exists()


def test_who_says_nothing_does_not_keep_others_out(memory, monkeypatch):
    monkeypatch.setattr(control, "HELLO_SECONDS", 0.2)
    said = []

    def accept():
        with control.Door(memory, said.append) as door:
            visit = door.wait(PATIENCE)
            visit.greet()
            visit.connection.close()

    with ThreadPoolExecutor(1) as pool:
        accepted = pool.submit(accept)
        with reached(memory), control.connect(memory, PATIENCE, "x")[0]:
            accepted.result(PATIENCE)
    assert [text.partition("driver: ")[2] for text in said] == ["it said nothing for 0.2 s"]


def test_no_consumer(memory, start, tmp_path):
    err = ended(start("producer", "--disk", tmp_path, "--wait", 0.2), 1)
    assert f"the consumer did not come to {memory}/control within 0.2 s" in err
    assert "is the container 'consumer' up" in err
    assert not memory.exists()


def test_no_driver(memory, start):
    err = ended(start("consumer", "--wait", 0.2), 1)
    assert f"no driver came to {memory}/control within 0.2 s" in err
    assert not memory.exists()


def test_one_consumer_only(memory, start, tmp_path):
    first = start("consumer")
    reached(memory).close()
    assert "another consumer listens there already" in ended(start("consumer"), 1)
    with Pair(memory, tmp_path):
        pass
    ended(first, 0)


def test_what_a_killed_consumer_left_is_no_obstacle(memory, start, tmp_path):
    killed = start("consumer")
    reached(memory).close()
    killed.kill()
    killed.wait(PATIENCE)
    assert control.address(memory).exists()
    consumer = start("consumer")
    with Pair(memory, tmp_path):
        pass
    ended(consumer, 0)


@pytest.mark.parametrize("kind", ["link", "file"])
def test_the_directory_has_to_be_ours(memory, start, tmp_path, kind):
    if kind == "link":
        memory.symlink_to(tmp_path)
    else:
        memory.touch()
    err = ended(start("consumer"), 1)
    memory.unlink()
    assert f"{memory}: " in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("said", [b'{"hello": 1}\n', b"\xff\n", b"", b"y" * 5000])
def test_what_answers_has_to_be_a_consumer(memory, said):
    control.prepare(memory)
    with socket.create_server(str(control.address(memory)), family=socket.AF_UNIX) as listener:
        listener.settimeout(PATIENCE)
        found = socket.socket(socket.AF_UNIX)
        found.connect(str(control.address(memory)))
        with listener.accept()[0] as other:
            other.sendall(said)
            other.shutdown(socket.SHUT_WR)
            with found, pytest.raises(control.ControlError, match="is no consumer of this podipc"):
                control._greeted(found, control.address(memory), GREETING)


def greeted(memory):
    connection = reached(memory)
    wire = Wire(connection.fileno(), connection.fileno())
    wire.send(GREETING)
    greeting = wire.receive()
    assert greeting["podipc-compare"] == control.PROTOCOL
    assert greeting["container"]["uid"] == os.getuid()
    return connection, wire


def test_another_driver_is_told_that_the_consumer_is_taken(memory, start, tmp_path):
    consumer = start("consumer")
    with Pair(memory, tmp_path) as pair:
        with pytest.raises(control.ControlError, match="serves another driver"):
            control.connect(memory, PATIENCE, "another")
        pair.both({"do": "hello"})
    ended(consumer, 0)


def worker_of(consumer):
    """Its process, which is started once the driver has been greeted."""
    children = Path(f"/proc/{consumer.pid}/task/{consumer.pid}/children")
    return int(eventually(lambda: children.read_text().strip(), "a worker"))


@pytest.mark.parametrize("lost", ["producer", "consumer"])
def test_the_same_driver_gets_another_worker(memory, start, lost):
    """When its own has died, the one here may wait for that and is killed."""
    consumer = start("consumer")
    first, wire = greeted(memory)
    with first:
        wire.send({"do": "ports", "n": 1})
        assert wire.receive()["ports"]
        if lost == "consumer":
            os.kill(worker_of(consumer), signal.SIGBUS)
        second, greeting = control.connect(memory, PATIENCE, "x", lost)
        assert greeting["died"] == ("signal 7" if lost == "consumer" else None)
        with pytest.raises(Ended):
            wire.receive(time.monotonic() + PATIENCE)
    with second:
        wire = Wire(second.fileno(), second.fileno())
        wire.send({"do": "end"})
        assert wire.receive() == {}
        ended(consumer, 0)


def test_a_driver_that_does_not_come_again(memory, start):
    consumer = start("consumer")
    connection, _ = greeted(memory)
    os.kill(worker_of(consumer), signal.SIGKILL)
    with connection:
        err = ended(consumer, 1)
    assert "the worker died (signal 9), and the driver did not come for another" in err


def test_a_driver_that_goes_away(memory, start):
    consumer = start("consumer")
    connection, _ = greeted(memory)
    connection.close()
    assert "the driver went away before it was done" in ended(consumer, 1)


def test_orders_that_are_none(memory, start):
    consumer = start("consumer")
    connection, wire = greeted(memory)
    with connection:
        for order in ({"do": "nonsense"}, {"do": 3}, {}, {"do": "open"}, {"do": "ports", "n": "x"}):
            wire.send(order)
            assert "Error" in wire.receive()["error"]
        wire.send({"do": "hello"})
        assert wire.receive()["uid"] == os.getuid()
        connection.sendall(b"no JSON\n")
        assert "the driver sent what is no command" in ended(consumer, 1)


def test_a_consumer_that_dies(memory, start, tmp_path):
    consumer = start("consumer")
    says = "container 'consumer' died"
    with pytest.raises(WorkerDied, match=says) as caught, Pair(memory, tmp_path) as pair:
        consumer.send_signal(signal.SIGKILL)
        consumer.wait(PATIENCE)
        pair.both({"do": "hello"})
    assert caught.value.side == "consumer"
    assert not memory.exists()


@pytest.fixture
def wires():
    a, b = socket.socketpair()
    with a, b:
        yield Wire(a.fileno(), a.fileno(), 1000), b


def test_a_wire(wires):
    wire, other = wires
    other.sendall(b'{"a": 1}\n{"b"')
    assert wire.receive() == {"a": 1}
    with pytest.raises(Silent):
        wire.receive(time.monotonic() + 0.01)
    other.sendall(b": 2}\n")
    assert wire.receive(time.monotonic() + PATIENCE) == {"b": 2}
    wire.send({"c": 3})
    assert json.loads(other.recv(100)) == {"c": 3}
    other.sendall(b"x" * 2000)
    with pytest.raises(Garbled, match="more than 1000 bytes"):
        wire.receive()
    other.close()
    with pytest.raises(Ended):
        wire.send({})
