"""Two or more processes over shared memory: joining, order, sharing out, leaving, timeouts."""

import collections
import threading
import time

import numpy as np
import payload
import peers
import pytest
from support import Failed, eventually, took_at_most, unique_name

import podipc

WAITS = ["adaptive", "block", "spin", "semaphore"]


@pytest.fixture(params=WAITS)
def address(request):
    return f"shm://{unique_name()}?wait={request.param}"


@pytest.fixture
def name():
    return unique_name()


# --- joining ----------------------------------------------------------------


def test_there_and_back(spawn, address):
    child = spawn(peers.echo, address.replace("?", "-there?"), address.replace("?", "-back?"))
    with (
        podipc.sender(address.replace("?", "-there?")) as tx,
        podipc.receiver(address.replace("?", "-back?")) as rx,
    ):
        for number in range(1000):
            assert tx.send(payload.make(7, number), 30) == 1
            assert payload.check(rx.recv(30)) == (7, number)
    child.expect("open")
    child.end()


@pytest.mark.parametrize("one", ["adaptive", "block", "spin"])
@pytest.mark.parametrize("other", ["adaptive", "block", "spin"])
def test_sides_that_wait_differently(spawn, name, one, other):
    child = spawn(peers.agent, "receiver", f"{name}?wait={one}")
    assert child.answer() == "open"
    with podipc.sender(f"{name}?wait={other}") as tx:
        for number in range(5):
            child.start("recv")
            time.sleep(0.01 * (number % 2))
            tx.send(payload.make(1, number), 30)
            assert child.answer() == [1, number]
        child.do("close")
    child.end()


@pytest.mark.parametrize("semaphore", ["sender", "receiver"])
def test_semaphores_only_with_semaphores(name, semaphore):
    """Both sides are told."""
    waits = {"sender": "block", "receiver": "block", semaphore: "semaphore"}
    with (
        podipc.sender(f"{name}?wait={waits['sender']}") as tx,
        podipc.receiver(f"{name}?wait={waits['receiver']}") as rx,
    ):
        for call in (lambda: tx.send(np.zeros(3), 10), lambda: rx.recv(10)):
            with pytest.raises(podipc.AddressError, match="wait=semaphore"):
                call()
        with pytest.raises(podipc.Timeout, match="semaphore"):
            tx.send(np.zeros(3), 0.1)


@pytest.mark.parametrize("first", ["sender", "receiver"])
def test_any_start_order(spawn, name, first):
    second = "receiver" if first == "sender" else "sender"
    a = spawn(peers.agent, first, name)
    assert a.answer() == "open"
    a.start("send" if first == "sender" else "recv", *([3, 0] if first == "sender" else []))
    assert a.silent(0.3), "nobody is there yet"
    b = spawn(peers.agent, second, name)
    assert b.answer() == "open"
    assert b.do(*(["send", 3, 0] if second == "sender" else ["recv"])) in (1, [3, 0])
    assert a.answer() in (1, [3, 0])
    for child in (a, b):
        child.do("close")
        child.end()


@pytest.mark.parametrize("opener", [podipc.sender, podipc.receiver])
def test_opening_and_closing_alone_leaves_nothing(opener, name):
    for _ in range(20):
        endpoint = opener(name)
        assert not endpoint.closed
        assert endpoint.address == f"shm://{name}"
        endpoint.close()
        assert endpoint.closed
        endpoint.close()


@pytest.mark.parametrize("restarted", ["sender", "receiver"])
def test_restart_of_either_side(spawn, name, restarted):
    """Closed in order and started again, ten times, while the other side stays."""
    if restarted == "receiver":
        with podipc.sender(name) as tx:
            for number in range(10):
                child = spawn(peers.agent, "receiver", name)
                assert child.answer() == "open"
                child.start("recv")
                tx.send(payload.make(1, number), 30)
                assert child.answer() == [1, number]
                child.do("close")
                child.end()
        return
    with podipc.receiver(name) as rx:
        for number in range(10):
            child = spawn(peers.agent, "sender", name)
            assert child.answer() == "open"
            assert child.do("send", 1, number) == 1
            child.do("close")
            assert payload.check(rx.recv(30)) == (1, number)
            with pytest.raises(podipc.Closed):
                rx.recv(30)
            child.end()


