"""What holds for every method of communication, between real processes."""

import collections
import contextlib
import os
import random
import signal
import threading
import time

import numpy as np
import payload
import peers
import pytest
from support import PATIENCE, Failed, eventually, free_port, killed, took_at_most

import podipc

METHODS = ["shm", "tcp", "unix", "fifo", "file", "http"]
ONE_RECEIVER = {"tcp", "unix", "fifo", "http"}  # it owns the port or path

pytestmark = pytest.mark.filterwarnings("ignore:.*will reach nobody:RuntimeWarning")


def address_of(method, place):
    match method:
        case "tcp":
            return f"tcp://127.0.0.1:{free_port()}"
        case "http":
            return f"http://127.0.0.1:{free_port()}/x"
        case _:
            return f"{method}://{place}/x"


@pytest.fixture
def method(request):
    return request.param


@pytest.fixture
def address(method, podipc_dir):
    return address_of(method, podipc_dir.parent)


def pytest_generate_tests(metafunc):
    if "method" in metafunc.fixturenames and not any(
        "method" in str(m.args[0]) for m in metafunc.definition.iter_markers("parametrize")
    ):
        metafunc.parametrize("method", METHODS, indirect=True)


def agent(spawn, role, address, **options):
    child = spawn(peers.agent, role, address, options)
    assert child.answer() == "open"
    return child


# --- joining and leaving ------------------------------------------------------


@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_any_start_order(spawn, address, first):
    words = {"sender": ["send", 3, 0], "receiver": ["recv"]}
    second = "receiver" if first == "sender" else "sender"
    one = agent(spawn, first, address)
    one.start(*words[first])
    time.sleep(0.2)
    two = agent(spawn, second, address)
    two.start(*words[second])
    for child in (one, two):
        assert child.answer() in (1, [3, 0])
    for child in (one, two):
        child.do("close")
        child.end()


def test_sender_restarts(spawn, address):
    with podipc.receiver(address) as rx:
        for life in range(5):
            child = agent(spawn, "sender", address)
            for number in range(3):
                assert child.do("send", life, number) == 1
            child.do("close")
            child.end()
            assert [payload.check(x) for x in rx] == [(life, number) for number in range(3)]


def test_receiver_restarts(spawn, address):
    with podipc.sender(address) as tx:
        for life in range(5):
            child = agent(spawn, "receiver", address)
            child.start("recv")
            tx.send(payload.make(1, life), 30)
            assert child.answer() == [1, life]
            child.do("close")
            child.end()


@pytest.mark.parametrize("method", sorted({*METHODS} - {"fifo"}), indirect=True)
@pytest.mark.parametrize("senders", [2, 4])
def test_many_senders(spawn, address, method, senders):
    """Each tensor once, in the order of its sender."""
    count = 100
    with podipc.receiver(address) as rx:
        children = [agent(spawn, "sender", address) for _ in range(senders)]
        for number in range(count):
            for who, child in enumerate(children):
                child.start("send", who, number, 3 + 100 * (number % 7))
        got = collections.defaultdict(list)
        for _ in range(senders * count):
            who, number = payload.check(rx.recv(PATIENCE))
            got[who].append(number)
        assert got == {who: list(range(count)) for who in range(senders)}
        for child in children:
            for _ in range(count):
                assert child.answer() == 1
            child.do("close")
            child.end()
        with pytest.raises(podipc.Closed):
            rx.recv(30)


@pytest.mark.parametrize("method", ["fifo"], indirect=True)
def test_senders_of_a_fifo_take_turns(spawn, address, method):
    """A FIFO is one sender's: another waits until that has closed."""
    with podipc.receiver(address) as rx:
        one, two = agent(spawn, "sender", address), agent(spawn, "sender", address)
        one.do("send", 1, 0)
        with pytest.raises(Failed, match=r"Timeout: .* Another sender has the FIFO"):
            two.do("send", 2, 0, 16, 0.3)
        two.start("send", 2, 0)
        assert payload.check(rx.recv(30)) == (1, 0)
        one.do("close")
        one.end()
        got = []
        while not got:
            with contextlib.suppress(podipc.Closed):
                got.append(payload.check(rx.recv(30)))
        assert got == [(2, 0)]
        assert two.answer() == 1
        two.do("close")
        two.end()


