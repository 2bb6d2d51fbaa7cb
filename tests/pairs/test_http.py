"""HTTP to a sidecar: what holds for shm holds here too; and what a server must not fall for."""

import contextlib
import http.client
import os
import random
import resource
import signal
import socket
import threading
import time

import numpy as np
import payload
import peers
import pytest
from hypothesis import given, settings
from support import Failed, eventually, free_port, memory_limit, took_at_most

# What no method may do differently. They take `name` from here.
from test_deaths import (  # noqa: F401
    test_a_forked_child_does_not_hide_the_death,
    test_dead_sender,
    test_held_arrays_outlive_a_dead_sender,
    test_iteration_over_a_dead_sender_raises,
    test_sender_killed_at_random,
)
from test_roundtrip import arrays, same_values
from test_shm import (  # noqa: F401
    test_closed_before_anything_was_sent,
    test_closed_only_when_all_have_closed,
    test_closing_sender_ends_the_iteration,
    test_many_in_order,
    test_restart_of_either_side,
    test_the_handle_goes_on_after_closed,
    test_threads_that_receive,
    test_threads_that_send,
    test_what_a_timed_out_send_had_is_not_sent,
)

import podipc

MIB = 1 << 20


@pytest.fixture
def port():
    return free_port()


@pytest.fixture
def name(port):
    return f"http://127.0.0.1:{port}/frames"


def agent(spawn, role, name, **options):
    child = spawn(peers.agent, role, name, options)
    assert child.answer() == "open"
    return child


# --- tensors ------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair():
    """Kept for all examples."""
    address = f"http://127.0.0.1:{free_port()}/any"
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        yield rx, tx


@settings(max_examples=200)
@given(a=arrays())
def test_any_array(pair, a):
    rx, tx = pair
    assert tx.send(a, 30) == 1
    b = rx.recv(30)
    assert (b.dtype, b.shape) == (a.dtype, a.shape)
    if a.flags.f_contiguous and not a.flags.c_contiguous:
        assert b.flags.f_contiguous
    assert same_values(a, b)


@pytest.mark.parametrize("size", [0, 1, 16384, 16385, MIB, 9 * MIB + 5])
def test_sizes(name, size):
    a = np.random.default_rng(size).integers(0, 256, size, "u1")
    with podipc.receiver(name) as rx, podipc.sender(name) as tx:
        tx.send(a, 30)
        x = rx.recv(30)
        assert np.array_equal(x, a)
        assert not x.flags.writeable
        tx.send(a, 30)
        assert rx.recv(30, copy=True).flags.writeable
        tx.send(a, 30)
        assert rx.recv(30, writable=True).flags.writeable


def test_long_type(name):
    dtype = np.dtype([(f"a field with spaces, ümläüts and % no. {i}", "<f4") for i in range(500)])
    a = np.zeros(3, dtype)
    with podipc.receiver(name) as rx, podipc.sender(name) as tx:
        tx.send(a, 30)
        assert rx.recv(30).dtype == dtype
        with pytest.raises(podipc.UnsupportedTensor, match="object"):
            tx.send(np.array([None]), 30)


def test_loan_and_empty(name):
    with podipc.receiver(name) as rx, podipc.sender(name) as tx:
        with tx.loan((2, 3), "i2", timeout=30) as out:
            out[...] = 7
        assert not out.flags.writeable
        with pytest.raises(ZeroDivisionError), tx.loan(3):
            raise ZeroDivisionError
        a = tx.empty(4, "f4")
        a[:] = 1
        tx.send(a, 30)
        assert np.array_equal(rx.recv(30), np.full((2, 3), 7, "i2"))
        assert np.array_equal(rx.recv(30), np.ones(4, "f4"))
        with pytest.raises(podipc.Timeout):
            rx.recv(0)


# --- waiting ------------------------------------------------------------------


def test_any_start_order(spawn, name):
    child = agent(spawn, "sender", name)
    child.start("send", 1, 0)
    assert child.silent(0.3)
    with podipc.receiver(name) as rx:
        assert payload.check(rx.recv(30)) == (1, 0)
        assert child.answer() == 1
        child.do("close")
        with pytest.raises(podipc.Closed):
            rx.recv(30)