def test_directory_on_a_volume(spawn, tmp_path):
    address = f"shm://{tmp_path}/deep/channel"
    (tmp_path / "deep").mkdir()
    child = spawn(peers.agent, "receiver", address)
    assert child.answer() == "open"
    with podipc.sender(address) as tx:
        tx.send(payload.make(1, 0), 30)
        assert child.do("recv") == [1, 0]
        child.do("close")
    child.end()
    assert not (tmp_path / "deep" / "channel").exists()


def test_a_directory_of_the_users_stays(tmp_path):
    """With its mode; podipc removes what it has made."""
    made = tmp_path / "made"
    made.mkdir()
    made.chmod(0o2775)
    for _ in range(2):
        with podipc.sender(f"shm://{made}") as tx, podipc.receiver(f"shm://{made}") as rx:
            tx.send(payload.make(1, 0), 30)
            assert payload.check(rx.recv(30)) == (1, 0)
        assert made.stat().st_mode & 0o7777 == 0o2775
        assert list(made.iterdir()) == []


def test_channels_do_not_mix(spawn, name):
    with (
        podipc.receiver(f"{name}-a") as a,
        podipc.receiver(f"{name}-b") as b,
        podipc.sender(f"{name}-b") as tx,
    ):
        tx.send(payload.make(1, 5), 30)
        with pytest.raises(podipc.Timeout):
            a.recv(0.2)
        assert payload.check(b.recv(30)) == (1, 5)


# --- order and sharing out --------------------------------------------------


def test_many_in_order(spawn, name):
    """More than any ring holds, in sizes from three words to a megabyte."""
    child = spawn(peers.agent, "receiver", name)
    assert child.answer() == "open"
    child.start("drain")
    rng = np.random.default_rng(1)
    sizes = [int(2 ** rng.uniform(2, 17)) for _ in range(2000)]
    with podipc.sender(name) as tx:
        for number, words in enumerate(sizes):
            tx.send(payload.make(2, number, words), 30)
    assert child.answer() == [[2, number] for number in range(len(sizes))]
    child.do("close")
    child.end()


@pytest.mark.parametrize(("senders", "receivers"), [(1, 3), (3, 1), (3, 2)])
def test_n_by_m(spawn, name, senders, receivers):
    """Each tensor goes to exactly one receiver, in the order of its sender."""
    count = 300
    rxs = [spawn(peers.agent, "receiver", name) for _ in range(receivers)]
    txs = [spawn(peers.agent, "sender", name) for _ in range(senders)]
    for child in rxs + txs:
        assert child.answer() == "open"
    for child in rxs:
        child.do("peers", senders)
    for child in txs:
        child.do("peers", receivers)
    for child in rxs:
        child.start("drain")
    for number in range(count):
        for who, child in enumerate(txs):
            child.start("send", who, number)
    for child in txs:
        for _ in range(count):
            assert child.answer() == 1
        child.do("close")
    got = [child.answer() for child in rxs]
    everything = collections.Counter(tuple(x) for of_one in got for x in of_one)
    assert everything == {(who, n): 1 for who in range(senders) for n in range(count)}
    for of_one in got:
        for who in range(senders):
            numbers = [n for w, n in of_one if w == who]
            assert numbers == sorted(numbers)
    assert all(got), "every receiver gets a share"
    for child in rxs + txs:
        child.do("close")
        child.end()


def test_a_late_receiver_gets_its_share(spawn, name):
    with podipc.sender(name) as tx:
        first = spawn(peers.agent, "receiver", name)
        tx.send(payload.make(0, 0), 30)
        assert first.answer() == "open"
        assert first.do("recv") == [0, 0]
        second = spawn(peers.agent, "receiver", name)
        assert second.answer() == "open"
        eventually(lambda: tx.stats()["peers"] == 2, "both joined")
        for child in (first, second):
            child.start("recv")
        for number in (1, 2):
            tx.send(payload.make(0, number), 30)
        assert sorted([first.answer(), second.answer()]) == [[0, 1], [0, 2]]
        for child in (first, second):
            child.do("close")
            child.end()