@pytest.mark.parametrize("method", ["shm", "file"], indirect=True)
def test_many_receivers(spawn, address, method):
    count = 200
    children = [agent(spawn, "receiver", address) for _ in range(3)]
    with podipc.sender(address) as tx:
        for child in children:
            child.start("drain")
        eventually(lambda: tx.stats()["peers"] == 3, "all have joined")
        for number in range(count):
            tx.send(payload.make(1, number), 30)
    got = [child.answer() for child in children]
    assert sorted(number for of_one in got for _, number in of_one) == list(range(count))
    for of_one in got:
        assert of_one == sorted(of_one)
    for child in children:
        child.do("close")
        child.end()


@pytest.mark.parametrize("method", sorted(ONE_RECEIVER), indirect=True)
def test_a_second_receiver_is_told(spawn, address, method):
    with podipc.receiver(address):
        child = spawn(peers.agent, "receiver", address)
        with pytest.raises(Failed) as failed:
            child.answer()
        assert failed.value.name == "AddressInUse"
        at = address.partition("://")[2]
        assert (at if at.startswith("/") else at[10:].partition("/")[0]) in failed.value.text
        child.end()
    podipc.receiver(address).close()


def test_opening_and_closing_leaves_nothing(address):
    for opener in (podipc.sender, podipc.receiver) * 3:
        endpoint = opener(address)
        assert endpoint.address == address
        assert not endpoint.closed
        endpoint.close()
        endpoint.close()
        assert endpoint.closed


def test_end_of_the_iteration(spawn, address):
    child = agent(spawn, "receiver", address)
    child.start("drain")
    with podipc.sender(address) as tx:
        for number in range(50):
            tx.send(payload.make(1, number, 1000), 30)
    assert child.answer() == [[1, number] for number in range(50)]
    child.do("close")
    child.end()


# --- waits ----------------------------------------------------------------------


def test_timeouts(address, method):
    with podipc.sender(address) as tx:
        start = time.monotonic()
        with took_at_most(5), pytest.raises(podipc.Timeout) as caught:
            tx.send(np.zeros(3), 0.3)
        assert time.monotonic() - start >= 0.3
        assert "receiver" in str(caught.value)
        with took_at_most(5), pytest.raises(podipc.Timeout):
            tx.send(np.zeros(3), 0)
    with podipc.receiver(address) as rx:
        start = time.monotonic()
        with took_at_most(5), pytest.raises(podipc.Timeout) as caught:
            rx.recv(0.3)
        assert time.monotonic() - start >= 0.3
        assert "sender" in str(caught.value)
        with took_at_most(5), pytest.raises(podipc.Timeout):
            rx.recv(0)


def test_a_timeout_while_a_large_tensor_is_under_way(spawn, address):
    """The receiver does not read: the send times out, and later ones are whole."""
    child = agent(spawn, "receiver", address)
    with podipc.sender(address, max_bytes=64 << 20) as tx:
        tx.send(payload.make(1, 0), 30)
        assert child.do("recv") == [1, 0]
        child.signal(signal.SIGSTOP)
        number = 1
        with pytest.raises(podipc.Timeout):
            while number < 40:
                tx.send(payload.make(1, number, 1 << 19), 0.5)
                number += 1
        child.signal(signal.SIGCONT)
        sent = number
        for _ in range(sent):
            child.start("recv")
        tx.send(payload.make(1, 1000), 30)
        assert [child.answer()[1] for _ in range(sent)] == [*range(1, sent), 1000]
        child.do("close")
        child.end()


@pytest.mark.parametrize(
    ("role", "verb"), [("receiver", "recv"), ("receiver", "iterate"), ("sender", "send")]
)
def test_ctrl_c(spawn, address, role, verb):
    child = spawn(peers.interrupted, role, address, verb)
    child.expect("open")
    child.tell("go")
    child.expect("waiting")
    time.sleep(0.2)
    with took_at_most(3):
        child.signal(signal.SIGINT)
        child.expect("interrupted")
    assert child.hear() >= 0.15
    child.tell("on")
    assert child.hear() == 0
    child.expect("closed")
    child.end()


