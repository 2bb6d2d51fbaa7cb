"""In a child with tests/c/failing.c before the C library: calls that fail, clocks that jump."""

import collections
import ctypes
import gc
import os
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
from support import open_files

import podipc

SHIM = ctypes.CDLL(None)
SMALL = np.arange(16, dtype=np.float32)
MIDDLE = np.arange(5_000, dtype=np.float64)  # less than a pipe takes
LARGE = np.arange(300_000, dtype=np.float64)
TIMEOUT = 10


def exchange(address):
    with podipc.receiver(address) as rx, podipc.sender(address) as tx:
        for tensor in (SMALL, MIDDLE, *([LARGE] if address.startswith(("shm", "file")) else ())):
            tx.send(tensor, TIMEOUT)
            assert np.array_equal(rx.recv(TIMEOUT), tensor)
        with tx.loan((1000,), np.float32, timeout=TIMEOUT) as loan:
            loan[:] = 3
        assert (rx.recv(TIMEOUT) == 3).all()
        tx.stats()
        rx.stats()


def broadcast(address):
    with podipc.publisher(address) as tx, podipc.subscriber(address) as rx:
        for tensor in (SMALL, LARGE):
            # Who has not joined yet is not waited for.
            until = time.monotonic() + TIMEOUT
            while tx.stats()["peers"] == 0 and time.monotonic() < until:
                time.sleep(0.001)
            tx.send(tensor, TIMEOUT)
            assert np.array_equal(rx.recv(TIMEOUT), tensor)


def segment(name):
    with podipc.Segment.create(1 << 20, name=name) as a:
        try:
            with podipc.Segment.open(name) as b:
                np.frombuffer(a, np.uint8)[:3] = (1, 2, 3)
                assert np.frombuffer(b, np.uint8)[:4].tolist() == [1, 2, 3, 0]
        finally:
            a.unlink()
    with podipc.Segment.create(1 << 16) as a, podipc.Segment.from_fd(a.fd) as b:
        assert len(b) == 1 << 16


def semaphore(name):
    with closing(podipc.Semaphore.create(name, 1)) as a:
        try:
            with closing(podipc.Semaphore.open(name)) as b:
                assert a.acquire(TIMEOUT)
                b.release(2)
                assert a.acquire(TIMEOUT)
                assert b.value == 1
        finally:
            a.unlink()


def loopback(_):
    with (
        podipc.LoopbackListener() as listener,
        podipc.LoopbackStream.connect(listener.port, timeout=TIMEOUT) as a,
        listener.accept(TIMEOUT) as b,
    ):
        a.send(MIDDLE, TIMEOUT)
        assert np.array_equal(b.recv(TIMEOUT), MIDDLE)


def _kept():
    """Descriptors by kind, mappings of ours, threads."""
    gc.collect()
    found = collections.Counter()
    for target in open_files():
        found[target.partition("[")[0].partition(":[")[0]] += 1
    maps = Path("/proc/self/maps").read_text()
    found["mapping"] = maps.count("podipc") - maps.count("/podipc/")
    found["thread"] = len(os.listdir("/proc/self/task"))
    return found


def _may_be(error, outcome, name):
    """Whether a call that failed so may come to this."""
    # A thread that cannot be had is like memory that cannot be had.
    if error in {"EINTR", "EAGAIN"} and name != "pthread_create":
        return outcome is None
    return outcome is None or (
        isinstance(outcome, podipc.PodipcError) and not isinstance(outcome, podipc.Timeout)
    )


def every_call(scenario, where, error, step):
    """Each `step`-th call of `scenario` that may fail with `error` does; what is wrong then.

    Returns how many there were, and what was not as it should be, a line each.
    """
    import errno

    SHIM.failing_name.restype = ctypes.c_char_p
    SHIM.failing_arm.argtypes = [ctypes.c_long, ctypes.c_int]
    code = getattr(errno, error)
    for _ in range(2):
        scenario(where)
    wrong, before, k = [], _kept(), 1 - step
    while True:
        k += step
        assert SHIM.failing_arm(k, code) == 0
        outcome = None
        try:
            scenario(where)
        except BaseException as e:
            outcome = e.with_traceback(None)
        name = SHIM.failing_name()
        SHIM.failing_arm(0, 0)
        if name is None and outcome is None:
            return k - 1, wrong
        said = f"call {k}, {name and name.decode()}: {type(outcome).__name__}: {outcome}"
        if name is None or not _may_be(error, outcome, name.decode()):
            wrong.append(said)
        again, outcome = outcome is not None or _files(), None
        kept = _settled(before)
        if kept != before:
            wrong.append(f"{said}; then there is {kept - before}, and no {before - kept}")
            before = kept
        if again:
            # What could not be removed is, by the next who comes.
            scenario(where)
            wrong += [f"{said}; then there still is {path}" for path in _files()]


def _files():
    return [str(path) for path in Path(os.environ["PODIPC_DIR"]).parent.rglob("*")]


def _settled(before):
    """What is kept, after what threads and the kernel get round to."""
    until = time.monotonic() + TIMEOUT
    while (kept := _kept()) != before and time.monotonic() < until:
        time.sleep(0.005)
    return kept


def waits(clock_jump, port):
    """How long each wait of 0.15 s took, in which the wall clock jumped."""

    def jump():
        time.sleep(0.05)
        SHIM.failing_clock(ctypes.c_long(clock_jump))

    def timed(wait):
        SHIM.failing_clock(ctypes.c_long(0))
        thread = threading.Thread(target=jump)
        thread.start()
        start = time.monotonic()
        try:
            wait(0.15)
        except podipc.Timeout:
            took = time.monotonic() - start
        else:
            took = None
        thread.join()
        return took

    found = {}
    place = os.environ["PODIPC_DIR"]
    os.makedirs(place, exist_ok=True)
    addresses = [f"shm://{place}/a?wait={how}" for how in ("adaptive", "block", "semaphore")]
    addresses += [
        f"unix://{place}/s",
        f"fifo://{place}/f",
        f"file://{place}/d",
        f"tcp://127.0.0.1:{port}",
    ]
    for address in addresses:
        with podipc.receiver(address) as rx:
            found[f"receive {address}"] = timed(lambda t, rx=rx: rx.recv(t))
        with podipc.sender(address) as tx:
            found[f"send {address}"] = timed(lambda t, tx=tx: tx.send(SMALL, t))
    with closing(podipc.Semaphore.create(f"podipc-{os.getpid()}", 0)) as s:
        s.unlink()
        found["semaphore"] = timed(s.acquire)
    with podipc.LoopbackListener() as listener:
        found["accept"] = timed(listener.accept)
    SHIM.failing_clock(ctypes.c_long(0))
    before = time.time()
    SHIM.failing_clock(ctypes.c_long(clock_jump))
    found["clock"] = time.time() - before
    os.rmdir(place)
    return found