def test_what_a_closing_receiver_left_goes_to_the_next(spawn, name):
    with podipc.sender(name) as tx:
        rx = podipc.receiver(name)
        for number in range(5):
            tx.send(payload.make(1, number), 30)
        assert payload.check(rx.recv(30)) == (1, 0)
        rx.close()
        with podipc.receiver(name) as rx:
            assert [payload.check(rx.recv(30))[1] for _ in range(4)] == [1, 2, 3, 4]
        assert tx.stats()["peers_died"] == 0


def test_closing_at_once_is_no_death(name):
    """At any point of the handshake, of which each side is somewhere else."""
    with podipc.sender(name) as tx:
        for moment in range(200):
            with podipc.receiver(name):
                time.sleep(moment % 20 * 0.0001)
        eventually(lambda: tx.stats()["peers"] == 0, "the last one has left")
        assert tx.stats()["peers_died"] == 0


def test_what_nobody_will_get_is_said(name):
    """The receiver left without taking it, and no other came: not silently dropped."""
    tx, rx = podipc.sender(name), podipc.receiver(name)
    for number in range(3):
        tx.send(payload.make(1, number), 30)
    rx.recv(30)
    rx.close()
    eventually(lambda: tx.stats()["peers"] == 0, "it has left")
    with pytest.warns(RuntimeWarning, match="2 tensors sent to .* will reach nobody"):
        tx.close()


# --- leaving in order -------------------------------------------------------


def test_closing_sender_ends_the_iteration(spawn, name):
    child = spawn(peers.agent, "receiver", name)
    assert child.answer() == "open"
    with podipc.sender(name) as tx:
        for number in range(10):
            tx.send(payload.make(1, number), 30)
    assert child.do("drain") == [[1, number] for number in range(10)]
    with pytest.raises(Failed) as failed:
        child.do("recv", 0.2)
    assert failed.value.name in {"Closed", "Timeout"}
    child.do("close")
    child.end()


def test_closed_only_when_all_have_closed(name):
    with podipc.receiver(name) as rx:
        a, b = podipc.sender(name), podipc.sender(name)
        eventually(lambda: rx.stats()["peers"] == 2, "both joined")
        a.send(payload.make(1, 0), 30)
        a.close()
        assert payload.check(rx.recv(30)) == (1, 0)
        with pytest.raises(podipc.Timeout):
            rx.recv(0.2)
        b.send(payload.make(2, 0), 30)
        b.close()
        assert payload.check(rx.recv(30)) == (2, 0)
        with pytest.raises(podipc.Closed):
            rx.recv(30)


def test_the_handle_goes_on_after_closed(name):
    with podipc.receiver(name) as rx:
        for number in range(3):
            with podipc.sender(name) as tx:
                tx.send(payload.make(number, 0), 30)
            assert [payload.check(x) for x in rx] == [(number, 0)]


def test_closed_before_anything_was_sent(name):
    with podipc.receiver(name) as rx:
        tx = podipc.sender(name)
        eventually(lambda: rx.stats()["peers"] == 1, "joined")
        tx.close()
        with pytest.raises(podipc.Closed):
            rx.recv(30)


def test_a_closed_handle(name):
    tx, rx = podipc.sender(name), podipc.receiver(name)
    rx.close()
    tx.close()
    a = np.zeros(3)
    for call in (
        lambda: tx.send(a),
        lambda: tx.send(a, 0),
        lambda: tx.empty(3),
        lambda: tx.loan(3).__enter__(),
        rx.recv,
        lambda: rx.recv(0),
        lambda: rx.recv(copy=True),
    ):
        with pytest.raises(podipc.Closed):
            call()
    assert list(rx) == []
    tx.stats()
    rx.stats()
    for endpoint in (tx, rx):
        with pytest.raises(podipc.Closed):
            endpoint.__enter__()


