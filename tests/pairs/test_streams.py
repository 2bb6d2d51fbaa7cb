"""tcp, unix and fifo between processes: any order, deaths, restarts, strangers, limits."""

import contextlib
import os
import signal
import socket
import stat
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import payload
import peers
import pytest
from support import PATIENCE, Failed, eventually, free_port, took_at_most, unique_name

import podipc

MANY_SENDERS = ["tcp", "unix"]
LARGE = 8 << 20
"""Words of a tensor that fits no buffer of the kernel (TCP takes up to 36 MiB)."""


def make_address(method, tmp_path):
    if method == "tcp":
        return f"tcp://127.0.0.1:{free_port()}"
    return f"{method}://{tmp_path}/x.{method}"


def path_of(address):
    return Path(address.partition("://")[2])


@pytest.fixture(params=["tcp", "unix", "fifo"])
def address(request, tmp_path):
    yield make_address(request.param, tmp_path)
    left = [p.name for p in tmp_path.iterdir() if not p.name.startswith("kept")]
    assert not left, "left behind"


def agent(spawn, role, address, **options):
    child = spawn(peers.agent, role, address, options)
    assert child.answer() == "open"
    return child


def forget(address):
    """What a killed receiver leaves goes when the next one closes."""
    podipc.receiver(address).close()


# ---- order of starting, what arrives ----


@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_any_order(spawn, address, first):
    if first == "sender":
        tx = agent(spawn, "sender", address)
        tx.start("send", 1, 0)
        assert tx.silent(0.2)
        rx = agent(spawn, "receiver", address)
        tx.answer()
    else:
        rx = agent(spawn, "receiver", address)
        rx.start("recv")
        assert rx.silent(0.2)
        tx = agent(spawn, "sender", address)
        tx.do("send", 1, 0)
        assert rx.answer() == [1, 0]
        tx.do("send", 1, 0)
    assert rx.do("recv") == [1, 0]
    tx.do("close")
    assert rx.do("drain") == []
    rx.do("close")
    rx.end()
    tx.end()


@pytest.mark.parametrize("words", [3, 500, 520, 10_000, 100_000, 8 << 20])
def test_sizes(spawn, address, words):
    count = 3 if words > 100_000 else 20
    with podipc.receiver(address) as rx:
        child = agent(spawn, "sender", address)
        for number in range(count):
            child.start("send", 1, number, words)
            assert payload.check(rx.recv(PATIENCE)) == (1, number)
            child.answer()
        child.do("close")
        with pytest.raises(podipc.Closed):
            rx.recv(PATIENCE)
        child.end()


@pytest.mark.parametrize(
    "array",
    [
        np.float64(3.5),
        np.zeros((0, 7), "c8"),
        np.arange(24).reshape(2, 3, 4, order="F"),
        np.arange(100)[::-3],
        np.ones((1,) * 32, "bool"),
        np.array([(1, 2.5)], [("a", "i4"), ("b", "f2")]),
        np.array(["2024-01-01"], "M8[D]"),
    ],
    ids=["scalar", "empty", "fortran", "strided", "32-d", "structured", "datetime"],
)
def test_kinds(address, array):
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        assert tx.send(array, PATIENCE) == 1
        got = rx.recv(PATIENCE)
        assert got.dtype == np.asarray(array).dtype
        assert got.shape == np.shape(array)
        assert np.array_equal(got, array)
        assert not got.flags.writeable
        assert rx.stats()["messages"] == tx.stats()["messages"] == 1


def test_loan_and_copies(address):
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        with tx.loan((4, 5), "f4") as out:
            out[:] = 7
        with pytest.raises(ZeroDivisionError), tx.loan((4, 5), "f4") as out:
            1 / 0  # noqa: B018
        a = tx.empty((3,), "i2")
        a[:] = 5
        tx.send(a)
        assert not a.flags.writeable
        assert (rx.recv(PATIENCE) == np.full((4, 5), 7, "f4")).all()
        got = rx.recv(PATIENCE, writable=True)
        got[0] = 1
        assert got.tolist() == [1, 5, 5]
        tx.send(np.arange(3))
        assert rx.recv(PATIENCE, copy=True).tolist() == [0, 1, 2]


