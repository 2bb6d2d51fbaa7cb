"""What a user would pick instead of podipc, as a user would write it.

Each is given the best of its usual ways. None but the queues carries shape and
dtype; they are told the dtype in advance, which is in their favour. How the two
sides find each other is not part of what is measured. `multiprocessing.Queue`
and faster-fifo are made for processes of which one has started the other, so
two containers cannot use them as they are: what they consist of is handed over
as `multiprocessing` itself hands it to a child, and then runs at full speed.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import struct
import sys
from collections.abc import Callable
from multiprocessing import get_context, resource_tracker, shared_memory
from pathlib import Path
from typing import Any, cast

import numpy as np

from podipc.lab.handover import connect, hand_over
from podipc.lab.methods import PATIENCE, Array, Link, Method, Place, Role, depth


def circle(place: Place, n: int) -> Callable[[int], Array]:
    """Lends `n` buffers in turn."""
    dtype = np.dtype(place.dtype)
    buffers = itertools.cycle([np.empty(place.nbytes // dtype.itemsize, dtype) for _ in range(n)])
    return lambda nbytes: next(buffers)[: nbytes // dtype.itemsize]


def pipe(role: Role, place: Place) -> Link:
    """`multiprocessing.connection`: what `Pipe()` gives, between processes started apart."""
    connection = connect(role, place)
    dtype = np.dtype(place.dtype)

    def recv() -> Array:
        return np.frombuffer(connection.recv_bytes(), dtype)

    return Link(connection.send_bytes, recv, connection.close)


class _Untracked(shared_memory.SharedMemory):
    """A segment that the resource tracker does not know of.

    The tracker of the process that made a segment would unlink it, at its exit,
    under the one that received it. From Python 3.13 on there is `track=False`.
    """

    def __init__(self, name: str, **how: Any) -> None:
        if sys.version_info >= (3, 13):
            super().__init__(name, track=False, **how)
            return
        register = resource_tracker.register
        resource_tracker.register = _ignore
        try:
            super().__init__(name, **how)
        finally:
            resource_tracker.register = register

    def unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(f"/dev/shm/{self.name}")


def _ignore(name: object, rtype: str) -> None:
    """In place of `resource_tracker.register`."""


class _SharedMemory:
    """One `multiprocessing.shared_memory.SharedMemory` a tensor, its name through a pipe.

    The receiver uses the tensor in place and unlinks it afterwards. It then sends
    a byte back, without which a fast sender would fill `/dev/shm` and be killed.
    """

    def __init__(self, role: Role, place: Place) -> None:
        self._names = connect(role, place)
        self._credits = connect(role, place, "credits")
        self._role = role
        self._ahead, self._limit = 0, depth(place.nbytes)
        self._held: _Untracked | None = None
        self._sent = 0
        self._prefix = f"{place.name}-{role}-"
        self._dtype = np.dtype(place.dtype)

    def send(self, array: Array) -> None:
        if self._role == "ask":
            if self._ahead == self._limit:
                self._credits.recv_bytes()
                self._ahead -= 1
            self._ahead += 1
        self._sent += 1
        segment = _Untracked(self._prefix + str(self._sent), create=True, size=array.nbytes)
        try:
            np.ndarray(array.shape, array.dtype, segment.buf)[...] = array
            self._names.send_bytes(struct.pack("<Q", array.nbytes) + segment.name.encode())
        except BaseException:
            segment.unlink()
            raise
        finally:
            segment.close()

    def recv(self) -> Array:
        self._drop()
        message = self._names.recv_bytes()
        self._held = segment = _Untracked(message[8:].decode())
        count = struct.unpack("<Q", message[:8])[0] // self._dtype.itemsize
        return np.frombuffer(cast(memoryview, segment.buf), self._dtype, count)

    def _drop(self) -> None:
        if self._held is not None:
            self._held.close()
            self._held.unlink()
            self._held = None
            if self._role == "answer":
                self._credits.send_bytes(b"1")

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._drop()
        self._names.close()
        self._credits.close()
        for left in Path("/dev/shm").glob(self._prefix + "*"):
            left.unlink(missing_ok=True)


def segments(role: Role, place: Place) -> Link:
    """See `_SharedMemory`. Where it would not fit, it ends with SIGBUS: find out before."""
    found = os.statvfs("/dev/shm")
    each = max(place.nbytes, os.sysconf("SC_PAGE_SIZE"))
    need, have = (depth(place.nbytes) + 2) * each, found.f_bavail * found.f_frsize
    if need > have:
        raise OSError(
            errno.ENOSPC, f"needs {need} bytes in /dev/shm, has {have}, and would get SIGBUS"
        )
    one = _SharedMemory(role, place)
    return Link(one.send, one.recv, one.close)


def queue(role: Role, place: Place) -> Link:
    """`multiprocessing.Queue`, one each way, arrays pickled by its feeder thread.

    The thread pickles later, so an array must not change once it is put: it
    comes from a circle with room for as many as the queue holds and one more.
    """
    n = depth(place.nbytes)
    ctx = get_context("spawn")
    pair = hand_over(role, place, lambda: (ctx.Queue(n), ctx.Queue(n)))
    out, into = pair if role == "ask" else pair[::-1]

    def close() -> None:
        for one in pair:
            one.cancel_join_thread()
            one.close()

    return Link(
        lambda array: out.put(array, timeout=PATIENCE),
        lambda: into.get(timeout=PATIENCE),
        close,
        circle(place, n + 1) if role == "ask" else None,
    )


def faster_fifo(role: Role, place: Place) -> Link:
    """`faster_fifo.Queue`, one each way, arrays pickled."""
    from faster_fifo import Queue

    room = depth(place.nbytes) * (place.nbytes + 1024)
    pair = hand_over(role, place, lambda: (Queue(room), Queue(1 << 16)))
    out, into = pair if role == "ask" else pair[::-1]

    def close() -> None:
        for one in pair:
            one.close()

    return Link(
        lambda array: out.put(array, timeout=PATIENCE),
        lambda: into.get(timeout=PATIENCE),
        close,
    )


def zmq(role: Role, place: Place, address: str) -> Link:
    """pyzmq, a PAIR of sockets, without copies where pyzmq itself advises that.

    Below 64 KiB pyzmq copies in any case. Above, an array belongs to ZeroMQ
    until its tracker says otherwise, so arrays come from a circle.
    """
    import zmq

    context = zmq.Context()
    s = context.socket(zmq.PAIR)
    s.linger = 0
    s.rcvtimeo = s.sndtimeo = int(PATIENCE * 1000)
    s.set_hwm(depth(place.nbytes))
    (s.bind if role == "answer" else s.connect)(address)
    dtype = np.dtype(place.dtype)

    def recv() -> Array:
        return np.frombuffer(s.recv(copy=False).buffer, dtype)

    def close() -> None:
        context.destroy(linger=0)

    if role == "answer" or place.nbytes < zmq.COPY_THRESHOLD:
        return Link(s.send, recv, close)

    lend, turns = circle(place, 4), itertools.cycle(range(4))
    trackers: list[Any] = [None] * 4
    turn = 0

    def loan(nbytes: int) -> Array:
        nonlocal turn
        turn = next(turns)
        if trackers[turn] is not None:
            trackers[turn].wait(PATIENCE)
        return lend(nbytes)

    def send(array: Array) -> None:
        trackers[turn] = s.send(array.data, copy=False, track=True)

    return Link(send, recv, close, loan)


def _iceoryx(role: Role, place: Place, loan: bool) -> Link:
    from podipc.lab import iceoryx

    return iceoryx.link(role, place, loan=loan)


METHODS = [
    Method(
        "iceoryx2",
        "peer",
        "iceoryx2, publish-subscribe, polling",
        lambda role, place: _iceoryx(role, place, loan=False),
        needs="iceoryx2",
    ),
    Method(
        "iceoryx2-loan",
        "peer",
        "the same, computing into its memory",
        lambda role, place: _iceoryx(role, place, loan=True),
        needs="iceoryx2",
    ),
    Method(
        "zmq-ipc",
        "peer",
        "pyzmq PAIR over a Unix socket",
        lambda role, place: zmq(role, place, f"ipc://{place.memory}/{place.name}.zmq"),
        needs="zmq",
    ),
    Method(
        "zmq-tcp",
        "peer",
        "pyzmq PAIR over loopback",
        lambda role, place: zmq(role, place, f"tcp://127.0.0.1:{place.ports[0]}"),
        needs="zmq",
    ),
    Method("mp-pipe", "peer", "multiprocessing Pipe, send_bytes", pipe),
    Method("mp-queue", "peer", "multiprocessing Queue, pickled arrays", queue),
    Method("mp-shm", "peer", "one SharedMemory a tensor, its name by Pipe", segments),
    Method("faster-fifo", "peer", "faster-fifo Queue", faster_fifo, needs="faster_fifo"),
]
