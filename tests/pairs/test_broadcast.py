"""Publisher and subscribers: every tensor to everybody, and latest=True."""

import signal
import time

import payload
import peers
import pytest
from support import eventually, unique_name

import podipc

# A sender that closes after its last receiver says so; only one test looks at that.
pytestmark = pytest.mark.filterwarnings("ignore:.*will reach nobody:RuntimeWarning")


@pytest.fixture
def name():
    return unique_name()


def agent(spawn, role, name, **options):
    child = spawn(peers.agent, role, name, options)
    assert child.answer() == "open"
    return child


def joined(endpoint, n):
    eventually(lambda: endpoint.stats()["peers"] == n, f"{n} joined")


def test_every_tensor_to_every_subscriber(spawn, name):
    with podipc.publisher(name) as tx:
        children = [agent(spawn, "subscriber", name) for _ in range(3)]
        joined(tx, 3)
        for child in children:
            child.start("drain")
        for number in range(1000):
            assert tx.send(payload.make(1, number), 30) == 3
    for child in children:
        assert child.answer() == [[1, number] for number in range(1000)]
        child.do("close")
        child.end()


def test_nobody_subscribed(name):
    with podipc.publisher(name) as tx:
        for number in range(5):
            assert tx.send(payload.make(1, number), 30) == 0
        assert tx.stats()["unheard"] == 5
        with podipc.subscriber(name) as rx:
            joined(tx, 1)
            with pytest.raises(podipc.Timeout):
                rx.recv(0.1)
            assert tx.send(payload.make(1, 5), 30) == 1
            assert payload.check(rx.recv(30)) == (1, 5)


def test_a_slow_subscriber_holds_the_publisher_up(name):
    with podipc.publisher(name, max_bytes=1 << 20) as tx, podipc.subscriber(name) as rx:
        joined(tx, 1)
        sent = 0
        with pytest.raises(podipc.Timeout):
            while sent < 100:
                tx.send(payload.make(1, sent, 1 << 15), 0.3)
                sent += 1
        for number in range(sent):
            assert payload.check(rx.recv(30)) == (1, number)


def test_a_timed_out_send_reaches_nobody(name):
    """Also not the subscriber that would have had room."""
    with (
        podipc.publisher(name, max_bytes=1 << 20) as tx,
        podipc.subscriber(name) as slow,
        podipc.subscriber(name) as fast,
    ):
        joined(tx, 2)
        sent = 0
        with pytest.raises(podipc.Timeout):
            while sent < 100:
                tx.send(payload.make(1, sent, 1 << 15), 0.3)
                sent += 1
                fast.recv(30)
        with pytest.raises(podipc.Timeout):
            fast.recv(0.1)
        for number in range(sent):
            assert payload.check(slow.recv(30)) == (1, number)
        assert tx.send(payload.make(1, 7777), 30) == 2
        assert payload.check(fast.recv(30)) == (1, 7777)
        assert payload.check(slow.recv(30)) == (1, 7777)


def test_latest(name):
    """The newest, what was passed over is counted, and the publisher never waits."""
    with (
        podipc.publisher(name, max_bytes=8 << 20) as tx,
        podipc.subscriber(name, latest=True) as rx,
    ):
        joined(tx, 1)
        got = []
        for burst in (1, 5, 1000, 2):
            start = got[-1] + 1 if got else 0
            for number in range(start, start + burst):
                tx.send(payload.make(1, number, 1000), 30)
            eventually(lambda n=start + burst - 1: newest(rx, got) == n, "the newest arrives")
        assert got == sorted(set(got))
        skipped = rx.stats()["skipped"] + tx.stats()["skipped"]
        assert len(got) + skipped == got[-1] + 1
        with pytest.raises(podipc.Timeout):
            rx.recv(0.1)


def newest(rx, got):
    try:
        got.append(payload.check(rx.recv(1))[1])
    except podipc.Timeout:
        return None
    return got[-1]


@pytest.mark.parametrize("timeout", [0, 0.005, 0.1])
def test_latest_is_given_by_the_timeout(name, timeout):
    """A newer one that is on its way is no reason to keep what is there."""
    with (
        podipc.publisher(name, max_bytes=8 << 20) as tx,
        podipc.subscriber(name, latest=True) as rx,
    ):
        joined(tx, 1)
        tx.send(payload.make(1, 0), 30)
        last = payload.check(rx.recv(30))[1]  # the memory of the others is known by then
        for number in range(1, 50):
            tx.send(payload.make(1, number), 30)
            if number % 6 == 5:
                got = payload.check(rx.recv(timeout))[1]
                assert last < got <= number
                last = got
        assert last >= 47 - 6, "what the call before had asked for, or a newer one"