def test_several_senders(spawn, name):
    with podipc.receiver(name) as rx:
        children = [agent(spawn, "sender", name) for _ in range(3)]
        for number in range(50):
            for who, child in enumerate(children):
                child.start("send", who, number)
        got = [payload.check(rx.recv(30)) for _ in range(150)]
        for who, child in enumerate(children):
            assert [n for w, n in got if w == who] == list(range(50))
            for _ in range(50):
                assert child.answer() == 1
            child.do("close")
        with pytest.raises(podipc.Closed):
            rx.recv(30)
        assert rx.stats()["peers"] == 0


def test_back_pressure(name):
    """What is queued stays within max_bytes; the answer waits, and nothing is dropped."""
    with podipc.receiver(name, max_bytes=MIB) as rx, podipc.sender(name) as tx:
        sent = 0
        with pytest.raises(podipc.Timeout, match="no room: 1048576 bytes"):
            while True:
                tx.send(payload.make(1, sent, 12_000), 0.3)
                sent += 1
        assert sent == 10
        assert rx.stats()["queued"] == 10
        assert rx.stats()["reserved"] <= MIB
        with pytest.raises(podipc.Timeout):
            tx.send(payload.make(1, sent, 12_000), 0)
        # Another sender gets its share of what becomes free.
        with podipc.sender(name) as other:
            assert payload.check(rx.recv(30)) == (1, 0)
            other.send(payload.make(2, 0, 12_000), 30)
        for number in range(1, 10):
            assert payload.check(rx.recv(30)) == (1, number)
        assert payload.check(rx.recv(30)) == (2, 0)
        tx.send(payload.make(1, sent, 12_000), 30)
        assert payload.check(rx.recv(30)) == (1, 10)
        assert rx.stats()["reserved"] == 0
        with pytest.raises(podipc.MemoryLimit, match="1048576 bytes") as caught:
            tx.send(np.zeros(MIB + 1, "u1"), 30)
        assert (caught.value.need, caught.value.have) == (MIB + 1, MIB)


def test_a_waiting_sender_goes_on_when_there_is_room(name):
    with podipc.receiver(name, max_bytes=MIB) as rx, podipc.sender(name) as tx:
        got = []
        reader = threading.Thread(
            target=lambda: got.extend(payload.check(rx.recv(30)) for _ in range(60))
        )
        reader.start()
        for number in range(60):
            tx.send(payload.make(1, number, 50_000), 30)
        reader.join(30)
        assert got == [(1, n) for n in range(60)]


def test_timeouts(name, port):
    with podipc.sender(name) as tx:
        with took_at_most(5), pytest.raises(podipc.Timeout, match=f"listens on 127.0.0.1:{port}"):
            tx.send(np.zeros(3), 0.2)
        with pytest.raises(ValueError, match="timeout"):
            tx.send(np.zeros(3), -1)
        with podipc.receiver(name) as rx:
            with pytest.raises(podipc.Timeout, match="within the timeout"):
                rx.recv(0.2)
            with pytest.raises(ValueError, match="timeout"):
                rx.recv(float("nan"))


@pytest.mark.parametrize("what", ["recv", "send", "room"])
def test_close_ends_the_wait_of_another_thread(name, what):
    rx = podipc.receiver(name, max_bytes=4096) if what != "send" else None
    tx = podipc.sender(name)
    if what == "room":
        tx.send(np.zeros(4096, "u1"), 30)
    met = []

    def work():
        try:
            rx.recv() if what == "recv" else tx.send(np.zeros(10))
        except podipc.PodipcError as error:
            met.append(type(error))

    thread = threading.Thread(target=work)
    thread.start()
    time.sleep(0.2)
    with took_at_most(5):
        (rx if what == "recv" else tx).close()
        thread.join(30)
    assert met == [podipc.Closed]
    tx.close()
    if rx:
        rx.close()


@pytest.mark.parametrize("verb", ["recv", "send"])
def test_ctrl_c(spawn, name, verb):
    role = "receiver" if verb == "recv" else "sender"
    child = spawn(
        "endpoint = getattr(podipc, args[0])(args[1])\n"
        "say('open')\n"
        "try:\n"
        "    endpoint.recv() if args[0] == 'receiver' else endpoint.send(np.zeros(3))\n"
        "except KeyboardInterrupt:\n"
        "    say('interrupted')\n"
        "endpoint.close()\n",
        role,
        name,
    )
    child.expect("open")
    time.sleep(0.2)
    with took_at_most(2):
        child.signal(signal.SIGINT)
        child.expect("interrupted")
    child.end()