def test_arrays_outlive_the_receiver(address):
    with podipc.sender(address) as tx:
        rx = podipc.receiver(address)
        for number in range(3):
            tx.send(payload.make(1, number), PATIENCE)
        kept = [rx.recv(PATIENCE) for _ in range(3)]
        rx.close()
        del rx
        assert [payload.check(x) for x in kept] == [(1, 0), (1, 1), (1, 2)]


@pytest.mark.parametrize("method", MANY_SENDERS)
def test_many_senders(spawn, method, tmp_path):
    """Order is kept per sender, and nobody is kept out by those who are busy."""
    address = make_address(method, tmp_path)
    with podipc.receiver(address) as rx:
        floods = [spawn(peers.flood, address, who, 2000) for who in range(4)]
        expected = [0] * 4
        while min(expected) < 100:
            who, number = payload.check(rx.recv(PATIENCE))
            assert number == expected[who]
            expected[who] += 1
            assert max(expected) < 20_000, f"not fair: {expected}"
        for child in floods:
            child.kill()
        died = 0
        while died < 4:
            try:
                who, number = payload.check(rx.recv(PATIENCE))
            except podipc.PeerDied:
                died += 1
            else:
                assert number == expected[who]
                expected[who] += 1
        assert rx.stats()["peers"] == 0


# ---- deaths and restarts ----


def test_dead_sender(spawn, address):
    with podipc.receiver(address) as rx:
        for life in range(3):
            child = agent(spawn, "sender", address)
            for number in range(5):
                child.do("send", life, number)
            child.kill()
            for number in range(5):
                assert payload.check(rx.recv(PATIENCE)) == (life, number)
            with pytest.raises(podipc.PeerDied, match="went away without closing"):
                rx.recv(PATIENCE)
            with pytest.raises(podipc.Timeout, match="No sender is connected"):
                rx.recv(0.1)
        assert rx.stats()["peers_died"] == 3


def test_dead_sender_in_mid_tensor_ends_the_wait(spawn, address):
    with podipc.receiver(address) as rx:
        child = agent(spawn, "sender", address)
        child.start("send", 1, 0, 16 << 20)
        eventually(lambda: _times_out(rx) and rx.stats()["reserved"], "the tensor has begun")
        child.kill()
        with took_at_most(10), pytest.raises(podipc.PeerDied, match="in the middle"):
            rx.recv(PATIENCE)


def _times_out(rx):
    with pytest.raises(podipc.Timeout):
        rx.recv(0)
    return True


def test_dead_receiver(spawn, address):
    with podipc.sender(address) as tx:
        for life in range(3):
            child = agent(spawn, "receiver", address)
            tx.send(payload.make(life, 0), PATIENCE)
            assert child.do("recv") == [life, 0]
            child.kill()
            with pytest.raises(podipc.PeerDied, match="went away without closing"):
                tx.send(payload.make(life, 1), PATIENCE)
            with pytest.raises(podipc.Timeout, match="No receiver listens"):
                tx.send(payload.make(life, 1), 0.1)
        assert tx.stats()["peers_died"] == 3
    forget(address)


def test_dead_receiver_ends_the_wait_for_room(spawn, address):
    with podipc.sender(address) as tx:
        child = agent(spawn, "receiver", address)
        tx.send(payload.make(1, 0), PATIENCE)
        assert child.do("recv") == [1, 0]
        timer = threading.Timer(0.2, child.kill)
        timer.start()
        with took_at_most(10), pytest.raises(podipc.PeerDied):
            tx.send(payload.make(1, 1, 8 << 20), PATIENCE)
        timer.join()
    forget(address)


def test_receiver_restarts_in_order(spawn, address):
    """One that closed having taken everything is no error; the next one goes on."""
    with podipc.sender(address) as tx:
        for life in range(3):
            child = agent(spawn, "receiver", address)
            for number in range(3):
                tx.send(payload.make(life, number), PATIENCE)
                assert child.do("recv") == [life, number]
            child.do("close")
            child.end()
        assert tx.stats()["peers_died"] == 0


