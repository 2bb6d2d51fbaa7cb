"""Spinning is given up where it only keeps the other side from running."""

import os
import subprocess
import sys

import pytest
from support import unique_name

# Both sides on one processor, after they have found that there are two: that is what it
# is like where others have the rest. Prints the seconds of a processor that it took.
SIDES = """
import os, resource, sys
import numpy as np, podipc

name, wait, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3])
there, back = (f"shm://{name}{end}?wait={wait}" for end in "ab")
one = {min(os.sched_getaffinity(0))}
child = os.fork()
if child == 0:
    with podipc.receiver(there) as rx, podipc.sender(back) as tx:
        os.sched_setaffinity(0, one)
        for x in rx:
            tx.send(x, timeout=60)
            del x
    os._exit(0)
x = np.zeros(8)
with podipc.sender(there) as tx, podipc.receiver(back) as rx:
    os.sched_setaffinity(0, one)
    for _ in range(rounds):
        tx.send(x, timeout=60)
        rx.recv(timeout=60)
assert os.waitpid(child, 0)[1] == 0
used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(sum(u.ru_utime + u.ru_stime for u in used))
"""


def seconds(name, wait, rounds):
    run = [sys.executable, "-c", SIDES, name, wait, str(rounds)]
    done = subprocess.run(run, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return float(done.stdout)


@pytest.mark.skipif(
    len(os.sched_getaffinity(0)) < 2, reason="not possible here: with one processor nobody spins"
)
def test_where_no_processor_is_free_it_costs_little():
    name = unique_name()
    rounds = 10000
    start = seconds(name, "block", 1)
    block = seconds(name, "block", rounds) - start
    adaptive = seconds(name, "adaptive", rounds) - start
    assert adaptive < 3 * block + 0.3