@pytest.mark.parametrize("role", ["receiver", "sender"])
def test_an_idle_wait_costs_little(spawn, address, role):
    child = spawn(
        "endpoint = getattr(podipc, args[0])(args[1])\n"
        "start = time.process_time()\n"
        "try:\n"
        "    endpoint.recv(2.0) if args[0] == 'receiver' else endpoint.send(np.zeros(3), 2.0)\n"
        "except podipc.Timeout:\n"
        "    say(time.process_time() - start)\n"
        "endpoint.close()\n",
        role,
        address,
    )
    assert child.hear() < 0.2
    child.end()


@pytest.mark.parametrize("what", ["recv", "send"])
def test_close_ends_the_wait_of_another_thread(address, what):
    endpoint = podipc.receiver(address) if what == "recv" else podipc.sender(address)
    met = []

    def work():
        try:
            endpoint.recv() if what == "recv" else endpoint.send(np.zeros(3))
        except podipc.PodipcError as error:
            met.append(type(error))

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.2)
    with took_at_most(5):
        endpoint.close()
        worker.join()
    assert met == [podipc.Closed]


def test_threads(spawn, address):
    """Four threads send through one sender, and four receive from one receiver."""
    child = spawn(peers.threads, address, 4)
    child.expect("open")
    count = 100
    with podipc.sender(address) as tx:

        def work(who):
            for number in range(count):
                tx.send(payload.make(who, number, 500), 30)

        workers = [threading.Thread(target=work, args=(who,)) for who in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    got = child.hear()
    assert sorted(map(tuple, got)) == [(who, n) for who in range(4) for n in range(count)]
    child.end()


# --- deaths ---------------------------------------------------------------------


def test_dead_sender(spawn, address):
    with podipc.receiver(address) as rx:
        child = agent(spawn, "sender", address)
        for number in range(3):
            child.do("send", 1, number)
        child.kill()
        for number in range(3):
            assert payload.check(rx.recv(30)) == (1, number)
        with pytest.raises(podipc.PeerDied):
            rx.recv(30)
        with pytest.raises(podipc.Timeout):
            rx.recv(0.3)
        child = agent(spawn, "sender", address)
        child.do("send", 2, 0)
        assert payload.check(rx.recv(30)) == (2, 0)
        child.do("close")
        child.end()


def test_dead_receiver(spawn, address):
    """PeerDied at the latest when there is no room left; then on with the next."""
    with podipc.sender(address, max_bytes=16 << 20) as tx:
        child = agent(spawn, "receiver", address)
        child.start("hold")
        tx.send(payload.make(1, 0), 30)
        assert child.answer() == [1, 0]
        child.kill()
        number = 1
        with took_at_most(20), pytest.raises(podipc.PeerDied):
            while True:
                tx.send(payload.make(1, number, 1 << 16), 10)
                number += 1
        child = agent(spawn, "receiver", address)
        tx.send(payload.make(1, 10_000), 30)
        last = 0
        while last != 10_000:
            who, n = child.do("recv")
            assert (who, n > last) == (1, True)
            last = n
        child.do("close")
        child.end()
        assert tx.stats()["peers_died"] == 1


def test_sender_killed_at_random(spawn, address):
    """Mid-tensor or not: what arrives is whole and in order, then PeerDied, once."""
    rng = random.Random(7)
    with podipc.receiver(address) as rx:
        for life in range(6):
            child = spawn(peers.flood, address, life, rng.choice([3, 5_000, 200_000]))
            child.expect("open")
            assert payload.check(rx.recv(PATIENCE)) == (life, 0)
            expected = 1
            at = time.monotonic() + rng.uniform(0, 0.1)
            with pytest.raises(podipc.PeerDied):
                while True:
                    if at and time.monotonic() > at:
                        child.signal(signal.SIGKILL)
                        killed.append(child.pid)
                        at = None
                    assert payload.check(rx.recv(PATIENCE)) == (life, expected)
                    expected += 1
            child.process.wait(PATIENCE)


def test_both_killed_and_restarted(spawn, address):
    """The name, port or path is free for use, and nothing old comes as new."""
    for life in range(4):
        rx, tx = agent(spawn, "receiver", address), agent(spawn, "sender", address)
        rx.start("recv")
        assert tx.do("send", life, 0) == 1
        assert rx.answer() == [life, 0]
        tx.kill()
        rx.kill()
    podipc.receiver(address).close()


# --- fork -----------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_handle_in_a_forked_child(address):
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        tx.send(payload.make(1, 0), 30)
        reading, writing = os.pipe()
        pid = os.fork()
        if pid == 0:
            met = []
            for call in (lambda: tx.send(np.zeros(3), 1), lambda: rx.recv(1)):
                try:
                    met.append(str(call()))
                except BaseException as error:
                    met.append(type(error).__name__)
            os.write(writing, " ".join(met).encode())
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading, "rb") as stream:
            assert stream.read() == b"ForkedHandle ForkedHandle"
        os.waitpid(pid, 0)
        assert payload.check(rx.recv(30)) == (1, 0)
        tx.send(payload.make(1, 1), 30)
        assert payload.check(rx.recv(30)) == (1, 1)