def test_with_closes_also_on_an_exception(name):
    with pytest.raises(ZeroDivisionError), podipc.sender(name) as tx:
        raise ZeroDivisionError
    assert tx.closed


# --- timeouts ---------------------------------------------------------------


def test_timeout_of_send_without_receiver(address, podipc_dir):
    with podipc.sender(address) as tx:
        start = time.monotonic()
        with took_at_most(5), pytest.raises(podipc.Timeout) as caught:
            tx.send(np.zeros(3), 0.25)
        assert time.monotonic() - start >= 0.25
        assert isinstance(caught.value, TimeoutError)
        text = str(caught.value)
        assert "receiver" in text
        assert str(podipc_dir) in text
        with took_at_most(5), pytest.raises(podipc.Timeout):
            tx.send(np.zeros(3), 0)
        assert tx.stats()["messages"] == 0


def test_timeout_of_recv_says_where_it_looks(address, podipc_dir):
    with podipc.receiver(address) as rx:
        start = time.monotonic()
        with took_at_most(5), pytest.raises(podipc.Timeout) as caught:
            rx.recv(0.25)
        assert time.monotonic() - start >= 0.25
        text = str(caught.value)
        assert "sender" in text
        assert str(podipc_dir) in text
        assert "shm:///" in text, "it says what to use instead"
        with took_at_most(5), pytest.raises(podipc.Timeout):
            rx.recv(timeout=0)


def test_what_a_timed_out_send_had_is_not_sent(name):
    with podipc.sender(name) as tx:
        with pytest.raises(podipc.Timeout):
            tx.send(payload.make(1, 0), 0.05)
        with podipc.receiver(name) as rx:
            tx.send(payload.make(1, 1), 30)
            assert payload.check(rx.recv(30)) == (1, 1)


@pytest.mark.parametrize("timeout", [-1, float("nan"), -0.001])
def test_bad_timeout(name, timeout):
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        for call in (lambda: tx.send(np.zeros(3), timeout), lambda: rx.recv(timeout)):
            with pytest.raises(ValueError, match="timeout must be a number of seconds"):
                call()
        for call in (lambda: tx.send(np.zeros(3), "1"), lambda: rx.recv("1")):
            with pytest.raises(TypeError):
                call()


@pytest.mark.parametrize("timeout", [float("inf"), 1e300, 1e9, 30, np.float64(30), True])
def test_long_timeouts(name, timeout):
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        tx.send(payload.make(1, 0), timeout)
        assert payload.check(rx.recv(timeout)) == (1, 0)


# --- stats ------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:.*will reach nobody:RuntimeWarning")
def test_stats(name):
    with podipc.sender(name) as tx, podipc.receiver(name) as rx:
        assert set(tx.stats()) == set(rx.stats())
        assert set(tx.stats()) >= {
            *("messages", "bytes", "peers", "peers_died", "queued", "held", "redelivered"),
            *("lost_taken", "skipped", "unheard", "reserved", "max_bytes"),
        }
        for number in range(3):
            tx.send(payload.make(1, number, 16), 30)
        stats = tx.stats()
        assert all(type(value) is int for value in stats.values())
        assert (stats["messages"], stats["bytes"], stats["peers"]) == (3, 3 * 128, 1)
        assert stats["queued"] == 3
        assert stats["reserved"] <= stats["max_bytes"]
        a = rx.recv(30)
        assert rx.stats()["held"] == 1
        assert rx.stats()["messages"] == 1
        assert tx.stats()["queued"] == 2
        assert tx.stats()["held"] == 1
        del a
        assert rx.stats()["held"] == 0
        assert tx.stats()["held"] == 0


