"""Senders and receivers killed at random and started again: what must hold, holds.

As long as PODIPC_TEST_SOAK says (seconds for each, 4 by default).
"""

import collections
import json
import os
import random
import signal
import time

import peers
import pytest
from support import PATIENCE, Child, killed, unique_name

SECONDS = float(os.environ.get("PODIPC_TEST_SOAK", "4"))


class Crowd:
    """The living and the dead of one role."""

    def __init__(self):
        self.living = []
        self.dead = []

    def kill_one(self, rng):
        child = rng.choice(self.living)
        self.living.remove(child)
        self.dead.append(child)
        child.signal(signal.SIGKILL)
        killed.append(child.pid)


def said(child):
    """Every line of a child that has ended or will end by itself."""
    child._reader.join(PATIENCE)
    assert not child._reader.is_alive(), f"it does not end\n{child.errors()}"
    lines = []
    while (line := child._lines.get(timeout=PATIENCE)) is not None:
        try:
            lines.append(json.loads(line))
        except ValueError:
            assert child in KILLED, line  # cut off in the middle
    return lines


KILLED = set()


@pytest.mark.slow
@pytest.mark.parametrize(("senders", "receivers"), [(1, 1), (2, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("method", ["shm", "file"])
def test_kills_at_random(spawn, method, senders, receivers, podipc_dir):
    rng = random.Random(senders * 10 + receivers)
    address = (
        f"shm://{unique_name()}" if method == "shm" else f"file://{podipc_dir.parent}/{method}"
    )
    txs, rxs = Crowd(), Crowd()
    lives = iter(range(1_000_000))

    def start():
        while len(rxs.living) < receivers:
            rxs.living.append(spawn(peers.swallow, address))
        while len(txs.living) < senders:
            words = rng.choice([3, 50, 2000, 30_000])
            txs.living.append(spawn(peers.flood_until_told, address, next(lives), words))

    start()
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        time.sleep(rng.uniform(0.2, 0.6))
        for crowd in rng.sample([txs, rxs], rng.choice([1, 1, 2])):
            crowd.kill_one(rng)
        start()
    KILLED.update(txs.dead, rxs.dead)
    totals = {}
    for child in txs.living + rxs.living:
        child.expect("open")
    for child in txs.living:
        child.tell(receivers)
    for child in txs.living:
        totals[child] = child.hear()
    for child in txs.living:
        child.tell("close")
        child.end()
    for child in rxs.living:
        child.end()
    check(txs, rxs, totals)


def check(txs: Crowd, rxs: Crowd, totals: dict[Child, dict[str, int]]):
    got = collections.Counter()
    turned = 0
    for child in rxs.living + rxs.dead:
        last = {}
        for line in said(child):
            if isinstance(line, list):
                who, number = line
                got[who, number] += 1
                turned += number < last.get(who, -1)
                last[who] = number
    assert max(got.values()) == 1, "nothing comes twice"
    # What a dead receiver had not taken comes to another one after newer ones.
    if len(rxs.living) == 1:
        assert turned == 0, "the order of a sender is kept"
    for child, total in totals.items():
        who = json.loads(child.process.args[-1])[1]
        have = sum(1 for w, _ in got if w == who)
        missing = total["sent"] - have
        assert 0 <= missing <= total["lost_taken"], (who, missing, total)