def test_interrupted_sends_lose_and_double_nothing(spawn, name):
    """Ctrl-C at any moment of a send: what was sent arrives, and nothing arrives twice.

    What arrives though send did not return was on its way back already.
    """
    child = spawn(
        "import payload, signal\n"
        "tx = podipc.sender(args[0])\n"
        "say('open')\n"
        "sent, number = [], 0\n"
        "while number < 300:\n"
        "    try:\n"
        "        tx.send(payload.make(1, number, 20_000), 30)\n"
        "        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])\n"
        "        sent.append(number)\n"
        "        number += 1\n"
        "        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])\n"
        "    except KeyboardInterrupt:\n"
        "        number += 1\n"
        "signal.signal(signal.SIGINT, signal.SIG_IGN)\n"
        "say(sent)\n"
        "tx.close()\n",
        name,
    )
    rng = random.Random(5)
    got = []
    with podipc.receiver(name, max_bytes=MIB) as rx:
        child.expect("open")
        try:
            while True:
                got.append(payload.check(rx.recv(30))[1])
                if rng.random() < 0.1:
                    time.sleep(rng.uniform(0, 0.01))
                    child.signal(signal.SIGINT)
        except podipc.Closed:
            pass
    sent = child.hear()
    child.end()
    assert len(set(got)) == len(got), "delivered twice"
    assert set(sent) <= set(got), "lost"
    assert got == sorted(got)
    assert len(sent) < 300, "no interrupt hit"


# --- ends ---------------------------------------------------------------------


def test_dead_receiver(spawn, name):
    """PeerDied once; then on with the next. What it had queued is counted as lost."""
    child = agent(spawn, "receiver", name)
    with podipc.sender(name) as tx:
        for number in range(3):
            tx.send(payload.make(1, number), 30)
        assert child.do("recv") == [1, 0]
        child.kill()
        eventually(lambda: tx.stats()["peers"] == 0, "the death is noticed")
        with pytest.raises(podipc.PeerDied, match="receiver of http"):
            tx.send(payload.make(1, 3), 30)
        with pytest.raises(podipc.Timeout):
            tx.send(payload.make(1, 3), 0.2)
        assert tx.stats()["peers_died"] == 1
        assert tx.stats()["lost_taken"] in {2, 3}
        with podipc.receiver(name) as rx:
            tx.send(payload.make(1, 4), 30)
            assert payload.check(rx.recv(30)) == (1, 4)


def test_dead_receiver_ends_the_wait_for_room(spawn, name):
    child = agent(spawn, "receiver", name, max_bytes=4096)
    with podipc.sender(name) as tx:
        tx.send(np.zeros(512), 30)
        killer = threading.Timer(0.3, child.kill)
        killer.start()
        with took_at_most(10), pytest.raises(podipc.PeerDied):
            tx.send(np.zeros(512), 60)
        killer.join()


def test_closed_receiver_is_not_dead(name):
    """A sender waits for the next one, without an error."""
    with podipc.sender(name) as tx:
        for number in range(5):
            with podipc.receiver(name) as rx:
                tx.send(payload.make(1, number), 30)
                assert payload.check(rx.recv(30)) == (1, number)
                with pytest.raises(podipc.Timeout):
                    rx.recv(0)
        with pytest.raises(podipc.Timeout, match="No receiver"):
            tx.send(payload.make(1, 9), 0.2)
        assert tx.stats()["peers_died"] == 0


def test_what_a_closing_receiver_left_is_said(name):
    """By the next send, in the counters, and at the end."""
    tx = podipc.sender(name)
    with podipc.receiver(name) as rx:
        for number in range(3):
            tx.send(payload.make(1, number), 30)
        assert payload.check(rx.recv(30)) == (1, 0)
    eventually(lambda: tx.stats()["peers"] == 0, "it has left")
    assert (tx.stats()["queued"], tx.stats()["lost_taken"], tx.stats()["peers_died"]) == (0, 2, 0)
    with podipc.receiver(name) as rx:
        with pytest.raises(podipc.PeerDied, match="closed without taking the last 2 of 3 tensors"):
            tx.send(payload.make(1, 3), 30)
        tx.send(payload.make(1, 4), 30)
        assert payload.check(rx.recv(30)) == (1, 4)
        tx.send(payload.make(1, 5), 30)
    with pytest.warns(RuntimeWarning, match="3 tensors sent to .* will reach nobody"):
        tx.close()
    assert tx.stats()["lost_taken"] == 3