def test_receiver_that_leaves_some_untaken(address):
    tx = podipc.sender(address)
    with podipc.receiver(address) as rx:
        for number in range(3):
            tx.send(payload.make(1, number), PATIENCE)
        rx.recv(PATIENCE)
    with pytest.raises(podipc.PeerDied):
        tx.send(payload.make(1, 3), PATIENCE)
    if address.startswith("fifo"):
        tx.close()
    else:
        with pytest.warns(RuntimeWarning, match="2 tensors"):
            tx.close()


def test_both_restart(spawn, address):
    for life in range(6):
        roles = ["sender", "receiver"] if life % 2 else ["receiver", "sender"]
        both = {role: agent(spawn, role, address) for role in roles}
        both["receiver"].start("recv")
        both["sender"].do("send", life, 7)
        assert both["receiver"].answer() == [life, 7]
        for child in both.values():
            child.kill()
    forget(address)


def test_stopped_receiver_is_a_timeout(spawn, address):
    with podipc.sender(address) as tx:
        child = agent(spawn, "receiver", address)
        tx.send(payload.make(1, 0), PATIENCE)
        assert child.do("recv") == [1, 0]
        child.signal(signal.SIGSTOP)
        big = payload.make(1, 1, LARGE)
        with pytest.raises(podipc.Timeout, match="does not receive"):
            tx.send(big, 0.3)
        child.signal(signal.SIGCONT)
        child.start("recv")
        tx.send(payload.make(1, 2), PATIENCE)
        assert child.answer() == [1, 2]
        child.do("close")
        child.end()


def test_forked_child_outlives_its_parent(spawn, address):
    with podipc.receiver(address) as rx:
        child = spawn(peers.forker, address)
        assert payload.check(rx.recv(PATIENCE)) == (1, 0)
        grandchild = child.hear()
        child.kill()
        try:
            with took_at_most(10), pytest.raises(podipc.PeerDied):
                rx.recv(PATIENCE)
        finally:
            os.kill(grandchild, signal.SIGKILL)


# ---- giving up ----


def test_timeout_in_mid_tensor(spawn, address):
    """What was given up is never seen, what follows is whole."""
    with podipc.sender(address) as tx, podipc.receiver(address) as rx:
        tx.send(payload.make(1, 0), PATIENCE)
        for _ in range(3):
            with pytest.raises(podipc.Timeout):
                tx.send(payload.make(1, 1, LARGE), 0.05)
        got = []
        reader = threading.Thread(
            target=lambda: got.extend(payload.check(rx.recv(PATIENCE)) for _ in range(4))
        )
        reader.start()
        for number in range(2, 5):
            tx.send(payload.make(1, number, 1000 * number), PATIENCE)
        reader.join()
        assert got == [(1, 0), (1, 2), (1, 3), (1, 4)]


@pytest.mark.parametrize("verb", ["recv", "recv timeout", "iterate", "send", "send big"])
def test_ctrl_c(spawn, address, verb):
    role = "sender" if verb.startswith("send") else "receiver"
    rx = podipc.receiver(address) if verb == "send big" else None
    child = spawn(peers.interrupted, role, address, verb)
    child.expect("open")
    child.tell("wait")
    child.expect("waiting")
    time.sleep(0.2)
    child.signal(signal.SIGINT)
    child.expect("interrupted")
    child.hear()
    child.tell("go on")
    child.hear()
    child.expect("closed")
    child.end()
    if rx:
        rx.close()


def test_idle_wait_costs_nothing(address):
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        tx.send(payload.make(1, 0), PATIENCE)
        rx.recv(PATIENCE)
        before = time.process_time()
        with pytest.raises(podipc.Timeout):
            rx.recv(1)
        assert time.process_time() - before < 0.1


def test_close_ends_the_wait_of_another_thread(address):
    rx = podipc.receiver(address)
    met = []

    def wait():
        try:
            rx.recv()
        except podipc.Closed as error:
            met.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    time.sleep(0.1)
    with took_at_most(5):
        rx.close()
        for thread in threads:
            thread.join()
    assert len(met) == 3


