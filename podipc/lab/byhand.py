"""The stream methods as one would write them by hand, with Python's own calls.

A header of eight bytes says how long the tensor is. The receiver reads into
memory of its own, so that the array stays valid; nothing else is done.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from podipc.lab.handover import connect, retry
from podipc.lab.methods import PATIENCE, Array, Link, Method, Place, Role

HEADER = struct.Struct("<Q")


def _link(
    write: Callable[[Sequence[Any]], int],
    read: Callable[[memoryview], int],
    close: Callable[[], object],
    place: Place,
) -> Link:
    """A link from a gathering write and a read, each of which may do less than asked."""
    dtype = np.dtype(place.dtype)
    header = bytearray(HEADER.size)

    def send(array: Array) -> None:
        length = HEADER.pack(array.nbytes)
        done = write((length, array)) - len(length)
        if done < array.nbytes:
            rest = array.reshape(-1).data.cast("B")
            while done < array.nbytes:
                done += write((rest[done:],))

    def fill(view: memoryview) -> None:
        done = 0
        while done < len(view):
            got = read(view[done:])
            if not got:
                raise EOFError("the other side is gone")
            done += got

    def recv() -> Array:
        fill(memoryview(header))
        out = np.empty(HEADER.unpack(header)[0] // dtype.itemsize, dtype)
        fill(out.data.cast("B"))
        return out

    return Link(send, recv, close)


def _sockets(s: socket.socket, place: Place) -> Link:
    return _link(s.sendmsg, s.recv_into, s.close, place)


def tcp(role: Role, place: Place) -> Link:
    """`socket`, loopback."""
    where = ("127.0.0.1", place.ports[0])
    if role == "ask":
        s = socket.socket()
        retry(lambda: s.connect(where))
    else:
        with socket.create_server(where) as listener:
            listener.settimeout(PATIENCE)
            s = listener.accept()[0]
            s.settimeout(None)
    s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return _sockets(s, place)


def unix(role: Role, place: Place) -> Link:
    """`socket`, Unix."""
    connection = connect(role, place, "sock")
    s = socket.socket(fileno=os.dup(connection.fileno()))
    connection.close()
    return _sockets(s, place)


def fifo(role: Role, place: Place) -> Link:
    """`os.mkfifo`, `os.writev`, `os.readv`; a FIFO each way."""
    there, back = (str(place.memory / f"{place.name}.{way}") for way in ("there", "back"))
    if role == "answer":
        os.mkfifo(back)
        os.mkfifo(there)
        into = os.open(there, os.O_RDONLY)
        out = os.open(back, os.O_WRONLY)
        os.unlink(there)
        os.unlink(back)
    else:
        opened: list[int] = []
        retry(lambda: opened.append(os.open(there, os.O_WRONLY)))
        out = opened[0]
        into = os.open(back, os.O_RDONLY)

    def close() -> None:
        os.close(into)
        os.close(out)

    return _link(
        lambda parts: os.writev(out, parts), lambda view: os.readv(into, (view,)), close, place
    )


METHODS = [
    Method("py-tcp", "peer", "tcp by hand, socket.sendmsg", tcp, extra=True),
    Method("py-unix", "peer", "unix by hand, socket.sendmsg", unix, extra=True),
    Method("py-fifo", "peer", "fifo by hand, os.writev", fifo, extra=True),
]