def test_a_forked_child_does_not_hide_the_death(spawn, address):
    with podipc.receiver(address) as rx:
        child = spawn(peers.forker, address)
        grandchild = child.hear()
        assert payload.check(rx.recv(30)) == (1, 0)
        child.kill()
        try:
            with took_at_most(20), pytest.raises(podipc.PeerDied):
                rx.recv(PATIENCE)
        finally:
            os.kill(grandchild, signal.SIGKILL)


# --- memory ---------------------------------------------------------------------


def test_loan_and_empty(address):
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        with tx.loan((3, 4), "int16", timeout=30) as out:
            out[:] = np.arange(12).reshape(3, 4)
        assert np.array_equal(rx.recv(30), np.arange(12).reshape(3, 4))
        with pytest.raises(ZeroDivisionError), tx.loan(3, timeout=30):
            raise ZeroDivisionError
        a = tx.empty(5, "i4", timeout=30)
        a[:] = 7
        assert tx.send(a, 30) == 1
        assert rx.recv(30).tolist() == [7] * 5


def test_kinds_of_received_arrays(address):
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        for how in ({}, {"copy": True}, {"writable": True}, {"copy": True, "writable": True}):
            tx.send(payload.make(1, 0, 1000), 30)
            x = rx.recv(30, **how)
            assert payload.check(x) == (1, 0)
            assert x.flags.writeable == bool(how)
            if how:
                x[:] = 0
                assert not x.any()


def test_arrays_outlive_everything(address):
    rx, tx = podipc.receiver(address), podipc.sender(address)
    kept = []
    for number in range(8):
        tx.send(payload.make(1, number, 5000), 30)
        kept.append(rx.recv(30, writable=number % 2 == 1))
    tx.close()
    rx.close()
    del rx, tx
    assert [payload.check(x)[1] for x in kept] == list(range(8))


def test_larger_than_the_budget_of_the_sender(address):
    with podipc.sender(address, max_bytes=1 << 20) as tx, took_at_most(10):
        with pytest.raises(podipc.MemoryLimit) as caught:
            tx.empty(1 << 21, "u1", timeout=5)
        assert "max_bytes" in str(caught.value)
        assert caught.value.need >= 1 << 21
        assert caught.value.have == 1 << 20


@pytest.mark.parametrize("method", ["tcp", "unix", "fifo", "http"], indirect=True)
def test_larger_than_the_budget_of_the_receiver(spawn, address, method):
    """The sender is told, or, where there is no way back, the receiver; both can go on."""
    child = agent(spawn, "sender", address)
    with podipc.receiver(address, max_bytes=1 << 20) as rx:
        child.start("send", 1, 0, 1 << 18, 5)
        met = []
        try:
            rx.recv(1)
        except podipc.PodipcError as error:
            met.append(type(error).__name__)
        try:
            child.answer()
        except Failed as failed:
            met.append(failed.name)
        assert "MemoryLimit" in met
        child.start("send", 1, 1)
        got = None
        while got is None:
            with contextlib.suppress(podipc.PeerDied, podipc.MemoryLimit, podipc.Closed):
                got = payload.check(rx.recv(30))
        assert got == (1, 1)
        assert child.answer() == 1
        child.do("close")
        child.end()