def test_threads(spawn, address):
    child = spawn(peers.threads, address, 3)
    child.expect("open")
    with podipc.sender(address) as tx:

        def work(who):
            for number in range(100):
                tx.send(payload.make(who, number, 16 + 5000 * who), PATIENCE)

        workers = [threading.Thread(target=work, args=(who,)) for who in range(3)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    got = sorted(map(tuple, child.hear()))
    assert got == [(who, number) for who in range(3) for number in range(100)]
    child.end()


# ---- limits ----


def test_larger_than_the_budget(address):
    with podipc.receiver(address, max_bytes=1 << 20) as rx, podipc.sender(address) as tx:
        big = np.zeros(1 << 18)
        if address.startswith("fifo"):  # no way back: the receiver says it
            with pytest.raises(podipc.Timeout):
                tx.send(big, 0.1)
            with pytest.raises(podipc.MemoryLimit) as caught:
                rx.recv(PATIENCE)
        else:
            with pytest.raises(podipc.MemoryLimit) as caught:
                tx.send(big, PATIENCE)
        assert (caught.value.need, caught.value.have) == (2 << 20, 1 << 20)
        assert "max_bytes" in str(caught.value)


def test_back_pressure(spawn, address):
    """A receiver that holds its budget receives no more, and goes on when it lets go."""
    with podipc.receiver(address, max_bytes=1 << 20) as rx:
        child = spawn(peers.flood, address, 1, 1 << 15)
        held = [rx.recv(PATIENCE)]
        with pytest.raises(podipc.Timeout, match="max_bytes"):
            while len(held) < 100:
                held.append(rx.recv(0.5))
        assert 2 <= len(held) <= 5
        assert [payload.check(x)[1] for x in held] == list(range(len(held)))
        number = len(held)
        held.clear()
        for _ in range(20):
            assert payload.check(rx.recv(PATIENCE)) == (1, number)
            number += 1
        child.kill()


# ---- strangers, and addresses that are not what they should be ----


@contextlib.contextmanager
def stranger(address, text):
    """Somebody who opens the address himself and writes something."""
    if address.startswith("fifo"):
        fd = os.open(path_of(address), os.O_WRONLY | os.O_NONBLOCK)
        os.write(fd, text)
        yield
        os.close(fd)
        return
    where = str(path_of(address))
    if address.startswith("tcp"):
        where = ("127.0.0.1", int(address.rpartition(":")[2]))
    with socket.socket(socket.AF_INET if address.startswith("tcp") else socket.AF_UNIX) as s:
        s.connect(where)
        s.sendall(text)
        yield


@pytest.mark.parametrize(
    "text",
    [b"GET / HTTP/1.1\r\n\r\n", b"\0" * 100, b"podipc\r\n" + b"x" * 90],
    ids=["http", "zeros", "other version"],
)
def test_stranger(address, text):
    with podipc.receiver(address) as rx:
        with stranger(address, text), pytest.raises(podipc.PodipcError) as caught:
            rx.recv(0.3)
        # The last one claims to be podipc, of some other version.
        other = text.startswith(b"podipc")
        assert isinstance(caught.value, podipc.VersionMismatch if other else podipc.Timeout)
        with podipc.sender(address) as tx:
            tx.send(payload.make(1, 0), PATIENCE)
            assert payload.check(rx.recv(PATIENCE)) == (1, 0)


def test_no_receiver_but_something_else():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def serve():
            with server.accept()[0] as s:
                s.recv(100)
                s.sendall(b"HTTP/1.1 400 Bad Request\r\n")
                s.recv(100)

        thread = threading.Thread(target=serve)
        thread.start()
        with (
            podipc.sender(f"tcp://127.0.0.1:{port}") as tx,
            pytest.raises(podipc.AddressError, match=r"HTTP/1\.1 400"),
        ):
            tx.send(np.zeros(3), PATIENCE)
        thread.join()


def test_taken(address):
    with podipc.receiver(address), pytest.raises(podipc.AddressInUse) as caught:
        podipc.receiver(address)
    assert isinstance(caught.value, OSError)
    assert "another" in str(caught.value)


def test_port_of_somebody_else():
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(podipc.AddressInUse, match=f"port {port} is taken by another process"):
            podipc.receiver(f"tcp://127.0.0.1:{port}")


def test_second_sender_of_a_fifo(spawn, tmp_path):
    address = make_address("fifo", tmp_path)
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        child = agent(spawn, "sender", address)
        child.do("send", 1, 0)
        assert payload.check(rx.recv(PATIENCE)) == (1, 0)
        with pytest.raises(podipc.Timeout, match=r"Another sender has the FIFO .* one at a time"):
            tx.send(payload.make(2, 0), 0.3)
        child.kill()
        with pytest.raises(podipc.PeerDied):
            rx.recv(PATIENCE)
        tx.send(payload.make(2, 0), PATIENCE)
        assert payload.check(rx.recv(PATIENCE)) == (2, 0)


@pytest.mark.parametrize("method", ["unix", "fifo"])
@pytest.mark.parametrize("what", ["regular file", "directory", "symbolic link", "socket", "FIFO"])
def test_wrong_kind_of_file(method, what, tmp_path):
    address, path = make_address(method, tmp_path), tmp_path / f"x.{method}"
    target = tmp_path / "target"
    match what:
        case "regular file":
            path.write_text("precious")
        case "directory":
            path.mkdir()
        case "symbolic link":
            target.write_text("precious")
            path.symlink_to(target)
        case "socket":
            with socket.socket(socket.AF_UNIX) as s:
                s.bind(str(path))
        case "FIFO":
            os.mkfifo(path)
    if (method, what) in [("unix", "socket"), ("fifo", "FIFO")]:
        podipc.receiver(address).close()  # nobody lives there: replaced
        return
    with pytest.raises(podipc.AddressError, match=f"is a {what}"):
        podipc.receiver(address)
    with podipc.sender(address) as tx, pytest.raises(podipc.AddressError, match=f"is a {what}"):
        tx.send(np.zeros(3), 1)
    assert path.lstat()
    if what in ("regular file", "symbolic link"):
        assert path.read_text() == "precious"


@pytest.mark.parametrize("method", ["unix", "fifo"])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o666])
def test_mode_whatever_the_umask(method, mode, tmp_path):
    address = make_address(method, tmp_path)
    before = os.umask(0o077)
    try:
        with podipc.receiver(address, mode=mode):
            assert stat.S_IMODE(path_of(address).lstat().st_mode) == mode
    finally:
        os.umask(before)