def test_a_connection_of_its_own_is_not_another_receiver(name):
    """After a send that was taken back, what the same receiver holds is still known."""
    with podipc.receiver(name, max_bytes=MIB) as rx, podipc.sender(name) as tx:
        for number in range(3):
            tx.send(payload.make(1, number), 30)
        rx.recv(30)
        tx._connection.close()  # as after a refusal
        tx._connection = None
        tx.send(payload.make(1, 3), 30)
        assert tx.stats()["queued"] == 3
        for number in range(1, 4):
            assert payload.check(rx.recv(30)) == (1, number)


def test_stopped_receiver(spawn, name):
    """Timeout, not PeerDied; nothing of what timed out is delivered; then it goes on."""
    child = agent(spawn, "receiver", name)
    with podipc.sender(name) as tx:
        tx.send(payload.make(1, 0), 30)
        child.signal(signal.SIGSTOP)
        for number in (100, 101):
            with took_at_most(5), pytest.raises(podipc.Timeout, match="does not answer"):
                tx.send(payload.make(1, number), 0.3)
        child.signal(signal.SIGCONT)
        tx.send(payload.make(1, 1), 30)
        assert child.do("recv") == [1, 0]
        assert child.do("recv") == [1, 1]
        child.do("close")
        child.end()


def test_address_in_use(name, port):
    with podipc.receiver(name), pytest.raises(podipc.AddressInUse, match=str(port)):
        podipc.receiver(name)
    with socket.create_server(("127.0.0.1", port)), pytest.raises(podipc.AddressInUse):
        podipc.receiver(name)


def test_a_port_of_somebody_else(port):
    """Something else answers there."""
    from http.server import BaseHTTPRequestHandler, HTTPServer

    class Other(BaseHTTPRequestHandler):
        def do_POST(self):
            self.send_error(501)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", port), Other) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            with pytest.raises(podipc.AddressInUse, match="no receiver of podipc"):
                podipc.sender(f"http://127.0.0.1:{port}/x")
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.parametrize(
    ("said", "error"),
    [
        (b"nonsense\r\n\r\n", podipc.CorruptSegment),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", podipc.AddressInUse),
        (b"HTTP/1.1 200 OK\r\nPodipc-Version: 9\r\n\r\n", podipc.VersionMismatch),
        (b"", podipc.Timeout),
    ],
)
def test_a_port_of_somebody_else_for_a_while(name, port, said, error):
    """Looking does neither raise nor wait for it, sending says it, and it is not for ever."""

    def talk():
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            while True:
                sock = stack.enter_context(listener.accept()[0])
                sock.sendall(said)

    with podipc.sender(name) as tx:
        with socket.create_server(("127.0.0.1", port)) as listener:
            thread = threading.Thread(target=talk)
            thread.start()
            tx.stats()
            with pytest.raises(error):
                tx.send(np.arange(3), 0.3)
            tx.stats()
            listener.shutdown(socket.SHUT_RDWR)
            thread.join()
        # One that has accepted and said nothing has died.
        with contextlib.suppress(podipc.PeerDied, podipc.Timeout):
            tx.send(np.arange(1), 0)
        with podipc.receiver(name) as rx:
            tx.send(np.arange(3), 30)
            assert rx.recv(30).tolist() == [0, 1, 2]


def test_wrong_path(port):
    with (
        podipc.receiver(f"http://127.0.0.1:{port}/a"),
        pytest.raises(podipc.AddressError, match="serves the path /a"),
    ):
        podipc.sender(f"http://127.0.0.1:{port}/b")


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_handle_in_a_forked_child(name):
    with podipc.receiver(name) as rx, podipc.sender(name) as tx:
        pid = os.fork()
        if pid == 0:
            try:
                for call in (lambda: tx.send(np.zeros(1)), rx.recv, lambda: tx.empty(3)):
                    try:
                        call()
                    except podipc.ForkedHandle:
                        continue
                    os._exit(1)
                tx.close()
                rx.close()
                os._exit(0)
            finally:
                os._exit(2)
        assert os.waitpid(pid, 0)[1] == 0
        tx.send(payload.make(1, 0), 30)
        assert payload.check(rx.recv(30)) == (1, 0)


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_closed_handle_takes_nothing_from_a_forked_child(name):
    """The number of its descriptor is somebody else's by then."""
    tx = podipc.sender(name)
    tx.close()
    ends = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            try:
                for fd in ends:
                    os.fstat(fd)
                os._exit(0)
            finally:
                os._exit(1)
        assert os.waitpid(pid, 0)[1] == 0
    finally:
        for fd in ends:
            os.close(fd)
    tx.close()