def test_held_is_counted_without_its_sender(name):
    with podipc.receiver(name) as rx:
        with podipc.sender(name) as tx:
            tx.send(payload.make(1, 0), 30)
            a = rx.recv(30)
        with pytest.raises(podipc.Closed):
            rx.recv(30)
        assert rx.stats()["held"] == 1
        assert payload.check(a) == (1, 0)
        del a
        assert rx.stats()["held"] == 0


# --- threads ----------------------------------------------------------------


def test_threads_that_receive(spawn, name):
    child = spawn(peers.threads, name, 8)
    child.expect("open")
    with podipc.sender(name) as tx:
        for number in range(2000):
            tx.send(payload.make(1, number), 30)
    got = child.hear()
    assert sorted(n for _, n in got) == list(range(2000))
    child.end()


def test_threads_that_send(name):
    """The sends of one thread keep their order."""
    count = 500
    with podipc.receiver(name) as rx, podipc.sender(name) as tx:

        def work(who):
            for number in range(count):
                tx.send(payload.make(who, number), 30)

        workers = [threading.Thread(target=work, args=(who,)) for who in range(4)]
        for worker in workers:
            worker.start()
        got = collections.defaultdict(list)
        for _ in range(4 * count):
            who, number = payload.check(rx.recv(30))
            got[who].append(number)
        for worker in workers:
            worker.join()
    assert got == {who: list(range(count)) for who in range(4)}


def test_threads_that_send_different_dtypes(name):
    """All wait at once for a receiver: each tensor keeps its own description."""
    dtypes = [np.dtype([(f"field {i} {'x' * 30}", "i4")]) for i in range(6)]
    dtypes += [np.dtype(code) for code in ("<f4", "<i4", "<u4", "|S4", "<m8[s]", "<M8[ns]")]
    with podipc.sender(name) as tx:
        workers = [
            threading.Thread(target=tx.send, args=(np.full(3, i, "i8").astype("i4").view("u1"), 30))
            for i in range(2)
        ]
        workers += [
            threading.Thread(target=tx.send, args=(np.zeros(3, dtype), 30)) for dtype in dtypes
        ]
        for worker in workers:
            worker.start()
        time.sleep(0.2)
        junk = [bytes([65 + i % 26]) * 100 for i in range(10_000)]
        with podipc.receiver(name) as rx:
            got = [rx.recv(30).dtype for _ in workers]
        for worker in workers:
            worker.join()
        assert len(junk) == 10_000
    assert sorted(map(str, got)) == sorted(map(str, [*dtypes, "uint8", "uint8"]))


@pytest.mark.parametrize("what", ["recv", "send", "loan"])
def test_close_ends_the_wait_of_another_thread(address, what):
    endpoint = podipc.receiver(address) if what == "recv" else podipc.sender(address)
    met = []

    def work():
        try:
            if what == "recv":
                endpoint.recv()
            elif what == "send":
                endpoint.send(np.zeros(3))
            else:
                with endpoint.loan(3):
                    pass
        except podipc.PodipcError as error:
            met.append(type(error))

    worker = threading.Thread(target=work)
    worker.start()
    time.sleep(0.1)
    with took_at_most(5):
        endpoint.close()
        worker.join()
    assert met == [podipc.Closed]


def test_threads_and_close_at_random(name):
    """Whatever the moment: a tensor, or one of the errors that say so."""
    for _ in range(30):
        tx, rx = podipc.sender(name), podipc.receiver(name)
        wrong = []

        def send(tx=tx, wrong=wrong):
            try:
                for number in range(10_000):
                    tx.send(payload.make(1, number), 30)
            except podipc.Closed:
                pass
            except BaseException as error:  # every other one is a fault
                wrong.append(error)

        def recv(rx=rx, wrong=wrong):
            try:
                while True:
                    payload.check(rx.recv(30))
            except podipc.Closed:
                pass
            except BaseException as error:
                wrong.append(error)

        workers = [threading.Thread(target=f) for f in (send, send, recv, recv)]
        for worker in workers:
            worker.start()
        time.sleep(0.01)
        tx.close()
        rx.close()
        for worker in workers:
            worker.join(30)
            assert not worker.is_alive()
        assert not wrong