@pytest.mark.skipif(os.geteuid() != 0, reason="not possible here: needs root to be two users")
@pytest.mark.parametrize("method", ["unix", "fifo"])
def test_other_users(spawn, method):
    # Not tmp_path: only its owner may look into the directories above that.
    with tempfile.TemporaryDirectory(prefix=unique_name()) as place:
        os.chmod(place, 0o777)
        let_others_in(spawn, make_address(method, place))


def let_others_in(spawn, address):
    rx = spawn(peers.agent, "receiver", address, {"mode": 0o600}, uid=1001)
    assert rx.answer() == "open"
    tx = spawn(peers.agent, "sender", address, uid=1002)
    assert tx.answer() == "open"
    with pytest.raises(Failed, match=r"NotPermitted.*UID 1001.*UID 1002.*mode=0o666"):
        tx.do("send", 1, 0)
    rx.do("close")
    rx.end()
    rx = spawn(peers.agent, "receiver", address, {"mode": 0o666}, uid=1001)
    assert rx.answer() == "open"
    tx.do("send", 1, 0)
    assert rx.do("recv") == [1, 0]
    for child in (tx, rx):
        child.do("close")
        child.end()


@pytest.mark.parametrize("open_", [podipc.publisher, podipc.subscriber])
def test_no_broadcast(address, open_):
    with pytest.raises(podipc.AddressError, match="shm://"):
        open_(address)