def test_sigpipe_at_its_default(spawn, name):
    child = spawn(
        "import signal, payload\n"
        "signal.signal(signal.SIGPIPE, signal.SIG_DFL)\n"
        "tx = podipc.sender(args[0])\n"
        "say('open')\n"
        "hear()\n"
        "try:\n"
        "    while True: tx.send(payload.make(1, 0, 200_000), 30)\n"
        "except podipc.PeerDied:\n"
        "    say('died')\n"
        "tx.close()\n",
        name,
    )
    receiver = agent(spawn, "receiver", name, max_bytes=64 * MIB)
    child.expect("open")
    child.tell("go")
    assert receiver.do("recv") == [1, 0]
    receiver.kill()
    child.expect("died")
    child.end()


# --- what a server must not fall for ---------------------------------------------


@pytest.fixture
def served(name):
    with podipc.receiver(name, max_bytes=MIB) as rx:
        yield rx


GOOD = {"Podipc-Type": "<u8", "Podipc-Shape": "2"}


def post(port, fields=None, body=b"\0" * 16, path="/frames", method="POST", **more):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request(method, path, body, {**GOOD, **(fields or {}), **more})
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def raw(port, text, patience=30):
    """What comes back until the server ends the connection."""
    with socket.create_connection(("127.0.0.1", port), patience) as sock:
        sock.sendall(text.encode())
        return b"".join(iter(lambda: sock.recv(65536), b"")).decode()


def test_a_tensor_from_a_shell(served, port):
    """No join, no number: any client can send one."""
    status, _ = post(port, {"Podipc-Type": "<f4", "Podipc-Shape": "2,2"}, b"\0\0\x80\x3f" * 4)
    assert status == 200
    assert np.array_equal(served.recv(30), np.ones((2, 2), "f4"))
    status, _ = post(port, {"Expect": "100-continue"})
    assert status == 200
    assert served.recv(30).shape == (2,)


@pytest.mark.parametrize(
    ("status", "fields", "what"),
    [
        (403, {"Host": "evil.example"}, "not this one"),
        (403, {"Host": "127.0.0.1:1"}, "not this one"),
        (403, {"Origin": "http://evil.example"}, "Origin"),
        (403, {"Origin": "null"}, "Origin"),
        (400, {"Podipc-Version": "9"}, "version 1"),
        (400, {"Podipc-Type": "|O"}, "dtype"),
        (400, {"Podipc-Type": "%7B%22names%22"}, "dtype"),
        (400, {"Podipc-Shape": "3"}, "16 bytes for a tensor that has 24"),
        (400, {"Podipc-Shape": "-2"}, "not up to 64 sizes"),
        (400, {"Podipc-Shape": "9999999999999999999,9999999999999999999"}, "for a tensor"),
        (400, {"Podipc-Shape": ",".join(["1"] * 65)}, "not up to 64 sizes"),
        (400, {"Podipc-Order": "K"}, "neither"),
        (400, {"Podipc-Sender": "me"}, "joined"),
        (400, {"Podipc-Do": "dance", "Content-Length": "0"}, "not known"),
        (413, {"Podipc-Do": "bye"}, "no body"),
    ],
)
def test_refused(served, port, status, fields, what):
    got, text = post(port, fields)
    assert (got, what in text) == (status, True), text
    with pytest.raises(podipc.Timeout):
        served.recv(0)
    assert served.stats()["reserved"] == 0