@pytest.mark.parametrize("timeout", [0, 0.005, 30])
def test_latest_of_a_stopped_publisher(spawn, name, timeout):
    """It cannot answer: then the newest that has arrived."""
    child = agent(spawn, "publisher", name)
    with podipc.subscriber(name, latest=True) as rx:
        child.do("peers", 1)
        child.do("send", 1, 0)
        assert payload.check(rx.recv(30)) == (1, 0)
        for number in range(1, 5):
            child.do("send", 1, number)
        child.signal(signal.SIGSTOP)
        assert payload.check(rx.recv(timeout)) == (1, 2)
        with pytest.raises(podipc.Timeout):
            rx.recv(0.1)
        child.signal(signal.SIGCONT)
        assert payload.check(rx.recv(30)) == (1, 4)
    child.do("close")
    child.end()


def test_latest_while_holding(name):
    """What is held stays whole, however much is published meanwhile."""
    with (
        podipc.publisher(name, max_bytes=8 << 20) as tx,
        podipc.subscriber(name, latest=True) as rx,
    ):
        joined(tx, 1)
        tx.send(payload.make(1, 0, 10_000), 30)
        x = rx.recv(30)
        for number in range(1, 2000):
            tx.send(payload.make(1, number, 10_000), 30)
        assert payload.check(x) == (1, 0)


def test_latest_beside_a_slow_one(spawn, name):
    with podipc.publisher(name) as tx:
        every = agent(spawn, "subscriber", name)
        newest_only = agent(spawn, "subscriber", name, latest=True)
        joined(tx, 2)
        every.start("drain")
        newest_only.start("drain")
        for number in range(500):
            assert tx.send(payload.make(1, number), 30) == 2
    assert every.answer() == [[1, number] for number in range(500)]
    got = [n for _, n in newest_only.answer()]
    assert got == sorted(set(got))
    assert got[-1] == 499, "the last one is never passed over"
    for child in (every, newest_only):
        child.do("close")
        child.end()


def test_loan_of_a_publisher(name):
    with (
        podipc.publisher(name) as tx,
        podipc.subscriber(name) as a,
        podipc.subscriber(name) as b,
    ):
        joined(tx, 2)
        with tx.loan(16, "u8") as out:
            payload.fill(out, 4, 4)
        xs = [a.recv(30), b.recv(30)]
        assert [payload.check(x) for x in xs] == [(4, 4)] * 2
        assert tx.stats()["held"] >= 1
        xs.clear()
        assert tx.stats()["held"] == 0


def test_a_dead_subscriber(spawn, name):
    with podipc.publisher(name) as tx, podipc.subscriber(name) as rx:
        child = agent(spawn, "subscriber", name)
        joined(tx, 2)
        assert tx.send(payload.make(1, 0), 30) == 2
        assert child.do("hold") == [1, 0]
        child.kill()
        joined(tx, 1)
        with pytest.raises(podipc.PeerDied):
            tx.send(payload.make(1, 1), 30)
        assert tx.send(payload.make(1, 1), 30) == 1
        assert [payload.check(rx.recv(30))[1] for _ in range(2)] == [0, 1]
        assert tx.stats()["peers_died"] == 1


def test_a_dead_publisher(spawn, name):
    with podipc.subscriber(name) as rx:
        child = agent(spawn, "publisher", name)
        child.do("peers", 1)
        for number in range(3):
            assert child.do("send", 1, number) == 1
        child.kill()
        assert [payload.check(rx.recv(30))[1] for _ in range(3)] == [0, 1, 2]
        with pytest.raises(podipc.PeerDied):
            rx.recv(30)
        child = agent(spawn, "publisher", name)
        child.do("peers", 1)
        child.do("send", 2, 0)
        assert payload.check(rx.recv(30)) == (2, 0)
        child.do("close")
        child.end()


def test_two_publishers(name):
    with podipc.subscriber(name) as rx:
        a, b = podipc.publisher(name), podipc.publisher(name)
        joined(rx, 2)
        for number in range(3):
            a.send(payload.make(1, number), 30)
            b.send(payload.make(2, number), 30)
        got = [payload.check(rx.recv(30)) for _ in range(6)]
        assert [n for who, n in got if who == 1] == [0, 1, 2]
        assert [n for who, n in got if who == 2] == [0, 1, 2]
        a.close()
        b.close()
        with pytest.raises(podipc.Closed):
            rx.recv(30)


@pytest.mark.parametrize(
    ("one", "other"), [(podipc.sender, podipc.subscriber), (podipc.publisher, podipc.receiver)]
)
def test_the_two_kinds_do_not_meet(name, one, other):
    """A sender hands each tensor to one, a publisher to all: said, not guessed."""
    with one(name) as tx, other(name) as rx:
        with pytest.raises((podipc.AddressError, podipc.Timeout, podipc.VersionMismatch)) as caught:
            deadline = time.monotonic() + 2
            while time.monotonic() < deadline:
                rx.recv(0.5)
        assert "publish" in str(caught.value) or "subscrib" in str(caught.value)
        assert tx.stats()["peers"] == 0
