"""SIGKILL of either side over shared memory: what the other side sees, and what is lost."""

import collections
import os
import random
import signal
import time

import numpy as np
import payload
import peers
import pytest
from support import Failed, eventually, killed, took_at_most, unique_name

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


def test_dead_sender(spawn, name):
    """All it committed, then PeerDied once, then on with whoever joins."""
    with podipc.receiver(name) as rx:
        child = agent(spawn, "sender", name)
        for number in range(5):
            child.do("send", 1, number)
        child.kill()
        for number in range(5):
            assert payload.check(rx.recv(30)) == (1, number)
        with pytest.raises(podipc.PeerDied) as caught:
            rx.recv(30)
        assert isinstance(caught.value, ConnectionError)
        assert "sender" in str(caught.value)
        with pytest.raises(podipc.Timeout):
            rx.recv(0.2)
        assert rx.stats()["peers_died"] == 1
        assert rx.stats()["peers"] == 0
        child = agent(spawn, "sender", name)
        child.do("send", 2, 0)
        assert payload.check(rx.recv(30)) == (2, 0)
        child.do("close")
        child.end()


def test_dead_sender_ends_the_wait(spawn, name):
    with podipc.receiver(name) as rx:
        child = agent(spawn, "sender", name)
        child.do("peers", 1)
        waiting = agent(spawn, "receiver", name)
        waiting.do("peers", 1)
        waiting.start("recv", 60)
        assert waiting.silent(0.2)
        with took_at_most(5):
            child.kill()
            with pytest.raises(Failed, match="PeerDied"):
                waiting.answer()
            with pytest.raises(podipc.PeerDied):
                rx.recv(60)
        waiting.do("close")
        waiting.end()


def test_iteration_over_a_dead_sender_raises(spawn, name):
    with podipc.receiver(name) as rx:
        child = agent(spawn, "sender", name)
        child.do("send", 1, 0)
        child.kill()
        got = []
        with pytest.raises(podipc.PeerDied):
            for x in rx:
                got.append(payload.check(x))
        assert got == [(1, 0)]


def test_dead_receiver(spawn, name):
    """PeerDied once; what it had not taken goes to the next; what it had is counted."""
    with podipc.sender(name) as tx:
        child = agent(spawn, "receiver", name)
        for number in range(5):
            assert tx.send(payload.make(1, number), 30) == 1
        assert child.do("hold") == [1, 0]
        assert child.do("hold") == [1, 1]
        child.kill()
        eventually(lambda: tx.stats()["peers"] == 0, "the death is noticed")
        with pytest.raises(podipc.PeerDied) as caught:
            tx.send(payload.make(1, 5), 30)
        assert "receiver" in str(caught.value)
        with pytest.raises(podipc.Timeout):
            tx.send(payload.make(1, 5), 0.2)
        stats = tx.stats()
        assert stats["peers_died"] == 1
        assert stats["lost_taken"] == 2
        assert stats["held"] == 0
        with podipc.receiver(name) as rx:
            assert tx.send(payload.make(1, 5), 30) == 1
            got = [payload.check(rx.recv(30))[1] for _ in range(4)]
            assert got == [2, 3, 4, 5]
        assert tx.stats()["redelivered"] == 3


def test_dead_receiver_ends_the_wait_for_room(spawn, name):
    """A sender that waits for the budget learns of the death of who holds it."""
    with podipc.sender(name, max_bytes=1 << 20) as tx:
        child = agent(spawn, "receiver", name)
        child.start("hold")
        tx.send(np.concatenate([payload.make(1, 0, 3), np.zeros(0, "u8")]), 30)
        child.answer()
        big = np.zeros(1 << 16)
        sent = 0
        with pytest.raises(podipc.Timeout):
            while sent < 10:
                tx.send(big, 0.3)
                sent += 1
        assert 0 < sent < 10
        child.kill()
        with took_at_most(5), pytest.raises(podipc.PeerDied):
            tx.send(big, 60)


def test_dead_receiver_among_two(spawn, name):
    with podipc.sender(name) as tx:
        one, two = agent(spawn, "receiver", name), agent(spawn, "receiver", name)
        eventually(lambda: tx.stats()["peers"] == 2, "both joined")
        for number in range(10):
            tx.send(payload.make(1, number), 30)
        one.kill()
        eventually(lambda: tx.stats()["peers"] == 1, "the death is noticed")
        tx.stats()
        with pytest.raises(podipc.PeerDied):
            tx.send(payload.make(1, 10), 30)
        tx.send(payload.make(1, 10), 30)
        got = sorted(two.do("recv")[1] for _ in range(11))
        assert got == list(range(11))
        two.do("close")
        two.end()


def test_both_killed_and_restarted(spawn, name):
    """Nothing old comes as new, and the name is free for use."""
    for life in range(5):
        rx, tx = agent(spawn, "receiver", name), agent(spawn, "sender", name)
        for number in range(3):
            tx.do("send", life, number)
        assert rx.do("recv") == [life, 0]
        tx.kill()
        rx.kill()
    podipc.receiver(name).close()  # whoever comes next tidies up after the dead