def test_room_for_nobody(served, port):
    """Only who has joined is promised room: what a stranger was promised nobody gives back."""
    fields = {"Podipc-Do": "room", "Podipc-Need": str(MIB)}
    assert post(port, fields, b"")[0] == 400
    who = {"Podipc-Sender": "me"}
    assert post(port, {**fields, **who}, b"")[0] == 400
    # Nor is who joined and has left since, by another connection.
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=30)) as mine:
        mine.request("POST", "/frames", b"", {"Podipc-Do": "join", **who})
        mine.getresponse().read()
        assert post(port, {"Podipc-Do": "bye", **who}, b"")[0] == 200
        with pytest.raises(podipc.Closed):
            served.recv(30)
        mine.request("POST", "/frames", b"", {**fields, **who})
        assert mine.getresponse().status == 503
    assert served.stats()["reserved"] == 0


def test_refused_by_path_and_method(served, port):
    assert post(port, path="/other")[0] == 404
    assert post(port, method="GET", body=None)[0] == 405
    assert post(port, method="PUT")[0] == 405
    assert post(port)[0] == 200


def test_no_length(served, port):
    head = f"POST /frames HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nPodipc-Type: <u8\r\n"
    assert " 411 " in raw(port, head + "\r\n")
    assert " 411 " in raw(port, head + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")
    assert " 400 " in raw(port, head + "Content-Length: 1e9\r\n\r\n")
    assert " 400 " in raw(port, head + "Content-Length: -1\r\n\r\n")
    assert " 400 " in raw(port, "nonsense\r\n\r\n")


def test_ten_gigabytes(served, port):
    """Refused before the body is read: nothing is kept of what comes all the same."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(
            f"POST /frames HTTP/1.1\r\nHost: localhost:{port}\r\nPodipc-Type: |u1\r\n"
            "Podipc-Shape: 10000000000\r\nContent-Length: 10000000000\r\n\r\n".encode()
        )
        sent, chunk = 0, bytes(MIB)
        with pytest.raises(ConnectionError):
            while sent < 10_000:
                sock.sendall(chunk)
                sent += 1
    assert sent < 10_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 * 1024
    assert post(port, {"Podipc-Shape": "200000"}, b"\0" * 1_600_000)[0] == 413


def test_slow_head_and_body(served, port, monkeypatch):
    from podipc import web

    monkeypatch.setattr(web, "HEAD_SECONDS", 0.3)
    monkeypatch.setattr(web, "BODY_SECONDS", 0.3)
    head = (
        f"POST /frames HTTP/1.1\r\nHost: localhost:{port}\r\nPodipc-Type: |u1\r\n"
        "Podipc-Shape: 1000\r\nContent-Length: 1000\r\n\r\n"
    )
    for text in (head[:30], head):
        with socket.create_connection(("127.0.0.1", port), 30) as sock, took_at_most(10):
            sock.sendall(text.encode())
            with pytest.raises((ConnectionError, EOFError)):
                while True:  # a byte now and then does not keep it
                    sock.send(b"x")
                    time.sleep(0.05)
                    sock.setblocking(False)
                    try:
                        if sock.recv(1000) == b"":
                            raise EOFError
                    except BlockingIOError:
                        pass
                    sock.setblocking(True)
    assert post(port)[0] == 200
    assert served.recv(30).shape == (2,)
    assert served.stats()["reserved"] == 0


def test_the_end_of_a_body_that_is_missing(served, port):
    with socket.create_connection(("127.0.0.1", port), 30) as sock:
        sock.sendall(
            f"POST /frames HTTP/1.1\r\nHost: localhost:{port}\r\nPodipc-Type: |u1\r\n"
            "Podipc-Shape: 1000\r\nContent-Length: 1000\r\n\r\nhalf".encode()
        )
        eventually(lambda: served.stats()["reserved"] == 1000, "its head was read")
    eventually(lambda: served.stats()["reserved"] == 0, "it was given up")
    with pytest.raises(podipc.Timeout):
        served.recv(0.1)


def test_many_connections(served, port):
    """More than it serves at once are turned away, and it goes on."""
    from podipc import web

    sockets = []
    try:
        for _ in range(web.Server.max_connections + 20):
            sockets.append(socket.create_connection(("127.0.0.1", port), 30))
        sockets[-1].settimeout(30)
        with pytest.raises((ConnectionError, AssertionError)):
            assert sockets[-1].recv(1) != b""
    finally:
        for sock in sockets:
            sock.close()

    def works():
        try:
            return post(port)[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    eventually(works, "it serves again")


def test_many_connections_at_once(name, port, monkeypatch):
    """They count from the moment on that they are accepted, not once their threads run."""
    from podipc import web

    go, setup = threading.Event(), web.Handler.setup

    def slow(self):
        go.wait(30)
        setup(self)

    monkeypatch.setattr(web.Handler, "setup", slow)
    monkeypatch.setattr(web.Server, "max_connections", 2)
    with podipc.receiver(name), contextlib.ExitStack() as stack:
        sockets = [
            stack.enter_context(socket.create_connection(("127.0.0.1", port), 30)) for _ in range(5)
        ]
        try:
            for sock in sockets[2:]:
                assert sock.recv(1) == b""
        finally:
            go.set()


def test_no_room_for_a_thread(spawn, name):
    """As with a limit of pids: it is deaf for as long as that lasts, and not for ever."""
    child = spawn(
        "import resource, threading\n"
        "rx = podipc.receiver(args[0])\n"
        "pages = int(open('/proc/self/statm').read().split()[0])\n"
        "threading.stack_size(1 << 30)\n"
        "limit = pages * os.sysconf('SC_PAGESIZE') + (256 << 20)\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, -1))\n"
        "say('open')\n"
        "hear()\n"
        "threading.stack_size(0)\n"
        "say(rx.recv(30).tolist())\n"
        "rx.close()\n",
        name,
    )
    child.expect("open")
    with podipc.sender(name) as tx:
        with pytest.raises(podipc.Timeout):
            tx.send(np.arange(3), 0.3)
        child.tell("go")
        tx.send(np.arange(3), 30)
        child.expect([0, 1, 2])
    child.end()


@pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root for a memory limit")
def test_past_the_memory_limit_of_the_receiver(spawn, name):
    """The sender is told, and nobody is killed: not by a large tensor, nor by several."""
    with memory_limit(160 * MIB) as procs:
        child = spawn(
            "import peers\n"
            "with open(args[0], 'w') as f:\n"
            "    f.write(str(os.getpid()))\n"
            "peers.agent('receiver', args[1], {'max_bytes': 1 << 30})\n",
            str(procs),
            name,
        )
        assert child.answer() == "open"
        with podipc.sender(name) as tx:
            with pytest.raises(podipc.MemoryLimit, match="receiver's container has"):
                tx.send(np.zeros(256 * MIB, "u1"), 30)
            tx.send(payload.make(1, 0), 30)
            tx.send(np.zeros(80 * MIB, "u1"), 30)
            with pytest.raises(podipc.MemoryLimit, match="receiver's container has"):
                tx.send(np.zeros(80 * MIB, "u1"), 30)
            tx.send(payload.make(1, 1), 30)
            assert tx.stats()["queued"] == 3
            assert child.do("recv") == [1, 0]
        child.do("close")
        child.end()


def test_a_sender_that_repeats_itself(served, port):
    """A number that was had already is refused: no tensor comes twice."""
    who = {"Podipc-Sender": "me"}
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("POST", "/frames", b"", {"Podipc-Do": "join", **who})
    assert connection.getresponse().read() == b""
    for number, status in [(0, 200), (1, 200), (1, 409)]:
        fields = {**GOOD, **who, "Podipc-Sequence": str(number)}
        connection.request("POST", "/frames", b"\0" * 16, fields)
        answer = connection.getresponse()
        answer.read()
        assert answer.status == status
    connection.close()
    assert served.recv(30).shape == served.recv(30).shape == (2,)
    with pytest.raises(podipc.PeerDied):
        served.recv(30)


def test_an_error_of_a_child_is_passed_on(spawn, name):
    """`Failed` of the harness is what it seems to be."""
    child = agent(spawn, "sender", name)
    with pytest.raises(Failed, match="Timeout"):
        child.do("send", 1, 0, 16, 0.1)


def test_a_receiver_that_can_start_no_thread_goes_on_when_it_can(name, monkeypatch):
    """Of a container with a limit of processes, for example."""
    left = [3]
    start = threading.Thread.start

    def refused(thread):
        if left[0] and "process_request_thread" in thread.name:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        start(thread)

    with podipc.receiver(name) as rx:
        monkeypatch.setattr(threading.Thread, "start", refused)
        with podipc.sender(name) as tx:
            tx.send(np.arange(3), 30)
            assert list(rx.recv(30)) == [0, 1, 2]
    assert left == [0]


def test_a_timeout_is_a_number(name):
    with podipc.receiver(name) as rx, pytest.raises(TypeError, match="real number, not str"):
        rx.recv("0")