# --- what is at the path ----------------------------------------------------------


def meets(role, address):
    """What opening and using it raises."""
    with pytest.raises(podipc.PodipcError) as caught, getattr(podipc, role)(address) as endpoint:
        if role == "sender":
            endpoint.send(np.zeros(3), 0.2)
        else:
            endpoint.recv(0.2)
    return caught.value


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("method", ["unix", "fifo", "file"], indirect=True)
def test_a_file_at_the_path(method, podipc_dir, role):
    """Refused by name, and it stays as it is."""
    at = podipc_dir.parent / "thing"
    at.write_text("mine")
    assert str(at) in str(meets(role, f"{method}://{at}"))
    assert at.read_text() == "mine"
    at.unlink()


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("method", ["unix", "fifo"], indirect=True)
def test_a_directory_at_the_path(method, podipc_dir, role):
    at = podipc_dir.parent / "thing"
    at.mkdir()
    assert str(at) in str(meets(role, f"{method}://{at}"))
    at.rmdir()


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("method", ["unix", "fifo", "file"], indirect=True)
def test_a_symlink_at_the_path(method, podipc_dir, role):
    """It is not followed: who may write the volume must not lead us elsewhere."""
    at, target = podipc_dir.parent / "thing", podipc_dir.parent / "target"
    target.mkdir()
    at.symlink_to(target)
    assert str(at) in str(meets(role, f"{method}://{at}"))
    assert not list(target.iterdir())
    at.unlink()
    target.rmdir()


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("method", ["unix", "fifo"], indirect=True)
def test_a_missing_directory(method, podipc_dir, role):
    """The volume is not mounted there."""
    at = podipc_dir.parent / "deeper" / "x"
    assert str(at) in str(meets(role, f"{method}://{at}"))


@pytest.mark.parametrize("method", ["tcp", "http"], indirect=True)
def test_a_port_in_use(address, method):
    import socket

    port = int(address.rpartition(":")[2].partition("/")[0])
    with socket.socket() as s:
        s.bind(("127.0.0.1", port))
        s.listen()
        with pytest.raises(podipc.AddressInUse) as caught:
            podipc.receiver(address)
        assert str(port) in str(caught.value)
        assert isinstance(caught.value, OSError)


@pytest.mark.parametrize("role", ["sender", "receiver"])
@pytest.mark.parametrize("method", ["tcp", "unix"], indirect=True)
@pytest.mark.parametrize("bytes_", [b"GET / HTTP/1.1\r\n\r\n", bytes(64), b"\xff" * 4096, b""])
def test_a_stranger_on_the_other_end(address, method, role, bytes_):
    """Neither side takes what does not speak podipc for a peer, nor is it harmed by it."""
    import socket

    def new():
        if method == "tcp":
            return socket.socket(), ("127.0.0.1", int(address.rpartition(":")[2]))
        return socket.socket(socket.AF_UNIX), address.removeprefix("unix://")

    s, at = new()
    with s:
        if role == "sender":  # a stranger connects to our receiver
            with podipc.receiver(address) as rx:
                s.connect(at)
                s.sendall(bytes_)
                with pytest.raises((podipc.Timeout, podipc.CorruptSegment, podipc.VersionMismatch)):
                    rx.recv(0.3)
                with podipc.sender(address) as tx:
                    tx.send(payload.make(1, 0), 30)
                    while True:
                        try:
                            assert payload.check(rx.recv(30)) == (1, 0)
                            break
                        except (podipc.CorruptSegment, podipc.VersionMismatch):
                            pass
            return
        s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        s.bind(at)
        s.listen()
        s.settimeout(30)
        with podipc.sender(address) as tx:

            def serve():
                peer, _ = s.accept()
                with peer:
                    peer.sendall(bytes_)
                    peer.settimeout(2)
                    try:
                        while peer.recv(4096):
                            pass
                    except OSError:
                        pass

            worker = threading.Thread(target=serve)
            worker.start()
            with took_at_most(20), pytest.raises(podipc.PodipcError) as caught:
                tx.send(np.zeros(3), 1)
            assert not isinstance(caught.value, podipc.Closed)
        worker.join()
    if method == "unix":
        os.unlink(at)