def test_stopped_peer_is_not_dead(spawn, name):
    with podipc.sender(name, max_bytes=1 << 20) as tx:
        child = agent(spawn, "receiver", name)
        tx.send(payload.make(1, 0), 30)
        child.signal(signal.SIGSTOP)
        big = np.zeros(1 << 16)
        with pytest.raises(podipc.Timeout):
            for _ in range(10):
                tx.send(big, 0.5)
        child.signal(signal.SIGCONT)
        assert child.do("recv") == [1, 0]
        assert tx.stats()["peers_died"] == 0
        child.do("close")
        child.end()


def test_arenas_for_a_stopped_receiver(spawn, name):
    """Each size brings a new arena, which is announced by the socket: that fills up as well."""
    with podipc.sender(name) as tx:
        child = agent(spawn, "receiver", name)
        tx.send(payload.make(1, 0), 30)
        assert child.do("recv") == [1, 0]
        child.signal(signal.SIGSTOP)
        number = 1
        with pytest.raises(podipc.Timeout):
            while number < 2000:
                tx.send(payload.make(1, number, 3 + int(1.02**number)), 0.5)
                number += 1
        child.signal(signal.SIGCONT)
        for expected in range(1, number):
            assert child.do("recv") == [1, expected]
        child.do("close")
        child.end()


@pytest.mark.parametrize("role", ["sender", "receiver"])
def test_closing_does_not_wait_for_a_stopped_peer(spawn, name, role):
    endpoint = getattr(podipc, role)(name)
    child = agent(spawn, "receiver" if role == "sender" else "sender", name)
    child.do("peers", 1)
    child.signal(signal.SIGSTOP)
    with took_at_most(5):
        endpoint.close()
    child.signal(signal.SIGCONT)
    child.do("close")
    child.end()


def test_held_arrays_outlive_a_dead_sender(spawn, name):
    with podipc.receiver(name) as rx:
        child = agent(spawn, "sender", name)
        child.do("send", 1, 0, 1 << 17)
        x = rx.recv(30)
        child.kill()
        with pytest.raises(podipc.PeerDied):
            rx.recv(30)
        assert payload.check(x) == (1, 0)
    assert payload.check(x) == (1, 0)


def test_a_forked_child_does_not_hide_the_death(spawn, name):
    with podipc.receiver(name) as rx:
        child = spawn(peers.forker, name)
        grandchild = child.hear()
        assert payload.check(rx.recv(30)) == (1, 0)
        child.kill()
        try:
            with took_at_most(10), pytest.raises(podipc.PeerDied):
                rx.recv(60)
        finally:
            os.kill(grandchild, signal.SIGKILL)


def test_sender_killed_at_random(spawn, name):
    """At any moment of a flood: every tensor whole and in order, then PeerDied, then the next."""
    rng = random.Random(3)
    with podipc.receiver(name) as rx:
        for life in range(12):
            child = spawn(peers.flood, name, life, rng.choice([3, 100, 5_000, 100_000]))
            child.expect("open")
            assert payload.check(rx.recv(30)) == (life, 0)
            expected = 1
            at = time.monotonic() + rng.uniform(0, 0.05)
            with pytest.raises(podipc.PeerDied):
                while True:
                    if at and time.monotonic() > at:
                        child.signal(signal.SIGKILL)
                        killed.append(child.pid)
                        at = None
                    assert payload.check(rx.recv(30)) == (life, expected)
                    expected += 1
            child.process.wait(30)


def test_receiver_killed_at_random(spawn, name):
    """Each tensor at most once; those that nobody reports had been taken by a dead one."""
    rng = random.Random(4)
    reported = collections.Counter()
    number = 0
    with podipc.sender(name) as tx:
        for _ in range(12):
            child = spawn(peers.swallow, name)
            child.expect("open")
            at = time.monotonic() + rng.uniform(0.0, 0.1)
            try:
                while time.monotonic() < at:
                    tx.send(payload.make(1, number, rng.choice([3, 100, 10_000])), 30)
                    number += 1
                child.kill()
                eventually(lambda: tx.stats()["peers"] == 0, "the death is noticed")
                tx.send(payload.make(1, number), 30)
                pytest.fail("PeerDied was not raised")
            except podipc.PeerDied:
                pass
            reported.update(_said(child))
        child = spawn(peers.swallow, name)
        child.expect("open")
        tx.send(payload.make(1, number), 30)
        number += 1
        eventually(lambda: tx.stats()["queued"] == 0, "everything is taken")
        lost = tx.stats()["lost_taken"]
    rest = _said(child)
    child.end()
    assert rest[-1] == number - 1
    reported.update(rest)
    assert max(reported.values()) == 1
    assert number - len(reported) <= lost


def _said(child):
    """The numbers that a swallower said, in order, until its output ends."""
    child._reader.join(30)
    numbers = []
    while (line := child._lines.get(timeout=30)) is not None:
        if line.startswith("[") and line.endswith("]\n"):
            numbers.append(int(line.strip("[]\n").split(",")[1]))
    assert numbers == sorted(numbers)
    return numbers
